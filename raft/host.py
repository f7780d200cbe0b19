"""All replicas of one node: one timer, one log, one outbox a peer node.

A *turn* of the loop serves every replica that something happened to: their saves become one batch
and one sync, their messages one frame a peer. Heartbeats of all groups fall on one grid of time
(`raft/core.py`), so an idle node wakes ten times a second however many groups it hosts.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor
from random import Random
from typing import Final

from raft.chores import begin_chore
from raft.config import RaftConfig
from raft.core import Raft
from raft.courier import Courier
from raft.deadlines import NEVER, Deadlines
from raft.disk.data_store import ReplicaData, reconcile, sweep_orphans
from raft.disk.log_store import LogStore, ReplicaRecord
from raft.entry_memory import EntryMemory
from raft.errors import BadMessage, DataUnusable
from raft.frames import FrameCodec
from raft.log import Log
from raft.membership import members
from raft.parcel import Parcel
from raft.ports import Disk, StateMachine
from raft.quorum import Electorate
from raft.replica import Replica
from raft.types import (
    NOBODY,
    Entry,
    GroupId,
    GroupUuid,
    Index,
    Member,
    Membership,
    NodeId,
    ReplicaId,
    SnapshotMeta,
)

log = logging.getLogger(__name__)

IDS_SKIPPED: Final = 1_000
"""Replica ids that may have been given by changes of members which no survivor knows of."""
GARBAGE_ROWS_MAX: Final = 1_000
REASONS_MAX: Final = 64
"""Why frames were not taken is counted for so many reasons; what else comes counts together."""
HOUSEKEEPING_SECONDS: Final = 0.5
WORTH: Final = 4
"""A cut takes away a fourth of what a log may hold at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionConfig:
    """When a group's log is cut. Past either bound the data is flushed and the prefix dropped, if
    that takes away `WORTH` of the bound: a flush costs tables that are joined again."""

    log_bytes_max: int = 32 * 1024 * 1024
    log_entries_max: int = 100_000
    keep_entries: int = 2_000
    """Entries kept at the log's end, so that a slow follower needs no snapshot; but no more of them
    than fit in half of `log_bytes_max`."""
    snapshot_log_bytes_max: int = 1024 * 1024 * 1024
    """What the log may hold behind a snapshot on its way out, whose follower will need it from
    there. Past it the stream is given up and a new one begun: a follower that takes snapshots more
    slowly than its group writes must not fill its leader's disk."""


