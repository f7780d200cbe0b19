"""Key/value lab of 2024, part 4B: snapshots. Each test is the official one of its name."""

import asyncio
from functools import partial

from labs.harness.edition import Edition
from labs.harness.kv_cluster import ELECTION_SECONDS, RAFT_STATE_FACTOR, KvCluster
from labs.harness.kv_tests import Trouble, many_strings, strings_speed
from tests.support.kv_lab import Play

EDITION = Edition.E2024
MAXRAFTSTATE = 1000
SNAPSHOT_BYTES_MAX = 500


def test_snapshot_rpc_4b(play: Play) -> None:
    """A server that missed what the others cut from their logs gets a snapshot, and can lead."""

    async def scenario(cluster: KvCluster) -> None:
        clerk = cluster.strings()
        await clerk.put("a", "A")
        await clerk.check_get("a", "A")

        cluster.group.partition([0, 1], [2])
        behind = cluster.strings([0, 1])
        for number in range(50):
            await behind.put(str(number), str(number))
        await asyncio.sleep(ELECTION_SECONDS)
        await behind.put("b", "B")

        assert cluster.group.log_size() <= RAFT_STATE_FACTOR * MAXRAFTSTATE, "logs were not cut"

        cluster.group.partition([0, 2], [1])
        with_two = cluster.strings([0, 2])
        await with_two.put("c", "C")
        await with_two.put("d", "D")
        for key, value in (("a", "A"), ("b", "B"), ("1", "1"), ("49", "49")):
            await with_two.check_get(key, value)

        cluster.group.partition([0, 1, 2], [])
        await clerk.put("e", "E")
        for key, value in (("c", "C"), ("e", "E"), ("1", "1")):
            await clerk.check_get(key, value)

    play(scenario, servers=3, maxraftstate=MAXRAFTSTATE)


def test_snapshot_size_4b(play: Play) -> None:
    """A snapshot holds the state, not how it came about."""

    async def scenario(cluster: KvCluster) -> None:
        clerk = cluster.strings()
        for _ in range(200):
            await clerk.put("x", "0")
            await clerk.check_get("x", "0")
            await clerk.put("x", "1")
            await clerk.check_get("x", "1")

        assert cluster.group.log_size() <= RAFT_STATE_FACTOR * MAXRAFTSTATE, "logs were not cut"
        assert 0 < cluster.group.snapshot_size() <= SNAPSHOT_BYTES_MAX

    play(scenario, servers=3, maxraftstate=MAXRAFTSTATE)


def test_speed_4b(play: Play) -> None:
    play(strings_speed, servers=3, maxraftstate=MAXRAFTSTATE)


def test_snapshot_recover_4b(play: Play) -> None:
    trouble = Trouble(clients=1, crash=True)
    play(partial(many_strings, trouble=trouble), maxraftstate=MAXRAFTSTATE)


def test_snapshot_recover_many_clients_4b(play: Play) -> None:
    trouble = Trouble(clients=20, crash=True)
    play(partial(many_strings, trouble=trouble), maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_4b(play: Play) -> None:
    trouble = Trouble(clients=5)
    play(partial(many_strings, trouble=trouble), reliable=False, maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_recover_4b(play: Play) -> None:
    trouble = Trouble(clients=5, crash=True)
    play(partial(many_strings, trouble=trouble), reliable=False, maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_recover_concurrent_partition_4b(play: Play) -> None:
    trouble = Trouble(clients=5, crash=True, partitions=True)
    play(partial(many_strings, trouble=trouble), reliable=False, maxraftstate=MAXRAFTSTATE)


def test_snapshot_unreliable_recover_concurrent_partition_linearizable_4b(play: Play) -> None:
    trouble = Trouble(clients=15, crash=True, partitions=True, random_keys=True)
    play(
        partial(many_strings, trouble=trouble),
        servers=7,
        reliable=False,
        maxraftstate=MAXRAFTSTATE,
    )
