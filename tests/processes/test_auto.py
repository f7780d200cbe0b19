"""The start-up path of containers on real processes: a cluster that forms itself, a rolling restart
under load, an address that changes, a node that is killed anywhere in its birth."""

import asyncio
import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certs import Authority, variables
from tests.support.pods import ASK_SECONDS, CheckedLoad, Pods, why_not
from tests.support.processes import Cluster, run_program, wait_for

pytestmark = pytest.mark.timeout(280)

SETTINGS = {"SHARDKV_SHARDS": "8", "SHARDKV_INSECURE_LISTEN": "true"}


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path, 3, SETTINGS)
    try:
        yield made
    except BaseException:
        print(made.logs())
        raise
    finally:
        made.close()


def start_all(pods: Pods) -> None:
    for name in pods.names:
        pods.start(name)
    pods.wait_ready()
    # A node that holds nothing yet is ready, too: the founding may be on its way.
    wait_for(lambda: "2 groups" in pods.command("ctl", "query"), "the founding", pause=ASK_SECONDS)


def test_a_rolling_restart_under_load_and_a_new_address_each_lose_nothing(
    pods: Pods, tmp_path: Path
) -> None:
    """One pod after the other is stopped, gets another address (where pods have any), and is
    started again; the next one only when it is ready, as a StatefulSet does. With TLS, by one
    certificate for all pods' names, as the chart has it."""
    authority = Authority(tmp_path / "ca")
    pods.settings |= variables(authority.sign("pods", (*pods.names, "localhost")))
    del pods.settings["SHARDKV_INSECURE_LISTEN"]
    start_all(pods)
    assert len(pods.cluster_ids()) == 1
    if pods.isolated:
        check_confined(pods)
    else:
        print(f"on loopback, with one address for all: {why_not()}")
    load = CheckedLoad(pods)
    try:
        for name in pods.names:
            assert pods.terminate(name) == 0
            assert pods.probe(name, "live") == 1
            if pods.isolated:
                pods.give_address(name)
            pods.start(name)
            pods.wait_ready(name)
            pods.command("ctl", "wait", "--timeout", "60")
        seen = load.end()
    finally:
        load.close()

    print(seen)  # shown with -s, or when it fails
    assert (seen["lost"], seen["failed"], seen["unknown"]) == (0, [], 0)
    assert seen["operations"] > 100


def check_confined(pods: Pods) -> None:
    """A pod has no capability, and nothing that it may write but its volume."""
    for process in pods.processes.values():
        mounts = Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
        roots = [line.split()[5] for line in mounts if line.split()[4] == "/"]
        assert roots[-1].split(",")[0] == "ro"
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{process.pid}/status").read_text()


def test_nodes_that_are_killed_anywhere_in_their_birth_form_one_cluster(pods: Pods) -> None:
    """The first seed is killed again and again, sooner and later after its start, and so are the
    others; in the end there is one cluster, and all are of it."""
    for delay in (0.4, 0.8, 1.2, 1.8):
        for name in pods.names:
            pods.start(name)
        time.sleep(delay)  # where it is then is not known, and need not be
        for name in pods.names:
            pods.kill(name)
        assert len(pods.cluster_ids()) <= 1

    start_all(pods)

    assert len(pods.cluster_ids()) == 1
    pods.command("put", "a", "one")
    assert pods.command("get", "a") == "one"


