"""Raft messages on the labs' network: a request and its answer are one call.

The production courier sends frames one way and the answers come on the answering node's own
channel. The labs count calls and lose requests and answers separately, so here each request is a
call, and what the replica answers within the call goes back in it. A request carries a number that
its answer repeats. The core does not know of numbers: an answer goes to the oldest request of its
kind that the same peer waits for, which is right as long as every request is answered, and
harmless otherwise, since each answer says by itself what it means.

An answer that nobody waits for (the acknowledgement of an installed snapshot, after the call that
brought its last chunk has ended) is a call of its own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from labrpc.sim.labnet import LabEnd
from raft.frames import FrameCodec
from raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    ReadReply,
    ReadRequest,
    RequestVote,
    VoteReply,
)
from raft.parcel import Parcel
from raft.snapshot_stream import ChunkReply, SnapshotChunk

METHOD: Final = "Raft.Step"
ANSWER_SECONDS_MAX: Final = 2.0
"""A request without an answer for so long gets none: the core had nothing to say to it."""
NUMBER_BYTES: Final = 4
CHUNK_CALLS_MAX: Final = 5
"""A snapshot's chunk that was lost is sent again at once, as a connection would do by itself."""

ANSWERS: Final[Mapping[type, type]] = {
    RequestVote: VoteReply,
    AppendEntries: AppendReply,
    Heartbeat: HeartbeatReply,
    SnapshotChunk: ChunkReply,
    ReadRequest: ReadReply,
}
ANSWER_KINDS: Final = tuple(ANSWERS.values())


class _Waiting(NamedTuple):
    """A request whose answer is awaited here."""

    number: bytes
    since: float
    answer: "asyncio.Future[bytes]"


class CallCourier:
    """Satisfies `raft.courier.Courier` with the calls of the lab network.

    Args:
        ends: The way to each peer, by its address.
        codec: Packs what this node says and unpacks what it hears.
        deliver: Takes a parcel and the address it came from.
    """

    def __init__(
        self,
        ends: Mapping[str, LabEnd],
        codec: FrameCodec,
        deliver: Callable[[Parcel, str], None],
    ) -> None:
        self._ends = ends
        self._codec = codec
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._outgoing: list[tuple[str, Parcel]] = []
        self._waiting: dict[tuple[str, type], deque[_Waiting]] = {}
        self._requests = 0
        self._closed = False

    # What the replica says

    def post(self, address: str, parcel: Parcel) -> None:
        """Answer the request that waits for this, or ask with the next `flush`."""
        if isinstance(parcel.content, ANSWER_KINDS):
            waiting = self._waiting.get((address, type(parcel.content)))
            if waiting:
                number, _, answer = waiting.popleft()
                if not answer.done():
                    answer.set_result(number + self._codec.pack([parcel]))
                return
        self._outgoing.append((address, parcel))

    def flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        for address, parcel in outgoing:
            self._ask(address, parcel, calls=1)

    def close(self) -> None:
        """Say nothing more; requests that wait here are never answered."""
        self._closed = True
        self._outgoing = []
        for waiting in self._waiting.values():
            for request in waiting:
                request.answer.cancel()
        self._waiting = {}

    def _ask(self, address: str, parcel: Parcel, calls: int) -> None:
        if self._closed:
            return
        self._requests += 1
        number = self._requests.to_bytes(NUMBER_BYTES, "big")
        asked = self._ends[address].call(METHOD, number + self._codec.pack([parcel]))
        asked.add_done_callback(partial(self._answered, address, parcel, number, calls))

    def _answered(
        self,
        address: str,
        parcel: Parcel,
        number: bytes,
        calls: int,
        asked: "asyncio.Future[bytes | None]",
    ) -> None:
        body = asked.result()
        if self._closed:
            return
        if body is None:
            if isinstance(parcel.content, SnapshotChunk) and calls < CHUNK_CALLS_MAX:
                self._ask(address, parcel, calls + 1)
            return
        assert body[:NUMBER_BYTES] == number, "an answer names its request"
        if len(body) > NUMBER_BYTES:
            self._unpack(body)

    # What the replica hears

    def handle(self, body: bytes) -> "bytes | asyncio.Future[bytes]":
        """Take a request of a peer; the future brings the answer."""
        number = body[:NUMBER_BYTES]
        if self._closed:
            return number
        frame = self._codec.unpack(body[NUMBER_BYTES:])
        (parcel,) = frame.parcels
        kind = ANSWERS.get(type(parcel.content))
        if kind is None:
            self._deliver(parcel, frame.address)
            return number
        waiting = self._waiting.setdefault((frame.address, kind), deque())
        now = self._loop.time()
        while waiting and waiting[0].since < now - ANSWER_SECONDS_MAX:
            forgotten = waiting.popleft()
            if not forgotten.answer.done():
                forgotten.answer.set_result(forgotten.number)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        waiting.append(_Waiting(number, now, answer))
        self._deliver(parcel, frame.address)
        return answer

    def _unpack(self, body: bytes) -> None:
        frame = self._codec.unpack(body[NUMBER_BYTES:])
        for parcel in frame.parcels:
            self._deliver(parcel, frame.address)
