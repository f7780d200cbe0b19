"""PySyncObj: three nodes in three processes, without a disk (it has no durable vote anyway).

It is a library: whoever wants to write joins the cluster. So the load runs in the node that leads,
which spares it every hop that a client would cost. From the package index: pysyncobj.
"""

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.peers.store import Taken
from shardkv.benching import Load, Measured

NAME: Final = "pysyncobj"
PORT: Final = 24321
NODES: Final = 3
LEADER_SECONDS_MAX: Final = 20.0


class PySyncObj:
    """The command that runs a cluster for one measurement: its state does not outlive a load."""

    def __init__(self, directory: Path) -> None:
        self.name = NAME
        self._directory = directory
        self._children: list[subprocess.Popen[str]] = []
        self._leads = 0

    def fill(self, load: Load) -> None:
        """Each measurement begins with an empty store; a get of an absent key costs the same."""

    def measure(self, load: Load) -> Taken:
        fields = [load.clients, load.seconds, load.gets, load.keys, load.value_bytes]
        children = self._children = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.peers.pysyncobj", str(n), *map(str, fields)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(NODES)
        ]
        try:
            for number, child in enumerate(children):
                assert child.stdout is not None
                if printed := child.stdout.readline().strip():
                    self._leads = number
                    return Taken.of(Measured.read(printed))
            raise RuntimeError("no node of PySyncObj led")
        finally:
            for child in children:
                child.kill()
                child.wait()

    def processes(self) -> Mapping[str, int]:
        return {f"p{number}": child.pid for number, child in enumerate(self._children)}

    def leader(self) -> str:
        """Of the last measurement: there the load ran, so its CPU time is the client's, too."""
        return f"p{self._leads}"


def missing() -> str:
    """What is not installed; "" if all is."""
    return "" if importlib.util.find_spec("pysyncobj") else "pip install pysyncobj"


@contextlib.contextmanager
def started() -> Iterator[PySyncObj]:
    with tempfile.TemporaryDirectory(prefix="pysyncobj-bench-") as directory:
        yield PySyncObj(Path(directory))


def _node(number: int, load: Load) -> None:
    """One node; the one that leads measures and prints, the others serve until they are killed."""
    from pysyncobj import SyncObj, SyncObjConf
    from pysyncobj.batteries import ReplDict

    addresses = [f"127.0.0.1:{PORT + n}" for n in range(NODES)]
    others = [address for n, address in enumerate(addresses) if n != number]
    table = ReplDict()
    config = SyncObjConf(autoTick=False, commandsQueueSize=100_000)
    node: Any = SyncObj(addresses[number], others, conf=config, consumers=[table])
    until = time.monotonic() + LEADER_SECONDS_MAX
    while not node.isReady() or node._getLeader() is None:
        node.doTick(0.05)
        if time.monotonic() > until:
            raise RuntimeError("no leader in time")
    if str(node._getLeader()) != addresses[number]:
        print(flush=True)  # nothing from here
        while True:
            node.doTick(0.05)
    rng, value = Random(number), Random(0).randbytes(load.value_bytes)
    took: list[int] = []
    errors, flying = 0, 0
    began = time.time()
    begun = time.perf_counter()
    stop = begun + load.seconds

    def answered(asked: float) -> Any:
        def callback(result: Any, error: Any) -> None:
            nonlocal errors, flying
            flying -= 1
            if error:
                errors += 1
            else:
                took.append(int((time.perf_counter() - asked) * 1e6))

        return callback

    while time.perf_counter() < stop:
        while flying < load.clients:
            key, asked = rng.randrange(load.keys), time.perf_counter()
            flying += 1
            if rng.random() < load.gets:  # a read of its own memory: not linearizable
                table.get(key)
                answered(asked)(None, 0)
            else:
                table.set(key, value, callback=answered(asked))
            if time.perf_counter() >= stop:
                break
        node.doTick(0.0)
    measured = Measured(time.perf_counter() - begun, tuple(took), errors, began)
    print(measured.write(), flush=True)


if __name__ == "__main__":
    number, clients, seconds, gets, keys, size = sys.argv[1:]
    _node(
        int(number),
        Load(
            clients=int(clients), seconds=float(seconds), gets=float(gets), keys=int(keys),
            value_bytes=int(size),
        ),
    )  # fmt: skip
