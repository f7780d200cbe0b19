"""Lab 4, key/value: the store's own group server and clerk, with the labs' faces on them.

A server is one replica of a group that owns the store's only shard: consensus, replicated state
machine, sessions and the server of clients' frames are production's. What is the labs' own is the
configuration, which never changes, and `maxraftstate`. A clerk is the production clerk; it asks
for ever, as the labs' do.

Both editions ask the same servers. The versioned one's `Put` is a write with `if_version`. The
labs have no sessions there, so that a put whose first answer was lost may end as ErrMaybe; here it
ends with what happened, and ErrMaybe remains for a session that the group forgot.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabServer
from labrpc.transport import Address
from labs.compaction import NEVER, CompactingMachine, compaction, snapshot_bytes
from labs.kv import NO_KEY, Err, Read
from labs.node import GID, UUID, LabNode, Watcher
from labs.transport import LabTransport
from raft.config import Mode, RaftConfig
from raft.replica import Replica
from raft.types import NodeId
from shardctrler.types import (
    ConfigNumber,
    Directory,
    GroupInfo,
    GroupMember,
    ShardConfig,
    ShardId,
    View,
)
from shardkv.clerk import TIMEOUT_SECONDS_MAX
from shardkv.clerk import Clerk as StoreClerk
from shardkv.errors import OutcomeUnknown, VersionMismatch
from shardkv.feed import ConfigFeed
from shardkv.handover import Handover, RateLimit
from shardkv.machine import StoreMachine
from shardkv.server import GroupServer, GroupStateMachine
from shardkv.service import StoreService

NSHARDS: Final = 1
PRODUCTION: Final = RaftConfig()
PLAIN: Final = RaftConfig(mode=Mode.LAB)
"""Plain Raft: an isolated leader leads on, and only a failed round keeps it from answering."""
WATCH_SECONDS: Final = 3600.0


def one_shard(key: bytes) -> ShardId:
    """The labs' routing: every key lies in the only shard."""
    return ShardId(0)


class FixedController:
    """Answers what a shard controller would if the one group owned everything for ever.

    Args:
        names: Of the servers, in the order in which a clerk tries them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        members = tuple(GroupMember(NodeId(name), name) for name in names)
        config = ShardConfig(ConfigNumber(1), (GID,) * NSHARDS, {GID: GroupInfo(UUID, members)})
        self._view = View(config, Directory())

    async def newest(self) -> View:
        return self._view

    async def config(self, number: ConfigNumber) -> ShardConfig:
        assert number == 1, number
        return self._view.config

    async def watch(self, seen: View, *, seconds: float = WATCH_SECONDS) -> View:
        await asyncio.sleep(seconds)
        return self._view


class KVServer:
    """One server. Made by `make`."""

    def __init__(
        self,
        node: LabNode,
        replica: Replica,
        feed: ConfigFeed,
        handover: Handover,
        transport: LabTransport,
    ) -> None:
        """Use `make`."""
        self.name, self.replica = node.name, replica
        self._node, self._feed, self._handover = node, feed, handover
        self._transport = transport
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def make(
        cls,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        rng: Random,
        *,
        maxraftstate: int = NEVER,
        watcher: Watcher | None = None,
        config: RaftConfig = PRODUCTION,
    ) -> "KVServer":
        """Start server `me` (from 0) of as many as there are `peers`, from what the drive holds.

        Args:
            maxraftstate: The log is cut when it holds more bytes; `NEVER` (-1): it is not.
        """
        node = await LabNode.open(
            peers,
            me,
            drive,
            rng,
            config=config,
            compaction=compaction(maxraftstate),
            watcher=watcher,
        )
        names = [f"s{server}" for server in range(len(peers))]
        transport = LabTransport(dict(zip(map(Address, names), peers, strict=True)))
        machine = StoreMachine(GID, NSHARDS)
        rsm = GroupStateMachine(machine)
        replica = await node.start(CompactingMachine(rsm, node, maxraftstate))
        rsm.attach(replica)
        feed = ConfigFeed(FixedController(names), rng)
        server = GroupServer(replica, rsm, machine, feed, one_shard)
        handover = Handover(server, feed, transport, rng, RateLimit())
        StoreService(transport).groups[GID] = server
        feed.start()
        return cls(node, replica, feed, handover, transport)

    @property
    def server(self) -> LabServer:
        """What answers this server's peers and clerks."""
        return LabServer({**self._node.handlers, **self._transport.handlers})

    def get_state(self) -> tuple[int, bool]:
        """The current term, and whether this server believes that it leads."""
        return self.replica.core.term, self.replica.leads

    def persist_bytes(self) -> int:
        """What the raft state holds, without the snapshot."""
        return self._node.persist_bytes()

    def snapshot_bytes(self) -> int:
        """What the snapshot takes; 0 if the log was never cut."""
        return snapshot_bytes(self._node)

    def kill(self) -> None:
        if not self._node.dead:
            self._node.kill()
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        await self._handover.close()
        await self._feed.close()


class _Clerk:
    """The production clerk, asking for ever."""

    def __init__(self, transport: LabTransport, servers: Sequence[str], rng: Random) -> None:
        """Args:
        servers: Their names, in the order in which they are asked who leads.
        """
        self._clerk = StoreClerk(
            transport,
            FixedController(servers),
            rng=rng,
            routing=one_shard,
            timeout=TIMEOUT_SECONDS_MAX,
        )

    async def close(self) -> None:
        """Give up what is under way."""
        await self._clerk.close()


class Clerk(_Clerk):
    """A client of the append edition (2024). One call at a time; it returns when it is done."""

    async def get(self, key: str) -> str:
        """The key's value, "" when it is absent."""
        return (await self._clerk.get(key) or b"").decode()

    async def put(self, key: str, value: str) -> None:
        await self._clerk.put(key, value)

    async def append(self, key: str, value: str) -> None:
        await self._clerk.append(key, value)


class VersionedClerk(_Clerk):
    """A client of the versioned edition (2025)."""

    async def get(self, key: str) -> Read:
        value, version = await self._clerk.get_row(key)
        if value is None:
            return NO_KEY
        return Read(value.decode(), version, Err.OK)

    async def put(self, key: str, value: str, version: int) -> Err:
        """Write the key if `version` is its version, 0 for one that is absent."""
        try:
            await self._clerk.put(key, value, if_version=version)
        except VersionMismatch as mismatch:
            return Err.VERSION if mismatch.version else Err.NO_KEY
        except OutcomeUnknown:
            return Err.MAYBE
        return Err.OK
