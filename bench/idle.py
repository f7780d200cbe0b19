"""What does a node cost that has nothing to do? Three nodes, two groups and the controller.

CPU time and memory by the kernel's account: `python bench/idle.py [seconds]`.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.cluster import cluster

SETTLE_SECONDS = 5.0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with cluster() as running:
        time.sleep(SETTLE_SECONDS)
        before = [cpu_seconds(pid) for pid in running.pids]
        time.sleep(seconds)
        for number, (pid, begun) in enumerate(zip(running.pids, before, strict=True), start=1):
            share = (cpu_seconds(pid) - begun) / seconds
            memory = resident_megabytes(pid)
            print(f"n{number}: {share:6.2%} of a core, {memory:5.1f} MB")
