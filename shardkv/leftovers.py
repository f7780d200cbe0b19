"""What the directory of a node that does not run holds of a group; the directory stays as it is.

Opening a LevelDB database changes it, and so does opening a node's log (the boot number). So the
log database and the promise are copied aside, and the copy is opened, and checked entry by entry.
"""

import asyncio
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from raft.codec import decode_membership
from raft.disk.leveldb import LOG_OPTIONS, FileSlot, LevelDB, Worker
from raft.disk.log_store import LogStore
from raft.types import EntryKind, GroupId
from shardkv import nodedir
from shardkv.recovery import Left


def read(directory: Path) -> list[Left]:
    """Every replica in a node's directory, with how far its log goes.

    Raises:
        DataUnusable: no node is there, or its log is damaged or less than it had promised.
        DataInUse: the node runs.
    """
    lock = nodedir.NodeLock(directory)
    try:
        with TemporaryDirectory(prefix="shardkv-") as aside:
            copy = Path(aside)
            shutil.copytree(directory / nodedir.LOG_DATABASE, copy / nodedir.LOG_DATABASE)
            for name in nodedir.PROMISES:
                if (directory / name).exists():
                    shutil.copy(directory / name, copy / name)
            return asyncio.run(_read(copy))
    finally:
        lock.release()


async def _read(copy: Path) -> list[Left]:
    disk = LevelDB.open(copy / nodedir.LOG_DATABASE, LOG_OPTIONS, trust_log=True)
    promises = Worker("promise")
    try:
        first, second = (FileSlot(copy / name, promises) for name in nodedir.PROMISES)
        store = await LogStore.open(disk, (first, second))
        found = [_left(store, record.gid) for record in store.replicas()]
        await store.close()
        return found
    finally:
        promises.stop()
        await disk.close()


def _left(store: LogStore, gid: GroupId) -> Left:
    saved = store.load(gid)
    membership, last = saved.start.membership, saved.start.last
    for entry in saved.entries:
        last = entry.id
        if entry.kind is EntryKind.MEMBERSHIP:
            membership = decode_membership(entry.data)
    return Left(
        node=store.identity.node,
        boot=0,
        gid=gid,
        uuid=saved.record.uuid,
        replica=saved.record.replica,
        term=saved.hard_state.term,
        last_index=last.index,
        last_term=last.term,
        commit=saved.start.last.index,
        applied=0,
        leads=0,
        leader="",
        stopped="",
        voters=tuple(member.node for member in membership.voters),
        outgoing=tuple(member.node for member in membership.outgoing),
    )
