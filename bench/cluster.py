"""A throwaway cluster of real processes for the other benches; asks nothing by itself."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

BASE_PORT = 8300


@dataclass(frozen=True, slots=True)
class Running:
    """Client addresses and process ids of the nodes, in order."""

    endpoints: tuple[str, ...]
    pids: tuple[int, ...]


@contextlib.contextmanager
def cluster(*flags: str) -> Iterator[Running]:
    """`shardkv up` on an empty directory, ready; stopped and deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="shardkv-bench-") as directory:
        command = [sys.executable, "-m", "shardkv", "up", "--data", directory]
        process = subprocess.Popen(
            [*command, "--base-port", str(BASE_PORT), *flags], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            nodes = []
            while (line := process.stdout.readline().strip()) != "ready":
                if not line:
                    raise RuntimeError("`shardkv up` did not get ready")
                nodes.append(line.split())
            yield Running(tuple(n[2] for n in nodes), tuple(int(n[4]) for n in nodes))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


if __name__ == "__main__":
    with cluster() as running:
        print(*running.endpoints)
