"""The store for asyncio.

async with shardkv.aio.open("./store") as kv: ...
async with shardkv.aio.connect("host:7400,host:7410") as kv: ...
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from os import PathLike
from random import Random
from typing import TYPE_CHECKING, Final

from labrpc.transport import Address
from shardctrler.client import ControllerClient
from shardkv.clerk import TIMEOUT_SECONDS, Clerk
from shardkv.errors import InvalidArgument

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from shardkv.tls import TlsFiles

NAME: Final = "clerk"


def clerk_maker(tracer_provider: "TracerProvider | None") -> Callable[..., Clerk]:
    """What makes a clerk: a plain one, or one whose operations are traced."""
    if tracer_provider is None:
        return Clerk
    from shardkv.tracing import TracedClerk  # OpenTelemetry: only where it is wanted

    return partial(TracedClerk, tracer_provider)


def open(  # as the builtin: it opens a store
    path: str | PathLike[str], *, shards: int | None = None, timeout: float = TIMEOUT_SECONDS
) -> AbstractAsyncContextManager[Clerk]:
    """The whole store inside this process, on one directory; see `embedded.open_store`."""
    from shardkv.embedded import open_store  # the servers and LevelDB: only where they are needed

    return open_store(path, shards=shards, timeout=timeout)


@asynccontextmanager
async def connect(
    endpoints: str | Sequence[str],
    *,
    timeout: float = TIMEOUT_SECONDS,
    tracer_provider: "TracerProvider | None" = None,
    tls: "TlsFiles | None" = None,
) -> AsyncIterator[Clerk]:
    """A clerk of a running cluster.

    Args:
        endpoints: Addresses of some of its nodes for clients, `host:port`, in a text with commas
            between or as a sequence; the other nodes are learned from them.
        timeout: Seconds that an operation may take where its caller names none; the first answer
            of the cluster is awaited for as long.
        tracer_provider: Of OpenTelemetry (`pip install 'shardkv[otel]'`): the operations that its
            sampler wants are traced, here and through the nodes that trace too.
        tls: Certificates of the nodes' CA and, where the nodes ask for one, of this client; None:
            in the clear.

    Raises:
        InvalidArgument: no address.
        Unavailable: no node answered in time.
        ClusterMismatch: the addresses belong to different clusters.
        ConfigError: a file of `tls` cannot be used.
    """
    addresses = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    addresses = list(dict.fromkeys(address.strip() for address in addresses if address.strip()))
    if not addresses:
        raise InvalidArgument("endpoints must name at least one HOST:PORT")
    from labrpc.grpc.transport import GrpcTransport  # not where only `open` is used
    from shardkv.discovery import find_cluster

    secured = tls.dialling(time.monotonic) if tls is not None else None
    cluster = await find_cluster(addresses, timeout=timeout, tls=secured)
    transport = GrpcTransport(cluster, NAME, tls=secured)
    rng = Random(secrets.randbits(128))
    controller = ControllerClient(transport, [Address(address) for address in addresses], rng)
    clerk = clerk_maker(tracer_provider)(
        transport,
        controller,
        rng=rng,
        timeout=timeout,
        cluster=cluster,
        nodes=lambda: controller.endpoints,
    )
    try:
        yield clerk
    finally:
        await clerk.close()
        await controller.close()
        await transport.close()
