"""A leader's whole state: it lives and dies with the role.

So nothing of a leadership survives it: no transfer flag that refuses proposals for ever
(hashicorp/raft#696), no read confirmed by an earlier term, no follower's acknowledgement.
"""

from collections import deque
from collections.abc import Sequence
from math import floor
from typing import Final, NamedTuple

from raft.codec import encode_membership
from raft.errors import MembershipBusy, Overloaded, TransferRefused
from raft.membership import begin, enter_joint, in_change, leave_joint, members
from raft.messages import AppendReply, Heartbeat, HeartbeatReply, TimeoutNow
from raft.own_disk import OwnDisk
from raft.progress import Progress
from raft.reads import LeaderReads, Read, answer
from raft.replication import Replication
from raft.snapshots import stream_ended
from raft.state import NEVER, State
from raft.types import Entry, EntryId, EntryKind, Index, Membership, NodeId, ReplicaId

SLOW_DISK_ELECTIONS: Final = 2
"""An own entry that is not durable for so many E makes a leader hand over, if others are ahead."""
ILL_DISK_ELECTIONS: Final = 3
"""After so many E it steps down, whoever comes after it: the hand-over did not succeed."""
FAREWELL_ELECTIONS: Final = 10
"""For so many E without an answer a removed replica is still told that it was removed."""


class Transfer(NamedTuple):
    """A hand-over under way: proposals are refused until it ends, at most E (invariant R16)."""

    to: ReplicaId
    expires_at: float
    told: bool  # whether it was told to campaign


