"""The first rows of many ranges, read at once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, cast

from raft.ports import Reader

Range = tuple[bytes, bytes]
"""`lo <= key < hi`."""


class Head(NamedTuple):
    """The first rows of a range; `ended`: it certainly has no more."""

    rows: list[tuple[bytes, bytes]]
    ended: bool
    size: int
    """The bytes of its values."""


class HeadReader(Protocol):
    """A map that has a shorter way than a `range` for each."""

    def heads(
        self, ranges: Sequence[Range], rows_max: int, bytes_max: int, skip: int = 0
    ) -> list[Head]:
        """As the function `heads`."""
        ...


def heads(
    reader: Reader, ranges: Sequence[Range], rows_max: int, bytes_max: int, skip: int = 0
) -> list[Head]:
    """The first rows of each range, all as they stand now.

    Args:
        rows_max: Of each range.
        skip: So many bytes that each key begins with are left away.
        bytes_max: Of all values together, give or take one; the ranges after the one that passes
            it are not looked at, and the list ends before them.
    """
    if hasattr(reader, "heads"):  # to ask whether it is a `HeadReader` takes as long as to read
        return cast(HeadReader, reader).heads(ranges, rows_max, bytes_max, skip)
    found = []
    for lo, hi in ranges:
        if bytes_max <= 0:
            break
        head = first_rows(reader.range(lo, hi), rows_max, bytes_max, skip)
        bytes_max -= head.size
        found.append(head)
    return found


def first_rows(
    rows: Iterator[tuple[bytes, bytes]], rows_max: int, bytes_max: int, skip: int
) -> Head:
    """One at least, if there is one."""
    taken: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in rows:
        taken.append((key[skip:], value))
        size += len(value)
        if len(taken) >= rows_max or size >= bytes_max:
            return Head(taken, False, size)
    return Head(taken, True, size)
