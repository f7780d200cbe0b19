"""Is it faster than the others? The same loads on ours and on peers, in turns, in one run.

A machine has good and bad minutes, so single figures mean little: in each round every store is
measured under the same load right after the other, and what counts is the ratio within a round, its
median and its spread over rounds. CPU time by process comes with it: what the kernel counted for
each node, and the client for itself, from the load's beginning to its end.

    python -m bench.versus                        all loads, all that is installed: ten minutes
    python -m bench.versus --peers etcd --clients 1 100 --gets 0 1 --rounds 3 --seconds 1

Ours comes three times: one group and one client process ("shardkv"); four groups ("shardkv-4");
four groups and two client processes ("shardkv-4x2"). Mixed loads are for ours and etcd alone:
redis-benchmark mixes nothing, and PySyncObj's gets are not linearizable.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.measuring import CpuWatch, median, save
from bench.peers import etcd, ours, pysyncobj, redis
from bench.peers.store import Store
from shardkv.benching import Load

OURS: Final = "shardkv"
FOUR: Final = "shardkv-4"
FOUR_BY_TWO: Final = "shardkv-4x2"
PEERS: Final[Mapping[str, Any]] = {"etcd": etcd, "pysyncobj": pysyncobj, "redis": redis}
PURE: Final = (0.0, 1.0)
"""Shares of gets that redis-benchmark can ask."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    peers = [name for name in options.peers if not (text := PEERS[name].missing()) or _skip(text)]
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stores = [*stack.enter_context(_ours(options.variants))]
        stores += [stack.enter_context(PEERS[name].started()) for name in peers]
        for store in stores:
            store.fill(Load(clients=64, seconds=1, keys=options.keys, value_bytes=options.size))
        for gets in options.gets:
            for clients in options.clients:
                load = Load(
                    clients=clients, seconds=options.seconds, gets=gets, keys=options.keys,
                    value_bytes=options.size,
                )  # fmt: skip
                rows += rounds([s for s in stores if _fits(s.name, load)], load, options.rounds)
    save(options.out, options, rows=rows)


@contextlib.contextmanager
def _ours(variants: Sequence[str]) -> Iterator[list[Store]]:
    """Those of ours that are wanted; the two with four groups share one cluster."""
    with contextlib.ExitStack() as stack:
        found: list[Store] = []
        if OURS in variants:
            found.append(stack.enter_context(ours.started(name=OURS)))
        if FOUR in variants or FOUR_BY_TWO in variants:
            four = stack.enter_context(ours.started(4, name=FOUR))
            if FOUR in variants:
                found.append(four)
            if FOUR_BY_TWO in variants:
                found.append(ours.Ours(four.running, FOUR_BY_TWO, groups=4, processes=2))
        yield found


def _fits(store: str, load: Load) -> bool:
    if load.gets not in PURE:
        return store in (OURS, "etcd")
    if store == FOUR_BY_TWO and load.clients == 1:
        return False  # one client is one process
    return store != "pysyncobj" or not load.gets


def rounds(stores: Sequence[Store], load: Load, count: int) -> list[dict[str, Any]]:
    """Every store once a round, each round in the same order."""
    seen: dict[str, list[dict[str, Any]]] = {store.name: [] for store in stores}
    leaders: dict[str, str] = {}
    for _ in range(count):
        for store in stores:
            seen[store.name].append(_measured(store, load))
            leaders[store.name] = store.leader()
    print(f"\n{named(load)}, {count} rounds of {load.seconds:g} s")
    rows = []
    mine = seen[stores[0].name]
    for store in stores:
        theirs = seen[store.name]
        rows.append(
            {
                "store": store.name, "clients": load.clients, "gets": load.gets,
                "bytes": load.value_bytes, "keys": load.keys, "leader": leaders[store.name],
                "rounds": theirs,
            }
        )  # fmt: skip
        ratios = {name: ratio(mine, theirs, name) for name in ("per_second", "p50_ms", "p99_ms")}
        print(
            f"  {store.name:11} {_middle(theirs, 'per_second'):9,.0f}/s"
            f"  p50 {_middle(theirs, 'p50_ms'):8.2f} ms  p99 {_middle(theirs, 'p99_ms'):8.2f} ms"
            f"   ours: {_spread(ratios['per_second'])} of its rate,"
            f" p50 {_spread(ratios['p50_ms'])}, p99 {_spread(ratios['p99_ms'])}",
            flush=True,
        )
    return rows


def _measured(store: Store, load: Load) -> dict[str, Any]:
    with CpuWatch(store.processes) as watch:
        taken = store.measure(load)
    figures = taken.figures
    spent = watch.between(taken.began, taken.began + taken.seconds)
    spent["client"] = taken.client_cpu_seconds
    each = {
        name: seconds / figures.operations * 1e6 if figures.operations else 0.0
        for name, seconds in spent.items()
    }
    return {**figures.as_dict(), "cpu_us": each}


def ratio(
    ours_: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], name: str
) -> list[float]:
    """Ours to theirs, round by round; 0 where there is nothing to divide by."""
    return [a[name] / b[name] if b[name] else 0.0 for a, b in zip(ours_, theirs, strict=True)]


def named(load: Load) -> str:
    kind = {0.0: "puts", 1.0: "gets"}.get(load.gets, f"{load.gets:.0%} gets")
    return f"{kind}, {load.clients} clients, {load.value_bytes} B, {load.keys} keys"


def _middle(rounds_: Sequence[Mapping[str, Any]], name: str) -> float:
    return median(one[name] for one in rounds_)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f}x [{min(values):.2f}, {max(values):.2f}]"


def _skip(text: str) -> bool:
    print(f"left out, not installed: {text}", file=sys.stderr)
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The same loads on ours and on peers, in turns.")
    variants = [OURS, FOUR, FOUR_BY_TWO]
    parser.add_argument("--variants", nargs="+", choices=variants, default=variants)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 10, 100, 500])
    parser.add_argument("--gets", nargs="+", type=float, default=[0.0, 1.0, 0.5, 0.95])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256, help="bytes of a value")
    parser.add_argument("--out", default="versus", help="name of the result file")
    return parser


if __name__ == "__main__":
    main()
