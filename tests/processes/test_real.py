"""Real processes under faults for long, by the numbers of the scenarios: `make ci-real`.

Each plays for some half a minute under a dense load and judges all that clients saw: linearizable
(C1), nothing twice (C3), nothing acknowledged lost (C8). Their short forms are in `test_kills.py`,
`test_pauses.py`, `test_disk_faults.py`, `test_damage.py` and `test_moves_under_fire.py`; links are
in `test_links.py`, mixed versions (12) in `test_versions.py`.
"""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.processes.test_disk_faults import disk_of_its_own, strace_works
from tests.processes.test_moves_under_fire import Operator
from tests.support.load import Load
from tests.support.processes import Cluster, Eyes, run, running, wait_for

pytestmark = pytest.mark.real

FOR_SECONDS = 24.0
OPERATIONS_MIN = 20_000
"""Judged in each scenario, or it shows little."""
KILL_EVERY_SECONDS = 3.0

Body = Callable[[Cluster, Eyes, Load], Coroutine[Any, Any, None]]


def play(
    directory: Path,
    body: Body,
    *,
    least: int = OPERATIONS_MIN,
    seconds: float = 240,
    **shape: Any,
) -> None:
    """A cluster, a load for the whole of the body, and its judgement."""

    async def scenario(cluster: Cluster) -> int:
        load = Load(
            cluster.endpoints, clients=10, lists=24, registers=64, pause=0.002, timeout=25.0
        )
        async with cluster.eyes() as eyes, load:
            await load.some(200)
            await body(cluster, eyes, load)
            await eyes.whole(60)
            missing = least - len(load.history)
            if missing > 0:
                await load.some(missing, 120)
            await load.finish()
            return len(load.history)

    shape = {"settings": {"SHARDKV_HEAL": "false"}, **shape}
    with running(directory, **shape) as cluster:
        judged = run(scenario(cluster), seconds)
    print(f"{judged} operations judged")
    assert judged >= least


async def after(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_1_the_leader_is_killed_every_three_seconds(tmp_path: Path) -> None:
    async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
        until = time.monotonic() + FOR_SECONDS
        while time.monotonic() < until:
            leader = await eyes.leader(1)
            begun = time.monotonic()
            cluster.kill(leader)
            await load.some(50)
            await asyncio.to_thread(cluster.restart, leader)
            await after(begun + KILL_EVERY_SECONDS - time.monotonic())

    play(tmp_path, body)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk of one's own takes root")
def test_2_everything_is_killed_and_the_power_is_cut(tmp_path: Path) -> None:
    with disk_of_its_own(tmp_path) as disk:

        async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
            for cycle in range(4):
                await load.some(2000, 60)
                if cycle % 2:
                    cluster.crash()
                else:
                    disk.cut_power()
                    for name in cluster.nodes:
                        await asyncio.to_thread(cluster.wait_ended, name)
                    cluster.up.send_signal(signal.SIGTERM)
                    cluster.up.wait(10)
                    disk.unmount()
                    disk.mount()
                await asyncio.to_thread(cluster.start, "--nodes", "3")

        play(tmp_path, body, data=disk.path / "data")


def test_3_the_leader_stands_still_for_two_to_ten_election_times(tmp_path: Path) -> None:
    async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
        for seconds in (2.0, 8.0, 4.0):
            leader = await eyes.leader(1)
            cluster.pause(leader)
            paused = time.monotonic()
            await eyes.leader(1, other_than=leader)
            await load.some(300)
            await after(paused + seconds - time.monotonic())
            cluster.resume(leader)
            await load.some(300)

    play(tmp_path, body)


@pytest.mark.skipif(not strace_works(), reason="strace is not here, or may not trace")
@pytest.mark.parametrize("call", ["fdatasync", "write"])
def test_8_an_error_of_the_leaders_disk_ends_it_and_nothing_else(tmp_path: Path, call: str) -> None:
    """EIO in the leader's next call, whatever it is on; a second one would succeed."""

    async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
        for cycle in range(2):
            leader = await eyes.leader(1)
            process = cluster.nodes[leader].pid
            paths = [word for path in files_of(cluster, leader) for word in ("-P", path)]
            strace = attach(process, paths, f"inject={call}:error=EIO:when={20 + cycle}")
            try:
                await asyncio.to_thread(cluster.wait_ended, leader)
            finally:
                end(strace)
            await load.some(300)
            log = (cluster.nodes[leader].data / "node.log").read_text()
            assert "storage failed" in log, log[-2000:]
            await asyncio.to_thread(cluster.restart, leader)
            await eyes.whole(40)

    play(tmp_path, body)


def files_of(cluster: Cluster, name: str) -> list[str]:
    """What a node syncs: the log database's newest log, and the promise."""
    data = cluster.nodes[name].data
    logs = sorted((data / "log").glob("*.log"))[-1:]
    promises = [path for path in data.iterdir() if path.name.startswith("promise")]
    return [str(path) for path in [*logs, *promises]]


def attach(pid: int, paths: list[str], inject: str) -> "subprocess.Popen[bytes]":
    """Trace a running process; its next calls are tampered with."""
    return subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid), *paths, "-e", inject],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def end(strace: "subprocess.Popen[bytes]") -> None:
    """Let go of the traced process, if it is still there."""
    with suppress(ProcessLookupError):
        strace.terminate()
    try:
        strace.wait(10)
    except subprocess.TimeoutExpired:
        strace.kill()
        strace.wait()


