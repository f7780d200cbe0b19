"""Turns `bench/results/*.json` into `docs/performance.md` and the plots in `docs/performance/`.

    python -m bench.report

Nothing is typed by hand into what it writes: every figure comes from a file, and says from which
commit; what was not measured is said to be so. The words around the figures are below; what the
system must reach is in `bench/targets.py`, the plots are in `bench/plots.py`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import plots, targets
from bench.measuring import RESULTS, median
from bench.versus import OURS, ratio

DOCS: Final = Path(__file__).parents[1] / "docs"
PLOTS: Final = DOCS / "performance"
FILES: Final = (
    "versus", "hops", "ycsb", "sizes", "growth", "growth-5m", "groups", "events", "handover",
    "stages",
)  # fmt: skip

HEAD: Final = """# Performance

How fast it is, against whom, what it costs, and where the time goes. Written by
`python -m bench.report` from the files in `bench/results/`: nothing below is typed by hand.
Why it is so, and what was tried, is in [speed.md](speed.md).

## How to read it

Each figure is the median over rounds in which every store was put under the same load right after
the other; a ratio is taken within a round, because a shared machine has good and bad minutes, and
its spread over rounds stands beside it in brackets. **All processes share the cores named below**,
clients too: what one of them computes is missing to the others. "CPU" is the kernel's account of a
process, divided by the operations of that time.

- **shardkv**: 3 node processes, one group, fsync on, sessions on, one client process with the
  clerk as users get it. **shardkv-4**: four groups. **shardkv-4x2**: four groups, two client
  processes.
- **etcd**: Debian's, 3 nodes, its defaults (fsync on), asked by a Go program on its own client.
- **Redis**: one node, `appendfsync always`, asked by redis-benchmark: what one durable node
  without consensus gives.
- **PySyncObj**: 3 nodes without a disk; the load runs inside the node that leads, and its gets are
  of its own memory (they are not linearizable), so only its puts are compared.

## How to repeat it

    make bench                    # ten minutes
    make bench BENCH=essential    # what the targets need; a quarter of an hour on a quiet machine
    make bench-long               # with 5 million keys; an hour
    shardkv bench --clients 100   # on a cluster of yours

