"""The answering side of calls and frames: the services of `wire.proto`."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError

from labrpc.errors import Refused
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.handshake import Identity, Violation
from labrpc.grpc.tls import Tls, refusal
from labrpc.grpc.work import Share, Stopping, Work, internal_error
from labrpc.limits import (
    BODY_BYTES_MAX,
    HANDSHAKE_SECONDS,
    METHOD_BYTES_MAX,
    PACK_BYTES_MAX,
    PACK_ITEMS_MAX,
)
from labrpc.transport import CallHandler, FrameHandler

Context = grpc.aio.ServicerContext[bytes, bytes]

First = TypeVar("First", wire.Requests, wire.Frames)
"""The opening message of a stream."""

Said = dict[str, Any]
"""The fields of an `Answer`. The message is made in its pack: made before, it would be copied
there, and a large body costs as much again."""
_ENVELOPE_BYTES: Final = 32
_ANSWERS_QUEUED_MAX: Final = 4 * PACK_ITEMS_MAX
"""A caller that asks but does not read its answers is not read any more from here on."""

log = logging.getLogger(__name__)


class Exchange:
    """One stream of calls: its requests in, its answers out in whatever order they come."""

    def __init__(self, context: Context, handlers: dict[str, CallHandler], work: Work) -> None:
        self._context, self._handlers, self._work = context, handlers, work
        self._share = Share()
        self._answers: deque[tuple[Said, int | None]] = deque()  # with the bytes to give back
        self._gathered = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()  # set: nothing waits to be written
        self._broken = False

    async def read(self) -> None:
        """Take requests until the stream ends. Raises Violation, DecodeError."""
        writer = asyncio.create_task(self._write())
        try:
            while isinstance(raw := await self._context.read(), bytes):
                requests = wire.Requests.FromString(raw).requests
                if len(requests) > PACK_ITEMS_MAX:
                    raise Violation(f"{len(requests)} requests in one message")
                for request in requests:
                    self._take(request)
                if len(self._answers) > _ANSWERS_QUEUED_MAX:
                    await self.flushed()
        finally:
            self._broken = True
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            while self._answers:
                self._give_back(self._answers.popleft()[1])

    async def flushed(self) -> None:
        """Return once every answer so far is handed to the connection, or it is lost."""
        await self._written.wait()

    def _take(self, request: wire.Request) -> None:
        handler = self._handlers.get(request.method)
        size = len(request.body)
        try:
            if handler is None:
                raise Refused("UNIMPLEMENTED", f"no method {request.method[:METHOD_BYTES_MAX]!r}")
            if not request.deadline_ms:
                raise Refused("INVALID_ARGUMENT", "a call without a deadline")
            self._work.admit(self._share, size)
        except Stopping as stopping:
            said: Said = {"id": request.id, "stopping": True, "message": str(stopping)}
            self._queue(said, None)
            return
        except Refused as refusal:
            self._queue(_refusal(request.id, refusal), None)
            return
        self._work.start(self._answer(handler, request, size))

    async def _answer(self, handler: CallHandler, request: wire.Request, size: int) -> None:
        """Carry out one request, in a task of its own that its caller's end does not touch."""
        loop = asyncio.get_running_loop()
        expires = loop.time() + request.deadline_ms / 1000
        queued = False
        try:
            try:
                body = await handler(request.body)
                if not isinstance(body, bytes) or len(body) > BODY_BYTES_MAX:
                    raise ValueError(f"an answer of {len(body)} {type(body).__name__}")
                answer: Said = {"id": request.id, "body": body}
            except Refused as refusal:
                answer = _refusal(request.id, refusal)
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise  # this task is cancelled, not something that the handler awaited
                answer = _refusal(request.id, internal_error(_named(request), error))
            except Exception as error:
                answer = _refusal(request.id, internal_error(_named(request), error))
            # Our clock started after the caller's: past `expires` it waits no longer.
            if loop.time() < expires and not self._broken:
                self._queue(answer, size)
                queued = True
        finally:
            if not queued:
                self._give_back(size)

    def _give_back(self, size: int | None) -> None:
        if size is not None:
            self._work.release(self._share, size)

    def _queue(self, answer: Said, size: int | None) -> None:
        """`size` as admitted; None: nothing was. An operation is over when its answer is out."""
        if size is not None:
            body = len(answer.get("body", b""))
            self._share.bytes += body
            size += body
        self._answers.append((answer, size))
        self._written.clear()
        self._gathered.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._gathered.wait()
                self._gathered.clear()
                while self._answers:
                    await self._context.write(self._pack().SerializeToString())
                self._written.set()
        except grpc.aio.BaseError:
            return  # the connection is lost: the reader sees the same end
        finally:
            self._broken = True
            self._written.set()

    def _pack(self) -> wire.Answers:
        """What gathered while the previous message was on its way, up to one pack."""
        pack = wire.Answers()
        taken = pack.answers
        size = 0
        while self._answers and len(taken) < PACK_ITEMS_MAX:
            size += len(self._answers[0][0].get("body", b"")) + _ENVELOPE_BYTES
            if taken and size > PACK_BYTES_MAX:
                break
            answer, admitted = self._answers.popleft()
            taken.add(**answer)
            self._give_back(admitted)
        return pack