class Host:
    """The replicas that this node holds, and what they share.

    Args:
        node: This node's id.
        address: Where peers dial this node; it goes into the memberships of groups born here.
        log_store: Every group's log.
        data_disk: Every group's state-machine rows.
        courier: Takes what replicas say to other nodes.
        codec: Unpacks frames from other nodes.
        config: The one Raft configuration of all groups.
        rng: The source of election time-outs.
        boot: A number that no earlier life of this node used.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        address: str,
        log_store: LogStore,
        data_disk: Disk,
        courier: Courier,
        codec: FrameCodec,
        config: RaftConfig,
        rng: Random,
        boot: int,
        compaction: CompactionConfig | None = None,
    ) -> None:
        self.node, self.address = node, address
        self.replicas: dict[GroupId, Replica] = {}
        self.entry_memory: Final = EntryMemory(config.cache_bytes_max)
        """What the logs of all replicas keep of their entries in memory."""
        self.dropped: Counter[str] = Counter()  # parcels and frames not taken, by reason
        self._log_store = log_store
        self._data_disk = data_disk
        self._courier = courier
        self._codec = codec
        self._config = config
        self._compaction = compaction or CompactionConfig()
        self._rng = rng
        self._boot = boot
        self._loop = asyncio.get_running_loop()
        self._due: dict[Replica, None] = {}  # an ordered set: who gets a turn
        self._turn_scheduled = False
        self._applying: dict[Replica, None] = {}  # an ordered set: who has entries to apply
        self._apply_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER  # uvloop gives a due timer no `when`
        self._deadlines: Deadlines[Replica] = Deadlines()
        self._closed = False
        self._dropping: dict[GroupId, None] = {}  # not yet durably
        self._cramped: dict[NodeId, None] = {}  # nodes that said last that their disks are full
        self._orphans = True  # rows of dropped replicas may lie on the data disk
        self._housekeeper = begin_chore(
            self._keep_house(), "logs are no longer cut on this node, and grow for ever"
        )

    # Replicas

    def records(self) -> list[ReplicaRecord]:
        """The replicas on this node's disk, started or not."""
        return self._log_store.replicas()

    def record(self, gid: GroupId) -> ReplicaRecord | None:
        """A group's replica on this node's disk, started or not."""
        return self._log_store.find(gid)

    @property
    def boot(self) -> int:
        """A number that no earlier life of this node on this directory used."""
        return self._boot

    def log_bytes(self, gid: GroupId) -> int:
        """What a group's log holds here, in bytes; framing not counted."""
        return self._log_store.bytes(gid)

    @property
    def frames_sent(self) -> int:
        """Frames made for other nodes so far; one holds the messages of many groups."""
        return self._codec.frames_packed

    @property
    def messages_sent(self) -> int:
        """What these frames held."""
        return self._codec.parcels_packed

    async def found_group(self, gid: GroupId, uuid: GroupUuid, incarnation: int) -> ReplicaRecord:
        """Give birth to a group: one voter, this node. The explicit, synced command that draws
        `uuid` is the caller's; every other member comes in through the group's own log."""
        founder = Member(ReplicaId(1), self.node, self.address)
        membership = Membership(voters=(founder,), next_id=ReplicaId(2))
        record = ReplicaRecord(gid, uuid, founder.id, incarnation)
        await self._log_store.create_replica(record, SnapshotMeta(membership=membership))
        return record

    async def create_replica(self, record: ReplicaRecord) -> None:
        """Create a blank replica, to be filled by its group's leader. Never done by a message."""
        await self._log_store.create_replica(record, SnapshotMeta())

    async def drop_replica(self, gid: GroupId) -> None:
        """Delete this node's replica of a group; a tombstone keeps its id from coming back.

        Its rows go in slices, by housekeeping; a crash in between is noticed by the next life.
        """
        replica = self.replicas.pop(gid, None)
        if replica is not None:
            replica.stop("removed from this node")
        self._dropping[gid] = None
        dropped = self._log_store.drop_replica(gid)
        dropped.add_done_callback(partial(self._dropped, gid))
        await asyncio.shield(dropped)  # a caller that gives up takes nothing back

    def _dropped(self, gid: GroupId, dropped: "asyncio.Future[None]") -> None:
        """It is durable that the replica is gone. Its rows go only now: a crash that kept their
        deletion and lost the drop would leave a log without the state that it builds on."""
        self._dropping.pop(gid, None)
        self._orphans = True

    async def rebirth(self, gid: GroupId, uuid: GroupUuid) -> ReplicaRecord:
        """Make this node's replica the only voter of a group born from it, under `uuid`.

        The replica must have been asked first whether it may (`shardkv/recovery.py`). It is stopped
        here; `start_replica` starts it again as what it is now.
        """
        replica = self.replicas.pop(gid)
        replica.stop("it is born again as another group")
        old = replica.record
        id = ReplicaId(replica.core.membership.next_id + IDS_SKIPPED)
        record = ReplicaRecord(gid, uuid, id, old.incarnation)
        founder = Member(id, self.node, self.address)
        membership = Membership(voters=(founder,), next_id=ReplicaId(id + 1))
        await self._log_store.rebirth(record, membership)
        return record

    async def start_replica(self, gid: GroupId, machine: StateMachine) -> Replica:
        """Load a replica from disk, check it, and let it take part.

        Raises:
            DataUnusable: the log or the data is damaged, or they do not belong together.
        """
        data = ReplicaData(self._data_disk, gid)
        await reconcile(self._log_store, data, gid)
        assert gid not in self.replicas, f"the replica of group {gid} runs already"
        saved = self._log_store.load(gid)
        log_ = Log(saved.start, self._reader(gid), self.entry_memory)
        log_.restore(saved.entries)
        applied = data.applied.index
        if not saved.start.last.index <= applied <= log_.last.index:
            raise DataUnusable(
                f"group {gid}: the state machine stands at {applied}, the log spans "
                f"({saved.start.last.index}, {log_.last.index}]: the two databases do not belong "
                "together; remove this replica and add it again"
            )
        core = Raft(
            self._config,
            id=saved.record.replica,
            log=log_,
            hard_state=saved.hard_state,
            applied=applied,
            rng=Random(f"{self._rng.random()}/{gid}"),
            now=self._loop.time(),
        )
        replica = Replica(
            saved.record,
            core,
            self._log_store,
            data,
            machine,
            self._courier,
            wake=self._wake,
            boot=self._boot,
        )
        self.replicas[gid] = replica
        self._wake(replica)
        return replica

    def _reader(self, gid: GroupId) -> Callable[[Index, Index, int], Sequence[Entry]]:
        return lambda lo, hi, bytes_max: self._log_store.read(gid, lo, hi, bytes_max)

    # What comes in

    def receive(self, data: bytes) -> None:
        """Take a frame from a peer node; what does not fit is counted by reason and dropped."""
        try:
            frame = self._codec.unpack(data)
        except BadMessage as error:
            reason = str(error)  # it may quote what a stranger sent
            self.dropped[reason if len(self.dropped) < REASONS_MAX else "malformed"] += 1
            return
        if not frame.roomy:
            self._cramped[frame.node] = None
        elif self._cramped:
            self._cramped.pop(frame.node, None)
        for parcel in frame.parcels:
            self.deliver(parcel, frame.address)

    def deliver(self, parcel: Parcel, address: str) -> None:
        """Hand a parcel to its replica, if it is for one of ours. A message creates nothing."""
        gid, uuid, content, traces = parcel
        replica = self.replicas.get(gid)
        if replica is None:
            self.dropped["no such replica"] += 1
        elif replica.uuid != uuid:
            self.dropped["another group's uuid"] += 1
        else:
            replica.take(content, address, traces)

    # Room on the disks

    def watch_disk(self, roomy: Callable[[], bool]) -> None:
        """Tell the other nodes, in every frame, whether this one has room for clients' writes."""
        self._codec.roomy = roomy

    def has_room(self, gid: GroupId) -> bool:
        """Whether a majority of a group's voters have room for what clients write, as far as their
        nodes said last.

        What is committed needs a majority's disks, and a full one ends its node: a leader with room
        of its own would write its followers' disks full, one after the other, until the group has
        no majority. Each frame says it anew, so a late or lost one means nothing for long; who was
        never heard is taken to have room.
        """
        if not self._cramped and self._codec.roomy():
            return True
        core = self.replicas[gid].core
        cramped = {
            member.id
            for member in members(core.membership).values()
            if member.node in self._cramped
            or (member.node == self.node and not self._codec.roomy())
        }
        return Electorate.of(core.membership).agrees(lambda voter: voter not in cramped)

    # Turns and time

    def _wake(self, replica: Replica) -> None:
        self._due[replica] = None
        if not self._turn_scheduled:  # of all calls the most frequent one
            self._schedule_turn()

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled and not self._closed:
            self._turn_scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_scheduled = False
        if self._closed:
            return
        due, self._due = self._due, {}
        now = self._loop.time()
        for replica in due:
            replica.turn()
            if replica.stopped_because is None:
                self._deadlines.note(replica, self._look_at(replica.core.deadline, now))
        self._courier.flush()
        self._arm()
        for replica in due:
            if replica.may_apply:
                self._applying[replica] = None
        self._schedule_apply()

    def _schedule_apply(self) -> None:
        """Apply later in this turn of the loop: what was said to peers is handed to their
        connections first, and what came in meanwhile is looked at between two slices."""
        if self._applying and not self._apply_scheduled:
            self._apply_scheduled = True
            self._loop.call_soon(self._apply_turn)

    def _apply_turn(self) -> None:
        """A slice of each replica that has something committed. Who may not apply now is woken
        when it may, and comes back by way of a turn."""
        self._apply_scheduled = False
        if self._closed:
            return
        applying, self._applying = self._applying, {}
        for replica in applying:
            if replica.may_apply:
                replica.apply()
                if replica.may_apply:
                    self._applying[replica] = None
        self._schedule_apply()

    def _arm(self) -> None:
        """Wake at the first deadline, unless an earlier timer already will."""
        deadline = self._deadlines.first
        if deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        rang_for, self._timer, self._timer_at = self._timer_at, None, NEVER
        if self._closed:
            return
        now = max(self._loop.time(), rang_for)  # it may ring early by the clock's resolution
        for replica in self._deadlines.take(now):
            if replica.stopped_because is not None:
                continue
            deadline = replica.timeout(now)
            if now < deadline < NEVER:  # else it was woken, and its turn will tell
                self._deadlines.note(replica, self._look_at(deadline, now))
        self._schedule_turn()  # which sends the heartbeats
        self._arm()

    def _look_at(self, deadline: float, now: float) -> float:
        """When to look again for a deadline: with the last beat of this node before it, since by
        then it has nearly always moved on, and so a node at rest wakes for its beats alone."""
        if deadline == NEVER:
            return NEVER
        every = self._config.heartbeat_seconds
        beat = floor(deadline / every) * every
        return beat if now < beat < deadline else deadline

    # Housekeeping

    async def _keep_house(self) -> None:
        """Cut logs that have grown, and delete what no state needs, in slices."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            for replica in self.replicas.values():
                self._bound_streams(replica)
            if any(self._log_is_long(replica) for replica in self.replicas.values()):
                await self.compact()
            for replica in list(self.replicas.values()):
                replica.collect_garbage(GARBAGE_ROWS_MAX)
                if isinstance(replica.store, ReplicaData):
                    replica.store.collect_garbage(GARBAGE_ROWS_MAX)
            self._log_store.sweep(GARBAGE_ROWS_MAX)
            if self._orphans:
                held = {record.gid: None for record in self.records()} | self._dropping
                self._orphans = sweep_orphans(self._data_disk, held, GARBAGE_ROWS_MAX)

    def _log_is_long(self, replica: Replica) -> bool:
        if replica.stopped_because is not None:
            return False
        gid, config = replica.gid, self._compaction
        start, last = replica.core.log.start.last.index, replica.core.log.last.index
        if (
            last - start <= config.log_entries_max
            and self._log_store.bytes(gid) <= config.log_bytes_max
        ):
            return False
        end = min(replica.applied, self._keep_from(replica))
        if replica.snapshot_floor is not None:
            end = min(end, replica.snapshot_floor)
        return end > start and (
            end - start >= config.log_entries_max // WORTH
            or self._log_store.bytes_up_to(gid, end) >= config.log_bytes_max // WORTH
        )

    def _bound_streams(self, replica: Replica) -> None:
        floor, gid = replica.snapshot_floor, replica.gid
        if floor is None or replica.stopped_because is not None:
            return
        behind = self._log_store.bytes(gid) - self._log_store.bytes_up_to(gid, floor)
        if behind > self._compaction.snapshot_log_bytes_max:
            replica.give_up_streams(floor)

    def _keep_from(self, replica: Replica) -> Index:
        """The end of what may be cut from a log, were it all applied durably."""
        config = self._compaction
        return self._log_store.floor(replica.gid, config.keep_entries, config.log_bytes_max // 2)

    async def compact(self) -> None:
        """Flush the data once for all groups, then cut each log up to what that made durable."""
        noted = [(replica, replica.applied) for replica in self.replicas.values()]
        await self._data_disk.flush()
        for replica, durable in noted:
            if replica.stopped_because is None:
                replica.compact(durable, self._keep_from(replica))

    # The end

    async def hand_over(self) -> None:
        """Ask each group led here to be led by its most advanced other voter."""
        for replica in self.replicas.values():
            to = replica.core.best_successor() if replica.leads else None
            if to is not None and replica.core.transfer_target == NOBODY:
                replica.transfer(to)

    def stop(self, because: str = "the node stops") -> None:
        """Let every replica fall silent at once; saves under way may still land."""
        self._closed = True
        self._housekeeper.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for replica in self.replicas.values():
            replica.stop(because)
        self._courier.close()