Each file of `bench/` asks one question, says how in its first lines, and runs alone
(`python -m bench.events --only kill`); `reads`, `transport` and `front_door` print what they find
and are not part of this page. From Debian: etcd-server, golang-go,
golang-etcd-server-dev, redis-server, linux-perf; what is missing is left out, and said.
"""

Results = Mapping[str, Mapping[str, Any]]


def main() -> None:
    results: dict[str, dict[str, Any]] = {}
    for name in FILES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            results[name] = json.loads(path.read_text())
    PLOTS.mkdir(exist_ok=True)
    parts = [HEAD, _targets(results)]
    for name, section in SECTIONS.items():
        if name in results:
            parts += [*section(results[name]), _about(name, results[name]["about"])]
    plots.draw(results, PLOTS)
    (DOCS / "performance.md").write_text("\n".join(parts))
    print(f"written: {DOCS / 'performance.md'}")


def _about(name: str, about: Mapping[str, Any]) -> str:
    options = " ".join(
        f"--{key} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in about["options"].items()
        if value not in (None, "None") and key != "out"
    )
    return (
        f"<sub>`python -m bench.{name.partition('-')[0]} {options}` at commit {about['commit']}, "
        f"{about['cores']} cores ({about['processor']}), Python {about['python']}, kernel "
        f"{about['system']}; load average before it: {about['load_before']}.</sub>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """A Markdown table; all but the first `left` columns are flushed right."""
    marks = ["---" if at < left else "---:" for at in range(len(head))]
    lines = [head, marks, *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _targets(results: Results) -> str:
    rows = [
        (found.what, found.aim, found.measured, found.verdict) for found in targets.check(results)
    ]
    return "## What it must reach, and whether it does\n\n" + _table(
        ("what", "aim", "measured", ""), rows, left=4
    )


# Versus


def _versus(found: Mapping[str, Any]) -> Iterator[str]:
    rows = found["rows"]
    yield "## Against others\n"
    yield "![Operations a second against clients](performance/rates.svg)\n"
    yield "![Latency against clients](performance/latencies.svg)\n"
    yield "![Ratios to etcd](performance/ratios.svg)\n"
    for gets in dict.fromkeys(row["gets"] for row in rows):
        yield f"### {_kind(gets).capitalize()}\n"
        yield _table(
            ("clients", "store", "a second", "p50 ms", "p99 ms", "our rate to its", "our p50",
             "our p99"),
            [_versus_row(row, rows) for row in rows if row["gets"] == gets],
            left=2,
        )  # fmt: skip
    yield "### CPU time an operation, by process\n"
    yield "Microseconds. Where PySyncObj leads, its client runs in the leader.\n"
    yield "![CPU time an operation](performance/cpu.svg)\n"
    yield _table(
        ("load", "clients", "store", "leader", "other nodes, each", "clients", "all"),
        [_cpu_row(row) for row in rows if row["gets"] in (0.0, 1.0)],
        left=3,
    )


def _versus_row(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    mine = next(
        r for r in rows
        if (r["store"], r["gets"], r["clients"]) == (OURS, row["gets"], row["clients"])
    )  # fmt: skip
    ratios = ["", "", ""]
    if not row["store"].startswith(OURS):
        names = ("per_second", "p50_ms", "p99_ms")
        ratios = [_spread(ratio(mine["rounds"], row["rounds"], name)) for name in names]
    return [
        str(row["clients"]), row["store"], f"{_middle(row, 'per_second'):,.0f}",
        f"{_middle(row, 'p50_ms'):.2f}", f"{_middle(row, 'p99_ms'):.2f}", *ratios,
    ]  # fmt: skip


def _cpu_row(row: Mapping[str, Any]) -> list[str]:
    each = {name: median(one["cpu_us"][name] for one in row["rounds"] if name in one["cpu_us"])
            for name in row["rounds"][0]["cpu_us"]}  # fmt: skip
    client, leader = each.pop("client"), row["leader"]
    nodes = sum(each.values())
    leads = f"{each[leader]:.0f}" if leader in each else ""
    others = [us for name, us in each.items() if name != leader]
    return [
        _kind(row["gets"]), str(row["clients"]), row["store"], leads,
        f"{sum(others) / len(others):.0f}" if others else "", f"{client:.0f}",
        f"{nodes + client:.0f}",
    ]  # fmt: skip


def _kind(gets: float) -> str:
    return {0.0: "puts", 1.0: "linearizable gets"}.get(gets, f"{gets:.0%} gets")


def _middle(row: Mapping[str, Any], name: str) -> float:
    return median(one[name] for one in row["rounds"])


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


# The ways alone


def _hops(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Where gRPC itself is the limit\n"
    yield (
        "A put without a store (`bench/peers/hops.py`): from the client to a node, from there to "
        "two others and back, two of three fsyncs awaited, and nothing else: no log, no state "
        "machine, nothing decoded. No store that takes these ways is faster; what a put of ours "
        "costs beyond it is ours.\n"
    )
    rows = found["rows"]
    for clients in dict.fromkeys(row["clients"] for row in rows):
        these = {row["store"]: row for row in rows if row["clients"] == clients}
        peer = these.get("etcd")
        table = []
        for store, row in these.items():
            cpu = median(sum(one["cpu_us"].values()) for one in row["rounds"])
            beside = _beside(row, peer) if peer is not None else ""
            table.append(
                (
                    store, f"{_middle(row, 'per_second'):,.0f}", f"{_middle(row, 'p50_ms'):.2f}",
                    f"{_middle(row, 'p99_ms'):.2f}", f"{cpu:.0f}", beside,
                )
            )  # fmt: skip
        yield f"{clients} client{'s'[: clients > 1]}:\n"
        yield _table(
            ("a put of, or over", "a second", "p50 ms", "p99 ms", "CPU µs, all", "p50, to etcd's"),
            table,
        )
        if peer is not None:
            yield _floor(these, peer)


def _beside(row: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    return _spread(ratio(row["rounds"], peer["rounds"], "p50_ms"))


def _floor(these: Mapping[str, Mapping[str, Any]], peer: Mapping[str, Any]) -> str:
    """What follows for this many clients, in a sentence."""
    floor, plain = (
        median(ratio(these[way]["rounds"], peer["rounds"], "p50_ms"))
        for way in ("gRPC, fsyncs", "TCP, fsyncs")
    )
    judged = (
        "so behind these ways no store is as fast as etcd, and gRPC as Python has it is the limit"
        if floor >= 1
        else "so gRPC alone does not keep a store behind these ways from being as fast as etcd"
    )
    return (
        f"The bare ways over gRPC take {floor:.2f} x the time of etcd's whole put, {judged}; "
        f"over plain TCP they take {plain:.2f} x.\n"
    )


# The others


def _ycsb(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## YCSB\n"
    yield (
        "Records of 1,000 bytes, scrambled zipfian (0.99), every read linearizable. E scans: keys "
        "are hashed to shards, so a scan of ours asks every shard and merges, where etcd reads one "
        "range.\n"
    )
    yield "![YCSB](performance/ycsb.svg)\n"
    rows = []
    for row in found["rows"]:
        mine = row["stores"][OURS]
        for store, rounds in row["stores"].items():
            theirs = [median(one[name] for one in rounds)
                      for name in ("per_second", "p50_ms", "p99_ms")]  # fmt: skip
            to = "" if store == OURS else _spread(ratio(mine, rounds, "per_second"))
            rows.append(
                (row["workload"], store, f"{theirs[0]:,.0f}", f"{theirs[1]:.2f}",
                 f"{theirs[2]:.2f}", to)
            )  # fmt: skip
    head = ("workload", "store", "a second", "p50 ms", "p99 ms", "our rate to its")
    yield _table(head, rows, left=2)


def _sizes(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Sizes of values\n"
    yield "![Sizes of values](performance/sizes.svg)\n"
    rows = []
    for row in found["rows"]:
        mine = next(
            r for r in found["rows"]
            if (r["store"], r["gets"], r["bytes"]) == (OURS, row["gets"], row["bytes"])
        )  # fmt: skip
        rate = _middle(row, "per_second")
        to = _spread(ratio(mine["rounds"], row["rounds"], "per_second"))
        rows.append(
            (_kind(row["gets"]), f"{row['bytes']:,}", row["store"], f"{rate:,.0f}",
             f"{rate * row['bytes'] / 1e6:.1f}", f"{_middle(row, 'p99_ms'):.2f}",
             "" if row["store"] == OURS else to)
        )  # fmt: skip
    head = ("load", "bytes", "store", "a second", "MB/s", "p99 ms", "our rate to its")
    yield _table(head, rows, left=3)


def _growth(found: Mapping[str, Any]) -> Iterator[str]:
    most = max(row["keys"] for row in found["rows"])
    yield f"## Growth, to {most:,} keys\n"
    yield (
        "Two clusters side by side, one with 10,000 keys, the other growing; the same loads on "
        "both in turns. Filled through the log, by a clerk with 1,000 puts in flight. Anonymous "
        "memory is the largest of the three nodes; tables that are mapped are apart.\n"
    )
    rows = [
        (
            f"{row['keys']:,}",
            *(f"{median(one['grown']['per_second'] for one in load['rounds']):,.0f} "
              f"({load['ratio']:.2f})" for load in row["loads"]),
            f"{max(row['memory_mb']['anonymous']):.0f}", f"{max(row['memory_mb']['mapped']):.0f}",
            f"{row['disk_mb']['data']:.0f}", f"{row['disk_mb']['log']:.0f}",
            f"{row['fill_per_second']:,.0f}",
        )
        for row in found["rows"]
    ]  # fmt: skip
    yield _table(
        ("keys", "puts/s (of those at 10,000)", "gets/s (of those at 10,000)", "anonymous MB",
         "mapped MB", "tables MB", "log MB", "filled at, puts/s"),
        rows,
    )  # fmt: skip


def _groups(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Many groups with nothing to do\n"
    yield "On three nodes; of each node, the mean (and the most).\n"
    rows = []
    for row in found["rows"]:
        cells = [str(row["groups"])]
        for name, form in (
            ("cpu_share", "{:.2%}"), ("frames_per_second", "{:.0f}"),
            ("messages_per_second", "{:,.0f}"), ("anonymous_mb", "{:.0f}"),
        ):  # fmt: skip
            values = [node[name] for node in row["nodes"]]
            mean = sum(values) / len(values)
            cells.append(f"{form.format(mean)} ({form.format(max(values))})")
        rows.append([*cells, f"{row['started_seconds']:.1f}"])
    yield _table(
        ("groups", "CPU, of a core", "frames sent, 1/s", "messages sent, 1/s", "anonymous MB",
         "`up` ready after, s"),
        rows,
    )  # fmt: skip


def _events(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Events\n"
    rows: list[tuple[str, str]] = []
    if "kill" in found:
        seconds = found["kill"]["seconds"]
        rows.append(
            (f"without service after kill -9 of the leader, {len(seconds)} times",
             f"{_range(seconds)}; {found['kill']['errors']} of {found['kill']['puts']:,} puts "
             "failed")
        )  # fmt: skip
    if "restart" in found:
        for how, times in found["restart"]["seconds"].items():
            ready = [one["ready"] for one in times]
            rows.append(
                (f"ready after {how} and start, {found['restart']['keys']:,} keys", _range(ready))
            )
    if "newcomer" in found:
        new = found["newcomer"]
        rows.append(
            (f"a fresh replica has {new['keys']:,} keys and votes", f"{new['seconds']:.1f} s")
        )
    yield _table(("what", "median [least, most]"), rows, left=2)
    if "compaction" in found:
        spell = found["compaction"]
        yield (
            f"Puts of {spell['value_bytes']:,} bytes at a steady {spell['rate']:,.0f}/s, by what "
            "LevelDB did on any node meanwhile, by its own log:\n"
        )
        yield _table(
            ("", "times", "seconds in all", "puts", "p50 ms", "p99 ms", "p99.9 ms", "worst ms"),
            [
                (name, row["times"], f"{row['seconds']:.1f}", f"{row['puts']:,}",
                 f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['p999_ms']:.2f}",
                 f"{row['max_ms']:.1f}")
                for name, row in spell["rows"].items()
            ],
        )  # fmt: skip


def _range(values: Sequence[float]) -> str:
    return f"{median(values):.2f} s [{min(values):.2f}, {max(values):.2f}]"


def _handover(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## A shard that moves\n"
    rows = found["rows"]
    yield _table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])


def _cell(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _stages(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Where the time goes\n"
    yield (
        "Microseconds of CPU an operation, by process. By stage: the innermost place of ours in "
        "Python's stacks, the main thread alone; other threads by what they were in. By library: "
        "of the same time, the innermost frame. The stacks are in `bench/results/stages/`.\n"
    )
    yield "![Stages](performance/stages.svg)\n"
    for row in found["rows"]:
        roles = row["roles"]
        yield f"### {_kind(row['gets']).capitalize()}, {row['clients']} clients\n"
        yield f"{row['per_second']:,.0f} a second while watched.\n"
        for table in ("stages", "libraries"):
            names = dict.fromkeys(name for split in roles.values() for name in split[table])
            total = {n: sum(split[table].get(n, 0.0) for split in roles.values()) for n in names}
            lines = [
                (name, *(f"{split[table].get(name, 0.0):.1f}" for split in roles.values()))
                for name in sorted(names, key=lambda n: -total[n])
                if total[name] >= 0.15
            ]
            whole = ("**all**", *(f"**{split['cpu_us']:.1f}**" for split in roles.values()))
            title = {"stages": "stage", "libraries": "library"}[table]
            yield _table((title, *roles), [*lines, whole])


SECTIONS: Final[Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]]] = {
    "versus": _versus, "hops": _hops, "ycsb": _ycsb, "sizes": _sizes, "growth": _growth,
    "growth-5m": _growth, "groups": _groups, "events": _events, "handover": _handover,
    "stages": _stages,
}  # fmt: skip


if __name__ == "__main__":
    main()
