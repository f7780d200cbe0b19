"""What a cluster costs that does nothing: three nodes, two groups and the controller.

These measure, and so depend on the machine. The aims are 100 MB and 2 % of a core a node; what is
asserted leaves room for a machine that has other things to do.
"""

import os
import time
from pathlib import Path

from shardkv import aio
from tests.support.processes import Cluster, run, running

MEASURE_SECONDS = 5.0
MEMORY_BYTES_MAX = 100 * 1000 * 1000
CPU_SHARE_AIM = 0.02
CPU_SHARE_MAX = 0.04
"""Twice the aim: the clock of a shared machine counts what others do to our caches."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """What is resident of it, shared libraries and all."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def used_a_little(cluster: Cluster) -> None:
    async with cluster.eyes() as eyes, aio.connect(cluster.endpoints) as clerk:
        for number in range(50):
            await clerk.put(f"key {number}", "x" * 256)
        await eyes.whole()


def test_an_idle_node_costs_little_memory_and_next_to_no_time(tmp_path: Path) -> None:
    with running(tmp_path, groups=2, shards=64) as cluster:
        run(used_a_little(cluster))
        pids = [node.pid for node in cluster.nodes.values()]
        before = [cpu_seconds(pid) for pid in pids]
        begun = time.monotonic()
        time.sleep(MEASURE_SECONDS)  # measures how little happens
        seconds = time.monotonic() - begun
        shares = [
            (cpu_seconds(pid) - used) / seconds for pid, used in zip(pids, before, strict=True)
        ]
        memory = [memory_bytes(pid) for pid in pids]
        print(f"idle: {[f'{share:.1%}' for share in shares]} of a core (aim {CPU_SHARE_AIM:.0%}),")
        print(f"      {[f'{size / 1e6:.0f} MB' for size in memory]}")
        assert max(memory) < MEMORY_BYTES_MAX
        assert min(shares) < CPU_SHARE_AIM * 1.5 and max(shares) < CPU_SHARE_MAX
