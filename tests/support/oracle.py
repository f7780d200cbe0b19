"""What must hold of one group at each step, whoever runs it: an all-knowing witness.

The oracle stands outside: it sees each message as it leaves a node, each batch as it becomes
durable, each entry as it is applied, and the cores after every turn. It compares them with each
other and with what a power cut at this very moment would leave. A violation is noted, not raised,
because an exception inside a turn would only stop the replica; `check` raises.

Invariants by the names of the project's list: R1 one leader a term, R2 and R12 term and vote, R3
log matching, R4 a leader never cuts its log, R5 a new leader holds what was committed, R6 one
sequence, R7 order of the marks, R8 nothing committed is lost, R9 durable before send, R10 the
commit rule, R11 members, R14 fresh reads, R16 transfers end, R17 who may send what, R18 a start
finds what was durable, C3 nothing happens twice, C4 clients are told the truth.
"""

from collections import Counter
from collections.abc import Sequence

from labrpc.sim.disk import SimDrive, Write
from raft.codec import decode_membership
from raft.disk.data_store import PROGRESS, decode_progress
from raft.disk.promise import find_promise
from raft.disk.records import (
    ENTRY,
    HARD_STATE,
    REPLICA,
    START,
    TAIL,
    decode_hard_state,
    decode_replica,
    decode_start,
    decode_tail,
    entry_link,
    group_key,
    index_of,
)
from raft.errors import Compacted
from raft.messages import (
    AnyMessage,
    AppendEntries,
    AppendReply,
    Heartbeat,
    RequestVote,
    VoteReply,
)
from raft.quorum import Electorate
from raft.replica import Replica
from raft.rsm import decode_entry
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
    Membership,
    ReplicaId,
    Role,
    Term,
)


class Durable:
    """What an unkind power cut would leave of one replica, kept up batch by batch."""

    def __init__(self, oracle: "Oracle", name: str, drive: SimDrive, gid: GroupId) -> None:
        self.name = name
        self._oracle, self._drive, self._gid = oracle, drive, gid
        self._keys = {kind: group_key(kind, gid) for kind in (REPLICA, HARD_STATE, START, TAIL)}
        self._entry_prefix = group_key(ENTRY, gid)
        self._progress_key = group_key(PROGRESS, gid)
        self._slots = (_SlotOf(drive, "promise.0"), _SlotOf(drive, "promise.1"))
        self._progress = (0, Index(0))  # incarnation, and how far its state is durable
        self._forget()
        drive.watch(self._became_durable)

    def _forget(self) -> None:
        self.replica = NOBODY
        self._incarnation: int | None = None
        self.hard_state = HardState()
        self.start = self.tail = ZERO
        self.terms: dict[int, Term] = {}

    @property
    def applied(self) -> Index:
        """How far this replica's state is durable; the state of an earlier one does not count."""
        incarnation, applied = self._progress
        return applied if incarnation == self._incarnation else Index(0)

    def term_at(self, index: int) -> Term | None:
        """None for an index that is not there; what lies below the start is not told apart."""
        if index == self.start.index:
            return self.start.term
        return self.terms.get(index)

    def holds(self, entry: EntryId) -> bool:
        """Whether the entry would survive: in the log, or in the state below its start."""
        return entry.index < self.start.index or self.term_at(entry.index) == entry.term

    def promised(self) -> HardState:
        """What the promise beside the log says of this replica."""
        promise = find_promise(self._slots).promise
        for vow in promise.vows if promise is not None else ():
            if vow.gid == self._gid and vow.replica == self.replica:
                return vow.hard_state
        return HardState()

    def _became_durable(self, name: str, batch: Sequence[Write]) -> None:
        if name == "log":
            for key, value in batch:
                if value is not None:
                    self._put(key, value)
                elif key == self._keys[REPLICA]:
                    self._forget()
                elif key.startswith(self._entry_prefix):
                    self.terms.pop(index_of(key), None)
        elif name == "data":
            for key, value in batch:
                if key == self._progress_key and value is not None:
                    self._put_progress(key, value)

    def _put(self, key: bytes, value: bytes) -> None:
        gid, oracle = self._gid, self._oracle
        if key.startswith(self._entry_prefix):
            index = index_of(key)
            self.terms[index] = entry_link(gid, index, value)[0]
        elif key == self._keys[REPLICA]:
            self._forget()
            record = decode_replica(key, value)
            self.replica, self._incarnation = record.replica, record.incarnation
        elif key == self._keys[HARD_STATE]:
            old, self.hard_state = self.hard_state, decode_hard_state(gid, value)
            new = self.hard_state
            oracle.must(new.term >= old.term, "R12", f"{self.name}: term {old} -> {new}")
            kept = new.term > old.term or old.vote in (NOBODY, new.vote)
            oracle.must(kept, "R2", f"{self.name}: vote {old} -> {new}")
        elif key == self._keys[START]:
            old_start, self.start = self.start, decode_start(gid, value).meta.last
            oracle.must(
                self.start.index >= old_start.index, "R7",
                f"{self.name}: the durable start falls {old_start} -> {self.start}",
            )  # fmt: skip
            oracle.must(
                self.applied >= self.start.index, "R8",
                f"{self.name}: the log is cut to {self.start}, state is durable to {self.applied}",
            )  # fmt: skip
        elif key == self._keys[TAIL]:
            self.tail = decode_tail(gid, value).last

    def _put_progress(self, key: bytes, value: bytes) -> None:
        progress = decode_progress(self._gid, key, value)
        incarnation, applied = self._progress
        if progress.incarnation == incarnation:
            self._oracle.must(
                progress.applied.index >= applied, "R7",
                f"{self.name}: durably applied falls {applied} -> {progress.applied}",
            )  # fmt: skip
        self._progress = (progress.incarnation, progress.applied.index)


