"""What travels between two replicas of one group."""

from typing import NamedTuple

from raft.messages import AnyMessage
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.tracing import Traces
from raft.types import GroupId, GroupUuid


class Parcel(NamedTuple):
    """Something one replica says to another of its group."""

    gid: GroupId
    uuid: GroupUuid
    content: AnyMessage | SnapshotChunk | ChunkReply
    traces: Traces = ()
