"""A simulated cluster: the parts of a production node on a simulated loop, network and disk.

Only the adapters differ from a real one. A *node* is what outlives its processes: a drive and a
name; `start` and `crash` give it lives. Groups are born as in production, with one voter, and grow
through their own logs.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from labrpc.sim.chance import Chance
from labrpc.sim.disk import DiskFailed, SimDrive
from labrpc.sim.loop import VirtualLoop, process_context
from labrpc.sim.network import HEALTHY, Faults, SimNetwork, SimTransport
from labrpc.transport import Address
from labs.checkers import NodeCourier, RaftInvariants, watch_drive
from labs.observer import Observer
from labs.store_invariants import StoreInvariants, WatchedMachine
from labs.weaker_reads import watch_barriers
from raft.config import RaftConfig
from raft.courier import FrameCourier
from raft.disk.log_store import LogStore, NodeIdentity, ReplicaRecord
from raft.errors import DataUnusable, MembershipRefused, NotLeader
from raft.frames import FrameCodec
from raft.host import CompactionConfig, Host
from raft.ports import StateMachine
from raft.replica import Replica
from raft.types import GroupId, GroupUuid, Member, NodeId, ReplicaId
from shardctrler.client import ControllerClient
from shardctrler.commands import JoiningGroup
from shardctrler.types import GroupMember, NodeAddresses, ShardId
from shardkv.admin import NodeStatus
from shardkv.admin_service import AdminService
from shardkv.assembly import CONTROLLER, Assembly
from shardkv.clerk import Clerk
from shardkv.departing import Departing
from shardkv.disk_space import PLENTY, DiskSpace, Space
from shardkv.healing import Healer
from shardkv.healing_beats import Own
from shardkv.machine import StoreMachine
from shardkv.phases import SETTLED, Phase
from shardkv.planner import HealPolicy
from shardkv.server import GroupServer

CLUSTER: Final = bytes(range(16))
LOG, DATA, PROMISES = "log", "data", ("promise-a", "promise-b")
GROWTH_SECONDS: Final = 30.0


class WatchedHost(Host):
    """A host whose replicas are watched: what they say, store, apply and decide (R1 to R18)."""

    watchers: Mapping[GroupId, RaftInvariants]
    touched: dict[GroupId, None]

    async def start_replica(self, gid: GroupId, machine: StateMachine) -> Replica:
        watcher = self.watchers[gid]
        replica = await super().start_replica(gid, watcher.machine(self.node, machine))
        watcher.started(self.node, replica)
        watcher.snapshots.watch(self.node, replica)
        watch_barriers(watcher, self.node, replica)
        return replica

    def _wake(self, replica: Replica) -> None:
        self.touched[replica.gid] = None
        super()._wake(replica)


class SimNode:
    """A node: its drive, and the process that runs on it now, if one does."""

    def __init__(self, cluster: "SimCluster", name: str) -> None:
        self.name = NodeId(name)
        self.address = Address(name)
        self.drive = SimDrive(cluster.chance.rng(f"drive/{name}"), on_failure=self._failed)
        watch_drive(cluster.watchers, name, self.drive, log=LOG, data=DATA)
        self.lives = 0
        self._created = False
        self.condemned = False
        """Out of service for good: its disk is not trusted any more."""
        self.refused = ""
        """Why its last start was refused; "" if it was not."""
        self.remembered: list[Address] = []
        """Where its processes heard of other nodes; a file in production (`nodedir.py`)."""
        self.context = process_context(name)
        """Everything that its processes do; the loop can let it stand still."""
        self.transport: SimTransport | None = None
        self.host: WatchedHost | None = None
        self.assembly: Assembly | None = None
        self.healer: Healer | None = None
        self.space: Space | None = None
        """What is free on its disk; None: plenty."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = loop
        self._cluster = cluster
        self._log_store: LogStore | None = None
        self._starting: asyncio.Task[None] | None = None
        self._chores: dict[asyncio.Task[None], None] = {}
        self._ending: list[asyncio.Task[None]] = []
        self._besides: list[Callable[[], Coroutine[Any, Any, None]]] = []

    @property
    def alive(self) -> bool:
        """Whether a process runs here, be it that it still starts."""
        return self._starting is not None or self.host is not None

    @property
    def running(self) -> bool:
        return self._starting is None and self.host is not None

    def tell_waits(self) -> None:
        """What clients waited for at this process's doors, since it was asked last."""
        if self.assembly is None:
            return
        probes = self._cluster.observer.probes
        for group in self.assembly.groups.values():
            server = group.server
            probes["freeze held a request"] += server.holds.requests
            probes["writers slowed by a copy"] += server.slowed
            server.holds.requests = server.slowed = 0

    async def start(self) -> bool:
        """A new process on what the drive holds; the first one makes the node.

        Returns:
            Whether it runs; False: it was ended while it started, or its disk failed.
        """
        assert not self.alive, f"{self.name} runs"
        self.lives += 1
        self._cluster.observer.tell(f"{self.name} starts life={self.lives}")
        starting = self._loop.create_task(self._start(), context=self.context)
        self._starting = starting
        starting.add_done_callback(self._started)
        await asyncio.wait([starting])  # whoever waits may be cancelled, the process is not
        return self.running

    def _started(self, starting: "asyncio.Task[None]") -> None:
        error = None if starting.cancelled() else starting.exception()
        if self._starting is not starting:
            return  # it was ended meanwhile
        self.refused = ""
        if isinstance(error, DataUnusable) and (self.condemned or self._cluster.may_be_ruined):
            self.refused = str(error)
            self._end(f"refuses: {error}", self.drive.end_process)
        self._starting = None
        if error is not None and not isinstance(error, DiskFailed) and not self.refused:
            raise error

    async def _start(self) -> None:
        cluster = self._cluster
        rng = cluster.chance.rng(f"node/{self.name}/{self.lives}")
        log_disk = self.drive.disk(LOG)
        slots = (self.drive.slot(PROMISES[0]), self.drive.slot(PROMISES[1]))
        identity = NodeIdentity(CLUSTER, self.name)
        opening = LogStore.open if self._created else LogStore.create
        self._log_store = await opening(log_disk, slots, identity)
        self._created = True
        transport = self.transport = cluster.network.transport(self.address)
        codec = FrameCodec(CLUSTER, self.name, self.address)
        touched: dict[GroupId, None] = {}
        courier = NodeCourier(
            cluster.watchers,
            self.name,
            FrameCourier(
                lambda to, bulk: transport.channel(Address(to), bulk=bulk),
                codec,
                cluster.raft.heartbeat_seconds,
            ),
            touched,
        )
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
        self.host.watchers, self.host.touched = cluster.watchers, touched
        transport.listen(self.host.receive)
        self.assembly = Assembly(
            self.host,
            transport,
            addresses=NodeAddresses(self.address, self.address),
            nshards=cluster.nshards,
            endpoints=list(dict.fromkeys([*cluster.controllers, *self.remembered, self.address])),
            rng=Random(rng.random()),
            new_machine=cluster.new_machine,
        )
        await self.assembly.open()
        if cluster.heal is not None:
            self._heal_by_itself(self.assembly, self.host, transport, Random(rng.random()))

    def _heal_by_itself(
        self, assembly: Assembly, host: Host, transport: SimTransport, rng: Random
    ) -> None:
        """What a production node has besides: operators' commands, and healing."""
        assert self._cluster.heal is not None
        boot = rng.getrandbits(62)
        admin = AdminService(lambda: self._facts(boot), boot, host, assembly, rng)
        admin.serve(transport)
        space = DiskSpace(lambda: self.space or PLENTY)
        assembly.roomy = lambda: space.roomy
        space.start()
        self.healer = Healer(
            host,
            transport,
            view=lambda: assembly.feed.view,
            own=lambda: Own(boot, roomy=space.roomy),
            moving=lambda gid: bool(assembly.unsettled(GroupId(gid))),
            policy=self._cluster.heal,
        )
        self.healer.start()

        async def retire(gid: GroupId) -> None:
            self._cluster.observer.tell(f"{self.name} lets g{gid} go")
            self._cluster.watchers[gid].dropped(str(self.name))
            await assembly.retire(gid)

        departing = Departing(host, assembly.feed, transport, retire)
        departing.start()
        self._besides = [self.healer.close, departing.close, space.close]

    def _facts(self, boot: int) -> NodeStatus:
        view = self.assembly.feed.view if self.assembly is not None else None
        return NodeStatus(
            node=str(self.name), cluster=CLUSTER, version="sim", pid=0, boot=boot, uptime_ms=0,
            client=self.address, peer=self.address, http="", nshards=self._cluster.nshards,
            state="running", config_number=view.config.number if view is not None else 0,
            known=(), replicas=(),
        )  # fmt: skip

    @property
    def paused(self) -> bool:
        return self._loop.is_paused(self.name)

    def pause(self) -> None:
        """SIGSTOP: nothing runs here, frames and timers wait, the clock goes on."""
        self._cluster.observer.tell(f"{self.name} stands still")
        self._loop.pause(self.name)

    def resume(self) -> None:
        """SIGCONT."""
        if self.paused:
            self._cluster.observer.tell(f"{self.name} goes on")
            for watcher in self._cluster.watchers.values():
                watcher.went_on(self.name)
            self._loop.resume(self.name)

    def crash(self) -> None:
        """A power cut: what was not durable may be gone."""
        self._end("power cut", self.drive.crash)

    def kill(self) -> None:
        """kill -9: the process is gone, what it handed to the disk lands."""
        self._end("killed", self.drive.end_process)

    def _failed(self, error: DiskFailed) -> None:
        self._end(f"disk failed: {error}", self.drive.crash)

    def _end(self, how: str, end_drive: Callable[[], None]) -> None:
        if not self.alive:
            return
        self._cluster.observer.tell(f"{self.name} {how}")
        self.tell_waits()
        self.resume()
        if self.transport is not None:
            self.transport.crash()  # nothing leaves any more, and nothing comes in
        self._count_hand_overs()
        if self._starting is not None:
            self._starting.cancel()
        for chore in self._chores:
            chore.cancel()
        lost = self.drive.lost_writes
        end_drive()
        if self.drive.lost_writes > lost:
            self._cluster.observer.probe("writes under way lost by a power cut")
        if self._log_store is not None:
            self._log_store.abandon()
        if self.host is not None:
            self.host.stop("crashed")
        for watcher in self._cluster.watchers.values():
            watcher.stopped(self.name)
        if self.assembly is not None:  # only ends tasks: its calls fail at once
            self.remembered = list(self.assembly.client.endpoints)
            loop, self._besides, besides = self._loop, [], self._besides
            closing = [loop.create_task(self.assembly.close())]
            closing += [loop.create_task(close()) for close in besides]
            self._ending = [task for task in self._ending if not task.done()] + closing
        self.host = self.assembly = self.transport = self._log_store = self._starting = None
        self.healer = None

    def _count_hand_overs(self) -> None:
        groups = self.assembly.groups.values() if self.assembly is not None else ()
        for group in groups:
            phases = {record.phase for _, record in group.server.machine.unsettled}
            if Phase.ARRIVING in phases:
                self._cluster.observer.probe("destination down during a hand-over")
            if phases - {Phase.ARRIVING}:
                self._cluster.observer.probe("source down during a hand-over")

    # Replicas that come and go

    async def create(self, record: ReplicaRecord) -> bool:
        """Make a blank replica, as `shardkv up` does, and start it; False: the node ended first."""
        return await self._chore(self._create(record))

    async def _create(self, record: ReplicaRecord) -> None:
        host, assembly = self.host, self.assembly
        assert host is not None and assembly is not None
        await host.create_replica(record)
        self._cluster.observer.tell(f"{self.name} creates g{record.gid}/{record.replica}")
        await assembly.start(record.gid)

    async def found(self, gid: GroupId, uuid: GroupUuid, incarnation: int) -> bool:
        """Give birth to a group here."""
        return await self._chore(self._found(gid, uuid, incarnation))

    async def _found(self, gid: GroupId, uuid: GroupUuid, incarnation: int) -> None:
        host, assembly = self.host, self.assembly
        assert host is not None and assembly is not None
        await host.found_group(gid, uuid, incarnation)
        await assembly.start(gid)

    async def drop(self, gid: GroupId) -> bool:
        """Delete the replica of a group that it has left; False: the node ended first."""
        return await self._chore(self._drop(gid))

    async def _drop(self, gid: GroupId) -> None:
        assembly = self.assembly
        assert assembly is not None
        self._cluster.observer.tell(f"{self.name} drops g{gid}")
        self._cluster.watchers[gid].dropped(self.name)
        await assembly.retire(gid)

    async def _chore(self, work: Coroutine[Any, Any, None]) -> bool:
        """Work of this process, which ends with it: a dead disk answers nobody.

        Returns:
            Whether it was done.
        """
        chore = asyncio.get_running_loop().create_task(work, context=self.context)
        self._chores[chore] = None
        try:
            (error,) = await asyncio.gather(chore, return_exceptions=True)
        finally:
            self._chores.pop(chore, None)
        if isinstance(error, Exception) and not isinstance(error, DiskFailed):
            raise error
        return error is None


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
