"""Ours: three node processes, fsync and sessions on, asked by the clerk as users get it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bench.cluster import Running, cluster
from bench.peers.store import Taken
from shardkv.benching import Figures, Load

NAME: Final = "shardkv"


class Ours:
    """A running cluster.

    Args:
        groups: That it was founded with.
        processes: Client processes that share a load.
    """

    def __init__(
        self, running: Running, name: str = NAME, *, groups: int = 1, processes: int = 1
    ) -> None:
        self.name = name
        self.running = running
        self._groups = groups
        self._processes = processes

    def fill(self, load: Load) -> None:
        self._run(load, "--gets", "1", "--seconds", "0.1", "--clients", "64")

    def measure(self, load: Load) -> Taken:
        processes = str(min(self._processes, load.clients))
        fields = self._run(
            load, "--clients", str(load.clients), "--seconds", str(load.seconds),
            "--gets", str(load.gets), "--processes", processes,
            *(["--no-fill"] if load.gets else []),
        )  # fmt: skip
        found = fields["figures"][0]
        figures = Figures(**{name: found[name] for name in Figures.__dataclass_fields__})
        return Taken(figures, found["began"], found["seconds"], found["cpu_seconds"])

    def processes(self) -> Mapping[str, int]:
        return {f"n{number + 1}": pid for number, pid in enumerate(self.running.pids)}

    def leader(self) -> str:
        return f"n{self.running.leader() + 1}" if self._groups == 1 else ""

    def _run(self, load: Load, *arguments: str) -> dict[str, list[dict[str, Any]]]:
        command = [
            sys.executable, "-m", "shardkv", "bench", "--json", "--timeout", "60",
            "--endpoints", ",".join(self.running.endpoints), "--keys", str(load.keys),
            "--size", str(load.value_bytes), *arguments,
        ]  # fmt: skip
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        fields: dict[str, list[dict[str, Any]]] = json.loads(printed)
        return fields


@contextlib.contextmanager
def started(groups: int = 1, *, name: str = NAME, processes: int = 1) -> Iterator[Ours]:
    """A cluster of its own on an empty directory."""
    with cluster("--groups", str(groups)) as running:
        yield Ours(running, name, groups=groups, processes=processes)
