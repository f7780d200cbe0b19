"""YCSB's workloads A to F on ours and on etcd, in turns.

Cooper et al., "Benchmarking cloud serving systems with YCSB", SoCC 2010: records of 1,000 bytes
under hashed names, chosen by a scrambled zipfian distribution (0.99), for D the newest most.

    A  50 % reads, 50 % updates          D  95 % reads of new records, 5 % inserts
    B  95 % reads,  5 % updates          E  95 % scans of 1 to 100 records, 5 % inserts
    C  reads alone                       F  50 % reads, 50 % read-modify-writes

Every read is linearizable, each page of a scan too. Ours is one group and one client process; etcd
is asked by the same Go program as in `versus`.

    python -m bench.ycsb                       three rounds of a second: a minute and a half
    python -m bench.ycsb --rounds 5 --seconds 3 --records 100000
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from bench.cluster import Running, cluster
from bench.growth import on_the_loop
from bench.measuring import median, save
from bench.peers import etcd
from shardkv import aio
from shardkv.benching import Figures, Load, Measured, Values
from shardkv.clerk import Clerk
from shardkv.errors import ShardKVError

THETA: Final = 0.99
HASHED_ITEMS: Final = 10_000_000_000
HASHED_ZETA: Final = 26.46902820178302
"""YCSB's scrambled zipfian draws from so many items, whatever there are, and hashes the draw."""
SCAN_MAX: Final = 100
PREFIX: Final = b"user"
FILL_IN_FLIGHT: Final = 256
DRAWS: Final = 20_000
"""Drawn before the clock starts, and used again and again: a draw costs as much as a request."""


class Mix(NamedTuple):
    """Shares of a workload's operations; what is left of 1 are inserts."""

    read: float = 0.0
    update: float = 0.0
    scan: float = 0.0
    modify: float = 0.0


WORKLOADS: Final[Mapping[str, Mix]] = {
    "A": Mix(read=0.5, update=0.5),
    "B": Mix(read=0.95, update=0.05),
    "C": Mix(read=1.0),
    "D": Mix(read=0.95),
    "E": Mix(scan=0.95),
    "F": Mix(read=0.5, modify=0.5),
}


class Zipf:
    """Numbers from 0 on, small ones more often (Gray et al., SIGMOD 1994)."""

    def __init__(self, items: float, zeta: float) -> None:
        self._items, self._zeta = items, zeta
        self._two = 1 + 0.5**THETA
        self._alpha = 1 / (1 - THETA)
        self._eta = (1 - (2 / items) ** (1 - THETA)) / (1 - self._two / zeta)

    @classmethod
    def of(cls, items: int) -> "Zipf":
        return cls(items, sum(i**-THETA for i in range(1, items + 1)))

    def draw(self, rng: Random) -> int:
        u = rng.random()
        if u * self._zeta < 1:
            return 0
        if u * self._zeta < self._two:
            return 1
        return int(self._items * (self._eta * u - self._eta + 1) ** self._alpha)


