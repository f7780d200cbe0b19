"""The tester of the 2024 shard controller: three servers, clerks, what it checks of a config."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabNetwork
from labrpc.transport import Address
from labs.harness.edition import TEST_SECONDS_MAX, LabFailure
from labs.harness.figures import note_operations
from labs.harness.shard_group import Ends, Group, shuffled
from labs.node import Watcher
from labs.shardctrler import CONTROLLER, Clerk, Config, ShardCtrler

SERVERS: Final = 3
LEADER_SECONDS_MAX: Final = 3.0
QUERY_SECONDS: Final = 0.05


class ShardCtrlerCluster:
    """The tester's `config`: use it as an async context, which starts the servers.

    Args:
        network: None: one of its own.
        prefix: Of the servers' names, so that two controllers can live on one network.
    """

    def __init__(
        self, *, seed: str, network: LabNetwork | None = None, prefix: str = "ctrler"
    ) -> None:
        chance = Chance(f"{seed}/{prefix}")
        self._chance = chance
        self.rng = chance.rng("tester")
        self.network = network or LabNetwork(chance.rng("network"))
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._prefix = prefix
        self._clerks = 0
        names = [Address(f"{prefix}-{i}") for i in range(SERVERS)]
        self.group = Group(self.network, chance, CONTROLLER, names, self._start_server)

    async def _start_server(
        self, ends: Ends, me: int, drive: SimDrive, rng: Random, watcher: Watcher
    ) -> ShardCtrler:
        return await ShardCtrler.start(ends, me, drive, rng, watcher=watcher)

    async def __aenter__(self) -> "ShardCtrlerCluster":
        await self.group.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        took = self._loop.time() - self._began
        self.group.shutdown()
        self.network.cleanup()
        self.group.invariants.finish()
        if kind is None and took > TEST_SECONDS_MAX:
            raise LabFailure(f"the test took {took:.1f} s; the limit is {TEST_SECONDS_MAX} s")

    def make_clerk(self) -> Clerk:
        """A clerk that knows the servers in an order of its own."""
        self._clerks += 1
        name = f"{self._prefix}-clerk{self._clerks}"
        rng = self._chance.rng(name)
        return _CountedClerk(Ends(self.network, name, shuffled(rng, self.group.names)), rng)

    async def await_leader(self) -> int:
        """Who leads; looked at again and again (the original looked at one server for ever)."""
        until = self._loop.time() + LEADER_SECONDS_MAX
        while self._loop.time() < until:
            leaders = [i for i, s in enumerate(self.group.servers) if s is not None and s.leads()]
            if len(leaders) == 1:
                return leaders[0]
            await asyncio.sleep(QUERY_SECONDS)
        raise LabFailure(f"no single leader for {LEADER_SECONDS_MAX} s")


class _CountedClerk(Clerk):
    async def query(self, num: int) -> Config:
        note_operations(1)
        return await super().query(num)

    async def join(self, servers: Mapping[int, Sequence[str]]) -> None:
        note_operations(1)
        await super().join(servers)

    async def leave(self, gids: Sequence[int]) -> None:
        note_operations(1)
        await super().leave(gids)

    async def move(self, shard: int, gid: int) -> None:
        note_operations(1)
        await super().move(shard, gid)


async def check(clerk: Clerk, gids: Iterable[int]) -> Config:
    """The newest config: exactly these groups, every shard on one of them, and balanced."""
    config = await clerk.query(-1)
    check_config(config, gids)
    return config


def check_config(config: Config, gids: Iterable[int]) -> None:
    expected = sorted(gids)
    if sorted(config.groups) != expected:
        raise LabFailure(f"groups {sorted(config.groups)}, wanted {expected}")
    if not expected:
        return
    for shard, gid in enumerate(config.shards):
        if gid not in config.groups:
            raise LabFailure(f"shard {shard} is on {gid}, which is no group of {expected}")
    loads = [config.shards.count(gid) for gid in expected]
    if max(loads) - min(loads) > 1:
        raise LabFailure(f"not balanced: {dict(zip(expected, loads, strict=True))}")


def check_same(first: Config, second: Config) -> None:
    """Same number, shards, groups and names of servers, in order."""
    if first != second:
        raise LabFailure(f"two configs differ:\n  {first}\n  {second}")


def check_stays(before: Config, after: Config, gids: Iterable[int]) -> None:
    """No shard came to one of these groups from elsewhere."""
    for gid in gids:
        for shard, owner in enumerate(after.shards):
            if owner == gid and before.shards[shard] != gid:
                raise LabFailure(
                    f"shard {shard} moved from {before.shards[shard]} to {gid} without need"
                )
