"""A group loses its majority, or all of itself, and operators go on from what is left: with every
invariant watched, and what is lost held against what the plan said."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import Unhandled, run
from labrpc.transport import Address
from labs.cli.simulate import run_seed
from labs.cluster import SimCluster
from labs.observer import NAMED_PROBES, InvariantBroken
from labs.scenario import Played, ScenarioConfig, play
from labs.workload import WorkloadConfig
from raft.types import GroupId
from shardkv import giving_up, handover
from shardkv.commands import Abandoned
from shardkv.errors import Unavailable
from shardkv.forgotten import Fates
from shardkv.held import HeldShard
from shardkv.planner import HealPolicy
from shardkv.recovering import Recoverer

BEREFT = ScenarioConfig(seconds=8.0, also=("bereft",))
EXTINCT = ScenarioConfig(seconds=8.0, also=("extinct",))
SEEDS = range(1, 26)
"""As many as a test may need, until one does what it waits for."""


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_group_goes_on_from_what_is_left_of_it(seed: int) -> None:
    play(f"survivor/{seed}", BEREFT)


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_group_of_which_nothing_is_left_is_given_up(seed: int) -> None:
    play(f"given up/{seed}", EXTINCT)


@pytest.mark.parametrize("config", [BEREFT, EXTINCT], ids=["bereft", "extinct"])
def test_the_runs_visit_what_they_are_about(config: ScenarioConfig) -> None:
    visited: Counter[str] = Counter()
    probes = NAMED_PROBES[config.also[0]]
    for seed in SEEDS:
        if all(visited[probe] for probe in probes):
            return
        visited += play(seed, config)[0].probes
    raise AssertionError(f"never visited: {[probe for probe in probes if not visited[probe]]}")


def test_the_same_seed_tells_the_same_story() -> None:
    assert not run_seed(100, BEREFT).failure, "every twentieth seed is played twice"


def test_one_kind_of_run_at_a_time() -> None:
    with pytest.raises(ValueError, match="bereft and extinct make runs of different kinds"):
        ScenarioConfig(faults=("extinct",), also=("bereft",))


# Teeth


def broken_by(config: ScenarioConfig) -> str:
    """The first invariant that one of the seeds breaks. Few clients and no other fault: a seed is
    short, and most of them come to what they are for."""
    few = WorkloadConfig(clients=2, readers=0)
    for seed in SEEDS:
        try:
            play(seed, replace(config, seconds=5.0, faults=("changes",), workload=few))
        except Played as error:
            return error.invariant
    return ""


def test_a_plan_that_forgets_what_begins_anew_breaks_c8(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten = Recoverer.forgotten

    async def broken(self: Recoverer, *asked: Any) -> Fates | None:
        fates = await forgotten(self, *asked)
        return None if fates is None else fates._replace(anew=())

    monkeypatch.setattr(Recoverer, "forgotten", broken)

    assert broken_by(BEREFT) == "C8"


def begins_anew_beside_its_owner(seed: str) -> None:
    """Group 1 has a shard, and does not hear that it went to group 2 and on to group 3; then group
    2 is lost and given up. Group 3 must wait for group 1.

    Raises:
        InvariantBroken: it did not.
    """

    async def main() -> None:
        nodes = [f"n{number + 1}" for number in range(12)]
        cluster = SimCluster(
            Chance(seed), nodes=12, groups=3, nshards=3,
            placement={GroupId(gid): nodes[3 * gid : 3 * gid + 3] for gid in range(4)},
            heal=HealPolicy(heal=False, uneven_seconds=1e9),
        )  # fmt: skip
        owner, between, after = cluster.gids
        await cluster.start()
        clerk, admin = cluster.client()
        number = await admin.join([cluster.joining(gid) for gid in cluster.gids])
        while not cluster.quiet(number):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.1)
        shard = (await admin.newest()).config.shards_of(owner)[0]
        behind = [Address(name) for name in cluster.placement[owner]]
        cluster.network.partition(behind, [Address(n) for n in nodes if Address(n) not in behind])
        await admin.move(shard, between)
        await admin.move(shard, after)
        await asyncio.sleep(1.0)
        cluster.watchers[between].superseded = True
        for name in cluster.placement[between]:
            cluster.nodes[name].crash()
            cluster.nodes[name].lose_disk()
            cluster.nodes[name].condemned = True
        cluster.oracle.memory.gone(between)
        addresses = {name: str(node.address) for name, node in cluster.nodes.items()}
        operator = cluster.network.transport(Address("operator"))
        recoverer = Recoverer(operator, addresses, Random(seed), lambda _: None)
        deadline = asyncio.get_running_loop().time() + 3.0
        with pytest.raises(Unavailable, match="group 1 is at"):
            await recoverer.abandon(admin, between, deadline=deadline, although_held=True)
        await clerk.close()
        await admin.close()
        cluster.observer.finish()

    try:
        run(main(), seed=seed)
    except Unhandled as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None


def test_a_shard_that_begins_anew_beside_its_owner_breaks_s1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody further back is asked: a group that is far behind serves on."""
    begins_anew_beside_its_owner("S1")
    due = giving_up.what_to_propose

    async def broken(
        gid: GroupId, number: Any, unsettled: Any, feed: Any,
        stands_at: Callable[[GroupId], Awaitable[int]],
    ) -> Abandoned | None:  # fmt: skip
        async def far(_: GroupId) -> int:
            return 2**31

        return await due(gid, number, unsettled, feed, far)

    monkeypatch.setattr(handover, "what_to_propose", broken)

    with pytest.raises(InvariantBroken, match="S1: "):
        begins_anew_beside_its_owner("S1")


def test_a_recovered_group_that_gives_versions_again_breaks_c11(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    know = HeldShard.know_highest

    def broken(self: HeldShard, version: int) -> None:
        know(self, version)
        self.epoch_begins = 0

    monkeypatch.setattr(HeldShard, "know_highest", broken)

    assert broken_by(BEREFT) == "C11"
