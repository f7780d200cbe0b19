"""Reading a request's body: bounded, by a deadline, and cut off while it streams."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from shardkv.http.limits import BODIES_BYTES_MAX, BODY_SECONDS
from shardkv.http.problems import Problem, retry_after
from shardkv.http.requests import Headers, header

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CLOSE: Final = ((b"connection", b"close"),)
"""The rest of a refused body is never read, so the connection cannot be used again."""


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


class Budget:
    """The bytes of all bodies that this node holds while it reads them."""

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._left = bytes_max

    def take(self, size: int) -> None:
        """Raises Problem when there is no room."""
        if size > self._left:
            raise Problem(
                503, "busy", "too many large requests at a time", (*retry_after(), *CLOSE)
            )
        self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size


class Body:
    """The body of one request. `close` it when the request has ended."""

    __slots__ = ("_budget", "_headers", "_receive", "_taken", "seconds")

    def __init__(self, receive: Receive, headers: Headers, budget: Budget) -> None:
        self._receive = receive
        self._headers = headers
        self._budget = budget
        self._taken = 0
        self.seconds = BODY_SECONDS

    async def read(self, bytes_max: int) -> bytes:
        """All of it.

        Raises:
            Problem: it is longer than `bytes_max` (as soon as that is known), or comes too slowly.
            ClientGone: the client left before its end.
        """
        self._check_announced(bytes_max)
        message = await self._next()
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):  # most of them come in one piece
            self._check(len(body), bytes_max)
            return body
        pieces = [body]
        size = 0
        self._hold(len(body), bytes_max)
        size = len(body)
        try:
            async with asyncio.timeout(self.seconds):
                while message.get("more_body", False):
                    message = await self._next()
                    piece = message.get("body", b"")
                    size += len(piece)
                    self._check(size, bytes_max)
                    self._hold(len(piece), bytes_max)
                    pieces.append(piece)
        except TimeoutError:
            raise Problem(
                408, "body-too-slow", f"the body took longer than {self.seconds:g} s", CLOSE
            ) from None
        return b"".join(pieces)

    def close(self) -> None:
        self._budget.give_back(self._taken)
        self._taken = 0

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout(self.seconds):
                message = await self._receive()
        except TimeoutError:
            raise Problem(
                408, "body-too-slow", f"the body took longer than {self.seconds:g} s", CLOSE
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    def _check_announced(self, bytes_max: int) -> None:
        length = header(self._headers, b"content-length")
        if length is not None and length.isdigit():
            self._check(int(length[:20]), bytes_max)

    def _check(self, size: int, bytes_max: int) -> None:
        if size > bytes_max:
            raise Problem(413, "body-too-long", f"the body is longer than {bytes_max} bytes", CLOSE)

    def _hold(self, size: int, bytes_max: int) -> None:
        self._check(self._taken + size, bytes_max)
        self._budget.take(size)
        self._taken += size
