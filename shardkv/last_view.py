"""The configuration that a node knows, for clients that nobody can tell the newest one.

A clerk learns the configuration from the controller, linearizably. Without a majority of the
controller there is none to be had, and a clerk that has just begun could not even do a stale read,
which needs no majority. So every node tells what it knows itself. That may be old, and it is only
where to ask: what is served is decided by the phase of the shard, as always.

Method `view`: an empty question, answered by [format, encoded view or nil].
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from shardctrler.codec import BadConfig, decode_view, encode_view
from shardctrler.types import View
from shardkv.protocol import FORMAT, BadFrame, pack, unpack

VIEW: Final = "view"
"""The method."""
GRACE_SECONDS: Final = 0.5
"""So long the controller has to answer before nodes are asked for what they know."""
CALL_SECONDS: Final = 1.0


def encode_last(view: View | None) -> bytes:
    return pack((FORMAT, None if view is None else encode_view(view)))


def decode_last(body: bytes) -> View | None:
    """Raises:
    BadFrame: not such an answer.
    """
    (data,) = unpack(body, 1)
    if data is None:
        return None
    if type(data) is not bytes:
        raise BadFrame("a view is bytes")
    try:
        return decode_view(data)
    except BadConfig as error:
        raise BadFrame(str(error)) from None


async def ask_around(transport: Transport, nodes: Sequence[Address]) -> View | None:
    """The newest view that any of these nodes knows; None if none answers with one."""
    found: list[View] = []

    async def ask(node: Address) -> None:
        try:
            view = decode_last(await transport.call(node, VIEW, b"", timeout=CALL_SECONDS))
        except (RpcError, BadFrame):
            return  # another one may
        if view is not None:
            found.append(view)

    await asyncio.gather(*[ask(node) for node in nodes])
    return max(found, key=lambda view: view.config.number, default=None)
