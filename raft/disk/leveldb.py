"""LevelDB as the ports' `Disk`, plain files as its `Slot`s. The only module that imports plyvel.

What is done against each way in which LevelDB was measured to lose data or crash:

- `paranoid_checks` and `verify_checksums` are always on: without the first a flipped bit drops
  acknowledged records without a word, without the second a wrong value is read.
- Nothing is created but by an explicit `create`, and never over something.
- Any storage exception ends the process (`on_failure`): after a failed append LevelDB goes on with
  a hole in its log, after a failed fsync the page cache lies. `repair_db` is never called.
- Two handles on one directory, even in one process, drop the lock that keeps others out. So an
  flock on a file of ours comes first; it also stops a second handle of this process.
- `close` waits for the worker thread: closing beside a running call is a segmentation fault.
- LevelDB keeps what was deleted until a compaction happens to pass: the disk stays as full as it
  was, and a look for the next row walks over every row that is gone. So the space of a long run of
  deletes (a shard that moved away) is given back in a thread, a piece at a time.
- LevelDB syncs only its newest write-ahead log. A database whose rows are written un-synced must
  therefore not trust any of them: `flush` puts rows into tables, and at the start the logs are set
  aside (`trust_log=False`). A database trusts its log if and only if every write to it is synced.
- So nothing is gained by telling LevelDB of un-synced rows one by one: they gather in memory
  (`write_buffer.py`), and it is told of many at once, in the thread.
"""

import asyncio
import contextlib
import fcntl
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from threading import enumerate as threads
from time import perf_counter, sleep
from typing import Final, NoReturn

import plyvel

from raft.disk.heads import Head, Range, first_rows
from raft.disk.records import START_AGAIN
from raft.disk.write_buffer import MISSING, Batch, WriteBuffer, find, merged, written
from raft.errors import DataInUse, DataUnusable, StorageFailed
from raft.histogram import Histogram
from raft.ports import Write

OWNER: Final = "OWNER"
"""The file that is locked while a database is open. Its content means nothing."""
SET_ASIDE: Final = "set-aside"
EXIT_STATUS: Final = 4
MIB: Final = 1024 * 1024

RUN_ROWS_MIN: Final = 20_000
"""A run of so many deletes is worth a compaction of the keys between its ends."""
RUN_ROWS_MAX: Final = 50_000
"""And is compacted as it goes on, so that none takes long: `close` waits for it."""
RUN_BATCH_MIN: Final = 100
"""Smaller batches are no clean-up's, and are not looked at."""
RUN_PREFIX_BYTES: Final = 20
"""Deletes whose keys share fewer bytes are not of one run: too much that lives may lie between."""
RUN_PAUSE_SECONDS: Final = 5.0
"""A run is over when nothing was added to it for so long."""

BUFFER_BYTES_MAX: Final = 8 * MIB
"""So much of what was written un-synced gathers before LevelDB is told."""
BUFFER_STALL_BYTES: Final = 4 * BUFFER_BYTES_MAX
"""And a write waits where LevelDB is so far behind."""
RANGE_ROWS: Final = 16
"""A range walks over the rows that gathered; past so many they are handed over first, so that
ranges one after the other do not."""
BACKGROUND_NICE: Final = 10
"""How much the thread that writes and merges tables yields to all others. LevelDB has one for the
whole process, and it takes a core for as long as it has work; so while tables were merged on a busy
machine, whoever answered clients waited for a time slice at every step. It keeps a tenth of a core
at least, and that is enough for what a node can write."""
_YIELD_ROWS: Final = 256
"""The thread lets the loop go on after so many rows."""

OnError = Callable[[BaseException], NoReturn]
OnFailure = Callable[[BaseException], None]
Job = Callable[[], None]
Done = Callable[[BaseException | None], None]


