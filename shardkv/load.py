"""What a node has done since it started: plain numbers, counted a frame at a time.

`Meter` is on the path of every request, so it does next to nothing there; who wants to look reads
the numbers. `NodeLoad` is how a node tells them to another (`admin.load`), which draws the rates.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from raft.histogram import BOUNDS_US, Histogram

LOAD: Final = "admin.load"


class Meter:
    """What a node counts.

    Args:
        clock: Seconds that only go forward. The loop's clock is too coarse for what is done within
            one turn of it; the simulator has no other.
    """

    __slots__ = ("apply", "clock", "operations", "reads", "rejected", "writes")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.reads = Histogram()
        """Frames of clients that hold reads only, an observation an operation."""
        self.writes = Histogram()
        """Frames of clients that hold a write."""
        self.apply = Histogram()
        """Batches of committed entries, applied."""
        self.operations = [0, 0]  # reads, writes
        self.rejected: dict[str, int] = {}

    def answered(self, reads: int, writes: int, begun: float) -> None:
        """A client's frame was answered; `begun` is the clock's time when it came."""
        seconds = self.clock() - begun
        self.operations[0] += reads
        self.operations[1] += writes
        (self.writes if writes else self.reads).observe(seconds, reads + writes)

    def reject(self, why: str, operations: int = 1) -> None:
        """Operations that were turned away before anything was done."""
        self.rejected[why] = self.rejected.get(why, 0) + operations


class NodeLoad(NamedTuple):
    """A node's numbers, as `admin.load` answers. All but `waiting` only grow while it lives."""

    boot: int  # of the process; the numbers begin anew with each
    reads: int
    writes: int
    rejected: int
    read_buckets: tuple[int, ...]
    write_buckets: tuple[int, ...]
    waiting: int  # operations of clients in flight on this node now
    http_requests: int
    http_errors: int  # answered with 500 or more
    read_us: int = 0  # that all reads took together, in microseconds
    write_us: int = 0
    sync_buckets: tuple[int, ...] = ()  # synced batches of the log database

    @property
    def operations(self) -> int:
        return self.reads + self.writes


def node_load(
    boot: int,
    meter: Meter | None,
    waiting: int,
    http: tuple[int, int],
    syncs: Histogram | None = None,
) -> NodeLoad:
    """A node's numbers now.

    Args:
        http: HTTP requests answered, and those with 500 or more.
        syncs: Of the log database; None: it is not open.
    """
    synced = () if syncs is None else tuple(syncs.buckets)
    if meter is None:
        return NodeLoad(boot, 0, 0, 0, (), (), waiting, http[0], http[1], sync_buckets=synced)
    return NodeLoad(
        boot,
        meter.operations[0],
        meter.operations[1],
        sum(meter.rejected.values()),
        tuple(meter.reads.buckets),
        tuple(meter.writes.buckets),
        waiting,
        http[0],
        http[1],
        meter.reads.total_us,
        meter.writes.total_us,
        synced,
    )


def percentile_ms(before: tuple[int, ...], now: tuple[int, ...], share: float) -> float | None:
    """The bound below which `share` of what was added between two looks lies, in milliseconds.

    None when nothing was added. What is past the last bound counts as the last bound.
    """
    added = [b - a for a, b in zip(before, now, strict=True)]
    total = sum(added)
    if total <= 0:
        return None
    rank, seen = share * total, 0
    for bound, count in zip((*BOUNDS_US, BOUNDS_US[-1]), added, strict=True):
        seen += count
        if seen >= rank:
            return bound / 1000
    return BOUNDS_US[-1] / 1000
