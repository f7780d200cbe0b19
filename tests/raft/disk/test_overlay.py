"""What the commands of one entry see of each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.disk.overlay import Overlay
from tests.support.memory_rows import MemoryRows


def rows(**stored: str) -> MemoryRows:
    made = MemoryRows()
    made.write([(key.encode(), value.encode()) for key, value in stored.items()])
    return made


def test_a_command_sees_what_was_written_before_it() -> None:
    """Safeguard H07: two appends to one key in one entry build on each other."""
    overlay = Overlay(rows(a="1", b="1"))

    overlay.put(b"a", (overlay.get(b"a") or b"") + b"2")
    overlay.put(b"a", (overlay.get(b"a") or b"") + b"3")
    overlay.delete(b"b")
    overlay.put(b"c", b"")

    assert overlay.get(b"a") == b"123"
    assert overlay.get(b"b") is None
    assert overlay.get(b"c") == b""
    assert overlay.get(b"d") is None
    assert sorted(overlay.writes(), key=lambda write: write[0]) == [
        (b"a", b"123"),
        (b"b", None),
        (b"c", b""),
    ]


def test_the_base_is_left_alone() -> None:
    base = rows(a="1")
    overlay = Overlay(base)
    overlay.put(b"a", b"2")
    overlay.delete(b"a")
    assert base.get(b"a") == b"1"


@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_stands_still_while_it_is_read(reverse: bool) -> None:
    overlay = Overlay(rows(a="1", b="1", c="1"))
    overlay.put(b"bb", b"2")
    found = overlay.range(b"a", b"z", reverse=reverse)
    first = next(found)
    overlay.delete(b"bb")
    overlay.put(b"b", b"3")
    overlay.put(b"d", b"3")

    expected = [(b"a", b"1"), (b"b", b"1"), (b"bb", b"2"), (b"c", b"1")]
    assert [first, *found] == (expected[::-1] if reverse else expected)


KEYS = st.binary(max_size=2)
ROWS = st.dictionaries(KEYS, st.binary(max_size=3), max_size=12)


@given(
    ROWS,
    st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), max_size=12),
    KEYS,
    KEYS,
    st.booleans(),
)
def test_an_overlay_reads_as_the_rows_would_after_its_writes(
    stored: dict[bytes, bytes],
    writes: list[tuple[bytes, bytes | None]],
    lo: bytes,
    hi: bytes,
    reverse: bool,
) -> None:
    base, model = MemoryRows(), dict(stored)
    base.write(list(stored.items()))
    overlay = Overlay(base)
    for key, value in writes:
        if value is None:
            overlay.delete(key)
            model.pop(key, None)
        else:
            overlay.put(key, value)
            model[key] = value

    expected = sorted((key, value) for key, value in model.items() if lo <= key < hi)
    assert list(overlay.range(lo, hi, reverse=reverse)) == (expected[::-1] if reverse else expected)
    assert all(overlay.get(key) == model.get(key) for key, _ in writes)
    base.write(overlay.writes())
    assert dict(base.range(b"", b"\xff" * 3)) == model
