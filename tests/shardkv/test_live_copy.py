"""A shard that is written while it is copied: what is noted, given out, staged, and equal then.

The steps one by one; random schedules of them are in `test_handover_model.py`.
"""

import pytest

from shardctrler.types import ConfigNumber
from shardkv import copying, limits
from shardkv.commands import (
    Batch,
    BatchWrite,
    Chunk,
    Command,
    Drop,
    ExpireSessions,
    Freeze,
    Install,
    Op,
    OpenSession,
    PassTime,
    Restart,
)
from shardkv.limits import RESTARTS_MAX
from shardkv.phases import Phase
from shardkv.rows import CHANGES, ROWS_DONE, changes_cursor
from shardkv.types import DONE, Answer, Code, CopyId, Generation, SessionId
from tests.support.stores import S0, A, B, Group, append, configures, delete, ok, put, row

N1, N2 = ConfigNumber(1), ConfigNumber(2)
OUT_OF_STEP = Answer(Code.OUT_OF_STEP)
FIRST, SECOND, THIRD = configures([A, A, A, A], [B, A, A, A], [A, A, A, A])


class Pair:
    """Shard 0 goes from A to B in configuration 2, and A has `lagging`, a replica behind."""

    def __init__(self) -> None:
        self.a, self.b, self.lagging = Group(A), Group(B), Group(A)
        self._log: list[tuple[Command, ...]] = []
        for config in (FIRST,):
            self.write(config)
            assert self.b.apply(config) == DONE
        self.write(OpenSession(S0))
        self.write(put(1, 1, b"a", b"1"), put(1, 2, b"b", b"2"), put(1, 3, b"gone", b"3"))
        self.write(SECOND)
        assert self.b.apply(SECOND) == DONE
        self.catch_up()

    @property
    def copy_id(self) -> CopyId:
        return self.a.machine.record(S0).copy_id

    def write(self, *commands: Command) -> list[Answer]:
        """An entry of A's log; its lagging replica does not see it yet."""
        self._log.append(commands)
        return self.a.entry(*commands)

    def catch_up(self) -> None:
        for commands in self._log[self.lagging.index :]:
            self.lagging.entry(*commands)

    def stage(
        self, cursor: bytes = b"", *, source: Group | None = None, limit: int = 9999
    ) -> bytes:
        """The next chunk from A; returns the cursor it leaves behind."""
        chunk = (source or self.a).pull(S0, 2, cursor, bytes_max=limit)
        assert self.b.apply(chunk) == DONE
        return chunk.next_cursor

    def freeze(self) -> Answer:
        return self.write(Freeze(S0, N2, self.copy_id))[0]

    def install(self, cursor: bytes) -> Answer:
        """What is left, and the install."""
        pulled = self.a.pulled(S0, 2, cursor)
        assert pulled.end is not None
        if pulled.chunk is not None:
            assert self.b.apply(pulled.chunk) == DONE
        return self.b.apply(Install(S0, N2, self.copy_id, pulled.end))

    def check_equal(self) -> None:
        """S3, S4."""
        assert self.b.copy(S0) == self.a.copy(S0)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def noted(group: Group) -> list[bytes]:
    """The change rows of the group, in their order."""
    return [key for _, key in group.rows.range(*CHANGES)]


# What is noted


def test_a_shard_is_served_while_it_is_copied(pair: Pair) -> None:
    """S1, S11: the source answers as before, and the destination does not."""
    pair.stage()

    assert pair.write(append(1, 4, b"a", b"!")) == [ok(2)]
    assert pair.a.get(b"a") == row(b"1!", 2)
    assert pair.b.get(b"a") == Answer(Code.NOT_READY, (2, A))
    assert pair.a.open() == 2
    assert len(list(pair.a.machine.survey(pair.a.rows, S0))) == 2


