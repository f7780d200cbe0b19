"""When a majority is lost, on real processes: nodes are killed and their directories deleted."""

import asyncio
import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import shardkv
from shardkv import aio
from shardkv.errors import VersionMismatch
from shardkv.routing import SlotRouting
from shardkv.steps import RECOVERED_BEGINS
from tests.support.processes import (
    Cluster,
    Ended,
    run,
    run_program,
    running,
    wait_for,
)

SHARDS = 8
ROUTING = SlotRouting(SHARDS)
KEYS = {b"key %d" % number: b"value %d" % number for number in range(200)}


async def fill(cluster: Cluster) -> None:
    async with aio.connect(cluster.endpoints) as kv:
        await asyncio.gather(*(kv.put(key, value) for key, value in KEYS.items()))
    async with cluster.eyes() as eyes:
        await eyes.whole()


def lose(cluster: Cluster, *names: str) -> None:
    """kill -9, and the disk is gone."""
    for name in names:
        cluster.kill(name)
        shutil.rmtree(cluster.nodes[name].data)


def contents(directory: Path) -> list[tuple[Path, int]]:
    """Every file but the lock's, which names who held it last."""
    files = [path for path in directory.rglob("*") if path.name != "LOCK"]
    return sorted((path.relative_to(directory), path.stat().st_size) for path in files)


def done(ended: Ended) -> str:
    assert ended.status == 0, ended
    return ended.out.decode()


def succeeds(cluster: Cluster, words: tuple[str, ...]) -> bool:
    return cluster.cli(*words).status == 0


def refused(ended: Ended, status: int, *words: str) -> None:
    assert ended.status == status, ended
    assert ended.out == b""
    line = ended.err.strip().splitlines()[-1]
    for word in words:
        assert word in line, line


def new_node(cluster: Cluster, name: str) -> None:
    """A node joins: `init --join`, `node`."""
    data = cluster.directory / name
    port = cluster.base_port + 10 * (int(name[1:]) - 1)
    flags = ("--node", name, "--join", cluster.nodes["n1"].client)
    made = run_program("init", "--data", str(data), *flags, "--client", f"127.0.0.1:{port}")
    assert made.status == 0, made
    cluster.start_node(data)


@pytest.mark.timeout(240)
def test_two_of_three_nodes_are_lost_and_the_third_goes_on(tmp_path: Path) -> None:
    """The controller and both groups lose two of their three replicas, disks and all. Every write
    that was acknowledged and had reached the survivor is there; the cluster grows again."""
    with running(tmp_path, groups=2, shards=SHARDS) as cluster:
        run(fill(cluster))
        identity = cluster.cluster.hex()
        lose(cluster, "n2", "n3")
        refused(cluster.cli("ctl", "recover", "plan", "1"), 3, "controller does not answer")

        said = done(cluster.cli("ctl", "recover", "plan", "0"))
        assert "n1: replica 1" in said
        assert "n2: no answer" in said
        assert "MAY BE GONE: acknowledged writes in entries" in said
        apply = ("ctl", "recover", "apply")
        refused(cluster.cli(*apply, "0", "--cluster", "00" * 16), 1, "is not the id")
        refused(cluster.cli(*apply, "0"), 2, "--cluster")
        assert "goes on from n1" in done(cluster.cli(*apply, "0", "--cluster", identity))

        for gid in ("1", "2"):
            plan = json.loads(done(cluster.cli("ctl", "recover", "plan", gid, "--json")))
            assert (plan["choice"], plan["alive"]) == ("n1", False)
            assert plan["acknowledged_may_be_gone"] is True
            foretold = done(cluster.cli(*apply, gid, "--cluster", identity, "--dry-run"))
            assert "MAY BE GONE" in foretold and f"group {gid}: go on from n1" in foretold
            ended = cluster.cli(*apply, gid, "--cluster", identity, "--timeout", "30")
            assert f"group {gid} goes on from n1, in configuration" in done(ended)
        refused(cluster.cli(*apply, "1", "--cluster", identity), 1, "nothing to recover")
        history = json.loads(done(cluster.cli("ctl", "query", "--json")))
        first = json.loads(done(cluster.cli("ctl", "query", "1", "--json")))
        assert history["config"] == first["config"] + 2, "each recovery is numbered"
        assert history["groups"]["1"]["uuid"] != first["groups"]["1"]["uuid"]
        with shardkv.connect(cluster.endpoints[:1]) as kv:
            for key, value in KEYS.items():
                assert kv.get(key) == value
            assert kv.put("since", "the recovery") > RECOVERED_BEGINS
            lost = kv.put("key 0", KEYS[b"key 0"], if_version=1)
            assert lost > RECOVERED_BEGINS, "a version that was lost is not given again"
            with pytest.raises(VersionMismatch):
                kv.put("key 0", "by who has read what is lost", if_version=2)

        for name in ("n4", "n5"):
            new_node(cluster, name)
        nodes = ("--nodes", "n1,n4,n5", "--timeout", "60")
        for gid in ("0", "1", "2"):
            grow = (*apply, gid, "--cluster", identity, *nodes)
            wait_for(partial(succeeds, cluster, grow), f"group {gid} grown", 60)
        cluster.kill("n1")
        ports = [cluster.base_port + 10 * number for number in (3, 4)]
        with shardkv.connect([f"127.0.0.1:{port}" for port in ports]) as kv:
            for key, value in KEYS.items():
                assert kv.get(key) == value
            assert kv.get("since") == b"the recovery"


