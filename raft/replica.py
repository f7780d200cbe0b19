"""One group's replica: the pure core, and the only code that carries out what it decides.

The effect order (what must hold whatever instruction the process dies at)
1. Hard state and entries are durable before any message that depends on them leaves: votes and
   append acknowledgements wait in `_promises` for the save they follow; so does a candidate's vote
   for itself, a message to oneself. Appends of a leader may overlap its own save
   (dissertation, section 10.2.1): the leader counts itself only in `persisted`.
2. A save is one batch; a cut suffix and what replaces it are in the same one. `persisted` names
   (index, term), so a save whose entries were replaced meanwhile counts for nothing.
3. `committed` holds only what is durable here; it is applied in order, once, and the rows, the
   applied index and the membership go into one write.
4. A failed save ends the process (`Disk` does); an exception in this group's core or machine stops
   this replica alone: it falls silent and `stopped_because` says why.

The core runs on while saves are on their way. Everything is done on the loop by callbacks, with no
task an operation.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from raft.codec import decode_membership
from raft.core import Raft
from raft.courier import Courier
from raft.disk.log_store import LogStore, ReplicaRecord
from raft.errors import BadChunk, NotLeader, ReplicaStopped, Unavailable
from raft.freshness import Freshness
from raft.messages import (
    AnyMessage,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    ReadReply,
    ReadRequest,
    TimeoutNow,
)
from raft.parcel import Parcel
from raft.ports import StateMachine, StateStore
from raft.ready import NOTHING, ReadState, Ready
from raft.snapshot_stream import ChunkReply, SnapshotChunk, SnapshotReceiver, SnapshotSender
from raft.tracing import EntryTracer, Traces
from raft.types import (
    NOBODY,
    Entry,
    EntryId,
    EntryKind,
    Index,
    Member,
    Membership,
    NodeId,
    ReplicaId,
    Role,
    SnapshotMeta,
    Term,
)

log = logging.getLogger(__name__)

APPLY_ENTRIES_MAX: Final = 512
APPLY_BYTES_MAX: Final = 64 * 1024
"""What is applied in one turn of the loop (one entry at least). Some 200 writes, a millisecond or
two: heartbeats, acknowledgements and answers leave in between."""
LAST_SLICES_MAX: Final = 16
"""So many at most are applied at once when a leadership ends: some 3,000 writes. One that ends
because its node had too much to do may leave megabytes, and while they are applied no group of the
node is heard."""
TERM_ONLY: Final = (Heartbeat, HeartbeatReply, ReadRequest, ReadReply, TimeoutNow)
"""What shows the term, and nothing of the entries on their way to this replica's disk. (A read's
index is committed, whoever's disks that took.)"""
READS_LATE_SECONDS: Final = 0.01  # a loop's timer may ring early by its clock's resolution


@dataclass(slots=True)
class _Stream:
    """A snapshot on its way out. It lives and dies with the leadership that began it."""

    sender: SnapshotSender
    term: Term
    floor: Index  # what its follower will need the log from
    task: "asyncio.Task[None] | None" = None


