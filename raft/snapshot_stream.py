"""How a snapshot travels: bounded chunks beside the core, each acknowledged before the next.

The core only decides *that* a follower needs one (`Ready.send_snapshot`) and takes it once it lies
staged (`InstallSnapshot`). Between the two, the sender and the receiver here move the bytes:

- Every chunk names its stream and its number. The receiver takes the number it expects, answers a
  repeated one again, and gives up the stream on any other: so loss, duplication and reordering of
  frames cost a repeat at worst and never a hole.
- The sender holds one chunk in flight, repeats it after `reply_seconds`, and gives up after
  `REPEATS_MAX` silences; the core then probes and, if need be, starts over.
- A receiver keeps at most one staging; a newer stream replaces it, an older one never.

Source: Raft (extended), section 7 (figure 13), with the acknowledgement of a chunk made explicit.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from raft.ports import Capture, Staging, StateStore
from raft.types import Index, ReplicaId, SnapshotMeta, Term

CHUNK_BYTES_MAX: Final = 256 * 1024
REPEATS_MAX: Final = 5


class SnapshotChunk(NamedTuple):
    """Piece number `number` (from 0) of the stream `stream`; `done` marks the last one."""

    source: ReplicaId
    target: ReplicaId
    term: Term
    stream: int
    number: int
    meta: SnapshotMeta
    data: bytes
    done: bool


class ChunkReply(NamedTuple):
    """`expects` is the next number the receiver wants; -1: it gave the stream up."""

    source: ReplicaId
    target: ReplicaId
    stream: int
    expects: int


class SnapshotReceiver:
    """Stages the chunks of one stream at a time, and never goes back to an older one.

    Streams are ordered by (term, number): a term has one leader, which numbers its streams upwards,
    over restarts too. So a late or repeated first chunk of an old stream ends no newer one.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._stream: tuple[Term, int] = (Term(0), 0)  # the newest that was begun
        self._expects = 0
        self._last = Index(0)  # where the snapshot ends that is being staged
        self._staging: Staging | None = None
        self.staged: SnapshotMeta | None = None  # complete, waits for the core's decision

    def take(self, chunk: SnapshotChunk) -> int:
        """Stage a chunk and return the number expected next, -1 for a stream given up.

        Raises:
            BadChunk: the bytes are damaged; the caller answers -1 after `abort`.
        """
        stream = (chunk.term, chunk.stream)
        if stream != self._stream:
            if chunk.number != 0 or stream < self._stream:
                return -1
            self.abort()
            self._stream, self._staging = stream, self._store.stage(chunk.meta)
            self._last = chunk.meta.last.index
        if chunk.number < self._expects:
            return self._expects
        if chunk.number > self._expects or self._staging is None:
            return -1
        self._staging.add(chunk.data)
        self._expects += 1
        if chunk.done:
            self.staged = chunk.meta
        return self._expects

    def claim(self) -> Staging:
        """Hand the complete staging to its installer; the receiver forgets it."""
        assert self._staging is not None and self.staged is not None
        staging, self._staging, self.staged = self._staging, None, None
        return staging

    def reached(self, applied: Index) -> None:
        """The state has come to `applied` by the log: a stream of no more than that, which its
        sender may have given up long ago, is of no use, and its rows take room on the disk."""
        if self._staging is not None and self.staged is None and self._last <= applied:
            self.abort()

    def abort(self) -> None:
        """Drop what is staged, if anything."""
        staging, self._staging = self._staging, None
        self._expects, self.staged = 0, None
        if staging is not None:
            staging.abort()


class SnapshotSender:
    """Streams one capture to one follower."""

    def __init__(self, reply_seconds: float, chunk_bytes_max: int = CHUNK_BYTES_MAX) -> None:
        self._reply_seconds = reply_seconds
        self._chunk_bytes_max = chunk_bytes_max
        self._reply: asyncio.Future[int] | None = None
        self._number = 0
        self.stream = 0

    async def run(
        self,
        capture: Capture,
        stream: int,
        source: ReplicaId,
        target: ReplicaId,
        term: Term,
        post: Callable[[SnapshotChunk], None],
    ) -> bool:
        """Send every chunk; True once the receiver holds them all. Closes the capture."""
        self.stream = stream
        try:
            chunks = iter(capture.chunks(self._chunk_bytes_max))
            data = next(chunks, None)
            self._number = 0
            while data is not None:
                following = next(chunks, None)
                chunk = SnapshotChunk(
                    source, target, term, stream, self._number, capture.meta, data,
                    done=following is None,
                )  # fmt: skip
                if not await self._deliver(chunk, post):
                    return False
                data = following
                self._number += 1
            return True
        finally:
            capture.close()

    async def _deliver(self, chunk: SnapshotChunk, post: Callable[[SnapshotChunk], None]) -> bool:
        for _ in range(REPEATS_MAX):
            self._reply = asyncio.get_running_loop().create_future()
            post(chunk)
            try:
                # Not `wait_for`: before Python 3.12 it may swallow the cancellation of a stream.
                async with asyncio.timeout(self._reply_seconds):
                    expects = await self._reply
            except TimeoutError:
                continue
            return expects == chunk.number + 1
        return False

    def answered(self, reply: ChunkReply) -> None:
        """Take the receiver's answer; one to an earlier chunk or stream changes nothing."""
        waits = self._reply
        if waits is None or waits.done() or reply.stream != self.stream:
            return
        if reply.expects in (-1, self._number + 1):
            waits.set_result(reply.expects)
