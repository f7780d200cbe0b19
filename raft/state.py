"""Figure 2's fields, and what the core wants done since the last `ready()`."""

from collections import deque
from random import Random
from typing import Final

from raft.config import RaftConfig
from raft.log import Log, entry_bytes
from raft.messages import AnyMessage, AppendEntries, Heartbeat
from raft.quorum import Electorate
from raft.ready import ReadState
from raft.types import (
    NOBODY,
    Entry,
    EntryId,
    HardState,
    Index,
    Membership,
    ReplicaId,
    Role,
    SnapshotMeta,
    Term,
)

NEVER: Final = float("inf")


class State:
    """What every part of the core shares. Roles change in `core.py` alone.

    Attributes:
        term, vote: Figure 2, persistent; they leave through `Ready.hard_state` before any
            message that shows them.
        leader: Who leads `term`, NOBODY when unknown. Known leaders make voters refuse others.
        commit: Entries up to here are committed. Never falls.
        emitted: Entries up to here were handed out to be applied.
        applied: Entries up to here were applied. Invariant R7: applied <= emitted <= commit.
        heard_at: When the leader of `term` was last heard, in loop seconds.
        election_at: When this replica will campaign unless it hears a leader or votes.
        slow_disk_at: When this replica, leading, was last held up by its own disk alone.
        installing: A snapshot that is replacing state and log; durable when `persisted` says so.
        agreed: Up to its index this log equals that of the leader of its term, by what that leader
            sent; of another term than `term` it says nothing. A leader only appends, so it stays
            true while the term lasts.
    """

    __slots__ = (
        "__dict__",
        "_counted", "_electorate", "_is_counted", "_unapplied", "_unapplied_bytes", "agreed",
        "applied", "commit", "config", "early", "election_at", "emitted", "heard_at", "id",
        "installing", "leader", "log", "messages", "reads", "rng", "role", "send_snapshot",
        "slow_disk_at", "term", "vote",
    )  # fmt: skip

    def __init__(
        self,
        config: RaftConfig,
        *,
        id: ReplicaId,
        log: Log,
        hard_state: HardState,
        applied: Index,
        rng: Random,
    ) -> None:
        assert log.start.last.index <= applied <= log.last.index, (
            f"applied {applied} lies outside the log [{log.start.last.index}, {log.last.index}]"
        )
        self.config, self.id, self.log, self.rng = config, id, log, rng
        self.term, self.vote = hard_state
        assert self.term >= log.last.term, "the log is ahead of the term: the promise was lost"
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        self.commit = applied
        self.emitted = applied
        self.applied = applied
        self.heard_at = -NEVER
        self.election_at = NEVER
        self.slow_disk_at = -NEVER
        self.installing: SnapshotMeta | None = None
        self.agreed = EntryId(Index(0), Term(0))

        self.early: list[AppendEntries | Heartbeat] = []
        self.messages: list[AnyMessage] = []
        self.reads: list[ReadState] = []
        self.send_snapshot: list[ReplicaId] = []

        self._unapplied: deque[tuple[Index, int]] = deque()  # (last index, bytes) a batch
        self._unapplied_bytes = 0
        self._counted: Membership | None = None
        self._electorate = Electorate(())
        self._is_counted = False

    @property
    def electorate(self) -> Electorate:
        """Who is counted now: the membership in force is the last in the log."""
        membership = self.log.membership
        if membership is not self._counted:
            self._counted = membership
            self._electorate = Electorate.of(membership)
            self._is_counted = self._electorate.includes(self.id)
        return self._electorate

    @property
    def promotable(self) -> bool:
        """Whether this replica may campaign: a voter whose state is whole.

        Or one whose removal is not known to be committed: it may be the only one that holds the
        entry, and a voter of the electorate before that must agree to any other candidate
        (dissertation, section 4.2.2). It then asks for votes without counting its own.
        """
        if self.installing is not None:
            return False
        if self.log.membership is not self._counted:
            _ = self.electorate
        return self._is_counted or self._may_not_be_removed

    @property
    def _may_not_be_removed(self) -> bool:
        at = self.log.membership_index
        if at <= self.commit:
            return False
        before = self.log.membership_at(Index(at - 1))
        return Electorate.of(before).includes(self.id)

    def restart_election_timer(self, now: float) -> None:
        """Drawn anew each time, so that two candidates do not split votes for ever (5.2)."""
        config = self.config
        span = config.election_seconds_max - config.election_seconds_min
        self.election_at = now + config.election_seconds_min + self.rng.random() * span

    def commit_to(self, index: Index) -> None:
        """Raise the commit index; a lower one is old news."""
        if index > self.commit:
            assert index <= self.log.last.index, "only what the log holds is committed (R7)"
            self.commit = index

    # Effects

    @property
    def has_effects(self) -> bool:
        """Whether something waits to be sent or told."""
        return bool(self.messages or self.early or self.reads or self.send_snapshot)

    def forget_effects(self) -> None:
        """They were handed out."""
        self.early, self.messages, self.reads, self.send_snapshot = [], [], [], []

    # Applying

    def take_committed(self) -> tuple[Entry, ...]:
        """The next entries to apply: committed *and durable here*, so that a crash never leaves
        a state machine ahead of its log (safeguard H10); a bounded page at a time."""
        hi = self.commit
        if hi <= self.emitted:
            return ()
        hi = min(hi, self.log.durable)
        if hi <= self.emitted or self.installing is not None:
            return ()
        if self._unapplied_bytes >= self.config.unapplied_bytes_max:
            return ()
        lo = Index(self.emitted + 1)
        page = self.log.slice(lo, Index(hi + 1), self.config.append_bytes_max)
        # Only what the page holds was handed out (etcd-io/raft 8ecce32 lost the rest).
        self.emitted = page[-1].index
        size = sum(map(entry_bytes, page))
        self._unapplied.append((self.emitted, size))
        self._unapplied_bytes += size
        return page

    def applied_to(self, index: Index) -> None:
        """The state machine shows everything up to `index`."""
        assert self.applied <= index <= self.emitted, (
            "applied in order, and only what was handed out"
        )
        self.applied = index
        while self._unapplied and self._unapplied[0][0] <= index:
            self._unapplied_bytes -= self._unapplied.popleft()[1]

    def restored_to(self, index: Index) -> None:
        """A snapshot stands for everything up to `index`: nothing before it is applied again."""
        self.commit = self.emitted = index
        self._unapplied.clear()
        self._unapplied_bytes = 0
