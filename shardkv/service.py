"""What a node answers about the store, for all groups that it has replicas of."""

import asyncio
from typing import TYPE_CHECKING, Final

from labrpc.errors import Refused
from labrpc.transport import Transport
from raft.types import GroupId
from shardkv import copies
from shardkv.limits import NODE_OPERATIONS_MAX
from shardkv.load import Meter
from shardkv.protocol import (
    KV,
    BadFrame,
    Get,
    Reply,
    Status,
    decode_frame,
    encode_reply,
)
from shardkv.server import GroupServer
from shardkv.types import Code

if TYPE_CHECKING:
    from shardkv.tracing import Tracing

INVALID: Final = "INVALID_ARGUMENT"


class StoreService:
    """Hands each call to the group that it names.

    Args:
        operations_max: Operations of clients in flight on this node; past it frames are turned
            away whole, and nothing of them is done.
    """

    def __init__(self, transport: Transport, *, operations_max: int = NODE_OPERATIONS_MAX) -> None:
        self.groups: dict[GroupId, GroupServer] = {}
        self.operations = 0  # in flight
        self.given_bytes = 0
        """What other groups were given of shards that go there, since the start."""
        self.meter = Meter(asyncio.get_running_loop().time)
        self.tracing: Tracing | None = None
        self._operations_max = operations_max
        transport.serve(KV, self.kv)
        transport.serve(copies.PULL, self.pull)
        transport.serve(copies.SETTLED, self.settled)

    def has_room(self, operations: int) -> bool:
        """Whether so many more operations of clients may be in flight."""
        return self.operations + operations <= self._operations_max

    async def kv(self, body: bytes) -> bytes:
        """A clerk's frame."""
        try:
            frame = decode_frame(body)
        except BadFrame as error:
            raise Refused(INVALID, str(error)) from None
        server = self.groups.get(frame.gid)
        if server is None:
            return encode_reply(Reply(Status.NO_SUCH_GROUP))
        size = len(frame.operations)
        if not self.has_room(size):
            self.meter.reject("node_full", size)
            return encode_reply(Reply(Status.BUSY, server.machine.number))
        self.operations += size
        begun = self.meter.clock()
        spans = self.tracing.begin(frame) if self.tracing is not None else ()
        try:
            reply = await server.answer(frame)
            if reply.status is Status.ANSWERED:
                reads = sum([type(operation) is Get for operation in frame.operations])
                self.meter.answered(reads, size - reads, begun)
            return encode_reply(reply)
        finally:
            self.operations -= size
            if spans and self.tracing is not None:
                self.tracing.end(frame, spans)

    async def pull(self, body: bytes) -> bytes:
        """Another group's question for the next chunk of a copy."""
        try:
            request = copies.decode_pull(body)
        except BadFrame as error:
            raise Refused(INVALID, str(error)) from None
        server = self.groups.get(request.gid)
        if server is None:
            return copies.encode_pull_reply(copies.PullReply(code=Code.WRONG_GROUP))
        reply = await server.pull(request)
        body = copies.encode_pull_reply(reply)
        if reply.chunk is not None:
            self.given_bytes += len(body)
        return body

    async def settled(self, body: bytes) -> bytes:
        """Another group's question whether a shard is in."""
        try:
            request = copies.decode_settled(body)
        except BadFrame as error:
            raise Refused(INVALID, str(error)) from None
        server = self.groups.get(request.gid)
        reply = copies.SettledReply(False, 0) if server is None else server.settled(request)
        return copies.encode_settled_reply(reply)
