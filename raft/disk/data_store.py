"""The state machines' rows: one replica's state, how far it has come, and snapshots of it.

    key                            value
    a <gid>                        how far the replica has come (`Progress`)
    d <gid> <install> <row key>    a row of its state machine

The data database is written un-synced, and only what a flush put into its tables counts after a
crash (`leveldb.py`). That is enough, because the raft logs replay the rest, and safe, because each
commit puts rows and applied index into one batch: LevelDB keeps a prefix of the batches.

A received snapshot is staged under a new *install* number beside the live rows. Installing it is
one batch, O(1): the record flips to (install, applied, membership). The rows of other installs are
garbage from then on, deleted in bounded slices. Install numbers are never reused, not even across
a crash or a replica that is dropped and made anew while rows of it are there, so late clean-up
touches nothing alive.
"""

from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

import msgpack

from raft.codec import encode_membership
from raft.disk.heads import Head, Range, heads
from raft.disk.log_store import LogStore
from raft.disk.overlay import Overlay
from raft.disk.records import (
    FORMAT,
    NUMBER_MAX,
    damaged,
    group_key,
    group_of,
    seal,
    stored_membership,
    unseal,
)
from raft.errors import BadChunk, DataUnusable
from raft.ports import Disk, DiskSnapshot, Measured, Reader, Write
from raft.types import (
    ZERO,
    EntryId,
    GroupId,
    Index,
    Membership,
    SnapshotMeta,
    Term,
)

__all__ = ["ReplicaData", "Capture", "Staging", "Overlay", "reconcile", "sweep_orphans"]

