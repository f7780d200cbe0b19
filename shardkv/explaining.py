"""Says where a shard, a group or a node is, how it is, and why it is not better (pure).

From what all nodes said of themselves, the newest configuration, and what the controller's leader
sees. What is not known is said to be unknown, not guessed.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from shardctrler.types import NO_GROUP, ShardConfig, ShardId
from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus
from shardkv.growth import Seen, leader_of
from shardkv.healing_beats import HealthReport, NodeHealth
from shardkv.planner import name_of
from shardkv.text import named, quoted

LAG_ENTRIES: Final = 100
"""A member that lags further is said to."""

_SHARD: Final = re.compile(r"s(0|[1-9][0-9]{0,8})", re.ASCII)
_GROUP: Final = re.compile(r"g?(0|[1-9][0-9]{0,9})", re.ASCII)


class Target(NamedTuple):
    """What is asked about."""

    kind: str  # "shard", "group" or "node"
    name: str  # a number's digits, or a node's name

    @property
    def number(self) -> int:
        return int(self.name)


class Explanation(NamedTuple):
    """The answer: where it is, its state in a word, and a sentence for each thing that is so."""

    target: Target
    state: str
    healthy: bool
    where: Mapping[str, object]
    lines: tuple[str, ...]


class NoSuchThing(Exception):
    """There is no such shard, group or node; the text says which there are."""


def parse(text: str) -> Target:
    """`s12` is a shard; `g3` or `3` a group (0: the controller's); all else is a node's name. A
    node that is called like a shard or a group is asked for as `node:s12`."""
    if text.startswith("node:"):
        return Target("node", text.removeprefix("node:"))
    if found := _SHARD.fullmatch(text):
        return Target("shard", found[1])
    if found := _GROUP.fullmatch(text):
        return Target("group", found[1])
    return Target("node", text)


class Explainer:
    """Answers from one look at the cluster.

    Args:
        seen: Every node that is known of, and what it said of itself.
        config: The newest configuration; None: the controller does not answer.
        report: What the controller's leader sees; None: nobody leads it.
    """

    def __init__(self, seen: Seen, config: ShardConfig | None, report: HealthReport | None) -> None:
        self._seen, self._config, self._report = seen, config, report
        self._health: Mapping[str, NodeHealth] = {
            node.node: node for node in (report.nodes if report is not None else ())
        }

    def explain(self, target: Target) -> Explanation:
        """
        Raises:
            NoSuchThing: the text says what there is.
        """
        match target.kind:
            case "shard":
                return self._shard(target)
            case "group":
                return self._group(target)
            case _:
                return self._node(target)

    # Shards

    def _shard(self, target: Target) -> Explanation:
        config, shard = self._config, target.number
        if config is None:
            return self._without_config(target)
        if shard >= len(config.shards):
            raise NoSuchThing(f"no shard {shard}: shards are 0 to {len(config.shards) - 1}")
        gid, holder = config.shards[shard], config.holder(ShardId(shard))
        where: dict[str, object] = {
            "group": int(gid) or None,
            "config": int(config.number),
            "rows": int(holder),
        }
        if gid == NO_GROUP:
            lines = [f"config {config.number} gives it to no group; nobody serves it"]
            if holder != NO_GROUP:
                lines.append(f"its rows are parked at group {holder}: `ctl move` hands them on")
            return Explanation(target, "parked", False, where, tuple(lines))
        found = leader_of(gid, self._seen)
        lines = [f"config {config.number} gives it to group {gid}"]
        if found is None:
            lines.append(f"group {gid} has no leader: nobody serves it now")
            return Explanation(target, "unserved", False, where, tuple(lines))
        leader, group = found
        where |= {"leader": leader, "nodes": [member.node for member in group.voters]}
        held = next((one for one in group.shards if one.shard == shard), None)
        state = held.phase if held is not None else "absent"
        match state:
            case "serving":
                lines.append(f"group {gid}, led by {leader}, serves it")
            case "arriving":
                assert held is not None
                served = self._source_serves(held.other, shard)
                lines.append(
                    f"its copy from group {held.other} is {held.progress}; until it is in, "
                    + (f"group {held.other} serves it" if served else "nobody serves it")
                )
            case "absent":
                lines.append(
                    f"group {gid} has applied config {group.config_number}, not yet "
                    f"{config.number}: it waits until its shards of that one have settled"
                )
            case _:
                lines.append(f"group {gid} has it as {state}")
        troubles = self._group_troubles(gid, leader, group)
        healthy = state == "serving" and not troubles
        return Explanation(target, state, healthy, where, (*lines, *troubles))

    def _source_serves(self, gid: int, shard: int) -> bool:
        found = leader_of(gid, self._seen)
        return found is not None and any(
            one.shard == shard and one.phase in ("serving", "moving") for one in found[1].shards
        )

    def _without_config(self, target: Target) -> Explanation:
        """The controller is silent: what the groups' leaders say."""
        holding = {
            gid: shard.phase
            for gid in self._gids()
            if (found := leader_of(gid, self._seen)) is not None
            for shard in found[1].shards
            if shard.shard == target.number
        }
        lines = ["the controller does not answer: who shall own it is not known"]
        lines += [f"group {gid} has it as {phase}" for gid, phase in holding.items()]
        return Explanation(target, "unknown", False, {"groups": list(holding)}, tuple(lines))

    # Groups

    def _gids(self) -> list[int]:
        answered = [status for status in self._seen.values() if status is not None]
        gids = {replica.gid for status in answered for replica in status.replicas}
        return sorted(gids | {int(gid) for gid in (self._config.groups if self._config else ())})

    def _group(self, target: Target) -> Explanation:
        gid = target.number
        holders = [node for node, status in self._seen.items() if status and status.replica(gid)]
        if gid not in self._gids():
            raise NoSuchThing(f"no group {gid}: groups are {', '.join(map(str, self._gids()))}")
        found = leader_of(gid, self._seen)
        if found is None:
            where: dict[str, object] = {"leader": None, "nodes": holders}
            lines = [f"replicas that answer are on {', '.join(holders) or 'no node'}"]
            silent = [node for node, status in self._seen.items() if status is None]
            if silent:
                lines.append(named(silent, "does not answer", "do not answer"))
            lines.append(
                "nobody leads it: a majority of its voters must be up and reach each other"
            )
            return Explanation(target, "leaderless", False, where, tuple(lines))
        leader, group = found
        troubles = self._group_troubles(gid, leader, group)
        where = {
            "leader": leader,
            "nodes": [member.node for member in group.voters],
            "term": group.term,
            "shards": len(group.shards),
        }
        lines = [f"led by {leader} in term {group.term}; voters on {_named(group.voters)}"]
        if gid:
            lines.append(f"holds {len(group.shards)} shards, in config {group.config_number}")
        lines += [f"next: {self._report.step}"] if self._concerns(gid) and self._report else []
        state = "degraded" if troubles else "whole"
        return Explanation(target, state, not troubles, where, (*lines, *troubles))

    def _concerns(self, gid: int) -> bool:
        return self._report is not None and name_of(gid) in self._report.step

    def _group_troubles(self, gid: int, leader: str, group: ReplicaStatus) -> list[str]:
        """Why a group is not healthier, a sentence each."""
        lines = []
        if group.outgoing:
            lines.append(
                f"it changes its voters from {_named(group.outgoing)} to {_named(group.voters)}"
            )
        for member in group.learners:
            arriving = member.replica in group.promote
            lines.append(
                f"{member.node} catches up and becomes a voter then"
                if arriving
                else f"{member.node} is a learner: it does not vote"
            )
        for member in group.voters:
            lines += self._member_troubles(gid, leader, group, member)
        if self._report is not None:
            name = name_of(gid)
            lines += [line for line in self._report.why if line.startswith(name)]
        return lines

    def _member_troubles(
        self, gid: int, leader: str, group: ReplicaStatus, member: MemberStatus
    ) -> list[str]:
        status = self._seen.get(member.node)
        if member in group.lost:
            return [f"{member.node} lost what it had acknowledged, and counts no more"]
        if status is None:
            return [self._silence(member.node)]
        replica = status.replica(gid)
        if replica is None or replica.replica != member.replica:
            return [f"{member.node} does not run its replica"]
        if replica.stopped:
            return [f"its replica on {member.node} stopped: {replica.stopped}"]
        lag = group.commit - replica.applied
        if lag > LAG_ENTRIES and member.node != leader:
            return [f"{member.node} lags {lag} entries behind"]
        return []

    # Nodes

    def _node(self, target: Target) -> Explanation:
        node = target.name
        status, health = self._seen.get(node), self._health.get(node)
        if node not in self._seen and health is None:
            known = ", ".join(self._seen) or "none"
            raise NoSuchThing(f"no node {quoted(node)}: nodes are {known}")
        member_of = [
            gid
            for gid in self._gids()
            if (found := leader_of(gid, self._seen)) is not None
            and node in [m.node for m in (*found[1].voters, *found[1].learners)]
        ]
        state = health.health if health is not None else "unknown"
        where: dict[str, object] = {"groups": member_of}
        lines = [f"member of groups {', '.join(map(str, member_of)) or 'none'}"]
        troubles = []
        if status is not None:
            where |= {"client": status.client, "leads": _leads(status)}
            lines.insert(0, f"{status.state}, pid {status.pid}, clients connect at {status.client}")
            lines.append(f"leads groups {', '.join(map(str, _leads(status))) or 'none'}")
            troubles += self._replica_troubles(status, member_of)
        else:
            troubles.append(self._silence(node))
        if health is None:
            troubles.append("how the controller's leader sees it is not known: nobody leads it")
        else:
            if status is not None and health.health != "alive":
                troubles.append("it answers here, and the controller's leader does not hear it")
            if not health.roomy:
                troubles.append("its disk is below free_percent_min: it takes no clients' writes")
            if not health.quick:
                troubles.append("its disk was slow lately: it is handed no leadership")
        if self._report is not None:
            lines += [f"next: {self._report.step}"] if _names(self._report.step, node) else []
            troubles += [
                line
                for line in self._report.why
                if _names(line, node) and not line.startswith(node)
            ]
        healthy = not troubles and state == "alive"
        return Explanation(target, state, healthy, where, (*lines, *troubles))

    def _replica_troubles(self, status: NodeStatus, member_of: list[int]) -> list[str]:
        lines = []
        for replica in status.replicas:
            if replica.stopped:
                lines.append(f"its replica of group {replica.gid} stopped: {replica.stopped}")
            elif replica.gid not in member_of and leader_of(replica.gid, self._seen) is not None:
                lines.append(f"it holds a replica that group {replica.gid} has let go")
        return lines

    def _silence(self, node: str) -> str:
        health = self._health.get(node)
        if health is None or self._report is None:
            return f"{node} does not answer"
        seconds, grace = health.silent_ms // 1000, self._report.grace_ms // 1000
        text = f"{node} is {health.health}: the controller's leader has not heard it for "
        text += f"{seconds} s"
        if not health.silent_ms:
            return f"{node} does not answer here, and the controller's leader hears it"
        if not self._report.heal:
            return f"{text}; healing is switched off (heal: false)"
        if seconds < grace:
            return f"{text}; after {grace} s its replicas are made anew elsewhere"
        return text


def _leads(status: NodeStatus) -> list[int]:
    return [replica.gid for replica in status.replicas if replica.leads]


def _named(members: tuple[MemberStatus, ...]) -> str:
    return ", ".join(member.node for member in members)


def _names(line: str, node: str) -> bool:
    """Whether a sentence speaks of a node."""
    return re.search(rf"(?<![\w-]){re.escape(node)}(?![\w-])", line) is not None
