"""What a majority says: pure arithmetic, the only place where voters are counted.

In joint consensus there are two electorates and every decision needs both, each counted by itself:
one counter over the union would let the old majority decide alone (async-raft#62).
Source: Raft (extended), sections 5.2, 5.4 and 6.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from raft.types import Membership, ReplicaId


class Verdict(Enum):
    """What an election says so far."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def committed_index(acked: Iterable[int]) -> int:
    """Return the highest number that a majority of voters has acknowledged.

    Args:
        acked: One number a voter, in any order; 0 for a voter not heard from. At least one.

    Returns:
        A number in [0, max(acked)]. The caller judges whether it may commit: only an entry
        of the current term may. Source: Raft (extended), section 5.4.2 and figure 8.
    """
    ordered = sorted(acked, reverse=True)
    return ordered[len(ordered) // 2]  # that many others and this one: a strict majority


def tally(voters: Iterable[ReplicaId], votes: Mapping[ReplicaId, bool]) -> Verdict:
    """Judge an election among `voters`; votes of anybody else do not count."""
    yes = no = size = 0
    for voter in voters:
        size += 1
        vote = votes.get(voter)
        yes += vote is True
        no += vote is False
    majority = size // 2 + 1
    if yes >= majority:
        return Verdict.WON
    return Verdict.LOST if size - no < majority else Verdict.PENDING


class Electorate(NamedTuple):
    """Who is counted: one set of voters, or two while a change of members is under way."""

    voters: tuple[ReplicaId, ...]
    outgoing: tuple[ReplicaId, ...] = ()

    @classmethod
    def of(cls, membership: Membership) -> "Electorate":
        return cls(
            tuple(member.id for member in membership.voters),
            tuple(member.id for member in membership.outgoing),
        )

    def includes(self, replica: ReplicaId) -> bool:
        """Whether this replica is counted at all."""
        return replica in self.voters or replica in self.outgoing

    @property
    def everyone(self) -> tuple[ReplicaId, ...]:
        """Each voter of either set once, in order of ids."""
        return tuple(sorted({*self.voters, *self.outgoing})) if self.outgoing else self.voters

    def committed(self, acked: Callable[[ReplicaId], int]) -> int:
        """The highest number acknowledged by a majority of each set; 0 without any voter."""
        if not self.voters:
            return 0
        agreed = committed_index([acked(voter) for voter in self.voters])
        if self.outgoing:
            agreed = min(agreed, committed_index([acked(voter) for voter in self.outgoing]))
        return agreed

    def tally(self, votes: Mapping[ReplicaId, bool]) -> Verdict:
        """Won with a majority of each set, lost once either cannot be won any more."""
        if not self.voters:
            return Verdict.LOST
        verdicts = {tally(self.voters, votes)}
        if self.outgoing:
            verdicts.add(tally(self.outgoing, votes))
        if Verdict.LOST in verdicts:
            return Verdict.LOST
        return Verdict.PENDING if Verdict.PENDING in verdicts else Verdict.WON

    def agrees(self, holds: Callable[[ReplicaId], bool]) -> bool:
        """Whether `holds` is true for a majority of each set."""
        return self.tally({voter: holds(voter) for voter in self.everyone}) is Verdict.WON
