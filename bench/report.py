"""Turns `bench/results/*.json` into `docs/performance.md` and its plots.

    python -m bench.report

Nothing is typed by hand into what it writes: every figure comes from a file, and says from which
commit. The words around the figures are below.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.measuring import RESULTS

DOCS: Final = Path(__file__).parents[1] / "docs"
OURS: Final = "shardkv"

# What the system is meant to reach against etcd: (gets, clients) -> rate, at least; None: no aim.
AIMS: Final = {
    (0.0, 1): 1.0, (0.0, 10): 3.0, (0.0, 100): 3.0, (0.0, 500): 2.5,
    (1.0, 1): 1.0, (1.0, 100): 4.0, (1.0, 500): 4.0,
}  # fmt: skip

HEAD: Final = """# Performance

How fast it is, against whom, and where the time goes. Written by `python -m bench.report` from the
files in `bench/results/`; `make bench` measures anew.

Each figure is the median over rounds in which every store was put under the same load right after
the other; the ratio is taken within a round, because a shared machine has good and bad minutes.
All processes, clients too, share the cores named below.

- **shardkv**: 3 node processes, one group, fsync on, sessions on, the clerk as users get it.
- **etcd**: Debian's, 3 nodes, its defaults (fsync on), asked by a Go program on its own client.
- **Redis**: one node, `appendfsync always`, asked by redis-benchmark: what one durable node
  without consensus gives.
- **PySyncObj**: 3 nodes without a disk; the load runs inside the node that leads, and its gets are
  of its own memory (they are not linearizable), so only its puts are compared.
"""


def main() -> None:
    versus = json.loads((RESULTS / "versus.json").read_text())
    about, rows = versus["about"], versus["rows"]
    parts = [HEAD, _about(about)]
    parts += [_table(rows, gets) for gets in dict.fromkeys(row["gets"] for row in rows)]
    _plot(rows)
    parts.append("\n![Puts and gets a second against clients](performance.svg)\n")
    (DOCS / "performance.md").write_text("\n".join(parts))


def _about(about: dict[str, Any]) -> str:
    options = about["options"]
    return (
        f"\nMeasured at commit {about['commit']} on {about['cores']} cores, Python "
        f"{about['python']}, kernel {about['system']}: {options['rounds']} rounds of "
        f"{float(options['seconds']):g} s, {options['size']}-byte values, {options['keys']} keys.\n"
    )


def _table(rows: Sequence[dict[str, Any]], gets: float) -> str:
    title = {0.0: "Puts", 1.0: "Linearizable gets"}.get(gets, f"{gets:.0%} gets")
    lines = [
        f"\n## {title}\n",
        "| clients | store | a second | p50 ms | p99 ms | our rate to its | p50 | p99 | aimed at |",
        "|---:|---|---:|---:|---:|---|---|---|---|",
    ]
    for row in rows:
        if row["gets"] != gets:
            continue
        ours, to = row["store"] == OURS, row["ours_to_it"]
        aim = AIMS.get((gets, row["clients"])) if row["store"] == "etcd" else None
        ratios = ["", "", ""] if ours else [_spread(to[name]) for name in ("rate", "p50", "p99")]
        reached = ""
        if aim is not None:
            word = "reached" if statistics.median(to["rate"]) >= aim else "**not reached**"
            reached = f"{aim:g} x: {word}"
        figures = [_median(row, name) for name in ("per_second", "p50_ms", "p99_ms")]
        lines.append(
            f"| {row['clients']} | {row['store']} | {figures[0]:,.0f} | {figures[1]:.2f} | "
            f"{figures[2]:.2f} | {' | '.join(ratios)} | {reached} |"
        )
    return "\n".join(lines) + "\n"


def _median(row: dict[str, Any], name: str) -> float:
    return float(statistics.median(one[name] for one in row["rounds"]))


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} x ({min(values):.2f} to {max(values):.2f})"


def _plot(rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "shardkv"  # the same figures give the same file
    from matplotlib import pyplot

    kinds = [gets for gets in (0.0, 1.0) if any(row["gets"] == gets for row in rows)]
    figure, axes = pyplot.subplots(2, len(kinds), figsize=(5 * len(kinds), 7), squeeze=False)
    for column, gets in enumerate(kinds):
        mine = [row for row in rows if row["gets"] == gets]
        for store in dict.fromkeys(row["store"] for row in mine):
            if store == "pysyncobj" and gets:
                continue
            its = [row for row in mine if row["store"] == store]
            clients = [row["clients"] for row in its]
            for line, name in enumerate(("per_second", "p99_ms")):
                heights = [_median(row, name) for row in its]
                axes[line][column].plot(clients, heights, marker="o", label=store)
        for line, words in enumerate(("a second", "p99, ms")):
            part = axes[line][column]
            part.set(xscale="log", yscale="log", xlabel="clients", ylabel=words)
            part.set_title("gets" if gets else "puts")
            part.grid(alpha=0.3)
            part.legend()
    figure.tight_layout()
    figure.savefig(DOCS / "performance.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
