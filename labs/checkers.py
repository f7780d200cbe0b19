"""The invariants of Raft, watched while a group runs, by a global observer that sees all.

`RaftInvariants` follows one group on all its nodes. It stands at the seams of the production code:
what each drive has made durable, what each replica says, applies and decides. A broken invariant
fails the run at once (the loop reports it), with its number:

- R1  at most one leader a term, across crashes; a node does not win a term twice.
- R2  a durable vote never changes within its term.  R12 a durable term never falls.
- R3  entries with equal index and term are equal, and so is what is before them.
- R4  a leader never cuts or replaces its own log.
- R5  a new leader has every entry that was committed in an earlier term.
- R6  every node applies the same entry at an index, in order, once a life.
- R7  start <= applied <= commit <= last; commit and applied never fall in a life of a replica, the
      durable start and the durable applied index never fall at all, and a log is never cut past
      what is durably applied.
- R8  an entry that was committed never leaves a durable log, but into a snapshot.
- R9  what a message promises is durable when it is sent: log, vote, term, and the promise that
      names term and vote beside the log.
- R10 a leader commits only an entry of its own term that a majority holds durably.
- R11 two memberships that follow each other have quorums that meet; one change at a time, and only
      after a commit of the leader's own term.
- R16 a transfer ends within an election's time.
- R17 a message carries the term its sender had, and only a term's leader appends in it.
- R18 what a replica starts from is what it had made durable.

Each check costs O(1) or O(what is new), so that it can be on in every simulated run.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from struct import Struct
from typing import Final

from labrpc.sim.disk import SimDrive, Write
from labs.canonical import SnapshotInvariants
from labs.observer import InvariantBroken, Observer
from labs.raft_probes import RaftProbes
from raft.courier import Courier
from raft.disk.data_store import PROGRESS, decode_progress
from raft.disk.promise import Vow, decode_promise
from raft.disk.records import (
    HARD_STATE,
    REPLICA,
    START,
    TAIL,
    Start,
    Tail,
    decode_entry,
    decode_hard_state,
    decode_replica,
    decode_start,
    decode_tail,
    entry_key,
    group_key,
    index_of,
)
from raft.errors import DataUnusable
from raft.log import Log
from raft.messages import (
    AnyMessage,
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    VoteReply,
)
from raft.parcel import Parcel
from raft.ports import Reader, Rows, StateMachine
from raft.progress import Progress
from raft.quorum import Electorate
from raft.replica import Replica
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.state import State
from raft.trace import message_line
from raft.types import (
    NOBODY,
    ZERO,
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    HardState,
    Index,
    Membership,
    ReplicaId,
    Role,
    SnapshotMeta,
    Term,
)

Content = tuple[EntryKind, bytes]

NO_TERM: Final = Term(0)
NO_INDEX: Final = Index(0)
NO_STATE: Final = HardState()
NO_START: Final = Start(SnapshotMeta(), b"")
NO_TAIL: Final = Tail(ZERO, b"")


@dataclass(slots=True)
class _Durable:
    """What one node's drive holds for sure, decoded batch by batch."""

    hard_state: HardState = NO_STATE
    start: Start = NO_START
    tail: Tail = NO_TAIL
    vow: HardState = NO_STATE  # of the promise
    vow_of: ReplicaId = NOBODY  # which replica made it
    applied: Index = NO_INDEX  # of the state machine's rows
    incarnation: int = 0
    entries: dict[int, tuple[Term, bytes]] = field(default_factory=dict)  # term and chain value
    cut_by: int = 0  # how many entries the last batch made the log shorter
    replica: ReplicaId = NOBODY  # which replica of the group this node holds

    @property
    def exists(self) -> bool:
        return self.replica != NOBODY

    def term_at(self, index: int) -> Term | None:
        """The term at `index`, None for what lies before the start or past the end."""
        if index == self.start.meta.last.index:
            return self.start.meta.last.term
        held = self.entries.get(index)
        return held[0] if held is not None else None

    def terms_from(self, lo: int, hi: int) -> list[Term]:
        """The terms of the entries in [lo, hi], those that are there."""
        found = map(self.entries.get, range(lo, hi + 1))
        return [held[0] for held in found if held is not None]


@dataclass(slots=True)
class _Life:
    """One replica between its start and its end."""

    replica: Replica
    state: State  # of its core: what is looked at each time, without asking the core for each fact
    applied: Index
    commit: Index
    led: Term = NO_TERM  # the term it led when last looked at, 0 if it did not
    last: EntryId = ZERO  # of its log, while it leads
    start: Index = NO_INDEX  # where its log began when last looked at
    members_at: Index = NO_INDEX  # where the membership in force stood when last looked at
    transfer: tuple[ReplicaId, float] | None = None  # to whom, and since when
    born_in: Term = NO_TERM  # the term it started in
    members_last: Index = NO_INDEX  # where the last membership of its log stood


