"""A simulated node: the parts of a production node on a simulated loop, network and disk.

A *node* is what outlives its processes: a drive and a name; `start`, `crash` and `kill` give it
lives. Everything that a process does belongs to the node's context, so that it can stand still and
have a clock of its own (`labrpc/sim/loop.py`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, Final, Protocol

from labrpc.sim.chance import Chance
from labrpc.sim.disk import DiskFailed, SimDrive
from labrpc.sim.loop import VirtualLoop, process_context
from labrpc.sim.network import SimNetwork, SimTransport
from labrpc.transport import Address
from labs.checkers import NodeCourier, RaftInvariants, watch_drive
from labs.observer import Observer
from labs.store_invariants import WatchedMachine
from labs.weaker_reads import watch_barriers
from raft.config import RaftConfig
from raft.courier import FrameCourier
from raft.disk.log_store import LogStore, NodeIdentity, ReplicaRecord
from raft.errors import DataUnusable
from raft.frames import DAMAGED, FrameCodec
from raft.host import CompactionConfig, Host
from raft.log import Log
from raft.ports import StateMachine
from raft.replica import Replica
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.types import NodeAddresses
from shardkv.admin import NodeStatus
from shardkv.admin_service import AdminService
from shardkv.assembly import Assembly
from shardkv.departing import Departing
from shardkv.disk_space import PLENTY, DiskSpace, Space
from shardkv.healing import Healer
from shardkv.healing_beats import Own
from shardkv.phases import Phase
from shardkv.planner import HealPolicy

CLUSTER: Final = bytes(range(16))
LOG, DATA, PROMISES = "log", "data", ("promise-a", "promise-b")


_HEALING: Final = {
    "re-create": "healing made a replica anew",
    "take": "healing took a change back",
    "hand": "healing handed a leadership on",
}
"""By the first word of a step (`shardkv.planner.describe`)."""


class World(Protocol):
    """What a node needs of the cluster that it is in."""

    chance: Chance
    observer: Observer
    network: SimNetwork
    watchers: dict[GroupId, RaftInvariants]
    raft: RaftConfig
    compaction: CompactionConfig
    controllers: list[Address]
    nshards: int
    heal: HealPolicy | None
    may_be_ruined: bool

    def new_machine(self, gid: GroupId, nshards: int) -> WatchedMachine: ...

    def reborn(self, gid: GroupId, uuid: GroupUuid, log: Log) -> None: ...


class WatchedHost(Host):
    """A host whose replicas are watched: what they say, store, apply and decide (R1 to R18)."""

    watchers: Mapping[GroupId, RaftInvariants]
    touched: dict[GroupId, None]
    world: World

    async def rebirth(self, gid: GroupId, uuid: GroupUuid) -> ReplicaRecord:
        self.world.reborn(gid, uuid, self.replicas[gid].core.log)
        return await super().rebirth(gid, uuid)

    async def start_replica(self, gid: GroupId, machine: StateMachine) -> Replica:
        watcher = self.watchers[gid]
        replica = await super().start_replica(gid, watcher.machine(self.node, machine))
        watcher.started(self.node, replica)
        watcher.snapshots.watch(self.node, replica)
        watch_barriers(watcher, self.node, replica)
        return replica

    def _wake(self, replica: Replica) -> None:
        self.touched[replica.gid] = None
        Host._wake(self, replica)  # called so often that it does without `super`


class SimNode:
    """A node: its drive, and the process that runs on it now, if one does."""

    def __init__(self, cluster: World, name: str) -> None:
        self.name = NodeId(name)
        self.address = Address(name)
        self.drive = SimDrive(cluster.chance.rng(f"drive/{name}"), on_failure=self._failed)
        watch_drive(cluster.watchers, name, self.drive, log=LOG, data=DATA)
        self.lives = 0
        self.made: dict[GroupId, None] = {}
        """The groups that it was given a replica of, in any life."""
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
        self._steps_told = 0  # of this process's healer
        self._ending: list[asyncio.Task[None]] = []
        self._besides: list[Callable[[], Coroutine[Any, Any, None]]] = []

    @property
    def alive(self) -> bool:
        """Whether a process runs here, be it that it still starts."""
        return self._starting is not None or self.host is not None

    @property
    def running(self) -> bool:
        return self._starting is None and self.host is not None

    def tell_counts(self) -> None:
        """What this process has counted since it was asked last."""
        if self.assembly is None or self.host is None:
            return
        probes = self._cluster.observer.probes
        probes["damaged frame dropped"] += self.host.dropped.pop(DAMAGED, 0)
        for group in self.assembly.groups.values():
            server = group.server
            probes["freeze held a request"] += server.holds.requests
            probes["writers slowed by a copy"] += server.slowed
            server.holds.requests = server.slowed = 0
        if self.healer is not None:
            steps = self.healer.report().done
            for step in steps[self._steps_told :]:
                probes[_HEALING[step.partition(" ")[0]]] += 1
            self._steps_told = len(steps)

    async def start(self) -> bool:
        """A new process on what the drive holds; the first one makes the node.

        Returns:
            Whether it runs; False: it was ended while it started, or its disk failed.
        """
        assert not self.alive, f"{self.name} runs"
        self.lives += 1
        self._steps_told = 0
        self._cluster.observer.tell(f"{self.name} starts life={self.lives}")
        starting = self._loop.create_task(self._start(), context=self.context)
        self._starting = starting
        starting.add_done_callback(self._started)
        # Whoever waits may be cancelled, the process is not.
        await asyncio.gather(asyncio.shield(starting), return_exceptions=True)
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
        self.host.world = cluster
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
        self.tell_counts()
        self.resume()
        if self.transport is not None:
            self.transport.crash()  # nothing leaves any more, and nothing comes in
        self._count_hand_overs()
        if self._starting is not None:
            self._starting.cancel()
        for chore in self._chores:
            chore.cancel()
        lost, torn = self.drive.lost_writes, self.drive.torn_records
        end_drive()
        if self.drive.torn_records > torn:
            self._cluster.observer.probe("half-written promise left by a power cut")
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

    def lose_disk(self) -> None:
        """The disk of a node that is down is gone. What comes under its name next is a stranger
        that knows where others are, and nothing else."""
        assert not self.alive, f"{self.name} runs"
        for name in (LOG, DATA, *PROMISES):
            self.drive.wipe(name)
        for watcher in self._cluster.watchers.values():
            watcher.disk_lost(str(self.name))
        self._cluster.observer.tell(f"{self.name} loses its disk")
        self._created = False

    # Replicas that come and go

    async def create(self, record: ReplicaRecord) -> bool:
        """Make a blank replica, as `shardkv up` does, and start it; False: the node ended first."""
        return await self._chore(self._create(record))

    async def _create(self, record: ReplicaRecord) -> None:
        host, assembly = self.host, self.assembly
        assert host is not None and assembly is not None
        self.made[record.gid] = None
        await host.create_replica(record)
        self._cluster.observer.tell(f"{self.name} creates g{record.gid}/{record.replica}")
        await assembly.start(record.gid)

    async def found(self, gid: GroupId, uuid: GroupUuid, incarnation: int) -> bool:
        """Give birth to a group here."""
        return await self._chore(self._found(gid, uuid, incarnation))

    async def _found(self, gid: GroupId, uuid: GroupUuid, incarnation: int) -> None:
        host, assembly = self.host, self.assembly
        assert host is not None and assembly is not None
        self.made[gid] = None
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

    async def flush(self) -> bool:
        """Make the state durable and cut logs, as is done now and then; False: the node ended."""
        assert self.host is not None
        return await self._chore(self.host.compact())

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
