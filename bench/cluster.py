"""A throwaway cluster of real processes for the other benches; asks nothing by itself.

python -m bench.cluster        starts one, prints its addresses, stops it
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

BASE_PORT: Final = int(os.environ.get("BENCH_PORT", "8300"))
PORTS_A_CLUSTER: Final = 100
"""Room for ten nodes; several clusters at a time begin so far from each other."""
PROGRAM: Final = (sys.executable, "-m", "shardkv")
STARTED_SECONDS_MAX: Final = 120.0

_places: set[int] = set()


@dataclass(frozen=True, slots=True)
class Running:
    """Client addresses and process ids of the nodes, in order, and where they keep their data."""

    endpoints: tuple[str, ...]
    pids: tuple[int, ...]
    data: Path = Path()
    _restarted: "dict[int, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def pid(self, number: int) -> int:
        """Of node `number` (from 0) as it runs now."""
        again = self._restarted.get(number)
        return self.pids[number] if again is None else again.pid

    def directory(self, number: int) -> Path:
        return self.data / f"n{number + 1}"

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a node a signal that ends it, and wait for its end."""
        pid, again = self.pid(number), self._restarted.get(number)
        os.kill(pid, how)
        if again is not None:
            again.wait()
        while _runs(pid):
            time.sleep(0.005)

    def start(self, number: int) -> None:
        """Start a node again, by the command that `up` tells; returns at once."""
        self.adopt(number, self.directory(number))

    def adopt(self, number: int, directory: Path) -> None:
        """Run the node of a directory; it is stopped with the cluster."""
        command = [*PROGRAM, "node", "--data", str(directory)]
        self._restarted[number] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    def state(self, number: int) -> dict[str, Any]:
        """A node's `/status`; raises `OSError` while it does not answer."""
        return _document(self._http(number) + "/status")

    def metric(self, number: int, name: str) -> float:
        """A figure of a node's `/metrics`, summed over its labels."""
        with urllib.request.urlopen(self._http(number) + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        fitting = (line for line in lines if line.startswith((name + " ", name + "{")))
        return sum(float(line.rpartition(" ")[2]) for line in fitting)

    def _http(self, number: int) -> str:
        host, _, port = self.endpoints[number].rpartition(":")
        return f"http://{host}:{int(port) + 2}"

    def leader(self, gid: int = 1) -> int:
        """Which node leads a group, from 0; waits until one does."""
        until = time.monotonic() + STARTED_SECONDS_MAX
        while time.monotonic() < until:
            for number in range(len(self.endpoints)):
                with contextlib.suppress(OSError):
                    groups = self.state(number)["groups"]
                    if any(g["gid"] == gid and g["role"] == "leader" for g in groups):
                        return number
            time.sleep(0.05)
        raise RuntimeError(f"group {gid} has no leader")


def _document(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address, timeout=5) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


@contextlib.contextmanager
def cluster(*flags: str) -> Iterator[Running]:
    """`shardkv up` on an empty directory, ready; stopped and deleted afterwards."""
    place = next(n for n in range(100) if n not in _places)
    _places.add(place)
    port = str(BASE_PORT + PORTS_A_CLUSTER * place)
    with tempfile.TemporaryDirectory(prefix="shardkv-bench-") as directory:
        command = [*PROGRAM, "up", "--data", directory, "--base-port", port, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        running: Running | None = None
        try:
            nodes = []
            while (line := process.stdout.readline().strip()) != "ready":
                if not line:
                    raise RuntimeError("`shardkv up` did not get ready")
                if not line.startswith("page "):
                    nodes.append(line.split())
            running = Running(
                tuple(n[2] for n in nodes), tuple(int(n[4]) for n in nodes), Path(directory)
            )
            yield running
        finally:
            for again in running._restarted.values() if running is not None else ():
                again.kill()
                again.wait()
            process.send_signal(signal.SIGINT)
            process.wait()
            _places.discard(place)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


if __name__ == "__main__":
    with cluster(*sys.argv[1:]) as running:
        print(*running.endpoints)
