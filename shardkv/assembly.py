"""What a node runs on its replicas: the controller's and the groups' servers, put together.

The same parts in the same order in a production process (`node.py`), in an embedded store
(`embedded.py`) and in the simulator (`labs/cluster.py`); what differs is handed in.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from labrpc.transport import Address, Transport
from raft.errors import ReplicaStopped
from raft.host import Host
from raft.rsm import ReplicatedStateMachine
from raft.types import GroupId, GroupUuid
from shardctrler.client import ControllerClient
from shardctrler.machine import ControllerMachine
from shardctrler.server import ControllerServer
from shardctrler.types import ConfigNumber, NodeAddresses, ShardId
from shardkv.admin import ShardStatus
from shardkv.backup.protocol import Unsettled
from shardkv.backup.serving import BackupService
from shardkv.feed import ConfigFeed
from shardkv.foresight import concerns_shards, foreseen
from shardkv.handover import Handover, RateLimit
from shardkv.last_view import Page
from shardkv.limits import LATE_SECONDS
from shardkv.machine import StoreMachine
from shardkv.phases import Phase
from shardkv.read_service import ReadService
from shardkv.recovery import ShardStands, Stands
from shardkv.recovery_service import RecoveryService
from shardkv.reporter import Reporter
from shardkv.routing import Routing, SlotRouting
from shardkv.rows import ABSENT_RECORD, ShardRecord
from shardkv.server import GroupServer, GroupStateMachine
from shardkv.service import StoreService
from shardkv.signpost import Signpost

if TYPE_CHECKING:
    from shardkv.tracing import Tracing

log = logging.getLogger(__name__)

CONTROLLER: GroupId = GroupId(0)


class _Group(NamedTuple):
    """A group of the store, as it runs here."""

    server: GroupServer
    handover: Handover


class Assembly:
    """Everything that one node runs above its replicas.

    Args:
        host: Holds the replicas; stays its owner's to stop.
        transport: The clients' end of the node: calls come in and go out by it. Nothing may be
            served on it yet by the methods of the store and the controller.
        addresses: Where this node listens, as it is registered with the controller.
        nshards: Of the cluster.
        endpoints: Addresses for clients of nodes that may host the controller, or know who does.
        rng: Chance for jitter.
        routing: Key to shard; None: the store's own.
        new_machine: Makes a group's state machine; the simulator watches it that way.
        tracing: Where spans of traced writes go; None: nothing is traced.
    """

    def __init__(
        self,
        host: Host,
        transport: Transport,
        *,
        addresses: NodeAddresses,
        nshards: int,
        endpoints: Sequence[Address],
        rng: Random,
        routing: Routing | None = None,
        new_machine: Callable[[GroupId, int], StoreMachine] = StoreMachine,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.host = host
        self.transport = transport
        self.nshards = nshards
        self.client = ControllerClient(transport, endpoints, rng)
        self.feed = ConfigFeed(self.client, rng)
        self.service = StoreService(transport)
        self.service.tracing = self._tracing = tracing
        self.reads = ReadService(transport, self.service, lambda: self.feed.view, self.page)
        self.controller: ControllerServer | None = None
        self.backups = BackupService(host, self, rng)
        self.recovery = RecoveryService(host, self, self.client, self.feed, host.boot)
        self._controller_rsm: ReplicatedStateMachine | None = None
        self.groups: dict[GroupId, _Group] = {}
        self._closed = False
        self.roomy: Callable[[], bool] = lambda: True
        """Whether the node's disk has room for what clients write."""
        host.watch_disk(lambda: self.roomy())
        self._rng = rng
        self._routing = routing or SlotRouting(nshards)
        self._new_machine = new_machine
        self._rate = RateLimit()
        self._reporter = Reporter(host, self.feed, self.client, addresses)
        self._signpost = Signpost(self.client, Address(addresses.client))

    async def open(self) -> None:
        """Start every replica that is on this node's disk, and follow configurations.

        Raises:
            DataUnusable: a replica's log or data cannot be used; the text says which.
        """
        records = self.host.records()
        if CONTROLLER not in [record.gid for record in records]:
            self._signpost.serve(self.transport)
        for record in records:
            await self.start(record.gid)
        self.backups.serve(self.transport)
        self.recovery.serve(self.transport)
        self.feed.start()
        self._reporter.start()

    async def start(self, gid: GroupId) -> None:
        """Start one replica that is on disk."""
        if gid in self.groups or (gid == CONTROLLER and self.controller is not None):
            await self._stop(gid)  # of a replica that was there before, and is gone from the disk
        if gid == CONTROLLER:
            await self._start_controller()
            return
        machine = self._new_machine(gid, self.nshards)
        machine.be(next(record.uuid for record in self.host.records() if record.gid == gid))
        rsm = GroupStateMachine(machine)
        rsm.meter = self.service.meter
        replica = await self.host.start_replica(gid, rsm)
        if self._closed:
            return  # it stopped meanwhile: nobody would end what is begun now
        rsm.attach(replica)
        if self._tracing is not None:
            rsm.tracer = replica.tracer = self._tracing.group(gid)
        server = GroupServer(replica, rsm, machine, self.feed, self._routing)
        server.roomy = lambda: self.roomy() and self.host.has_room(gid)
        handover = Handover(server, self.feed, self.transport, self._rng, self._rate)
        self.groups[gid] = _Group(server, handover)
        self.service.groups[gid] = server

    async def _start_controller(self) -> None:
        rsm = ReplicatedStateMachine(ControllerMachine(self.nshards), late_seconds=LATE_SECONDS)
        replica = await self.host.start_replica(CONTROLLER, rsm)
        if self._closed:
            return
        rsm.attach(replica)
        self._controller_rsm = rsm
        self.controller = ControllerServer(rsm, self.transport)
        self.controller.start()

    async def retire(self, gid: GroupId) -> None:
        """Stop a replica that its group has removed for ever, and delete it, durably."""
        replica = self.host.replicas.get(gid)
        await self._stop(gid)
        if self.host.replicas.get(gid) is replica:  # else somebody else did, and made another
            await self.host.drop_replica(gid)

    async def rebirth(self, gid: GroupId, uuid: GroupUuid) -> None:
        """See `shardkv.recovery_service.Groups`."""
        await self._stop(gid)
        await self.host.rebirth(gid, uuid)
        await self.start(gid)

    async def _stop(self, gid: GroupId) -> None:
        """End what runs above a replica."""
        if gid == CONTROLLER and self.controller is not None:
            controller, self.controller = self.controller, None
            self._controller_rsm = None
            await controller.close()
            self._signpost.serve(self.transport)
        group = self.groups.pop(gid, None)
        self.service.groups.pop(gid, None)
        if group is not None:
            await group.handover.close()

    async def close(self) -> None:
        """Stop what runs above the replicas; the replicas themselves stay the host's."""
        self._closed = True
        self.backups.close()
        await asyncio.gather(
            self._reporter.close(),
            self.recovery.close(),
            self.feed.close(),
            *[group.handover.close() for group in self.groups.values()],
        )
        if self.controller is not None:
            await self.controller.close()
        await self.client.close()

    # Facts

    @property
    def copied_bytes(self) -> int:
        """Of shards that were copied to groups led here, since the start."""
        return self._rate.taken

    def config_number(self, gid: GroupId) -> int:
        """Of the configuration that a group has applied here; 0 if none."""
        group = self.groups.get(gid)
        return 0 if group is None else group.server.machine.number

    def page(self, number: ConfigNumber) -> Page:
        """A configuration of the history, by what was heard here and what groups have applied."""
        applied = [
            config
            for group in self.groups.values()
            if (config := group.server.machine.config) is not None
        ]
        page = self.feed.kept(number)
        if page is None:
            page = next((config for config in applied if config.number == number), None)
        return Page(max([self.feed.number, *[config.number for config in applied]]), page)

    async def read_barrier(self, gid: GroupId) -> None:
        """See `shardkv.backup.serving.Groups`."""
        group = self.groups.get(gid)
        rsm = self._controller_rsm if group is None else group.server.rsm
        if rsm is None:
            raise ReplicaStopped(f"no replica of group {gid} runs here")
        await rsm.read()

    def stands_at(self, gid: GroupId) -> int:
        """The number of the newest configuration that a group's state holds, the controller's
        (gid 0) too."""
        if gid == CONTROLLER and self._controller_rsm is not None:
            machine = self._controller_rsm.machine
            assert isinstance(machine, ControllerMachine), machine
            return machine.view.config.number
        return self.config_number(gid)

    async def stands(self, gid: GroupId, *, whole: bool) -> Stands | None:
        """See `shardkv.recovery_service.Groups`."""
        replica = self.host.replicas.get(gid)
        if replica is None:
            return None
        named = (str(self.host.node), int(gid), replica.record.uuid)
        if gid == CONTROLLER:
            number = self.stands_at(gid)
            if whole:
                machine = await foreseen(replica, ControllerMachine(self.nshards))
                number = machine.view.config.number
            return Stands(*named, number, ())
        group = self.groups.get(gid)
        if group is None:
            return None
        shards = group.server.machine
        if whole:
            shards = await foreseen(replica, StoreMachine(gid, self.nshards), concerns_shards)
        records = enumerate(shards.facts.records)
        known = [(shard, record) for shard, record in records if record != ABSENT_RECORD]
        return Stands(
            *named,
            shards.number,
            tuple(
                [
                    ShardStands(shard, record.phase, record.number, record.taken, record.peer)
                    for shard, record in known
                ]
            ),
        )

    def unsettled(self, gid: GroupId) -> tuple[Unsettled, ...]:
        """The shards that are on their way to a group or away from it."""
        group = self.groups.get(gid)
        if group is None:
            return ()
        return tuple(
            Unsettled(shard, record.phase.name.lower(), record.peer)
            for shard, record in group.server.machine.unsettled
        )

    def shards(self, gid: GroupId) -> tuple[ShardStatus, ...]:
        """The shards that a group holds here, awaits or gives away."""
        group = self.groups.get(gid)
        if group is None:
            return ()
        records = enumerate(group.server.machine.facts.records)
        return tuple(
            _status(ShardId(shard), record, group.handover)
            for shard, record in records
            if record.phase is not Phase.ABSENT
        )


def _status(shard: ShardId, record: ShardRecord, handover: Handover) -> ShardStatus:
    words = (shard, record.phase.name.lower(), record.peer)
    if record.phase is not Phase.ARRIVING:
        return ShardStatus(*words, "")
    phase, _, left, rate = handover.progress(shard, record)
    return ShardStatus(*words, phase, left, rate)
