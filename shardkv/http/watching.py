"""Looks at the cluster while somebody watches, and tells every watcher the same.

While nobody watches, a node looks only at its own replicas, once a second, and asks nobody: so the
log of events goes back to before the page was opened, and an idle cluster stays idle. With watchers
one look at all nodes a second serves all of them, and while shards are on the move four a second,
so that the phases of a move are seen.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from raft.chores import begin_chore
from shardctrler.types import View
from shardkv import admin
from shardkv.admin import BadAdmin, NodeStatus, Nothing
from shardkv.growth import CONTROLLER_GID, leader_of
from shardkv.healing_beats import HEALTH, HealthReport
from shardkv.http.cluster import Sample, cluster_document
from shardkv.http.events import EventLog, Local, events_between, local_events
from shardkv.load import LOAD, NodeLoad

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
CLOSE_LOOK_SECONDS: Final = 0.25
"""Between two looks while shards are on the move."""
CLOSELY_SECONDS: Final = 3.0
"""For so long after a new configuration: its moves may begin a little later."""
ASK_SECONDS: Final = 0.8
"""A node that has not answered by then is silent in this look."""
LINGER_SECONDS: Final = 3.0
"""So long after the last watcher has left the cluster is still looked at: a page reloads."""
LATE_SECONDS: Final = 10.0
"""A stream without any news for so long is ended: the browser comes back."""
FRESH_SECONDS: Final = 1.5
RETRY_MS: Final = 1000
"""When a browser that lost its connection shall come back."""


class Surroundings(NamedTuple):
    """What watching needs of its node."""

    node: str
    status: Callable[[], NodeStatus]
    load: Callable[[], NodeLoad]
    replicas: Callable[[], Iterable[Local]]
    view: Callable[[], View | None]
    transport: Transport


class Told(NamedTuple):
    """What a node that was asked said; None: it did not answer."""

    status: NodeStatus | None
    load: NodeLoad | None


class WallClock(Protocol):
    """The time as people read it."""

    def __call__(self) -> str: ...


class Watching:
    """One node's eyes on its cluster.

    Args:
        when: The present moment as text.
    """

    def __init__(self, around: Surroundings, when: WallClock) -> None:
        self.events = EventLog()
        self.watchers = 0
        self._around = around
        self._when = when
        self._loop = asyncio.get_running_loop()
        self._last_wanted = float("-inf")
        self._closely_until = float("-inf")
        self._config = 0
        self._local: dict[int, Local] = {}
        self._sample: Sample | None = None
        self._earlier: deque[Sample] = deque()
        """Those of the last second: rates are drawn over no less, however often is looked."""
        self._last_seen: dict[str, float] = {}
        self._number = 0
        self._document: dict[str, Any] = {}
        self._text = b""
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._looking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        self._task = begin_chore(self._run(), "the cluster is no longer watched by this node")

    async def close(self) -> None:
        self._closed = True
        self._tell()
        tasks = [task for task in (self._task, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def document(self) -> dict[str, Any]:
        """The cluster now; at most 1.5 s old."""
        sample = self._sample
        if sample is None or self._loop.time() - sample.at > FRESH_SECONDS:
            await self._look()
        return self._document

    async def stream(self, after: int) -> AsyncIterator[bytes]:
        """Server-sent events: `log` for each event after number `after`, `cluster` each second."""
        self.watchers += 1
        told, number = after, -1
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            await self.document()
            while not self._closed:
                pieces = []
                for document in self.events.after(told):
                    told = document["number"]
                    pieces.append(_message("log", _json(document), told))
                told = min(told, self.events.last)  # a number of another life of this node
                if self._number != number:
                    number = self._number
                    pieces.append(_message("cluster", self._text))
                yield b"".join(pieces) or b": still here\n\n"
                news = self._news
                async with asyncio.timeout(LATE_SECONDS):
                    await asyncio.shield(news)
        except TimeoutError:
            log.warning("the cluster was not looked at in time")
        finally:
            self.watchers -= 1
            self._last_wanted = self._loop.time()

    async def _run(self) -> None:
        around = self._around
        while True:
            view = around.view()
            number = 0 if view is None else int(view.config.number)
            if news := self._local_news():
                self.events.add(local_events(around.node, news, 0), self._when())
            now = self._loop.time()
            if number != self._config:
                self.events.add(local_events(around.node, (), number), self._when())
                self._config, self._closely_until = number, now + CLOSELY_SECONDS
            wanted = self.watchers or now - self._last_wanted < LINGER_SECONDS
            pause = CLOSE_LOOK_SECONDS if now < self._closely_until else LOOK_SECONDS
            if wanted and (
                self._sample is None or now - self._sample.at > pause - CLOSE_LOOK_SECONDS / 2
            ):
                await self._look()
            # A new configuration is noticed soon by whom it matters to.
            await asyncio.sleep(CLOSE_LOOK_SECONDS if wanted else LOOK_SECONDS)

    def _local_news(self) -> list[Local]:
        """Own replicas that are not as at the last look."""
        before, self._local = self._local, {one.gid: one for one in self._around.replicas()}
        return [one for one in self._local.values() if before.get(one.gid) != one]

    async def _look(self) -> None:
        """Look at all nodes; who comes while a look is under way shares it."""
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._take())
        await asyncio.shield(self._looking)

    async def _take(self) -> None:
        around, view = self._around, self._around.view()
        places = {} if view is None else _places(view)
        others = {name: place for name, place in places.items() if name != around.node}
        answers, health = await asyncio.gather(
            asyncio.gather(*(self._ask(to) for to in others.values())), self._health(places)
        )
        now = self._loop.time()
        seen: dict[str, NodeStatus | None] = {around.node: around.status()}
        loads: dict[str, NodeLoad | None] = {around.node: around.load()}
        for name, (status, load) in zip(others, answers, strict=True):
            seen[name], loads[name] = status, load
        names = sorted(seen)
        for name in names:
            if seen[name] is not None:
                self._last_seen[name] = now
        sample = Sample(
            now,
            {name: seen[name] for name in names},
            {name: loads[name] for name in names},
            {name: at for name, at in self._last_seen.items() if name in seen},
            health,
        )
        if self._sample is not None:
            self.events.add(events_between(self._sample.seen, sample.seen), self._when())
        self._sample = sample
        self._number += 1
        self._document = cluster_document(
            around.node, view, self._base(now), sample, when=self._when(), number=self._number
        )
        self._earlier.append(sample)
        if any(shard["phase"] == "moving" for shard in self._document["shards"]):
            self._closely_until = max(self._closely_until, now + LOOK_SECONDS)
        self._text = _json(self._document)
        self._tell()

    def _base(self, now: float) -> Sample | None:
        """The newest look that is about a second old, or the oldest there is."""
        least = now - LOOK_SECONDS + CLOSE_LOOK_SECONDS / 2
        while len(self._earlier) > 1 and self._earlier[1].at <= least:
            self._earlier.popleft()
        return self._earlier[0] if self._earlier else None

    async def _health(self, places: Mapping[str, str]) -> HealthReport | None:
        """What the controller's leader thinks of each node; None: it was not to be had."""
        found = leader_of(CONTROLLER_GID, self._sample.seen) if self._sample is not None else None
        to = places.get(found[0]) if found is not None else None
        report = await self._one(to, HEALTH, HealthReport) if to is not None else None
        return report if report is not None and report.leads else None

    def _tell(self) -> None:
        news, self._news = self._news, self._loop.create_future()
        if not news.done():
            news.set_result(None)

    async def _ask(self, to: str) -> Told:
        status, load = await asyncio.gather(
            self._one(to, admin.STATUS, NodeStatus), self._one(to, LOAD, NodeLoad)
        )
        return Told(status, load)

    async def _one(self, to: str, method: str, kind: type[Any]) -> Any:
        try:
            body = await self._around.transport.call(
                Address(to), method, admin.encode(Nothing()), timeout=ASK_SECONDS
            )
            return admin.decode(kind, body)
        except (RpcError, BadAdmin) as error:
            log.debug("%s does not answer %s: %s", to, method, error)
            return None


def _places(view: View) -> dict[str, str]:
    nodes: Mapping[Any, Any] = view.directory.nodes
    return {str(node): addresses.client for node, addresses in nodes.items()}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _message(kind: str, data: bytes, number: int | None = None) -> bytes:
    """One server-sent event; its data has no line ends, being JSON."""
    named = b"" if number is None else b"id: %d\n" % number
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), named, data)
