"""How a node is, for people, probes and load balancers. Pure: from what it says of itself.

- alive (`/livez`): the loop runs. It says nothing of the replicas: restarting a node because its
  group has no majority makes that worse.
- ready (`/readyz`, `/health`): it runs, each of its replicas runs, knows who leads its group, and
  has applied all but the last few entries that it knows to be committed; and it holds every replica
  that the controller's directory says it does. So whoever restarts nodes one by one, each when the
  one before is ready, never stops a second one of a group whose replica is still to be made anew.
"""

from collections.abc import Sequence
from typing import Any, Final

from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus

LAG_ENTRIES_MAX: Final = 5_000
"""A replica further behind than this still catches up, and is not ready."""


def reasons_not_ready(status: NodeStatus, owed: Sequence[int] = ()) -> list[str]:
    """What keeps the node from being ready; empty when nothing does.

    Args:
        owed: Groups that count a replica here, and there is none: the node lost its data.
    """
    reasons = []
    if status.state != "running":
        reasons.append(f"the node is {status.state}")
    if status.config_number == 0:
        reasons.append("no configuration is known yet")
    reasons += [f"group {gid} counts a replica here that is lost, or yet to come" for gid in owed]
    for replica in status.replicas:
        name = f"group {replica.gid}"
        if replica.stopped:
            reasons.append(f"the replica of {name} has stopped")
        elif not replica.leader:
            reasons.append(f"{name} has no leader that this node knows of")
        elif replica.commit - replica.applied > LAG_ENTRIES_MAX:
            reasons.append(
                f"the replica of {name} is {replica.commit - replica.applied} entries behind"
            )
    return reasons


def health_document(
    status: NodeStatus, warnings: tuple[str, ...] = (), owed: Sequence[int] = ()
) -> dict[str, Any]:
    """The body of `/health` and `/readyz`. `warnings`: what is barely right."""
    reasons = reasons_not_ready(status, owed)
    return {
        "status": "unhealthy" if reasons else "healthy",
        "node": status.node,
        "reasons": reasons,
        "warnings": list(warnings),
    }


def status_document(status: NodeStatus, owed: Sequence[int] = ()) -> dict[str, Any]:
    """The body of `/status`: the node and its replicas, from what it knows by itself."""
    return {
        "node": status.node,
        "cluster": status.cluster.hex(),
        "version": status.version,
        "state": status.state,
        "ready": not reasons_not_ready(status, owed),
        "pid": status.pid,
        "uptime_seconds": status.uptime_ms // 1000,
        "addresses": {"client": status.client, "peer": status.peer, "http": status.http},
        "config": status.config_number,
        "shards": status.nshards,
        "nodes": dict(status.known),
        "groups": [replica_document(replica) for replica in status.replicas],
    }


def replica_document(replica: ReplicaStatus) -> dict[str, Any]:
    """One replica of a node."""
    return {
        "gid": replica.gid,
        "role": "stopped" if replica.stopped else replica.role,
        "leader": replica.leader or None,
        "term": replica.term,
        "commit": replica.commit,
        "applied": replica.applied,
        "last": replica.last,
        "lag": max(0, replica.commit - replica.applied),
        "log_bytes": replica.log_bytes,
        "voters": [member.node for member in replica.voters],
        "outgoing": [member.node for member in replica.outgoing],
        "learners": [member.node for member in replica.learners],
        "lost": _nodes(replica.lost),
        "config": replica.config_number,
        "shards": [
            {"shard": s.shard, "phase": s.phase, "other": s.other or None, "progress": s.progress}
            for s in replica.shards
        ],
    }


def _nodes(members: tuple[MemberStatus, ...]) -> list[str]:
    return [member.node for member in members]