@pytest.mark.timeout(240)
def test_the_longest_survivor_is_found_in_a_directory_too(tmp_path: Path) -> None:
    """What a stopped node's directory holds counts in the plan, and is not changed by it."""
    with running(tmp_path, groups=1, shards=SHARDS) as cluster:
        run(fill(cluster))
        identity = cluster.cluster.hex()
        done(cluster.cli("status"))
        cluster.kill("n1")
        with shardkv.connect(cluster.endpoints[1:]) as kv:
            for number in range(50):
                kv.put(f"late {number}", "x")
        lose(cluster, "n3")
        cluster.kill("n2")
        data = cluster.nodes["n2"].data
        before = contents(data)
        cluster.restart("n1")

        plan = ("ctl", "recover", "plan", "0", "--json")
        alone = json.loads(done(cluster.cli(*plan)))
        both = json.loads(done(cluster.cli(*plan, "--data-dir", str(data))))

        assert alone["choice"] == both["choice"] == "n1"
        assert both["left"][0]["node"] == "n2"
        assert both["left"][0]["index"] > alone["left"][0]["index"] or (
            both["left"][0]["term"] > alone["left"][0]["term"]
        )
        assert contents(data) == before
        apply = ("ctl", "recover", "apply", "0", "--cluster", identity)
        refused(cluster.cli(*apply, "--data-dir", str(data)), 1, "n2 holds more", "start that node")
        refused(cluster.cli(*plan, "--data-dir", str(cluster.nodes["n1"].data)), 5, "in use")
        refused(cluster.cli(*plan, "--data-dir", str(tmp_path)), 4, "not initialised")
        cluster.restart("n2")  # and with it a majority lives: all is well
        with shardkv.connect(cluster.endpoints[:2]) as kv:
            assert kv.get("late 49") == b"x"
        refused(cluster.cli(*apply), 1, "nothing to recover")


@pytest.mark.timeout(240)
def test_a_group_that_is_lost_whole_is_given_up(tmp_path: Path) -> None:
    """All three nodes of a group are gone. Its shards begin anew, empty, in the other group, whose
    own shards never notice; a client that comes with an old session is not taken for another."""
    with running(tmp_path, nodes=6, groups=2, shards=SHARDS) as cluster:
        run(fill(cluster))
        identity = cluster.cluster.hex()
        config = json.loads(done(cluster.cli("ctl", "query", "--json")))
        gone = config["groups"]["1"]
        assert sorted(gone["nodes"]) == ["n4", "n5", "n6"]
        refused(cluster.cli("ctl", "abandon", "1", "--cluster", identity), 1, "still holds group 1")
        lose(cluster, *gone["nodes"])
        assert "nothing is left" in done(cluster.cli("ctl", "recover", "plan", "1"))
        refused(
            cluster.cli("ctl", "recover", "apply", "1", "--cluster", identity), 1, "no running node"
        )
        refused(cluster.cli("ctl", "abandon", "9", "--cluster", identity), 1, "no group 9")
        refused(cluster.cli("ctl", "abandon", "1"), 2, "--cluster")
        refused(cluster.cli("ctl", "abandon", "0", "--cluster", identity), 2, "from 1 to")

        abandon = ("ctl", "abandon", "1", "--cluster", identity, "--timeout", "30")
        foretold = done(cluster.cli(*abandon, "--dry-run")).splitlines()
        assert json.loads(done(cluster.cli("ctl", "query", "--json"))) == config, "and not done"
        said = done(cluster.cli(*abandon))

        number = config["config"] + 1
        assert foretold == [f"config {number} would give group 1 up", *said.splitlines()[1:]]
        assert said.startswith(f"config {config['config'] + 1}\nlost, begun anew empty: shards ")
        after = json.loads(done(cluster.cli("ctl", "query", "--json")))
        assert list(after["groups"]) == ["2"]
        assert set(after["shards"]) == {2}
        with shardkv.connect(cluster.endpoints[:3]) as kv:
            for key, value in KEYS.items():
                lost = ROUTING(key) in gone["shards"]
                assert kv.get(key) == (None if lost else value)
            assert kv.put(b"key 1", b"again") > RECOVERED_BEGINS
            assert kv.get(b"key 1") == b"again"
        refused(cluster.cli("ctl", "abandon", "1", "--cluster", identity), 1, "no group 1")
        refused(cluster.cli("ctl", "abandon", "2", "--cluster", identity), 1)
        refused(cluster.cli("ctl", "join", "1=n1,n2,n3"), 1)


def test_a_majority_that_lives_is_not_recovered(tmp_path: Path) -> None:
    with running(tmp_path, groups=1, shards=SHARDS) as cluster:
        identity = cluster.cluster.hex()
        cluster.kill("n3")

        assert "nothing to recover" in done(cluster.cli("ctl", "recover", "plan", "1"))
        apply = ("ctl", "recover", "apply")
        for how in ((), ("--dry-run",)):
            refused(cluster.cli(*apply, "1", "--cluster", identity, *how), 1, "nothing to recover")
        refused(cluster.cli(*apply, "7", "--cluster", identity), 1, "no group 7")
        refused(cluster.cli(*apply, "x", "--cluster", identity), 2)
        refused(cluster.cli(*apply, "1", "--cluster", identity, "--nodes", "n9"), 1, "no node 'n9'")

        with shardkv.connect(cluster.endpoints[:2]) as kv:
            kv.put("a", "b")
