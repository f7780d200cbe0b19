"""Names that clients give their requests: one request a name and key, for a day, wherever the shard
goes."""

from random import Random

import msgpack
import pytest

from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import Freeze, Install, Mutation, Op, PassTime, decode, encode
from shardkv.errors import BadCommand
from shardkv.once import FORGOTTEN_BY_TIME, KEEP_MS, PASS_MS_MAX, TOKEN_BYTES, Once
from shardkv.types import DONE, Answer, Code
from tests.support.stores import S0, Group, append, configures, ok, put, row


def named(command: Mutation, name: int | bytes) -> Mutation:
    token = name if isinstance(name, bytes) else name.to_bytes(TOKEN_BYTES, "big")
    return command._replace(once=Once(token))


def pass_time(group: Group, ms: int) -> None:
    """As a leader says it, an hour at a time at most."""
    while ms:
        assert group.apply(PassTime(S0, min(ms, PASS_MS_MAX))) == DONE
        ms -= min(ms, PASS_MS_MAX)


def names(group: Group) -> tuple[int, int]:
    """How many names the shard says that it knows, and how many rows they have."""
    known = group.machine.names(group.rows, S0)
    assert known is not None
    return known.names, sum(key[:1] in (b"i", b"j") for key in group.copy(S0))


def serving(**limits: int) -> Group:
    group = Group(1, **limits)
    for command in configures((1, 1, 1, 1)):
        group.apply(command)
    return group


def test_of_two_requests_of_one_name_one_is_done_whoever_carries_it() -> None:
    """Another clerk, so another session and sequence; and through a restart in between."""
    group = serving()
    first, second = group.open(), group.open()

    assert group.apply(named(append(first, 1, b"k", b"x"), 1)) == ok(1)
    group.restart()
    assert group.apply(named(append(second, 1, b"k", b"x"), 1)) == ok(1)
    assert group.apply(named(append(second, 1, b"k", b"x"), 1)) == ok(1)

    assert group.get(b"k") == row(b"x", 1)
    assert group.apply(named(append(second, 2, b"k", b"x"), 2)) == ok(2), "another name"
    assert group.apply(append(second, 3, b"k", b"x")) == ok(3), "no name"
    assert group.get(b"k") == row(b"xxx", 3)


def test_in_one_entry_the_second_sees_what_the_first_recorded() -> None:
    group = serving()
    first, second = group.open(), group.open()

    answers = group.entry(
        named(append(first, 1, b"k", b"x"), 1), named(append(second, 1, b"k", b"x"), 1)
    )

    assert answers == [ok(1), ok(1)]
    assert group.get(b"k") == row(b"x", 1)


def test_a_refusal_is_remembered_like_any_answer() -> None:
    group = serving()
    session = group.open()
    refused = Answer(Code.VERSION_MISMATCH, (0,))

    assert group.apply(named(put(session, 1, b"k", b"v", if_version=7), 1)) == refused
    for seq in range(2, 9):
        group.apply(put(session, seq, b"k", b"w"))

    again = named(put(session, 9, b"k", b"v", if_version=7), 1)
    assert group.apply(again) == refused, "at version 7 now, and still the answer of then"


def test_a_name_is_of_one_request() -> None:
    group = serving()
    session = group.open()
    group.apply(named(put(session, 1, b"k", b"v"), 1))

    for seq, other in enumerate(
        (
            put(session, 2, b"k", b"w"),
            put(session, 3, b"k", b"v", if_version=0),
            append(session, 4, b"k", b"v"),
            Mutation(Op.DELETE, S0, session, 5, 1, b"k"),
        ),
        start=2,
    ):
        assert group.apply(named(other, 1)) == Answer(Code.NAME_REUSED), seq
    assert group.get(b"k") == row(b"v", 1)


def test_a_name_is_free_again_after_a_day_and_its_rows_go() -> None:
    group = serving()
    session = group.open()
    for name in range(100):
        group.apply(named(put(session, name + 1, b"k", b"v", floor=name + 1), name))
    assert names(group) == (100, 200)
    pass_time(group, KEEP_MS - 1)
    late = named(append(session, 101, b"k", b"x", floor=101), 5)
    assert group.apply(late) == Answer(Code.NAME_REUSED), "a millisecond before"
    assert names(group) == (100, 200)
    assert group.apply(PassTime(S0, 1)) == DONE
    assert names(group) == (0, 0)
    free = named(append(session, 102, b"k", b"x", floor=102), 5)
    assert group.apply(free) == ok(101)
    group.restart()
    assert names(group) == (1, 2)


