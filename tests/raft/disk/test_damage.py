"""Every file of a node's log, data and promise damaged in turn on real LevelDB, while it is down.

D4 and D5 of the fault matrix. Whatever LevelDB itself says (about a log that was cut: nothing), the
node either starts with everything it had promised, or refuses.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from raft.disk.data_store import ReplicaData, reconcile
from raft.disk.leveldb import DATA_OPTIONS, LOG_OPTIONS, FileSlot, LevelDB, Worker
from raft.disk.log_store import LogStore
from raft.errors import DataUnusable, StorageFailed
from raft.types import Index, SnapshotMeta
from tests.support.storage import G1, IDENTITY, ONE_VOTER, entry, entry_id, record, vote

ENTRIES = 300
FLUSHED = 200
LONG = bytes(1000)


def ignore(error: BaseException) -> None:
    """Where a process would end; the call raises `StorageFailed` too."""


class Node:
    """A node's directory, opened for one life."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.worker = Worker("slots")
        self.slots = (
            FileSlot(path / "promise.0", self.worker, on_failure=ignore),
            FileSlot(path / "promise.1", self.worker, on_failure=ignore),
        )
        self.disks: list[LevelDB] = []
        self.path, self.creates = path, create

    async def __aenter__(self) -> tuple[LogStore, ReplicaData]:
        try:
            return await self._opened()
        except BaseException:
            await self.__aexit__()
            raise

    async def _opened(self) -> tuple[LogStore, ReplicaData]:
        log, data = self.path / "log", self.path / "data"
        if self.creates:
            self.disks.append(LevelDB.create(log, LOG_OPTIONS, on_failure=ignore))
            self.disks.append(LevelDB.create(data, DATA_OPTIONS, on_failure=ignore))
            store = await LogStore.create(self.disks[0], self.slots, IDENTITY)
        else:
            self.disks.append(LevelDB.open(log, LOG_OPTIONS, trust_log=True, on_failure=ignore))
            self.disks.append(LevelDB.open(data, DATA_OPTIONS, trust_log=False, on_failure=ignore))
            store = await LogStore.open(self.disks[0], self.slots, IDENTITY)
        self.store = store
        return store, ReplicaData(self.disks[1], G1)

    async def __aexit__(self, *_: object) -> None:
        for disk in self.disks:
            await disk.close()
        self.worker.stop()
        for slot in self.slots:
            slot.close()


async def build(path: Path) -> None:
    """A node with tables and a write-ahead log in both databases, closed cleanly."""
    async with Node(path, create=True) as (store, data):
        await store.create_replica(record(), SnapshotMeta(membership=ONE_VOTER))
        await reconcile(store, data, G1)
        for first in range(1, ENTRIES, 100):
            rows = [entry(index, 1, LONG) for index in range(first, first + 100)]
            await store.save(G1, vote(1, 1) if first == 1 else None, rows)
            data.commit([(b"k%d" % first, LONG)], entry_id(first + 99, 1), None)
            if first + 99 == FLUSHED:
                await data.flush()
                await store._disk.flush()  # so that there is a table to damage
        await store.close()


async def start(path: Path) -> Index:
    """Start the node and read everything; return how far its state had come."""
    async with Node(path) as (store, data):
        await reconcile(store, data, G1)
        applied = data.applied.index
        held = list(store.load(G1).entries)
        assert held == [entry(index, 1, LONG) for index in range(1, ENTRIES + 1)]
        assert store.hard_state(G1) == vote(1, 1)
        rows = list(data.range(b"", b"\xff"))
        assert len(rows) == applied // 100
        store.abandon()
        return applied


async def cut_log(path: Path) -> None:
    """Start the node and cut its log up to what it had flushed."""
    async with Node(path) as (store, data):
        await reconcile(store, data, G1)
        list(store.load(G1).entries)
        await store.cut(G1, SnapshotMeta(entry_id(FLUSHED, 1), ONE_VOTER))
        await store.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "n1"
    asyncio.run(build(path))
    return path


@pytest.fixture
def node(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "n1"))


def only(path: Path, pattern: str) -> Path:
    """The one file of this kind that holds anything."""
    (found,) = [file for file in path.glob(pattern) if file.stat().st_size]
    return found


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 4
    file.write_bytes(bytes(raw))


