"""Each safeguard is broken, one at a time and from outside; something must notice, and soon.

A table: the scorecard's id, what is broken, which faults the runs use, and which invariants may be
the ones to catch it. `silent` means that an assertion in the code itself stopped the replica,
`start` that a healthy node was refused; other names are invariants (`tests/support/oracle.py`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest

import raft.core
import raft.disk.log_store
import raft.disk.records
import raft.election
import raft.membership
import raft.quorum
import raft.replication
from labrpc.sim.disk import SimDisk
from labrpc.sim.loop import SimulationError, run
from raft.config import Mode, RaftConfig
from raft.core import Raft
from raft.disk.data_store import ReplicaData
from raft.disk.log_store import LogStore
from raft.disk.records import entry_key
from raft.election import Candidacy
from raft.host import CompactionConfig, Host
from raft.leader import Leader
from raft.log import Log
from raft.messages import (
    AnyMessage,
    AppendEntries,
    AppendReply,
    HeartbeatReply,
    InstallSnapshot,
    VoteReply,
)
from raft.parcel import Parcel
from raft.quorum import Electorate, Verdict
from raft.reads import LeaderReads, Read, answer
from raft.ready import Ready
from raft.replica import Replica
from raft.replication import Replication
from raft.rsm import ReplicatedStateMachine, decode_entry
from raft.snapshot_stream import SnapshotChunk
from raft.state import State
from raft.types import (
    NOBODY,
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    HardState,
    Index,
    Membership,
    ReplicaId,
    SnapshotMeta,
    Term,
)
from tests.support.chaos import ChaosNode, ChaosWorld, Knobs, live
from tests.support.hosts import GID, UUID

Break = Callable[[pytest.MonkeyPatch], None]

NETWORK: Final = ("loss", "reordering", "duplication", "partition", "isolate")
CRASHES: Final = ("crash", "crash all", "trap")
ELECTIONS: Final = ("isolate", "partition", "crash", "transfer")


@dataclass(frozen=True)
class Safeguard:
    """A row of the table. The first of `seeds` runs that fails must name one of `caught_by`."""

    id: str
    what: str
    breaks: Break
    caught_by: tuple[str, ...]
    faults: tuple[str, ...] = (*ELECTIONS, "slow disk", "loss")
    seeds: int = 40
    first: int = 0  # a seed that is known to find it; any soon does
    knobs: dict[str, Any] = field(default_factory=dict)


# A. Terms, votes, elections


def vote_before_sync(patch: pytest.MonkeyPatch) -> None:
    _post_early(patch, lambda m: isinstance(m, VoteReply) and m.granted and not m.pre)


def acknowledge_before_sync(patch: pytest.MonkeyPatch) -> None:
    _post_early(patch, lambda m: isinstance(m, AppendReply) and not m.rejected)


def _post_early(patch: pytest.MonkeyPatch, chosen: Callable[[AnyMessage], bool]) -> None:
    carry_out = Replica._carry_out

    def broken(self: Replica, ready: Ready) -> None:
        for message in filter(chosen, ready.messages):
            self._post(message)
        rest = tuple(message for message in ready.messages if not chosen(message))
        carry_out(self, ready._replace(messages=rest))

    patch.setattr(Replica, "_carry_out", broken)


def vote_twice(patch: pytest.MonkeyPatch) -> None:
    def broken(state: State, request: Any) -> bool:
        return bool(request.last.is_up_to_date_with(state.log.last))

    patch.setattr(raft.election, "would_vote", broken)


def compare_by(patch: pytest.MonkeyPatch, key: Callable[[EntryId], Any]) -> None:
    patch.setattr(EntryId, "is_up_to_date_with", lambda a, b: key(a) >= key(b))


def count_a_vote_twice(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Candidacy, state: State, reply: VoteReply) -> Verdict:
        self.votes[reply.source] = reply.granted
        grants = getattr(self, "grants", 0) + reply.granted
        self.grants = grants  # type: ignore[attr-defined]
        won = 2 * grants > len(state.electorate.voters)
        return Verdict.WON if won else state.electorate.tally(self.votes)

    patch.setattr(Candidacy, "counts", broken)


def half_is_a_majority(patch: pytest.MonkeyPatch) -> None:
    def tally(voters: Sequence[ReplicaId], votes: dict[ReplicaId, bool]) -> Verdict:
        yes = sum(votes.get(voter, False) for voter in voters)
        return Verdict.WON if yes >= max(1, len(voters) // 2) else Verdict.PENDING

    def committed(acked: Sequence[int]) -> int:
        ordered = sorted(acked, reverse=True)
        return ordered[max(1, len(ordered) // 2) - 1]

    patch.setattr(raft.quorum, "tally", tally)
    patch.setattr(raft.quorum, "committed_index", committed)


def ignore_terms_of(patch: pytest.MonkeyPatch, kinds: tuple[type, ...]) -> None:
    settle = Raft._settle_term

    def broken(self: Raft, message: Any, now: float) -> bool:
        higher = message.term > self.term and isinstance(message, kinds)
        return False if higher else settle(self, message, now)

    patch.setattr(Raft, "_settle_term", broken)


def keep_a_raised_term_in_memory(patch: pytest.MonkeyPatch) -> None:
    ready = Raft.ready

    def broken(self: Raft) -> Ready:
        told = ready(self)
        unvoted = told.hard_state is not None and told.hard_state.vote == NOBODY
        return told._replace(hard_state=None) if unvoted else told

    patch.setattr(Raft, "ready", broken)


# B. Replication, commit, apply


def commit_by_counting(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Replication) -> bool:
        state = self._state
        agreed = Index(state.electorate.committed(self.match))
        if agreed <= state.commit:
            return False
        state.commit_to(agreed)
        return True

    patch.setattr(Replication, "advance_commit", broken)


def commit_at_append(patch: pytest.MonkeyPatch) -> None:
    append = Leader.append

    def broken(self: Leader, kind: EntryKind, data: bytes) -> EntryId:
        placed = append(self, kind, data)
        self._state.commit_to(placed.index)
        return placed

    patch.setattr(Leader, "append", broken)


def commit_the_highest(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Electorate, acked: Callable[[ReplicaId], int]) -> int:
        return max((acked(voter) for voter in self.everyone), default=0)

    patch.setattr(Electorate, "committed", broken)


def count_oneself_early(patch: pytest.MonkeyPatch) -> None:
    match = Replication.match

    def broken(self: Replication, replica: ReplicaId) -> int:
        own = replica == self._state.id
        return self._state.log.last.index if own else match(self, replica)

    patch.setattr(Replication, "match", broken)


def commit_an_unverified_tail(patch: pytest.MonkeyPatch) -> None:
    take = raft.core.take_append  # type: ignore[attr-defined]

    def broken(state: State, append: AppendEntries) -> None:
        take(state, append)
        state.commit_to(min(append.commit, state.log.last.index))

    patch.setattr(raft.core, "take_append", broken)


def truncate_always(patch: pytest.MonkeyPatch) -> None:
    def broken(state: State, entries: tuple[Entry, ...]) -> None:
        if entries:
            if entries[0].index <= state.log.last.index:
                state.log.truncate(entries[0].index)
            state.log.append(entries)

    patch.setattr(raft.replication, "_reconcile", broken)


def take_old(patch: pytest.MonkeyPatch, kind: type) -> None:
    settle = Raft._settle_term

    def broken(self: Raft, message: Any, now: float) -> bool:
        old = message.term < self.term and isinstance(message, kind)
        return True if old else settle(self, message, now)

    patch.setattr(Raft, "_settle_term", broken)


def skip_pages(patch: pytest.MonkeyPatch) -> None:
    take = State.take_committed

    def broken(self: State) -> tuple[Entry, ...]:
        page = take(self)
        if page:
            self.emitted = Index(min(self.commit, self.log.durable))
        return page

    patch.setattr(State, "take_committed", broken)


def two_batches(patch: pytest.MonkeyPatch) -> None:
    commit = ReplicaData.commit

    def broken(
        self: ReplicaData, rows: Sequence[Any], applied: EntryId, membership: Membership | None
    ) -> None:
        self._disk.write([(self._prefix + key, value) for key, value in rows])
        commit(self, (), applied, membership)

    patch.setattr(ReplicaData, "commit", broken)


def answer_by_index(patch: pytest.MonkeyPatch) -> None:
    """Two safeguards stand behind each other here; both are taken away."""
    apply = ReplicatedStateMachine.apply

    def broken(self: ReplicatedStateMachine, entries: Sequence[Entry], rows: Any) -> None:
        for entry in entries:
            placed = self._placed.get(entry.index)
            if placed is not None and entry.kind is EntryKind.COMMAND and placed[0] != entry.term:
                waiters = placed[1][: len(decode_entry(entry))]
                self._placed[entry.index] = (entry.term, waiters)
        apply(self, entries, rows)

    patch.setattr(ReplicatedStateMachine, "apply", broken)
    patch.setattr(ReplicatedStateMachine, "leadership_changed", lambda self, leads: None)


def append_without_sync(patch: pytest.MonkeyPatch) -> None:
    sync = SimDisk.sync

    def broken(self: SimDisk, batch: Sequence[Any]) -> "asyncio.Future[None]":
        if not any(key.startswith(b"e") for key, _ in batch):
            return sync(self, batch)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.write(batch)
        asyncio.get_running_loop().call_soon(done.set_result, None)
        return done

    patch.setattr(SimDisk, "sync", broken)


# C. Snapshots, compaction


def install_what_is_old(patch: pytest.MonkeyPatch) -> None:
    def broken(state: State, install: InstallSnapshot) -> bool:
        snapshot = install.snapshot
        state.log.reset(snapshot)
        state.restored_to(snapshot.last.index)
        state.installing = snapshot
        reply = AppendReply(state.id, install.source, state.term, match=snapshot.last.index)
        state.messages.append(reply)
        return True

    patch.setattr(raft.core, "take_snapshot", broken)


def keep_the_tail(patch: pytest.MonkeyPatch) -> None:
    reset = Log.reset

    def broken(self: Log, start: SnapshotMeta) -> None:
        tail = [e for e in self._cache if e.index > start.last.index]
        reset(self, start)
        self.append(tail)

    patch.setattr(Log, "reset", broken)


def compact_before_flush(patch: pytest.MonkeyPatch) -> None:
    async def broken(self: Host) -> None:
        for replica in self.replicas.values():
            replica.compact(replica.applied, self._keep_from(replica))

    patch.setattr(Host, "compact", broken)


def cut_the_log_before_the_state(patch: pytest.MonkeyPatch) -> None:
    async def broken(self: Replica, ready: Ready, meta: SnapshotMeta) -> None:
        await self._log_store.reset(self.gid, meta)
        await install(self, ready, meta)

    install = Replica._install
    patch.setattr(Replica, "_install", broken)


# D. Reads


def read_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    def broken(self: LeaderReads, read: Read) -> None:
        answer(self._state, read, self._state.commit)

    patch.setattr(LeaderReads, "add", broken)


def read_before_an_own_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leader, "commits_own_term", property(lambda self: True))


def read_before_it_is_applied(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Replica) -> None:
        self._reads_ready = [(Index(0), futures) for _, futures in self._reads_ready]
        serve(self)

    serve = Replica._serve_reads
    patch.setattr(Replica, "_serve_reads", broken)


# E. Members


def change_twice_at_once(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Leader, add: Any, remove: Any, promote: bool) -> EntryId:
        membership = self._state.log.membership
        settled = membership._replace(promote=(), leaving=())
        return self._append_membership(
            raft.membership.begin(settled, add=add, remove=remove, promote=promote)
        )

    patch.setattr(Leader, "change_members", broken)


def change_before_an_own_commit(patch: pytest.MonkeyPatch) -> None:
    change = Leader.change_members

    def broken(self: Leader, add: Any, remove: Any, promote: bool) -> EntryId:
        began, self._began_at = self._began_at, Index(-1)
        try:
            return change(self, add, remove, promote)
        finally:
            self._began_at = began

    patch.setattr(Leader, "change_members", broken)


def one_counter_for_both(patch: pytest.MonkeyPatch) -> None:
    def committed(self: Electorate, acked: Callable[[ReplicaId], int]) -> int:
        everyone = self.everyone
        return raft.quorum.committed_index([acked(v) for v in everyone]) if everyone else 0

    def tally(self: Electorate, votes: dict[ReplicaId, bool]) -> Verdict:
        return raft.quorum.tally(self.everyone, votes) if self.voters else Verdict.LOST

    patch.setattr(Electorate, "committed", committed)
    patch.setattr(Electorate, "tally", tally)


# H. Of this design


def promise_beside_the_sync(patch: pytest.MonkeyPatch) -> None:
    sync = LogStore._sync

    def broken(
        self: LogStore, group: Any, rows: Any, hard_state: HardState | None, *args: Any, **kw: Any
    ) -> "asyncio.Future[None]":
        done = sync(self, group, rows, hard_state, *args, **kw)
        self._keeper.synced(self._number)
        if hard_state is not None:
            group.ticket = self._keeper.vow(group.record.gid, group.record.replica, hard_state)
        return done

    patch.setattr(LogStore, "_sync", broken)


def count_replaced_entries(patch: pytest.MonkeyPatch) -> None:
    def broken(self: Log, index: Index, term: Term) -> None:
        self.durable = max(self.durable, Index(min(index, self.last.index)))

    patch.setattr(Log, "persisted", broken)


def apply_what_is_not_durable(patch: pytest.MonkeyPatch) -> None:
    take = State.take_committed

    def broken(self: State) -> tuple[Entry, ...]:
        durable, self.log.durable = self.log.durable, self.commit
        try:
            return take(self)
        finally:
            self.log.durable = durable

    patch.setattr(State, "take_committed", broken)


QUICK: Final = RaftConfig(
    heartbeat_seconds=0.02,
    election_seconds_min=0.08,
    election_seconds_max=0.2,
    snapshot_reply_seconds=0.2,
    append_bytes_max=1000,
)
PLAIN: Final = replace(QUICK, mode=Mode.LAB)  # no PreVote, no CheckQuorum: more elections
LONG_LOGS: Final = CompactionConfig(log_entries_max=100_000)
SHORT_LOGS: Final = CompactionConfig(log_entries_max=3, keep_entries=0)


def knobs(guard: "Safeguard") -> Knobs:
    chosen = Knobs(
        size=3,
        faults=guard.faults,
        config=PLAIN,
        compaction=LONG_LOGS,
        seconds=2.0,
        pause_seconds_max=0.1,
    )
    return replace(chosen, **guard.knobs)


TABLE: Final = (
    Safeguard("canary", "commit = last at append", commit_at_append, ("R10", "R8")),
    Safeguard("A01", "a vote leaves before its sync", vote_before_sync, ("R9",)),
    Safeguard("A03", "two votes in one term", vote_twice, ("R2", "R1", "silent")),
    Safeguard(
        "A06",
        "up to date by index alone",
        lambda p: compare_by(p, lambda e: e.index),
        ("R5", "R8", "silent"),
        first=50,
    ),
    Safeguard(
        "A07",
        "(index, term) compared, not (term, index)",
        lambda p: compare_by(p, tuple),
        ("R5", "R8", "silent"),
        first=50,
    ),
    Safeguard(
        "A09",
        "one voter's vote counts twice",
        count_a_vote_twice,
        ("R1", "R5", "silent"),
        ("duplication", "isolate", "partition"),
        knobs={"size": 5},
    ),
    Safeguard("A11", "half is a majority", half_is_a_majority, ("R1", "R8", "R10")),
    Safeguard(
        "A16",
        "a higher term in answers is ignored",
        lambda p: ignore_terms_of(p, (AppendReply, VoteReply, HeartbeatReply)),
        ("L2",),
        knobs={"config": QUICK},
    ),
    Safeguard("A17", "a raised term stays in memory", keep_a_raised_term_in_memory, ("R9", "R12")),
    Safeguard("B01", "an old term's entry is committed by counting", commit_by_counting, ("R10",)),
    Safeguard("B02", "commit is the highest match", commit_the_highest, ("R8", "R10")),
    Safeguard("B03", "the leader counts itself before its fsync", count_oneself_early, ("R10",)),
    Safeguard("B04", "acknowledged before the fsync", acknowledge_before_sync, ("R9",)),
    Safeguard(
        "B06",
        "commit reaches an unverified tail",
        commit_an_unverified_tail,
        ("R6", "R8", "R7", "silent"),
        knobs={"clients": 8},
    ),
    Safeguard(
        "B07",
        "truncated without a conflict",
        truncate_always,
        ("R9", "R8", "silent"),
        ("reordering", "duplication"),
    ),
    Safeguard(
        "B12",
        "appends of an old term are taken",
        lambda p: take_old(p, AppendEntries),
        ("R9", "R6", "R3", "R10", "silent"),
        ("one way", "reordering", "isolate"),
    ),
    Safeguard("B20", "a page counts for all that is committed", skip_pages, ("R6", "silent")),
    Safeguard(
        "B21",
        "applied index and rows in two batches",
        two_batches,
        ("R6", "R18"),
        ("crash",),
    ),
    Safeguard(
        "B22",
        "a waiter is answered by index alone",
        answer_by_index,
        ("C4",),
        knobs={"clients": 8},
        first=3,
    ),
    Safeguard("B30", "entries are not synced", append_without_sync, ("R7", "R9")),
    Safeguard(
        "C02",
        "a tail outlives a snapshot",
        keep_the_tail,
        ("R9", "R3", "silent"),
        ("isolate",),
        knobs={"clients": 12, "compaction": SHORT_LOGS},
        first=7,
    ),
    Safeguard(
        "C08",
        "the log is cut before the flush",
        compact_before_flush,
        ("R8",),
        knobs={"compaction": SHORT_LOGS},
    ),
    Safeguard(
        "C09",
        "index first, then the state",
        cut_the_log_before_the_state,
        ("R8", "R18"),
        knobs={"compaction": SHORT_LOGS},
    ),
    Safeguard(
        "D01",
        "a leader reads without a quorum",
        read_without_a_quorum,
        ("R14",),
        ("isolate",),
        knobs={"reads": 0.7, "clients": 10, "pause_seconds_max": 0.4},
    ),
    Safeguard(
        "D02",
        "reads before an own commit",
        read_before_an_own_commit,
        ("R14", "R11"),
        knobs={"reads": 0.7},
    ),
    Safeguard(
        "D05", "reads before apply", read_before_it_is_applied, ("R14",), knobs={"reads": 0.7}
    ),
    Safeguard(
        "E01",
        "two changes of members at once",
        change_twice_at_once,
        ("R11",),
        ("members", "slow disk"),
    ),
    Safeguard(
        "E02",
        "members change before an own commit",
        change_before_an_own_commit,
        ("R11",),
        ("members", "crash", "slow disk"),
        knobs={"seconds": 4.0, "pause_seconds_max": 0.05},
    ),
    Safeguard(
        "E05",
        "one counter for two electorates",
        one_counter_for_both,
        ("R10", "R1", "R8"),
        ("members", "isolate", "slow disk"),
    ),
    Safeguard(
        "H05",
        "the promise beside the fsync",
        promise_beside_the_sync,
        ("start",),
        ("slow disk", "crash", "transfer"),
        first=3,
    ),
    Safeguard("H10", "applied before it is durable", apply_what_is_not_durable, ("R7", "R18")),
)


@pytest.mark.parametrize("guard", TABLE, ids=[f"{guard.id}-{guard.what}" for guard in TABLE])
def test_a_broken_safeguard_is_noticed(guard: Safeguard, monkeypatch: pytest.MonkeyPatch) -> None:
    guard.breaks(monkeypatch)

    for seed in range(guard.first, guard.first + guard.seeds):
        try:
            live(seed, knobs(guard))
        except (AssertionError, SimulationError) as error:
            assert str(error).partition(":")[0] in guard.caught_by, error
            return
    pytest.fail(f"{guard.seeds} runs without {guard.id}, and nothing noticed")


def test_the_runs_are_quiet_when_nothing_is_broken() -> None:
    """The other canary: the runs that catch the broken ones find no fault with what is whole."""
    kinds = {(guard.faults, repr(guard.knobs)): guard for guard in TABLE}
    for guard in kinds.values():
        live(0, knobs(guard))


# What chance brings about too seldom


@dataclass(frozen=True)
class Script:
    id: str
    what: str
    breaks: Break
    caught_by: tuple[str, ...]
    play: Callable[[ChaosWorld], Coroutine[Any, Any, None]]
    size: int = 3
    config: RaftConfig = QUICK


def check_no_quorum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leader, "_check_quorum", lambda self, now: None)


async def a_leader_that_hears_nobody(world: ChaosWorld) -> None:
    """It still sends, so nobody campaigns against it: it must step down by itself."""
    leader = await led(world)
    for other in others(world, leader):
        world.network.cut(other.address, leader.address)

    await asyncio.sleep(3)
    world.oracle.must(not leader.replica.leads, "L2", "a leader that hears nobody leads on")


async def a_late_acknowledgement(world: ChaosWorld) -> None:
    leader = await led(world)
    follower = others(world, leader)[0]
    world.network.isolate(leader.address, [node.address for node in world.all])
    forgotten = leader.rsm.submit(b"nobody else has it")
    await asyncio.sleep(0.01)
    core, old = leader.replica.core, Term(leader.replica.core.term - 1)
    late = AppendReply(follower.replica.id, leader.replica.id, old, match=core.log.last.index)

    assert leader.host is not None
    leader.host.deliver(Parcel(GID, UUID, late), follower.address)
    await asyncio.sleep(0.01)
    forgotten.cancel()


async def a_damaged_entry(world: ChaosWorld) -> None:
    """The node must refuse to start, rather than apply what nobody ever proposed."""
    leader = await led(world)
    for number in range(3):
        await world.submit(leader, b"an honest command, number %d" % number)
    victim = others(world, leader)[0]
    await world.until(lambda: victim.replica.applied == leader.replica.applied)
    index = leader.replica.core.log.last.index
    victim.power_cut()
    raw = victim.drive.durable("log")[entry_key(GID, index)]
    damaged = bytearray(raw)
    damaged[-1] ^= 1
    await put(victim, entry_key(GID, index), bytes(damaged))

    victim.power_up()
    await asyncio.sleep(1)
    refused = [story for story in world.oracle.violations if "DataUnusable" in story]
    world.oracle.violations = [s for s in world.oracle.violations if s not in refused]
    world.oracle.must(bool(refused), "R18", "a damaged entry was loaded")


async def put(node: ChaosNode, key: bytes, value: bytes) -> None:
    disk = node.drive.disk("log")
    await disk.sync([(key, value)])
    await disk.close()


def load_without_the_chain(patch: pytest.MonkeyPatch) -> None:
    def broken(gid: GroupId, index: Index, raw: bytes, previous: bytes) -> tuple[Entry, bytes]:
        term, chain = raft.disk.records.entry_link(gid, index, raw)
        return Entry(index, term, EntryKind(raw[1]), raw[26:]), chain

    patch.setattr(raft.disk.log_store, "decode_entry", broken)


async def an_old_snapshot_comes_late(world: ChaosWorld) -> None:
    leader = await led(world)
    await world.submit(leader, b"before")
    capture = leader.replica.store.capture()
    chunks = list(capture.chunks(10_000))
    for number in range(5):
        await world.submit(leader, b"after %d" % number)
    follower = others(world, leader)[0]
    await world.until(lambda: follower.replica.applied == leader.replica.applied)

    assert follower.host is not None
    for number, data in enumerate(chunks):
        chunk = SnapshotChunk(
            leader.replica.id, follower.replica.id, leader.replica.core.term, 2**40, number,
            capture.meta, data, done=number == len(chunks) - 1,
        )  # fmt: skip
        follower.host.deliver(Parcel(GID, UUID, chunk), leader.address)
    await asyncio.sleep(0.1)
    world.look_for_silent()
    world.oracle.state_is_canonical(follower.name, follower.replica)


async def entries_replaced_while_they_are_saved(world: ChaosWorld) -> None:
    """A follower's disk takes long; the leader of the other side replaces what it is writing."""
    old = await led(world)
    follower, *rest = others(world, old)
    await world.until(lambda: all(n.replica.applied == old.replica.applied for n in world.all))
    follower.drive.sync_seconds = 1.0
    world.network.partition([old.address], [node.address for node in rest])
    lost = [old.rsm.submit(b"to be replaced %d" % number) for number in range(5)]
    await asyncio.sleep(0.01)

    def replaced() -> bool:
        return follower.replica.core.log.last.term > old.replica.core.log.last.term

    await world.until(replaced, seconds=0.9)
    await asyncio.sleep(2)
    await asyncio.gather(*lost, return_exceptions=True)


