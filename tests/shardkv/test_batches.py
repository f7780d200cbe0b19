"""Batches: all of their writes are done or none, once, wherever the shard goes."""

from collections.abc import Callable
from typing import Any

import pytest

from raft.ports import Rows
from shardctrler.types import ConfigNumber, ShardId
from shardkv import batches
from shardkv.commands import (
    Batch,
    BatchWrite,
    ExpireSessions,
    Freeze,
    Install,
    Mutation,
    Op,
    OpenSession,
)
from shardkv.held import HeldShard
from shardkv.limits import BATCH_OPERATIONS_MAX, SESSION_WINDOW, VALUE_BYTES_MAX
from shardkv.machine import StoreMachine
from shardkv.once import TOKEN_BYTES, Once
from shardkv.protocol import Proposal
from shardkv.rows import RowDamaged, prefix_of
from shardkv.server import GroupServer
from shardkv.types import ABSENT, DONE, Answer, Code, Generation, SessionId, Version
from tests.support.stores import S0, S3, A, B, Group, configures, delete, ok, put, row

PUT, APPEND, DELETE = Op.PUT, Op.APPEND, Op.DELETE


@pytest.fixture
def group() -> Group:
    """Group A serves shards 0, 1 and 2; session 1 of shard 0 is open. Shard 3 is B's."""
    group = Group(A)
    assert group.apply(configures([A, A, A, B])[0]) == DONE
    assert group.open(S0) == 1
    return group


def write(op: Op, key: bytes, value: bytes = b"", if_version: int | None = None) -> BatchWrite:
    return BatchWrite(op, key, value, None if if_version is None else Version(if_version))


def batch(
    session: int, seq: int, *writes: BatchWrite, shard: ShardId = S0, floor: int = 1
) -> Batch:
    return Batch(shard, SessionId(session), seq, floor, writes)


def data(group: Group) -> dict[bytes, bytes]:
    """All rows but sessions': what a batch that is refused leaves as they are."""
    return {key: value for key, value in group.copy(S0).items() if key[:1] not in b"tb"}


# In order


def test_each_write_sees_those_before_it(group: Group) -> None:
    group.apply(put(1, 1, b"a", b"old"))

    answer = group.apply(
        batch(
            1, 2,
            write(PUT, b"a", b"x", 1),
            write(APPEND, b"a", b"y", 2),
            write(PUT, b"b", b"new", 0),
            write(DELETE, b"b", if_version=1),
            write(PUT, b"b", b"newer", 0),
            write(DELETE, b"c"),
        )
    )  # fmt: skip

    assert answer == ok(2, 3, 1, 0, 2, 0)
    assert group.get(b"a") == row(b"xy", 3)
    assert group.get(b"b") == row(b"newer", 2)
    assert group.get(b"c") == ABSENT


def test_batches_and_writes_of_one_entry_see_each_other(group: Group) -> None:
    answers = group.entry(
        put(1, 1, b"k", b"1"),
        batch(1, 2, write(APPEND, b"k", b"2"), write(APPEND, b"l", b"2")),
        delete(1, 3, b"l"),
        batch(1, 4, write(APPEND, b"l", b"4", 0), write(APPEND, b"k", b"4", 2)),
    )

    assert answers == [ok(1), ok(2, 1), ok(0), ok(2, 3)]
    assert group.get(b"k") == row(b"124", 3)


def test_a_whole_batch_of_the_largest_number(group: Group) -> None:
    writes = [write(PUT, b"%d" % at, b"v") for at in range(BATCH_OPERATIONS_MAX)]

    assert group.apply(batch(1, 1, *writes)) == ok(*[1] * BATCH_OPERATIONS_MAX)
    assert group.apply(batch(1, 1, *writes)) == ok(*[1] * BATCH_OPERATIONS_MAX)


# All or nothing

