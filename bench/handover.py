"""How long does a client see a shard unavailable while it moves, and does it grow with the shard?

Three node processes, two groups of three, fsync on, all on one machine, and a clerk process that
puts 256-byte values to one shard at a fixed rate whatever becomes of them (an open loop). The shard
is filled to each size, and moved to and fro, with a rest before each move to compare with. A client
that meets a shard which nobody serves waits; so *unavailable* is told from *slow* in two ways:

- at the hand-over, the last second before the shard had settled, in which freeze and install lie:
  the longest time that one put took, and the longest time in which none was answered;
- in the whole move, in which the copy competes with the puts for the machine: the same for each of
  its seconds, beside those of the rests.

    python bench/handover.py [MiB ...] [--moves 10] [--rate 2000]
"""

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster import BASE_PORT, cluster
from bench.measuring import save
from labrpc.errors import RpcError
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.types import ShardId
from shardkv import admin, aio
from shardkv.clerk import Clerk
from shardkv.discovery import find_cluster
from shardkv.node import loop_factory
from shardkv.routing import SlotRouting

SHARDS = 64
TAG = b"{handover}"
VALUE = os.urandom(256)
FILLER = os.urandom(1000)
LOADED_KEYS = 1000
TICK_SECONDS = 0.005
SETTLE_SECONDS = 1200.0
REST_SECONDS = 3.0


@dataclass
class Load:
    """Puts at a fixed rate, and when each began and ended, in seconds."""

    kv: Clerk
    rate: float
    spread: bool = False  # over all shards, not to the one of the tag
    spans: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False

    async def run(self) -> None:
        rng, clock = Random(1), time.perf_counter
        tasks: dict[asyncio.Task[None], None] = {}
        begun, sent = clock(), 0
        while not self.stopped:
            await asyncio.sleep(TICK_SECONDS)
            due = int((clock() - begun) * self.rate)
            for _ in range(due - sent):
                tag = b"" if self.spread else TAG
                task = asyncio.ensure_future(self._put(tag + b"l%d" % rng.randrange(LOADED_KEYS)))
                tasks[task] = None
                task.add_done_callback(lambda done: tasks.pop(done))
            sent = due
        await asyncio.gather(*tasks)

    async def _put(self, key: bytes) -> None:
        began = time.perf_counter()
        try:
            await self.kv.put(key, VALUE)
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        self.spans.append((began, time.perf_counter()))

    def between(self, begin: float, end: float) -> "Stretch":
        """What the puts that began in a stretch saw of it."""
        inside = sorted(span[1] - span[0] for span in self.spans if begin <= span[0] < end)
        ends = sorted(span[1] for span in self.spans if begin <= span[1] < end)
        gaps = [after - before for before, after in pairwise([begin, *ends, end])]
        return Stretch(inside, max(gaps), len(ends) / (end - begin))

    def seconds(self, begin: float, end: float) -> list["Stretch"]:
        """The same for each whole second of a stretch."""
        return [self.between(begin + at, begin + at + 1) for at in range(int(end - begin))]


@dataclass
class Stretch:
    """Puts of some time: how long each took, ascending; the longest time without any answer; all in
    seconds; and answers a second."""

    took: list[float]
    gap: float
    rate: float

    @property
    def longest(self) -> float:
        return max(self.took, default=0.0)


def ms(values: list[float]) -> str:
    """Median and worst."""
    return f"{median(values) * 1000:.0f}/{max(values) * 1000:.0f}"


def percentile(stretches: list[Stretch], share: float) -> float:
    took = sorted(one for stretch in stretches for one in stretch.took)
    return took[int(share * (len(took) - 1))]


