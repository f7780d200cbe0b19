"""What the logs of a node keep of their entries in memory: one bound for all of them.

A bound for each log would be none for a node: a hundred groups would keep a hundred times as much.
So they share one. Who needs an entry again is a follower that lags or an applier that is behind,
and both want what came last: when there is no room, the log that has not grown for longest forgets
first, its oldest entries before its others. An entry that is not durable stays in any case, because
nobody else has it.
"""

from typing import Final, Protocol

KEPT: Final = 3 / 4
"""Of the bound, when room is made: so that not every entry that comes makes some."""


class Forgetful(Protocol):
    """A log, as far as this is concerned."""

    def forget(self, bytes_: int) -> None:
        """Drop the oldest durable entries from memory: so many bytes, or all that there are; and
        say so by `shrunk`."""
        ...

    @property
    def cached_bytes(self) -> int:
        """What it keeps."""
        ...


class EntryMemory:
    """Shared by all logs of a node.

    Attributes:
        used: Bytes of entries in memory, of all logs.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0
        self._logs: dict[Forgetful, None] = {}  # the one that has not grown for longest first
        self._latest: Forgetful | None = None

    def grown(self, log: Forgetful, bytes_: int) -> None:
        """`log` keeps so many bytes more."""
        self.used += bytes_
        if log is not self._latest:
            self._logs.pop(log, None)
            self._logs[log] = None
            self._latest = log
        if self.used > self.bytes_max:
            self.make_room()

    def shrunk(self, bytes_: int) -> None:
        """Some log keeps so many bytes less."""
        self.used -= bytes_

    def left(self, log: Forgetful) -> None:
        """`log` is let go: what it keeps counts no more."""
        self.used -= log.cached_bytes
        self._logs.pop(log, None)
        if self._latest is log:
            self._latest = None

    def make_room(self) -> None:
        """If there is too much, have logs forget; call it too when entries became durable."""
        if self.used <= self.bytes_max:
            return
        kept = int(self.bytes_max * KEPT)
        for log in list(self._logs):
            log.forget(self.used - kept)
            if not log.cached_bytes and log is not self._latest:
                del self._logs[log]
            if self.used <= kept:
                return
