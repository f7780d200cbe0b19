"""What travels between nodes: whole, of this cluster, or counted and dropped."""

from zlib import crc32

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.errors import BadMessage
from raft.frames import CHECKSUM_BYTES, DAMAGED, FrameCodec
from raft.messages import AppendEntries, Heartbeat
from raft.parcel import Parcel
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.types import (
    ZERO,
    Entry,
    EntryKind,
    GroupId,
    GroupUuid,
    Index,
    NodeId,
    ReplicaId,
    SnapshotMeta,
    Term,
)

N1, N2, T1 = ReplicaId(1), ReplicaId(2), Term(1)
CODEC = FrameCodec(b"c" * 16, NodeId("n1"), "here")
ENTRY = Entry(Index(1), T1, EntryKind.COMMAND, b"put it there")
PARCELS = [
    Parcel(GroupId(1), GroupUuid(b"u" * 16), content)
    for content in (
        Heartbeat(N1, N2, T1, token=3),
        AppendEntries(N1, N2, T1, ZERO, (ENTRY,), Index(0)),
        SnapshotChunk(N1, N2, T1, 7, 0, SnapshotMeta(), b"rows", done=True),
        ChunkReply(N1, N2, 7, 1),
    )
]
FRAME = CODEC.pack(PARCELS)


def test_a_frame_says_who_sent_it_and_all_that_was_packed() -> None:
    frame = CODEC.unpack(FRAME)

    assert (frame.node, frame.address, frame.parcels) == ("n1", "here", PARCELS)


def test_a_frame_says_whether_its_sender_has_room_when_it_is_packed() -> None:
    codec = FrameCodec(b"c" * 16, NodeId("n2"), "there")
    assert codec.unpack(codec.pack(PARCELS)).roomy
    codec.roomy = lambda: False

    assert not CODEC.unpack(codec.pack([])).roomy


@pytest.mark.parametrize("at", range(len(FRAME)))
def test_a_flipped_bit_is_noticed_wherever_it_is(at: int) -> None:
    """Fault N12. Without the checksum a term, an index or a value would be another, unnoticed."""
    for bit in range(8):
        damaged = bytearray(FRAME)
        damaged[at] ^= 1 << bit

        with pytest.raises(BadMessage, match=DAMAGED):
            CODEC.unpack(bytes(damaged))


@pytest.mark.parametrize("length", [0, 1, CHECKSUM_BYTES, CHECKSUM_BYTES + 1, len(FRAME) - 1])
def test_a_frame_without_its_end_is_refused(length: int) -> None:
    with pytest.raises(BadMessage):
        CODEC.unpack(FRAME[:length])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_bytes_with_a_right_checksum_are_still_looked_at(data: bytes) -> None:
    with pytest.raises(BadMessage):
        CODEC.unpack(crc32(data).to_bytes(CHECKSUM_BYTES, "big") + data)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([2, b"c" * 16, "n1", "here", True, []], "not a frame of format 1"),
        ([1, b"d" * 16, "n1", "here", True, []], "frame of another cluster"),
        ([1, b"c" * 16, 5, "here", True, []], "malformed sender"),
        ([1, b"c" * 16, "n1", "here", 1, []], "malformed sender"),
        ([1, b"c" * 16, "n1", "here", []], "not a frame of format 1"),
        ([1, b"c" * 16, "n1", "here", True, [[1, b"u", 9, []]]], "unknown kind"),
        ([1, b"c" * 16, "n1", "here", True, [[1, b"u", 2, [2, 1, 5, "all"]]]], "chunk reply"),
        ([1, b"c" * 16, "n1", "here", True, [[1, b"u", 2, [2, True, 5, 1]]]], "chunk reply"),
        ([1, b"c" * 16, "n1", "here", True, [[1, b"u", 2, [2, 1, -5, 1]]]], "chunk reply"),
    ],
)
def test_a_whole_frame_of_something_else_is_told_by_reason(fields: list[object], says: str) -> None:
    packed = msgpack.packb(fields)

    with pytest.raises(BadMessage, match=says):
        CODEC.unpack(crc32(packed).to_bytes(CHECKSUM_BYTES, "big") + packed)
