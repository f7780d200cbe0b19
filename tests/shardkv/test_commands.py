"""Commands and answers as bytes: what was written is read, and nothing else is."""

from contextlib import suppress
from random import Random
from typing import Any

import msgpack
import pytest

from raft.errors import StopReplica
from shardctrler.types import ConfigNumber
from shardkv import limits
from shardkv.commands import (
    Batch,
    BatchWrite,
    Chunk,
    Command,
    Configure,
    Drop,
    ExpireSessions,
    Freeze,
    Install,
    Mutation,
    Op,
    OpenSession,
    PassTime,
    Renew,
    Restart,
    check_batch,
    check_if_version,
    check_key,
    check_value,
    decode,
    decode_answer,
    encode,
    encode_answer,
    encode_long_answer,
)
from shardkv.errors import (
    BadCommand,
    BatchCount,
    BatchTooLong,
    InvalidArgument,
    KeyEmpty,
    KeyTooLong,
    ValueTooLong,
    VersionOutOfRange,
)
from shardkv.once import PASS_MS_MAX, Once
from shardkv.rows import ROWS_DONE, changes_cursor
from shardkv.types import Answer, Code, CopyId, SessionId, Version
from tests.support.stores import S0, S3, put

MAX = limits.INTEGER_MAX
COMMANDS: list[Command] = [
    put(1, 1, b"k", b"v"),
    put(MAX, MAX, b"\x00\xff{..}/\n", b"", floor=MAX, if_version=MAX, shard=S3),
    put(7, 2, b"k" * 4096, b"v" * 2**20, if_version=0),
    Mutation(Op.APPEND, S0, SessionId(2), 9, 0, b"k", b"v"),
    Mutation(Op.DELETE, S0, SessionId(2), 9, 3, b"k", b"", Version(4)),
    Batch(S0, SessionId(2), 9, 0, (BatchWrite(Op.PUT, b"k"),)),
    Batch(
        S3,
        SessionId(MAX),
        MAX,
        MAX,
        (
            BatchWrite(Op.PUT, b"k", b"v", Version(0)),
            BatchWrite(Op.APPEND, b"\xff", b"v", Version(MAX)),
            BatchWrite(Op.DELETE, b"l" * 4096, b"", None),
        )
        * 42,
        Once(b"t" * 16),
    ),
    OpenSession(S3),
    ExpireSessions(S0, ((SessionId(1), 0), (SessionId(9), 70))),
    PassTime(S3, PASS_MS_MAX),
    Configure(b"anything"),
    Chunk(S3, ConfigNumber(4), CopyId(17), b"", b"dk2", ((b"dk1", b"r1"),)),
    Chunk(S3, ConfigNumber(4), CopyId(17), b"dk2", ROWS_DONE, ()),
    Chunk(
        S3, ConfigNumber(4), CopyId(17), ROWS_DONE, changes_cursor(3), ((b"da", None), (b"t", b"r"))
    ),
    Install(S3, ConfigNumber(4), CopyId(17), 3),
    Freeze(S3, ConfigNumber(4), CopyId(17)),
    Restart(S3, ConfigNumber(4), CopyId(17)),
    Renew(S3, ConfigNumber(4), ConfigNumber(6), arriving=True),
    Drop(S3, ConfigNumber(4)),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_was_written_is_read(command: Command) -> None:
    decoded = decode(encode(command))

    assert decoded == command
    assert type(decoded) is type(command)


def test_bytes_of_commands_stay_as_they_are() -> None:
    """They lie in logs on disk: a change here needs a new format number."""
    assert encode(put(3, 2, b"k", b"v", if_version=5)).hex() == "99010100030201c4016bc4017605"
    assert encode(Drop(S3, ConfigNumber(4))).hex() == "9401170304"
    written = (BatchWrite(Op.PUT, b"k", b"v"), BatchWrite(Op.DELETE, b"l", b"", Version(5)))
    assert (
        encode(Batch(S3, SessionId(3), 2, 1, written)).hex()
        == "98010403030201929401c4016bc40176c09403c4016cc40005c0"
    )


WRITE = [1, 1, 0, 1, 1, 1, b"k", b"v", None]
BATCHED = [1, b"k", b"v", None]
BATCH: list[Any] = [1, 4, 0, 1, 1, 1, [BATCHED, [3, b"k", b"", 1]], None]
CHUNK: list[Any] = [1, 24, 0, 4, 17, b"", b"dz", [[b"da", b"1"], [b"db", b"2"]]]
CHANGED: list[Any] = [1, 24, 0, 4, 17, ROWS_DONE, changes_cursor(9), [[b"da", None], [b"db", b"2"]]]


def changed(fields: list[Any], at: int, value: Any) -> list[Any]:
    return [*fields[:at], value, *fields[at + 1 :]]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        pytest.param([], BadCommand, id="an empty array"),
        pytest.param([1], BadCommand, id="no kind"),
        pytest.param({1: 1}, BadCommand, id="a map"),
        pytest.param("text", BadCommand, id="a text"),
        pytest.param(changed(WRITE, 0, 0), BadCommand, id="format 0"),
        pytest.param(changed(WRITE, 0, "1"), BadCommand, id="a format that is text"),
        pytest.param(changed(WRITE, 0, 2), StopReplica, id="a newer format"),
        pytest.param(changed(WRITE, 1, 9), BadCommand, id="an unknown kind"),
        pytest.param(changed(WRITE, 1, [1]), BadCommand, id="a kind that is a list"),
        pytest.param(changed(WRITE, 1, True), BadCommand, id="a kind that is a bool"),
        pytest.param(WRITE[:-1], BadCommand, id="a field too few"),
        pytest.param([*WRITE, 1], BadCommand, id="a field too many"),
        pytest.param(changed(WRITE, 2, -1), BadCommand, id="shard -1"),
        pytest.param(changed(WRITE, 2, 16384), BadCommand, id="shard 16384"),
        pytest.param(changed(WRITE, 2, 1.0), BadCommand, id="a shard that is a float"),
        pytest.param(changed(WRITE, 3, 0), BadCommand, id="session 0"),
        pytest.param(changed(WRITE, 3, True), BadCommand, id="a session that is a bool"),
        pytest.param(changed(WRITE, 3, 2**63), BadCommand, id="session 2^63"),
        pytest.param(changed(changed(WRITE, 4, 0), 5, 0), BadCommand, id="seq 0"),
        pytest.param(changed(WRITE, 4, 2**63), BadCommand, id="seq 2^63"),
        pytest.param(changed(WRITE, 5, 2), BadCommand, id="a floor above its seq"),
        pytest.param(changed(WRITE, 5, -1), BadCommand, id="floor -1"),
        pytest.param(changed(WRITE, 6, b""), KeyEmpty, id="an empty key"),
        pytest.param(changed(WRITE, 6, b"k" * 4097), KeyTooLong, id="a key one byte too long"),
        pytest.param(changed(WRITE, 6, "k"), BadCommand, id="a key that is text"),
        pytest.param(changed(WRITE, 7, b"v" * (2**20 + 1)), ValueTooLong, id="a value too long"),
        pytest.param(changed(WRITE, 7, None), BadCommand, id="no value"),
        pytest.param(changed(WRITE, 8, -1), VersionOutOfRange, id="if_version -1"),
        pytest.param(changed(WRITE, 8, 2**63), VersionOutOfRange, id="if_version 2^63"),
        pytest.param(changed(WRITE, 8, float("nan")), BadCommand, id="if_version NaN"),
        pytest.param(changed(WRITE, 1, 3), BadCommand, id="a delete with a value"),
        pytest.param(BATCH[:-1], BadCommand, id="a batch of a field too few"),
        pytest.param(changed(BATCH, 4, 0), BadCommand, id="a batch of seq 0"),
        pytest.param(changed(BATCH, 5, 2), BadCommand, id="a batch of a floor above its seq"),
        pytest.param(changed(BATCH, 2, 16384), BadCommand, id="a batch of shard 16384"),
        pytest.param(changed(BATCH, 6, []), BatchCount, id="a batch of nothing"),
        pytest.param(changed(BATCH, 6, [BATCHED] * 129), BatchCount, id="a batch of 129"),
        pytest.param(changed(BATCH, 6, 1), BadCommand, id="a batch of a number"),
        pytest.param(changed(BATCH, 6, [1]), BadCommand, id="a write that is a number"),
        pytest.param(changed(BATCH, 6, [BATCHED[:-1]]), BadCommand, id="a write without version"),
        pytest.param(changed(BATCH, 6, [[4, *BATCHED[1:]]]), BadCommand, id="a batch in a batch"),
        pytest.param(changed(BATCH, 6, [[True, *BATCHED[1:]]]), BadCommand, id="op True"),
        pytest.param(changed(BATCH, 6, [[3, *BATCHED[1:]]]), BadCommand, id="delete with a value"),
        pytest.param(
            changed(BATCH, 6, [BATCHED, [1, b"", b"", None]]),
            KeyEmpty,
            id="an empty key in a batch",
        ),
        pytest.param(
            changed(BATCH, 6, [[1, b"k" * 4097, b"", None]]), KeyTooLong, id="a long key in a batch"
        ),
        pytest.param(
            changed(BATCH, 6, [[1, b"k", b"v" * (2**20 + 1), None]]),
            ValueTooLong,
            id="a long value in a batch",
        ),
        pytest.param(
            changed(BATCH, 6, [[1, b"k", b"v" * 2**19, None]] * 2), BatchTooLong, id="a long batch"
        ),
        pytest.param(changed(BATCH, 6, [[1, "k", b"", None]]), BadCommand, id="a key of text"),
        pytest.param(changed(BATCH, 6, [[1, b"k", None, None]]), BadCommand, id="a value of nil"),
        pytest.param(changed(BATCH, 6, [[1, b"k", b"", -1]]), BadCommand, id="a version of -1"),
        pytest.param(changed(BATCH, 7, [b"short", 1]), BadCommand, id="a batch of a short name"),
        pytest.param([1, 11, 0, []], BadCommand, id="no session to expire"),
        pytest.param([1, 11, 0, [[1, 0]] * 1025], BadCommand, id="1,025 sessions to expire"),
        pytest.param([1, 12, 0, -1], BadCommand, id="time that goes back"),
        pytest.param([1, 12, 0, PASS_MS_MAX + 1], BadCommand, id="too much time at once"),
        pytest.param([1, 12, 0, 1.5], BadCommand, id="time in parts"),
        pytest.param([1, 11, 0, [[1]]], BadCommand, id="a session without its figure"),
        pytest.param([1, 20, "config"], BadCommand, id="a configuration that is text"),
        pytest.param(changed(CHUNK, 3, 0), BadCommand, id="configuration 0"),
        pytest.param(changed(CHUNK, 4, 0), BadCommand, id="copy id 0"),
        pytest.param(changed(CHUNK, 5, b"db"), BadCommand, id="a row before the cursor"),
        pytest.param(changed(CHUNK, 6, b"db"), BadCommand, id="a row at the next cursor"),
        pytest.param(changed(CHUNK, 6, b""), BadCommand, id="a cursor that does not go on"),
        pytest.param(changed(CHUNK, 6, b"\xff"), BadCommand, id="half a cursor"),
        pytest.param(changed(CHUNK, 7, 0), BadCommand, id="rows that are a number"),
        pytest.param(changed(CHUNK, 7, [[b"db", b""], [b"da", b""]]), BadCommand, id="descending"),
        pytest.param(changed(CHUNK, 7, [[b"da", b""], [b"da", b""]]), BadCommand, id="twice"),
        pytest.param(changed(CHUNK, 7, [[b"", b""]]), BadCommand, id="an empty row key"),
        pytest.param(changed(CHUNK, 7, [[b"da"]]), BadCommand, id="a row without a value"),
        pytest.param(changed(CHUNK, 7, [[b"da", None]]), BadCommand, id="an absent row, no change"),
        pytest.param(changed(CHANGED, 6, ROWS_DONE), BadCommand, id="no change row further"),
        pytest.param(changed(CHANGED, 5, ROWS_DONE + b"1"), BadCommand, id="a cursor too long"),
        pytest.param(changed(CHANGED, 7, [[b"\xff", b""]]), BadCommand, id="a key out of the copy"),
        pytest.param([1, 25, 0, 4, 17, -1], BadCommand, id="an end below 0"),
        pytest.param([1, 25, 0, 4, 17], BadCommand, id="an install without an end"),
        pytest.param([1, 26, 0, 4, 0], BadCommand, id="a freeze of no copy"),
        pytest.param([1, 27, 0, 0, 17], BadCommand, id="a restart of no configuration"),
        pytest.param([1, 21, 0, 4, 17, b"", b"dz", False, []], BadCommand, id="a chunk of old"),
        pytest.param(
            changed(CHUNK, 7, [[b"da", b"x" * 2**17], [b"db", b"x" * 2**17]]),
            BadCommand,
            id="two rows over the limit",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode(msgpack.packb(fields))


def test_the_valid_neighbours_of_the_refused_are_read() -> None:
    decode(msgpack.packb(WRITE))
    decode(msgpack.packb(BATCH))
    decode(msgpack.packb(changed(BATCH, 6, [BATCHED] * 128)))
    decode(msgpack.packb(changed(BATCH, 6, [[1, b"k" * 4096, b"v" * (2**20 - 4096), None]])))
    decode(msgpack.packb(CHUNK))
    decode(msgpack.packb(CHANGED))
    decode(msgpack.packb(changed(CHUNK, 7, [])))
    decode(msgpack.packb(changed(CHUNK, 7, [[b"da", b"x" * 2**18]])))  # one row may be larger


def test_damaged_bytes_never_do_worse_than_an_error() -> None:
    rng = Random("damaged commands")
    for command in COMMANDS:
        data = bytearray(encode(command)[:300])
        for _ in range(300):
            damaged = bytearray(data)
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            with suppress(InvalidArgument, StopReplica):  # any other exception fails the test
                decode(bytes(damaged[: rng.randrange(len(damaged) + 1)]))


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097])
def test_key_limits(length: int) -> None:
    if length == 0:
        with pytest.raises(KeyEmpty, match="1 to 4096"):
            check_key(b"")
    elif length > 4096:
        with pytest.raises(KeyTooLong, match="1 to 4096 bytes, not 4097"):
            check_key(b"k" * length)
    else:
        check_key(b"k" * length)


