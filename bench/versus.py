"""Is it faster than the others? The same loads on ours and on peers, in turns, in one run.

A machine has good and bad minutes, so single figures mean little: in each round every store is
measured under the same load right after the other, and what counts is the ratio within a round, its
median and its spread over rounds. Results go to `bench/results/versus.json`, which `bench.report`
turns into `docs/performance.md`.

    python -m bench.versus                        all loads, all peers that are installed
    python -m bench.versus --peers etcd --clients 1 100 --gets 0 --rounds 5 --seconds 3
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from bench.peers import etcd, ours, pysyncobj, redis
from shardkv.benching import Figures, Load

RESULTS: Final = Path(__file__).parent / "results"


class Store(Protocol):
    """Something that a load can be put on."""

    name: str

    def fill(self, load: Load) -> None: ...

    def measure(self, load: Load) -> Figures: ...


PEERS: Final[Mapping[str, Any]] = {"etcd": etcd, "pysyncobj": pysyncobj, "redis": redis}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    peers = [name for name in options.peers if not (text := PEERS[name].missing()) or _skip(text)]
    starters: list[Callable[[], AbstractContextManager[Store]]] = [
        lambda: ours.started("--groups", str(options.groups), processes=options.processes),
        *(PEERS[name].started for name in peers),
    ]
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(starter()) for starter in starters]
        for store in stores:
            store.fill(Load(clients=64, seconds=1, keys=options.keys, value_bytes=options.size))
        for gets in options.gets:
            for clients in options.clients:
                load = Load(
                    clients=clients, seconds=options.seconds, gets=gets, keys=options.keys,
                    value_bytes=options.size,
                )  # fmt: skip
                fit = [store for store in stores if store.name != "redis" or gets in (0.0, 1.0)]
                rows += _rounds(fit, load, options.rounds)
    _save(options.out, rows, vars(options))


def _rounds(stores: Sequence[Store], load: Load, rounds: int) -> list[dict[str, Any]]:
    """Every store once a round, each round in the same order."""
    seen: dict[str, list[Figures]] = {store.name: [] for store in stores}
    for _ in range(rounds):
        for store in stores:
            seen[store.name].append(store.measure(load))
    print(f"\n{_named(load)}, {rounds} rounds of {load.seconds:g} s")
    mine = seen[stores[0].name]
    rows = []
    for store in stores:
        theirs = seen[store.name]
        ratios = [a.per_second / b.per_second for a, b in zip(mine, theirs, strict=True)]
        slower = [_ratio(a.p50_ms, b.p50_ms) for a, b in zip(mine, theirs, strict=True)]
        tails = [_ratio(a.p99_ms, b.p99_ms) for a, b in zip(mine, theirs, strict=True)]
        rate = statistics.median(one.per_second for one in theirs)
        p50 = statistics.median(one.p50_ms for one in theirs)
        p99 = statistics.median(one.p99_ms for one in theirs)
        print(
            f"  {store.name:10} {rate:9,.0f}/s  p50 {p50:8.2f} ms  p99 {p99:8.2f} ms"
            f"   ours: {_spread(ratios)} of its rate, p50 {_spread(slower)}, p99 {_spread(tails)}",
            flush=True,
        )
        rows.append(
            {
                "store": store.name, "clients": load.clients, "gets": load.gets,
                "bytes": load.value_bytes, "keys": load.keys,
                "rounds": [one.as_dict() for one in theirs],
                "ours_to_it": {"rate": ratios, "p50": slower, "p99": tails},
            }
        )  # fmt: skip
    return rows


def _named(load: Load) -> str:
    kind = {0.0: "puts", 1.0: "gets"}.get(load.gets, f"{load.gets:.0%} gets")
    return f"{kind}, {load.clients} clients, {load.value_bytes} B, {load.keys} keys"


def _ratio(mine: float, other: float) -> float:
    return mine / other if other else 0.0


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}x [{min(values):.2f}, {max(values):.2f}]"


def _skip(text: str) -> bool:
    print(f"left out, not installed: {text}", file=sys.stderr)
    return False


def _save(out: Path, rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    out.parent.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    about = {
        "commit": commit, "cores": os.cpu_count(), "python": platform.python_version(),
        "system": platform.release(), "options": {k: str(v) for k, v in options.items()},
    }  # fmt: skip
    out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    print(f"\nwritten to {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The same loads on ours and on peers, in turns.")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 10, 100, 500])
    parser.add_argument("--gets", nargs="+", type=float, default=[0.0, 1.0, 0.5, 0.95])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256, help="bytes of a value")
    parser.add_argument("--groups", type=int, default=1, help="of ours")
    parser.add_argument("--processes", type=int, default=1, help="client processes of ours")
    parser.add_argument("--out", type=Path, default=RESULTS / "versus.json")
    return parser


if __name__ == "__main__":
    main()
