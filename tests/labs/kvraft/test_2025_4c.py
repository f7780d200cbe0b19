"""Key/value lab of 2025, part 4C: snapshots. Each test is the official one of its name."""

import asyncio
from functools import partial

from labs.harness.edition import Edition
from labs.harness.kv_cluster import ELECTION_SECONDS, RAFT_STATE_FACTOR, KvCluster
from labs.harness.kv_tests import Trouble, many_versioned, versioned_speed
from tests.support.kv_lab import Play

EDITION = Edition.E2025
MAXRAFTSTATE = 1000
SNAPSHOT_BYTES_MAX = 500


def test_snapshot_rpc_4c(play: Play) -> None:
    """A server that missed what the others cut from their logs gets a snapshot, and can lead."""

    async def scenario(cluster: KvCluster) -> None:
        clerk = cluster.versioned()
        ver_a = await clerk.put_at_least_once("a", "A", 0)
        await clerk.check_get("a", "A", ver_a)

        cluster.group.partition([0, 1], [2])
        behind = cluster.versioned([0, 1])
        for number in range(50):
            await behind.put_at_least_once(str(number), str(number), 0)
        await asyncio.sleep(ELECTION_SECONDS)
        ver_b = await behind.put_at_least_once("b", "B", 0)

        assert cluster.group.log_size() <= RAFT_STATE_FACTOR * MAXRAFTSTATE, "logs were not cut"

        cluster.group.partition([0, 2], [1])
        with_two = cluster.versioned([0, 2])
        ver_c = await with_two.put_at_least_once("c", "C", 0)
        await with_two.put_at_least_once("d", "D", 0)
        await with_two.check_get("a", "A", ver_a)
        await with_two.check_get("b", "B", ver_b)
        await with_two.check_get("1", "1", 1)
        await with_two.check_get("49", "49", 1)

        cluster.group.partition([0, 1, 2], [])
        ver_e = await clerk.put_at_least_once("e", "E", 0)
        await clerk.check_get("c", "C", ver_c)
        await clerk.check_get("e", "E", ver_e)
        await clerk.check_get("1", "1", 1)

    play(scenario, servers=3, maxraftstate=MAXRAFTSTATE)


def test_snapshot_size_4c(play: Play) -> None:
    """A snapshot holds the state, not how it came about."""

    async def scenario(cluster: KvCluster) -> None:
        clerk = cluster.versioned()
        version = 0
        for _ in range(200):
            for value in ("0", "1"):
                version = await clerk.put_at_least_once("x", value, version)
                await clerk.check_get("x", value, version)

        assert cluster.group.log_size() <= RAFT_STATE_FACTOR * MAXRAFTSTATE, "logs were not cut"
        assert 0 < cluster.group.snapshot_size() <= SNAPSHOT_BYTES_MAX

    play(scenario, servers=3, maxraftstate=MAXRAFTSTATE)


def test_speed_4c(play: Play) -> None:
    play(versioned_speed, servers=3, maxraftstate=MAXRAFTSTATE)


def test_snapshot_recover_4c(play: Play) -> None:
    trouble = Trouble(clients=1, crash=True)
    play(partial(many_versioned, trouble=trouble), maxraftstate=MAXRAFTSTATE)


def test_snapshot_recover_many_clients_4c(play: Play) -> None:
    trouble = Trouble(clients=20, crash=True)
    play(partial(many_versioned, trouble=trouble), maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_4c(play: Play) -> None:
    trouble = Trouble(clients=5)
    play(partial(many_versioned, trouble=trouble), reliable=False, maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_recover_4c(play: Play) -> None:
    trouble = Trouble(clients=5, crash=True)
    play(partial(many_versioned, trouble=trouble), reliable=False, maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_recover_concurrent_partition_4c(play: Play) -> None:
    trouble = Trouble(clients=5, crash=True, partitions=True)
    play(partial(many_versioned, trouble=trouble), reliable=False, maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_recover_concurrent_partition_linearizable_4c(play: Play) -> None:
    trouble = Trouble(clients=15, crash=True, partitions=True, random_keys=True)
    play(
        partial(many_versioned, trouble=trouble),
        servers=7,
        reliable=False,
        maxraftstate=MAXRAFTSTATE,
    )
