"""The storage of one simulated node, which forgets what was not synced.

A `SimDrive` outlives the processes of its node. A process opens `SimDisk`s (ordered maps) and
`SimSlot`s (small records) on it; `crash()` kills those handles and leaves what a power cut would:

- batches whose `sync` future resolved, and everything before a `flush` that returned;
- of the syncs under way a prefix of the calls, each whole (what a torn log record becomes);
- of the un-synced writes a prefix, drawn from the seed, whatever syncs came after them: LevelDB
  writes its tables when it likes, and its write-ahead log is never trusted for such rows;
- a slot under way as it was, as it was to become, or torn in the middle.

`end_process()` is the gentler end: what was handed to the disk lands.

A sync costs virtual time, and its rows become visible only when it is done: the latest moment that
the port allows. A failed write is the end of the node: `on_failure` is told, the drive's handles
are dead, and no future of theirs resolves any more (ATC'20, fsync: the page cache lies after one).

The classes satisfy `Disk`, `DiskSnapshot` and `Slot` of the ports of consensus structurally;
nothing here knows what is stored.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from math import inf
from random import Random
from types import MappingProxyType
from typing import Final, NoReturn

from labrpc.sim.rows import SortedRows, UnreadableRows, Write

__all__ = ["DiskFailed", "DriveImage", "ProcessEnded", "SimDisk", "SimDrive", "SimSlot", "Write"]

Watcher = Callable[[str, Sequence[Write]], None]
"""Told the name of a map and each batch that has become durable there, in order."""

SYNC_SECONDS: Final = 0.0002
FLUSH_SECONDS: Final = 0.001


class DiskFailed(OSError):
    """A write or a sync failed, or came after one that did."""

    ended = False
    """Whether its process was told, and has ended by it."""


class ProcessEnded(asyncio.CancelledError):
    """The process is gone; what it was doing ends here, and no handler of its own sees it."""


class _Volume:
    """What one map of a drive holds: the durable rows, and what came since."""

    def __init__(self) -> None:
        self.base: dict[bytes, bytes] = {}
        self.journal: list[_Journaled] = []
        self.spoilt: dict[bytes, None] = {}  # rows whose checksum does not fit any more

    def fold(self) -> None:
        """Move the durable head of the journal into the base."""
        folded = 0
        for item in self.journal:
            if not item.durable:
                break
            _apply(self.base, item.batch)
            folded += 1
        del self.journal[:folded]

    def image(self) -> dict[bytes, bytes]:
        """The rows that would survive a crash now, were it unkind."""
        rows = dict(self.base)
        for item in self.journal:
            if item.durable:
                _apply(rows, item.batch)
        return rows


class _Journaled:
    __slots__ = ("batch", "durable")

    def __init__(self, batch: Sequence[Write], durable: bool) -> None:
        self.batch, self.durable = batch, durable


class SimDrive:
    """All that one node stores: named maps and named slots, across its crashes.

    Args:
        rng: Decides what a crash leaves of what was under way.
        on_failure: Ends the node when a write failed. By default the failure is raised out of
            the loop's callback, which fails the run.
    """

    def __init__(
        self, rng: Random, *, on_failure: Callable[[DiskFailed], None] | None = None
    ) -> None:
        self.sync_seconds = SYNC_SECONDS
        """What a synced batch or slot costs, in virtual seconds; raise it for a slow disk."""
        self.flush_seconds = FLUSH_SECONDS
        self.room = inf
        """Bytes that can still be written; a write of more fails, and a smaller one may not."""
        self.syncs = 0  # synced batches and slots so far
        self.lost_writes = 0  # batches that crashes took
        self.torn_records = 0  # slots of which a crash left halves of two records
        self.on_failure = on_failure
        self._rng = rng
        self._volumes: dict[str, _Volume] = {}
        self._records: dict[str, bytes] = {}
        self._disks: dict[str, SimDisk] = {}
        self._slots: dict[str, SimSlot] = {}
        self._watchers: list[Watcher] = []
        self._fail_next = False
        self._stalled: list[tuple[Callable[[], None], Context]] | None = None
        self.failed_on: tuple[str, Sequence[Write]] = ("", ())
        """What the last failure was about to write, and where; nothing for a failed flush."""

    # Handles

    def disk(self, name: str) -> "SimDisk":
        """Open the map `name`; the handle of a life before must be closed or crashed."""
        assert name not in self._disks, f"the map {name!r} is open already"
        volume = self._volumes.setdefault(name, _Volume())
        # Rows that no flush covered are gone with the process that wrote them, crash or not.
        volume.base, volume.journal = volume.image(), []
        opened = self._disks[name] = SimDisk(self, name, volume)
        if volume.spoilt:
            opened.make_unreadable(volume.spoilt)
        return opened

    def slot(self, name: str) -> "SimSlot":
        """Open the record `name`."""
        assert name not in self._slots, f"the slot {name!r} is open already"
        opened = self._slots[name] = SimSlot(self, name)
        return opened

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` of every batch that becomes durable, also by the grace of a crash."""
        self._watchers.append(watcher)

    # Faults

    def crash(self) -> None:
        """Cut the power: the handles are dead, and only what was durable (or lucky) is left."""
        for name, disk in self._disks.items():
            for batch in disk.die():
                self._volumes[name].journal.append(_Journaled(batch, durable=False))
            self._settle(name)
        for name, slot in self._slots.items():
            record = slot.die()
            if record is not None:
                old = self._records.get(name, b"")
                left = self._records[name] = self._torn(old, record)
                self.torn_records += left not in (old, record)
        self._disks, self._slots = {}, {}

    def end_process(self) -> None:
        """End the process without a power cut: what it handed to the disk still lands. Rows that
        no flush covered are lost all the same, because nobody trusts the log they are in."""
        for name, disk in self._disks.items():
            for batch in disk.die():
                self._volumes[name].journal.append(_Journaled(batch, durable=True))
                self.became_durable(name, batch)
        for name, slot in self._slots.items():
            record = slot.die()
            if record is not None:
                self.store_record(name, record)
        self._disks, self._slots = {}, {}

    def fail_next(self) -> None:
        """Let the next sync, flush or un-synced write fail."""
        self._fail_next = True

    def fail_next_read(self) -> None:
        """Let the next read of an open map fail."""
        for disk in self._disks.values():
            disk.make_unreadable(None)

    def stall(self) -> None:
        """Let no sync and no flush end before `heal`, as a disk that retries for seconds."""
        if self._stalled is None:
            self._stalled = []

    def heal(self) -> None:
        """Take back a failure that was asked for and has not struck yet; there is room again, and
        what stalled ends."""
        self._fail_next, self.room = False, inf
        for disk in self._disks.values():
            disk.make_readable()
        waiting, self._stalled = self._stalled, None
        for end, context in waiting or ():
            asyncio.get_running_loop().call_soon(end, context=context)

    # Damage while nothing runs: nobody is told of it

    def spoil(self, name: str, key: bytes) -> None:
        """Damage a row in a way that its checksum shows: whoever reads it fails."""
        self._volumes[name].spoilt[key] = None

    def wipe(self, name: str) -> None:
        """Lose a whole map, or a record."""
        self._volumes.pop(name, None)
        self._records.pop(name, None)

    def flip_record(self, name: str) -> bool:
        """Flip one bit of a record; False: the drive is new, and has none."""
        if name not in self._records:
            return False
        record = bytearray(self._records[name])
        bit = self._rng.randrange(len(record) * 8)
        record[bit // 8] ^= 1 << bit % 8
        self._records[name] = bytes(record)
        return True

    def roll_back(self, name: str, image: "DriveImage") -> None:
        """Put an old copy of one map back, alone."""
        assert name not in self._disks, "crash the node before its disk is changed"
        volume = self._volumes[name] = _Volume()
        volume.base = dict(image.volumes.get(name, {}))

    def flip_bit(self, name: str, key: bytes | None = None) -> bytes:
        """Flip one bit in the stored value of `key`, or of a row drawn; return its key."""
        volume = self._volumes[name]
        rows = volume.image()
        if key is None:
            key = self._rng.choice(sorted(key for key, value in rows.items() if value))
        damaged = bytearray(rows[key])
        bit = self._rng.randrange(len(damaged) * 8)
        damaged[bit // 8] ^= 1 << bit % 8
        volume.journal.append(_Journaled([(key, bytes(damaged))], durable=True))
        volume.fold()
        if name in self._disks:
            self._disks[name].put_visible([(key, bytes(damaged))])
        return key

    def image(self) -> "DriveImage":
        """A copy of everything durable, as a snapshot of a virtual machine would hold it."""
        volumes = {name: volume.image() for name, volume in self._volumes.items()}
        return DriveImage(volumes, dict(self._records))

    def restore(self, image: "DriveImage") -> None:
        """Roll the drive back to an old image; its process must be gone."""
        assert not self._disks and not self._slots, "crash the node before its drive is rolled back"
        self._volumes = {}
        for name, rows in image.volumes.items():
            self._volumes[name] = _Volume()
            self._volumes[name].base = dict(rows)
        self._records = dict(image.records)

    def durable(self, name: str) -> Mapping[bytes, bytes]:
        """The rows of a map that an unkind crash would leave now. A copy: not for hot paths."""
        volume = self._volumes.get(name)
        return MappingProxyType(volume.image() if volume is not None else {})

    # What the handles ask

    def visible(self, name: str) -> Sequence[tuple[bytes, bytes]]:
        """The rows of a map as the process that has it open sees them; none if nobody has."""
        opened = self._disks.get(name)
        return opened.rows() if opened is not None else ()

    def visible_bytes(self, name: str) -> int:
        """What these rows take, keys and all."""
        opened = self._disks.get(name)
        return opened.bytes_held if opened is not None else 0

    def admit(self, name: str = "", batch: Sequence[Write] = ()) -> None:
        """Let a write through, or end the node.

        Raises:
            DiskFailed: it failed; the handles are dead.
        """
        full = self.room < inf and not self._fits(batch)
        if not (self._fail_next or full):
            return
        self._fail_next = False
        self.failed_on = name, batch
        error = DiskFailed("no space left on device" if full else "input/output error")
        self.crash()
        if self.on_failure is not None:
            error.ended = True
            self.on_failure(error)
        raise error

    def _fits(self, batch: Sequence[Write]) -> bool:
        """Take the room that a batch needs, if there is so much."""
        size = sum([len(key) + len(value or b"") for key, value in batch])
        if self.room <= 0 or size > self.room:
            return False
        self.room -= size
        return True

    def unreadable(self, name: str, key: bytes) -> NoReturn:
        """A read failed: the end of the node.

        Raises:
            ProcessEnded: in whatever read; no `except Exception` of the process takes it.
        """
        error = DiskFailed(f"map {name!r}: row {key[:24].hex()} cannot be read")
        self.failed_on = name, ()
        self.crash()
        if self.on_failure is None:
            raise error
        self.on_failure(error)
        raise ProcessEnded(str(error))

    def is_stalled(self, then: Callable[[], None]) -> bool:
        """Whether the disk stalls now; `then` is called when that is over."""
        if self._stalled is None:
            return False
        self._stalled.append((then, copy_context()))
        return True

    @property
    def fails_quietly(self) -> bool:
        """Whether somebody was told of a failure, so that a callback need not raise it."""
        return self.on_failure is not None

    def became_durable(self, name: str, batch: Sequence[Write]) -> None:
        for watcher in self._watchers:
            watcher(name, batch)

    def store_record(self, name: str, record: bytes) -> None:
        self._records[name] = record
        self.became_durable(name, [(b"", record)])

    def record(self, name: str) -> bytes:
        return self._records.get(name, b"")

    def closed(self, name: str) -> None:
        self._disks.pop(name, None)

    def _settle(self, name: str) -> None:
        """Decide what the crash leaves of a map's un-durable batches: a prefix."""
        volume = self._volumes[name]
        loose = [item for item in volume.journal if not item.durable]
        # Half of all crashes are the unkind ones that keep nothing.
        kept = self._rng.randint(0, len(loose)) if loose and self._rng.random() < 0.5 else 0
        self.lost_writes += len(loose) - kept
        for item in loose[:kept]:
            item.durable = True
            self.became_durable(name, item.batch)
        volume.base, volume.journal = volume.image(), []

    def _torn(self, old: bytes, new: bytes) -> bytes:
        draw = self._rng.random()
        if draw < 0.4:
            return old
        if draw < 0.6:
            return new
        cut = self._rng.randint(0, len(new))
        return new[:cut] + old[cut:]


class DriveImage:
    """What a drive durably held at one moment."""

    def __init__(self, volumes: dict[str, dict[bytes, bytes]], records: dict[str, bytes]) -> None:
        self.volumes, self.records = volumes, records


class SimDisk:
    """One process's handle on a map of its drive; the ports' `Disk`."""

    def __init__(self, drive: SimDrive, name: str, volume: _Volume) -> None:
        self._drive, self._name, self._volume = drive, name, volume
        self._rows = SortedRows(dict(volume.base))
        self._gathered: list[tuple[Sequence[Write], asyncio.Future[None]]] = []
        self._under_way: list[tuple[Sequence[Write], asyncio.Future[None]]] = []
        self._begins = False  # a turn's calls are being gathered, or a sync is under way
        self._dead = False

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi`, in key order (or backwards), as they stand now."""
        return self._rows.range(lo, hi, reverse=reverse)

    def rows(self) -> Sequence[tuple[bytes, bytes]]:
        """Every row, also those that cannot be read, in no order."""
        return self._rows.all()

    def weigh(self, prefix_bytes: int) -> Mapping[bytes, Sequence[int]]:
        """By what keys begin with, so many bytes of it: how many rows, also those that cannot be
        read, and their bytes, keys and all."""
        return self._rows.weigh(prefix_bytes)

    @property
    def bytes_held(self) -> int:
        """Bytes of every row, keys and all."""
        return self._rows.size

    def snapshot(self) -> "SimDiskSnapshot":
        """The map as it stands now."""
        return SimDiskSnapshot(self._rows.share())

    def write(self, batch: Sequence[Write]) -> None:
        """Apply atomically; visible at once, not durable before a `flush` that begins later."""
        if self._dead:
            return  # a process that is gone no longer reaches its disk
        self._drive.admit(self._name, batch)
        self._rows.put(batch)
        self._volume.journal.append(_Journaled(tuple(batch), durable=False))

    def sync(self, batch: Sequence[Write]) -> "asyncio.Future[None]":
        """Apply atomically and durably; the calls of one turn, and those that gather while a
        sync is under way, share the next one. Futures resolve in call order."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._dead:
            return future
        self._gathered.append((tuple(batch), future))
        if not self._begins:
            self._begins = True
            loop.call_soon(self._begin)
        return future

    async def flush(self) -> None:
        """Return when everything written before the call is durable."""
        before = list(self._volume.journal)
        synced = [future for _, future in (*self._under_way, *self._gathered)]
        await asyncio.sleep(self._drive.flush_seconds)
        over = asyncio.Event()
        if self._drive.is_stalled(over.set):
            await over.wait()
        if synced:
            await asyncio.shield(synced[-1])
        if self._dead:
            await asyncio.get_running_loop().create_future()  # nobody is left to be told
        self._drive.admit()
        for item in before:
            if not item.durable:
                item.durable = True
                self._drive.became_durable(self._name, item.batch)
        self._volume.fold()

    async def close(self) -> None:
        """Wait for the syncs under way. Rows that no flush covered are lost, as in a crash."""
        synced = [future for _, future in (*self._under_way, *self._gathered)]
        if synced and not self._dead:
            await asyncio.shield(synced[-1])
        if not self._dead:
            self._dead = True
            self._drive.closed(self._name)

    # What the drive does with its handles

    def die(self) -> list[Sequence[Write]]:
        """Kill the handle; return the batches whose sync was under way, in order."""
        self._dead = True
        under_way = [batch for batch, _ in self._under_way]
        self._under_way, self._gathered = [], []
        return under_way

    def put_visible(self, batch: Sequence[Write]) -> None:
        self._rows.put(batch)

    def make_unreadable(self, spoilt: dict[bytes, None] | None) -> None:
        """Let reads of these rows (None: of any) end the node."""
        self._rows = UnreadableRows(self._rows, spoilt, partial(self._drive.unreadable, self._name))

    def make_readable(self) -> None:
        """Take back a failure of any read; what is spoilt stays so."""
        if isinstance(self._rows, UnreadableRows) and self._rows.of_any:
            self._rows = self._rows.readable()
            if self._volume.spoilt:
                self.make_unreadable(self._volume.spoilt)

    # One sync at a time

    def _begin(self) -> None:
        if self._dead:
            return
        self._under_way, self._gathered = self._gathered, []
        loop = asyncio.get_running_loop()
        loop.call_later(self._drive.sync_seconds, self._end)

    def _end(self) -> None:
        if self._dead or self._drive.is_stalled(self._end):
            return
        try:
            rows = [row for batch, _ in self._under_way for row in batch]
            self._drive.admit(self._name, rows)
        except DiskFailed:
            if self._drive.fails_quietly:
                return
            raise
        done, self._under_way = self._under_way, []
        self._drive.syncs += 1
        for batch, _ in done:
            self._rows.put(batch)
            self._volume.journal.append(_Journaled(batch, durable=True))
            self._drive.became_durable(self._name, batch)
        self._volume.fold()
        for _, future in done:
            if not future.done():  # its waiter may have given up
                future.set_result(None)
        if self._gathered:
            self._begin()
        else:
            self._begins = False


class SimDiskSnapshot:
    """A map as it stood when the snapshot was taken; the ports' `DiskSnapshot`."""

    def __init__(self, rows: SortedRows) -> None:
        self._rows: SortedRows | None = rows

    def get(self, key: bytes) -> bytes | None:
        return self._open.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._open.range(lo, hi, reverse=reverse)

    def close(self) -> None:
        self._rows = None

    @property
    def _open(self) -> SortedRows:
        assert self._rows is not None, "the snapshot is closed"
        return self._rows


class SimSlot:
    """A small record replaced in place, torn by a crash at worst; the ports' `Slot`."""

    def __init__(self, drive: SimDrive, name: str) -> None:
        self._drive, self._name = drive, name
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._dead = False

    def read(self) -> bytes:
        return self._drive.record(self._name)

    def write(self, record: bytes) -> "asyncio.Future[None]":
        """Replace the record; writes of one slot are carried out one after the other."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not self._dead:
            self._waiting.append((record, future))
            if len(self._waiting) == 1:
                loop.call_later(self._drive.sync_seconds, self._end)
        return future

    def die(self) -> bytes | None:
        """Kill the handle; return the record that was being written, if any."""
        self._dead = True
        waiting, self._waiting = self._waiting, []
        return waiting[0][0] if waiting else None

    def _end(self) -> None:
        if self._dead or self._drive.is_stalled(self._end):
            return
        record, future = self._waiting[0]
        try:
            self._drive.admit(self._name, [(b"", record)])
        except DiskFailed:
            if self._drive.fails_quietly:
                return
            raise
        self._waiting.pop(0)
        self._drive.syncs += 1
        self._drive.store_record(self._name, record)
        if not future.done():
            future.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_later(self._drive.sync_seconds, self._end)


def _apply(rows: dict[bytes, bytes], batch: Sequence[Write]) -> None:
    for key, value in batch:
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
