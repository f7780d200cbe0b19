"""When a majority is lost, in the simulator: recovered from the longest survivor, or given up.

What the invariants of Raft and of shards forbid happens here on purpose: committed entries are
lost, a gid means another group. So nobody watches for them; what is judged is what clients saw.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any

import pytest

from labrpc.errors import RpcError
from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labrpc.sim.network import SimTransport
from labrpc.transport import Address
from labs.cluster import SimCluster
from labs.history import History, Kind, Operation
from labs.linearizability import judge_list, judge_register
from labs.sim_node import SimNode
from labs.workload import Workload, WorkloadConfig
from raft.log import Log
from raft.ports import StateMachine
from raft.types import GroupId, GroupUuid
from shardctrler.client import ControllerClient
from shardctrler.errors import ChangeRefused
from shardctrler.types import RETIRED, ConfigNumber, ShardId
from shardkv import admin
from shardkv.adopting import Missed
from shardkv.forgotten import Fates
from shardkv.machine import StoreMachine
from shardkv.phases import SETTLED, Phase
from shardkv.planner import HealPolicy
from shardkv.recovering import Recoverer, RecoveryRefused
from shardkv.recovery import REBIRTH, SUPERSEDED, Rebirth, explained
from shardkv.routing import SlotRouting
from shardkv.steps import RECOVERED_BEGINS

G1, G2, G3 = GroupId(1), GroupId(2), GroupId(3)
NSHARDS = 12
SEEDS = range(1, 4)


class Nothing:
    """Takes every call and says nothing."""

    def __call__(self, *_: object, **__: object) -> None:
        return

    def __getattr__(self, name: str) -> "Nothing":
        return self


class Blind(Nothing):
    """In place of a group's invariants."""

    def __init__(self, *_: object) -> None:
        self.checks = 0

    def machine(self, _: str, inner: StateMachine) -> StateMachine:
        return inner


class Plain(SimCluster):
    """A cluster that nobody watches, whose nodes take operators' commands."""

    def new_machine(self, gid: GroupId, nshards: int) -> StoreMachine:  # type: ignore[override]
        return StoreMachine(gid, nshards)

    def reborn(self, gid: GroupId, uuid: GroupUuid, log: Log) -> None:
        """Nobody watches."""


@pytest.fixture(autouse=True)
def nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labs.cluster.RaftInvariants", Blind)
    monkeypatch.setattr("labs.sim_node.watch_barriers", lambda *_: None)


