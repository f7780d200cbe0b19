"""The transport of a process that talks to itself alone: an embedded store.

The same handlers as on a network, without one: a call becomes a task of the handler, a frame is
handed over in the next turn of the loop. Nothing is lost, reordered or delayed.
"""

import asyncio
import logging
from typing import Any

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.transport import Address, CallHandler, FrameHandler

log = logging.getLogger(__name__)


class InprocTransport:
    """One process, under one address. Calls to any other are unreachable, frames are dropped."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[str, CallHandler] = {}
        self._listener: FrameHandler | None = None
        self._channels: dict[tuple[Address, bool], InprocChannel] = {}
        self._running: dict[asyncio.Task[bytes], None] = {}
        self._closed = False

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        """See `labrpc.transport.Transport`."""
        if self._closed or to != self.address:
            raise Unreachable(f"nobody listens at {to} in this process")
        handler = self._handlers.get(method)
        if handler is None:
            raise Refused("UNIMPLEMENTED", f"no method {method}")
        if timeout <= 0:
            raise Unreachable("no time left")
        task = self._loop.create_task(self._handle(method, handler(body)))
        self._running[task] = None
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(task)  # it runs on when the caller gives up
        except TimeoutError:
            raise Unknown(f"no answer from {method} in {timeout:g} s") from None
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unknown(f"{method} was cut off: the process closes") from None
            raise

    async def _handle(self, method: str, answer: "Any") -> bytes:
        try:
            result: bytes = await answer
            return result
        except Refused:
            raise
        except Exception:
            log.exception("method %s failed", method)
            raise Refused("INTERNAL", "the server failed; its log has the details") from None

    def _ended(self, task: "asyncio.Task[bytes]") -> None:
        del self._running[task]
        if not task.cancelled():
            task.exception()  # a refusal whose caller has gone is no news

    def channel(self, to: Address, *, bulk: bool = False) -> "InprocChannel":
        """See `labrpc.transport.Transport`."""
        channel = self._channels.get((to, bulk))
        if channel is None:
            channel = self._channels[to, bulk] = InprocChannel(self, to)
        return channel

    def serve(self, method: str, handler: CallHandler) -> None:
        """See `labrpc.transport.Transport`."""
        self._handlers[method] = handler

    def listen(self, handler: FrameHandler) -> None:
        """See `labrpc.transport.Transport`."""
        self._listener = handler

    def take_frame(self, to: Address, frame: bytes) -> bool:
        """Hand a frame to this process's listener, if it is for it."""
        if self._closed or to != self.address or self._listener is None:
            return False
        self._loop.call_soon(self._listener, frame)
        return True

    async def close(self) -> None:
        """Cut off what still runs; calls from here on are unreachable."""
        self._closed = True
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class InprocChannel:
    """One way to this very process; see `labrpc.transport.Channel`."""

    def __init__(self, transport: InprocTransport, to: Address) -> None:
        self._transport = transport
        self._to = to

    queued_bytes = 0  # a frame is handed over at once

    def send(self, frame: bytes) -> bool:
        return self._transport.take_frame(self._to, frame)

    async def drained(self) -> None:
        return
