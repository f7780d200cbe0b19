"""A node's directory: how it is made, found and opened.

    node.yaml             settings (`shardkv init` wrote them; yours to edit)
    node.log              what the node has to say, rotated
    LOCK                  held while the node runs; the number of its process
    log/                  the log database: every group's Raft log, every write synced
    data/                 the data database: state machines; raft logs replay what it lacks
    promise-a, promise-b  what the node must never forget, written in turn
    endpoints             where the cluster's nodes were heard of last; may be lost

It is made aside and renamed: a directory that exists is whole.
"""

import asyncio
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from raft.disk.leveldb import (
    DATA_OPTIONS,
    LOG_OPTIONS,
    FileSlot,
    LevelDB,
    OnFailure,
    Worker,
    end_process,
)
from raft.disk.log_store import LogStore
from raft.disk.promise import find_promise
from raft.disk.records import NodeIdentity
from raft.errors import DataInUse, DataUnusable
from raft.types import NodeId
from shardkv import config
from shardkv.clusterfile import replace_file, sync_directory

log = logging.getLogger(__name__)

SETTINGS_FILE: Final = "node.yaml"
LOG_FILE: Final = "node.log"
LOCK_FILE: Final = "LOCK"
ENDPOINTS_FILE: Final = "endpoints"
LOG_DATABASE: Final = "log"
DATA_DATABASE: Final = "data"
LAST_KEY: Final = b"\xff" * 32
"""Above every key: they begin with an ASCII letter."""
ROWS_A_LOOK: Final = 16
TURN_SECONDS: Final = 0.02
PROGRESS_SECONDS: Final = 5.0
PROMISES: Final = ("promise-a", "promise-b")


def exists(directory: Path) -> bool:
    """Whether a node's directory is there, whole or damaged."""
    return (directory / SETTINGS_FILE).exists() or (directory / LOG_DATABASE).exists()


def create(directory: Path, *, cluster: bytes, settings: Mapping[str, object]) -> None:
    """Make a node's directory, wholly or not at all.

    Args:
        directory: Does not exist, or is empty.
        cluster: The cluster's id, 16 bytes.
        settings: What `node.yaml` says; at least `node`.

    Raises:
        DataUnusable: something is there already; it is not touched.
    """
    if exists(directory):
        raise DataUnusable(f"{directory}: a node is there already; nothing was changed")
    if directory.exists() and any(directory.iterdir()):
        raise DataUnusable(f"{directory}: not empty, and no node; nothing was changed")
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = directory.with_name(directory.name + ".new")
    if aside.exists():  # an earlier attempt died
        shutil.rmtree(aside)
    aside.mkdir(mode=0o700)
    asyncio.run(_fill(aside, NodeIdentity(cluster, NodeId(str(settings["node"])))))
    heading = "Settings of this node; config.example.yaml has every key."
    replace_file(aside / SETTINGS_FILE, config.render(settings, heading))
    aside.rename(directory)
    sync_directory(directory.parent)


async def _fill(directory: Path, identity: NodeIdentity) -> None:
    data = LevelDB.create(directory / DATA_DATABASE, DATA_OPTIONS)
    await data.close()
    log = LevelDB.create(directory / LOG_DATABASE, LOG_OPTIONS)
    promises = Worker("promise")
    store = await LogStore.create(log, _slots(directory, promises), identity)
    await store.close()
    promises.stop()
    await log.close()


def _slots(
    directory: Path, worker: Worker, on_failure: OnFailure = end_process
) -> tuple[FileSlot, FileSlot]:
    first, second = (FileSlot(directory / name, worker, on_failure=on_failure) for name in PROMISES)
    return first, second


def remember_endpoints(directory: Path, addresses: Sequence[str]) -> None:
    """Keep where the cluster's nodes take calls, for a start at which all that `node.yaml` names
    are gone. A failure is logged and changes nothing."""
    try:
        replace_file(directory / ENDPOINTS_FILE, "".join(f"{to}\n" for to in addresses))
    except OSError as error:
        log.warning("%s was not written: %s", directory / ENDPOINTS_FILE, error)


