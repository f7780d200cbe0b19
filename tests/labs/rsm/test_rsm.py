"""The replicated state machine lab of 2025. Each test is the official one of its name."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgpack

from labs.harness.edition import Edition
from labs.harness.rsm_cluster import DEC, INC, NULL, SERVERS, Counter, RsmCluster
from labs.rsm import Err, _ServiceMachine
from raft.disk.overlay import Overlay
from raft.types import Index
from tests.support.memory_rows import MemoryRows

EDITION = Edition.E2025
Play = Callable[..., None]

MAXRAFTSTATE = 1000
NULLS = 100
SHUTDOWN_SECONDS_MAX = 11.0
"""A request is tried for 10 s."""


def test_basic_4a(play: Play) -> None:
    async def scenario(cluster: RsmCluster) -> None:
        for number in range(10):
            assert await cluster.inc() == number + 1
            await cluster.check_counter(number + 1, SERVERS)

    play(scenario)


def test_concurrent_4a(play: Play) -> None:
    async def scenario(cluster: RsmCluster) -> None:
        replies = await asyncio.gather(*[cluster.inc() for _ in range(50)])

        assert sorted(replies) == list(range(1, 51)), "each increment has a reply of its own"
        await cluster.check_counter(50, SERVERS)

    play(scenario)


def test_leader_failure_4a(play: Play) -> None:
    async def scenario(cluster: RsmCluster) -> None:
        await cluster.inc()
        old = cluster.leader
        cluster.disconnect(old)
        count = await cluster.inc()
        await cluster.check_counter(count, SERVERS - 1)
        cluster.connect(old)
        await cluster.check_counter(count, SERVERS)

    play(scenario)


def test_leader_partition_4a(play: Play) -> None:
    """Requests at an isolated leader wait, and end in vain when it hears of another leader."""

    async def scenario(cluster: RsmCluster) -> None:
        await cluster.inc()
        leader = cluster.group.leader()
        assert leader is not None, "who else has incremented"
        majority, minority = cluster.group.make_partition(leader)
        cluster.group.partition(majority, minority)

        isolated = cluster.group.server(leader)
        waiting = [asyncio.ensure_future(isolated.submit(DEC)) for _ in range(100)]
        await asyncio.sleep(0.01)
        count = await cluster.inc(among=majority)
        await asyncio.sleep(1.0)
        assert not all(one.done() for one in waiting), "gave up while nothing was known"

        cluster.connect(leader)
        async with asyncio.timeout(1.0):
            outcomes = await asyncio.gather(*waiting)
        assert outcomes == [(Err.WRONG_LEADER, None)] * 100
        await cluster.check_counter(count, SERVERS)

    play(scenario)


async def count_to_hundred_and_one(cluster: RsmCluster) -> None:
    """A hundred increments, a restart of all, and one more."""
    for number in range(100):
        assert await cluster.inc() == number + 1
        await cluster.check_counter(number + 1, SERVERS)
    cluster.group.shutdown_all()
    await asyncio.sleep(1.0)
    await cluster.restart()
    assert await cluster.inc() == 101
    await asyncio.sleep(1.0)
    await cluster.check_counter(101, SERVERS)


def test_restart_replay_4a(play: Play) -> None:
    play(count_to_hundred_and_one)


def test_what_shared_an_entry_is_done_again_whole() -> None:
    """Not an official one: the requests of one moment share an entry, and whoever begins from the
    rows, after a crash or with a snapshot, does each of them."""
    rows, first = MemoryRows(), Counter()
    machine = _ServiceMachine(first, folds=True)
    machine.reload(rows)
    for index, requests in ((1, 1), (2, 3), (3, 2)):
        entry = Overlay(rows)
        for _ in range(requests):
            machine.apply(Index(index), msgpack.packb(INC), entry)
        rows.write(entry.writes())
    assert first.count == 6

    other = Counter()
    _ServiceMachine(other, folds=True).reload(rows)

    assert other.count == 6


async def shut_down_under_load(cluster: RsmCluster) -> None:
    """Every request that is under way when all servers are killed comes to an end.

    In virtual time all would be done in 20 ms, so the leader is cut off first; and there is one,
    which the original does not wait for.
    """
    await cluster.inc()
    cluster.group.isolate(cluster.leader)
    nulls: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(cluster.one(NULL)) for _ in range(NULLS)
    ]
    await asyncio.sleep(0.02)
    assert cluster.group.server(cluster.leader).waiting == NULLS, "all wait at the leader"
    cluster.group.shutdown_all()
    async with asyncio.timeout(SHUTDOWN_SECONDS_MAX):
        await asyncio.gather(*nulls)


def test_shutdown_4a(play: Play) -> None:
    play(shut_down_under_load)


def test_restart_submit_4a(play: Play) -> None:
    """What waited before a restart is not confused with what is replayed after it."""

    async def scenario(cluster: RsmCluster) -> None:
        await count_to_hundred_and_one(cluster)
        await shut_down_under_load(cluster)
        await cluster.restart()
        count = await cluster.inc()
        assert count == 103
        await asyncio.sleep(1.0)
        await cluster.check_counter(count, SERVERS)

    play(scenario)


def test_snapshot_4c(play: Play) -> None:
    async def scenario(cluster: RsmCluster) -> None:
        for _ in range(100):
            await cluster.inc()
        await cluster.check_counter(100, SERVERS)
        assert cluster.group.log_size() <= 2 * MAXRAFTSTATE, "logs were not cut"
        assert cluster.group.snapshot_size() > 0

        cluster.group.shutdown_all()
        await cluster.restart()
        assert await cluster.inc() == 101
        await cluster.check_counter(101, SERVERS)

    play(scenario, maxraftstate=MAXRAFTSTATE)
