"""Shard group lab (2025), part 5A: moving shards. Each test is the official one of its name."""

import asyncio
from collections.abc import Sequence

from labs.harness.shard_groups_cluster import GROUPS, ShardGroupsCluster, Values
from labs.shardcfg import FIRST_NUMBER, GID1, ShardConfig, key2shard
from raft.types import GroupId
from tests.support.shard_groups_lab import Play

MAXRAFTSTATE = 10_000
VALUE_BYTES = 1000
SLACK_BYTES = 10_000


def test_init_query_5a(play: Play) -> None:
    """The first configuration is stored, and read as it was."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        config = ShardConfig()
        config.join_balance({GID1: ["xxx"]})
        await cluster.controller.ctrler.init_config(config)

        found = await cluster.make_controller().ctrler.query()
        assert found == config
        assert (found.num, found.shards[0]) == (FIRST_NUMBER, GID1)
        found.check([GID1])

    play(scenario, with_group1=False)


def test_static_one_shard_group_5a(play: Play) -> None:
    """A clerk goes on when the leader of the only group is shut down."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        values = await cluster.spread_puts(cluster.make_clerk())
        await values.check()
        group = cluster.groups[GID1]

        group.shutdown_server(group.leader())

        await values.check()

    play(scenario)


async def join_one(cluster: ShardGroupsCluster) -> GroupId:
    """A new group joins, which makes one configuration."""
    ctrler = cluster.controller.ctrler
    before = (await ctrler.query()).num
    gid = cluster.new_gid()
    assert await cluster.join_groups(ctrler, [gid])
    assert (await ctrler.query()).num == before + 1
    return gid


def test_join_basic_5a(play: Play) -> None:
    """A group joins, and takes over its shards."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        values = await cluster.spread_puts(cluster.make_clerk())

        gid2 = await join_one(cluster)

        await cluster.check_shutdown_sharding(GID1, values)
        await values.check()
        await cluster.check_shutdown_sharding(gid2, values)
        await values.check()

    play(scenario)


def test_delete_basic_5a(play: Play) -> None:
    """What was moved away is deleted."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        def size(gid: GroupId) -> int:
            return max(server.snapshot_bytes() for server in cluster.groups[gid].running())

        values = await cluster.spread_puts(cluster.make_clerk(), VALUE_BYTES)
        before = size(GID1)
        assert before > 0, "nothing was ever cut, so nothing is measured"

        gid2 = await join_one(cluster)
        for _ in range(5):
            await values.check()

        assert size(GID1) + size(gid2) <= before + SLACK_BYTES

    play(scenario, maxraftstate=MAXRAFTSTATE)


def test_join_leave_basic_5a(play: Play) -> None:
    """A group leaves, and joins again with what it had stored."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        ctrler = cluster.controller.ctrler
        values = await cluster.spread_puts(cluster.make_clerk())
        gid2 = await join_one(cluster)
        await cluster.check_shutdown_sharding(GID1, values)
        await values.check()

        await cluster.leave(ctrler, GID1)
        assert not await cluster.is_member(ctrler, GID1)
        cluster.groups[GID1].shutdown()
        await values.check()

        await cluster.groups[GID1].start()
        await cluster.join(ctrler, GID1)
        assert await cluster.is_member(ctrler, GID1)
        await values.check()
        await cluster.check_shutdown_sharding(gid2, values)

    play(scenario)


def new_gids(cluster: ShardGroupsCluster, count: int) -> list[GroupId]:
    return [cluster.new_gid() for _ in range(count)]


async def many_join_leave(cluster: ShardGroupsCluster) -> None:
    ctrler = cluster.controller.ctrler
    values = await cluster.spread_puts(cluster.make_clerk())
    gids = new_gids(cluster, GROUPS)

    assert await cluster.join_groups(ctrler, gids)
    await cluster.check_shutdown_sharding(gids[0], values)
    await values.check()
    assert await cluster.leave_groups(ctrler, gids)
    await values.check()


def test_many_join_leave_reliable_5a(play: Play) -> None:
    """Eight groups come and go."""
    play(many_join_leave)


def test_many_join_leave_unreliable_5a(play: Play) -> None:
    play(many_join_leave, reliable=False)


def test_shutdown_5a(play: Play) -> None:
    """All groups restart, and know what they own."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        values = await cluster.spread_puts(cluster.make_clerk())
        gids = new_gids(cluster, 2)
        assert await cluster.join_groups(cluster.controller.ctrler, gids)
        await cluster.check_shutdown_sharding(gids[0], values)
        await values.check()

        for group in cluster.groups.values():
            group.shutdown()
        for group in cluster.groups.values():
            await group.start()

        await values.check()

    play(scenario)


