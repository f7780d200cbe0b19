"""The Raft state machine of one replica of one group: pure, synchronous, sans I/O.

Messages and the time go in, effects come out as `Ready` values; there is no clock, no disk, no
socket and no global chance in here, so a run is a function of its inputs. Roles change only in
the `_become_*` methods; the candidate's state is a `Candidacy`, the leader's a `Leader`, and each
dies with its role.

Source: Raft (extended version), figure 2, and the dissertation, chapters 3, 4, 6, 9 and 10.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final, assert_never

from raft import election
from raft.config import RaftConfig
from raft.election import Candidacy
from raft.errors import NotLeader
from raft.facts import Facts
from raft.leader import Leader
from raft.log import Log
from raft.messages import (
    AnyMessage,
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    ReadReply,
    ReadRequest,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from raft.quorum import Verdict
from raft.reads import ForwardedReads, Read, answer
from raft.ready import NOTHING, Ready
from raft.replication import take_append
from raft.snapshots import take_snapshot
from raft.state import State
from raft.types import (
    NOBODY,
    EntryId,
    EntryKind,
    HardState,
    Index,
    NodeId,
    ReplicaId,
    Role,
    SnapshotMeta,
    Term,
)

TERM_JUMP_MAX: Final = 2**32
"""No group gets through more terms while a replica is away; a larger jump is a damaged message."""
Rest = tuple[ReplicaId, ReplicaId, Term, Index]
"""What a group's heartbeats say, but for their token: leader, follower, term, commit."""
OF_LEADER: Final[Rest] = (NOBODY, NOBODY, Term(0), Index(0))
"""A leader at rest is sent no heartbeats."""


