"""The key/value server lab of 2025. Each test is the official one of its name."""

import asyncio
import json

from labs.harness.edition import Edition
from labs.harness.kv_tests import check_puts, spawn_putters
from labs.harness.kvsrv_cluster import KvsrvCluster
from labs.kv import Err
from labs.kvsrv import VersionedClerk
from tests.support.kvsrv_lab import Play
from tests.support.memory import held_bytes

EDITION = Edition.E2025
CLIENTS = 20_000  # as in 2026; a hundred thousand take longer than a test may, at 2 ms a call
VALUE_CHARACTERS = 1000
CLIENT_BYTES_MAX = 200
TRIES = 100


def test_reliable_put(play: Play) -> None:
    async def scenario(cluster: KvsrvCluster) -> None:
        clerk = cluster.versioned()

        assert await clerk.put("k", "6.5840", 0) is Err.OK
        assert await clerk.get("k") == ("6.5840", 1, Err.OK)
        assert await clerk.put("k", "6.5840", 0) is Err.VERSION
        assert await clerk.put("y", "6.5840", 1) is Err.NO_KEY
        assert (await clerk.get("y")).err is Err.NO_KEY

    play(scenario)


def test_put_concurrent_reliable(play: Play) -> None:
    async def scenario(cluster: KvsrvCluster) -> None:
        puts = await spawn_putters(
            cluster.versioned, cluster.delete, 10, ["k"], cluster.rng, seconds=1.0
        )

        assert puts.ok > 0 and puts.maybe == 0, "no doubt on a reliable network"
        await check_puts(cluster.versioned(), "k", puts, reliable=True)

    play(scenario)


def test_mem_put_many_clients_reliable(play: Play) -> None:
    """Nothing is kept of a client."""

    async def scenario(cluster: KvsrvCluster) -> None:
        clerks = [VersionedClerk(cluster.end()) for _ in range(CLIENTS)]
        for clerk in clerks:
            assert await clerk.put("k", "", 1) is Err.NO_KEY
        await asyncio.sleep(1.0)
        before = held_bytes(cluster.server)
        value = "v" * VALUE_CHARACTERS
        for version, clerk in enumerate(clerks):
            assert await clerk.put("k", value, version) is Err.OK
        await asyncio.sleep(1.0)

        assert held_bytes(cluster.server) <= before + CLIENT_BYTES_MAX * CLIENTS
        assert held_bytes(cluster.server) <= before + 2 * VALUE_CHARACTERS, "one value, in fact"

    play(scenario)


def test_unreliable_net(play: Play) -> None:
    """A lost answer makes a put doubtful; that it was done once is certain all the same."""

    async def scenario(cluster: KvsrvCluster) -> None:
        clerk = cluster.versioned()
        doubts = 0
        for version in range(TRIES):
            attempt = 0
            while (err := await clerk.put("k", json.dumps(attempt), version)) is Err.MAYBE:
                doubts += 1
                attempt += 1
            # Only one's own first attempt can have taken the version.
            assert err is (Err.VERSION if attempt else Err.OK)
            read = await clerk.get("k")
            assert (read.version, read.err) == (version + 1, Err.OK)
            assert json.loads(read.value) == 0, "the first attempt's value"
        assert doubts > 0, "some answer was lost in a hundred tries"

    play(scenario, reliable=False)
