"""Does it get slower, or larger in memory, the more keys there are?

Two clusters of three nodes with one group each stand side by side. One keeps 10,000 keys; the other
grows step by step, and at each step both are put under the same loads in turns, so that good and
bad minutes of the machine fall on both: what counts is the ratio within a round. Filled as any user
would, by a clerk's puts through the log, many of them in flight. Memory is anonymous memory
(`RssAnon`); mapped tables are apart, the kernel takes those back when it needs room.

    python -m bench.growth                         10 k and 200 k keys: two or three minutes
    python -m bench.growth --keys 1000000
    python -m bench.growth --keys 1000000 5000000  ten minutes and more
"""

import argparse
import asyncio
import time
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any, Final, TypeVar

from bench.cluster import Running, cluster
from bench.measuring import median, memory_megabytes, save
from shardkv import aio
from shardkv.benching import Figures, Load, Measured, Values, measure
from shardkv.clerk import Clerk
from shardkv.node import loop_factory

SMALL: Final = 10_000
IN_FLIGHT: Final = 1_000
"""Puts under way while a store is filled: as many as one frame takes."""
MEGABYTE: Final = 1e6

T = TypeVar("T")


def on_the_loop(work: Coroutine[Any, Any, T]) -> T:
    """On the loop that nodes and clerks run on."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)


async def fill(kv: Clerk, first: int, end: int, value_bytes: int, prefix: bytes) -> float:
    """Put the keys of numbers `[first, end)`, as `shardkv.benching` names them; returns seconds."""
    begun = time.monotonic()
    values = Values(Random(end), value_bytes)
    numbers = iter(range(first, end))

    async def some() -> None:
        for number in numbers:
            await kv.put(b"%s%d" % (prefix, number), values.draw())

    await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))
    return time.monotonic() - begun


async def loaded(running: Running, load: Load, rng: Random) -> Measured:
    async with aio.connect(running.endpoints, timeout=60) as kv:
        warm = [kv.put(load.prefix + b"warm/%d" % n, b"") for n in range(load.clients)]
        await asyncio.gather(*warm)  # sessions and connections are not what is measured
        return await measure(kv, load, rng)


async def filled(running: Running, first: int, end: int, load: Load) -> float:
    async with aio.connect(running.endpoints, timeout=120) as kv:
        return await fill(kv, first, end, load.value_bytes, load.prefix)


def memory(running: Running) -> dict[str, list[float]]:
    """Of each node, in MB."""
    pids = [running.pid(number) for number in range(len(running.pids))]
    return {
        "anonymous": [memory_megabytes(pid) for pid in pids],
        "mapped": [memory_megabytes(pid, "RssFile") for pid in pids],
        "most": [memory_megabytes(pid, "VmHWM") for pid in pids],
    }


def disk_megabytes(running: Running) -> dict[str, float]:
    """Of the first node: its tables and its log, in MB."""
    sizes = {}
    for name in ("data", "log"):
        files = (running.directory(0) / name).rglob("*")
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / MEGABYTE
    return sizes


def step(
    small: Running, grown: Running, keys: int, options: argparse.Namespace, rng: Random
) -> dict[str, Any]:
    """Both stores under the same loads, in turns."""
    row: dict[str, Any] = {"keys": keys, "loads": []}
    for gets in (0.0, 1.0):
        rounds: list[dict[str, Any]] = []
        for _ in range(options.rounds):
            found = {}
            for name, running, held in (("small", small, SMALL), ("grown", grown, keys)):
                load = Load(
                    clients=options.clients, seconds=options.seconds, gets=gets, keys=held,
                    value_bytes=options.size,
                )  # fmt: skip
                measured = on_the_loop(loaded(running, load, rng))
                found[name] = Figures.of(measured).as_dict()
            rounds.append(found)
        ratio = median(one["grown"]["per_second"] / one["small"]["per_second"] for one in rounds)
        row["loads"].append({"gets": gets, "rounds": rounds, "ratio": ratio})
        rates = [median(one[name]["per_second"] for one in rounds) for name in ("small", "grown")]
        print(
            f"  {'gets' if gets else 'puts'} at {keys:,} keys: {rates[1]:,.0f}/s, "
            f"{ratio:.2f} of the {rates[0]:,.0f}/s at {SMALL:,}",
            flush=True,
        )
    row["memory_mb"], row["disk_mb"] = memory(grown), disk_megabytes(grown)
    anonymous = row["memory_mb"]["anonymous"]
    print(f"  anonymous memory of the nodes: {', '.join(f'{mb:.0f}' for mb in anonymous)} MB")
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", nargs="+", type=int, default=[200_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="bytes of a value")
    parser.add_argument("--out", default="growth", help="name of the result file")
    options = parser.parse_args(arguments)
    rng, rows = Random(1), []
    load = Load(clients=options.clients, seconds=0, value_bytes=options.size)
    with cluster("--groups", "1") as small, cluster("--groups", "1") as grown:
        on_the_loop(filled(small, 0, SMALL, load))
        empty = memory(grown)
        held = 0
        for keys in (SMALL, *sorted(options.keys)):
            seconds = on_the_loop(filled(grown, held, keys, load))
            rate = (keys - held) / seconds
            print(f"filled to {keys:,} keys in {seconds:.1f} s, {rate:,.0f} puts/s", flush=True)
            held = keys
            row = step(small, grown, keys, options, rng)
            rows.append({**row, "fill_seconds": seconds, "fill_per_second": rate})
    save(options.out, options, empty_mb=empty, rows=rows)


if __name__ == "__main__":
    main()
