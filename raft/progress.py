"""One follower as its leader sees it, in one term.

    PROBE      The leader does not know where the logs agree: one message at a time, until an
               answer comes, or the answer to a heartbeat that was sent after it.
    REPLICATE  It knows: `next` runs ahead of `match`, as far as the window allows.
    SNAPSHOT   What the follower needs next is compacted: nothing is sent until the driver's stream
               has ended and the follower has installed it. It is silent while it installs.

Source: etcd-io/raft `tracker/progress.go`; Raft (extended), section 5.3.
"""

from collections import deque
from enum import Enum
from typing import NamedTuple

from raft.types import Index, ReplicaId


class Sending(Enum):
    """See the module's text."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Flight(NamedTuple):
    """An `AppendEntries` that carries entries and is not answered."""

    prev: Index
    last: Index
    size: int  # bytes of entries
    round: int  # the heartbeat round after which it was sent


class Progress:
    """What the leader knows and remembers of one follower.

    Attributes:
        match: Entries up to here are durable there, by its own word in this term. Never falls;
            `lost` says when it must no longer be believed.
        next: The next entry to send. Invariant: match < next.
        heard: When it last answered in this term, in loop seconds.
        token: The newest heartbeat round that it answered.
        removed_at: Where the membership stands that it is no member of; None for a member.
        lost: It told of fewer durable entries than it had acknowledged in this term: it lost
            what it promised, and counts for nothing until the term ends.
    """

    __slots__ = (
        "__dict__",
        "bare", "caught_up", "flight_bytes", "flights", "heard", "id", "lost", "match", "next",
        "question", "question_at", "question_round", "recheck", "recheck_prev", "removed_at",
        "round_began", "round_target", "sampled_match", "sampled_round", "sending",
        "staged_round", "token", "told_round", "waiting", "waiting_round",
    )  # fmt: skip

    def __init__(self, replica: ReplicaId, next_: Index, now: float) -> None:
        self.id = replica
        self.match = Index(0)
        self.next = next_
        self.sending = Sending.PROBE
        self.heard = now
        self.token = 0
        self.lost = False
        self.flights: deque[Flight] = deque()
        self.flight_bytes = 0
        self.waiting = False  # PROBE: the probe is not answered
        self.waiting_round = 0  # PROBE: the heartbeat round after which it was sent
        self.bare = False  # PROBE: the next one repeats another; it carries no entries
        self.recheck = False  # REPLICATE: ask with a bare message whether something was lost
        self.recheck_prev = Index(0)
        self.staged_round: int | None = None  # SNAPSHOT: the round when the stream ended well
        self.sampled_round = 0  # `lost` is judged by an answer to this round or a later one:
        self.sampled_match = Index(0)  # this much was acknowledged before it was sent
        self.removed_at: Index | None = None
        self.told_round = 0  # the heartbeat of this round told it that `removed_at` is committed
        self.question = b""  # a patient one: its last answer to a heartbeat brought it
        self.question_round = 0  # a round that began later than it came in; 0: none did
        self.question_at = Index(0)  # what was committed when that round began
        self.round_target = Index(0)  # catching up, dissertation, section 4.2.1
        self.round_began = now
        self.caught_up = False

    def is_level(self, last: Index) -> bool:
        """Whether a member is known to have all up to `last`, and nothing is to be sent to it."""
        return (
            self.match == last
            and self.sending is Sending.REPLICATE
            and self.removed_at is None
            and not (self.flights or self.recheck or self.lost)
        )

    # Transitions

    def become_probe(self, next_: Index) -> None:
        assert next_ > self.match
        self.sending = Sending.PROBE
        self.next = next_
        self._forget_flights()
        self.waiting = False
        self.bare = False
        self.staged_round = None

    def become_replicate(self) -> None:
        self.sending = Sending.REPLICATE
        self.next = Index(self.match + 1)
        self._forget_flights()
        self.waiting = False
        self.staged_round = None

    def become_snapshot(self) -> None:
        self.sending = Sending.SNAPSHOT
        self._forget_flights()
        self.waiting = False
        self.staged_round = None

    def _forget_flights(self) -> None:
        self.flights.clear()
        self.flight_bytes = 0
        self.recheck = False
        self.recheck_prev = Index(0)

    # Events

    def pause(self, heartbeat_round: int) -> None:
        """PROBE: wait until an answer comes, or one to a heartbeat after this round."""
        self.waiting = True
        self.waiting_round = heartbeat_round

    def flown(self, flight: Flight) -> None:
        """REPLICATE: entries up to `flight.last` were sent."""
        self.flights.append(flight)
        self.flight_bytes += flight.size
        self.next = Index(flight.last + 1)

    def acknowledged(self, match: Index) -> bool:
        """The follower holds everything up to `match` durably. Returns whether that is news."""
        while self.flights and self.flights[0].last <= match:
            self.flight_bytes -= self.flights.popleft().size
        news = match > self.match
        if news:
            self.match = match
        if self.sending is Sending.PROBE and match >= self.match:
            self.become_replicate()
        elif self.next <= self.match:
            self.next = Index(self.match + 1)
        return news

    def expects_rejection(self, prev: Index) -> bool:
        """Whether a message with this `prev` is on its way, so that its rejection is news.

        A late or repeated rejection must change nothing: following it would move `next` back
        and send again what has long arrived (etcd#1366, openraft#1501).
        """
        if prev <= self.match:
            return False
        if self.sending is Sending.PROBE:
            return self.waiting and prev == self.next - 1
        if self.sending is Sending.REPLICATE:
            return prev == self.recheck_prev or any(f.prev == prev for f in self.flights)
        return False

    def answered_heartbeat(self, heartbeat_round: int) -> None:
        """An answer to a heartbeat overtook what was sent before it: that may be lost."""
        if self.sending is Sending.PROBE and self.waiting and self.waiting_round < heartbeat_round:
            self.waiting = False
            self.bare = True
        elif self.flights and self.flights[0].round < heartbeat_round:
            self.recheck = True
