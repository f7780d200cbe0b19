"""What `shardkv top` draws: a cluster's document as lines that fit a terminal. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardkv.cli.vitals import ALIVE, DEAD, SUSPECT
from shardkv.planner import Health

_HEAD_LINES: Final = 4
_STYLES: Final = {ALIVE: "green", SUSPECT: "yellow", DEAD: "bold red"}
_SERVED: Final = ("serving", "moving")
_KIB: Final = 1024.0


def render(document: dict[str, Any], *, width: int, height: int | None) -> RenderableType:
    """The picture.

    Args:
        document: Of `shardkv.http.cluster.cluster_document`, with `cluster`.
        height: Lines that there are; what has no room is counted in its section's last line.
            None: as many as it takes.
    """
    moves = _moves(document["shards"])
    sections = (len(document["nodes"]), len(document["groups"]), len(moves))
    shares = sections if height is None else _shares(sections, height)
    head = [Text(line, no_wrap=True, overflow="ellipsis") for line in _head(document, moves)]
    parts: list[RenderableType] = [*head, _nodes(document["nodes"], shares[0], width)]
    parts.append(_groups(document["groups"], shares[1]))
    if shares[2] and moves:
        parts.append(_move_table(moves, shares[2]))
    return Group(*parts)


def _shares(wanted: tuple[int, int, int], height: int) -> tuple[int, int, int]:
    """How many rows each section gets. Each has a title line; the last line stays free."""
    left = height - _HEAD_LINES - 3 - 1
    given = [0, 0, 0]
    while left > 0 and given != list(wanted):
        for at in range(3):
            if given[at] < wanted[at] and left > 0:
                given[at] += 1
                left -= 1
    return given[0], given[1], given[2]


def _head(document: dict[str, Any], moves: Sequence[dict[str, Any]]) -> list[str]:
    nodes, groups, rates = document["nodes"], document["groups"], document["rates"]
    standing = [standing_of(node) for node in nodes]
    shards = document["shards"]
    served = sum(any(h["phase"] in _SERVED for h in shard["holders"]) for shard in shards)
    waiting = sum(node["waiting"] or 0 for node in nodes)
    return [
        f"shardkv top  cluster {document['cluster'][:12]}  "
        f"configuration {document['config']['number']}  {document['at'][11:19]}",
        f"nodes {standing.count(ALIVE)}/{len(nodes)} alive  "
        f"groups {sum(group['leader'] is not None for group in groups)}/{len(groups)} led  "
        f"shards {served}/{len(shards)} served, {len(moves)} on the way",
        f"per second: reads {rates['reads_per_second']:,.0f}  "
        f"writes {rates['writes_per_second']:,.0f}  "
        f"turned away {rates['rejected_per_second']:,.0f}  in flight {waiting}",
        "p50/p99 ms: " + "  ".join(
            f"{what} {_pair(rates[name])}"
            for what, name in (("reads", "read_ms"), ("writes", "write_ms"), ("fsync", "fsync_ms"))
        ),
    ]  # fmt: skip


def standing_of(node: dict[str, Any]) -> str:
    """See `shardkv/cli/vitals.py`."""
    if node["state"] != "silent":
        return ALIVE
    return DEAD if node["health"] == Health.DEAD.value else SUSPECT


def _pair(latency: dict[str, float | None]) -> str:
    return f"{_ms(latency['p50'])}/{_ms(latency['p99'])}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="reverse", padding=(0, 1))
    for column in columns:
        justify = "right" if column in right else "left"
        table.add_column(column, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    return table


def _nodes(nodes: Sequence[dict[str, Any]], rows: int, width: int) -> Table:
    figures = ("READ/S", "WRITE/S", "READ ms", "WRITE ms", "FSYNC ms", "WAIT")
    table = _table("NODE", "HEALTH", *figures, "LEADS", right=figures)
    for node in nodes[: _room(len(nodes), rows)]:
        standing = standing_of(node)
        seen = node["last_seen_seconds"]
        health = Text(standing, style=_STYLES[standing])
        if standing != ALIVE and seen is not None:
            health.append(f" {seen:.0f}s")
        elif node["roomy"] is False or node["quick"] is False:
            health.append(" full" if node["roomy"] is False else " slow", style="yellow")
        table.add_row(
            node["node"],
            health,
            _count(node["reads_per_second"]),
            _count(node["writes_per_second"]),
            *(_pair(node[name]) for name in ("read_ms", "write_ms", "fsync_ms")),
            _count(node["waiting"]),
            " ".join("ctl" if gid == 0 else str(gid) for gid in node["leads"]),
        )
    _say_rest(table, len(nodes), rows)
    return table


def _groups(groups: Sequence[dict[str, Any]], rows: int) -> Table:
    table = _table("GROUP", "LEADER", "TERM", "COMMIT", "LAG", "REPLICAS", "SHARDS",
                   right=("TERM", "COMMIT", "LAG"))  # fmt: skip
    for group in groups[: _room(len(groups), rows)]:
        lags = {replica["node"]: replica["lag"] for replica in group["replicas"]}
        members = [*group["voters"], *group["learners"]]
        words = [_member(name, group, lags) for name in members or lags]
        table.add_row(
            "ctl" if group["gid"] == 0 else str(group["gid"]),
            group["leader"] or Text("none", style="bold red"),
            str(group["term"]),
            f"{group['commit']:,}",
            f"{max(lags.values(), default=0):,}",
            " ".join(words),
            ", ".join(f"{count} {phase}" for phase, count in _by_count(group["phases"])),
        )
    _say_rest(table, len(groups), rows)
    return table


def _by_count(phases: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(phases.items(), key=lambda phase: (-phase[1], phase[0]))


def _member(name: str, group: dict[str, Any], lags: dict[str, int]) -> str:
    """A replica by its node: `n2`, `n2(-17)` if it is behind by so much, `n2?` if it is silent."""
    mark = "+" if name in group["learners"] else ""
    if name not in lags:
        return f"{name}{mark}?"
    return f"{name}{mark}" + (f"(-{lags[name]})" if lags[name] else "")


def _moves(shards: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shards on their way: where to, where from, and how far the copy is."""
    found = []
    for shard in shards:
        arriving = next((h for h in shard["holders"] if h["phase"] == "arriving"), None)
        leaving = next((h for h in shard["holders"] if h["phase"] in ("moving", "leaving")), None)
        if arriving is not None or leaving is not None:
            found.append({"shard": shard["shard"], "arriving": arriving, "leaving": leaving})
    return found


