"""The front door of a node, put together: routes, door, server."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from labrpc.errors import CannotListen
from labrpc.grpc.addresses import probe
from labrpc.transport import Address
from shardkv.admin import NodeStatus
from shardkv.config import NodeConfig
from shardkv.http import spec
from shardkv.http.app import Cold, make_door, old_routes
from shardkv.http.keys import Asked, ClerkSource, Keys
from shardkv.http.measures import HttpMeasures
from shardkv.http.replies import Reply, json_reply, text_reply
from shardkv.http.requests import query_of
from shardkv.http.standing import health_document, reasons_not_ready, status_document
from shardkv.http.wire import HttpServer

log = logging.getLogger(__name__)


class FrontConfig(NamedTuple):
    """What the settings say of HTTP."""

    host: str
    port: int
    get_writes: bool = False
    actions: str = "loopback"
    any_host: bool = False  # whether `Host` may be any name: the port is open to other machines

    @property
    def address(self) -> Address:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Address(f"{host}:{self.port}")

    @classmethod
    def of(cls, settings: NodeConfig) -> "FrontConfig":
        """Of a node's settings, in which HTTP is not off."""
        host, _, port = settings.http.rpartition(":")
        return cls(
            host.strip("[]"),
            int(port),
            settings.http_get_writes,
            settings.http_actions,
            settings.insecure_listen,
        )


class Inside(NamedTuple):
    """What the front door needs of its node."""

    clerk: ClerkSource
    status: Callable[[], NodeStatus]


class FrontDoor:
    """HTTP on a node.

    Args:
        clock: Seconds that only go forward, fine enough to time one call.
        wall_clock: Seconds since the epoch.
    """

    def __init__(
        self,
        config: FrontConfig,
        inside: Inside,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._inside = inside
        self._wall_clock = wall_clock
        self.measures = HttpMeasures(clock)
        keys = Keys(inside.clerk, get_writes=config.get_writes)
        cold = (*old_routes(keys), *standing_routes(inside))
        self.door = make_door(
            keys, cold, self.measures, host=None if config.any_host else config.host
        )
        self._server: HttpServer | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressInUse: somebody listens there.
            CannotListen: for any other reason.
        """
        await probe(self._config.address)
        server = HttpServer(self.door, self._wall_clock)
        try:
            await server.start(self._config.host, self._config.port)
        except OSError as error:  # somebody was faster
            raise CannotListen(self._config.address, str(error)) from error
        self._server = server

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()


def standing_routes(inside: Inside) -> tuple[Cold, ...]:
    """How the node is."""

    async def status(asked: Asked) -> Reply:
        query_of(asked.query)
        return json_reply(status_document(inside.status()))

    async def health(asked: Asked) -> Reply:
        query_of(asked.query)
        now = inside.status()
        return json_reply(health_document(now), 503 if reasons_not_ready(now) else 200)

    async def alive(asked: Asked) -> Reply:
        query_of(asked.query)
        return text_reply(b"alive\n")

    said = {"responses": {**spec.document("Status", "The node."), **spec.problems(400, 421)}}
    ready = {
        "responses": {
            **spec.document("Health", "It is ready."),
            **spec.document("Health", "It is not; `reasons` says why.", 503),
            **spec.problems(400, 421),
        }
    }
    lives = {"responses": {**spec.plain("The process runs."), **spec.problems(400, 421)}}
    return (
        Cold("GET", "/status", "status", "node", "The node and its replicas.", status, said),
        Cold("GET", "/health", "probe", "node", "Whether it is ready, and why not.", health, ready),
        Cold("GET", "/readyz", "probe", "node", "Whether it is ready.", health, ready),
        Cold("GET", "/livez", "probe", "node", "Whether the process runs.", alive, lives),
    )
