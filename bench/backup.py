"""How long does a backup take, and what do clients feel of it?

Three node processes, two groups of three, fsync on, all on one machine with the backup. The store
is filled, and a clerk puts 256-byte values at a fixed rate whatever becomes of them (an open loop):
for a while alone, then while `shardkv backup` runs, then alone again. Printed: what the backup
took, and p50, p99 and answers a second of the puts beside it and at rest:

    python bench/backup.py [MiB] [--rate 500] [--flags "--rate 24"]
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster import BASE_PORT, cluster
from bench.handover import Load, Stretch, percentile
from shardkv import aio
from shardkv.clerk import Clerk
from shardkv.node import loop_factory

VALUE_BYTES = 16 * 1024
REST_SECONDS = 15.0
IN_FLIGHT = 64


async def fill(kv: Clerk, mib: int) -> None:
    """Random bytes, which no compression makes smaller."""
    keys = iter(range(mib * 1024 * 1024 // VALUE_BYTES))

    async def puts() -> None:
        for number in keys:
            await kv.put(b"f%d" % number, os.urandom(VALUE_BYTES))

    await asyncio.gather(*[puts() for _ in range(IN_FLIGHT)])


def said(what: str, stretches: list[Stretch]) -> str:
    rate = sum(one.rate for one in stretches) / max(len(stretches), 1)
    p50, p99 = percentile(stretches, 0.5) * 1000, percentile(stretches, 0.99) * 1000
    return f"  {what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {rate:,.0f} puts/s"


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


async def run(endpoints: tuple[str, ...], mib: int, rate: float, flags: list[str]) -> None:
    clock = time.perf_counter
    async with aio.connect(endpoints, timeout=60) as kv:
        await fill(kv, mib)
        load = Load(kv, rate, spread=True)
        loading = asyncio.ensure_future(load.run())
        await asyncio.sleep(5)
        marks = [clock()]
        await asyncio.sleep(REST_SECONDS)
        marks.append(clock())
        with tempfile.TemporaryDirectory(prefix="shardkv-bench-") as directory:
            words = ["backup", f"{directory}/b", "--endpoints", ",".join(endpoints), *flags]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "shardkv", *words, stderr=asyncio.subprocess.DEVNULL
            )
            if await process.wait():
                raise RuntimeError("the backup failed")
            marks.append(clock())
            size = size_of(Path(directory, "b"))
        await asyncio.sleep(REST_SECONDS)
        marks.append(clock())
        load.stopped = True
        await loading
    if load.failures:
        print("failures:", len(load.failures), load.failures[0])
    before, beside, after = (load.seconds(*marks[at : at + 2]) for at in range(3))
    took = marks[2] - marks[1]
    print(
        f"{size / 2**20:,.0f} MiB in {took:.1f} s, load average {os.getloadavg()[0]:.0f}",
        said("before", before),
        said("beside the backup", beside),
        said("after", after),
        sep="\n",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mib", nargs="?", type=int, default=954)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--flags", default="")
    parser.add_argument("--base-port", default=str(BASE_PORT))
    asked = parser.parse_args()
    with (
        cluster("--base-port", asked.base_port) as running,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        runner.run(run(running.endpoints, asked.mib, asked.rate, asked.flags.split()))
