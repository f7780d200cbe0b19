"""One session of a clerk: numbers for its writes to one shard."""

from shardkv.types import SessionId


class Session:
    """One session of this clerk, and the sequences in it that have no certain answer."""

    __slots__ = ("_next", "_outstanding", "_window", "number", "used")

    def __init__(self, number: SessionId, now: float, window: int) -> None:
        self.number = number
        self.used = now  # when it last gave out a sequence, in loop seconds
        self._outstanding: dict[int, None] = {}  # ascending: given out in order
        self._next = 1
        self._window = window

    @property
    def floor(self) -> int:
        """The lowest sequence that the clerk still waits for; the next one if it awaits none."""
        return next(iter(self._outstanding), self._next)

    @property
    def has_room(self) -> bool:
        return self._next < self.floor + self._window

    @property
    def idle(self) -> bool:
        return not self._outstanding

    def take(self, now: float) -> int:
        """A sequence for one more write."""
        assert self.has_room, "the shard would refuse it"
        seq = self._next
        self._next += 1
        self._outstanding[seq] = None
        self.used = now
        return seq

    def release(self, seq: int) -> None:
        """The write is answered, or given up: the shard may forget its answer."""
        self._outstanding.pop(seq, None)
