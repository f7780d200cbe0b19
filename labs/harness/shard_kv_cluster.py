"""The tester of the 2024 sharded store: three groups of three servers, a controller, clerks."""

import asyncio
import string
from collections.abc import Sequence
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabNetwork
from labrpc.transport import Address
from labs.compaction import NEVER
from labs.harness.edition import TEST_SECONDS_MAX, LabFailure
from labs.harness.figures import note_operations
from labs.harness.shard_ctrler_cluster import ShardCtrlerCluster
from labs.harness.shard_group import Ends, Group, StartServer
from labs.harness.shard_oracle import ShardWatch
from labs.node import Watcher
from labs.shardctrler import NSHARDS, Config
from labs.shardkv import Clerk, ShardKV
from raft.types import GroupId

GIDS: Final = (100, 101, 102)
SERVERS: Final = 3
LOG_FACTOR_MAX: Final = 8
"""A log may hold so many times `maxraftstate`."""
LETTERS: Final = string.ascii_letters + string.digits


class ShardKVCluster:
    """The tester's `config`: use it as an async context, which starts all servers.

    Args:
        maxraftstate: See `ShardKV.start`.
    """

    def __init__(self, *, seed: str, reliable: bool, maxraftstate: int) -> None:
        self._chance = Chance(seed)
        self.rng = self._chance.rng("tester")
        self.network = LabNetwork(self._chance.rng("network"))
        self.network.reliable = reliable
        self.maxraftstate = maxraftstate
        self.ctrler = ShardCtrlerCluster(seed=seed, network=self.network)
        self.watch = ShardWatch(NSHARDS)
        self.groups = [self._make_group(GroupId(gid)) for gid in GIDS]
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._clerks: list[Clerk] = []
        self._admin = self.ctrler.make_clerk()

    def _make_group(self, gid: GroupId) -> Group[ShardKV]:
        names = [Address(f"server-{gid}-{i}") for i in range(SERVERS)]
        controllers = self.ctrler.group.names
        start = self._starter(gid, names)
        return Group(self.network, self._chance, gid, names, start, cut_off=controllers)

    def _starter(self, gid: GroupId, names: Sequence[Address]) -> StartServer[ShardKV]:
        async def start(
            ends: Ends, me: int, drive: SimDrive, rng: Random, watcher: Watcher
        ) -> ShardKV:
            return await ShardKV.start(
                ends,
                names,
                me,
                gid,
                self.ctrler.group.names,
                drive,
                rng,
                maxraftstate=self.maxraftstate,
                watcher=watcher,
                new_machine=self.watch.new_machine,
            )

        return start

    async def __aenter__(self) -> "ShardKVCluster":
        await self.ctrler.group.start()
        for group in self.groups:
            await group.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        took = self._loop.time() - self._began
        for clerk in self._clerks:
            await clerk.close()
        for group in self.groups:
            group.shutdown()
            group.invariants.finish()
        self.ctrler.group.shutdown()
        self.ctrler.group.invariants.finish()
        self.network.cleanup()
        self.watch.finish()
        if kind is None and took > TEST_SECONDS_MAX:
            raise LabFailure(f"the test took {took:.1f} s; the limit is {TEST_SECONDS_MAX} s")

    # What the tests do; groups are called 0, 1 and 2

    async def join(self, *groups: int) -> None:
        """Let groups join, in one call; returns when the controller has done it."""
        await self._admin.join({GIDS[g]: self.groups[g].names for g in groups})

    async def leave(self, *groups: int) -> None:
        await self._admin.leave([GIDS[g] for g in groups])

    async def query(self) -> Config:
        return await self._admin.query(-1)

    def make_clerk(self, ctrler: ShardCtrlerCluster | None = None) -> Clerk:
        """A clerk, of another controller if one is given."""
        controllers = (ctrler or self.ctrler).group.names
        name = f"clerk{len(self._clerks) + 1}"
        rng = self._chance.rng(name)
        clerk = _CountedClerk(Ends(self.network, name, controllers), controllers, rng)
        self._clerks.append(clerk)
        return clerk

    def random_string(self, length: int) -> str:
        return "".join(self.rng.choices(LETTERS, k=length))

    def check_logs(self) -> None:
        """No log is longer than allowed; without a bound none was ever cut."""
        for group in self.groups:
            for server in group.running():
                name, size = server.node.name, server.persist_bytes()
                if self.maxraftstate == NEVER:
                    if server.snapshot_bytes() > 0:
                        raise LabFailure(f"{name} has cut its log, which it must not")
                elif size > LOG_FACTOR_MAX * self.maxraftstate:
                    raise LabFailure(f"{name}: a log of {size} bytes for {self.maxraftstate}")

    def stored_bytes(self) -> int:
        """Raft state and snapshots of all servers that run."""
        return sum(
            server.persist_bytes() + server.snapshot_bytes()
            for group in self.groups
            for server in group.running()
        )


class _CountedClerk(Clerk):
    async def get(self, key: str) -> str:
        note_operations(1)
        return await super().get(key)

    async def put(self, key: str, value: str) -> None:
        note_operations(1)
        await super().put(key, value)

    async def append(self, key: str, value: str) -> None:
        note_operations(1)
        await super().append(key, value)


class Model:
    """What one clerk has written: each key's value as it must be."""

    def __init__(self, cluster: ShardKVCluster, clerk: Clerk) -> None:
        self.values: dict[str, str] = {}
        self._cluster, self._clerk = cluster, clerk

    async def put_all(self, count: int, length: int) -> None:
        """Put keys "0" and on, each with a random string."""
        for key in map(str, range(count)):
            await self.put(key, self._cluster.random_string(length))

    async def put(self, key: str, value: str) -> None:
        self.values[key] = value
        await self._clerk.put(key, value)

    async def check(self, key: str, clerk: Clerk | None = None) -> None:
        value = await (clerk or self._clerk).get(key)
        if value != self.values[key]:
            raise LabFailure(f"key {key}: got {value!r:.60}, wanted {self.values[key]!r:.60}")

    async def check_all(self) -> None:
        for key in self.values:
            await self.check(key)

    async def append(self, key: str, length: int, clerk: Clerk | None = None) -> None:
        more = self._cluster.random_string(length)
        await (clerk or self._clerk).append(key, more)
        self.values[key] += more

    async def append_all(self, length: int) -> None:
        """Check each key, then append a random string to it."""
        for key in self.values:
            await self.check(key)
            await self.append(key, length)
