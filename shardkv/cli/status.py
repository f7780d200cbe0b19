"""`shardkv status`: nodes, groups, members, leaders, lags, shards and their phases."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from labrpc.errors import RpcError
from shardkv.admin import NodeStatus, ReplicaStatus, ShardStatus
from shardkv.cli.finding import Request, print_json, run, talks
from shardkv.cli.plan import health_json, health_report, health_words
from shardkv.cli.reaching import Reached, reach, statuses
from shardkv.healing_beats import HealthReport
from shardkv.text import shown

WATCH_SECONDS: Final = 1.0
PLAIN_COLUMNS: Final = 160
"""How wide lines are where nobody looks at a terminal."""


@click.command(
    epilog="""\b
Examples:
  shardkv status
  shardkv status --watch
  shardkv status --json | jq .groups
"""
)
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@talks
def status(request: Request, watch: bool) -> None:
    """Show every node and group as they see themselves: leaders, terms, applied indexes and lags,
    shards with their phase, copies under way, versions.

    Exit status 1 if a group has no leader, a node does not answer, or a replica stopped or lost
    entries.
    """
    from shardkv.cli.failures import Failure, refused

    try:
        troubles = run(_watch(request) if watch else _once(request))
    except Failure as failure:
        if watch and failure.code == "Interrupted":
            return  # the way to end it
        raise
    if troubles:
        raise refused("; ".join(troubles))


async def _once(request: Request) -> list[str]:
    async with reach(request, "status") as reached:
        picture = await _look(reached)
    if request.as_json:
        print_json(picture.as_json())
    else:
        console = Console(width=None if Console().is_terminal else PLAIN_COLUMNS)
        console.print(picture.render())
    return picture.troubles()


async def _watch(request: Request) -> list[str]:
    async with reach(request, "status") as reached:
        if request.as_json:
            while True:
                print_json((await _look(reached)).as_json())
                await asyncio.sleep(WATCH_SECONDS)
        with Live(console=Console(), auto_refresh=False, screen=False) as live:
            while True:
                picture = await _look(reached)
                live.update(Group(picture.render(), Text(time.strftime("%H:%M:%S"))), refresh=True)
                await asyncio.sleep(WATCH_SECONDS)


async def _look(reached: Reached) -> "Picture":
    """Ask the endpoints, then every node that they know of."""
    seen = await statuses(reached.transport, reached.addresses)
    named = {
        client
        for status in seen.values()
        if isinstance(status, NodeStatus)
        for _, client in status.known
    }
    others = sorted(named - seen.keys())
    seen |= await statuses(reached.transport, others)
    answered = {s.node: s for s in seen.values() if isinstance(s, NodeStatus)}
    return Picture(seen, await health_report(reached.transport, answered))


class Picture:
    """What all nodes said at one moment."""

    def __init__(
        self, seen: Mapping[str, NodeStatus | RpcError], report: HealthReport | None = None
    ) -> None:
        self.report = report
        self.nodes = sorted(
            (status for status in seen.values() if isinstance(status, NodeStatus)),
            key=lambda status: (len(status.node), status.node),
        )
        names = {client: name for status in self.nodes for name, client in status.known}
        self.silent = {
            names.get(address, address): str(error)
            for address, error in seen.items()
            if isinstance(error, RpcError) and (address in names or not names)
        }  # an address that was given, and is no registered node's, is not missed
        self.gids = sorted({replica.gid for node in self.nodes for replica in node.replicas})

    def replicas(self, gid: int) -> list[tuple[NodeStatus, ReplicaStatus]]:
        """A group's replicas, with their nodes."""
        return [
            (node, replica)
            for node in self.nodes
            for replica in node.replicas
            if replica.gid == gid
        ]

    def leader(self, gid: int) -> tuple[NodeStatus, ReplicaStatus] | None:
        """Who leads; of several that think so, the latest term."""
        leading = [found for found in self.replicas(gid) if found[1].leads]
        return max(leading, key=lambda found: found[1].term, default=None)

    def troubles(self) -> list[str]:
        """What an operator should know, a sentence each."""
        found = [f"{name} does not answer" for name in self.silent]
        found += [
            f"the disk of {node.node} is below free_percent_min: it takes no clients' writes"
            for node in (self.report.nodes if self.report is not None else ())
            if not node.roomy
        ]
        for gid in self.gids:
            leader = self.leader(gid)
            if leader is None:
                found.append(f"group {gid} has no leader")
            found += [
                f"group {gid} on {member.node} lost entries that it had acknowledged and counts no "
                "more: was an old copy of its directory put back? Give the cluster a new node"
                for member in (leader[1].lost if leader is not None else ())
            ]
            for node, replica in self.replicas(gid):
                if replica.stopped:
                    found.append(f"group {gid} on {node.node} stopped: {shown(replica.stopped)}")
        return found

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "cluster": self.nodes[0].cluster.hex() if self.nodes else None,
            "config": max((node.config_number for node in self.nodes), default=0),
            "nodes": [
                {
                    "node": node.node,
                    "state": node.state,
                    "version": node.version,
                    "pid": node.pid,
                    "uptime_seconds": node.uptime_ms / 1000,
                    "client": node.client,
                    "peer": node.peer,
                    "http": node.http,
                }
                for node in self.nodes
            ],
            "silent": self.silent,
            "healing": health_json(self.report) if self.report is not None else None,
            "groups": [self._group_json(gid) for gid in self.gids],
        }

    def _group_json(self, gid: int) -> dict[str, Any]:
        leader = self.leader(gid)
        status = leader[1] if leader is not None else None
        return {
            "gid": gid,
            "leader": leader[0].node if leader is not None else None,
            "term": status.term if status is not None else None,
            "commit": status.commit if status is not None else None,
            "config": status.config_number if status is not None else None,
            "voters": [member.node for member in status.voters] if status is not None else None,
            "learners": [member.node for member in status.learners] if status is not None else None,
            "lost": [member.node for member in status.lost] if status is not None else None,
            "changing": bool(status.outgoing) if status is not None else None,
            "shards": {
                phase: [shard.shard for shard in status.shards if shard.phase == phase]
                for phase in sorted({shard.phase for shard in status.shards})
            }
            if status is not None
            else None,
            "copies": [
                {
                    "shard": shard.shard,
                    "from": shard.other,
                    "progress": shard.progress,
                    "bytes_left": shard.bytes_left,
                    "bytes_per_second": shard.bytes_per_second,
                }
                for shard in status.shards
                if shard.phase == "arriving"
            ]
            if status is not None
            else None,
            "replicas": [
                {
                    "node": node.node,
                    "replica": replica.replica,
                    "role": replica.role,
                    "term": replica.term,
                    "applied": replica.applied,
                    "lag": _lag(replica, status),
                    "log_bytes": replica.log_bytes,
                    "stopped": replica.stopped or None,
                }
                for node, replica in self.replicas(gid)
            ],
        }

    def render(self) -> Group:
        """Tables for people."""
        return Group(self._node_table(), self._group_table())

    def _node_table(self) -> Table:
        table = Table(title="nodes", title_justify="left", box=None, pad_edge=False)
        for column in ("node", "state", "health", "client", "pid", "up", "version", "leads"):
            table.add_column(column, no_wrap=True)
        for node in self.nodes:
            leads = [str(replica.gid) for replica in node.replicas if replica.leads]
            table.add_row(
                node.node,
                node.state,
                self._health(node.node),
                node.client,
                str(node.pid),
                _duration(node.uptime_ms // 1000),
                node.version,
                " ".join(leads),
            )
        for name, reason in self.silent.items():
            table.add_row(name, "[red]silent[/red]", self._health(name), Text(shown(reason)))
        return table

    def _health(self, node: str) -> str:
        """How the controller's leader sees a node, and when it heard it last."""
        return health_words(self.report, node) if self.report is not None else "unknown"

    def _group_table(self) -> Table:
        table = Table(title="\ngroups", title_justify="left", box=None, pad_edge=False)
        for column in ("group", "leader", "term", "config", "applied (lag)", "shards"):
            table.add_column(column, no_wrap=column != "shards")
        for gid in self.gids:
            leader = self.leader(gid)
            status = leader[1] if leader is not None else None
            table.add_row(
                "controller" if gid == 0 else str(gid),
                leader[0].node if leader is not None else "[red]none[/red]",
                str(status.term) if status is not None else "",
                str(status.config_number) if status is not None and gid else "",
                Text(", ".join(self._member_words(gid, status))),
                Text(_shard_words(status)),
            )
        return table

    def _member_words(self, gid: int, leader: ReplicaStatus | None) -> list[str]:
        learners = {member.node for member in leader.learners} if leader is not None else set()
        words = []
        for node, replica in self.replicas(gid):
            lag = _lag(replica, leader)
            word = f"{node.node} {replica.applied}" + (f" (-{lag})" if lag else "")
            if replica.stopped:
                word += " stopped"
            words.append(word + (" learner" if node.node in learners else ""))
        return words


def _lag(replica: ReplicaStatus, leader: ReplicaStatus | None) -> int:
    """How many committed entries a replica has not applied."""
    return max(0, leader.commit - replica.applied) if leader is not None else 0


def _shard_words(leader: ReplicaStatus | None) -> str:
    if leader is None or leader.gid == 0:
        return ""
    counts = Counter(shard.phase for shard in leader.shards)
    words = [f"{counts[phase]} {phase}" for phase in sorted(counts, key=lambda p: -counts[p])]
    moving = [
        f"{shard.shard} from {shard.other} ({_copy_words(shard)})"
        for shard in leader.shards
        if shard.phase == "arriving"
    ]
    return ", ".join(words or ["none"]) + (f"; copying {', '.join(moving[:4])}" if moving else "")


def _copy_words(shard: ShardStatus) -> str:
    """How far the copy of an arriving shard has come, as its leader sees it."""
    if not shard.bytes_per_second:
        return shard.progress
    left, rate = shard.bytes_left / 2**20, shard.bytes_per_second / 2**20
    return f"{shard.progress}, {left:.1f} MiB left, {rate:.1f} MiB/s"


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
