"""uvicorn in the node's own loop, with the guards that it lacks.

uvicorn's own server would take the process's signals and wake ten times a second; only its protocol
is used. httptools bounds neither URL nor headers and waits for ever, so this class counts and
watches: past a bound a connection gets one short answer and is closed.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from shardkv.http.limits import (
    CONNECTIONS_MAX,
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    HEADERS_SECONDS,
    KEEP_ALIVE_SECONDS,
    SEND_SECONDS,
    STOP_SECONDS,
    URL_BYTES_MAX,
)
from shardkv.http.problems import MEDIA_TYPE, Problem, retry_after
from shardkv.node_tls import has_certificate

log = logging.getLogger(__name__)
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
"""It would write a line for each bad request; those are counted here."""

BACKLOG: Final = 4096
"""Connections that the kernel holds until they are accepted; its own bound may be lower. One that
does not fit looks open to a client that says nothing, and is nobody's."""


class _Refused(Exception):
    """The connection was answered and closed from within the parser."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    server_state: "_State"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._in_headers = False
        self._watch: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._refusal: Problem | None = None  # told once what came before it is answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._certified = has_certificate(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            words = f"this node has {CONNECTIONS_MAX} connections, its limit: ask another, or again"
            self._refuse(Problem(503, "too-many-connections", words, retry_after()))
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        self._unstick()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._refusal is not None:
            return
        if self._watch is None and not self._in_headers and self._is_idle():
            self._await_headers()
        self._header_bytes += len(data) if self._in_headers else 0
        super().data_received(data)
        if self._in_headers and self._header_bytes > URL_BYTES_MAX + HEADERS_BYTES_MAX:
            self._refuse(Problem(431, "headers-too-long", "the request's headers are too long"))

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._in_headers = True
        self._watch = self.loop.call_later(HEADERS_SECONDS, self._headers_late)

    def _headers_came(self) -> None:
        self._in_headers = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _headers_late(self) -> None:
        self._watch = None
        self._refuse(Problem(408, "headers-too-slow", f"no request within {HEADERS_SECONDS:g} s"))

    # What the parser calls. An exception here reaches `data_received` as a parser error.

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES_MAX:
            self._refuse(Problem(414, "url-too-long", f"a URL is at most {URL_BYTES_MAX} bytes"))
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        size = sum(len(n) + len(v) for n, v in self.headers[-1:]) + 4
        self._counted += size
        if len(self.headers) > HEADERS_MAX or self._counted > HEADERS_BYTES_MAX:
            self._refuse(
                Problem(
                    431,
                    "headers-too-long",
                    f"a request has at most {HEADERS_MAX} headers of {HEADERS_BYTES_MAX} bytes",
                )
            )
            raise _Refused
        if self.headers[-1][0] == b"transfer-encoding" and value.strip().lower() != b"chunked":
            # Whoever is in between may have read it another way, and so another body.
            self._refuse(Problem(501, "unknown-transfer-coding", "a body comes whole or chunked"))
            raise _Refused

    def on_message_begin(self) -> None:
        self._counted = 0
        super().on_message_begin()
        self.scope["shardkv.certified"] = self._certified  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._headers_came()
        if not self.url.startswith((b"/", b"http://")):  # CONNECT, and OPTIONS *
            self._refuse(Problem(400, "bad-request", "the request's target must be a path"))
            raise _Refused
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(Problem(505, "http-version", "this node speaks HTTP/1.1 and HTTP/1.0"))
            raise _Refused
        if version == "1.1" and not any(name == b"host" for name, _ in self.headers):
            self._refuse(Problem(400, "bad-request", "a request has a Host header"))
            raise _Refused
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        last = not self.pipeline  # else the next one begins
        super().on_response_complete()
        if self._refusal is not None and last and not self.transport.is_closing():
            self._say(self._refusal)

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing() and self._refusal is None:
            self._refuse(Problem(400, "bad-request", "this is no HTTP/1.1 request"))

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is not taken; the request is answered as it is."""

    # A client that does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(SEND_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unstick()

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _give_up(self) -> None:
        self._stuck = None
        self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Answer what cannot be taken, and close; after the answers to what came whole before."""
        self._headers_came()
        if self.transport.is_closing():
            return
        refused = self.server_state.refused
        refused[problem.name] = refused.get(problem.name, 0) + 1
        if not self._is_idle():
            self._drop_unfinished()
        if self._is_idle():
            self._say(problem)
        else:
            self._refusal = problem
            self.flow.pause_reading()

    def _drop_unfinished(self) -> None:
        """The newest request lacks a part of its body, which will not come: its handler is told
        that the client has left, so nothing of it is done."""
        cycle = self.cycle
        if not cycle.more_body:
            return
        cycle.disconnected = True
        cycle.message_event.set()
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # it was not begun yet; the one before it is
        elif not cycle.response_started:
            cycle.response_complete = True  # answered here
        else:
            self.transport.close()

    def _say(self, problem: Problem) -> None:
        body = problem.body()
        self.transport.write(
            b"".join(
                (
                    STATUS_LINE[problem.status],
                    b"content-type: %b\r\n" % MEDIA_TYPE.encode(),
                    b"content-length: %d\r\n" % len(body),
                    *(b"%b: %b\r\n" % header for header in problem.headers),
                    b"connection: close\r\n\r\n",
                    body,
                )
            )
        )
        self.transport.close()


class _State(ServerState):
    """uvicorn's shared state, whose `Date` header is made when it is asked for and old."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wall_clock: Callable[[], float]) -> None:
        self._loop, self._wall_clock = loop, wall_clock
        self._date_at = float("-inf")
        self._date: list[tuple[bytes, bytes]] = []
        self.refused: dict[str, int] = {}
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now = self._loop.time()
        if now - self._date_at >= 1.0:
            self._date_at = now
            self._date = [(b"date", formatdate(self._wall_clock(), usegmt=True).encode())]
        return self._date

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """uvicorn's server sets them; ours are made above."""


class HttpServer:
    """Listens, and stops when told to; it takes no signals and has no tick.

    Args:
        app: An ASGI application.
        wall_clock: Seconds since the epoch, for `Date`.
    """

    def __init__(self, app: Any, wall_clock: Callable[[], float]) -> None:
        self._config = Config(
            app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            interface="asgi3",
        )
        self._config.load()
        self._loop = asyncio.get_running_loop()
        self._state = _State(self._loop, wall_clock)
        self._server: asyncio.AbstractServer | None = None

    @property
    def connections(self) -> int:
        return len(self._state.connections)

    @property
    def refused(self) -> dict[str, int]:
        """Connections that were closed for what came by them, by the problem's name."""
        return self._state.refused

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen; with `tls`, to HTTPS.

        Raises:
            OSError: the address cannot be had.
        """
        self._server = await self._loop.create_server(
            self._protocol,
            host=host,
            port=port,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=HEADERS_SECONDS if tls is not None else None,
        )

    def _protocol(self) -> GuardedProtocol:
        return GuardedProtocol(self._config, self._state, {}, self._loop)

    async def close(self) -> None:
        """Take no more connections, let what is under way end for a moment, cut off the rest."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = list(self._state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._server = None
