"""How many acknowledged puts and linearizable gets a second, and how long does one take?

Three node processes, two groups of three, fsync on, 256-byte values, one clerk process, all on
one machine: `python bench/store.py [seconds a figure]`.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster import cluster
from shardkv import aio
from shardkv.clerk import Clerk
from shardkv.node import loop_factory

VALUE = os.urandom(256)
KEYS = 1000


async def measure(
    name: str, in_flight: int, seconds: float, operation: Callable[[bytes], Awaitable[object]]
) -> None:
    """Keep `in_flight` operations going for a while, and print the rate and quantiles."""
    took: list[float] = []
    clock = time.perf_counter
    stop = clock() + seconds

    async def client(number: int) -> None:
        at = 0
        while (begun := clock()) < stop:
            await operation(b"bench/%d/%d" % (number, at % KEYS))
            took.append(clock() - begun)
            at += 1

    begun = clock()
    await asyncio.gather(*(client(number) for number in range(in_flight)))
    rate = len(took) / (clock() - begun)
    took.sort()
    half, tail = took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000
    print(
        f"{name} {in_flight:5d} in flight: {rate:8,.0f}/s   p50 {half:7.2f} ms   p99 {tail:7.2f} ms"
    )


async def run(endpoints: tuple[str, ...], seconds: float) -> None:
    async with aio.connect(endpoints, timeout=60) as kv:
        await warm(kv)
        for in_flight in (1, 10, 100, 500):
            await measure("put", in_flight, seconds, lambda key: kv.put(key, VALUE))
        for in_flight in (1, 10, 100, 500):
            await measure("get", in_flight, seconds, kv.get)


async def warm(kv: Clerk) -> None:
    """Sessions and connections are not what is measured."""
    await asyncio.gather(*(kv.put(b"bench/%d/0" % number, VALUE) for number in range(500)))


if __name__ == "__main__":
    with cluster() as running, asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(running.endpoints, float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
