"""Requests for a shard that this group is about to take over: they wait at the door, for a moment.

From the freeze to the install nobody serves the shard. Whoever asks here meanwhile is answered when
it is in, instead of being sent away and coming again. The wait is bounded, so that a source that
went down with the freeze in its log holds up nobody; and it is memory of one leader.
"""

import asyncio
from collections.abc import Iterable

from shardctrler.types import ShardId
from shardkv.limits import HOLD_SECONDS


class Holds:
    """Which shards are about to come in here, and who waits for them."""

    def __init__(self) -> None:
        self.requests = 0
        """Frames of clients that waited here, since the start."""
        self._shards: dict[ShardId, asyncio.Event] = {}

    def __bool__(self) -> bool:
        return bool(self._shards)

    def begin(self, shard: ShardId) -> None:
        """The source was asked to freeze the shard."""
        self._shards.setdefault(shard, asyncio.Event())

    def end(self, shard: ShardId) -> None:
        """It is in, or it is not known when it will be."""
        event = self._shards.pop(shard, None)
        if event is not None:
            event.set()

    def end_all(self) -> None:
        """This replica does not lead any more."""
        for shard in list(self._shards):
            self.end(shard)

    async def wait(self, shards: Iterable[ShardId]) -> None:
        """Return when none of the shards is held any more, or after `HOLD_SECONDS`."""
        events = [self._shards[shard] for shard in dict.fromkeys(shards) if shard in self._shards]
        if not events:
            return
        self.requests += 1
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                for event in events:
                    await event.wait()
        except TimeoutError:
            pass  # they are told where the shard comes from
