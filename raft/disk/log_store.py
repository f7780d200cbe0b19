"""The logs of all replicas of a node: what a replica must hold on to, durably, across any crash.

Every write is synced, and the writes of one loop turn share one batch and one sync (the `Disk`
joins them). Each carries the *write number*, which the promise (`promise.py`) repeats, so that a
log which lost its end is found out. What a save means:

- Its future resolves once its rows are durable and, if it changed term or vote, once the promise
  that names them is on disk too. Futures of one group resolve in call order, so an entries-only
  save behind a vote waits with it: a message never shows a term that could be forgotten.
- Entries replace whatever lies from the first one's index on, in the same batch: no crash leaves a
  cut suffix without what replaces it, or two entries of different logs side by side.

Rows below a log's start are garbage as soon as the start record says so. They are deleted in
slices by the saves that follow, at no sync of their own, and found again at the next open. The
entries of a dropped replica lie in a *grave*, a record that says where they end. `sweep` deletes
both in slices, because an idle group saves nothing and a dropped one never will: one batch of them
all would hold up every other group of the node.
"""

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from raft.codec import encode_membership
from raft.disk.promise import (
    Found,
    Promise,
    PromiseKeeper,
    Vow,
    find_promise,
    no_promise,
)
from raft.disk.records import (
    BOOT_KEY,
    ENTRY,
    GRAVE,
    HARD_STATE,
    IDENTITY_KEY,
    REPLICA,
    START,
    START_AGAIN,
    TAIL,
    TOMBSTONE,
    WRITE_NUMBER_KEY,
    NodeIdentity,
    ReplicaRecord,
    Start,
    Tail,
    damaged,
    decode_entry,
    decode_hard_state,
    decode_identity,
    decode_number,
    decode_replica,
    decode_start,
    decode_tail,
    encode_entry,
    encode_hard_state,
    encode_identity,
    encode_number,
    encode_replica,
    encode_start,
    encode_tail,
    entry_key,
    entry_link,
    first_link,
    group_key,
    group_of,
    index_of,
    link,
)
from raft.errors import Compacted, DataUnusable, RaftError
from raft.ports import Disk, Slot, Write
from raft.types import (
    NOBODY,
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    HardState,
    Index,
    Membership,
    ReplicaId,
    SnapshotMeta,
    Term,
)

__all__ = ["LogStore", "NodeIdentity", "ReplicaRecord", "ReplicaRefused", "SavedLog"]

SWEEP_ROWS_MAX: Final = 256
"""How many rows below the start of its log a group's save deletes beside its own."""
ENTRY_HEAD_BYTES: Final = 16  # term and index, as `bytes` counts them
HARD_STATE_BYTES: Final = 16

Slots = tuple[Slot, Slot]
Raw = bytes  # by a name that `LogStore.bytes` does not hide


class ReplicaRefused(RaftError):
    """The replica cannot be created: its group has one here, or its id was used before."""


class SavedLog(NamedTuple):
    """What a replica starts from. `entries` must be consumed to the end before the first save."""

    record: ReplicaRecord
    hard_state: HardState
    start: SnapshotMeta
    entries: Iterator[Entry]


class _Group:
    """What memory holds of one replica's log. As of the last call, durable or not."""

    __slots__ = (
        "before", "hard_state", "loaded", "pending", "record", "start", "swept", "tail", "ticket",
        "totals", "unswept",
    )  # fmt: skip

    def __init__(
        self, record: ReplicaRecord, hard_state: HardState, start: Start, tail: Tail
    ) -> None:
        self.record = record
        self.hard_state = hard_state
        self.start = start
        self.tail = tail
        self.swept = self.unswept = self.first
        """Rows in `[swept, unswept)` are garbage below the log's start; none lies lower."""
        self.pending: dict[Index, tuple[Entry, bytes]] = {}
        """Entries and chain values on their way to the disk, which cannot be read there yet."""
        self.totals = array("Q")
        """For each entry held, the bytes of all entries up to it, counted from `before`."""
        self.before = 0
        self.ticket = 0
        """The promise that names the last term and vote whose log rows are durable."""
        self.loaded = False

    @property
    def first(self) -> Index:
        return Index(self.start.meta.last.index + 1)

    def count(self, entries: Sequence[Entry]) -> None:
        total = self.totals[-1] if self.totals else self.before
        for entry in entries:
            total += ENTRY_HEAD_BYTES + len(entry[3])
            self.totals.append(total)

    def drop_front(self, start: Start) -> None:
        """Let the log begin at `start`, within it or at its end."""
        dropped = start.meta.last.index - self.start.meta.last.index
        if dropped:
            self.before = self.totals[dropped - 1]
            del self.totals[:dropped]
        self.start = start
        self.unswept = self.first

    def drop_all(self, start: Start) -> None:
        self.unswept = Index(min(self.tail.last.index, start.meta.last.index) + 1)
        self.start, self.tail = start, Tail(start.meta.last, start.chain)
        self.totals, self.before = array("Q"), 0
        self.pending.clear()
        self.loaded = True


