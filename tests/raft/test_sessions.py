"""Session tables: the rules one by one, then random histories against a model."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from raft import sessions
from raft.sessions import (
    ANSWER_BYTES_MAX,
    Outcome,
    Recorded,
    SessionRowDamaged,
    SessionTable,
    Verdict,
    digest,
)
from tests.support.memory_rows import MemoryRows

PREFIX = b"shard 7/"
PUT = digest(b"put", b"k", b"v")
OTHER = digest(b"put", b"k", b"w")


@pytest.fixture
def rows() -> MemoryRows:
    return MemoryRows()


@pytest.fixture
def table() -> SessionTable:
    return SessionTable(PREFIX, window=4, sessions_max=3)


def test_sessions_are_numbered_from_one_and_a_number_never_comes_twice(
    rows: MemoryRows, table: SessionTable
) -> None:
    assert [table.open(rows), table.open(rows)] == [1, 2]

    assert table.drop(rows, 2)

    assert table.open(rows) == 3


def test_a_full_table_opens_nothing_and_draws_no_number(
    rows: MemoryRows, table: SessionTable
) -> None:
    for _ in range(3):
        table.open(rows)
    before = dict(rows.map)

    assert table.open(rows) is None
    assert rows.map == before

    table.drop(rows, 1)
    assert table.open(rows) == 4
    assert table.count(rows) == 3


def test_a_command_is_fresh_once_and_then_has_its_first_answer(
    rows: MemoryRows, table: SessionTable
) -> None:
    """RIFL, section 3: a retry returns the result of the first execution."""
    session = table.open(rows)
    assert session is not None
    assert table.check(rows, session, 1, 1, PUT) is Verdict.FRESH

    table.record(rows, session, 1, 1, PUT, b"version 1")

    assert table.check(rows, session, 1, 1, PUT) == Recorded(b"version 1")
    assert table.check(rows, session, 1, 1, OTHER) is Verdict.REUSED


def opened(rows: MemoryRows, table: SessionTable, *seqs: int, floor: int = 1) -> int:
    session = table.open(rows)
    assert session is not None
    for seq in seqs:
        table.record(rows, session, seq, floor, PUT, b"%d" % seq)
    return session


@pytest.mark.parametrize(
    ("seq", "floor", "outcome"),
    [
        pytest.param(0, 1, Verdict.STALE, id="sequences count from one"),
        pytest.param(2, 1, Verdict.STALE, id="below the recorded floor, whatever the request says"),
        pytest.param(3, 1, Recorded(b"3"), id="at the floor the answer is still there"),
        pytest.param(4, 1, Verdict.FRESH, id="a gap: another was answered before it"),
        pytest.param(5, 5, Recorded(b"5"), id="the request's own floor does not pass itself"),
        pytest.param(5, 6, Verdict.STALE, id="the client says that it no longer waits for this"),
        pytest.param(6, 1, Verdict.FRESH, id="the last one within the window"),
        pytest.param(7, 1, Verdict.OVER_WINDOW, id="floor + window is the first one refused"),
        pytest.param(7, 4, Verdict.FRESH, id="the request's floor moves the window with it"),
        pytest.param(2**64 - 1, 1, Verdict.OVER_WINDOW, id="far beyond the window"),
    ],
)
def test_the_floor_and_the_window_decide(
    rows: MemoryRows, table: SessionTable, seq: int, floor: int, outcome: Outcome
) -> None:
    session = opened(rows, table, 3, 5, floor=3)
    before = dict(rows.map)

    assert table.check(rows, session, seq, floor, PUT) == outcome
    assert rows.map == before, "a check changes nothing"


def test_the_floor_never_falls(rows: MemoryRows, table: SessionTable) -> None:
    """Scorecard H06: a late request with an old floor must not open what was closed."""
    session = opened(rows, table, 5, floor=5)

    table.record(rows, session, 6, 2, PUT, b"")
    table.acknowledge(rows, session, 1)

    assert table.check(rows, session, 4, 1, PUT) is Verdict.STALE


def test_a_repeated_command_may_raise_the_floor(rows: MemoryRows, table: SessionTable) -> None:
    session = opened(rows, table, 1, 2, 3)

    table.acknowledge(rows, session, 3)

    assert table.check(rows, session, 2, 1, PUT) is Verdict.STALE
    assert table.check(rows, session, 3, 1, PUT) == Recorded(b"3")


def test_a_floor_that_leaps_costs_no_more_than_the_window(
    rows: MemoryRows, table: SessionTable
) -> None:
    """A client may claim any floor up to 2**64 - 1; one command must not loop over the gap."""
    session = opened(rows, table, 1, 2, 3)

    table.record(rows, session, 2**63, 2**63, PUT, b"far")

    assert table.check(rows, session, 2**63, 1, PUT) == Recorded(b"far")
    assert table.check(rows, session, 3, 1, PUT) is Verdict.STALE


@pytest.mark.parametrize(
    "session",
    [
        pytest.param(0, id="number 0 is the counter's row, no session"),
        pytest.param(1, id="dropped"),
        pytest.param(3, id="never opened"),
        pytest.param(2**64 - 1, id="never opened, the greatest number"),
    ],
)
def test_what_has_no_row_is_expired(rows: MemoryRows, table: SessionTable, session: int) -> None:
    opened(rows, table, 1)
    opened(rows, table, 1)
    table.drop(rows, 1)

    assert table.check(rows, session, 2, 1, PUT) is Verdict.EXPIRED
    assert not table.drop(rows, session)


def test_only_a_session_that_stayed_idle_is_dropped(rows: MemoryRows, table: SessionTable) -> None:
    idle, busy = opened(rows, table, 1, 2), opened(rows, table, 1)
    seen = dict(table.survey(rows))
    assert seen == {idle: 2, busy: 1}

    table.record(rows, busy, 2, 1, PUT, b"")

    assert not table.drop(rows, busy, idle_since=seen[busy])
    assert table.drop(rows, idle, idle_since=seen[idle])
    assert dict(table.survey(rows)) == {busy: 2}


def test_acknowledging_everything_still_counts_as_use(
    rows: MemoryRows, table: SessionTable
) -> None:
    session = opened(rows, table, 1, 2)

    table.acknowledge(rows, session, 3)

    assert dict(table.survey(rows)) == {session: 2}


def test_the_table_is_its_rows(rows: MemoryRows, table: SessionTable) -> None:
    """A table that moved, or came by a snapshot, goes on where it was (invariant S4), and one
    replaced behind the back of its reader is read as it now is, once it is told."""
    session = opened(rows, table, 3, floor=2)
    moved = MemoryRows(rows.map)
    there = SessionTable(PREFIX, window=4, sessions_max=3)

    there.record(moved, session, 5, 4, PUT, b"there")
    for key, row in moved.map.items():
        rows.put(key, row)
    table.forget()

    assert table.check(rows, session, 5, 4, PUT) == Recorded(b"there")
    assert table.check(rows, session, 3, 1, PUT) is Verdict.STALE
    assert table.open(rows) == there.open(moved) == session + 1


def test_what_is_kept_decoded_is_what_the_rows_say(rows: MemoryRows) -> None:
    """More sessions than are kept, in any order: a table that reads each anew says the same."""
    table = SessionTable(PREFIX, sessions_max=3 * sessions._CACHED_MAX)
    numbers = [opened(rows, table) for _ in range(2 * sessions._CACHED_MAX)]
    for seq, session in enumerate([*numbers, *reversed(numbers)]):
        if table.check(rows, session, 1 + seq // len(numbers), 1, PUT) is Verdict.FRESH:
            table.record(rows, session, 1 + seq // len(numbers), 1, PUT, b"%d" % seq)

    anew = SessionTable(PREFIX)
    for session in numbers:
        for seq in (1, 2, 3):
            found = table.check(rows, session, seq, 1, PUT)
            assert found == anew.check(rows, session, seq, 1, PUT)
    assert len(table._cached) <= sessions._CACHED_MAX


def test_tables_under_other_prefixes_are_strangers(rows: MemoryRows) -> None:
    ours, theirs = SessionTable(b"a"), SessionTable(b"b")
    session = opened(rows, ours, 1)

    assert theirs.check(rows, session, 1, 1, PUT) is Verdict.EXPIRED
    assert theirs.count(rows) == 0
    assert list(theirs.survey(rows)) == []


def test_an_answer_is_small(rows: MemoryRows, table: SessionTable) -> None:
    session = opened(rows, table)
    table.record(rows, session, 1, 1, PUT, b"x" * ANSWER_BYTES_MAX)
    assert table.check(rows, session, 1, 1, PUT) == Recorded(b"x" * ANSWER_BYTES_MAX)

    with pytest.raises(AssertionError):
        table.record(rows, session, 2, 1, PUT, b"x" * (ANSWER_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("at", "row"),
    [
        pytest.param(1, b"", id="empty"),
        pytest.param(1, b"\x02" + bytes(8), id="of a newer format"),
        pytest.param(1, b"\x01" + bytes(8) + bytes(3), id="cut inside an answer's head"),
        pytest.param(1, b"\x01" + bytes(8) + bytes(8) + b"\x05" + bytes(8), id="cut in an answer"),
        pytest.param(
            1, b"\x01" + bytes(7) + b"\x02" + bytes(7) + b"\x01\x00" + bytes(8), id="below floor"
        ),
        pytest.param(0, b"\x01", id="a short counter"),
        pytest.param(0, b"\x02" + bytes(12), id="a counter of a newer format"),
    ],
)
def test_a_damaged_row_is_never_guessed_at(
    rows: MemoryRows, table: SessionTable, at: int, row: bytes
) -> None:
    rows.put(PREFIX + at.to_bytes(8, "big"), row)

    with pytest.raises(SessionRowDamaged):
        if at:
            table.check(rows, at, 1, 1, PUT)
        else:
            table.open(rows)


def test_digests_tell_apart_how_the_parts_are_cut() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest(b"ab", b"c") == digest(b"ab", b"c")


class Histories(RuleBasedStateMachine):
    """Two replicas, one of which loses its decoded forms at will, against a model that keeps
    every answer ever given: nothing is ever applied twice, and a first answer never changes."""

    sessions = Bundle("sessions")

    @initialize(window=st.integers(1, 5))
    def start(self, window: int) -> None:
        self.window = window
        self.rows, self.twin_rows = MemoryRows(), MemoryRows()
        self.table = SessionTable(PREFIX, window=window, sessions_max=4)
        self.twin = SessionTable(PREFIX, window=window, sessions_max=4)
        self.opened = 0
        self.floors: dict[int, int] = {}
        self.applied: dict[tuple[int, int], tuple[bytes, bytes]] = {}  # for ever

    @rule(target=sessions)
    def open(self) -> object:
        number = self.table.open(self.rows)
        assert number == self.twin.open(self.twin_rows)
        if len(self.floors) >= 4:
            assert number is None
            return multiple()
        self.opened += 1
        assert number == self.opened
        self.floors[number] = 1
        return number

    @rule(
        session=sessions,
        seq=st.integers(0, 12),
        floor=st.integers(0, 12),
        command=st.sampled_from([PUT, OTHER]),
        final=st.booleans(),
    )
    def ask(self, session: int, seq: int, floor: int, command: bytes, final: bool) -> None:
        outcome = self.table.check(self.rows, session, seq, floor, command)
        assert outcome == self.twin.check(self.twin_rows, session, seq, floor, command)
        assert outcome == self.expected(session, seq, floor, command)
        if outcome is Verdict.FRESH and final:
            assert (session, seq) not in self.applied, "applied twice"
            answer = b"answer %d" % len(self.applied)
            self.applied[session, seq] = (command, answer)
            self.floors[session] = max(self.floors[session], floor)
            self.table.record(self.rows, session, seq, floor, command, answer)
            self.twin.record(self.twin_rows, session, seq, floor, command, answer)

    def expected(self, session: int, seq: int, floor: int, command: bytes) -> Outcome:
        if session not in self.floors:
            return Verdict.EXPIRED
        floor = max(floor, self.floors[session])
        if seq < floor:
            return Verdict.STALE
        if (session, seq) in self.applied:
            first, answer = self.applied[session, seq]
            return Recorded(answer) if first == command else Verdict.REUSED
        return Verdict.OVER_WINDOW if seq >= floor + self.window else Verdict.FRESH

    @rule(session=sessions, floor=st.integers(0, 12))
    def acknowledge(self, session: int, floor: int) -> None:
        self.table.acknowledge(self.rows, session, floor)
        self.twin.acknowledge(self.twin_rows, session, floor)
        if session in self.floors:
            self.floors[session] = max(self.floors[session], floor)

    @rule(session=sessions)
    def drop(self, session: int) -> None:
        known = self.floors.pop(session, None) is not None
        assert self.table.drop(self.rows, session) == known
        assert self.twin.drop(self.twin_rows, session) == known

    @rule()
    def restart_the_twin(self) -> None:
        self.twin = SessionTable(PREFIX, window=self.window, sessions_max=4)

    @invariant()
    def replicas_are_equal_and_rows_bounded(self) -> None:
        assert self.rows.map == self.twin_rows.map
        assert self.table.count(self.rows) == len(self.floors)
        for key, row in self.rows.map.items():
            assert len(row) <= 13 + self.window * (17 + ANSWER_BYTES_MAX), key


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
