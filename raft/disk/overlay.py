"""What the entries being applied have written, above the rows that are stored.

Each command sees everything before it, in its own entry too: two appends to one key in one entry
build on each other (safeguard H07).
"""

from collections.abc import Iterator

from raft.disk.write_buffer import MISSING, merged
from raft.ports import Reader, Write


class Overlay:
    """A reader with writes of its own above it; they go to the disk as one batch."""

    __slots__ = ("_base", "_get", "_rows")

    def __init__(self, base: Reader) -> None:
        self._base = base
        self._get = base.get
        self._rows: dict[bytes, bytes | None] = {}  # None: deleted here

    def get(self, key: bytes) -> bytes | None:
        value = self._rows.get(key, MISSING)
        return self._get(key) if value is MISSING else value

    def put(self, key: bytes, value: bytes) -> None:
        self._rows[key] = value

    def delete(self, key: bytes) -> None:
        self._rows[key] = None

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi` as they stand now, whatever is written while iterating."""
        stored = self._base.range(lo, hi, reverse=reverse)
        keys = [key for key in self._rows if lo <= key < hi]
        if not keys:
            return stored
        keys.sort(reverse=reverse)
        return merged(stored, [(key, self._rows[key]) for key in keys], reverse)

    def writes(self) -> list[Write]:
        """The last write of each key; for one atomic batch, so their order means nothing."""
        return list(self._rows.items())