class RaftInvariants:
    """Watches one group on every node that has a replica of it.

    Args:
        gid: The group; what others say and store is passed by.
        observer: Told what is seen; None: one of its own.
    """

    def __init__(self, gid: GroupId, observer: Observer | None = None) -> None:
        self.gid = gid
        self.observer = observer or Observer()
        self.leaders: dict[Term, str] = {}
        self.checks = 0  # how often a turn was looked at: a run that checked nothing proves nothing
        self._durable: dict[str, _Durable] = {}
        self._lives: dict[str, _Life] = {}
        self.probes = RaftProbes(self.observer)
        self.messages = 0  # said so far, but for snapshots
        self.healed = False
        """Whether faults are over: from then on a snapshot is sent to somebody only so often."""
        self.snapshots = SnapshotInvariants(gid, self.observer)
        self._streams: dict[tuple[ReplicaId, Index], dict[int, None]] = {}
        self._reborn_at = NO_INDEX
        """Where the first membership stands of a group that was recovered."""
        self.superseded = False
        """Whether it lost its majority for good: its replicas stop where they are found."""
        self._left: dict[str, Membership] = {}  # what replicas that are down last took to be so
        self._nodes: dict[ReplicaId, str] = {}
        self.lost: dict[ReplicaId, _Durable] = {}
        """Replicas whose node's disk is gone, and what was on it: what they have acknowledged may
        still be on its way."""
        self._entries: dict[tuple[int, Term], tuple[Term, Content]] = {}  # with the term before it
        self._proven: dict[Index, tuple[bytes, tuple[Term, bytes], tuple[Term, bytes]]] = {}
        """By index the bytes stored last, what they follow, and the term and chain value found."""
        self._canonical: list[tuple[Term, Content]] = [(Term(0), (EntryKind.EMPTY, b""))]
        self._committed_in: list[Term] = [Term(0)]  # the term in which canonical[i] was first seen
        self._kinds = {group_key(kind, gid): kind for kind in (REPLICA, HARD_STATE, START, TAIL)}
        self._progress_key = group_key(PROGRESS, gid)
        self._entry_prefix = entry_key(gid, 0)[:-8]
        self._loop = asyncio.get_running_loop()

    @property
    def broken(self) -> list[InvariantBroken]:
        return self.observer.broken

    def reborn(self, log: Log) -> "tuple[RaftInvariants, Index]":
        """The group lost its majority, and goes on from a survivor with this log, as another group
        under its gid (`ctl recover`).

        Returns:
            Who watches that one, and up to where the survivor's log is what was committed.
        """
        at = min(log.last.index, len(self._canonical) - 1)
        while at > log.start.last.index and log.term(Index(at)) != self._canonical[at][0]:
            at -= 1
        after = RaftInvariants(self.gid, self.observer)
        after.probes.leaving = self.probes.leaving
        after.healed, after.lost = self.healed, self.lost
        after._durable, after._nodes = self._durable, self._nodes
        after._reborn_at = Index(log.last.index + 1)
        after._canonical = self._canonical[: at + 1]
        after._committed_in = self._committed_in[: at + 1]
        return after, Index(at)

    def memberships(self) -> list[Membership]:
        """What its replicas take the membership to be, those that are down at their end. Any of
        these may be the newest, and any may be cut away again."""
        running = [life.replica.core.membership for life in self._lives.values()]
        return running + list(self._left.values())

    @property
    def applied_anywhere(self) -> Index:
        """The highest index that any replica ever applied."""
        return Index(len(self._canonical) - 1)

    def term_of(self, index: Index) -> Term:
        """The term of a committed entry."""
        return self._canonical[index][0] if index < len(self._canonical) else NO_TERM

    def finish(self) -> None:
        """At the end of a run: raise what was broken, if the run has not failed of it already.

        Raises:
            InvariantBroken: the first one.
        """
        self.observer.finish()

    def _broke(self, invariant: str, text: str) -> None:
        self.observer.broke(invariant, f"group {self.gid}: {text}")

    # The seams

    def watch_drive(self, node: str, drive: SimDrive, *, log: str, data: str) -> None:
        """Follow what becomes durable on a node's drive: in its log map, its data map and its
        slots, which are those of the promise."""
        watch_drive({self.gid: self}, node, drive, log=log, data=data)

    def drive_is_watched(self, node: str) -> None:
        self._durable[node] = _Durable()

    def courier(self, name: str, inner: Courier) -> Courier:
        """Stand between a node's replicas and its courier."""
        return _WatchedCourier(self, name, inner)

    def machine(self, name: str, inner: StateMachine) -> StateMachine:
        """Stand between a replica and its state machine."""
        return _WatchedMachine(inner, partial(self._applied, name), partial(self._installed, name))

    def started(self, name: str, replica: Replica) -> None:
        """A replica was loaded and takes part from now on (R18)."""
        durable, core = self._durable[name], replica.core
        self._left.pop(name, None)
        self._lives[name] = _Life(replica, core._state, core.applied, core.commit)
        log = core.log
        self._lives[name].start = log.start.last.index
        self._lives[name].members_at = log.membership_index
        self._lives[name].members_last = log.membership_index
        self._lives[name].born_in = core.term
        self.probes.watch_chunks(replica)
        if not (durable.exists):
            self._broke("R18", f"{name} starts a replica that it never stored")
        if (core.term, core.vote) != durable.hard_state:
            self._broke(
                "R18",
                f"{name} starts with {(core.term, core.vote)}, it had synced {durable.hard_state}",
            )
        if not (log.start == durable.start.meta and log.last == durable.tail.last):
            self._broke(
                "R18",
                f"{name} starts with {log.start.last}..{log.last}, it had synced "
                f"{durable.start.meta.last}..{durable.tail.last}",
            )
        for index in range(log.first, log.last.index + 1):
            if durable.term_at(index) != log.term(Index(index)):
                self._broke("R18", f"{name} loads another entry {index} than it had synced")
        hi = Index(log.last.index + 1)
        for entry in log.slice(log.first, hi, PAGE_BYTES) if hi > log.first else ():
            known = self._entries.get((entry.index, entry.term))
            if known is not None and known[1] != (entry.kind, entry.data):
                self._broke("R18", f"{name} loads {entry.id} with other content than it had synced")

    def stopped(self, name: str) -> None:
        """A replica is gone until its node starts again."""
        life = self._lives.pop(name, None)
        if life is not None:
            self._left[name] = life.replica.core.membership
            self.probes.ended(name)

    def went_on(self, name: str) -> None:
        """A node stood still: what was to end meanwhile ends in its next turns."""
        life = self._lives.get(name)
        if life is not None:
            life.transfer = None

    def data_lost(self, name: str, left: Mapping[bytes, bytes]) -> None:
        """A fault took from a node's disk what its state machines had made durable; `left` are the
        rows that remain. Its log may make up for it; it must not start from less than that needs.
        """
        raw = left.get(self._progress_key)
        if raw is None:
            self._durable[name].applied = NO_INDEX
            return
        try:
            progress = decode_progress(self.gid, self._progress_key, raw)
        except DataUnusable:
            return  # nobody will believe it
        self._durable[name].applied = progress.applied.index

    def disk_lost(self, name: str) -> None:
        """A node's disk is gone, and its replica with it: no membership that counts it does so
        rightly any more."""
        replica = self._durable[name].replica
        if replica != NOBODY:
            self.lost[replica] = self._durable[name]
        self._durable[name] = _Durable()
        self._left.pop(name, None)

    def dropped(self, name: str) -> None:
        """A replica is deleted: its group has let it go."""
        self.stopped(name)
        self._left.pop(name, None)

    # What becomes durable

    def log_durable(self, node: str, batch: Sequence[Write]) -> None:
        durable = self._durable[node]
        ended = durable.tail.last.index
        entries: list[tuple[Index, bytes | None]] = []
        for key, value in batch:
            kind = self._kinds.get(key)
            if kind is None:
                if key.startswith(self._entry_prefix):
                    entries.append((index_of(key), value))
            elif kind == REPLICA:
                if value is None:
                    self._durable[node] = durable = _Durable()
                else:
                    durable.replica = decode_replica(key, value).replica
                    self._nodes[durable.replica] = node
            elif value is None:
                continue
            elif kind == TAIL:
                before, durable.tail = durable.tail, _tail(self.gid, value)
                durable.cut_by = max(before.last.index - durable.tail.last.index, 0)
            elif kind == HARD_STATE:
                self._vote_durable(node, durable, decode_hard_state(self.gid, value))
            else:
                start = decode_start(self.gid, value)
                if not (start.meta.last.index >= durable.start.meta.last.index):
                    self._broke("R7", f"{node}: its log's start falls to {start.meta.last}")
                if not (start.meta.last.index <= durable.applied):
                    self._broke(
                        "R7",
                        f"{node}: its log is cut at {start.meta.last}, durably applied is "
                        f"{durable.applied}",
                    )
                held = durable.term_at(start.meta.last.index)
                if held not in (None, start.meta.last.term):
                    self.observer.probe("snapshot installed over a conflicting log")
                durable.start = start
        replaced = durable.terms_from(entries[0][0], ended) if entries else []
        for index, value in entries:  # after the start and the end that they lie between
            self._entry_durable(node, durable, index, value)
        if replaced and durable.term_at(entries[0][0]) not in (None, replaced[0]):
            self.probes.overwritten(replaced)

    def data_durable(self, node: str, batch: Sequence[Write]) -> None:
        durable = self._durable[node]
        own_key = self._progress_key
        for key, value in batch:
            if key == own_key and value is not None:
                progress = decode_progress(self.gid, key, value)
                if not (
                    progress.applied.index >= durable.applied
                    or progress.incarnation != durable.incarnation
                ):
                    self._broke("R7", f"{node}: durably applied falls to {progress.applied}")
                durable.applied = progress.applied.index
                durable.incarnation = progress.incarnation

    def vow_durable(self, node: str, vow: Vow) -> None:
        """A promise names this group's replica on a node."""
        durable = self._durable[node]
        if vow.replica == durable.vow_of and vow.hard_state == durable.vow:
            return  # named again
        if vow.replica > durable.vow_of:  # a later replica of the group on this node
            durable.vow_of, durable.vow = vow.replica, NO_STATE
        if not (vow.hard_state.term >= durable.vow.term):
            self._broke("R12", f"{node}: its promise {durable.vow} becomes {vow.hard_state}")
        durable.vow = vow.hard_state

    def _vote_durable(self, node: str, durable: _Durable, new: HardState) -> None:
        old = durable.hard_state
        if not (new.term >= old.term):
            self._broke("R12", f"{node}: {old} becomes {new}")
        if new.term == old.term and old.vote not in (NOBODY, new.vote):
            self._broke("R2", f"{node}: its vote {old} becomes {new}")
        durable.hard_state = new

    def _entry_durable(
        self, node: str, durable: _Durable, index: Index, value: bytes | None
    ) -> None:
        before = durable.entries.pop(index, None)
        term: Term | None = None
        if value is not None:
            at_start = index - 1 == durable.start.meta.last.index
            previous = (
                (durable.start.meta.last.term, durable.start.chain)
                if at_start
                else durable.entries.get(index - 1)
            )
            if previous is None:
                self._broke("R3", f"{node}: stores {index} without what is before it")
                return
            proven = self._proven.get(index)
            if proven is not None and proven[0] == value and proven[1] == previous:
                held = proven[2]  # the very bytes that another node has stored there
            else:
                held = self._prove(node, index, value, previous)
                self._proven[index] = (value, previous, held)
            durable.entries[index] = held
            term = held[0]
        if before is None or before[0] == term or index <= durable.start.meta.last.index:
            return
        if index < len(self._canonical) and self._canonical[index][0] == before[0]:
            self._broke(
                "R8", f"{node}: loses entry {index} of term {before[0]}, which was committed"
            )
        self.observer.probe("uncommitted tail overwritten")

    def _prove(
        self, node: str, index: Index, value: bytes, previous: tuple[Term, bytes]
    ) -> tuple[Term, bytes]:
        """Look at the bytes of an entry, as a start would: they fit what is before them, and are
        what every node has there in that term. Returns its term and chain value."""
        entry, chain = decode_entry(self.gid, index, value, previous[1])
        content = (previous[0], (entry.kind, entry.data))
        known = self._entries.setdefault((index, entry.term), content)
        if known != content:
            self._broke(
                "R3",
                f"{node}: entry {index} of term {entry.term} differs from another node's, or "
                f"follows an entry of term {previous[0]} instead of {known[0]}",
            )
        return entry.term, chain

    # What is said

    def said(self, node: str, parcel: Parcel) -> None:
        """A message leaves a replica: what it promises must be durable (R9), its term its own."""
        message = parcel.content
        kind = type(message)
        if isinstance(message, (SnapshotChunk, ChunkReply)):
            if isinstance(message, SnapshotChunk):
                self.probes.chunk(node, message)
                if self.healed and message.number == 0:
                    self._stream_begins(node, message)
            return
        if parcel.gid != self.gid:
            return
        self.messages += 1
        life = self._lives.get(node)
        if life is None:
            return  # during the start
        durable, state = self._durable[node], life.state
        term, now = message.term, state.term
        if not (isinstance(message, (RequestVote, VoteReply)) and message.pre):
            if term > durable.hard_state.term or term > durable.vow.term:
                self._broke(
                    "R9",
                    f"{node} shows term {message.term}, synced is {durable.hard_state}, promised "
                    f"{durable.vow}: {message!r:.200}",
                )
            if term > now:
                self._broke("R17", f"{node} of term {now} says {message!r}")
        if self.observer.wire:
            self.observer.tell_wire(f"g{self.gid} {message_line(message)}")
        if isinstance(message, HeartbeatReply):
            self._check_claim(node, durable, message.last)
        elif kind is Heartbeat or kind is AppendEntries:
            leads_now = term == now and state.role is Role.LEADER
            if not (leads_now or self.leaders.get(term) == node):
                self._broke("R17", f"{node} does not lead term {term} and says {message!r:.200}")
            if kind is AppendEntries and leads_now:
                progress = life.replica.core.progress.get(message.target)
                if progress is not None and not self._in_window(life, progress):
                    told = f"{len(progress.flights)} messages of {progress.flight_bytes} bytes"
                    self._broke("B3", f"{node} has {told} under way to {progress.id}")
        elif isinstance(message, AppendReply) and message.rejected == 0:
            self._check_acknowledgement(node, durable, message)
        elif kind is not AppendReply:
            self._check_promise(node, durable, message)

    def _check_claim(self, node: str, durable: _Durable, last: Index) -> None:
        """Made before a cut of the same turn it may leave after it: the leader believes it only
        where it says less than what was acknowledged, and that is never cut."""
        held = max(durable.tail.last.index, durable.start.meta.last.index)
        if last > held + durable.cut_by:
            self._broke("R9", f"{node} claims entries up to {last}, it has {held} durable")

    def _in_window(self, life: _Life, progress: Progress) -> bool:
        config = life.replica.core.config
        bytes_max = config.inflight_bytes_max + config.append_bytes_max
        return len(
            progress.flights
        ) <= config.inflight_messages_max and progress.flight_bytes <= max(
            bytes_max, progress.flights[-1].size if progress.flights else 0
        )

    def _stream_begins(self, node: str, chunk: SnapshotChunk) -> None:
        """L11: a follower does not get one snapshot again and again."""
        key = (chunk.target, chunk.meta.last.index)
        streams = self._streams.setdefault(key, {})
        streams[chunk.stream] = None
        if len(streams) > STREAMS_MAX:
            self._broke("L11", f"{node} sends {chunk.target} the snapshot at {key[1]} once more")

    def _check_promise(self, node: str, durable: _Durable, message: AnyMessage) -> None:
        match message:
            case RequestVote(pre=False):
                self.probes.campaigns(message, self.leaders)
                voted = HardState(message.term, message.source)
                # A newer term may have come since; its own vote was durable before it (R2).
                if not (
                    (durable.hard_state == voted or durable.hard_state.term > message.term)
                    and (durable.vow == voted or durable.vow.term > message.term)
                ):
                    self._broke(
                        "R9", f"{node} campaigns with {durable.hard_state} on disk: {message!r}"
                    )
            case VoteReply(pre=True, granted=False):
                self.probes.refuses_to_hear(self._lives[node].replica)
            case VoteReply(granted=False):
                life = self._lives[node]
                self.probes.refuses(message, life.born_in, durable.hard_state)
            case VoteReply(pre=False, granted=True):
                voted = HardState(message.term, message.target)
                # A newer term may have come since; the vote in this one was durable then (R2).
                if not (durable.hard_state == voted or durable.hard_state.term > message.term):
                    self._broke(
                        "R9", f"{node} grants a vote with {durable.hard_state} on disk: {message!r}"
                    )

    def _check_acknowledgement(self, node: str, durable: _Durable, message: AppendReply) -> None:
        """Everything up to its `match` is durable, and is what the leader has.

        What the leader has there is known by the term at `match` (R3), while it leads.
        """
        match = message.match
        start = durable.start.meta.last
        if match <= start.index:
            return  # within a durable snapshot, so committed
        term = durable.term_at(match)
        replaced = durable.hard_state.term > message.term
        if not (term is not None or replaced):
            self._broke(
                "R9", f"{node} acknowledges {match} and has synced {start}..{durable.tail.last}"
            )
        leader = self.leaders.get(message.term)
        life = self._lives.get(leader) if leader is not None else None
        if life is None or term is None or replaced:
            return
        log = life.state.log
        in_log = log.start.last.index < match <= log.last.index
        if life.state.term == message.term and in_log and log.term(match) != term:
            self._broke(
                "R9",
                f"{node} acknowledges {match} with an entry of term {term}, the leader "
                f"{leader} has one of term {log.term(match)}",
            )

    # What is decided

    def turned(self, node: str) -> None:
        """A turn of the node's host has ended: look at what its replica has become."""
        life = self._lives.get(node)
        if life is None:
            return
        if life.replica.stopped_because is not None:
            if not self.superseded:
                self._broke("H1", f"{node} stopped: {life.replica.stopped_because}")
            self._lives.pop(node)
            return
        self.checks += 1
        state = life.state
        log, applied, commit = state.log, state.applied, state.commit
        leads = state.role is Role.LEADER
        proposed = log.membership_index != life.members_at
        if leads:
            self._look_at_leader(node, life)
        elif life.led:
            self._deposed(node, life)
        members_at = log.memberships[-1][0]
        if members_at != life.members_last:
            if members_at < life.members_last:
                self.observer.probe("change of members truncated")
            life.members_last = members_at
        start, last = log.start.last.index, log.last.index
        if start != life.start:
            life.start = start
            if any(p.match < start for p in life.replica.core.progress.values()):
                self.observer.probe("log cut while a peer lagged")
        # A snapshot that is being installed has restarted the log in memory, not yet the state.
        installing = log.durable < start
        if not (start <= commit and applied <= commit <= last and (start <= applied or installing)):
            self._broke(
                "R7", f"{node}: start {start}, applied {applied}, commit {commit}, last {last}"
            )
        if applied < life.applied:
            self._broke("R7", f"{node}: applied falls to {applied}")
        life.applied = applied
        if commit < life.commit:
            self._broke("R7", f"{node}: commit falls to {commit}")
        elif commit > life.commit:
            self._look_at_commit(node, life, leads, proposed)
            life.commit = commit

    def _deposed(self, node: str, life: _Life) -> None:
        core = life.replica.core
        self.observer.tell(f"g{self.gid} {node} leads no more term={life.led}")
        if life.last.index > core.commit:
            self.observer.probe("leader deposed with uncommitted tail")
        if core.term == life.led:
            self.observer.probe("leader stepped down without a quorum")
        self.probes.deposed(node, life.replica.id, core.membership)
        if life.transfer is not None:
            self.probes.handing_over(life.led, life.transfer[0])
        life.led, life.transfer = NO_TERM, None

    def _look_at_leader(self, node: str, life: _Life) -> None:
        core, state = life.replica.core, life.state
        term, log = state.term, state.log
        last = log.last
        if life.led != term:
            other = self.leaders.get(term)
            if other is not None:
                self._broke("R1", f"{node} leads term {term}, which {other} has led already")
            self.leaders[term] = node
            self.probes.leads(term, life.replica.id)
            self.observer.tell(f"g{self.gid} {node} leads term={term} last={last.index}")
            self._look_at_victory(node, life)
            life.led = term
        elif last is not life.last and last != life.last:
            kept = last.index >= life.last.index and (
                life.last.index < log.start.last.index or log.holds(life.last)
            )
            if not (kept):
                self._broke("R4", f"{node} leads term {term} and replaces its own {life.last}")
        life.last = last
        if log.memberships[-1][0] != life.members_at:
            self._look_at_members(node, life)
        target = core.transfer_target
        if target != NOBODY or life.transfer is not None:
            self._look_at_transfer(node, life, target)

    def _look_at_members(self, node: str, life: _Life) -> None:
        """R11. The commit index is looked at after the append: a change that was appended before
        an entry of this term was committed shows as long as that is so."""
        core = life.replica.core
        log = core.log
        at, life.members_at = log.membership_index, log.membership_index
        self.probes.members_changed(log.membership)
        proposed_here = at > log.start.last.index and log.term(at) == core.term
        if proposed_here and log.term(core.commit) != core.term:
            self._broke(
                "R11",
                f"{node} changes members at {at} in term {core.term}, and has committed only "
                f"{log.id_at(core.commit)}",
            )
        # A leader of a group that was restarted does not know yet what had been committed.
        committed = max(core.commit, len(self._canonical) - 1)
        open_ = [index for index, _ in log.memberships if index > committed]
        if not (len(open_) <= 1):
            self._broke("R11", f"{node}: uncommitted changes of members at {open_}")
        for (_, before), (index, after) in pairwise(log.memberships):
            if index == self._reborn_at:
                continue  # that is what a recovery does
            if not (not before.voters or quorums_meet(before, after)):
                self._broke(
                    "R11",
                    f"{node}: a majority of {Electorate.of(before)} and one of "
                    f"{Electorate.of(after)}, at {index}, need not meet",
                )

    def _look_at_transfer(self, node: str, life: _Life, target: ReplicaId) -> None:
        core = life.replica.core
        if target == NOBODY:
            life.transfer = None
        elif life.transfer is None or life.transfer[0] != target:
            life.transfer = (target, self._loop.time())
        else:
            lasted = self._loop.time() - life.transfer[1]
            # It is given up when the leader's next timer rings.
            longest = core.config.election_seconds_max + core.config.heartbeat_seconds
            if not (lasted <= longest):
                self._broke("R16", f"{node}: a transfer lasts {lasted:.3f} s")

    def _look_at_victory(self, node: str, life: _Life) -> None:
        """R5: by R3 it is enough that the last entry committed in an earlier term is there."""
        core = life.replica.core
        last = bisect_left(self._committed_in, core.term) - 1
        if last <= core.log.start.last.index:
            return
        entry = EntryId(Index(last), self._canonical[last][0])
        if not (core.log.holds(entry)):
            self._broke(
                "R5",
                f"{node} leads term {core.term} with a log up to {core.log.last}, without the "
                f"committed {entry}",
            )

    def _look_at_commit(self, node: str, life: _Life, leads: bool, proposed: bool) -> None:
        """
        Args:
            proposed: Whether a membership came into the log in this turn.
        """
        log, term, commit = life.state.log, life.state.term, life.state.commit
        lo = Index(max(life.commit, log.start.last.index) + 1)
        if leads:
            if log.term(lo) != term:
                self.observer.probe("entry of an old term committed with a new one")
            if log.term(commit) != term:
                self._broke("R10", f"{node} leads term {term} and commits {log.id_at(commit)}")
            memberships = [log.membership]
            if proposed and log.membership_index > commit:
                # In this turn, after the commit was counted by the one before.
                memberships.append(log.membership_at(Index(log.membership_index - 1)))
            holds = partial(self._holds, commit, term)
            agreed = max(Electorate.of(one).committed(holds) for one in memberships)
            if not (agreed >= commit):
                self._broke("R10", f"{node} commits {commit}, which no majority holds durably")
        canonical = self._canonical
        known = len(canonical)
        # All that is new, and the last of what is known: by R3 that covers what is before it.
        for index, entry_term, kind, data in _entries(
            log, Index(max(lo, min(known - 1, commit))), commit
        ):
            content = (entry_term, (kind, data))
            if index < known:
                if canonical[index] != content:
                    self._broke(
                        "R6",
                        f"{node} commits another entry {EntryId(index, entry_term)} than "
                        f"{canonical[index][0]}",
                    )
            elif index == len(canonical):
                canonical.append(content)
                self._committed_in.append(term)

    def _holds(self, index: Index, term: Term, replica: ReplicaId) -> int:
        """`index` if the replica holds the entry (index, term) durably, otherwise 0."""
        node = self._nodes.get(replica)
        if node is None:
            return NO_INDEX  # not made yet
        durable = self.lost.get(replica, self._durable[node])
        if durable.replica != replica:
            return NO_INDEX  # gone
        held = durable.term_at(index) == term or index < durable.start.meta.last.index
        return index if held else 0

    # What is applied

    def _installed(self, node: str) -> None:
        self.probes.installed()
        life = self._lives.get(node)
        if life is not None:
            self.snapshots.seen(node, life.replica, "has installed")

    def _applied(self, node: str, entries: Sequence[Entry]) -> None:
        life = self._lives.get(node)
        durable, canonical = self._durable[node], self._canonical
        next_ = entries[0].index if life is None else Index(life.replica.applied + 1)
        for index, term, kind, data in entries:
            if index != next_:
                self._broke("R6", f"{node} applies {index} at {next_ - 1}")
            if index < len(canonical) and canonical[index] != (term, (kind, data)):
                what = EntryId(index, term)
                self._broke("R6", f"{node} applies another entry {what} than was committed")
            if durable.term_at(index) != term:
                what = EntryId(index, term)
                self._broke("R9", f"{node} applies {what} before it is durable there")
            next_ = Index(index + 1)


