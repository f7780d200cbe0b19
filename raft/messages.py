"""What replicas of one group say to each other: one frozen union.

NamedTuples, because they are made at every hop. Every message names its sender, its receiver and
the term its sender was in when the step that made it ended (invariant R17).
Source: Raft (extended), figure 2 and section 7; dissertation, sections 3.10, 6.4 and 9.6.
"""

from typing import NamedTuple

from raft.types import Entry, EntryId, Index, ReplicaId, SnapshotMeta, Term


class RequestVote(NamedTuple):
    """A candidate asks for a vote; with `pre` set it only asks whether it would get one.

    A pre-vote carries the term that the candidate *would* enter and changes nothing at the
    receiver. `transfer` marks a campaign that the leader itself ordered: it passes the rule that
    refuses votes while a leader is heard.
    """

    source: ReplicaId
    target: ReplicaId
    term: Term
    last: EntryId
    pre: bool = False
    transfer: bool = False


class VoteReply(NamedTuple):
    source: ReplicaId
    target: ReplicaId
    term: Term
    granted: bool
    pre: bool = False


class AppendEntries(NamedTuple):
    """The leader's log from `prev` on, and how much of it is committed.

    `entries` are contiguous from `prev.index + 1`; none means a probe. `commit` may lie past the
    last entry sent: the receiver clamps it to what this message proves.
    """

    source: ReplicaId
    target: ReplicaId
    term: Term
    prev: EntryId
    entries: tuple[Entry, ...] = ()
    commit: Index = Index(0)


class AppendReply(NamedTuple):
    """Accepted: the log matches the leader's up to `match`, durably. Refused: it does not match at
    `rejected`, and `hint` is the follower's best guess of where it may (conflict-term
    back-tracking: the last entry at or before `rejected` whose term is at most the leader's)."""

    source: ReplicaId
    target: ReplicaId
    term: Term
    match: Index = Index(0)
    rejected: Index = Index(0)  # 0 when accepted; otherwise the `prev.index` that was refused
    hint: EntryId = EntryId(Index(0), Term(0))


class Heartbeat(NamedTuple):
    """The leader lives. `commit` never passes what the target is known to hold; `token` numbers
    the round of read confirmations that an answer belongs to (0: none). `asks`: reads wait for
    the answer; otherwise it may travel with whatever goes that way next, within a heartbeat.
    `told`: the question of an earlier answer that is confirmed, with its read index `told_at`."""

    source: ReplicaId
    target: ReplicaId
    term: Term
    commit: Index = Index(0)
    token: int = 0
    asks: bool = False
    told: bytes = b""
    told_at: Index = Index(0)


class HeartbeatReply(NamedTuple):
    """`last` is the follower's last durable index: a leader that had a higher one acknowledged in
    this term stops counting it (the replica lost data it had promised). `asked` echoes `asks`.
    `question`: a patient one, never used before by its sender; a later heartbeat answers it."""

    source: ReplicaId
    target: ReplicaId
    term: Term
    token: int = 0
    last: Index = Index(0)
    asked: bool = False
    question: bytes = b""


class InstallSnapshot(NamedTuple):
    """A whole snapshot lies staged at the receiver; its driver streamed the bytes beside the core.

    Stepped by the receiver's own driver once the last chunk has come in. Answered by an
    `AppendReply`: match is `snapshot.last.index` once it is durable, or what is already committed.
    """

    source: ReplicaId
    target: ReplicaId
    term: Term
    snapshot: SnapshotMeta


class TimeoutNow(NamedTuple):
    """The leader hands over: campaign at once, without a pre-vote (dissertation, section 3.10)."""

    source: ReplicaId
    target: ReplicaId
    term: Term


class ReadRequest(NamedTuple):
    """A follower asks its leader for a read index. `context` is never reused by its sender."""

    source: ReplicaId
    target: ReplicaId
    term: Term
    context: bytes


class ReadReply(NamedTuple):
    """The read index for `context`; 0 when the leader cannot say (no longer leader)."""

    source: ReplicaId
    target: ReplicaId
    term: Term
    context: bytes
    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody calls


AnyMessage = (
    RequestVote
    | VoteReply
    | AppendEntries
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | InstallSnapshot
    | TimeoutNow
    | ReadRequest
    | ReadReply
)
