"""The rows of a simulated map in memory: in key order, shared with snapshots, readable or not."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

Write = tuple[bytes, bytes | None]
"""A row to put, or (with None) a key to delete."""


class SortedRows:
    """Rows in key order. Shared with snapshots, and copied when written while shared."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows
        self._keys = sorted(rows)
        self._shared = False
        self.size = sum(map(len, rows)) + sum(map(len, rows.values()))
        """Bytes of all keys and rows."""

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi` as they stand now, whatever is written while iterating."""
        keys = self._keys[bisect_left(self._keys, lo) : bisect_left(self._keys, hi)]
        if reverse:
            keys.reverse()
        rows = self._rows
        return iter([(key, rows[key]) for key in keys])

    def weigh(self, lo: bytes, hi: bytes) -> tuple[int, int]:
        """How many rows with `lo <= key < hi` there are, and their bytes, keys and all. Reads none
        of them, and costs a small part of what a loop over them would."""
        keys = self._keys[bisect_left(self._keys, lo) : bisect_left(self._keys, hi)]
        return len(keys), sum(map(len, keys)) + sum(map(len, map(self._rows.__getitem__, keys)))

    def all(self) -> Sequence[tuple[bytes, bytes]]:
        """Every row as it stands now, in no order."""
        return list(self._rows.items())

    def put(self, batch: Sequence[Write]) -> None:
        if self._shared:
            self._rows, self._keys, self._shared = dict(self._rows), list(self._keys), False
        rows, keys, size = self._rows, self._keys, self.size
        for key, value in batch:
            before = rows.get(key)
            if value is None:
                if before is not None:
                    del rows[key]
                    del keys[bisect_left(keys, key)]
                    size -= len(key) + len(before)
                continue
            if before is None:
                insort(keys, key)
                size += len(key) + len(value)
            else:
                size += len(value) - len(before)
            rows[key] = value
        self.size = size

    def share(self) -> "SortedRows":
        """A view that later writes leave alone; O(1) until the next write."""
        view = object.__new__(SortedRows)
        view._rows, view._keys, view.size = self._rows, self._keys, self.size
        view._shared = self._shared = True
        return view


class UnreadableRows(SortedRows):
    """Rows some of which (`None`: all) cannot be read: the reader's node ends."""

    def __init__(
        self, rows: SortedRows, spoilt: dict[bytes, None] | None, fail: Callable[[bytes], NoReturn]
    ) -> None:
        self._rows, self._keys, self._shared = rows._rows, rows._keys, rows._shared
        self.size = rows.size
        self._spoilt, self._fail = spoilt, fail

    def get(self, key: bytes) -> bytes | None:
        if self._spoilt is None or key in self._spoilt:
            self._fail(key)
        return super().get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._checked(list(super().range(lo, hi, reverse=reverse)))

    def _checked(self, rows: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for key, value in rows:
            if self._spoilt is None or key in self._spoilt:
                self._fail(key)
            yield key, value

    def put(self, batch: Sequence[Write]) -> None:
        super().put(batch)
        for key, _ in batch:
            if self._spoilt is not None:
                self._spoilt.pop(key, None)

    def share(self) -> "SortedRows":
        view = object.__new__(UnreadableRows)
        view._rows, view._keys, view.size = self._rows, self._keys, self.size
        view._shared = self._shared = True
        view._spoilt, view._fail = self._spoilt, self._fail
        return view

    @property
    def of_any(self) -> bool:
        return self._spoilt is None

    def readable(self) -> SortedRows:
        rows = object.__new__(SortedRows)
        rows._rows, rows._keys, rows._shared = self._rows, self._keys, self._shared
        rows.size = self.size
        return rows
