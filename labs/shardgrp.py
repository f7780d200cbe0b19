"""Shard groups of the 2025 lab: FreezeShard, InstallShard and DeleteShard on the production store.

The lab's controller drives what production groups do by themselves. Nothing else differs: a group
is the production state machine, and the lab's three calls are its commands (`shardkv.machine`):

=======================  ==========================================================================
call, of configuration n commands
=======================  ==========================================================================
FreezeShard(s, n)        `Configure(n)`, then `Freeze`: s is LEAVING from that entry on; the answer
                         is its copy, as the chunks that `pull` gives
InstallShard(s, n, copy) `Configure(n)`: s is ARRIVING; each `Chunk`, then `Install`
DeleteShard(s, n)        `Drop(s, n)`
=======================  ==========================================================================

So the fences are production's: a step of a lower number than the shard's changes nothing, and a
controller that was deposed hears OLD. A repeated freeze
gives the same rows again, as long as they are kept (S3); a repeated install or delete is done.
What else leaves the group in n is served until its own freeze.

A group takes configurations one by one, so one that earlier ones did not concern has to catch up:
it answers BEHIND, and under the numbers that it misses it is given the state of things before n.
That is what they came to for it: a configuration is published only when its moves are over, so who
took part in one has taken it, and all that was on its way to a group, or away, has settled there. A
new group under a gid that was used before is no exception: before n it owns and has nothing.

The drop is not preceded by a question to the new owner, as in production: the controller has heard
from it that the install is applied, which says the same (S8).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from random import Random
from typing import Final, NamedTuple, NoReturn

import msgpack

from labrpc.errors import RpcError
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabServer
from labrpc.transport import Address
from labs.compaction import NEVER, CompactingMachine, compaction, snapshot_bytes
from labs.node import LabNode, Watcher
from labs.shardcfg import FIRST_NUMBER, GID1, NSHARDS, key2shard
from labs.shardctrler import uuid_of
from labs.transport import LabTransport
from raft.config import RaftConfig
from raft.errors import RaftError
from raft.types import GroupId, NodeId
from shardctrler.codec import decode_config, encode_config
from shardctrler.types import (
    ConfigNumber,
    GroupInfo,
    GroupMember,
    ShardConfig,
    ShardId,
    View,
)
from shardkv.commands import Chunk, Configure, Drop, Freeze, Install, decode, encode
from shardkv.feed import ConfigFeed
from shardkv.machine import StoreMachine
from shardkv.phases import SETTLED, Phase
from shardkv.rows import counter_at
from shardkv.server import GroupServer, GroupStateMachine
from shardkv.service import StoreService
from shardkv.types import Answer, Code, CopyId

FREEZE: Final = "ShardGrp.FreezeShard"
INSTALL: Final = "ShardGrp.InstallShard"
DELETE: Final = "ShardGrp.DeleteShard"

GROUP_CONFIG: Final = RaftConfig(
    heartbeat_seconds=0.1, election_seconds_min=0.4, election_seconds_max=0.7
)
"""A restarted group must serve within 2 s."""
CALL_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.05
"""After a round of servers, none of which could say."""

NewMachine = Callable[[GroupId, int], StoreMachine]


class Status(IntEnum):
    """What a server says to one of the three calls."""

    OK = 0  # done, now or before
    GONE = 1  # FreezeShard: deleted here under this very configuration, so another group has it
    OLD = 2  # a later configuration has decided: whoever asks was deposed
    BEHIND = 3  # the configurations above `number` are needed first
    ELSEWHERE = 4  # not the leader, or nothing can be said: ask again


class Request(NamedTuple):
    """One of the three calls: `configs` ascend without a gap to the one that it is part of."""

    shard: ShardId
    configs: tuple[bytes, ...]
    chunks: tuple[bytes, ...] = ()


class Reply(NamedTuple):
    status: Status
    number: int = 0  # of the configuration that the group has taken
    chunks: tuple[bytes, ...] = ()


def first_config(names: Sequence[str]) -> ShardConfig:
    """The lab's first configuration, which nobody has to tell its only group."""
    members = tuple(GroupMember(NodeId(name), name) for name in names)
    groups = {GID1: GroupInfo(uuid_of(GID1), members)}
    return ShardConfig(ConfigNumber(FIRST_NUMBER), (GID1,) * NSHARDS, groups)


