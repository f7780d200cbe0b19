"""The tester's own two tests of 2025: a call gets through, and a shutdown is one."""

import asyncio
from collections.abc import Sequence
from random import Random

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabNetwork, LabServer
from labs.compaction import NEVER
from labs.harness.clerks import ClerkEnds
from labs.harness.edition import Edition, run_lab, seed_of
from labs.harness.servers import ServerGroup
from labs.node import Watcher

EDITION = Edition.E2025
METHOD = "Counter.Get"


class CountingServer:
    """Counts the calls that it answers, and notices its end."""

    def __init__(self) -> None:
        self.count = 0
        self.killed = False

    @property
    def server(self) -> LabServer:
        return LabServer({METHOD: self._get})

    def _get(self, body: bytes) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def get_state(self) -> tuple[int, bool]:
        return 0, False

    def persist_bytes(self) -> int:
        return 0

    def snapshot_bytes(self) -> int:
        return 0

    def kill(self) -> None:
        self.killed = True


async def make_counting(
    peers: Sequence[LabEnd],
    me: int,
    drive: SimDrive,
    rng: Random,
    *,
    maxraftstate: int,
    watcher: Watcher | None,
) -> CountingServer:
    return CountingServer()


async def one_server(seed: str) -> tuple[ServerGroup[CountingServer], LabEnd]:
    """A group of one, and a clerk's end to it."""
    chance = Chance(seed)
    network = LabNetwork(chance.rng("network"))
    group = ServerGroup(make_counting, 1, network, chance, maxraftstate=NEVER)
    await group.start_all()
    ends = ClerkEnds(network, 1, group.names)
    ends.connect(group.names)
    (end,) = ends.ends.values()
    return group, end


def test_basic() -> None:
    seed = seed_of("test_basic", EDITION)

    async def main() -> None:
        group, end = await one_server(seed)

        assert await end.call(METHOD, b"") == b"1"
        assert group.server(0).count == 1

    run_lab(main(), seed=seed, test=f"{__file__}::test_basic")


def test_shutdown_server() -> None:
    """The service is killed, and nobody reaches it any more, nor what was there before."""
    seed = seed_of("test_shutdown_server", EDITION)

    async def main() -> None:
        group, end = await one_server(seed)
        assert await end.call(METHOD, b"") == b"1"
        before = group.server(0)

        group.shutdown_all()

        assert before.killed
        assert await end.call(METHOD, b"") is None
        assert before.count == 1
        await group.start_all()
        assert await end.call(METHOD, b"") == b"1", "another life"
        assert (before.count, group.server(0).count) == (1, 1)

    run_lab(main(), seed=seed, test=f"{__file__}::test_shutdown_server")


def test_a_partition_cuts_both_ways_and_mends_within() -> None:
    seed = seed_of("test_partition", EDITION)

    async def main() -> None:
        chance = Chance(seed)
        network = LabNetwork(chance.rng("network"))
        ends: dict[int, Sequence[LabEnd]] = {}

        async def make(
            peers: Sequence[LabEnd],
            me: int,
            drive: SimDrive,
            rng: Random,
            *,
            maxraftstate: int,
            watcher: Watcher | None,
        ) -> CountingServer:
            ends[me] = peers
            return CountingServer()

        group = ServerGroup(make, 5, network, chance, maxraftstate=NEVER)
        await group.start_all()
        majority, minority = group.make_partition(leader=1)
        assert (majority, minority) == ([0, 2, 3], [4, 1])

        async def reach() -> set[tuple[int, int]]:
            pairs = [(i, j) for i in range(5) for j in range(5)]
            answers = await asyncio.gather(*[ends[i][j].call(METHOD, b"") for i, j in pairs])
            return {pair for pair, answer in zip(pairs, answers, strict=True) if answer}

        sides = {(i, j) for side in (majority, minority) for i in side for j in side}
        assert len(await reach()) == 25
        group.partition(majority, minority)
        assert await reach() == sides
        group.isolate(0)
        assert await reach() == {(i, j) for i, j in sides if 0 not in (i, j)}
        group.connect_all()
        assert len(await reach()) == 25

    run_lab(main(), seed=seed, test=f"{__file__}::test_partition")
