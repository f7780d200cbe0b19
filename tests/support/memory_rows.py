"""Rows in memory, for tests of state machines."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from raft.ports import Write


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
