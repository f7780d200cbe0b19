"""How a cluster is, in a few figures: who is there, what is served, what was asked of it. Pure.

A node's *standing* is ALIVE if it answers, whatever anybody thought of it before. Else it is DEAD
if the controller's leader, who asks every node each second, counts it so
(`shardkv.planner.health`), and SUSPECT if not: one word means one thing here, in `ctl plan` and on
the page. Where nobody leads the controller it is SUSPECT: it may be the way to it that is broken.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from shardkv.healing_beats import HealthReport
from shardkv.load import NodeLoad
from shardkv.planner import Health

ALIVE: Final = "ALIVE"
SUSPECT: Final = "SUSPECT"
DEAD: Final = "DEAD"


class Vital(NamedTuple):
    """One node: its standing, and how long ago it was heard; None: nobody here knows."""

    node: str
    standing: str
    silent_seconds: float | None


class Totals(NamedTuple):
    """What the nodes that answer have answered since they started."""

    nodes: int
    reads: int
    writes: int
    rejected: int
    average_ms: float | None  # None: nothing was asked

    @property
    def requests(self) -> int:
        return self.reads + self.writes


def vitals(
    answered: Iterable[str], silent: Iterable[str], report: HealthReport | None
) -> tuple[Vital, ...]:
    """Everybody's, those who answer first."""
    found = [Vital(node, ALIVE, 0.0) for node in answered]
    for node in silent:
        known = next((n for n in report.nodes if n.node == node), None) if report else None
        seconds = None if known is None else known.silent_ms / 1000
        dead = known is not None and known.health == Health.DEAD.value
        found.append(Vital(node, DEAD if dead else SUSPECT, seconds))
    return tuple(found)


def availability_percent(nodes: Sequence[Vital]) -> float:
    """The share of the nodes that are ALIVE."""
    alive = sum(node.standing == ALIVE for node in nodes)
    return 100 * alive / len(nodes) if nodes else 0.0


def totals(loads: Iterable[NodeLoad]) -> Totals:
    """The sum of what nodes tell."""
    told = list(loads)
    reads, writes = sum(one.reads for one in told), sum(one.writes for one in told)
    micros = sum(one.read_us + one.write_us for one in told)
    average = micros / 1000 / (reads + writes) if reads + writes else None
    return Totals(len(told), reads, writes, sum(one.rejected for one in told), average)


def health_words(nodes: Sequence[Vital]) -> str:
    """`3 nodes: 2 alive, 0 suspect, 1 dead (66.7 % available)`."""
    counts = {s: sum(n.standing == s for n in nodes) for s in (ALIVE, SUSPECT, DEAD)}
    words = ", ".join(f"{count} {standing.lower()}" for standing, count in counts.items())
    many = f"{len(nodes)} node" + ("" if len(nodes) == 1 else "s")
    return f"{many}: {words} ({availability_percent(nodes):.1f} % available)"


def request_words(found: Totals, nodes: int) -> str:
    """`1,543 requests (1,200 reads, 343 writes), 0 turned away, average latency 2.3 ms`."""
    average = "" if found.average_ms is None else f", average latency {found.average_ms:.1f} ms"
    partly = "" if found.nodes == nodes else f"; {found.nodes} of {nodes} nodes told"
    what = "request" if found.requests == 1 else "requests"
    return (
        f"{found.requests:,} {what} ({found.reads:,} reads, {found.writes:,} writes), "
        f"{found.rejected:,} turned away{average}{partly}"
    )


def last_seen(vital: Vital, now: datetime) -> str | None:
    """When it was heard last, in UTC to the second."""
    if vital.silent_seconds is None:
        return None
    at = now.astimezone(UTC) - timedelta(seconds=vital.silent_seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def seen_words(vital: Vital, now: datetime) -> str:
    """The same, for people."""
    at = last_seen(vital, now)
    if at is None:
        return "unknown"
    return "now" if not vital.silent_seconds else f"{at[11:]} ({vital.silent_seconds:.0f} s ago)"


def vitals_json(nodes: Sequence[Vital], now: datetime) -> Mapping[str, Any]:
    """For programs."""
    return {
        "total": len(nodes),
        "alive": sum(node.standing == ALIVE for node in nodes),
        "suspect": sum(node.standing == SUSPECT for node in nodes),
        "dead": sum(node.standing == DEAD for node in nodes),
        "availability_percent": round(availability_percent(nodes), 1),
        "nodes": {
            node.node: {
                "standing": node.standing,
                "last_seen": last_seen(node, now),
                "silent_seconds": node.silent_seconds,
            }
            for node in nodes
        },
    }


def totals_json(found: Totals) -> Mapping[str, Any]:
    """For programs."""
    average = None if found.average_ms is None else round(found.average_ms, 3)
    return {
        "total": found.requests,
        "reads": found.reads,
        "writes": found.writes,
        "rejected": found.rejected,
        "average_ms": average,
        "nodes": found.nodes,
    }
