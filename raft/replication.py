"""Appending: what a follower takes, what a leader sends and believes, what is committed.

Source: Raft (extended), sections 5.3 and 5.4; dissertation, section 10.2.1 (the leader writes its
own disk in parallel); etcd-io/raft for the flow control.
"""

from typing import Final

from raft.errors import Compacted
from raft.messages import AppendEntries, AppendReply, HeartbeatReply
from raft.progress import Flight, Progress, Sending
from raft.state import State
from raft.types import Entry, EntryId, Index, ReplicaId

NO_SLICE: Final[tuple[Index, tuple[Entry, ...]]] = (Index(0), ())

# A follower


def take_append(state: State, append: AppendEntries) -> None:
    """Make the log agree with the leader's as far as the message reaches, and answer.

    The answer leaves through `messages`, so after the save of what it acknowledges.
    """
    log = state.log
    reaches = Index(append.prev.index + len(append.entries))
    prev, entries = append.prev, append.entries
    if prev.index < state.commit:
        # Whatever is committed here is in the leader's log too (Leader Completeness): a late or
        # repeated message must not touch it, and its place may be compacted already.
        if reaches >= state.commit:
            claimed = entries[state.commit - prev.index - 1].term
            assert claimed == log.term(state.commit), "a committed entry is never replaced (R8)"
        entries = entries[state.commit - prev.index :]
        prev = log.id_at(state.commit)
        reaches = max(reaches, prev.index)
    if not log.holds(prev):
        state.messages.append(_rejection(state, append))
        return
    _reconcile(state, entries)
    # Only what this message proves equal to the leader's log may be committed: a tail beyond
    # `reaches` may be another leader's (safeguard B06).
    state.commit_to(min(append.commit, reaches))
    if state.agreed.term != state.term or state.agreed.index < reaches:
        state.agreed = EntryId(reaches, state.term)
    state.messages.append(AppendReply(state.id, append.source, state.term, match=reaches))


def _reconcile(state: State, entries: tuple[Entry, ...]) -> None:
    """Append what is new. The log is cut only where terms really differ: a short old message
    after a long new one must not drop what was acknowledged (safeguard B07)."""
    log = state.log
    for skipped, entry in enumerate(entries):
        if entry.index > log.last.index:
            log.append(entries[skipped:] if skipped else entries)
            return
        if log.term(entry.index) != entry.term:
            assert entry.index > state.commit, "a committed entry is never replaced (R8)"
            log.truncate(entry.index)
            log.append(entries[skipped:])
            return


def _rejection(state: State, append: AppendEntries) -> AppendReply:
    """Refuse, with the last place where the logs may agree: at most what is not committed here
    lies behind it."""
    try:
        hint = state.log.last_not_above(append.prev.index, append.prev.term)
    except Compacted:
        hint = state.log.start.last
    if hint.index < state.commit:
        hint = state.log.id_at(state.commit)
    return AppendReply(
        state.id, append.source, state.term, rejected=append.prev.index, hint=hint
    )  # fmt: skip


# A leader


