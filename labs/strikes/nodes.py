"""Faults of nodes: they end, they stand still, they stutter, they end again and again."""

import asyncio
from math import exp, log
from typing import Final

from labs.cluster import SimNode
from labs.strikes.arena import Arena, Strike
from raft.types import GroupId

STEPS: Final = ("moves", "stages", "restarts", "freezes", "installs", "drops")
SIDES: Final = ("here", "there", "controller")
"""Who goes down at a step: the group that takes it, the other one, the controller."""
PAUSE_E: Final = (0.1, 50.0)
"""A node stands still for so many E."""
STUTTER_SECONDS: Final = (0.001, 0.2)


class NodeStrikes:
    """See `strikes`."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._rng, self._cluster = arena, arena.rng, arena.cluster
        self._trapped: list[tuple[str, str]] = []

    def strikes(self) -> dict[str, Strike]:
        """By kind."""
        arena = self._arena
        return {
            "crash": lambda: arena.down(arena.some(), SimNode.crash),
            "kill": lambda: arena.down(arena.some(), SimNode.kill),
            "power-cut": self._power_cut,
            "crash-loop": self._crash_loop,
            "pause": self._pause,
            "pause-all": self._pause_all,
            "stutter": self._stutter,
            "migration-crash": self._migration_crash,
            "unheard": self._unheard,
        }

    def heal(self) -> None:
        self._trapped.clear()
        for node in self._cluster.nodes.values():
            node.resume()

    async def _power_cut(self) -> None:
        if self._arena.acknowledged():
            self._arena.probe("power cut of all nodes with acked writes")
        await self._arena.down(self._arena.nodes(), SimNode.crash)

    async def _unheard(self) -> None:
        """No client hears what is answered; then everything is flushed and every process ends.
        What clients ask again was done before its server's life began, and no log replays it."""
        cluster, arena = self._cluster, self._arena
        for client in cluster.client_addresses:
            for node in arena.nodes():
                cluster.network.cut(node.address, client)
        await asyncio.sleep(self._rng.uniform(0.05, 0.5))
        await arena.flush(arena.nodes())
        for node in arena.nodes():
            arena.end(node, SimNode.kill)
        cluster.network.heal()
        await arena.up(arena.nodes())

    async def _crash_loop(self) -> None:
        victim = self._arena.victim()
        for _ in range(self._rng.randint(2, 6)):
            self._arena.end(victim)
            await asyncio.sleep(self._rng.uniform(0.0, 0.2))
            await self._arena.up([victim])
            await asyncio.sleep(self._rng.uniform(0.0, 0.5))

    # Standing still

    def _still_seconds(self) -> float:
        least, most = PAUSE_E
        return self._arena.election_seconds * exp(self._rng.uniform(log(least), log(most)))

    async def _pause(self) -> None:
        for node in self._arena.some():
            if node.alive:
                if self._arena.leads_somewhere(node):
                    self._arena.probe("leader paused")
                node.pause()
                await asyncio.sleep(self._still_seconds())
                node.resume()

    async def _pause_all(self) -> None:
        nodes = self._arena.nodes()
        for node in nodes:
            if node.alive:
                node.pause()
        await asyncio.sleep(min(self._still_seconds(), 5 * self._arena.election_seconds))
        self._rng.shuffle(nodes)
        for node in nodes:
            node.resume()

    async def _stutter(self) -> None:
        """Starved of its processor: timers and frames come late, again and again."""
        victim = self._arena.victim()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._arena.lasts()
        while loop.time() < until and victim.alive:
            victim.pause()
            await asyncio.sleep(self._rng.uniform(*STUTTER_SECONDS))
            victim.resume()
            await asyncio.sleep(self._rng.uniform(*STUTTER_SECONDS) / 4)

    # At a step of a hand-over

    async def _migration_crash(self) -> None:
        """Cut the power of one side at the next step of a hand-over, whichever it is."""
        self._cluster.oracle.on_step = self._at_step
        self._trapped.append((self._rng.choice(STEPS), self._rng.choice(SIDES)))
        await asyncio.sleep(2 * self._arena.lasts())
        await self._arena.up(self._arena.nodes())

    def _at_step(self, step: str, gid: GroupId) -> None:
        at = next((trap for trap in self._trapped if trap[0] == step), None)
        if at is None:
            return
        self._trapped.remove(at)
        _, side = at
        arena, rng = self._arena, self._rng
        arena.probe(f"crash at a step of a hand-over: {step}, {side}")
        gids = {"here": [gid], "there": self._peers(gid), "controller": []}[side]
        down = arena.controllers() if side == "controller" else self._hosts(gids)
        later = rng.choice([0.0, 0.0, rng.uniform(0.0, 0.02)])
        for node in down:
            if rng.random() < 0.7:
                arena.crash_soon(node, later)

    def _peers(self, gid: GroupId) -> list[GroupId]:
        """The groups that shards of this one come from or go to."""
        machines = self._cluster.machines(gid)
        records = [record for machine in machines for _, record in machine.unsettled]
        return list(dict.fromkeys(record.peer for record in records))

    def _hosts(self, gids: list[GroupId]) -> list[SimNode]:
        return [
            node
            for node in self._arena.nodes()
            if node.assembly is not None and any(gid in node.assembly.groups for gid in gids)
        ]
