"""For how long a leader's own disk has kept an entry waiting (pure).

A leader may commit on a majority of *other* disks (dissertation, section 10.2.1), so an ill disk of
its own does not show in what is committed; it shows in everything that needs this disk itself:
applying, answering, snapshots. So its leader asks how old its oldest entry is that is not durable.
"""

from collections import deque

from raft.types import Index


class OwnDisk:
    """Samples of (last index, time), one each time the log was longer than at the last look.

    While an entry of a sample is not durable, it has waited at least since the sample was taken: so
    `waited` is never more than the truth, and less by one look at most. A disk that moves, but
    slowly, is found as well as one that stands still.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[Index, float]] = deque()

    @property
    def is_settled(self) -> bool:
        """Whether nothing was waiting at the last look."""
        return not self._samples

    def waited(self, durable: Index, last: Index, now: float) -> float:
        """Look, and return for how many seconds the oldest entry that is not durable has waited.

        Args:
            durable: The own log up to here is on the disk.
            last: The last entry of the own log.
            now: Loop seconds.
        """
        samples = self._samples
        while samples and (samples[0][0] <= durable or samples[0][0] > last):
            samples.popleft()
        if last > (samples[-1][0] if samples else durable):
            samples.append((last, now))
        return now - samples[0][1] if samples else 0.0
