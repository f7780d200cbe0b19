"""Rows in memory, for tests of state machines: an ordered map, and an entry's overlay above it."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from raft.ports import Reader, Write


class MemoryRows:
    """A sorted map from bytes to bytes; satisfies `raft.ports.Rows`, writing through at once."""

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.map = dict(rows or {})
        self._keys = sorted(self.map)

    def get(self, key: bytes) -> bytes | None:
        return self.map.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys[bisect_left(self._keys, lo) : bisect_left(self._keys, hi)]
        return iter([(key, self.map[key]) for key in (reversed(keys) if reverse else keys)])

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.map:
            insort(self._keys, key)
        self.map[key] = value

    def delete(self, key: bytes) -> None:
        if self.map.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def write(self, batch: Sequence[Write]) -> None:
        for key, value in batch:
            if value is None:
                self.delete(key)
            else:
                self.put(key, value)

    def writes(self) -> Sequence[Write]:
        return list(self.map.items())


class MemoryOverlay:
    """The rows of one entry above those below it; satisfies `raft.ports.Rows`."""

    def __init__(self, below: Reader) -> None:
        self._below = below
        self._mine: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._mine[key] if key in self._mine else self._below.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        seen: dict[bytes, bytes | None] = dict(self._below.range(lo, hi))
        seen |= {key: value for key, value in self._mine.items() if lo <= key < hi}
        rows = [(key, value) for key, value in sorted(seen.items()) if value is not None]
        return iter(rows[::-1] if reverse else rows)

    def put(self, key: bytes, value: bytes) -> None:
        self._mine[key] = value

    def delete(self, key: bytes) -> None:
        self._mine[key] = None

    def writes(self) -> Sequence[Write]:
        return list(self._mine.items())
