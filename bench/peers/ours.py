"""Ours: three node processes, fsync and sessions on, asked by the clerk as users get it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from bench.cluster import Running, cluster
from shardkv.benching import Figures, Load

NAME: Final = "shardkv"


class Ours:
    """A running cluster.

    Args:
        processes: Client processes that share a load.
    """

    def __init__(self, running: Running, name: str = NAME, *, processes: int = 1) -> None:
        self.name = name
        self.running = running
        self._processes = processes

    def fill(self, load: Load) -> None:
        self._run(load, "--gets", "1", "--seconds", "0.1", "--clients", "64")

    def measure(self, load: Load) -> Figures:
        processes = str(min(self._processes, load.clients))
        fields = self._run(
            load, "--clients", str(load.clients), "--seconds", str(load.seconds),
            "--gets", str(load.gets), "--processes", processes,
            *(["--no-fill"] if load.gets else []),
        )  # fmt: skip
        found = fields["figures"][0]
        return Figures(**{name: found[name] for name in Figures.__dataclass_fields__})

    def _run(self, load: Load, *arguments: str) -> dict[str, list[dict[str, float]]]:
        command = [
            sys.executable, "-m", "shardkv", "bench", "--json", "--timeout", "60",
            "--endpoints", ",".join(self.running.endpoints), "--keys", str(load.keys),
            "--size", str(load.value_bytes), *arguments,
        ]  # fmt: skip
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        fields: dict[str, list[dict[str, float]]] = json.loads(printed)
        return fields


@contextlib.contextmanager
def started(*flags: str, name: str = NAME, processes: int = 1) -> Iterator[Ours]:
    """A cluster of its own on an empty directory; `flags` are those of `shardkv up`."""
    with cluster(*flags) as running:
        yield Ours(running, name, processes=processes)
