"""Finding out which cluster some addresses belong to, on real sockets."""

import asyncio
import socket
import time

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


async def node_of(cluster: bytes) -> GrpcTransport:
    transport = GrpcTransport(cluster, "n", address=Address("127.0.0.1:0"))
    transport.serve_kv(Speaks(cluster))
    await transport.start()
    return transport


def test_dead_addresses_are_skipped() -> None:
    async def scenario() -> None:
        node = await node_of(ONE)
        assert await find_cluster([DEAD, node.address], timeout=5) == ONE
        await node.close()

    asyncio.run(scenario())


def test_addresses_of_two_clusters_are_refused() -> None:
    async def scenario() -> None:
        nodes = [await node_of(ONE), await node_of(OTHER)]
        with pytest.raises(ClusterMismatch, match=r"cluster id mismatch: .*3131.*3232"):
            await find_cluster([node.address for node in nodes], timeout=5)
        for node in nodes:
            await node.close()

    asyncio.run(scenario())


def test_a_node_of_no_cluster_is_no_node() -> None:
    async def scenario() -> None:
        node = await node_of(b"")
        with pytest.raises(Unavailable, match="answers, and belongs to no cluster"):
            await find_cluster([node.address], timeout=5)
        await node.close()

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
