"""How much the nodes of a simulated cluster keep, in memory and on disk (B5, B7).

B5: every queue has a bound in bytes, and so has a node's memory, whatever its peers, its disk and
its clients do. Each queue is held against its own bound, again and again.

B7: a disk holds the live data, at most `COPIES_MAX` times over (a copy that is staged beside the
one that it replaces, and what was let go and is not yet deleted), and logs. At rest it holds what
is live and nothing else: every row is of a replica that is there, of its present install, of a
copy of a shard that is alive, or of its log.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from labrpc.limits import BODY_BYTES_MAX, CHANNEL_QUEUED_BYTES_MAX
from labs.canonical import live_bytes, live_rows
from labs.cluster import DATA, LOG, SimCluster, SimNode
from raft.disk.data_store import PROGRESS, ROWS, rows_prefix
from raft.disk.records import ENTRY, TOMBSTONE, group_of, index_of
from raft.log import entry_bytes
from raft.replica import Replica
from raft.types import GroupId, NodeId

LOOK_SECONDS: Final = 0.5
COPIES_MAX: Final = 4
LOOKS_MAX: Final = 4
"""A replica that catches up leaves in a moment what housekeeping sweeps in its next turns."""
SMALL_BYTES: Final = 8192
"""What a disk may hold besides: with a few rows of data, what describes them weighs more, and what
a group held between two looks is not weighed."""


class Bounds:
    """Of one cluster.

    Attributes:
        most_queued: The most bytes that all queues of a node held at once.
    """

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self.most_queued = 0
        # The most that a group's state ever weighed, and whose replicas a node ever had: what a
        # replica has deleted is there again when its node lost power before that was durable.
        self._live: dict[GroupId, int] = {}
        self._held: dict[NodeId, dict[GroupId, None]] = {}
        self._over: dict[NodeId, int] = {}  # looks in a row that found too much on the disk

    async def watch(self) -> None:
        """Look at every node now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            nodes = [node for node in self._cluster.nodes.values() if node.running]
            self._weigh(nodes)
            for node in nodes:
                self._look_at_queues(node)
                self._look_at_disk(node)

    def _look_at_queues(self, node: SimNode) -> None:
        assert node.host is not None and node.transport is not None
        total = 0
        for replica in node.host.replicas.values():
            for what, held, most in _queues(replica):
                total += held
                if held > most:
                    self._cluster.observer.broke(
                        "B5", f"{node.name}, group {replica.gid}: {held} bytes {what}, {most} may"
                    )
        memory = node.host.entry_memory
        held, most = _in_memory(node.host.replicas.values(), memory.bytes_max)
        if held > most or held != memory.used:
            self._cluster.observer.broke(
                "B5",
                f"{node.name}: {held} bytes of logs in memory, {most} may; counted {memory.used}",
            )
        total += held
        for channel in node.transport.channels:
            total += channel.queued_bytes
            if channel.queued_bytes > CHANNEL_QUEUED_BYTES_MAX + BODY_BYTES_MAX:
                self._cluster.observer.broke(
                    "B5", f"{node.name}: {channel.queued_bytes} bytes wait in one channel"
                )
        self.most_queued = max(self.most_queued, total)

    def _weigh(self, nodes: Sequence[SimNode]) -> None:
        """How much each group's state weighs: what its heaviest replica shows."""
        for node in nodes:
            assert node.host is not None
            for gid, replica in node.host.replicas.items():
                self._live[gid] = max(self._live.get(gid, 0), live_bytes(replica))

    def _look_at_disk(self, node: SimNode) -> None:
        assert node.host is not None
        held = self._held.setdefault(node.name, {})
        # A replica may have come and gone between two looks, and its rows go in slices.
        held.update(node.made)
        held.update(dict.fromkeys(node.host.replicas))
        live = sum(self._live.get(gid, 0) for gid in held)
        size = node.drive.visible_bytes(DATA)
        over = size > COPIES_MAX * live + SMALL_BYTES
        looks = self._over[node.name] = self._over.get(node.name, 0) + 1 if over else 0
        if looks == LOOKS_MAX:
            self._cluster.observer.broke(
                "B7",
                f"{node.name} keeps {size} bytes of data on its disk; its groups {list(held)} "
                f"never had more than {live}",
            )


def _queues(replica: Replica) -> Iterator[tuple[str, int, int]]:
    """What waits in a replica: of what, how many bytes, and how many may."""
    core: Any = replica.core
    config, log, state = core.config, core.log, core._state
    leader = core._leader
    if leader is not None:
        proposed = [size for _, size in leader._uncommitted]
        # One command alone is always taken, however large it is.
        most = config.uncommitted_bytes_max if len(proposed) > 1 else sum(proposed)
        yield "wait for commit", leader.uncommitted_bytes, max(most, sum(proposed[:1]))
    handed_out = [size for _, size in state._unapplied]
    last = handed_out[-1] if handed_out else 0  # the page that passed the bound
    yield "wait to be applied", state._unapplied_bytes, config.unapplied_bytes_max + last
    unsaved = sum(map(entry_bytes, log._cache[max(log.durable + 1 - log._cache_first, 0) :]))
    window = config.inflight_bytes_max + config.append_bytes_max
    yield "wait for the disk", unsaved, config.uncommitted_bytes_max + window


def _in_memory(replicas: Iterable[Replica], bytes_max: int) -> tuple[int, int]:
    """What the logs of a node hold in memory together, and how much they may."""
    logs: list[Any] = [r.core.log for r in replicas if r.stopped_because is None]
    held, most = sum(log.cached_bytes for log in logs), bytes_max
    for log in logs:  # nobody else has what is not durable
        most += sum(map(entry_bytes, log._cache[max(log.durable + 1 - log._cache_first, 0) :]))
    if held > most:  # give or take one entry
        most += max((entry_bytes(entry) for log in logs for entry in log._cache), default=0)
    return held, most


def needless(node: SimNode) -> list[bytes]:
    """The first keys on a running node's disk that no replica of it needs (B7, at rest)."""
    return list(islice(_needless(node), 3))


def _needless(node: SimNode) -> Iterator[bytes]:
    assert node.host is not None
    replicas = node.host.replicas
    records = {record.gid for record in node.host.records()}
    live = {gid: {key for key, _ in live_rows(replica)} for gid, replica in replicas.items()}
    for key, _ in node.drive.visible(DATA):
        gid = group_of(key)
        if gid not in replicas:
            yield key
        elif key[:1] == ROWS:
            prefix = rows_prefix(gid, replicas[gid].store.install)  # type: ignore[attr-defined]
            if not key.startswith(prefix) or key[len(prefix) :] not in live[gid]:
                yield key
        elif key[:1] != PROGRESS:
            yield key
    for key, _ in node.drive.visible(LOG):
        if len(key) == 1 or key[:1] == TOMBSTONE:
            continue
        gid = group_of(key)
        if gid not in records:
            yield key
        elif key[:1] == ENTRY and gid in replicas:
            log = replicas[gid].core.log
            if not log.start.last.index < index_of(key) <= log.last.index:
                yield key
