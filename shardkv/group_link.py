"""A clerk's way to one group: frames of operations to its leader, wherever that is now.

What gathered while the previous frame was on its way is the next frame. A second one leaves
beside it only when many operations wait already, or when the first has been away for long, so that
one slow answer holds up nobody. Which replica leads is remembered from the last answer; a refusal
names the leader, silence moves on to the next member, and every failure but a plain redirection
costs a pause with full jitter.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.transport import Address, Transport
from raft.tracing import TRACES_MAX
from raft.types import GroupId
from shardkv.backoff import Backoff
from shardkv.limits import FRAME_BYTES_MAX, RETRY_SECONDS
from shardkv.pending import Pending
from shardkv.protocol import (
    KV,
    BadFrame,
    Leader,
    Reply,
    Result,
    Status,
    Trouble,
    decode_reply,
    encode_frame,
)
from shardkv.types import Answer, Code, Row

CALL_SECONDS: Final = 1.0
"""How long one frame may be away; what it carried is then sent again, under the same numbers."""
CALL_SECONDS_MAX: Final = 2.0
"""Each silence in a row doubles the patience up to here: a group that is merely slow must not be
given the same work again and again."""
NO_ROOM_SECONDS: Final = 3.0
"""So long a write waits for the group to be led from a disk with room, then its caller is told."""
FRAMES_MAX: Final = 8
"""Frames of one clerk to one group that are in flight at once."""
CROWDED_FRAMES_MAX: Final = 2
"""And where values are so large that a reply holds but a few: enough to keep both ends busy, and
far from the bound on the bytes of one connection."""
FRAME_OPERATIONS: Final = 256
"""Operations that a frame of this clerk carries at most. The node takes more; but frames that are
answered one after the other keep client, leader and followers busy at the same time, where one
large frame would keep them busy in turns."""
EAGER_OPERATIONS: Final = 64
"""With so many waiting a frame leaves beside others."""
LINGER_SECONDS: Final = 0.005
"""And whatever waits leaves when the last frame left so long ago."""
_REDIRECTS_MAX: Final = 3
_DEFINITE: Final = frozenset(
    {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION", "PERMISSION_DENIED"}
)
"""Refusals that come before anything is done. (INTERNAL does not.)"""
_FRAME_HEAD_BYTES: Final = 64


class GroupLink:
    """Operations of one clerk on their way to one group.

    Args:
        answered: Takes each result that the group gave: `(gid, operation, result)`. Operations
            that met trouble on the way are sent again.
        refused: Takes each operation of a frame that the server would not read, and why.
        strayed: Takes over an operation that goes to another group by now; False: it stays.
        round_failed: Called when every member was asked in vain: the members may have changed.
        contexts: Of each operation that is traced: its W3C `traceparent`. Empty as a rule.
    """

    def __init__(
        self,
        gid: GroupId,
        transport: Transport,
        rng: Random,
        *,
        answered: Callable[[GroupId, Pending, Result], None],
        refused: Callable[[Pending, str], None],
        strayed: Callable[[GroupId, Pending], bool],
        round_failed: Callable[[], None],
        contexts: Mapping[Pending, str],
    ) -> None:
        self.gid = gid
        self.config_number = 0  # the number that this clerk routes by
        self.trouble = (
            ""  # what went wrong last, for the error of an operation that ran out of time
        )
        self._transport = transport
        self._answered = answered
        self._refused = refused
        self._strayed = strayed
        self._round_failed = round_failed
        self._contexts = contexts
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(rng)
        self._members: tuple[Address, ...] = ()
        self._leader: Address | None = None
        self._turn = 0  # whose turn it is while the leader is unknown
        self._redirects = 0
        self._patience = CALL_SECONDS
        self._queue: deque[Pending] = deque()
        self._flushing = False
        self._fit = FRAME_OPERATIONS  # operations of a frame whose values had room in one reply
        self._frames = 0
        self._last_sent = 0.0
        self._linger: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}

    @property
    def leader(self) -> Address | None:
        """Who led at the last answer; None if that is not known."""
        return self._leader

    def put(self, pending: Pending) -> None:
        """Send the operation soon; its write has a number."""
        self._queue.append(pending)
        self._kick()

    def take_back(self) -> list[Pending]:
        """Every operation that waits here and is not in flight, in order."""
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

    def members_are(self, members: Sequence[Address], config_number: int) -> None:
        """Where the group's members take clients' calls, by the newest configuration."""
        self.config_number = config_number
        if tuple(members) != self._members:
            self._members = tuple(members)
            self._turn = 0
            if self._leader not in self._members:
                self._leader = None
        self._kick()

    def close(self) -> list["asyncio.Task[None]"]:
        """Send nothing more; returns the cancelled tasks to wait for."""
        self._members = ()
        for timer in (self._linger, self._pause):
            if timer is not None:
                timer.cancel()
        self._linger = self._pause = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    # When a frame leaves

    def _kick(self) -> None:
        """Look once at the end of this loop turn: what the turn brings leaves together."""
        if not self._flushing and self._queue:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while self._queue and self._may_send():
            if batch := self._next_batch():
                self._frames += 1
                self._last_sent = self._loop.time()
                to = self._leader or self._members[self._turn % len(self._members)]
                task = self._loop.create_task(self._exchange(to, batch))
                self._tasks[task] = None
                task.add_done_callback(self._ended)

    def _may_send(self) -> bool:
        crowded = self._fit < FRAME_OPERATIONS
        frames_max = CROWDED_FRAMES_MAX if crowded else FRAMES_MAX
        if self._pause is not None or not self._members or self._frames >= frames_max:
            return False
        if self._frames == 0 or crowded or len(self._queue) >= EAGER_OPERATIONS:
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

    def _next_batch(self) -> list[Pending]:
        batch: list[Pending] = []
        room = FRAME_BYTES_MAX - _FRAME_HEAD_BYTES
        while self._queue and len(batch) < self._fit:
            pending = self._queue[0]
            if not pending.future.done():  # else given up while it waited
                if batch and pending.size > room:
                    break
                room -= pending.size
                batch.append(pending)
            self._queue.popleft()
        return batch

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._tasks[task]
        self._frames -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a mistake of ours: let the loop's handler report it
        self._kick()

    # One frame

    async def _exchange(self, to: Address, batch: list[Pending]) -> None:
        for pending in batch:
            pending.sent += 1
            pending.in_flight = True
        marks = any(pending.marks is not None for pending in batch)
        operations = [pending.wire() for pending in batch]
        traces = traced(batch, self._contexts) if self._contexts else ()
        frame = encode_frame(self.gid, self.config_number, operations, marks=marks, traces=traces)
        reply: Reply | None = None
        refused: Refused | None = None
        try:
            body = await self._transport.call(to, KV, frame, timeout=self._patience)
            reply = decode_reply(body)
            if reply.status is Status.ANSWERED and len(reply.results) != len(batch):
                raise BadFrame(f"{len(reply.results)} results for {len(batch)} operations")
        except Unreachable as error:
            self.trouble = f"{to}: {error}"
        except Refused as error:
            refused = error
            self.trouble = f"{to}: {error}"
        except (Unknown, BadFrame) as error:
            reply = None
            for pending in batch:
                pending.doubtful = True
            self.trouble = f"{to}: {error or 'no answer in time'}"
            self._patience = min(self._patience * 2, CALL_SECONDS_MAX)
        finally:
            for pending in batch:
                pending.in_flight = False
        if reply is not None:
            self._on_reply(to, batch, reply)
        elif refused is not None:
            self._on_refused(to, batch, refused)
        else:
            self._again(batch)
            self._next_member(to)

    def _on_reply(self, to: Address, batch: list[Pending], reply: Reply) -> None:
        match reply.status:
            case Status.ANSWERED:
                self._on_results(to, batch, reply)
            case Status.NOT_LEADER:
                self.trouble = f"{to}: group {self.gid} has another leader, or none"
                self._again(batch)
                self._redirect(to, reply.leader)
            case Status.NO_SUCH_GROUP:
                self.trouble = f"{to}: no replica of group {self.gid} there"
                self._again(batch)
                self._next_member(to)
            case Status.BUSY:
                self.trouble = f"{to}: too many operations in flight"
                self._again(batch)
                self._wait(RETRY_SECONDS)

    def _on_results(self, to: Address, batch: list[Pending], reply: Reply) -> None:
        again: list[Pending] = []
        lost = busy = full = False
        crowded = 0
        if reply.epochs:
            _note(batch, reply)
        for pending, result in zip(batch, reply.results, strict=True):
            if not isinstance(result, Trouble):
                self._answered(self.gid, pending, result)
                continue
            again.append(pending)
            if result is Trouble.UNKNOWN:
                pending.doubtful = True
            crowded += result is Trouble.REPLY_FULL
            lost = lost or result in (Trouble.NOT_LEADER, Trouble.UNKNOWN)
            busy = busy or result is Trouble.BUSY
            if result is Trouble.NO_ROOM:
                full = True
                pending.no_room_since = pending.no_room_since or self._loop.time()
                if self._loop.time() - pending.no_room_since > NO_ROOM_SECONDS:
                    again.pop()
                    self._answered(self.gid, pending, result)
        self._again(again)
        self._note_room(len(batch), crowded)
        if lost:
            self.trouble = f"{to}: lost the leadership of group {self.gid}"
            self._redirect(to, reply.leader)
            return
        self._leader = to
        self._redirects = 0
        self._patience = CALL_SECONDS
        if full:
            self.trouble = f"{to}: the disks of group {self.gid} are full"
            self._wait(RETRY_SECONDS)
        elif busy:
            self.trouble = f"{to}: group {self.gid} has too much to commit"
            self._wait(RETRY_SECONDS)
        else:
            self._backoff.reset()

    def _note_room(self, operations: int, crowded: int) -> None:
        """Of a frame so many operations had no room in its reply: ask for no more together than had
        some, in a few frames at once, until there is room for all again."""
        if crowded:
            self._fit = max(1, operations - crowded)
        elif operations >= self._fit:
            self._fit = min(self._fit + self._fit // 4 + 1, FRAME_OPERATIONS)

    def _on_refused(self, to: Address, batch: list[Pending], refusal: Refused) -> None:
        if refusal.code in ("INVALID_ARGUMENT", "UNIMPLEMENTED"):
            for pending in batch:
                self._refused(pending, refusal.message)
            return
        if refusal.code not in _DEFINITE:
            for pending in batch:  # its handler failed, perhaps after it had proposed
                pending.doubtful = True
        self._again(batch)
        if refusal.code == "RESOURCE_EXHAUSTED":
            self._wait(RETRY_SECONDS)
        else:
            self._next_member(to)

    # Where to ask next, and when

    def _again(self, batch: Sequence[Pending]) -> None:
        stay = [p for p in batch if not p.future.done() and not self._strayed(self.gid, p)]
        self._queue.extendleft(reversed(stay))

    def _redirect(self, to: Address, leader: Leader | None) -> None:
        hint = Address(leader.address) if leader is not None and leader.address else None
        if hint is None or hint == to:
            self._next_member(to)
            return
        if self._leader in (None, to):
            self._leader = hint
        self._redirects += 1
        if self._redirects > _REDIRECTS_MAX:  # two that each name the other
            self._redirects = 0
            self._wait()

    def _next_member(self, failed: Address) -> None:
        members = self._members
        if self._leader == failed or (
            self._leader is None and members and members[self._turn % len(members)] == failed
        ):
            self._leader = None
            self._turn += 1  # also after a leader failed: who named it may know no better
            if members and self._turn % len(members) == 0:
                self._round_failed()
        self._wait()

    def _wait(self, least: float = 0.0) -> None:
        """Send nothing for a while."""
        pause = least + self._backoff.next()
        if self._pause is None:
            self._pause = self._loop.call_later(pause, self._on_pause)

    def _on_pause(self) -> None:
        self._pause = None
        self._kick()


def traced(batch: Sequence[Pending], contexts: Mapping[Pending, str]) -> Sequence[tuple[int, str]]:
    """Which operations of a frame are traced, by their place."""
    found = [(at, contexts[pending]) for at, pending in enumerate(batch) if pending in contexts]
    return found[:TRACES_MAX]


def _note(batch: Sequence[Pending], reply: Reply) -> None:
    """Tell the sessions which states their operations showed or made."""
    for pending, result, epoch in zip(batch, reply.results, reply.epochs, strict=True):
        shown = isinstance(result, Row) or (isinstance(result, Answer) and result.code is Code.OK)
        if pending.marks is not None and shown:
            pending.marks.note(pending.shard, epoch, reply.applied)