class World:
    """A cluster with clients and an operator."""

    def __init__(self, seed: str, groups: int = 2) -> None:
        placement = {GroupId(0): ["n1", "n2", "n3"]}
        for gid in range(1, groups + 1):
            placement[GroupId(gid)] = [f"n{3 * gid + at}" for at in (1, 2, 3)]
        self.cluster = Plain(
            Chance(seed),
            nodes=3 * groups + 3,
            placement=placement,
            groups=groups,
            nshards=NSHARDS,
            heal=HealPolicy(heal=False, uneven_seconds=1e6),
        )
        self.history = History()
        self.said: list[str] = []
        self._rng = Random(seed)

    async def start(self, *gids: GroupId) -> None:
        cluster = self.cluster
        await cluster.start()
        self._pairs = [cluster.client() for _ in range(4)]
        self.admin: ControllerClient = self._pairs[0][1]
        await self.admin.join([cluster.joining(gid) for gid in gids])
        self.transport: SimTransport = cluster.network.transport(Address("operator"))
        config = WorkloadConfig(lists=8, registers=6, timeout=2.0, pause_max=0.03)
        self.workload = Workload(
            [clerk for clerk, _ in self._pairs], self._rng, config, self.history
        )
        self._asking = asyncio.ensure_future(self.workload.run())
        await self.registered()

    async def registered(self) -> None:
        """Until every node has told the controller where it is."""
        while True:
            view = await self.admin.newest()
            if len(view.directory.nodes) == len(self.cluster.nodes):
                return
            await asyncio.sleep(0.1)

    @property
    def recoverer(self) -> Recoverer:
        nodes = {name: str(node.address) for name, node in self.cluster.nodes.items()}
        return Recoverer(self.transport, nodes, self._rng, self.said.append)

    def lose(self, *nodes: SimNode) -> None:
        for node in nodes:
            node.crash()

    def replicas(self, gid: GroupId) -> list[SimNode]:
        return [self.cluster.nodes[name] for name in self.cluster.placement[gid]]

    async def leaderless(self, gid: GroupId) -> None:
        """Until nobody believes that he leads it: a leader finds out that it is alone."""
        async with asyncio.timeout(10.0):
            while self.cluster.leader(gid) is not None:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.05)

    async def settled(self, number: int, gids: Sequence[GroupId], seconds: float = 20.0) -> None:
        """Until the groups' leaders have come to a configuration, each shard served by one."""
        async with asyncio.timeout(seconds):
            while not self._settled(number, gids):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.02)

    def _settled(self, number: int, gids: Sequence[GroupId]) -> bool:
        served = [0] * NSHARDS
        for gid in gids:
            node = self.cluster.leader(gid)
            if node is None or node.assembly is None:
                return False
            machine = node.assembly.groups[gid].server.machine
            if machine.number < number or not machine.is_named:
                return False
            for shard in range(NSHARDS):
                phase = machine.record(ShardId(shard)).phase
                if phase not in SETTLED:
                    return False
                served[shard] += phase is Phase.SERVING
        return served == [1] * NSHARDS

    async def fates(self, gid: GroupId) -> Fates:
        """What the plan says of the shards of a group that lost its majority."""
        view = await self.admin.newest()
        plan = await self.recoverer.plan(gid, view.directory.groups[gid])
        found = await self.recoverer.forgotten(self.admin, view, plan)
        assert found is not None
        return found

    def begun_anew(self, *gids: GroupId) -> list[int]:
        """The shards that these groups serve and that began anew: their session numbers tell it."""
        found = []
        for gid in gids:
            node = self.cluster.leader(gid)
            assert node is not None and node.assembly is not None
            server = node.assembly.groups[gid].server
            rows = server.replica.store.reader
            found += [
                shard.id
                for shard in server.machine._shards
                if shard.record.phase is Phase.SERVING
                and shard.sessions._counter(rows)[0] >= RECOVERED_BEGINS
            ]
        return sorted(found)

    async def finish(self) -> dict[bytes, Operation]:
        """Stop asking, and read every key once more."""
        self.workload.stop()
        await self._asking
        last = {}
        for key in self.workload.keys:
            last[key] = await self.workload.ask(0, Kind.GET, key, None, 10.0)
            assert last[key].happened, last[key]
        for clerk, controller in self._pairs:
            await clerk.close()
            await controller.close()
        return last

    def judge(self, last: dict[bytes, Operation], keys: Sequence[bytes] | None = None) -> None:
        """Linearizable, over the whole run."""
        for key, operations in self.history.by_key().items():
            if keys is not None and key not in keys:
                continue
            if key in self.workload.lists:
                judge_list(operations, last[key].value)
            else:
                judge_register(operations)


