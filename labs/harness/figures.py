"""What a lab test's run amounted to: the figures that the official testers print."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from labrpc.sim.labnet import NETWORKS, LabNetwork


class Figures(NamedTuple):
    """Of one run."""

    seed: str
    seconds: float
    """On the run's clock: simulated ones, in virtual time."""
    peers: int
    """Servers that there were, of all groups."""
    rpcs: int
    """Calls on the lab network, also those that failed."""
    bytes: int
    """Of requests and answers."""
    operations: int
    """Agreements of the raft lab; calls of clerks elsewhere."""


Sink = Callable[[Figures], None]

_sink: ContextVar[Sink | None] = ContextVar("figures_sink", default=None)
_gauge: ContextVar["Gauge | None"] = ContextVar("figures_gauge", default=None)


@contextmanager
def reporting_to(sink: Sink) -> Iterator[None]:
    """Whoever runs the tests hears of each run that ends within, well or not."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)


def note_operations(count: int) -> None:
    """For clusters: so many agreements, or calls of clerks, were made."""
    gauge = _gauge.get()
    if gauge is not None:
        gauge.operations += count


class Gauge:
    """Counts in one run: run `timed(main)` within `counting`."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._seconds = 0.0
        self._networks: list[LabNetwork] = []
        self.operations = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        tokens = NETWORKS.set(self._networks), _gauge.set(self)
        try:
            yield
        finally:
            NETWORKS.reset(tokens[0])
            _gauge.reset(tokens[1])
            sink = _sink.get()
            if sink is not None:
                sink(self._read())

    async def timed(self, main: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await main
        finally:
            self._seconds = loop.time() - began

    def _read(self) -> Figures:
        return Figures(
            seed=self._seed,
            seconds=self._seconds,
            peers=sum(network.servers for network in self._networks),
            rpcs=sum(network.total_count for network in self._networks),
            bytes=sum(network.total_bytes for network in self._networks),
            operations=self.operations,
        )