def remembered_endpoints(directory: Path) -> list[str]:
    """What `remember_endpoints` kept last; what is no address is left out."""
    try:
        lines = (directory / ENDPOINTS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("%s cannot be read: %s", directory / ENDPOINTS_FILE, error)
        return []
    found = []
    for line in lines:
        try:
            found.append(config.address(line))
        except ValueError as error:
            log.warning("%s: %r %s", directory / ENDPOINTS_FILE, line[:64], error)
    return found


class NodeLock:
    """Held while a node runs on its directory; the system lets go of it when the process ends."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            DataUnusable: no node was made there. Nothing is created.
            DataInUse: another process runs on it.
        """
        if not exists(directory):
            raise DataUnusable(
                f"{directory}: not initialised; run `shardkv init --data {directory}` or "
                "`shardkv up` first"
            )
        self._handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise DataInUse(f"{directory}: in use by another process") from error
        os.ftruncate(self._handle, 0)
        os.write(self._handle, b"%d\n" % os.getpid())

    def release(self) -> None:
        os.close(self._handle)


def runner(directory: Path) -> int | None:
    """The number of the process that runs on a node's directory; None if none does.

    Raises:
        DataInUse: one does, but has not written its number yet.
    """
    try:
        handle = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # it has never run
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        written = os.read(handle, 32).strip()
        if not written.isdigit():
            raise DataInUse(f"{directory}: in use by another process") from error
        return int(written)
    finally:
        os.close(handle)  # and with it the lock, if we got it
    return None


def identity(directory: Path) -> NodeIdentity:
    """Whose directory it is, by its promise; read only, and before any database is opened.

    Raises:
        DataUnusable: both copies of the promise are damaged or gone.
    """
    worker = Worker("promise")
    try:
        found = find_promise(_slots(directory, worker))
    finally:
        worker.stop()
    if found.promise is None:
        names = " and ".join(str(directory / name) for name in PROMISES)
        raise DataUnusable(
            f"{names}: missing or damaged: what this node has promised is not known. Put both "
            "files back, or remove the directory and give the cluster a new node"
        )
    return found.promise.identity


@dataclass(frozen=True, slots=True)
class Opened:
    """A node's databases, checked and open."""

    log_disk: LevelDB
    data_disk: LevelDB
    log_store: LogStore
    promises: Worker

    async def close(self) -> None:
        """Write the last promise and close both; nothing may be under way."""
        await self.log_store.close()
        self.promises.stop()
        await self.data_disk.close()
        await self.log_disk.close()


async def read_through(disk: LevelDB) -> None:
    """Read every row once, so that a damaged table is found now and not by whoever asks for a row
    of it in a month. LevelDB checks each block as it is read; it ends the process if one is bad.

    About 300 MB a second; the loop gets its turn in between, so a starting node answers for itself.
    """
    loop = asyncio.get_running_loop()
    told = began = loop.time()
    turn_ends = began + TURN_SECONDS
    rows = 0
    for _ in disk.range(b"", LAST_KEY):
        rows += 1
        if rows % ROWS_A_LOOK == 0 and (now := loop.time()) > turn_ends:
            if now - told > PROGRESS_SECONDS:
                told = now
                log.info("reading the data through", extra={"rows": rows})
            await asyncio.sleep(0)
            turn_ends = loop.time() + TURN_SECONDS
    log.info("the data is readable", extra={"rows": rows, "seconds": f"{loop.time() - began:.2f}"})


async def open_databases(
    directory: Path,
    expected: NodeIdentity,
    *,
    compression: str = config.NO_COMPRESSION,
    on_failure: OnFailure = end_process,
) -> Opened:
    """Open both databases and check them against the promise.

    Args:
        compression: Of the tables of the data that are written from now on; each says its own.
        on_failure: Called at the first write or sync that fails; it does not return.

    Raises:
        DataUnusable: damaged, cut, missing, another node's or newer; says which and what to do.
    """
    promises = Worker("promise")
    log_disk = LevelDB.open(
        directory / LOG_DATABASE, LOG_OPTIONS, trust_log=True, on_failure=on_failure
    )
    data_disk: LevelDB | None = None
    try:
        slots = _slots(directory, promises, on_failure)
        log_store = await LogStore.open(log_disk, slots, expected)
        options = replace(
            DATA_OPTIONS, compression=None if compression == config.NO_COMPRESSION else compression
        )
        data_disk = LevelDB.open(
            directory / DATA_DATABASE, options, trust_log=False, on_failure=on_failure
        )
        await read_through(data_disk)
    except BaseException:
        if data_disk is not None:
            await data_disk.close()
        await log_disk.close()
        promises.stop()
        raise
    return Opened(log_disk, data_disk, log_store, promises)
