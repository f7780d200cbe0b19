"""When the replicas of a node want to be woken: one queue for all, and one timer.

A follower's deadline moves back with each heartbeat, and nearly always only back. So a replica is
looked at again when the deadline that was *noted* of it comes, not each time that it moves: a
hundred followers of live leaders cost a look a second each, and not a thousand.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Final, Generic, TypeVar

NEVER: Final = float("inf")
Sleeper = TypeVar("Sleeper")


class Deadlines(Generic[Sleeper]):
    """A deadline of each sleeper, at or before its real one."""

    def __init__(self) -> None:
        self._noted: dict[Sleeper, float] = {}
        self._queue: list[tuple[float, int, Sleeper]] = []  # some are overtaken by earlier ones
        self._numbers = count()  # equal deadlines come in the order in which they were noted

    @property
    def first(self) -> float:
        """When to look next; infinite when never."""
        return self._queue[0][0] if self._queue else NEVER

    def note(self, sleeper: Sleeper, deadline: float) -> None:
        """`sleeper` wants to be woken then. A later time than is noted already changes nothing: it
        is looked at when that one comes."""
        if deadline < self._noted.get(sleeper, NEVER):
            self._noted[sleeper] = deadline
            heappush(self._queue, (deadline, next(self._numbers), sleeper))

    def take(self, now: float) -> Iterator[Sleeper]:
        """Each sleeper whose noted deadline has come, once; nothing is noted of it any more."""
        while self._queue and self._queue[0][0] <= now:
            deadline, _, sleeper = heappop(self._queue)
            if self._noted.get(sleeper) == deadline:
                del self._noted[sleeper]
                yield sleeper