class Watch:
    """Where the shard is, by what the nodes say."""

    def __init__(self, transport: GrpcTransport, endpoints: tuple[str, ...], shard: int) -> None:
        self._transport, self._endpoints, self._shard = transport, endpoints, shard

    async def phases(self) -> dict[int, str]:
        """Of each group its phase at the leader."""
        found = {}
        for endpoint in self._endpoints:
            try:
                body = await self._transport.call(
                    Address(endpoint), admin.STATUS, admin.encode(admin.Nothing()), timeout=2.0
                )
            except RpcError:
                continue
            for replica in admin.decode(admin.NodeStatus, body).replicas:
                if replica.leads and replica.gid:
                    shard = next((s for s in replica.shards if s.shard == self._shard), None)
                    found[replica.gid] = "absent" if shard is None else shard.phase
        return found

    async def settled(self, gid: int) -> None:
        """Return when the group serves the shard and no other has anything of it."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                phases = await self.phases()
                others = [phase for other, phase in phases.items() if other != gid]
                if phases.get(gid) == "serving" and set(others) == {"absent"}:
                    return
                await asyncio.sleep(0.05)


async def fill(kv: Clerk, mib: int, filled: int) -> None:
    """Bring the shard from `filled` to `mib` MiB."""
    keys = [TAG + b"f%d" % number for number in range(filled * 1024, mib * 1024)]
    for at in range(0, len(keys), 256):
        await asyncio.gather(*[kv.put(key, FILLER) for key in keys[at : at + 256]])


async def measure(
    kv: Clerk, control: ControllerClient, watch: Watch, shard: ShardId, moves: int, rate: float
) -> dict[str, Any]:
    """What the moves came to; printed, too. Times in milliseconds."""
    load = Load(kv, rate)
    loading = asyncio.ensure_future(load.run())
    await asyncio.sleep(2.0)
    handovers: list[Stretch] = []
    moving: list[Stretch] = []
    still: list[Stretch] = []
    took: list[float] = []
    config = (await control.newest()).config
    gid = config.shards[shard]
    for _ in range(moves):
        rest = time.perf_counter()
        await asyncio.sleep(REST_SECONDS)
        begun = time.perf_counter()
        gid = GroupId(3 - gid)
        await control.move(shard, gid)
        await watch.settled(gid)
        settled = time.perf_counter()
        await asyncio.sleep(0.3 + max(0.0, begun + 1.0 - settled))
        still += load.seconds(rest, begun)
        handovers.append(load.between(max(begun, settled - 1.0), settled + 0.1))
        moving += load.seconds(begun, max(settled, begun + 1.0))
        took.append(settled - begun)
    load.stopped = True
    await loading
    if load.failures:
        print("failures:", len(load.failures), load.failures[0])
    share = median(one.rate for one in moving) / median(one.rate for one in still)
    print(
        f"{len(took)} moves of {median(took):.1f} s, load average {os.getloadavg()[0]:.0f}; ms, "
        "median/worst:\n"
        f"    hand-over: longest put {ms([one.longest for one in handovers])}, "
        f"no answer {ms([one.gap for one in handovers])}\n"
        f"    a second of a move: longest put {ms([one.longest for one in moving])}, "
        f"no answer {ms([one.gap for one in moving])}\n"
        f"    a second at rest: longest put {ms([one.longest for one in still])}, "
        f"no answer {ms([one.gap for one in still])}\n"
        f"    a put, p50 and p99: moving {percentile(moving, 0.5) * 1000:.1f} and "
        f"{percentile(moving, 0.99) * 1000:.1f}, at rest {percentile(still, 0.5) * 1000:.1f} and "
        f"{percentile(still, 0.99) * 1000:.1f}; answers a second: {share:.0%} of those at rest",
        flush=True,
    )
    return {
        "moves": len(took),
        "seconds a move": median(took),
        "longest put of a hand-over, ms": median(one.longest for one in handovers) * 1000,
        "the worst, ms": max(one.longest for one in handovers) * 1000,
        "no answer in a hand-over, ms": median(one.gap for one in handovers) * 1000,
        "p99 moving, ms": percentile(moving, 0.99) * 1000,
        "p99 at rest, ms": percentile(still, 0.99) * 1000,
        "answers, of those at rest": share,
        "failed": len(load.failures),
    }


async def run(
    endpoints: tuple[str, ...], sizes: list[int], moves: int, rate: float
) -> list[dict[str, Any]]:
    rows = []
    shard = SlotRouting(SHARDS)(TAG)
    found = await find_cluster(list(endpoints), timeout=30)
    transport = GrpcTransport(found, "bench")
    control = ControllerClient(transport, [Address(one) for one in endpoints], Random(2))
    watch = Watch(transport, endpoints, shard)
    filled = 0
    async with aio.connect(endpoints, timeout=60) as kv:
        await asyncio.gather(*[kv.put(TAG + b"l%d" % n, VALUE) for n in range(LOADED_KEYS)])
        for mib in sorted(sizes):
            await fill(kv, mib, filled)
            filled = mib
            print(f"{mib:4d} MiB: ", end="")
            rows.append({"MiB": mib, **await measure(kv, control, watch, shard, moves, rate)})
    await control.close()
    await transport.close()
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int, default=[1, 64])
    parser.add_argument("--moves", type=int, default=10)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--base-port", default=str(BASE_PORT))
    asked = parser.parse_args()
    with (
        cluster("--base-port", asked.base_port) as running,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        found = runner.run(run(running.endpoints, asked.sizes, asked.moves, asked.rate))
    save("handover", asked, rows=found)
