"""What a node knows of configurations, for those whom the controller cannot tell.

A clerk learns the configuration from the controller, linearizably. Without a majority of the
controller there is none to be had, and a clerk that has just begun could not even do a stale read,
which needs no majority. So every node tells what it knows itself. That may be old, and it is only
where to ask: what is served is decided by the phase of the shard, as always.

Where the controller itself goes on from a survivor that lacks configurations, nodes are asked for
them page by page (`shardkv/adopting.py`): a node has the last ones that it heard of, and those that
its groups have applied.

Method `view`: an empty question, answered by [format, encoded view or nil]. Method `view.page`:
[format, number], answered by [format, number of the newest known, encoded configuration or nil].
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from shardctrler.codec import BadConfig, decode_config, decode_view, encode_config, encode_view
from shardctrler.types import ConfigNumber, ShardConfig, View
from shardkv.protocol import FORMAT, BadFrame, integer, pack, unpack

VIEW: Final = "view"
PAGE: Final = "view.page"
"""The methods."""
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


class Page(NamedTuple):
    """A configuration that a node was asked for, None if it does not have it; and the number of the
    newest that it knows of, 0 if of none."""

    newest: int
    config: ShardConfig | None


def encode_page_request(number: int) -> bytes:
    return pack((FORMAT, number))


def decode_page_request(body: bytes) -> ConfigNumber:
    """Raises:
    BadFrame: not such a question.
    """
    (number,) = unpack(body, 1)
    return ConfigNumber(integer(number, "config number"))


def encode_page(page: Page) -> bytes:
    newest, config = page
    return pack((FORMAT, newest, None if config is None else encode_config(config)))


def decode_page(body: bytes) -> Page:
    """Raises:
    BadFrame: not such an answer.
    """
    newest, data = unpack(body, 2)
    if data is not None and type(data) is not bytes:
        raise BadFrame("a configuration is bytes")
    try:
        config = None if data is None else decode_config(data)
    except BadConfig as error:
        raise BadFrame(str(error)) from None
    return Page(integer(newest, "config number"), config)


async def ask_around(transport: Transport, nodes: Sequence[Address]) -> View | None:
    """The newest view that any of these nodes knows; None if none answers with one."""
    found = await views_of(transport, nodes)
    return max(found, key=lambda view: view.config.number, default=None)


async def views_of(transport: Transport, nodes: Sequence[Address]) -> list[View]:
    """What each of these nodes knows, of those that answer and have heard of any."""

    async def ask(node: Address) -> View | None:
        try:
            return decode_last(await transport.call(node, VIEW, b"", timeout=CALL_SECONDS))
        except (RpcError, BadFrame):
            return None  # another one may

    answers = await asyncio.gather(*[ask(node) for node in nodes])
    return [view for view in answers if view is not None]


async def pages_of(
    transport: Transport, nodes: Sequence[Address], number: ConfigNumber
) -> list[Page]:
    """What each of these nodes knows of one configuration, of those that answer."""

    async def ask(node: Address) -> Page | None:
        question = encode_page_request(number)
        try:
            return decode_page(await transport.call(node, PAGE, question, timeout=CALL_SECONDS))
        except (RpcError, BadFrame):
            return None

    answers = await asyncio.gather(*[ask(node) for node in nodes])
    return [page for page in answers if page is not None]
