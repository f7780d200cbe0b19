"""Three nodes, two groups: a shard moves to and fro under load, and at each step of it the leader
that has just taken the step is ended by kill -9."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.processes.test_moves_under_fire import is_settled
from tests.support import doomed
from tests.support.load import Load
from tests.support.processes import Cluster, Eyes, Seen, run, running, wait_for

SHARDS = 8
STEPS = [
    ("configure", "source"),
    ("configure", "target"),
    ("chunk", "target"),
    ("freeze", "source"),
    ("install", "target"),
    ("drop", "source"),
]
"""Each step, and whose leader takes it."""


async def moves(cluster: Cluster, eyes: Eyes, load: Load, dooms: Path) -> None:
    """A move for each step, and a leader less each time."""
    owner, number = 1 + (1 in dict(await owners(eyes, 2))), 1
    for step, where in STEPS:
        await load.some(40)
        source, owner = owner, 3 - owner
        doom = dooms / f"{step}-{source if where == 'source' else owner}"
        doom.touch()
        number += 1
        moved = await asyncio.to_thread(
            cluster.cli, "ctl", "move", "1", str(owner), "--timeout", "20"
        )
        assert moved.status == 0, moved
        await asyncio.to_thread(until_struck, cluster, doom)
        await load.some(20)
        for name in [name for name in cluster.nodes if not cluster.runs(name)]:
            doomed.start(cluster, name, dooms)
        await eyes.until(settled_in(number), f"{step} survived", 40)
    await load.finish()


def settled_in(number: int) -> Callable[[Seen], bool]:
    return lambda seen: is_settled(seen, number)


def test_either_leader_is_killed_at_each_step_of_a_hand_over(tmp_path: Path) -> None:
    """M1, M2 on real processes: no write is lost or doubled, and every move comes to its end."""
    dooms = tmp_path / "dooms"
    dooms.mkdir()

    async def scenario(cluster: Cluster) -> None:
        for name in cluster.nodes:
            await asyncio.to_thread(cluster.kill, name)
            await asyncio.to_thread(cluster.obituary, name)
            doomed.start(cluster, name, dooms)
        async with cluster.eyes() as eyes:
            await eyes.whole()
            async with Load(cluster.endpoints) as load:
                await moves(cluster, eyes, load, dooms)
            await eyes.whole()

    with running(tmp_path, groups=2, shards=SHARDS) as cluster:
        run(scenario(cluster), seconds=170)


async def owners(eyes: Eyes, gid: int) -> list[tuple[int, str]]:
    """The shards of a group and their phases, at its leader."""
    await eyes.leader(gid)

    def found(seen: Seen) -> list[tuple[int, str]]:
        return [
            (shard.shard, shard.phase)
            for status in seen.values()
            if status is not None
            for replica in status.replicas
            if replica.gid == gid and replica.leads
            for shard in replica.shards
        ]

    return await eyes.until(found, f"the shards of group {gid}")


def until_struck(cluster: Cluster, doom: Path) -> None:
    """Until the step was taken by a leader, and the node that took it is gone."""
    wait_for(
        lambda: not doom.exists() and not all(cluster.runs(name) for name in cluster.nodes),
        f"{doom.name} taken",
    )
