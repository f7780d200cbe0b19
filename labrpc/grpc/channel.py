"""The sending side of frames: one way, in order, dropped rather than blocked."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import grpc.aio
from google.protobuf.message import DecodeError

from labrpc.errors import Unreachable
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.client import ByteStream, StreamLost, check_hello, read, write
from labrpc.grpc.handshake import Identity
from labrpc.limits import (
    BODY_BYTES_MAX,
    CHANNEL_QUEUED_BYTES_MAX,
    DIAL_SECONDS,
    PACK_BYTES_MAX,
    PACK_ITEMS_MAX,
    RECONNECT_INITIAL_MILLISECONDS,
    RECONNECT_MAX_MILLISECONDS,
)
from labrpc.transport import Address

FEED: Final = "/labrpc.v1.Channels/Feed"

log = logging.getLogger(__name__)


class PeerChannel:
    """Frames to one address, on a stream that dials itself again when it is lost.

    `connected` means that the peer's hello is in. While the first dial lasts (at most
    `DIAL_SECONDS`) frames wait; after a loss they are dropped until the next hello, since what a
    peer says about consensus is soon worthless and always said again.
    """

    def __init__(
        self,
        address: Address,
        identity: Identity,
        connection: Callable[[], grpc.aio.Channel],
        *,
        queued_bytes_max: int = CHANNEL_QUEUED_BYTES_MAX,
        closed: bool = False,
    ) -> None:
        self._address, self._identity, self._connection = address, identity, connection
        self._queued_bytes_max = queued_bytes_max
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0  # of `_frames`, and of the message being written
        self._gathered = asyncio.Event()
        self._drained: list[asyncio.Future[None]] = []
        self._holding: asyncio.Task[None] | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._may_queue = not closed
        self.connected = False
        self.frames_sent = 0
        self.frames_dropped = 0
        """Refused by `send`, or queued when the connection was lost."""

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False if it was dropped."""
        if self._holding is None and self._may_queue:
            self._holding = asyncio.get_running_loop().create_task(self._hold())
        fits = self._queued_bytes + len(frame) <= self._queued_bytes_max
        if not self._may_queue or not fits or len(frame) > BODY_BYTES_MAX:
            self.frames_dropped += 1
            return False
        self._frames.append(frame)
        self._queued_bytes += len(frame)
        self._gathered.set()
        return True

    @property
    def queued_bytes(self) -> int:
        """Bytes accepted and not yet handed to the connection."""
        return self._queued_bytes

    async def drained(self) -> None:
        """Return once `queued_bytes` is below half of its bound, or the connection is lost."""
        if self._queued_bytes < self._queued_bytes_max / 2:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drained.append(waiter)
        await waiter

    def redial(self) -> None:
        """Begin the dial anew that is under way, if one is: what it is made with has changed."""
        if self._dialling is not None:
            self._dialling.cancel()

    async def close(self) -> None:
        """Drop the connection and what is queued; every later frame is dropped."""
        self._may_queue = False
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)

    async def _hold(self) -> None:
        """Dial, feed, and again, until closed."""
        loop = asyncio.get_running_loop()
        pause_ms = RECONNECT_INITIAL_MILLISECONDS
        while True:
            patience = loop.call_later(DIAL_SECONDS, self._lose)
            stream: ByteStream | None = None
            try:
                # gRPC itself dials until it is connected, with its own back-off.
                stream = self._connection().stream_stream(FEED)(wait_for_ready=True)
                await self._dial(stream)
                patience.cancel()
                pause_ms = RECONNECT_INITIAL_MILLISECONDS
                self.connected = self._may_queue = True
                await self._feed(stream)
            except (StreamLost, DecodeError) as lost:
                level = logging.INFO if self.connected else logging.DEBUG
                log.log(level, "lost the channel to %s: %s", self._address, lost)
            except Exception:
                # Nobody awaits this task. A mistake at this end must not cost the peer for ever.
                log.exception("the channel to %s broke; it is dialled again", self._address)
            finally:
                patience.cancel()
                self._lose()
                if stream is not None:
                    stream.cancel()
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, RECONNECT_MAX_MILLISECONDS)

    async def _dial(self, stream: ByteStream) -> None:
        """Exchange hellos. In a task of its own: gRPC's stream tells nobody who waits for its
        connection that it was cancelled."""
        dialling = self._dialling = asyncio.create_task(self._greet(stream))
        try:
            await dialling
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise StreamLost(Unreachable(f"{self._address} is dialled anew")) from None
        finally:
            self._dialling = None

    async def _greet(self, stream: ByteStream) -> None:
        hello = wire.Frames(hello=self._identity.hello(self._address))
        await write(stream, hello.SerializeToString(), self._address)
        check_hello(wire.Hello.FromString(await read(stream, self._address)), self._identity)

    async def _feed(self, stream: ByteStream) -> None:
        # The peer says nothing more: a read that returns is the end, seen without a frame to send.
        ended = asyncio.create_task(read(stream, self._address))
        ended.add_done_callback(lambda _: self._gathered.set())
        try:
            while not ended.done():
                await self._gathered.wait()
                self._gathered.clear()
                while self._frames and not ended.done():
                    frames = self._take()
                    size = sum(map(len, frames))
                    message = wire.Frames(frames=frames).SerializeToString()
                    await write(stream, message, self._address)
                    self.frames_sent += len(frames)
                    self._queued_bytes -= size
                    if self._queued_bytes < self._queued_bytes_max / 2:
                        self._release()
            await ended
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    def _take(self) -> list[bytes]:
        taken = [self._frames.popleft()]
        size = len(taken[0])
        while self._frames and len(taken) < PACK_ITEMS_MAX:
            size += len(self._frames[0])
            if size > PACK_BYTES_MAX:
                break
            taken.append(self._frames.popleft())
        return taken

    def _lose(self) -> None:
        """No connection: what waited is lost, and nothing may wait until there is one."""
        self.connected = self._may_queue = False
        self.frames_dropped += len(self._frames)
        self._frames.clear()
        self._queued_bytes = 0
        self._release()

    def _release(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()
