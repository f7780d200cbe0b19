"""The asking side of calls: many at once on one long-lived stream to one address.

**Unreachable or unknown** is decided by one fact: whether the request was taken out of `_unsent`.
The writer takes it out before it hands it to gRPC, and it starts only when the peer's hello is in.
So whatever ends a call that is still in `_unsent` (its deadline, a refused or broken opening, a
lost stream, a full flow-control window) has certainly handed over nothing; any other is unknown.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable
from typing import Final, NamedTuple

import grpc.aio
from google.protobuf.message import DecodeError

from labrpc.errors import Refused, RpcError, Unknown, Unreachable
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.diagnosis import in_short
from labrpc.grpc.handshake import Identity, Violation
from labrpc.limits import BODY_BYTES_MAX, METHOD_BYTES_MAX, PACK_BYTES_MAX, PACK_ITEMS_MAX
from labrpc.transport import Address

ByteStream = grpc.aio.StreamStreamCall[bytes, bytes]
"""A stream of messages that we encode and decode ourselves: gRPC would hide a broken one."""

EXCHANGE: Final = "/labrpc.v1.Calls/Exchange"

_DEADLINE_MS_MAX: Final = 2**32 - 1
_ENVELOPE_BYTES: Final = 32  # about what an envelope adds to its method and body

# What a peer may say no with before anything was sent. Any other failure means: not reached.
_REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

log = logging.getLogger(__name__)


class _Unsent(NamedTuple):
    """A call that waits to be sent. Its message is made in its pack: made before, it would be
    copied there, and a large body costs as much again."""

    method: str
    body: bytes
    size: int  # in bytes, about
    expires: float  # in loop seconds


class StreamLost(Exception):
    """A stream could not be opened, or ended. `error` is what a call never sent is told."""

    def __init__(self, error: RpcError) -> None:
        super().__init__(str(error))
        self.error = error


async def end_of(stream: ByteStream, address: Address) -> StreamLost:
    """Say how a stream that is over ended."""
    code, details = await stream.code(), await stream.details()
    if code in _REFUSALS:
        return StreamLost(Refused(code.name, details))
    if code is grpc.StatusCode.OK:
        return StreamLost(Unreachable(f"{address} ended the connection"))
    return StreamLost(Unreachable(f"{address} cannot be reached: {in_short(code.name, details)}"))


async def read(stream: ByteStream, address: Address) -> bytes:
    """The next message. Raises StreamLost instead of an end."""
    try:
        message = await stream.read()
    except grpc.aio.AioRpcError:
        raise await end_of(stream, address) from None
    if not isinstance(message, bytes):  # EOF
        raise await end_of(stream, address)
    return message


async def write(stream: ByteStream, message: bytes, address: Address) -> None:
    """Hand one message to the connection, waiting for its window. Raises StreamLost."""
    try:
        await stream.write(message)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        raise await end_of(stream, address) from None


def check_hello(hello: wire.Hello, identity: Identity) -> None:
    """The peer checks us, and we check it: it may be of another version that does not."""
    if reason := identity.mismatch(hello):
        raise StreamLost(Refused("FAILED_PRECONDITION", reason))


class CallStream:
    """Calls to one address. Dials when there is something to call; then stays connected."""

    def __init__(
        self, address: Address, identity: Identity, connection: Callable[[], grpc.aio.Channel]
    ) -> None:
        self._address, self._identity, self._connection = address, identity, connection
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._unsent: dict[int, _Unsent] = {}  # in order; a subset of `_waiting`
        self._gathered = asyncio.Event()
        self._holding: asyncio.Task[None] | None = None
        self.asked = 0
        """Calls so far."""

    @property
    def held(self) -> bool:
        """Whether there is a stream, or one is being opened."""
        return self._holding is not None

    async def call(self, method: str, body: bytes, timeout: float) -> bytes:
        """As `labrpc.transport.Transport.call`."""
        if len(body) > BODY_BYTES_MAX or len(method.encode()) > METHOD_BYTES_MAX:
            raise Refused(
                "INVALID_ARGUMENT",
                f"a body of {len(body)} bytes for {method[:METHOD_BYTES_MAX]!r}: at most "
                f"{BODY_BYTES_MAX} bytes, and {METHOD_BYTES_MAX} of the method's name",
            )
        if timeout <= 0:
            raise Unreachable(f"no time left to call {self._address}")
        assert isinstance(body, bytes), "what is packed later fails where nobody waits for it"
        loop = asyncio.get_running_loop()
        self.asked += 1
        number = next(self._ids)
        future: asyncio.Future[bytes] = loop.create_future()
        expires = loop.time() + timeout
        self._waiting[number] = future
        size = len(body) + len(method) + _ENVELOPE_BYTES
        self._unsent[number] = _Unsent(method, body, size, expires)
        self._gathered.set()
        if self._holding is None:
            self._holding = loop.create_task(self._hold())
        timer = loop.call_at(expires, self._expire, number, timeout)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                future.exception()  # it failed in the turn in which its caller gave up
            raise
        finally:
            timer.cancel()
            self._waiting.pop(number, None)
            self._unsent.pop(number, None)

    async def close(self) -> None:
        """Drop the connection; calls in flight end at once."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)

    def _expire(self, number: int, timeout: float) -> None:
        if number in self._unsent:
            error: RpcError = Unreachable(f"no connection to {self._address} within {timeout:g} s")
        else:
            error = Unknown(f"no answer from {self._address} within {timeout:g} s")
        self._fail(number, error)

    def _fail(self, number: int, error: RpcError) -> None:
        self._unsent.pop(number, None)
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_exception(error)

    async def _hold(self) -> None:
        """Open one stream and keep it until it ends; then tell everybody who waits."""
        error: RpcError = Unreachable("this end was closed")
        stream: ByteStream = self._connection().stream_stream(EXCHANGE)(wait_for_ready=False)
        try:
            await self._converse(stream)
        except StreamLost as lost:
            error = lost.error
        except (Violation, DecodeError) as violation:
            error = Unreachable(f"{self._address} does not keep to the protocol")
            log.warning("dropped the connection to %s: %s", self._address, violation)
        finally:
            stream.cancel()
            self._holding = None
            for number in list(self._waiting):
                unsent = number in self._unsent
                self._fail(number, error if unsent else Unknown(f"no answer: {error}"))

    async def _converse(self, stream: ByteStream) -> None:
        hello = wire.Requests(hello=self._identity.hello(self._address))
        await write(stream, hello.SerializeToString(), self._address)
        first = wire.Answers.FromString(await read(stream, self._address))
        check_hello(first.hello, self._identity)
        writer = asyncio.create_task(self._write(stream))
        try:
            while True:
                answers = wire.Answers.FromString(await read(stream, self._address))
                for answer in answers.answers:
                    self._settle(answer)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, stream: ByteStream) -> None:
        try:
            while True:
                await self._gathered.wait()
                self._gathered.clear()
                while self._unsent:
                    await write(stream, self._take().SerializeToString(), self._address)
        except StreamLost:
            return  # the reader sees the same end, and tells

    def _take(self) -> wire.Requests:
        """What gathered, up to one pack. From here on these calls count as sent."""
        now = asyncio.get_running_loop().time()
        pack = wire.Requests()
        taken = pack.requests
        size = 0
        for number, (method, body, cost, expires) in self._unsent.items():
            size += cost
            if taken and (size > PACK_BYTES_MAX or len(taken) >= PACK_ITEMS_MAX):
                break
            left_ms = min(max(1, math.ceil((expires - now) * 1000)), _DEADLINE_MS_MAX)
            taken.add(id=number, method=method, body=body, deadline_ms=left_ms)
        for request in taken:
            del self._unsent[request.id]
        return pack

    def _settle(self, answer: wire.Answer) -> None:
        if answer.id in self._unsent:
            raise Violation(f"answer {answer.id} to a request that was not sent")
        future = self._waiting.pop(answer.id, None)
        if future is None or future.done():
            return  # its caller has given up
        if answer.stopping:
            future.set_exception(Unreachable(f"{self._address}: {answer.message}"))
        elif answer.code:
            future.set_exception(Refused(answer.code, answer.message))
        else:
            future.set_result(answer.body)
