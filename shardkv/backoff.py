"""How long to wait before asking again: full jitter, so that clients do not come back together.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from random import Random
from typing import Final

FIRST_SECONDS: Final = 0.02
MOST_SECONDS: Final = 0.25
"""A group elects a leader within about a second: whoever waits much longer between two looks would
add to every outage. A few looks a second cost nobody anything."""
_DOUBLINGS_MAX: Final = 16


class Backoff:
    """Pauses drawn from [0, bound]; the bound doubles with each one, from 20 ms up to 250 ms."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next(self) -> float:
        """The next pause, in seconds."""
        bound = min(MOST_SECONDS, FIRST_SECONDS * 2 ** min(self._failures, _DOUBLINGS_MAX))
        self._failures += 1
        return self._rng.uniform(0, bound)
