"""What the lab's calls to shard groups promise, besides what the official tests look at."""

import pytest

from labs.harness.shard_groups_cluster import ShardGroupsCluster, Values
from labs.kv import Err
from labs.shardcfg import GID1, key2shard
from labs.shardgrp import Change, Deposed, GroupClerk
from labs.shardkv1 import change_to
from raft.types import GroupId
from shardctrler.types import ShardId
from tests.support.shard_groups_lab import Play

SHARD = ShardId(0)
KEY = "k2"  # of that shard


async def change_with(cluster: ShardGroupsCluster, gid: GroupId) -> Change:
    """The step in which a group joins that is started here; nobody has posted it."""
    group = await cluster.start_group(gid)
    ctrler = cluster.controller.ctrler
    new = await ctrler.query()
    assert new.join_balance({gid: group.names})
    return change_to(await ctrler.current(), new)


def clerk_of(cluster: ShardGroupsCluster, gid: GroupId) -> GroupClerk:
    return GroupClerk(cluster.make_ends(), cluster.groups[gid].names)


async def served(cluster: ShardGroupsCluster, gid: GroupId) -> list[int]:
    """The shards that a group's leader serves."""
    group = cluster.groups[gid]
    leader = group.servers[group.leader()]
    assert leader is not None
    records = leader.group.machine.facts.records
    return [shard for shard, record in enumerate(records) if record.phase.name == "SERVING"]


def test_each_call_may_be_repeated(play: Play) -> None:
    async def scenario(cluster: ShardGroupsCluster) -> None:
        assert key2shard(KEY.encode()) == SHARD
        await cluster.spread_puts(cluster.make_clerk())
        gid = cluster.new_gid()
        change = await change_with(cluster, gid)
        source, target = clerk_of(cluster, GID1), clerk_of(cluster, gid)

        copy = await source.freeze(SHARD, change)
        assert copy is not None
        assert await source.freeze(SHARD, change) == copy, "frozen rows stay what they are"
        assert SHARD not in await served(cluster, GID1)

        await target.install(SHARD, change, copy)
        await target.install(SHARD, change, copy)
        assert await served(cluster, gid) == [SHARD]

        await source.delete(SHARD, change)
        await source.delete(SHARD, change)
        assert await source.freeze(SHARD, change) is None, "the copy is gone, for good"

        await cluster.join(cluster.controller.ctrler, gid)  # the rest of the same change

    play(scenario)


def test_a_late_install_does_not_undo_what_was_written_since(play: Play) -> None:
    async def scenario(cluster: ShardGroupsCluster) -> None:
        clerk = cluster.make_clerk()
        await cluster.spread_puts(clerk)
        gid = cluster.new_gid()
        change = await change_with(cluster, gid)
        source, target = clerk_of(cluster, GID1), clerk_of(cluster, gid)
        copy = await source.freeze(SHARD, change)
        assert copy is not None

        await cluster.join(cluster.controller.ctrler, gid)
        assert await clerk.put(KEY, "newer", 1) is Err.OK
        await target.install(SHARD, change, copy)

        await clerk.check_get(KEY, "newer", 2)

    play(scenario)


def test_a_deposed_controller_is_told_so_by_every_call(play: Play) -> None:
    async def scenario(cluster: ShardGroupsCluster) -> None:
        ctrler = cluster.controller.ctrler
        values = await cluster.spread_puts(cluster.make_clerk())
        gid2, gid3 = cluster.new_gid(), cluster.new_gid()
        old = await change_with(cluster, gid2)
        copy = await clerk_of(cluster, GID1).freeze(SHARD, old)
        assert copy is not None
        await cluster.join(ctrler, gid2)
        await cluster.start_group(gid3)
        await cluster.join(ctrler, gid3)

        source, target = clerk_of(cluster, GID1), clerk_of(cluster, gid2)
        with pytest.raises(Deposed):
            await source.freeze(SHARD, old)
        with pytest.raises(Deposed):
            await target.install(SHARD, old, copy)
        with pytest.raises(Deposed):
            await source.delete(SHARD, old)

        await values.check()

    play(scenario)


def test_of_two_controllers_one_makes_a_configuration(play: Play) -> None:
    """The loser does nothing, and what the winner made is what both then see."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        values = await cluster.spread_puts(cluster.make_clerk())
        one, other = cluster.make_controller().ctrler, cluster.make_controller().ctrler
        gid2, gid3 = cluster.new_gid(), cluster.new_gid()
        new2, new3 = await one.query(), await other.query()
        for gid, new in ((gid2, new2), (gid3, new3)):
            new.join_balance({gid: (await cluster.start_group(gid)).names})

        await one.change_config_to(new2)
        await other.change_config_to(new3)

        assert await one.query() == await other.query() == new2
        assert await served(cluster, gid3) == []
        await values.check()

    play(scenario)


@pytest.mark.parametrize("back", [False, True], ids=["to another group", "to the same group"])
def test_shards_wait_where_they_are_while_there_is_no_group(play: Play, back: bool) -> None:
    """The last group may leave; whoever joins then gets what it had."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        ctrler = cluster.controller.ctrler
        values: Values = await cluster.spread_puts(cluster.make_clerk())

        await cluster.leave(ctrler, GID1)
        assert await served(cluster, GID1) == []

        gid = GID1
        if not back:
            gid = cluster.new_gid()
            await cluster.start_group(gid)
        await cluster.join(ctrler, gid)
        await values.check()
        assert len(await served(cluster, gid)) == 12

    play(scenario)


def test_a_new_group_may_come_under_the_gid_of_one_that_went(play: Play) -> None:
    """It is brought up to date without the history of its namesake."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        ctrler = cluster.controller.ctrler
        values = await cluster.spread_puts(cluster.make_clerk())
        gid = cluster.new_gid()

        for _ in range(3):
            assert await cluster.join_groups(ctrler, [gid])
            assert await cluster.leave_groups(ctrler, [gid])
        await values.check()

    play(scenario)