def test_a_node_that_stops_is_not_ready_before_it_hands_on(tmp_path: Path) -> None:
    """The others stand still, so nobody takes its leadership over and it waits for them: what it
    says meanwhile can be looked at."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()

        async def leader() -> str:
            async with cluster.eyes() as eyes:
                await eyes.whole()
                return await eyes.leader(1)

        name = asyncio.run(leader())
        others = [node for node in cluster.nodes if node != name]
        host, _, port = cluster.nodes[name].client.rpartition(":")
        url = f"http://{host}:{int(port) + 2}/readyz"
        assert readiness(url) == (200, [])
        for other in others:
            cluster.pause(other)

        cluster.send(name, signal.SIGTERM)

        said = wait_for(lambda: [r for r in readiness(url)[1] if "stopping" in r], "not ready", 2)
        assert said == ["the node is stopping"]
        for other in others:
            cluster.resume(other)
        cluster.wait_ended(name)
    finally:
        cluster.close()


def readiness(url: str) -> tuple[int, list[str]]:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status, json.loads(answer.read())["reasons"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["reasons"]


def test_a_pod_that_lost_its_volume_comes_back_as_a_stranger_and_is_replaced(pods: Pods) -> None:
    """Under its old name, and with new replicas: its old ones never vote again. It is not ready
    before the groups have made them, so nobody stops the next one meanwhile."""
    start_all(pods)
    before = {name: voters(pods, name) for name in ("kv-0", "kv-1")}
    pods.command("put", "a", "one")
    pods.kill("kv-2")
    shutil.rmtree(pods.volume("kv-2") / "node")

    pods.start("kv-2")

    lost = "counts a replica here that is lost"
    wait_for(
        lambda: pods.probe("kv-2", "ready") == 1 and lost in pods.said, "not ready", 60, pause=0.05
    )
    pods.wait_ready("kv-2")
    pods.command("ctl", "wait", "--timeout", "60")
    after = voters(pods, "kv-0")
    assert set(after) == set(before["kv-0"]) == {"controller", "1", "2"}
    assert len(pods.cluster_ids()) == 1
    pods.kill("kv-1")  # so the new replicas are needed for a majority
    assert pods.command("get", "a") == "one"
    pods.command("put", "a", "two")


def voters(pods: Pods, name: str) -> dict[str, list[str]]:
    """Of each group, by `status`."""
    seen = json.loads(pods.command("status", "--json", "--endpoints", pods.client_of(name)))
    return {
        "controller" if group["gid"] == 0 else str(group["gid"]): group["voters"]
        for group in seen["groups"]
    }


def test_a_blank_node_is_alive_and_says_what_it_waits_for(pods: Pods) -> None:
    """Who is silent may hold a cluster: the first seed waits for it."""
    pods.start("kv-0")
    pods.start("kv-1")
    wait_for(lambda: pods.probe("kv-0", "live") == 0, "kv-0 alive", pause=ASK_SECONDS)

    silent = pods.client_of("kv-2")
    wait_for(
        lambda: pods.probe("kv-0", "ready") == 1 and f"{silent} must answer" in pods.said,
        "what kv-0 waits for",
        pause=ASK_SECONDS,
    )
    assert pods.cluster_ids() == set()
    assert pods.terminate("kv-0") == 0  # a stop is obeyed here, too

    pods.start("kv-0")
    pods.start("kv-2")
    pods.wait_ready()


def test_two_processes_on_one_volume_are_one_too_many(pods: Pods) -> None:
    pods.start("kv-0")
    wait_for(lambda: pods.probe("kv-0", "live") == 0, "kv-0 alive", pause=ASK_SECONDS)

    second = run_program(
        "auto",
        SHARDKV_NODE="kv-0",
        SHARDKV_CLIENT="localhost:26999",
        SHARDKV_SEEDS="localhost:26999",
        SHARDKV_DATA=str(pods.volume("kv-0") / "node"),
    )

    assert second.status == 5
    assert "in use by another process" in second.err


def test_what_is_missing_or_contradicts_is_named(tmp_path: Path) -> None:
    data = {"SHARDKV_DATA": str(tmp_path / "node"), "SHARDKV_NODE": "kv-0"}

    none = run_program("auto", **data)
    assert (none.status, "SHARDKV_CLIENT" in none.err) == (2, True)
    alone = run_program("auto", **data, SHARDKV_CLIENT="localhost:26999")
    assert (alone.status, "SHARDKV_SEEDS" in alone.err) == (2, True)
    public = run_program(
        "auto",
        **data,
        SHARDKV_CLIENT="kv-0:7400",
        SHARDKV_SEEDS="kv-0:7400",
        SHARDKV_LISTEN_HOST="0.0.0.0",
    )
    assert (public.status, "without TLS" in public.err) == (2, True)
    assert list(tmp_path.iterdir()) == []
