"""What goes wrong in a simulated cluster, kind by kind, each drawn from the run's chance.

A fault lasts a while and then ends by itself; several may be on at once. `heal` ends them all. The
kinds themselves are in `labs/strikes`.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

from labs.cluster import SimCluster
from labs.strikes.arena import Arena, Strike
from labs.strikes.deaths import DeathStrikes
from labs.strikes.disks import DiskStrikes
from labs.strikes.network import NetworkStrikes
from labs.strikes.nodes import NodeStrikes
from labs.strikes.stories import StoryStrikes

FAULTS: Final = (
    # network
    "loss", "delay", "duplication", "reordering", "truncation", "narrow", "replay",
    "partition", "isolate", "one-way", "partial", "flapping", "swizzle",
    # node
    "crash", "kill", "power-cut", "crash-loop", "pause", "pause-all", "stutter",
    # disk
    "slow-disk", "stall", "disk-fails", "unreadable", "full", "torn", "damage",
    # clock
    "drift",
    # client
    "clients", "deadlines",
    # operator
    "changes", "two-admins", "transfer", "members", "controller-members",
    # controller, migration
    "controller", "migration-crash",
    # the parts themselves
    "points",
    # network again; what comes later stands last, so that known seeds draw as before
    "corruption", "lonely", "transfer-cut", "unheard",
    "second-candidate", "newer-snapshot", "swaps",
)  # fmt: skip
"""Every kind; a seed draws each with probability 1/2."""

RARE_FAULTS: Final = ("ruin",)
"""Kinds after which nothing is promised but that no answer is wrong."""
RARE: Final = 0.02
COSTLY_FAULTS: Final = ("overload",)
"""Kinds that make a run half as long again."""
COSTLY: Final = 0.25
NAMED_FAULTS: Final = ("death", "bereft", "extinct")
"""Kinds that a run has when they are named, and no seed draws. Each makes it a run of another kind:
with `death` the cluster mends itself (`labs/healing.py`); with `bereft` and `extinct` a group loses
its majority, or all of itself, and operators see to it (`labs/bereft.py`)."""

NOT_STRUCK: Final = frozenset(
    {
        "deadlines", "changes", "two-admins", "transfer", "members", "controller-members", "drift",
        "points", "overload", "swaps", "bereft", "extinct",
    }
)  # fmt: skip
"""Kinds that others carry out: the workload, the operator, the loop, the parts."""


class Nemesis:
    """Strikes until told to stop.

    Args:
        kinds: Which faults there are, in the order of `FAULTS`.
        pause_max: The longest quiet between two strikes, in seconds.
        election_seconds: E, the largest election time-out of the run.
        acknowledged: How many writes were acknowledged so far.
    """

    def __init__(
        self,
        cluster: SimCluster,
        kinds: list[str],
        rng: Random,
        *,
        pause_max: float,
        election_seconds: float,
        acknowledged: Callable[[], int],
    ) -> None:
        self._cluster = cluster
        self._kinds = [kind for kind in kinds if kind not in NOT_STRUCK]
        self._rng = rng
        self._pause_max = pause_max
        self._under_way: list[asyncio.Task[None]] = []
        self._arena = Arena(
            cluster, rng, election_seconds=election_seconds, acknowledged=acknowledged
        )
        disks, stories = DiskStrikes(self._arena), StoryStrikes(self._arena)
        self._sources = (
            NetworkStrikes(self._arena), NodeStrikes(self._arena), disks,
            DeathStrikes(self._arena), stories,
        )  # fmt: skip
        self._strikes: dict[str, Strike] = {}
        for source in self._sources:
            self._strikes.update(source.strikes())
        openings = {**disks.openings(), **stories.openings()}
        self._openings = {kind: openings[kind] for kind in self._kinds if kind in openings}

    @property
    def crashes(self) -> int:
        """How many processes have ended so."""
        return self._arena.crashes

    async def strike(self, seconds: float) -> None:
        """Strike for so long; what is under way then goes on until it ends or is healed.

        A run begins with one of the stories that it has, alone: what it leads to hardly ever comes
        about among other faults."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if not self._kinds:
            await asyncio.sleep(seconds)
            return
        if self._openings:
            await asyncio.sleep(self._rng.uniform(0, self._pause_max))
            kind = self._rng.choice(list(self._openings))
            self._begin(kind, self._openings[kind])
            await self._wait(until - loop.time())
        while loop.time() < until:
            await asyncio.sleep(self._rng.uniform(0, self._pause_max))
            kind = self._rng.choice(self._kinds)
            self._begin(kind, self._strikes[kind])
            if len(self._under_way) > 2 or self._rng.random() < 0.5:
                await self._wait(min(until - loop.time(), self._arena.lasts()))

    def _begin(self, kind: str, strike: Strike) -> None:
        self._cluster.observer.tell(f"nemesis {kind}")
        task = asyncio.get_running_loop().create_task(strike())
        self._under_way = [other for other in self._under_way if not other.done()] + [task]

    async def _wait(self, seconds: float) -> None:
        """For what is under way, but not for one that lasts long."""
        gathered = asyncio.gather(*self._under_way)
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await asyncio.shield(gathered)
        except TimeoutError:
            return  # it goes on beside what comes next

    async def heal(self, core: set[str] | None = None) -> None:
        """End every fault; nodes out of `core` (None: all are in) go down and stay so."""
        for task in self._under_way:
            task.cancel()
        for end in await asyncio.gather(*self._under_way, return_exceptions=True):
            if isinstance(end, Exception):
                raise end
        for source in self._sources:
            source.heal()
        cluster = self._cluster
        for name, node in list(cluster.nodes.items()):
            if node.condemned or (core is not None and name not in core):
                node.crash()
            elif not node.alive:
                await node.start()
        cluster.observer.tell(f"healed core={'all' if core is None else sorted(core)}")
