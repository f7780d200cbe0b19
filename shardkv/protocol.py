"""What clerks and groups say to each other: the bodies of calls, as versioned msgpack arrays.

Method `kv` carries a frame of operations for one group, answered by one result each, in order. A
message costs a hundred microseconds, an operation in it a few: so everything that a clerk has for
a group travels together. A write travels as the encoded command that the group will log
(`shardkv/commands.py`): the server checks it at the door and proposes the very bytes.

=========  ===================================================================
frame      [format, gid, config number, [operation, ...]], and whether marks are wanted, and
           [[position, W3C traceparent], ...] of operations that are traced
operation  key of a Get, as an array [key] | bytes of an encoded client command
reply      [format, status, config number, leader or nil, [result, ...]], and where
           marks were wanted: applied index, [epoch of the operation's shard, ...]
leader     [node id, address for clients, or ""]
result     [code, fact, ...] | [200, version, value or nil] | [101 to 105]
=========  ===================================================================

Every field's type and range is checked on reading; what does not fit raises `BadFrame`, names the
rule, and nothing of it is done. `docs/protocol.md` has what groups ask each other.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from raft.errors import StopReplica
from raft.tracing import CONTEXT_CHARACTERS_MAX, TRACES_MAX
from raft.types import GroupId, NodeId
from shardkv import commands
from shardkv.commands import Asked, Batch, Mutation, OpenSession
from shardkv.errors import InvalidArgument
from shardkv.limits import (
    BATCH_BYTES_MAX,
    BATCH_OPERATIONS_MAX,
    FRAME_BYTES_MAX,
    FRAME_OPERATIONS_MAX,
    INTEGER_MAX,
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from shardkv.types import Answer, Code, Row, Version

KV: Final = "kv"
"""The method of clients' frames."""

FORMAT: Final = 1
OPERATION_OVERHEAD_BYTES: Final = 64
"""What an operation adds to a frame besides its key and value: seven numbers, lengths, kinds."""

_GID_MAX: Final = 2**31 - 1
_NAME_CHARACTERS_MAX: Final = 300
_ROW: Final = 200
_ONE_OPERATION_BYTES_MAX: Final = KEY_BYTES_MAX + VALUE_BYTES_MAX + 1024
_ONE_BATCH_BYTES_MAX: Final = BATCH_BYTES_MAX + 32 * BATCH_OPERATIONS_MAX + 1024
assert max(_ONE_OPERATION_BYTES_MAX, _ONE_BATCH_BYTES_MAX) <= FRAME_BYTES_MAX, (
    "the largest operation fits into a frame"
)


class BadFrame(Exception):
    """Bytes that are not what this method takes; the message says which rule they break."""


class Get(NamedTuple):
    """A linearizable read of one key."""

    key: bytes


class Proposal(NamedTuple):
    """A client's command as it travels and as it reads."""

    data: bytes
    command: Asked


Operation: TypeAlias = Get | Proposal


class Trouble(IntEnum):
    """Why an operation got no answer from the group's state."""

    NOT_LEADER = 101  # certainly not done through this replica: ask the leader
    UNKNOWN = 102  # proposed, and whether it will be applied cannot be known here
    BUSY = 103  # nothing was done: too much waits already
    NO_ROOM = 105  # nothing was done: the leader's disk, or most voters', are below the watermark
    REPLY_FULL = 104  # a Get whose value has no room in this reply: ask again at once


Result: TypeAlias = Answer | Row | Trouble
"""A Get that was served is answered by a `Row`, one that was not as any other operation is."""


class Status(IntEnum):
    """What became of a whole frame. Anything but ANSWERED: nothing of it was done."""

    ANSWERED = 0  # one result an operation
    NOT_LEADER = 1  # `leader` says who to ask, where known
    NO_SUCH_GROUP = 2  # this node hosts no replica of the group
    BUSY = 3  # the node has its fill of operations in flight


class Leader(NamedTuple):
    """Where to ask: the node, and its address for clients ("" where the replica does not know)."""

    node: NodeId
    address: str


