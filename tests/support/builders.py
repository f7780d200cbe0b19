"""Small cores in a chosen state, and what they say, in few words.

`log_of("1 1 2")` is a log of three entries with these terms; `core(...)` a replica; `effects(core)`
plays a driver whose disk is instant. Tests compare whole outputs.
"""

from collections.abc import Sequence
from random import Random

from raft.config import Mode, RaftConfig
from raft.core import Raft
from raft.log import Log
from raft.messages import AnyMessage, AppendReply, HeartbeatReply, VoteReply
from raft.ready import Ready
from raft.types import (
    NOBODY,
    ZERO,
    Entry,
    EntryId,
    EntryKind,
    HardState,
    Index,
    Member,
    Membership,
    NodeId,
    ReplicaId,
    Role,
    SnapshotMeta,
    Term,
)

N1, N2, N3, N4, N5 = (ReplicaId(n) for n in range(1, 6))
PRODUCTION = RaftConfig()
LAB = RaftConfig(mode=Mode.LAB)
NOW = 100.0  # a time at which nothing is due, unless a test says so


def member(replica: int) -> Member:
    return Member(ReplicaId(replica), NodeId(f"n{replica}"), f"n{replica}:1")


def members(*replicas: int) -> tuple[Member, ...]:
    return tuple(member(replica) for replica in replicas)


def membership(
    *voters: int,
    outgoing: Sequence[int] = (),
    learners: Sequence[int] = (),
    promote: Sequence[int] = (),
    leaving: Sequence[int] = (),
) -> Membership:
    return Membership(
        voters=members(*voters),
        outgoing=members(*outgoing),
        learners=members(*learners),
        promote=tuple(map(ReplicaId, promote)),
        leaving=tuple(map(ReplicaId, leaving)),
        next_id=ReplicaId(max((*voters, *outgoing, *learners), default=0) + 1),
    )


def id_of(index: int, term: int) -> EntryId:
    return EntryId(Index(index), Term(term))


def entry(index: int, term: int, data: bytes | None = None) -> Entry:
    content = b"%d/%d" % (index, term) if data is None else data
    return Entry(Index(index), Term(term), EntryKind.COMMAND, content)


def empty(index: int, term: int) -> Entry:
    return Entry(Index(index), Term(term), EntryKind.EMPTY, b"")


def entries(terms: str, after: int = 0) -> tuple[Entry, ...]:
    """`entries("1 1 2")`: entries 1, 2 and 3 of these terms."""
    return tuple(entry(after + k, int(term)) for k, term in enumerate(terms.split(), 1))


def snapshot(index: int, term: int, at: Membership) -> SnapshotMeta:
    return SnapshotMeta(id_of(index, term), at)


def log_of(
    terms: str,
    start: SnapshotMeta | None = None,
    *,
    at: Membership | None = None,
    cache_bytes_max: int = 1 << 20,
) -> Log:
    """A durable log; what leaves its cache is read back from a list that stands for a disk."""
    if start is None:
        start = SnapshotMeta(ZERO, at if at is not None else membership(1, 2, 3))
    held = entries(terms, after=start.last.index)

    def read(lo: Index, hi: Index, bytes_max: int) -> tuple[Entry, ...]:
        return tuple(e for e in held if lo <= e.index < hi)

    log = Log(start, read, cache_bytes_max)
    log.restore(held)
    return log


def core(
    replica: int = 1,
    terms: str = "",
    *,
    term: int | None = None,
    vote: int = NOBODY,
    voters: Membership | None = None,
    config: RaftConfig = PRODUCTION,
    log: Log | None = None,
    applied: int = 0,
    seed: int = 0,
) -> Raft:
    """A replica that was just started: a follower (Raft (extended), section 5.2)."""
    held = log if log is not None else log_of(terms, at=voters)
    at_term = term if term is not None else held.last.term
    return Raft(
        config,
        id=ReplicaId(replica),
        log=held,
        hard_state=HardState(Term(at_term), ReplicaId(vote)),
        applied=Index(max(applied, held.start.last.index)),
        rng=Random(f"{seed}/{replica}"),
        now=NOW,
    )


def effects(replica: Raft, now: float = NOW) -> Ready:
    """Carry out everything with an instant disk and machine, and return all of it as one value.

    Messages to oneself are delivered and left out.
    """
    early, entries_, messages, committed = [], [], [], []
    reads, send_snapshot = [], []
    hard_state, installed = None, None
    while ready := replica.ready():
        early += ready.early
        hard_state = ready.hard_state or hard_state
        installed = ready.snapshot or installed
        entries_ += ready.entries
        committed += ready.committed
        reads += ready.reads
        send_snapshot += ready.send_snapshot
        if ready.snapshot is not None:
            replica.persisted(*ready.snapshot.last)
        if ready.entries:
            replica.persisted(*ready.entries[-1].id)
        for message in ready.messages:
            if message.target == replica.id:
                replica.step(message, now)
            else:
                messages.append(message)
        if ready.committed:
            replica.applied_to(ready.committed[-1].index)
    return Ready(
        early=tuple(early),
        hard_state=hard_state,
        snapshot=installed,
        entries=tuple(entries_),
        messages=tuple(messages),
        committed=tuple(committed),
        reads=tuple(reads),
        send_snapshot=tuple(send_snapshot),
    )


def said(replica: Raft, now: float = NOW) -> list[AnyMessage]:
    """What it sends, once its disk has done its work."""
    done = effects(replica, now)
    return [*done.early, *done.messages]


def campaign(replica: Raft, now: float = NOW + 10) -> None:
    """Let it win the right to campaign and send its requests, its own vote counted."""
    replica.timeout(max(now, replica.deadline))
    effects(replica, now)
    if replica.role is Role.PRE_CANDIDATE:
        for voter in _others(replica):
            grant = VoteReply(voter, replica.id, Term(replica.term + 1), True, pre=True)
            if replica.role is Role.PRE_CANDIDATE:
                replica.step(grant, now)
        effects(replica, now)


def elect(replica: Raft, now: float = NOW + 10) -> Ready:
    """Make it the leader of the next term, with every vote; what it did when it had won."""
    campaign(replica, now)
    for voter in _others(replica):
        if replica.role is Role.CANDIDATE:
            replica.step(VoteReply(voter, replica.id, replica.term, True), now)
    assert replica.role is Role.LEADER
    return effects(replica, now)


def settle(replica: Raft, now: float = NOW + 10) -> Ready:
    """Every follower acknowledges all that its leader has; what the leader did then."""
    for follower in list(replica.progress):
        replica.step(AppendReply(follower, replica.id, replica.term, replica.log.last.index), now)
    return effects(replica, now)


def leader(
    replica: int = 1,
    terms: str = "",
    *,
    voters: Membership | None = None,
    config: RaftConfig = PRODUCTION,
    settled: bool = True,
    now: float = NOW + 10,
) -> Raft:
    """The leader of the term after its log's; with `settled` everybody holds its log."""
    made = core(replica, terms, voters=voters, config=config)
    elect(made, now)
    if settled:
        settle(made, now)
    return made


def ack(source: int, to: Raft, match: int) -> AppendReply:
    return AppendReply(ReplicaId(source), to.id, to.term, Index(match))


def beat_reply(source: int, to: Raft, token: int, last: int) -> HeartbeatReply:
    return HeartbeatReply(ReplicaId(source), to.id, to.term, token, Index(last))


def _others(replica: Raft) -> list[ReplicaId]:
    at = replica.membership
    everyone = sorted({m.id for m in (*at.voters, *at.outgoing)})
    return [voter for voter in everyone if voter != replica.id]
