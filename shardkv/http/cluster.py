"""A cluster at one moment, as JSON: what `/events` sends and `/cluster` answers. Pure."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from raft.histogram import BOUNDS_US
from shardctrler.types import NO_GROUP, View
from shardkv.admin import NodeStatus, ReplicaStatus
from shardkv.growth import Seen, leader_of
from shardkv.healing_beats import HealthReport
from shardkv.load import NodeLoad, percentile_ms

SERVING = "serving"
BUCKETS: Final = len(BOUNDS_US) + 1
_HISTOGRAMS: Final = {
    "read_ms": "read_buckets",
    "write_ms": "write_buckets",
    "fsync_ms": "sync_buckets",
}


class Sample(NamedTuple):
    """What all nodes said at one moment."""

    at: float  # seconds of a clock that only goes forward
    seen: Seen
    loads: Mapping[str, NodeLoad | None]
    last_seen: Mapping[str, float]  # node -> when it answered last, by the same clock
    health: HealthReport | None = None  # by the controller's leader; None: it was not to be had


def cluster_document(
    by: str, view: View | None, before: Sample | None, now: Sample, *, when: str, number: int
) -> dict[str, Any]:
    """The snapshot.

    Args:
        by: The node that looked.
        before: The look before, for rates; None: there was none.
        when: The time as people read it.
        number: Of this snapshot.
    """
    nodes = [_node(name, before, now) for name in now.seen]
    groups = [_group(gid, now) for gid in _gids(view, now)]
    return {
        "number": number,
        "at": when,
        "by": by,
        "config": {
            "number": view.config.number if view is not None else 0,
            "shards": len(view.config.shards) if view is not None else 0,
            "groups": [int(gid) for gid in view.config.groups] if view is not None else [],
        },
        "nodes": nodes,
        "groups": groups,
        "shards": _shards(view, now),
        "rates": {
            name: round(sum(node[name] or 0 for node in nodes), 1)
            for name in ("reads_per_second", "writes_per_second", "rejected_per_second")
        }
        | _latencies([pair for name in now.seen if (pair := _span(name, before, now))]),
    }


def _node(name: str, before: Sample | None, now: Sample) -> dict[str, Any]:
    status = now.seen[name]
    seen_at = now.last_seen.get(name)
    document: dict[str, Any] = {
        "node": name,
        "state": "silent" if status is None else status.state,
        "last_seen_seconds": None if seen_at is None else round(now.at - seen_at, 1),
        "version": status and status.version,
        "client": status and status.client,
        "http": status and (status.http or None),
        "uptime_seconds": status and status.uptime_ms // 1000,
        "leads": [r.gid for r in status.replicas if r.leads] if status is not None else [],
    }
    return document | _health(name, now.health) | _rates(name, before, now)


def _health(name: str, report: HealthReport | None) -> dict[str, Any]:
    """What the controller's leader thinks of a node; nulls where nobody says."""
    known = next((each for each in report.nodes if each.node == name), None) if report else None
    return {
        "health": known and known.health,
        "roomy": None if known is None else bool(known.roomy),
        "quick": None if known is None else bool(known.quick),
    }


def _span(name: str, before: Sample | None, now: Sample) -> tuple[NodeLoad, NodeLoad] | None:
    """A node's numbers at both looks, if they are of one life of it."""
    new = now.loads.get(name)
    old = before.loads.get(name) if before is not None else None
    if before is None or old is None or new is None:
        return None
    return (old, new) if old.boot == new.boot and now.at > before.at else None


def _rates(name: str, before: Sample | None, now: Sample) -> dict[str, Any]:
    """Of one node, since the look before; nulls where it cannot be said."""
    new = now.loads.get(name)
    rates: dict[str, Any] = {"waiting": new.waiting if new is not None else None}
    span = _span(name, before, now)
    for counted in ("reads", "writes", "rejected"):
        rate = None
        if span is not None and before is not None:
            rate = round(
                (getattr(span[1], counted) - getattr(span[0], counted)) / (now.at - before.at), 1
            )
        rates[f"{counted}_per_second"] = rate
    return rates | _latencies([span] if span is not None else [])