class LogStore:
    """The log database of one node, with its promise. Made by `create` or `open`."""

    def __init__(
        self,
        disk: Disk,
        keeper: PromiseKeeper,
        identity: NodeIdentity,
        groups: dict[GroupId, _Group],
        write_number: int,
        boot: int,
    ) -> None:
        """Use `create` or `open`."""
        self.identity = identity
        self.boot = boot
        """How often this directory was opened; no earlier life of the node had this number."""
        self._disk = disk
        self._keeper = keeper
        self._groups = groups
        self._number = write_number
        self._outstanding: dict[asyncio.Future[None], asyncio.Future[None]] = {}
        """Saves that somebody may wait for, and the syncs that they stand on."""
        self._dropped: dict[GroupId, ReplicaId] = {}  # tombstones that may still be on their way
        self._graves = _read_graves(disk)

    # Birth and start

    @classmethod
    async def create(cls, disk: Disk, slots: Slots, identity: NodeIdentity) -> "LogStore":
        """Write the identity of a new node. A creation that a crash cut short may be repeated.

        Raises:
            DataUnusable: the disk or the slots hold a node already, or what is left of one.
        """
        found = find_promise(slots)
        lived = found.promise is not None and found.promise.vows
        if lived or found.whole == 2 or found.damaged == 2 or _read_groups(disk):
            raise DataUnusable(
                "log database or promise: holds a node already, or what is left of one; nothing "
                f"was changed. If it cannot be opened: {START_AGAIN}"
            )
        rows: list[Write] = [
            (IDENTITY_KEY, encode_identity(identity)),
            (BOOT_KEY, encode_number(BOOT_KEY, 1)),
            (WRITE_NUMBER_KEY, encode_number(WRITE_NUMBER_KEY, 1)),
        ]
        await disk.sync(rows)
        keeper = PromiseKeeper(slots, identity, found, 1)
        for _ in slots:
            await keeper.write_now()
        return cls(disk, keeper, identity, {}, 1, 1)

    @classmethod
    async def open(
        cls, disk: Disk, slots: Slots, identity: NodeIdentity | None = None
    ) -> "LogStore":
        """Read what a node left and check that it is all there; a damaged slot is repaired.

        The entries themselves are checked by `load`.

        Args:
            identity: Whose directory it should be, if that is known.

        Raises:
            DataUnusable: another node's, damaged, newer than this version, or less than the node
                had promised.
        """
        found = find_promise(slots)
        promise = found.promise
        stored = disk.get(IDENTITY_KEY)
        if promise is None:
            if stored is None and not found.written:
                raise DataUnusable("log database: not initialised; create the node first")
            raise no_promise()
        if stored is None:
            raise damaged(
                "log database", f"it is empty, and node {promise.identity.node} lived here"
            )
        _check_identity(decode_identity(stored), promise.identity, identity)
        what = "log database, the write number"
        number = decode_number(what, WRITE_NUMBER_KEY, disk.get(WRITE_NUMBER_KEY))
        if number < promise.write_number:
            raise damaged(
                "log database",
                f"it ends at write {number}, and this node had promised {promise.write_number}: "
                "the end of the log was cut off or an old copy put back",
            )
        boot = decode_number("log database, the boot number", BOOT_KEY, disk.get(BOOT_KEY)) + 1
        groups = _read_groups(disk)
        _check_vows(disk, groups, promise)
        # The boot number and a promise that covers it: from here on both slots are good in turn.
        number += 1
        await disk.sync(
            [
                (BOOT_KEY, encode_number(BOOT_KEY, boot)),
                (WRITE_NUMBER_KEY, encode_number(WRITE_NUMBER_KEY, number)),
            ]
        )
        keeper = _keeper(slots, found, promise.identity, groups, number)
        await keeper.write_now()
        return cls(disk, keeper, promise.identity, groups, number, boot)

    async def close(self) -> None:
        """Wait for the saves under way and write the last promise. The disk stays open: it is
        whoever opened it that closes it."""
        while self._outstanding:
            # Of a save whose caller gave up only the disk still tells when it is over.
            ends = [s if done.cancelled() else done for done, s in self._outstanding.items()]
            await asyncio.gather(*ends)
        await self._keeper.close()

    def abandon(self) -> None:
        """Stop as a crash would: no timer of this store writes any more."""
        self._keeper.abandon()

    # Replicas

    def replicas(self) -> list[ReplicaRecord]:
        """The replicas on this node, by group id."""
        return [self._groups[gid].record for gid in sorted(self._groups)]

    def record(self, gid: GroupId) -> ReplicaRecord:
        return self._groups[gid].record

    def find(self, gid: GroupId) -> ReplicaRecord | None:
        """The group's replica here; None if there is none."""
        group = self._groups.get(gid)
        return None if group is None else group.record

    def hard_state(self, gid: GroupId) -> HardState:
        return self._groups[gid].hard_state

    def tombstone(self, gid: GroupId) -> ReplicaId:
        """The highest replica id of the group that was dropped on this node, 0 if none was."""
        if gid in self._dropped:
            return self._dropped[gid]
        return _tombstone(self._disk, gid)

    def create_replica(
        self, record: ReplicaRecord, start: SnapshotMeta, hard_state: HardState | None = None
    ) -> "asyncio.Future[None]":
        """Create a replica whose log begins after `start`. Only ever done by explicit command.

        Raises:
            ReplicaRefused: the group has a replica here, or one with this id or a higher one was
                dropped: an id is never used again, since its votes may still be on their way.
        """
        gid, _, replica, _ = record
        if gid in self._groups:
            raise ReplicaRefused(f"group {gid} has a replica on this node already")
        if replica <= (dropped := self.tombstone(gid)):
            raise ReplicaRefused(
                f"replica {replica} of group {gid}: ids up to {dropped} were used on this node"
            )
        state = hard_state if hard_state is not None else HardState()
        assert state.term >= start.last.term, "a replica's term is at least its log's"
        first = Start(start, first_link(record.uuid, start.last))
        group = _Group(record, state, first, Tail(start.last, first.chain))
        group.loaded = True
        self._groups[gid] = group
        rows: list[Write] = [
            (group_key(REPLICA, gid), encode_replica(record)),
            (group_key(HARD_STATE, gid), encode_hard_state(gid, state)),
            (group_key(START, gid), encode_start(gid, first)),
            (group_key(TAIL, gid), encode_tail(gid, group.tail)),
        ]
        if gid in self._graves:  # its entries would lie among the new log's: they go at once
            rows += self._swept(gid, None)
        return self._sync(group, rows, state)

    def drop_replica(self, gid: GroupId) -> "asyncio.Future[None]":
        """Delete a replica and leave a tombstone; its id never comes back on this node.

        Its entries stay in their grave until `sweep` has deleted them all.
        """
        group = self._groups.pop(gid)
        highest = self._dropped[gid] = max(group.record.replica, self.tombstone(gid))
        key, grave = group_key(TOMBSTONE, gid), group_key(GRAVE, gid)
        end = group.tail.last.index + 1
        rows: list[Write] = [(key, encode_number(key, highest)), (grave, encode_number(grave, end))]
        rows += [(group_key(kind, gid), None) for kind in (REPLICA, HARD_STATE, START, TAIL)]
        self._graves[gid] = _Grave(group.swept, end)
        return self._sync(group, rows, None, dropped=True)

    def sweep(self, rows_max: int) -> bool:
        """Delete up to `rows_max` entries that nobody needs: of replicas that were dropped, and
        below the starts of logs. Whether there were any."""
        rows: list[Write] = []
        for gid in list(self._graves):
            if len(rows) < rows_max:
                rows += self._swept(gid, rows_max - len(rows))
        for group in self._groups.values():
            if len(rows) < rows_max:
                self._sweep(group, rows, rows_max - len(rows))
        if not rows:
            return False
        self._sync(None, rows, None)
        return True

    def _swept(self, gid: GroupId, rows_max: int | None) -> list[Write]:
        """Deletes of a grave's next entries, and of the grave with its last ones."""
        lo, end = self._graves[gid]
        hi = end if rows_max is None else min(end, lo + rows_max)
        rows: list[Write] = list(_deletes(gid, lo, hi))
        if hi < end:
            self._graves[gid] = _Grave(hi, end)
        else:
            del self._graves[gid]
            rows.append((group_key(GRAVE, gid), None))
        return rows

    async def rebirth(self, record: ReplicaRecord, membership: Membership) -> None:
        """Let the replica of a group be the first one of another group, with all that it holds.

        Where a majority is lost for good (`shardkv ctl recover`): the log goes on, under another
        uuid, with an entry that makes `membership` the members. One synced batch: a crash leaves
        the replica as it was, or as it is to be. What was not known to be committed in the old
        group is committed by the new one, whose only voter holds it.

        Args:
            record: Of the same gid and incarnation (the rows stay this replica's), another uuid,
                and an id above every one that the old group has given: none comes back by it.
            membership: With `record.replica` as its only voter. The replica does not run.
        """
        gid = record.gid
        group = self._groups[gid]
        old = group.record
        # A save under way would name its vote under the new id, before the new id is on disk.
        await asyncio.gather(*list(self._outstanding.values()), return_exceptions=True)
        assert group.loaded and self._groups[gid] is group, "it was loaded, and is still here"
        assert record.incarnation == old.incarnation and record.uuid != old.uuid, (old, record)
        assert record.replica > old.replica, f"{record} takes an id that was given: {old}"
        last = group.tail.last
        term = Term(max(group.hard_state.term, last.term) + 1)
        entry = Entry(
            Index(last.index + 1), term, EntryKind.MEMBERSHIP, encode_membership(membership)
        )
        group.record, group.hard_state = record, HardState(term)
        key, used = group_key(TOMBSTONE, gid), max(old.replica, self.tombstone(gid))
        self._dropped[gid] = ReplicaId(used)
        rows: list[Write] = [
            (group_key(REPLICA, gid), encode_replica(record)),
            (key, encode_number(key, used)),
            (group_key(HARD_STATE, gid), encode_hard_state(gid, group.hard_state)),
        ]
        self._append(group, (entry,), rows)
        await self._sync(group, rows, group.hard_state, (entry,))

    # One replica's log

    def load(self, gid: GroupId) -> SavedLog:
        """What the replica starts from. Every entry and the chain through all are verified while
        they are iterated.

        Raises:
            DataUnusable: here, or by the iterator: the message names group and index.
        """
        group = self._groups[gid]
        assert not group.pending, "a log is loaded before it is written"
        return SavedLog(group.record, group.hard_state, group.start.meta, self._entries(group))

    def save(
        self, gid: GroupId, hard_state: HardState | None, entries: Sequence[Entry]
    ) -> "asyncio.Future[None]":
        """Save what a replica decided; see the module's text for what the future means.

        Args:
            hard_state: The new term and vote; None if they have not changed.
            entries: Contiguous, from at most one past the last entry; they replace all from the
                first one's index on.
        """
        group = self._groups[gid]
        rows: list[Write] = []
        if hard_state is not None:
            old = group.hard_state
            assert hard_state.term > old.term or (
                hard_state.term == old.term and old.vote in (NOBODY, hard_state.vote)
            ), f"{old} -> {hard_state}: a term falls or a vote changes within one (R2, R12)"
            group.hard_state = hard_state
            rows.append((group_key(HARD_STATE, gid), encode_hard_state(gid, hard_state)))
        if entries:
            self._append(group, entries, rows)
        self._sweep(group, rows)
        return self._sync(group, rows, hard_state, entries)

    def reset(
        self, gid: GroupId, start: SnapshotMeta, *, keep_suffix: bool = False
    ) -> "asyncio.Future[None]":
        """Restart a log behind an installed snapshot, in one batch.

        Args:
            keep_suffix: The log holds `start.last`, term and all, and keeps what follows it.
                Otherwise it is dropped whole (hashicorp/raft#697 is the loss that a kept, differing
                suffix causes).

        A term below the snapshot's is raised to it in the same batch, without a vote: a vote in
        that term would have been saved. So no crash leaves a log ahead of its replica's term.
        """
        group = self._groups[gid]
        if keep_suffix:
            return self.cut(gid, start)
        # Rows above the new start must go with this batch; those below it are only garbage.
        above = max(group.swept, start.last.index + 1)
        rows = _deletes(gid, above, group.tail.last.index + 1)
        group.drop_all(Start(start, first_link(group.record.uuid, start.last)))
        rows.append((group_key(START, gid), encode_start(gid, group.start)))
        rows.append((group_key(TAIL, gid), encode_tail(gid, group.tail)))
        raised = None
        if group.hard_state.term < start.last.term:
            raised = group.hard_state = HardState(start.last.term, NOBODY)
            rows.append((group_key(HARD_STATE, gid), encode_hard_state(gid, raised)))
        self._sweep(group, rows)
        return self._sync(group, rows, raised)

    def cut(self, gid: GroupId, start: SnapshotMeta) -> "asyncio.Future[None]":
        """Drop the prefix up to `start.last`, which lies in the log; what follows it stays.

        Only what is durable elsewhere may be cut: in the tables of the data database.
        """
        group = self._groups[gid]
        assert group.start.meta.last.index <= start.last.index <= group.tail.last.index
        term, chain = self._link_at(group, start.last.index)
        assert term == start.last.term, f"{start.last} is not in this log, which has term {term}"
        group.drop_front(Start(start, chain))
        rows: list[Write] = [(group_key(START, gid), encode_start(gid, group.start))]
        self._sweep(group, rows)
        return self._sync(group, rows, None)

    def read(self, gid: GroupId, lo: Index, hi: Index, bytes_max: int) -> tuple[Entry, ...]:
        """The entries in `[lo, hi)` up to `bytes_max` of data, but at least one; verified again.

        Raises:
            Compacted: `lo` lies below the first entry.
            DataUnusable: an entry is damaged.
        """
        group = self._groups[gid]
        if lo < group.first:
            raise Compacted(lo, group.first)
        assert hi <= group.tail.last.index + 1, f"[{lo}, {hi}) ends past {group.tail.last.index}"
        found: list[Entry] = []
        size = 0
        chain: Raw | None = None
        index = lo
        stored: Iterator[tuple[Raw, Raw]] | None = None
        while index < hi:
            item = group.pending.get(index)
            if item is None:
                if stored is None:
                    chain = self._link_at(group, Index(index - 1))[1]
                    stored = self._disk.range(entry_key(gid, index), entry_key(gid, hi))
                key, raw = next(stored, (b"", b""))
                if key != entry_key(gid, index):
                    raise damaged(f"log database, group {gid}, entry {index}", "it is missing")
                assert chain is not None
                item = decode_entry(gid, index, raw, chain)
            else:
                stored = None
            entry, chain = item
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
            index = Index(index + 1)
        return tuple(found)

    def last(self, gid: GroupId) -> EntryId:
        """The last entry of the log, or what it starts after."""
        return self._groups[gid].tail.last

    def start(self, gid: GroupId) -> SnapshotMeta:
        return self._groups[gid].start.meta

    def term_at(self, gid: GroupId, index: Index) -> Term:
        """The term of an entry in the log, or of the one it starts after."""
        return self._link_at(self._groups[gid], index)[0]

    def bytes(self, gid: GroupId) -> int:
        """Term, index and payload of the entries held, and the hard state: no framing."""
        group = self._groups[gid]
        held = group.totals[-1] - group.before if group.totals else 0
        return held + HARD_STATE_BYTES

    def floor(self, gid: GroupId, entries_max: int, bytes_max: int) -> Index:
        """The lowest index above which the log holds at most so many entries and bytes."""
        group = self._groups[gid]
        totals = group.totals
        surplus = (totals[-1] if totals else group.before) - bytes_max
        dropped = 0 if group.before >= surplus else bisect_left(totals, surplus) + 1
        return Index(max(group.first - 1 + dropped, group.tail.last.index - entries_max))

    def bytes_up_to(self, gid: GroupId, index: Index) -> int:
        """Of those `bytes`, what a cut up to an entry of the log, or to its start, takes away."""
        group = self._groups[gid]
        cut = index - (group.first - 1)
        return group.totals[cut - 1] - group.before if cut else 0

    # How

    def _append(self, group: _Group, entries: Sequence[Entry], rows: list[Write]) -> None:
        gid = group.record.gid
        first, last = entries[0].index, group.tail.last.index
        assert group.loaded, "a log is loaded to its end before it is written"
        assert group.first <= first <= last + 1, (
            f"{first} does not continue ({group.first}, {last}]"
        )
        term, chain = group.tail.last.term, group.tail.chain
        if first <= last:
            term, chain = self._link_at(group, Index(first - 1))
            del group.totals[first - group.first :]
        expected = first
        for entry in entries:
            assert entry.index == expected and entry.term >= term, f"{entry.id} breaks the log"
            chain = link(chain, entry)
            rows.append((entry_key(gid, expected), encode_entry(entry, chain)))
            group.pending[expected] = (entry, chain)
            term = entry.term
            expected = Index(expected + 1)
        group.count(entries)
        for index in range(expected, last + 1):
            rows.append((entry_key(gid, index), None))
            group.pending.pop(Index(index), None)
        group.tail = Tail(entries[-1].id, chain)
        rows.append((group_key(TAIL, gid), encode_tail(gid, group.tail)))

    def _link_at(self, group: _Group, index: Index) -> tuple[Term, Raw]:
        """The term and chain value at an index from the log's start to its end."""
        if index == group.start.meta.last.index:
            return group.start.meta.last.term, group.start.chain
        if index == group.tail.last.index:
            return group.tail.last.term, group.tail.chain
        if index < group.first:
            raise Compacted(index, group.first)
        item = group.pending.get(index)
        if item is not None:
            return item[0].term, item[1]
        gid = group.record.gid
        return entry_link(gid, index, self._disk.get(entry_key(gid, index)))

    def _entries(self, group: _Group) -> Iterator[Entry]:
        gid, chain, expected = group.record.gid, group.start.chain, group.first
        term = group.start.meta.last.term
        group.totals, group.before, group.loaded = array("Q"), 0, False
        last = group.tail.last.index
        for key, raw in self._disk.range(
            entry_key(gid, expected), group_key(ENTRY, GroupId(gid + 1))
        ):
            index = index_of(key)
            if index != expected:
                what = f"log database, group {gid}, entry {expected}"
                raise damaged(
                    what, f"it is missing: entry {index} comes next, the log ends at {last}"
                )
            entry, chain = decode_entry(gid, index, raw, chain)
            if entry.term < term:
                raise damaged(f"log database, group {gid}, entry {index}", "its term falls")
            term, expected = entry.term, Index(expected + 1)
            group.count((entry,))
            yield entry
        if Tail(EntryId(Index(expected - 1), term), chain) != group.tail:
            raise damaged(
                f"log database, group {gid}, entry {expected}",
                f"the log ends before it, and it had been written up to {last}",
            )
        if term > group.hard_state.term:
            raise damaged(
                f"log database, group {gid}, term and vote",
                f"it says term {group.hard_state.term}, and entry {last} is of term {term}",
            )
        group.loaded = True

    def _sweep(self, group: _Group, rows: list[Write], rows_max: int = SWEEP_ROWS_MAX) -> None:
        """Delete a slice of the rows below the log's start along with `rows`."""
        lo, hi = group.swept, min(group.unswept, group.swept + rows_max)
        if lo < hi:
            rows += _deletes(group.record.gid, lo, hi)
            group.swept = Index(hi)
        if hi >= group.unswept:
            group.swept = group.unswept = group.first

    def _sync(
        self,
        group: _Group | None,
        rows: list[Write],
        hard_state: HardState | None,
        entries: Sequence[Entry] = (),
        *,
        dropped: bool = False,
    ) -> "asyncio.Future[None]":
        self._number += 1
        rows.append((WRITE_NUMBER_KEY, encode_number(WRITE_NUMBER_KEY, self._number)))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        synced = self._outstanding[done] = self._disk.sync(rows)
        save = _Save(self._number, group, hard_state, entries, dropped, done)
        synced.add_done_callback(partial(self._synced, save))
        return done

    def _synced(self, save: "_Save", synced: "asyncio.Future[None]") -> None:
        done, group = save.done, save.group
        error = synced.exception()
        if error is not None:
            del self._outstanding[done]
            if not done.done():
                done.set_exception(error)
            return
        if group is None:  # of no replica that is here: nobody's promise waits for it
            self._keeper.synced(save.number)
            del self._outstanding[done]
            self._keeper.when(0, done)
            return
        for entry in save.entries:
            pending = group.pending.get(entry.index)
            if pending is not None and pending[0] is entry:
                del group.pending[entry.index]
        self._keeper.synced(save.number)
        if save.hard_state is not None:
            group.ticket = self._keeper.vow(group.record.gid, group.record.replica, save.hard_state)
        elif save.dropped:
            group.ticket = self._keeper.forget(group.record.gid)
        if group.ticket <= self._keeper.written:
            del self._outstanding[done]
        else:
            done.add_done_callback(self._settled)
        self._keeper.when(group.ticket, done)

    def _settled(self, done: "asyncio.Future[None]") -> None:
        self._outstanding.pop(done, None)


