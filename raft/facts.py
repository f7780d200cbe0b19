"""What may be seen of a core from outside: read-only, and true between any two steps."""

from typing import Final

from raft.config import RaftConfig
from raft.leader import Leader
from raft.log import Log
from raft.membership import members
from raft.progress import Progress
from raft.state import NEVER, State
from raft.types import NOBODY, Index, Membership, ReplicaId, Role, Term


class Facts:
    """The base of `raft.core.Raft`, which alone changes what is shown here."""

    __slots__ = ("_leader", "_state", "id", "log")

    def __init__(self, state: State) -> None:
        self._state = state
        self._leader: Leader | None = None
        # What stays the same as long as the core lives is no property: it is asked for often.
        self.id: Final[ReplicaId] = state.id
        self.log: Final[Log] = state.log
        """To look at; only the core changes it."""

    @property
    def config(self) -> RaftConfig:
        return self._state.config

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def vote(self) -> ReplicaId:
        return self._state.vote

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def leader(self) -> ReplicaId:
        """Who leads this term as far as is known here; NOBODY otherwise."""
        return self._state.leader

    @property
    def commit(self) -> Index:
        return self._state.commit

    @property
    def applied(self) -> Index:
        return self._state.applied

    @property
    def membership(self) -> Membership:
        """In force here: the last in the log, committed or not."""
        return self._state.log.membership

    @property
    def progress(self) -> dict[ReplicaId, Progress]:
        """Of a leader: each follower as it sees it, to look at; empty otherwise."""
        return self._leader.replication.followers if self._leader is not None else {}

    @property
    def lost_replicas(self) -> tuple[ReplicaId, ...]:
        """Of a leader: who lost what it had acknowledged in this term, and counts no more."""
        return tuple(p.id for p in self.progress.values() if p.lost)

    @property
    def uncommitted_bytes(self) -> int:
        """Of a leader: the bytes of its own commands that wait for commit; 0 otherwise."""
        return self._leader.uncommitted_bytes if self._leader is not None else 0

    @property
    def slow_disk_at(self) -> float:
        """When this replica last led and was held up by its own disk alone, in loop seconds; it
        outlives the leadership, so that it is not given back at once."""
        return self._state.slow_disk_at

    @property
    def removed(self) -> bool:
        """Whether it is committed that this replica is no member any more; it never changes
        back, because an id is never used again.

        A membership from before its id was given says nothing of it: a newcomer that is filled
        reads of all who belonged before it, and must not take itself for removed meanwhile.
        """
        state = self._state
        if state.electorate.includes(self.id):
            return False  # as nearly always
        log = state.log
        membership = log.membership
        if log.membership_index > state.commit or self.id >= membership.next_id:
            return False
        return self.id not in members(membership)

    @property
    def transfer_target(self) -> ReplicaId:
        """To whom the leadership is being handed; NOBODY outside a transfer."""
        transfer = self._leader.transfer if self._leader is not None else None
        return transfer.to if transfer is not None else NOBODY

    @property
    def deadline(self) -> float:
        """When `timeout` wants to be called, in loop seconds; infinite when never."""
        if self._leader is not None:
            return self._leader.deadline
        return self._state.election_at if self._state.promotable else NEVER

    def best_successor(self) -> ReplicaId | None:
        """Of a leader: the other voter that is furthest; None otherwise."""
        return self._leader.best_successor() if self._leader is not None else None
