"""A clerk's way to all replicas of one group, for reads that any of them may answer.

The members are asked in turn: what gathered while the last frame was on its way goes to the next
one, so that the reads of many callers spread over all replicas. A member that is silent
or cannot answer is passed over for a while. A read goes from member to member until one answers,
its time is over, or, for one with a bound, every member has said twice that it is older.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.transport import Address, Transport
from raft.types import GroupId
from shardkv.backoff import Backoff
from shardkv.consistency import Reading
from shardkv.errors import ShardKVError, TooStale
from shardkv.limits import FRAME_BYTES_MAX, FRAME_OPERATIONS_MAX, RETRY_SECONDS
from shardkv.pending import Pending
from shardkv.protocol import BadFrame, Result, Status
from shardkv.reading import (
    READ,
    UNKNOWN_AGE_MS,
    Question,
    ReadFrame,
    ReadReply,
    Refusal,
    Served,
    Trouble,
    decode_read_reply,
    encode_read,
)
from shardkv.tokens import NOTHING, ReadSession
from shardkv.types import Answer, Code

CALL_SECONDS: Final = 2.0
"""Longer than a replica waits for its leader."""
EAGER_OPERATIONS: Final = 64
"""With so many waiting a frame leaves beside others, and to a member that has one already."""
LINGER_SECONDS: Final = 0.005
"""And whatever waits leaves when the last frame left so long ago."""
PASSED_OVER_SECONDS: Final = 2.0
_FRAME_HEAD_BYTES: Final = 64
_ROUNDS_MAX: Final = 2


class ReadPending(Pending):
    """A read that any replica may answer."""

    __slots__ = ("age_ms", "reading", "too_old", "tried")

    def __init__(
        self, future: "asyncio.Future[Any]", key: bytes, reading: Reading, marks: ReadSession | None
    ) -> None:
        super().__init__(future, key)
        self.reading = reading
        self.marks = marks
        self.tried = 0  # members that did not answer
        self.too_old = False  # one of them since it was too old
        self.age_ms = UNKNOWN_AGE_MS  # of the youngest member that was too old

    @property
    def trouble(self) -> TooStale | None:
        """Why its bound could not be kept, if that is what stood in its way."""
        if not self.too_old:
            return None
        known = self.age_ms < UNKNOWN_AGE_MS
        return TooStale(self.reading.age_ms_max / 1000, self.age_ms / 1000 if known else None)


class ReadLink:
    """Reads of one clerk on their way to one group.

    Args:
        answered: Takes each row, and each other answer of the group: `(gid, operation, result)`.
        failed: Takes each operation that cannot succeed, and why.
        refused: Takes each operation of a frame that the server would not read, and why.
        strayed: Takes over an operation that goes to another group by now; False: it stays.
        round_failed: Called when every member was asked in vain: the members may have changed.
    """

    def __init__(
        self,
        gid: GroupId,
        transport: Transport,
        rng: Random,
        *,
        answered: Callable[[GroupId, Pending, Result], None],
        failed: Callable[[Pending, ShardKVError], None],
        refused: Callable[[Pending, str], None],
        strayed: Callable[[GroupId, Pending], bool],
        round_failed: Callable[[], None],
    ) -> None:
        self.gid = gid
        self.config_number = 0
        self.trouble = ""
        self._transport = transport
        self._answered = answered
        self._failed = failed
        self._refused = refused
        self._strayed = strayed
        self._round_failed = round_failed
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(rng)
        self._members: tuple[Address, ...] = ()
        self._turn = rng.randrange(1 << 16)  # clerks do not all begin with the same member
        self._frames: dict[Address, int] = {}
        self._passed_over: dict[Address, float] = {}  # until when
        self._queue: deque[ReadPending] = deque()
        self._flushing = False
        self._last_sent = 0.0
        self._linger: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}

    def put(self, pending: ReadPending) -> None:
        self._queue.append(pending)
        self._kick()

    def take_back(self) -> list[ReadPending]:
        """Every operation that waits here and is not in flight, in order."""
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

    def members_are(self, members: Sequence[Address], config_number: int) -> None:
        """Where the group's members take clients' calls, by the newest configuration."""
        self.config_number = config_number
        if tuple(members) != self._members:
            self._members = tuple(members)
            self._passed_over.clear()
        self._kick()

    def close(self) -> list["asyncio.Task[None]"]:
        """Send nothing more; returns the cancelled tasks to wait for."""
        self._members = ()
        for timer in (self._pause, self._linger):
            if timer is not None:
                timer.cancel()
        self._pause = self._linger = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    # When a frame leaves, and to whom

    def _kick(self) -> None:
        if not self._flushing and self._queue:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while self._queue and self._may_send():
            to = self._next_member()
            if to is None:
                return
            if batch := self._next_batch():
                self._frames[to] = self._frames.get(to, 0) + 1
                self._last_sent = self._loop.time()
                task = self._loop.create_task(self._exchange(to, batch))
                self._tasks[task] = None
                task.add_done_callback(partial(self._ended, to=to))

    def _may_send(self) -> bool:
        """Not beside another frame, unless many wait or that one is slow: a frame costs the same
        whatever it carries, and each one makes a follower ask its leader."""
        if self._pause is not None:
            return False
        if not self._frames or len(self._queue) >= EAGER_OPERATIONS:
            return True
        due = self._last_sent + LINGER_SECONDS
        if self._loop.time() >= due:
            return True
        if self._linger is None:
            self._linger = self._loop.call_at(due, self._on_linger)
        return False

    def _on_linger(self) -> None:
        self._linger = None
        self._kick()

    def _next_member(self) -> Address | None:
        """Whose turn it is of those that have room; who is passed over comes last."""
        count, now = len(self._members), self._loop.time()
        most = 2 if len(self._queue) >= EAGER_OPERATIONS else 1
        second_choice: tuple[int, Address] | None = None
        for step in range(count):
            member = self._members[(self._turn + step) % count]
            if self._frames.get(member, 0) >= most:
                continue
            if self._passed_over.get(member, 0.0) > now:
                second_choice = second_choice or (step, member)
                continue
            self._turn += step + 1
            return member
        if second_choice is None or self._frames_in_flight():
            return None
        self._turn += second_choice[0] + 1
        return second_choice[1]

    def _frames_in_flight(self) -> int:
        return sum(self._frames.values())

    def _next_batch(self) -> list[ReadPending]:
        """Waiting operations of one kind, in order; those of another kind stay."""
        batch: list[ReadPending] = []
        others: list[ReadPending] = []
        room = FRAME_BYTES_MAX - _FRAME_HEAD_BYTES
        while self._queue and len(batch) < FRAME_OPERATIONS_MAX:
            pending = self._queue[0]
            if not pending.future.done():  # else given up while it waited
                if batch and pending.reading != batch[0].reading:
                    others.append(pending)
                elif batch and pending.size > room:
                    break
                else:
                    room -= pending.size
                    batch.append(pending)
            self._queue.popleft()
        self._queue.extendleft(reversed(others))
        return batch

    def _ended(self, task: "asyncio.Task[None]", *, to: Address) -> None:
        del self._tasks[task]
        self._frames[to] -= 1
        if not self._frames[to]:
            del self._frames[to]
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a mistake of ours: let the loop's handler report it
        self._kick()

    # One frame

    async def _exchange(self, to: Address, batch: list[ReadPending]) -> None:
        reading = batch[0].reading
        questions = [
            Question(p.key or b"", NOTHING if p.marks is None else p.marks.mark(p.shard))
            for p in batch
        ]
        frame = ReadFrame(
            self.gid, self.config_number, reading.is_stale, reading.age_ms_max, tuple(questions)
        )
        try:
            body = await self._transport.call(to, READ, encode_read(frame), timeout=CALL_SECONDS)
            reply = decode_read_reply(body)
            if reply.status is Status.ANSWERED and len(reply.results) != len(batch):
                raise BadFrame(f"{len(reply.results)} results for {len(batch)} operations")
        except Refused as error:
            if error.code == "INVALID_ARGUMENT":  # a member that is older knows no such method
                for pending in batch:
                    self._refused(pending, error.message)
                return
            self._in_vain(to, batch, str(error))
        except (Unreachable, Unknown, BadFrame) as error:
            self._in_vain(to, batch, str(error) or "no answer in time")
        else:
            self._on_reply(to, batch, reply)

    def _on_reply(self, to: Address, batch: list[ReadPending], reply: ReadReply) -> None:
        if reply.status is Status.BUSY:
            self.trouble = f"{to}: too many operations in flight"
            self._again(batch)
            self._wait(RETRY_SECONDS)
            return
        if reply.status is not Status.ANSWERED:
            self._in_vain(to, batch, f"no replica of group {self.gid} there")
            return
        again: list[ReadPending] = []
        in_vain: list[ReadPending] = []
        for pending, result in zip(batch, reply.results, strict=True):
            if isinstance(result, Served):
                if pending.marks is not None:
                    pending.marks.note(pending.shard, result.epoch, reply.applied)
                self._answered(self.gid, pending, result.row)
            elif isinstance(result, Refusal):
                if result.trouble is Trouble.REPLY_FULL:
                    again.append(pending)
                    continue
                pending.age_ms = min(pending.age_ms, result.age_ms)
                pending.too_old = pending.too_old or result.trouble is Trouble.TOO_OLD
                in_vain.append(pending)
            elif self._is_behind(pending, result):
                in_vain.append(pending)
            else:
                self._answered(self.gid, pending, result)
        self._again(again)
        if in_vain:
            self._in_vain(to, in_vain, f"this replica of group {self.gid} is behind its leader")
        else:
            self._passed_over.pop(to, None)
            self._backoff.reset()

    def _is_behind(self, pending: ReadPending, answer: Answer) -> bool:
        """Whether this replica alone may not have heard yet that its group owns the shard: it did
        not ask how far it has to be. Once all members say so, it is the group."""
        return (
            answer.code is Code.WRONG_GROUP
            and answer.facts[0] < self.config_number
            and pending.reading.is_stale
            and pending.tried < len(self._members)
        )

    def _in_vain(self, to: Address, batch: Sequence[ReadPending], trouble: str) -> None:
        """This member could not answer: ask the others."""
        self.trouble = f"{to}: {trouble}"
        self._passed_over[to] = self._loop.time() + PASSED_OVER_SECONDS
        most = max(len(self._members), 1)
        went_round = False
        again: list[ReadPending] = []
        for pending in batch:
            pending.tried += 1
            went_round = went_round or pending.tried % most == 0
            error = pending.trouble
            if error is not None and pending.tried >= _ROUNDS_MAX * most:
                self._failed(pending, error)
            else:
                again.append(pending)
        self._again(again)
        if went_round:
            self._round_failed()
            self._wait()

    def _again(self, batch: Sequence[ReadPending]) -> None:
        stay = [p for p in batch if not p.future.done() and not self._strayed(self.gid, p)]
        self._queue.extendleft(reversed(stay))
        self._kick()

    def _wait(self, least: float = 0.0) -> None:
        """Send nothing for a while."""
        pause = least + self._backoff.next()
        if self._pause is None:
            self._pause = self._loop.call_later(pause, self._on_pause)

    def _on_pause(self) -> None:
        self._pause = None
        self._kick()


class ReadLinks:
    """The links of one clerk, one a group that it reads from.

    Args:
        new_link: Makes the link to a group.
        members: Where a group's members take clients' calls.
    """

    def __init__(
        self,
        new_link: Callable[[GroupId], ReadLink],
        members: Callable[[GroupId], tuple[Sequence[Address], int]],
    ) -> None:
        self._new_link = new_link
        self._members = members
        self._links: dict[GroupId, ReadLink] = {}

    def put(self, gid: GroupId, pending: ReadPending) -> None:
        link = self._links.get(gid)
        if link is None:
            link = self._links[gid] = self._new_link(gid)
            link.members_are(*self._members(gid))
        link.put(pending)

    def trouble(self, gid: GroupId) -> str:
        """What went wrong last on the way to a group."""
        return self._links[gid].trouble if gid in self._links else ""

    def adopt(self) -> None:
        """There is a newer view: tell each link its group's members."""
        for gid, link in self._links.items():
            link.members_are(*self._members(gid))

    def take_back(self) -> list[ReadPending]:
        """Every operation that is not in flight."""
        return [pending for link in self._links.values() for pending in link.take_back()]

    def close(self) -> list["asyncio.Task[None]"]:
        return [task for link in self._links.values() for task in link.close()]
