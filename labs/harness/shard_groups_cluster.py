"""The tester of the 2025 sharded store: shard groups that come and go, controllers, clerks.

Group 0 is the one `kvsrv` that holds the controllers' state; it never crashes.
"""

import asyncio
import string
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final, TypeVar

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabNetwork
from labrpc.transport import Address
from labs.compaction import NEVER
from labs.harness.clerks import Recorder, Versioned
from labs.harness.edition import TEST_SECONDS_MAX, Edition, LabFailure
from labs.harness.figures import note_operations
from labs.harness.kv_history import judge_calls
from labs.harness.kv_tests import Clients, one_client_put
from labs.harness.shard_group import Ends, Group, StartServer
from labs.harness.shard_oracle import ShardWatch
from labs.kv import Err
from labs.kvsrv import VersionedClerk, VersionedServer
from labs.node import Watcher
from labs.shardcfg import GID1, NSHARDS, ShardConfig
from labs.shardgrp import ShardGrp
from labs.shardkv1 import Clerk, ShardCtrler
from raft.types import GroupId

T = TypeVar("T")

STORE: Final = Address("server-0-0")
SERVERS: Final = 3
GROUPS: Final = 8
KEYS: Final = 5 * NSHARDS
VALUE_BYTES: Final = 20
BETWEEN_CHANGES_SECONDS: Final = 0.2
QUIET_SECONDS: Final = 2.0
"""So long without a completion, and those that are to come have come."""


class Controller:
    """A controller and its way to the servers, which can be cut."""

    def __init__(self, ctrler: ShardCtrler, ends: Ends) -> None:
        self.ctrler, self._ends = ctrler, ends

    def cut_off(self) -> None:
        self._ends.disconnect()

    def reconnect(self) -> None:
        self._ends.connect()


