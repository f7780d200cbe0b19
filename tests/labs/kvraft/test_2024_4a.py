"""Key/value lab of 2024, part 4A: no snapshots. Each test is the official one of its name."""

import asyncio
from functools import partial

from labs.harness.edition import Edition
from labs.harness.kv_cluster import KvCluster
from labs.harness.kv_tests import (
    Trouble,
    check_elements,
    element,
    many_strings,
    strings_one_partition,
    strings_speed,
)
from tests.support.kv_lab import Play

EDITION = Edition.E2024


def test_basic_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=1)))


def test_speed_4a(play: Play) -> None:
    play(strings_speed, servers=3)


def test_concurrent_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=5)))


def test_unreliable_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=5)), reliable=False)


def test_unreliable_one_key_4a(play: Play) -> None:
    """Five clients append to one key, and every element arrives once."""

    async def scenario(cluster: KvCluster) -> None:
        clerk = cluster.strings()
        await clerk.put("k", "")

        async def client(me: int) -> None:
            own = cluster.strings()
            for number in range(10):
                await own.append("k", element(me, number))

        await asyncio.gather(*[client(me) for me in range(5)])
        value = await clerk.get("k")
        for me in range(5):
            check_elements(me, value, 10)
        assert len(value) == sum(len(element(me, n)) for me in range(5) for n in range(10))

    play(scenario, servers=3, reliable=False)


def test_one_partition_4a(play: Play) -> None:
    play(strings_one_partition)


def test_many_partitions_one_client_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=1, partitions=True)))


def test_many_partitions_many_clients_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=5, partitions=True)))


def test_persist_one_client_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=1, crash=True)))


def test_persist_concurrent_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=5, crash=True)))


def test_persist_concurrent_unreliable_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=5, crash=True)), reliable=False)


def test_persist_partition_4a(play: Play) -> None:
    play(partial(many_strings, trouble=Trouble(clients=5, crash=True, partitions=True)))


def test_persist_partition_unreliable_4a(play: Play) -> None:
    trouble = Trouble(clients=5, crash=True, partitions=True)
    play(partial(many_strings, trouble=trouble), reliable=False)


def test_persist_partition_unreliable_linearizable_4a(play: Play) -> None:
    trouble = Trouble(clients=15, crash=True, partitions=True, random_keys=True)
    play(partial(many_strings, trouble=trouble), servers=7, reliable=False)
