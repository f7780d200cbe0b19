"""How far a copy that arrives has come, as the leader that pulls it sees it: for people."""

from typing import NamedTuple

from shardkv.copies import PullReply
from shardkv.rows import counter_at
from shardkv.types import NO_COPY, CopyId


class Progress(NamedTuple):
    """Of one arriving shard."""

    phase: str  # "waiting" (for the source), "rows" or "changes"
    bytes_staged: int = 0  # by this leader
    bytes_left: int = 0  # about
    bytes_per_second: int = 0


class Meter:
    """Counts what one leader stages of one copy."""

    def __init__(self, copy_id: CopyId, now: float) -> None:
        self.copy_id = copy_id
        self._began = now
        self._now = now
        self._bytes = 0
        self._rows_bytes = 0
        self._shard_bytes = 0
        self._changes = 0
        self._change_bytes = 0
        self._changes_left = 0

    def took(self, size: int, reply: PullReply, now: float) -> None:
        """A chunk of `size` bytes came, at `now` in loop seconds."""
        self._now = now
        self._bytes += size
        self._shard_bytes = reply.shard_bytes
        self._changes_left = reply.changes_left
        if reply.chunk is not None:
            before = counter_at(reply.chunk.cursor)
            if before is None:
                self._rows_bytes += size
            else:
                self._changes += (counter_at(reply.chunk.next_cursor) or before) - before
                self._change_bytes += size

    def progress(self, cursor: bytes) -> Progress:
        """Where the copy stands, given the cursor that is staged."""
        if self.copy_id == NO_COPY:
            return Progress("waiting")
        seconds = self._now - self._began
        rate = int(self._bytes / seconds) if seconds > 0 else 0
        each = self._change_bytes / self._changes if self._changes else CHANGE_BYTES
        left = int(self._changes_left * each)
        if counter_at(cursor) is not None:
            return Progress("changes", self._bytes, left, rate)
        left += max(0, self._shard_bytes - self._rows_bytes)
        return Progress("rows", self._bytes, left, rate)


CHANGE_BYTES = 256
"""What a change is taken to be worth before any has come."""
