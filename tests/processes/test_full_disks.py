"""Disks that are really full, one a node, under load: `make ci-real`.

Below the watermark a node leads nothing and takes no clients' writes; without a byte left it ends,
and comes back on what its ballast leaves. What was acknowledged is there all the time, and all of
it lifts by itself. `test_healing.py` has the short forms, on one disk for all nodes.
"""

import asyncio
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shardkv import aio
from shardkv.clerk import Clerk
from shardkv.config import TABLE
from shardkv.disk_space import BALLAST_FILE
from shardkv.errors import DiskFull
from tests.support.load import Load
from tests.support.processes import Cluster, Eyes, Seen, leader_in, run, running, wait_for
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk of one's own takes root"),
]

MIB = 1024 * 1024
DISK_BYTES = 2048 * MIB
BALLAST_BYTES = TABLE["ballast_bytes"].default
"""What a node has if nobody says otherwise: a little more than it needs to open its databases."""
PROBE_SECONDS_MAX = 1.0
Disks = Mapping[str, SmallDisk]


@contextmanager
def with_disks(directory: Path) -> Iterator[tuple[Cluster, Disks]]:
    """A cluster each of whose nodes has a disk of its own; unmounted once all have ended."""
    settings = {"SHARDKV_BALLAST_BYTES": str(BALLAST_BYTES)}
    with ExitStack() as mounts, running(directory, settings=settings) as cluster:
        assert cluster.interrupt() == 0
        disks = {}
        for name, node in cluster.nodes.items():
            (node.data / BALLAST_FILE).unlink(missing_ok=True)
            disks[name] = mounts.enter_context(small_disk(directory, DISK_BYTES, node.data))
        cluster.start("--nodes", str(len(cluster.nodes)))
        for node in cluster.nodes.values():
            wait_for((node.data / BALLAST_FILE).exists, f"the ballast of {node.name}")
        yield cluster, disks


def test_a_leaders_disk_fills_up_to_the_last_byte(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster, disks: Disks) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(300)
            victim = await eyes.leader(1)
            disk, node = disks[victim], cluster.nodes[victim]

            disk.fill(percent_left=4.0)
            begun = time.monotonic()
            await eyes.until(
                lambda seen: leads_nothing(seen, victim), "led from where there is room", 30
            )
            print(f"led from elsewhere {time.monotonic() - begun:.1f} s after the watermark")
            await load.some(300)

            disk.fill_up()
            await asyncio.to_thread(cluster.wait_ended, victim, 30)
            assert cluster.obituary(victim)[0] == "ended with status 4"
            assert "storage failed" in cluster.complaints()
            await load.some(300)

            disk.fill_up()
            await asyncio.to_thread(cluster.restart, victim)
            await eyes.whole(60)
            assert not (node.data / BALLAST_FILE).exists(), "given up, to open the databases"
            assert leads_nothing(await looked(eyes), victim)
            await load.some(300)

            os.kill(node.pid, signal.SIGKILL)
            await asyncio.to_thread(cluster.wait_ended, victim)
            disk.fill_up()
            process = cluster.restart(victim, wait=False)
            assert await asyncio.to_thread(process.wait, 20) == 4, "and there is no second ballast"
            said = (cluster.directory / f"{victim}.err").read_text()
            assert "bytes are free, and a node needs" in said and "Free some space" in said
            assert "Traceback" not in said
            await load.some(300)

            disk.empty()
            await asyncio.to_thread(cluster.restart, victim)
            await eyes.whole(60)
            wait_for((node.data / BALLAST_FILE).exists, "a ballast again")
            await load.some(300)
            await load.finish()

    with with_disks(tmp_path) as (cluster, disks):
        run(scenario(cluster, disks), 240)


def test_where_most_disks_are_full_puts_are_refused_and_deletes_taken(tmp_path: Path) -> None:
    """Two of three, whoever leads; and then all three."""

    async def scenario(cluster: Cluster, disks: Disks) -> None:
        async with cluster.eyes() as eyes, aio.connect(cluster.endpoints) as clerk:
            await clerk.put("kept", "before")
            await clerk.put("deleted", "x" * 1000)
            leader = await eyes.leader(1)
            others = [name for name in disks if name != leader]

            for full in (others, [leader]):
                for name in full:
                    disks[name].fill(percent_left=4.0)
                await refused(clerk)
                ended = await asyncio.to_thread(cluster.cli, "put", "kept", "after")
                assert ended.status == 1 and "nothing was written" in ended.err
                assert await clerk.get("kept") == b"before", "reads go on"
                await clerk.delete("deleted")
                for name in full:
                    assert_it_says_so(cluster, name)

            for disk in disks.values():
                disk.empty()
            await taken_again(clerk)
            await eyes.whole()

    with with_disks(tmp_path) as (cluster, disks):
        run(scenario(cluster, disks))


def assert_it_says_so(cluster: Cluster, name: str) -> None:
    """A probe is answered at once, by the truth: it serves, and takes no clients' writes."""
    host, _, port = cluster.nodes[name].client.rpartition(":")
    base = f"http://{host}:{int(port) + 2}"

    def probed(path: str) -> bytes:
        with urllib.request.urlopen(base + path, timeout=PROBE_SECONDS_MAX) as answer:
            content: bytes = answer.read()
            return content

    (warning,) = wait_for(lambda: json.loads(probed("/readyz"))["warnings"], "a warning")
    assert "free_percent_min" in warning and "writes are refused" in warning
    assert json.loads(probed("/readyz"))["status"] == "healthy", "to restart it would help nobody"
    assert b"\nshardkv_disk_full 1.0\n" in probed("/metrics")
    said = b"its disk is below free_percent_min: it takes no clients' writes"
    wait_for(lambda: said in cluster.cli("ctl", "explain", name).out, f"{name} explained")


async def refused(clerk: Clerk, seconds: float = 30.0) -> None:
    """Until a put is refused for want of room: nodes look once a second, and tell each other."""
    deadline = time.monotonic() + seconds
    while True:
        assert time.monotonic() < deadline
        try:
            await clerk.put("another", "x")
        except DiskFull as error:
            assert "free_percent_min" in str(error)
            return


async def taken_again(clerk: Clerk, seconds: float = 30.0) -> None:
    """Until a put is done."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await clerk.put("kept", "lifted by itself")
        except DiskFull:
            assert time.monotonic() < deadline
        else:
            return


def leads_nothing(seen: Seen, name: str) -> bool:
    """Whether both groups are led, and by others."""
    return all(leader_in(seen, gid) not in ("", name) for gid in (0, 1))


async def looked(eyes: Eyes) -> Seen:
    """One look."""
    return await eyes.until(lambda seen: seen, "a look")
