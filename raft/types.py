"""The nouns of one Raft group: who, when, where in the log, and who votes.

Indexes count from 1; 0 means "before the first entry". A range of indexes is `[lo, hi)`.
Source of the terms: Raft (extended version), figure 2, and the dissertation, chapters 4 and 6.
"""

from enum import Enum, IntEnum
from typing import Final, NamedTuple, NewType

Term = NewType("Term", int)
Index = NewType("Index", int)
GroupId = NewType("GroupId", int)
"""The number that a configuration calls a group by; 0 is the shard controller."""
GroupUuid = NewType("GroupUuid", bytes)
"""16 random bytes drawn at the group's birth; a gid means one uuid for ever."""
ReplicaId = NewType("ReplicaId", int)
"""A member of one group, from 1; 0 is nobody. Given by the entry that adds it and, once that is
committed, never used again; before that the replica must not be created: the entry may be cut away,
and then the id is given again."""
NodeId = NewType("NodeId", str)
"""A process that hosts replicas, such as `n1`."""

NOBODY: Final = ReplicaId(0)


class EntryId(NamedTuple):
    """Where an entry stands. Two logs that share an `EntryId` share all before it (section 5.3)."""

    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    term: Term

    def is_up_to_date_with(self, other: "EntryId") -> bool:
        """Whether a log ending here may lead one ending at `other`: term first, then length.

        Source: Raft (extended), section 5.4.1.
        """
        return (self.term, self.index) >= (other.term, other.index)


ZERO: Final = EntryId(Index(0), Term(0))


class EntryKind(IntEnum):
    """What an entry's bytes are. The numbers are stored on disk."""

    EMPTY = 0  # a new leader's first entry; commits what earlier terms left behind
    COMMAND = 1  # for the state machine
    MEMBERSHIP = 2  # an encoded `Membership`; in force from the moment it is appended


class Entry(NamedTuple):
    """One entry of the log. `data` is encoded once, where it is proposed, and never decoded by
    a follower that stores it."""

    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    term: Term
    kind: EntryKind
    data: bytes

    @property
    def id(self) -> EntryId:
        return EntryId(self.index, self.term)


class HardState(NamedTuple):
    """What a replica must never forget (figure 2, persistent state)."""

    term: Term = Term(0)
    vote: ReplicaId = NOBODY


class Role(Enum):
    """A replica's part in its term. A learner is a follower that the membership does not count."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Member(NamedTuple):
    """A replica as its group knows it. Node and address say where it runs today."""

    id: ReplicaId
    node: NodeId
    address: str  # where the node's peers dial it: host:port, or a name in the simulator


class Membership(NamedTuple):
    """Who belongs to a group. Frozen; each tuple is sorted by replica id.

    While `outgoing` is not empty the group is in joint consensus: a decision needs a majority of
    `voters` *and* a majority of `outgoing`. `promote` and `leaving` carry an operator's wish
    through the log, so that a new leader carries it on. Source: Raft (extended), section 6;
    dissertation, sections 4.2.1 and 4.3.
    """

    voters: tuple[Member, ...] = ()
    outgoing: tuple[Member, ...] = ()  # the voters before the change; () outside a change
    learners: tuple[Member, ...] = ()  # receive the log, count nowhere
    promote: tuple[ReplicaId, ...] = ()  # learners that become voters once they have caught up
    leaving: tuple[ReplicaId, ...] = ()  # voters that leave in the same joint change
    next_id: ReplicaId = ReplicaId(1)  # the id that the next added replica gets; it never falls


class SnapshotMeta(NamedTuple):
    """What a snapshot stands for: everything up to `last`, and who the members were there."""

    last: EntryId = ZERO
    membership: Membership = Membership()
