"""The key/value server lab of 2024. Each test is the official one of its name.

The originals measure the heap of the whole process. So do the three tests of large values; those
of very many clients measure what the server keeps, since clerks and ends are Python objects here.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import Iterator
from functools import partial

import pytest

from labs.harness.edition import Edition
from labs.harness.kv_tests import check_elements, element
from labs.harness.kvsrv_cluster import KvsrvCluster, many_strings
from labs.kvsrv import Clerk
from tests.support.kvsrv_lab import Play
from tests.support.memory import held_bytes

EDITION = Edition.E2024
MIB = 2**20
LARGE_MIB = 10
CLIENTS = 100_000
AT_ONCE = 100  # one after the other they would take longer than a test may, at 2 ms a call
VALUE_CHARACTERS = 1000
PUT_CLIENT_BYTES_MAX = 200
GET_CLIENT_BYTES_MAX = 10


def test_basic_2(play: Play) -> None:
    play(partial(many_strings, clients=1))


def test_concurrent_2(play: Play) -> None:
    play(partial(many_strings, clients=5))


def test_unreliable_2(play: Play) -> None:
    play(partial(many_strings, clients=5), reliable=False)


def test_unreliable_one_key_2(play: Play) -> None:
    """Five clients append to one key, and every element arrives once."""

    async def scenario(cluster: KvsrvCluster) -> None:
        clerk = cluster.strings()
        await clerk.put("k", "")

        async def client(me: int) -> None:
            own = cluster.strings()
            for number in range(10):
                before = await own.append("k", element(me, number))
                assert element(me, number) not in before
                check_elements(me, before, number)

        await asyncio.gather(*[client(me) for me in range(5)])
        value = await clerk.get("k")
        for me in range(5):
            check_elements(me, value, 10)
        assert len(value) == sum(len(element(me, n)) for me in range(5) for n in range(10))

    play(scenario, reliable=False)


@pytest.fixture
def traced() -> Iterator[None]:
    """Counts the process's allocations from here on."""
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def heap_mib() -> int:
    """What was allocated since and is still held, in whole MiB, as the original counts."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0] // MIB


def large(cluster: KvsrvCluster) -> str:
    """10 MiB of random letters."""
    return cluster.rng.randbytes(LARGE_MIB * MIB // 2).hex()


@pytest.mark.usefixtures("traced")
def test_mem_get_2(play: Play) -> None:
    """A value that was read by two clerks and overwritten is gone."""

    async def scenario(cluster: KvsrvCluster) -> None:
        ck0, ck1 = Clerk(cluster.end()), Clerk(cluster.end())
        await ck0.put("k", large(cluster))
        assert len(await ck0.get("k")) == LARGE_MIB * MIB
        assert len(await ck1.get("k")) == LARGE_MIB * MIB
        assert heap_mib() >= LARGE_MIB, "the measurement sees the value"
        await ck0.put("k", "0")

        assert heap_mib() < LARGE_MIB

    play(scenario, reliable=False)


@pytest.mark.usefixtures("traced")
def test_mem_put_2(play: Play) -> None:
    async def scenario(cluster: KvsrvCluster) -> None:
        ck0, ck1 = Clerk(cluster.end()), Clerk(cluster.end())
        await ck0.put("k", large(cluster))
        await ck1.put("k", "")

        assert heap_mib() < LARGE_MIB

    play(scenario)


@pytest.mark.usefixtures("traced")
def test_mem_append_2(play: Play) -> None:
    """Two pieces are kept, and one old value for the clerk that may ask for it again."""

    async def scenario(cluster: KvsrvCluster) -> None:
        ck0, ck1 = Clerk(cluster.end()), Clerk(cluster.end())
        assert await ck0.append("k", large(cluster)) == ""
        assert len(await ck1.append("k", large(cluster))) == LARGE_MIB * MIB

        assert heap_mib() <= 3 * LARGE_MIB

    play(scenario)


def batches(clerks: list[Clerk]) -> Iterator[list[Clerk]]:
    return (clerks[at : at + AT_ONCE] for at in range(0, len(clerks), AT_ONCE))


def test_mem_put_many_clients(play: Play) -> None:
    """What is kept of a client that has written once is small, and no value."""

    async def scenario(cluster: KvsrvCluster) -> None:
        clerks = [Clerk(cluster.end()) for _ in range(CLIENTS)]
        value = "v" * VALUE_CHARACTERS
        await asyncio.sleep(1.0)
        before = held_bytes(cluster.server)
        for some in batches(clerks):
            await asyncio.gather(*[clerk.put("k", value) for clerk in some])
        await asyncio.sleep(1.0)

        assert (held_bytes(cluster.server) - before) / CLIENTS <= PUT_CLIENT_BYTES_MAX

    play(scenario)


def test_mem_get_many_clients(play: Play) -> None:
    """Nothing is kept of a client that only reads."""

    async def scenario(cluster: KvsrvCluster) -> None:
        await Clerk(cluster.end()).put("0", "")
        clerks = [Clerk(cluster.end()) for _ in range(CLIENTS)]
        await asyncio.sleep(1.0)
        before = held_bytes(cluster.server)
        for some in batches(clerks):
            await asyncio.gather(*[clerk.get("0") for clerk in some])
        await asyncio.sleep(1.0)

        assert (held_bytes(cluster.server) - before) / CLIENTS < GET_CLIENT_BYTES_MAX

    play(scenario)


@pytest.mark.usefixtures("traced")
def test_mem_many_appends(play: Play) -> None:
    """The value grows; what it once was is not kept."""

    async def scenario(cluster: KvsrvCluster) -> None:
        clerk = Clerk(cluster.end())
        piece = "p" * VALUE_CHARACTERS
        for number in range(1000):
            assert len(await clerk.append("k", piece)) == number * VALUE_CHARACTERS
        await asyncio.sleep(1.0)

        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 3 * 1000 * VALUE_CHARACTERS

    play(scenario)