async def led(world: ChaosWorld) -> ChaosNode:
    leader = world.leading()
    assert leader is not None
    return leader


def others(world: ChaosWorld, one: ChaosNode) -> list[ChaosNode]:
    return [node for node in world.all if node is not one]


SCRIPTS: Final = (
    Script(
        "A24", "CheckQuorum is off", check_no_quorum, ("L2",), a_leader_that_hears_nobody
    ),
    Script(
        "B13", "acknowledgements of an old term count", lambda p: take_old(p, AppendReply),
        ("R10", "R8"), a_late_acknowledgement,
    ),
    Script(
        "B29", "the chain is not checked at load", load_without_the_chain, ("R18",),
        a_damaged_entry,
    ),
    Script(
        "C01", "an old snapshot is installed", install_what_is_old, ("silent", "R6", "R7"),
        an_old_snapshot_comes_late,
    ),
    Script(
        "H09", "a save of replaced entries counts", count_replaced_entries, ("R9",),
        entries_replaced_while_they_are_saved, size=5, config=PLAIN,
    ),
)  # fmt: skip


def play(script: Script) -> None:
    chosen = Knobs(size=script.size, faults=(), config=script.config, compaction=LONG_LOGS)

    async def main() -> None:
        world = ChaosWorld(1, chosen)
        await world.grow()
        await script.play(world)
        world.oracle.check()

    run(main())


@pytest.mark.parametrize("script", SCRIPTS, ids=[f"{s.id}-{s.what}" for s in SCRIPTS])
def test_a_script_is_quiet_when_nothing_is_broken(script: Script) -> None:
    play(script)


@pytest.mark.parametrize("script", SCRIPTS, ids=[f"{s.id}-{s.what}" for s in SCRIPTS])
def test_a_script_notices_a_broken_safeguard(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.breaks(monkeypatch)

    with pytest.raises(AssertionError) as caught:
        play(script)

    assert str(caught.value).partition(":")[0] in script.caught_by, caught.value
