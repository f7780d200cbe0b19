"""Machines that are gone for good, with their disks: the cluster must make up for them itself.

What a node held counts as lost until its groups have replaced it, so that of no record more copies
are ever gone than the others make up for (`labs/strikes/atlas.py`). Under its old name a node may
come back, soon or late, and holds nothing then: a stranger.
"""

import asyncio
from typing import Final

from labs.cluster import SimNode
from labs.healing import GRACE_SECONDS
from labs.strikes.arena import Arena, Strike
from labs.strikes.atlas import Atlas

TWO: Final = 0.3
"""How often two die at once, if the groups can bear it."""


class DeathStrikes:
    """See `strikes`."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._rng, self._cluster = arena, arena.rng, arena.cluster
        self._atlas = Atlas(arena.cluster)

    def strikes(self) -> dict[str, Strike]:
        """By kind."""
        return {"death": self._death}

    def heal(self) -> None:
        """Those who shall come back are started as any other node is."""

    async def _death(self) -> None:
        victims = [self._arena.victim()]
        if self._rng.random() < TWO:
            victims.append(self._arena.victim())
        dead = [victim for victim in dict.fromkeys(victims) if self._kill(victim)]
        if len(dead) > 1:
            self._arena.probe("two nodes died with their disks")
        if not dead:
            return
        match self._rng.choice(("soon", "late", "late", "never", "never")):
            case "soon":  # before anybody does anything about it
                await asyncio.sleep(self._rng.uniform(0.0, 0.8) * GRACE_SECONDS)
            case "late":
                await asyncio.sleep(self._rng.uniform(1.0, 2.5) * GRACE_SECONDS)
            case _:
                for victim in dead:
                    victim.condemned = self._can_spare(victim)
                await asyncio.sleep(2.0 * GRACE_SECONDS)
        await self._arena.up(dead)
        if any(node.alive for node in dead):
            self._arena.probe("stranger came under a dead node's name")

    def _kill(self, victim: SimNode) -> bool:
        """Whether the groups could bear it, and it was done."""
        if victim.condemned or not self._atlas.may_lose(victim) or self._learns(victim):
            return False
        self._arena.end(victim)
        victim.lose_disk()
        self._arena.probe("node died with its disk")
        if self._cluster.oracle.leaving():
            self._arena.probe("node died with its disk while a shard moved")
        return True

    def _can_spare(self, victim: SimNode) -> bool:
        """Whether every group still finds as many nodes as it has replicas without this one."""
        cluster = self._cluster
        most = max(
            len(names) + len(cluster.learners.get(gid, ()))
            for gid, names in cluster.placement.items()
        )
        return len([node for node in self._arena.nodes() if node is not victim]) >= most

    def _learns(self, victim: SimNode) -> bool:
        """Learners for good are the labs' own: nobody makes one of those anew."""
        return any(victim.name in names for names in self._cluster.learners.values())
