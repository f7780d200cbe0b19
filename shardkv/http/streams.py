"""Answers that come piece by piece, for as long as the client stays."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shardkv.http.replies import Streamed


class StreamedResponse(Response):
    """Sends the pieces; ends early, and lets go of what they come from, when the client has left.

    A client that does not read is waited for in `send`, and cut off by the connection's own guard.
    """

    def __init__(self, streamed: Streamed) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._streamed = streamed
        self.raw_headers = [(b"content-type", streamed.media_type.encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = cast(AsyncGenerator[bytes, None], self._streamed.pieces)
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in pieces:
                if leaving.done():
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            leaving.cancel()
            self._streamed.ended()
            await pieces.aclose()


async def _left(receive: Receive) -> None:
    """Return when the client has gone. What it still sends is not looked at."""
    while (await receive())["type"] != "http.disconnect":
        pass
