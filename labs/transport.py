"""The production transport's interface on the labs' network, so that clerk and server run on it.

A lab call brings an answer or nothing. Nothing is `Unknown`: the handler may have run. A handler's
`Refused` travels back in the answer, behind a byte that tells the two apart.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final, NoReturn

import msgpack

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.sim.labnet import Handler, LabEnd
from labrpc.transport import Address, CallHandler, FrameHandler

ANSWERED: Final = b"\0"
REFUSED: Final = b"\1"


class LabTransport:
    """One process's end of the lab network. A `labrpc.transport.Transport` for calls only.

    Args:
        ends: The way to each server. What it does not name cannot be reached.
    """

    def __init__(self, ends: Mapping[Address, LabEnd]) -> None:
        self._ends = ends
        self._handlers: dict[str, Handler] = {}

    @property
    def ends(self) -> Mapping[Address, LabEnd]:
        """The way to each server, for who speaks a protocol of his own."""
        return self._ends

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What was given to `serve`, for a `LabServer`."""
        return self._handlers

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        end = self._ends.get(to)
        if end is None:
            raise Unreachable(f"no way to {to}")
        try:
            async with asyncio.timeout(timeout):
                answer = await end.call(method, body)
        except TimeoutError:
            raise Unknown(f"{to} did not answer in {timeout:g} s") from None
        if answer is None:
            raise Unknown(f"the request to {to} or its answer was lost")
        if answer[:1] == ANSWERED:
            return answer[1:]
        raise Refused(*msgpack.unpackb(answer[1:]))

    def serve(self, method: str, handler: CallHandler) -> None:
        self._handlers[method] = partial(_answer, handler)

    def channel(self, to: Address, *, bulk: bool = False) -> NoReturn:
        """Refused: the labs' servers speak to their peers by calls (`labs.courier`)."""
        raise NotImplementedError("the labs' network has calls only")

    def listen(self, handler: FrameHandler) -> NoReturn:
        raise NotImplementedError("the labs' network has calls only")

    async def close(self) -> None:
        """The ends are the tester's to delete."""


def _answer(handler: CallHandler, body: bytes) -> Coroutine[Any, Any, bytes]:
    async def answer() -> bytes:
        try:
            return ANSWERED + await handler(body)
        except Refused as refusal:
            said: bytes = msgpack.packb((refusal.code, refusal.message))
            return REFUSED + said

    return answer()
