"""Messages, members and snapshot metas as msgpack-able arrays, and back.

A message is `(FORMAT, kind, source, target, term, fields of the kind ...)`; entries travel flat, as
`term, kind, data` triples after the index of the first, so that a batch costs little and each
entry's `data` is shipped untouched. Decoding checks every type and range: whatever a peer or a disk
sends, the result is a plausible value or `BadMessage`, and nothing is allocated by a length that
was merely claimed.
"""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any, Final

import msgpack

from raft.errors import BadMessage
from raft.membership import ADDRESS_CHARACTERS_MAX, LEARNERS_MAX, VOTERS_MAX
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
from raft.types import (
    Entry,
    EntryId,
    EntryKind,
    Index,
    Member,
    Membership,
    NodeId,
    ReplicaId,
    SnapshotMeta,
    Term,
)

FORMAT: Final = 1
NUMBER_MAX: Final = 2**56
"""Terms, indexes, ids and tokens stay below it: room for 2 million a second over 1,000 years, and
sums of them stay within 64 bits."""
CONTEXT_BYTES_MAX: Final = 64
PLACES_MAX: Final = VOTERS_MAX + LEARNERS_MAX
BEAT_NUMBERS: Final = 6
"""Of a heartbeat, and of its answer, that brings no patient question or answer."""
BEAT_FIELDS: Final = 2 + BEAT_NUMBERS
HEARTBEAT, HEARTBEAT_REPLY = 5, 6

_KINDS: Final[dict[int, EntryKind]] = {int(kind): kind for kind in EntryKind}


# Values


def encode_membership(membership: Membership) -> bytes:
    """The data of a MEMBERSHIP entry."""
    packed: bytes = msgpack.packb((FORMAT, *_membership_fields(membership)))
    return packed


def decode_membership(data: bytes) -> Membership:
    """Raises: BadMessage."""
    try:
        fields = msgpack.unpackb(data, max_array_len=PLACES_MAX)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadMessage(f"not a membership: {type(error).__name__}") from error
    _, *rest = _array(fields, 7, "membership")
    if fields[0] != FORMAT:
        raise BadMessage(f"membership of format {fields[0]!r:.20}")
    return _membership(rest)


def encode_snapshot_meta(meta: SnapshotMeta) -> tuple[Any, ...]:
    """A msgpack-able array."""
    return (FORMAT, meta.last.index, meta.last.term, _membership_fields(meta.membership))


def decode_snapshot_meta(fields: Any) -> SnapshotMeta:
    """Raises: BadMessage."""
    form, index, term, membership = _array(fields, 4, "snapshot meta")
    if form != FORMAT:
        raise BadMessage(f"snapshot meta of format {form!r:.20}")
    last = _entry_id(index, term)
    return SnapshotMeta(last, _membership(_array(membership, 6, "membership")))


def _membership_fields(membership: Membership) -> tuple[Any, ...]:
    return (
        [tuple(member) for member in membership.voters],
        [tuple(member) for member in membership.outgoing],
        [tuple(member) for member in membership.learners],
        list(membership.promote),
        list(membership.leaving),
        membership.next_id,
    )


def _membership(fields: Sequence[Any]) -> Membership:
    voters, outgoing, learners = (_members(field) for field in fields[:3])
    promote, leaving = (_replicas(field) for field in fields[3:5])
    next_id = _number(fields[5], "next id")
    if any(member.id >= next_id for member in (*voters, *outgoing, *learners)):
        raise BadMessage("a member's id was never given")
    if any(member in voters or member in outgoing for member in learners):
        raise BadMessage("a learner is a voter too")
    return Membership(voters, outgoing, learners, promote, leaving, ReplicaId(next_id))


def _members(fields: Any) -> tuple[Member, ...]:
    if not isinstance(fields, list | tuple) or len(fields) > PLACES_MAX:
        raise BadMessage("malformed members")
    decoded: list[Member] = []
    for field in fields:
        replica, node, address = _array(field, 3, "member")
        if not (isinstance(node, str) and isinstance(address, str)):
            raise BadMessage("malformed member")
        if len(node) > ADDRESS_CHARACTERS_MAX or len(address) > ADDRESS_CHARACTERS_MAX:
            raise BadMessage("a member's node or address is too long")
        decoded.append(Member(_replica(replica), NodeId(node), address))
    _ascending([member.id for member in decoded])
    return tuple(decoded)


def _replicas(fields: Any) -> tuple[ReplicaId, ...]:
    if not isinstance(fields, list | tuple) or len(fields) > PLACES_MAX:
        raise BadMessage("malformed replica ids")
    replicas = tuple(_replica(field) for field in fields)
    _ascending(replicas)
    return replicas


