"""A simulated cluster: the parts of a production node on a simulated loop, network and disk.

Only the adapters differ from a real one. A *node* is what outlives its processes: a drive and a
name; `start` and `crash` give it lives. Groups are born as in production, with one voter, and grow
through their own logs.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.network import HEALTHY, Faults, SimNetwork, SimTransport
from labrpc.transport import Address
from labs.checkers import RaftInvariants
from raft.config import RaftConfig
from raft.courier import Courier, FrameCourier
from raft.disk.log_store import LogStore, NodeIdentity, ReplicaRecord
from raft.errors import MembershipRefused, NotLeader
from raft.frames import FrameCodec
from raft.host import CompactionConfig, Host
from raft.ports import Rows, StateMachine
from raft.replica import Replica
from raft.types import GroupId, GroupUuid, Index, NodeId
from shardctrler.client import ControllerClient
from shardctrler.commands import JoiningGroup
from shardctrler.types import GroupMember, NodeAddresses, ShardId
from shardkv.assembly import CONTROLLER, Assembly
from shardkv.clerk import Clerk
from shardkv.machine import StoreMachine
from shardkv.phases import SETTLED, Phase
from shardkv.types import Answer

CLUSTER: Final = bytes(range(16))
LOG, DATA, PROMISES = "log", "data", ("promise-a", "promise-b")
GROWTH_SECONDS: Final = 30.0


class TwoOwners(AssertionError):
    """Two groups serve one shard (S1)."""


class ShardOracle:
    """Watches every entry that is applied for the first time anywhere: the canonical state.

    S1: of each shard at most one group's canonical state serves. S5: configurations one by one.
    """

    def __init__(self, nshards: int) -> None:
        self.applied: dict[GroupId, Index] = {}
        self._numbers: dict[GroupId, int] = {}
        self._serving: list[GroupId | None] = [None] * nshards
        self.hand_overs = 0

    def saw(self, machine: StoreMachine, index: Index) -> None:
        """`machine` has just applied a command of the entry at `index`."""
        gid = machine.gid
        if index < self.applied.get(gid, 0):
            return
        self.applied[gid] = index
        before = self._numbers.get(gid, 0)
        assert before <= machine.number <= before + 1, (gid, before, machine.number)
        self._numbers[gid] = machine.number
        for number, owner in enumerate(self._serving):
            serves = machine.record(ShardId(number)).phase is Phase.SERVING
            if serves and owner != gid:
                if owner is not None:
                    raise TwoOwners(
                        f"groups {owner} and {gid} serve shard {number} at entry {index}"
                    )
                self._serving[number] = gid
                self.hand_overs += 1
            elif not serves and owner == gid:
                self._serving[number] = None


class WatchedMachine(StoreMachine):
    """A group's machine that tells the oracle of each command."""

    oracle: ShardOracle | None = None

    def apply(self, index: Index, command: bytes, rows: Rows) -> Answer:
        answer = super().apply(index, command, rows)
        if self.oracle is not None:
            self.oracle.saw(self, index)
        return answer


class WatchedHost(Host):
    """A host whose replicas are watched: what they say, store, apply and decide (R1 to R18)."""

    watchers: Mapping[GroupId, RaftInvariants]

    async def start_replica(self, gid: GroupId, machine: StateMachine) -> Replica:
        watcher = self.watchers[gid]
        replica = await super().start_replica(gid, watcher.machine(self.node, machine))
        watcher.started(self.node, replica)
        return replica


