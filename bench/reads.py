"""Reads: the leader alone, spread over the replicas, or stale; and how fast a list is.

`python bench/reads.py [in flight] [seconds a turn] [keys]`. Three nodes with one group, and a
client process of its own. The ways of reading take turns, so that whatever else the machine does
falls on all of them; each way's figure is the median of its turns. What the busiest node computes
for a read says what each way can come to where nodes have cores of their own: on two cores for
three nodes and the client, they all share what there is.
"""

import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster import Running, cluster
from bench.measuring import cpu_seconds
from shardkv import aio
from shardkv.clerk import Clerk

TURNS = 5
VALUE = bytes(256)


async def turn(kv: Clerk, consistency: str, in_flight: int, seconds: float, keys: int) -> float:
    """Reads a second."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    until = began + seconds
    done = 0

    async def reader(number: int) -> None:
        nonlocal done
        at = number
        while loop.time() < until:
            await kv.get(b"key %06d" % (at % keys), consistency=consistency)
            done += 1
            at += in_flight

    await asyncio.gather(*[reader(number) for number in range(in_flight)])
    return done / (loop.time() - began)


async def listed(kv: Clerk, *, values: bool) -> tuple[int, float]:
    """Rows a second, of all keys."""
    began = time.monotonic()
    rows = [row.version async for row in kv.list(b"key ", values=values)]
    return len(rows), len(rows) / (time.monotonic() - began)


async def main(running: Running, in_flight: int, seconds: float, keys: int) -> None:
    async with aio.connect(running.endpoints, timeout=30.0) as kv:
        for lo in range(0, keys, 1000):
            numbers = range(lo, min(lo + 1000, keys))
            await asyncio.gather(*[kv.put(b"key %06d" % n, VALUE) for n in numbers])
        figures: dict[str, list[float]] = {"linearizable": [], "spread": [], "stale": []}
        busiest: dict[str, list[float]] = {consistency: [] for consistency in figures}
        for _ in range(TURNS):
            for consistency, found in figures.items():
                before = [cpu_seconds(pid) for pid in running.pids]
                found.append(await turn(kv, consistency, in_flight, seconds, keys))
                spent = [cpu_seconds(p) - b for p, b in zip(running.pids, before, strict=True)]
                busiest[consistency].append(max(spent) / (found[-1] * seconds) * 1e6)
        leader = statistics.median(figures["linearizable"])
        for consistency, found in figures.items():
            rate = statistics.median(found)
            spread = f"{min(found):,.0f} to {max(found):,.0f}"
            cpu = statistics.median(busiest[consistency])
            print(
                f"{consistency:12} {rate:8,.0f}/s  x{rate / leader:.2f}  ({spread}); "
                f"the busiest node computes {cpu:.1f} us a read"
            )
        for values in (False, True):
            figures_ = [await listed(kv, values=values) for _ in range(TURNS)]
            rate = statistics.median(each for _, each in figures_)
            what = "keys and values" if values else "keys alone"
            print(f"list of {figures_[0][0]:,} {what}: {rate:,.0f} rows/s")


if __name__ == "__main__":
    arguments = [float(argument) for argument in sys.argv[1:]]
    chosen = arguments + [100, 2.0, 20_000][len(arguments) :]
    with cluster("--groups", "1") as running:
        asyncio.run(main(running, int(chosen[0]), chosen[1], int(chosen[2])))
