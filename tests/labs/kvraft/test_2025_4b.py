"""Key/value lab of 2025, part 4B: no snapshots. Each test is the official one of its name."""

import asyncio
from functools import partial

from labs.harness.edition import Edition
from labs.harness.kv_cluster import ELECTION_SECONDS, KvCluster
from labs.harness.kv_tests import Trouble, many_versioned, versioned_speed
from labs.kv import Err
from tests.support.kv_lab import Play

EDITION = Edition.E2025


def test_basic_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=1)))


def test_speed_4b(play: Play) -> None:
    play(versioned_speed, servers=3)


def test_concurrent_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=5)))


def test_unreliable_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=5)), reliable=False)


def test_one_partition_4b(play: Play) -> None:
    """A minority neither writes nor reads; what it was asked is done after the healing."""

    async def scenario(cluster: KvCluster) -> None:
        clerk = cluster.versioned()
        ver0 = await clerk.put_at_least_once("1", "13", 0)

        leader = cluster.group.leader()
        assert leader is not None, "who else has put it"
        p1, p2 = cluster.group.make_partition(leader)
        cluster.group.partition(p1, p2)
        ckp1, ckp2a, ckp2b = cluster.versioned(p1), cluster.versioned(p2), cluster.versioned(p2)
        ver1 = await ckp1.put_at_least_once("1", "14", ver0)
        await ckp1.check_get("1", "14", ver1)

        putting = asyncio.ensure_future(ckp2a.put_at_least_once("1", "15", ver1))
        getting = asyncio.ensure_future(ckp2b.get("1"))
        await asyncio.sleep(1.0)
        assert not putting.done(), "a put in the minority"
        assert not getting.done(), "a get in the minority"
        await ckp1.check_get("1", "14", ver1)
        ver2 = await ckp1.put_at_least_once("1", "16", ver1)
        await ckp1.check_get("1", "16", ver2)

        cluster.group.connect_all()
        cluster.connect_clerk(ckp2a)
        cluster.connect_clerk(ckp2b)
        await asyncio.sleep(ELECTION_SECONDS)
        async with asyncio.timeout(3.0):
            ver15 = await putting
        async with asyncio.timeout(3.0):
            read = await getting
        assert read in (("15", ver15, Err.OK), ("16", ver2, Err.OK))
        await clerk.check_get("1", "15", ver15)

    play(scenario, reliable=False)


def test_many_partitions_one_client_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=1, partitions=True)))


def test_many_partitions_many_clients_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=5, partitions=True)))


def test_persist_one_client_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=1, crash=True)))


def test_persist_concurrent_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=5, crash=True)))


def test_persist_concurrent_unreliable_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=5, crash=True)), reliable=False)


def test_persist_partition_4b(play: Play) -> None:
    play(partial(many_versioned, trouble=Trouble(clients=5, crash=True, partitions=True)))


def test_persist_partition_unreliable_4b(play: Play) -> None:
    trouble = Trouble(clients=5, crash=True, partitions=True)
    play(partial(many_versioned, trouble=trouble), reliable=False)


def test_persist_partition_unreliable_linearizable_4b(play: Play) -> None:
    trouble = Trouble(clients=15, crash=True, partitions=True, random_keys=True)
    play(partial(many_versioned, trouble=trouble), servers=7, reliable=False)
