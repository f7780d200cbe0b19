"""Where faults strike: the cluster, the chance that they draw from, and what they share."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from labs.cluster import SimCluster, SimNode
from shardkv.assembly import CONTROLLER

Strike = Callable[[], Coroutine[Any, Any, None]]
"""Does its harm, lasts a while, and undoes it; cancelled, it leaves that to `heal`."""


class Arena:
    """What every kind of fault needs.

    Args:
        election_seconds: E, the largest election time-out of the run.
        acknowledged: How many writes were acknowledged so far.
    """

    def __init__(
        self,
        cluster: SimCluster,
        rng: Random,
        *,
        election_seconds: float,
        acknowledged: Callable[[], int],
    ) -> None:
        self.cluster, self.rng = cluster, rng
        self.election_seconds = election_seconds
        self.acknowledged = acknowledged
        self.crashes = 0

    def probe(self, name: str) -> None:
        self.cluster.observer.probe(name)

    # Who

    def nodes(self) -> list[SimNode]:
        """Everybody who is not out of service for good."""
        return [node for node in self.cluster.nodes.values() if not node.condemned]

    def victim(self) -> SimNode:
        """Often a leader: most faults matter there."""
        rng, cluster = self.rng, self.cluster
        if rng.random() < 0.5:
            leader = cluster.leader(rng.choice(list(cluster.placement)))
            if leader is not None:
                return leader
        return rng.choice(self.nodes())

    def some(self) -> list[SimNode]:
        """One node or two."""
        chosen = [self.victim()]
        if self.rng.random() < 0.3:
            chosen.append(self.victim())
        return list(dict.fromkeys(chosen))

    def controllers(self) -> list[SimNode]:
        """The nodes that hold a replica of the controller."""
        return [
            node
            for node in self.nodes()
            if node.host is not None and CONTROLLER in node.host.replicas
        ]

    def leads_somewhere(self, node: SimNode) -> bool:
        return node.host is not None and any(r.leads for r in node.host.replicas.values())

    # How long, and the end of it

    def lasts(self) -> float:
        return self.rng.uniform(0.1, 2.5)

    def end(self, node: SimNode, how: Callable[[SimNode], None] = SimNode.crash) -> None:
        self.crashes += node.alive
        if node.alive and self.cluster.oracle.leaving():
            self.probe("freeze crossed by restart")
        how(node)

    async def down(self, nodes: list[SimNode], how: Callable[[SimNode], None]) -> None:
        """End nodes, and start them again a while later."""
        for node in nodes:
            self.end(node, how)
        await asyncio.sleep(self.lasts())
        await self.up(nodes)

    async def up(self, nodes: list[SimNode]) -> None:
        for node in nodes:
            if not node.alive and not node.condemned:
                await node.start()

    async def flush(self, nodes: list[SimNode]) -> None:
        """Let nodes make their states durable and cut their logs, as each does now and then."""
        flushing = [node.flush() for node in nodes if node.running and not node.paused]
        # Whoever heals must not wait for one that stands still meanwhile.
        for end in await asyncio.shield(asyncio.gather(*flushing, return_exceptions=True)):
            if isinstance(end, Exception):
                raise end

    def crash_soon(self, node: SimNode, seconds: float = 0.0) -> None:
        """Cut the power, but not in the middle of a callback."""
        asyncio.get_running_loop().call_later(seconds, self.end, node)
