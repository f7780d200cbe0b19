"""How old the state that a replica shows may be, for reads that may be stale within a bound.

No clocks are compared. A replica notes the moment *a*, on its own clock, at which it asks for a
read index; the leader confirms by heartbeats sent later that it led when the question came in
(`raft/reads.py`). So everything that anybody was told of before *a* lies at or below the index
that comes back, and once that is applied here, this replica shows a state that was complete at
*a*: its age is the time since then, however long the messages took on their way.

Every read barrier makes the replica young again by the way. Beside that a follower asks once in
`REFRESH_SECONDS`, patiently: question and answer travel with regular heartbeats. So when the
leader is gone, each replica can tell how long ago a leader with a majority answered it, and a read
with a wider bound is still served.

A clock may run slow: the measured age is widened by `RATE_DRIFT`. One that stands still while the
machine is suspended is beyond it; then the age counts the time awake (docs/reads.md says so).
"""

from math import inf
from typing import Final

from raft.ready import ReadState
from raft.types import Index

REFRESH_SECONDS: Final = 0.8
RATE_DRIFT: Final = 0.1
"""A clock that runs slower than this share is broken."""


class Freshness:
    """Of one replica in one life: what was on disk may be of any age, so it begins with none."""

    def __init__(self) -> None:
        self._as_of = -inf  # what is applied was complete at this moment, in loop seconds
        self._asked: dict[bytes, float] = {}  # context -> when
        self._patient: bytes | None = None  # the question asked for this alone
        self._refresh_at = -inf
        self._confirmed: list[tuple[Index, float]] = []  # waits until the index is applied

    def age(self, now: float) -> float:
        """At most so many seconds ago the applied state was complete; infinite if unknown."""
        return (now - self._as_of) / (1 - RATE_DRIFT)

    def is_due(self, now: float) -> bool:
        """Whether to ask the leader again, patiently."""
        return self._patient is None and now >= self._refresh_at

    def asked(self, context: bytes, now: float, *, patient: bool = False) -> None:
        """A read index is asked for; call it before the question leaves."""
        self._asked[context] = now
        if patient:
            self._patient = context
            self._refresh_at = now + REFRESH_SECONDS

    def answered(self, read: ReadState, applied: Index) -> None:
        """An answer, or a refusal (index 0), has come."""
        if read.context == self._patient:
            self._patient = None
        asked_at = self._asked.pop(read.context, None)
        if asked_at is None or read.index == 0:
            return
        if read.index <= applied:
            self._as_of = max(self._as_of, asked_at)
        else:
            self._confirmed.append((read.index, asked_at))

    def applied(self, index: Index) -> None:
        """The state holds everything up to `index`."""
        if self._confirmed:
            waiting = []
            for needed, asked_at in self._confirmed:
                if needed <= index:
                    self._as_of = max(self._as_of, asked_at)
                else:
                    waiting.append((needed, asked_at))
            self._confirmed = waiting