class SimNode:
    """A node: its drive, and the process that runs on it now, if one does."""

    def __init__(self, cluster: "SimCluster", name: str) -> None:
        self.name = NodeId(name)
        self.address = Address(name)
        self.drive = SimDrive(cluster.chance.rng(f"drive/{name}"))
        for watcher in cluster.watchers.values():
            watcher.watch_drive(name, self.drive, log=LOG, data=DATA)
        self.lives = 0
        self.transport: SimTransport | None = None
        self.host: WatchedHost | None = None
        self.assembly: Assembly | None = None
        self._cluster = cluster
        self._log_store: LogStore | None = None

    @property
    def alive(self) -> bool:
        return self.host is not None

    async def start(self) -> None:
        """A new process on what the drive holds; the first one makes the node."""
        assert not self.alive, f"{self.name} runs"
        cluster = self._cluster
        self.lives += 1
        rng = cluster.chance.rng(f"node/{self.name}/{self.lives}")
        log_disk = self.drive.disk(LOG)
        slots = (self.drive.slot(PROMISES[0]), self.drive.slot(PROMISES[1]))
        identity = NodeIdentity(CLUSTER, self.name)
        opening = LogStore.create if self.lives == 1 else LogStore.open
        self._log_store = await opening(log_disk, slots, identity)
        transport = self.transport = cluster.network.transport(self.address)
        codec = FrameCodec(CLUSTER, self.name, self.address)
        courier: Courier = FrameCourier(
            lambda to, bulk: transport.channel(Address(to), bulk=bulk), codec
        )
        for watcher in cluster.watchers.values():
            courier = watcher.courier(self.name, courier)
        self.host = WatchedHost(
            node=self.name,
            address=self.address,
            log_store=self._log_store,
            data_disk=self.drive.disk(DATA),
            courier=courier,
            codec=codec,
            config=cluster.raft,
            rng=Random(rng.random()),
            boot=self._log_store.boot,
            compaction=cluster.compaction,
        )
        self.host.watchers = cluster.watchers
        transport.listen(self.host.receive)
        self.assembly = Assembly(
            self.host,
            transport,
            addresses=NodeAddresses(client=self.address, peer=self.address),
            nshards=cluster.nshards,
            endpoints=cluster.controllers,
            rng=Random(rng.random()),
            new_machine=cluster.new_machine,
        )
        await self.assembly.open()

    async def crash(self) -> None:
        """A power cut: what was not durable may be gone."""
        await self._end(self.drive.crash)

    async def kill(self) -> None:
        """kill -9: the process is gone, what it handed to the disk lands."""
        await self._end(self.drive.end_process)

    async def _end(self, end_drive: Callable[[], None]) -> None:
        assert self.host is not None and self.transport is not None
        assert self.assembly is not None and self._log_store is not None
        host, assembly = self.host, self.assembly
        self.transport.crash()  # nothing leaves any more, and nothing comes in
        end_drive()
        self._log_store.abandon()
        host.stop("crashed")
        for watcher in self._cluster.watchers.values():
            watcher.stopped(self.name)
        self.host = self.assembly = self.transport = self._log_store = None
        await assembly.close()  # only ends tasks: its calls fail at once


