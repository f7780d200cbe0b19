"""What stories about elections wait for, and how they bring one about."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from labs.cluster import SimNode
from labs.strikes.arena import Arena
from raft.errors import NotLeader, TransferRefused
from raft.types import GroupId, ReplicaId

PATIENCE_E: Final = 3
"""So many E a story waits for what it has brought about."""
ASKED_SECONDS: Final = 0.0004
"""Then a request for votes has left; less than a hop takes, so no vote has come."""


class HandOver(NamedTuple):
    """A leadership that is being handed on."""

    gid: GroupId
    leader: SimNode
    to: SimNode
    others: list[SimNode]
    """The voters' nodes besides these two; at least one."""


class Elections:
    """Those of a cluster."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._cluster = arena, arena.cluster

    def hand_over(self) -> HandOver | None:
        """Let a leader of three voters or more hand over to one of them; None: there is none, or
        it does not."""
        rng = self._arena.rng
        gid = rng.choice(list(self._cluster.placement))
        leader = self._cluster.leader(gid)
        if leader is None or leader.host is None:
            return None
        replica = leader.host.replicas[gid]
        voters = [voter for voter in replica.core.membership.voters if voter.id != replica.id]
        if len(voters) < 2:
            return None
        nodes = [self._cluster.nodes[voter.node] for voter in voters]
        to = rng.choice(nodes)
        try:
            told = self._transfers(leader, gid, to)
        except TransferRefused:
            return None
        others = [node for node in nodes if node is not to]
        return HandOver(gid, leader, to, others) if told else None

    async def campaigns(
        self, node: SimNode, gid: GroupId, at_once: Callable[[], None] | None = None
    ) -> bool:
        """Wait until a node asks for votes, at most a few E.

        Args:
            at_once: Done before anything that it asks has left.
        """
        asked = asyncio.Event()
        probes = self._cluster.watchers[gid].probes

        def campaigns(source: ReplicaId) -> None:
            replica = node.host.replicas.get(gid) if node.host is not None else None
            if replica is not None and replica.id == source and not asked.is_set():
                asked.set()
                if at_once is not None:
                    at_once()

        probes.on_campaign = campaigns
        try:
            async with asyncio.timeout(PATIENCE_E * self._arena.election_seconds):
                await asked.wait()
        except TimeoutError:
            return False
        finally:
            if probes.on_campaign is campaigns:
                probes.on_campaign = None
        return True

    async def hand_over_to(self, to: SimNode, leader: SimNode, gid: GroupId) -> bool:
        """Let a leader hand over as soon as no earlier hand-over is under way, and wait until the
        one whom it is for asks for votes; at most a few E."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_E * self._arena.election_seconds
        while loop.time() < until:
            try:
                if self._transfers(leader, gid, to):
                    return await self.campaigns(to, gid)
                return False
            except TransferRefused:
                await asyncio.sleep(self._arena.election_seconds / 20)
        return False

    def _transfers(self, leader: SimNode, gid: GroupId, to: SimNode) -> bool:
        """Whether the leader is told.

        Raises:
            TransferRefused: another hand-over is under way.
        """
        replica = leader.host.replicas.get(gid) if leader.host is not None else None
        if replica is None:
            return False
        ids = [voter.id for voter in replica.core.membership.voters if voter.node == to.name]
        try:
            for voter in ids:
                leader.context.run(replica.transfer, voter)
        except NotLeader:
            return False
        return bool(ids)

    async def steps_down(self, node: SimNode, gid: GroupId) -> bool:
        """Wait until a node leads no more, at most a few E."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_E * self._arena.election_seconds
        while loop.time() < until:
            replica = node.host.replicas.get(gid) if node.host is not None else None
            if replica is None or not replica.leads:
                return replica is not None
            await asyncio.sleep(self._arena.election_seconds / 20)
        return False
