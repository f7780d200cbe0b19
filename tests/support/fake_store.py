"""Groups without consensus, for a clerk to talk to: the real state machine, one copy a group.

A call takes 1 ms there and 1 ms back in virtual time. A test bends single calls by `fates`, and
configurations by `configure`.
"""

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.transport import Address
from raft.ports import Write
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.codec import encode_config
from shardctrler.errors import Unavailable as ControllerUnavailable
from shardctrler.types import (
    ConfigNumber,
    Directory,
    GroupInfo,
    GroupMember,
    ShardConfig,
    ShardId,
    View,
    successor,
)
from shardkv.commands import Configure, Drop, Freeze, Install, encode
from shardkv.machine import StoreMachine
from shardkv.phases import Phase
from shardkv.protocol import (
    KV,
    Frame,
    Get,
    Leader,
    Reply,
    Result,
    Status,
    Trouble,
    decode_frame,
    encode_reply,
)
from shardkv.routing import SlotRouting
from shardkv.types import Answer

HOP_SECONDS = 0.001


class MemoryRows:
    """Rows in memory, in key order, changed at once."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        keys = self.keys[bisect_left(self.keys, lo) : bisect_left(self.keys, hi)]
        return iter([(key, self.values[key]) for key in (reversed(keys) if reverse else keys)])

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            insort(self.keys, key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def writes(self) -> Sequence[Write]:
        raise NotImplementedError("nothing is stored")


class Fate(Enum):
    """What becomes of one call."""

    UNREACHABLE = "never handed over"
    REQUEST_LOST = "lost on the way there"
    REPLY_LOST = "done, and its reply lost"
    UNKNOWN = "each write of it was proposed, and done, but the server cannot tell"
    NOT_APPLIED = "each operation was proposed, and another entry took its place"
    BUSY = "turned away"
    EXHAUSTED = "refused by the transport"
    INTERNAL = "done, and then the handler failed"
    GARBAGE = "answered by something that is no reply"
    TOO_MANY = "done, and answered by more results than were asked for"


class FakeGroup:
    def __init__(self, gid: int, nshards: int) -> None:
        self.gid = GroupId(gid)
        self.members = tuple(f"g{gid}{letter}" for letter in "abc")
        self.leader = self.members[0]
        self.machine = StoreMachine(self.gid, nshards)
        self.rows = MemoryRows()
        self.index = 0

    @property
    def info(self) -> GroupInfo:
        members = tuple(GroupMember(NodeId(f"n-{name}"), name) for name in self.members)
        return GroupInfo(GroupUuid(bytes([self.gid]) * 16), members)

    def apply(self, data: bytes) -> Answer:
        self.index += 1
        return self.machine.apply(self.index, data, self.rows)  # type: ignore[arg-type]


class FakeStore:
    """Transport and controller in one, for one clerk under test."""

    def __init__(self, gids: Sequence[int] = (1, 2), nshards: int = 4) -> None:
        self.groups = {GroupId(gid): FakeGroup(gid, nshards) for gid in gids}
        self.routing = SlotRouting(nshards)
        self.config = ShardConfig(ConfigNumber(0), (GroupId(0),) * nshards)
        self.fates: deque[Fate | None] = deque()
        self.frames: list[tuple[str, Frame]] = []
        self.bodies: list[bytes] = []
        self.queries = 0
        self.controller_up = True
        self.values_a_reply: int | None = None
        """For so many gets a reply has room; None: for all."""
        self.configure([gids[shard % len(gids)] for shard in range(nshards)])

    def configure(self, owners: Sequence[int], *, hand_over: bool = True) -> None:
        """The next configuration, taken by every group; `hand_over`: its copies too."""
        infos = {gid: group.info for gid, group in self.groups.items()}
        config = successor(self.config, [GroupId(gid) for gid in owners], infos, infos)
        self.config = config
        for group in self.groups.values():
            assert group.apply(encode(Configure(encode_config(config)))).code == 0
        if hand_over:
            self.hand_over()

    def hand_over(self) -> None:
        for group in self.groups.values():
            for shard, record in group.machine.unsettled:
                if record.phase is Phase.ARRIVING:
                    self.copy(group, shard, self.groups[record.peer])
        for group in self.groups.values():
            for shard, record in group.machine.unsettled:
                assert group.apply(encode(Drop(shard, record.number))).code == 0

    def freeze(self, shard: ShardId) -> None:
        """Whoever gives the shard away answers nobody about it any more."""
        for group in self.groups.values():
            phase, number, _, _, _, copy_id, *_ = group.machine.record(shard)
            if phase is Phase.MOVING:
                assert group.apply(encode(Freeze(shard, number, copy_id))).code == 0

    def copy(self, group: FakeGroup, shard: ShardId, source: FakeGroup) -> None:
        """The freeze at the source, every chunk, and the install."""
        self.freeze(shard)
        record = source.machine.record(shard)
        number, copy_id, cursor = record.number, record.copy_id, b""
        while True:
            pulled = source.machine.pull(source.rows, shard, number, cursor)
            assert not isinstance(pulled, Answer) and pulled.end is not None, pulled
            if pulled.chunk is None:
                break
            assert group.apply(encode(pulled.chunk)).code == 0
            cursor = pulled.chunk.next_cursor
        assert group.apply(encode(Install(shard, number, copy_id, pulled.end))).code == 0

    def value(self, key: bytes) -> bytes | None:
        """What the group that owns the key's shard holds."""
        shard = self.routing(key)
        group = self.groups[self.config.shards[shard]]
        row = group.machine.get(group.rows, shard, key)
        assert not isinstance(row, Answer), row
        return row.value

    # The controller

    async def newest(self) -> View:
        self.queries += 1
        await asyncio.sleep(HOP_SECONDS * 2)
        if not self.controller_up:
            raise ControllerUnavailable("the controller is down")
        return View(self.config, Directory())

    # The transport

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        assert method == KV
        frame = decode_frame(body)
        self.frames.append((to, frame))
        self.bodies.append(body)
        fate = self.fates.popleft() if self.fates else None
        await asyncio.sleep(HOP_SECONDS)
        match fate:
            case Fate.UNREACHABLE:
                raise Unreachable("no connection")
            case Fate.REQUEST_LOST:
                await asyncio.sleep(timeout - HOP_SECONDS)
                raise Unknown("no answer in time")
            case Fate.EXHAUSTED:
                raise Refused("RESOURCE_EXHAUSTED", "too many calls")
            case Fate.BUSY:
                return encode_reply(Reply(Status.BUSY))
            case Fate.GARBAGE:
                return b"not a reply"
        reply = self.serve(to, frame, fate)
        if fate is Fate.TOO_MANY:
            reply = reply._replace(results=(*reply.results, *reply.results))
        if fate is Fate.INTERNAL:
            raise Refused("INTERNAL", "the server failed; see its log")
        if fate is Fate.REPLY_LOST:
            await asyncio.sleep(timeout - HOP_SECONDS)
            raise Unknown("no answer in time")
        await asyncio.sleep(HOP_SECONDS)
        return encode_reply(reply)

    def serve(self, to: str, frame: Frame, fate: Fate | None) -> Reply:
        group = self.groups[frame.gid]
        number = group.machine.number
        if to not in group.members:
            return Reply(Status.NO_SUCH_GROUP, number)
        leader = Leader(NodeId(f"n-{group.leader}"), group.leader) if group.leader else None
        if to != group.leader:
            return Reply(Status.NOT_LEADER, number, leader)
        results: list[Result] = []
        room = len(frame.operations) if self.values_a_reply is None else self.values_a_reply
        for operation in frame.operations:
            if fate is Fate.NOT_APPLIED:
                results.append(Trouble.NOT_LEADER)
            elif isinstance(operation, Get) and not room:
                results.append(Trouble.REPLY_FULL)
            elif isinstance(operation, Get):
                room -= 1
                shard = self.routing(operation.key)
                results.append(group.machine.get(group.rows, shard, operation.key))
            else:
                answer = group.apply(operation.data)
                results.append(Trouble.UNKNOWN if fate is Fate.UNKNOWN else answer)
        return Reply(Status.ANSWERED, number, leader, tuple(results))
