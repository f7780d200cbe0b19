"""What an operation costs, counted and not timed: a floor that no noise of a machine moves.

A simulated cluster of three nodes and one group, 100 operations in flight, one clerk. Counted are
messages between processes, synced batches, and calls of functions of ours, which virtual time and a
seed make the same on every machine. What a message, a sync and a call cost is the machine's affair;
that there are not more of them an operation than there were is ours. A bound that a change exceeds
for a good reason is raised with the reason in the commit; one that a change made too wide is
lowered with it (each stands some 15 % above what was counted).
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import SimCluster
from shardkv.clerk import Clerk

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 100
WARM, OPERATIONS = 1_000, 3_000
VALUE = bytes(256)
SIMULATED = str(ROOT / "labrpc/sim")
PRODUCT = tuple(f"{ROOT}/{room}/" for room in ("raft", "labrpc", "shardctrler", "shardkv"))


class Cost(NamedTuple):
    """Of one operation."""

    messages: float
    """Requests and answers of calls, and frames."""
    syncs: float
    """Of all nodes together."""
    calls: float
    """Of functions in the four packages, in whatever process; not the simulator's."""


class Calls:
    """Counts calls while it is the profiler."""

    def __init__(self) -> None:
        self.count = 0
        self._ours: dict[str, bool] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            file = frame.f_code.co_filename
            ours = self._ours.get(file)
            if ours is None:
                ours = file.startswith(PRODUCT) and not file.startswith(SIMULATED)
                self._ours[file] = ours
            self.count += ours


async def in_flight(count: int, operation: Callable[[int], Awaitable[object]]) -> None:
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await operation(number)

    await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))


def cost_of(operation: Callable[[Clerk, int], Awaitable[object]]) -> Cost:
    found: list[Cost] = []

    async def main() -> None:
        cluster = SimCluster(Chance("cost"), nodes=3, groups=1)
        await cluster.start()
        clerk, controller = cluster.client()
        await controller.join([cluster.joining(cluster.gids[0])])
        await in_flight(WARM, lambda number: clerk.put(b"key %d" % (number % WARM), VALUE))

        def counted() -> tuple[int, int]:
            counts = cluster.network.counts
            syncs = sum(node.drive.syncs for node in cluster.nodes.values())
            return 2 * counts.calls + counts.frames, syncs

        calls = Calls()
        before = counted()
        sys.setprofile(calls)
        try:
            await in_flight(OPERATIONS, lambda number: operation(clerk, number))
        finally:
            sys.setprofile(None)
        after = counted()
        messages, syncs = (now - then for now, then in zip(after, before, strict=True))
        found.append(Cost(messages / OPERATIONS, syncs / OPERATIONS, calls.count / OPERATIONS))
        await clerk.close()
        await controller.close()

    run(main(), seed=1)
    return found[0]


@pytest.mark.parametrize(
    ("operation", "most"),
    [
        (lambda clerk, n: clerk.put(b"key %d" % (n % WARM), VALUE), Cost(0.073, 0.036, 180.0)),
        (lambda clerk, n: clerk.get(b"key %d" % (n % WARM)), Cost(0.073, 0.002, 52.0)),
    ],
    ids=["a put", "a linearizable get"],
)
def test_an_operation_costs_no_more_than_it_did(
    operation: Callable[[Clerk, int], Awaitable[object]], most: Cost
) -> None:
    cost = cost_of(operation)

    print(f"{cost}, at most {most}")
    over = [name for name, is_, may in zip(Cost._fields, cost, most, strict=True) if is_ > may]
    assert not over, f"more {' and '.join(over)} an operation: {cost}, at most {most}"
