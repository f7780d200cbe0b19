"""Which cluster do these addresses belong to? Asked once, before anything else is."""

import asyncio
from collections.abc import Sequence
from typing import Final

from labrpc.errors import RpcError
from labrpc.grpc.discovery import cluster_at
from labrpc.grpc.tls import Tls
from labrpc.transport import Address
from shardkv.errors import ShardKVError, Unavailable

GRACE_SECONDS: Final = 0.5
"""After the first answer: what the others get to contradict it in. Only nodes that neither answer
nor refuse cost so much; a busy one must not go unheard, or chance would choose the cluster."""
CLUSTER_BYTES: Final = 16


class ClusterMismatch(ShardKVError):
    """The addresses given belong to different clusters."""


async def find_cluster(
    addresses: Sequence[str], *, timeout: float, tls: Tls | None = None
) -> bytes:
    """The id of the cluster that all addresses that answer belong to; dead ones are skipped.

    Raises:
        Unavailable: none answered in time; the text has each one's reason.
        ClusterMismatch: two that answered belong to different clusters.
    """
    asks = {
        address: asyncio.ensure_future(cluster_at(Address(address), timeout=timeout, tls=tls))
        for address in addresses
    }
    found: dict[str, bytes] = {}
    troubles: dict[str, str] = {}
    try:
        waiting = set(asks.values())
        while waiting:
            patience = GRACE_SECONDS if found else None
            done, waiting = await asyncio.wait(
                waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for address, ask in asks.items():
                if ask in done:
                    _sort(address, ask, found, troubles)
    finally:
        for ask in asks.values():
            ask.cancel()
        await asyncio.gather(*asks.values(), return_exceptions=True)
    if not found:
        reasons = "; ".join(f"{address}: {trouble}" for address, trouble in troubles.items())
        raise Unavailable(f"no node answers: {reasons}")
    first, cluster = next(iter(found.items()))
    for address, other in found.items():
        if other != cluster:
            raise ClusterMismatch(
                f"cluster id mismatch: {first} belongs to cluster {cluster.hex()}, "
                f"{address} to cluster {other.hex()}"
            )
    return cluster


def _sort(
    address: str,
    ask: "asyncio.Future[bytes]",
    found: dict[str, bytes],
    troubles: dict[str, str],
) -> None:
    try:
        cluster = ask.result()
    except RpcError as error:
        troubles[address] = str(error).removeprefix(f"{address} ")
        return
    if len(cluster) == CLUSTER_BYTES:
        found[address] = cluster
    else:
        troubles[address] = "answers, and belongs to no cluster"
