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
- R17 a message carries the term its sender had, and only a term's leader appends in it.
- R18 what a replica starts from is what it had made durable.

Each check costs O(1) or O(what is new), so that it can be on in every simulated run.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from labrpc.sim.disk import SimDrive, Write
from raft.courier import Courier
from raft.disk.data_store import PROGRESS, decode_progress
from raft.disk.promise import decode_promise
from raft.disk.records import (
    ENTRY,
    HARD_STATE,
    REPLICA,
    START,
    TAIL,
    Start,
    Tail,
    decode_entry,
    decode_hard_state,
    decode_start,
    decode_tail,
    entry_key,
    group_key,
    index_of,
)
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
from raft.quorum import Electorate
from raft.replica import Replica
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.types import (
    NOBODY,
    ZERO,
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    HardState,
    Index,
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


class InvariantBroken(AssertionError):
    """What must always hold did not."""


@dataclass(slots=True)
class _Durable:
    """What one node's drive holds for sure, decoded batch by batch."""

    hard_state: HardState = NO_STATE
    start: Start = NO_START
    tail: Tail = NO_TAIL
    vow: HardState = NO_STATE  # of the promise
    applied: Index = NO_INDEX  # of the state machine's rows
    incarnation: int = 0
    entries: dict[int, tuple[Term, bytes]] = field(default_factory=dict)  # term and chain value
    exists: bool = False

    def term_at(self, index: int) -> Term | None:
        """The term at `index`, None for what lies before the start or past the end."""
        if index == self.start.meta.last.index:
            return self.start.meta.last.term
        held = self.entries.get(index)
        return held[0] if held is not None else None


@dataclass(slots=True)
class _Life:
    """One replica between its start and its end."""

    replica: Replica
    applied: Index
    commit: Index
    led: Term = NO_TERM  # the term it led when last looked at, 0 if it did not
    last: EntryId = ZERO  # of its log, while it leads


class RaftInvariants:
    """Watches one group on every node that has a replica of it.

    Args:
        gid: The group; what others say and store is passed by.
    """

    def __init__(self, gid: GroupId) -> None:
        self.gid = gid
        self.leaders: dict[Term, str] = {}
        self.checks = 0  # how often a turn was looked at: a run that checked nothing proves nothing
        self.broken: list[InvariantBroken] = []
        self._durable: dict[str, _Durable] = {}
        self._lives: dict[str, _Life] = {}
        self._nodes: dict[ReplicaId, str] = {}
        self._entries: dict[tuple[int, Term], tuple[Term, Content]] = {}  # with the term before it
        self._canonical: list[tuple[Term, Content]] = [(Term(0), (EntryKind.EMPTY, b""))]
        self._committed_in: list[Term] = [Term(0)]  # the term in which canonical[i] was first seen
        self._keys = {kind: group_key(kind, gid) for kind in (REPLICA, HARD_STATE, START, TAIL)}
        self._progress_key = group_key(PROGRESS, gid)
        self._entry_prefix = entry_key(gid, 0)[:-8]
        self._loop = asyncio.get_running_loop()

    def finish(self) -> None:
        """At the end of a run: raise what was broken, if the run has not failed of it already.

        Raises:
            InvariantBroken: the first one.
        """
        if self.broken:
            raise self.broken[0]

    def _demand(self, holds: bool, invariant: str, text: str) -> None:
        if holds:
            return
        error = InvariantBroken(f"{invariant}: {text}")
        self.broken.append(error)
        # Raised into the loop, not here: the driver would stop the replica and go on.
        self._loop.call_soon(_throw, error)

    # The seams

    def watch_drive(self, node: str, drive: SimDrive, *, log: str, data: str) -> None:
        """Follow what becomes durable on a node's drive: in its log map, its data map and its
        slots, which are those of the promise."""
        self._durable[node] = _Durable()

        def watch(name: str, batch: Sequence[Write]) -> None:
            if name == log:
                self._became_durable(node, batch)
            elif name == data:
                self._data_durable(node, batch)
            else:
                self._promise_durable(node, batch)

        drive.watch(watch)

    def courier(self, name: str, inner: Courier) -> Courier:
        """Stand between a node's replicas and its courier."""
        return _WatchedCourier(self, name, inner)

    def machine(self, name: str, inner: StateMachine) -> StateMachine:
        """Stand between a replica and its state machine."""
        return _WatchedMachine(inner, partial(self._applied, name))

    def started(self, name: str, replica: Replica) -> None:
        """A replica was loaded and takes part from now on (R18)."""
        durable, core = self._durable[name], replica.core
        self._lives[name] = _Life(replica, core.applied, core.commit)
        self._nodes[replica.id] = name
        log = core.log
        self._demand(durable.exists, "R18", f"{name} starts a replica that it never stored")
        self._demand(
            (core.term, core.vote) == durable.hard_state,
            "R18",
            f"{name} starts with {(core.term, core.vote)}, it had synced {durable.hard_state}",
        )
        self._demand(
            log.start == durable.start.meta and log.last == durable.tail.last,
            "R18",
            f"{name} starts with {log.start.last}..{log.last}, it had synced "
            f"{durable.start.meta.last}..{durable.tail.last}",
        )
        for index in range(log.first, log.last.index + 1):
            self._demand(
                durable.term_at(index) == log.term(Index(index)),
                "R18",
                f"{name} loads another entry {index} than it had synced",
            )

    def stopped(self, name: str) -> None:
        """A replica is gone."""
        self._lives.pop(name, None)

    # What becomes durable

    def _became_durable(self, node: str, batch: Sequence[Write]) -> None:
        durable = self._durable[node]
        for key, value in batch:
            if key.startswith(ENTRY):
                continue
            if key == self._keys[REPLICA]:
                durable.exists = value is not None
                if value is None:
                    self._durable[node] = durable = _Durable()
            elif value is None:
                continue
            elif key == self._keys[HARD_STATE]:
                self._vote_durable(node, durable, decode_hard_state(self.gid, value))
            elif key == self._keys[START]:
                start = decode_start(self.gid, value)
                self._demand(
                    start.meta.last.index >= durable.start.meta.last.index,
                    "R7",
                    f"{node}: its log's start falls to {start.meta.last}",
                )
                self._demand(
                    start.meta.last.index <= durable.applied,
                    "R7",
                    f"{node}: its log is cut at {start.meta.last}, durably applied is "
                    f"{durable.applied}",
                )
                durable.start = start
            elif key == self._keys[TAIL]:
                durable.tail = decode_tail(self.gid, value)
        for key, value in batch:
            if key.startswith(self._entry_prefix):
                self._entry_durable(node, durable, index_of(key), value)

    def _data_durable(self, node: str, batch: Sequence[Write]) -> None:
        durable = self._durable[node]
        for key, value in batch:
            if key == self._progress_key and value is not None:
                progress = decode_progress(self.gid, key, value)
                self._demand(
                    progress.applied.index >= durable.applied
                    or progress.incarnation != durable.incarnation,
                    "R7",
                    f"{node}: durably applied falls to {progress.applied}",
                )
                durable.applied = progress.applied.index
                durable.incarnation = progress.incarnation

    def _promise_durable(self, node: str, batch: Sequence[Write]) -> None:
        durable = self._durable[node]
        for _, record in batch:
            promise = decode_promise(record) if record is not None else None
            for vow in promise.vows if promise is not None else ():
                if vow.gid == self.gid:
                    self._demand(
                        vow.hard_state.term >= durable.vow.term,
                        "R12",
                        f"{node}: its promise {durable.vow} becomes {vow.hard_state}",
                    )
                    durable.vow = vow.hard_state

    def _vote_durable(self, node: str, durable: _Durable, new: HardState) -> None:
        old = durable.hard_state
        self._demand(new.term >= old.term, "R12", f"{node}: {old} becomes {new}")
        if new.term == old.term:
            self._demand(
                old.vote in (NOBODY, new.vote), "R2", f"{node}: its vote {old} becomes {new}"
            )
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
                self._demand(False, "R3", f"{node}: stores {index} without what is before it")
                return
            entry, chain = decode_entry(self.gid, index, value, previous[1])
            term = entry.term
            durable.entries[index] = (term, chain)
            content = (previous[0], (entry.kind, entry.data))
            known = self._entries.setdefault((index, term), content)
            self._demand(
                known == content,
                "R3",
                f"{node}: entry {index} of term {term} differs from another node's, or follows "
                f"an entry of term {previous[0]} instead of {known[0]}",
            )
        was_cut = index <= durable.start.meta.last.index
        if before is not None and before[0] != term and not was_cut:
            self._demand(
                index >= len(self._canonical) or self._canonical[index][0] != before[0],
                "R8",
                f"{node}: loses entry {index} of term {before[0]}, which was committed",
            )

    # What is said

    def said(self, node: str, parcel: Parcel) -> None:
        """A message leaves a replica: what it promises must be durable (R9), its term its own."""
        message = parcel.content
        if parcel.gid != self.gid or isinstance(message, SnapshotChunk | ChunkReply):
            return
        life = self._lives.get(node)
        if life is None:
            return  # during the start
        durable, core = self._durable[node], life.replica.core
        pre = isinstance(message, RequestVote | VoteReply) and message.pre
        if not pre:
            self._demand(
                message.term <= min(durable.hard_state.term, durable.vow.term),
                "R9",
                f"{node} shows term {message.term}, synced is {durable.hard_state}, promised "
                f"{durable.vow}: {message!r:.200}",
            )
            self._demand(
                message.term <= core.term,
                "R17",
                f"{node} of term {core.term} says {message!r}",
            )
        self._check_promise(node, durable, message)
        if isinstance(message, AppendEntries | Heartbeat):
            leads_now = core.role is Role.LEADER and core.term == message.term
            self._demand(
                leads_now or self.leaders.get(message.term) == node,
                "R17",
                f"{node} does not lead term {message.term} and says {message!r:.200}",
            )

    def _check_promise(self, node: str, durable: _Durable, message: AnyMessage) -> None:
        match message:
            case RequestVote(pre=False):
                voted = HardState(message.term, message.source)
                self._demand(
                    durable.hard_state == durable.vow == voted,
                    "R9",
                    f"{node} campaigns with {durable.hard_state} on disk: {message!r}",
                )
            case VoteReply(pre=False, granted=True):
                voted = HardState(message.term, message.target)
                # A newer term may have come since; the vote in this one was durable then (R2).
                self._demand(
                    durable.hard_state == voted or durable.hard_state.term > message.term,
                    "R9",
                    f"{node} grants a vote with {durable.hard_state} on disk: {message!r}",
                )
            case AppendReply() if message.rejected == 0:
                self._check_held(node, durable, message, message.match)
            case HeartbeatReply():
                self._demand(
                    message.last <= max(durable.tail.last.index, durable.start.meta.last.index),
                    "R9",
                    f"{node} claims entries up to {message.last}, it has {durable.tail.last}",
                )

    def _check_held(self, node: str, durable: _Durable, message: AppendReply, match: Index) -> None:
        """Everything up to `match` is durable, and is what the leader has.

        What the leader has there is known by the term at `match` (R3), while it leads.
        """
        start = durable.start.meta.last
        if match <= start.index:
            return  # within a durable snapshot, so committed
        term = durable.term_at(match)
        replaced = durable.hard_state.term > message.term
        self._demand(
            term is not None or replaced,
            "R9",
            f"{node} acknowledges {match} and has synced {start}..{durable.tail.last}",
        )
        leader = self.leaders.get(message.term)
        life = self._lives.get(leader) if leader is not None else None
        if life is None or term is None or replaced:
            return
        log = life.replica.core.log
        if life.replica.core.term == message.term and log.first <= match <= log.last.index:
            self._demand(
                log.term(match) == term,
                "R9",
                f"{node} acknowledges {match} with an entry of term {term}, the leader "
                f"{leader} has one of term {log.term(match)}",
            )

    # What is decided

    def turned(self, node: str) -> None:
        """A turn of the node's host has ended: look at what its replica has become."""
        life = self._lives.get(node)
        if life is None or life.replica.stopped_because is not None:
            if life is not None:
                self._demand(False, "H1", f"{node} stopped: {life.replica.stopped_because}")
                self._lives.pop(node)
            return
        self.checks += 1
        core = life.replica.core
        leads = core.role is Role.LEADER
        if leads:
            self._look_at_leader(node, life)
        elif life.led:
            life.led = NO_TERM
        # A snapshot that is being installed has restarted the log in memory, not yet the state.
        start = core.log.start.last.index
        installing = core.log.durable < start
        self._demand(
            (start <= core.applied or installing)
            and max(start, core.applied) <= core.commit <= core.log.last.index,
            "R7",
            f"{node}: start {start}, applied {core.applied}, commit {core.commit}, "
            f"last {core.log.last.index}",
        )
        self._demand(core.applied >= life.applied, "R7", f"{node}: applied falls to {core.applied}")
        life.applied = core.applied
        self._demand(core.commit >= life.commit, "R7", f"{node}: commit falls to {core.commit}")
        if core.commit > life.commit:
            self._look_at_commit(node, life, leads)
            life.commit = core.commit

    def _look_at_leader(self, node: str, life: _Life) -> None:
        core = life.replica.core
        term, log = core.term, core.log
        if life.led != term:
            other = self.leaders.get(term)
            self._demand(
                other is None, "R1", f"{node} leads term {term}, which {other} has led already"
            )
            self.leaders[term] = node
            self._look_at_victory(node, life)
            life.led = term
        elif life.last != log.last:
            kept = log.last.index >= life.last.index and (
                life.last.index < log.start.last.index or log.holds(life.last)
            )
            self._demand(kept, "R4", f"{node} leads term {term} and replaces its own {life.last}")
        life.last = log.last

    def _look_at_victory(self, node: str, life: _Life) -> None:
        """R5: by R3 it is enough that the last entry committed in an earlier term is there."""
        core = life.replica.core
        last = bisect_left(self._committed_in, core.term) - 1
        if last <= core.log.start.last.index:
            return
        entry = EntryId(Index(last), self._canonical[last][0])
        self._demand(
            core.log.holds(entry),
            "R5",
            f"{node} leads term {core.term} with a log up to {core.log.last}, without the "
            f"committed {entry}",
        )

    def _look_at_commit(self, node: str, life: _Life, leads: bool) -> None:
        core = life.replica.core
        log = core.log
        lo = Index(max(life.commit + 1, log.first))
        if leads:
            self._demand(
                log.term(core.commit) == core.term,
                "R10",
                f"{node} leads term {core.term} and commits {log.id_at(core.commit)}",
            )
            agreed = Electorate.of(log.membership).committed(
                partial(self._holds, core.commit, core.term)
            )
            self._demand(
                agreed >= core.commit,
                "R10",
                f"{node} commits {core.commit}, which no majority holds durably",
            )
        known = len(self._canonical)
        # All that is new, and the last of what is known: by R3 that covers what is before it.
        for entry in _entries(life.replica, Index(max(lo, min(known - 1, core.commit)))):
            content = (entry.term, (entry.kind, entry.data))
            if entry.index < known:
                self._demand(
                    self._canonical[entry.index] == content,
                    "R6",
                    f"{node} commits another entry {entry.id} than "
                    f"{self._canonical[entry.index][0]}",
                )
            elif entry.index == len(self._canonical):
                self._canonical.append(content)
                self._committed_in.append(core.term)

    def _holds(self, index: Index, term: Term, replica: ReplicaId) -> int:
        """`index` if the replica holds the entry (index, term) durably, otherwise 0."""
        durable = self._durable[self._nodes[replica]]
        held = durable.term_at(index) == term or index < durable.start.meta.last.index
        return index if held else 0

    # What is applied

    def _applied(self, node: str, entries: Sequence[Entry]) -> None:
        life = self._lives.get(node)
        for entry in entries:
            if life is not None:
                self._demand(
                    entry.index == life.replica.applied + 1 + (entry.index - entries[0].index),
                    "R6",
                    f"{node} applies {entry.index} at {life.replica.applied}",
                )
            content = (entry.term, (entry.kind, entry.data))
            if entry.index < len(self._canonical):
                self._demand(
                    self._canonical[entry.index] == content,
                    "R6",
                    f"{node} applies another entry {entry.id} than was committed",
                )
            self._demand(
                self._durable[node].term_at(entry.index) == entry.term,
                "R9",
                f"{node} applies {entry.id} before it is durable there",
            )


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


class _WatchedMachine:
    """A state machine that shows what it is given."""

    def __init__(self, inner: StateMachine, watch: "partial[None]") -> None:
        self._inner, self._watch = inner, watch

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        self._watch(entries)
        self._inner.apply(entries, rows)

    def reload(self, rows: Reader) -> None:
        self._inner.reload(rows)

    def leadership_changed(self, leads: bool) -> None:
        self._inner.leadership_changed(leads)

    def snapshot_installed(self, index: Index) -> None:
        self._inner.snapshot_installed(index)

    def stopped(self) -> None:
        self._inner.stopped()

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        return self._inner.garbage(rows, rows_max)


PAGE_BYTES: Final = 2**62


def _entries(replica: Replica, lo: Index) -> Sequence[Entry]:
    """The entries of `[lo, commit]` in the replica's log."""
    core = replica.core
    if lo > core.commit or lo < core.log.first:
        return ()
    return core.log.slice(lo, Index(core.commit + 1), PAGE_BYTES)


def _throw(error: InvariantBroken) -> None:
    raise error
