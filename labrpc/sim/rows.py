"""The rows of a simulated map in memory: in key order, shared with snapshots, readable or not."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

Write = tuple[bytes, bytes | None]
"""A row to put, or (with None) a key to delete."""


class SortedRows:
    """Rows in key order. Shared with snapshots, and copied when written while shared."""

    _drawers: dict[bytes, list[int]] | None = None  # see `weigh`; None: nobody asked
    _drawer_bytes = 0

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

    def weigh(self, prefix_bytes: int) -> Mapping[bytes, Sequence[int]]:
        """By what keys begin with, so many bytes of it (a shorter key is its own beginning): how
        many rows begin so, and their bytes, keys and all.

        Reads no row. The first call counts; from then on each write keeps the count, so that
        whoever looks often pays for what has changed and not for what is there.
        """
        if self._drawers is None or self._drawer_bytes != prefix_bytes:
            self._drawers, self._drawer_bytes = {}, prefix_bytes
            for key, row in self._rows.items():
                self._weighs(key, 1, len(key) + len(row))
        return self._drawers

    def _weighs(self, key: bytes, rows: int, size: int) -> None:
        """So many rows and bytes more are below what this key begins with."""
        drawers, prefix = self._drawers, key[: self._drawer_bytes]
        assert drawers is not None
        drawer = drawers.get(prefix)
        if drawer is None:
            drawers[prefix] = [rows, size]
        else:
            drawer[0] += rows
            drawer[1] += size
            if not drawer[0]:
                del drawers[prefix]

    def all(self) -> Sequence[tuple[bytes, bytes]]:
        """Every row as it stands now, in no order."""
        return list(self._rows.items())

    def put(self, batch: Sequence[Write]) -> None:
        if self._shared:
            self._rows, self._keys, self._shared = dict(self._rows), list(self._keys), False
        rows, keys, size, weighed = self._rows, self._keys, self.size, self._drawers is not None
        for key, value in batch:
            before = rows.get(key)
            if value is None:
                if before is not None:
                    del rows[key]
                    del keys[bisect_left(keys, key)]
                    size -= len(key) + len(before)
                    if weighed:
                        self._weighs(key, -1, -len(key) - len(before))
                continue
            if before is None:
                insort(keys, key)
                size += len(key) + len(value)
                if weighed:
                    self._weighs(key, 1, len(key) + len(value))
            else:
                size += len(value) - len(before)
                if weighed and len(value) != len(before):
                    self._weighs(key, 0, len(value) - len(before))
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
        self._drawers, self._drawer_bytes = rows._drawers, rows._drawer_bytes
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
        rows._drawers, rows._drawer_bytes = self._drawers, self._drawer_bytes
        return rows