def _latencies(spans: list[tuple[NodeLoad, NodeLoad]]) -> dict[str, Any]:
    """Of all operations that these nodes answered between the looks, and of all synced batches,
    together."""
    found: dict[str, Any] = {}
    for name, kind in _HISTOGRAMS.items():
        pairs = [(getattr(old, kind), getattr(new, kind)) for old, new in spans]
        # A node of another version, or one that was just starting, may have other buckets.
        alike = [(old, new) for old, new in pairs if len(old) == len(new) == BUCKETS]
        before = tuple(sum(old[n] for old, _ in alike) for n in range(BUCKETS))
        now = tuple(sum(new[n] for _, new in alike) for n in range(BUCKETS))
        found[name] = {
            "p50": percentile_ms(before, now, 0.5),
            "p99": percentile_ms(before, now, 0.99),
        }
    return found


def _gids(view: View | None, now: Sample) -> list[int]:
    found = dict.fromkeys(
        replica.gid for status in now.seen.values() if status for replica in status.replicas
    )
    if view is not None:
        found |= dict.fromkeys(int(gid) for gid in view.config.groups)
    return sorted(found)


def _group(gid: int, now: Sample) -> dict[str, Any]:
    replicas = [
        (status, replica)
        for status in now.seen.values()
        if status is not None and (replica := status.replica(gid)) is not None
    ]
    found = leader_of(gid, now.seen)
    known = found[1] if found is not None else _most_applied(replicas)
    commit = max((replica.commit for _, replica in replicas), default=0)
    phases: dict[str, int] = {}
    for shard in known.shards if known is not None else ():
        phases[shard.phase] = phases.get(shard.phase, 0) + 1
    return {
        "gid": gid,
        "role": "controller" if gid == 0 else "store",
        "leader": found[0] if found is not None else None,
        "term": max((replica.term for _, replica in replicas), default=0),
        "commit": commit,
        "config": known.config_number if known is not None else 0,
        "voters": [member.node for member in known.voters] if known is not None else [],
        "outgoing": [member.node for member in known.outgoing] if known is not None else [],
        "learners": [member.node for member in known.learners] if known is not None else [],
        "phases": phases,
        "replicas": [
            {
                "node": status.node,
                "role": "stopped" if replica.stopped else replica.role,
                "term": replica.term,
                "applied": replica.applied,
                "lag": max(0, commit - replica.applied),
                "log_bytes": replica.log_bytes,
            }
            for status, replica in replicas
        ],
    }


def _most_applied(replicas: list[tuple[NodeStatus, ReplicaStatus]]) -> ReplicaStatus | None:
    return max((replica for _, replica in replicas), key=lambda r: r.applied, default=None)


def _shards(view: View | None, now: Sample) -> list[dict[str, Any]]:
    """Each shard: who owns it by the configuration, and in which phase it is where."""
    holders: dict[int, list[dict[str, Any]]] = {}
    for gid in _gids(view, now):
        found = leader_of(gid, now.seen)
        if found is None:
            continue
        for shard in found[1].shards:
            holders.setdefault(shard.shard, []).append(
                {
                    "gid": gid,
                    "phase": shard.phase,
                    "other": shard.other or None,
                    "progress": shard.progress,
                    "bytes_left": shard.bytes_left,
                    "bytes_per_second": shard.bytes_per_second,
                }
            )
    owners = view.config.shards if view is not None else ()
    return [
        {
            "shard": shard,
            "owner": None if owner == NO_GROUP else int(owner),
            "phase": _phase(int(owner), holders.get(shard, [])),
            "holders": holders.get(shard, []),
        }
        for shard, owner in enumerate(owners)
    ]


def _phase(owner: int, holders: list[dict[str, Any]]) -> str:
    """ "serving", "moving", "unassigned", or "unknown" where no leader says anything."""
    if owner == NO_GROUP:
        return "unassigned"
    if any(held["gid"] == owner and held["phase"] == SERVING for held in holders):
        return "moving" if len(holders) > 1 else SERVING
    return "moving" if holders else "unknown"