class _Save(NamedTuple):
    """A save on its way to the disk."""

    number: int
    group: _Group | None
    hard_state: HardState | None
    entries: Sequence[Entry]
    dropped: bool
    done: "asyncio.Future[None]"


class _Grave(NamedTuple):
    """Entries in `[lo, end)` of a replica that was dropped."""

    lo: int
    end: int


def _deletes(gid: GroupId, lo: int, hi: int) -> list[Write]:
    return [(entry_key(gid, index), None) for index in range(lo, hi)]


def _read_groups(disk: Disk) -> dict[GroupId, _Group]:
    groups: dict[GroupId, _Group] = {}
    for key, raw in disk.range(REPLICA, bytes([REPLICA[0] + 1])):
        record = decode_replica(key, raw)
        gid = record.gid
        group = _Group(
            record,
            decode_hard_state(gid, disk.get(group_key(HARD_STATE, gid))),
            decode_start(gid, disk.get(group_key(START, gid))),
            decode_tail(gid, disk.get(group_key(TAIL, gid))),
        )
        if group.tail.last.index < group.start.meta.last.index:
            raise damaged(f"log database, group {gid}", "its log ends before it starts")
        for row, _ in disk.range(group_key(ENTRY, gid), entry_key(gid, group.first)):
            group.swept = index_of(row)
            break
        groups[gid] = group
    return groups


