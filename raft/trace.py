"""One line of text for each effect: what golden traces hold and what debug logs print.

    sync  1: term=1 vote=1 entries=[1/1]
    send  1->2 AppendEntries term=1 prev=0/0 entries=[1/1] commit=0
    role  1: leader term=1

A line shows places and numbers, never a command's bytes. The format is read by people and compared
by `tests/raft/test_traces.py`; nothing parses it.
"""

from collections.abc import Iterator, Sequence
from typing import Final, assert_never

from raft.core import Raft
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
from raft.ready import Ready
from raft.types import NOBODY, Entry, EntryId, Member, Membership, ReplicaId, SnapshotMeta

ENTRIES_SHOWN_MAX: Final = 8


def ready_lines(replica: ReplicaId, ready: Ready) -> Iterator[str]:
    """What a `Ready` asks for, in its order."""
    for early in ready.early:
        yield message_line(early)
    if ready.must_save:
        yield f"sync  {replica}: {_saved(ready)}"
    for message in ready.messages:
        yield message_line(message)
    if ready.committed:
        yield f"apply {replica}: {entries_text(ready.committed)}"
    for read in ready.reads:
        outcome = f"index={read.index}" if read.index else "refused"
        yield f"read  {replica}: {context_text(read.context)} {outcome}"
    for follower in ready.send_snapshot:
        yield f"snap  {replica}->{follower}"


def role_line(core: Raft) -> str:
    """Who this replica is now."""
    leader = "" if core.leader in (NOBODY, core.id) else f" leader={core.leader}"
    return f"role  {core.id}: {core.role.value} term={core.term}{leader}"


def message_line(message: AnyMessage) -> str:
    """A message on its way."""
    return f"send  {message.source}->{message.target} {message_text(message)}"


def message_text(message: AnyMessage) -> str:
    """What a message says, without its way."""
    match message:
        case RequestVote(_, _, term, last, pre, transfer):
            kind = "RequestPreVote" if pre else "RequestVote"
            return f"{kind} term={term} last={id_text(last)}" + " transfer" * transfer
        case VoteReply(_, _, term, granted, pre):
            kind = "PreVoteReply" if pre else "VoteReply"
            return f"{kind} term={term} {'granted' if granted else 'refused'}"
        case AppendEntries(_, _, term, prev, entries, commit):
            shown = entries_text(entries)
            return f"AppendEntries term={term} prev={id_text(prev)} entries={shown} commit={commit}"
        case AppendReply(_, _, term, match_, rejected, hint):
            if rejected:
                return f"AppendReply term={term} rejected={rejected} hint={id_text(hint)}"
            return f"AppendReply term={term} match={match_}"
        case Heartbeat(_, _, term, commit, token, asks, told, at):
            answer = f" told={context_text(told)} at={at}" if told else ""
            return f"Heartbeat term={term} commit={commit} token={token}" + " asks" * asks + answer
        case HeartbeatReply(_, _, term, token, last, asked, question):
            asking = f" question={context_text(question)}" if question else ""
            beat = f"HeartbeatReply term={term} token={token} last={last}"
            return beat + " asked" * asked + asking
        case InstallSnapshot(_, _, term, snapshot):
            return f"InstallSnapshot term={term} {snapshot_text(snapshot)}"
        case TimeoutNow(_, _, term):
            return f"TimeoutNow term={term}"
        case ReadRequest(_, _, term, context):
            return f"ReadRequest term={term} {context_text(context)}"
        case ReadReply(_, _, term, context, index):
            return f"ReadReply term={term} {context_text(context)} index={index}"
        case _:
            assert_never(message)


def id_text(entry: EntryId) -> str:
    """`index/term`."""
    return f"{entry.index}/{entry.term}"


def entries_text(entries: Sequence[Entry]) -> str:
    """`[1/1 2/1]`; a long row shows its ends and how many there are."""
    if len(entries) > ENTRIES_SHOWN_MAX:
        return f"[{id_text(entries[0].id)} .. {id_text(entries[-1].id)} ({len(entries)})]"
    return f"[{' '.join(id_text(entry.id) for entry in entries)}]"


def snapshot_text(snapshot: SnapshotMeta) -> str:
    """Where a snapshot ends and who the members are there."""
    return f"last={id_text(snapshot.last)} {membership_text(snapshot.membership)}"


def membership_text(membership: Membership) -> str:
    """`voters=(1 2 3)`, and what else is under way."""
    parts = [f"voters={_ids(membership.voters)}"]
    if membership.outgoing:
        parts.append(f"outgoing={_ids(membership.outgoing)}")
    if membership.learners:
        parts.append(f"learners={_ids(membership.learners)}")
    if membership.promote:
        parts.append(f"promote=({' '.join(map(str, membership.promote))})")
    if membership.leaving:
        parts.append(f"leaving=({' '.join(map(str, membership.leaving))})")
    return " ".join(parts)


def context_text(context: bytes) -> str:
    """A read's context in hexadecimal digits."""
    return f"context={context.hex()}"


def _ids(members: Sequence[Member]) -> str:
    return f"({' '.join(str(member.id) for member in members)})"


def _saved(ready: Ready) -> str:
    parts = []
    if ready.hard_state is not None:
        parts.append(f"term={ready.hard_state.term} vote={ready.hard_state.vote}")
    if ready.snapshot is not None:
        parts.append(f"snapshot {snapshot_text(ready.snapshot)}")
    if ready.entries:
        parts.append(f"entries={entries_text(ready.entries)}")
    return " ".join(parts)
