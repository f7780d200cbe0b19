"""A node's part in a backup: holds the state of a replica still, and gives it out in chunks.

Holding costs disk space (the database keeps what the state needs) and no copy. So a stream that
nobody asks about for `IDLE_SECONDS` is let go, and a node holds `STREAMS_MAX` of them at most.

Why the state is a right one: `open` passes a read barrier first, so it holds every write that was
acknowledged before the call, whichever replica is asked (`ReplicatedStateMachine.read`). What is
applied is committed. State, index and configuration number are read in one step of the loop, from
one snapshot of the database.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Final, Protocol, TypeVar

from labrpc.errors import Refused
from labrpc.transport import Transport
from raft.errors import RaftError
from raft.host import Host
from raft.ports import Capture
from raft.types import GroupId
from shardkv import admin
from shardkv.admin import BadAdmin
from shardkv.backup.protocol import (
    CHUNK_BYTES_MAX,
    CLOSE,
    NEXT,
    OPEN,
    Close,
    Closed,
    Next,
    Open,
    Opened,
    Unsettled,
)

STREAMS_MAX: Final = 128
"""Two for each group that may take part."""
IDLE_SECONDS: Final = 60.0
BARRIER_SECONDS: Final = 2.0

Question = TypeVar("Question", bound=tuple[object, ...])


class Groups(Protocol):
    """What the node runs on its replicas, as a backup sees it."""

    async def read_barrier(self, gid: GroupId) -> None:
        """Return when what is applied holds all that was acknowledged before; a RaftError if that
        cannot be known."""
        ...

    def stands_at(self, gid: GroupId) -> int:
        """The number of the configuration that a group has applied; of the controller, the newest
        one's."""
        ...

    def unsettled(self, gid: GroupId) -> tuple[Unsettled, ...]:
        """The shards that are on their way to this group or away."""
        ...


class _Stream:
    """A held state, and where its reader is."""

    __slots__ = ("capture", "chunk", "chunks", "number", "timer")

    def __init__(self, capture: Capture, timer: asyncio.TimerHandle) -> None:
        self.capture = capture
        self.chunks: Iterator[bytes] = iter(capture.chunks(CHUNK_BYTES_MAX))
        self.number = -1  # of the chunk given last
        self.chunk = b""
        self.timer = timer


class BackupService:
    """Serves the `backup.*` calls of one node.

    Args:
        rng: Draws the numbers of streams, so that one of an earlier life is never met again.
    """

    def __init__(self, host: Host, groups: Groups, rng: Random) -> None:
        self._host = host
        self._groups = groups
        self._rng = rng
        self._streams: dict[int, _Stream] = {}

    @property
    def streams(self) -> int:
        """States that are held now."""
        return len(self._streams)

    def serve(self, transport: Transport) -> None:
        """Answer on a transport."""
        transport.serve(OPEN, _answering(Open, self._open))
        transport.serve(NEXT, _answering(Next, self._next))
        transport.serve(CLOSE, _answering(Close, self._close))

    def close(self) -> None:
        """Let every state go."""
        for number in list(self._streams):
            self._let_go(number)

    async def _open(self, question: Open) -> bytes:
        gid = GroupId(question.gid)
        replica = self._host.replicas.get(gid)
        if replica is None or replica.stopped_because is not None:
            raise Refused("NOT_FOUND", f"this node runs no replica of group {gid}")
        if question.uuid not in (b"", replica.record.uuid):
            raise Refused("FAILED_PRECONDITION", f"group {gid} has another uuid here")
        if len(self._streams) >= STREAMS_MAX:
            raise Refused("RESOURCE_EXHAUSTED", f"{STREAMS_MAX} states are held already")
        try:
            async with asyncio.timeout(BARRIER_SECONDS):
                await self._groups.read_barrier(gid)
        except (RaftError, TimeoutError) as error:
            raise Refused("UNAVAILABLE", f"group {gid}: {error or 'no answer in time'}") from None
        if self._host.replicas.get(gid) is not replica or replica.stopped_because is not None:
            raise Refused("UNAVAILABLE", f"the replica of group {gid} has stopped")
        # From here to the return nothing is awaited: all that is said is of one moment.
        capture = replica.store.capture()
        number = self._rng.getrandbits(62)
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._let_go, number)
        self._streams[number] = _Stream(capture, timer)
        index, term = capture.meta.last
        return admin.encode(
            Opened(
                number,
                self._host.node,
                replica.record.uuid,
                index,
                term,
                replica.core.term,
                self._groups.stands_at(gid),
                self._groups.unsettled(gid),
            )
        )

    async def _next(self, question: Next) -> bytes:
        stream = self._streams.get(question.stream)
        if stream is None:
            raise Refused("NOT_FOUND", "no such stream: it was let go, or the node started again")
        if question.number == stream.number + 1:
            chunk = next(stream.chunks, None)
            if chunk is None:
                raise Refused("OUT_OF_RANGE", "the last chunk was given")
            stream.number, stream.chunk = question.number, chunk
        elif question.number != stream.number:
            raise Refused("FAILED_PRECONDITION", f"chunk {stream.number} was given last")
        stream.timer.cancel()
        stream.timer = asyncio.get_running_loop().call_later(
            IDLE_SECONDS, self._let_go, question.stream
        )
        return stream.chunk

    async def _close(self, question: Close) -> bytes:
        self._let_go(question.stream)
        return admin.encode(Closed())

    def _let_go(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.timer.cancel()
            stream.capture.close()


def _answering(
    kind: type[Question], answer: Callable[[Question], Awaitable[bytes]]
) -> Callable[[bytes], Awaitable[bytes]]:
    async def handler(body: bytes) -> bytes:
        try:
            question = admin.decode(kind, body)
        except BadAdmin as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from None
        return await answer(question)

    return handler
