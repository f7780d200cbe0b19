"""The plots of `docs/performance.md`, as small SVG files. Asks nothing by itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.measuring import median
from bench.versus import OURS, ratio

Results = Mapping[str, Mapping[str, Any]]
COLOURS: Final = {
    "shardkv": "#d62728", "shardkv-4": "#ff7f0e", "shardkv-4x2": "#e6b800", "etcd": "#1f77b4",
    "redis": "#7f7f7f", "pysyncobj": "#2ca02c",
}  # fmt: skip


def draw(results: Results, place: Path) -> None:
    """Write one file a plot for which there are figures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "shardkv"  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    from matplotlib import pyplot

    makers = {
        "rates.svg": ("versus", _rates), "latencies.svg": ("versus", _latencies),
        "ratios.svg": ("versus", _ratios), "cpu.svg": ("versus", _cpu), "ycsb.svg": ("ycsb", _ycsb),
        "sizes.svg": ("sizes", _sizes), "stages.svg": ("stages", _stages),
    }  # fmt: skip
    for name, (file, make) in makers.items():
        if file in results:
            figure = make(pyplot, results[file]["rows"])
            figure.tight_layout()
            figure.savefig(place / name, metadata={"Date": None})
            pyplot.close(figure)


def _title(gets: float) -> str:
    return {0.0: "puts", 1.0: "linearizable gets"}.get(gets, f"{gets:.0%} gets")


def _lines(
    pyplot: Any, rows: Sequence[Mapping[str, Any]], fields: Sequence[tuple[str, str]]
) -> Any:
    """A column a kind of load, a row a field; a line a store, clients along."""
    kinds = list(dict.fromkeys(row["gets"] for row in rows))
    size = (3.4 * len(kinds), 3.2 * len(fields))
    figure, axes = pyplot.subplots(len(fields), len(kinds), figsize=size, squeeze=False)
    for column, gets in enumerate(kinds):
        for line, (field, words) in enumerate(fields):
            part = axes[line][column]
            for store in dict.fromkeys(row["store"] for row in rows if row["gets"] == gets):
                its = [row for row in rows if (row["store"], row["gets"]) == (store, gets)]
                part.plot(
                    [row["clients"] for row in its],
                    [median(one[field] for one in row["rounds"]) for row in its],
                    marker="o", markersize=3, label=store, color=COLOURS.get(store),
                )  # fmt: skip
            part.set(xscale="log", yscale="log", xlabel="clients", ylabel=words)
            part.set_title(_title(gets), fontsize=10)
            part.minorticks_off()  # each is an object in the file
            part.grid(alpha=0.3)
        axes[0][column].legend(fontsize=7)
    return figure


