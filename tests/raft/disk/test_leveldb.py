"""LevelDB below the port: who may open it, what a flush means, and how it fails."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from raft.disk import leveldb
from raft.disk.leveldb import (
    BACKGROUND_NICE,
    DATA_OPTIONS,
    LOG_OPTIONS,
    OWNER,
    RUN_ROWS_MAX,
    RUN_ROWS_MIN,
    SET_ASIDE,
    DeleteRun,
    FileSlot,
    LevelDB,
    LevelDBOptions,
    Worker,
)
from raft.disk.write_buffer import Batch
from raft.errors import DataInUse, DataUnusable, StorageFailed
from raft.ports import DiskSnapshot, Reader, Write

REPOSITORY = Path(__file__).parents[3]


def keys(disk: LevelDB) -> list[bytes]:
    return [key for key, _ in disk.range(b"", b"\xff")]


def files(path: Path) -> list[str]:
    return sorted(os.listdir(path)) if path.exists() else []


# What was deleted


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.ldb"))


def key_of(shard: int, number: int) -> bytes:
    return b"prefix of 16 byte %02d %06d" % (shard, number)


def test_the_space_of_a_long_run_of_deletes_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that moved away left its rows on the disk until so much else had been written that
    LevelDB came across them. A flush and writes go on beside it, and what lives stays."""
    monkeypatch.setattr(leveldb, "RUN_ROWS_MIN", 1500)
    monkeypatch.setattr(leveldb, "RUN_ROWS_MAX", 4000)
    monkeypatch.setattr(leveldb, "RUN_PAUSE_SECONDS", 0.05)
    count, slice_ = 10_000, 500

    async def main() -> None:
        disk = LevelDB.create(tmp_path)
        for shard in (1, 2, 3):
            for at in range(0, count, slice_):
                disk.write([(key_of(shard, n), os.urandom(500)) for n in range(at, at + slice_)])
        await disk.flush()
        full = size_of(tmp_path)
        assert full > 3 * count * 500

        for at in range(0, count, slice_):
            disk.write([(key_of(2, n), None) for n in range(at, at + slice_)] + [(b"a", b"row")])
            await disk.flush()
            disk.write([(key_of(3, at), b"new")])
        async with asyncio.timeout(30):
            while size_of(tmp_path) > full * 0.75:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.05)

        left = keys(disk)
        assert left == [b"a", *(key_of(s, n) for s in (1, 3) for n in range(count))]
        assert disk.get(key_of(3, 500)) == b"new"
        await disk.close()

    asyncio.run(main())


def test_a_database_closes_while_space_is_given_back(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path)
        disk.write([(key_of(1, n), os.urandom(100)) for n in range(20_000)])
        disk.write([(key_of(1, n), None) for n in range(20_000)])
        disk._end_run()
        disk._worker.wait()
        await asyncio.sleep(0)  # what the thread has told is heard
        assert disk._tidier is not None
        await disk.close()
        disk = LevelDB.open(tmp_path, trust_log=False)
        assert keys(disk) == []
        await disk.close()

    asyncio.run(main())


def test_a_run_of_deletes_ends_where_the_keys_go_elsewhere() -> None:
    def deletes(shard: int, *numbers: int) -> list[Write]:
        return [(key_of(shard, number), None) for number in numbers]

    run = DeleteRun()
    ends = [
        run.take(deletes(1, *range(15_000))),
        run.take([*deletes(1, *range(15_000, 20_000)), (b"progress", b"row")]),
        run.take(deletes(2, 1, 2)),  # another shard's: the first run is over, and was long
        run.take(deletes(2, 1)),  # backwards
    ]

    assert ends == [None, None, (key_of(1, 0), key_of(1, 19_999) + b"\0"), None]
    assert run.end() is None, "short"
    assert run.take(deletes(1, *range(RUN_ROWS_MAX + 1))) == (
        key_of(1, 0),
        key_of(1, RUN_ROWS_MAX - 1) + b"\0",
    ), "a very long one goes in pieces"
    assert run.rows == 1


