"""What the logs of one node keep in memory: one test for each claim of `raft/entry_memory.py`."""

from collections.abc import Sequence
from random import Random

import pytest

from raft.entry_memory import KEPT, EntryMemory
from raft.log import ENTRY_OVERHEAD_BYTES, Log
from raft.types import ZERO, Entry, EntryKind, Index, SnapshotMeta, Term
from tests.support.builders import membership

DATA = 36
SIZE = DATA + ENTRY_OVERHEAD_BYTES


class Kept:
    """A log with a list for a disk."""

    def __init__(self, memory: EntryMemory) -> None:
        self.disk: list[Entry] = []
        self.log = Log(SnapshotMeta(ZERO, membership(1, 2, 3)), self._read, memory)

    def _read(self, lo: Index, hi: Index, bytes_max: int) -> Sequence[Entry]:
        return self.disk[lo - 1 : hi - 1]

    def grow(self, count: int, *, durable: bool = True) -> None:
        for _ in range(count):
            at = Index(self.log.last.index + 1)
            entry = Entry(at, Term(1), EntryKind.COMMAND, bytes(DATA))
            self.log.append((entry,))
            self.disk.append(entry)
            if durable:
                self.save()

    def save(self) -> None:
        self.log.take_unsaved()
        self.log.persisted(*self.log.last)

    @property
    def entries(self) -> int:
        """How many it keeps in memory."""
        return self.log.cached_bytes // SIZE


def test_a_hundred_logs_keep_no_more_than_one_may() -> None:
    memory = EntryMemory(50 * SIZE)
    logs = [Kept(memory) for _ in range(100)]

    for turn in range(3000):
        logs[Random(turn).randrange(100)].grow(1)
        assert memory.used == sum(kept.log.cached_bytes for kept in logs)
        assert memory.used <= 50 * SIZE


def test_the_log_that_has_not_grown_for_longest_forgets_first() -> None:
    memory = EntryMemory(30 * SIZE)
    idle, busy = Kept(memory), Kept(memory)
    idle.grow(10)
    busy.grow(20)
    assert (idle.entries, busy.entries) == (10, 20)

    busy.grow(1)

    assert idle.entries + busy.entries == int(30 * KEPT)
    assert busy.entries == 21, "the idle one has enough to forget"
    busy.grow(30)
    assert idle.entries == 0


def test_a_log_that_grows_again_is_not_the_first_to_forget() -> None:
    memory = EntryMemory(30 * SIZE)
    one, other = Kept(memory), Kept(memory)
    one.grow(10)
    other.grow(10)
    one.grow(10)

    one.grow(1)

    assert (one.entries, other.entries) == (21, int(30 * KEPT) - 21)


def test_the_oldest_entries_of_a_log_go_first_and_are_read_back() -> None:
    kept = Kept(EntryMemory(10 * SIZE))
    kept.grow(11)
    log = kept.log
    reads = log.reads_back

    assert log.slice(Index(10), Index(12), 10**6) == tuple(kept.disk[9:11])
    assert log.reads_back == reads, "the last ones are in memory"
    assert log.slice(Index(1), Index(3), 10**6) == tuple(kept.disk[:2])
    assert log.reads_back == reads + 1


def test_what_is_not_durable_is_kept_and_goes_when_it_is() -> None:
    memory = EntryMemory(10 * SIZE)
    other, kept = Kept(memory), Kept(memory)
    other.grow(5)
    kept.grow(20, durable=False)
    assert (other.entries, kept.entries) == (0, 20)

    kept.save()

    assert memory.used <= 10 * SIZE
    assert kept.entries == int(10 * KEPT)


@pytest.mark.parametrize(
    "shrink",
    [
        pytest.param(lambda log: log.truncate(Index(4)), id="cut"),
        pytest.param(lambda log: log.compact(Index(5)), id="compacted"),
        pytest.param(
            lambda log: log.reset(SnapshotMeta(log.id_at(Index(6)), log.membership)), id="reset"
        ),
        pytest.param(lambda log: log.let_go(), id="let go"),
    ],
)
def test_what_a_log_drops_is_room_for_others(shrink: object) -> None:
    memory = EntryMemory(100 * SIZE)
    kept, other = Kept(memory), Kept(memory)
    kept.grow(8)
    other.grow(2)

    shrink(kept.log)  # type: ignore[operator]

    assert memory.used == kept.log.cached_bytes + 2 * SIZE < 10 * SIZE


def test_a_log_that_was_let_go_counts_no_more_and_still_reads() -> None:
    memory = EntryMemory(100 * SIZE)
    kept = Kept(memory)
    kept.grow(8)

    kept.log.let_go()

    assert (memory.used, kept.entries) == (0, 0)
    assert kept.log.slice(Index(1), Index(9), 10**6) == tuple(kept.disk)
    kept.grow(1)
    assert memory.used == 0


def test_a_log_that_kept_nothing_may_forget_again() -> None:
    """No entry fits: each one goes when it is durable."""
    kept = Kept(EntryMemory(SIZE // 2))

    for _ in range(3):
        kept.grow(1)
        assert kept.entries == 0
