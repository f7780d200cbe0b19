"""How many operations a second, and how long does one take? Load on a store, and its figures.

Closed loops: so many clients, each asks again as soon as it is answered. Each operation's time is
kept, so that percentiles are of what happened and not of a sketch of it. The same loads are put on
other stores by `bench/`; what they print is read with `Measured.read`.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Final, Protocol

from shardkv.errors import ShardKVError

KEYS: Final = 10_000
VALUE_BYTES: Final = 256
PREFIX: Final = b"bench/"
FILL_IN_FLIGHT: Final = 256
FILL_BYTES_IN_FLIGHT: Final = 16 * 1024 * 1024


class Values:
    """Values that differ, and that no compression shortens: slices of one random block.

    The same bytes over and over would be a few bytes on the disk of a store that compresses.
    """

    SPREAD: Final = 64 * 1024

    def __init__(self, rng: Random, size: int) -> None:
        self._block = rng.randbytes(size + self.SPREAD)
        self._size = size
        self._random = rng.random

    def draw(self) -> bytes:
        begin = int(self._random() * self.SPREAD)
        return self._block[begin : begin + self._size]


class Store(Protocol):
    """What a load needs of a store."""

    async def put(self, key: bytes, value: bytes) -> object: ...

    async def get(self, key: bytes) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked, and how hard."""

    clients: int
    """Operations in flight."""
    seconds: float
    gets: float = 0.0
    """The share of linearizable reads, from 0 to 1."""
    keys: int = KEYS
    value_bytes: int = VALUE_BYTES
    prefix: bytes = PREFIX


@dataclass(frozen=True, slots=True)
class Measured:
    """What a load came to."""

    seconds: float
    took_us: tuple[int, ...]
    """Each answered operation's time in microseconds, in no order."""
    errors: int = 0
    began: float = 0.0
    """By the clock that all processes of a machine share (`time.time()`)."""
    cpu_seconds: float = 0.0
    """Of the load generator, while it measured."""

    @classmethod
    def read(cls, text: str) -> "Measured":
        """What a load generator printed: a JSON object."""
        fields = json.loads(text)
        return cls(
            fields["seconds"],
            tuple(fields["took_us"] or ()),
            fields["errors"],
            fields["began"],
            fields["cpu_seconds"],
        )

    def write(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def together(cls, parts: Sequence["Measured"]) -> "Measured":
        """Several load generators at the same time, as one."""
        began = min(part.began for part in parts)
        ended = max(part.began + part.seconds for part in parts)
        return cls(
            ended - began,
            tuple(took for part in parts for took in part.took_us),
            sum(part.errors for part in parts),
            began,
            sum(part.cpu_seconds for part in parts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Operations a second, and times in milliseconds."""

    operations: int
    errors: int
    per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, measured: Measured) -> "Figures":
        """Of what was answered; of nothing, all are 0."""
        took = sorted(measured.took_us)

        def at(share: float) -> float:
            return took[min(int(len(took) * share), len(took) - 1)] / 1000 if took else 0.0

        return cls(
            operations=len(took),
            errors=measured.errors,
            per_second=len(took) / measured.seconds if measured.seconds else 0.0,
            p50_ms=at(0.5),
            p90_ms=at(0.9),
            p99_ms=at(0.99),
            p999_ms=at(0.999),
            max_ms=at(1.0),
        )

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}

    def line(self) -> str:
        """One line of text, as `HEADING` has it."""
        return (
            f"{self.per_second:10,.0f}/s {self.p50_ms:9.2f} {self.p90_ms:9.2f} "
            f"{self.p99_ms:9.2f} {self.p999_ms:9.2f} {self.max_ms:9.2f} {self.errors:6d}"
        )


HEADING: Final = (
    f"{'':10}  {'p50 ms':>9} {'p90 ms':>9} {'p99 ms':>9} {'p99.9 ms':>9} {'max ms':>9} errors"
)


async def fill(store: Store, load: Load, rng: Random) -> None:
    """Put every key once, so that a get finds one."""
    values = Values(rng, load.value_bytes)
    room = FILL_BYTES_IN_FLIGHT // max(load.value_bytes, 1)
    in_flight = max(1, min(FILL_IN_FLIGHT, room))

    async def some(first: int) -> None:
        for number in range(first, load.keys, in_flight):
            await store.put(_key(load, number), values.draw())

    await asyncio.gather(*(some(first) for first in range(in_flight)))


async def measure(store: Store, load: Load, rng: Random) -> Measured:
    """Keep `load.clients` operations in flight for `load.seconds`.

    Args:
        rng: Draws keys, kinds and values.
    """
    clock = time.perf_counter
    values = Values(rng, load.value_bytes)
    took: list[int] = []
    errors = 0
    began, used = time.time(), time.process_time()
    begun = clock()
    until = begun + load.seconds

    async def client(chance: Random) -> None:
        nonlocal errors
        while (asked := clock()) < until:
            key = _key(load, chance.randrange(load.keys))
            try:
                if chance.random() < load.gets:
                    await store.get(key)
                else:
                    await store.put(key, values.draw())
            except ShardKVError:
                errors += 1
            else:
                took.append(int((clock() - asked) * 1e6))

    await asyncio.gather(*(client(Random(rng.random())) for _ in range(load.clients)))
    seconds, used = clock() - begun, time.process_time() - used
    return Measured(seconds, tuple(took), errors, began, used)


def _key(load: Load, number: int) -> bytes:
    return b"%s%d" % (load.prefix, number)
