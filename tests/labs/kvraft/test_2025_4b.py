"""Key/value lab of 2025, part 4B: no snapshots. Each test is the official one of its name."""

from functools import partial

from labs.harness.edition import Edition
from labs.harness.kv_tests import Trouble, many_versioned, versioned_one_partition, versioned_speed
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
    play(versioned_one_partition, reliable=False)


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
