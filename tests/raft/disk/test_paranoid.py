"""What only LevelDB's `paranoid_checks` notice, and our own chain and promise do not.

A flipped bit in the middle of a write-ahead log makes LevelDB skip a whole block of it, without a
word unless it is told to be paranoid. What lay there of entries breaks our chain, of promises our
promise. But a replica that was dropped there comes back: its rows are whole, they are only old.
"""

import asyncio
from pathlib import Path

import pytest

from raft.disk.leveldb import LOG_OPTIONS, FileSlot, LevelDB, Worker
from raft.disk.log_store import LogStore
from raft.errors import DataUnusable
from raft.types import SnapshotMeta
from tests.support.storage import G1, G2, IDENTITY, ONE_VOTER, entry, record, vote

BLOCK = 32 * 1024
"""Of LevelDB's write-ahead log: what is lost with a damaged record is the rest of its block."""


class Life:
    """A node's log database and promise on real files, for one life."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path, self.create = path, create
        self.worker = Worker("slots")
        self.slots = (
            FileSlot(path / "promise.0", self.worker, on_failure=lambda error: None),
            FileSlot(path / "promise.1", self.worker, on_failure=lambda error: None),
        )
        self.disk: LevelDB | None = None

    async def __aenter__(self) -> LogStore:
        try:
            return await self._open()
        except BaseException:
            await self.__aexit__()
            raise

    async def _open(self) -> LogStore:
        if self.create:
            self.disk = LevelDB.create(self.path / "log", LOG_OPTIONS)
            return await LogStore.create(self.disk, self.slots, IDENTITY)
        self.disk = LevelDB.open(self.path / "log", LOG_OPTIONS, trust_log=True)
        return await LogStore.open(self.disk, self.slots, IDENTITY)

    async def __aexit__(self, *_: object) -> None:
        if self.disk is not None:
            await self.disk.close()
        self.worker.stop()
        for slot in self.slots:
            slot.close()


def newest_log(path: Path) -> Path:
    return max(path.glob("log/*.log"))


async def drop_in_a_block_of_its_own(path: Path) -> tuple[int, int]:
    """A node that has dropped group 2; returns where in the log its drop begins and ends."""
    async with Life(path, create=True) as store:
        for gid in (1, 2):
            await store.create_replica(record(gid), SnapshotMeta(membership=ONE_VOTER))
            await store.save((G1, G2)[gid - 1], vote(1, 1), [entry(1, 1)])
        wal = newest_log(path)
        padding = bytes(BLOCK - wal.stat().st_size % BLOCK - 400)
        await store.save(G1, None, [entry(2, 1, padding)])
        before = wal.stat().st_size
        await store.drop_replica(G2)
        after = wal.stat().st_size
        for index in range(3, 8):  # so that the damage is in the middle, and all else behind it
            await store.save(G1, None, [entry(index, 1, bytes(BLOCK))])
        await store.close()
    return before, after


def test_a_dropped_replica_does_not_come_back_with_a_flipped_bit(tmp_path: Path) -> None:
    """Safeguard G02: with its tombstone gone it would vote as if it had never left."""
    path = tmp_path / "n1"
    path.mkdir()
    before, after = asyncio.run(drop_in_a_block_of_its_own(path))
    wal = newest_log(path)
    raw = bytearray(wal.read_bytes())
    raw[(before + after) // 2] ^= 1
    wal.write_bytes(bytes(raw))

    async def start() -> list[int]:
        async with Life(path) as store:
            held = [int(found.gid) for found in store.replicas()]
            store.abandon()
            return held

    with pytest.raises(DataUnusable, match="LevelDB cannot open it"):
        pytest.fail(f"it starts, with the groups {asyncio.run(start())}")
