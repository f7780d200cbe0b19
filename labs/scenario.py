"""One run, drawn from a seed: a cluster, what goes wrong in it, and whether it was right.

First things break while clients ask and an administrator changes configurations; safety is watched
throughout. Then everything is healed, and the cluster must come to rest: every copy finished,
every shard served by one group, every key answered. At the end the clients' history is judged.

Each seed draws which kinds of fault it has at all, so that runs differ in kind and not only in
order (swarm testing, Groce et al., ISSTA 2012).
"""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SYNC_SECONDS
from labrpc.sim.loop import run
from labrpc.sim.network import HEALTHY
from labs.cluster import SimCluster
from labs.history import History, Kind
from labs.linearizability import NotLinearizable, judge_list, judge_register
from labs.workload import Workload, WorkloadConfig
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import ShardId

REST_SECONDS_MAX: Final = 60.0
"""How long a healed cluster may take to come to rest (L2 to L4)."""
ANSWER_SECONDS_MAX: Final = 10.0
FAULTS: Final = (
    "crash", "power cut", "partition", "isolate", "one way", "loss", "delay", "slow disk",
    "clients",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioConfig:
    """How large a run is. Times in virtual seconds."""

    seconds: float = 15.0
    nodes: int = 6
    groups: int = 3
    nshards: int = 12
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    fault_pause_max: float = 1.5
    change_pause_max: float = 3.0
    faults: tuple[str, ...] | None = None
    """Which kinds there are; None: drawn from the seed."""


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    acknowledged: int
    unknown: int
    refused: int
    hand_overs: int
    configs: int
    crashes: int
    rest_seconds: float
    faults: tuple[str, ...]


class Scenario:
    """One run. `play` it on a virtual loop."""

    def __init__(self, seed: int | str, config: ScenarioConfig) -> None:
        self.config = config
        self.history = History()
        self._chance = Chance(seed)
        rng = self._chance.rng("swarm")
        drawn = [fault for fault in FAULTS if rng.random() < 0.5] or [rng.choice(FAULTS)]
        self._faults = drawn if config.faults is None else list(config.faults)
        self._cluster = SimCluster(
            self._chance, nodes=config.nodes, groups=config.groups, nshards=config.nshards
        )
        self._crashes = 0

    async def play(self) -> Outcome:
        config, cluster = self.config, self._cluster
        await cluster.start()
        pairs = [cluster.client() for _ in range(config.workload.clients)]
        clerks = [clerk for clerk, _ in pairs]
        _, admin = cluster.client()
        await admin.join([cluster.joining(gid) for gid in cluster.gids[:-1]])
        workload = Workload(clerks, self._chance.rng("workload"), config.workload, self.history)

        asking = asyncio.ensure_future(workload.run())
        breaking = asyncio.ensure_future(self._break_things(self._chance.rng("faults")))
        changing = asyncio.ensure_future(self._change_things(admin, self._chance.rng("changes")))
        await asyncio.gather(breaking, changing)
        workload.stop()
        await self._heal()
        await asking

        rest_seconds = await self._come_to_rest(admin)
        await self._judge(workload)
        outcome = self._outcome(rest_seconds, (await admin.newest()).config.number)
        for clerk, controller in pairs:
            await clerk.close()
            await controller.close()
        for watcher in cluster.watchers.values():
            assert watcher.checks > 0, "a run that checked nothing shows nothing"
            watcher.finish()
        return outcome

    # What goes wrong

    async def _break_things(self, rng: Random) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.config.seconds
        while loop.time() < until:
            await asyncio.sleep(rng.uniform(0, self.config.fault_pause_max))
            await self._break_one(rng.choice(self._faults), rng)

    async def _break_one(self, fault: str, rng: Random) -> None:
        """One fault, for a while."""
        cluster, network = self._cluster, self._cluster.network
        names = list(cluster.nodes)
        addresses = [node.address for node in cluster.nodes.values()]
        seconds = rng.uniform(0.1, 2.5)
        match fault:
            case "crash" | "power cut":
                down = names if fault == "power cut" else rng.sample(names, rng.choice((1, 1, 2)))
                await self._crash(down, rng, seconds)
                return
            case "partition":
                side = rng.sample(addresses, rng.randint(1, len(addresses) - 1))
                network.partition(side, [other for other in addresses if other not in side])
            case "isolate":
                network.isolate(rng.choice(addresses), addresses)
            case "one way":
                source = rng.choice(addresses)
                for target in addresses:
                    if target != source and rng.random() < 0.7:
                        network.cut(source, target)
            case "loss":
                network.set_faults(HEALTHY.with_(loss=rng.uniform(0, 0.2), duplication=0.1))
            case "delay":
                network.set_faults(HEALTHY.with_(long_delay=rng.uniform(0, 0.2), reordering=0.1))
            case "slow disk":
                cluster.nodes[rng.choice(names)].drive.sync_seconds = rng.uniform(0.005, 0.3)
            case "clients":
                for client in cluster.client_addresses:
                    if rng.random() < 0.5:
                        network.isolate(client, addresses)
        await asyncio.sleep(seconds)
        network.set_faults(HEALTHY)
        network.heal()
        for node in cluster.nodes.values():
            node.drive.sync_seconds = SYNC_SECONDS

    async def _crash(self, names: list[str], rng: Random, seconds: float) -> None:
        for name in names:
            node = self._cluster.nodes[name]
            await (node.crash() if rng.random() < 0.7 else node.kill())
            self._crashes += 1
        await asyncio.sleep(seconds)
        for name in names:
            await self._cluster.nodes[name].start()

    async def _heal(self) -> None:
        self._cluster.network.set_faults(HEALTHY)
        self._cluster.network.heal()
        for node in self._cluster.nodes.values():
            if not node.alive:
                await node.start()

    # What the administrator does

    async def _change_things(self, admin: ControllerClient, rng: Random) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.config.seconds
        while loop.time() < until:
            await asyncio.sleep(rng.uniform(0, self.config.change_pause_max))
            try:
                await self._change_one(admin, rng)
            except ShardCtrlerError:
                continue  # refused, in vain or unknown: all are the administrator's daily bread

    async def _change_one(self, admin: ControllerClient, rng: Random) -> None:
        config = (await admin.newest(timeout=2.0)).config
        gid = rng.choice(self._cluster.gids)
        if rng.random() < 0.4:
            to = rng.choice(sorted(config.groups))
            await admin.move(ShardId(rng.randrange(self.config.nshards)), to, timeout=2.0)
        elif gid in config.groups:
            await admin.leave([gid], timeout=2.0)
        else:
            await admin.join([self._cluster.joining(gid)], timeout=2.0)

    # Whether it was right

    async def _come_to_rest(self, admin: ControllerClient) -> float:
        loop = asyncio.get_running_loop()
        healed = loop.time()
        number = (await admin.newest(timeout=REST_SECONDS_MAX)).config.number
        while not self._cluster.quiet(number):
            if loop.time() - healed > REST_SECONDS_MAX:
                raise AssertionError(f"not at rest {REST_SECONDS_MAX:g} s after it was healed (L4)")
            await asyncio.sleep(0.1)
        return loop.time() - healed

    async def _judge(self, workload: Workload) -> None:
        for key in workload.lists:
            last = await workload.ask(0, Kind.GET, key, None, ANSWER_SECONDS_MAX)
            assert last.happened, f"{key!r} is not answered by a healed cluster (L2)"
            judge_list(self.history.of(key), last.value)
        for key in workload.registers:
            last = await workload.ask(0, Kind.GET, key, None, ANSWER_SECONDS_MAX)
            assert last.happened, f"{key!r} is not answered by a healed cluster (L2)"
            judge_register(self.history.of(key))
        self._judge_versions()

    def _judge_versions(self) -> None:
        """No version of a key comes twice, and a read shows a value with its own version."""
        wrote: dict[tuple[bytes, int], bytes | None] = {}
        for operation in self.history.operations:
            if operation.kind is Kind.PUT and operation.happened:
                place = (operation.key, operation.version)
                if place in wrote:
                    raise NotLinearizable(f"version {operation.version} came twice: {operation}")
                wrote[place] = operation.value
        for operation in self.history.operations:
            if operation.kind is Kind.GET and operation.happened and operation.value is not None:
                written = wrote.get((operation.key, operation.version), operation.value)
                if written != operation.value:
                    raise NotLinearizable(f"a value with another one's version: {operation}")

    def _outcome(self, rest_seconds: float, configs: int) -> Outcome:
        ends = [operation.happened for operation in self.history.operations]
        return Outcome(
            acknowledged=ends.count(True),
            unknown=ends.count(None),
            refused=ends.count(False),
            hand_overs=self._cluster.oracle.hand_overs,
            configs=configs,
            crashes=self._crashes,
            rest_seconds=rest_seconds,
            faults=tuple(self._faults),
        )


def play(seed: int | str, config: ScenarioConfig | None = None) -> tuple[Outcome, History]:
    """Play one run to its end.

    Raises:
        AssertionError: something was wrong; the notes name the seed and how to play it again.
    """
    scenario: list[Scenario] = []

    async def main() -> Outcome:
        scenario.append(Scenario(seed, config or ScenarioConfig()))
        return await scenario[0].play()

    try:
        outcome = run(main(), seed=seed)
    except BaseException as error:
        error.add_note(f"again: python -m labs simulate --seed {seed}")
        raise
    return outcome, scenario[0].history
