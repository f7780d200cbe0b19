"""`shardkv status`: nodes and how they are, what was asked of them, groups, members, leaders, lags,
shards and their phases."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from labrpc.errors import RpcError
from shardkv.admin import NodeStatus, ReplicaStatus, ShardStatus
from shardkv.cli.finding import Request, print_json, run, talks
from shardkv.cli.plan import disk_words, health_json, health_report
from shardkv.cli.reaching import Reached, loads, reach, statuses
from shardkv.cli.vitals import (
    ALIVE,
    DEAD,
    SUSPECT,
    Vital,
    health_words,
    last_seen,
    request_words,
    seen_words,
    totals,
    totals_json,
    vitals,
    vitals_json,
)
from shardkv.healing_beats import HealthReport
from shardkv.load import NodeLoad
from shardkv.text import shown

WATCH_SECONDS: Final = 1.0
PLAIN_COLUMNS: Final = 160
"""How wide lines are where nobody looks at a terminal."""
STYLES: Final = {ALIVE: "green", SUSPECT: "yellow", DEAD: "red"}
SERVED: Final = ("serving", "moving")
"""Phases in which a shard answers clients."""


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
    """Show every node, ALIVE, SUSPECT or DEAD, and when it was heard last; what was asked of the
    cluster and how long it took; and every group: leaders, terms, applied indexes and lags, shards
    with their phase, copies under way.

    ALIVE is who answers; who does not is SUSPECT, and DEAD after 10 seconds, by the controller's
    leader, who asks every node each second. Requests are counted by the nodes since they started.

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
                live.update((await _look(reached)).render(), refresh=True)
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
    report, told = await asyncio.gather(
        health_report(reached.transport, answered),
        loads(reached.transport, [status.client for status in answered.values()]),
    )
    return Picture(
        seen,
        report,
        [load for load in told.values() if isinstance(load, NodeLoad)],
        at=datetime.now().astimezone(),
    )


class Picture:
    """What all nodes said at one moment."""

    def __init__(
        self,
        seen: Mapping[str, NodeStatus | RpcError],
        report: HealthReport | None,
        told: Sequence[NodeLoad],
        *,
        at: datetime,
    ) -> None:
        self.report = report
        self.at = at
        self.totals = totals(told)
        self.nodes = sorted(
            (status for status in seen.values() if isinstance(status, NodeStatus)),
            key=lambda status: (len(status.node), status.node),
        )
        names = {client: name for status in self.nodes for name, client in status.known}
        self.clients = {name: client for client, name in names.items()}
        self.silent = {
            names.get(address, address): str(error)
            for address, error in seen.items()
            if isinstance(error, RpcError) and (address in names or not names)
        }  # an address that was given, and is no registered node's, is not missed
        self.vitals = vitals([node.node for node in self.nodes], self.silent, report)
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
                    "health": ALIVE,
                    "last_seen": last_seen(Vital(node.node, ALIVE, 0.0), self.at),
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
            "health": vitals_json(self.vitals, self.at),
            "requests": totals_json(self.totals),
            "served": dict(zip(("shards", "of"), self._served(), strict=True)),
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
        """A headline and tables, for people."""
        config = max((node.config_number for node in self.nodes), default=0)
        cluster = self.nodes[0].cluster.hex()[:12] if self.nodes else "unknown"
        served, shards = self._served()
        lines = (
            f"cluster {cluster}, configuration {config}, at {self.at:%Y-%m-%d %H:%M:%S}",
            f"{health_words(self.vitals)}; {served} of {shards} shards served",
            request_words(self.totals, len(self.vitals)),
            "",
        )
        return Group(*map(Text, lines), self._node_table(), self._group_table())

    def _served(self) -> tuple[int, int]:
        """How many shards some leader serves, and how many there are."""
        leaders = [leader[1] for gid in self.gids if (leader := self.leader(gid)) is not None]
        served = {s.shard for r in leaders for s in r.shards if s.phase in SERVED}
        return len(served), max((node.nshards for node in self.nodes), default=0)

    def _node_table(self) -> Table:
        table = Table(title="nodes", title_justify="left", box=None, pad_edge=False)
        for column in ("node", "health", "last seen", "client", "pid", "up", "version", "leads"):
            table.add_column(column, no_wrap=True)
        standing = {vital.node: vital for vital in self.vitals}
        for node in self.nodes:
            leads = [str(replica.gid) for replica in node.replicas if replica.leads]
            state = "" if node.state == "running" else node.state
            table.add_row(
                node.node,
                self._health(standing[node.node], state),
                seen_words(standing[node.node], self.at),
                node.client,
                str(node.pid),
                _duration(node.uptime_ms // 1000),
                node.version,
                " ".join(leads),
            )
        for name in self.silent:
            vital = standing[name]
            client = self.clients.get(name, name)
            table.add_row(name, self._health(vital, ""), seen_words(vital, self.at), client)
        return table

    def _health(self, vital: Vital, state: str) -> Text:
        """A node's standing; its state, where that is news; and what is wrong with its disk."""
        disk = disk_words(self.report, vital.node) if self.report is not None else ()
        words = Text(vital.standing, style=STYLES[vital.standing])
        return words.append("".join(f", {word}" for word in (state, *disk) if word))

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