def test_deletes_that_go_back_are_no_run() -> None:
    """Or the range between its ends would be none of theirs."""
    run = DeleteRun()
    for number in reversed(range(RUN_ROWS_MIN + 1)):
        assert run.take([(key_of(1, number), None)]) is None
    assert run.end() is None


def test_no_space_is_given_back_once_the_database_closes(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path)
        disk.write([(key_of(1, n), None) for n in range(RUN_ROWS_MIN)])
        disk._end_run()
        await disk.close()
        await asyncio.sleep(0)
        assert disk._tidier is None

    asyncio.run(main())


def test_space_is_given_back_once_leveldb_was_told_of_the_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They gather in memory: compacted before them, the range would be as full as it was."""
    monkeypatch.setattr(leveldb, "RUN_ROWS_MIN", 500)
    order: list[str] = []

    async def main() -> None:
        disk = LevelDB.create(tmp_path)
        tell, tidy = disk._tell, disk._tidy

        def telling(batch: Batch) -> None:
            tell(batch)
            order.append("told")

        def tidying(lo: bytes, hi: bytes) -> None:
            order.append("compacts")
            tidy(lo, hi)

        disk._tell, disk._tidy = telling, tidying  # type: ignore[method-assign]
        disk.write([(key_of(1, n), None) for n in range(500)])
        disk._end_run()
        disk._worker.wait()
        await asyncio.sleep(0)
        await disk.close()

    asyncio.run(main())
    assert order == ["told", "compacts"]


# Opening


def test_opening_creates_nothing(tmp_path: Path) -> None:
    """Safeguard G01, bad inputs 31."""
    with pytest.raises(DataUnusable, match="not initialised"):
        LevelDB.open(tmp_path / "new", trust_log=True)
    assert files(tmp_path) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnusable, match="CURRENT: missing"):
        LevelDB.open(tmp_path / "empty", trust_log=True)
    assert files(tmp_path / "empty") == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataUnusable, match="not initialised"):
        LevelDB.open(tmp_path / "file", trust_log=True)


def test_creating_overwrites_nothing(tmp_path: Path) -> None:
    """Bad inputs 32, also when CURRENT was deleted and the tables are still there."""

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        disk.write([(b"k", b"v")])
        await disk.flush()
        await disk.close()

    asyncio.run(main())
    with pytest.raises(DataUnusable, match="holds a database already"):
        LevelDB.create(tmp_path / "db")
    (tmp_path / "db" / "CURRENT").unlink()
    before = files(tmp_path / "db")
    with pytest.raises(DataUnusable, match="holds a database already"):
        LevelDB.create(tmp_path / "db")
    assert files(tmp_path / "db") == before
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataUnusable, match="cannot be created"):
        LevelDB.create(tmp_path / "file")


def test_what_a_creation_cut_short_left_is_no_obstacle(tmp_path: Path) -> None:
    """Bad inputs 41."""

    async def main() -> None:
        path = tmp_path / "db"
        await LevelDB.create(path).close()
        (path / "CURRENT").unlink()
        for log in path.glob("*.log"):
            log.write_bytes(b"")
        await LevelDB.create(path).close()
        await LevelDB.open(path, trust_log=True).close()

    asyncio.run(main())


def test_one_handle_at_a_time_and_a_refused_one_does_no_harm(tmp_path: Path) -> None:
    """Bad inputs 40: a second open in the owning process drops LevelDB's own lock (measured)."""
    other = (
        "import sys; from pathlib import Path; from raft.disk.leveldb import LevelDB\n"
        "from raft.errors import DataInUse\n"
        "try: LevelDB.open(Path(sys.argv[1]), trust_log=True)\n"
        "except DataInUse: print('in use')\n"
    )

    def another_process() -> str:
        ran = subprocess.run(
            [sys.executable, "-c", other, tmp_path / "db"],
            cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return ran.stdout.strip()

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        for again in (lambda: LevelDB.open(tmp_path / "db", trust_log=True),) * 2:
            with pytest.raises(DataInUse, match="in use by a running process"):
                again()
        (tmp_path / "link").symlink_to(tmp_path / "db")
        with pytest.raises(DataInUse):
            LevelDB.open(tmp_path / "link", trust_log=False)
        assert another_process() == "in use"

        await disk.sync([(b"k", b"v")])
        await disk.close()
        await disk.close()
        disk = LevelDB.open(tmp_path / "db", trust_log=True)
        assert disk.get(b"k") == b"v"
        await disk.close()

    asyncio.run(main())


def test_a_refused_start_lets_go_of_the_lock(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "db"
        await LevelDB.create(path).close()
        current = (path / "CURRENT").read_bytes()
        (path / "CURRENT").write_bytes(b"MANIFEST-999999\n")
        with pytest.raises(DataUnusable, match="LevelDB cannot open it"):
            LevelDB.open(path, trust_log=True)
        (path / "CURRENT").write_bytes(current)
        await LevelDB.open(path, trust_log=True).close()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["LOCK", "LOG", "LOG.old", OWNER])
def test_files_that_hold_nothing_may_go(tmp_path: Path, name: str) -> None:
    """Bad inputs 37; strays and a `lost` directory do no harm either."""

    async def main() -> None:
        path = tmp_path / "db"
        disk = LevelDB.create(path)
        await disk.sync([(b"k", b"v")])
        await disk.close()
        (path / name).unlink(missing_ok=True)
        (path / "stray.txt").write_bytes(b"?")
        (path / "lost").mkdir()
        disk = LevelDB.open(path, trust_log=True)
        assert keys(disk) == [b"k"]
        await disk.close()

    asyncio.run(main())


# What is durable


def image(source: Path, target: Path) -> Path:
    """What a copy of the directory holds while the database is open: a crash, as files see it.

    LevelDB's own thread may delete a file while it is copied; then it is copied anew.
    """
    while True:
        try:
            shutil.copytree(source, target)
        except shutil.Error:
            shutil.rmtree(target)
        else:
            return target


def test_flushed_rows_lie_in_tables(tmp_path: Path) -> None:
    """A crash image without any write-ahead log holds every row that was flushed (H04)."""

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        disk.write([(b"k%04d" % number, os.urandom(100)) for number in range(1000)])
        disk.write([(b"k0000", None), (b"k0001", b"anew")])
        expected = dict(disk.range(b"", b"\xff"))
        await disk.flush()
        disk.write([(b"later", b"lost")])
        copied = image(tmp_path / "db", tmp_path / "copy")
        for log in copied.glob("*.log"):
            log.unlink()

        found = LevelDB.open(copied, trust_log=False)
        assert dict(found.range(b"", b"\xff")) == expected
        await found.close()
        await disk.close()

    asyncio.run(main())


def test_logs_of_unsynced_rows_are_set_aside(tmp_path: Path) -> None:
    """Safeguard H04: what no flush covered is gone at the next start, even if the file has it."""

    async def main() -> None:
        path = tmp_path / "db"
        disk = LevelDB.create(path)
        for life in range(3):
            disk.write([(b"flushed%d" % life, b"")])
            await disk.flush()
            disk.write([(b"loose%d" % life, b"")])
            disk.snapshot().close()  # LevelDB is told of what it shows
            await disk.close()
            (log,) = path.glob("*.log")
            assert b"loose%d" % life in log.read_bytes()

            disk = LevelDB.open(path, trust_log=False)
            assert keys(disk) == [b"flushed%d" % number for number in range(life + 1)]
            assert files(path / SET_ASIDE) == [log.name], "and the ones from before are dropped"
        await disk.close()

    asyncio.run(main())


def test_synced_rows_are_in_the_log_that_is_trusted(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db", LOG_OPTIONS)
        await disk.sync([(b"k", b"v"), (b"l", b"v")])
        await disk.sync([(b"l", None)])
        copied = image(tmp_path / "db", tmp_path / "copy")
        found = LevelDB.open(copied, LOG_OPTIONS, trust_log=True)
        assert keys(found) == [b"k"]
        await found.close()
        await disk.close()

    asyncio.run(main())


# What gathers in memory


@pytest.mark.parametrize("seed", range(4))
def test_rows_read_the_same_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Gathered, on their way to LevelDB or there: a reader cannot tell, nor can one that began
    before the rows went on, nor one of a snapshot."""
    monkeypatch.setattr(leveldb, "BUFFER_BYTES_MAX", 300)
    monkeypatch.setattr(leveldb, "BUFFER_STALL_BYTES", 900)
    monkeypatch.setattr(leveldb, "RANGE_ROWS", 8)
    rng = Random(seed)

    def look(reader: Reader, rows: dict[bytes, bytes]) -> None:
        key = b"%02d" % rng.randrange(40)
        assert reader.get(key) == rows.get(key)
        lo, hi = b"%02d" % rng.randrange(40), b"%02d" % rng.randrange(40)
        reverse = rng.random() < 0.5
        expected = sorted(row for row in rows.items() if lo <= row[0] < hi)
        assert list(reader.range(lo, hi, reverse=reverse)) == expected[:: -1 if reverse else 1]

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        rows: dict[bytes, bytes] = {}
        snapshots: list[tuple[DiskSnapshot, dict[bytes, bytes]]] = []
        ranges: list[tuple[Iterator[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]] = []
        for _ in range(600):
            batch: list[Write] = []
            for _ in range(rng.randrange(1, 5)):
                key = b"%02d" % rng.randrange(40)
                value = None if rng.random() < 0.3 else rng.randbytes(rng.randrange(60))
                batch.append((key, value))
            disk.write(batch)
            for key, value in batch:
                rows.pop(key, None)
                if value is not None:
                    rows[key] = value
            look(disk, rows)
            match rng.randrange(12):
                case 0:
                    await disk.flush()
                case 1:
                    await asyncio.sleep(rng.choice([0, 0.001]))
                case 2:
                    snapshots.append((disk.snapshot(), dict(rows)))
                case 3 if snapshots:
                    snapshot, then = snapshots.pop(rng.randrange(len(snapshots)))
                    look(snapshot, then)
                    snapshot.close()
                case 4:
                    ranges.append((disk.range(b"", b"\xff"), sorted(rows.items())))
                case 5 if ranges:
                    found, then_all = ranges.pop(rng.randrange(len(ranges)))
                    assert list(found) == then_all
        for found, then_all in ranges:
            assert list(found) == then_all
        for snapshot, then in snapshots:
            look(snapshot, then)
            snapshot.close()
        await disk.flush()
        flushed = dict(rows)
        disk.write([(b"lost", b"")])
        await disk.close()
        disk = LevelDB.open(tmp_path / "db", trust_log=False)
        assert dict(disk.range(b"", b"\xff")) == flushed
        await disk.close()

    asyncio.run(main())


def test_a_crash_leaves_the_state_after_some_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a mixture, and at least what was flushed: each batch sets both rows."""
    monkeypatch.setattr(leveldb, "BUFFER_BYTES_MAX", 400)

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db", LevelDBOptions(write_buffer_bytes=64 * 1024))
        for number in range(1, 2001):
            row = b"%d" % number
            disk.write([(b"a", row), (b"pad%d" % number, bytes(200)), (b"z", row)])
            if number % 400 == 150:
                await disk.flush()
                flushed = number
            if number % 400 == 0:
                await asyncio.sleep(0.005)
                copied = image(tmp_path / "db", tmp_path / f"copy{number}")
                found = LevelDB.open(copied, trust_log=False)
                first, last = found.get(b"a"), found.get(b"z")
                assert first is not None and first == last and int(first) >= flushed
                assert (
                    found.get(b"pad%d" % int(first)),
                    found.get(b"pad%d" % (int(first) + 1)),
                ) == (
                    bytes(200),
                    None,
                )
                await found.close()
        await disk.close()

    asyncio.run(main())


def test_leveldb_is_told_of_a_row_once(tmp_path: Path) -> None:
    """However often it changed since the last flush."""

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        told: list[Batch] = []
        tell = disk._tell

        def telling(batch: Batch) -> None:
            told.append(dict(batch))
            tell(batch)

        disk._tell = telling  # type: ignore[method-assign]
        for number in range(1000):
            disk.write([(b"same", b"%d" % number), (b"other", None)])
        assert told == []
        await disk.flush()
        assert told == [{b"same": b"999", b"other": None}]
        await disk.close()

    asyncio.run(main())


def test_a_writer_that_outruns_leveldb_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What gathers is bounded, also where the loop never gets to hear what the thread has done."""
    monkeypatch.setattr(leveldb, "BUFFER_BYTES_MAX", 1000)
    monkeypatch.setattr(leveldb, "BUFFER_STALL_BYTES", 4000)

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        written = 0
        tell = disk._tell

        def slowly(batch: Batch) -> None:
            nonlocal written
            time.sleep(0.002)
            tell(batch)
            written += len(batch)

        disk._tell = slowly  # type: ignore[method-assign]
        for number in range(300):
            disk.write([(b"%d" % number, bytes(100))])
            assert number - written < 80
        await disk.flush()
        assert written == 300
        await disk.close()

    asyncio.run(main())


def test_a_writer_that_leveldb_keeps_up_with_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leveldb, "BUFFER_BYTES_MAX", 1000)
    monkeypatch.setattr(leveldb, "BUFFER_STALL_BYTES", 4000)
    waits = 0

    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        wait = disk._worker.wait

        def waiting() -> None:
            nonlocal waits
            waits += 1
            wait()

        monkeypatch.setattr(disk._worker, "wait", waiting)
        for number in range(100):
            disk.write([(b"%d" % number, bytes(100))])
            if number % 10 == 9:
                await disk.flush()
        await disk.close()

    asyncio.run(main())
    assert waits == 0


# Who waits for whom

BACKGROUND = """
import asyncio, os, sys
from pathlib import Path
from raft.disk.leveldb import LevelDB

async def main():
    path = Path(sys.argv[1])
    one, two = LevelDB.create(path / "one"), LevelDB.create(path / "two")
    one.write([(b"k", b"v")])
    await one.flush()
    tasks = os.listdir("/proc/self/task")
    print(*sorted(os.getpriority(os.PRIO_PROCESS, int(task)) for task in tasks))
    await one.close()
    await two.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_the_thread_that_writes_tables_yields_to_all_others(tmp_path: Path) -> None:
    """And no other thread does: not those of ours that sync."""
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    ran = subprocess.run(
        [sys.executable, "-c", BACKGROUND, tmp_path],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    nices = [int(word) for word in ran.stdout.split()]
    assert nices[-1] == max(BACKGROUND_NICE, ours)
    assert set(nices[:-1]) == {ours} and len(nices) == 4, "the loop's, and two that sync"


# One batch, one sync


class Counted(LevelDB):
    """Counts the batches that are written."""

    batches: list[int]

    def _put(self, batches: Sequence[Sequence[Write]]) -> None:
        self.batches.append(len(batches))
        super()._put(batches)


def test_the_syncs_of_a_turn_are_one_batch_and_what_gathers_is_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Counted.create(tmp_path / "db", LOG_OPTIONS)
        assert isinstance(disk, Counted)
        disk.batches = []

        futures = [disk.sync([(b"%d" % number, b"")]) for number in range(5)]
        await asyncio.sleep(0)
        futures += [disk.sync([(b"%d" % number, b"")]) for number in range(5, 8)]
        await asyncio.gather(*futures)

        assert disk.batches == [5, 3]
        await disk.close()

    asyncio.run(main())


def test_flushes_that_have_not_begun_are_one(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        compactions = 0
        compact = disk._compact

        def counted() -> None:
            nonlocal compactions
            compactions += 1
            compact()

        disk._compact = counted  # type: ignore[method-assign]
        disk.write([(b"k", b"v")])
        await asyncio.gather(*(disk.flush() for _ in range(10)))
        assert compactions == 2, "the one that had begun may not cover the others"
        await disk.close()

    asyncio.run(main())


def test_a_flush_that_waits_for_another_covers_what_was_written_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        disk.write([(b"first", b"")])
        first = asyncio.ensure_future(disk.flush())
        await asyncio.sleep(0)
        disk.write([(b"second", b"")])
        await disk.flush()
        await first

        found = LevelDB.open(image(tmp_path / "db", tmp_path / "copy"), trust_log=False)
        assert keys(found) == [b"first", b"second"]
        await found.close()
        await disk.close()

    asyncio.run(main())


def test_closing_waits_for_a_flush_whose_caller_gave_up(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        disk.write([(b"k%d" % number, os.urandom(1000)) for number in range(2000)])
        flush = asyncio.ensure_future(disk.flush())
        await asyncio.sleep(0)
        flush.cancel()
        await disk.close()
        disk = LevelDB.open(tmp_path / "db", trust_log=False)
        assert len(keys(disk)) == 2000
        await disk.close()

    asyncio.run(main())


def test_closing_waits_for_a_sync_whose_caller_gave_up(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        for number in range(3):
            disk.sync([(b"%d" % number, b"")]).cancel()
            await asyncio.sleep(0)
        await disk.close()
        disk = LevelDB.open(tmp_path / "db", trust_log=True)
        assert keys(disk) == [b"0", b"1", b"2"]
        await disk.close()

    asyncio.run(main())


def test_rows_are_either_written_or_synced(tmp_path: Path) -> None:
    async def main() -> None:
        disk = LevelDB.create(tmp_path / "db")
        syncing = disk.sync([(b"k", b"1")])
        with pytest.raises(AssertionError):
            disk.write([(b"k", b"2")])
        await syncing
        await disk.close()

    asyncio.run(main())


# Failing


class Report:
    """Stands where the process would end."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def __call__(self, error: BaseException) -> None:
        self.errors.append(error)


def test_a_failed_sync_is_the_end_of_the_handle(tmp_path: Path) -> None:
    """Safeguard B28: nothing is retried, and nothing after it is acknowledged."""

    async def main() -> None:
        report = Report()
        disk = LevelDB.create(tmp_path / "db", on_failure=report)
        put = disk._put

        def fail(batches: Sequence[Sequence[Write]]) -> None:
            disk._put = put  # type: ignore[method-assign]
            raise OSError(28, "no space left on device")

        disk._put = fail  # type: ignore[method-assign]
        first = disk.sync([(b"a", b"")])
        await asyncio.sleep(0)
        second = disk.sync([(b"b", b"")])
        for future in (first, second):
            with pytest.raises(StorageFailed, match="no space left"):
                await future
        told = [str(error) for error in report.errors]
        assert len(told) == 1, "the first failure is the last"
        assert "no space left on device" in told[0] and str(tmp_path / "db") in told[0]
        for call in (lambda: disk.sync([(b"c", b"")]), lambda: disk.write([(b"c", b"")])):
            with pytest.raises(StorageFailed, match="failed before"):
                call()
        with pytest.raises(StorageFailed, match="failed before"):
            await disk.flush()
        await disk.close()
        disk = LevelDB.open(tmp_path / "db", trust_log=True)
        assert keys(disk) == []
        await disk.close()

    asyncio.run(main())


def test_what_leveldb_could_not_be_told_stays_readable_and_the_handle_closes(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        report = Report()
        disk = LevelDB.create(tmp_path / "db", on_failure=report)

        def fail(batch: Batch) -> None:
            raise OSError(28, "no space left on device")

        disk._tell = fail  # type: ignore[method-assign]
        disk.write([(b"k", b"v")])
        with pytest.raises(StorageFailed, match="no space left"):
            await disk.flush()
        assert disk.get(b"k") == b"v"
        assert len(report.errors) == 1
        with pytest.raises(StorageFailed, match="failed before"):
            disk.write([(b"k", b"w")])
        async with asyncio.timeout(10):
            await disk.close()

    asyncio.run(main())


FAILING = """
import asyncio, os, resource, sys
from pathlib import Path
from raft.disk.leveldb import LevelDB, LevelDBOptions, FileSlot, Worker

async def main():
    path, what = Path(sys.argv[1]), sys.argv[2]
    if what == "slot":
        slot = FileSlot(path / "slot", Worker("slots"))
        await slot.write(b"x" * 10)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        await slot.write(b"x" * 10_000)
        return
    disk = LevelDB.create(path / "db", LevelDBOptions(compression=None))
    if what == "flush":
        disk.write([(b"k%d" % n, os.urandom(1000)) for n in range(1000)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        await disk.flush()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        batch = [(b"k%d" % n, os.urandom(1000)) for n in range(9000)]
        if what == "sync":
            await disk.sync(batch)
        disk.write(batch)  # more than the buffer gathers
        await asyncio.sleep(30)

asyncio.run(main())
print("went on")
"""


@pytest.mark.parametrize("what", ["sync", "write", "flush", "slot"])
def test_a_failed_write_ends_the_process(tmp_path: Path, what: str) -> None:
    """A file size limit makes the real write fail. LevelDB reports none for a flush: we ask it."""
    ran = subprocess.run(
        [sys.executable, "-c", FAILING, tmp_path, what],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.startswith("storage failed, the process ends: ")
    assert ran.stderr.count("\n") == 1


def test_a_damaged_table_is_found_when_it_is_read(tmp_path: Path) -> None:
    """Safeguard G03: without checksums a wrong value is read."""

    async def main() -> None:
        path = tmp_path / "db"
        disk = LevelDB.create(path, LevelDBOptions(compression=None))
        disk.write([(b"k%04d" % number, b"v" * 100) for number in range(1000)])
        await disk.flush()
        await disk.close()
        (table,) = path.glob("*.ldb")
        raw = bytearray(table.read_bytes())
        raw[raw.index(b"v" * 100) + 50] ^= 1
        table.write_bytes(bytes(raw))

        report = Report()
        disk = LevelDB.open(path, trust_log=False, on_failure=report)
        snapshot = disk.snapshot()
        for read in (
            lambda: disk.get(b"k0000"),
            lambda: list(disk.range(b"", b"\xff")),
            lambda: snapshot.get(b"k0000"),
            lambda: list(snapshot.range(b"", b"\xff")),
        ):
            report.errors.clear()
            with pytest.raises(StorageFailed):
                read()
            assert len(report.errors) == 1
        snapshot.close()
        await disk.close()

    asyncio.run(main())


# Slots


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("kept", [0, 4000], ids=["emptied", "cut"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["the first", "the middle one", "the last"])
def test_a_range_is_never_shorter_than_it_is(
    tmp_path: Path, which: int, kept: int, reverse: bool
) -> None:
    """A table that cannot be opened must not look like the end of the rows, wherever it lies."""

    async def write() -> None:
        disk = LevelDB.create(tmp_path / "db")
        for first in range(3):
            disk.write([(b"%d/%04d" % (first, n), os.urandom(100)) for n in range(200)])
            await disk.flush()  # a table each
        await disk.close()

    async def read() -> int:
        disk = LevelDB.open(tmp_path / "db", trust_log=False, on_failure=lambda _: None)
        try:
            return sum(1 for _ in disk.range(b"", b"9", reverse=reverse))
        finally:
            await disk.close()

    asyncio.run(write())
    assert asyncio.run(read()) == 600
    tables = sorted((tmp_path / "db").glob("*.ldb"))
    assert len(tables) == 3
    os.truncate(tables[which], kept)
    with pytest.raises(StorageFailed):
        asyncio.run(read())


def test_a_slot_reads_what_an_earlier_life_wrote(tmp_path: Path) -> None:
    async def main() -> None:
        worker = Worker("slots")
        slot = FileSlot(tmp_path / "slot", worker)
        assert (slot.read(), files(tmp_path)) == (b"", [])
        await slot.write(b"a long record")
        await slot.write(b"short")
        worker.stop()
        slot.close()
        assert FileSlot(tmp_path / "slot", worker).read() == b"shortg record"

    asyncio.run(main())


def test_a_slot_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slot").mkdir()
    worker = Worker("slots")
    with pytest.raises(DataUnusable, match="cannot be read"):
        FileSlot(tmp_path / "slot", worker).read()
    worker.stop()


def test_files_and_threads_go_with_the_handles(tmp_path: Path) -> None:
    """Bound B8."""

    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for life in range(5):
            made = LevelDB.create if life == 0 else None
            path = tmp_path / "db"
            disk = made(path) if made else LevelDB.open(path, trust_log=True)
            await disk.sync([(b"%d" % life, b"")])
            await disk.close()
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_the_options_fit_the_file_limit() -> None:
    """Both databases and their sockets must fit a process's usual 1,024 files."""
    assert LOG_OPTIONS.open_files_max + DATA_OPTIONS.open_files_max <= 512
