"""How does it go with the size of values? 16 bytes to 1 MiB, puts and gets, in turns with etcd.

etcd refuses requests above 1.5 MiB, ours values above 1 MiB. Of large values there are fewer keys,
so that each size comes to about 64 MiB.

    python -m bench.sizes                        three rounds of a second: a minute and a half
    python -m bench.sizes --sizes 4096 --clients 100 --rounds 5 --seconds 3
"""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from bench.measuring import save
from bench.peers import etcd, ours
from bench.peers.store import Store
from bench.versus import rounds
from shardkv.benching import Load

SIZES: Final = (16, 256, 4 * 1024, 64 * 1024, 1024 * 1024)
TOTAL_BYTES: Final = 64 * 1024 * 1024
KEYS_MAX: Final = 10_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--out", default="sizes", help="name of the result file")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stores: list[Store] = [stack.enter_context(ours.started())]
        if not etcd.missing():
            stores.append(stack.enter_context(etcd.started()))
        for size in sorted(options.sizes):
            for gets in (0.0, 1.0):
                load = Load(
                    clients=options.clients, seconds=options.seconds, gets=gets,
                    keys=min(KEYS_MAX, TOTAL_BYTES // size), value_bytes=size,
                )  # fmt: skip
                if gets:
                    for store in stores:
                        store.fill(load)
                rows += rounds(stores, load, options.rounds)
    save(options.out, options, rows=rows)


if __name__ == "__main__":
    main()
