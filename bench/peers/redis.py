"""Redis: one node, `appendfsync always`. What one durable node without consensus gives.

Asked by its own redis-benchmark, which sends what it is told and measures in C. From Debian:
redis-server (with redis-tools).
"""

import contextlib
import csv
import io
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.peers.processes import running
from bench.peers.store import Taken
from shardkv.benching import Figures, Load

NAME: Final = "redis"
PORT: Final = 26379
TRIAL: Final = 2_000
"""Requests by which the number of requests for a given time is found."""


class Redis:
    """A running node."""

    def __init__(self, pid: int) -> None:
        self.name = NAME
        self._pid = pid

    def fill(self, load: Load) -> None:
        self._ask("set", load, 5 * load.keys, 64)

    def measure(self, load: Load) -> Taken:
        """Only all puts or all gets: redis-benchmark mixes nothing."""
        assert load.gets in (0.0, 1.0), "redis-benchmark asks one kind at a time"
        kind = "get" if load.gets else "set"
        rate = self._ask(kind, load, TRIAL, load.clients).per_second
        began, used = time.time(), _children_cpu_seconds()
        requests = max(int(rate * load.seconds), TRIAL)
        figures = self._ask(kind, load, requests, load.clients)
        seconds = requests / figures.per_second
        return Taken(figures, began, seconds, _children_cpu_seconds() - used)

    def processes(self) -> Mapping[str, int]:
        return {"redis": self._pid}

    def leader(self) -> str:
        return "redis"

    def _ask(self, kind: str, load: Load, requests: int, clients: int) -> Figures:
        command = [
            "redis-benchmark", "-p", str(PORT), "-t", kind, "-n", str(requests),
            "-c", str(clients), "-d", str(load.value_bytes), "-r", str(load.keys), "--csv",
        ]  # fmt: skip
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = next(csv.DictReader(io.StringIO(printed[printed.index('"test"') :])))
        p99, worst = float(row["p99_latency_ms"]), float(row["max_latency_ms"])
        return Figures(
            operations=requests, errors=0, per_second=float(row["rps"]),
            p50_ms=float(row["p50_latency_ms"]), p90_ms=float(row["p95_latency_ms"]),
            p99_ms=p99, p999_ms=worst, max_ms=worst,
        )  # fmt: skip


def missing() -> str:
    """What is not installed; "" if all is."""
    found = shutil.which("redis-server") and shutil.which("redis-benchmark")
    return "" if found else "apt-get install redis-server"


@contextlib.contextmanager
def started() -> Iterator[Redis]:
    """A node on an empty directory, every write synced before it is answered."""
    with tempfile.TemporaryDirectory(prefix="redis-bench-") as directory:
        command = [
            "redis-server", "--port", str(PORT), "--dir", directory, "--appendonly", "yes",
            "--appendfsync", "always", "--save", "", "--bind", "127.0.0.1",
        ]  # fmt: skip
        with running([command], [PORT], Path(directory)) as (pid,):
            yield Redis(pid)


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
