"""Bytes between processes: one interface, two adapters (`labrpc/sim/network.py`, `labrpc/grpc/`).

One conformance suite, `tests/conformance/test_transport.py`, runs on both. The layer knows
nothing of keys, shards or Raft.
"""

from collections.abc import Awaitable, Callable
from typing import NewType, Protocol

Address = NewType("Address", str)
"""`host:port` in production, a plain name in the simulator."""

CallHandler = Callable[[bytes], Awaitable[bytes]]
"""Answers one call. It may raise `labrpc.errors.Refused`; any other exception is logged at the
server and reaches the caller as `Refused("INTERNAL", fixed text)`. Its task is *not* cancelled
when the caller gives up."""

FrameHandler = Callable[[bytes], None]
"""Takes one frame of a channel; must not block. The frame says who sent it."""


class Channel(Protocol):
    """One way to one peer. Frames arrive in the order sent while the connection lives; a broken
    one is re-dialled by itself and what was queued then is lost. At most `queued_bytes_max`
    wait."""

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False if it was dropped (never blocks, never raises)."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes accepted and not yet handed to the connection."""
        ...

    async def drained(self) -> None:
        """Return once `queued_bytes` is below half of its bound, or the connection is lost."""
        ...


class Transport(Protocol):
    """One process's end of the network."""

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        """Ask the process at `to` and await its answer, for at most `timeout` seconds.

        Raises:
            Unreachable: certainly not handed over.
            Refused: the peer said no.
            Unknown: sent, and no answer in time or the connection broke.
        """
        ...

    def channel(self, to: Address, *, bulk: bool = False) -> Channel:
        """The channel to `to`; the same object for the same arguments. `bulk` ones use a
        connection of their own, so that snapshots and copies never delay heartbeats."""
        ...

    def serve(self, method: str, handler: CallHandler) -> None:
        """Answer calls of `method` with `handler`."""
        ...

    def listen(self, handler: FrameHandler) -> None:
        """Hand every frame that a peer's channel brings to `handler`."""
        ...

    async def close(self) -> None:
        """Stop serving, let running handlers end within a grace, drop all connections."""
        ...
