"""Rows that were written and are not handed to the database yet: newer than what it holds (pure).

A database whose unflushed writes nobody trusts after a crash may as well hold them in memory: it is
told of a row once, however often the row changed meanwhile, and a row that was just written is read
without asking it. What must hold, and does:

- *A reader sees every write at once*: rows are looked for among those that gather, then among those
  that are being handed over, the newest first, and then in the database. Rows that are being handed
  over may be in the database already: it then says the same.
- *The database holds the state after some write, never a mixture*: all that gathered is handed over
  as one atomic batch, one batch after the other, in order.

Readers that outlive the moment (a range, a snapshot) hold what was frozen, which never changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from raft.ports import Write

Batch = Mapping[bytes, bytes | None]
"""What is handed over together: each row once; None: it is deleted."""

MISSING: Final = b"missing"  # told by identity


class WriteBuffer:
    """The rows that gather, and the batches that are on their way to the database."""

    __slots__ = ("_batches", "_rows", "bytes")

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes | None] = {}
        self._batches: tuple[Batch, ...] = ()  # the newest first
        self.bytes = 0
        """Of the keys and values that gather."""

    def __len__(self) -> int:
        """How many rows gather."""
        return len(self._rows)

    @property
    def is_empty(self) -> bool:
        """Whether the database holds all that was written."""
        return not (self._rows or self._batches)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """What is being handed over, the newest first."""
        return self._batches

    def put(self, batch: Sequence[Write]) -> None:
        """Take a batch; its writes count in order."""
        rows = self._rows
        size = self.bytes
        for key, value in batch:
            old = rows.get(key, MISSING)
            if old is MISSING:
                size += len(key)
            elif old is not None:
                size -= len(old)
            if value is not None:
                size += len(value)
            rows[key] = value
        self.bytes = size

    def get(self, key: bytes) -> bytes | None:
        """What was written last; None: a delete was; `MISSING`: nothing that stands here."""
        value = self._rows.get(key, MISSING)
        if value is not MISSING or not self._batches:
            return value
        return find(self._batches, key)

    def written(self, lo: bytes, hi: bytes) -> list[Write]:
        """What stands here of the rows with `lo <= key < hi`, ascending; a list of its own."""
        return written((self._rows, *self._batches), lo, hi)

    def freeze(self) -> Batch | None:
        """Begin to hand over all that gathered; None: nothing did."""
        if not self._rows:
            return None
        batch = self._rows
        self._batches = (batch, *self._batches)
        self._rows = {}
        self.bytes = 0
        return batch

    def forget(self, batch: Batch) -> None:
        """The database holds this batch, which is the oldest: the rest is newer."""
        assert self._batches[-1] is batch, "batches are handed over in order"
        self._batches = self._batches[:-1]


def find(batches: Sequence[Batch], key: bytes) -> bytes | None:
    """As `WriteBuffer.get`, among batches of which the newest comes first."""
    for batch in batches:
        value = batch.get(key, MISSING)
        if value is not MISSING:
            return value
    return MISSING


def written(batches: Sequence[Batch], lo: bytes, hi: bytes) -> list[Write]:
    """As `WriteBuffer.written`, among batches of which the newest comes first."""
    found: dict[bytes, bytes | None] = {}
    for batch in reversed(batches):
        found.update((key, batch[key]) for key in batch if lo <= key < hi)
    return [(key, found[key]) for key in sorted(found)]


def merged(
    stored: Iterator[tuple[bytes, bytes]], writes: Sequence[Write], reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Rows and writes, both in one order; where both have a key, the written one counts."""
    row = next(stored, None)
    for key, value in writes:
        while row is not None and (row[0] > key if reverse else row[0] < key):
            yield row
            row = next(stored, None)
        if row is not None and row[0] == key:
            row = next(stored, None)
        if value is not None:
            yield key, value
    if row is not None:
        yield from chain((row,), stored)