class Replica:
    """One member of one group, run by its host's loop turns.

    Args:
        wake: Asks the host for a turn of this replica.
        boot: A number no earlier life of this node used; it makes read contexts unique.
    """

    # Slots, here and in what a heartbeat looks at of the core: a node with hundreds of groups finds
    # none of them in the processor's caches, so each look costs a trip to main memory, or two where
    # Python keeps attributes beside the object. (Probes, faults and mutants of the labs and tests
    # are put into single objects: these go to `__dict__`.)
    __slots__ = (
        "__dict__",
        "_addresses", "_addresses_of", "_committed", "_courier", "_freshness", "_hard_state_save",
        "_installing", "_last_save", "_learned", "_led", "_log_store", "_loop", "_machine",
        "_read_context_prefix", "_read_number", "_reads_asked", "_reads_expire_at", "_reads_ready",
        "_reads_timer", "_reads_waiting", "_receiver", "_stream_number", "_streams", "_tasks",
        "_wake", "core", "gid", "id", "record", "stopped_because", "store", "times_led", "tracer",
        "uuid",
    )  # fmt: skip

    def __init__(
        self,
        record: ReplicaRecord,
        core: Raft,
        log_store: LogStore,
        store: StateStore,
        machine: StateMachine,
        courier: Courier,
        *,
        wake: Callable[["Replica"], None],
        boot: int,
    ) -> None:
        self.record = record
        self.gid, self.uuid, self.id = record.gid, record.uuid, record.replica
        self.core = core
        self.store = store
        self.stopped_because: str | None = None
        self.tracer: EntryTracer | None = None
        self._log_store = log_store
        self._machine = machine
        self._courier = courier
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._committed: deque[Entry] = deque()
        self._last_save: asyncio.Future[None] | None = None
        self._hard_state_save: asyncio.Future[None] | None = None
        self._led = False
        self.times_led = 0
        """How often this replica became the leader in this life."""
        self._learned: dict[ReplicaId, str] = {}  # addresses that frames last came from
        self._addresses: dict[ReplicaId, str] = {}  # addresses that the membership names
        self._addresses_of: Membership | None = None
        self._receiver = SnapshotReceiver(store)
        self._streams: dict[ReplicaId, _Stream] = {}  # by follower
        self._stream_number = boot << 32  # of the last one; no earlier life used a higher one
        self._installing: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}  # kept alive, in order of their birth
        self._read_context_prefix = boot.to_bytes(8, "big")
        self._read_number = 0
        self._reads_waiting: list[asyncio.Future[None]] = []  # for the next round
        self._reads_asked: dict[bytes, list[asyncio.Future[None]]] = {}  # round under way
        self._reads_expire_at = 0.0
        self._reads_timer: asyncio.TimerHandle | None = None
        self._reads_ready: list[tuple[Index, list[asyncio.Future[None]]]] = []  # for apply
        self._freshness = Freshness()
        machine.reload(store.reader)

    # What others may know

    @property
    def leads(self) -> bool:
        """Whether this replica believes that it leads; only a read barrier makes that certain."""
        return self.core.role is Role.LEADER and self.stopped_because is None

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as this replica knows."""
        return self.member(self.core.leader) if self.core.leader != NOBODY else None

    @property
    def applied(self) -> Index:
        return self.store.applied.index

    @property
    def age(self) -> float:
        """How many seconds ago, at most, what is applied here was everything that anybody had been
        told of; infinite when that is not known. See `raft/freshness.py`."""
        return self._freshness.age(self._loop.time())

    @property
    def installing(self) -> bool:
        """Whether a snapshot is taking the place of this replica's state."""
        return self._installing is not None or self._receiver.staged is not None

    @property
    def snapshot_floor(self) -> Index | None:
        """The lowest index that a snapshot on its way out still needs the log from."""
        if not self._streams:
            return None
        return min(stream.floor for stream in self._streams.values())

    def member(self, replica: ReplicaId) -> Member | None:
        """The member with this id, in the membership in force."""
        membership = self.core.membership
        for member in (*membership.voters, *membership.outgoing, *membership.learners):
            if member.id == replica:
                return member
        return None

    # What others may ask

    def propose(self, data: bytes) -> EntryId | None:
        """Append a command to the group's log; None when this replica does not lead.

        Raises:
            Overloaded: too many bytes wait for commit.
        """
        if self.stopped_because is not None:
            return None
        placed = self.core.propose(data)
        self._wake(self)
        return placed

    def read_barrier(self) -> "asyncio.Future[None]":
        """A future that resolves when the local state holds all that was acknowledged before.

        All reads that wait share one round of confirmations. Fails with `NotLeader` when no
        leader confirmed, `ReplicaStopped` when this replica fell silent.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self.stopped_because is not None:
            future.set_exception(ReplicaStopped(self.stopped_because))
        else:
            self._reads_waiting.append(future)
            self._wake(self)
        return future

    def change_members(
        self,
        *,
        add: Sequence[tuple[NodeId, str]] = (),
        remove: Sequence[ReplicaId] = (),
    ) -> EntryId:
        """Begin a change of members; it goes on by itself, through the log (see `Membership`).

        Raises:
            NotLeader, MembershipRefused: nothing was proposed.
        """
        if not self.leads:
            raise NotLeader(self.leader)
        placed = self.core.change_members(add=add, remove=remove)
        self._wake(self)
        return placed

    def transfer(self, to: ReplicaId) -> None:
        """Hand the leadership to another voter."""
        self.core.transfer(to)
        self._wake(self)

    # What the host calls

    def take(
        self,
        content: AnyMessage | SnapshotChunk | ChunkReply,
        address: str,
        traces: Traces = (),
    ) -> None:
        """Take what another replica of the group said."""
        if self.stopped_because is not None:
            return
        if content.target != self.id or content.source == self.id:
            return
        self._learned[content.source] = address
        if self.tracer is not None:
            self.tracer.taken(content, traces)
        try:
            if type(content) is HeartbeatReply:
                if self.core.hear(content, self._loop.time()):
                    return
            elif type(content) is Heartbeat:
                self._take_heartbeat(content, address, self._loop.time())
                return
            if isinstance(content, SnapshotChunk):
                self._take_chunk(content)
            elif isinstance(content, ChunkReply):
                stream = self._streams.get(content.source)
                if stream is not None:
                    stream.sender.answered(content)
            elif not isinstance(content, InstallSnapshot):  # only its own driver may say that one
                self.core.step(content, self._loop.time())
        except Exception as error:
            self._fall_silent(error)
        self._wake(self)

    def _take_heartbeat(self, heartbeat: Heartbeat, address: str, now: float) -> None:
        """Where nothing else follows from it, the answer leaves without a turn, to where it came
        from: it shows the term and nothing of the entries on their way to the disk (see
        `_send_promises`)."""
        reply = None if self._saving_hard_state else self.core.answer(heartbeat, now)
        if reply is None:
            self.core.step(heartbeat, now)
        else:
            traces = () if self.tracer is None else self.tracer.sending(reply)
            self._courier.post(address, Parcel(self.gid, self.uuid, reply, traces))
        if self._freshness.is_due(now):
            self._stay_fresh(now)
        if reply is None or heartbeat.asks or self._reads_asked:
            self._wake(self)

    def timeout(self, now: float) -> float:
        """Let the core's deadline have its effect, if it has come; returns the next one.
        Heartbeats alone leave without a turn."""
        core = self.core
        try:
            beats = core.beat(now)
            if beats is not None:
                for beat in beats:
                    self._post(beat)
            elif core.deadline <= now:
                self._wake(self)
                core.timeout(now)
        except Exception as error:
            self._fall_silent(error)
        return core.deadline

    def turn(self) -> None:
        """Carry out everything that the core decided since the last turn."""
        if self.stopped_because is not None:
            return
        try:
            self._turn()
        except Exception as error:
            self._fall_silent(error)

    @property
    def may_apply(self) -> bool:
        """Whether committed entries wait to be applied, and this is the time for it.

        A follower saves first: what its leader waits for is the acknowledgement, and a loop that
        applies would hold up the thread that syncs (both want the interpreter). The end of the
        save wakes the replica. Reads that wait here for what is applied change that.
        """
        if not self._committed or self._installing is not None or self.stopped_because is not None:
            return False
        return self.core.role is Role.LEADER or bool(self._reads_ready) or not self._saving

    def apply(self) -> None:
        """Apply a slice of what is committed."""
        self._guarded(self._apply_some)

    def compact(self, durable: Index, keep_from: Index) -> None:
        """Cut the log up to what is durably applied, but for a tail that slow followers read: what
        lies above `keep_from`.

        Safe because the state machine's tables hold every entry up to `durable`, and what a
        snapshot under way still needs is kept (a raft log is cut only up to a
        durable index; redisraft#43 is the loss that follows otherwise).
        """
        self._guarded(partial(self._compact, durable, keep_from))

    def _compact(self, durable: Index, keep_from: Index) -> None:
        index = min(durable, keep_from)
        if self.snapshot_floor is not None:
            index = min(index, self.snapshot_floor)
        if index > self.core.log.start.last.index:
            start = self.core.compact(Index(index))
            self._log_store.cut(self.gid, start)

    def give_up_streams(self, floor: Index) -> None:
        """End the snapshots on their way out that need the log from `floor` on or from before; the
        core then finds out anew what their followers need."""
        self._guarded(partial(self._give_up_streams, floor))

    def _give_up_streams(self, floor: Index) -> None:
        for follower, stream in list(self._streams.items()):
            if stream.floor <= floor:
                log.warning(
                    "group %d: the snapshot to replica %d is given up: it travels more slowly than "
                    "the group writes, and the log must not grow for ever", self.gid, follower,
                )  # fmt: skip
                self._end_stream(follower)
                self.core.report_snapshot(follower, ok=False)
        self._wake(self)

    def collect_garbage(self, rows_max: int) -> None:
        """Delete a slice of what the machine will never read again; each replica by itself."""
        if self.stopped_because is not None or self._installing is not None:
            return
        try:
            if deletes := self._machine.garbage(self.store.reader, rows_max):
                self.store.commit(deletes, self.store.applied, None)
        except Exception as error:
            self._fall_silent(error)

    def stop(self, because: str) -> None:
        """Fall silent: nothing is sent, saved or applied from here on."""
        if self.stopped_because is not None:
            return
        self.stopped_because = because
        for task in list(self._tasks):
            task.cancel()
        if self._reads_timer is not None:
            self._reads_timer.cancel()
        self._fail_reads(ReplicaStopped(because))
        self.core.let_go()
        self._machine.stopped()

    # The turn

    def _guarded(self, act: Callable[[], object]) -> None:
        if self.stopped_because is not None:
            return
        try:
            act()
        except Exception as error:
            self._fall_silent(error)

    def _fall_silent(self, error: Exception) -> None:
        """A broken invariant stops this replica, not its neighbours."""
        log.error("group %d: replica %d stops", self.gid, self.id, exc_info=error)
        self.stop(f"{type(error).__name__}: {error}")

    def _turn(self) -> None:
        if self._reads_waiting or self._reads_asked:
            self._ask_for_reads()
        while self._installing is None and (ready := self.core.ready()) is not NOTHING:
            self._carry_out(ready)
        if self._installing is None and self._receiver.staged is not None:
            self._receiver.abort()  # the core had no use for it: older than what is committed
        if self._streams:
            self._end_stale_streams()
        if (self.core.role is Role.LEADER) is not self._led:
            self._note_leadership()

    def _carry_out(self, ready: Ready) -> None:
        """The effect order; see the module's text. One save, then what it promises."""
        for append in ready.early:
            self._post(append)
        if ready.must_save:
            saved = self._log_store.save(self.gid, ready.hard_state, ready.entries)
            self._last_save = saved
            if self.tracer is not None:
                self.tracer.saving(ready.entries, saved)
            if ready.hard_state is not None:
                self._hard_state_save = saved
        if ready.snapshot is not None:
            self._installing = self._spawn(self._install(ready, ready.snapshot))
        elif ready.must_save:
            last = ready.entries[-1].id if ready.entries else None
            saved.add_done_callback(partial(self._saved, ready.messages, last))
        else:
            self._send_promises(ready.messages)
        self._committed.extend(ready.committed)
        if self.tracer is not None:
            self.tracer.committed(ready.committed)
        for read in ready.reads:
            self._read_confirmed(read)
        for follower in ready.send_snapshot:
            self._send_snapshot(follower)

    def _saved(
        self,
        messages: Sequence[AnyMessage],
        last: EntryId | None,
        saved: "asyncio.Future[None]",
    ) -> None:
        if self.stopped_because is not None or saved.cancelled():
            return
        saved.result()  # a failed save has ended the process already
        if last is not None:
            self._guarded(partial(self.core.persisted, last.index, last.term))
        for message in messages:
            self._post(message)
        self._wake(self)

    def _send_promises(self, messages: Sequence[AnyMessage]) -> None:
        """Send what this Ready itself did not save for; an earlier save may still be under way."""
        if not messages:
            return
        held: list[AnyMessage] = []
        saving, voting = self._saving, self._saving_hard_state
        for message in messages:
            # A hand-over because the own disk is slow must not wait for that disk; nor a read, for
            # what others wrote.
            if saving and (voting or not isinstance(message, TERM_ONLY)):
                held.append(message)
            else:
                self._post(message)
        if held:
            assert self._last_save is not None
            self._last_save.add_done_callback(partial(self._saved, held, None))

    @property
    def _saving(self) -> bool:
        return self._last_save is not None and not self._last_save.done()

    @property
    def _saving_hard_state(self) -> bool:
        return self._hard_state_save is not None and not self._hard_state_save.done()

    def _post(self, message: AnyMessage) -> None:
        if message.target == self.id:
            self._guarded(partial(self.core.step, message, self._loop.time()))
            self._wake(self)
            return
        address = self._address(message.target)
        if address is not None:
            traces = () if self.tracer is None else self.tracer.sending(message)
            self._courier.post(address, Parcel(self.gid, self.uuid, message, traces))

    def _address(self, replica: ReplicaId) -> str | None:
        """Where a replica is spoken to: where it was last heard, before what the membership says.

        A membership in force need not be committed. One that another leader is about to cut away
        may name a node for an id that was then given to a replica elsewhere: who believed it would
        answer its leader at the wrong node, never be heard, and so never lose that entry. (A node
        that moved to another address is found by what it says, too.)
        """
        heard = self._learned.get(replica)
        if heard is not None:
            return heard
        membership = self.core.membership
        if membership is not self._addresses_of:
            members = (*membership.outgoing, *membership.learners, *membership.voters)
            self._addresses = {member.id: member.address for member in members}
            self._addresses_of = membership
        return self._addresses.get(replica)

    # Applying

    def _apply_some(self) -> None:
        entries: list[Entry] = []
        size = 0
        while self._committed and len(entries) < APPLY_ENTRIES_MAX and size < APPLY_BYTES_MAX:
            entry = self._committed.popleft()
            entries.append(entry)
            size += len(entry.data)
        last = entries[-1]
        assert entries[0].index == self.applied + 1, "entries are applied in order, each once (R6)"
        membership: Membership | None = None
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                membership = decode_membership(entry.data)
        rows = self.store.overlay()
        self._machine.apply(entries, rows)
        self.store.commit(rows.writes(), last.id, membership)
        self.core.applied_to(last.index)
        self._receiver.reached(last.index)
        self._serve_reads()
        if self.core.commit > last.index:
            self._wake(self)  # applied entries free the core's window, and more wait

    def _note_leadership(self) -> None:
        if self._led:  # who waits for what is committed gets an answer, and not "unknown"
            for _ in range(LAST_SLICES_MAX):
                if self._committed and self._installing is None:
                    self._apply_some()
        self._led = not self._led
        words = "leads" if self._led else "leads no more"
        log.info("group %d: replica %d %s, term %d", self.gid, self.id, words, self.core.term)
        self._machine.leadership_changed(self._led)

    # Reading

    def _ask_for_reads(self) -> None:
        if self._reads_asked and not self._round_was_lost():
            return  # one round at a time; what gathers meanwhile is the next round
        if not self._reads_waiting:
            return
        context = self._new_context()
        self._reads_asked[context] = self._reads_waiting
        self._reads_waiting = []
        self._freshness.asked(context, self._loop.time())
        self.core.read_index(context)
        if not self.leads:
            # Nothing else may ever wake a replica that is cut off and no voter: it has no timer.
            seconds = self.core.config.election_seconds_max
            self._reads_expire_at = self._loop.time() + seconds
            if self._reads_timer is not None:
                self._reads_timer.cancel()
            late = self._reads_expire_at + READS_LATE_SECONDS
            self._reads_timer = self._loop.call_at(late, self._wake, self)

    def _new_context(self) -> bytes:
        """Names one question; no other of this replica, in any life, has the same name."""
        self._read_number += 1
        return self._read_context_prefix + self._read_number.to_bytes(8, "big")

    def _stay_fresh(self, now: float) -> None:
        """The leader was heard: ask it now and then how far it is, for reads with a bound."""
        if self.core.config.checks_quorum and not self.leads:
            context = self._new_context()
            self._freshness.asked(context, now, patient=True)
            self.core.read_index(context, patient=True)

    def _round_was_lost(self) -> bool:
        """Whether a follower's question to its leader, or the answer, must have been lost: then
        those who asked are told so. A leader's own rounds end with its leadership at the latest."""
        if self.leads or self._loop.time() < self._reads_expire_at:
            return False
        lost, self._reads_asked = self._reads_asked, {}
        for futures in lost.values():
            for future in futures:
                if not future.done():
                    future.set_exception(Unavailable("the leader did not confirm in time"))
        return True

    def _read_confirmed(self, read: ReadState) -> None:
        self._freshness.answered(read, self.applied)
        futures = self._reads_asked.pop(read.context, None)
        if futures is None:
            return
        if read.index == 0:
            for future in futures:
                if not future.done():
                    future.set_exception(NotLeader(self.leader))
        else:
            self._reads_ready.append((read.index, futures))
            self._serve_reads()
        if self._reads_waiting:
            self._wake(self)

    def _serve_reads(self) -> None:
        self._freshness.applied(self.applied)
        waiting: list[tuple[Index, list[asyncio.Future[None]]]] = []
        for index, futures in self._reads_ready:
            if index > self.applied:
                waiting.append((index, futures))
                continue
            for future in futures:
                if not future.done():
                    future.set_result(None)
        self._reads_ready = waiting

    def _fail_reads(self, error: Exception) -> None:
        rounds = [self._reads_waiting, *self._reads_asked.values()]
        rounds += [futures for _, futures in self._reads_ready]
        self._reads_waiting, self._reads_asked, self._reads_ready = [], {}, []
        for futures in rounds:
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    # Snapshots

    def _send_snapshot(self, follower: ReplicaId) -> None:
        """The core asks once each time a follower comes to need one; so whatever stream there is
        to it still is of no use any more."""
        self._end_stream(follower)
        config = self.core.config
        sender = SnapshotSender(config.snapshot_reply_seconds, config.snapshot_chunk_bytes_max)
        stream = _Stream(sender, self.core.term, floor=self.applied)
        self._streams[follower] = stream
        stream.task = self._spawn(self._stream_snapshot(follower, stream))

    async def _stream_snapshot(self, follower: ReplicaId, stream: _Stream) -> None:
        capture = self.store.capture()
        last = capture.meta.last
        self._stream_number += 1
        complete = await stream.sender.run(
            capture, self._stream_number, self.id, follower, stream.term, self._post_chunk
        )
        log.info(
            "group %d: snapshot %d to replica %d %s", self.gid, last.index, follower,
            "sent" if complete else "given up",
        )  # fmt: skip
        if self._streams.get(follower) is stream:
            del self._streams[follower]
            if self.core.term == stream.term:
                self._guarded(partial(self.core.report_snapshot, follower, complete))
        self._wake(self)

    def _end_stale_streams(self) -> None:
        """End what another term will not take, and what no member waits for: a receiver ignores
        chunks of an old term, and each stream holds disk space and the log's tail."""
        for follower, stream in list(self._streams.items()):
            if stream.term != self.core.term or follower not in self.core.progress:
                self._end_stream(follower)

    def _end_stream(self, follower: ReplicaId) -> None:
        stream = self._streams.pop(follower, None)
        if stream is not None and stream.task is not None:
            stream.task.cancel()

    def _post_chunk(self, chunk: SnapshotChunk) -> None:
        address = self._address(chunk.target)
        if address is not None and self.stopped_because is None:
            self._courier.post(address, Parcel(self.gid, self.uuid, chunk))
            self._wake(self)

    def _take_chunk(self, chunk: SnapshotChunk) -> None:
        if self._installing is not None or chunk.term < self.core.term:
            return
        if self._receiver.staged is not None:
            return  # the core has decided on it, and the turn that carries it out is yet to come
        try:
            expects = self._receiver.take(chunk)
        except BadChunk as error:
            log.warning("group %d: snapshot from replica %d: %s", self.gid, chunk.source, error)
            self._receiver.abort()
            expects = -1
        reply = ChunkReply(self.id, chunk.source, chunk.stream, expects)
        self._courier.post(self._learned[chunk.source], Parcel(self.gid, self.uuid, reply))
        if self._receiver.staged is not None:
            whole = InstallSnapshot(chunk.source, self.id, chunk.term, self._receiver.staged)
            self._guarded(partial(self.core.step, whole, self._loop.time()))

    async def _install(self, ready: Ready, meta: SnapshotMeta) -> None:
        """Replace state and log by the staged snapshot, in the order that a crash may cut anywhere.

        First the rows, applied index and membership flip in one batch and become durable; then
        one synced batch restarts the log there. Dying between the two leaves an applied index
        past the log, which the next start finishes. Only then is the snapshot acknowledged.

        Saves that are under way go on beside it, a new term's or vote's too. They are durable
        before the log's reset is, because a log's saves are in order; and until then nothing that
        they bring matters: whatever log the next start finds behind the applied index, it resets.

        What the machine keeps in memory follows the rows in the same step of the loop: who looks
        at both in between, without asking for a barrier, must not find halves of two states.
        """
        await self._receiver.claim().install()
        self._machine.reload(self.store.reader)
        self._machine.snapshot_installed(meta.last.index)
        await asyncio.shield(self._log_store.reset(self.gid, meta))
        while self._committed and self._committed[0].index <= meta.last.index:
            self._committed.popleft()
        self._installing = None
        self._guarded(partial(self._installed, ready, meta))

    def _installed(self, ready: Ready, meta: SnapshotMeta) -> None:
        self.core.applied_to(meta.last.index)
        self.core.persisted(*meta.last)
        for message in ready.messages:
            self._post(message)
        self._serve_reads()
        self._wake(self)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("group %d: replica %d stops", self.gid, self.id, exc_info=error)
            self.stop(f"{type(error).__name__}: {error}")
