"""The network of the MIT 6.5840 labs, on bytes and in virtual time.

Ends are bound to server *names*; a call either brings the answer or None, and says no more than
that. What happens to a call, in the order of the labs' own network:

1. Every call counts, with its bytes, also to dead servers. After `cleanup` it is None at once.
2. The end, its server and the flags are looked at once: a later switch changes nothing for it.
3. Unreachable (end disabled or unconnected, server deleted): None after 0 to 99 ms, or, with long
   delays, 0 to 6,999 ms.
4. Unreliable: 0 to 26 ms of delay, then one request in ten is lost: None at once.
5. The handler runs. While it does, and when it has ended, the call is *dead* if its end was
   disabled or the server deleted or replaced: None, within 100 ms. The handler runs to its end.
6. Unreliable: one answer in ten is lost: None at once. Otherwise, with long reordering, two answers
   in three are late by 200 to 2,199 ms, and then arrive whatever happened meanwhile.

Beside all this a hop takes 0.5 to 1.5 ms each way, so that the virtual clock moves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import ContextVar
from random import Random
from typing import Final

Handler = Callable[[bytes], "bytes | Awaitable[bytes]"]

HOP_SECONDS_MIN: Final = 0.0005
HOP_SECONDS_MAX: Final = 0.0015
UNRELIABLE_DELAYS_MS: Final = 27
LOST_IN_1000: Final = 100
UNREACHABLE_DELAYS_MS: Final = 100
UNREACHABLE_LONG_DELAYS_MS: Final = 7000
REORDERED_IN_900: Final = 600
REORDERED_MS_MIN: Final = 200
REORDERED_DELAYS_MS: Final = 2000
DEAD_POLL_SECONDS: Final = 0.1


class LabServer:
    """What answers under one server name.

    Args:
        handlers: Each method's handler, by `Service.Method`.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.count = 0  # of the requests handed to it
        self._handlers = dict(handlers)

    def dispatch(self, method: str, body: bytes) -> "bytes | Awaitable[bytes]":
        """Run a handler.

        Raises:
            LookupError: there is no such method.
        """
        self.count += 1
        handler = self._handlers.get(method)
        if handler is None:
            raise LookupError(f"no method {method!r}; there are {sorted(self._handlers)}")
        return handler(body)


class LabEnd:
    """One client's end of one way to one server."""

    def __init__(self, network: "LabNetwork", name: Hashable) -> None:
        self._network, self.name = network, name

    def call(self, method: str, body: bytes) -> "asyncio.Future[bytes | None]":
        """Ask; the future brings the answer, or None, which says nothing about what happened."""
        return self._network.call(self, method, body)


NETWORKS: ContextVar["list[LabNetwork] | None"] = ContextVar("networks", default=None)
"""Where whoever runs a test collects the networks made in it, for their counts; None: nowhere."""


