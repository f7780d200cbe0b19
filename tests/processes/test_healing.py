"""Real nodes die for good, and their disks fill up; the cluster gets over it by itself."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardkv import aio
from shardkv.disk_space import BALLAST_FILE
from shardkv.errors import DiskFull
from tests.support.load import Load
from tests.support.processes import (
    Cluster,
    Eyes,
    Seen,
    leader_in,
    run,
    running,
    wait_for,
)
from tests.support.small_disk import small_disk

GRACE = 5
SETTINGS = {"SHARDKV_HEAL_GRACE_SECONDS": str(GRACE)}
MIB = 1024 * 1024


def health(cluster: Cluster) -> Mapping[str, Any]:
    """What `ctl plan --json` says; {} while nobody leads the controller."""
    ended = cluster.cli("ctl", "plan", "--json")
    return json.loads(ended.out) if ended.status == 0 else {}


async def told(cluster: Cluster) -> Mapping[str, Any]:
    return await asyncio.to_thread(health, cluster)


def all_registered(seen: Seen) -> bool:
    """Whether every node knows of all."""
    return all(status is not None and len(status.known) == len(seen) for status in seen.values())


def without(seen: Seen, gone: str) -> bool:
    """Whether every group has three voters that have applied all, none of them on this node."""
    living = {name: status for name, status in seen.items() if name != gone}
    if any(status is None for status in living.values()):
        return False
    for gid in (0, 1, 2):
        leader = leader_in(living, gid)
        if not leader:
            return False
        status = living[leader]
        assert status is not None
        group = status.replica(gid)
        assert group is not None
        nodes = [member.node for member in group.voters]
        if len(nodes) != 3 or gone in nodes or group.outgoing or group.learners:
            return False
        held = [living[node].replica(gid) for node in nodes]  # type: ignore[union-attr]
        if any(replica is None or replica.applied < group.commit for replica in held):
            return False
    return True


@pytest.mark.parametrize("victim", ["the controller's leader", "another"])
def test_a_node_killed_for_good_is_made_up_for(tmp_path: Path, victim: str) -> None:
    """Four nodes, three groups of three, under load; one never comes back."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(100)
            await eyes.until(all_registered, "every node known to every other")
            leader = await eyes.leader(0)
            gone = leader if victim == "the controller's leader" else pick(cluster, leader)
            cluster.kill(gone)
            died = time.monotonic()
            await eyes.until(lambda seen: without(seen, gone), "replicas made anew", 30)
            took = time.monotonic() - died
            print(f"replicas of {gone} made anew {took:.1f} s after it was killed, grace {GRACE} s")
            assert took > GRACE - 1, "not before the grace period is over"
            await load.some(100)
            await load.finish()
            report = await told(cluster)
            assert report["nodes"][gone]["health"] == "dead"
            assert any(f"replica of {gone}" in line for line in report["done"])
        status = await asyncio.to_thread(cluster.cli, "status")
        line = next(line for line in status.out.decode().splitlines() if line.startswith(gone))
        assert ("DEAD" in line or "SUSPECT" in line) and "s ago)" in line and status.status == 1

    with running(tmp_path, nodes=4, groups=2, settings=SETTINGS) as cluster:
        run(scenario(cluster))


def pick(cluster: Cluster, leader: str) -> str:
    return max(cluster.nodes.keys() - {leader})