PROGRESS, ROWS = b"a", b"d"
CHUNK_FORMAT: Final = 1
GARBAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What is read at most to find the keys of a slice of garbage, but for one row."""

_PROGRESS: Final = Struct(">B7Q")
_ROWS_KEY: Final = Struct(">cQQ")
_CHUNK: Final = Struct(">IBBQQQ")  # checksum of the rest, format, final, index, term, rows before
_CHUNK_END: Final = Struct(">Q16s")  # in the final chunk: rows in all, running checksum of all
_DIGEST_BYTES: Final = 16
_NO_DIGEST: Final = bytes(_DIGEST_BYTES)


class Progress(NamedTuple):
    """How far a replica's state has come. One record, in every batch.

    Invariant: `install < install_next`, and no row lies under an install of `install_next` or
    above. While `installed == applied`, nothing was applied since the last installed snapshot.
    """

    incarnation: int  # of the replica whose state this is
    install: int  # the number its rows lie under
    install_next: int  # the first number never used
    applied: EntryId
    installed: EntryId  # where the last installed snapshot ended; zero if there was none
    membership: Membership  # at `applied`


BLANK: Final = Progress(0, 0, 1, ZERO, ZERO, Membership())


class ReplicaData:
    """One replica's state machine rows. Keys are the state machine's own, without any prefix."""

    def __init__(self, disk: Disk, gid: GroupId) -> None:
        """Load how far the replica has come; blank if the tables hold nothing of it.

        Raises:
            DataUnusable: the record is damaged, or newer than this version.
        """
        self.gid = gid
        self._disk = disk
        self._key = group_key(PROGRESS, gid)
        raw = disk.get(self._key)
        self._born = raw is not None
        self._progress = BLANK if raw is None else decode_progress(gid, self._key, raw)
        self._prefix = rows_prefix(gid, self._progress.install)
        self._membership_bytes = encode_membership(self._progress.membership)
        self._staged: dict[int, Staging] = {}
        self._flips = False  # an installation is becoming durable
        self._garbage_from: bytes | None = rows_prefix(gid, 0)
        """Where the next look for garbage begins; None: there is none."""

    # What it holds

    @property
    def applied(self) -> EntryId:
        """The last entry whose effects are visible."""
        return self._progress.applied

    @property
    def membership(self) -> Membership:
        """The members as of `applied`."""
        return self._progress.membership

    @property
    def install(self) -> int:
        return self._progress.install

    @property
    def installed(self) -> EntryId:
        """Where the last installed snapshot ended."""
        return self._progress.installed

    @property
    def incarnation(self) -> int:
        return self._progress.incarnation

    @property
    def reader(self) -> Reader:
        return self

    def get(self, key: bytes) -> bytes | None:
        return self._disk.get(self._prefix + key)

    def size(self, lo: bytes, hi: bytes) -> int:
        """About how many bytes these rows take on the disk; 0: not known."""
        if not isinstance(self._disk, Measured):
            return 0
        return self._disk.size(self._prefix + lo, self._prefix + hi)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi` as they stand now, whatever is committed while iterating."""
        prefix = self._prefix
        return _strip(self._disk.range(prefix + lo, prefix + hi, reverse=reverse), len(prefix))

    def heads(
        self, ranges: Sequence[Range], rows_max: int, bytes_max: int, skip: int = 0
    ) -> list[Head]:
        """The first rows of many ranges; see `raft/disk/heads.py`."""
        prefix = self._prefix
        placed = [(prefix + lo, prefix + hi) for lo, hi in ranges]
        return heads(self._disk, placed, rows_max, bytes_max, len(prefix) + skip)

    def overlay(self) -> Overlay:
        """A view for applying entries; its `writes()` go to `commit`."""
        return Overlay(self)

    # How it changes

    def commit(
        self, rows: Sequence[Write], applied: EntryId, membership: Membership | None
    ) -> None:
        """Rows, applied index and membership in one batch; visible at once, durable after a flush.

        Args:
            applied: The last entry whose effects `rows` hold; the present one for rows that
                change no answer, such as deletes of garbage.
            membership: The new one, None if it has not changed.
        """
        incarnation, install, install_next, before, installed, members = self._progress
        assert applied.index > before.index or applied == before, (
            f"{applied} is applied already (R7)"
        )
        if membership is not None:
            self._membership_bytes, members = encode_membership(membership), membership
        self._progress = Progress(incarnation, install, install_next, applied, installed, members)
        prefix = self._prefix
        batch = [(prefix + key, value) for key, value in rows]
        batch.append(self._record())
        self._disk.write(batch)

    async def flush(self) -> Index:
        """Make what is applied now durable and return its index, noted before the flush began."""
        index = self.applied.index
        await self._disk.flush()
        return index

    def adopt(self, incarnation: int, membership: Membership) -> None:
        """Be the state of this replica; begin blank if it is not so already.

        Args:
            membership: The members at the replica's birth.
        """
        if self._born and self._progress.incarnation == incarnation:
            return
        old, self._born = self._progress, True  # what another replica left is garbage
        self._progress = Progress(
            incarnation, old.install_next, old.install_next + 1, ZERO, ZERO, membership
        )
        self._switched()
        self._disk.write([self._record()])

    # Snapshots

    def capture(self) -> "Capture":
        """The state as it stands now, for a follower. Close it: it holds disk space."""
        return Capture(self.gid, self._disk.snapshot(), self._progress)

    def stage(self, meta: SnapshotMeta) -> "Staging":
        """Begin to receive a snapshot, beside the live rows and under a number of its own."""
        number = self._progress.install_next
        self._progress = self._progress._replace(install_next=number + 1)
        # Before any row of it in the order of writes: a crash that keeps one keeps this too.
        self._disk.write([self._record()])
        staging = self._staged[number] = Staging(
            meta, number, rows_prefix(self.gid, number), self._disk, self._flip, self._abort
        )
        return staging

    def collect_garbage(self, rows_max: int) -> bool:
        """Delete up to `rows_max` rows, or 4 MiB, of installs that nothing needs.

        Returns:
            Whether there may be more.
        """
        if self._garbage_from is None:
            return False
        alive = sorted([self._progress.install, *self._staged])
        for lo, hi in _gaps(self.gid, alive):
            lo = max(lo, self._garbage_from)
            if lo >= hi:
                continue
            keys, size = [], 0
            for key, value in islice(self._disk.range(lo, hi), rows_max):
                keys.append(key)
                size += len(value)
                if size >= GARBAGE_BYTES_MAX:
                    break
            if keys:
                self._disk.write([(key, None) for key in keys])
                self._garbage_from = keys[-1]
                return True
        self._garbage_from = None
        return False

    async def _flip(self, staging: "Staging") -> None:
        meta = staging.meta
        assert meta.last.index > self.applied.index, f"{meta.last} is older than {self.applied}"
        flipped = self._progress._replace(
            install=staging.number,
            applied=meta.last,
            installed=meta.last,
            membership=meta.membership,
        )
        self._flips = True  # a record written now from what memory says would take the flip back
        self._disk.write([self._record_of(flipped, encode_membership(meta.membership))])
        await self._disk.flush()
        # Readers see the new rows from here on, in the step in which the caller goes on: whoever
        # mirrors rows in memory can follow them at once.
        del self._staged[staging.number]
        self._progress, self._flips = flipped, False
        self._switched()

    def _abort(self, staging: "Staging") -> None:
        if self._staged.pop(staging.number, None) is not None:
            self._garbage_from = rows_prefix(self.gid, 0)

    def _switched(self) -> None:
        self._prefix = rows_prefix(self.gid, self._progress.install)
        self._membership_bytes = encode_membership(self._progress.membership)
        self._garbage_from = rows_prefix(self.gid, 0)

    def _record(self) -> Write:
        assert not self._flips, "nothing is applied or staged while a snapshot is installed"
        return self._record_of(self._progress, self._membership_bytes)

    def _record_of(self, progress: Progress, membership: bytes) -> Write:
        incarnation, install, install_next, applied, installed, _ = progress
        head = _PROGRESS.pack(FORMAT, incarnation, install, install_next, *applied, *installed)
        return self._key, seal(self._key, head + membership)


