"""Ports: what consensus needs of the world, as Protocols. Adapters satisfy them structurally.

Disk adapters: `raft/disk/leveldb.py` (production) and `labrpc/sim/disk.py` (simulated); one
conformance suite, `tests/conformance/`, runs on both. Record formats live above the port.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

Write = tuple[bytes, bytes | None]
"""A row to put, or (with None) a key to delete."""


class Reader(Protocol):
    """An ordered map from bytes to bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def range(self, lo: bytes, hi: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi`, in key order (or backwards)."""
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
        call order; visible at the latest when the future resolves. Futures resolve in call order."""
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


class StateMachine(Protocol):
    """What a replica drives. All methods run on the loop; none may block for long."""

    @property
    def applied(self) -> int:
        """The index of the last entry whose effects are visible; 0 at birth."""
        ...
