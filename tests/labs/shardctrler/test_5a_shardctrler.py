"""Shard controller lab, part 5A (2024). Each test is the official check of its name.

The originals' checks of minimal movement look at gids that do not exist, so they check nothing;
here they look at the groups that are there. The original search for a leader in `AgreeConfig` never
looks again at whom it found; here it does.
"""

import asyncio
from collections.abc import Awaitable, Callable

from labs.harness.shard_ctrler_cluster import (
    ShardCtrlerCluster,
    check,
    check_config,
    check_same,
    check_stays,
)
from labs.shardctrler import NSHARDS, Clerk, Config

Play = Callable[[Callable[[ShardCtrlerCluster], Awaitable[None]]], None]

CLERKS = 10
MOVED_MAX = NSHARDS // 3 + 1


# TestBasic


async def basic_leave_join(clerk: Clerk) -> list[Config]:
    """Groups 1 and 2 come and go, one by one; returns the configs on the way."""
    seen = [await check(clerk, [])]
    await clerk.join({1: ["x", "y", "z"]})
    seen.append(await check(clerk, [1]))
    await clerk.join({2: ["a", "b", "c"]})
    both = await check(clerk, [1, 2])
    assert both.groups == {1: ("x", "y", "z"), 2: ("a", "b", "c")}
    seen.append(both)

    await clerk.leave([1])
    seen.append(await check(clerk, [2]))
    await clerk.leave([2])
    seen.append(await clerk.query(-1))
    assert set(seen[-1].shards) == {0}, "with no group left no shard has an owner"
    return seen


def test_basic_leave_join_5a(play: Play) -> None:
    async def scenario(cluster: ShardCtrlerCluster) -> None:
        seen = await basic_leave_join(cluster.make_clerk())

        assert [config.num for config in seen] == [0, 1, 2, 3, 4], "a change makes one config"

    play(scenario)


def test_basic_historical_queries_5a(play: Play) -> None:
    """With each server down in turn, every old config is what it was."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        clerk = cluster.make_clerk()
        seen = await basic_leave_join(clerk)

        for server in range(len(cluster.group.servers)):
            cluster.group.shutdown_server(server)
            for config in seen:
                check_same(await clerk.query(config.num), config)
            await cluster.group.start_server(server)

    play(scenario)


def test_basic_move_5a(play: Play) -> None:
    """Each shard is moved, and stays where it was moved to."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        clerk = cluster.make_clerk()
        await clerk.join({503: ["3a", "3b", "3c"]})
        await clerk.join({504: ["4a", "4b", "4c"]})

        for shard in range(NSHARDS):
            before = await clerk.query(-1)
            to = 503 if shard < NSHARDS // 2 else 504
            await clerk.move(shard, to)
            after = await clerk.query(-1)
            if before.shards[shard] != to:
                assert after.num > before.num, "a move makes a new config"
            assert after.shards == (*before.shards[:shard], to, *before.shards[shard + 1 :])

        moved = await clerk.query(-1)
        assert moved.shards == (503,) * 5 + (504,) * 5
        await clerk.leave([503])
        await clerk.leave([504])

    play(scenario)


async def basic_concurrent_leave_join(cluster: ShardCtrlerCluster) -> list[int]:
    """Ten clerks at once, each of whose groups comes and another comes and goes; returns those
    that stay."""
    gids = [100 + 10 * i for i in range(CLERKS)]

    async def one(gid: int) -> None:
        clerk = cluster.make_clerk()
        await clerk.join({gid + 1000: [f"s{gid}a"]})
        await clerk.join({gid: [f"s{gid}b"]})
        await clerk.leave([gid + 1000])

    await asyncio.gather(*[one(gid) for gid in gids])
    return gids


def test_basic_concurrent_leave_join_5a(play: Play) -> None:
    async def scenario(cluster: ShardCtrlerCluster) -> None:
        gids = await basic_concurrent_leave_join(cluster)

        config = await check(cluster.make_clerk(), gids)
        assert config.num == 3 * CLERKS, "each change makes exactly one config"

    play(scenario)


async def join_five(clerk: Clerk) -> None:
    for gid in range(11, 16):
        await clerk.join({gid: [f"{gid}a", f"{gid}b", f"{gid}b"]})


def test_basic_minimal_transfer_5a(play: Play) -> None:
    """Five groups join: no shard moves between groups that were there."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        gids = await basic_concurrent_leave_join(cluster)
        clerk = cluster.make_clerk()

        before = await clerk.query(-1)
        await join_five(clerk)
        after = await check(clerk, [*gids, *range(11, 16)])

        check_stays(before, after, gids)

    play(scenario)


def test_basic_minimal_transfer_after_leave_5a(play: Play) -> None:
    """Five groups leave: what was on the others stays there."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        gids = await basic_concurrent_leave_join(cluster)
        clerk = cluster.make_clerk()
        await join_five(clerk)

        before = await clerk.query(-1)
        for gid in range(11, 16):
            await clerk.leave([gid])
        after = await check(clerk, gids)

        check_leaves(before, after, gids)

    play(scenario)


