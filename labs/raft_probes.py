"""Rare states of consensus, counted as they pass: a simulator that never sees one proves nothing
about it. Called by `RaftInvariants`, at what is rare anyhow."""

from collections.abc import Callable, Mapping, Sequence

from labs.observer import Observer
from raft.messages import RequestVote, VoteReply
from raft.replica import Replica
from raft.snapshot_stream import SnapshotChunk
from raft.types import NOBODY, HardState, Membership, ReplicaId, Term


class RaftProbes:
    """Of one group.

    Args:
        leaving: How many shards are between two groups now.
    """

    def __init__(self, observer: Observer, leaving: Callable[[], int] | None = None) -> None:
        self._probe = observer.probe
        self.leaving = leaving
        self.on_campaign: Callable[[ReplicaId], None] | None = None
        """Told who asks for votes."""
        self.on_chunk: Callable[[SnapshotChunk], None] | None = None
        """Told of each piece of a snapshot that leaves."""
        self._campaigns: dict[Term, ReplicaId] = {}
        self._split: dict[Term, None] = {}  # terms with two candidates, and no leader so far
        self._handing: tuple[Term, ReplicaId] | None = None  # a leader deposed while it handed over
        self._streams: dict[tuple[str, ReplicaId], int] = {}

    # Elections

    def campaigns(self, request: RequestVote, leaders: Mapping[Term, str]) -> None:
        if self.on_campaign is not None:
            self.on_campaign(request.source)
        for term in [term for term in self._split if term < request.term]:
            del self._split[term]
            if term not in leaders:
                self._probe("split vote")
        if self._campaigns.setdefault(request.term, request.source) != request.source:
            self._probe("two candidates in a term")
            self._split[request.term] = None

    def refuses_to_hear(self, replica: Replica) -> None:
        self._probe("pre-vote refused")
        if replica.core.leader != NOBODY:
            self._probe("pre-vote refused under a live leader")

    def refuses(self, reply: VoteReply, born_in: Term, state: HardState) -> None:
        if reply.term == born_in == state.term and state.vote not in (NOBODY, reply.target):
            self._probe("vote after restart in same term refused")

    def deposed(self, node: str, replica: ReplicaId, members: Membership) -> None:
        if replica not in [member.id for member in (*members.voters, *members.outgoing)]:
            self._probe("leader removed itself")
        if self.leaving is not None and self.leaving():
            self._probe("freeze crossed by leader change")
        if self._end_streams(node):
            self._probe("snapshot interrupted by leader change")

    def handing_over(self, term: Term, to: ReplicaId) -> None:
        """A leader was deposed in the middle of a transfer; most often by whom it was for."""
        self._handing = (term, to)

    def leads(self, term: Term, replica: ReplicaId) -> None:
        if self._handing is not None and term > self._handing[0]:
            if replica != self._handing[1]:
                self._probe("transfer crossed by an election")
            self._handing = None

    def overwritten(self, terms: Sequence[Term]) -> None:
        if len(set(terms)) >= 3:
            self._probe("uncommitted tail of three terms overwritten")

    def members_changed(self, members: Membership) -> None:
        before = [member.id for member in members.outgoing]
        if before and any(member.id not in before for member in members.voters):
            self._probe("learner promoted")

    # Snapshots

    def watch_chunks(self, replica: Replica) -> None:
        """A whole snapshot comes that is older than what is committed here: it changes nothing."""
        take = replica._take_chunk

        def taken(chunk: SnapshotChunk) -> None:
            was_whole, commit = replica.installing, replica.core.commit
            take(chunk)
            if chunk.done and not was_whole and chunk.meta.last.index <= commit:
                self._probe("snapshot refused as old")

        replica._take_chunk = taken  # type: ignore[method-assign]

    def chunk(self, node: str, chunk: SnapshotChunk) -> None:
        """A chunk leaves."""
        if self.on_chunk is not None:
            self.on_chunk(chunk)
        key = (node, chunk.target)
        if chunk.number == 0 and self._streams.get(key) != chunk.stream:
            self._probe("snapshot sent")
            if key in self._streams:
                self._probe("snapshot interrupted by a newer one")
            self._streams[key] = chunk.stream
        if chunk.done:
            self._streams.pop(key, None)

    def installed(self) -> None:
        self._probe("snapshot installed")
        if self.leaving is not None and self.leaving():
            self._probe("freeze crossed by snapshot")

    def ended(self, node: str) -> None:
        """A process is gone."""
        if self._end_streams(node):
            self._probe("snapshot interrupted by crash")

    def _end_streams(self, node: str) -> bool:
        ended = [key for key in self._streams if key[0] == node]
        for key in ended:
            del self._streams[key]
        return bool(ended)
