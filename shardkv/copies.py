"""What groups ask each other in a hand-over: for the next chunk of a copy, and whether it is in.

===============  ====================================  =====================================
method           question                              answer
===============  ====================================  =====================================
`shard.pull`     [format, gid, shard, number,          [format, a Chunk command's bytes or
                 cursor, bytes_max]                    nil, code]
`shard.settled`  [format, gid, shard, number]          [format, whether (shard, >= number)
                                                       is in, config number]
===============  ====================================  =====================================

`gid` is the group that is asked. Any replica answers, from applied state: what is applied is
committed, and the rows of a frozen shard are the same wherever they are read. Questions change
nothing, so they may be repeated, and asked by anybody.
"""

from typing import Final, NamedTuple

from raft.errors import StopReplica
from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import Chunk, decode, encode
from shardkv.errors import BadCommand, InvalidArgument
from shardkv.limits import CHUNK_BYTES_MAX, KEY_BYTES_MAX, SLOTS
from shardkv.protocol import FORMAT, BadFrame, integer, octets, pack, unpack
from shardkv.types import Code

PULL: Final = "shard.pull"
SETTLED: Final = "shard.settled"

_GID_MAX: Final = 2**31 - 1
_CURSOR_BYTES_MAX: Final = KEY_BYTES_MAX + 16
_CHUNK_COMMAND_BYTES_MAX: Final = 2 * 1024 * 1024
_CODES: Final = {int(code): code for code in Code}


class PullRequest(NamedTuple):
    """Give the rows from `cursor` on of a shard that leaves under configuration `number`."""

    gid: GroupId
    shard: ShardId
    number: ConfigNumber
    cursor: bytes
    bytes_max: int


class PullReply(NamedTuple):
    """The chunk as the destination logs it; or None, and why there is none."""

    chunk: Chunk | None
    data: bytes  # the chunk's command, encoded
    code: Code


class SettledRequest(NamedTuple):
    """Is `shard` in, under configuration `number` or a later one?"""

    gid: GroupId
    shard: ShardId
    number: ConfigNumber


class SettledReply(NamedTuple):
    settled: bool
    config_number: int  # of the configuration that the group has applied


def encode_pull(request: PullRequest) -> bytes:
    return pack((FORMAT, *request))


def decode_pull(body: bytes) -> PullRequest:
    gid, shard, number, cursor, bytes_max = unpack(body, 5)
    return PullRequest(
        *_place(gid, shard, number),
        octets(cursor, "cursor", most=_CURSOR_BYTES_MAX),
        integer(bytes_max, "bytes_max", least=1, most=CHUNK_BYTES_MAX),
    )


def encode_pull_reply(reply: Chunk | Code) -> bytes:
    if isinstance(reply, Chunk):
        return pack((FORMAT, encode(reply), Code.OK))
    return pack((FORMAT, None, reply))


def decode_pull_reply(body: bytes) -> PullReply:
    data, number = unpack(body, 2)
    code = _CODES.get(integer(number, "code"))
    if code is None:
        raise BadFrame(f"no answer has code {number}")
    if data is None:
        return PullReply(None, b"", code)
    octets(data, "a chunk", most=_CHUNK_COMMAND_BYTES_MAX)
    try:
        chunk = decode(data)
    except (BadCommand, InvalidArgument, StopReplica) as error:
        raise BadFrame(f"no chunk: {error}") from None
    if not isinstance(chunk, Chunk):
        raise BadFrame(f"a {type(chunk).__name__} is no chunk")
    return PullReply(chunk, data, code)


def encode_settled(request: SettledRequest) -> bytes:
    return pack((FORMAT, *request))


def decode_settled(body: bytes) -> SettledRequest:
    gid, shard, number = unpack(body, 3)
    return SettledRequest(*_place(gid, shard, number))


def encode_settled_reply(reply: SettledReply) -> bytes:
    return pack((FORMAT, *reply))


def decode_settled_reply(body: bytes) -> SettledReply:
    settled, number = unpack(body, 2)
    if type(settled) is not bool:
        raise BadFrame("whether it is in is true or false")
    return SettledReply(settled, integer(number, "config number"))


def _place(gid: object, shard: object, number: object) -> tuple[GroupId, ShardId, ConfigNumber]:
    return (
        GroupId(integer(gid, "gid", least=1, most=_GID_MAX)),
        ShardId(integer(shard, "shard", most=SLOTS - 1)),
        ConfigNumber(integer(number, "config number", least=1)),
    )