def test_progress_shutdown_5a(play: Play) -> None:
    """Two groups that are down hold up no other."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        ctrler = cluster.controller.ctrler
        values = await cluster.spread_puts(cluster.make_clerk())
        gids = new_gids(cluster, 4)
        assert await cluster.join_groups(ctrler, gids)

        for gid in gids[:2]:
            cluster.groups[gid].shutdown()
        keys = keys_on(values, await ctrler.query(), gids[2:])
        async with asyncio.timeout(2.0):
            await values.check(keys, cluster.make_clerk())

    play(scenario)


def keys_on(values: Values, config: ShardConfig, gids: Sequence[GroupId]) -> list[str]:
    keys = [key for key in values.of if config.shards[key2shard(key.encode())] in gids]
    assert keys
    return keys


def test_progress_join_5a(play: Play) -> None:
    """Shards that stay where they are are served while others come and go."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        ctrler = cluster.controller.ctrler
        values = await cluster.spread_puts(cluster.make_clerk())
        assert await cluster.join_groups(ctrler, new_gids(cluster, 4))
        now = await ctrler.query()
        cluster.new_gid()
        gid = cluster.new_gid()
        with_it = now.copy()
        with_it.join_balance({gid: ["s"]})
        after = with_it.copy()
        after.leave_balance([gid])
        stable = [s for s, owner in enumerate(now.shards) if with_it.shards[s] == owner]
        taking_part = {after.shards[s] for s, owner in enumerate(with_it.shards) if owner == gid}
        keys = [
            key
            for key in values.of
            if (shard := key2shard(key.encode())) in stable and now.shards[shard] in taking_part
        ]
        assert (sorted(taking_part), len(keys)) == ([1, 2], 22), "as the placement has it"

        stopped = False
        changes = 0

        async def come_and_go() -> None:
            nonlocal changes
            while not stopped:
                assert await cluster.join_groups(ctrler, [gid])
                assert await cluster.leave_groups(ctrler, [gid])
                changes += 1

        loop = asyncio.get_running_loop()
        began = loop.time()
        changing = cluster.in_background(come_and_go())
        clerk = cluster.make_clerk()
        gets = 0
        while loop.time() < began + 4.0:
            await values.check([keys[gets % len(keys)]], clerk)
            gets += 1
        stopped = True
        await changing

        assert gets >= 100
        assert changes > 0
        assert loop.time() - began <= 8.0

    play(scenario)


# Puts while shards move


async def putting(cluster: ShardGroupsCluster, clients: int) -> None:
    """Clients put on one key for 20 s while eight groups come and go."""
    ctrler = cluster.controller.ctrler
    loop = asyncio.get_running_loop()

    async def come_and_go() -> None:
        began = loop.time()
        gids = new_gids(cluster, GROUPS)
        assert await cluster.join_groups(ctrler, gids)
        assert await cluster.leave_groups(ctrler, gids)
        await asyncio.sleep(max(0.0, began + 20.0 - loop.time()))

    await cluster.put_meanwhile(clients, come_and_go, leisure=2 if clients > 1 else 1)


def test_one_concurrent_clerk_reliable_5a(play: Play) -> None:
    play(lambda cluster: putting(cluster, 1))


def test_many_concurrent_clerk_reliable_5a(play: Play) -> None:
    play(lambda cluster: putting(cluster, 10))


def test_one_concurrent_clerk_unreliable_5a(play: Play) -> None:
    play(lambda cluster: putting(cluster, 1), reliable=False)


def test_many_concurrent_clerk_unreliable_5a(play: Play) -> None:
    play(lambda cluster: putting(cluster, 10), reliable=False)