def watch_drive(
    watchers: Mapping[GroupId, RaftInvariants], node: str, drive: SimDrive, *, log: str, data: str
) -> None:
    """Show each watcher what becomes durable on a node's drive of its group, and only that: most
    batches are of one group."""
    by_key = {_GROUP_OF_KEY.pack(gid): gid for gid in watchers}  # who watches it may change

    def watch(name: str, batch: Sequence[Write]) -> None:
        if name not in (log, data):
            for _, record in batch:
                promise = decode_promise(record) if record is not None else None
                for vow in promise.vows if promise is not None else ():
                    if (watcher := watchers.get(vow.gid)) is not None:
                        watcher.vow_durable(node, vow)
            return
        groups = {key[1:9]: None for key, _ in batch}
        for group in groups:
            gid = by_key.get(group)
            if gid is None:
                continue
            found = watchers[gid]
            if name == log:
                found.log_durable(node, batch)
            else:
                found.data_durable(node, batch)

    for watcher in watchers.values():
        watcher.drive_is_watched(node)
    drive.watch(watch)


class _WatchedCourier:
    """A courier that shows what passes."""

    def __init__(self, invariants: RaftInvariants, name: str, inner: Courier) -> None:
        self._invariants, self._name, self._inner = invariants, name, inner

    def post(self, address: str, parcel: Parcel) -> None:
        self._invariants.said(self._name, parcel)
        self._inner.post(address, parcel)

    def flush(self) -> None:
        self._invariants.turned(self._name)
        self._inner.flush()

    def close(self) -> None:
        self._inner.close()