class Leader:
    """What a leader does beyond answering messages: lead.

    Attributes:
        resigned: Why it must step down, None while it leads. The core looks after each call.
    """

    __slots__ = (
        "__dict__",
        "_began_at", "_heartbeat_at", "_now", "_own_disk", "_state", "_uncommitted",
        "_uncommitted_bytes", "reads", "replication", "resigned", "transfer",
    )  # fmt: skip

    def __init__(self, state: State, now: float) -> None:
        self._state = state
        self.replication = Replication(state)
        self.reads = LeaderReads(state)
        self.resigned: str | None = None
        self.transfer: Transfer | None = None
        self._began_at = state.log.last.index  # entries after it are of this term
        self._uncommitted: deque[tuple[Index, int]] = deque()  # (index, bytes) an own command
        self._uncommitted_bytes = 0
        self._now = now
        self._heartbeat_at = _next_beat(now, state.config.heartbeat_seconds)
        self._own_disk = OwnDisk()
        self.sync_members()

    @property
    def deadline(self) -> float:
        """When `timeout` wants to be called."""
        expires = self.transfer.expires_at if self.transfer is not None else NEVER
        return min(self._heartbeat_at, expires)

    @property
    def commits_own_term(self) -> bool:
        """Whether an entry of this term is committed: only then is `commit` known to be up to
        date, for reads and for changes of members (Ongaro 2015)."""
        return self._state.commit > self._began_at

    # Time

    def timeout(self, now: float) -> None:
        """Send the heartbeats that are due, and see whether this is still a leader."""
        self._now = now
        if self.transfer is not None and now >= self.transfer.expires_at:
            self.transfer = None  # the target did not make it; serve on
        if now < self._heartbeat_at:
            return
        self._heartbeat_at = _next_beat(now, self._state.config.heartbeat_seconds)
        if self._state.config.checks_quorum:
            self._check_quorum(now)
            self._check_disk(now)
        self._forget_removed(now)
        if self.resigned is None:
            self.beat()

    @property
    def is_at_rest(self) -> bool:
        """Whether heartbeats are all that `timeout` and `flush` would send, while everybody lives.

        So it is in a group that nothing happens to: all is durable and has come in everywhere; no
        read, transfer or removal waits.
        """
        log = self._state.log
        last = log.last.index
        return (
            self.transfer is None
            and log.durable == last
            and self._own_disk.is_settled
            and self.reads.is_empty
            and all(progress.is_level(last) for progress in self.replication.followers.values())
        )

    def beat_at_rest(self, now: float) -> list[Heartbeat] | None:
        """What `timeout` and `flush` would send of a leader that `is_at_rest`, if everybody was
        heard within E: that is more than `_check_quorum` asks for. None, and nothing was done: call
        `timeout`.
        """
        config, followers = self._state.config, self.replication.followers.values()
        if now < self._heartbeat_at:
            return None
        lived_since = now - config.election_seconds_max
        for progress in followers:
            if progress.heard < lived_since:
                return None
        self._now = now
        self._heartbeat_at = _next_beat(now, config.heartbeat_seconds)
        self.replication.round += 1
        return [self._heartbeat(progress, asks=False) for progress in followers]

    def _check_quorum(self, now: float) -> None:
        """Step down without an answer from a majority within E (dissertation, section 6.2).

        By time and not by ticks, which stand still while the process does.
        """
        lived_since = now - self._state.config.election_seconds_max
        for progress in self.replication.followers.values():
            if progress.heard < lived_since or progress.lost:
                break
        else:
            return  # everybody did, so each majority: no need to count

        def heard(replica: ReplicaId) -> bool:
            if replica == self._state.id:
                return True
            progress = self.replication.followers[replica]
            return progress.heard >= lived_since and not progress.lost

        if not self._state.electorate.agrees(heard):
            self.resigned = "no majority answered within the election timeout"

    def _check_disk(self, now: float) -> None:
        """Give the leadership up while the own disk is the one that everybody waits for: a group
        must not be as slow as one ill disk (gray failure).

        Only if a majority of the others is ahead of it: where all disks are slow nothing is gained.
        First by handing over, which costs clients a round trip; by stepping down if that fails.
        """
        state, longest = self._state, self._state.config.election_seconds_max
        waited = self._own_disk.waited(state.log.durable, state.log.last.index, now)
        if waited <= SLOW_DISK_ELECTIONS * longest:
            return
        others = state.electorate.committed(
            lambda replica: 0 if replica == state.id else self.replication.match(replica)
        )
        if others <= state.log.durable:
            return
        state.slow_disk_at = now
        if waited > ILL_DISK_ELECTIONS * longest:
            self.resigned = "the own disk lags behind a majority"
        elif self.transfer is None:
            successor = self.best_successor()
            if successor is not None and self.replication.match(successor) >= others:
                self.start_transfer(successor)

    def beat(self) -> None:
        """Start a round of heartbeats; it confirms every read that waits now."""
        state = self._state
        self.replication.round += 1
        if self.commits_own_term:
            self.reads.start(self.replication.round)
        asks = self.reads.wait
        for progress in self.replication.followers.values():
            state.early.append(self._heartbeat(progress, asks))
        self._confirm_reads()

    def _heartbeat(self, progress: Progress, asks: bool) -> Heartbeat:
        """Of the round that begins now."""
        state, token = self._state, self.replication.round
        # Never past what the follower is known to hold: its log may differ beyond (B06).
        commit = progress.match if progress.match < state.commit else state.commit
        told, at = self._told(progress) if progress.question else (b"", 0)
        said = (state.id, progress.id, state.term, commit, token, asks, told, at)
        return tuple.__new__(Heartbeat, said)  # a third of what its own constructor takes

    def _told(self, progress: Progress) -> tuple[bytes, Index]:
        """The follower's patient question and its read index; empty while that is not confirmed.

        The round that is noted begins later than the question came in, and an entry of this term is
        committed by then. Once a majority has answered it, or a later one, this was the leader when
        that round began, and all that anybody had been told of before the question lies at or below
        what was committed then (`raft/reads.py`).
        """
        if progress.question_round:
            if self._state.electorate.committed(self.replication.answered_round) >= (
                progress.question_round
            ):
                return progress.question, progress.question_at
        elif self.commits_own_term:
            progress.question_round = self.replication.round
            progress.question_at = self._state.commit
        return b"", Index(0)

    def flush(self) -> None:
        """What leaves with this `ready`: heartbeats for reads that wait, then appends."""
        if self.reads.wants_round and self.commits_own_term:
            self.beat()
        self.replication.flush()

    # Appending

    @property
    def uncommitted_bytes(self) -> int:
        """Of own commands that wait for commit."""
        return self._uncommitted_bytes

    def propose(self, data: bytes) -> EntryId | None:
        """None while the leadership is being handed over.

        Raises:
            Overloaded: too much waits for commit. One command alone is always taken.
        """
        if self.transfer is not None:
            return None
        size = len(data)
        limit = self._state.config.uncommitted_bytes_max
        if self._uncommitted_bytes and self._uncommitted_bytes + size > limit:
            raise Overloaded(f"{self._uncommitted_bytes} bytes wait for commit, {limit} may")
        placed = self.append(EntryKind.COMMAND, data)
        self._uncommitted.append((placed.index, size))
        self._uncommitted_bytes += size
        return placed

    def append(self, kind: EntryKind, data: bytes) -> EntryId:
        """Add an entry to the own log, which a leader never cuts (Leader Append-Only, R4)."""
        log = self._state.log
        entry = Entry(Index(log.last.index + 1), self._state.term, kind, data)
        log.append((entry,))
        if kind is EntryKind.MEMBERSHIP:
            self.sync_members()
        return log.last

    def persisted(self) -> None:
        """The own disk got further: the leader counts itself up to there."""
        self._advance_commit()

    def _advance_commit(self) -> None:
        if not self.replication.advance_commit():
            return
        commit = self._state.commit
        while self._uncommitted and self._uncommitted[0][0] <= commit:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        self._advance_membership()

    # Answers

    def on_append_reply(self, reply: AppendReply, now: float) -> None:
        progress = self.replication.followers.get(reply.source)
        if progress is None:
            return  # no member any more
        self._now = progress.heard = now
        if self.replication.take_reply(progress, reply):
            self._advance_commit()
            self._note_catching_up(progress)
            self._hand_over_if_caught_up()

    def on_heartbeat_reply(self, reply: HeartbeatReply, now: float) -> None:
        progress = self.replication.followers.get(reply.source)
        if progress is None or reply.token > self.replication.round:
            return
        self._now = progress.heard = now
        if reply.question != progress.question:
            progress.question, progress.question_round = reply.question, 0
        self.replication.take_heartbeat_reply(progress, reply)
        if progress.removed_at is not None:
            self._part_from(progress, reply)
        self._confirm_reads()

    def on_reply_at_rest(self, reply: HeartbeatReply, now: float, *, level: bool) -> bool:
        """Take an answer that tells nothing but that a level follower lives, while no read waits.
        False, and nothing was done: it may tell more, see `on_heartbeat_reply`.

        Args:
            level: Whether all are known to be level, and no read to wait.
        """
        progress = self.replication.followers.get(reply.source)
        if (
            progress is None
            or reply.token > self.replication.round
            or reply.last < progress.sampled_match
        ):
            return False
        if not (level or (progress.is_level(self._state.log.last.index) and self.reads.is_empty)):
            return False
        if reply.question != progress.question:
            progress.question, progress.question_round = reply.question, 0
        self._now = progress.heard = now
        self.replication.take_heartbeat_reply(progress, reply)
        return True

    def _confirm_reads(self) -> None:
        if self.reads.confirmed_up_to:
            confirmed = self._state.electorate.committed(self.replication.answered_round)
            self.reads.confirm(confirmed)

    def read(self, read: Read) -> None:
        """Answer a read, or let it wait for the next round.

        A follower's question is an answer of this term too, sent after its read came in: the asker
        and the leader count as in any round (`reads.py`). Of three voters that is a majority.
        """
        asker = self.replication.followers.get(read.origin)
        if asker is not None and not asker.lost and self.commits_own_term:
            two = (self._state.id, read.origin)
            if self._state.electorate.agrees(two.__contains__):
                answer(self._state, read, self._state.commit)
                return
        self.reads.add(read)

    def on_snapshot_sent(self, replica: ReplicaId, ok: bool) -> None:
        progress = self.replication.followers.get(replica)
        if progress is not None:
            stream_ended(progress, complete=ok, heartbeat_round=self.replication.round)

    # Members

    def change_members(
        self, add: Sequence[tuple[NodeId, str]], remove: Sequence[ReplicaId], promote: bool
    ) -> EntryId:
        """Append the first entry of a change; the rest follows by itself, here or at a successor.

        Raises:
            MembershipRefused: not now, or not at all.
        """
        state = self._state
        if self.transfer is not None:
            raise MembershipBusy("the leadership is being handed over")
        if not self.commits_own_term:
            # Or two leaders might each be half way through another change (Ongaro 2015).
            raise MembershipBusy("no entry of this leader's term is committed yet")
        if state.log.membership_index > state.commit:
            raise MembershipBusy("a change of members is not committed yet")
        changed = begin(state.log.membership, add=add, remove=remove, promote=promote)
        return self._append_membership(changed)

    def _append_membership(self, membership: Membership) -> EntryId:
        return self.append(EntryKind.MEMBERSHIP, encode_membership(membership))

    def sync_members(self) -> None:
        """Follow the membership in force: in force from the moment it is appended (section 6)."""
        state, followers = self._state, self.replication.followers
        wanted = members(state.log.membership)
        for replica, progress in followers.items():
            if replica not in wanted and progress.removed_at is None:
                progress.removed_at = state.log.membership_index
        last = state.log.last.index
        for replica in wanted:
            if replica != state.id and replica not in followers:
                progress = Progress(replica, Index(last + 1), self._now)
                progress.round_target = last
                followers[replica] = progress
        self.replication.followers = dict(sorted(followers.items()))
        if self.transfer is not None and not state.electorate.includes(self.transfer.to):
            self.transfer = None

    def _part_from(self, progress: Progress, reply: HeartbeatReply) -> None:
        """Send to a removed replica until it knows that it is, so that it falls silent rather
        than campaign for ever; it is counted nowhere meanwhile."""
        assert progress.removed_at is not None
        if progress.told_round:
            if reply.token >= progress.told_round:
                del self.replication.followers[progress.id]
        elif min(progress.match, self._state.commit) >= progress.removed_at:
            progress.told_round = self.replication.round + 1  # its commit index will say so

    def _forget_removed(self, now: float) -> None:
        """A removed replica that does not answer is not waited for."""
        patience = FAREWELL_ELECTIONS * self._state.config.election_seconds_max
        followers = self.replication.followers
        for progress in list(followers.values()):
            if progress.removed_at is not None and now - progress.heard > patience:
                del followers[progress.id]

    def _note_catching_up(self, progress: Progress) -> None:
        """Whether a learner may be promoted: the last of its rounds was shorter than an election
        timeout, so that promoting it stops nothing (dissertation, section 4.2.1)."""
        if progress.id not in self._state.log.membership.promote or progress.caught_up:
            return
        if progress.match < progress.round_target:
            return
        last = self._state.log.last.index
        quick = self._now - progress.round_began <= self._state.config.election_seconds_min
        progress.caught_up = quick or progress.match == last
        progress.round_target, progress.round_began = last, self._now
        self._advance_membership()

    def _advance_membership(self) -> None:
        """Take the next step of a change, once the one before is committed in an own-term log.

        One step at a time: each waits for the commit of the last, so that at most one
        membership is uncommitted (invariant R11).
        """
        state = self._state
        if not self.commits_own_term or state.log.membership_index > state.commit:
            return
        membership = state.log.membership
        if membership.outgoing:
            self._append_membership(leave_joint(membership))
        elif in_change(membership):
            if all(self._is_caught_up(replica) for replica in membership.promote):
                self._append_membership(enter_joint(membership))
        elif not state.electorate.includes(state.id):
            # Removed, and the others have committed it (dissertation, section 4.2.2).
            successor = self.best_successor()
            if successor is not None:
                state.messages.append(TimeoutNow(state.id, successor, state.term))
            self.resigned = "no longer a voter"

    def _is_caught_up(self, replica: ReplicaId) -> bool:
        progress = self.replication.followers.get(replica)
        return progress is not None and progress.caught_up and not progress.lost

    # Handing over

    def start_transfer(self, to: ReplicaId) -> None:
        """Stop taking proposals, bring `to` up to date, and tell it to campaign at once
        (dissertation, section 3.10).

        Raises:
            TransferRefused: `to` is no other voter, or another transfer is under way.
        """
        state = self._state
        if to == state.id or to not in state.electorate.voters:
            raise TransferRefused(f"replica {to} is not another voter of the group")
        if self.transfer is not None:
            if self.transfer.to == to:
                return
            raise TransferRefused(f"a transfer to replica {self.transfer.to} is under way")
        expires = self._now + state.config.election_seconds_max
        self.transfer = Transfer(to, expires, told=False)
        self._hand_over_if_caught_up()

    def _hand_over_if_caught_up(self) -> None:
        transfer = self.transfer
        if transfer is None or transfer.told:
            return
        if self.replication.match(transfer.to) == self._state.log.last.index:
            state = self._state
            state.messages.append(TimeoutNow(state.id, transfer.to, state.term))
            self.transfer = transfer._replace(told=True)

    def best_successor(self) -> ReplicaId | None:
        """The voter that holds most of the log, of those heard last; None when there is none."""
        voters = self._state.electorate.voters
        candidates = [
            (progress.match, progress.heard, -progress.id)
            for progress in self.replication.followers.values()
            if progress.id in voters and not progress.lost
        ]
        return ReplicaId(-max(candidates)[2]) if candidates else None


def _next_beat(now: float, every: float) -> float:
    """The next point of the grid that all groups of a node share, so that they beat at once."""
    beat = (floor(now / every) + 1) * every
    return beat if beat > now else beat + every
