"""The front door of a node, put together: routes, door, server."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from labrpc.errors import CannotListen
from labrpc.grpc.addresses import probe
from labrpc.transport import Address
from shardkv.config import NodeConfig, host_of, is_loopback
from shardkv.http import spec
from shardkv.http.actions import Actions
from shardkv.http.bodies import Receive, Send
from shardkv.http.door import App, Door, Scope
from shardkv.http.inside import Parts
from shardkv.http.keys import Keys
from shardkv.http.listing import Listing
from shardkv.http.measures import HttpMeasures
from shardkv.http.metrics import NodeMetrics
from shardkv.http.page import Page
from shardkv.http.problems import no_such_path
from shardkv.http.routes import Cold, by_path, hot_routes, key_routes
from shardkv.http.views import Views
from shardkv.http.watching import Watching
from shardkv.http.wire import HttpServer

log = logging.getLogger(__name__)


DOCUMENTS: Final = (b"/openapi.json", b"/docs")

Aside = Callable[[Callable[[], App]], Awaitable[App]]


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
        bound = settings.bound(settings.http)
        return cls(
            host_of(bound),
            int(bound.rpartition(":")[2]),
            settings.http_get_writes,
            settings.http_actions,
            not is_loopback(host_of(bound)),
        )


class FrontDoor:
    """HTTP on a node. `start` it early: until the node runs it says so.

    Args:
        clock: Seconds that only go forward, fine enough to time one call.
        wall_clock: Seconds since the epoch.
        aside: Runs what takes long beside the loop.
        tls: Speak HTTPS.
        warnings: What `/health` shall tell besides, now.
    """

    def __init__(
        self,
        config: FrontConfig,
        inside: Parts,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        aside: Aside,
        tls: ssl.SSLContext | None = None,
        warnings: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._config = config
        self._inside = inside
        self._wall_clock = wall_clock
        self._tls = tls
        self._watching: Watching | None = None
        self._server: HttpServer | None = None
        self.measures = HttpMeasures(clock)
        keys = Keys(inside.clerk, get_writes=config.get_writes)
        figures = inside.figures(self.measures, self._connections, self._refused, self._watchers)
        text = NodeMetrics(figures).text
        views = Views(inside.status, lambda: self._watching, text, warnings, inside.owed)
        listing = Listing(inside.clerk)
        actions = Actions(inside.means, config.actions)
        cold = cold_routes(keys, listing, views, actions)
        page = Page()
        self._documents = _Documents(cold, aside)
        self.door = Door(
            (*hot_routes(keys), page.below()),
            by_path(cold) | page.routes(),
            self._documents,
            self.measures,
            host=None if config.any_host else config.host,
            tracing=inside.tracing,
        )

    @property
    def documents_made(self) -> bool:
        """Whether somebody has asked for the OpenAPI document."""
        return self._documents.made

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressInUse: somebody listens there.
            CannotListen: for any other reason.
        """
        await probe(self._config.address)
        server = HttpServer(self.door, self._wall_clock)
        try:
            await server.start(self._config.host, self._config.port, self._tls)
        except OSError as error:  # somebody was faster
            raise CannotListen(self._config.address, str(error)) from error
        self._server = server

    def watch(self) -> None:
        """The node runs: `/cluster` and `/events` are there from here on."""
        self._watching = Watching(self._inside.surroundings(), self._when)
        self._watching.start()

    async def close(self) -> None:
        if self._watching is not None:
            await self._watching.close()
        if self._server is not None:
            await self._server.close()

    def _when(self) -> str:
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _connections(self) -> int:
        return self._server.connections if self._server is not None else 0

    def _refused(self) -> dict[str, int]:
        return self._server.refused if self._server is not None else {}

    def _watchers(self) -> int:
        return self._watching.watchers if self._watching is not None else 0


def cold_routes(keys: Keys, listing: Listing, views: Views, actions: Actions) -> tuple[Cold, ...]:
    """All routes but those whose path ends in a key."""
    return (
        Cold("GET", "/kv", "list", "keys", "List keys by prefix.", listing.list_, spec.LIST),
        *key_routes(keys),
        *views.routes(),
        *actions.routes(),
    )


class _Documents:
    """The OpenAPI document and what shows it; made, and FastAPI imported, when it is asked for."""

    def __init__(self, cold: tuple[Cold, ...], aside: Aside) -> None:
        self._cold = cold
        self._aside = aside
        self._app: asyncio.Future[App] | None = None

    @property
    def made(self) -> bool:
        return self._app is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["raw_path"] not in DOCUMENTS:  # whoever tries paths shall not cost us FastAPI
            raise no_such_path()
        if self._app is None:
            self._app = asyncio.ensure_future(self._aside(self._made))
        app = await asyncio.shield(self._app)
        await app(scope, receive, send)

    def _made(self) -> App:
        from shardkv.http.app import make_app

        return make_app(self._cold)
