"""The sharded store of the 2024 lab (5B): the production store's parts, with the lab's faces.

A server is a whole node with one group of the store on it: consensus, state machine, sessions,
the following of configurations and the hand-over of shards are production's. The lab's own are
ten shards by the first byte of a key, voters that are fixed at birth, and `maxraftstate`. The lab
polls the controller every 100 ms; a watch brings the same news sooner.

A clerk is the production clerk, which asks until it knows.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabServer
from labrpc.transport import Address
from labs.compaction import NEVER, CompactingMachine, compaction, snapshot_bytes
from labs.node import LabNode, Watcher
from labs.shardctrler import KV_CONFIG, NSHARDS, controller_client, uuid_of
from labs.transport import LabTransport
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.types import ShardId
from shardkv.clerk import TIMEOUT_SECONDS_MAX
from shardkv.clerk import Clerk as StoreClerk
from shardkv.feed import ConfigFeed
from shardkv.handover import Handover, RateLimit
from shardkv.machine import StoreMachine
from shardkv.server import GroupServer, GroupStateMachine
from shardkv.service import StoreService

NewMachine = Callable[[GroupId, int], StoreMachine]


def key2shard(key: bytes) -> ShardId:
    """The lab's routing: the first byte, of ten shards."""
    return ShardId(key[0] % NSHARDS if key else 0)


class ShardKV:
    """One server of one group. Made by `start`."""

    def __init__(
        self,
        node: LabNode,
        transport: LabTransport,
        server: GroupServer,
        feed: ConfigFeed,
        handover: Handover,
    ) -> None:
        """Use `start`."""
        self.node, self.group = node, server
        self._transport, self._feed, self._handover = transport, feed, handover
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        ends: Mapping[Address, LabEnd],
        names: Sequence[Address],
        me: int,
        gid: GroupId,
        controllers: Sequence[Address],
        drive: SimDrive,
        rng: Random,
        *,
        maxraftstate: int = NEVER,
        watcher: Watcher | None = None,
        new_machine: NewMachine = StoreMachine,
    ) -> "ShardKV":
        """Start server `me` (from 0) of a group from what the drive holds.

        Args:
            ends: To any server, by its name (the lab's `make_end`).
            names: Of the group's servers, in order.
            controllers: The names of the shard controller's servers.
            maxraftstate: The log is cut when it holds more bytes; `NEVER` (-1): it is not.
        """
        node = await LabNode.open(
            [ends[name] for name in names],
            me,
            drive,
            rng,
            config=KV_CONFIG,
            names=names,
            gid=gid,
            uuid=uuid_of(gid),
            compaction=compaction(maxraftstate),
            watcher=watcher,
        )
        transport = LabTransport(ends)
        machine = new_machine(gid, NSHARDS)
        rsm = GroupStateMachine(machine)
        replica = await node.start(CompactingMachine(rsm, node, maxraftstate))
        rsm.attach(replica)
        feed = ConfigFeed(ControllerClient(transport, controllers, rng), rng)
        server = GroupServer(replica, rsm, machine, feed, key2shard)
        handover = Handover(server, feed, transport, rng, RateLimit())
        StoreService(transport).groups[gid] = server
        feed.start()
        return cls(node, transport, server, feed, handover)

    @property
    def server(self) -> LabServer:
        """What answers peers, clerks and other groups."""
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
        """Stop: nothing more is said, stored or answered, and nothing asked of other groups."""
        if not self.node.dead:
            self.node.kill()
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        await self._handover.close()
        await self._feed.close()


class Clerk:
    """A client of the store. Each call returns when it is done, however long that takes.

    Args:
        ends: To any server, by its name.
        controllers: The names of the shard controller's servers.
    """

    def __init__(
        self, ends: Mapping[Address, LabEnd], controllers: Sequence[Address], rng: Random
    ) -> None:
        transport = LabTransport(ends)
        self._clerk = StoreClerk(
            transport,
            controller_client(transport, controllers, rng),
            rng=rng,
            routing=key2shard,
            timeout=TIMEOUT_SECONDS_MAX,
        )

    async def get(self, key: str) -> str:
        """The key's value, "" when it is absent."""
        return (await self._clerk.get(key) or b"").decode()

    async def put(self, key: str, value: str) -> None:
        await self._clerk.put(key, value)

    async def append(self, key: str, value: str) -> None:
        await self._clerk.append(key, value)

    async def close(self) -> None:
        """Give up what is under way."""
        await self._clerk.close()
