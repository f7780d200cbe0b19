"""What can go wrong in consensus. Callers branch on the policy (`retriable`), not on names.

RaftError
├── NotLeader           ask the leader that the error names; nothing was proposed
├── Unavailable         no leader, or none that could be confirmed in time; nothing was proposed
├── OutcomeUnknown      proposed, and whether it will be applied cannot be known here
├── Overloaded          too much is uncommitted, or for too long; nothing was proposed
├── MembershipRefused   a change of members that would not be safe, or makes no sense
│   └── MembershipBusy  not now: another change comes first
├── TransferRefused     the leadership cannot be handed to that replica
├── ReplicaStopped      this replica broke an invariant (or was closed) and fell silent
├── Compacted           the entry is in a snapshot, no longer in the log
├── BadMessage          bytes of a peer that are not a message
├── BadChunk            bytes of a snapshot that do not fit
├── StopReplica         the state machine met what it must not guess about
├── DataUnusable        what the disk holds is damaged, cut, another's or newer: refuse to start
├── DataInUse           another process (or another handle of this one) has the directory open
└── StorageFailed       a write, sync or read failed: the handle is dead and the process ends
"""

from raft.types import Index, Member


class RaftError(Exception):
    """Base of everything that `raft` raises on purpose."""

    retriable = False


class NotLeader(RaftError):
    """Only the leader can do this. `leader` is who that probably is, None if unknown."""

    retriable = True

    def __init__(self, leader: Member | None = None) -> None:
        super().__init__(f"not the leader; try {leader.node}" if leader else "not the leader")
        self.leader = leader


class Unavailable(RaftError):
    """No leader could be confirmed; nothing was done."""

    retriable = True


class OutcomeUnknown(RaftError):
    """The command was proposed and may yet be applied; repeat it only within a session."""

    retriable = True


class Overloaded(RaftError):
    """More than the allowed bytes wait, or something waits for too long; try again later."""

    retriable = True


class MembershipRefused(RaftError):
    """The change of members has no effect: the message says which rule forbids it."""


class MembershipBusy(MembershipRefused):
    """Another change, or a new leader's first entry, comes first: look again, then try again."""

    retriable = True


class TransferRefused(RaftError):
    """The leadership stays where it is: the message says why."""


class ReplicaStopped(RaftError):
    """The replica fell silent; the message says why."""

    retriable = True


class Compacted(RaftError):
    """The log no longer holds this index: it lies in a snapshot.

    An error, never a term 0 that would match another 0 (etcd-io/raft 76f1249).
    """

    def __init__(self, index: Index, first: Index) -> None:
        super().__init__(f"index {index} is compacted; the log starts at {first}")
        self.index, self.first = index, first


class BadMessage(RaftError):
    """A peer's bytes do not decode to a plausible message: counted and dropped."""


class BadChunk(RaftError):
    """A piece of a snapshot is damaged, out of order or of another snapshot."""


class StopReplica(RaftError):
    """A committed command that this version cannot apply; guessing would split the replicas."""


class DataUnusable(RaftError):
    """This node's data or identity cannot be used: the process exits with status 4.

    The message names the file or record, what is wrong with it, and what to do.
    """


class DataInUse(RaftError):
    """The directory is open already; the process exits with status 5 and touches nothing."""


class StorageFailed(RaftError):
    """A write, a sync or a checked read failed; nothing on this handle may be tried again.

    In production nobody sees it: the process has ended with status 4 before it is raised. After a
    failed fsync the page cache lies (ATC'20), and LevelDB goes on after a failed append with a
    hole in its log (measured: 50 of 50 later writes, acknowledged, were gone at the next start).
    """