def play(scenario: Coroutine[Any, Any, None], seed: str) -> None:
    run(scenario, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_goes_on_from_its_leader_and_nothing_is_lost(seed: int) -> None:
    """The other two are gone for good, under load and while shards move to a third group. What the
    leader had acknowledged is there; the group grows again, and survives the loss of the leader;
    the old two, when they come back, take no part and answer nobody."""
    name = f"recover/{seed}"

    async def main() -> None:
        world = World(name, groups=3)
        await world.start(G1, G2)
        await asyncio.sleep(1.5)
        await world.admin.join([world.cluster.joining(G3)])
        await asyncio.sleep(0.004 * seed)
        leader = world.cluster.leader(G1)
        assert leader is not None
        lost = [node for node in world.replicas(G1) if node is not leader]
        world.lose(*lost)
        await world.leaderless(G1)
        view = await world.admin.newest()
        plan = await world.recoverer.plan(1, view.directory.groups[G1])
        assert plan.choice is not None and plan.choice.node == leader.name
        assert any("MAY BE GONE" in line for line in explained(plan))

        now = asyncio.get_running_loop().time()
        node, number = await world.recoverer.apply(world.admin, 1, deadline=now + 20)

        assert node == leader.name
        await world.settled(number, (G1, G2, G3))
        new = [await world.cluster.add_node() for _ in range(2)]
        await world.registered()
        names = [str(node.name) for node in new]
        await world.recoverer.grow(1, [node, *names], deadline=now + 60)
        for old in lost:
            await old.start()
        await asyncio.sleep(0.5)
        for old in lost:
            assert old.host is not None
            assert old.host.replicas[G1].stopped_because == SUPERSEDED
        world.lose(leader)
        await asyncio.sleep(2.0)
        last = await world.finish()
        world.judge(last)
        done = [op for op in world.history.operations if op.happened]
        assert len(done) > 200

    play(main(), name)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_goes_on_from_a_follower_with_a_prefix_of_what_was_done(seed: int) -> None:
    """What was acknowledged well before the loss is there, in order, each once; of the rest some
    may be gone, from one entry on. Without the writes that are gone all is linearizable."""
    name = f"follower/{seed}"

    async def main() -> None:
        world = World(name)
        await world.start(G1, G2)
        await asyncio.sleep(1.5)
        leader = world.cluster.leader(G1)
        followers = [node for node in world.replicas(G1) if node is not leader]
        assert leader is not None
        world.cluster.network.isolate(
            followers[1].address, [node.address for node in world.cluster.nodes.values()]
        )
        cut_off = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)  # acknowledged without the one that will survive
        world.lose(leader, followers[0])
        world.cluster.network.heal()
        crashed = asyncio.get_running_loop().time()
        await asyncio.sleep(1.0)
        node, number = await world.recoverer.apply(world.admin, 1, deadline=crashed + 20)
        assert node == followers[1].name
        await world.settled(number, (G1, G2))
        await asyncio.sleep(1.5)
        last = await world.finish()

        gone = 0
        for key, operations in world.history.by_key().items():
            if key not in world.workload.lists:
                continue
            elements = (last[key].value or b"").split()
            missing = [
                op
                for op in operations
                if op.kind is Kind.APPEND
                and op.happened
                and (op.value or b"").strip() not in elements
            ]
            gone += len(missing)
            assert all(cut_off - 0.1 <= op.ended <= crashed + 0.1 for op in missing), missing
            names = [(op.value or b"").strip() for op in missing]
            kept = [
                op
                for op in operations
                if op not in missing
                and not (op.kind is Kind.GET and any(n in (op.value or b"").split() for n in names))
            ]
            judge_list(kept, last[key].value)
        assert gone > 0, "a run that loses nothing shows nothing of this"

    play(main(), name)


