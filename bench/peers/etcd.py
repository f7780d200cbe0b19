"""etcd: three nodes with its defaults (fsync on), asked by a Go program on its own client.

Both come from Debian: etcd-server, golang-go and golang-etcd-server-dev.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.peers.processes import running
from bench.peers.store import Taken
from shardkv.benching import Load, Measured

NAME: Final = "etcd"
CLIENT_PORT, PEER_PORT = 23790, 23890
NODES: Final = 3
QUOTA_BYTES: Final = 8 * 1024**3
"""The one setting that is not its default: etcd keeps old values until it is told to compact, and
refuses writes once they are 2 GiB. A long run must not measure that."""
SOURCE: Final = Path(__file__).parent / "etcd_load"


class Etcd:
    """A running cluster, and the program that asks it."""

    def __init__(self, program: Path, pids: Sequence[int]) -> None:
        self.name = NAME
        self._pids = {f"e{n}": pid for n, pid in enumerate(pids)}
        self._program = program
        self._endpoints = ",".join(f"127.0.0.1:{CLIENT_PORT + n}" for n in range(NODES))

    def fill(self, load: Load) -> None:
        self._run(
            "-fill", "-clients", "64", "-keys", str(load.keys), "-size", str(load.value_bytes)
        )

    def measure(self, load: Load) -> Taken:
        printed = self._run(
            "-clients", str(load.clients), "-seconds", str(load.seconds), "-gets", str(load.gets),
            "-keys", str(load.keys), "-size", str(load.value_bytes),
        )  # fmt: skip
        return Taken.of(Measured.read(printed))

    def fill_ycsb(self, load: Load) -> None:
        self._run(
            "-fill", "-clients", "64", "-keys", str(load.keys), "-size", str(load.value_bytes),
            "-ycsb", "A",
        )  # fmt: skip

    def measure_ycsb(self, workload: str, load: Load) -> Taken:
        """As `measure`, of a workload from A to F."""
        printed = self._run(
            "-clients", str(load.clients), "-seconds", str(load.seconds), "-ycsb", workload,
            "-keys", str(load.keys), "-size", str(load.value_bytes),
        )  # fmt: skip
        return Taken.of(Measured.read(printed))

    def processes(self) -> Mapping[str, int]:
        return self._pids

    def leader(self) -> str:
        for number in range(NODES):
            address = f"http://127.0.0.1:{CLIENT_PORT + number}/v3/maintenance/status"
            with urllib.request.urlopen(address, data=b"{}", timeout=5) as answer:
                said = json.load(answer)
            if said["header"]["member_id"] == said["leader"]:
                return f"e{number}"
        return ""

    def _run(self, *arguments: str) -> str:
        command = [str(self._program), "-endpoints", self._endpoints, *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout


def missing() -> str:
    """What is not installed; "" if all is."""
    lacks = [program for program in ("etcd", "go") if shutil.which(program) is None]
    return (
        f"apt-get install etcd-server golang-go golang-etcd-server-dev ({lacks})" if lacks else ""
    )


@contextlib.contextmanager
def started() -> Iterator[Etcd]:
    """Three nodes on empty directories."""
    with tempfile.TemporaryDirectory(prefix="etcd-bench-") as directory:
        place = Path(directory)
        program = place / "etcd_load"
        go = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
        go["GOCACHE"] = str(place / "cache")
        subprocess.run(["go", "build", "-o", program, "."], cwd=SOURCE, env=go, check=True)
        peers = ",".join(f"e{n}=http://127.0.0.1:{PEER_PORT + n}" for n in range(NODES))
        commands = [
            [
                "etcd", "--name", f"e{n}", "--data-dir", str(place / f"e{n}"),
                "--listen-client-urls", f"http://127.0.0.1:{CLIENT_PORT + n}",
                "--advertise-client-urls", f"http://127.0.0.1:{CLIENT_PORT + n}",
                "--listen-peer-urls", f"http://127.0.0.1:{PEER_PORT + n}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{PEER_PORT + n}",
                "--initial-cluster", peers, "--logger", "zap", "--log-level", "error",
                "--quota-backend-bytes", str(QUOTA_BYTES),
            ]
            for n in range(NODES)
        ]  # fmt: skip
        with running(commands, [CLIENT_PORT + n for n in range(NODES)], place) as pids:
            yield Etcd(program, pids)
