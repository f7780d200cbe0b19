"""Shard group lab (2025), part 5B: a controller that fails. Each test is the official one."""

import asyncio
from collections.abc import Awaitable

import pytest

from labs.harness.shard_groups_cluster import ShardGroupsCluster
from labs.shardcfg import GID1
from tests.support.shard_groups_lab import Play

STUCK_SECONDS = 2.0
DONE_SECONDS = 2.0


async def must_wait(change: "asyncio.Task[None]") -> None:
    """The change cannot be done yet. (The original waits 2 ns where it means seconds.)"""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(change), STUCK_SECONDS)


async def must_end(change: Awaitable[None]) -> None:
    async with asyncio.timeout(DONE_SECONDS):
        await change


def test_join_leave_5b(play: Play) -> None:
    """A join and a leave wait for a group that is down, and end soon after it is back."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        ctrler = cluster.controller.ctrler
        values = await cluster.spread_puts(cluster.make_clerk())
        before = (await ctrler.query()).num

        cluster.groups[GID1].shutdown()
        gid2 = cluster.new_gid()
        await cluster.start_group(gid2)
        joining = cluster.in_background(cluster.join(ctrler, gid2))
        await must_wait(joining)
        assert not await cluster.is_member(ctrler, gid2), "published before it was done"
        await cluster.groups[GID1].start()
        await must_end(joining)
        assert await cluster.is_member(ctrler, gid2)
        assert (await ctrler.query()).num == before + 1

        cluster.groups[gid2].shutdown()
        leaving = cluster.in_background(cluster.leave(ctrler, GID1))
        await must_wait(leaving)
        assert await cluster.is_member(ctrler, GID1), "published before it was done"
        await cluster.groups[gid2].start()
        await must_end(leaving)
        assert not await cluster.is_member(ctrler, GID1)

        await values.check()

    play(scenario)


def test_recover_ctrler_5b(play: Play) -> None:
    """Five times a controller is cut off in a change, and the next one finishes it."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        values = await cluster.spread_puts(cluster.make_clerk())

        for _ in range(5):
            await cluster.partition_controller(values, reconnect=False)

    play(scenario)
