"""The tester of the replicated state machine: three servers that count.

The service increments a counter, does nothing, or decrements, which no test ever lets happen: a
server that does it stops, and the run fails.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabNetwork
from labs.compaction import NEVER
from labs.harness.edition import TEST_SECONDS_MAX, LabFailure
from labs.harness.figures import note_operations
from labs.harness.servers import ServerGroup
from labs.node import Watcher
from labs.rsm import RSM, Err, Request

SERVERS: Final = 3
AGREE_SECONDS_MAX: Final = 10.0
"""NSEC: how long a command is tried."""
INC, NULL, DEC = "inc", "null", "dec"


class Counter:
    """The service."""

    def __init__(self) -> None:
        self.count = 0

    def do_op(self, request: Request) -> object:
        if request == INC:
            self.count += 1
            return self.count
        if request == NULL:
            return None
        raise LabFailure(f"carried out {request!r}")

    def snapshot(self) -> bytes:
        return self.count.to_bytes(8, "big")

    def restore(self, snapshot: bytes) -> None:
        self.count = int.from_bytes(snapshot, "big")


class RsmCluster:
    """The tester: an async context, which starts the servers."""

    def __init__(self, *, seed: str, maxraftstate: int = NEVER) -> None:
        chance = Chance(seed)
        self._network = LabNetwork(chance.rng("network"))
        self.group: ServerGroup[RSM] = ServerGroup(
            self._make, SERVERS, self._network, chance, maxraftstate=maxraftstate
        )
        self.connected = [True] * SERVERS
        self.counters = [Counter() for _ in range(SERVERS)]  # of the servers' present lives
        self._leader = 0
        self._submitted = 0
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    async def __aenter__(self) -> "RsmCluster":
        await self.group.start_all()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        took = self._loop.time() - self._began
        self.group.shutdown_all()
        self._network.cleanup()
        note_operations(self._submitted)
        self.group.invariants.finish()
        if kind is None and took > TEST_SECONDS_MAX:
            raise LabFailure(f"the test took {took:.1f} s; the limit is {TEST_SECONDS_MAX} s")

    async def _make(
        self,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        rng: Random,
        *,
        maxraftstate: int,
        watcher: Watcher | None,
    ) -> RSM:
        counter = self.counters[me] = Counter()
        return await RSM.make(
            peers, me, drive, counter, rng, maxraftstate=maxraftstate, watcher=watcher
        )

    @property
    def leader(self) -> int:
        """The server that carried out the last request."""
        return self._leader

    def disconnect(self, i: int) -> None:
        self.connected[i] = False
        self.group.isolate(i)

    def connect(self, i: int) -> None:
        self.connected[i] = True
        self.group.reconnect(i)

    async def restart(self) -> None:
        """Start every server again and connect all."""
        await self.group.start_all()

    async def one(self, request: Request, among: Sequence[int] | None = None) -> object:
        """Have a request carried out by somebody within 10 s; None when nobody does.

        Args:
            among: Only these servers are asked; None: all.
        """
        until = self._loop.time() + AGREE_SECONDS_MAX
        while self._loop.time() < until:
            for step in range(SERVERS):
                i = (self._leader + step) % SERVERS
                server = self.group.servers[i]
                if server is None or not self.connected[i] or (among and i not in among):
                    continue
                err, reply = await server.submit(request)
                self._submitted += 1
                if err is Err.OK:
                    self._leader = i
                    return reply
            await asyncio.sleep(0.05)
        return None

    async def inc(self, among: Sequence[int] | None = None) -> int:
        """Increment; returns the counter after it."""
        reply = await self.one(INC, among)
        if not isinstance(reply, int):
            raise LabFailure(f"nobody increments within {AGREE_SECONDS_MAX} s")
        return reply

    async def check_counter(self, value: int, servers: int) -> None:
        """Wait until so many servers have counted to `value`; fails after some 30 s."""
        pause = 0.01
        for _ in range(30):
            if self._counted(value) >= servers:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.28)
        counts = [counter.count for counter in self.counters]
        raise LabFailure(f"{servers} servers should have counted to {value}, they are at {counts}")

    def _counted(self, value: int) -> int:
        return sum(
            server is not None and counter.count == value
            for server, counter in zip(self.group.servers, self.counters, strict=True)
        )
