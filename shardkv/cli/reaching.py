"""Reaching the nodes of a cluster for what is not the store itself: status and administration."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

from labrpc.errors import RpcError
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from shardctrler.client import ControllerClient
from shardkv import admin
from shardkv.admin import NodeStatus, Nothing
from shardkv.cli.finding import Request
from shardkv.discovery import find_cluster

STATUS_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Reached:
    """A cluster within reach."""

    transport: GrpcTransport
    addresses: tuple[str, ...]
    cluster: bytes  # its id


@asynccontextmanager
async def reach(request: Request, name: str) -> AsyncIterator[Reached]:
    """Learn the cluster's id from its endpoints, and be connected to it for a while."""
    addresses = request.addresses()
    files = request.tls()
    tls = files.dialling() if files is not None else None
    cluster = await find_cluster(addresses, timeout=request.timeout, tls=tls)
    transport = GrpcTransport(cluster, name, tls=tls)
    try:
        yield Reached(transport, addresses, cluster)
    finally:
        await transport.close()


@asynccontextmanager
async def controller(
    request: Request, name: str
) -> AsyncIterator[tuple[ControllerClient, Reached]]:
    """Be connected to a cluster, and have a client of its controller."""
    async with reach(request, name) as reached:
        client = ControllerClient(
            reached.transport,
            [Address(address) for address in reached.addresses],
            Random(secrets.randbits(64)),
            timeout_seconds=request.timeout,
        )
        try:
            yield client, reached
        finally:
            await client.close()


async def statuses(
    transport: GrpcTransport, addresses: Sequence[str]
) -> dict[str, NodeStatus | RpcError]:
    """Ask each address how it is, all at once; a dead one costs a second at most."""

    async def ask(address: str) -> NodeStatus | RpcError:
        try:
            body = await transport.call(
                Address(address), admin.STATUS, admin.encode(Nothing()), timeout=STATUS_SECONDS
            )
            return admin.decode(NodeStatus, body)
        except RpcError as error:
            return error

    found = await asyncio.gather(*(ask(address) for address in addresses))
    return dict(zip(addresses, found, strict=True))