REFUSED = [
    pytest.param(
        [write(PUT, b"a", b"x"), write(PUT, b"b", b"x", 7), write(PUT, b"c", b"x")],
        Answer(Code.VERSION_MISMATCH, (1, 1)),
        id="a version in the middle",
    ),
    pytest.param(
        [write(PUT, b"a", b"x"), write(PUT, b"a", b"y", 1)],
        Answer(Code.VERSION_MISMATCH, (2, 1)),
        id="a version that the batch itself has changed",
    ),
    pytest.param(
        [write(DELETE, b"b"), write(PUT, b"b", b"y"), write(DELETE, b"c", if_version=1)],
        Answer(Code.VERSION_MISMATCH, (0, 2)),
        id="a version after deletes",
    ),
    pytest.param(
        [write(PUT, b"c", b"x"), write(APPEND, b"full", b"x"), write(PUT, b"a", b"x")],
        Answer(Code.VALUE_TOO_LONG, (VALUE_BYTES_MAX + 1, 1)),
        id="an append past the limit",
    ),
    pytest.param(
        [write(PUT, b"x%d" % at, b"x") for at in range(127)] + [write(DELETE, b"a", b"", 9)],
        Answer(Code.VERSION_MISMATCH, (1, 127)),
        id="the last of 128",
    ),
]


@pytest.mark.parametrize("moving", [False, True], ids=["at home", "while it moves"])
@pytest.mark.parametrize(("writes", "refusal"), REFUSED)
def test_a_refused_batch_leaves_nothing(
    group: Group, writes: list[BatchWrite], refusal: Answer, moving: bool
) -> None:
    group.apply(put(1, 1, b"a", b"a"))
    group.apply(put(1, 2, b"b", b"b"))
    group.apply(put(1, 3, b"full", b"v" * VALUE_BYTES_MAX))
    if moving:
        group.apply(configures([A, A, A, B], [B, A, A, B])[1])
    before = data(group)

    assert group.apply(batch(1, 4, *writes)) == refusal

    assert data(group) == before
    assert group.machine.changes(S0) == (1 if moving else 0), "the session's row, which records it"
    group.restart()  # mirrors as the rows: the highest deleted version above all
    assert group.apply(put(1, 5, b"new", b"")) == ok(1)
    assert group.apply(batch(1, 4, *writes)) == refusal, "recorded, and it stays refused"
    assert data(group)[b"da"] == before[b"da"]


def test_a_refused_batch_does_not_hide_what_its_entry_did_before(group: Group) -> None:
    answers = group.entry(
        batch(1, 1, write(PUT, b"a", b"1"), write(PUT, b"b", b"1")),
        batch(1, 2, write(DELETE, b"a"), write(PUT, b"b", b"2", 9)),
        batch(1, 3, write(APPEND, b"a", b"3"), write(APPEND, b"b", b"3")),
    )

    assert answers == [ok(1, 1), Answer(Code.VERSION_MISMATCH, (1, 1)), ok(2, 2)]
    assert (group.get(b"a"), group.get(b"b")) == (row(b"13", 2), row(b"13", 2))


# Once


@pytest.mark.parametrize("restart", [False, True], ids=["in one life", "over a restart"])
def test_a_repeated_batch_gets_the_versions_of_then(group: Group, restart: bool) -> None:
    asked = batch(1, 1, write(APPEND, b"a", b"x"), write(APPEND, b"b", b"x"), write(DELETE, b"c"))
    assert group.apply(asked) == ok(1, 1, 0)
    group.apply(put(1, 2, b"a", b"later"))
    if restart:
        group.restart()

    assert group.apply(asked) == ok(1, 1, 0)
    assert group.apply(asked._replace(floor=0)) == ok(1, 1, 0)
    assert group.get(b"a") == row(b"later", 2)
    assert group.get(b"b") == row(b"x", 1)


@pytest.mark.parametrize(
    "other",
    [
        batch(1, 1, write(PUT, b"a", b"x")),
        batch(1, 1, write(PUT, b"b", b"x"), write(PUT, b"a", b"x")),
        batch(1, 1, write(PUT, b"a", b"x"), write(PUT, b"b", b"x", 0)),
        batch(1, 1, write(PUT, b"ax", b""), write(PUT, b"b", b"x")),
        batch(1, 1, write(APPEND, b"a", b"x"), write(PUT, b"b", b"x")),
        put(1, 1, b"a", b"x"),
    ],
)
def test_another_command_under_its_number_is_refused(group: Group, other: Any) -> None:
    group.apply(batch(1, 1, write(PUT, b"a", b"x"), write(PUT, b"b", b"x")))

    assert group.apply(other) == Answer(Code.SEQUENCE_REUSED)
    assert group.get(b"a") == row(b"x", 1)


