"""A healed cluster bears more than it can do, and then serves as before (L10).

In virtual time a processor costs nothing, so what is scarce here are links, which carry little more
than the usual clients and the heartbeats ask of them, and disks, which are slow. Then `TIMES` as
many clients ask, and each gives up before a slow disk can have answered, and asks again. That is
how a store stays down when the cause is long gone: it works for those who have gone, and they ask
once more. When it is over the usual clients must get their usual share again (Bronson et al.,
*Metastable failures*, HotOS 2021).
"""

import asyncio
from random import Random
from typing import Final

from labrpc.sim.disk import SYNC_SECONDS
from labrpc.sim.network import HEALTHY
from labs.cluster import SimCluster
from labs.history import History, Kind
from labs.observer import InvariantBroken
from labs.workload import Workload, WorkloadConfig
from raft.config import RaftConfig

TIMES: Final = 5
CLIENTS: Final = 6
PAUSE_SECONDS: Final = 0.1
BUSY_SECONDS: Final = 5.0
SYNC_E: Final = 0.1
"""What a sync takes, in E."""
IMPATIENT_E: Final = 0.2
WINDOW_SECONDS: Final = 3.0
RECOVERS_SECONDS: Final = 30.0
GOODPUT: Final = 0.9
BYTES_PER_SECOND: Final = 25_000
BEAT_BYTES: Final = 4_000
"""What heartbeats of all groups, and their answers, may take of a link each time."""
KEYS: Final = 12


class Overload:
    """One ordeal. The answers are judged as they come (C2 to C5).

    Args:
        first_client: The number of the first client in the history.
        election_seconds: E.
    """

    def __init__(
        self,
        cluster: SimCluster,
        history: History,
        rng: Random,
        *,
        first_client: int,
        election_seconds: float,
    ) -> None:
        self._cluster, self._rng, self._longest = cluster, rng, election_seconds
        self._clients = [cluster.client() for _ in range(TIMES * CLIENTS)]
        self._workload = Workload(
            [clerk for clerk, _ in self._clients], rng, WorkloadConfig(), history, cluster.oracle,
            first_client=first_client,
        )  # fmt: skip
        self._loop = asyncio.get_running_loop()
        self._written = 0

    async def bear(self, raft: RaftConfig) -> None:
        """
        Raises:
            InvariantBroken: L10.
        """
        network = self._cluster.network
        rate = int(BYTES_PER_SECOND + BEAT_BYTES / raft.heartbeat_seconds)
        network.set_faults(HEALTHY.with_(bytes_per_second=rate, queue_bytes_max=rate))
        drives = [node.drive for node in self._cluster.nodes.values()]
        for drive in drives:
            drive.sync_seconds = SYNC_E * self._longest
        await self._served(WINDOW_SECONDS)  # sessions are opened, leaders found
        usual = await self._served(WINDOW_SECONDS)
        await self._press(BUSY_SECONDS)
        ended = self._loop.time()
        after = 0
        while after < GOODPUT * usual:
            if self._loop.time() > ended + RECOVERS_SECONDS:
                raise InvariantBroken(
                    "L10",
                    f"{usual} answers in {WINDOW_SECONDS:g} s before {TIMES} times the load, "
                    f"{after} {self._loop.time() - ended:.0f} s after it ended",
                )
            after = await self._served(WINDOW_SECONDS)
        network.set_faults(HEALTHY)
        for drive in drives:
            drive.sync_seconds = SYNC_SECONDS
        self._cluster.observer.probe("overload borne")
        for clerk, controller in self._clients:
            await clerk.close()
            await controller.close()

    async def _served(self, seconds: float) -> int:
        """How many questions of the usual clients are answered in so many seconds."""
        until = self._loop.time() + seconds
        asking = [self._ask(client, until, 3.0) for client in range(CLIENTS)]
        return sum(await asyncio.gather(*asking))

    async def _press(self, seconds: float) -> None:
        until, patience = self._loop.time() + seconds, IMPATIENT_E * self._longest
        everybody = range(len(self._clients))
        await asyncio.gather(*[self._ask(client, until, patience) for client in everybody])

    async def _ask(self, client: int, until: float, timeout: float) -> int:
        answered, turn = 0, client
        while self._loop.time() < until:
            key = b"busy %d" % self._rng.randrange(KEYS)
            # In turns: a window with more reads in it, which are quick, is no measure for others.
            kind = Kind.PUT if turn % 2 else Kind.GET
            turn += 1
            self._written += 1
            value = b"%d of the busy" % self._written if kind is Kind.PUT else None
            asked = await self._workload.ask(client, kind, key, value, timeout)
            answered += asked.happened is True and self._loop.time() <= until
            await asyncio.sleep(PAUSE_SECONDS)
        return answered
