"""What goes wrong in a simulated cluster, kind by kind, each drawn from the run's chance.

A fault lasts a while and then ends by itself; several may be on at once. `heal` ends them all.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final

from labrpc.sim.disk import FLUSH_SECONDS, SYNC_SECONDS, Write
from labrpc.sim.network import HEALTHY, Faults
from labs.cluster import DATA, LOG, PROMISES, SimCluster, SimNode

FAULTS: Final = (
    # network
    "loss", "delay", "duplication", "reordering",
    "partition", "isolate", "one-way", "partial", "flapping", "swizzle",
    # node
    "crash", "kill", "power-cut", "crash-loop",
    # disk
    "slow-disk", "disk-fails", "torn",
    # client
    "clients", "deadlines",
    # operator
    "changes", "transfer", "members",
    # migration
    "migration-crash",
)  # fmt: skip
"""Every kind; a seed draws each with probability 1/2."""

NOT_STRUCK: Final = frozenset({"deadlines", "changes", "transfer", "members"})
"""Kinds that others carry out: the workload and the operator."""
STEPS: Final = ("moves", "stages", "restarts", "freezes", "installs", "drops")


class Nemesis:
    """Strikes until told to stop.

    Args:
        kinds: Which faults there are, in the order of `FAULTS`.
        pause_max: The longest quiet between two strikes, in seconds.
        acknowledged: How many writes were acknowledged so far.
    """

    def __init__(
        self,
        cluster: SimCluster,
        kinds: list[str],
        rng: Random,
        *,
        pause_max: float,
        acknowledged: Callable[[], int],
    ) -> None:
        self.crashes = 0
        self._cluster = cluster
        self._kinds = [kind for kind in kinds if kind not in NOT_STRUCK]
        self._rng = rng
        self._pause_max = pause_max
        self._acknowledged = acknowledged
        self._network_faults = HEALTHY
        self._under_way: list[asyncio.Task[None]] = []
        self._traps: dict[str, tuple[str, int]] = {}
        self._trapped_steps: list[str] = []
        for node in cluster.nodes.values():
            node.drive.watch(self._watch(node))

    async def strike(self, seconds: float) -> None:
        """Strike for so long; what is under way then goes on until it ends or is healed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if not self._kinds:
            await asyncio.sleep(seconds)
            return
        while loop.time() < until:
            await asyncio.sleep(self._rng.uniform(0, self._pause_max))
            kind = self._rng.choice(self._kinds)
            self._cluster.observer.tell(f"nemesis {kind}")
            task = loop.create_task(self._one(kind))
            self._under_way = [other for other in self._under_way if not other.done()] + [task]
            if len(self._under_way) > 2 or self._rng.random() < 0.5:
                await asyncio.gather(*self._under_way)

    async def heal(self, core: set[str] | None = None) -> None:
        """End every fault; nodes out of `core` (None: all are in) go down and stay so."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        cluster = self._cluster
        self._traps.clear()
        self._trapped_steps.clear()
        cluster.network.set_faults(HEALTHY)
        cluster.network.heal()
        for name, node in cluster.nodes.items():
            node.drive.heal()
            node.drive.sync_seconds, node.drive.flush_seconds = SYNC_SECONDS, FLUSH_SECONDS
            if core is not None and name not in core:
                node.crash()
            elif not node.alive:
                await node.start()
        cluster.observer.tell(f"healed core={'all' if core is None else sorted(core)}")

    # The kinds

    async def _one(self, kind: str) -> None:
        rng = self._rng
        strikes: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
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
            "partition": self._partition,
            "isolate": lambda: self._cut_for(self._isolate),
            "one-way": lambda: self._cut_for(self._one_way),
            "partial": lambda: self._cut_for(self._partial),
            "flapping": self._flapping,
            "swizzle": self._swizzle,
            "crash": lambda: self._down(self._some(), SimNode.crash),
            "kill": lambda: self._down(self._some(), SimNode.kill),
            "power-cut": self._power_cut,
            "crash-loop": self._crash_loop,
            "slow-disk": self._slow_disk,
            "disk-fails": self._disk_fails,
            "torn": self._torn,
            "clients": lambda: self._cut_for(self._clients),
            "migration-crash": self._migration_crash,
        }
        await strikes[kind]()

    def _lasts(self) -> float:
        return self._rng.uniform(0.1, 2.5)

    def _nodes(self) -> list[SimNode]:
        return list(self._cluster.nodes.values())

    def _victim(self) -> SimNode:
        """Often a leader: most faults matter there."""
        rng, cluster = self._rng, self._cluster
        if rng.random() < 0.5:
            leader = cluster.leader(rng.choice(list(cluster.placement)))
            if leader is not None:
                return leader
        return rng.choice(self._nodes())

    def _some(self) -> list[SimNode]:
        """One node or two."""
        chosen = [self._victim()]
        if self._rng.random() < 0.3:
            chosen.append(self._victim())
        return list(dict.fromkeys(chosen))

    async def _links(self, **changes: float) -> None:
        before = {name: getattr(HEALTHY, name) for name in changes}
        self._set_links(self._network_faults.with_(**changes))
        await asyncio.sleep(self._lasts())
        self._set_links(self._network_faults.with_(**before))

    def _set_links(self, faults: Faults) -> None:
        self._network_faults = faults
        self._cluster.network.set_faults(faults)

    async def _cut_for(self, cut: Callable[[], None]) -> None:
        cut()
        await asyncio.sleep(self._lasts())
        self._cluster.network.heal()

    async def _partition(self) -> None:
        addresses = [node.address for node in self._nodes()]
        clients = self._cluster.client_addresses
        self._rng.shuffle(addresses)
        at = self._rng.randint(1, len(addresses) - 1)
        here, there = addresses[:at], addresses[at:]
        if self._rng.random() < 0.3:  # the clients are on one side as well
            there += clients
        await self._cut_for(lambda: self._cluster.network.partition(here, there))

    def _isolate(self) -> None:
        others = [node.address for node in self._nodes()]
        self._cluster.network.isolate(self._victim().address, others)

    def _one_way(self) -> None:
        victim, inwards = self._victim().address, self._rng.random() < 0.5
        for node in self._nodes():
            if node.address != victim and self._rng.random() < 0.8:
                ends = (node.address, victim) if inwards else (victim, node.address)
                self._cluster.network.cut(*ends)

    def _partial(self) -> None:
        """A bridge: some pairs do not hear each other, although both hear others."""
        addresses = [node.address for node in self._nodes()]
        for _ in range(self._rng.randint(1, len(addresses))):
            one, other = self._rng.sample(addresses, 2)
            self._cluster.network.partition([one], [other])

    async def _flapping(self) -> None:
        victim = self._victim().address
        others = [node.address for node in self._nodes()]
        for _ in range(self._rng.randint(2, 6)):
            self._cluster.network.isolate(victim, others)
            await asyncio.sleep(self._rng.uniform(0.01, 0.6))
            self._cluster.network.heal()
            await asyncio.sleep(self._rng.uniform(0.01, 0.6))

    async def _swizzle(self) -> None:
        """Clog a random half one by one, then unclog it in another order (FoundationDB)."""
        network = self._cluster.network
        addresses = [node.address for node in self._nodes()]
        half = self._rng.sample(addresses, max(1, len(addresses) // 2))
        clogged = []
        for victim in half:
            network.isolate(victim, addresses)
            clogged.append(victim)
            await asyncio.sleep(self._rng.uniform(0.05, 0.6))
        self._rng.shuffle(clogged)
        while clogged:
            clogged.pop()
            network.heal()
            for victim in clogged:
                network.isolate(victim, addresses)
            await asyncio.sleep(self._rng.uniform(0.05, 0.6))

    def _clients(self) -> None:
        addresses = [node.address for node in self._nodes()]
        for client in self._cluster.client_addresses:
            for address in addresses:
                if self._rng.random() < 0.4:
                    ends = (client, address)
                    self._cluster.network.cut(*(ends if self._rng.random() < 0.5 else ends[::-1]))

    async def _down(self, nodes: list[SimNode], end: Callable[[SimNode], None]) -> None:
        if self._cluster.oracle.leaving():
            self._cluster.observer.probe("freeze crossed by restart")
        for node in nodes:
            self.crashes += node.alive
            end(node)
        await asyncio.sleep(self._lasts())
        await self._up(nodes)

    async def _up(self, nodes: list[SimNode]) -> None:
        for node in nodes:
            if not node.alive:
                await node.start()

    async def _power_cut(self) -> None:
        if self._acknowledged():
            self._cluster.observer.probe("power cut of all nodes with acked writes")
        await self._down(self._nodes(), SimNode.crash)

    async def _crash_loop(self) -> None:
        victim = [self._victim()]
        for _ in range(self._rng.randint(2, 6)):
            self.crashes += victim[0].alive
            victim[0].crash()
            await asyncio.sleep(self._rng.uniform(0.0, 0.2))
            await self._up(victim)
            await asyncio.sleep(self._rng.uniform(0.0, 0.5))

    async def _slow_disk(self) -> None:
        drive = self._victim().drive
        drive.sync_seconds = self._rng.choice([0.005, 0.05, 0.3])
        drive.flush_seconds = self._rng.choice([0.001, 0.05, 0.5])
        await asyncio.sleep(self._lasts())
        drive.sync_seconds, drive.flush_seconds = SYNC_SECONDS, FLUSH_SECONDS

    async def _disk_fails(self) -> None:
        victim = self._victim()
        victim.drive.fail_next()
        await asyncio.sleep(self._lasts())
        victim.drive.heal()
        self.crashes += not victim.alive
        await self._up([victim])

    async def _torn(self) -> None:
        """Cut the power the moment something has become durable, before it is acted on."""
        victim = self._victim()
        self._traps[victim.name] = (
            self._rng.choice([LOG, DATA, *PROMISES]),
            self._rng.choice([1, 1, 2, 5]),
        )
        await asyncio.sleep(self._lasts())
        self._traps.pop(victim.name, None)
        await self._up([victim])

    async def _migration_crash(self) -> None:
        """Cut the power of nodes at the next step of a hand-over, whichever it is."""
        self._cluster.oracle.on_step = self._at_step
        self._trapped_steps.append(self._rng.choice(STEPS))
        await asyncio.sleep(2 * self._lasts())
        await self._up(self._nodes())

    def _at_step(self, step: str, gid: int) -> None:
        if step not in self._trapped_steps:
            return
        self._trapped_steps.remove(step)
        self._cluster.observer.probe(f"crash at a step of a hand-over: {step}")
        for node in self._cluster.nodes.values():
            holds = node.assembly is not None and gid in node.assembly.groups
            if holds and self._rng.random() < 0.7:
                self.crashes += 1
                asyncio.get_running_loop().call_soon(node.crash)

    def _watch(self, node: SimNode) -> Callable[[str, Any], None]:
        def watch(name: str, batch: list[Write]) -> None:
            trap = self._traps.get(node.name)
            if trap is None or trap[0] != name:
                return
            self._traps[node.name] = (name, trap[1] - 1)
            if trap[1] <= 1:
                del self._traps[node.name]
                self.crashes += 1
                asyncio.get_running_loop().call_soon(node.crash)

        return watch
