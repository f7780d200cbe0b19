"""The transport of real processes: `labrpc.transport.Transport` on gRPC."""

import asyncio
import logging
from typing import Final, NamedTuple

import grpc.aio

from labrpc.errors import Unreachable
from labrpc.grpc import options
from labrpc.grpc.channel import PeerChannel
from labrpc.grpc.client import CallStream
from labrpc.grpc.diagnosis import Doctor
from labrpc.grpc.handshake import Identity
from labrpc.grpc.kv import KvHandler
from labrpc.grpc.server import GrpcServer
from labrpc.grpc.tls import Material, Tls, dial, dial_with
from labrpc.limits import (
    CHANNEL_QUEUED_BYTES_MAX,
    CLOSE_GRACE_SECONDS,
    UNUSED_SECONDS,
    PortLimits,
)
from labrpc.transport import Address, CallHandler, FrameHandler

log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 0.2
"""What gRPC gets to end a connection's streams in."""


class _Unused(NamedTuple):
    """How often an address had been tried, and since when that is so."""

    tries: int
    since: float  # loop seconds


class GrpcTransport:
    """One process's end of the network: at most one listening port, and a connection to each
    address that it calls or sends to.

    A node has two of them, one for its peers' port and one for its clients', so that clients can
    never use up what peers need. A process that only asks gives no address.

    Each address has one connection for calls and frames together, and one more for bulk frames.
    `call` fails at once when the peer's port is closed: whoever repeats paces itself.
    """

    def __init__(
        self,
        cluster: bytes,
        name: str,
        *,
        address: Address | None = None,
        bind: Address | None = None,
        tls: Tls | None = None,
        limits: PortLimits | None = None,
        channel_queued_bytes_max: int = CHANNEL_QUEUED_BYTES_MAX,
        close_grace_seconds: float = CLOSE_GRACE_SECONDS,
    ) -> None:
        """
        Args:
            cluster: Id of the cluster; both ends of every connection must have the same.
            name: Of this process, for its partners' logs.
            address: To listen at, `host:port`; port 0 takes a free one. Or `unix:path`.
            bind: Where to open the port instead, such as `0.0.0.0:7400`: `address` is then only
                what others are told.
            tls: Of the port and of every connection; None: in the clear.
            limits: Of the listening port.
            channel_queued_bytes_max: What may wait in each channel.
            close_grace_seconds: What running handlers get to end in at `close`.
        """
        self._identity = Identity(cluster, name)
        self._tls = tls
        self._server = (
            GrpcServer(address, self._identity, limits, bind=bind, tls=tls)
            if address is not None
            else None
        )
        self._channel_queued_bytes_max = channel_queued_bytes_max
        self._close_grace_seconds = close_grace_seconds
        self._connections: dict[tuple[Address, bool], grpc.aio.Channel] = {}
        self._calls: dict[Address, CallStream] = {}
        self._channels: dict[tuple[Address, bool], PeerChannel] = {}
        self._dialled_with: Material | None = None
        self._replaced: list[grpc.aio.Channel] = []  # in use until whoever uses them dials again
        self._unused: dict[tuple[Address, bool], _Unused] = {}
        self._doctor = Doctor(tls, self._missing, self._look_after)
        self._closed = False

    @property
    def server(self) -> GrpcServer:
        """The listening port, for its counters and its health."""
        if self._server is None:
            raise ValueError("this transport was given no address to listen at")
        return self._server

    @property
    def address(self) -> Address:
        """Where it listens; the real port once started."""
        return self.server.address

    @property
    def frames(self) -> dict[str, int]:
        """What became of frames so far. Of those sent from here: `sent`, and `dropped` because a
        channel was full or lost its connection; of those that came: `received`, and of these
        `failed`, which could not be handled."""
        channels = list(self._channels.values())
        counts = {
            "sent": sum(channel.frames_sent for channel in channels),
            "dropped": sum(channel.frames_dropped for channel in channels),
        }
        if self._server is not None:
            counts["received"] = self._server.frames_received
            counts["failed"] = self._server.frames_failed
        return counts

    async def start(self) -> Address:
        """Open the port. Raises AddressInUse, CannotListen: then nothing was started."""
        address = await self.server.start()
        self._doctor.start()
        return address

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        """As `labrpc.transport.Transport.call`."""
        if self._closed:
            raise Unreachable("this end was closed")
        stream = self._calls.get(to)
        if stream is None:
            stream = CallStream(to, self._identity, lambda: self._connection(to, bulk=False))
            self._calls[to] = stream
        return await stream.call(method, body, timeout)

    def channel(self, to: Address, *, bulk: bool = False) -> PeerChannel:
        """As `labrpc.transport.Transport.channel`."""
        channel = self._channels.get((to, bulk))
        if channel is None:
            channel = PeerChannel(
                to,
                self._identity,
                lambda: self._connection(to, bulk=bulk),
                queued_bytes_max=self._channel_queued_bytes_max,
                closed=self._closed,
            )
            self._channels[to, bulk] = channel
        return channel

    def serve(self, method: str, handler: CallHandler) -> None:
        """Answer calls of `method` with `handler`."""
        self.server.serve(method, handler)

    def serve_kv(self, handler: KvHandler) -> None:
        """Offer the typed service of `kv.proto` too. Only before `start`."""
        self.server.serve_kv(handler)

    def listen(self, handler: FrameHandler) -> None:
        """Hand every frame that a peer's channel brings to `handler`."""
        self.server.listen(handler)

    async def close(self) -> None:
        """Stop serving, let running handlers end within the grace, drop all connections."""
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            await self._server.close(self._close_grace_seconds)
        await self._doctor.close()
        ends: list[CallStream | PeerChannel] = [*self._calls.values(), *self._channels.values()]
        await asyncio.gather(*(end.close() for end in ends))
        # Each with its own connections: nothing is left that could dial again.
        connections = (*self._connections.values(), *self._replaced)
        await asyncio.gather(*(c.close(_CLOSE_SECONDS) for c in connections))
        self._connections.clear()

    def _connection(self, to: Address, *, bulk: bool) -> grpc.aio.Channel:
        """The connection, made when first needed; gRPC dials it again by itself."""
        if self._tls is not None:
            return self._secure_connection(to, self._tls, bulk=bulk)
        connection = self._connections.get((to, bulk))
        if connection is None:
            connection = dial(to, None, options.CLIENT)
            self._connections[to, bulk] = connection
        return connection

    def _secure_connection(self, to: Address, tls: Tls, *, bulk: bool) -> grpc.aio.Channel:
        """As `_connection`, with the certificates of now: whoever dials again after an exchange of
        them shows the new ones. Others may still use the connection made with the old ones."""
        now = self._retire(tls)
        connection = self._connections.get((to, bulk))
        if connection is None:
            connection = dial_with(to, now, options.CLIENT)
            self._connections[to, bulk] = connection
        return connection

    def _retire(self, tls: Tls) -> Material:
        """Set the connections aside that were dialled with other certificates than those of now."""
        now = tls.current()
        if now is not self._dialled_with:
            self._dialled_with = now
            self._replaced += self._connections.values()
            self._connections.clear()
        return now

    async def _look_after(self) -> None:
        self._renew()
        await self._let_go()

    async def _let_go(self) -> None:
        """Dial nobody any more who is not there and is not spoken to: nodes leave for good, and
        gRPC would look for each of them once a second, for ever. Who is spoken to again is dialled
        again."""
        now = asyncio.get_running_loop().time()
        for key in list(self._connections):
            if key not in self._connections or not self._is_unused(key, now):
                continue
            to, bulk = key
            # All of it before anything is awaited: whoever speaks to it from here on begins anew.
            connection, channel = self._connections.pop(key), self._channels.pop(key, None)
            if not bulk:
                self._calls.pop(to, None)
            del self._unused[key]
            self._replaced.append(connection)  # `close` must find it, wherever this is cut off
            log.info("%s is dialled no more: it is away, and nobody speaks to it", to)
            if channel is not None:
                await channel.close()
            await connection.close(_CLOSE_SECONDS)
            self._replaced.remove(connection)

    def _is_unused(self, key: tuple[Address, bool], now: float) -> bool:
        """Whether an address has been away, and nobody has spoken to it, for `UNUSED_SECONDS`."""
        to, bulk = key
        channel, calls = self._channels.get(key), None if bulk else self._calls.get(to)
        used = channel is not None and (channel.connected or channel.queued_bytes > 0)
        used = used or (calls is not None and calls.held)
        tries = (channel.frames_dropped if channel else 0) + (calls.asked if calls else 0)
        known = self._unused.get(key)
        if used or known is None or known.tries != tries:
            self._unused[key] = _Unused(tries, now)
            return False
        return now - known.since >= UNUSED_SECONDS

    def _renew(self) -> None:
        """Have who waits for a connection with certificates that were exchanged meanwhile dial with
        the new ones. What is connected stays."""
        if self._tls is not None and self._tls.current() is not self._dialled_with:
            self._retire(self._tls)
            for channel in self._channels.values():
                channel.redial()

    def _missing(self) -> list[Address]:
        """Whom frames are sent to in vain."""
        return [to for (to, _), channel in self._channels.items() if not channel.connected]