def end_process(error: BaseException) -> NoReturn:
    """Say why in one line and end the process at once: nothing may be written after a failure."""
    text = str(error) if isinstance(error, StorageFailed) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError, ValueError):  # a closed stderr must not keep us alive
        sys.stderr.write(f"storage failed, the process ends: {text}\n")
        sys.stderr.flush()
    os._exit(EXIT_STATUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelDBOptions:
    """What LevelDB may use. The write buffer bounds what a start replays or reads again."""

    write_buffer_bytes: int = 16 * MIB
    cache_bytes: int = 32 * MIB
    block_bytes: int = 16 * 1024
    file_bytes: int = 8 * MIB
    open_files_max: int = 256
    compression: str | None = None
    bloom_filter_bits: int = 10


LOG_OPTIONS: Final = LevelDBOptions(cache_bytes=8 * MIB, bloom_filter_bits=0)
"""For the log: written in key order and deleted soon, read by range, seldom twice."""
DATA_OPTIONS: Final = LevelDBOptions(
    write_buffer_bytes=32 * MIB, cache_bytes=64 * MIB, block_bytes=4 * 1024
)
"""For the state machines: a buffer that seldom fills between two flushes, and a cache for reads.
Small blocks, because a row that is not in the cache costs the checksum of its whole block: 6 us
with 4 KiB, 12 us with 16 KiB, and each put looks its key up. Not compressed unless that is asked
for: to try values that do not shrink took 30 % of a node's time at a million keys."""


class Worker:
    """One thread that does one job after another and tells the loop when each is done."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[asyncio.AbstractEventLoop, Job, Done] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """Run `job` in the thread, then `done` with what it raised, or None, on the loop."""
        self._jobs.put((asyncio.get_running_loop(), job, done))

    def wait(self) -> None:
        """Return when the thread has done what was submitted. The loop stands still meanwhile."""
        done = Event()
        self.submit(done.set, _ignore)
        done.wait()

    def stop(self) -> None:
        """Let the thread finish what was submitted, and wait for it."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            loop, job, done = item
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:  # handed on to whoever waits for the job
                error = raised
            with contextlib.suppress(RuntimeError):  # a closed loop has nobody left who waits
                loop.call_soon_threadsafe(done, error)


class DeleteRun:
    """Deletes in the order of their keys, over many batches: the clean-up of one range."""

    def __init__(self) -> None:
        self.lo = self.hi = b""
        self.rows = 0

    def take(self, batch: Sequence[Write]) -> "tuple[bytes, bytes] | None":
        """Look at a batch; returns the range of the run that it ends, if that one was long."""
        ended = None
        for key, value in batch:
            if value is not None:
                continue
            if not self._goes_on(key):
                ended = self.end() or ended
                self.lo = key
            self.hi = key
            self.rows += 1
        return ended

    def _goes_on(self, key: bytes) -> bool:
        return (
            0 < self.rows < RUN_ROWS_MAX
            and key > self.hi
            and key[:RUN_PREFIX_BYTES] == self.lo[:RUN_PREFIX_BYTES]
        )

    def end(self) -> "tuple[bytes, bytes] | None":
        """The run is over: its range, if it was long."""
        rows, self.rows = self.rows, 0
        return (self.lo, self.hi + b"\0") if rows >= RUN_ROWS_MIN else None


class LevelDB:
    """An ordered bytes map on disk; the ports' `Disk`. Made by `open` or `create`.

    Reads run on the loop. Synced batches run in one thread: the calls of one loop turn are one
    batch and one fsync, and what gathers while it is under way is the next. Un-synced ones gather
    in memory and are handed over by the same thread. A database is written either only by `sync` or
    only by `write`; mixing them would leave their order open.
    """

    def __init__(
        self, path: Path, options: LevelDBOptions, owner: int, on_failure: OnFailure, create: bool
    ) -> None:
        """Use `open` or `create`, which check the directory and lock it first."""
        self.path = path
        self._owner = owner
        self._on_failure = on_failure
        self._failed: BaseException | None = None
        self._db = plyvel.DB(
            os.fspath(path),
            create_if_missing=create,
            error_if_exists=create,
            paranoid_checks=True,
            write_buffer_size=options.write_buffer_bytes,
            max_open_files=options.open_files_max,
            lru_cache_size=options.cache_bytes,
            block_size=options.block_bytes,
            max_file_size=options.file_bytes,
            compression=options.compression,
            bloom_filter_bits=options.bloom_filter_bits,
        )
        _sync_directory(path)  # LevelDB renames CURRENT without it
        self._worker = Worker(f"leveldb-{path.name}")
        self._buffer = WriteBuffer()
        self._closing = False
        self._yields = False
        self._behind = 0  # bytes of the batches on their way to LevelDB
        self._run = DeleteRun()
        self._run_timer: asyncio.TimerHandle | None = None
        self._tidier: Worker | None = None  # a flush must not wait behind a compaction
        self._gathered: list[tuple[Sequence[Write], asyncio.Future[None]]] = []
        self._under_way: list[tuple[Sequence[Write], asyncio.Future[None]]] = []
        self._scheduled = False
        self._flush: asyncio.Future[None] | None = None  # under way
        self._flush_next: asyncio.Future[None] | None = None  # begins after it
        self._idle: asyncio.Future[None] | None = None  # `close` waits for it
        self.syncs: Final = Histogram()
        """How long the thread's synced batches took."""

    # Opening

    @classmethod
    def create(
        cls,
        path: Path,
        options: LevelDBOptions = DATA_OPTIONS,
        *,
        on_failure: OnFailure = end_process,
    ) -> "LevelDB":
        """Create an empty database in a directory that is new or holds none.

        Raises:
            DataUnusable: there is data already, or the directory cannot be made.
            DataInUse: somebody has it open.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            _sync_directory(path.parent)
            held = [file.name for file in sorted(path.iterdir()) if _is_data(file)]
        except OSError as error:
            raise DataUnusable(f"{path}: cannot be created: {error}") from error
        if held:
            raise DataUnusable(
                f"{path}: holds a database already ({held[0]}); nothing was changed. Choose an "
                "empty directory."
            )
        return cls._locked(path, options, on_failure, create=True)

    @classmethod
    def open(
        cls,
        path: Path,
        options: LevelDBOptions = DATA_OPTIONS,
        *,
        trust_log: bool,
        on_failure: OnFailure = end_process,
    ) -> "LevelDB":
        """Open a database that was created before; never creates one.

        Args:
            trust_log: Whether all writes were synced. Otherwise only its tables count, and its
                write-ahead logs are moved to a subdirectory, where the next start drops them.

        Raises:
            DataUnusable: it is not there, or damaged.
            DataInUse: somebody has it open.
        """
        if not path.is_dir():
            raise DataUnusable(f"{path}: not initialised; create the node first")
        if not (path / "CURRENT").is_file():
            raise DataUnusable(
                f"{path / 'CURRENT'}: missing, so this is no database, or it has lost its root. "
                f"If the node was never initialised, do that first. Otherwise: {START_AGAIN}"
            )
        return cls._locked(path, options, on_failure, create=False, trust_log=trust_log)

    @classmethod
    def _locked(
        cls,
        path: Path,
        options: LevelDBOptions,
        on_failure: OnFailure,
        *,
        create: bool,
        trust_log: bool = True,
    ) -> "LevelDB":
        owner = _lock(path / OWNER)
        try:
            if not trust_log:
                _set_logs_aside(path)
            return cls(path, options, owner, on_failure, create)
        except (plyvel.Error, OSError) as error:
            os.close(owner)
            raise DataUnusable(
                f"{path}: LevelDB cannot open it: {error}. Is there space, and the right to "
                f"write? If files are damaged or gone: {START_AGAIN}"
            ) from error
        except BaseException:
            os.close(owner)
            raise

    # Reading

    def get(self, key: bytes) -> bytes | None:
        value = self._buffer.get(key)
        if value is not MISSING:
            return value
        try:
            return self._db.get(key, None, verify_checksums=True)
        except plyvel.Error as error:
            self._fail(error)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi` as they stand now, whatever is written while iterating."""
        if len(self._buffer) > RANGE_ROWS:
            self._hand_over()
        writes = self._buffer.written(lo, hi)
        rows = _range(self._db, lo, hi, reverse=reverse, fill_cache=True, fail=self._fail)
        return merged(rows, writes[::-1] if reverse else writes, reverse) if writes else rows

    def heads(
        self, ranges: Sequence[Range], rows_max: int, bytes_max: int, skip: int = 0
    ) -> list[Head]:
        """The first rows of many ranges, by one iterator of LevelDB that goes from one to the next:
        two iterators for each, which `range` makes, cost more than all the rows of a list."""
        if not ranges:
            return []
        if len(self._buffer) > RANGE_ROWS:
            self._hand_over()
        writes: list[Write] = []
        if not self._buffer.is_empty:
            writes = self._buffer.written(min(lo for lo, _ in ranges), max(hi for _, hi in ranges))
        keys = [key for key, _ in writes]
        found = []
        try:
            raw = self._db.raw_iterator(verify_checksums=True, fill_cache=True)
            try:
                for lo, hi in ranges:
                    if bytes_max <= 0:
                        break
                    at = bisect_left(keys, lo) if writes else 0
                    if at < len(keys) and keys[at] < hi:
                        newer = writes[at : bisect_left(keys, hi)]
                        rows = merged(_from(raw, lo, hi), newer, reverse=False)
                        head = first_rows(rows, rows_max, bytes_max, skip)
                    else:
                        head = _head(raw, lo, hi, rows_max, bytes_max, skip)
                    bytes_max -= head.size
                    found.append(head)
            finally:
                raw.close()
        except plyvel.Error as error:
            self._fail(error)
        return found

    def snapshot(self) -> "LevelDBSnapshot":
        self._hand_over()
        return LevelDBSnapshot(self._db.snapshot(), self._buffer.batches, self._fail)

    # Writing

    def write(self, batch: Sequence[Write]) -> None:
        """Apply atomically; visible at once, durable after a `flush` that begins later."""
        assert not self._under_way and not self._gathered, "either write or sync, not both"
        self._check()
        self._buffer.put(batch)
        if len(batch) >= RUN_BATCH_MIN:
            self._note_deletes(batch)
        if self._buffer.bytes >= BUFFER_BYTES_MAX:
            self._hand_over()
            if self._behind >= BUFFER_STALL_BYTES:
                self._worker.wait()

    def sync(self, batch: Sequence[Write]) -> "asyncio.Future[None]":
        """Apply atomically and durably, with what else this turn of the loop asks for."""
        self._check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._gathered.append((batch, future))
        if not self._scheduled and not self._under_way:
            self._scheduled = True
            loop.call_soon(self._begin)
        return future

    def size(self, lo: bytes, hi: bytes) -> int:
        """About how many bytes the tables hold of these rows; what was written last may lack."""
        size: int = self._db.approximate_size(lo, hi)
        return size

    async def flush(self) -> None:
        """Return when everything written before the call lies in tables.

        Calls share a flush that has not begun. In the thread: it writes and syncs whole tables.
        """
        self._check()
        if self._flush is None:
            self._flush = self._begin_flush()
            shared = self._flush
        else:
            if self._flush_next is None:
                self._flush_next = asyncio.get_running_loop().create_future()
            shared = self._flush_next
        await asyncio.shield(shared)

    async def close(self) -> None:
        """Finish what is under way, then close. No call may follow but another `close`.

        What was written and not flushed is lost, as in a crash: nobody would trust it.
        """
        if self._db.closed:
            return
        self._closing = True
        if self._run_timer is not None:
            self._run_timer.cancel()
        if self._tidier is not None:
            await asyncio.to_thread(self._tidier.stop)
        if self._busy:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        self._worker.stop()
        self._db.close()
        os.close(self._owner)

    # One batch at a time, in the thread

    @property
    def waiting(self) -> int:
        """Batches that were handed over for a sync and are not on the disk yet."""
        return len(self._gathered) + len(self._under_way)

    def _begin(self) -> None:
        self._scheduled = False
        if self._under_way or not self._gathered:
            return
        self._under_way, self._gathered = self._gathered, []
        batches = [batch for batch, _ in self._under_way]
        self._worker.submit(lambda: self._job(lambda: self._put(batches)), self._synced)

    def _put(self, batches: Sequence[Sequence[Write]]) -> None:
        joined = self._db.write_batch(sync=True)
        put, delete = joined.put, joined.delete
        for batch in batches:
            for key, value in batch:
                if value is None:
                    delete(key)
                else:
                    put(key, value)
        begun = perf_counter()
        joined.write()
        self.syncs.observe(perf_counter() - begun)

    def _synced(self, error: BaseException | None) -> None:
        done, self._under_way = self._under_way, []
        for _, future in done:
            _settle(future, error)
        if error is not None:
            gathered, self._gathered = self._gathered, []
            for _, future in gathered:
                _settle(future, error)
        elif self._gathered:
            self._begin()
        self._tell_closer()

    # What gathered, in the thread

    def _hand_over(self) -> None:
        """Let LevelDB be told of all that gathered, in one batch after those before it."""
        size = self._buffer.bytes
        batch = self._buffer.freeze()
        if batch is not None:
            self._behind += size
            self._worker.submit(
                lambda: self._job(lambda: self._tell(batch)),
                lambda error: self._told(batch, size, error),
            )

    def _tell(self, batch: Batch) -> None:
        joined = self._db.write_batch()
        put, delete = joined.put, joined.delete
        for number, (key, value) in enumerate(batch.items(), 1):
            if value is None:
                delete(key)
            else:
                put(key, value)
            if number % _YIELD_ROWS == 0:
                sleep(0)
        joined.write()

    def _told(self, batch: Batch, size: int, error: BaseException | None) -> None:
        """What could not be told stays readable; the next call says why."""
        self._behind -= size
        if error is None:
            self._buffer.forget(batch)
        self._tell_closer()

    def _begin_flush(self) -> "asyncio.Future[None]":
        self._hand_over()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._worker.submit(lambda: self._job(self._compact), self._flushed)
        return future

    def _compact(self) -> None:
        # Without bounds it flushes the memtable and compacts no tables. It returns nothing, so a
        # table that could not be written shows in LevelDB's latched error, which any write tells.
        self._db.compact_range()
        self._db.write_batch().write()
        if not self._yields:  # LevelDB's thread begins with the first work that it is given
            self._yields = True
            _yield_to_others()

    def _flushed(self, error: BaseException | None) -> None:
        done, self._flush = self._flush, None
        assert done is not None
        _settle(done, error)
        following, self._flush_next = self._flush_next, None
        if following is not None and error is not None:
            _settle(following, error)
        elif following is not None:
            self._flush = following
            self._hand_over()
            self._worker.submit(lambda: self._job(self._compact), self._flushed)
        self._tell_closer()

    # Space of what was deleted

    def _note_deletes(self, batch: Sequence[Write]) -> None:
        ended = self._run.take(batch)
        if ended is not None:
            self._give_back(*ended)
        if self._run_timer is not None:
            self._run_timer.cancel()
        self._run_timer = asyncio.get_running_loop().call_later(RUN_PAUSE_SECONDS, self._end_run)

    def _end_run(self) -> None:
        self._run_timer = None
        ended = self._run.end()
        if ended is not None:
            self._give_back(*ended)

    def _give_back(self, lo: bytes, hi: bytes) -> None:
        """Compact a range, so that what was deleted in it is gone from the disk; once LevelDB has
        been told of the deletes."""
        self._hand_over()
        self._worker.submit(lambda: None, lambda _: self._tidy(lo, hi))

    def _tidy(self, lo: bytes, hi: bytes) -> None:
        if self._closing:
            return
        if self._tidier is None:
            self._tidier = Worker(f"leveldb-{self.path.name}-tidy")
        compact = partial(self._db.compact_range, start=lo, stop=hi)
        self._tidier.submit(lambda: self._job(compact), _told_by_the_next_write)

    @property
    def _busy(self) -> bool:
        telling = bool(self._buffer.batches) and self._failed is None
        return bool(self._gathered or self._under_way or telling or self._flush is not None)

    def _tell_closer(self) -> None:
        if self._idle is not None and not self._busy:
            _settle(self._idle, None)

    # Failing

    def _job(self, work: Callable[[], None]) -> None:
        """Run in the thread. A failure ends the process there and then."""
        self._check()
        try:
            work()
        except BaseException as error:
            self._fail(error)

    def _check(self) -> None:
        if self._failed is not None:
            raise StorageFailed(f"{self.path}: it failed before: {self._failed}")

    def _fail(self, error: BaseException) -> NoReturn:
        self._failed = error
        failure = _failure(self.path, error)
        self._on_failure(failure)
        raise failure from error


class LevelDBSnapshot:
    """The map as it stood when the snapshot was taken; the ports' `DiskSnapshot`."""

    def __init__(
        self,
        snapshot: "plyvel.Snapshot",
        batches: Sequence[Batch],
        fail: Callable[[BaseException], NoReturn],
    ) -> None:
        self._snapshot, self._batches, self._fail = snapshot, batches, fail

    def get(self, key: bytes) -> bytes | None:
        value = find(self._batches, key)
        if value is not MISSING:
            return value
        try:
            return self._snapshot.get(key, None, verify_checksums=True)
        except plyvel.Error as error:
            self._fail(error)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        writes = written(self._batches, lo, hi)
        rows = _range(self._snapshot, lo, hi, reverse=reverse, fill_cache=False, fail=self._fail)
        return merged(rows, writes[::-1] if reverse else writes, reverse) if writes else rows

    def close(self) -> None:
        self._snapshot.close()


def _range(
    db: "plyvel.DB | plyvel.Snapshot",
    lo: bytes,
    hi: bytes,
    *,
    reverse: bool,
    fill_cache: bool,
    fail: OnError,
) -> Iterator[tuple[bytes, bytes]]:
    """Rows as they stand now: LevelDB's iterator is made here, the rest when it is asked for."""
    try:
        raw = db.raw_iterator(verify_checksums=True, fill_cache=fill_cache)
        if reverse:
            return _backwards(raw, lo, hi, fail)
        rows = db.iterator(start=lo, stop=hi, verify_checksums=True, fill_cache=fill_cache)
        return _forwards(rows, raw, lo, fail)
    except plyvel.Error as error:
        fail(error)


def _forwards(
    rows: "plyvel.Iterator", raw: "plyvel.RawIterator", lo: bytes, fail: OnError
) -> Iterator[tuple[bytes, bytes]]:
    """Rows in key order, and never fewer than there are.

    plyvel's iterator asks for LevelDB's status only beside a row: one that comes to a table that
    cannot be read ends as if there were no more rows (plyvel 1.5.1, measured). So at the end a raw
    iterator, which always asks, looks where the next row would be.
    """
    last = None
    try:
        for row in rows:
            yield row
            last = row[0]
        raw.seek(lo if last is None else last + b"\0")
    except plyvel.Error as error:
        fail(error)
    finally:
        rows.close()
        raw.close()


def _from(raw: "plyvel.RawIterator", lo: bytes, hi: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Rows in key order, by an iterator that is used again. It always asks for LevelDB's status."""
    raw.seek(lo)
    while raw.valid() and (row := raw.item())[0] < hi:
        yield row
        raw.next()


def _head(
    raw: "plyvel.RawIterator", lo: bytes, hi: bytes, rows_max: int, bytes_max: int, skip: int
) -> Head:
    """What `first_rows` makes of `_from`, in half the time: a list asks for it of each shard."""
    rows: list[tuple[bytes, bytes]] = []
    size = 0
    valid, item = raw.valid, raw.item
    raw.seek(lo)
    while valid():
        key, value = item()
        if key >= hi:
            break
        rows.append((key[skip:], value))
        size += len(value)
        if len(rows) >= rows_max or size >= bytes_max:
            return Head(rows, False, size)
        raw.next()
    return Head(rows, True, size)


def _backwards(
    raw: "plyvel.RawIterator", lo: bytes, hi: bytes, fail: OnError
) -> Iterator[tuple[bytes, bytes]]:
    """Rows from the last to the first. By a raw iterator: plyvel's own leaves out a row whose key
    is `lo` where that is the only one (plyvel 1.5.1, measured)."""
    try:
        raw.seek(hi)
        if raw.valid():
            raw.prev()
        else:
            raw.seek_to_last()
        while raw.valid() and (row := raw.item())[0] >= lo:
            yield row
            raw.prev()
    except plyvel.Error as error:
        fail(error)
    finally:
        raw.close()


def _yield_to_others() -> None:
    """Lower the priority of LevelDB's thread. On Linux, where a thread has one of its own.

    It is the one of our name that Python did not make: gRPC's threads have names of theirs.
    """
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return
    python = {str(thread.native_id) for thread in threads()}
    nice = max(os.getpriority(os.PRIO_PROCESS, 0), BACKGROUND_NICE)
    name = (tasks / str(os.getpid()) / "comm").read_text()
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):  # gone again; or it may not be asked for
            if task.name not in python and (task / "comm").read_text() == name:
                os.setpriority(os.PRIO_PROCESS, int(task.name), nice)


class FileSlot:
    """A small record in a file of its own, replaced in place; the ports' `Slot`.

    A shorter record leaves the end of a longer one behind it: records say how long they are. The
    file is made by the first write. Slots of one node share a worker.
    """

    def __init__(self, path: Path, worker: Worker, *, on_failure: OnFailure = end_process) -> None:
        self.path = path
        self._worker = worker
        self._on_failure = on_failure
        self._file: int | None = None
        self._failed: BaseException | None = None

    def read(self) -> bytes:
        """The bytes of the file, b"" if there is none.

        Raises:
            DataUnusable: it cannot be read.
        """
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise DataUnusable(f"{self.path}: cannot be read: {error}. {START_AGAIN}") from error

    def write(self, record: bytes) -> "asyncio.Future[None]":
        """Replace the record; writes of one worker are carried out one after the other."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._worker.submit(lambda: self._replace(record), lambda error: _settle(future, error))
        return future

    def close(self) -> None:
        """Close the file. The worker must have been stopped."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _replace(self, record: bytes) -> None:
        if self._failed is not None:
            raise StorageFailed(f"{self.path}: it failed before: {self._failed}")
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                _sync_directory(self.path.parent)
            written = os.pwrite(self._file, record, 0)
            if written != len(record):
                raise OSError(f"only {written} of {len(record)} bytes were written")
            os.fdatasync(self._file)
        except BaseException as error:
            self._failed = error
            failure = _failure(self.path, error)
            self._on_failure(failure)
            raise failure from error


def _failure(path: Path, error: BaseException) -> StorageFailed:
    """Which file or database, what LevelDB or the system said, and what to do."""
    said = error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error)
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return StorageFailed(
        f"{path}: {type(error).__name__}: {text}. Is the disk full or failing? Then mend that and "
        f"start the node again. If files are damaged or gone: {START_AGAIN}"
    )


