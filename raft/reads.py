"""Linearizable reads without a log entry: ReadIndex.

A read is served at an index that was committed when the leader was certainly the leader: after the
read came in, a majority answered a heartbeat that was sent later still, in this term. And only once
an entry of this term is committed, because until then a leader may not know what is committed
(dissertation, section 6.4; etcd#7331, TiKV#6340 are what happens otherwise). One round confirms all
reads that wait when it starts; what comes in meanwhile waits for the next.

A follower's question needs one answer less. It was sent in this term and after its read came in, so
until then the asker had voted for nobody in a later one. Where leader and asker are a majority (two
of three), nobody else had been elected when the read came in: what was acknowledged by then was
acknowledged by this leader or one before it, and lies at or below its commit index (`Leader.read`).
A question that was late, or came twice, proves as much: its read is none the younger for that.

A *patient* question costs no message: it travels on a follower's answers to heartbeats, until a
heartbeat brings the answer. In between a round began, later than the question came in, and a
majority answered it: the same proof, of heartbeats that are due anyway. That is how followers keep
knowing how old they are (`raft/freshness.py`), at next to no cost.
"""

from collections import deque
from typing import Final, NamedTuple

from raft.messages import ReadReply, ReadRequest
from raft.ready import ReadState
from raft.state import State
from raft.types import NOBODY, Index, ReplicaId

PATIENCE_HEARTBEATS: Final = 2
"""After so many heartbeats without an answer a question to the leader is asked again."""


class Read(NamedTuple):
    """Who asks: this replica itself, or a follower that gets a `ReadReply`."""

    context: bytes
    origin: ReplicaId


class Round(NamedTuple):
    """Reads that the answers to heartbeats numbered `token` or later confirm."""

    token: int
    at: Index
    reads: list[Read]


class LeaderReads:
    """Reads that a leader was asked for: lives and dies with its leadership."""

    __slots__ = ("__dict__", "_gathered", "_rounds", "_state", "_waiting")

    def __init__(self, state: State) -> None:
        self._state = state
        self._gathered: list[Read] = []
        self._rounds: deque[Round] = deque()
        self._waiting = 0

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not (self._gathered or self._rounds)

    @property
    def wants_round(self) -> bool:
        """Whether reads wait and no round is under way that would let them gather on."""
        return bool(self._gathered) and not self._rounds

    @property
    def wait(self) -> bool:
        """Whether a read waits for answers to heartbeats that have left."""
        return bool(self._rounds)

    @property
    def confirmed_up_to(self) -> int:
        """The newest token that a round waits for; 0 when none does."""
        return self._rounds[-1].token if self._rounds else 0

    def add(self, read: Read) -> None:
        """Take a read; beyond the bound it is refused at once."""
        if self._waiting >= self._state.config.reads_waiting_max:
            answer(self._state, read, Index(0))
            return
        self._waiting += 1
        self._gathered.append(read)

    def start(self, token: int) -> None:
        """Heartbeats numbered `token` leave now, later than every read gathered so far."""
        if self._gathered:
            self._rounds.append(Round(token, self._state.commit, self._gathered))
            self._gathered = []

    def confirm(self, token: int) -> None:
        """A majority answered heartbeats numbered `token` or later: we led when they left."""
        while self._rounds and self._rounds[0].token <= token:
            round_ = self._rounds.popleft()
            self._waiting -= len(round_.reads)
            for read in round_.reads:
                answer(self._state, read, round_.at)

    def refuse_all(self) -> None:
        """The leadership ends: nobody can say any more what was committed when they asked."""
        for round_ in self._rounds:
            for read in round_.reads:
                answer(self._state, read, Index(0))
        for read in self._gathered:
            answer(self._state, read, Index(0))
        self._rounds.clear()
        self._gathered = []


class ForwardedReads:
    """Reads of this replica that its leader was asked for: they end with the leader.

    Attributes:
        patient: The patient question, for the answers to heartbeats; empty: there is none.
    """

    __slots__ = ("__dict__", "_asked", "_state", "patient")

    def __init__(self, state: State) -> None:
        self._state = state
        self._asked: dict[bytes, float] = {}  # context -> last asked when
        self.patient = b""

    @property
    def waits(self) -> bool:
        """Whether a question in a hurry is not answered."""
        return bool(self._asked)

    def ask(self, context: bytes, now: float) -> None:
        """Ask the leader; refused at once when there is none, or too many wait."""
        state = self._state
        full = len(self._asked) >= state.config.reads_waiting_max
        if state.leader == NOBODY or full:
            state.reads.append(ReadState(context, Index(0)))
            return
        self._asked[context] = now
        state.messages.append(ReadRequest(state.id, state.leader, state.term, context))

    def ask_patiently(self, context: bytes) -> None:
        """Ask with the answers to heartbeats. A question before it is given up."""
        if self.patient:
            self._state.reads.append(ReadState(self.patient, Index(0)))
        self.patient = context
        if self._state.leader == NOBODY:
            self.refuse_all()

    def ask_again(self, now: float) -> None:
        """The leader lives: what it has not answered for two heartbeats may have been lost.

        Asking twice is harmless: either answer was confirmed after the read came in.
        """
        state = self._state
        for context, asked_at in self._asked.items():
            if asked_at <= now - PATIENCE_HEARTBEATS * state.config.heartbeat_seconds:
                self._asked[context] = now
                state.messages.append(ReadRequest(state.id, state.leader, state.term, context))

    def answered(self, reply: ReadReply) -> None:
        """The leader's answer; a repeated one, or one not asked for, changes nothing."""
        if reply.context in self._asked:
            del self._asked[reply.context]
            self._confirmed(reply.context, reply.index)

    def told(self, context: bytes, index: Index) -> None:
        """A heartbeat brings the answer to a patient question."""
        if context == self.patient:
            self.patient = b""
            self._confirmed(context, index)

    def _confirmed(self, context: bytes, index: Index) -> None:
        """The index is committed at the leader of this term, and as far as our log is known to be
        equal to its, it is so here too: a read need not wait until a heartbeat says it again."""
        state = self._state
        state.reads.append(ReadState(context, index))
        if state.agreed.term == state.term and state.installing is None:
            state.commit_to(min(index, state.agreed.index, state.log.last.index))

    def refuse_all(self) -> None:
        """The leader is gone or another: the answers will not come."""
        for context in (*self._asked, *([self.patient] if self.patient else ())):
            self._state.reads.append(ReadState(context, Index(0)))
        self._asked, self.patient = {}, b""


def answer(state: State, read: Read, index: Index) -> None:
    """Tell whoever asked; index 0 refuses."""
    if read.origin == state.id:
        state.reads.append(ReadState(read.context, index))
    else:
        reply = ReadReply(state.id, read.origin, state.term, read.context, index)
        state.messages.append(reply)
