"""How long to wait for what will come: time in which the machine stood still counts for little."""

import time

LOOK_SECONDS_MAX = 1.0


class Patience:
    """So many seconds of waiting, by looks.

    From one look to the next at most `LOOK_SECONDS_MAX` count. Where a machine stands still, or
    gives its time to others, whoever waits and what is waited for stand still alike: then it is no
    failure that nothing came of it.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._looked_at = time.monotonic()

    def ended(self) -> bool:
        """To be asked at each look that finds nothing."""
        now = time.monotonic()
        self._left -= min(now - self._looked_at, LOOK_SECONDS_MAX)
        self._looked_at = now
        return self._left < 0
