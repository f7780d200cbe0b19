"""Faults of the network: what links lose, hold up, repeat or cut, and who hears whom."""

import asyncio
from collections.abc import Callable
from typing import Final

from labrpc.sim.network import HEALTHY, Faults
from labrpc.transport import Address
from labs.strikes.arena import Arena, Strike

KEPT_FRAMES_MAX: Final = 2_000
REPLAYED_FRAMES: Final = 40
NARROW_BYTES_PER_SECOND: Final = (5_000, 50_000, 500_000)


class NetworkStrikes:
    """See `strikes`."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._rng = arena, arena.rng
        self._cluster, self._network = arena.cluster, arena.cluster.network
        self._faults = HEALTHY

    def strikes(self) -> dict[str, Strike]:
        """By kind."""
        rng = self._rng
        return {
            "loss": lambda: self._links(loss=rng.choice([0.02, 0.1, 0.3])),
            "delay": lambda: self._links(
                long_delay=rng.choice([0.01, 0.1, 0.3]),
                long_delay_seconds_max=rng.choice([0.1, 0.5, 2.0]),
            ),
            "duplication": lambda: self._links(
                duplication=rng.choice([0.05, 0.5]), reordering_seconds_max=rng.choice([0.05, 5.0])
            ),
            "reordering": lambda: self._links(
                reordering=rng.choice([0.05, 0.5]), reordering_seconds_max=rng.choice([0.05, 0.5])
            ),
            "truncation": lambda: self._links(truncation=rng.choice([0.02, 0.2])),
            "corruption": lambda: self._links(corruption=rng.choice([0.002, 0.02, 0.2])),
            "narrow": self._narrow,
            "replay": self._replay,
            "partition": self._partition,
            "isolate": lambda: self._cut_for(self._isolate),
            "one-way": lambda: self._cut_for(self._one_way),
            "partial": lambda: self._cut_for(self._partial),
            "flapping": self._flapping,
            "swizzle": self._swizzle,
            "clients": lambda: self._cut_for(self._clients),
            "controller": self._controller,
        }

    def heal(self) -> None:
        self._set(HEALTHY)
        self._network.heal()

    # All links

    async def _links(self, **changes: float) -> None:
        before = {name: getattr(HEALTHY, name) for name in changes}
        self._set(self._faults.with_(**changes))
        await asyncio.sleep(self._arena.lasts())
        self._set(self._faults.with_(**before))

    def _set(self, faults: Faults) -> None:
        self._faults = faults
        self._network.set_faults(faults)

    async def _narrow(self) -> None:
        """Little bandwidth, and a queue that holds what passes in a moment."""
        rate = self._rng.choice(NARROW_BYTES_PER_SECOND)
        queue = int(rate * self._rng.uniform(0.1, 1.5))
        await self._links(bytes_per_second=rate, queue_bytes_max=queue)

    async def _replay(self) -> None:
        """Frames of some time ago arrive again, maybe in another term or another life."""
        self._network.keep_frames(KEPT_FRAMES_MAX)
        await asyncio.sleep(self._arena.lasts())
        kept = self._network.archive
        for _ in range(REPLAYED_FRAMES):
            if kept:
                self._network.replay(*kept[self._rng.randrange(len(kept))])
                await asyncio.sleep(self._rng.uniform(0.0, 0.02))
        if kept:
            self._arena.probe("old frames replayed")

    # Who hears whom

    def _addresses(self) -> list[Address]:
        return [node.address for node in self._arena.nodes()]

    async def _cut_for(self, cut: Callable[[], None]) -> None:
        cut()
        await asyncio.sleep(self._arena.lasts())
        self._network.heal()

    async def _partition(self) -> None:
        addresses = self._addresses()
        clients = self._cluster.client_addresses
        self._rng.shuffle(addresses)
        at = self._rng.randint(1, max(len(addresses) - 1, 1))
        here, there = addresses[:at], addresses[at:]
        if self._rng.random() < 0.3:  # the clients are on one side as well
            there += clients
        await self._cut_for(lambda: self._network.partition(here, there))

    def _isolate(self) -> None:
        self._network.isolate(self._arena.victim().address, self._addresses())

    def _one_way(self) -> None:
        victim, inwards = self._arena.victim(), self._rng.random() < 0.5
        if self._arena.leads_somewhere(victim):
            self._arena.probe("one-way-isolated leader")
        for address in self._addresses():
            if address != victim.address and self._rng.random() < 0.8:
                ends = (address, victim.address) if inwards else (victim.address, address)
                self._network.cut(*ends)

    def _partial(self) -> None:
        """A bridge: some pairs do not hear each other, although both hear others."""
        addresses = self._addresses()
        if len(addresses) < 2:
            return
        for _ in range(self._rng.randint(1, len(addresses))):
            one, other = self._rng.sample(addresses, 2)
            self._network.partition([one], [other])

    async def _flapping(self) -> None:
        victim = self._arena.victim().address
        for _ in range(self._rng.randint(2, 6)):
            self._network.isolate(victim, self._addresses())
            await asyncio.sleep(self._rng.uniform(0.01, 0.6))
            self._network.heal()
            await asyncio.sleep(self._rng.uniform(0.01, 0.6))

    async def _swizzle(self) -> None:
        """Clog a random half one by one, then unclog it in another order (FoundationDB)."""
        addresses = self._addresses()
        half = self._rng.sample(addresses, max(1, len(addresses) // 2))
        clogged = []
        for victim in half:
            self._network.isolate(victim, addresses)
            clogged.append(victim)
            await asyncio.sleep(self._rng.uniform(0.05, 0.6))
        self._rng.shuffle(clogged)
        while clogged:
            clogged.pop()
            self._network.heal()
            for victim in clogged:
                self._network.isolate(victim, addresses)
            await asyncio.sleep(self._rng.uniform(0.05, 0.6))

    def _clients(self) -> None:
        for client in self._cluster.client_addresses:
            for address in self._addresses():
                if self._rng.random() < 0.4:
                    ends = (client, address)
                    self._network.cut(*(ends if self._rng.random() < 0.5 else ends[::-1]))

    async def _controller(self) -> None:
        """The controller alone is ill: away from the others, its leader cut off, or down."""
        arena = self._arena
        ill = arena.controllers()
        others = [node.address for node in arena.nodes() if node not in ill]
        leader = self._cluster.leader(self._cluster.controller)
        match self._rng.choice(["away", "leader", "down"]):
            case "away":
                addresses = [node.address for node in ill]
                await self._cut_for(lambda: self._network.partition(addresses, others))
            case "leader" if leader is not None:
                address = leader.address
                await self._cut_for(lambda: self._network.isolate(address, self._addresses()))
            case _:
                await arena.down(ill[: len(ill) // 2 + 1], type(ill[0]).crash) if ill else None
