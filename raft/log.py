"""The log of one replica since its last snapshot: which term stands where, and what is durable.

The term of every index is known (as runs of equal terms); the entries themselves are held in memory
up to a bound and read back from the log store beyond it. What lies in the snapshot is `Compacted`,
an error and never a term 0, which would match another 0 (etcd-io/raft 76f1249).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from raft.codec import decode_membership
from raft.entry_memory import EntryMemory
from raft.errors import Compacted
from raft.types import Entry, EntryId, EntryKind, Index, Membership, SnapshotMeta, Term

ENTRY_OVERHEAD_BYTES: Final = 64
"""Counted for each entry beside its data, so that empty ones are not free."""

ReadEntries = Callable[[Index, Index, int], Sequence[Entry]]
"""Entries `[lo, hi)` of the log store, at least the first, then as many as fit in the bytes."""


def entry_bytes(entry: Entry) -> int:
    """What an entry counts for in every bound of bytes."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


@dataclass(slots=True)
class _Save:
    """A batch on its way to the disk. `valid` falls when entries of it are replaced meanwhile."""

    last: EntryId
    valid: Index


class Log:
    """Entries `(start, last]`, and the memberships that stand among them.

    Args:
        start: What the entries before the log amount to: their last id and the members there.
        read: Reads entries back that are no longer in memory; they are durable.
        memory: What this log and others may keep in memory; its own, of a number of bytes.

    Attributes:
        start: The snapshot that the log continues. Invariant R7: start <= applied <= commit.
        last: The last entry's id; `start.last` when the log is empty.
        durable: Entries up to here survive a crash. Invariant: durable <= last.index.
        memberships: Where each was appended, from the one in force at `start` on; ascending.
    """

    def __init__(self, start: SnapshotMeta, read: ReadEntries, memory: EntryMemory | int) -> None:
        self._read = read
        self._memory = EntryMemory(memory) if isinstance(memory, int) else memory
        self._cache_bytes = 0
        self._saves: deque[_Save] = deque()
        self._begin_at(start)
        self.durable = start.last.index

    def _begin_at(self, start: SnapshotMeta) -> None:
        self.start = start
        self.last = start.last
        self.reads = 0
        """How often entries were asked for"""
        self.reads_back = 0
        """... and had to be read from the disk."""
        self._cache: list[Entry] = []
        self._cache_first = Index(start.last.index + 1)
        self._memory.shrunk(self._cache_bytes)
        self._cache_bytes = 0
        self._run_firsts: list[int] = [start.last.index]  # run k: [firsts[k], firsts[k + 1])
        self._run_terms: list[Term] = [start.last.term]
        self.memberships: list[tuple[Index, Membership]] = [(start.last.index, start.membership)]
        self._unsaved = Index(start.last.index + 1)

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take what the log store holds, at load: contiguous, and all of it durable."""
        for entry in entries:
            self.append((entry,))
            self.durable = entry.index
            self._unsaved = Index(entry.index + 1)

    # Looking

    @property
    def first(self) -> Index:
        """Where the first entry stands, or will stand."""
        return Index(self.start.last.index + 1)

    @property
    def membership(self) -> Membership:
        """The last one in the log, committed or not (Raft (extended), section 6)."""
        return self.memberships[-1][1]

    @property
    def membership_index(self) -> Index:
        """Where the membership in force was appended."""
        return self.memberships[-1][0]

    def term(self, index: Index) -> Term:
        """The term of the entry at `index`, which must not be past the end.

        Raises:
            Compacted: the entry lies before `start`.
        """
        last_index, last_term = self.last
        if index == last_index:
            return last_term
        if index < self.start.last.index:
            raise Compacted(index, self.first)
        assert index <= last_index, f"index {index} is past the end, {last_index}"
        return self._run_terms[bisect_right(self._run_firsts, index) - 1]

    def id_at(self, index: Index) -> EntryId:
        """See `term`."""
        return EntryId(index, self.term(index))

    def holds(self, entry: EntryId) -> bool:
        """Whether the log has this very entry, and so all before it (Log Matching).

        Raises:
            Compacted: the entry lies before `start`.
        """
        return entry.index <= self.last.index and self.term(entry.index) == entry.term

    def last_not_above(self, index: Index, term: Term) -> EntryId:
        """The last entry at or before `index` whose term is at most `term`.

        Conflict-term back-tracking (Raft (extended), end of section 5.3): every entry between it
        and `index` is of a term that the other log cannot hold there, so all are skipped at once.

        Raises:
            Compacted: such an entry would lie before `start`.
        """
        hi: int = min(index, self.last.index)
        for k in range(bisect_right(self._run_firsts, hi) - 1, -1, -1):
            if self._run_terms[k] <= term:
                return EntryId(Index(hi), self._run_terms[k])
            hi = self._run_firsts[k] - 1
        raise Compacted(Index(hi), self.first)

    def slice(self, lo: Index, hi: Index, bytes_max: int) -> tuple[Entry, ...]:
        """Entries `[lo, hi)`: at least the first, then as many as fit in `bytes_max`.

        Raises:
            Compacted: `lo` lies at or before `start`.
        """
        if lo < self.first:
            raise Compacted(lo, self.first)
        assert lo < hi <= self.last.index + 1, f"[{lo}, {hi}) is not in the log"
        self.reads += 1
        if lo < self._cache_first:
            self.reads_back += 1
            found = tuple(self._read(lo, min(hi, self._cache_first), bytes_max))
            assert found, f"the log store lost entry {lo}"
            assert found[0].id == self.id_at(lo), f"the log store holds another entry {lo}"
            return found
        begin = lo - self._cache_first
        end = hi - self._cache_first
        if self._cache_bytes <= bytes_max:
            return tuple(self._cache[begin:end])
        size = 0
        for position in range(begin, end):
            size += len(self._cache[position].data) + ENTRY_OVERHEAD_BYTES
            if size > bytes_max and position > begin:
                end = position
                break
        return tuple(self._cache[begin:end])

    def membership_at(self, index: Index) -> Membership:
        """The membership in force once everything up to `index` was appended."""
        place = bisect_right(self.memberships, index, key=lambda item: item[0])
        return self.memberships[place - 1][1]

    # Changing

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow `last` directly; a membership among them is in force at once."""
        index, term = self.last
        size = 0
        for entry in entries:
            at, entry_term, kind, data = entry
            index = Index(index + 1)
            assert at == index, f"entry {at} does not follow {index - 1}"
            if entry_term != term:
                assert entry_term > term, "terms never fall along a log"
                term = entry_term
                self._run_firsts.append(index)
                self._run_terms.append(term)
            if kind is EntryKind.MEMBERSHIP:
                self.memberships.append((index, decode_membership(data)))
            size += len(data) + ENTRY_OVERHEAD_BYTES
        self._cache.extend(entries)
        self._cache_bytes += size
        self.last = EntryId(index, term)
        self._memory.grown(self, size)

    def truncate(self, lo: Index) -> None:
        """Drop the entries from `lo` on, and with them the memberships that they brought."""
        assert self.start.last.index < lo <= self.last.index
        before = self.id_at(Index(lo - 1))
        kept = max(0, lo - self._cache_first)
        dropped = sum(entry_bytes(entry) for entry in self._cache[kept:])
        self._cache_bytes -= dropped
        self._memory.shrunk(dropped)
        del self._cache[kept:]
        self._cache_first = min(self._cache_first, lo)
        while self._run_firsts[-1] >= lo:
            self._run_firsts.pop()
            self._run_terms.pop()
        while self.memberships[-1][0] >= lo:
            self.memberships.pop()
        self.last = before
        self.durable = min(self.durable, before.index)
        self._unsaved = min(self._unsaved, lo)
        for save in self._saves:
            # Its entries from `lo` on will be replaced on disk too, however it ends.
            save.valid = min(save.valid, before.index)

    def compact(self, index: Index) -> SnapshotMeta:
        """Drop the entries up to `index`, which the applied state holds; return the new start."""
        if index <= self.start.last.index:
            return self.start
        assert index <= self.durable, "only durable entries are dropped"
        start = SnapshotMeta(self.id_at(index), self.membership_at(index))
        run = bisect_right(self._run_firsts, index) - 1
        del self._run_firsts[:run], self._run_terms[:run]
        self._run_firsts[0] = index
        place = bisect_right(self.memberships, index, key=lambda item: item[0])
        del self.memberships[: place - 1]
        self._drop_cached(max(0, index + 1 - self._cache_first))
        self.start = start
        return start

    def reset(self, start: SnapshotMeta) -> None:
        """Begin anew behind an installed snapshot: whatever the log held is dropped whole.

        Keeping a tail without knowing that the log held the snapshot's last entry would keep
        entries that contradict it (hashicorp/raft#697). Not durable before `persisted` says so.
        """
        durable = min(self.durable, Index(start.last.index - 1))
        self._begin_at(start)
        self.durable = durable
        for save in self._saves:
            save.valid = Index(0)

    # Durability

    @property
    def has_unsaved(self) -> bool:
        return self._unsaved <= self.last.index

    def take_unsaved(self) -> tuple[Entry, ...]:
        """Entries that no save has taken yet; they replace what is on disk from the first on."""
        if self._unsaved > self.last.index:
            return ()
        taken = tuple(self._cache[self._unsaved - self._cache_first :])
        self._unsaved = Index(self.last.index + 1)
        self._saves.append(_Save(self.last, self.last.index))
        return taken

    def note_reset_saved(self) -> None:
        """The save that restarts the log at `start` is on its way."""
        self._saves.append(_Save(self.start.last, self.start.last.index))

    def persisted(self, index: Index, term: Term) -> None:
        """The save that ended at (index, term) is durable, and so is each one before it.

        It counts only for those of its entries that were not replaced since: a save may hold
        (5, term 2), the next one replace it by (5, term 3), a third bring (5, term 2) back. The
        first one's completion must not count for the third's entry, so saves are told apart by
        their order, not by index and term alone (safeguard H09).
        """
        if not any(save.last == (index, term) for save in self._saves):
            return
        while self._saves:
            save = self._saves.popleft()
            self.durable = max(self.durable, save.valid)
            if save.last == (index, term):
                break
        assert self.durable <= self.last.index
        self._memory.make_room()

    # Memory

    @property
    def cached_bytes(self) -> int:
        """What is kept in memory, in bytes of entries."""
        return self._cache_bytes

    def forget(self, bytes_: int) -> None:
        """See `raft/entry_memory.py`."""
        size = count = 0
        for entry in self._cache:
            if size >= bytes_ or entry.index > self.durable:
                break
            size += entry_bytes(entry)
            count += 1
        self._drop_cached(count)

    def let_go(self) -> None:
        """Nobody appends to this log or reads it any more, as a rule: keep nothing in memory."""
        self._memory.left(self)
        self._memory = EntryMemory(0)
        self._memory.grown(self, self._cache_bytes)

    def _drop_cached(self, count: int) -> None:
        count = min(count, len(self._cache))
        dropped = sum(entry_bytes(entry) for entry in self._cache[:count])
        self._cache_bytes -= dropped
        self._memory.shrunk(dropped)
        del self._cache[:count]
        self._cache_first = Index(self._cache_first + count)
