"""One operation of a clerk from its call to its answer, and the clock that bounds it."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from shardctrler.types import ShardId
from shardkv.commands import Batch, BatchWrite, Op, OpenSession, encode, encode_mutation
from shardkv.errors import NotOneShard
from shardkv.once import Once
from shardkv.protocol import OPERATION_OVERHEAD_BYTES, Get
from shardkv.routing import Routing
from shardkv.session import Session
from shardkv.tokens import ReadSession
from shardkv.types import Answer, Version

NO_SHARD: Final = ShardId(-1)
"""Before the first configuration is known, which says how many shards there are."""

_TICK_SECONDS: Final = 0.05


class Pending:
    """An operation that has no certain answer yet. One future each, and no task.

    `op` None is a Get, and a `key` of None the opening of a session. A write keeps `session` and
    `seq` through every repetition. `sent` counts the frames that it left in; `doubtful` says that
    one of them may have brought it into a log and no answer says what became of it. `marks` is
    told which state was shown. `no_room_since` is when a full disk refused it first; 0: none did.
    """

    __slots__ = (
        "doubtful",
        "future",
        "if_version",
        "in_flight",
        "key",
        "marks",
        "no_room_since",
        "once",
        "op",
        "sent",
        "seq",
        "session",
        "shard",
        "size",
        "tick",
        "value",
    )

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        key: bytes | None,
        op: Op | None = None,
        value: bytes = b"",
        if_version: Version | None = None,
        once: Once | None = None,
    ) -> None:
        self.future = future
        self.key = key
        self.op = op
        self.value = value
        self.if_version = if_version
        self.once = once
        self.size = OPERATION_OVERHEAD_BYTES + (len(key) if key else 0) + len(value)
        self.shard = NO_SHARD
        self.session: Session | None = None
        self.marks: ReadSession | None = None
        self.seq = 0
        self.sent = 0
        self.in_flight = False
        self.doubtful = False
        self.no_room_since = 0.0
        self.tick = 0

    @property
    def unknown(self) -> bool:
        """Whether it may have been done, or may yet be."""
        return self.op is not None and (self.doubtful or self.in_flight)

    def place(self, routing: Routing) -> ShardId:
        """The shard of its keys; raises NotOneShard."""
        assert self.key is not None, "a session is opened in a shard that is known"
        return routing(self.key)

    def outcome(self, answer: Answer) -> Any:
        """What the caller of a write gets for an answer that says it is done."""
        return Version(answer.facts[0] if answer.facts else 0)

    def wire(self) -> Get | bytes:
        """What travels. A write's floor is that of this moment."""
        if self.op is not None:
            assert self.session is not None and self.key is not None, "a write without a number"
            session = self.session
            return encode_mutation(
                self.op,
                self.shard,
                session.number,
                self.seq,
                session.floor,
                self.key,
                self.value,
                self.if_version,
                self.once,
            )
        if self.key is not None:
            return Get(self.key)
        return encode(OpenSession(self.shard))


class BatchPending(Pending):
    """Writes that are done together or not at all; known by the first of them."""

    __slots__ = ("writes",)

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        writes: tuple[BatchWrite, ...],
        once: Once | None = None,
    ) -> None:
        first = writes[0]
        super().__init__(future, first.key, first.op, once=once)
        self.writes = writes
        self.size = sum(
            OPERATION_OVERHEAD_BYTES + len(write.key) + len(write.value) for write in writes
        )

    def place(self, routing: Routing) -> ShardId:
        shard = routing(self.writes[0].key)
        for at, write in enumerate(self.writes):
            if (other := routing(write.key)) != shard:
                raise NotOneShard(at, other, shard)
        return shard

    def outcome(self, answer: Answer) -> list[Version]:
        return [Version(fact) for fact in answer.facts]

    def wire(self) -> bytes:
        session = self.session
        assert session is not None, "a write without a number"
        return encode(
            Batch(self.shard, session.number, self.seq, session.floor, self.writes, self.once)
        )


class Deadlines:
    """When operations must end, kept in ticks of 50 ms: in and out cost two look-ups each.

    A timer for each would cost more than all else that a clerk does with an operation. One ends at
    most a tick late and never early.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[Pending], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._ticks: dict[int, dict[Pending, None]] = {}  # in each tick in the order of their calls
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def add(self, pending: Pending, deadline: float) -> None:
        tick = int(deadline / _TICK_SECONDS) + 1
        pending.tick = tick
        due = self._ticks.get(tick)
        if due is None:
            due = self._ticks[tick] = {}
            if self._timer is None or tick < self._timer_tick:
                self._arm(tick)
        due[pending] = None

    def discard(self, pending: Pending) -> None:
        due = self._ticks.get(pending.tick)
        if due is not None:
            due.pop(pending, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ticks.clear()

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = self._loop.call_at(tick * _TICK_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        due = self._ticks.pop(self._timer_tick, {})
        for pending in list(due):
            self._expired(pending)
        while self._timer is None and self._ticks:  # skip what was emptied meanwhile
            tick = min(self._ticks)
            if self._ticks[tick]:
                self._arm(tick)
            else:
                del self._ticks[tick]