def _told_by_the_next_write(error: BaseException | None) -> None:
    """What became of a compaction: a failed one has ended the process, and shows in any write."""


def _ignore(error: BaseException | None) -> None:
    """Nobody asks what became of a job that cannot fail."""


def _settle(future: "asyncio.Future[None]", error: BaseException | None) -> None:
    if future.done():  # its waiter may have given up
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _lock(path: Path) -> int:
    """Lock a file for as long as the descriptor returned is open.

    An flock belongs to this one descriptor: a second attempt of the same process is refused as any
    other, and closing some other descriptor of the file releases nothing (unlike LevelDB's own).
    """
    try:
        owner = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataUnusable(f"{path}: cannot be opened: {error}") from error
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(owner)
        if not isinstance(error, BlockingIOError):
            raise DataUnusable(f"{path}: cannot be locked: {error}") from error
        raise DataInUse(
            f"{path.parent}: in use by a running process; stop that one first"
        ) from error
    return owner


def _set_logs_aside(path: Path) -> None:
    """Move the write-ahead logs of a database out of LevelDB's sight; drop those moved before."""
    aside = path / SET_ASIDE
    aside.mkdir(exist_ok=True)
    for old in aside.iterdir():
        old.unlink()
    for log in sorted(path.glob("*.log")):
        log.rename(aside / log.name)
    _sync_directory(aside)
    _sync_directory(path)


def _is_data(path: Path) -> bool:
    """Whether a file is part of a database that somebody wrote to (not of one half created)."""
    if path.name == "CURRENT" or path.suffix in (".ldb", ".sst"):
        return True
    return path.suffix == ".log" and path.stat().st_size > 0


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