class SimCluster:
    """A controller and groups on simulated nodes.

    Args:
        chance: Everything random in the run comes from it.
        nodes: How many there are, `n1` and on.
        replicas: Of the controller (on the first nodes) and of each group (spread over all).
    """

    def __init__(
        self,
        chance: Chance,
        *,
        nodes: int = 6,
        groups: int = 3,
        replicas: int = 3,
        nshards: int = 12,
        raft: RaftConfig | None = None,
        compaction: CompactionConfig | None = None,
        faults: Faults = HEALTHY,
    ) -> None:
        self.chance = chance
        self.nshards = nshards
        self.raft = raft or RaftConfig()
        self.compaction = compaction or CompactionConfig(log_entries_max=200, keep_entries=50)
        self.network = SimNetwork(chance, faults)
        self.oracle = ShardOracle(nshards)
        names = [f"n{number + 1}" for number in range(nodes)]
        gids = [GroupId(gid) for gid in range(groups + 1)]
        self.watchers = {gid: RaftInvariants(gid) for gid in gids}
        self.nodes = {name: SimNode(self, name) for name in names}
        self.placement = {
            gid: [names[(gid * replicas + at) % nodes] for at in range(replicas)] for gid in gids
        }
        self.controllers = [Address(name) for name in self.placement[CONTROLLER]]
        self.uuids: dict[GroupId, GroupUuid] = {}
        self._clients = 0
        self._rng = chance.rng("cluster")

    @property
    def gids(self) -> list[GroupId]:
        """The groups of the store."""
        return [gid for gid in self.placement if gid != CONTROLLER]

    def new_machine(self, gid: GroupId, nshards: int) -> StoreMachine:
        machine = WatchedMachine(gid, nshards)
        machine.oracle = self.oracle
        return machine

    # Birth

    async def start(self) -> None:
        """All nodes up, all groups grown; no group has joined yet."""
        for node in self.nodes.values():
            await node.start()
        for gid, names in self.placement.items():
            await self._grow(gid, names)

    async def _grow(self, gid: GroupId, names: Sequence[str]) -> None:
        """A group is born on its first node; the others come in through its log."""
        uuid = self.uuids[gid] = GroupUuid(self._rng.randbytes(16))
        founder = self.nodes[names[0]]
        assert founder.host is not None and founder.assembly is not None
        await founder.host.found_group(gid, uuid, self._rng.getrandbits(63))
        await founder.assembly.start(gid)
        replica = founder.host.replicas[gid]
        add = [(NodeId(name), str(self.nodes[name].address)) for name in names[1:]]
        async with asyncio.timeout(GROWTH_SECONDS):
            first = await self._add(replica, add) if add else 0
            for at, name in enumerate(names[1:]):
                node = self.nodes[name]
                assert node.host is not None and node.assembly is not None
                record = ReplicaRecord(gid, uuid, first + at, self._rng.getrandbits(63))  # type: ignore[arg-type]
                await node.host.create_replica(record)
                await node.assembly.start(gid)
            while len(replica.core.membership.voters) < len(names):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)

    async def _add(self, replica: Replica, add: Sequence[tuple[NodeId, str]]) -> int:
        while True:
            first = int(replica.core.membership.next_id)
            try:
                replica.change_members(add=add)
            except (NotLeader, MembershipRefused):  # it does not lead yet, or leads too shortly
                await asyncio.sleep(0.05)
            else:
                return first

    def joining(self, gid: GroupId) -> JoiningGroup:
        """The group as it asks to take part."""
        members = tuple(
            GroupMember(NodeId(name), str(self.nodes[name].address)) for name in self.placement[gid]
        )
        return JoiningGroup(gid, self.uuids[gid], members)

    # Clients

    def client(self) -> tuple[Clerk, ControllerClient]:
        """A process of its own that asks the store and the controller."""
        self._clients += 1
        name = f"client{self._clients}"
        transport = self.network.transport(Address(name))
        rng = self.chance.rng(name)
        controller = ControllerClient(transport, self.controllers, Random(rng.random()))
        return Clerk(transport, controller, rng=Random(rng.random())), controller

    @property
    def client_addresses(self) -> list[Address]:
        return [Address(f"client{number + 1}") for number in range(self._clients)]

    # Looking at it

    def machines(self, gid: GroupId) -> list[StoreMachine]:
        """The group's state machines on the nodes that are up."""
        return [
            node.assembly.groups[gid].server.machine
            for node in self.nodes.values()
            if node.assembly is not None and gid in node.assembly.groups
        ]

    def leader(self, gid: GroupId) -> SimNode | None:
        """The node whose replica leads the group, as far as it knows; of several the latest."""
        leading = [
            (replica.core.term, node)
            for node in self.nodes.values()
            if node.host is not None
            and (replica := node.host.replicas.get(gid)) is not None
            and replica.leads
        ]
        return max(leading, key=lambda pair: pair[0], default=(0, None))[1]

    def quiet(self, number: int) -> bool:
        """Whether every replica of every group has taken configuration `number`, with every
        shard settled, each served by exactly one group, and nothing left of others (S12)."""
        owners = [0] * self.nshards
        for gid in self.gids:
            machines = self.machines(gid)
            if len(machines) < len(self.placement[gid]):
                return False
            for machine in machines:
                if machine.number != number or machine.unsettled:
                    return False
            for shard in range(self.nshards):
                phases = {machine.record(ShardId(shard)).phase for machine in machines}
                if len(phases) > 1 or not phases <= set(SETTLED):
                    return False
                owners[shard] += Phase.SERVING in phases
        return all(count == 1 for count in owners)