@pytest.mark.skipif(not strace_works(), reason="strace is not here, or may not trace")
def test_9_a_leader_whose_disk_is_slow_does_not_hold_up_its_group(tmp_path: Path) -> None:
    """Each of its syncs takes 2 s: it hands over, and the others serve (gray failure)."""

    async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
        for _ in range(2):
            leader = await eyes.leader(1)
            strace = attach(cluster.nodes[leader].pid, [], "inject=fdatasync:delay_enter=2000000")
            slow = time.monotonic()
            try:
                await eyes.leader(1, other_than=leader)
                await load.some(1000, 60)
                print(f"{load.longest_gap(slow, time.monotonic()):.2f} s without service")
            finally:
                end(strace)
            await eyes.whole(40)

    play(tmp_path, body)


def test_7_a_disk_fills_up_on_the_leader_and_then_on_a_follower(tmp_path: Path) -> None:
    async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
        for which in ("leader", "follower", "leader", "follower"):
            leader = await eyes.leader(1)
            victim = leader if which == "leader" else min(cluster.nodes.keys() - {leader})
            node = cluster.nodes[victim]
            longest = max(p.stat().st_size for p in (node.data / "log").glob("*.log"))
            resource.prlimit(
                node.pid, resource.RLIMIT_FSIZE, (longest + 4096, resource.RLIM_INFINITY)
            )
            await asyncio.to_thread(cluster.wait_ended, victim)
            await load.some(500)
            assert "storage failed" in (node.data / "node.log").read_text()
            await asyncio.to_thread(cluster.restart, victim)
            await eyes.whole(40)

    play(tmp_path, body)


def test_10_damaged_files_are_refused_while_the_others_serve(tmp_path: Path) -> None:
    """A bit flipped, a file cut, emptied or deleted, one at a time, while a node is down: it says
    which with status 4, or it starts and is as it was; with the file put back it always starts."""

    async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
        rng = Random(10)
        refused = 0
        for cycle in range(12):
            victim = sorted(cluster.nodes)[cycle % 3]
            data = cluster.nodes[victim].data
            cluster.kill(victim)
            if cluster.nodes[victim].process is None:
                await asyncio.to_thread(cluster.obituary, victim)
            kept = data.with_name("kept")
            shutil.copytree(data, kept)
            path = rng.choice(sorted(p for p in damageable(data) if p.stat().st_size))
            how = damage(path, rng, cycle)
            ran = times_up(data)
            process = await asyncio.to_thread(cluster.restart, victim, wait=False)
            over = partial(up_or_ended, process, data, ran)
            await asyncio.to_thread(wait_for, over, "a verdict")
            status = process.poll()
            assert status in (None, 4), f"{path.name} {how}: status {status}"
            refused += status == 4
            await load.some(200)
            if status == 4:
                shutil.rmtree(data)
                kept.rename(data)
                await asyncio.to_thread(cluster.restart, victim)
            else:  # it goes on with what it has; an old copy put back would count no more
                shutil.rmtree(kept)
            await eyes.whole(40)
        print(f"{refused} of 12 damages were refused")
        assert refused >= 5

    play(tmp_path, body, seconds=300)


def times_up(data: Path) -> int:
    """How often the node there has said that it runs. (Its ports are taken before that.)"""
    return (data / "node.log").read_text().count("INFO shardkv.node running")


def up_or_ended(process: "subprocess.Popen[bytes]", data: Path, ran: int) -> bool:
    return process.poll() is not None or times_up(data) > ran


def damageable(data: Path) -> list[Path]:
    """Files of the log database, of its tables, and the promise."""
    places = [*(data / "log").iterdir(), *(p for p in data.iterdir() if "promise" in p.name)]
    return [p for p in places if p.is_file() and p.name not in ("LOCK", "LOG", "LOG.old")]


def damage(path: Path, rng: Random, cycle: int) -> str:
    content = bytearray(path.read_bytes())
    match cycle % 4:
        case 0:
            bit = rng.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
            path.write_bytes(content)
            return f"bit {bit}"
        case 1:
            path.write_bytes(content[: len(content) // 2])
            return "cut in half"
        case 2:
            path.write_bytes(b"")
            return "emptied"
        case _:
            path.unlink()
            return "deleted"


def test_11_shards_move_all_the_time_while_nodes_are_killed(tmp_path: Path) -> None:
    """Join or leave every two seconds, and a kill -9 between any two of them."""

    async def body(cluster: Cluster, eyes: Eyes, load: Load) -> None:
        operator = Operator(cluster, eyes)
        changes = [("leave", "2"), ("join", "2=n1,n2,n3")]
        for cycle in range(8):
            begun = time.monotonic()
            await operator.ctl(*changes[cycle % 2])
            if cycle % 2 == 0:
                await operator.kill_leader_of((2, 0, 1)[cycle // 2 % 3])
            await load.some(100)
            await operator.settle()
            await after(begun + 2.0 - time.monotonic())

    play(tmp_path, body, groups=2, shards=8, seconds=300)