class Frame(NamedTuple):
    """Operations for one group. `config_number` tells a group that is behind to look for news."""

    gid: GroupId
    config_number: int
    operations: tuple[Operation, ...]
    marks: bool = False
    """Whether a session wants to know which states it was shown (`shardkv/tokens.py`)."""
    traces: tuple[tuple[int, str], ...] = ()
    """Operations that are traced, by their place, each with its W3C `traceparent`."""


class Reply(NamedTuple):
    """`config_number` is the newest that the replica has applied; 0 if it has none."""

    status: Status
    config_number: int = 0
    leader: Leader | None = None
    results: tuple[Result, ...] = ()
    applied: int = 0
    epochs: tuple[int, ...] = ()
    """One an operation where marks were wanted, else none."""


def encode_frame(
    gid: GroupId,
    config_number: int,
    operations: Iterable[Get | bytes],
    *,
    marks: bool = False,
    traces: Sequence[tuple[int, str]] = (),
) -> bytes:
    """Args:
    operations: Gets, and client commands already encoded.
    marks: Whether the reply is to say which states were shown.
    traces: At most `TRACES_MAX` operations that are traced, by their place.
    """
    fields = (FORMAT, gid, config_number, list(operations))
    if traces:
        return pack((*fields, marks, traces))
    return pack((*fields, True) if marks else fields)


def decode_frame(body: bytes) -> Frame:
    """Raises:
    BadFrame: not a frame, or one past a limit, which the message names.
    """
    if len(body) > FRAME_BYTES_MAX:
        raise BadFrame(f"a frame is at most {FRAME_BYTES_MAX} bytes, not {len(body)}")
    gid, config_number, rows, *more = unpack(body, 3, most=5)
    if more and type(more[0]) is not bool:
        raise BadFrame("marks are wanted or not: a flag")
    if type(rows) is not list or not 1 <= len(rows) <= FRAME_OPERATIONS_MAX:
        raise BadFrame(f"a frame holds 1 to {FRAME_OPERATIONS_MAX} operations")
    return Frame(
        GroupId(integer(gid, "gid", most=_GID_MAX)),
        integer(config_number, "config number"),
        tuple([_operation(row) for row in rows]),
        bool(more and more[0]),
        _traces(more[1], len(rows)) if len(more) > 1 else (),
    )


def _traces(rows: Any, operations: int) -> tuple[tuple[int, str], ...]:
    if type(rows) is not list or len(rows) > TRACES_MAX:
        raise BadFrame(f"a frame has at most {TRACES_MAX} traces")
    found = []
    for row in rows:
        if type(row) is not list or len(row) != 2 or type(row[1]) is not str:
            raise BadFrame("a trace is a position and a traceparent")
        if len(row[1]) > CONTEXT_CHARACTERS_MAX:
            raise BadFrame(f"a traceparent is at most {CONTEXT_CHARACTERS_MAX} characters")
        found.append((integer(row[0], "position", most=operations - 1), row[1]))
    return tuple(found)


def encode_reply(reply: Reply) -> bytes:
    results = [_wire_result(result) for result in reply.results]
    fields = (FORMAT, reply.status, reply.config_number, reply.leader, results)
    return pack((*fields, reply.applied, reply.epochs) if reply.epochs else fields)


def decode_reply(body: bytes) -> Reply:
    """Raises:
    BadFrame: not a reply of this version.
    """
    status, config_number, leader, rows, *more = unpack(body, 4, most=6)
    if type(rows) is not list or len(rows) > FRAME_OPERATIONS_MAX:
        raise BadFrame("a reply holds a list of results")
    if len(more) not in (0, 2):
        raise BadFrame("an applied index and epochs come together")
    applied, epochs = more or (0, [])
    if type(epochs) is not list or len(epochs) not in (0, len(rows)):
        raise BadFrame("a reply holds one epoch an operation")
    return Reply(
        _STATUSES[integer(status, "status", most=len(_STATUSES) - 1)],
        integer(config_number, "config number"),
        None if leader is None else _leader(leader),
        tuple([_result(row) for row in rows]),
        integer(applied, "index"),
        tuple([integer(epoch, "epoch") for epoch in epochs]),
    )


