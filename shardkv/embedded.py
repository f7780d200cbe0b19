"""The whole store inside the calling process, on one directory: no server, no network, no setup.

One node with the controller and one group, each with one voter, behind the same servers and the
same clerk as a cluster; so what is said of a cluster's keys is true here: every write is synced and
done once, every read sees what was acknowledged. Birth goes in steps that are each looked up before
they are done, so that a creation cut short anywhere is ended by the next opening.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import PathLike
from pathlib import Path
from random import Random
from typing import Final

from labrpc.inproc import InprocTransport
from labrpc.transport import Address
from raft.config import RaftConfig
from raft.courier import FrameCourier
from raft.errors import DataInUse, DataUnusable
from raft.frames import FrameCodec
from raft.host import Host
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.commands import JoiningGroup
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import GroupMember, NodeAddresses
from shardkv import config, nodedir
from shardkv.assembly import CONTROLLER, Assembly
from shardkv.clerk import TIMEOUT_SECONDS, Clerk
from shardkv.errors import InvalidArgument, StoreInUse, Unavailable
from shardkv.limits import SHARDS_DEFAULT, SLOTS

log = logging.getLogger(__name__)

NODE: Final = NodeId("embedded")
"""The name of the node; a directory of a cluster's node has another, and is refused."""
GROUP: Final = GroupId(1)
BIRTH_SECONDS: Final = 30.0


@asynccontextmanager
async def open_store(
    path: str | PathLike[str],
    *,
    shards: int | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> AsyncIterator[Clerk]:
    """Open the store in a directory; made when it is missing or empty.

    Args:
        path: The store's directory.
        shards: How many shards a new store has (64 where not given); of an existing one it must
            be the number it was made with.
        timeout: Seconds that an operation may take where its caller names none.

    Raises:
        StoreInUse: it is open already, in this process or another one.
        DataUnusable: something else is there, or the data is damaged; nothing was changed.
        InvalidArgument: the number of shards is out of range, or not the store's.
    """
    directory = Path(path)
    if shards is not None and not 1 <= shards <= SLOTS:
        raise InvalidArgument(f"shards must be 1 to {SLOTS}, not {shards}")
    if not nodedir.exists(directory):
        await asyncio.get_running_loop().run_in_executor(None, _create, directory, shards)
    try:
        lock = nodedir.NodeLock(directory)
    except DataInUse as error:
        raise StoreInUse(os.fspath(directory)) from error
    try:
        async with _opened(directory, shards, timeout) as clerk:
            yield clerk
    finally:
        lock.release()


def _create(directory: Path, shards: int | None) -> None:
    """In a thread of its own: it runs a loop, and waits for the disk."""
    settings = {"node": str(NODE), "shards": shards if shards is not None else SHARDS_DEFAULT}
    nodedir.create(directory, cluster=secrets.token_bytes(16), settings=settings)


@asynccontextmanager
async def _opened(directory: Path, shards: int | None, timeout: float) -> AsyncIterator[Clerk]:
    identity = nodedir.identity(directory)
    if identity.node != NODE:
        raise DataUnusable(
            f"{directory}: belongs to node {identity.node} of a cluster; start it with "
            "`shardkv node`, or open another directory"
        )
    settings = config.load(file=directory / nodedir.SETTINGS_FILE).config
    nshards = settings.shards
    if shards is not None and shards != nshards:
        raise InvalidArgument(f"{directory} was made with {nshards} shards, not {shards}")
    databases = await nodedir.open_databases(directory, identity, compression=settings.compression)
    host: Host | None = None
    assembly: Assembly | None = None
    clerk: Clerk | None = None
    address = Address(str(NODE))
    transport = InprocTransport(address)
    rng = Random(secrets.randbits(128))
    try:
        codec = FrameCodec(identity.cluster, NODE, address)
        host = Host(
            node=NODE,
            address=address,
            log_store=databases.log_store,
            data_disk=databases.data_disk,
            courier=FrameCourier(lambda to, bulk: transport.channel(Address(to), bulk=bulk), codec),
            codec=codec,
            config=RaftConfig(),
            rng=rng,
            boot=databases.log_store.boot,
        )
        transport.listen(host.receive)
        for gid in (CONTROLLER, GROUP):
            if gid not in [record.gid for record in host.records()]:
                uuid = GroupUuid(secrets.token_bytes(16))
                await host.found_group(gid, uuid, secrets.randbits(63))
        assembly = Assembly(
            host,
            transport,
            addresses=NodeAddresses(client=address, peer=address),
            nshards=nshards,
            endpoints=[address],
            rng=rng,
        )
        await assembly.open()
        await _join(assembly, host, address)
        clerk = Clerk(
            transport, assembly.client, rng=rng, timeout=timeout, cluster=identity.cluster
        )
        yield clerk
    finally:
        if clerk is not None:
            await clerk.close()
        if assembly is not None:
            await assembly.close()
        await transport.close()
        if host is not None:
            host.stop("the store was closed")
        await databases.close()


async def _join(assembly: Assembly, host: Host, address: Address) -> None:
    """Let the one group own every shard, if it does not yet."""
    uuid = next(record.uuid for record in host.records() if record.gid == GROUP)
    group = JoiningGroup(GROUP, uuid, (GroupMember(NODE, address),))
    try:
        view = await assembly.client.newest(timeout=BIRTH_SECONDS)
        if GROUP not in view.config.groups:
            await assembly.client.join([group], expect=view.config.number, timeout=BIRTH_SECONDS)
    except ShardCtrlerError as error:
        raise Unavailable(f"the store does not come up: {error}") from error
