"""Somebody else's Raft under the raft lab's tests: `--impl module:Class`.

The class is a `ForeignRaft`; docs/labs-interface.md says the same in words. It knows the lab
network's ends, a persister and a queue, and nothing else of this project.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final, Protocol

import msgpack

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import Handler, LabEnd, LabServer
from labs.loading import load
from labs.raft import ApplyQueue, Command, Started, Watcher

RAFT_METHODS: Final = ("start", "get_state", "snapshot", "kill")


class Unfit(LookupError):
    """What was named exists, and is not written to the interface."""


def shape(found: Any, methods: Sequence[str], what: str) -> None:
    """See that a class has the methods of an interface.

    Raises:
        Unfit: it is no class, or lacks some; says which.
    """
    name = getattr(found, "__name__", repr(found))
    if not isinstance(found, type):
        raise Unfit(f"{name} is not a class, so it is not {what}")
    lacking = [method for method in methods if not callable(getattr(found, method, None))]
    if lacking:
        told = ", ".join(f"{method}()" for method in lacking)
        raise Unfit(f"{name} is not {what}: it lacks {told}; see docs/labs-interface.md")


class Persister:
    """What a server finds when it starts again. A save is durable when it returns."""

    def __init__(self, state: bytes = b"", snapshot: bytes = b"") -> None:
        self.state, self.snapshot = state, snapshot

    def save(self, state: bytes, snapshot: bytes | None = None) -> None:
        """Replace the state, and the snapshot with it if one is given."""
        self.state = state
        if snapshot is not None:
            self.snapshot = snapshot


class ForeignRaft(Protocol):
    """One server. Made, and called, within the running loop; nothing here may block."""

    def __init__(
        self,
        peers: Sequence[LabEnd],
        me: int,
        persister: Persister,
        apply_queue: ApplyQueue,
        rng: Random,
    ) -> None: ...

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What answers the peers, by the name that `LabEnd.call` is given: bytes to bytes."""
        ...

    def start(self, command: Command) -> tuple[int, int, bool]:
        """Index, term, and whether this server leads; also after `kill`."""
        ...

    def get_state(self) -> tuple[int, bool]:
        """The term, and whether this server believes that it leads."""
        ...

    def snapshot(self, index: int, snapshot: bytes) -> None:
        """The service has everything up to `index` in `snapshot`."""
        ...

    def kill(self) -> None:
        """Be silent from now on."""
        ...


class MakeForeign(Protocol):
    def __call__(
        self,
        peers: Sequence[LabEnd],
        me: int,
        persister: Persister,
        apply_queue: ApplyQueue,
        rng: Random,
    ) -> ForeignRaft: ...


class ForeignServer:
    """One of them, as the raft lab's tester has its servers."""

    def __init__(self, inner: ForeignRaft, persister: Persister) -> None:
        self._inner, self._persister = inner, persister

    @property
    def server(self) -> LabServer:
        return LabServer(self._inner.handlers)

    def start(self, command: Command) -> Started:
        return Started(*self._inner.start(command))

    def get_state(self) -> tuple[int, bool]:
        return self._inner.get_state()

    def snapshot(self, index: int, data: bytes) -> None:
        self._inner.snapshot(index, data)

    def read_snapshot(self) -> tuple[int, bytes]:
        """The stored snapshot, and its index as the tester's service has written it there."""
        snapshot = self._persister.snapshot
        index: int = msgpack.unpackb(snapshot)[0] if snapshot else 0
        return index, snapshot

    def persist_bytes(self) -> int:
        return len(self._persister.state)

    def kill(self) -> None:
        self._inner.kill()


class ForeignMaker:
    """Makes the servers of one run, and keeps what each has saved.

    Each life gets a copy of the last one's persister: whatever a killed server still saves is lost,
    as in the labs. The simulated drive is not used.
    """

    def __init__(self, make: MakeForeign) -> None:
        self._make = make
        self._persisters: dict[int, Persister] = {}

    async def __call__(
        self,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        apply_queue: ApplyQueue,
        rng: Random,
        *,
        watcher: Watcher | None = None,
    ) -> ForeignServer:
        last = self._persisters.get(me, Persister())
        persister = self._persisters[me] = Persister(last.state, last.snapshot)
        return ForeignServer(self._make(peers, me, persister, apply_queue, rng), persister)


def maker_of(name: str) -> ForeignMaker:
    """Of `module:Class` or `file.py:Class`. Raises LookupError; Unfit is one."""
    found: Any = load(name)
    shape(found, RAFT_METHODS, "a Raft")
    return ForeignMaker(found)