def test_old_names_go_in_slices_and_are_not_known_meanwhile() -> None:
    group = serving()
    session = group.open()
    count = FORGOTTEN_BY_TIME + 300
    for name in range(count):
        group.apply(named(put(session, name + 1, b"k", b"v", floor=name + 1), name))
    pass_time(group, KEEP_MS)
    assert names(group) == (300, 600)
    assert group.machine.has_old_names(group.rows, S0, KEEP_MS)

    last = count - 1  # the youngest: still a row, and past its day
    again = named(append(session, count + 1, b"k", b"x", floor=count + 1), last)
    assert group.apply(again) == ok(count + 1)
    assert names(group) == (298, 596), "two that are old went for it, and its own row was old"
    assert group.apply(again._replace(seq=count + 2)) == ok(count + 1), "and is known anew"
    assert group.apply(PassTime(S0, 0)) == DONE
    assert names(group) == (1, 2)
    assert not group.machine.has_old_names(group.rows, S0, KEEP_MS)


def test_a_shard_that_knows_its_fill_refuses_new_names_and_does_nothing() -> None:
    """The old ones are still answered; the same request is done once there is room."""
    group = serving(names_max=3)
    session, other = group.open(), group.open()
    for name in range(3):
        assert group.apply(named(append(session, name + 1, b"k", b"x"), name)) == ok(name + 1)
    full = Answer(Code.NAMES_FULL, (3,))
    before = group.copy(S0)

    fourth = named(append(session, 4, b"k", b"x"), 4)
    assert group.apply(fourth) == full
    assert group.copy(S0) == before
    assert group.apply(named(append(other, 1, b"k", b"x"), 0)) == ok(1), "a name that is known"
    assert group.apply(append(other, 2, b"k", b"y")) == ok(4), "and what has no name"
    pass_time(group, KEEP_MS)
    assert group.apply(fourth) == ok(5), "the session recorded no refusal"
    assert group.get(b"k") == row(b"xxxyx", 5)


def test_only_a_shard_that_is_served_grows_older() -> None:
    group = serving()
    other = Group(2)
    for command in configures((1, 1, 1, 1)):
        other.apply(command)

    assert other.apply(PassTime(S0, 5)).code is Code.WRONG_GROUP
    assert other.machine.names(other.rows, S0) is None
    assert group.apply(PassTime(ShardId(99), 5)).code is Code.BAD_COMMAND


def test_names_move_with_their_shard() -> None:
    """What the source remembered, the destination answers; a name given meanwhile too."""
    source, target = serving(), Group(2)
    for command in configures((1, 1, 1, 1), (2, 1, 1, 1)):
        target.apply(command)
    session = source.open()
    assert source.apply(named(append(session, 1, b"k", b"x"), 1)) == ok(1)
    source.apply(configures((1, 1, 1, 1), (2, 1, 1, 1))[1])
    pass_time(source, 1000)
    assert source.apply(named(append(session, 2, b"k", b"y"), 2)) == ok(2), "while it is copied"
    _move(source, target)
    assert target.machine.names(target.rows, S0) == (1000, 2), "as old as it was"

    other = target.open()
    assert target.apply(named(append(other, 1, b"k", b"x"), 1)) == ok(1)
    assert target.apply(named(append(other, 2, b"k", b"y"), 2)) == ok(2)
    assert target.get(b"k") == row(b"xy", 2)
    assert source.apply(named(append(session, 3, b"k", b"x"), 3)).code is Code.WRONG_GROUP


def _move(source: Group, target: Group) -> None:
    """The end of a hand-over: what lies there, what changed since, freeze, install."""
    number, copy_id = ConfigNumber(2), source.machine.record(S0).copy_id
    cursor = b""
    assert source.apply(Freeze(S0, number, copy_id)) == DONE
    while True:
        pulled = source.pulled(S0, 2, cursor)
        if pulled.chunk is None:
            break
        assert target.apply(pulled.chunk) == DONE
        cursor = pulled.chunk.next_cursor
    assert pulled.end is not None
    assert target.apply(Install(S0, number, copy_id, pulled.end)) == DONE


@pytest.mark.parametrize(
    "once", [[b"short"], [bytes(17)], [bytes(16), 1], "name", [], [1], bytes(16)]
)
def test_what_is_no_name_is_no_command(once: object) -> None:
    good = msgpack.unpackb(encode(named(put(1, 1, b"k", b"v"), 1)))

    with pytest.raises(BadCommand):
        decode(msgpack.packb([*good[:-1], once]))


def test_a_named_command_reads_as_it_was_written_and_others_are_as_before() -> None:
    rng = Random(7)
    plain = put(3, 4, b"k", b"v", if_version=2)
    command = named(plain, rng.randbytes(TOKEN_BYTES))

    assert decode(encode(command)) == command
    assert decode(encode(plain)) == plain
    assert len(encode(plain)) < len(encode(command)) - TOKEN_BYTES
    assert plain.digest == command.digest
