"""The log of one replica: terms, memberships, durability, memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.codec import encode_membership
from raft.errors import Compacted
from raft.log import ENTRY_OVERHEAD_BYTES, Log
from raft.types import ZERO, Entry, EntryKind, Index, SnapshotMeta, Term
from tests.support.builders import entries, entry, id_of, log_of, membership, snapshot

THREE = membership(1, 2, 3)
BIG = 1 << 20


def at(index: int) -> Index:
    return Index(index)


def membership_entry(index: int, term: int, *voters: int) -> Entry:
    data = encode_membership(membership(*voters))
    return Entry(at(index), Term(term), EntryKind.MEMBERSHIP, data)


def test_terms_are_known_for_every_index_from_the_start_on() -> None:
    log = log_of("2 2 3", snapshot(5, 1, THREE))

    assert [log.term(at(n)) for n in (5, 6, 7, 8)] == [1, 2, 2, 3]
    assert (log.first, log.last) == (6, id_of(8, 3))


def test_what_is_compacted_is_an_error_and_never_term_0() -> None:
    """etcd-io/raft 76f1249: a missing term that reads as 0 matches another 0."""
    log = log_of("2 2 3", snapshot(5, 1, THREE))

    for ask in (
        lambda: log.term(at(4)),
        lambda: log.holds(id_of(4, 0)),
        lambda: log.slice(at(5), at(7), BIG),
        lambda: log.last_not_above(at(8), Term(0)),
    ):
        with pytest.raises(Compacted, match="the log starts at 6"):
            ask()


@pytest.mark.parametrize(
    ("index", "term", "holds"),
    [
        pytest.param(0, 0, True, id="before the first entry every log agrees"),
        pytest.param(2, 1, True, id="this very entry"),
        pytest.param(2, 2, False, id="another term at the index"),
        pytest.param(4, 3, False, id="past the end"),
    ],
)
def test_holds(index: int, term: int, holds: bool) -> None:
    assert log_of("1 1 3").holds(id_of(index, term)) is holds


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [
        pytest.param(6, 4, id_of(6, 4), id="the place itself"),
        pytest.param(9, 4, id_of(6, 4), id="past the end: from the end on"),
        pytest.param(6, 3, id_of(3, 1), id="a whole run of a higher term is skipped"),
        pytest.param(5, 4, id_of(5, 4), id="within a run"),
        pytest.param(6, 0, id_of(0, 0), id="nothing agrees but the empty prefix"),
    ],
)
def test_back_tracking_skips_whole_terms(index: int, term: int, found: object) -> None:
    """Raft (extended), end of section 5.3."""
    assert log_of("1 1 1 4 4 4").last_not_above(at(index), Term(term)) == found


def test_slice_gives_at_least_one_entry_and_then_what_fits() -> None:
    log = log_of("1 1 1 1")
    size = len(b"1/1") + ENTRY_OVERHEAD_BYTES

    assert log.slice(at(2), at(5), 1) == entries("1 1 1 1")[1:2]
    assert log.slice(at(2), at(5), 2 * size) == entries("1 1 1 1")[1:3]
    assert log.slice(at(2), at(4), BIG) == entries("1 1 1 1")[1:3]


def test_truncation_brings_back_the_membership_before() -> None:
    """Raft (extended), section 6: a server uses the latest configuration in its log."""
    log = log_of("1 1", at=THREE)
    log.append((membership_entry(3, 2, 1, 2, 3, 4), entry(4, 2), membership_entry(5, 2, 1)))
    assert log.membership == membership(1)

    log.truncate(at(5))
    assert (log.membership, log.membership_index) == (membership(1, 2, 3, 4), 3)

    log.truncate(at(2))
    assert (log.membership, log.membership_index) == (THREE, 0)
    assert log.last == id_of(1, 1)


def test_compaction_keeps_the_membership_in_force_there() -> None:
    log = log_of("1 1", at=THREE)
    log.append((membership_entry(3, 2, 1, 2), entry(4, 2), membership_entry(5, 2, 1)))
    log.take_unsaved()
    log.persisted(at(5), Term(2))

    start = log.compact(at(4))

    assert start == snapshot(4, 2, membership(1, 2)) == log.start
    assert (log.membership, log.membership_index) == (membership(1), 5)
    assert [log.membership_at(at(n)) for n in (4, 5)] == [membership(1, 2), membership(1)]
    assert log.compact(at(3)) == start, "what is gone already changes nothing"
    log.truncate(at(5))
    assert log.membership == membership(1, 2)


def test_reset_drops_everything_whatever_the_log_held() -> None:
    """hashicorp/raft#697: a tail kept behind an installed snapshot contradicts it."""
    log = log_of("1 1 1 1 1 1", at=THREE)
    log.append((membership_entry(7, 1, 9),))

    log.reset(snapshot(5, 3, THREE))

    assert (log.first, log.last, log.membership) == (6, id_of(5, 3), THREE)
    assert log.take_unsaved() == ()
    assert log.durable == 4, "the snapshot itself is not durable yet"
    log.note_reset_saved()
    log.persisted(at(5), Term(3))
    assert log.durable == 5