@pytest.mark.parametrize(
    ("command", "rows"),
    [
        pytest.param(put(1, 4, b"new", b"v"), [b"dnew", b"t1"], id="a put, and its session"),
        pytest.param(append(1, 4, b"a", b"v"), [b"da", b"t1"], id="an append"),
        pytest.param(
            delete(1, 4, b"gone"), [b"h", b"dgone", b"t1"], id="a delete, the figure it raises too"
        ),
        pytest.param(delete(1, 4, b"never"), [b"t1"], id="a delete of nothing"),
        pytest.param(put(1, 4, b"a", b"v", if_version=9), [b"t1"], id="a refusal is recorded"),
        pytest.param(put(1, 2, b"b", b"2", floor=2), [b"t1"], id="a repetition raises the floor"),
        pytest.param(put(1, 2, b"b", b"2"), [], id="a repetition that changes nothing"),
        pytest.param(OpenSession(S0), [b"t0", b"t2"], id="the counter of sessions"),
        pytest.param(
            ExpireSessions(S0, ((SessionId(1), 3),)), [b"t1", b"t0"], id="a session is forgotten"
        ),
        pytest.param(PassTime(S0, 5), [b"k"], id="the shard grows older"),
        pytest.param(
            Batch(S0, SessionId(1), 4, 1, (BatchWrite(Op.PUT, b"new"), BatchWrite(Op.PUT, b"a"))),
            [b"dnew", b"da", b"b" + bytes(7) + b"\x01", b"t1"],
            id="a batch, and what it was answered",
        ),
    ],
)
def test_each_row_put_or_deleted_has_its_change_row(
    pair: Pair, command: Command, rows: list[bytes]
) -> None:
    """Safeguard H01."""
    pair.write(command)

    found = [key[:1] + b"%d" % key[-1] if key[:1] == b"t" else key for key in noted(pair.a)]
    assert found == rows
    assert pair.a.machine.changes(S0) == len(rows)
    pair.a.restart()  # the count is read off the rows


def test_a_row_that_one_entry_changes_often_is_noted_once(pair: Pair) -> None:
    pair.write(*[append(1, seq, b"a", b"x") for seq in range(4, 9)])
    pair.write(append(1, 9, b"a", b"x"))

    session = b"t" + bytes(7) + b"\x01"
    assert noted(pair.a) == [b"da", session, b"da", session]
    pair.catch_up()
    assert noted(pair.lagging) == noted(pair.a)


def test_a_shard_that_does_not_move_notes_nothing() -> None:
    group = Group(A)
    group.apply(FIRST)
    group.open()
    group.apply(put(1, 1, b"k", b"v"))

    assert noted(group) == [] and group.machine.changes(S0) == 0


# A fuzzy copy


def test_what_changed_behind_the_cursor_comes_with_the_changes(pair: Pair) -> None:
    cursor = pair.stage(limit=1)  # row `a`
    pair.write(
        put(1, 4, b"a", b"later"), delete(1, 5, b"gone"), put(1, 6, b"c", b"new"), OpenSession(S0)
    )
    while cursor < ROWS_DONE:
        cursor = pair.stage(cursor, limit=1)

    assert pair.freeze() == DONE
    assert pair.install(cursor) == DONE

    pair.check_equal()
    assert pair.b.get(b"a") == row(b"later", 2)
    assert pair.b.get(b"c") == row(b"new", 2)  # above the version deleted
    assert pair.b.apply(put(1, 4, b"a", b"later")) == ok(2)  # C5
    assert pair.b.open() == 3


def test_a_row_deleted_after_it_was_staged_is_deleted_there_too(pair: Pair) -> None:
    cursor = pair.stage()
    pair.write(delete(1, 4, b"a"))
    assert b"da" in pair.b.copy(S0)

    chunk = pair.a.pull(S0, 2, cursor)

    assert (b"da", None) in chunk.rows
    assert pair.b.apply(chunk) == DONE
    assert b"da" not in pair.b.copy(S0)


def test_replicas_at_different_moments_make_one_copy(pair: Pair) -> None:
    """Rows from a replica that is behind, changes from one that is not."""
    pair.write(put(1, 4, b"a", b"later"), delete(1, 5, b"gone"))
    cursor = pair.stage(source=pair.lagging, limit=1)
    while cursor < ROWS_DONE:
        cursor = pair.stage(cursor, source=pair.lagging, limit=1)
    assert pair.lagging.pulled(S0, 2, cursor) == copying.Pulled(None, None, 0)  # it has no more
    cursor = pair.stage(cursor)
    pair.catch_up()
    pair.write(put(1, 6, b"b", b"last"))
    assert pair.lagging.pulled(S0, 2, cursor).chunk is None
    pair.freeze()

    assert pair.install(cursor) == DONE

    pair.check_equal()


def test_a_replica_that_has_not_come_to_the_copy_gives_nothing(pair: Pair) -> None:
    behind = Group(A)
    behind.apply(FIRST)
    machine, rows = behind.machine, behind.rows

    assert machine.pull(rows, S0, N2, b"") == OUT_OF_STEP
    later = CopyId(pair.copy_id + 1)
    assert pair.a.machine.pull(pair.a.rows, S0, N2, b"", copy_id=later) == OUT_OF_STEP