class Replication:
    """A leader's view of the others: lives and dies with its leadership.

    Attributes:
        followers: Everybody else who gets the log, in order of ids.
        round: The number of heartbeat rounds so far in this term.
    """

    __slots__ = ("__dict__", "_last_slice", "_state", "followers", "round")

    def __init__(self, state: State) -> None:
        self._state = state
        self.followers: dict[ReplicaId, Progress] = {}
        self.round = 0
        self._last_slice = NO_SLICE

    def match(self, replica: ReplicaId) -> int:
        """What `replica` certainly has on disk; of itself the leader asks its own disk (10.2.1)."""
        if replica == self._state.id:
            return self._state.log.durable
        progress = self.followers.get(replica)
        return 0 if progress is None or progress.lost else progress.match

    def answered_round(self, replica: ReplicaId) -> int:
        """The newest heartbeat round that `replica` answered; the leader answers itself."""
        if replica == self._state.id:
            return self.round
        progress = self.followers.get(replica)
        return 0 if progress is None or progress.lost else progress.token

    def advance_commit(self) -> bool:
        """Commit what a majority holds durably. Only an entry of this term is counted; those
        before it are committed with it (section 5.4.2, figure 8; safeguard B01)."""
        state = self._state
        agreed = Index(state.electorate.committed(self.match))
        if agreed <= state.commit or state.log.term(agreed) != state.term:
            return False
        state.commit_to(agreed)
        return True

    # Sending

    def flush(self) -> None:
        """Send each follower what it lacks and may get; called once a `ready`, so that whatever
        was proposed since the last one travels together. A raised commit index alone sends
        nothing: it rides on the next append or heartbeat."""
        last = self._state.log.last.index
        for progress in self.followers.values():
            if progress.sending is Sending.REPLICATE:
                if progress.next <= last or progress.recheck:
                    self._stream(progress)
            elif progress.sending is Sending.PROBE and not progress.waiting:
                self._probe(progress)
        self._last_slice = NO_SLICE

    def _stream(self, progress: Progress) -> None:
        config, log = self._state.config, self._state.log
        while (
            progress.next <= log.last.index
            and len(progress.flights) < config.inflight_messages_max
            and progress.flight_bytes < config.inflight_bytes_max
        ):
            prev = self._id_before(progress)
            if prev is None:
                return
            entries = self._entries(progress.next)
            self._append(progress, prev, entries)
            size = sum([len(entry.data) for entry in entries])
            progress.flown(Flight(prev.index, entries[-1].index, size, self.round))
        if progress.recheck:
            # A message may be lost: a bare one is answered by a rejection if so, and by the
            # acknowledgement that is merely slow if not. The entries themselves travel once.
            progress.recheck = False
            prev = self._id_before(progress)
            if prev is not None:
                progress.recheck_prev = prev.index
                self._append(progress, prev, ())

    def _probe(self, progress: Progress) -> None:
        prev = self._id_before(progress)
        if prev is None:
            return
        bare = progress.bare or progress.next > self._state.log.last.index
        self._append(progress, prev, () if bare else self._entries(progress.next))
        progress.pause(self.round)

    def _id_before(self, progress: Progress) -> EntryId | None:
        """The id of the entry before `next`; None, and a snapshot, if that is compacted."""
        try:
            return self._state.log.id_at(Index(progress.next - 1))
        except Compacted:
            progress.become_snapshot()
            self._state.send_snapshot.append(progress.id)
            return None

    def _entries(self, lo: Index) -> tuple[Entry, ...]:
        """As many entries from `lo` as fit in one message; followers mostly want the same."""
        if self._last_slice[0] != lo:
            log = self._state.log
            hi = Index(log.last.index + 1)
            self._last_slice = (lo, log.slice(lo, hi, self._state.config.append_bytes_max))
        return self._last_slice[1]

    def _append(self, progress: Progress, prev: EntryId, entries: tuple[Entry, ...]) -> None:
        state = self._state
        state.early.append(
            AppendEntries(state.id, progress.id, state.term, prev, entries, state.commit)
        )

    # Answers, all of this term: others were dropped before (safeguard B13)

    def take_reply(self, progress: Progress, reply: AppendReply) -> bool:
        """Learn from an answer; whether the follower is known to hold more than before."""
        if reply.rejected:
            self._rejected(progress, reply)
            return False
        assert reply.match <= self._state.log.last.index, "acknowledged what was never sent"
        if progress.sending is Sending.SNAPSHOT:
            news = reply.match > progress.match
            progress.match = max(progress.match, reply.match)
            if progress.match >= self._state.log.start.last.index:
                progress.become_replicate()
            return news
        return progress.acknowledged(reply.match)

    def _rejected(self, progress: Progress, reply: AppendReply) -> None:
        if not progress.expects_rejection(reply.rejected):
            return
        if progress.sending is Sending.REPLICATE:
            # The logs agree up to match; what was sent after it got lost or out of order.
            progress.become_probe(Index(progress.match + 1))
            return
        log = self._state.log
        try:
            agrees = log.last_not_above(reply.hint.index, reply.hint.term).index
        except Compacted:
            agrees = Index(log.start.last.index - 1)  # then the next probe finds: a snapshot
        # Each rejection moves `next` strictly down and never below what is acknowledged.
        progress.become_probe(Index(max(progress.match + 1, min(reply.rejected, agrees + 1))))

    def take_heartbeat_reply(self, progress: Progress, reply: HeartbeatReply) -> None:
        """Learn that the follower lives, what it holds, and whether a message may be lost."""
        progress.token = max(progress.token, reply.token)
        progress.answered_heartbeat(reply.token)
        if reply.token >= progress.sampled_round:
            # `sampled_match` was acknowledged before that heartbeat left: a replica that now has
            # less has lost what it promised, maybe its vote too. It is never counted again in
            # this term; its operator removes it (RethinkDB 2.2.3 is the story of not doing so).
            if reply.last < progress.sampled_match:
                progress.lost = True
            progress.sampled_round, progress.sampled_match = self.round + 1, progress.match
        staged = progress.staged_round
        if progress.sending is Sending.SNAPSHOT and staged is not None and reply.token > staged:
            # It was staged before that heartbeat left, and a replica that installs is silent: so
            # it is done and its acknowledgement was lost, or it died and forgot. Look there.
            reaches = min(reply.last, self._state.log.last.index)
            progress.become_probe(Index(max(progress.match, reaches) + 1))
