"""What the system must reach, and whether the figures say that it does. Pure; asks nothing.

python -m bench.targets        prints the table from `bench/results/*.json`
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from bench.measuring import RESULTS, median
from bench.versus import OURS, ratio

REACHED: Final = "reached"
NOT_REACHED: Final = "**NOT reached**"
NOT_MEASURED: Final = "not measured"

Results = Mapping[str, Mapping[str, Any]]


class Finding(NamedTuple):
    """One aim."""

    what: str
    aim: str
    measured: str
    verdict: str


class Against(NamedTuple):
    """A load on ours and on a peer: our rate to its at least, latencies to its at most."""

    peer: str
    gets: float
    clients: int
    rate: float
    p50: float | None = None
    p99: float | None = None


AGAINST: Final = (
    Against("etcd", 0.0, 1, 1.0, p50=1.0),
    Against("etcd", 0.0, 10, 3.0, p50=1.0, p99=1.0),
    Against("etcd", 0.0, 100, 3.0, p99=1.0),
    Against("etcd", 0.0, 500, 2.5, p99=1.0),
    Against("etcd", 1.0, 1, 1.0, p50=1.0),
    Against("etcd", 1.0, 100, 4.0, p99=1.0),
    Against("etcd", 1.0, 500, 4.0, p99=1.0),
    *(Against("pysyncobj", 0.0, clients, 10.0, p50=0.1) for clients in (1, 10, 100, 500)),
)
MANY_KEYS: Final = 5_000_000
RESTART_KEYS: Final = 1_000_000
MANY_GROUPS: Final = 100


def check(results: Results) -> Iterator[Finding]:
    """Every aim, in the order of the issue that named them."""
    for aim in AGAINST:
        yield from _against(aim, results.get("versus", {"rows": []})["rows"])
    yield from _growth(results)
    yield from _handover(results.get("handover"))
    yield from _events(results.get("events", {}))
    yield from _groups(results.get("groups", {"rows": []})["rows"])


def _judged(what: str, aim: str, measured: str, reached: bool) -> Finding:
    return Finding(what, aim, measured, REACHED if reached else NOT_REACHED)


def _missing(what: str, aim: str) -> Finding:
    return Finding(what, aim, "", NOT_MEASURED)


def _against(aim: Against, rows: list[Mapping[str, Any]]) -> Iterator[Finding]:
    found = {row["store"]: row["rounds"] for row in rows
             if (row["gets"], row["clients"]) == (aim.gets, aim.clients)}  # fmt: skip
    kind = "gets" if aim.gets else "puts"
    load = f"{kind}, {aim.clients} client{'s'[: aim.clients > 1]}, against {aim.peer}"
    sides = (
        ("rate", "per_second", aim.rate, ">="),
        ("p50", "p50_ms", aim.p50, "<="),
        ("p99", "p99_ms", aim.p99, "<="),
    )
    for name, field, bound, sign in sides:
        if bound is None:
            continue
        what, words = f"{load}: {name}", f"{sign} {bound:g} x"
        if OURS not in found or aim.peer not in found:
            yield _missing(what, words)
            continue
        ratios = ratio(found[OURS], found[aim.peer], field)
        middle = median(ratios)
        reached = middle >= bound if sign == ">=" else middle <= bound
        text = f"{middle:.2f} x [{min(ratios):.2f}, {max(ratios):.2f}]"
        yield _judged(what, words, text, reached)


def _growth(results: Results) -> Iterator[Finding]:
    files = [results[name] for name in ("growth", "growth-5m") if name in results]
    rows = [row for file in files for row in file["rows"]]
    most = max(rows, key=lambda row: row["keys"], default=None)
    wanted = f"at {MANY_KEYS:,} keys"
    rate, memory = ">= 0.8 of that at 10,000", "< 300 MB"
    if most is None or most["keys"] < MANY_KEYS:
        at = "" if most is None else f"(at {most['keys']:,}: see below)"
        for what, aim in ((f"puts/s and gets/s {wanted}", rate),
                          (f"anonymous memory of a node {wanted}", memory)):  # fmt: skip
            yield Finding(what, aim, at, NOT_MEASURED)
        return
    for load in most["loads"]:
        kind = "gets" if load["gets"] else "puts"
        yield _judged(f"{kind}/s {wanted}", rate, f"{load['ratio']:.2f}", load["ratio"] >= 0.8)
    most_mb = max(most["memory_mb"]["anonymous"])
    yield _judged(
        f"anonymous memory of a node {wanted}", memory, f"{most_mb:.0f} MB", most_mb < 300
    )


def _handover(found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """By the largest shard that was moved."""
    row = max(found["rows"], key=lambda one: one["MiB"]) if found else None
    what, aim = "puts answered while a shard moves, of those at rest", ">= 0.7"
    if row is None:
        yield _missing(what, aim)
    else:
        share = row["answers, of those at rest"]
        yield _judged(f"{what} ({row['MiB']} MiB)", aim, f"{share:.2f}", share >= 0.7)
    what, aim = "longest put at a shard's hand-over, median of the moves", "< 100 ms"
    if row is None:
        yield _missing(what, aim)
    else:
        pause = row["longest put of a hand-over, ms"]
        yield _judged(f"{what} ({row['MiB']} MiB)", aim, f"{pause:.0f} ms", pause < 100)


def _events(found: Mapping[str, Any]) -> Iterator[Finding]:
    what, aim = "service back after kill -9 of a leader, median", "<= 1.5 s"
    if "kill" in found:
        seconds = median(found["kill"]["seconds"])
        yield _judged(what, aim, f"{seconds:.2f} s", seconds <= 1.5)
    else:
        yield _missing(what, aim)
    what, aim = f"a node with {RESTART_KEYS:,} keys started and ready", "<= 3 s"
    if found.get("restart", {"keys": 0})["keys"] >= RESTART_KEYS:
        for how, times in found["restart"]["seconds"].items():
            seconds = median(one["ready"] for one in times)
            yield _judged(f"{what}, after {how}", aim, f"{seconds:.2f} s", seconds <= 3.0)
    else:
        yield _missing(what, aim)
    what, aim = "p99 while tables are written and merged, to quiet times", "<= 2 x"
    if found.get("compaction", {}).get("p99_ratio"):
        ratios = found["compaction"]["p99_ratio"]
        text = ", ".join(f"{kind} {value:.2f} x" for kind, value in ratios.items())
        yield _judged(what, aim, text, max(ratios.values()) <= 2.0)
    else:
        yield _missing(what, aim)


def _groups(rows: list[Mapping[str, Any]]) -> Iterator[Finding]:
    what, aim = f"{MANY_GROUPS} idle groups, CPU of a node", "< 3 % of a core"
    row = next((row for row in rows if row["groups"] == MANY_GROUPS), None)
    if row is None:
        yield _missing(what, aim)
        return
    most = max(node["cpu_share"] for node in row["nodes"])
    yield _judged(what, aim, f"{most:.2%}", most < 0.03)


if __name__ == "__main__":
    files = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    for finding in check(files):
        print(" | ".join(finding))
