"""What the HTTP edge counts. Plain numbers; `metrics.py` shows them."""

from collections.abc import Callable

from raft.histogram import Histogram


class HttpMeasures:
    """Requests by kind and status, their latency by kind, and how many are under way.

    Args:
        clock: Seconds that only go forward.
    """

    __slots__ = ("_clock", "latency", "requests", "streams", "under_way")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.requests: dict[tuple[str, int], int] = {}
        self.latency: dict[str, Histogram] = {}
        self.under_way = 0
        self.streams = 0

    def began(self) -> float:
        """A request came; keep what this returns for `ended`."""
        self.under_way += 1
        return self._clock()

    def ended(self, kind: str, status: int, begun: float) -> None:
        """It was answered with `status`; `kind` is one of a fixed few."""
        self.under_way -= 1
        label = (kind, status)
        self.requests[label] = self.requests.get(label, 0) + 1
        histogram = self.latency.get(kind)
        if histogram is None:
            histogram = self.latency[kind] = Histogram()
        histogram.observe(self._clock() - begun)

    @property
    def total(self) -> int:
        return sum(self.requests.values())

    @property
    def errors(self) -> int:
        """Answered with 500 or more."""
        return sum(n for (_, status), n in self.requests.items() if status >= 500)
