"""A MapReduce job on real processes, each in the job's own directory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from labs.mapreduce.protocol import SOCKET

ROOT: Final = Path(__file__).resolve().parents[2]
LIMIT_SECONDS: Final = 45.0
"""The official limit of every process; of the crash test's, see there."""
POLL_SECONDS: Final = 0.02


def until(condition: Callable[[], object], limit_seconds: float = LIMIT_SECONDS) -> None:
    """Return once the condition holds; fails after the limit."""
    give_up = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < give_up, f"nothing happened for {limit_seconds} s"
        time.sleep(POLL_SECONDS)


def sorted_lines(data: bytes) -> list[bytes]:
    """Without the empty ones, in the order of their bytes."""
    return sorted(line for line in data.split(b"\n") if line)


class Job:
    """One run: its directory beside the inputs, its processes. Close it.

    Args:
        inputs: Names, from the directory.
    """

    def __init__(self, directory: Path, inputs: Sequence[str]) -> None:
        self.directory = directory
        self._inputs = list(inputs)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start_coordinator(self) -> "subprocess.Popen[bytes]":
        """Returns when it listens. It lingers for 1 s, as that of the course's 2026 edition."""
        coordinator = self._start("coordinator", "--linger", "1", *self._inputs)
        until(lambda: self.socket.exists() or coordinator.poll() is not None)
        return coordinator

    def start_worker(self, app: str, *, seed: str = "1") -> "subprocess.Popen[bytes]":
        return self._start("worker", app, "--seed", seed)

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "labs.mapreduce", *arguments],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def wait(
        self, process: "subprocess.Popen[bytes]", limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        """Await a process's end, which must be a good one."""
        status = process.wait(limit_seconds)
        log = (self.directory / "log").read_text()
        assert status == 0, f"{process.args!r} ended with {status}: {log}"

    @property
    def socket(self) -> Path:
        return self.directory / SOCKET

    def merged(self) -> list[bytes]:
        """All results there are, sorted: `sort mr-out* | grep .`"""
        return sorted_lines(b"".join(p.read_bytes() for p in self.directory.glob("mr-out*")))

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
