"""`shardkv ctl plan` and `ctl explain`: what the cluster does by itself, and why things are so."""

import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import ShardConfig
from shardkv import admin
from shardkv.admin import BadAdmin, NodeStatus, Nothing
from shardkv.cli.finding import Request, print_json, run, talks
from shardkv.cli.reaching import Reached, controller, reach, statuses
from shardkv.explaining import Explainer, Explanation, NoSuchThing, parse
from shardkv.growth import CONTROLLER_GID, Seen, leader_of
from shardkv.healing_beats import HEALTH, HealthReport

HEALTH_SECONDS: Final = 1.0
CONFIG_SECONDS: Final = 3.0


async def look(reached: Reached) -> Seen:
    """What every node says of itself that the endpoints know of; None: it is silent."""
    seen = await statuses(reached.transport, reached.addresses)
    answered = [status for status in seen.values() if isinstance(status, NodeStatus)]
    names = {client: name for status in answered for name, client in status.known}
    others = sorted(names.keys() - seen.keys())
    seen |= await statuses(reached.transport, others)
    found: dict[str, NodeStatus | None] = {}
    for address, status in seen.items():
        if isinstance(status, NodeStatus):
            found[status.node] = status
        elif address in names:
            found.setdefault(names[address], None)
    return dict(sorted(found.items(), key=lambda pair: (len(pair[0]), pair[0])))


async def health_report(transport: Transport, seen: Seen) -> HealthReport | None:
    """What the controller's leader sees; None: nobody leads it, or it does not answer."""
    found = leader_of(CONTROLLER_GID, seen)
    status = seen[found[0]] if found is not None else None
    if status is None:
        return None
    try:
        body = await transport.call(
            Address(status.client), HEALTH, admin.encode(Nothing()), timeout=HEALTH_SECONDS
        )
        report = admin.decode(HealthReport, body)
    except (RpcError, BadAdmin):
        return None
    return report if report.leads else None


@click.command(
    epilog="""\b
Examples:
  shardkv ctl plan
  shardkv ctl plan --json
"""
)
@talks
def plan(request: Request) -> None:
    """Show what the cluster would do next to mend itself, and why it does no more.

    The node that leads the controller's group does it, once a second, unless `heal: false` is set
    there. Exit status 1 if nobody leads that group: then nothing is mended.
    """

    async def work() -> HealthReport | None:
        async with reach(request, "ctl") as reached:
            return await health_report(reached.transport, await look(reached))

    report = run(work())
    if report is None:
        from shardkv.cli.failures import refused

        raise refused("nobody leads the controller's group: nothing is mended until somebody does")
    if request.as_json:
        print_json(health_json(report))
    else:
        sys.stdout.write(_plan_text(report))


@click.command(
    epilog="""\b
Examples:
  shardkv ctl explain s12        # a shard
  shardkv ctl explain 3          # a group; 0 is the controller's; g3 is the same
  shardkv ctl explain n2         # a node; node:s1 if it is called like a shard
"""
)
@click.argument("target", metavar="SHARD|GID|NODE")
@talks
def explain(request: Request, target: str) -> None:
    """Say where a shard, a group or a node is, how it is, and why it is not better.

    Exit status 1 if there is no such thing.
    """
    wanted = parse(target)

    async def work() -> Explanation:
        async with controller(request, "ctl") as (client, reached):
            seen = await look(reached)
            report = await health_report(reached.transport, seen)
            config: ShardConfig | None = None
            try:
                config = (await client.newest(timeout=min(CONFIG_SECONDS, request.timeout))).config
            except ShardCtrlerError:
                config = None  # the explanation says so
            return Explainer(seen, config, report).explain(wanted)

    try:
        found = run(work())
    except NoSuchThing as error:
        from shardkv.cli.failures import refused

        raise refused(str(error)) from error
    if request.as_json:
        print_json(_explanation_json(found))
    else:
        title = f"{found.target.kind} {found.target.name}: {found.state}\n"
        sys.stdout.write(title + "".join(f"  {line}\n" for line in found.lines))


def health_json(report: HealthReport) -> Mapping[str, Any]:
    """What the controller's leader sees, for programs."""
    return {
        "heal": bool(report.heal),
        "grace_seconds": report.grace_ms / 1000,
        "watched_seconds": report.watched_ms / 1000,
        "nodes": {
            node.node: {
                "health": node.health,
                "silent_seconds": node.silent_ms / 1000,
                "roomy": bool(node.roomy),
                "quick": bool(node.quick),
                "leads": node.leads,
                "replicas": node.replicas,
            }
            for node in report.nodes
        },
        "step": report.step or None,
        "why": list(report.why),
        "done": list(report.done),
    }


def health_words(report: HealthReport, node: str) -> str:
    """A node's health and when it was heard last."""
    found = next((one for one in report.nodes if one.node == node), None)
    if found is None:
        return ""
    words = [found.health]
    if found.silent_ms >= 1000:
        words.append(f"silent {found.silent_ms // 1000} s")
    return ", ".join([*words, *disk_words(report, node)])


def disk_words(report: HealthReport, node: str) -> tuple[str, ...]:
    """What is wrong with a node's disk."""
    found = next((one for one in report.nodes if one.node == node), None)
    if found is None:
        return ()
    full = () if found.roomy else ("disk full",)
    return full if found.quick else (*full, "disk slow")


def _plan_text(report: HealthReport) -> str:
    lines = [f"next: {report.step or 'nothing'}"]
    lines += [f"  {line}" for line in report.why]
    for node in report.nodes:
        lines.append(
            f"{node.node} {health_words(report, node.node)}: {node.replicas} replicas, "
            f"leads {node.leads}"
        )
    lines += [f"done: {line}" for line in report.done]
    return "\n".join(lines) + "\n"


def _explanation_json(found: Explanation) -> Mapping[str, Any]:
    return {
        found.target.kind: found.target.name,
        "state": found.state,
        "healthy": found.healthy,
        "where": dict(found.where),
        "why": list(found.lines),
    }
