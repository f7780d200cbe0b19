"""Answers that come piece by piece, for as long as the client stays."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

from shardkv.http.bodies import Receive, Send
from shardkv.http.replies import ALWAYS, Streamed


async def send_streamed(streamed: Streamed, receive: Receive, send: Send) -> None:
    """Send the pieces; end early, and let go of what they come from, when the client has left.

    A client that does not read is waited for in `send`, and cut off by the connection's own guard.
    """
    pieces = cast(AsyncGenerator[bytes, None], streamed.pieces)
    leaving = asyncio.ensure_future(_left(receive))
    headers = [(b"content-type", streamed.media_type.encode()), *ALWAYS]
    try:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in pieces:
            if leaving.done():
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        leaving.cancel()
        streamed.ended()
        await pieces.aclose()


async def send_head(streamed: Streamed, send: Send) -> None:
    """Only how the answer would begin."""
    streamed.ended()
    await cast(AsyncGenerator[bytes, None], streamed.pieces).aclose()
    headers = [(b"content-type", streamed.media_type.encode()), *ALWAYS]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    """Return when the client has gone. What it still sends is not looked at."""
    while (await receive())["type"] != "http.disconnect":
        pass
