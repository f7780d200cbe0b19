"""The node and its cluster, to look at: status, probes, `/cluster`, `/events`, `/metrics`."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from shardkv.admin import NodeStatus
from shardkv.http import spec
from shardkv.http.keys import Asked
from shardkv.http.limits import STREAMS_MAX
from shardkv.http.metrics import MEDIA_TYPE
from shardkv.http.problems import Bad, Problem, not_ready, retry_after
from shardkv.http.replies import Reply, Streamed, json_reply, text_reply
from shardkv.http.requests import header, query_of
from shardkv.http.routes import Cold
from shardkv.http.standing import health_document, status_document
from shardkv.http.watching import Watching

EVENT_STREAM: Final = "text/event-stream"
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,14}")


class Views:
    """The handlers.

    Args:
        watching: None while the node is starting.
        warnings: Of the settings and the disk, for `/health`.
        owed: Groups that count a replica here, and there is none.
    """

    def __init__(
        self,
        status: Callable[[], NodeStatus],
        watching: Callable[[], Watching | None],
        metrics: Callable[[], bytes],
        warnings: Callable[[], tuple[str, ...]] = tuple,
        owed: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        self._status = status
        self._watching_now = watching
        self._metrics = metrics
        self._warnings = warnings
        self._owed = owed

    async def status(self, asked: Asked) -> Reply:
        query_of(asked.query)
        return json_reply(status_document(self._status(), self._owed()))

    async def health(self, asked: Asked) -> Reply:
        query_of(asked.query)
        now = self._status()
        document = health_document(now, self._warnings(), self._owed())
        return json_reply(document, 503 if document["reasons"] else 200)

    async def alive(self, asked: Asked) -> Reply:
        query_of(asked.query)
        return text_reply(b"alive\n")

    async def metrics(self, asked: Asked) -> Reply:
        query_of(asked.query)
        return Reply(200, self._metrics(), ((b"content-type", MEDIA_TYPE.encode()),))

    async def cluster(self, asked: Asked) -> Reply:
        query_of(asked.query)
        return json_reply(await self._watching().document())

    async def events(self, asked: Asked) -> Streamed:
        query_of(asked.query)
        raw = header(asked.headers, b"last-event-id") or b"0"
        if not _NUMBER.fullmatch(raw):
            raise Bad("Last-Event-ID must be the number of an event")
        watching = self._watching()
        if watching.watchers >= STREAMS_MAX:
            raise Problem(429, "overloaded", f"{STREAMS_MAX} watch already", retry_after())
        return Streamed(EVENT_STREAM, watching.stream(int(raw)), lambda: None)

    def _watching(self) -> Watching:
        watching = self._watching_now()
        if watching is None:
            raise not_ready("the node is starting")
        return watching

    def routes(self) -> tuple[Cold, ...]:
        wrong = spec.problems(400, 421)
        said = {"responses": {**spec.document("Status", "The node."), **wrong}}
        ready = {
            "responses": {
                **spec.document("Health", "It is ready."),
                **spec.document("Health", "It is not; `reasons` says why.", 503),
                **wrong,
            }
        }
        lives = {"responses": {**spec.plain("The process runs."), **wrong}}
        figures = {"responses": {**spec.plain("Figures for Prometheus."), **wrong}}
        whole = {
            "responses": {
                **spec.document("Cluster", "The cluster, as of the last second or so."),
                **spec.problems(400, 421, 503),
            }
        }
        get = "GET"
        return (
            Cold(get, "/status", "status", "node", "The node and its replicas.", self.status, said),
            Cold(get, "/health", "probe", "node", "Whether it is ready, and why not.",
                 self.health, ready),
            Cold(get, "/readyz", "probe", "node", "Whether it is ready.", self.health, ready),
            Cold(get, "/livez", "probe", "node", "Whether the process runs.", self.alive, lives),
            Cold(get, "/metrics", "metrics", "node", "What the node counts.",
                 self.metrics, figures),
            Cold(get, "/cluster", "cluster", "cluster", "All nodes, groups and shards, once.",
                 self.cluster, whole),
            Cold(get, "/events", "events", "cluster", "The cluster each second, and what happens.",
                 self.events, spec.EVENTS),
        )  # fmt: skip