class Raft(Facts):
    """One replica of one group.

    Args:
        config: Times and bounds.
        id: This replica; it may be no member (yet): then it follows and never campaigns.
        log: What the log store held, all of it durable.
        hard_state: What was durable of term and vote. Never older than what was ever sent.
        applied: What the state machine shows; within the log or at its start.
        rng: This replica's own stream of chance, for election timeouts.
        now: Loop seconds.
    """

    __slots__ = (
        "__dict__", "_candidacy", "_forwarded", "_install", "_now", "_rest", "_told_hard_state",
        "dropped",
    )  # fmt: skip

    def __init__(
        self,
        config: RaftConfig,
        *,
        id: ReplicaId,
        log: Log,
        hard_state: HardState,
        applied: Index,
        rng: Random,
        now: float,
    ) -> None:
        super().__init__(
            State(config, id=id, log=log, hard_state=hard_state, applied=applied, rng=rng)
        )
        self._told_hard_state = hard_state
        self._install: SnapshotMeta | None = None  # decided, not handed out yet
        self._candidacy: Candidacy | None = None
        self._forwarded = ForwardedReads(self._state)
        self._rest: Rest | None = None
        self.dropped: Counter[str] = Counter()  # implausible messages, by reason
        self._now = now  # when the core was last told the time
        self._state.restart_election_timer(now)
        if self._state.electorate.everyone == (id,):
            self._state.election_at = now  # the only voter waits for nobody

    # Time

    def timeout(self, now: float) -> None:
        """Let time have its effect; call it at `deadline` or later. Early calls do nothing."""
        self._stir()
        self._now = now
        if self._leader is not None:
            self._leader.timeout(now)
            self._step_down_if_resigned()
        elif now >= self._state.election_at and self._state.promotable:
            if self._state.config.checks_quorum:
                self._become_pre_candidate(now)
            else:
                self._become_candidate(now, transfer=False)

    def beat(self, now: float) -> list[Heartbeat] | None:
        """What `timeout` and `ready` make of heartbeats that are due, where those are all that is
        to be done: they may leave at once, as what is `early` in a `Ready`. None, and nothing was
        done: call `timeout`."""
        leader = self._leader
        if leader is None:
            return None
        if self._rest is None:
            if not (self._is_quiet and leader.is_at_rest):
                return None
            self._rest = OF_LEADER
        self._now = now
        return leader.beat_at_rest(now)

    def _stir(self) -> None:
        """Something happens to this replica: whether it is at rest is to be found out anew.

        What makes out rest is looked at once, by `answer` and `beat`, and holds until anything but
        `answer`, `beat` and `hear` is called: a node with hundreds of groups at rest would spend
        most of its time with looking again. So each other method that changes something calls this
        first. (`ready` only hands out, and of a replica at rest there is nothing to hand out.)
        """
        self._rest = None

    # Messages

    def step(self, message: AnyMessage, now: float) -> None:
        """Take a peer's message at `now`, in loop seconds; what follows shows in `ready()`.

        A message that no correct peer sends is counted in `dropped` and changes nothing.
        """
        self._stir()
        self._now = now
        state = self._state
        if message.target != state.id:
            self.dropped["for another replica"] += 1
            return
        if isinstance(message, RequestVote):
            self._on_request_vote(message, now)
            return
        # Settled once, here: every handler below sees the current term (section 5.1).
        if message.term != state.term and not self._settle_term(message, now):
            return
        match message:
            case AppendReply():
                self._on_append_reply(message, now)
            case AppendEntries():
                self._on_append_entries(message, now)
            case HeartbeatReply():
                if self._leader is not None:
                    self._leader.on_heartbeat_reply(message, now)
            case Heartbeat():
                self._on_heartbeat(message, now)
            case VoteReply():
                self._on_vote_reply(message, now)
            case InstallSnapshot():
                self._on_install_snapshot(message, now)
            case TimeoutNow():
                # The leader's own order: it passes PreVote and the refusal of votes.
                if state.role is not Role.LEADER and state.promotable:
                    self._become_candidate(now, transfer=True)
            case ReadRequest():
                self._on_read_request(message)
            case ReadReply():
                self._forwarded.answered(message)
            case _:
                assert_never(message)

    def _settle_term(self, message: AnyMessage, now: float) -> bool:
        """Bring our term and the message's together; whether the message is to be handled."""
        state = self._state
        if message.term > state.term:
            if message.term - state.term > TERM_JUMP_MAX:
                self.dropped["implausible term"] += 1
                return False
            if isinstance(message, VoteReply) and message.pre and message.granted:
                return True  # echoes the term asked about; nobody is in it yet
            # In replies too: a leader that never hears of its successor lives on (A16).
            self._become_follower(message.term, NOBODY, now)
            return True
        if isinstance(message, AppendEntries | Heartbeat | InstallSnapshot):
            # A deposed leader learns of the new term; so does one whose follower's term ran
            # ahead in a partition, which would otherwise be deaf to it for ever (etcd#8501).
            state.messages.append(AppendReply(state.id, message.source, state.term))
        return False

    def _on_request_vote(self, request: RequestVote, now: float) -> None:
        state = self._state
        if request.term < state.term:
            election.refuse(state, request)
            return
        if request.term - state.term > TERM_JUMP_MAX:
            self.dropped["implausible term"] += 1
            return
        if not request.transfer and election.hears_leader(state, now):
            # Neither its vote nor its term counts while a leader lives (section 4.2.3).
            if request.pre:
                election.refuse(state, request)
            return
        if request.term > state.term and not request.pre:
            self._become_follower(request.term, NOBODY, now)
        if state.role is Role.LEADER and not request.pre:
            election.refuse(state, request)
            return
        election.answer(state, request, now)

    def _on_vote_reply(self, reply: VoteReply, now: float) -> None:
        state, candidacy = self._state, self._candidacy
        if candidacy is None or reply.pre is not candidacy.pre:
            return  # of an earlier campaign
        if reply.pre and reply.granted and reply.term != state.term + 1:
            return
        match candidacy.counts(state, reply):
            case Verdict.WON:
                if candidacy.pre:
                    self._become_candidate(now, transfer=False)
                else:
                    self._become_leader(now)
            case Verdict.LOST:
                self._become_follower(state.term, NOBODY, now)
            case Verdict.PENDING:
                pass

    def _hear(self, leader: ReplicaId, now: float) -> None:
        """The leader of this term spoke."""
        state = self._state
        assert state.role is not Role.LEADER, "two leaders in one term (R1)"
        if state.role is not Role.FOLLOWER or state.leader != leader:
            assert state.leader in (NOBODY, leader), "two leaders in one term (R1)"
            self._become_follower(state.term, leader, now)
        state.heard_at = now
        state.restart_election_timer(now)

    def _on_append_entries(self, append: AppendEntries, now: float) -> None:
        self._hear(append.source, now)
        if self._state.installing is None:  # else unanswered: the log is being replaced
            take_append(self._state, append)

    def _on_append_reply(self, reply: AppendReply, now: float) -> None:
        if self._leader is None:
            return
        if reply.match > self._state.log.last.index:
            self.dropped["acknowledges what was never sent"] += 1
            return
        self._leader.on_append_reply(reply, now)
        self._step_down_if_resigned()

    def _on_heartbeat(self, heartbeat: Heartbeat, now: float) -> None:
        self._hear(heartbeat.source, now)
        self._forwarded.ask_again(now)
        state = self._state
        if heartbeat.told:
            self._forwarded.told(heartbeat.told, heartbeat.told_at)
        if state.installing is not None:
            return  # silent: an answer would speak of a log that is being replaced
        if heartbeat.commit <= state.log.last.index:  # else this log lost entries: believe none
            state.commit_to(heartbeat.commit)
        state.messages.append(self._reply(heartbeat))

    def _reply(self, beat: Heartbeat) -> HeartbeatReply:
        state, durable = self._state, self._state.log.durable
        question = self._forwarded.patient
        said = (state.id, beat.source, state.term, beat.token, durable, beat.asks, question)
        return tuple.__new__(HeartbeatReply, said)  # a third of what its own constructor takes

    def answer(self, heartbeat: Heartbeat, now: float) -> HeartbeatReply | None:
        """What `step` and `ready` make of a heartbeat, where it is the answer and nothing else.

        Between two replicas that nothing happens to this is all there is, ten times a second and
        group. None, and nothing was done: take it to `step`. The answer shows the term, which a
        `Ready` has told of already, and what is durable; no save has to come before it but one
        of that hard state (`raft/replica.py`, 1).
        """
        said: Rest = heartbeat[:4]
        if heartbeat.told or said != self._rest:
            if heartbeat.told or not self._rests(heartbeat):
                return None
            self._rest = said
        state = self._state
        self._now = state.heard_at = now
        state.restart_election_timer(now)
        return self._reply(heartbeat)

    def _rests(self, heartbeat: Heartbeat) -> bool:
        """Whether nothing follows from such a heartbeat but its answer."""
        state = self._state
        return (
            heartbeat.term == state.term
            and heartbeat.source == state.leader
            and heartbeat.target == state.id
            and state.role is Role.FOLLOWER
            and heartbeat.commit <= state.commit
            and state.installing is None
            and not self._forwarded.waits
            and self._is_quiet
        )

    def hear(self, reply: HeartbeatReply, now: float) -> bool:
        """Take the answer to a heartbeat, where nothing follows from it: that it was heard is all.
        False, and nothing was done: take it to `step`."""
        state = self._state
        if self._leader is None or reply.term != state.term or reply.target != state.id:
            return False
        self._now = now
        return self._leader.on_reply_at_rest(reply, now, level=self._rest is not None)

    def _on_install_snapshot(self, install: InstallSnapshot, now: float) -> None:
        self._hear(install.source, now)
        if self._state.installing is None and take_snapshot(self._state, install):
            self._install = install.snapshot

    def _on_read_request(self, request: ReadRequest) -> None:
        read = Read(request.context, request.source)
        if self._leader is not None:
            self._leader.read(read)
        else:
            answer(self._state, read, Index(0))

    # What the driver asks

    def propose(self, data: bytes) -> EntryId | None:
        """Append a command to the log; None when this is not the leader, or it is handing over.

        Raises:
            Overloaded: `config.uncommitted_bytes_max` would be passed.
        """
        self._stir()
        return self._leader.propose(data) if self._leader is not None else None

    def read_index(self, context: bytes, *, patient: bool = False) -> None:
        """Ask from which index on a read is linearizable; a `ReadState` answers.

        Args:
            context: Never used before by this replica, in this life or an earlier one.
            patient: Of a follower: let question and answer travel with heartbeats that are due
                anyway. A newer one takes its place.
        """
        self._stir()
        if self._leader is not None:
            self._leader.read(Read(context, self._state.id))
        elif patient:
            self._forwarded.ask_patiently(context)
        else:
            self._forwarded.ask(context, self._now)

    def change_members(
        self,
        *,
        add: Sequence[tuple[NodeId, str]] = (),
        remove: Sequence[ReplicaId] = (),
        promote: bool = True,
    ) -> EntryId:
        """Begin a change of members; see `raft.membership.begin` for its meaning.

        Raises:
            NotLeader: ask the leader.
            MembershipRefused: the message says which rule forbids it.
        """
        self._stir()
        if self._leader is None:
            raise NotLeader()
        return self._leader.change_members(add, remove, promote)

    def transfer(self, to: ReplicaId) -> None:
        """Hand the leadership to `to`; proposals are refused until it has it, at most E.

        Raises:
            NotLeader, TransferRefused: nothing changed.
        """
        self._stir()
        if self._leader is None:
            raise NotLeader()
        self._leader.start_transfer(to)

    def persisted(self, index: Index, term: Term) -> None:
        """The save that ended at (index, term) is durable. Call it for each save that held
        entries, and for an installed snapshot with its last id, in the order of the Readys."""
        self._stir()
        state = self._state
        state.log.persisted(index, term)
        if state.installing is not None and state.log.durable >= state.installing.last.index:
            state.applied = max(state.applied, state.installing.last.index)
            state.installing = None
        if self._leader is not None:
            self._leader.persisted()
            self._step_down_if_resigned()

    def applied_to(self, index: Index) -> None:
        """The state machine shows everything up to `index`."""
        self._stir()
        self._state.applied_to(index)

    def compact(self, index: Index) -> SnapshotMeta:
        """Drop the log up to `index`, which must be applied and durably so; an index already
        dropped changes nothing. Returns the log's new start, for the log store."""
        assert index <= self._state.applied, "only what was applied is dropped (R7)"
        self._stir()
        return self._state.log.compact(index)

    def report_snapshot(self, to: ReplicaId, ok: bool) -> None:
        """The stream to `to` ended; `ok` when the receiver has staged all of it."""
        self._stir()
        if self._leader is not None:
            self._leader.on_snapshot_sent(to, ok)

    @property
    def _is_quiet(self) -> bool:
        """Whether everything that followed so far was handed out."""
        state = self._state
        return not (
            state.commit > state.emitted
            or (state.term, state.vote) != self._told_hard_state
            or state.messages
            or state.early
            or state.reads
            or state.send_snapshot
            or state.log.has_unsaved
        )

    def let_go(self) -> None:
        """This replica takes part no more: give back what its log keeps in memory."""
        self._state.log.let_go()

    def ready(self) -> Ready:
        """Everything that followed since the last call; see `Ready` for the order of effects."""
        state = self._state
        if self._leader is not None:
            self._leader.flush()
        committed = state.take_committed() if state.commit > state.emitted else ()
        hard_state: HardState | None = None
        told = self._told_hard_state
        if state.term != told.term or state.vote != told.vote:
            hard_state = self._told_hard_state = HardState(state.term, state.vote)
        if not (committed or hard_state or state.has_effects or state.log.has_unsaved):
            return NOTHING
        install, self._install = self._install, None
        if install is not None:
            state.log.note_reset_saved()
        ready = Ready(  # in the order of its fields: by their names it costs twice as much
            tuple(state.early),
            hard_state,
            install,
            state.log.take_unsaved(),
            tuple(state.messages),
            committed,
            tuple(state.reads),
            tuple(state.send_snapshot),
        )
        state.forget_effects()
        assert install is None or not ready.entries, "nothing is appended during an install"
        return ready

    # Roles

    def _become_follower(self, term: Term, leader: ReplicaId, now: float) -> None:
        state = self._state
        assert term >= state.term, "a term never falls (R12)"
        led, self._leader = self._leader, None
        self._candidacy = None
        leader_before = state.leader
        if term > state.term:
            state.term, state.vote = term, NOBODY
        state.role, state.leader = Role.FOLLOWER, leader
        if led is not None:
            led.reads.refuse_all()
            state.restart_election_timer(now)
        if leader_before != leader:
            self._forwarded.refuse_all()

    def _become_pre_candidate(self, now: float) -> None:
        """Ask whether a campaign could be won; nothing durable changes (dissertation, 9.6)."""
        state = self._state
        self._forwarded.refuse_all()
        # Without a leader from here on: so this replica votes for others (openraft#1796).
        state.role, state.leader = Role.PRE_CANDIDATE, NOBODY
        state.restart_election_timer(now)
        self._candidacy = Candidacy(pre=True)
        election.ask_for_votes(state, pre=True, transfer=False)
        own = VoteReply(state.id, state.id, Term(state.term + 1), granted=True, pre=True)
        self._on_vote_reply(own, now)

    def _become_candidate(self, now: float, *, transfer: bool) -> None:
        """Enter a new term and vote for oneself; the vote counts when it comes back, durable."""
        state = self._state
        assert state.role is not Role.LEADER, "a leader has nothing to win"
        self._forwarded.refuse_all()
        state.term = Term(state.term + 1)
        state.vote = state.id
        state.role, state.leader = Role.CANDIDATE, NOBODY
        state.restart_election_timer(now)
        self._candidacy = Candidacy(pre=False)
        election.ask_for_votes(state, pre=False, transfer=transfer)

    def _become_leader(self, now: float) -> None:
        """Lead this term; the empty entry commits what earlier terms left (section 5.4.2)."""
        state = self._state
        assert state.role is Role.CANDIDATE and state.vote == state.id
        assert state.log.last.term < state.term, "nobody appended in a term not led yet"
        state.role, state.leader = Role.LEADER, state.id
        self._candidacy = None
        self._leader = Leader(state, now)
        if state.config.empty_entry_at_start:
            self._leader.append(EntryKind.EMPTY, b"")

    def _step_down_if_resigned(self) -> None:
        if self._leader is not None and self._leader.resigned is not None:
            self._become_follower(self._state.term, NOBODY, self._now)