def test_entries_are_saved_once_and_durable_when_their_save_ends() -> None:
    log = log_of("1")
    log.append(entries("1 1", after=1))

    taken = log.take_unsaved()

    assert (taken, log.take_unsaved(), log.durable) == (entries("1 1", after=1), (), 1)
    log.persisted(at(3), Term(1))
    assert log.durable == 3


def test_a_save_whose_entries_were_replaced_counts_only_for_what_is_left() -> None:
    """Safeguard H09."""
    log = log_of("1")
    log.append(entries("1 1 1", after=1))
    log.take_unsaved()

    log.truncate(at(3))
    log.append((entry(3, 2),))
    log.persisted(at(4), Term(1))

    assert log.durable == 2
    assert log.take_unsaved() == (entry(3, 2),), "the replacement is saved from the cut on"


def test_an_entry_that_comes_back_is_durable_only_by_its_own_save() -> None:
    """(2, 1) is saved, replaced by (2, 2), and comes back: when the first save ends the second
    may still be on its way, and a crash would leave (2, 2) on the disk."""
    log = log_of("1")
    log.append((entry(2, 1),))
    log.take_unsaved()
    log.truncate(at(2))
    log.append((entry(2, 2),))
    log.take_unsaved()
    log.truncate(at(2))
    log.append((entry(2, 1),))
    log.take_unsaved()

    log.persisted(at(2), Term(1))
    assert log.durable == 1
    log.persisted(at(2), Term(2))
    assert log.durable == 1
    log.persisted(at(2), Term(1))
    assert log.durable == 2


def test_a_save_that_nobody_made_counts_for_nothing() -> None:
    log = log_of("1")
    log.append((entry(2, 1),))

    log.persisted(at(2), Term(1))

    assert log.durable == 1


def test_one_report_stands_for_all_saves_before_it() -> None:
    log = log_of("")
    for index in (1, 2, 3):
        log.append((entry(index, 1),))
        log.take_unsaved()

    log.persisted(at(3), Term(1))

    assert log.durable == 3


def test_old_entries_leave_memory_and_are_read_back() -> None:
    """Only durable ones leave: nobody else has the others."""
    reads: list[tuple[int, int]] = []
    held = entries("1 " * 20)

    def read(lo: Index, hi: Index, bytes_max: int) -> tuple[Entry, ...]:
        reads.append((lo, hi))
        return held[lo - 1 : hi - 1]

    log = Log(SnapshotMeta(ZERO, THREE), read, 5 * (ENTRY_OVERHEAD_BYTES + 4))
    log.append(held)
    assert log.slice(at(1), at(3), BIG) == held[:2]
    assert reads == []

    log.take_unsaved()
    log.persisted(at(20), Term(1))

    assert log.slice(at(20), at(21), BIG) == held[19:]
    assert reads == []
    assert log.slice(at(1), at(3), BIG) == held[:2]
    assert reads == [(1, 3)]


def test_a_log_store_that_gives_another_entry_is_found_out() -> None:
    def read(lo: Index, hi: Index, bytes_max: int) -> tuple[Entry, ...]:
        return (entry(lo, 9),)

    log = Log(SnapshotMeta(ZERO, THREE), read, 1)
    log.restore(entries("1 1 1 1"))

    with pytest.raises(AssertionError, match="another entry 1"):
        log.slice(at(1), at(3), BIG)


@given(st.data())
def test_the_log_behaves_like_a_list(data: st.DataObject) -> None:
    """Random appends, cuts, saves, compactions and resets, against a plain list of entries."""
    disk: dict[int, Entry] = {}

    def read(lo: Index, hi: Index, bytes_max: int) -> list[Entry]:
        return [disk[n] for n in range(lo, hi)]

    log = Log(SnapshotMeta(ZERO, THREE), read, 300)
    model: list[Entry] = []
    first, term = 1, 1
    saves: list[tuple[Entry, ...]] = []
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["append", "cut", "take", "save", "compact"])):
            case "append":
                term += data.draw(st.integers(0, 1))
                last = first + len(model) - 1
                new = [entry(last + k, term) for k in range(1, data.draw(st.integers(1, 4)) + 1)]
                log.append(new)
                model += new
            case "cut" if model:
                lo = data.draw(st.integers(first, first + len(model) - 1))
                log.truncate(at(lo))
                del model[lo - first :]
                term += 1
            case "take":
                if taken := log.take_unsaved():
                    saves.append(taken)
            case "save" if saves:
                saved = saves.pop(0)
                for index in [n for n in disk if n >= saved[0].index]:
                    del disk[index]
                disk.update({e.index: e for e in saved})
                log.persisted(saved[-1].index, saved[-1].term)
            case "compact" if log.durable >= first:
                index = data.draw(st.integers(first, log.durable))
                log.compact(at(index))
                del model[: index - first + 1]
                first = index + 1
        assert log.first == first
        assert log.last.index == first + len(model) - 1
        assert [log.term(e.index) for e in model] == [e.term for e in model]
        for index in range(first, log.durable + 1):
            assert disk[index] == model[index - first], "durable means: this entry is on disk"
        if model:
            page = log.slice(at(first), at(first + len(model)), BIG)
            assert page == tuple(model[: len(page)]) != ()
