"""The start-up path of containers on real processes: a cluster that forms itself, a rolling restart
under load, an address that changes, a node that is killed anywhere in its birth."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pods import CheckedLoad, Pods, why_not
from tests.support.processes import run_program, wait_for

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
    wait_for(lambda: "2 groups" in pods.command("ctl", "query"), "the founding")


def test_a_rolling_restart_under_load_and_a_new_address_each_lose_nothing(pods: Pods) -> None:
    """One pod after the other is stopped, gets another address (where pods have any), and is
    started again; the next one only when it is ready, as a StatefulSet does."""
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
    wait_for(lambda: pods.probe("kv-2", "ready") == 1 and lost in pods.said, "not ready", 60)
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
    wait_for(lambda: pods.probe("kv-0", "live") == 0, "kv-0 alive")

    silent = pods.client_of("kv-2")
    wait_for(
        lambda: pods.probe("kv-0", "ready") == 1 and f"{silent} must answer" in pods.said,
        "what kv-0 waits for",
    )
    assert pods.cluster_ids() == set()
    assert pods.terminate("kv-0") == 0  # a stop is obeyed here, too

    pods.start("kv-0")
    pods.start("kv-2")
    pods.wait_ready()


def test_two_processes_on_one_volume_are_one_too_many(pods: Pods) -> None:
    pods.start("kv-0")
    wait_for(lambda: pods.probe("kv-0", "live") == 0, "kv-0 alive")

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