class NodeCourier:
    """The courier of a node with many groups. Only those whose turn it was are looked at.

    Args:
        touched: Groups that have had a turn since the last flush; emptied here.
    """

    def __init__(
        self,
        watchers: Mapping[GroupId, RaftInvariants],
        name: str,
        inner: Courier,
        touched: dict[GroupId, None],
    ) -> None:
        self._watchers, self._name, self._inner, self._touched = watchers, name, inner, touched

    def post(self, address: str, parcel: Parcel) -> None:
        self._watchers[parcel.gid].said(self._name, parcel)
        self._inner.post(address, parcel)

    def flush(self) -> None:
        for gid in self._touched:
            self._watchers[gid].turned(self._name)
        self._touched.clear()
        self._inner.flush()

    def close(self) -> None:
        self._inner.close()


class _WatchedMachine:
    """A state machine that shows what it is given."""

    def __init__(
        self, inner: StateMachine, watch: "partial[None]", installed: "partial[None]"
    ) -> None:
        self._inner, self._watch, self._installed = inner, watch, installed

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        self._watch(entries)
        self._inner.apply(entries, rows)

    def reload(self, rows: Reader) -> None:
        self._inner.reload(rows)

    def leadership_changed(self, leads: bool) -> None:
        self._inner.leadership_changed(leads)

    def snapshot_installed(self, index: Index) -> None:
        self._installed()
        self._inner.snapshot_installed(index)

    def stopped(self) -> None:
        self._inner.stopped()

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        return self._inner.garbage(rows, rows_max)


