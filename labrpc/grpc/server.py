"""One listening port: calls, channels, the typed service, health and reflection."""

import logging
from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from labrpc.errors import CannotListen
from labrpc.grpc import addresses, options, wire_pb2
from labrpc.grpc.answering import WireServices
from labrpc.grpc.handshake import Identity
from labrpc.grpc.kv import KV_SERVICE, KvHandler, kv_service
from labrpc.grpc.tls import Tls, open_port
from labrpc.grpc.work import Work
from labrpc.limits import STREAMS_A_CONNECTION_MAX, PortLimits
from labrpc.transport import Address, CallHandler, FrameHandler

_SERVICES: Final = tuple(
    service.full_name for service in wire_pb2.DESCRIPTOR.services_by_name.values()
)
_END_SECONDS: Final = 0.5
"""What streams that were told to end get to say so to their partners."""

log = logging.getLogger(__name__)


class GrpcServer:
    """Answers at one address. A node has two, for peers and for clients, with limits each."""

    def __init__(
        self,
        address: Address,
        identity: Identity,
        limits: PortLimits | None = None,
        *,
        bind: Address | None = None,
        tls: Tls | None = None,
    ) -> None:
        """`address`: `host:port` (0 takes a free port, which `start` returns) or `unix:path`;
        `bind`: where the port is opened, if not there."""
        self.address = address
        self._bind, self._tls = bind or address, tls
        self._limits = limits or PortLimits()
        self._work = Work(self._limits)
        self._wire = WireServices(identity, self._work, tls)
        self._kv: KvHandler | None = None
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    def serve(self, method: str, handler: CallHandler) -> None:
        """Answer calls of `method` with `handler`; before or after `start`."""
        self._wire.call_handlers[method] = handler

    def listen(self, handler: FrameHandler) -> None:
        """Hand every frame to `handler`; before or after `start`."""
        self._wire.frame_handler = handler

    def serve_kv(self, handler: KvHandler) -> None:
        """Offer the typed service of `kv.proto`. Only before `start`."""
        assert self._server is None, "services are fixed when the port opens"
        self._kv = handler

    @property
    def operations(self) -> int:
        """Calls in flight."""
        return self._work.operations

    @property
    def refused(self) -> int:
        """Calls refused because a bound was met."""
        return self._work.refused

    @property
    def frames_received(self) -> int:
        """Frames that peers' channels brought."""
        return self._wire.frames_received

    @property
    def frames_failed(self) -> int:
        """Those of them that could not be handled; each is in the log."""
        return self._wire.frames_failed

    async def start(self) -> Address:
        """Open the port and return its address, with the port number taken.

        Raises:
            AddressInUse: somebody listens there.
            CannotListen: for any other reason.
        """
        await addresses.probe(self._bind)
        server = grpc.aio.server(
            options=options.server(self._limits),
            maximum_concurrent_rpcs=self._limits.node_operations_max
            + self._limits.connections_max * STREAMS_A_CONNECTION_MAX,
        )
        server.add_generic_rpc_handlers(self._wire.handlers())
        names = [*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME]
        if self._kv is not None:
            server.add_generic_rpc_handlers((kv_service(self._kv, self._work),))
            names.append(KV_SERVICE)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(names, server)
        try:
            bound = open_port(server, self._bind, self._tls)
        except RuntimeError as error:  # somebody was faster
            await server.stop(None)
            raise CannotListen(self._bind, str(error)) from error
        await server.start()
        self._server = server
        self.address = addresses.opened(self.address, bound)
        return self.address

    async def set_serving(self, serving: bool, service: str = "") -> None:
        """What health checks are told of `service`; "" is the whole process."""
        state = health_pb2.HealthCheckResponse
        await self._health.set(service, state.SERVING if serving else state.NOT_SERVING)

    async def close(self, grace: float) -> None:
        """Take on nothing more, let what runs end within `grace` seconds, close the port."""
        self._work.close()  # before anything is awaited: what comes from here on is not begun
        await self._health.enter_graceful_shutdown()
        await self._work.drain(grace)
        await self._wire.close(grace)
        if self._server is not None:
            await self._server.stop(_END_SECONDS)
            self._server = None