def flip_head(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[3] ^= 4
    file.write_bytes(bytes(raw))


def cut_byte(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def cut_half(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path) -> None:
    file.unlink()


def zero_end(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[:-500] + bytes(500))


HOW = [flip, flip_head, cut_byte, cut_half, empty, delete]
Damage = Callable[[Path], None]


def test_an_undamaged_node_starts(node: Path) -> None:
    assert asyncio.run(start(node)) == FLUSHED
    assert asyncio.run(start(node)) == FLUSHED


def each(patterns: Sequence[str], *, but: Callable[[str, Damage], bool]) -> list[object]:
    """Every kind of file with every damage, but for those that another test judges."""
    return [
        pytest.param(pattern, how, id=f"{pattern} {how.__name__}")
        for pattern in patterns
        for how in (*HOW, zero_end)
        if not but(pattern, how)
    ]


@pytest.mark.parametrize(
    ("pattern", "how"),
    each(
        ["*.log", "*.ldb", "MANIFEST-*", "CURRENT"],
        but=lambda pattern, how: pattern == "CURRENT" and how is zero_end,
    ),
)
def test_a_damaged_log_database_is_refused(node: Path, pattern: str, how: Damage) -> None:
    """LevelDB opens without a word after `*.log` was cut, emptied or deleted."""
    how(only(node / "log", pattern))
    with pytest.raises((DataUnusable, StorageFailed)) as refused:
        asyncio.run(start(node))
    assert "log" in str(refused.value)


CUTS = (cut_byte, cut_half)


@pytest.mark.parametrize(
    ("pattern", "how"),
    each(
        ["*.ldb", "MANIFEST-*", "CURRENT"],
        but=lambda pattern, how: how is zero_end or (pattern == "MANIFEST-*" and how in CUTS),
    ),
)
def test_a_damaged_data_database_is_refused(node: Path, pattern: str, how: Damage) -> None:
    how(only(node / "data", pattern))
    with pytest.raises((DataUnusable, StorageFailed)):
        asyncio.run(start(node))


@pytest.mark.parametrize("how", CUTS, ids=lambda how: how.__name__)
def test_a_data_manifest_that_was_cut_means_an_earlier_flush(node: Path, how: Damage) -> None:
    """LevelDB takes it for a torn write and opens as of the flush before, without a word. That is
    sound while the raft log replays the rest, and refused once it was cut."""
    cut = Path(shutil.copytree(node, node.with_name("cut")))
    how(only(node / "data", "MANIFEST-*"))
    assert asyncio.run(start(node)) == 0

    asyncio.run(cut_log(cut))
    how(only(cut / "data", "MANIFEST-*"))
    with pytest.raises(DataUnusable):
        asyncio.run(start(cut))


@pytest.mark.parametrize("how", [*HOW, zero_end], ids=lambda how: how.__name__)
def test_the_data_database_s_own_log_means_nothing(node: Path, how: Damage) -> None:
    how(only(node / "data", "*.log"))
    assert asyncio.run(start(node)) == FLUSHED


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
@pytest.mark.parametrize("slot", ["promise.0", "promise.1"])
def test_one_damaged_slot_is_no_loss(node: Path, slot: str, how: Damage) -> None:
    how(node / slot)
    asyncio.run(start(node))
    asyncio.run(start(node))


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
def test_two_damaged_slots_are_refused(node: Path, how: Damage) -> None:
    how(node / "promise.0")
    how(node / "promise.1")
    with pytest.raises(DataUnusable, match="both slots"):
        asyncio.run(start(node))


def test_a_log_database_of_another_day_is_refused(built: Path, tmp_path: Path) -> None:
    """The whole database rolled back beneath its promise."""
    path = Path(shutil.copytree(built, tmp_path / "n1"))
    old = shutil.copytree(path / "log", tmp_path / "old")

    async def live_on() -> None:
        async with Node(path) as (store, data):
            await reconcile(store, data, G1)
            list(store.load(G1).entries)
            await store.save(G1, vote(2, 1), [entry(ENTRIES + 1, 2)])
            await store.close()

    asyncio.run(live_on())
    shutil.rmtree(path / "log")
    shutil.copytree(old, path / "log")
    with pytest.raises(DataUnusable, match="old copy put back"):
        asyncio.run(start(path))


def test_a_data_database_that_was_emptied_is_refused_once_the_log_was_cut(node: Path) -> None:
    async def empty_data() -> None:
        shutil.rmtree(node / "data")
        await LevelDB.create(node / "data").close()

    asyncio.run(cut_log(node))
    asyncio.run(empty_data())
    with pytest.raises(DataUnusable, match="rows were lost that no log can replay"):
        asyncio.run(start(node))
