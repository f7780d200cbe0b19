"""Frames between nodes: who sends, then the parcels of all groups. A checksum, and msgpack arrays:

    CRC-32 of what follows, 4 bytes, big-endian
    [format, cluster id, sender's node id, sender's address, whether its disk has room,
     [[gid, uuid, kind, content], ...]]

A message with traced entries has a fifth field, `[[index, traceparent], ...]` (`raft/tracing.py`).

TCP's own checksum is weak, and much of what damages bytes sits behind it (a proxy, a bad memory): a
flipped bit in a term or an index is a lie that no other check would notice. A damaged frame, one
of another cluster, another format or of a shape that does not fit raises `BadMessage`: the receiver
counts it and drops it, as if it were lost. Nothing here is ever unpickled.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack

from raft.codec import (
    BEAT_FIELDS,
    decode_beat,
    decode_message,
    decode_snapshot_meta,
    encode_message,
    encode_snapshot_meta,
)
from raft.errors import BadMessage
from raft.parcel import Parcel
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.tracing import CONTEXT_CHARACTERS_MAX, TRACES_MAX, Traces
from raft.types import GroupId, GroupUuid, Index, NodeId, ReplicaId, Term

FORMAT: Final = 1
CHECKSUM_BYTES: Final = 4
COPIED_BYTES_MAX: Final = 4096
DAMAGED: Final = "a frame that was damaged on its way"
MESSAGE, CHUNK, CHUNK_REPLY = 0, 1, 2
NUMBER_MAX: Final = 2**63 - 1


class Frame(NamedTuple):
    """What one channel frame said."""

    node: NodeId
    address: str
    parcels: list[Parcel]
    roomy: bool = True
    """Whether the sender's disk has room for what clients write."""


class FrameCodec:
    """Packs and unpacks the frames of one node.

    Args:
        cluster: The cluster's id, 16 bytes; frames of any other are refused.
        node: This node's id.
        address: Where this node's peers dial it.
    """

    def __init__(self, cluster: bytes, node: NodeId, address: str) -> None:
        self._cluster, self._node, self._address = cluster, node, address
        self._packer = msgpack.Packer(use_bin_type=True)
        self.roomy: Callable[[], bool] = lambda: True
        """Whether this node's disk has room for what clients write: each frame says so."""
        self.frames_packed = self.parcels_packed = 0

    def pack(self, parcels: list[Parcel]) -> bytes:
        self.frames_packed += 1
        self.parcels_packed += len(parcels)
        items = [_encode(parcel) for parcel in parcels]
        packed: bytes = self._packer.pack(
            (FORMAT, self._cluster, self._node, self._address, self.roomy(), items)
        )
        return crc32(packed).to_bytes(CHECKSUM_BYTES, "big") + packed

    def unpack(self, data: bytes) -> Frame:
        """Decode a frame.

        Raises:
            BadMessage: the frame is damaged, malformed, of another format or another cluster.
        """
        short = len(data) <= COPIED_BYTES_MAX  # then a copy costs less than a view
        packed = (data if short else memoryview(data))[CHECKSUM_BYTES:]
        if crc32(packed).to_bytes(CHECKSUM_BYTES, "big") != data[:CHECKSUM_BYTES]:
            raise BadMessage(DAMAGED)
        try:
            fields = msgpack.unpackb(packed, use_list=True, strict_map_key=True)
        except (ValueError, msgpack.UnpackException) as error:
            raise BadMessage(f"not a frame: {type(error).__name__}") from error
        if not isinstance(fields, list) or len(fields) != 6 or fields[0] != FORMAT:
            raise BadMessage(f"not a frame of format {FORMAT}")
        _, cluster, node, address, roomy, items = fields
        if cluster != self._cluster:
            raise BadMessage("frame of another cluster")
        if not (
            isinstance(node, str)
            and isinstance(address, str)
            and type(roomy) is bool
            and isinstance(items, list)
        ):
            raise BadMessage("frame with a malformed sender")
        return Frame(NodeId(node), address, [_decode(item) for item in items], roomy)


def _encode(parcel: Parcel) -> tuple[Any, ...]:
    gid, uuid, content, traces = parcel
    if isinstance(content, SnapshotChunk):
        fields: Any = (*content[:5], encode_snapshot_meta(content.meta), content.data, content.done)
        return (gid, uuid, CHUNK, fields)
    if isinstance(content, ChunkReply):
        return (gid, uuid, CHUNK_REPLY, tuple(content))
    if traces:
        return (gid, uuid, MESSAGE, encode_message(content), traces)
    return (gid, uuid, MESSAGE, encode_message(content))


def _decode(item: Any) -> Parcel:
    size = len(item) if type(item) is list else 0
    if size == 4:
        gid, uuid, kind, fields = item
    elif size == 5:
        gid, uuid, kind, fields, _ = item
    else:
        raise BadMessage("malformed parcel")
    if type(gid) is not int or not 0 <= gid <= NUMBER_MAX or type(uuid) is not bytes:
        raise BadMessage("malformed parcel header")
    if kind == MESSAGE:
        if size == 4 and type(fields) is list and len(fields) == BEAT_FIELDS:
            beat = decode_beat(fields)
            if beat is not None:  # as nearly always
                return tuple.__new__(Parcel, (gid, uuid, beat, ()))
        traces = _decode_traces(item[4]) if size == 5 else ()
        return Parcel(gid, uuid, decode_message(fields), traces)  # type: ignore[arg-type]
    head = (GroupId(gid), GroupUuid(uuid))
    if kind == CHUNK:
        return Parcel(*head, _decode_chunk(fields))
    if kind == CHUNK_REPLY:
        return Parcel(*head, _decode_chunk_reply(fields))
    raise BadMessage(f"parcel of unknown kind {kind!r:.20}")


def _decode_traces(rows: Any) -> Traces:
    if not isinstance(rows, list) or len(rows) > TRACES_MAX:
        raise BadMessage("malformed traces")
    found = []
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not _is_number(row[0]):
            raise BadMessage("malformed trace")
        if type(row[1]) is not str or len(row[1]) > CONTEXT_CHARACTERS_MAX:
            raise BadMessage("malformed trace")
        found.append((Index(row[0]), row[1]))
    return tuple(found)


def _decode_chunk(fields: Any) -> SnapshotChunk:
    if not isinstance(fields, list) or len(fields) != 8:
        raise BadMessage("malformed snapshot chunk")
    source, target, term, stream, number, meta, data, done = fields
    numbers = (source, target, term, stream, number)
    if not all(map(_is_number, numbers)) or not isinstance(data, bytes) or type(done) is not bool:
        raise BadMessage("malformed snapshot chunk")
    return SnapshotChunk(
        ReplicaId(source), ReplicaId(target), Term(term), stream, number,
        decode_snapshot_meta(meta), data, done,
    )  # fmt: skip


def _decode_chunk_reply(fields: Any) -> ChunkReply:
    if not isinstance(fields, list) or len(fields) != 4:
        raise BadMessage("malformed chunk reply")
    source, target, stream, expects = fields
    if not all(map(_is_number, (source, target, stream))) or type(expects) is not int:
        raise BadMessage("malformed chunk reply")
    return ChunkReply(ReplicaId(source), ReplicaId(target), stream, expects)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= NUMBER_MAX