_tail = lru_cache(maxsize=64)(decode_tail)
"""Most replicas of a group store the same bytes, one after the other."""
STREAMS_MAX: Final = 3
PAGE_BYTES: Final = 2**62
_GROUP_OF_KEY: Final = Struct(">Q")  # after a key's first byte, in both databases
REPLICAS_ENUMERATED_MAX: Final = 9


def _entries(log: Log, lo: Index, hi: Index) -> Sequence[Entry]:
    """The entries of `[lo, hi]` in a replica's log, those that are there."""
    if lo > hi or lo <= log.start.last.index:
        return ()
    return log.slice(lo, Index(hi + 1), PAGE_BYTES)


def quorums_meet(before: Membership, after: Membership) -> bool:
    """Whether every quorum of the one shares a replica with every quorum of the other (R11)."""
    return _electorates_meet(Electorate.of(before), Electorate.of(after))


@lru_cache(maxsize=256)
def _electorates_meet(one: Electorate, other: Electorate) -> bool:
    if one == other:
        return True
    everybody = sorted({*one.voters, *one.outgoing, *other.voters, *other.outgoing})
    if len(everybody) > REPLICAS_ENUMERATED_MAX:
        return bool(set(one.voters + one.outgoing) & set(other.voters + other.outgoing))

    def is_quorum(electorate: Electorate, chosen: set[ReplicaId]) -> bool:
        return all(
            2 * sum(voter in chosen for voter in voters) > len(voters)
            for voters in (electorate.voters, electorate.outgoing)
            if voters
        )

    for mask in range(1 << len(everybody)):
        chosen = {replica for at, replica in enumerate(everybody) if mask >> at & 1}
        if is_quorum(one, chosen) and is_quorum(other, {*everybody} - chosen):
            return False
    return True