def _move_table(moves: Sequence[dict[str, Any]], rows: int) -> Table:
    table = _table("SHARD", "FROM", "TO", "SOURCE IS", "COPY", "LEFT", "RATE", "ABOUT",
                   right=("LEFT", "RATE", "ABOUT"))  # fmt: skip
    for move in moves[: _room(len(moves), rows)]:
        arriving, leaving = move["arriving"], move["leaving"]
        source = arriving["other"] if arriving is not None else leaving["gid"]
        target = arriving["gid"] if arriving is not None else leaving["other"]
        left = arriving["bytes_left"] if arriving is not None else 0
        rate = arriving["bytes_per_second"] if arriving is not None else 0
        table.add_row(
            str(move["shard"]),
            str(source or "-"),
            str(target or "-"),
            leaving["phase"] if leaving is not None else "-",
            arriving["progress"] if arriving is not None else "",
            _bytes(left) if rate else "-",
            f"{_bytes(rate)}/s" if rate else "-",
            f"{left / rate:.1f} s" if rate else "-",
        )
    _say_rest(table, len(moves), rows)
    return table


def _room(count: int, rows: int) -> int:
    """How many are shown: the last line tells of the rest."""
    return count if count <= rows else max(rows - 1, 0)


def _say_rest(table: Table, count: int, rows: int) -> None:
    if count > rows > 0:
        table.add_row(f"+{count - _room(count, rows)} more")


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} GiB"