def _ascending(replicas: list[ReplicaId] | tuple[ReplicaId, ...]) -> None:
    if any(a >= b for a, b in pairwise(replicas)):
        raise BadMessage("replica ids are not ascending")


# Messages


def encode_message(message: AnyMessage) -> tuple[Any, ...]:
    """A msgpack-able array; the caller packs many into one frame."""
    match message:
        case AppendEntries(source, target, term, prev, entries, commit):
            flat = list(chain.from_iterable([entry[1:] for entry in entries]))
            return (FORMAT, 3, source, target, term, prev[0], prev[1], commit, flat)
        case AppendReply(source, target, term, match_, rejected, hint):
            return (FORMAT, 4, source, target, term, match_, rejected, hint[0], hint[1])
        case Heartbeat():
            return (FORMAT, HEARTBEAT, *(message if message.told else message[:BEAT_NUMBERS]))
        case HeartbeatReply():
            said = message if message.question else message[:BEAT_NUMBERS]
            return (FORMAT, HEARTBEAT_REPLY, *said)
        case RequestVote(source, target, term, last, pre, transfer):
            return (FORMAT, 1, source, target, term, last[0], last[1], pre, transfer)
        case VoteReply():
            return (FORMAT, 2, *message)
        case InstallSnapshot(source, target, term, snapshot):
            return (FORMAT, 7, source, target, term, encode_snapshot_meta(snapshot))
        case TimeoutNow():
            return (FORMAT, 8, *message)
        case ReadRequest():
            return (FORMAT, 9, *message)
        case ReadReply():
            return (FORMAT, 10, *message)


def decode_message(fields: Any) -> AnyMessage:
    """Raises: BadMessage."""
    if not isinstance(fields, (list, tuple)) or len(fields) < 5:
        raise BadMessage("not a message")
    if len(fields) == BEAT_FIELDS and (beat := decode_beat(fields)) is not None:
        return beat
    form, kind = fields[0], fields[1]
    if type(form) is not int or form != FORMAT:
        raise BadMessage(f"message of format {form!r:.20}")
    decoder = _DECODERS.get(kind) if type(kind) is int else None
    if decoder is None:
        raise BadMessage(f"message of unknown kind {kind!r:.20}")
    source, target, term = fields[2:5]
    for number in (source, target, term):  # as `_number`, without a call for each of the three
        if type(number) is not int or not 0 <= number < NUMBER_MAX:
            raise BadMessage(f"replica id or term out of range: {number!r:.20}")
    if source == 0 or target == 0:
        raise BadMessage("nobody is no replica")
    return decoder(source, target, Term(term), fields[5:])