class ShardGrp:
    """One server of one group. Made by `start`."""

    def __init__(self, node: LabNode, transport: LabTransport, group: GroupServer) -> None:
        """Use `start`."""
        self.node, self.group = node, group
        self._transport = transport
        transport.serve(FREEZE, self._served(self._freeze))
        transport.serve(INSTALL, self._served(self._install))
        transport.serve(DELETE, self._served(self._delete))

    @classmethod
    async def start(
        cls,
        ends: Mapping[Address, LabEnd],
        names: Sequence[Address],
        me: int,
        gid: GroupId,
        drive: SimDrive,
        rng: Random,
        *,
        maxraftstate: int = NEVER,
        watcher: Watcher | None = None,
        new_machine: NewMachine = StoreMachine,
    ) -> "ShardGrp":
        """Start server `me` (from 0) of a group from what the drive holds.

        A new group owns nothing, but for group 1, which owns everything: its first leader takes
        the first configuration.

        Args:
            ends: To the group's servers, by name.
            names: Of the group's servers, in order.
            maxraftstate: The log is cut when it holds more bytes; `NEVER` (-1): it is not.
        """
        node = await LabNode.open(
            [ends[name] for name in names],
            me,
            drive,
            rng,
            config=GROUP_CONFIG,
            names=names,
            gid=gid,
            uuid=uuid_of(gid),
            compaction=compaction(maxraftstate),
            watcher=watcher,
        )
        transport = LabTransport(ends)
        machine = new_machine(gid, NSHARDS)
        rsm = GroupStateMachine(machine)
        rsm.attach(replica := await node.start(CompactingMachine(rsm, node, maxraftstate)))
        group = GroupServer(replica, rsm, machine, _ToldConfigs(rng), key2shard)
        StoreService(transport).groups[gid] = group
        if gid == GID1:
            rsm.on_change = lambda: _begin(group, first_config(names))
        return cls(node, transport, group)

    @property
    def server(self) -> LabServer:
        """What answers peers, clerks and controllers."""
        return LabServer({**self.node.handlers, **self._transport.handlers})

    def leads(self) -> bool:
        """Whether this server believes that it leads its group."""
        return self.group.rsm.leads and not self.node.dead

    def persist_bytes(self) -> int:
        """What the raft state holds, without the snapshot."""
        return self.node.persist_bytes()

    def snapshot_bytes(self) -> int:
        """What the snapshot takes; 0 if the log was never cut."""
        return snapshot_bytes(self.node)

    def kill(self) -> None:
        """Stop: nothing more is said, stored or answered."""
        self.node.kill()

    # The three calls

    def _served(
        self, handler: Callable[[Request, ConfigNumber], Awaitable[Reply]]
    ) -> Callable[[bytes], Awaitable[bytes]]:
        async def serve(body: bytes) -> bytes:
            request = _decode_request(body)
            try:
                number = decode_config(request.configs[-1]).number
                reply = await self._take(request.configs, number)
                if reply is None:
                    reply = await handler(request, number)
            except RaftError:  # not the leader, or it is not known what became of a command
                reply = Reply(Status.ELSEWHERE)
            return _encode_reply(reply)

        return serve

    async def _take(self, configs: Sequence[bytes], number: ConfigNumber) -> Reply | None:
        """Bring the group to configuration `number`, or say why it is not there."""
        if not self.group.rsm.leads:
            return Reply(Status.ELSEWHERE)
        machine = self.group.machine
        first = number - len(configs) + 1
        if machine.number + 1 < first:
            return Reply(Status.BEHIND, machine.number)
        for config in configs[max(0, machine.number + 1 - first) :]:
            await self._submit(encode(Configure(config)))
        if machine.number == number:
            return None
        return Reply(Status.OLD if machine.number > number else Status.ELSEWHERE, machine.number)

    async def _freeze(self, request: Request, number: ConfigNumber) -> Reply:
        """The shard's copy, from applied state: frozen rows are the same on every replica."""
        machine, shard = self.group.machine, request.shard
        record = machine.record(shard)
        if record.phase is Phase.MOVING and record.number == number:
            await self._submit(encode(Freeze(shard, number, record.copy_id)))
        chunks: list[bytes] = []
        cursor = b""
        while True:
            pulled = machine.pull(self.group.replica.store.reader, shard, number, cursor)
            if isinstance(pulled, Answer):
                return self._why_not(shard, number, pulled)
            if pulled.end is None:
                return Reply(Status.ELSEWHERE)
            if pulled.chunk is None:
                return Reply(Status.OK, number, tuple(chunks))
            chunks.append(encode(pulled.chunk))
            cursor = pulled.chunk.next_cursor

    def _why_not(self, shard: ShardId, number: ConfigNumber, refusal: Answer) -> Reply:
        record = self.group.machine.record(shard)
        if record.number == number and record.phase in SETTLED:
            # Handed over and deleted; or it stays here, served or parked, and there is no copy.
            absent = record.phase is Phase.ABSENT
            return Reply(Status.GONE if absent else Status.OK, number)
        return Reply(Status.OLD if refusal.code is Code.OLD else Status.ELSEWHERE, record.number)

    async def _install(self, request: Request, number: ConfigNumber) -> Reply:
        shard, copy_id, end = request.shard, CopyId(0), 0
        commands: list[bytes] = []
        for data in request.chunks:
            chunk = decode(data)
            assert isinstance(chunk, Chunk) and (chunk.shard, chunk.number) == (shard, number)
            copy_id, end = chunk.copy_id, counter_at(chunk.next_cursor) or 0
            commands.append(data)
        commands.append(encode(Install(shard, number, copy_id, end)))
        answers = [await self._submit(command) for command in commands]
        if self.group.machine.is_in(shard, number):
            return Reply(Status.OK, number)
        return _said(answers[-1], number)

    async def _delete(self, request: Request, number: ConfigNumber) -> Reply:
        return _said(await self._submit(encode(Drop(request.shard, number))), number)

    async def _submit(self, command: bytes) -> Answer:
        answer = await self.group.rsm.submit(command)
        assert isinstance(answer, Answer), answer
        return answer