class ShardGroupsCluster:
    """The tester's `Test`: use it as an async context, which starts the store and group 1.

    Args:
        maxraftstate: See `ShardGrp.start`.
        with_group1: Whether group 1 runs, and has the first configuration.
    """

    def __init__(
        self,
        *,
        seed: str,
        reliable: bool = True,
        maxraftstate: int = NEVER,
        with_group1: bool = True,
    ) -> None:
        self._chance = Chance(seed)
        self.rng = self._chance.rng("tester")
        self.network = LabNetwork(self._chance.rng("network"))
        self.network.reliable = reliable
        self.maxraftstate = maxraftstate
        self.watch = ShardWatch(NSHARDS)
        self.recorder = Recorder()
        self.groups: dict[GroupId, Group[ShardGrp]] = {}
        self.gone: list[Group[ShardGrp]] = []
        self._with_group1 = with_group1
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._gid = GID1
        self._births = 0
        self._names: dict[str, int] = {}
        self._clerks: list[Clerk] = []
        self._background: list[asyncio.Task[None]] = []
        self.network.add_server(STORE, VersionedServer().server)
        self.controller = self.make_controller()

    async def __aenter__(self) -> "ShardGroupsCluster":
        if self._with_group1:
            group = await self.start_group(GID1)
            config = ShardConfig()
            config.join_balance({GID1: group.names})
            await self.controller.ctrler.init_config(config)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        took = self._loop.time() - self._began
        note_operations(len(self.recorder.calls))
        for task in self._background:
            task.cancel()
        ended = await asyncio.gather(*self._background, return_exceptions=True)
        for clerk in self._clerks:
            await clerk.close()
        for group in (*self.groups.values(), *self.gone):
            group.shutdown()
            group.invariants.finish()
        self.network.cleanup()
        self.watch.finish()
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
        if kind is None and took > TEST_SECONDS_MAX:
            raise LabFailure(f"the test took {took:.1f} s; the limit is {TEST_SECONDS_MAX} s")

    # Groups

    def new_gid(self) -> GroupId:
        self._gid = GroupId(self._gid + 1)
        return self._gid

    async def start_group(self, gid: GroupId) -> Group[ShardGrp]:
        """Make a group and start its servers."""
        names = [Address(f"server-{gid}-{i}") for i in range(SERVERS)]
        assert gid not in self.groups, f"group {gid} is there"
        self._births += 1
        start = self._starter(gid, names)
        group = Group(self.network, self._chance, gid, names, start, birth=self._births)
        self.groups[gid] = group
        await group.start()
        return group

    def _starter(self, gid: GroupId, names: Sequence[Address]) -> StartServer[ShardGrp]:
        async def start(
            ends: Ends, me: int, drive: SimDrive, rng: Random, watcher: Watcher
        ) -> ShardGrp:
            return await ShardGrp.start(
                ends,
                names,
                me,
                gid,
                drive,
                rng,
                maxraftstate=self.maxraftstate,
                watcher=watcher,
                new_machine=self.watch.new_machine,
            )

        return start

    def exit_group(self, gid: GroupId) -> None:
        """Shut a group down for ever."""
        group = self.groups.pop(gid)
        group.shutdown()
        self.gone.append(group)
        self.watch.forget(gid)

    # Controllers and changes

    def make_ends(self) -> Ends:
        """The ends of a process of its own."""
        return Ends(self.network, self._owner("process"))

    def make_controller(self) -> Controller:
        ends = Ends(self.network, self._owner("ctrler"))
        return Controller(ShardCtrler(VersionedClerk(ends[STORE]), ends), ends)

    async def join(self, ctrler: ShardCtrler, gid: GroupId) -> None:
        config = await ctrler.query()
        if not config.join_balance({gid: self.groups[gid].names}):
            raise LabFailure(f"group {gid} is in configuration {config} already")
        await ctrler.change_config_to(config)

    async def leave(self, ctrler: ShardCtrler, gid: GroupId) -> None:
        config = await ctrler.query()
        if not config.leave_balance([gid]):
            raise LabFailure(f"group {gid} is not in configuration {config}")
        await ctrler.change_config_to(config)

    async def is_member(self, ctrler: ShardCtrler, gid: GroupId) -> bool:
        return (await ctrler.query()).is_member(gid)

    async def join_groups(self, ctrler: ShardCtrler, gids: Sequence[GroupId]) -> bool:
        """Start each group and let it join; False as soon as one is no member after that."""
        for gid in gids:
            await self.start_group(gid)
            await self.join(ctrler, gid)
            if not await self.is_member(ctrler, gid):
                return False
            await asyncio.sleep(BETWEEN_CHANGES_SECONDS)
        return True

    async def leave_groups(self, ctrler: ShardCtrler, gids: Sequence[GroupId]) -> bool:
        """Let each group leave and shut it down; False as soon as one is still a member."""
        for gid in gids:
            await self.leave(ctrler, gid)
            if await self.is_member(ctrler, gid):
                return False
            self.exit_group(gid)
            await asyncio.sleep(BETWEEN_CHANGES_SECONDS)
        return True

    async def partition_controller(self, values: "Values | None", *, reconnect: bool) -> None:
        """A controller is cut off in the middle of a change, and a new one finishes it.

        Group 1 is down when it happens, so that the change is stuck in a move.

        Args:
            reconnect: The old controller comes back (5C), and must do no harm.
        """
        old = self.make_controller()
        await old.ctrler.init_controller()
        number = (await old.ctrler.query()).num
        changing = _ComeAndGo(self, old.ctrler)
        task = self.in_background(changing.run())

        await asyncio.sleep((1000 + self.rng.randrange(400)) / 1000)
        self.groups[GID1].shutdown()
        await asyncio.sleep(1)
        old.cut_off()
        if reconnect:
            await asyncio.sleep(1)
        await self.groups[GID1].start()

        new = self.make_controller().ctrler
        await new.init_controller()
        config = await new.query()
        if config.num <= number:
            raise LabFailure(f"configuration {config.num} after {number}: nothing was finished")
        member = config.is_member(changing.gid)
        if member != changing.joining:
            raise LabFailure(f"group {changing.gid} {member=}, {changing.joining=}, after recovery")
        if member and not await self.leave_groups(new, [changing.gid]):
            raise LabFailure(f"group {changing.gid} cannot leave")

        if reconnect:
            old.reconnect()
            await asyncio.sleep(0.1)
        if values is not None:
            await values.check()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        old.cut_off()
        await new.init_controller()  # the old one may have begun another change
        left = [gid for gid in self.groups if gid not in (await new.query()).groups]
        for gid in left:
            if gid != GID1:
                self.exit_group(gid)

    # Clerks

    def make_clerk(self) -> Versioned:
        """A clerk whose calls are written down."""
        owner = self._owner("clerk")
        ends = Ends(self.network, owner)
        ctrler = ShardCtrler(VersionedClerk(ends[STORE]), ends)
        clerk = Clerk(ends, ctrler, self._chance.rng(owner))
        self._clerks.append(clerk)
        return Versioned(clerk, self.recorder)

    def _owner(self, kind: str) -> str:
        number = self._names[kind] = self._names.get(kind, 0) + 1
        return f"{kind}{number}"

    async def spread_puts(self, clerk: Versioned, length: int = VALUE_BYTES) -> "Values":
        """Put every key once, and get it back."""
        values = Values(clerk)
        for key in (f"k{number}" for number in range(KEYS)):
            values.of[key] = "".join(self.rng.choices(string.ascii_letters, k=length))
            err = await clerk.put(key, values.of[key], 0)
            if err is not Err.OK:
                raise LabFailure(f"the first put to {key} says {err.value}")
        await values.check()
        return values

    async def check_shutdown_sharding(self, down: GroupId, values: "Values") -> None:
        """With one group down some keys are not served, and the others are."""
        self.groups[down].shutdown()
        last, done = self._loop.time(), 0

        async def get(key: str) -> None:
            nonlocal last, done
            await values.check([key], self.make_clerk())
            last, done = self._loop.time(), done + 1

        gets = [self._loop.create_task(get(key)) for key in values.of]
        while self._loop.time() < last + QUIET_SECONDS:  # noqa: ASYNC110 - silence is awaited
            await asyncio.sleep(0.05)
        for task in gets:
            if task.done():
                task.result()
            else:
                task.cancel()
        await asyncio.gather(*gets, return_exceptions=True)
        if done in (0, len(gets)):
            raise LabFailure(f"{done} of {len(gets)} keys are served with group {down} down")
        await self.groups[down].start()

    async def put_meanwhile(
        self, clients: int, meanwhile: Callable[[], Awaitable[T]], *, leisure: int = 1
    ) -> T:
        """OneClientPut of so many clients on k0 while something else goes on; then judge all.

        Args:
            leisure: How many times longer than usual a client works between two calls.
        """
        putting = Clients(clients * leisure)
        bodies = [
            one_client_put(number, self.make_clerk(), ["k0"], Random(self.rng.random()), putting)
            for number in range(clients)
        ]
        running = asyncio.gather(*bodies)
        result = await meanwhile()
        putting.stopped = True
        puts = await running
        if not sum(put.ok for put in puts):
            raise LabFailure("no put was done")
        judge_calls(self.recorder.calls, Edition.E2025)
        return result

    def in_background(self, work: Awaitable[None]) -> "asyncio.Task[None]":
        """Run until it ends, or the test does: then it is cancelled."""

        async def run() -> None:
            await work

        task = self._loop.create_task(run())
        self._background.append(task)
        return task


class _ComeAndGo:
    """Groups join and leave, one after the other, until a controller is deposed."""

    def __init__(self, cluster: ShardGroupsCluster, ctrler: ShardCtrler) -> None:
        self.gid = GID1
        self.joining = False  # the last change that was begun: a join, or a leave
        self._cluster, self._ctrler = cluster, ctrler

    async def run(self) -> None:
        while True:
            self.gid, self.joining = self._cluster.new_gid(), True
            if not await self._cluster.join_groups(self._ctrler, [self.gid]):
                return
            self.joining = False
            if not await self._cluster.leave_groups(self._ctrler, [self.gid]):
                return


class Values:
    """What every key must hold, written once: at version 1."""

    def __init__(self, clerk: Versioned) -> None:
        self.of: dict[str, str] = {}
        self._clerk = clerk

    async def check(
        self, keys: Sequence[str] | None = None, clerk: Versioned | None = None
    ) -> None:
        for key in self.of if keys is None else keys:
            await (clerk or self._clerk).check_get(key, self.of[key], 1)