def fnv(number: int) -> int:
    """FNV-1a of eight bytes, as a number below 2^63."""
    found = 0xCBF29CE484222325
    for octet in number.to_bytes(8, "little"):
        found = ((found ^ octet) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return found & 0x7FFFFFFFFFFFFFFF


def key_of(number: int) -> bytes:
    return PREFIX + b"%d" % fnv(number)


class Workload:
    """What one client process asks.

    Args:
        records: How many there are at the beginning.
    """

    def __init__(self, name: str, kv: Clerk, records: int, size: int, rng: Random) -> None:
        self._mix, self._kv, self._records, self._rng = WORKLOADS[name], kv, records, rng
        self._values = Values(rng, size)
        self._newest = records - 1
        if name == "D":
            latest = Zipf.of(records)
            self._back = [latest.draw(rng) for _ in range(DRAWS)]
        else:
            hashed = Zipf(HASHED_ITEMS, HASHED_ZETA)
            self._keys = [key_of(fnv(hashed.draw(rng)) % records) for _ in range(DRAWS)]
        self._draws_back = name == "D"
        self._at = 0

    def _existing(self) -> bytes:
        self._at = (self._at + 1) % DRAWS
        if self._draws_back:
            return key_of(max(0, self._newest - self._back[self._at]))
        return self._keys[self._at]

    def next(self) -> Awaitable[object]:
        """The next operation, under way."""
        mix, kv, u = self._mix, self._kv, self._rng.random()
        if u < mix.read:
            return kv.get(self._existing())
        u -= mix.read
        if u < mix.update:
            return kv.put(self._existing(), self._values.draw())
        u -= mix.update
        if u < mix.scan:
            length = 1 + self._rng.randrange(SCAN_MAX)
            return kv.list_page(PREFIX, after=self._existing(), limit=length, values=True)
        u -= mix.scan
        if u < mix.modify:
            return self._modify(self._existing())
        self._newest += 1
        return kv.put(key_of(self._newest), self._values.draw())

    async def _modify(self, key: bytes) -> None:
        await self._kv.get(key)
        await self._kv.put(key, self._values.draw())


async def fill(running: Running, records: int, size: int) -> None:
    values, numbers = Values(Random(0), size), iter(range(records))
    async with aio.connect(running.endpoints, timeout=60) as kv:

        async def some() -> None:
            for number in numbers:
                await kv.put(key_of(number), values.draw())

        await asyncio.gather(*(some() for _ in range(FILL_IN_FLIGHT)))


async def measure(running: Running, name: str, load: Load, rng: Random) -> Measured:
    clock = time.perf_counter
    took: list[int] = []
    errors = 0
    async with aio.connect(running.endpoints, timeout=60) as kv:
        workload = Workload(name, kv, load.keys, load.value_bytes, rng)
        await asyncio.gather(*(kv.put(b"warm/%d" % n, b"") for n in range(load.clients)))
        begun = clock()
        until = begun + load.seconds

        async def client() -> None:
            nonlocal errors
            while (asked := clock()) < until:
                try:
                    await workload.next()
                except ShardKVError:
                    errors += 1
                else:
                    took.append(int((clock() - asked) * 1e6))

        await asyncio.gather(*(client() for _ in range(load.clients)))
        return Measured(clock() - begun, tuple(took), errors)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="YCSB's workloads, on ours and on etcd.")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1000, help="bytes of a record")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--out", default="ycsb", help="name of the result file")
    options = parser.parse_args(arguments)
    load = Load(
        clients=options.clients, seconds=options.seconds, keys=options.records,
        value_bytes=options.size,
    )  # fmt: skip
    rng, rows = Random(4), []
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(cluster("--groups", "1"))
        on_the_loop(fill(running, options.records, options.size))
        asks: dict[str, Callable[[str], Figures]] = {
            "shardkv": lambda name: Figures.of(on_the_loop(measure(running, name, load, rng)))
        }
        if not etcd.missing():
            peer = stack.enter_context(etcd.started())
            peer.fill_ycsb(load)
            asks["etcd"] = lambda name: peer.measure_ycsb(name, load).figures
        for name in options.workloads:
            rows.append(_row(name, asks, options.rounds))
    save(options.out, options, rows=rows)


def _row(name: str, asks: Mapping[str, Callable[[str], Figures]], rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {store: [] for store in asks}
    for _ in range(rounds):
        for store, ask in asks.items():
            found[store].append(ask(name).as_dict())
    words = [
        f"{store} {median(one['per_second'] for one in all_):,.0f}/s p99 "
        f"{median(one['p99_ms'] for one in all_):.1f} ms"
        for store, all_ in found.items()
    ]
    print(f"{name}: {'; '.join(words)}", flush=True)
    return {"workload": name, "stores": found}


if __name__ == "__main__":
    main()
