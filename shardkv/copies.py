"""What groups ask each other in a hand-over: for the next chunk of a copy, and whether it is in.

===============  ====================================  =====================================
method           question                              answer
===============  ====================================  =====================================
`shard.pull`     [format, gid, shard, number,          [format, a Chunk command's bytes or
                 copy id, cursor, bytes_max,           nil, code, end or nil, change rows
                 whether to freeze]                    left, bytes of the shard, leader]
`shard.settled`  [format, gid, shard, number]          [format, whether (shard, >= number)
                                                       is in, config number, leader]
===============  ====================================  =====================================

`gid` is the group that is asked. Any replica answers, from applied state: what is applied is
committed. `end` is told of a frozen shard only: so many change rows there are. Questions change
nothing, but for the wish to freeze: the group's leader grants it if little is left to copy (or the
copy does not get on), and then answers from the frozen shard. All may be repeated. `leader` is
where the one that answers would ask; "" if it does not know.
"""

from typing import Final, NamedTuple

from raft.errors import StopReplica
from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import Chunk, decode, encode
from shardkv.errors import BadCommand, InvalidArgument
from shardkv.limits import CHUNK_BYTES_MAX, KEY_BYTES_MAX, SLOTS
from shardkv.protocol import FORMAT, BadFrame, integer, octets, pack, text, unpack
from shardkv.rows import counter_at
from shardkv.types import Code, CopyId

PULL: Final = "shard.pull"
SETTLED: Final = "shard.settled"

_GID_MAX: Final = 2**31 - 1
_CURSOR_BYTES_MAX: Final = KEY_BYTES_MAX + 16
_CHUNK_COMMAND_BYTES_MAX: Final = 2 * 1024 * 1024
_CODES: Final = {int(code): code for code in Code}


class PullRequest(NamedTuple):
    """Give what follows `cursor` of a shard that leaves under configuration `number`."""

    gid: GroupId
    shard: ShardId
    number: ConfigNumber
    copy_id: CopyId
    """Of the copy that `cursor` is of; NO_COPY before the first chunk."""
    cursor: bytes
    bytes_max: int
    freeze: bool = False
    """Freeze the shard if little is left."""


class PullReply(NamedTuple):
    """The chunk as the destination logs it; or None, and why (OK: nothing follows the cursor)."""

    chunk: Chunk | None = None
    data: bytes = b""  # the chunk's command, encoded
    code: Code = Code.OK
    end: int | None = None
    changes_left: int = 0
    shard_bytes: int = 0  # about; 0 where it is not known
    leader: str = ""


class SettledRequest(NamedTuple):
    """Is `shard` in, under configuration `number` or a later one?"""

    gid: GroupId
    shard: ShardId
    number: ConfigNumber


class SettledReply(NamedTuple):
    settled: bool
    config_number: int  # of the configuration that the group has applied
    leader: str = ""


def encode_pull(request: PullRequest) -> bytes:
    return pack((FORMAT, *request))


def decode_pull(body: bytes) -> PullRequest:
    gid, shard, number, copy_id, cursor, bytes_max, freeze = unpack(body, 7)
    octets(cursor, "cursor", most=_CURSOR_BYTES_MAX)
    try:
        counter_at(cursor)
    except ValueError as error:
        raise BadFrame(str(error)) from None
    return PullRequest(
        *_place(gid, shard, number),
        CopyId(integer(copy_id, "copy id")),
        cursor,
        integer(bytes_max, "bytes_max", least=1, most=CHUNK_BYTES_MAX),
        _truth(freeze, "whether to freeze"),
    )


def encode_pull_reply(reply: PullReply) -> bytes:
    data = None if reply.chunk is None else encode(reply.chunk)
    _, _, code, end, changes_left, shard_bytes, leader = reply
    return pack((FORMAT, data, code, end, changes_left, shard_bytes, leader))


def decode_pull_reply(body: bytes) -> PullReply:
    data, number, end, changes_left, shard_bytes, leader = unpack(body, 6)
    code = _CODES.get(integer(number, "code"))
    if code is None:
        raise BadFrame(f"no answer has code {number}")
    rest = (
        code,
        None if end is None else integer(end, "end"),
        integer(changes_left, "change rows left"),
        integer(shard_bytes, "bytes of the shard"),
        text(leader, "leader"),
    )
    if data is None:
        return PullReply(None, b"", *rest)
    octets(data, "a chunk", most=_CHUNK_COMMAND_BYTES_MAX)
    try:
        chunk = decode(data)
    except (BadCommand, InvalidArgument, StopReplica) as error:
        raise BadFrame(f"no chunk: {error}") from None
    if not isinstance(chunk, Chunk):
        raise BadFrame(f"a {type(chunk).__name__} is no chunk")
    return PullReply(chunk, data, *rest)


def encode_settled(request: SettledRequest) -> bytes:
    return pack((FORMAT, *request))


def decode_settled(body: bytes) -> SettledRequest:
    gid, shard, number = unpack(body, 3)
    return SettledRequest(*_place(gid, shard, number))


def encode_settled_reply(reply: SettledReply) -> bytes:
    return pack((FORMAT, *reply))


def decode_settled_reply(body: bytes) -> SettledReply:
    settled, number, leader = unpack(body, 3)
    return SettledReply(
        _truth(settled, "whether it is in"),
        integer(number, "config number"),
        text(leader, "leader"),
    )


def _truth(value: object, what: str) -> bool:
    if type(value) is not bool:
        raise BadFrame(f"{what} is true or false")
    return value


def _place(gid: object, shard: object, number: object) -> tuple[GroupId, ShardId, ConfigNumber]:
    return (
        GroupId(integer(gid, "gid", least=1, most=_GID_MAX)),
        ShardId(integer(shard, "shard", most=SLOTS - 1)),
        ConfigNumber(integer(number, "config number", least=1)),
    )