def _rates(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    return _lines(pyplot, rows, [("per_second", "a second")])


def _latencies(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    fields = [("p50_ms", "p50, ms"), ("p99_ms", "p99, ms")]
    return _lines(pyplot, rows, fields)


def _ratios(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Ours to etcd's, load by load, with the spread over rounds."""
    loads = list(dict.fromkeys((row["gets"], row["clients"]) for row in rows))
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 0.32 * len(loads) + 1.2))
    fields = (
        ("per_second", "rate: ours to etcd's"), ("p50_ms", "p50: ours to etcd's"),
        ("p99_ms", "p99: ours to etcd's"),
    )  # fmt: skip
    for part, (field, words) in zip(axes, fields, strict=True):
        for at, (gets, clients) in enumerate(loads):
            found = {row["store"]: row["rounds"] for row in rows
                     if (row["gets"], row["clients"]) == (gets, clients)}  # fmt: skip
            if OURS not in found or "etcd" not in found:
                continue
            ratios = ratio(found[OURS], found["etcd"], field)
            middle = median(ratios)
            spread = [[middle - min(ratios)], [max(ratios) - middle]]
            part.barh(at, middle, xerr=spread, color=COLOURS[OURS], ecolor="black", capsize=2)
        part.axvline(1.0, color="black", linewidth=0.8)
        part.set_yticks(range(len(loads)), [f"{_title(g)}, {c}" for g, c in loads], fontsize=7)
        part.invert_yaxis()
        part.set_title(words, fontsize=10)
    return figure


def _cpu(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """CPU an operation at 100 clients, nodes and client stacked, bars side by side."""
    kinds = [gets for gets in (0.0, 1.0) if any(row["gets"] == gets for row in rows)]
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(4.5 * len(kinds), 3.2), squeeze=False)
    for part, gets in zip(axes[0], kinds, strict=True):
        some = [row["clients"] for row in rows if row["gets"] == gets]
        clients = 100 if 100 in some else max(some)
        for at, row in enumerate(
            row for row in rows
            if (row["gets"], row["clients"]) == (gets, clients) and row["store"] != "pysyncobj"
        ):  # fmt: skip
            bottom = 0.0
            names = sorted(row["rounds"][0]["cpu_us"], key=lambda n: (n == "client", n))
            for place, name in enumerate(names):
                us = median(one["cpu_us"].get(name, 0.0) for one in row["rounds"])
                shade = 1.0 - 0.2 * place if name != "client" else 0.25
                colour = COLOURS.get(row["store"])
                part.bar(row["store"], us, bottom=bottom, color=colour, alpha=max(shade, 0.2))
                bottom += us
            part.annotate(f"{bottom:.0f}", (at, bottom), ha="center", va="bottom", fontsize=8)
        part.set_title(f"{_title(gets)}, {clients} clients: CPU us an operation", fontsize=9)
        part.tick_params(axis="x", labelsize=7)
    return figure


def _bars(part: Any, labels: Sequence[str], stores: Mapping[str, Sequence[float]]) -> None:
    """Groups of bars, a bar a store."""
    width = 0.8 / len(stores)
    for at, (store, heights) in enumerate(stores.items()):
        places = [number + at * width for number in range(len(labels))]
        part.bar(places, heights, width, label=store, color=COLOURS.get(store))
    part.set_xticks([n + 0.4 - width / 2 for n in range(len(labels))], labels, fontsize=8)
    part.legend(fontsize=7)
    part.grid(axis="y", alpha=0.3)


def _ycsb(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2))
    labels = [row["workload"] for row in rows]
    for part, (field, words) in zip(
        axes, (("per_second", "operations a second"), ("p99_ms", "p99, ms")), strict=True
    ):
        stores = {store: [median(one[field] for one in row["stores"][store]) for row in rows]
                  for store in rows[0]["stores"]}  # fmt: skip
        _bars(part, labels, stores)
        part.set_title(words, fontsize=10)
        part.set_yscale("log")
    return figure


def _sizes(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2))
    sizes = list(dict.fromkeys(row["bytes"] for row in rows))
    labels = [f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB" if size >= 1 << 10
              else f"{size} B" for size in sizes]  # fmt: skip
    for part, gets in zip(axes, (0.0, 1.0), strict=True):
        mine = [row for row in rows if row["gets"] == gets]
        stores = {
            store: [
                median(one["per_second"] for one in row["rounds"])
                for row in mine if row["store"] == store
            ]
            for store in dict.fromkeys(row["store"] for row in mine)
        }  # fmt: skip
        _bars(part, labels, stores)
        part.set_yscale("log")
        part.set_title(f"{_title(gets)} a second by size of value", fontsize=10)
    return figure


def _stages(pyplot: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """One bar a process, its stages stacked."""
    figure, axes = pyplot.subplots(
        1, len(rows), figsize=(4.5 * len(rows) + 2, 4), squeeze=False, sharey=False
    )
    names = dict.fromkeys(
        name for row in rows for split in row["roles"].values() for name in split["stages"]
    )
    colours = pyplot.get_cmap("tab20")
    paint = {name: colours(at % 20) for at, name in enumerate(names)}
    for part, row in zip(axes[0], rows, strict=True):
        for role, split in row["roles"].items():
            bottom = 0.0
            for name, us in split["stages"].items():
                part.bar(role, us, bottom=bottom, color=paint[name])
                bottom += us
        part.set_title(
            f"{_title(row['gets'])}, {row['clients']} clients: CPU us an operation", fontsize=9
        )
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=paint[name]) for name in names]
    axes[0][-1].legend(handles, names, fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