def test_what_is_acknowledged_is_forgotten(group: Group) -> None:
    """The row of a session's batches is never longer than its window."""
    sizes = []
    for seq in range(1, 3 * SESSION_WINDOW):
        floor = max(1, seq - SESSION_WINDOW + 1)
        assert group.apply(batch(1, seq, write(PUT, b"k", b"v"), floor=floor)) == ok(seq)
        sizes.append(len(group.copy(S0)[b"b" + (1).to_bytes(8, "big")]))

    assert max(sizes) == sizes[-1] == 1 + SESSION_WINDOW * 18
    assert group.apply(batch(1, 1, write(PUT, b"k", b"v"))) == Answer(Code.SEQUENCE_STALE)


def test_it_is_forgotten_with_its_session(group: Group) -> None:
    group.apply(OpenSession(S0))
    group.apply(batch(1, 1, write(PUT, b"k", b"v")))
    group.apply(batch(2, 1, write(PUT, b"k", b"v")))

    assert group.apply(ExpireSessions(S0, ((SessionId(1), 1), (SessionId(2), 0)))) == ok(1)

    assert [key for key in group.copy(S0) if key[:1] == b"b"] == [b"b" + (2).to_bytes(8, "big")]
    again = batch(1, 1, write(PUT, b"k", b"v"))
    assert group.apply(again) == Answer(Code.SESSION_EXPIRED)


def test_a_batch_that_the_client_named_is_done_once_whoever_carries_it(group: Group) -> None:
    """With its versions, by whatever session it comes again; and a name is of one request."""
    name = Once(b"\xff" * TOKEN_BYTES)
    asked = batch(1, 1, write(APPEND, b"a", b"x"), write(APPEND, b"b", b"x"))._replace(once=name)
    second = group.open()
    assert group.apply(asked) == ok(1, 1)
    group.apply(put(1, 2, b"a", b"later"))

    assert group.apply(asked._replace(session=second)) == ok(1, 1)
    assert group.apply(asked._replace(session=second)) == ok(1, 1), "by its session now"
    other = batch(second, 2, write(APPEND, b"a", b"x"))._replace(once=name)
    assert group.apply(other) == Answer(Code.NAME_REUSED)
    assert group.get(b"a") == row(b"later", 2)


def test_a_damaged_row_stops_the_replica(group: Group) -> None:
    asked = batch(1, 1, write(PUT, b"k", b"v"))
    group.apply(asked)
    key = prefix_of(S0, group.machine.record(S0).generation) + b"b" + (1).to_bytes(8, "big")
    whole = group.rows.map[key]

    for broken in (b"", b"\x02" + whole[1:], whole[:-1], whole + b"\x00"):
        group.rows.map[key] = broken
        with pytest.raises(RowDamaged):
            group.apply(asked)


# Where the shard is


def test_a_batch_for_a_shard_that_is_elsewhere_touches_nothing(group: Group) -> None:
    before = dict(group.rows.map)

    assert group.apply(batch(1, 1, write(PUT, b"k", b"v"), shard=S3)) == Answer(
        Code.WRONG_GROUP, (1,)
    )
    assert group.apply(batch(1, 1, write(PUT, b"k", b"v"), shard=ShardId(4))) == Answer(
        Code.BAD_COMMAND
    )
    assert group.rows.map == before


