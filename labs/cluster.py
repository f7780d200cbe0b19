"""A simulated cluster: a controller and groups on simulated nodes, and their clients.

Only the adapters differ from a real one (`labs/sim_node.py`). Groups are born as in production,
with one voter, and grow through their own logs.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.disk import DiskFailed
from labrpc.sim.network import HEALTHY, Faults, SimNetwork
from labrpc.transport import Address
from labs.checkers import RaftInvariants
from labs.observer import Observer
from labs.sim_node import CLUSTER, DATA, LOG, PROMISES, SimNode
from labs.store_invariants import StoreInvariants, WatchedMachine
from raft.config import RaftConfig
from raft.disk.log_store import ReplicaRecord
from raft.errors import MembershipRefused, NotLeader
from raft.host import CompactionConfig
from raft.log import Log
from raft.replica import Replica
from raft.types import GroupId, GroupUuid, Member, NodeId, ReplicaId
from shardctrler.client import ControllerClient
from shardctrler.commands import JoiningGroup
from shardctrler.types import GroupMember, ShardId
from shardkv.assembly import CONTROLLER
from shardkv.clerk import Clerk
from shardkv.machine import StoreMachine
from shardkv.phases import SETTLED, Phase
from shardkv.planner import HealPolicy
from shardkv.server import GroupServer

__all__ = ["CLUSTER", "DATA", "LOG", "PROMISES", "SimCluster", "SimNode"]

GROWTH_SECONDS: Final = 30.0


class SimCluster:
    """A controller and groups on simulated nodes.

    Args:
        chance: Everything random in the run comes from it.
        nodes: How many there are, `n1` and on.
        replicas: Of the controller (on the first nodes) and of each group (spread over all).
        placement: The nodes of the controller (group 0) and of each group, if it is not that.
        learners: Nodes whose replicas get a group's log and never vote, for good.
        heal: Nodes take operators' commands, and the cluster mends itself; None: they do not.
    """

    def __init__(
        self,
        chance: Chance,
        *,
        nodes: int = 6,
        groups: int = 3,
        replicas: int = 3,
        placement: dict[GroupId, list[str]] | None = None,
        learners: dict[GroupId, list[str]] | None = None,
        nshards: int = 12,
        raft: RaftConfig | None = None,
        compaction: CompactionConfig | None = None,
        faults: Faults = HEALTHY,
        observer: Observer | None = None,
        heal: HealPolicy | None = None,
    ) -> None:
        self.chance = chance
        self.heal = heal
        self.observer = observer or Observer()
        self.nshards = nshards
        self.raft = raft or RaftConfig()
        self.compaction = compaction or CompactionConfig(log_entries_max=200, keep_entries=50)
        self.network = SimNetwork(chance, faults)
        self.network.on_mistake = self._mistaken
        names = [f"n{number + 1}" for number in range(nodes)]
        gids = [GroupId(gid) for gid in range(groups + 1)]
        self.watchers = {gid: RaftInvariants(gid, self.observer) for gid in gids}
        self.oracle = StoreInvariants(
            nshards,
            self.observer,
            lambda gid, index: self.watchers[gid].term_of(index),
            grace=self.raft.election_seconds_max,
        )
        self.changing = 0  # administrators who change the configuration now
        self.may_be_ruined = False
        """Whether disks are damaged beyond what the others can make up for."""
        self.placement = placement or {
            gid: [names[(gid * replicas + at) % nodes] for at in range(replicas)] for gid in gids
        }
        self.learners = learners or {}
        for watcher in self.watchers.values():
            watcher.probes.leaving = self.oracle.leaving
        self.nodes = {name: SimNode(self, name) for name in names}
        self.controllers = [Address(name) for name in self.placement[CONTROLLER]]
        self.uuids: dict[GroupId, GroupUuid] = {}
        self._clients = 0
        self._rng = chance.rng("cluster")

    def _mistaken(self, node: Address, method: str, error: Exception) -> None:
        """H1: whoever asked hears that the server failed; that must never be why."""
        if not isinstance(error, DiskFailed):  # then the node ends
            self.observer.broke("H1", f"{node}: the handler of {method} failed: {error!r}")

    @property
    def controller(self) -> GroupId:
        return CONTROLLER

    async def add_node(self) -> SimNode:
        """A new machine under a name of its own, without any replica."""
        name = f"n{len(self.nodes) + 1}"
        node = self.nodes[name] = SimNode(self, name)
        node.remembered = [other.address for other in self.nodes.values() if other.running]
        await node.start()
        return node

    @property
    def gids(self) -> list[GroupId]:
        """The groups of the store."""
        return [gid for gid in self.placement if gid != CONTROLLER]

    def new_machine(self, gid: GroupId, nshards: int) -> WatchedMachine:
        machine = WatchedMachine(gid, nshards)
        machine.watcher = self.oracle
        return machine

    def reborn(self, gid: GroupId, uuid: GroupUuid, log: Log) -> None:
        """A group that lost its majority goes on from a survivor with this log, as another one."""
        self.watchers[gid], agreed = self.watchers[gid].reborn(log)
        self.uuids[gid] = uuid
        self.observer.tell(f"g{gid} is born again from entry {log.last.index}, agreed {agreed}")
        if gid != CONTROLLER:
            self.oracle.memory.recall(gid, agreed, log.last.index)

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
        await founder.found(gid, uuid, self._rng.getrandbits(63))
        assert founder.host is not None
        replica = founder.host.replicas[gid]
        async with asyncio.timeout(GROWTH_SECONDS):
            if names[1:]:
                await self._fill(replica, names[1:], promote=True)
            if learners := self.learners.get(gid):
                await self._settled(replica, len(names))
                await self._fill(replica, learners, promote=False)
            await self._settled(replica, len(names))

    async def _fill(self, replica: Replica, names: Sequence[str], *, promote: bool) -> None:
        add = [(NodeId(name), str(self.nodes[name].address)) for name in names]
        first = await self._add(replica, add, promote=promote)
        for at, name in enumerate(names):
            gid, id_ = replica.gid, ReplicaId(first + at)
            record = ReplicaRecord(gid, self.uuids[gid], id_, self._rng.getrandbits(63))
            await self.nodes[name].create(record)

    async def _settled(self, replica: Replica, voters: int) -> None:
        """Until so many vote, and nothing is under way."""
        core = replica.core
        while (  # noqa: ASYNC110 - nothing announces it
            len(core.membership.voters) < voters or core.log.membership_index > core.commit
        ):
            await asyncio.sleep(0.01)

    async def _add(
        self, replica: Replica, add: Sequence[tuple[NodeId, str]], *, promote: bool
    ) -> int:
        context = self.nodes[self.placement[replica.gid][0]].context
        change = partial(replica.core.change_members, add=add, promote=promote)
        while True:
            first = int(replica.core.membership.next_id)
            try:
                context.run(change)
            except (NotLeader, MembershipRefused):  # it does not lead yet, or leads too shortly
                await asyncio.sleep(0.05)
            else:
                context.run(replica._wake, replica)
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
        clerk = Clerk(
            transport, controller, rng=Random(rng.random()), nodes=lambda: controller.endpoints
        )
        return clerk, controller

    @property
    def client_addresses(self) -> list[Address]:
        return [Address(f"client{number + 1}") for number in range(self._clients)]

    # Looking at it

    def machines(self, gid: GroupId) -> list[StoreMachine]:
        """The group's state machines on the nodes that are up."""
        return [server.machine for server in self.servers(gid)]

    def servers(self, gid: GroupId) -> list[GroupServer]:
        """The group's replicas on the nodes that are up, but for those that it has let go."""
        return [
            node.assembly.groups[gid].server
            for node in self.nodes.values()
            if node.assembly is not None
            and gid in node.assembly.groups
            and not node.assembly.groups[gid].server.replica.core.removed
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

    def replicas(self) -> list[tuple[SimNode, Replica]]:
        """Every replica that runs and has not been let go."""
        return [
            (node, replica)
            for node in self.nodes.values()
            if node.host is not None
            for replica in node.host.replicas.values()
            if not replica.core.removed and replica.applied > 0
        ]

    def voters(self, gid: GroupId) -> list[Member]:
        """Everybody who votes in the group, by what its leader knows; [] while nobody leads."""
        node = self.leader(gid)
        if node is None or node.host is None:
            return []
        membership = node.host.replicas[gid].core.membership
        return [*membership.voters, *membership.outgoing]

    def settled(self, gid: GroupId) -> bool:
        """Whether no change of a group's members is under way, or due (L5)."""
        node = self.leader(gid)
        if node is None or node.host is None:
            return False
        membership = node.host.replicas[gid].core.membership
        return (
            not membership.outgoing
            and all(m.node in self.learners.get(gid, ()) for m in membership.learners)
            and not any(self.nodes[m.node].condemned for m in membership.voters)
        )

    def converged(self, gid: GroupId) -> bool:
        """Whether everybody up and in the group has applied all that its leader's log holds (L3),
        and no change of members is under way."""
        node = self.leader(gid)
        if node is None or node.host is None:
            return False
        core = node.host.replicas[gid].core
        here = [n.host.replicas.get(gid) for n in self.nodes.values() if n.host is not None]
        ids = {member.id for member in core.membership.voters}
        held = [replica for replica in here if replica is not None and replica.id in ids]
        return (
            self.settled(gid)
            and 2 * len(held) > len(ids)
            and all(replica.applied == core.log.last.index for replica in held)
        )

    def quiet(self, number: int) -> bool:
        """Whether every replica that is up, of every group, has taken configuration `number`, with
        every shard settled and served by exactly one group."""
        owners = [0] * self.nshards
        for gid in self.gids:
            machines = self.machines(gid)
            if 2 * len(machines) <= len(self.voters(gid)) or not machines:
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
