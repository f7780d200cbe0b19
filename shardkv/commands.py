"""What a group's log says: commands of clients, of configurations and of copies, and their bytes.

A command is a msgpack array `[format, kind, field, ...]`. Every field's type and range is checked
when it is read, by the server that lets it in and again by each replica that applies it. Only
`FORMAT` exists; bytes of a newer one raise `StopReplica`, because a replica that guessed would
differ from the others. Keys and rows of a command are bytes, kept exactly; nothing is text.

Answers have a codec of their own, because sessions record them: at most 64 bytes.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from raft.errors import StopReplica
from shardctrler.types import ConfigNumber, ShardId
from shardkv.errors import (
    BadCommand,
    BatchCount,
    BatchTooLong,
    KeyEmpty,
    KeyTooLong,
    ShardKVError,
    ValueTooLong,
    VersionOutOfRange,
)
from shardkv.limits import (
    ANSWER_BYTES_MAX,
    BATCH_BYTES_MAX,
    BATCH_OPERATIONS_MAX,
    CHUNK_BYTES_MAX,
    EXPIRE_SESSIONS_MAX,
    INTEGER_MAX,
    KEY_BYTES_MAX,
    KEY_BYTES_MIN,
    SLOTS,
    VALUE_BYTES_MAX,
)
from shardkv.once import PASS_MS_MAX, TOKEN_BYTES, Once
from shardkv.rows import COPY_END, counter_at
from shardkv.types import Answer, Code, CopyId, SessionId, Version

FORMAT: Final = 1
_no_digest: Final = blake2b(digest_size=8).copy  # cheaper than one made from its parameters
_DIGEST_HEAD: Final = Struct(">BqI")  # op, if_version or -1, bytes of the key
_CONFIG_BYTES_MAX: Final = 1 << 20  # of a configuration: thousands of members
_ROW_KEY_BYTES_MAX: Final = KEY_BYTES_MAX + 16  # a row's key under its shard: a kind, and a key
_ROW_BYTES_MAX: Final = VALUE_BYTES_MAX + 64  # a row: a value and what `rows.py` puts before it


class Op(IntEnum):
    """What a client does to a key. The numbers are stored."""

    PUT = 1
    APPEND = 2
    DELETE = 3


class Mutation(NamedTuple):
    """One client's write to one key.

    `shard` is the key's: the server that lets the command in has checked it against the routing,
    which replicas need not know. `seq` counts from 1 in its session; below `floor` the client
    waits for no answer (RIFL's *firstIncomplete*). `if_version` None writes whatever is there.
    A delete's `value` is empty. What names a request is no part of its digest.
    """

    op: Op
    shard: ShardId
    session: SessionId
    seq: int
    floor: int
    key: bytes
    value: bytes = b""
    if_version: Version | None = None
    once: Once | None = None
    """The name that a client behind a clerk gave the request (`once.py`)."""

    @property
    def digest(self) -> bytes:
        """What tells this command from another under the same sequence number: 8 bytes.

        Without session, sequence and floor: a repetition brings a newer floor and is the same.
        """
        op, _, _, _, _, key, value, if_version, _ = self
        head = _DIGEST_HEAD.pack(op, -1 if if_version is None else if_version, len(key))
        hash_ = _no_digest()
        hash_.update(b"".join((head, key, value)))
        return hash_.digest()


class BatchWrite(NamedTuple):
    """One operation of a batch; fields as a `Mutation`'s."""

    op: Op
    key: bytes
    value: bytes = b""
    if_version: Version | None = None


class Batch(NamedTuple):
    """One client's writes to keys of one shard: all of them, or none (`batches.py`).

    They count as one command: one sequence, one answer. Done in their order, so each sees what
    those before it wrote. `check_batch` has their limits. The other fields are as a `Mutation`'s.
    """

    shard: ShardId
    session: SessionId
    seq: int
    floor: int
    writes: tuple[BatchWrite, ...]
    once: Once | None = None

    @property
    def digest(self) -> bytes:
        """As a `Mutation`'s, and never equal to one's: that begins with a digit."""
        whole = blake2b(b"batch", digest_size=8)
        for op, key, value, if_version in self.writes:
            guard = -1 if if_version is None else if_version
            whole.update(b" %d %d %d %d " % (op, guard, len(key), len(value)))
            whole.update(key)
            whole.update(value)
        return whole.digest()


class OpenSession(NamedTuple):
    """Open a session in `shard`; the answer's fact is its number. A lost answer leaves a session
    that nobody uses, until it expires."""

    shard: ShardId


class ExpireSessions(NamedTuple):
    """Forget sessions that were idle for long.

    Each is named with the highest sequence that it had used when the leader found it idle: one
    used since then stays.
    """

    shard: ShardId
    idle: tuple[tuple[SessionId, int], ...]


class PassTime(NamedTuple):
    """Let a shard grow older by so many milliseconds, as its leader measured them (`once.py`)."""

    shard: ShardId
    ms: int


class Configure(NamedTuple):
    """Take the next configuration: the encoded `ShardConfig`, whole, so that apply asks nobody."""

    config: bytes


class Chunk(NamedTuple):
    """A piece of a shard, as a replica of its source gives it and the destination logs it.

    What copy `copy_id`, made for configuration `number`, has from `cursor` to `next_cursor`
    (`rows.py`): rows by their keys below the copy's prefix, ascending, data and session rows alike.
    Among the rows it is those that lie between the two. Among the change rows it is each row that
    they name, once, as it stood when it was read: None where it is absent.
    """

    shard: ShardId
    number: ConfigNumber
    copy_id: CopyId
    cursor: bytes
    next_cursor: bytes
    rows: tuple[tuple[bytes, bytes | None], ...]


class Install(NamedTuple):
    """Serve what copy `copy_id` has staged, from here on. The source has said that it is frozen
    and that `end` change rows are all there are."""

    shard: ShardId
    number: ConfigNumber
    copy_id: CopyId
    end: int


class Freeze(NamedTuple):
    """Answer no client any more about a shard whose copy `copy_id` is under way."""

    shard: ShardId
    number: ConfigNumber
    copy_id: CopyId


class Restart(NamedTuple):
    """Begin the copy `copy_id` again: too much has changed since it began."""

    shard: ShardId
    number: ConfigNumber
    copy_id: CopyId


class Drop(NamedTuple):
    """Forget the frozen copy: an owner since configuration `number` has said that it is in."""

    shard: ShardId
    number: ConfigNumber


class Abandoned(NamedTuple):
    """A group is given up for lost by a later configuration, the encoded `ShardConfig`: do not wait
    for it any more."""

    config: bytes
    arriving: bool
    """Whether the shards that were to come from it begin anew here, empty; otherwise those that
    were to go to it stay, or are dropped."""


class Renew(NamedTuple):
    """This group was recovered from a survivor that may have lacked entries, and has not yet come
    to the configuration that names it: what those entries did with a shard on its way stands in
    nobody's log any more, and others may have acted on it. See `steps.renew`."""

    shard: ShardId
    number: ConfigNumber
    named: ConfigNumber
    """That configuration, or a later one by which the group is the same."""
    arriving: bool
    """Whether the shard was to come here and the source has it no longer; otherwise it leaves."""


Step: TypeAlias = Chunk | Install | Freeze | Restart | Renew | Drop
"""A step of a hand-over."""
Asked: TypeAlias = Mutation | Batch | OpenSession
"""What clients ask of a group."""
Command: TypeAlias = Asked | ExpireSessions | PassTime | Configure | Abandoned | Step

_pack: Final[Callable[[Any], bytes]] = msgpack.Packer(use_bin_type=True).pack


# Limits of clients, checked at both ends


def check_key(key: bytes) -> None:
    """Raises KeyEmpty or KeyTooLong."""
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise KeyTooLong(len(key)) if key else KeyEmpty()


def check_value(value: bytes) -> None:
    """Raises ValueTooLong."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueTooLong(len(value))


def check_if_version(version: int | None) -> None:
    """Raises VersionOutOfRange."""
    if version is not None and not 0 <= version <= INTEGER_MAX:
        raise VersionOutOfRange(version)


def check_batch(writes: Sequence[BatchWrite]) -> None:
    """Raises BatchCount or BatchTooLong; or what the checks above raise, of one operation."""
    if not 1 <= len(writes) <= BATCH_OPERATIONS_MAX:
        raise BatchCount(len(writes))
    for at, write in enumerate(writes):
        try:
            check_key(write.key)
            check_value(write.value)
            check_if_version(write.if_version)
        except ShardKVError as error:
            error.operation = at
            raise
    length = sum(len(write.key) + len(write.value) for write in writes)
    if length > BATCH_BYTES_MAX:
        raise BatchTooLong(length)


# Commands to bytes and back

_BATCH: Final = 4  # after the kinds of an `Op`
_OPEN_SESSION: Final = 10
_EXPIRE_SESSIONS: Final = 11
_PASS_TIME: Final = 12
_CONFIGURE: Final = 20
_DROP: Final = 23
_CHUNK: Final = 24  # 21 and 22 were the steps of a copy that froze its shard first
_INSTALL: Final = 25
_FREEZE: Final = 26
_RESTART: Final = 27
_ABANDONED: Final = 28
_RENEW: Final = 29

_KINDS: Final[dict[type, int]] = {
    Batch: _BATCH,
    OpenSession: _OPEN_SESSION,
    ExpireSessions: _EXPIRE_SESSIONS,
    PassTime: _PASS_TIME,
    Configure: _CONFIGURE,
    Chunk: _CHUNK,
    Install: _INSTALL,
    Freeze: _FREEZE,
    Restart: _RESTART,
    Renew: _RENEW,
    Drop: _DROP,
    Abandoned: _ABANDONED,
}


def encode(command: Command) -> bytes:
    """The command's bytes. Its limits are the caller's to check (`check_key` and the others)."""
    if type(command) is Mutation:
        return encode_mutation(*command)
    return _pack((FORMAT, _KINDS[type(command)], *command))


def encode_mutation(
    op: Op,
    shard: ShardId,
    session: SessionId,
    seq: int,
    floor: int,
    key: bytes,
    value: bytes,
    if_version: Version | None,
    once: Once | None,
) -> bytes:
    """As `encode`, of a `Mutation` with these fields."""
    if once is None:
        return _pack((FORMAT, op, shard, session, seq, floor, key, value, if_version))
    return _pack((FORMAT, op, shard, session, seq, floor, key, value, if_version, once))


def decode(data: bytes) -> Command:
    """The command that `data` holds, every field checked.

    Raises:
        BadCommand: Not a command, or a field of the wrong type or out of range.
        InvalidArgument: A client's limit is broken (`KeyTooLong` and the others).
        StopReplica: A newer format than this version knows.
    """
    try:
        fields = msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadCommand(f"command is not msgpack: {error}") from error
    if type(fields) is not list or len(fields) < 2:
        raise BadCommand("command is not an array of format, kind and fields")
    version, kind = fields[0], fields[1]
    if version is not FORMAT and version != FORMAT:
        if type(version) is int and version > FORMAT:
            raise StopReplica(f"command of format {version}; this version knows {FORMAT}")
        raise BadCommand(f"command of format {version!r}")
    decoder = _DECODERS.get(kind) if type(kind) is int else None
    if decoder is None:
        raise BadCommand(f"command of kind {kind!r}")
    return decoder(fields)


_OPS: Final = {int(op): op for op in Op}
_DELETE: Final = int(Op.DELETE)
_new: Final = tuple.__new__


def _mutation(fields: list[Any]) -> Mutation:
    once = _once(fields.pop()) if len(fields) == 10 else None
    if len(fields) != 9:
        raise BadCommand(f"write of {len(fields)} fields")
    _, op, shard, session, seq, floor, key, value, if_version = fields
    # One expression for the good case, which is the hot path; the bad one is told apart below.
    if (
        type(shard) is type(session) is type(seq) is type(floor) is int
        and type(key) is type(value) is bytes
        and 0 <= shard < SLOTS
        and 0 < session <= INTEGER_MAX
        and 0 <= floor <= seq <= INTEGER_MAX
        and seq
        and KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX
        and len(value) <= VALUE_BYTES_MAX
        and (if_version is None or (type(if_version) is int and 0 <= if_version <= INTEGER_MAX))
        and (op != _DELETE or not value)
    ):
        # As a NamedTuple makes itself, but for one call less: all is checked above.
        return _new(Mutation, (_OPS[op], shard, session, seq, floor, key, value, if_version, once))
    _bytes("key", key, INTEGER_MAX)
    check_key(key)
    _bytes("value", value, INTEGER_MAX)
    check_value(value)
    if if_version is not None:
        if type(if_version) is not int:
            raise BadCommand(f"if_version is a {type(if_version).__name__}")
        check_if_version(if_version)
    _shard(shard)
    _integer("session", session, 1)
    _integer("seq", seq, 1)
    _integer("floor", floor, 0, seq)
    raise BadCommand("a delete has no value")


def _batch(fields: list[Any]) -> Batch:
    shard, session, seq, floor, rows, once = _take(fields, "Batch", 6)
    if type(rows) is not list:
        raise BadCommand(f"writes are a {type(rows).__name__}")
    if len(rows) > BATCH_OPERATIONS_MAX:
        raise BatchCount(len(rows))
    writes = tuple([_batch_write(row) for row in rows])
    check_batch(writes)
    return Batch(
        _shard(shard),
        SessionId(_integer("session", session, 1)),
        _integer("seq", seq, 1),
        _integer("floor", floor, 0, seq),
        writes,
        None if once is None else _once(once),
    )


def _batch_write(row: Any) -> BatchWrite:
    if type(row) is not list or len(row) != 4:
        raise BadCommand("a write of a batch is an operation, a key, a value and a version")
    op, key, value, if_version = row
    if type(op) is not int or op not in _OPS:
        raise BadCommand(f"operation {op!r:.20} of a batch")
    if op == Op.DELETE and value != b"":
        raise BadCommand("a delete has no value")
    if if_version is not None:
        if_version = Version(_integer("if_version", if_version, 0))
    key, value = _bytes("key", key, INTEGER_MAX), _bytes("value", value, INTEGER_MAX)
    return BatchWrite(_OPS[op], key, value, if_version)


def _once(value: object) -> Once:
    if type(value) is not list or len(value) != 1 or type(value[0]) is not bytes:
        raise BadCommand("a request's name is a token")
    if len(value[0]) != TOKEN_BYTES:
        raise BadCommand(f"a token has {TOKEN_BYTES} bytes, not {len(value[0])}")
    return Once(value[0])


def _open_session(fields: list[Any]) -> OpenSession:
    (shard,) = _take(fields, "OpenSession", 1)
    return OpenSession(_shard(shard))


def _expire_sessions(fields: list[Any]) -> ExpireSessions:
    shard, idle = _take(fields, "ExpireSessions", 2)
    if type(idle) is not list or not 1 <= len(idle) <= EXPIRE_SESSIONS_MAX:
        raise BadCommand(f"ExpireSessions names 1 to {EXPIRE_SESSIONS_MAX} sessions")
    pairs = []
    for pair in idle:
        if type(pair) is not list or len(pair) != 2:
            raise BadCommand("an idle session is a number and a sequence")
        session = SessionId(_integer("session", pair[0], 1))
        pairs.append((session, _integer("idle since", pair[1], 0)))
    return ExpireSessions(_shard(shard), tuple(pairs))


def _pass_time(fields: list[Any]) -> PassTime:
    shard, ms = _take(fields, "PassTime", 2)
    return PassTime(_shard(shard), _integer("ms", ms, 0, PASS_MS_MAX))


def _configure(fields: list[Any]) -> Configure:
    (config,) = _take(fields, "Configure", 1)
    return Configure(_bytes("config", config, _CONFIG_BYTES_MAX))


def _abandoned(fields: list[Any]) -> Abandoned:
    config, arriving = _take(fields, "Abandoned", 2)
    if type(arriving) is not bool:
        raise BadCommand("whether arriving shards begin anew is true or false")
    return Abandoned(_bytes("config", config, _CONFIG_BYTES_MAX), arriving)


def _chunk(fields: list[Any]) -> Chunk:
    shard, number, copy_id, cursor, next_cursor, pairs = _take(fields, "Chunk", 6)
    counter, _ = _cursor(cursor), _cursor(next_cursor)
    if next_cursor <= cursor:
        raise BadCommand("a chunk goes on from its cursor")
    if type(pairs) is not list:
        raise BadCommand(f"rows are a {type(pairs).__name__}")
    # Among the change rows the keys are any; among the rows they lie between the two cursors.
    lo, hi = (cursor, next_cursor) if counter is None else (b"", COPY_END)
    rows: list[tuple[bytes, bytes | None]] = []
    size, previous = 0, b""
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2:
            raise BadCommand("a row is a key and a value")
        key = _bytes("row key", pair[0], _ROW_KEY_BYTES_MAX)
        value = None if pair[1] is None else _bytes("row", pair[1], _ROW_BYTES_MAX)
        if not lo <= key < min(hi, COPY_END) or key <= previous:
            raise BadCommand("rows ascend from the cursor to the next one")
        if value is None and counter is None:
            raise BadCommand("an absent row is no row")
        size += len(key) + len(value or b"")
        previous = key
        rows.append((key, value))
    if size > CHUNK_BYTES_MAX and len(rows) > 1:
        raise BadCommand(f"chunk of {size} bytes in {len(rows)} rows, over {CHUNK_BYTES_MAX}")
    return Chunk(
        _shard(shard), _number(number), _copy_id(copy_id), cursor, next_cursor, tuple(rows)
    )


def _cursor(value: Any) -> int | None:
    """Where a cursor stands among the change rows; None: among the rows."""
    try:
        return counter_at(_bytes("cursor", value, _ROW_KEY_BYTES_MAX))
    except ValueError as error:
        raise BadCommand(str(error)) from None


def _install(fields: list[Any]) -> Install:
    shard, number, copy_id, end = _take(fields, "Install", 4)
    return Install(_shard(shard), _number(number), _copy_id(copy_id), _integer("end", end, 0))


def _freeze(fields: list[Any]) -> Freeze:
    shard, number, copy_id = _take(fields, "Freeze", 3)
    return Freeze(_shard(shard), _number(number), _copy_id(copy_id))


def _restart(fields: list[Any]) -> Restart:
    shard, number, copy_id = _take(fields, "Restart", 3)
    return Restart(_shard(shard), _number(number), _copy_id(copy_id))


def _renew(fields: list[Any]) -> Renew:
    shard, number, named, arriving = _take(fields, "Renew", 4)
    if type(arriving) is not bool:
        raise BadCommand("whether a shard arrives is true or false")
    return Renew(_shard(shard), _number(number), _number(named), arriving)


def _drop(fields: list[Any]) -> Drop:
    shard, number = _take(fields, "Drop", 2)
    return Drop(_shard(shard), _number(number))


_DECODERS: Final[dict[int, Callable[[list[Any]], Command]]] = {
    int(Op.PUT): _mutation,
    int(Op.APPEND): _mutation,
    int(Op.DELETE): _mutation,
    _BATCH: _batch,
    _OPEN_SESSION: _open_session,
    _EXPIRE_SESSIONS: _expire_sessions,
    _PASS_TIME: _pass_time,
    _CONFIGURE: _configure,
    _CHUNK: _chunk,
    _INSTALL: _install,
    _FREEZE: _freeze,
    _RESTART: _restart,
    _RENEW: _renew,
    _DROP: _drop,
    _ABANDONED: _abandoned,
}


# Answers to bytes and back

_CODES: Final = {int(code): code for code in Code}


def encode_answer(answer: Answer) -> bytes:
    """The answer's bytes: a msgpack array `[code, fact, ...]`, at most `ANSWER_BYTES_MAX`."""
    data = _pack((answer[0], *answer[1]))
    assert len(data) <= ANSWER_BYTES_MAX, answer
    return data


def encode_long_answer(answer: Answer) -> bytes:
    """As `encode_answer`, also of a batch, with a version an operation. No session records it."""
    assert len(answer.facts) <= BATCH_OPERATIONS_MAX, answer
    return _pack((answer[0], *answer[1]))


def decode_answer(data: bytes) -> Answer:
    """The answer that `data` holds; BadCommand if it is none."""
    try:
        fields = msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadCommand(f"answer is not msgpack: {error}") from error
    if type(fields) is not list or not 1 <= len(fields) <= 1 + BATCH_OPERATIONS_MAX:
        raise BadCommand("answer is not an array of a code and facts")
    code = _CODES.get(fields[0]) if type(fields[0]) is int else None
    if code is None:
        raise BadCommand(f"answer of code {fields[0]!r}")
    return Answer(code, tuple(_integer("fact", fact, 0) for fact in fields[1:]))


# Fields


def _take(fields: list[Any], what: str, count: int) -> list[Any]:
    if len(fields) != 2 + count:
        raise BadCommand(f"{what} of {len(fields) - 2} fields, not {count}")
    return fields[2:]


def _integer(what: str, value: Any, lo: int, hi: int = INTEGER_MAX) -> int:
    """`value` if it is a whole number in `[lo, hi]`, both included."""
    if type(value) is not int:
        raise BadCommand(f"{what} is a {type(value).__name__}, not a whole number")
    if not lo <= value <= hi:
        raise BadCommand(f"{what} is {value}, not in {lo} to {hi}")
    return value


def _bytes(what: str, value: Any, length_max: int) -> bytes:
    if type(value) is not bytes:
        raise BadCommand(f"{what} is a {type(value).__name__}, not bytes")
    if len(value) > length_max:
        raise BadCommand(f"{what} is {len(value)} bytes, over {length_max}")
    return value


def _shard(value: Any) -> ShardId:
    return ShardId(_integer("shard", value, 0, SLOTS - 1))


def _copy_id(value: Any) -> CopyId:
    return CopyId(_integer("copy id", value, 1))


def _number(value: Any) -> ConfigNumber:
    return ConfigNumber(_integer("config number", value, 1))
