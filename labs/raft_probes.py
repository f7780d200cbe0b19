"""Rare states of consensus, counted as they pass: a simulator that never sees one proves nothing
about it. Called by `RaftInvariants`, at what is rare anyhow."""

from collections.abc import Callable

from labs.observer import Observer
from raft.messages import RequestVote, VoteReply
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
        self._campaigns: dict[Term, ReplicaId] = {}
        self._streams: dict[tuple[str, ReplicaId], int] = {}

    # Elections

    def campaigns(self, request: RequestVote) -> None:
        if self._campaigns.setdefault(request.term, request.source) != request.source:
            self._probe("two candidates in a term")

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

    def members_changed(self, members: Membership) -> None:
        before = [member.id for member in members.outgoing]
        if before and any(member.id not in before for member in members.voters):
            self._probe("learner promoted")

    # Snapshots

    def chunk(self, node: str, chunk: SnapshotChunk) -> None:
        """A chunk leaves."""
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
