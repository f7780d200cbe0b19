"""`/metrics`: what the node counts, as Prometheus reads it.

Nothing is registered and nothing incremented on the way of a request: a scrape reads the plain
numbers that `load`, `measures` and the parts of the node keep anyway. Figures of a group carry its
id as the label `group`; no figure is kept a shard or a key, so that a scrape stays small.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from raft.histogram import BOUNDS_US, Histogram
from raft.host import Host
from raft.types import NOBODY
from shardkv.admin import NodeStatus, ReplicaStatus
from shardkv.http.measures import HttpMeasures
from shardkv.http.standing import reasons_not_ready
from shardkv.load import Meter

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Figures(NamedTuple):
    """Where the node's numbers are. What the node has not opened yet is None or empty."""

    status: Callable[[], NodeStatus]
    http: HttpMeasures
    connections: Callable[[], int]
    refused: Callable[[], Mapping[str, int]]
    watchers: Callable[[], int]
    meter: Callable[[], Meter | None]
    in_flight: Callable[[], int]
    copied_bytes: Callable[[], int]
    given_bytes: Callable[[], int]
    proposals: Callable[[], Mapping[int, int]]  # waiting in each group
    syncs_waiting: Callable[[], Mapping[str, int]]  # of each database
    host: Callable[[], Host | None]
    frames: Callable[[], Mapping[str, int]]  # between nodes, by what became of them
    syncs: Callable[[], Mapping[str, Histogram]]  # of each database
    directories: Mapping[str, Path]  # of each database
    roomy: Callable[[], bool]
    free_bytes: Callable[[], int]


class NodeMetrics:
    """The text of `/metrics`."""

    def __init__(self, figures: Figures) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_NodeCollector(figures))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        figures, status = self._figures, self._figures.status()
        yield from _node(status)
        yield from _http(figures)
        yield from _operations(figures)
        yield from _raft(status, figures.host())
        yield _frames(figures.frames())
        yield from _shards(status, figures)
        yield from _disk(figures)


def _node(status: NodeStatus) -> Iterator[Family]:
    info = GaugeMetricFamily(
        "shardkv_node_info", "Which node this is; always 1.", labels=("node", "cluster", "version")
    )
    info.add_metric((status.node, status.cluster.hex(), status.version), 1)
    yield info
    ready = not reasons_not_ready(status)
    yield _gauge("shardkv_ready", "1 if the node is ready, as /readyz says.", int(ready))
    yield _gauge("shardkv_tasks", "Tasks of the node's event loop.", len(asyncio.all_tasks()))
    yield _gauge("shardkv_uptime_seconds", "Since the process started.", status.uptime_ms / 1000)
    yield _gauge(
        "shardkv_config_number", "The newest configuration heard of.", status.config_number
    )


def _http(figures: Figures) -> Iterator[Family]:
    measures = figures.http
    requests = CounterMetricFamily(
        "shardkv_http_requests", "HTTP requests answered; 499: the client left before.",
        labels=("kind", "status"),
    )  # fmt: skip
    for (kind, status), count in sorted(measures.requests.items()):
        requests.add_metric((kind, str(status)), count)
    yield requests
    yield _histograms(
        "shardkv_http_request_seconds", "From a request's headers to the end of its answer.",
        "kind", measures.latency,
    )  # fmt: skip
    yield _gauge(
        "shardkv_http_requests_under_way", "HTTP requests being answered.", measures.under_way
    )
    yield _gauge("shardkv_http_connections", "Open HTTP connections.", figures.connections())
    refused = CounterMetricFamily(
        "shardkv_http_refused_connections",
        "Connections closed for what came by them, before any request.",
        labels=("why",),
    )
    for why, count in sorted({"bad-request": 0, **figures.refused()}.items()):
        refused.add_metric((why,), count)
    yield refused
    yield _gauge("shardkv_http_watchers", "Readers of /events.", figures.watchers())