def check_leaves(before: Config, after: Config, staying: list[int]) -> None:
    for shard, owner in enumerate(before.shards):
        if owner in staying:
            assert after.shards[shard] == owner, f"shard {shard} left {owner} without need"


def test_minimal_again_5a(play: Play) -> None:
    """At most four shards move when a third group comes, and when one of three goes."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        clerk = cluster.make_clerk()
        await clerk.join({1: ["x", "y", "z"]})
        await clerk.join({2: ["a", "b", "c"]})
        two = await check(clerk, [1, 2])

        await clerk.join({3: ["d", "e", "f"]})
        three = await check(clerk, [1, 2, 3])
        check_stays(two, three, [1, 2])
        assert moved(two, three) <= MOVED_MAX

        await clerk.leave([1])
        left = await check(clerk, [2, 3])
        check_leaves(three, left, [2, 3])
        assert moved(three, left) <= MOVED_MAX

    play(scenario)


def moved(before: Config, after: Config) -> int:
    return sum(a != b for a, b in zip(before.shards, after.shards, strict=True))


# TestMulti


def test_multi_leave_join_5a(play: Play) -> None:
    """Several groups in one call make one config."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        clerk = cluster.make_clerk()
        await check(clerk, [])

        await clerk.join({1: ["x", "y", "z"], 2: ["a", "b", "c"]})
        assert (await check(clerk, [1, 2])).num == 1
        await clerk.join({3: ["j", "k", "l"]})
        three = await check(clerk, [1, 2, 3])
        assert three.groups == {1: ("x", "y", "z"), 2: ("a", "b", "c"), 3: ("j", "k", "l")}

        await clerk.leave([1, 3])
        one = await check(clerk, [2])
        assert one.num == three.num + 1
        assert one.groups == {2: ("a", "b", "c")}
        await clerk.leave([2])

    play(scenario)


async def multi_concurrent_leave_join(cluster: ShardCtrlerCluster) -> list[int]:
    gids = [1000 + i for i in range(CLERKS)]

    async def one(gid: int) -> None:
        clerk = cluster.make_clerk()
        three = [f"{gid}a", f"{gid}b", f"{gid}c"]
        await clerk.join(
            {gid: three, gid + 1000: [f"{gid + 1000}a"], gid + 2000: [f"{gid + 2000}a"]}
        )
        await clerk.leave([gid + 1000, gid + 2000])

    await asyncio.gather(*[one(gid) for gid in gids])
    return gids


def test_multi_concurrent_leave_join_5a(play: Play) -> None:
    """Ten clerks at once, three groups each: more groups than shards."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        gids = await multi_concurrent_leave_join(cluster)

        config = await check(cluster.make_clerk(), gids)
        assert config.num == 2 * CLERKS, "each change makes exactly one config"
        assert all(config.groups[gid] == (f"{gid}a", f"{gid}b", f"{gid}c") for gid in gids)

    play(scenario)


async def multi_join_five(clerk: Clerk) -> None:
    await clerk.join({gid: [f"{gid}a", f"{gid}b"] for gid in range(11, 16)})


def test_multi_minimal_transfer_5a(play: Play) -> None:
    async def scenario(cluster: ShardCtrlerCluster) -> None:
        gids = await multi_concurrent_leave_join(cluster)
        clerk = cluster.make_clerk()

        before = await clerk.query(-1)
        await multi_join_five(clerk)
        after = await check(clerk, [*gids, *range(11, 16)])

        check_stays(before, after, gids)

    play(scenario)


def test_multi_minimal_transfer_after_leave_5a(play: Play) -> None:
    async def scenario(cluster: ShardCtrlerCluster) -> None:
        gids = await multi_concurrent_leave_join(cluster)
        clerk = cluster.make_clerk()
        await multi_join_five(clerk)

        before = await clerk.query(-1)
        await clerk.leave(list(range(11, 16)))
        after = await check(clerk, gids)

        check_leaves(before, after, gids)

    play(scenario)


def test_multi_agree_config_5a(play: Play) -> None:
    """Who comes after the leader has computed the same config from the same commands."""

    async def scenario(cluster: ShardCtrlerCluster) -> None:
        gids = await multi_concurrent_leave_join(cluster)
        clerk = cluster.make_clerk()
        leader = await cluster.await_leader()
        before = await clerk.query(-1)

        cluster.group.shutdown_server(leader)

        after = await clerk.query(-1)
        check_same(before, after)
        check_config(after, gids)

    play(scenario)
