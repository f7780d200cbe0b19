"""Names that clients give their requests: one request a name and key, for a day, wherever the shard
goes."""

from random import Random

import msgpack
import pytest

from shardctrler.types import ConfigNumber
from shardkv.commands import Freeze, Install, Mutation, Op, decode, encode
from shardkv.errors import BadCommand
from shardkv.once import KEEP_MS, TOKEN_BYTES, Once
from shardkv.types import DONE, Answer, Code
from tests.support.stores import S0, Group, append, configures, ok, put, row

DAY = KEEP_MS
NOW = 10 * DAY


def named(command: Mutation, name: int | bytes, at_ms: int = NOW) -> Mutation:
    token = name if isinstance(name, bytes) else b"\xff" + name.to_bytes(TOKEN_BYTES - 1, "big")
    return command._replace(once=Once(token, at_ms))


def serving() -> Group:
    group = Group(1)
    for command in configures((1, 1, 1, 1)):
        group.apply(command)
    return group


def test_of_two_requests_of_one_name_one_is_done_whoever_carries_it() -> None:
    """Another clerk, so another session and sequence; and through a restart in between."""
    group = serving()
    first, second = group.open(), group.open()

    assert group.apply(named(append(first, 1, b"k", b"x"), 1)) == ok(1)
    group.restart()
    assert group.apply(named(append(second, 1, b"k", b"x"), 1, NOW + 5000)) == ok(1)
    assert group.apply(named(append(second, 1, b"k", b"x"), 1, NOW + 5000)) == ok(1)

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
    rows = len(group.copy(S0))
    for name in range(100):
        group.apply(named(put(session, name + 1, b"k", b"v", floor=name + 1), name))
    assert len(group.copy(S0)) >= rows + 200
    late = named(append(session, 101, b"k", b"x", floor=101), 5, NOW + DAY - 1)
    assert group.apply(late) == Answer(Code.NAME_REUSED), "a millisecond before"
    free = named(append(session, 102, b"k", b"x", floor=102), 5, NOW + DAY)
    assert group.apply(free) == ok(101)

    for seq, first in enumerate((0, 1), start=103):
        sweeper = bytes([first]) * TOKEN_BYTES
        group.apply(named(put(session, seq, b"k", b"v", floor=seq), sweeper, NOW + DAY + 1))

    left = [key for key in group.copy(S0) if key[:1] in (b"i", b"j")]
    assert len(left) == 2 * (1 + 2), "the name that was used anew, and the two that swept"
    group.restart()


def test_names_move_with_their_shard() -> None:
    """What the source remembered, the destination answers; a name given meanwhile too."""
    source, target = serving(), Group(2)
    for command in configures((1, 1, 1, 1), (2, 1, 1, 1)):
        target.apply(command)
    session = source.open()
    assert source.apply(named(append(session, 1, b"k", b"x"), 1)) == ok(1)
    source.apply(configures((1, 1, 1, 1), (2, 1, 1, 1))[1])
    assert source.apply(named(append(session, 2, b"k", b"y"), 2)) == ok(2), "while it is copied"
    _move(source, target)

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
    "once", [[b"short", 1], [bytes(16), -1], [bytes(16)], "name", [bytes(16), 1, 2], [1, 2]]
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
