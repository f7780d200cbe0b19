"""Reaching the nodes of a cluster for what is not the store itself: status and administration."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar

from labrpc.errors import RpcError, Unknown
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from shardctrler.client import ControllerClient
from shardkv import admin
from shardkv.admin import BadAdmin, NodeStatus, Nothing
from shardkv.cli.finding import Request
from shardkv.discovery import find_cluster
from shardkv.load import LOAD, NodeLoad

STATUS_SECONDS: Final = 1.0
T = TypeVar("T", bound=tuple[Any, ...])


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
    return await _ask_all(transport, addresses, admin.STATUS, NodeStatus)


async def loads(
    transport: GrpcTransport, addresses: Sequence[str]
) -> dict[str, NodeLoad | RpcError]:
    """Ask each address what it has done, likewise."""
    return await _ask_all(transport, addresses, LOAD, NodeLoad)


async def _ask_all(
    transport: GrpcTransport, addresses: Sequence[str], method: str, kind: type[T]
) -> dict[str, T | RpcError]:
    async def ask(address: str) -> T | RpcError:
        try:
            body = await transport.call(
                Address(address), method, admin.encode(Nothing()), timeout=STATUS_SECONDS
            )
            return admin.decode(kind, body)
        except RpcError as error:
            return error
        except BadAdmin as error:  # a node of another version
            return Unknown(str(error))

    found = await asyncio.gather(*(ask(address) for address in addresses))
    return dict(zip(addresses, found, strict=True))