def test_switched_off_it_only_says_what_is_wrong(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, eyes: Eyes) -> None:
        gone = pick(cluster, await eyes.leader(0))
        cluster.kill(gone)
        await eyes.until(lambda seen: bool(leader_in(seen, 1)), "led")
        deadline = time.monotonic() + 20
        while (await told(cluster)).get("nodes", {}).get(gone, {}).get("health") != "dead":
            assert time.monotonic() < deadline
        await asyncio.sleep(2.0)  # long enough for what must not happen
        report = await told(cluster)
        assert report["done"] == [] and report["step"] is None
        assert any("heal: false" in line for line in report["why"])

    async def main(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes:
            await scenario(cluster, eyes)

    settings = {"SHARDKV_HEAL_GRACE_SECONDS": "2", "SHARDKV_HEAL": "false"}
    with running(tmp_path, nodes=4, groups=1, settings=settings) as cluster:
        run(main(cluster))


def test_leaderships_are_even_again_after_all_nodes_were_restarted(tmp_path: Path) -> None:
    """Whoever starts first may lead everything; the cluster mends it."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes:
            await eyes.until(lambda seen: spread_of(seen) is not None, "all led", 30)
            await eyes.until(lambda seen: spread_of(seen) in (0, 1), "leaderships even", 60)
            await eyes.whole()

    with running(tmp_path, groups=5) as cluster:
        cluster.crash()
        cluster.start("--nodes", "3")
        run(scenario(cluster))


def spread_of(seen: Seen) -> int | None:
    """How many groups more the busiest node leads than the idlest; None while one is not led."""
    leaders = [leader_in(seen, gid) for gid in range(6)]
    if not all(leaders):
        return None
    counts = [leaders.count(name) for name in seen]
    return max(counts) - min(counts)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk of one's own takes root")
def test_on_a_full_disk_writes_are_refused_until_there_is_room(tmp_path: Path) -> None:
    """All three nodes on one disk of 2 GiB; then one dies, and starts again on what its ballast
    leaves."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, aio.connect(cluster.endpoints) as clerk:
            await clerk.put("key", "before")
            disk.fill(percent_left=4.0)
            deadline = time.monotonic() + 10
            while True:
                assert time.monotonic() < deadline
                began = time.monotonic()
                try:
                    await clerk.put("another", "x")
                except DiskFull as error:
                    assert "free_percent_min" in str(error)
                    break
            assert time.monotonic() - began < 6
            ended = await asyncio.to_thread(cluster.cli, "put", "key", "after")
            assert ended.status == 1, ended.err
            assert "free_percent_min" in ended.err and "nothing was written" in ended.err
            assert await clerk.get("key") == b"before", "reads go on"
            await clerk.delete("another")
            status = await asyncio.to_thread(cluster.cli, "status")
            assert "disk full" in status.out.decode()
            assert status.status == 1 and "free_percent_min" in status.err
            await eyes.whole()

            disk.fill(percent_left=1.0)
            cluster.kill("n1")
            ballast = cluster.nodes["n1"].data / BALLAST_FILE
            assert ballast.stat().st_size == 64 * MIB
            await asyncio.to_thread(cluster.restart, "n1")
            await eyes.whole()
            assert not ballast.exists(), "given up, so that the databases could be opened"

            disk.empty()
            await asyncio.sleep(2.0)  # twice the time between two looks
            await clerk.put("key", "lifted by itself")

    with (
        small_disk(tmp_path, 2048 * MIB) as disk,
        running(
            tmp_path,
            data=disk.path / "data",
            settings={"SHARDKV_BALLAST_BYTES": str(64 * MIB)},
        ) as cluster,
    ):
        for node in cluster.nodes.values():
            wait_for((node.data / BALLAST_FILE).exists, f"the ballast of {node.name}")
        run(scenario(cluster))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk of one's own takes root")
def test_a_node_with_a_full_disk_leads_nothing(tmp_path: Path) -> None:
    """Its watermark is above what is free on the disk that it shares with the others: for it alone
    the disk is full."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(50)
            full = await eyes.leader(1)
            await asyncio.to_thread(cluster.kill, full)
            cluster.obituary(full)
            node = cluster.nodes[full]
            disk.fill(percent_left=30.0)
            node.process = cluster.start_node(node.data, "--free-percent-min", "50")
            node.pid = node.process.pid
            await eyes.whole()
            report = await told(cluster)
            deadline = time.monotonic() + 30
            while report.get("nodes", {}).get(full, {}).get("roomy", True):
                assert time.monotonic() < deadline, report
                report = await told(cluster)
            await eyes.until(
                lambda seen: all(leader_in(seen, gid) not in ("", full) for gid in (0, 1)),
                "led from elsewhere",
                30,
            )
            await load.some(100)
            await load.finish()

    with (
        small_disk(tmp_path, 2048 * MIB) as disk,
        running(tmp_path, data=disk.path / "data") as cluster,
    ):
        run(scenario(cluster))


@contextmanager
def slow_disk(pid: int, seconds: float) -> Iterator[None]:
    """Every sync of a process takes so long; where nobody may trace it the test is skipped."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not here")
    inject = f"inject=fdatasync:delay_enter={int(seconds * 1_000_000)}"
    words = [program, "-f", "-qq", "-o", os.devnull, "-e", "trace=fdatasync", "-e", inject]
    tracer = subprocess.Popen([*words, "-p", str(pid)], stderr=subprocess.PIPE)
    try:
        time.sleep(0.3)
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            pytest.skip(f"strace may not trace: {tracer.stderr.read().decode()}")
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def test_a_slow_disk_gives_up_its_leaderships(tmp_path: Path) -> None:
    """Each sync of a leader takes 3 s, thrice the longest election time-out; E is 1 s."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(100)
            slow = await eyes.leader(1)
            with slow_disk(cluster.nodes[slow].pid, 3.0):
                began = time.monotonic()
                await eyes.until(
                    lambda seen: leader_in(seen, 1) not in ("", slow), "led from elsewhere"
                )
                print(f"group 1 is led from elsewhere after {time.monotonic() - began:.1f} s")
                await load.some(200)
                assert await eyes.leader(1) != slow, "it is not given back"
                report = await told(cluster)
                assert (
                    not report
                    or not report["nodes"][slow]["quick"]
                    or report["nodes"][slow]["health"] != "alive"
                )
            await load.finish()
            await eyes.whole(60)

    with running(tmp_path) as cluster:
        run(scenario(cluster))