def _operation(row: object) -> Operation:
    try:
        if type(row) is bytes:
            command = commands.decode(row)
            if isinstance(command, _ASKED):
                return Proposal(row, command)
            raise BadFrame(f"{type(command).__name__} is no command of a client")
        if type(row) is list and len(row) == 1 and type(row[0]) is bytes:
            commands.check_key(row[0])
            return Get(row[0])
    except InvalidArgument as error:
        raise BadFrame(str(error)) from None
    except StopReplica as error:  # a newer client; at the door that is no reason to stop anything
        raise BadFrame(str(error)) from None
    raise BadFrame("an operation is an array of a key, or the bytes of a command")


def _wire_result(result: Result) -> tuple[object, ...]:
    if isinstance(result, Answer):
        return (result.code, *result.facts)
    if isinstance(result, Row):
        return (_ROW, result.version, result.value)
    return (result,)


_ASKED: Final = (Mutation, Batch, OpenSession)
_STATUSES: Final = tuple(Status)
_OK: Final = Code.OK
_CODES: Final = {int(code): code for code in Code}
_TROUBLES: Final = {int(trouble): trouble for trouble in Trouble}


def _result(row: Any) -> Result:
    if type(row) is not list or not row or type(row[0]) is not int:
        raise BadFrame("a result is an array that begins with its code")
    number = row[0]
    # The good case of a write first, which is the hot path.
    if number == _OK and len(row) == 2 and type(row[1]) is int and 0 <= row[1] <= INTEGER_MAX:
        return Answer(_OK, (row[1],))
    if number == _ROW and len(row) == 3:
        value = row[2]
        if value is not None and (type(value) is not bytes or len(value) > VALUE_BYTES_MAX):
            raise BadFrame(f"a value is at most {VALUE_BYTES_MAX} bytes")
        return Row(value, Version(integer(row[1], "version")))
    code = _CODES.get(number)
    if code is not None and len(row) <= 1 + BATCH_OPERATIONS_MAX:
        return Answer(code, tuple([integer(fact, "fact") for fact in row[1:]]))
    trouble = _TROUBLES.get(number)
    if trouble is None or len(row) != 1:
        raise BadFrame(f"no result of code {number} has {len(row) - 1} fields")
    return trouble


def _leader(row: Any) -> Leader:
    if type(row) is not list or len(row) != 2:
        raise BadFrame("a leader is a node and an address")
    return Leader(NodeId(text(row[0], "node")), text(row[1], "address"))


# Fields, for this protocol and for what groups ask each other


def integer(value: object, what: str, *, least: int = 0, most: int = INTEGER_MAX) -> int:
    """A whole number in `[least, most]` (a bool is none); raises BadFrame."""
    if type(value) is not int or not least <= value <= most:
        raise BadFrame(f"{what} must be a whole number in {least} to {most}")
    return value


def text(value: object, what: str) -> str:
    """A short text; raises BadFrame."""
    if type(value) is not str or len(value) > _NAME_CHARACTERS_MAX:
        raise BadFrame(f"{what} must be text of at most {_NAME_CHARACTERS_MAX} characters")
    return value


def octets(value: object, what: str, *, most: int) -> bytes:
    """Bytes of a bounded length; raises BadFrame."""
    if type(value) is not bytes or len(value) > most:
        raise BadFrame(f"{what} must be at most {most} bytes")
    return value


def pack(fields: object) -> bytes:
    return msgpack.packb(fields)


def unpack(body: bytes, count: int, *, most: int = 0) -> list[Any]:
    """The `count` fields after the format number, or up to `most`; raises BadFrame."""
    try:
        fields = msgpack.unpackb(body, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadFrame(f"not msgpack: {type(error).__name__}") from None
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise BadFrame("not an array that begins with a format number")
    if fields[0] != FORMAT:
        raise BadFrame(f"format {fields[0]}; this version speaks {FORMAT}")
    if not count <= len(fields) - 1 <= max(count, most):
        raise BadFrame(f"{len(fields) - 1} fields where {count} are expected")
    return fields[1:]
