"""Ports: what consensus needs of the world, as Protocols. Adapters satisfy them structurally.

Disk adapters: `raft/disk/leveldb.py` (production) and `labrpc/sim/disk.py` (simulated); one
conformance suite, `tests/conformance/`, runs on both. Record formats live above the port.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from raft.types import Entry, EntryId, Index, Membership, SnapshotMeta

Write = tuple[bytes, bytes | None]
"""A row to put, or (with None) a key to delete."""


class Reader(Protocol):
    """An ordered map from bytes to bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi`, in key order (or backwards)."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A map that can say how much it holds, if it is cheap to say."""

    def size(self, lo: bytes, hi: bytes) -> int:
        """About how many bytes the rows with `lo <= key < hi` take on the disk; 0: not known."""
        ...


class DiskSnapshot(Reader, Protocol):
    """The map as it stood when the snapshot was taken."""

    def close(self) -> None: ...


class Disk(Reader, Protocol):
    """An ordered bytes map. A failed write ends the process (or the simulated node): no error of
    `write` or `sync` is ever retried, because the page cache lies after one (ATC'20, fsync)."""

    def write(self, batch: Sequence[Write]) -> None:
        """Apply atomically, in order; visible on return, *not* durable before `flush` returns."""
        ...

    def sync(self, batch: Sequence[Write]) -> "asyncio.Future[None]":
        """Apply atomically and durably. Calls of one loop turn become one batch and one sync, in
        call order, visible at the latest when the future resolves; futures resolve in call order.
        """
        ...

    async def flush(self) -> None:
        """Everything written before the call is durable when this returns (in its tables: the
        write-ahead log of un-synced writes is never trusted)."""
        ...

    def snapshot(self) -> DiskSnapshot: ...

    async def close(self) -> None: ...


class Slot(Protocol):
    """A small record replaced in place and synced; torn by a crash at worst (so use two)."""

    def read(self) -> bytes:
        """What was last written, b"" if never; possibly torn: the caller checks its CRC."""
        ...

    def write(self, record: bytes) -> "asyncio.Future[None]":
        """Replace the record; durable when the future resolves."""
        ...


class Outbox(Protocol):
    """One way to a peer node: ordered while it lives, drops rather than blocks."""

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False when it was dropped (no connection, or the queue is full)."""
        ...

    async def drained(self) -> None:
        """Return once the queue has room again, or the connection is lost."""
        ...


class Rows(Reader, Protocol):
    """The rows of a state machine while entries are applied: what was put is read back at once."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def writes(self) -> Sequence[Write]:
        """What was put and deleted, for one atomic batch."""
        ...


class StateMachine(Protocol):
    """What a replica drives. Every method runs on the loop, at once, and never raises for what a
    client sent; an exception stops the replica (a guess would split it from the others)."""

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        """Apply committed entries, of every kind, in order; each sees all before it in `rows`.

        Called once for each entry of the log in this life of the replica. The rows are stored
        in one batch with the applied index right after it returns, before any future that it
        resolved runs its callbacks.
        """
        ...

    def reload(self, rows: Reader) -> None:
        """Read the mirrors kept in memory anew: at start, and after a snapshot was installed."""
        ...

    def leadership_changed(self, leads: bool) -> None:
        """This replica won the leadership of a term, or lost it."""
        ...

    def snapshot_installed(self, index: Index) -> None:
        """State jumped to `index` without the entries before it being applied here."""
        ...

    def stopped(self) -> None:
        """The replica will apply nothing more."""
        ...

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        """Deletes of at most `rows_max` rows that no command will ever read; none: ()."""
        ...


class Staging(Protocol):
    """A snapshot on its way in."""

    def add(self, chunk: bytes) -> None:
        """Take the next chunk; raises `BadChunk`."""
        ...

    async def install(self) -> None:
        """Replace the state by the staged one, durably."""
        ...

    def abort(self) -> None: ...


class Capture(Protocol):
    """A snapshot on its way out: one consistent state, read in bounded chunks."""

    @property
    def meta(self) -> SnapshotMeta: ...

    def chunks(self, bytes_max: int) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class StateStore(Protocol):
    """The rows of one replica's state machine, and how far they have come."""

    @property
    def applied(self) -> EntryId: ...

    @property
    def reader(self) -> Reader: ...

    def overlay(self) -> Rows: ...

    def commit(
        self, rows: Sequence[Write], applied: EntryId, membership: Membership | None
    ) -> None:
        """All in ONE batch; visible at once, durable after a flush."""
        ...

    async def flush(self) -> Index:
        """Make what is applied now durable, and return its index."""
        ...

    def capture(self) -> Capture: ...

    def stage(self, meta: SnapshotMeta) -> Staging: ...
