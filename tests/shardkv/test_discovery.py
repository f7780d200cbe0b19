"""Finding out which cluster some addresses belong to, on real sockets."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from labrpc.grpc import kv_pb2 as kv
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from shardkv.discovery import ClusterMismatch, find_cluster
from shardkv.errors import Unavailable

ONE, OTHER = b"1" * 16, b"2" * 16
DEAD = "127.0.0.1:1"


class Speaks:
    """A node that says which cluster it is of; nothing else is asked of it here."""

    def __init__(self, cluster: bytes) -> None:
        self._cluster = cluster

    async def status(self, request: kv.StatusRequest, timeout: float) -> kv.StatusReply:
        return kv.StatusReply(cluster=self._cluster)

    async def get(self, request: kv.GetRequest, timeout: float) -> kv.GetReply:
        raise AssertionError("never asked")

    async def put(self, request: kv.PutRequest, timeout: float) -> kv.PutReply:
        raise AssertionError("never asked")

    async def append(self, request: kv.AppendRequest, timeout: float) -> kv.AppendReply:
        raise AssertionError("never asked")

    async def delete(self, request: kv.DeleteRequest, timeout: float) -> kv.DeleteReply:
        raise AssertionError("never asked")

    async def batch(self, request: kv.BatchRequest, timeout: float) -> kv.BatchReply:
        raise AssertionError("never asked")

    async def list(self, request: kv.ListRequest, timeout: float) -> kv.ListReply:
        raise AssertionError("never asked")


@asynccontextmanager
async def node_of(cluster: bytes) -> AsyncIterator[Address]:
    transport = GrpcTransport(cluster, "n", address=Address("127.0.0.1:0"))
    transport.serve_kv(Speaks(cluster))
    try:
        yield await transport.start()
    finally:
        await transport.close()


def test_dead_addresses_are_skipped() -> None:
    async def scenario() -> None:
        async with node_of(ONE) as node:
            assert await find_cluster([DEAD, node], timeout=5) == ONE

    asyncio.run(scenario())


def test_addresses_of_two_clusters_are_refused() -> None:
    async def scenario() -> None:
        async with node_of(ONE) as one, node_of(OTHER) as other:
            with pytest.raises(ClusterMismatch) as refused:
                await find_cluster([one, other], timeout=5)
        assert str(refused.value).startswith("cluster id mismatch: ")
        for address, cluster in ((one, ONE), (other, OTHER)):
            assert address in str(refused.value)
            assert cluster.hex() in str(refused.value)

    asyncio.run(scenario())


def test_a_node_of_no_cluster_is_no_node() -> None:
    async def scenario() -> None:
        async with node_of(b"") as node:
            with pytest.raises(Unavailable, match="answers, and belongs to no cluster"):
                await find_cluster([node], timeout=5)

    asyncio.run(scenario())


def test_one_that_never_answers_costs_its_time_and_no_more() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            asyncio.run(find_cluster([address, DEAD], timeout=0.5))

    assert time.monotonic() - begun < 5
    assert address in str(refused.value)
    assert DEAD in str(refused.value)