def _operations(figures: Figures) -> Iterator[Family]:
    meter = figures.meter()
    if meter is None:
        return
    operations = CounterMetricFamily(
        "shardkv_operations", "Operations answered by groups on this node, for whatever client.",
        labels=("kind",),
    )  # fmt: skip
    for kind, count in zip(("read", "write"), meter.operations, strict=True):
        operations.add_metric((kind,), count)
    yield operations
    yield _histograms(
        "shardkv_operation_seconds",
        "How long the frames took that held these operations; with a write in it: a write.",
        "kind", {"read": meter.reads, "write": meter.writes},
    )  # fmt: skip
    yield _gauge(
        "shardkv_operations_in_flight", "Operations waiting for their answer.", figures.in_flight()
    )
    proposals = GaugeMetricFamily(
        "shardkv_proposals_waiting", "Commands that wait to be committed and applied.",
        labels=("group",),
    )  # fmt: skip
    for gid, count in sorted(figures.proposals().items()):
        proposals.add_metric((str(gid),), count)
    yield proposals
    rejected = CounterMetricFamily(
        "shardkv_operations_rejected", "Operations turned away before anything was done.",
        labels=("why",),
    )  # fmt: skip
    for why in sorted({"node_full": 0, "group_late": 0, **meter.rejected}):
        rejected.add_metric((why,), meter.rejected.get(why, 0))
    yield rejected
    yield _histograms(
        "shardkv_apply_seconds", "Batches of committed entries, applied in memory.", "", meter.apply
    )


_RAFT: Final[tuple[tuple[str, str, Callable[[ReplicaStatus], int]], ...]] = (
    ("term", "The replica's term.", lambda r: r.term),
    ("commit_index", "Known to be committed.", lambda r: r.commit),
    ("applied_index", "Applied here.", lambda r: r.applied),
    ("last_index", "The end of the log here.", lambda r: r.last),
    ("lag_entries", "Known to be committed and not applied.", lambda r: r.commit - r.applied),
    ("log_bytes", "What the log holds here.", lambda r: r.log_bytes),
    ("leads", "1 if this replica leads its group.", lambda r: int(r.leads)),
    ("has_leader", "1 if this replica knows a leader.", lambda r: int(bool(r.leader))),
    ("stopped", "1 if this replica fell silent; its log says why.", lambda r: int(bool(r.stopped))),
    ("voters", "Voters of the group.", lambda r: len(r.voters)),
)


def _raft(status: NodeStatus, host: Host | None) -> Iterator[Family]:
    for name, words, value in _RAFT:
        family = GaugeMetricFamily(f"shardkv_raft_{name}", words, labels=("group",))
        for replica in status.replicas:
            family.add_metric((str(replica.gid),), value(replica))
        yield family
    if host is None:
        return
    led = CounterMetricFamily(
        "shardkv_raft_elections_won", "How often this replica became leader.", labels=("group",)
    )
    behind = GaugeMetricFamily(
        "shardkv_raft_follower_lag_entries",
        "Of a leader: what a member has not acknowledged.",
        labels=("group", "member"),
    )
    for gid, own in sorted(host.replicas.items()):
        led.add_metric((str(gid),), own.times_led)
        if not own.leads:
            continue
        last = own.core.log.last.index
        for id_, progress in sorted(own.core.progress.items()):
            member = own.member(id_)
            if id_ not in (NOBODY, own.id) and member is not None:
                behind.add_metric((str(gid), str(member.node)), last - progress.match)
    yield led
    yield behind
    yield _counter(
        "shardkv_raft_frames_sent", "Frames to other nodes, the messages of many groups in each.",
        host.frames_sent,
    )  # fmt: skip
    yield _counter("shardkv_raft_messages_sent", "What the frames held.", host.messages_sent)
    reads = CounterMetricFamily(
        "shardkv_raft_log_reads",
        "How often entries of the log were read: from memory (hit) or from the disk (miss).",
        labels=("group", "result"),
    )
    for gid, own in sorted(host.replicas.items()):
        read = own.core.log
        reads.add_metric((str(gid), "hit"), read.reads - read.reads_back)
        reads.add_metric((str(gid), "miss"), read.reads_back)
    yield reads
    dropped = CounterMetricFamily(
        "shardkv_raft_messages_dropped", "What came from other nodes and was not taken.",
        labels=("why",),
    )  # fmt: skip
    for why, count in sorted({"no such replica": 0, **host.dropped}.items())[:50]:
        dropped.add_metric((why,), count)
    yield dropped