class _SlotOf:
    """A promise slot, to be read from outside."""

    def __init__(self, drive: SimDrive, name: str) -> None:
        self._drive, self._name = drive, name

    def read(self) -> bytes:
        return self._drive.record(self._name)

    def write(self, record: bytes) -> object:
        raise AssertionError("a witness writes nothing")


class _Life:
    """What was seen of one replica since its process started."""

    def __init__(self, name: str, replica: Replica, boot: int) -> None:
        self.name, self.replica, self.boot = name, replica, boot
        self.commit = replica.core.commit
        self.applied = replica.core.applied
        self.led: Term | None = None
        self.led_last = Index(0)
        self.membership = replica.core.membership
        self.proposed = replica.core.log.membership_index
        self.acknowledged = EntryId(Index(0), Term(0))  # the highest match, and to whose term
        self.transfer_since: tuple[Term, ReplicaId, float] | None = None


class Oracle:
    """The witness of one group."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.probes: Counter[str] = Counter()
        self.durables: dict[str, Durable] = {}
        self.lives: dict[str, _Life] = {}
        self.leaders: dict[Term, tuple[str, int]] = {}
        self.canonical: list[Entry] = [Entry(Index(0), Term(0), EntryKind.EMPTY, b"")]
        self.commands: list[bytes] = []
        self._commands_up_to: list[int] = [0]  # a canonical index: how many commands by then
        self.membership: tuple[Index, Membership] = (Index(0), Membership())
        self.commit = Index(0)  # the highest that any core knew
        self.acknowledged: dict[bytes, int] = {}
        self.refused: dict[bytes, str] = {}
        self.unknown: dict[bytes, None] = {}
        self.longest: dict[str, float] = {}
        self._seen: dict[EntryId, tuple[Term, EntryKind, bytes]] = {}

    def must(self, holds: bool, invariant: str, story: str) -> None:
        if not holds:
            self.violations.append(f"{invariant}: {story}")

    def check(self) -> None:
        """Raise the first violation, if there was any."""
        if self.violations:
            more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
            raise AssertionError(self.violations[0] + more)

    def note(self, what: str, seconds: float) -> None:
        self.longest[what] = max(seconds, self.longest.get(what, 0.0))

    # What a node tells

    def watch(self, name: str, drive: SimDrive, gid: GroupId) -> None:
        self.durables[name] = Durable(self, name, drive, gid)

    def started(self, name: str, replica: Replica, boot: int) -> None:
        """A replica was loaded from disk, or made: it must be what was durable (R18)."""
        durable, core = self.durables[name], replica.core
        self.lives[name] = _Life(name, replica, boot)
        self.must(
            (core.term, core.vote) == durable.hard_state, "R18",
            f"{name}: loaded {core.term, core.vote}, durable {durable.hard_state}",
        )  # fmt: skip
        self.must(
            (core.log.start.last, core.log.last) == (durable.start, durable.tail), "R18",
            f"{name}: loaded log {core.log.start.last}..{core.log.last}, "
            f"durable {durable.start}..{durable.tail}",
        )  # fmt: skip
        self.must(
            durable.applied <= replica.applied <= core.log.last.index, "R18",
            f"{name}: applied {replica.applied}, durable {durable.applied}, log {core.log.last}",
        )  # fmt: skip
        self.state_is_canonical(name, replica)

    def state_is_canonical(self, name: str, replica: Replica) -> None:
        """The ledger is what the canonical log makes of it (R6, R13)."""
        applied = replica.applied
        if applied >= len(self.canonical):
            return self.must(False, "R6", f"{name}: state at {applied}, nobody applied that far")
        rows = [value for _, value in replica.store.reader.range(b"", b"\xff" * 9)]
        expected = self.commands[: self._commands_up_to[applied]]
        return self.must(
            rows == expected, "R6",
            f"{name}: the ledger at {applied} holds {len(rows)} commands, not the canonical "
            f"{len(expected)}, or other ones",
        )  # fmt: skip

    def applying(self, name: str, entries: Sequence[Entry]) -> None:
        life = self.lives.get(name)
        for entry in entries:
            if entry.index < len(self.canonical):
                known = self.canonical[entry.index]
                if known != entry:
                    self.must(False, "R6", f"{name} applies {entry}, another did {known}")
            elif entry.index == len(self.canonical):
                self._becomes_canonical(name, entry)
            else:
                self.must(False, "R6", f"{name} applies {entry.id}, {len(self.canonical)} is next")
            if life is not None and entry.index > self.durables[name].start.index:
                self.must(
                    self.durables[name].term_at(entry.index) == entry.term, "R7",
                    f"{name} applies {entry.id}, which is not durable there",
                )  # fmt: skip

    def _becomes_canonical(self, name: str, entry: Entry) -> None:
        self.canonical.append(entry)
        if entry.kind is EntryKind.COMMAND:
            self.commands += decode_entry(entry)
        elif entry.kind is EntryKind.MEMBERSHIP:
            self.membership = (entry.index, decode_membership(entry.data))
        self._commands_up_to.append(len(self.commands))
        membership = self.membership[1]
        if membership.voters:
            # Of a joint membership only the new voters: the next one may be in force already.
            self.must(
                self._majority_holds(membership._replace(outgoing=()), entry.id), "R8",
                f"{name} applies {entry.id}, and no majority holds it durably",
            )  # fmt: skip

    def _majority_holds(self, membership: Membership, entry: EntryId) -> bool:
        holders = {d.replica for d in self.durables.values() if d.holds(entry)}
        return _majority(membership.voters, holders) and (
            not membership.outgoing or _majority(membership.outgoing, holders)
        )

    def sent(self, name: str, replica: Replica, boot: int, message: object) -> None:
        """A message leaves: whatever it promises must survive a power cut now (R9, R17)."""
        if isinstance(message, SnapshotChunk | ChunkReply):
            self.probes[f"sent {type(message).__name__}"] += 1
            return
        durable = self.durables[name]
        known: AnyMessage = message  # type: ignore[assignment]
        term, promised = known.term, durable.hard_state
        if isinstance(known, RequestVote) and known.pre:
            term = Term(term - 1)
        promises = not (isinstance(known, VoteReply) and known.pre and known.granted)
        if promises and term > promised.term:
            self.must(False, "R9", f"{name} shows {known}, durable {promised}")
        match known:
            case AppendReply() if not known.rejected and known.match:
                self._acknowledges(name, durable, known)
            case VoteReply() if known.granted and not known.pre:
                self._votes(name, durable, HardState(known.term, known.target))
            case RequestVote() if not known.pre:
                self._votes(name, durable, HardState(known.term, known.source))
            case AppendEntries() | Heartbeat():
                self._leads(name, boot, known.term)
                if isinstance(known, AppendEntries):
                    self._matches(known)
            case _:
                pass

    def _votes(self, name: str, durable: Durable, vote: HardState) -> None:
        self.probes["votes"] += 1
        for where, state in (("log", durable.hard_state), ("promise", durable.promised())):
            kept = state == vote or state.term > vote.term
            self.must(kept, "R9", f"{name} votes {vote}, durable in its {where}: {state}")

    def _acknowledges(self, name: str, durable: Durable, reply: AppendReply) -> None:
        life = self.lives.get(name)
        if life is not None:
            told = EntryId(reply.match, reply.term)
            life.acknowledged = max(life.acknowledged, told, key=lambda e: (e.term, e.index))
        kept = reply.match <= durable.tail.index
        self.must(kept, "R9", f"{name} acknowledges {reply.match}, durable {durable.tail}")
        if reply.match <= durable.start.index:
            self.must(
                durable.applied >= reply.match, "R9",
                f"{name} acknowledges snapshot {reply.match}, durably applied {durable.applied}",
            )  # fmt: skip
        leader = self.lives.get(self.leaders.get(reply.term, ("", 0))[0])
        if not kept or leader is None:
            return
        core = leader.replica.core
        if core.role is not Role.LEADER or core.term != reply.term:
            return
        held = durable.term_at(reply.match)
        if core.log.start.last.index <= reply.match <= core.log.last.index and held is not None:
            self.must(
                core.log.term(reply.match) == held, "R9",
                f"{name} acknowledges {reply.match}, durable in term {held}, its leader has "
                f"{core.log.id_at(reply.match)}",
            )  # fmt: skip

    def _leads(self, name: str, boot: int, term: Term) -> None:
        known = self.leaders.setdefault(term, (name, boot))
        if known != (name, boot):
            self.must(False, "R1", f"term {term}: {known} led, and {name}/{boot}")

    def _matches(self, append: AppendEntries) -> None:
        """Equal (index, term) means equal entries with equal ones before them (R3)."""
        before = append.prev.term
        for index, term, kind, data in append.entries:
            entry = (before, kind, data)
            known = self._seen.setdefault(EntryId(index, term), entry)
            if known != entry:
                self.must(False, "R3", f"entry {index}/{term} is {known} and {entry}")
            before = term

    def turned(self, name: str, replica: Replica, now: float) -> None:
        """A turn of a replica ended. Runs at every step: a story is told only when it is needed."""
        life = self.lives.get(name)
        if life is None or life.replica is not replica or replica.stopped_because is not None:
            return
        core, log = replica.core, replica.core.log
        if core.commit < life.commit or core.applied < life.applied:
            self.must(False, "R7", f"{name}: commit {core.commit} or applied {core.applied} fell")
        if core._state.installing is None:
            self._look_at_marks(life)
        if core.role is Role.LEADER:
            self._look_at_leader(life, now)
        else:
            life.led = None
        self.commit = max(self.commit, core.commit)
        life.commit, life.applied = core.commit, core.applied
        life.membership = core.membership
        if log.durable > log.last.index:
            self.must(False, "R7", f"{name}: durable past the end")

    def _look_at_marks(self, life: _Life) -> None:
        core, durable, name = life.replica.core, self.durables[life.name], life.name
        log = core.log
        if not log.start.last.index <= core.applied <= core.commit <= log.last.index:
            marks = (log.start.last.index, core.applied, core.commit, log.last.index)
            self.must(False, "R7", f"{name}: {marks} are out of order")
        told = life.acknowledged
        if core.term == told.term and log.last.index < told.index:
            self.must(False, "R9", f"{name} took back {told}, its log ends at {log.last}")
        if life.replica.applied != core.applied:
            self.must(False, "R7", f"{name}: {life.replica.applied} and {core.applied} are applied")
        counted = log.durable
        held = counted <= durable.tail.index and (
            counted <= durable.start.index or log.term(counted) == durable.term_at(counted)
        )
        if not held:
            self.must(False, "R9", f"{name} counts {counted} as durable, it is {durable.tail}")

    def _look_at_leader(self, life: _Life, now: float) -> None:
        core, name = life.replica.core, life.name
        self._leads(name, life.boot, core.term)
        if life.led == core.term:
            if core.log.last.index < life.led_last:
                self.must(False, "R4", f"{name} cut its own log")
            if core.commit > life.commit and core.commit > core.log.start.last.index:
                self._commits(life)
        elif life.led is None:
            self.probes["elections"] += 1
            self._is_complete(life)
        life.led, life.led_last = core.term, core.log.last.index
        if core.lost_replicas:
            self.must(False, "lost", f"{name} counts {core.lost_replicas} out, who lost nothing")
        self._look_at_members(life)
        self._look_at_transfer(life, now)

    def _look_at_members(self, life: _Life) -> None:
        core, name = life.replica.core, life.name
        proposed = core.log.membership_index
        if proposed == life.proposed:
            return
        in_log = proposed > core.log.start.last.index
        if in_log and proposed > life.proposed and core.log.term(proposed) == core.term:
            self.must(
                core.log.term(core.commit) == core.term, "R11",
                f"{name} changes members in term {core.term}, and has committed {core.commit}",
            )  # fmt: skip
        life.proposed = proposed
        uncommitted = [at for at, _ in core.log.memberships if at > max(self.commit, core.commit)]
        self.must(len(uncommitted) <= 1, "R11", f"{name}: changes of members at {uncommitted}")
        before: Membership | None = None
        for at, after in core.log.memberships:
            if before is not None and before.voters:
                self.must(_follows(before, after), "R11", f"{name}: {before} -> {after} at {at}")
            before = after

    def _look_at_transfer(self, life: _Life, now: float) -> None:
        core, name = life.replica.core, life.name
        target = core.transfer_target
        if target == NOBODY:
            life.transfer_since = None
        elif life.transfer_since is None or life.transfer_since[:2] != (core.term, target):
            life.transfer_since = (core.term, target, now)
        else:
            lasted = now - life.transfer_since[2]
            limit = core.config.election_seconds_max + core.config.heartbeat_seconds
            self.must(lasted <= limit, "R16", f"{name}: a transfer takes {lasted:.3f} s")

    def _commits(self, life: _Life) -> None:
        core, name = life.replica.core, life.name
        entry = core.log.id_at(core.commit)
        self.must(entry.term == core.term, "R10", f"{name} in {core.term} commits {entry}")
        # The change that a commit lets follow is appended in the same turn: either set may count.
        judged = [core.membership, life.membership]
        self.must(
            any(self._majority_holds(membership, entry) for membership in judged), "R10",
            f"{name} commits {entry}, and no majority of {_ids(core.membership)} holds it durably",
        )  # fmt: skip

    def _is_complete(self, life: _Life) -> None:
        """A new leader holds all that was committed (R5)."""
        core = life.replica.core
        last = self.canonical[-1].id
        try:
            held = last.index <= core.log.last.index and core.log.term(last.index) == last.term
        except Compacted:
            held = True
        stale = any(term > core.term for term in self.leaders)  # then it need not know the newest
        self.must(held or stale, "R5", f"{life.name} leads {core.term} without {last}")

    # What a client tells

    def answered(self, command: bytes, position: int) -> None:
        self.acknowledged[command] = position
        held = self.commands[position - 1] if position <= len(self.commands) else None
        self.must(held == command, "C4", f"{command!r} answered as number {position}, is {held!r}")

    def is_fresh(self, name: str, count: int, acknowledged: int) -> None:
        self.probes["reads"] += 1
        self.must(
            count >= acknowledged, "R14",
            f"a read on {name} sees {count} commands, {acknowledged} had been acknowledged",
        )  # fmt: skip

    def conclude(self) -> None:
        """At the end: what clients were told is true (C4), and nothing happened twice (C3)."""
        times = Counter(self.commands)
        for command in self.acknowledged:
            self.must(times[command] == 1, "C4", f"{command!r} acknowledged, {times[command]} x")
        for command, why in self.refused.items():
            self.must(times[command] == 0, "C4", f"{command!r} refused ({why}), and applied")
        for command in self.unknown:
            self.must(times[command] <= 1, "C3", f"{command!r} {times[command]} x")
            self.probes["unknown, and done" if times[command] else "unknown, not done"] += 1


def _majority(voters: Sequence[object], holders: set[ReplicaId]) -> bool:
    held = sum(1 for member in voters if member.id in holders)  # type: ignore[attr-defined]
    return 2 * held > len(voters)


def _ids(membership: Membership) -> Electorate:
    return Electorate.of(membership)


def _follows(before: Membership, after: Membership) -> bool:
    """Whether every quorum of the one meets every quorum of the other."""
    if (before.voters, before.outgoing) == (after.voters, after.outgoing):
        return True
    if before.outgoing:
        return after.voters == before.voters and not after.outgoing
    return after.outgoing == before.voters
