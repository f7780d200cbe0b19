"""The lock lab of 2025, on the versioned server. Each test is the official one of its name."""

import asyncio
from functools import partial
from random import Random

from labs.harness.edition import Edition
from labs.harness.kv_tests import Clients
from labs.harness.kvsrv_cluster import KvsrvCluster
from labs.kv import Err
from labs.kvsrv import Lock
from tests.support.kvsrv_lab import Play

EDITION = Edition.E2025
CLIENTS = 10
SECONDS = 2.0


async def one_client(cluster: KvsrvCluster, me: int, clients: Clients) -> int:
    """Take the lock, leave one's mark where nobody else's may be, and go; returns how often."""
    clerk = cluster.versioned()
    lock = Lock(clerk, "l", Random(cluster.rng.random()))
    await clerk.put("l0", "", 0)
    rounds = 0
    while not clients.stopped:
        await lock.acquire()
        read = await clerk.get("l0")
        assert (read.value, read.err) == ("", Err.OK), f"two holders: {me} and {read.value}"
        assert await clerk.put("l0", str(me), read.version) in (Err.OK, Err.MAYBE)
        await asyncio.sleep(0.01)
        assert await clerk.put("l0", "", read.version + 1) in (Err.OK, Err.MAYBE)
        await lock.release()
        rounds += 1
    return rounds


async def many_clients(cluster: KvsrvCluster, count: int) -> None:
    clients = Clients(count, work_seconds_max=0.0)
    bodies = [one_client(cluster, me, clients) for me in range(count)]
    assert sum(await clients.run(bodies, SECONDS)) > 0


def test_one_client_reliable(play: Play) -> None:
    play(partial(many_clients, count=1))


def test_many_clients_reliable(play: Play) -> None:
    play(partial(many_clients, count=CLIENTS))


def test_one_client_unreliable(play: Play) -> None:
    play(partial(many_clients, count=1), reliable=False)


def test_many_clients_unreliable(play: Play) -> None:
    play(partial(many_clients, count=CLIENTS), reliable=False)
