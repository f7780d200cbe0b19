"""The demo's own checks can fail: each kind of loss, double or disorder is named."""

import asyncio
from collections import Counter

import pytest

from shardkv.demo import DemoFailed, Files, Probes, check_counter, check_files
from shardkv.types import Row, Version

LOG = b"0 1\n1 1\n0 2\n1 2\n"


def test_a_log_with_every_append_once_and_in_order_passes() -> None:
    assert check_counter(LOG, [2, 2], set()) == 4


@pytest.mark.parametrize(
    ("log", "said"),
    [
        pytest.param(b"0 1\n1 1\n1 2\n", "clerk 0: append 2 .* missing", id="lost"),
        pytest.param(
            b"0 1\n0 1\n1 1\n0 2\n1 2\n", "clerk 0: append 2 .* is 1, not 2", id="doubled"
        ),
        pytest.param(b"0 2\n0 1\n1 1\n1 2\n", "clerk 0: append 1 .* is 2, not 1", id="disordered"),
        pytest.param(LOG + b"0 3\n", "clerk 0: append 3 .* is 3, not absent", id="from nowhere"),
        pytest.param(b"", "clerk 0: append 1 .* missing", id="all lost"),
    ],
)
def test_a_log_that_is_not_so_fails(log: bytes, said: str) -> None:
    with pytest.raises(DemoFailed, match=said):
        check_counter(log, [2, 2], set())


def test_an_append_of_unknown_outcome_may_be_there_once_or_not_at_all() -> None:
    assert check_counter(b"0 1\n", [2], {(0, 2)}) == 1
    assert check_counter(b"0 1\n0 2\n", [2], {(0, 2)}) == 2
    with pytest.raises(DemoFailed):
        check_counter(b"0 1\n0 2\n0 2\n", [2], {(0, 2)})


class Held:
    """A store that holds one row under every key."""

    def __init__(self, value: bytes | None, version: int) -> None:
        self._row = Row(value, Version(version))

    async def get_row(self, key: bytes) -> Row:
        return self._row


@pytest.mark.parametrize(
    ("value", "version", "said"),
    [
        (b"data", 3, None),
        (b"data", 4, None),  # the one of unknown outcome was done
        (b"data", 2, "was written 2 times, acknowledged were 3"),
        (b"data", 5, "was written 5 times, acknowledged were 3"),
        (b"dat", 3, "does not hold the bytes"),
        (None, 0, "does not hold the bytes"),
    ],
)
def test_each_file_is_compared(value: bytes | None, version: int, said: str | None) -> None:
    files = Files({b"lib/a": b"data"}, Counter({b"lib/a": 3}), Counter({b"lib/a": 1}))
    check = check_files(Held(value, version), files, iter(files.contents.items()))
    if said is None:
        asyncio.run(check)
    else:
        with pytest.raises(DemoFailed, match=said):
            asyncio.run(check)


def test_the_longest_wait_counts_from_the_event_on() -> None:
    probes = Probes([(1, 0.0, 2.0), (2, 5.0, 8.0), (3, 9.0, 9.5)])

    assert probes.longest(4.0) == 3.0
    assert probes.longest(6.0) == 2.0
    assert probes.longest(4.0, frozenset({3})) == 0.5
    assert probes.longest(10.0) == 0.0
