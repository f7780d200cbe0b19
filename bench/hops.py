"""What do the ways alone cost that a put's messages take, beside the put and beside etcd's?

The same client asks, in turns: for a put that only takes the ways of ours and waits for two of
three fsyncs, over gRPC and over plain TCP, with the fsyncs and without (`bench/peers/hops.py`); for
a put of ours; for one of etcd's. What the first ones cost is a floor under ours: if that floor lies
above etcd's put, no store behind these ways can be as fast as etcd for a single client, however
little it computes.

    python -m bench.hops                        five rounds of a second, one client
    python -m bench.hops --clients 1 100 --rounds 7 --seconds 2
"""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from bench.measuring import save
from bench.peers import etcd, hops, ours
from bench.peers.store import Store
from bench.versus import rounds
from shardkv.benching import Load

WAYS: Final = (
    ("gRPC, no fsync", "grpc", False),
    ("gRPC, fsyncs", "grpc", True),
    ("TCP, no fsync", "tcp", False),
    ("TCP, fsyncs", "tcp", True),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=256, help="bytes of a value")
    parser.add_argument("--out", default="hops", help="name of the result file")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stores: list[Store] = [stack.enter_context(ours.started())]
        for name, wire, fsync in WAYS:
            stores.append(stack.enter_context(hops.started(name, wire, fsync=fsync)))
        if not etcd.missing():
            stores.append(stack.enter_context(etcd.started()))
        for store in stores:
            store.fill(Load(clients=64, seconds=1, value_bytes=options.size))
        for clients in options.clients:
            load = Load(clients=clients, seconds=options.seconds, value_bytes=options.size)
            rows += rounds(stores, load, options.rounds)
    save(options.out, options, rows=rows)


if __name__ == "__main__":
    main()