@pytest.mark.parametrize("under_way", [0.0, 0.01, 0.02, 0.04, 0.3])
def test_a_follower_that_missed_moves_becomes_the_group_and_they_settle(under_way: float) -> None:
    """The survivor was cut off while shards went away, and came, and one was on its way. Others
    have acted on what it never heard of: a target serves what it still holds, another has staged
    what it lost, a source has dropped what it was given. The group still comes to the configuration
    that names it; what had left whole is whole; what had come is gone, and begins anew."""
    name = f"missed moves/{under_way}"

    async def main() -> None:
        world = World(name)
        await world.start(G1, G2)
        await asyncio.sleep(1.0)
        leader = world.cluster.leader(G1)
        followers = [node for node in world.replicas(G1) if node is not leader]
        assert leader is not None
        world.cluster.network.isolate(
            followers[1].address, [node.address for node in world.cluster.nodes.values()]
        )
        config = (await world.admin.newest()).config
        away, coming = config.shards_of(G1), config.shards_of(G2)
        for shard in away[:2]:
            await world.settled(await world.admin.move(shard, G2), (G1, G2))
        for shard in coming[:2]:
            await world.settled(await world.admin.move(shard, G1), (G1, G2))
        await world.settled(await world.admin.move(away[0], G1), (G1, G2))
        await world.settled(await world.admin.move(away[0], G2), (G1, G2))
        await world.admin.move(away[2], G2)
        await asyncio.sleep(under_way)
        world.lose(leader, followers[0])
        world.cluster.network.heal()
        await asyncio.sleep(1.0)

        fates = await world.fates(G1)
        now = asyncio.get_running_loop().time()
        node, number = await world.recoverer.apply(world.admin, 1, deadline=now + 30)

        assert node == followers[1].name
        await world.settled(number, (G1, G2))
        await asyncio.sleep(1.0)
        last = await world.finish()
        assert [one.shard for one in fates.anew] == world.begun_anew(G1, G2) == [*coming[:2]]
        assert not fates.unsure
        routing = SlotRouting(NSHARDS)
        whole = (*away[:2], *coming[2:])
        world.judge(last, [key for key in world.workload.keys if routing(key) in whole])

    play(main(), name)


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_plan_names_every_shard_that_will_begin_anew(seed: int) -> None:
    """Random moves among three groups while the survivor is cut off, maybe in the middle of one:
    what the plan says is what happens, no shard more and none less."""
    name = f"fates/{seed}"

    async def main() -> None:
        rng = Random(name)
        world = World(name, groups=3)
        await world.start(G1, G2, G3)
        await asyncio.sleep(0.5)
        leader = world.cluster.leader(G1)
        survivor = next(node for node in world.replicas(G1) if node is not leader)
        others = [node.address for node in world.cluster.nodes.values()]

        async def move(times: int) -> None:
            for _ in range(times):
                shard = ShardId(rng.randrange(NSHARDS))
                number = await world.admin.move(shard, rng.choice((G1, G1, G2, G3)))
                if rng.random() < 0.7:
                    await world.settled(number, (G1, G2, G3))

        moving = asyncio.ensure_future(move(12))
        await asyncio.sleep(rng.uniform(0.0, 0.4))
        world.cluster.network.isolate(survivor.address, others)
        await moving
        await asyncio.sleep(rng.choice((0.0, 0.05, 1.0)))
        world.lose(*[node for node in world.replicas(G1) if node is not survivor])
        world.cluster.network.heal()
        await world.leaderless(G1)
        await asyncio.sleep(1.0)  # what others can finish without it is finished

        fates = await world.fates(G1)
        now = asyncio.get_running_loop().time()
        _, number = await world.recoverer.apply(world.admin, 1, deadline=now + 30)
        await world.settled(number, (G1, G2, G3))
        await world.finish()

        assert not fates.unsure
        assert [one.shard for one in fates.anew] == world.begun_anew(G1, G2, G3)
        if seed == 1:
            assert fates.anew, "a run that loses nothing shows nothing of this"

    play(main(), name)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_operators_at_once(seed: int) -> None:
    """The controller's log puts them in an order: the gid means one new group; and a node is never
    born again on a word that the controller does not confirm."""

    async def main() -> None:
        world = World(f"two operators/{seed}")
        await world.start(G1, G2)
        await asyncio.sleep(0.5)
        a, b, c = world.replicas(G1)
        world.lose(c)
        await asyncio.sleep(1.5)  # from here on nothing is acknowledged that b does not hold
        a.host.replicas[G1].stop("a damaged disk")  # type: ignore[union-attr]
        await world.leaderless(G1)
        left, _ = await world.recoverer.left(1)
        survivor = next(one for one in left if one.node == b.name)
        forged = Rebirth(
            1, survivor.boot, survivor.uuid, survivor.replica, survivor.last_index,
            survivor.last_term, b"f" * 16,
        )  # fmt: skip
        with pytest.raises(RpcError, match="another uuid"):
            await world.transport.call(b.address, REBIRTH, admin.encode(forged), timeout=5)
        now = asyncio.get_running_loop().time()
        both = await asyncio.gather(
            *(world.recoverer.apply(world.admin, 1, deadline=now + 20) for _ in range(2)),
            return_exceptions=True,
        )
        done = [one for one in both if isinstance(one, tuple)]
        assert len(done) >= 1
        for one in both:
            assert isinstance(one, tuple | RecoveryRefused | ChangeRefused | RpcError), one
        replica = b.host.replicas[G1]  # type: ignore[union-attr]
        view = await world.admin.newest()
        assert replica.record.uuid == view.directory.groups[G1].uuid != survivor.uuid
        await world.settled(view.config.number, (G1, G2))
        world.judge(await world.finish())

    play(main(), f"two operators/{seed}")


