"""Shard group lab (2025), part 5C: controllers that compete. Each test is the official one."""

import asyncio

from labs.harness.shard_groups_cluster import ShardGroupsCluster
from tests.support.shard_groups_lab import Play

CONTROLLERS = 4
SECONDS = 2.0
CLIENTS = 5
CLIENTS_SECONDS = 60.0
ROUNDS_RELIABLE, ROUNDS_UNRELIABLE = 5, 3


async def compete(cluster: ShardGroupsCluster) -> None:
    """Four controllers at once let groups join and leave; what one may not do, it leaves."""
    values = await cluster.spread_puts(cluster.make_clerk())
    stopped = False
    joins = 0

    async def one() -> None:
        nonlocal joins
        while not stopped:
            gid, ctrler = cluster.new_gid(), cluster.make_controller().ctrler
            await ctrler.init_controller()
            await cluster.join_groups(ctrler, [gid])
            if await cluster.is_member(ctrler, gid):
                joins += 1
                await cluster.leave_groups(ctrler, [gid])

    competing = asyncio.gather(*[one() for _ in range(CONTROLLERS)])
    await asyncio.sleep(SECONDS)
    stopped = True
    await competing

    assert joins > 0, "nobody has won anything"
    await values.check()


def test_concurrent_reliable_5c(play: Play) -> None:
    play(compete)


def test_acquire_lock_concurrent_unreliable_5c(play: Play) -> None:
    play(compete, reliable=False)


def test_partition_controller_join_5c(play: Play) -> None:
    """A controller that was cut off in a join comes back after another has finished it."""

    async def scenario(cluster: ShardGroupsCluster) -> None:
        values = await cluster.spread_puts(cluster.make_clerk())
        old = cluster.make_controller()
        await old.ctrler.init_controller()
        gid = cluster.new_gid()
        group = await cluster.start_group(gid)
        group.shutdown()
        joining = cluster.in_background(cluster.join(old.ctrler, gid))

        await asyncio.sleep(1)
        old.cut_off()
        await asyncio.sleep(1)
        await group.start()
        new = cluster.make_controller().ctrler
        await new.init_controller()
        assert await cluster.is_member(new, gid)

        old.reconnect()
        await joining
        await asyncio.sleep(1)
        await values.check()

    play(scenario)


async def rounds(cluster: ShardGroupsCluster, count: int) -> None:
    for _ in range(count):
        await cluster.partition_controller(None, reconnect=True)


async def without_clerks(cluster: ShardGroupsCluster, count: int) -> None:
    values = await cluster.spread_puts(cluster.make_clerk())
    for _ in range(count):
        await cluster.partition_controller(values, reconnect=True)


async def with_clerks(cluster: ShardGroupsCluster, count: int) -> None:
    """Clients put for 60 s, on one key, while controllers come and go."""
    loop = asyncio.get_running_loop()

    async def meanwhile() -> None:
        began = loop.time()
        await rounds(cluster, count)
        await asyncio.sleep(max(0.0, began + CLIENTS_SECONDS - loop.time()))

    await cluster.put_meanwhile(CLIENTS, meanwhile, leisure=3)


def test_partition_recovery_reliable_no_clerk_5c(play: Play) -> None:
    play(lambda cluster: without_clerks(cluster, ROUNDS_RELIABLE))


def test_partition_recovery_unreliable_no_clerk_5c(play: Play) -> None:
    play(lambda cluster: without_clerks(cluster, ROUNDS_UNRELIABLE), reliable=False)


def test_partition_recovery_reliable_clerks_5c(play: Play) -> None:
    play(lambda cluster: with_clerks(cluster, ROUNDS_RELIABLE))


def test_partition_recovery_unreliable_clerks_5c(play: Play) -> None:
    play(lambda cluster: with_clerks(cluster, ROUNDS_UNRELIABLE), reliable=False)
