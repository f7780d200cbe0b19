"""Which task goes to which worker, when: pure, and told the time.

A task is handed out once. Only when it was not reported within `PATIENCE_SECONDS` it is handed out
again, as another *attempt*; the first attempt that reports counts, whichever it is, and what any
other says later changes nothing. Reduce tasks follow when the last map task has counted.
"""

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final, NamedTuple

PATIENCE_SECONDS: Final = 10.0


class Phase(Enum):
    MAP = "map"
    REDUCE = "reduce"


class Assignment(NamedTuple):
    """One attempt at one task; both count from 0."""

    phase: Phase
    task: int
    attempt: int


@dataclass(slots=True)
class _Task:
    attempts: int = 0
    expires: float = -inf
    """When it may be handed out again; at once if nobody has it."""
    counts: int | None = None
    """The attempt that was reported first. None: it is not done."""


class Schedule:
    """All tasks of one job.

    Args:
        maps: How many map tasks.
        reduces: How many reduce tasks.
    """

    def __init__(
        self, maps: int, reduces: int, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._tasks = {
            Phase.MAP: [_Task() for _ in range(maps)],
            Phase.REDUCE: [_Task() for _ in range(reduces)],
        }
        self._left = {Phase.MAP: maps, Phase.REDUCE: reduces}
        self._patience_seconds = patience_seconds

    @property
    def finished(self) -> bool:
        """Whether every task is done."""
        return not any(self._left.values())

    @property
    def map_attempts(self) -> list[int]:
        """The attempt that counts of each map task. Only when all are done."""
        attempts = [task.counts for task in self._tasks[Phase.MAP] if task.counts is not None]
        assert self._left[Phase.MAP] == 0, "reduce tasks read what all map tasks have written"
        return attempts

    def assign(self, now: float) -> Assignment | None:
        """The next attempt for a worker that is free; None: nothing is due now."""
        phase = Phase.MAP if self._left[Phase.MAP] else Phase.REDUCE
        for number, task in enumerate(self._tasks[phase]):
            if task.counts is None and task.expires <= now:
                attempt, task.attempts = task.attempts, task.attempts + 1
                task.expires = now + self._patience_seconds
                return Assignment(phase, number, attempt)
        return None

    def report(self, done: Assignment) -> bool:
        """An attempt has ended well; whether it is the one that counts.

        Raises:
            ValueError: it was never handed out.
        """
        phase, number, attempt = done
        tasks = self._tasks[phase]
        if not (0 <= number < len(tasks) and 0 <= attempt < tasks[number].attempts):
            raise ValueError(f"{done} was never handed out")
        task = tasks[number]
        if task.counts is not None:
            return False
        task.counts = attempt
        self._left[phase] -= 1
        return True
