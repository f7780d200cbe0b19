"""Nodes of two versions in one cluster: rolling upgrades, and what is refused.

Number (12) of the scenarios for real processes. The newer version is this one that says it is
newer (`tests/support/versions.py`): what is tried is the rule by which versions find each other or
refuse, on the wire and on the disk. The short form runs with every test, the long one by
`make ci-real`.
"""

import asyncio
import signal
import struct
import time
from pathlib import Path
from zlib import crc32

import pytest

from raft.disk.promise import decode_promise
from shardkv.nodedir import PROMISES
from tests.support.load import Load
from tests.support.processes import Cluster, Eyes, run, running, wait_for
from tests.support.versions import program

NEXT = program(2, 1)
"""The next version, which still speaks ours."""
AFTER_NEXT = program(3, 2)
"""The one after it, which does not."""
HEAD = struct.Struct(">4sII")  # of a promise: its mark, the length and the checksum of the rest


@pytest.mark.parametrize(
    ("seconds", "least"),
    [
        pytest.param(0.0, 300, id="short"),
        pytest.param(60.0, 20_000, id="long", marks=pytest.mark.real),
    ],
)
def test_nodes_are_upgraded_one_after_another_and_two_versions_apart_is_refused(
    tmp_path: Path, seconds: float, least: int
) -> None:
    async def scenario(cluster: Cluster) -> int:
        dense = seconds > 0
        load = Load(
            cluster.endpoints,
            clients=10 if dense else 6,
            lists=24 if dense else 4,
            registers=64 if dense else 8,
            pause=0.002 if dense else 0.012,
            timeout=25.0,
        )
        async with cluster.eyes() as eyes, load:
            await load.some(100)
            for name in ("n1", "n2", "n3"):  # from n1's upgrade to n3's, the versions are mixed
                await begin_again(cluster, eyes, name, NEXT)
                await load_for(load, seconds / 4)
            await begin_again(cluster, eyes, "n1", None)  # and back
            await load_for(load, seconds / 4)
            await refused_on_the_wire(cluster, eyes, load)
            await refused_on_the_disk(cluster, eyes, load)
            missing = least - len(load.history)
            if missing > 0:
                await load.some(missing, 120)
            await load.finish()
            return len(load.history)

    with running(tmp_path, settings={"SHARDKV_HEAL": "false"}) as cluster:
        judged = run(scenario(cluster), 280)
    print(f"{judged} operations judged")
    assert judged >= least


async def begin_again(
    cluster: Cluster, eyes: Eyes, name: str, version: tuple[str, ...] | None
) -> None:
    """End a node in order, and start it as another version (None: as ours)."""
    cluster.send(name, signal.SIGTERM)
    await asyncio.to_thread(cluster.wait_ended, name)
    await asyncio.to_thread(cluster.restart, name, program=version)
    await eyes.whole(60)


async def load_for(load: Load, seconds: float) -> None:
    until = time.monotonic() + seconds
    await load.some(50, 60)
    while time.monotonic() < until:
        await load.some(100, 60)


async def refused_on_the_wire(cluster: Cluster, eyes: Eyes, load: Load) -> None:
    """n1 is of our version, n2 comes two versions later: each says so and names both; n3, between
    them, speaks with both, and so the store goes on. Of two followers none speaks to the other, so
    n1 is made a leader, which speaks to all."""
    cluster.send("n2", signal.SIGTERM)
    await asyncio.to_thread(cluster.wait_ended, "n2")
    await asyncio.to_thread(cluster.restart, "n2", program=AFTER_NEXT)
    led = await asyncio.to_thread(cluster.cli, "ctl", "transfer", "1", "n1")
    assert led.status == 0, led
    text = "protocol version mismatch: 'n2' speaks versions 2 to 3, 'n1' speaks version 1"
    await asyncio.to_thread(
        wait_for, lambda: text in log_of(cluster, "n1"), f"a refusal of n2 in the log of n1: {text}"
    )
    await load.some(200, 60)
    await begin_again(cluster, eyes, "n2", NEXT)


async def refused_on_the_disk(cluster: Cluster, eyes: Eyes, load: Load) -> None:
    """What a newer version wrote an older one does not touch: status 4, and both are named."""
    cluster.send("n3", signal.SIGTERM)
    await asyncio.to_thread(cluster.wait_ended, "n3")
    slots = [cluster.nodes["n3"].data / name for name in PROMISES]
    kept = [slot.read_bytes() for slot in slots]
    for slot, ours in zip(slots, kept, strict=True):
        slot.write_bytes(of_the_next_format(ours))
    process = await asyncio.to_thread(cluster.restart, "n3", wait=False)
    assert await asyncio.to_thread(process.wait, 60) == 4
    said = (cluster.directory / "n3.err").read_text()
    assert "it has format 2, this version reads format 1. Start the newer version" in said
    await load.some(200, 60)
    for slot, ours in zip(slots, kept, strict=True):
        slot.write_bytes(ours)
    await asyncio.to_thread(cluster.restart, "n3")
    await eyes.whole(60)


def of_the_next_format(promise: bytes) -> bytes:
    """The promise in a slot as a version with another format would have written it."""
    if decode_promise(promise) is None:
        return promise  # never written yet
    mark, length, _ = HEAD.unpack_from(promise)
    body = b"\x02" + promise[HEAD.size + 1 : HEAD.size + length]
    return HEAD.pack(mark, length, crc32(body)) + body


def log_of(cluster: Cluster, name: str) -> str:
    return (cluster.nodes[name].data / "node.log").read_text()