def _request_vote(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> RequestVote:
    index, last_term, pre, transfer = _array(rest, 4, "vote request")
    last = _entry_id(index, last_term)
    if last.term > term:
        raise BadMessage("a candidate's log is ahead of its term")
    return RequestVote(s, t, term, last, _flag(pre), _flag(transfer))


def _vote_reply(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> VoteReply:
    granted, pre = _array(rest, 2, "vote reply")
    return VoteReply(s, t, term, _flag(granted), _flag(pre))


def _append_entries(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> AppendEntries:
    index, prev_term, commit, flat = _array(rest, 4, "append")
    if _are_numbers(index, prev_term, commit) and (index or not prev_term):
        prev, commit_index = EntryId(index, prev_term), commit
    else:  # which of them is wrong, and why
        prev = _entry_id(index, prev_term)
        commit_index = Index(_number(commit, "commit"))
    if not isinstance(flat, list | tuple) or len(flat) % 3:
        raise BadMessage("malformed entries")
    entries: list[Entry] = []
    at, before = prev.index, prev.term
    triples = iter(flat)
    for entry_term, kind, data in zip(triples, triples, triples, strict=True):
        at = Index(at + 1)
        # Terms never fall along a log and never pass the sender's term.
        if type(entry_term) is not int or not 0 < entry_term <= term or entry_term < before:
            raise BadMessage(f"entry {at} has a term out of order")
        if type(kind) is not int or kind not in _KINDS or type(data) is not bytes:
            raise BadMessage(f"entry {at} is malformed")
        before = Term(entry_term)
        entry_kind = _KINDS[kind]
        if entry_kind is EntryKind.MEMBERSHIP:
            decode_membership(data)  # refused here, so that no log ever holds a damaged one
        entries.append(Entry(at, before, entry_kind, data))
    if before > term or at >= NUMBER_MAX:
        raise BadMessage("entries reach past their leader")
    return AppendEntries(s, t, term, prev, tuple(entries), commit_index)


def _append_reply(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> AppendReply:
    match_, rejected, index, hint_term = _array(rest, 4, "append reply")
    if (
        _are_numbers(match_, rejected, hint_term)
        and type(index) is int
        and 0 <= index < NUMBER_MAX
        and (index or not hint_term)
    ):
        return AppendReply(s, t, term, match_, rejected, EntryId(Index(index), hint_term))
    return AppendReply(  # which of them is wrong, and why
        s,
        t,
        term,
        Index(_number(match_, "match")),
        Index(_number(rejected, "rejected")),
        _entry_id(index, hint_term),
    )


def decode_beat(fields: Sequence[Any]) -> Heartbeat | HeartbeatReply | None:
    """A heartbeat, or the answer to one, of `BEAT_FIELDS` fields. An idle node is sent little else,
    so all are looked at at once, without a call for each. None: it is not one, or not a good one.
    """
    form, kind, source, target, term, one, other, flag = fields
    if not (
        type(form) is type(kind) is type(source) is type(target) is type(term) is int
        and type(one) is type(other) is int
        and type(flag) is bool
        and form == FORMAT
        and 0 < source < NUMBER_MAX
        and 0 < target < NUMBER_MAX
        and 0 <= term < NUMBER_MAX
        and 0 <= one < NUMBER_MAX
        and 0 <= other < NUMBER_MAX
    ):
        return None
    # Made as the tuples that they are: by their own constructors it costs three times as much.
    if kind == HEARTBEAT:
        return tuple.__new__(Heartbeat, (source, target, term, one, other, flag, b"", 0))
    if kind == HEARTBEAT_REPLY:
        return tuple.__new__(HeartbeatReply, (source, target, term, one, other, flag, b""))
    return None


def _heartbeat(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> Heartbeat:
    """One that answers a patient question: `decode_beat` takes the others."""
    commit, token, asks, told, at = _array(rest, 5, "heartbeat")
    commit_index, number = Index(_number(commit, "commit")), _number(token, "token")
    told_at = Index(_number(at, "index"))
    return Heartbeat(s, t, term, commit_index, number, _flag(asks), _context(told), told_at)


def _heartbeat_reply(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> HeartbeatReply:
    """One that asks patiently: `decode_beat` takes the others."""
    token, last, asked, question = _array(rest, 4, "heartbeat reply")
    number, durable = _number(token, "token"), Index(_number(last, "last"))
    return HeartbeatReply(s, t, term, number, durable, _flag(asked), _context(question))


def _install_snapshot(
    s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]
) -> InstallSnapshot:
    (meta,) = _array(rest, 1, "snapshot")
    return InstallSnapshot(s, t, term, decode_snapshot_meta(meta))


def _timeout_now(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> TimeoutNow:
    _array(rest, 0, "hand-over")
    return TimeoutNow(s, t, term)


def _read_request(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> ReadRequest:
    (context,) = _array(rest, 1, "read request")
    return ReadRequest(s, t, term, _context(context))


def _read_reply(s: ReplicaId, t: ReplicaId, term: Term, rest: Sequence[Any]) -> ReadReply:
    context, index = _array(rest, 2, "read reply")
    return ReadReply(s, t, term, _context(context), Index(_number(index, "index")))


_DECODERS: Final[dict[int, Callable[[ReplicaId, ReplicaId, Term, Sequence[Any]], AnyMessage]]] = {
    1: _request_vote,
    2: _vote_reply,
    3: _append_entries,
    4: _append_reply,
    HEARTBEAT: _heartbeat,
    HEARTBEAT_REPLY: _heartbeat_reply,
    7: _install_snapshot,
    8: _timeout_now,
    9: _read_request,
    10: _read_reply,
}


# Fields


def _array(fields: Any, size: int, what: str) -> Sequence[Any]:
    if not isinstance(fields, (list, tuple)) or len(fields) != size:
        raise BadMessage(f"malformed {what}")
    return fields


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < NUMBER_MAX:  # a bool is no number
        raise BadMessage(f"{what} out of range: {value!r:.20}")
    return value


def _are_numbers(one: Any, two: Any, three: Any) -> bool:
    """Three of what `_number` takes, in one look."""
    return (
        type(one) is type(two) is type(three) is int
        and 0 <= one < NUMBER_MAX
        and 0 <= two < NUMBER_MAX
        and 0 <= three < NUMBER_MAX
    )


def _replica(value: Any) -> ReplicaId:
    replica = _number(value, "replica id")
    if replica == 0:
        raise BadMessage("nobody is no replica")
    return ReplicaId(replica)


def _entry_id(index: Any, term: Any) -> EntryId:
    at, in_term = _number(index, "index"), _number(term, "term")
    if at == 0 and in_term != 0:
        raise BadMessage("the place before the first entry has term 0")
    return EntryId(Index(at), Term(in_term))


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise BadMessage("malformed flag")
    return value


def _context(value: Any) -> bytes:
    if type(value) is not bytes or len(value) > CONTEXT_BYTES_MAX:
        raise BadMessage("malformed read context")
    return value