@pytest.mark.parametrize("at", ["the controller's word", "the birth"])
def test_an_apply_that_dies_half_way_is_finished_by_another(at: str) -> None:
    async def main() -> None:
        world = World(f"half way/{at}")
        await world.start(G1, G2)
        await asyncio.sleep(0.5)
        leader = world.cluster.leader(G1)
        assert leader is not None
        world.lose(*[node for node in world.replicas(G1) if node is not leader])
        await world.leaderless(G1)
        now = asyncio.get_running_loop().time()
        recoverer = world.recoverer
        first = asyncio.ensure_future(recoverer.apply(world.admin, 1, deadline=now + 20))
        marks = {"the controller's word": "from here on", "the birth": "born again"}
        while not any(marks[at] in line for line in world.said):
            assert not first.done(), first
            await asyncio.sleep(0.0001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        leader.crash()  # and the survivor with it
        await leader.start()
        await asyncio.sleep(0.5)
        view = await world.admin.newest()
        number = view.config.number
        try:
            node, _ = await world.recoverer.apply(world.admin, 1, deadline=now + 40)
            assert node == leader.name
        except RecoveryRefused as error:  # it had been born: there is nothing left to do
            assert "nothing to recover" in str(error)
        assert (await world.admin.newest()).config.number == number, "no second uuid"
        await world.settled(number, (G1, G2))
        world.judge(await world.finish())

    play(main(), f"half way/{at}")


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_group_that_is_lost_whole_is_given_up_and_nobody_waits_for_it(seed: int) -> None:
    """All its replicas are gone while shards are on their way to it and from it. What it owned, or
    was giving away, begins anew; what it was to get stays; other shards never notice."""
    name = f"abandon/{seed}"
    routing = SlotRouting(NSHARDS)

    async def main() -> None:
        world = World(name, groups=3)
        await world.start(G1, G2)
        await asyncio.sleep(1.0)
        config = (await world.admin.newest()).config
        coming = config.shards_of(G2)[seed % 6]
        await world.admin.move(coming, G1)
        if seed % 2:
            await asyncio.sleep(0.1)
        await world.admin.join([world.cluster.joining(G3)])
        await asyncio.sleep(0.0015 * seed)
        world.lose(*world.replicas(G1))
        await asyncio.sleep(1.0)
        now = asyncio.get_running_loop().time()

        number, losses = await world.recoverer.abandon(
            world.admin, 1, deadline=now + 20, although_held=True
        )

        view = await world.admin.newest()
        assert view.directory.groups[G1].uuid == RETIRED
        given_up = await world.admin.config(ConfigNumber(number))
        assert given_up.abandoned == (G1,)
        assert set(losses.lost) <= set(given_up.lost)
        assert set(view.config.shards) <= {G2, G3}
        await world.settled(number, (G2, G3))
        await asyncio.sleep(1.5)
        last = await world.finish()
        untouched = [key for key in world.workload.keys if routing(key) not in given_up.lost]
        assert len(untouched) > 2
        world.judge(last, untouched)
        with pytest.raises(ChangeRefused, match="another group"):
            await world.admin.join([world.cluster.joining(G1)])
        for node in world.replicas(G1):  # and should they come back, they answer nobody
            await node.start()
        await asyncio.sleep(0.5)
        for node in world.replicas(G1):
            assert node.host is not None
            assert node.host.replicas[G1].stopped_because == SUPERSEDED

    play(main(), name)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_controller_that_missed_configurations_takes_them_over_from_those_who_know(
    seed: int,
) -> None:
    """The survivor was cut off while shards moved and a node moved house. Groups have taken those
    configurations, and clients route by them: numbers that came twice would part them for ever."""
    name = f"missed configurations/{seed}"

    async def main() -> None:
        world = World(name)
        await world.start(G1, G2)
        await asyncio.sleep(1.0)
        leader = world.cluster.leader(GroupId(0))
        followers = [node for node in world.replicas(GroupId(0)) if node is not leader]
        assert leader is not None
        survivor = followers[seed % 2]
        world.cluster.network.isolate(
            survivor.address, [node.address for node in world.cluster.nodes.values()]
        )
        config = (await world.admin.newest()).config
        shard, other = config.shards_of(G1)[:2]
        await world.settled(await world.admin.move(shard, G2), (G1, G2))
        number = await world.admin.move(other, G2)
        await asyncio.sleep(0.003 * seed)
        world.lose(leader, followers[1 - seed % 2])
        world.cluster.network.heal()
        await asyncio.sleep(1.0)

        plan = await world.recoverer.plan(0, None)
        assert await world.recoverer.missed(plan) == Missed(1, number, ())
        now = asyncio.get_running_loop().time()
        node, _ = await world.recoverer.apply(world.admin, 0, deadline=now + 30)

        assert node == survivor.name
        view = await world.admin.newest()
        assert view.config.number == number
        assert not await world.recoverer.caught_up(world.admin), "nothing is left to do"
        await world.settled(await world.admin.move(other, G1), (G1, G2))
        await asyncio.sleep(1.0)
        last = await world.finish()
        world.judge(last)

    play(main(), name)


def test_a_controller_that_was_born_and_not_taught_is_taught_by_the_next_apply() -> None:
    name = "born and not taught"

    async def main() -> None:
        world = World(name)
        await world.start(G1, G2)
        await asyncio.sleep(1.0)
        leader = world.cluster.leader(GroupId(0))
        followers = [node for node in world.replicas(GroupId(0)) if node is not leader]
        assert leader is not None
        world.cluster.network.isolate(
            followers[0].address, [node.address for node in world.cluster.nodes.values()]
        )
        shard = (await world.admin.newest()).config.shards_of(G1)[0]
        number = await world.admin.move(shard, G2)
        await world.settled(number, (G1, G2))
        world.lose(leader, followers[1])
        world.cluster.network.heal()
        await asyncio.sleep(1.0)
        now = asyncio.get_running_loop().time()
        first = asyncio.ensure_future(world.recoverer.apply(world.admin, 0, deadline=now + 20))
        while not any("born again" in line for line in world.said):
            assert not first.done(), first
            await asyncio.sleep(0.0001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await world.admin.newest()).config.number < number

        node, _ = await world.recoverer.apply(world.admin, 0, deadline=now + 40)

        assert node == followers[0].name
        assert (await world.admin.newest()).config.number == number
        with pytest.raises(RecoveryRefused, match="nothing to recover"):
            await world.recoverer.apply(world.admin, 0, deadline=now + 60)
        world.judge(await world.finish())

    play(main(), name)