def test_value_and_version_limits() -> None:
    check_value(b"v" * 2**20)
    with pytest.raises(ValueTooLong, match="1048576 bytes, not 1048577"):
        check_value(b"v" * (2**20 + 1))
    for version in (None, 0, MAX):
        check_if_version(version)
    for version in (-1, 2**63):
        with pytest.raises(VersionOutOfRange, match=f"not {version}"):
            check_if_version(version)


def test_batch_limits() -> None:
    """Each error about one operation names it; each other one the limit."""
    good = BatchWrite(Op.PUT, b"k", b"v")
    check_batch([good])
    check_batch([good] * 128)
    check_batch([BatchWrite(Op.PUT, b"k", b"v" * (2**20 - 1))])

    with pytest.raises(BatchCount, match="1 to 128 operations, not 0"):
        check_batch([])
    with pytest.raises(BatchCount, match="1 to 128 operations, not 129"):
        check_batch([good] * 129)
    with pytest.raises(BatchTooLong, match="1048576 bytes together, not 1048577"):
        check_batch([BatchWrite(Op.PUT, b"k", b"v" * 2**20)])
    for bad, error in (
        (good._replace(key=b""), KeyEmpty),
        (good._replace(value=b"v" * (2**20 + 1)), ValueTooLong),
        (good._replace(if_version=Version(-1)), VersionOutOfRange),
    ):
        with pytest.raises(error, match=r"^operation 2 of the batch: ") as caught:
            check_batch([good, good, bad, bad])
        assert caught.value.operation == 2