def _read_graves(disk: Disk) -> dict[GroupId, _Grave]:
    """What earlier lives dropped and did not finish deleting, in order of groups."""
    graves: dict[GroupId, _Grave] = {}
    for key, raw in disk.range(GRAVE, bytes([GRAVE[0] + 1])):
        gid = group_of(key)
        end = decode_number(f"log database, group {gid}, grave", key, raw)
        lo = end
        for row, _ in disk.range(group_key(ENTRY, gid), entry_key(gid, Index(end))):
            lo = index_of(row)
            break
        graves[gid] = _Grave(lo, end)
    return graves


def _tombstone(disk: Disk, gid: GroupId) -> ReplicaId:
    key = group_key(TOMBSTONE, gid)
    raw = disk.get(key)
    if raw is None:
        return NOBODY
    return ReplicaId(decode_number(f"log database, group {gid}, tombstone", key, raw))


def _check_identity(
    stored: NodeIdentity, promised: NodeIdentity, expected: NodeIdentity | None
) -> None:
    if stored != promised:
        raise damaged(
            "log database",
            f"it belongs to node {stored.node} of cluster {stored.cluster.hex()}, its promise to "
            f"node {promised.node} of cluster {promised.cluster.hex()}: files were exchanged",
        )
    if expected is not None and stored != expected:
        raise DataUnusable(
            f"log database: it belongs to node {stored.node} of cluster {stored.cluster.hex()}, "
            f"not to node {expected.node} of cluster {expected.cluster.hex()}. Use the directory "
            "of this node."
        )


def _check_vows(disk: Disk, groups: dict[GroupId, _Group], promise: Promise) -> None:
    """The log must hold what each replica told its group: its term, and in it its vote."""
    for gid, replica, vowed in promise.vows:
        group = groups.get(gid)
        if group is None or group.record.replica != replica:
            if _tombstone(disk, gid) >= replica:
                continue  # dropped after that promise was written
            raise damaged(
                f"log database, group {gid}",
                f"replica {replica} is not in it, and had promised term {vowed.term}",
            )
        held = group.hard_state
        if held.term < vowed.term or (
            held.term == vowed.term and vowed.vote not in (NOBODY, held.vote)
        ):
            raise damaged(
                f"log database, group {gid}, term and vote",
                f"it says term {held.term}, vote {held.vote}, and this node had promised term "
                f"{vowed.term}, vote {vowed.vote}",
            )


def _keeper(
    slots: Slots,
    found: Found,
    identity: NodeIdentity,
    groups: dict[GroupId, _Group],
    write_number: int,
) -> PromiseKeeper:
    keeper = PromiseKeeper(slots, identity, found, write_number)
    keeper.restore(
        Vow(gid, groups[gid].record.replica, groups[gid].hard_state) for gid in sorted(groups)
    )
    return keeper
