"""What changes in a shard while it is copied: one change row for each row put or deleted.

Whatever the state machine does to a row of a shard in `MOVING`, it does through `ChangeLog.noting`:
a client's row, a session's, the session counter, the highest deleted version alike, put or deleted.
The change row goes into the same batch, so a replica that has the new row has its change row too.

A row that one entry changes several times has one change row for it. Nobody sees a state between
two commands of an entry, so no reader of change rows can come between them; and the entry's index
is the same on every replica, so all of them number alike.

A row that many entries change has as many change rows, and needs to be sent once: `is_superseded`
says which of them need not be followed (`copying.py` says why that is right). It only remembers,
and may forget: that costs a row that is sent again, so no replica has to agree with another.
"""

from collections.abc import Iterator
from typing import Final

from raft.ports import Reader, Rows, Write
from raft.types import Index
from shardkv.rows import change_counter, change_key, end_of_copy

LATEST_MAX: Final = 65_536
"""Rows whose last change is remembered; some megabytes, while a shard leaves."""


class ChangeLog:
    """The change rows of one copy.

    Args:
        prefix: What their keys begin with.
        skip: How long the prefix of the copy's rows is: what is left of a row's key is noted.
        count: How many there are, which is the counter of the next one.
    """

    __slots__ = ("_index", "_latest", "_noted", "_skip", "count", "prefix")

    def __init__(self, prefix: bytes, skip: int, count: int = 0) -> None:
        self.prefix = prefix
        self.count = count
        self._skip = skip
        self._index = Index(0)
        self._noted: dict[bytes, None] = {}  # by the entry at `_index`
        self._latest: dict[bytes, int] = {}  # the last change rows of some rows

    def noting(self, rows: Rows, index: Index) -> "NotingRows":
        """`rows`, with each change to them noted: of the entry at `index`."""
        if index != self._index:
            self._index = index
            self._noted.clear()
        return NotingRows(rows, self)

    def note(self, key: bytes, rows: Rows) -> None:
        """The row at `key` is put or deleted."""
        if key not in self._noted:
            self._noted[key] = None
            row = key[self._skip :]
            rows.put(change_key(self.prefix, self.count), row)
            if len(self._latest) >= LATEST_MAX:
                self._latest.clear()
            self._latest[row] = self.count
            self.count += 1

    def is_superseded(self, row: bytes, counter: int) -> bool:
        """Whether `row` is known to have changed again after the change row at `counter`."""
        return self._latest.get(row, -1) > counter


class NotingRows:
    """Rows of one shard that is being copied, as its commands see and change them."""

    __slots__ = ("_log", "_rows")

    def __init__(self, rows: Rows, log: ChangeLog) -> None:
        self._rows = rows
        self._log = log

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.range(lo, hi, reverse=reverse)

    def put(self, key: bytes, value: bytes) -> None:
        self._rows.put(key, value)
        self._log.note(key, self._rows)

    def delete(self, key: bytes) -> None:
        self._rows.delete(key)
        self._log.note(key, self._rows)

    def writes(self) -> "list[Write]":
        return list(self._rows.writes())


def count_changes(rows: Reader, prefix: bytes) -> int:
    """How many change rows a copy has, by its last one."""
    last = next(iter(rows.range(prefix, end_of_copy(prefix), reverse=True)), None)
    return 0 if last is None else change_counter(last[0]) + 1