def _begin(group: GroupServer, config: ShardConfig) -> None:
    """Take the first configuration, unless the group has one: the log takes it once."""
    if group.rsm.leads and group.machine.number == 0:
        proposed = group.rsm.submit(encode(Configure(encode_config(config))))
        # One that fails with its leadership is proposed again by the next leader.
        proposed.add_done_callback(lambda done: done.cancelled() or done.exception())


def _said(answer: Answer, number: ConfigNumber) -> Reply:
    status = {Code.OK: Status.OK, Code.OLD: Status.OLD}.get(answer.code, Status.ELSEWHERE)
    return Reply(status, number)


class _ToldConfigs(ConfigFeed):
    """The feed of a group that is told its configurations, and never asks for any."""

    def __init__(self, rng: Random) -> None:
        super().__init__(_Nobody(), rng)

    def look(self) -> None:
        """The controller comes by itself."""


class _Nobody:
    async def newest(self) -> View:
        _never_asked()

    async def config(self, number: ConfigNumber) -> ShardConfig:
        _never_asked()

    async def watch(self, seen: View, *, seconds: float) -> View:
        _never_asked()


def _never_asked() -> NoReturn:
    raise AssertionError("a shard group asks for no configuration")


class Deposed(Exception):
    """A later configuration has decided about the shard: another controller carries on."""


class Change(NamedTuple):
    """A posted configuration, and the one that it follows, which is current."""

    before: ShardConfig
    config: ShardConfig

    def caught_up(self, number: int) -> ShardConfig:
        """What a group takes as configuration `number`, below this change's, if it missed it."""
        before, config = self
        return ShardConfig(
            ConfigNumber(number), before.shards, before.groups, config.previous, before.departed
        )


class GroupClerk:
    """A controller's way to one group: it asks until the group answers, however long that takes.

    Args:
        ends: To any server, by its name.
        names: Of the group's servers.
    """

    def __init__(self, ends: Mapping[Address, LabEnd], names: Sequence[str]) -> None:
        self._transport = LabTransport(ends)
        self._servers = [Address(name) for name in names]
        self._turn = 0  # of the server to ask

    async def freeze(self, shard: ShardId, change: Change) -> tuple[bytes, ...] | None:
        """The shard's frozen copy; None if it was taken over and deleted. Raises: Deposed."""
        reply = await self._ask(FREEZE, shard, change)
        return None if reply.status is Status.GONE else reply.chunks

    async def install(self, shard: ShardId, change: Change, copy: tuple[bytes, ...]) -> None:
        """Raises: Deposed."""
        await self._ask(INSTALL, shard, change, copy)

    async def delete(self, shard: ShardId, change: Change) -> None:
        """Raises: Deposed."""
        await self._ask(DELETE, shard, change)

    async def _ask(
        self, method: str, shard: ShardId, change: Change, chunks: tuple[bytes, ...] = ()
    ) -> Reply:
        number, newest = change.config.number, encode_config(change.config)
        request = Request(shard, (newest,), chunks)
        fruitless = 0
        while True:
            reply = await self._attempt(method, request)
            match reply.status:
                case Status.OK | Status.GONE:
                    return reply
                case Status.OLD:
                    raise Deposed(f"configuration {number} is over: {reply.number} is here")
                case Status.BEHIND:
                    missed = [change.caught_up(n) for n in range(reply.number + 1, number)]
                    request = request._replace(configs=(*map(encode_config, missed), newest))
                case Status.ELSEWHERE:
                    self._turn = (self._turn + 1) % len(self._servers)
                    fruitless += 1
                    if fruitless % len(self._servers) == 0:
                        await asyncio.sleep(PAUSE_SECONDS)

    async def _attempt(self, method: str, request: Request) -> Reply:
        to = self._servers[self._turn]
        body: bytes = msgpack.packb(request)
        try:
            answer = await self._transport.call(to, method, body, timeout=CALL_SECONDS)
        except RpcError:
            return Reply(Status.ELSEWHERE)
        return _decode_reply(answer)


def _decode_request(body: bytes) -> Request:
    shard, configs, chunks = msgpack.unpackb(body)
    return Request(ShardId(shard), tuple(configs), tuple(chunks))


def _encode_reply(reply: Reply) -> bytes:
    packed: bytes = msgpack.packb(reply)
    return packed


def _decode_reply(body: bytes) -> Reply:
    status, number, chunks = msgpack.unpackb(body)
    return Reply(Status(status), number, tuple(chunks))