def _frames(counts: Mapping[str, int]) -> Family:
    frames = CounterMetricFamily(
        "shardkv_peer_frames",
        "Frames between nodes: sent, dropped because a channel was full or lost its connection; "
        "received, and of these failed (a bug of either end: see the log).",
        labels=("outcome",),
    )
    for outcome, count in sorted(counts.items()):
        frames.add_metric((outcome,), count)
    return frames


def _shards(status: NodeStatus, figures: Figures) -> Iterator[Family]:
    shards = GaugeMetricFamily(
        "shardkv_shards", "Shards of a group by phase, as this replica knows it.",
        labels=("group", "phase"),
    )  # fmt: skip
    for replica in status.replicas:
        phases: dict[str, int] = {"serving": 0} if replica.gid else {}
        for shard in replica.shards:
            phases[shard.phase] = phases.get(shard.phase, 0) + 1
        for phase, count in sorted(phases.items()):
            shards.add_metric((str(replica.gid), phase), count)
    yield shards
    yield _counter(
        "shardkv_migration_received_bytes", "Rows of shards that were copied to groups led here.",
        figures.copied_bytes(),
    )  # fmt: skip
    yield _counter(
        "shardkv_migration_sent_bytes", "Rows of shards that other groups were given from here.",
        figures.given_bytes(),
    )  # fmt: skip


def _disk(figures: Figures) -> Iterator[Family]:
    waiting = GaugeMetricFamily(
        "shardkv_fsync_waiting", "Batches that wait for the disk.", labels=("database",)
    )
    for name, count in sorted(figures.syncs_waiting().items()):
        waiting.add_metric((name,), count)
    yield waiting
    yield _histograms("shardkv_fsync_seconds", "Synced batches.", "database", dict(figures.syncs()))
    sizes = GaugeMetricFamily(
        "shardkv_database_bytes", "Files of a LevelDB database.", labels=("database",)
    )
    for name, directory in sorted(figures.directories.items()):
        sizes.add_metric((name,), _directory_bytes(directory))
    yield sizes
    yield _gauge(
        "shardkv_disk_full",
        "1 while less than free_percent_min of the disk is free: clients' writes are refused.",
        int(not figures.roomy()),
    )
    yield _gauge(
        "shardkv_disk_free_bytes", "Free where the node keeps its data.", figures.free_bytes()
    )


def _directory_bytes(directory: Path) -> int:
    """Of its files; some may vanish meanwhile."""
    total = 0
    try:
        for file in directory.iterdir():
            try:
                total += file.stat().st_size
            except FileNotFoundError:
                continue
    except FileNotFoundError:
        return 0
    return total


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, value=value)


def _counter(name: str, words: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, words, value=value)


def _histograms(
    name: str, words: str, label: str, histograms: Histogram | Mapping[str, Histogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, words, labels=(label,) if label else ())
    rows: Iterable[tuple[Sequence[str], Histogram]]
    if isinstance(histograms, Histogram):
        rows = [((), histograms)]
    else:
        rows = [((key,), histograms[key]) for key in sorted(histograms)]
    for labels, histogram in rows:
        family.add_metric(labels, buckets=_buckets(histogram), sum_value=histogram.total_us / 1e6)
    return family


def _buckets(histogram: Histogram) -> list[Any]:
    """(upper bound in seconds, how many up to it), the last one without bound."""
    found, sofar = [], 0
    bounds = [f"{bound / 1e6:g}" for bound in BOUNDS_US]
    for bound, count in zip([*bounds, "+Inf"], histogram.buckets, strict=True):
        sofar += count
        found.append((bound, sofar))
    return found
