"""Strikes that tell a story: several faults in one order, which leads to a state that chance alone
hardly ever comes to. One does nothing where it cannot begin, and others may cross it."""

import asyncio
from typing import Final

from labrpc.transport import Address
from labs.cluster import SimNode
from labs.strikes.arena import Arena, Strike
from labs.strikes.elections import ASKED_SECONDS, Elections
from raft.snapshot_stream import SnapshotChunk
from raft.types import GroupId

LONELY_TERMS: Final = 4
KEPT_FRAMES_MAX: Final = 2_000
REPLAYED_FRAMES: Final = 20
STAGED_SECONDS: Final = 3.0
"""How long a follower that came back is waited for to need a snapshot."""


class StoryStrikes:
    """See `strikes`."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._rng = arena, arena.rng
        self._cluster, self._network = arena.cluster, arena.cluster.network
        self._elections = Elections(arena)
        self._was_lonely = False

    def strikes(self) -> dict[str, Strike]:
        """By kind."""
        return {
            "lonely": self._lonely,
            "transfer-cut": self._transfer_cut,
            "second-candidate": self._second_candidate,
            "newer-snapshot": self._newer_snapshot,
        }

    def openings(self) -> dict[str, Strike]:
        """Those that a run may begin with, by kind."""
        every = self.strikes()
        return {kind: every[kind] for kind in ("second-candidate", "newer-snapshot")}

    def heal(self) -> None:
        """Links are mended and nodes started as after any other fault."""

    def _addresses(self) -> list[Address]:
        return [node.address for node in self._arena.nodes()]

    # Elections

    async def _lonely(self) -> None:
        """A node that is elected again and again, and each time cut off before anybody hears its
        first entry: in the end its log holds the uncommitted ends of several terms."""
        if self._was_lonely:
            return
        self._was_lonely = True
        gid = self._rng.choice(self._cluster.gids)
        leader = self._cluster.leader(gid)
        if leader is None:
            return
        rest = [node for node in self._arena.nodes() if node is not leader]
        others = [node.address for node in rest]
        for address in [leader.address, *others]:  # whoever might be elected hears nobody
            self._network.isolate(address, [leader.address, *others])
        for _ in range(LONELY_TERMS):
            if not await self._elections.steps_down(leader, gid):
                break
            self._reconnect(leader, rest)
            if await self._elections.campaigns(leader, gid):
                await asyncio.sleep(ASKED_SECONDS)
                for address in others:  # they have been asked; its first entry they do not hear
                    self._network.cut(leader.address, address)
                await asyncio.sleep(self._arena.election_seconds / 20)  # then it leads
        self._network.heal()
        self._network.isolate(leader.address, others)
        await asyncio.sleep(2 * self._arena.election_seconds)
        await self._arena.flush(rest)  # what it lacks may now be in a snapshot alone
        self._network.heal()

    def _reconnect(self, node: SimNode, others: list[SimNode]) -> None:
        for other in others:
            self._network.mend(node.address, other.address)
            self._network.mend(other.address, node.address)

    async def _transfer_cut(self) -> None:
        """A leader hands over, and whoever is to follow it is cut off once it has asked for votes:
        the leader is deposed, and another one than it meant must follow."""
        handing = self._elections.hand_over()
        if handing is None:
            return
        if await self._elections.campaigns(handing.to, handing.gid):
            await asyncio.sleep(ASKED_SECONDS)  # they have been asked; it does not hear them
            self._network.isolate(handing.to.address, self._addresses())
            await asyncio.sleep(2 * self._arena.election_seconds)
            self._network.heal()

    async def _second_candidate(self) -> None:
        """A voter ends once it has voted, and when it is back another candidate of the same term
        asks it: it must recall that it has voted, and for whom.

        1. A leader hands over. Nobody hears that its successor asks for votes.
        2. The hand-over expires, and the leader hands over to another, which is a candidate in that
           same term, and has the leader's vote.
        3. The leader ends, and comes back. Then what the first one asked it arrives.
        """
        handing = self._elections.hand_over()
        if handing is None:
            return
        gid, leader, first, others = handing
        network = self._network
        network.keep_frames(KEPT_FRAMES_MAX)

        def unheard() -> None:
            for address in self._addresses():
                network.cut(first.address, address)

        if await self._elections.campaigns(first, gid, unheard):
            await asyncio.sleep(ASKED_SECONDS)
            assert network.archive is not None
            asked = [frame for to, frame in network.archive if to == leader.address]
            second = self._rng.choice(others)
            if await self._elections.hand_over_to(second, leader, gid):
                await asyncio.sleep(self._arena.election_seconds / 20)  # it votes
                self._arena.end(leader)
                await self._arena.up([leader])
                for frame in asked[-REPLAYED_FRAMES:]:
                    network.replay(leader.address, frame)
        network.heal()

    # Snapshots

    async def _newer_snapshot(self) -> None:
        """A follower that lacks what logs no longer hold ends while it is sent a snapshot. What it
        had of that is of no use to anybody; when it is back it is sent a newer one."""
        gid = self._written()
        leader = self._cluster.leader(gid)
        if leader is None or leader.host is None:
            return
        voters = leader.host.replicas[gid].core.membership.voters
        nodes = [self._cluster.nodes[voter.node] for voter in voters if voter.node != leader.name]
        if len(nodes) < 2:
            return  # nothing would be written meanwhile
        victim = self._rng.choice(nodes)
        self._network.isolate(victim.address, self._addresses())
        await asyncio.sleep(self._rng.uniform(1.0, 2.5))  # it misses what is written meanwhile
        await self._arena.flush([node for node in self._arena.nodes() if node is not victim])
        self._network.heal()
        if await self._is_sent_a_snapshot(victim, gid):
            self._arena.end(victim)
            await asyncio.sleep(self._rng.uniform(0.0, 0.2))
            await self._arena.up([victim])

    def _written(self) -> GroupId:
        """The group that has written most so far."""
        leading = [replica for _, replica in self._cluster.replicas() if replica.leads]
        logs = [(replica.core.log.last.index, replica.gid) for replica in leading]
        return max(logs)[1] if logs else self._cluster.gids[0]

    async def _is_sent_a_snapshot(self, node: SimNode, gid: GroupId) -> bool:
        """Wait, a while, for a piece in the middle: the first one would be taken again after a
        restart, as if nothing had been."""
        comes = asyncio.Event()
        probes = self._cluster.watchers[gid].probes

        def chunk(piece: SnapshotChunk) -> None:
            replica = node.host.replicas.get(gid) if node.host is not None else None
            is_sent = replica is not None and replica.id == piece.target
            if is_sent and piece.number > 0 and not piece.done:
                comes.set()

        probes.on_chunk = chunk
        try:
            async with asyncio.timeout(STAGED_SECONDS):
                await comes.wait()
        except TimeoutError:
            return False
        finally:
            if probes.on_chunk is chunk:
                probes.on_chunk = None
        return True