class Capture:
    """One consistent state of a replica, read from a disk snapshot in bounded chunks.

    A chunk is a header (checksum, format, whether it is the last, the snapshot's index and term,
    rows before it) and a msgpack array of keys and values in turn, in key order. The last one adds
    the number of rows and a digest of all: a stream that was cut short is no snapshot.
    """

    def __init__(self, gid: GroupId, rows: DiskSnapshot, now: Progress) -> None:
        self._rows = rows
        key = group_key(PROGRESS, gid)
        raw = rows.get(key)
        # Read inside the snapshot: the same batch wrote it and the rows. A replica that never
        # wrote is as it was born.
        progress = now if raw is None else decode_progress(gid, key, raw)
        self.meta = SnapshotMeta(progress.applied, progress.membership)
        self._lo = rows_prefix(gid, progress.install)
        self._hi = rows_prefix(gid, progress.install + 1)

    def chunks(self, bytes_max: int) -> Iterator[bytes]:
        """The rows in chunks of about `bytes_max`, but at least one row each."""
        skip = len(self._lo)
        pack: list[bytes] = []
        size = before = 0
        digest = _NO_DIGEST
        for key, value in self._rows.range(self._lo, self._hi):
            if pack and size + len(key) - skip + len(value) > bytes_max:
                body = msgpack.packb(pack)
                yield self._chunk(before, body)
                before, digest = before + len(pack) // 2, _digest(digest, body)
                pack, size = [], 0
            pack += (key[skip:], value)
            size += len(key) - skip + len(value)
        body = msgpack.packb(pack)
        end = _CHUNK_END.pack(before + len(pack) // 2, _digest(digest, body))
        yield self._chunk(before, body, end)

    def close(self) -> None:
        self._rows.close()

    def _chunk(self, before: int, body: bytes, end: bytes = b"") -> bytes:
        rest = _CHUNK.pack(0, CHUNK_FORMAT, bool(end), *self.meta.last, before)[4:] + end + body
        return crc32(rest).to_bytes(4, "big") + rest


class Staging:
    """A snapshot on its way in, beside the live rows. Made by `ReplicaData.stage`."""

    def __init__(
        self,
        meta: SnapshotMeta,
        number: int,
        prefix: bytes,
        disk: Disk,
        flip: "Callable[[Staging], Coroutine[object, object, None]]",
        abort: "Callable[[Staging], None]",
    ) -> None:
        self.meta, self.number = meta, number
        self.complete = False
        """Whether the last chunk has come in, and all of them fit together."""
        self._prefix, self._disk = prefix, disk
        self._flip, self._abort = flip, abort
        self._rows = 0
        self._last_key: bytes | None = None
        self._digest = _NO_DIGEST
        self._over = False

    def add(self, chunk: bytes) -> None:
        """Take the next chunk.

        Raises:
            BadChunk: it is damaged, of another snapshot, or not the next; nothing was changed.
        """
        if self._over or self.complete:
            raise BadChunk("the snapshot is complete, or was given up")
        final, before, body, end = self._opened(chunk)
        if before != self._rows:
            raise BadChunk(f"a chunk after {before} rows, where {self._rows} came in")
        rows = self._unpacked(body)
        count, digest = self._rows + len(rows), _digest(self._digest, body)
        if final and end != _CHUNK_END.pack(count, digest):
            raise BadChunk(f"{count} rows came in, and the last chunk counts or sums others")
        if rows:
            prefix = self._prefix
            self._disk.write([(prefix + key, value) for key, value in rows])
            self._last_key = rows[-1][0]
        self._rows, self._digest, self.complete = count, digest, final

    async def install(self) -> None:
        """Let the staged rows be the replica's state, durably once this returns."""
        assert self.complete and not self._over, "only a complete snapshot is installed"
        self._over = True
        await self._flip(self)

    def abort(self) -> None:
        """Give it up: what is staged is garbage."""
        if not self._over:
            self._over = True
            self._abort(self)

    def _opened(self, chunk: bytes) -> tuple[bool, int, bytes, bytes]:
        if len(chunk) < _CHUNK.size:
            raise BadChunk("a chunk without its header")
        checksum, form, final, index, term, before = _CHUNK.unpack_from(chunk)
        if crc32(memoryview(chunk)[4:]) != checksum:
            raise BadChunk("a chunk's checksum does not match")
        if form != CHUNK_FORMAT:
            raise BadChunk(f"a chunk of format {form}, this version reads {CHUNK_FORMAT}")
        if (index, term) != self.meta.last or final > 1:
            raise BadChunk(f"a chunk of snapshot {index}/{term}, not of {self.meta.last}")
        split = _CHUNK.size + (_CHUNK_END.size if final else 0)
        return bool(final), before, chunk[split:], chunk[_CHUNK.size : split]

    def _unpacked(self, body: bytes) -> list[tuple[bytes, bytes]]:
        try:
            fields = msgpack.unpackb(body, use_list=True)
        except (ValueError, msgpack.UnpackException) as error:
            raise BadChunk(f"a chunk is not msgpack: {type(error).__name__}") from error
        if (
            not isinstance(fields, list)
            or len(fields) % 2
            or any(type(field) is not bytes for field in fields)
        ):
            raise BadChunk("a chunk is not keys and values in turn")
        keys = fields[::2]
        last = self._last_key
        for key in keys:
            if last is not None and key <= last:
                raise BadChunk("a chunk's keys do not ascend")
            last = key
        return list(zip(keys, fields[1::2], strict=True))


async def reconcile(log_store: LogStore, data: ReplicaData, gid: GroupId) -> None:
    """Bring log and state of a replica together at the start, before the log is loaded.

    A crash between the two batches of a snapshot's installation leaves the state ahead of the log,
    or on a term that the log does not have there; the log's restart is then finished. It can be
    nothing else, because the state says that nothing was applied after the snapshot: entries that
    were applied had been durable in the log before.

    Raises:
        DataUnusable: one of the two lost what the other relies on.
    """
    record, start, last = log_store.record(gid), log_store.start(gid), log_store.last(gid)
    data.adopt(record.incarnation, start.membership)
    applied = data.applied
    if applied.index < start.last.index:
        raise DataUnusable(
            f"data database, group {gid}: it stands at {applied.index}, and the log begins after "
            f"{start.last.index}: rows were lost that no log can replay. Remove the replica from "
            "its group and add it again under a new id."
        )
    if applied.index <= last.index and log_store.term_at(gid, applied.index) == applied.term:
        return
    if data.installed != applied:
        raise damaged(
            f"log database, group {gid}",
            f"it ends at {last.index} of term {last.term} or differs below, and entry "
            f"{applied.index} of term {applied.term} had been applied from it",
        )
    await log_store.reset(gid, SnapshotMeta(applied, data.membership))


def sweep_orphans(disk: Disk, held: Collection[GroupId], rows_max: int) -> bool:
    """Delete up to `rows_max` rows, or 4 MiB, of groups that have no replica here.

    A group's progress record goes with its last rows and never before: it keeps a later replica of
    the group from taking rows that lie there for its own (`ReplicaData.adopt`).

    Returns:
        Whether there may be more.
    """
    for key, _ in disk.range(PROGRESS, bytes([PROGRESS[0] + 1])):
        gid = group_of(key)
        if gid in held:
            continue
        keys, size = [], 0
        lo, hi = rows_prefix(gid, 0), rows_prefix(GroupId(gid + 1), 0)
        for row, value in islice(disk.range(lo, hi), rows_max):
            keys.append(row)
            size += len(value)
            if size >= GARBAGE_BYTES_MAX:
                break
        else:
            if len(keys) < rows_max:
                keys.append(key)
        disk.write([(row, None) for row in keys])
        return True
    return False


def rows_prefix(gid: GroupId, install: int) -> bytes:
    return _ROWS_KEY.pack(ROWS, gid, install)


def decode_progress(gid: GroupId, key: bytes, raw: bytes) -> Progress:
    what = f"data database, group {gid}, progress"
    body = unseal(what, key, raw)
    if len(body) < _PROGRESS.size:
        raise damaged(what, "it is too short")
    _, *numbers = _PROGRESS.unpack_from(body)
    if max(numbers) > NUMBER_MAX or numbers[1] >= numbers[2]:
        raise damaged(what, "a number is out of range")
    incarnation, install, install_next, index, term, installed_index, installed_term = numbers
    return Progress(
        incarnation,
        install,
        install_next,
        EntryId(Index(index), Term(term)),
        EntryId(Index(installed_index), Term(installed_term)),
        stored_membership(what, body[_PROGRESS.size :]),
    )


def _strip(rows: Iterator[tuple[bytes, bytes]], length: int) -> Iterator[tuple[bytes, bytes]]:
    return ((key[length:], value) for key, value in rows)


def _gaps(gid: GroupId, alive: Sequence[int]) -> Iterator[tuple[bytes, bytes]]:
    """The key ranges of a group's rows outside the installs `alive`, which ascend."""
    lo = 0
    for number in alive:
        yield rows_prefix(gid, lo), rows_prefix(gid, number)
        lo = number + 1
    yield rows_prefix(gid, lo), rows_prefix(GroupId(gid + 1), 0)


def _digest(before: bytes, body: bytes) -> bytes:
    digest = blake2b(before, digest_size=_DIGEST_BYTES)
    digest.update(body)
    return digest.digest()
