"""Messages, members and metas: there and back, and whatever else a peer or a disk may send."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.codec import (
    NUMBER_MAX,
    decode_membership,
    decode_message,
    decode_snapshot_meta,
    encode_membership,
    encode_message,
    encode_snapshot_meta,
)
from raft.errors import BadMessage
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
from raft.types import Entry, EntryKind, Index, ReplicaId, Term
from tests.support.builders import N1, N2, entries, id_of, membership, snapshot

JOINT = membership(2, 3, 4, outgoing=(1, 2, 3), learners=(5,), promote=(5,), leaving=(2,))
T3 = Term(3)
MESSAGES: list[AnyMessage] = [
    RequestVote(N1, N2, T3, id_of(7, 2), True, True),
    VoteReply(N1, N2, T3, True, True),
    AppendEntries(N1, N2, T3, id_of(4, 1), entries("1 2 3", after=4), Index(5)),
    AppendEntries(N1, N2, T3, id_of(0, 0)),
    AppendReply(N1, N2, T3, Index(7)),
    AppendReply(N1, N2, T3, Index(0), Index(9), id_of(5, 2)),
    Heartbeat(N1, N2, T3, Index(4), 9),
    HeartbeatReply(N1, N2, T3, 9, Index(7)),
    InstallSnapshot(N1, N2, T3, snapshot(9, 2, JOINT)),
    TimeoutNow(N1, N2, T3),
    ReadRequest(N1, N2, T3, b"boot/1"),
    ReadReply(N1, N2, T3, b"boot/1", Index(7)),
]


def there_and_back(value: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(value))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: AnyMessage) -> None:
    decoded = decode_message(there_and_back(encode_message(message)))

    assert decoded == message
    assert type(decoded) is type(message)


def test_every_kind_of_message_is_tried() -> None:
    """A kind added to the union without a row here would escape the tests below."""
    assert {type(message) for message in MESSAGES} == set(AnyMessage.__args__)


def test_a_membership_comes_back_as_it_was() -> None:
    assert decode_membership(encode_membership(JOINT)) == JOINT
    meta = snapshot(9, 2, JOINT)
    assert decode_snapshot_meta(there_and_back(encode_snapshot_meta(meta))) == meta


def test_entry_bytes_are_shipped_untouched() -> None:
    """No copy, no second encoding: the very object that was proposed."""
    data = b"x" * 1000
    sent = Entry(Index(5), T3, EntryKind.COMMAND, data)

    encoded = encode_message(AppendEntries(N1, N2, T3, id_of(4, 1), (sent,)))

    assert any(field is data for field in encoded[-1])


HOSTILE: list[Any] = [
    None, True, -1, NUMBER_MAX, 2**64 - 1, 1.5, float("nan"), "1", b"1", [], [1], {}, {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_field_out_of_type_or_range_is_refused_or_harmless(message: AnyMessage) -> None:
    """Every field of every kind, replaced by everything: BadMessage, or a value in range."""
    fields = there_and_back(encode_message(message))
    for place in range(len(fields)):
        for hostile in HOSTILE:
            changed = [*fields[:place], hostile, *fields[place + 1 :]]
            try:
                decoded = decode_message(changed)
            except BadMessage:
                continue
            plausible(decoded)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_field_too_few_or_too_many_is_refused(message: AnyMessage) -> None:
    fields = there_and_back(encode_message(message))

    for changed in (fields[:-1], [*fields, 0], fields[:3], []):
        with pytest.raises(BadMessage):
            decode_message(changed)


@pytest.mark.parametrize(
    ("flat", "says"),
    [
        pytest.param([1, 1, b"", 2], "malformed entries", id="not whole triples"),
        pytest.param([4, 1, b""], "term out of order", id="a term above the leader's"),
        pytest.param([0, 1, b""], "term out of order", id="term 0"),
        pytest.param([2, 1, b"", 1, 1, b""], "term out of order", id="terms that fall"),
        pytest.param([1, 9, b""], "malformed", id="an unknown kind of entry"),
        pytest.param([1, 1, "text"], "malformed", id="data that are no bytes"),
        pytest.param([1, 2, b"\xc1"], "not a membership", id="a damaged membership"),
    ],
)
def test_entries_that_no_leader_sends_are_refused(flat: list[Any], says: str) -> None:
    with pytest.raises(BadMessage, match=says):
        decode_message([1, 3, 1, 2, 3, 4, 1, 0, flat])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([2, [], [], [], [], [], 1], id="another format"),
        pytest.param([1, [[1, "n", "a"]], [], [], [], [], 1], id="an id that was never given"),
        pytest.param([1, [[0, "n", "a"]], [], [], [], [], 1], id="nobody as a member"),
        pytest.param([1, [[2, "n", "a"], [1, "m", "b"]], [], [], [], [], 3], id="out of order"),
        pytest.param([1, [[1, "n", "a"]] * 2, [], [], [], [], 3], id="a member twice"),
        pytest.param([1, [[1, "n", "a"]], [], [[1, "n", "a"]], [], [], 3], id="learner and voter"),
        pytest.param([1, [[1, "n" * 300, "a"]], [], [], [], [], 3], id="a name too long"),
        pytest.param([1, [[n, "n", "a"] for n in range(1, 30)], [], [], [], [], 99], id="too many"),
    ],
)
def test_memberships_that_cannot_be_are_refused(fields: list[Any]) -> None:
    with pytest.raises(BadMessage):
        decode_membership(msgpack.packb(fields))


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5),
    st.binary(max_size=5),
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 12), st.lists(anything, max_size=7))
def test_random_arrays_decode_to_a_plausible_message_or_bad_message(
    kind: int, rest: list[Any]
) -> None:
    try:
        decoded = decode_message([1, kind, 1, 2, *rest])
    except BadMessage:
        return
    plausible(decoded)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_no_membership_or_a_whole_one(data: bytes) -> None:
    """Lengths that claim gigabytes are refused before anything is allocated."""
    try:
        decoded = decode_membership(data)
    except BadMessage:
        return
    assert decode_membership(encode_membership(decoded)) == decoded


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_byte_never_gets_past_the_checks(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(MESSAGES))
    packed = bytearray(msgpack.packb(encode_message(message)))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        fields = msgpack.unpackb(bytes(packed))
    except (ValueError, msgpack.UnpackException):
        return
    try:
        decoded = decode_message(fields)
    except BadMessage:
        return
    plausible(decoded)


def test_a_claimed_length_allocates_nothing() -> None:
    """An array header of 2**32 - 1 elements in a five-byte message."""
    with pytest.raises(BadMessage):
        decode_membership(b"\xdd\xff\xff\xff\xff")
    with pytest.raises(BadMessage):
        decode_membership(b"\xc6\xff\xff\xff\xff")


def plausible(message: AnyMessage) -> None:
    """In range, of the right types, and it encodes to the same bytes again."""
    assert 0 < message.source < NUMBER_MAX and 0 < message.target < NUMBER_MAX
    assert type(message.term) is int and 0 <= message.term < NUMBER_MAX
    for field in message:
        assert type(field) in (int, bool, bytes, tuple) or isinstance(field, tuple)
    if isinstance(message, AppendEntries):
        terms = [message.prev.term, *(entry.term for entry in message.entries), message.term]
        assert terms == sorted(terms)
    assert decode_message(there_and_back(encode_message(message))) == message


def test_ids_are_checked_before_the_kind_is_believed() -> None:
    with pytest.raises(BadMessage, match="nobody"):
        decode_message([1, 8, 0, 2, 3])
    with pytest.raises(BadMessage, match="unknown kind"):
        decode_message([1, 99, 1, 2, 3])
    with pytest.raises(BadMessage, match="format 7"):
        decode_message([7, 8, 1, 2, 3])
    assert decode_message([1, 8, 1, 2, 3]) == TimeoutNow(ReplicaId(1), ReplicaId(2), T3)