class LabNetwork:
    """Ends, servers, and what can go wrong between them.

    Args:
        rng: Decides delays and losses.
    """

    def __init__(self, rng: Random) -> None:
        self.total_count = 0
        self.total_bytes = 0
        self.reliable = True
        self.long_delays = False
        """Calls to who cannot be reached may take up to 7 s to fail."""
        self.long_reordering = False
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._cleaned_up = False
        self._ends: dict[Hashable, LabEnd] = {}
        self._enabled: dict[Hashable, bool] = {}
        self._connected: dict[Hashable, Hashable] = {}  # end name to server name
        self._servers: dict[Hashable, LabServer | None] = {}
        self._running: dict[_Running, None] = {}  # calls whose handler runs
        networks = NETWORKS.get()
        if networks is not None:
            networks.append(self)

    def make_end(self, name: Hashable) -> LabEnd:
        """A new end, disabled and not connected."""
        if name in self._ends:
            raise ValueError(f"the end {name!r} exists already")
        end = self._ends[name] = LabEnd(self, name)
        self._enabled[name] = False
        return end

    def delete_end(self, name: Hashable) -> None:
        del self._ends[name]
        del self._enabled[name]
        self._connected.pop(name, None)
        self._look_for_the_dead()

    def connect(self, end: Hashable, server: Hashable) -> None:
        """Bind an end to a server's name, not to the server there now."""
        self._connected[end] = server

    def enable(self, end: Hashable, enabled: bool) -> None:
        self._enabled[end] = enabled
        if not enabled:
            self._look_for_the_dead()

    def add_server(self, name: Hashable, server: LabServer) -> None:
        """Install a server, replacing the one of that name."""
        self._servers[name] = server
        self._look_for_the_dead()

    def delete_server(self, name: Hashable) -> None:
        self._servers[name] = None
        self._look_for_the_dead()

    @property
    def servers(self) -> int:
        """Server names that there ever were."""
        return len(self._servers)

    def count(self, server: Hashable) -> int:
        """Requests handed to the server that is now installed under the name."""
        installed = self._servers[server]
        if installed is None:
            raise LookupError(f"the server {server!r} was deleted")
        return installed.count

    def cleanup(self) -> None:
        """Let every later call fail at once; those under way run on."""
        self._cleaned_up = True

    # A call's way

    def call(self, end: LabEnd, method: str, body: bytes) -> "asyncio.Future[bytes | None]":
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        if self._cleaned_up:
            future.set_result(None)
            return future
        self.total_count += 1
        self.total_bytes += len(body)
        server_name = self._connected.get(end.name)
        server = self._servers.get(server_name) if server_name is not None else None
        if server is None or not self._enabled.get(end.name, False):
            longest = UNREACHABLE_LONG_DELAYS_MS if self.long_delays else UNREACHABLE_DELAYS_MS
            self._loop.call_later(self._rng.randrange(longest) / 1000, _settle, future, None)
            return future
        running = _Running(
            self, end.name, server_name, server, self.reliable, self.long_reordering, future
        )
        delay = self._hop()
        if not running.reliable:
            delay += self._rng.randrange(UNRELIABLE_DELAYS_MS) / 1000
            if self._rng.randrange(1000) < LOST_IN_1000:
                self._loop.call_later(delay, _settle, future, None)
                return future
        self._loop.call_later(delay, running.dispatch, method, body)
        return future

    def is_dead(self, call: "_Running") -> bool:
        return (
            not self._enabled.get(call.end, False)
            or self._servers.get(call.server_name) is not call.server
        )

    def begun(self, call: "_Running") -> None:
        self._running[call] = None

    def ended(self, call: "_Running") -> None:
        self._running.pop(call, None)

    def answered(self, call: "_Running", answer: bytes) -> None:
        """A handler has ended; decide what becomes of its answer."""
        if self.is_dead(call) or (not call.reliable and self._rng.randrange(1000) < LOST_IN_1000):
            _settle(call.future, None)
        elif call.long_reordering and self._rng.randrange(900) < REORDERED_IN_900:
            inner = self._rng.randrange(REORDERED_DELAYS_MS)
            late = (REORDERED_MS_MIN + self._rng.randrange(1 + inner)) / 1000
            self._loop.call_later(late, self._deliver, call.future, answer)
        else:
            self._loop.call_later(self._hop(), self._deliver_unless_dead, call, answer)

    def _deliver_unless_dead(self, call: "_Running", answer: bytes) -> None:
        if self.is_dead(call):
            _settle(call.future, None)
        else:
            self._deliver(call.future, answer)

    def _deliver(self, future: "asyncio.Future[bytes | None]", answer: bytes) -> None:
        self.total_bytes += len(answer)
        _settle(future, answer)

    def _hop(self) -> float:
        return self._rng.uniform(HOP_SECONDS_MIN, HOP_SECONDS_MAX)

    def _look_for_the_dead(self) -> None:
        """Give up the calls that have just died, each when its next look is due.

        The labs' network looks at each waiting call every 100 ms; only a change can kill one, so
        the looks between are not needed.
        """
        now = self._loop.time()
        for call in self._running:
            if self.is_dead(call):
                looks = int((now - call.begun_at) / DEAD_POLL_SECONDS) + 1
                self._loop.call_at(call.begun_at + looks * DEAD_POLL_SECONDS, self._give_up, call)

    def _give_up(self, call: "_Running") -> None:
        if call in self._running and self.is_dead(call):
            self.ended(call)
            _settle(call.future, None)


class _Running:
    """A call past the first look at it."""

    def __init__(
        self,
        network: LabNetwork,
        end: Hashable,
        server_name: Hashable,
        server: LabServer,
        reliable: bool,
        long_reordering: bool,
        future: "asyncio.Future[bytes | None]",
    ) -> None:
        self.network, self.end, self.server_name, self.server = network, end, server_name, server
        self.reliable, self.long_reordering, self.future = reliable, long_reordering, future
        self.begun_at = 0.0

    def dispatch(self, method: str, body: bytes) -> None:
        answer = self.server.dispatch(method, body)
        if isinstance(answer, bytes):
            self.network.answered(self, answer)
            return
        self.begun_at = asyncio.get_running_loop().time()
        self.network.begun(self)
        asyncio.ensure_future(answer).add_done_callback(self._ended)

    def _ended(self, handled: "asyncio.Future[bytes]") -> None:
        self.network.ended(self)
        if handled.cancelled():  # the server is gone, and its handlers with it
            _settle(self.future, None)
        elif not self.future.done():
            self.network.answered(self, handled.result())


def _settle(future: "asyncio.Future[bytes | None]", answer: bytes | None) -> None:
    if not future.done():  # its caller may have given up
        future.set_result(answer)