def test_many_changes_of_one_row_go_once_and_in_bounded_pieces(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_CHANGES_MAX", 10)
    cursor = pair.stage()
    for seq in range(4, 20):
        pair.write(append(1, seq, b"a", b"x"))

    pair.a.restart()  # it has forgotten which change rows have later ones
    first = pair.a.pull(S0, 2, cursor)
    pulled = pair.a.pulled(S0, 2, first.next_cursor)

    assert [key[:1] for key, _ in first.rows] == [b"d", b"t"]
    assert first.next_cursor == changes_cursor(10)
    assert pulled.changes_left == 12
    assert limits.CHUNK_CHANGES_MAX > 1000


def test_a_row_that_changes_again_later_goes_with_its_last_change(pair: Pair) -> None:
    """Whoever knows of the later change row sends nothing for the earlier one, though it is behind
    and so would send an older row; whoever does not, does."""
    cursor = pair.stage()
    pair.write(append(1, 4, b"a", b"x"))
    pair.write(append(1, 5, b"b", b"x"))
    pair.catch_up()
    pair.write(append(1, 6, b"a", b"y"))

    ahead, behind = pair.a.pull(S0, 2, cursor), pair.lagging.pull(S0, 2, cursor)

    assert [key for key, _ in ahead.rows if key[:1] == b"d"] == [b"da", b"db"]
    assert ahead.next_cursor == changes_cursor(6)
    only_first = pair.a.pull(S0, 2, cursor, bytes_max=1)
    assert [key for key, _ in only_first.rows] == [b"db"]
    assert only_first.next_cursor == changes_cursor(4)
    assert dict(behind.rows)[b"da"] == pair.lagging.copy(S0)[b"da"]
    assert pair.b.apply(behind) == DONE
    cursor = pair.stage(behind.next_cursor)
    pair.freeze()
    assert pair.install(cursor) == DONE
    pair.check_equal()


def test_changes_go_in_chunks_of_the_size_asked_for(pair: Pair) -> None:
    cursor = pair.stage()
    pair.write(*[put(1, seq, b"k%d" % seq, b"v" * 1000) for seq in range(4, 12)])

    sizes = []
    while (chunk := pair.a.pulled(S0, 2, cursor, bytes_max=3000).chunk) is not None:
        sizes.append(len(chunk.rows))
        assert pair.b.apply(chunk) == DONE
        pair.b.restart()
        cursor = chunk.next_cursor

    # A row more than asked for is never given, and the session's row is one of each entry.
    assert sum(sizes) == 9 and max(sizes) <= 3
    pair.freeze()
    assert pair.install(cursor) == DONE
    pair.check_equal()


# The freeze and the install


def test_only_a_frozen_shard_tells_its_end_and_nothing_changes_after_it(pair: Pair) -> None:
    """S1, S9: what was let in before the freeze and comes after it is refused."""
    cursor = pair.stage()
    pair.write(put(1, 4, b"a", b"noted"))
    assert pair.a.pulled(S0, 2, cursor).end is None

    answers = pair.write(
        put(1, 5, b"a", b"in time"), Freeze(S0, N2, pair.copy_id), put(1, 6, b"a", b"late")
    )

    assert answers == [ok(3), DONE, Answer(Code.WRONG_GROUP, (2,))]
    assert pair.a.get(b"a") == Answer(Code.WRONG_GROUP, (2,))
    assert pair.a.pulled(S0, 2, cursor).end == 4
    assert pair.lagging.pulled(S0, 2, cursor).end is None  # it has not applied the freeze
    before = dict(pair.a.rows.map)
    assert pair.freeze() == DONE  # repeated
    assert (
        pair.write(OpenSession(S0), ExpireSessions(S0, ((SessionId(1), 5),)))
        == [Answer(Code.WRONG_GROUP, (2,))] * 2
    )
    assert pair.a.rows.map == before


@pytest.mark.parametrize("end", [0, 1, 3, 4])
def test_an_install_counts_only_at_the_end_of_the_changes(pair: Pair, end: int) -> None:
    """Safeguard H14: what is not staged yet would be lost."""
    pair.write(put(1, 4, b"a", b"noted"))
    cursor = pair.stage(pair.stage())
    pair.freeze()

    assert pair.b.apply(Install(S0, N2, pair.copy_id, end)) == OUT_OF_STEP

    assert pair.b.machine.record(S0).phase is Phase.ARRIVING
    assert cursor == changes_cursor(2)
    assert pair.install(cursor) == DONE
    pair.check_equal()


def test_a_freeze_is_of_its_copy_and_number(pair: Pair) -> None:
    """S7."""
    before = dict(pair.a.rows.map)

    assert pair.a.apply(Freeze(S0, N2, CopyId(pair.copy_id + 1))) == OUT_OF_STEP
    assert pair.a.apply(Freeze(S0, ConfigNumber(3), pair.copy_id)) == OUT_OF_STEP
    assert pair.a.apply(Freeze(S0, N1, pair.copy_id)) == Answer(Code.OLD, (2,))
    assert pair.b.apply(Freeze(S0, N2, pair.copy_id)) == OUT_OF_STEP

    assert pair.a.rows.map == before


def test_the_change_rows_are_garbage_once_the_copy_is_dropped(pair: Pair) -> None:
    """S12."""
    pair.write(put(1, 4, b"a", b"noted"))
    pair.freeze()
    pair.install(pair.stage())
    assert pair.a.apply(Drop(S0, N2)) == DONE
    assert len(noted(pair.a)) == 2
    pair.a.restart()  # it finds them again

    while deletes := pair.a.machine.garbage(pair.a.rows, 2):
        assert len(deletes) <= 2
        pair.a.rows.write(deletes)

    assert noted(pair.a) == [] and pair.a.copies() == []
    pair.a.restart()


# A copy that begins again


def test_a_restarted_copy_is_staged_anew_and_nothing_of_the_first_is_left(pair: Pair) -> None:
    """Safeguard H02: a row that the first copy had and the second has not must not stay."""
    cursor = pair.stage()
    first_id, generation = pair.copy_id, pair.b.machine.record(S0).generation
    late = pair.a.pull(S0, 2)
    pair.write(delete(1, 4, b"a"))

    assert pair.write(Restart(S0, N2, first_id)) == [DONE]

    assert pair.copy_id > first_id and pair.a.machine.changes(S0) == 0
    again = pair.a.machine.pull(pair.a.rows, S0, N2, cursor, copy_id=first_id)
    assert isinstance(again, copying.Pulled) and again.chunk is not None
    assert (again.chunk.copy_id, again.chunk.cursor) == (pair.copy_id, b"")
    assert pair.b.apply(again.chunk) == DONE
    assert pair.b.machine.record(S0).generation > generation
    assert pair.b.apply(late) == OUT_OF_STEP
    assert pair.b.apply(Install(S0, N2, first_id, 0)) == OUT_OF_STEP
    pair.b.restart()
    pair.freeze()
    assert pair.install(again.chunk.next_cursor) == DONE
    pair.check_equal()
    while deletes := pair.b.machine.garbage(pair.b.rows, 2):
        pair.b.rows.write(deletes)
    assert len(pair.b.copies()) == 1
    pair.check_equal()


def test_a_copy_begins_again_so_often_and_not_more(pair: Pair) -> None:
    for _ in range(RESTARTS_MAX):
        assert pair.write(Restart(S0, N2, pair.copy_id)) == [DONE]
    before = pair.a.machine.record(S0)

    assert pair.write(Restart(S0, N2, pair.copy_id)) == [OUT_OF_STEP]

    assert pair.a.machine.record(S0) == before
    assert pair.write(Freeze(S0, N2, CopyId(before.copy_id - 1))) == [OUT_OF_STEP]
    assert pair.freeze() == DONE
    assert pair.write(Restart(S0, N2, pair.copy_id)) == [OUT_OF_STEP], "frozen for ever"


def test_no_copy_id_and_no_generation_is_used_twice_in_one_entry(pair: Pair) -> None:
    """Safeguard H03."""
    first = pair.copy_id
    index = CopyId(pair.a.index + 1)

    assert pair.write(Restart(S0, N2, first), Restart(S0, N2, index)) == [DONE, OUT_OF_STEP]

    chunk = pair.a.pull(S0, 2)
    newer, newest = (chunk._replace(copy_id=CopyId(chunk.copy_id + more)) for more in (1, 2))
    pair.b.apply(chunk)
    assert pair.b.entry(newer, newest) == [DONE, OUT_OF_STEP]
    assert pair.b.machine.record(S0).generation == Generation(pair.b.index)


def test_a_session_row_that_changes_late_is_the_source_s_at_the_destination(pair: Pair) -> None:
    """C5 over the move: a write answered while its shard was copied is answered again, alike."""
    cursor = pair.stage()
    late = append(1, 4, b"b", b"+", floor=2)
    assert pair.write(late) == [ok(2)]
    pair.freeze()
    assert pair.install(cursor) == DONE

    assert pair.b.apply(late) == ok(2)
    assert pair.b.get(b"b") == row(b"2+", 2)
    assert pair.b.apply(put(1, 1, b"a", b"1")) == Answer(Code.SEQUENCE_STALE)


def test_a_chunk_names_what_it_is_of(pair: Pair) -> None:
    chunk = pair.a.pull(S0, 2, bytes_max=1)

    assert chunk == Chunk(S0, N2, pair.copy_id, b"", b"db", ((b"da", pair.a.copy(S0)[b"da"]),))
