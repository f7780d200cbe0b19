"""The shard controller of the 2024 lab (5A): Join, Leave, Move and Query, on the production one.

A server is a whole node whose one group is the controller's; its state machine, placement, client
and session rules are those of `shardctrler/`. The lab differs in what it calls things: groups are
lists of server names, and a gid may come back with others. The production controller knows a group
by a uuid for ever; here it follows from the gid. The last group may leave, which a store refuses.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabServer
from labrpc.transport import Address, Transport
from labs.node import LabNode, Watcher
from labs.transport import LabTransport
from raft.config import RaftConfig
from raft.rsm import ReplicatedStateMachine
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.client import ControllerClient
from shardctrler.commands import JoiningGroup
from shardctrler.machine import ControllerMachine
from shardctrler.server import ControllerServer
from shardctrler.types import GroupMember, ShardConfig, ShardId

NSHARDS: Final = 10
CONTROLLER: Final = GroupId(0)
KV_CONFIG: Final = RaftConfig(election_seconds_min=0.5, election_seconds_max=0.8)
"""Of the labs on consensus: a production group, somewhat quicker to elect."""
EVER_SECONDS: Final = 3600.0
"""A lab clerk asks until it knows; a lab test ends long before this."""


@dataclass(frozen=True)
class Config:
    """A configuration as the lab shows it."""

    num: int
    shards: tuple[int, ...]
    """The gid of each shard; 0 is no group."""
    groups: Mapping[int, tuple[str, ...]]
    """The names of each group's servers."""


class ShardCtrler:
    """One server of the controller. Made by `start`."""

    def __init__(self, node: LabNode, rsm: ReplicatedStateMachine, transport: LabTransport) -> None:
        """Use `start`."""
        self.node, self.rsm = node, rsm
        self._transport = transport
        self._closing: asyncio.Future[None] | None = None
        self._server = ControllerServer(
            rsm, transport, client_address=lambda member: str(member.node)
        )
        self._server.start()

    @classmethod
    async def start(
        cls,
        ends: Mapping[Address, LabEnd],
        me: int,
        drive: SimDrive,
        rng: Random,
        *,
        watcher: Watcher | None = None,
    ) -> "ShardCtrler":
        """Start server `me` (from 0) from what the drive holds.

        Args:
            ends: To each server, by its name, in order.
        """
        node = await LabNode.open(
            list(ends.values()),
            me,
            drive,
            rng,
            config=KV_CONFIG,
            names=list(ends),
            gid=CONTROLLER,
            uuid=uuid_of(CONTROLLER),
            watcher=watcher,
        )
        rsm = ReplicatedStateMachine(ControllerMachine(NSHARDS, last_may_leave=True))
        rsm.attach(await node.start(rsm))
        return cls(node, rsm, LabTransport(ends))

    @property
    def server(self) -> LabServer:
        """What answers clerks and the other servers."""
        return LabServer({**self.node.handlers, **self._transport.handlers})

    def leads(self) -> bool:
        """Whether this server believes that it leads (the lab's `Raft().GetState()`)."""
        return self.rsm.leads and not self.node.dead

    def kill(self) -> None:
        """Stop: nothing more is said, stored or answered."""
        if not self.node.dead:
            self.node.kill()
            self._closing = asyncio.ensure_future(self._server.close())


class Clerk:
    """A client of the controller, which asks until it knows.

    Args:
        ends: To each of the controller's servers, by its name.
    """

    def __init__(self, ends: Mapping[Address, LabEnd], rng: Random) -> None:
        self._client = controller_client(LabTransport(ends), list(ends), rng)

    async def query(self, num: int) -> Config:
        """Configuration `num`; the newest for -1 and for one beyond the newest."""
        return shown(await self._client.query(num))

    async def join(self, servers: Mapping[int, Sequence[str]]) -> None:
        """Let groups take part, each with the names of its servers."""
        await self._client.join([joining(gid, names) for gid, names in servers.items()])

    async def leave(self, gids: Sequence[int]) -> None:
        await self._client.leave([GroupId(gid) for gid in gids])

    async def move(self, shard: int, gid: int) -> None:
        await self._client.move(ShardId(shard), GroupId(gid))


def controller_client(
    transport: Transport, endpoints: Sequence[Address], rng: Random
) -> ControllerClient:
    """The production client, with a lab clerk's patience."""
    return ControllerClient(transport, endpoints, rng, timeout_seconds=EVER_SECONDS)


def joining(gid: int, names: Sequence[str]) -> JoiningGroup:
    """A lab's group as the production controller takes it."""
    members = tuple(GroupMember(NodeId(name), name) for name in names)
    return JoiningGroup(GroupId(gid), uuid_of(GroupId(gid)), members)


def uuid_of(gid: GroupId) -> GroupUuid:
    """A lab's gid means one group for ever."""
    return GroupUuid(b"lab group %06d" % gid)


def shown(config: ShardConfig) -> Config:
    groups = {
        int(gid): tuple(member.address for member in group.members)
        for gid, group in config.groups.items()
    }
    return Config(int(config.number), tuple(int(gid) for gid in config.shards), groups)