def test_it_moves_whole_and_is_answered_there_as_it_was_here() -> None:
    """A batch before the move, one among its change rows, and one let in before the freeze that is
    applied after it."""
    here, there = Group(A), Group(B)
    first, second = configures([A, A, A, A], [B, A, A, A])
    for group in (here, there):
        group.apply(first)
    session = here.open()
    early = batch(session, 1, write(PUT, b"a", b"1"), write(PUT, b"b", b"1"))
    amid = batch(session, 2, write(APPEND, b"a", b"2"), write(DELETE, b"b"))
    late = batch(session, 3, write(APPEND, b"a", b"3"), write(APPEND, b"b", b"3"))
    assert here.apply(early) == ok(1, 1)
    for group in (here, there):
        group.apply(second)
    copy_id = here.machine.record(S0).copy_id

    there.apply(here.pull(S0, 2))
    assert here.apply(amid) == ok(2, 0)
    here.apply(Freeze(S0, ConfigNumber(2), copy_id))
    assert here.apply(late) == Answer(Code.WRONG_GROUP, (2,))
    while (pulled := here.pulled(S0, 2, there.machine.record(S0).cursor)).chunk is not None:
        there.apply(pulled.chunk)
    assert pulled.end is not None
    assert there.apply(Install(S0, ConfigNumber(2), copy_id, pulled.end)) == DONE

    assert there.copy(S0) == here.copy(S0)
    assert there.apply(amid) == ok(2, 0)
    assert there.apply(early) == ok(1, 1)
    assert there.apply(late) == ok(3, 2)
    assert there.get(b"a") == row(b"123", 3)
    assert here.apply(late) == Answer(Code.WRONG_GROUP, (2,))


def test_each_row_has_one_change_row_however_often_it_is_written(group: Group) -> None:
    group.apply(configures([A, A, A, B], [B, A, A, B])[1])

    group.apply(batch(1, 1, *[write(APPEND, b"k", b"x")] * 5, write(PUT, b"l", b"x")))

    assert group.machine.changes(S0) == 4, "k, l, the session, its batches"


# The tests can fail


def _partial(self: StoreMachine, held: HeldShard, writes: Any, rows: Rows) -> Answer:
    """The obvious way: each write as it comes."""
    versions: list[int] = []
    for at, each in enumerate(writes):
        code, facts = self._write(held, *each, rows)
        if code is not Code.OK:
            return Answer(code, (*facts, at))
        versions += facts
    return Answer(Code.OK, tuple(versions))


def _highest_deleted_stays(self: StoreMachine, held: HeldShard, writes: Any, rows: Rows) -> Answer:
    before = held.highest_deleted
    answer = _WRITE_ALL(self, held, writes, rows)
    if answer.code is not Code.OK and any(each.op is DELETE for each in writes):
        held.highest_deleted = max(before, 1)
    return answer


_WRITE_ALL = StoreMachine._write_all


@pytest.mark.parametrize("broken", [_partial, _highest_deleted_stays])
def test_half_a_batch_is_seen(
    group: Group, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Answer]
) -> None:
    monkeypatch.setattr(StoreMachine, "_write_all", broken)

    with pytest.raises(AssertionError):
        test_a_refused_batch_leaves_nothing(
            group, REFUSED[2].values[0], REFUSED[2].values[1], False
        )


def test_versions_of_a_batch_that_nobody_remembered() -> None:
    group = Group(A)

    with pytest.raises(AssertionError, match="session 7 has done batch 3"):
        batches.recall(group.rows, prefix_of(S0, Generation(1)), 7, 3)


def test_a_write_to_a_shard_that_is_not_its_keys_goes_no_further_than_the_door() -> None:
    """No machine knows the routing: it would lie there, and nobody would ever find it."""
    group = Group(A)
    group.apply(configures([A, A, A, A])[0])
    door = object.__new__(GroupServer)
    door.machine, door._routing = group.machine, lambda key: S3 if key == b"3" else S0

    def answered(command: Mutation | Batch) -> object:
        return door._at_the_door(Proposal(b"", command), True)

    def batch(*keys: bytes) -> Batch:
        return Batch(S0, SessionId(1), 1, 1, tuple([BatchWrite(Op.PUT, key) for key in keys]))

    assert answered(put(1, 1, b"0", b"v")) is answered(batch(b"0", b"00")) is None
    for stray in (put(1, 1, b"3", b"v"), batch(b"3"), batch(b"0", b"3"), batch(b"3", b"0")):
        assert answered(stray) == Answer(Code.BAD_COMMAND)