def _refusal(number: int, refusal: Refused) -> Said:
    message = refusal.message.encode(errors="replace").decode()  # it may quote what a caller sent
    return {"id": number, "code": refusal.code, "message": message}


def _named(request: wire.Request) -> str:
    return f"method {request.method!r}"


class WireServices:
    """The two services of `wire.proto` at one port."""

    def __init__(self, identity: Identity, work: Work, tls: Tls | None = None) -> None:
        self._identity, self._work, self._tls = identity, work, tls
        self._exchanges: list[Exchange] = []
        self._readers: list[asyncio.Task[None]] = []
        self.call_handlers: dict[str, CallHandler] = {}
        self.frame_handler: FrameHandler | None = None
        self.frames_received = 0
        self.frames_failed = 0

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """For a grpc server. Messages are decoded here: gRPC would log a broken one and go on."""
        methods: dict[str, Any] = {
            "labrpc.v1.Calls": ("Exchange", self._exchange),
            "labrpc.v1.Channels": ("Feed", self._feed),
        }
        return tuple(
            grpc.method_handlers_generic_handler(
                service, {method: grpc.stream_stream_rpc_method_handler(behaviour)}
            )
            for service, (method, behaviour) in methods.items()
        )

    async def close(self, grace: float) -> None:
        """Send the answers that are there, then end every stream, well."""
        waiting = [exchange.flushed() for exchange in self._exchanges]
        try:
            async with asyncio.timeout(grace):
                await asyncio.gather(*waiting)
        except TimeoutError:
            log.warning("some callers did not take their answers within %g s", grace)
        for reader in self._readers:
            reader.cancel()

    async def _exchange(self, _requests: object, context: Context) -> None:
        first = await self._greeted(context, wire.Requests.FromString)
        hello = wire.Answers(hello=self._identity.hello(first.hello.sender))
        await context.write(hello.SerializeToString())
        exchange = Exchange(context, self.call_handlers, self._work)
        self._exchanges.append(exchange)
        try:
            await self._until_closed(context, first.hello, exchange.read())
        finally:
            self._exchanges.remove(exchange)

    async def _feed(self, _frames: object, context: Context) -> None:
        first = await self._greeted(context, wire.Frames.FromString)
        await context.write(self._identity.hello(first.hello.sender).SerializeToString())
        await self._until_closed(context, first.hello, self._read_frames(context))

    async def _read_frames(self, context: Context) -> None:
        while isinstance(raw := await context.read(), bytes):
            frames = wire.Frames.FromString(raw).frames
            if len(frames) > PACK_ITEMS_MAX:
                raise Violation(f"{len(frames)} frames in one message")
            self.frames_received += len(frames)
            for frame in frames:
                self._hand_over(frame)

    def _hand_over(self, frame: bytes) -> None:
        if self.frame_handler is None:
            self.frames_failed += 1
            return
        try:
            self.frame_handler(frame)
        except Exception:
            # One bad frame must not cost the peer its connection: it is counted, logged, dropped.
            self.frames_failed += 1
            log.exception("a frame of %d bytes could not be handled", len(frame))

    async def _greeted(self, context: Context, decode: Callable[[bytes], First]) -> First:
        """The opening message of a partner; anybody else is sent away."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                raw = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")
        try:
            first = decode(raw if isinstance(raw, bytes) else b"")
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is broken")
        if not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message has no hello")
        if reason := self._identity.mismatch(first.hello):
            log.warning("refused %s: %s", context.peer(), reason)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        if reason := refusal(self._tls, first.hello.sender, context):
            log.warning("refused %s: %s", context.peer(), reason)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)
        return first

    async def _until_closed(
        self, context: Context, hello: wire.Hello, reading: Coroutine[Any, Any, None]
    ) -> None:
        """Read until the partner ends the stream, breaks the protocol, or this port closes."""
        reader = asyncio.create_task(reading)
        self._readers.append(reader)
        try:
            await asyncio.wait([reader])
        finally:
            self._readers.remove(reader)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        error = None if reader.cancelled() else reader.exception()
        if isinstance(error, Violation | DecodeError):
            reason = str(error) if isinstance(error, Violation) else "a message is broken"
            log.warning("dropped %s (%.64r): %s", context.peer(), hello.sender, reason)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)
        elif error is not None and not isinstance(error, grpc.aio.BaseError):
            refusal = internal_error(f"the stream of {context.peer()}", error)
            await context.abort(grpc.StatusCode.INTERNAL, refusal.message)