def test_a_digest_tells_batches_apart() -> None:
    one, two = BatchWrite(Op.PUT, b"ab", b"c"), BatchWrite(Op.APPEND, b"d", b"e")

    def digest(*writes: BatchWrite) -> bytes:
        return Batch(S0, SessionId(1), 1, 1, writes).digest

    others = [
        digest(one, two),
        digest(two, one),
        digest(one),
        digest(one, one),
        digest(one, two._replace(if_version=Version(0))),
        digest(one._replace(key=b"a", value=b"bc"), two),
        digest(one._replace(value=b"c" + b" 2 -1 1 1 de"), two),
        digest(one._replace(op=Op.APPEND), two),
        put(1, 1, b"ab", b"c").digest,
    ]

    assert len(set(others)) == len(others)
    batch = Batch(S0, SessionId(1), 1, 1, (one, two))
    assert batch._replace(seq=9, floor=9, session=SessionId(4)).digest == digest(one, two)


def test_a_digest_tells_commands_apart_and_repetitions_together() -> None:
    command = put(1, 1, b"ab", b"c")

    others = [
        put(1, 1, b"a", b"bc"),
        put(1, 1, b"ab", b"d"),
        put(1, 1, b"ab", b"c", if_version=0),
        put(1, 1, b"ab", b"c", if_version=1),
        command._replace(op=Op.APPEND),
        command._replace(op=Op.DELETE, value=b""),
        command._replace(value=b""),
    ]

    assert len({other.digest for other in [command, *others]}) == 1 + len(others)
    assert command._replace(seq=9, floor=9).digest == command.digest


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Code.OK),
        Answer(Code.OK, (MAX,)),
        Answer(Code.VALUE_TOO_LONG, (2**20 + 1,)),
        Answer(Code.NOT_READY, (MAX, MAX)),
    ],
)
def test_answers_are_small_and_read_as_written(answer: Answer) -> None:
    data = encode_answer(answer)

    assert len(data) <= limits.ANSWER_BYTES_MAX
    assert decode_answer(data) == answer
    assert type(decode_answer(data).code) is Code


def test_a_long_answer_is_read_as_written() -> None:
    """A batch's, which no session records."""
    answer = Answer(Code.OK, (MAX,) * limits.BATCH_OPERATIONS_MAX)

    assert decode_answer(encode_long_answer(answer)) == answer
    assert encode_long_answer(Answer(Code.OK, (7,))) == encode_answer(Answer(Code.OK, (7,)))


@pytest.mark.parametrize("fields", [[], [99], ["0"], [0, -1], [0, b""], [0, *range(129)], 0])
def test_what_is_no_answer_is_refused(fields: object) -> None:
    with pytest.raises(BadCommand):
        decode_answer(msgpack.packb(fields))
