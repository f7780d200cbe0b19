"""The operations of a clerk: it finds the group of each key and asks until it knows.

Each operation ends in one of three ways, within its deadline and a tick: with its answer; with an
error that is *definite* (it was not done); or, for a write that left and whose answer never came,
with `OutcomeUnknown`. A write keeps its session and sequence through every repetition, so it is
done at most once however often it travels; one given up counts as acknowledged, and may still be
done by a frame that is on its way.

Operations in flight at the same time have no order among them. The next one of a caller that
awaits each answer comes after it.

The path of one operation: `put()` makes a future and a `Pending` -> its shard's session numbers
it (opened by the first write) -> its group's link frames it with all that wait -> the result
resolves the future. There is no task an operation; a frame has one.

An operation whose shard its group does not serve goes on to the group that is named instead
(`detours.py`), or waits here, per shard: for a newer configuration if the group knows one, else
with full jitter.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Protocol

from labrpc.transport import Address, Transport
from raft.types import GroupId
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import NO_GROUP, ShardConfig, ShardId, View
from shardkv.backoff import Backoff
from shardkv.client_sessions import ShardSessions
from shardkv.detours import Detours, Next
from shardkv.errors import (
    Closed,
    DiskFull,
    InvalidArgument,
    NotOneShard,
    OutcomeUnknown,
    Overloaded,
    SequenceReused,
    ShardKVError,
    Unavailable,
    error_of,
)
from shardkv.group_link import GroupLink
from shardkv.last_view import GRACE_SECONDS, ask_around
from shardkv.lists import Lists
from shardkv.pending import NO_SHARD, Deadlines, Pending
from shardkv.protocol import Result, Trouble
from shardkv.read_link import ReadLink, ReadLinks, ReadPending
from shardkv.routing import Routing, SlotRouting
from shardkv.scan import Network
from shardkv.types import Answer, Code, Row, SessionId

log = logging.getLogger(__name__)
_OK: Final = Code.OK  # to look it up in the enum takes 60 ns, and every answer is asked

TIMEOUT_SECONDS: Final = 10.0
"""An operation's deadline where its caller names none."""
TIMEOUT_SECONDS_MAX: Final = 3600.0
OPERATIONS_MAX: Final = 16_384
"""Operations of one clerk that wait for answers; past it the next is refused at once."""
OPERATIONS_BYTES_MAX: Final = 64 * 1024 * 1024
PARKED_MIN: Final = 64
"""Among so many that wait for their shard nobody looks for some that have ended."""
REFRESH_SECONDS: Final = 1.0
"""So long a list waits for a newer configuration before it goes on with the one that it has."""


class Controller(Protocol):
    """The shard controller, as a client of it sees it."""

    async def newest(self) -> View:
        """The newest configuration and where everybody is now, linearizably.

        Whatever it raises means "ask again later".
        """
        ...


class _Parked:
    """Operations of one shard that its group would not take, until the shard is tried again."""

    __slots__ = ("backoff", "operations", "timer")

    def __init__(self, rng: Random) -> None:
        self.backoff = Backoff(rng)
        self.operations: deque[Pending] = deque()
        self.timer: asyncio.TimerHandle | None = None


class Operations:
    """What a `Clerk` does with what it is asked, on the running loop.

    Args:
        transport: Carries the frames; stays its owner's to close.
        controller: Where configurations come from.
        rng: Chance for jitter.
        routing: Key to shard; None: the store's own, for as many shards as the configuration has.
        timeout: Seconds that an operation may take where its caller names none.
        cluster: The cluster's id; it goes into the tokens of sessions.
        nodes: Who may be asked for the configuration that it knows, when the controller does not
            answer and a stale read waits; None: nobody.
    """

    def __init__(
        self,
        transport: Transport,
        controller: Controller,
        *,
        rng: Random,
        routing: Routing | None = None,
        timeout: float = TIMEOUT_SECONDS,
        cluster: bytes = b"",
        nodes: Callable[[], Sequence[Address]] | None = None,
    ) -> None:
        self._transport = transport
        self._cluster = cluster
        self._nodes = nodes
        self._looking_around: asyncio.Task[None] | None = None
        self._controller = controller
        self._rng = rng
        self._routing = routing
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop, self._expired)
        self._pending: dict[Pending, None] = {}
        self._contexts: dict[Pending, str] = {}  # of those that are traced (`tracing.py`)
        self._pending_bytes = 0
        self._view: View | None = None
        self._links: dict[GroupId, GroupLink] = {}
        self._reads = ReadLinks(self._new_read_link, self._members)
        network = Network(transport, rng, self._current, _members, self._leader)
        self._lists = Lists(network, routing, timeout)
        self._sessions: dict[ShardId, ShardSessions] = {}
        self._parked: dict[ShardId, _Parked] = {}
        self._detours = Detours()
        self._refreshing: asyncio.Task[None] | None = None
        self._refresh_trouble = ""
        self._closed = False

    async def close(self) -> None:
        """Give up what is pending (each ends as if its time were over) and stop."""
        if self._closed:
            return
        self._closed = True
        for pending in list(self._pending):
            self._give_up(pending, "the clerk was closed")
        self._deadlines.close()
        tasks: list[asyncio.Task[None]] = []
        for link in self._links.values():
            tasks += link.close()
        tasks += self._reads.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            tasks.append(self._refreshing)
        if self._looking_around is not None:
            self._looking_around.cancel()
            tasks.append(self._looking_around)
        for parked in self._parked.values():
            if parked.timer is not None:
                parked.timer.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def config(self) -> ShardConfig | None:
        """The configuration that this clerk routes by; None before its first operation."""
        return None if self._view is None else self._view.config

    # The life of an operation

    async def _run(self, pending: Pending, timeout: float | None) -> Any:
        if self._closed:
            raise Closed()
        seconds = self._timeout if timeout is None else timeout
        if math.isnan(seconds):
            raise InvalidArgument("timeout must be a number of seconds, not NaN")
        if seconds <= 0:
            raise Unavailable(f"a timeout of {seconds:g} s leaves no time: nothing was sent")
        if (
            len(self._pending) >= OPERATIONS_MAX
            or self._pending_bytes + pending.size > OPERATIONS_BYTES_MAX
        ):
            raise Overloaded(
                f"this clerk has {len(self._pending)} operations of {self._pending_bytes} bytes"
                f" in flight; the limits are {OPERATIONS_MAX} and {OPERATIONS_BYTES_MAX}"
            )
        self._pending[pending] = None
        self._pending_bytes += pending.size
        self._deadlines.add(pending, self._loop.time() + min(seconds, TIMEOUT_SECONDS_MAX))
        self._route(pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._forget(pending)  # given up by its caller: counts as acknowledged
            raise

    def _route(self, pending: Pending) -> None:
        """Hand the operation to the link of the group that should serve it, or park it."""
        config = self.config
        if config is None:
            self._park(pending, at_once=False)
            self._refresh()
            if isinstance(pending, ReadPending) and pending.reading.is_stale:
                self._look_around()
            return
        if pending.shard == NO_SHARD:
            assert self._routing is not None and pending.key is not None, "known with the config"
            try:
                pending.shard = pending.place(self._routing)
            except NotOneShard as error:
                self._fail(pending, error)
                return
        if pending.op is not None and pending.session is None and not self._number(pending):
            return
        gid = self._detours.group(config, pending.shard)
        if gid == NO_GROUP:
            self._park(pending)
        elif isinstance(pending, ReadPending):
            self._reads.put(gid, pending)
        else:
            self._link(gid).put(pending)

    def _number(self, write: Pending) -> bool:
        """Give a write its number; False: it waits for a session, which is being opened."""
        sessions = self._sessions.get(write.shard)
        if sessions is None:
            sessions = self._sessions[write.shard] = ShardSessions()
        if not sessions.waiting and sessions.number(write, self._loop.time()):
            return True
        sessions.waiting.append(write)
        self._open_session(write.shard, sessions)
        return False

    def _open_session(self, shard: ShardId, sessions: ShardSessions) -> None:
        if not sessions.wants_another:
            return
        opening = sessions.opening = Pending(self._loop.create_future(), None)
        opening.shard = shard
        self._route(opening)

    def _sessions_changed(self, shard: ShardId, sessions: ShardSessions) -> None:
        """A session was opened, or a number came free: send writes that waited for it."""
        now = self._loop.time()
        while sessions.waiting:
            write = sessions.waiting[0]
            if not write.future.done():  # else given up while it waited
                if not sessions.number(write, now):
                    self._open_session(shard, sessions)
                    return
                self._route(write)
            sessions.waiting.popleft()

    def _finish(self, pending: Pending, value: Any) -> None:
        if not pending.future.done():
            pending.future.set_result(value)
            self._forget(pending)

    def _fail(self, pending: Pending, error: ShardKVError) -> None:
        if not pending.future.done():
            pending.future.set_exception(error)
            self._forget(pending)

    def _forget(self, pending: Pending) -> None:
        """The operation has ended. Its sequence counts as acknowledged from here on."""
        if pending not in self._pending:
            return
        del self._pending[pending]
        self._pending_bytes -= pending.size
        self._deadlines.discard(pending)
        if pending.session is not None:
            pending.session.release(pending.seq)
            sessions = self._sessions[pending.shard]
            if sessions.waiting and not self._closed:
                self._sessions_changed(pending.shard, sessions)
        elif pending.op is not None and pending.shard in self._sessions:
            self._sessions[pending.shard].given_up()

    def _expired(self, pending: Pending) -> None:
        self._give_up(pending, "no answer in time")

    def _give_up(self, pending: Pending, why: str) -> None:
        trouble = self._trouble(pending)
        message = f"{why} ({trouble})" if trouble else why
        if isinstance(pending, ReadPending) and pending.trouble is not None:
            self._fail(pending, pending.trouble)
        elif pending.unknown:
            self._fail(pending, OutcomeUnknown(f"{message}: the write may have been done"))
        else:
            self._fail(pending, Unavailable(f"{message}: nothing was done"))

    def _trouble(self, pending: Pending) -> str:
        """What stood in the operation's way last, as far as is known."""
        config = self.config
        if config is None or pending.shard == NO_SHARD:
            return self._refresh_trouble or "no configuration yet"
        gid = self._detours.group(config, pending.shard)
        if gid == NO_GROUP:
            return f"no group serves shard {pending.shard} in config {config.number}"
        sessions = self._sessions.get(pending.shard)
        if sessions is not None and sessions.trouble and pending in sessions.waiting:
            return sessions.trouble
        if isinstance(pending, ReadPending):
            return self._reads.trouble(gid) or self._refresh_trouble
        return self._links[gid].trouble if gid in self._links else self._refresh_trouble

    # What groups answer

    def _answered(self, gid: GroupId, pending: Pending, result: Result) -> None:
        if isinstance(result, Row):
            self._finish(pending, result)
            self._unpark(pending.shard)
            return
        if isinstance(result, Answer) and result.code is _OK:
            self._done(pending, result)
            return
        if result is Trouble.NO_ROOM:
            self._no_room(gid, pending)
            return
        assert isinstance(result, Answer), "a link keeps what met trouble"
        match result.code:
            case Code.WRONG_GROUP | Code.NOT_READY:
                self._elsewhere(gid, pending, result)
            case Code.SESSIONS_FULL:
                self._sessions[pending.shard].trouble = str(
                    error_of(result, shard=pending.shard, group=gid)
                )
                self._park(pending)
            case Code.SEQUENCE_OVER_WINDOW:
                self._park(pending)
            case Code.SESSION_EXPIRED:
                self._session_expired(pending)
            case Code.SEQUENCE_STALE:
                # Only what was given up falls below the floor; then nobody waits for it.
                self._fail(pending, OutcomeUnknown("its number was acknowledged before its answer"))
            case Code.NAMES_FULL if pending.unknown:
                self._fail(pending, OutcomeUnknown("the shard knows its fill of named requests"))
            case Code.BAD_COMMAND if pending.unknown:
                self._fail(pending, OutcomeUnknown("the group does not know the command"))
            case _:
                error = error_of(result, shard=pending.shard, group=gid)
                assert error is not None, result
                if isinstance(error, SequenceReused):
                    log.error("shard %d: %s", pending.shard, error)
                self._fail(pending, error)

    def _elsewhere(self, gid: GroupId, pending: Pending, answer: Answer) -> None:
        """The group that was asked does not serve the shard now."""
        config = self.config
        assert config is not None, "an operation was sent by one"
        if answer.code is Code.NOT_READY:
            number, source = answer.facts
            turn = self._detours.not_ready(config, pending.shard, gid, number, GroupId(source))
        else:
            turn = self._detours.wrong_group(config, pending.shard, gid, answer.facts[0])
        if turn is Next.GO and not self._is_there(self._detours.group(config, pending.shard)):
            # It was given up for lost, and whoever names it is behind: to wait for its answer would
            # be to wait for ever.
            self._detours.forget(pending.shard)
            turn = Next.PAUSE
        if turn is Next.GO:
            if not pending.future.done():
                self._route(pending)
            return
        self._park(pending)
        if turn is Next.REFRESH:
            self._refresh()

    def _no_room(self, gid: GroupId, pending: Pending) -> None:
        """The group is led from a full disk, for longer than it takes to lead it from another."""
        if pending.unknown:
            self._fail(pending, OutcomeUnknown(f"the disk that group {gid} is led from is full"))
        else:
            self._fail(pending, DiskFull(pending.shard, gid))

    def _done(self, pending: Pending, answer: Answer) -> None:
        if pending.key is not None:
            self._finish(pending, pending.outcome(answer))
            self._unpark(pending.shard)
            return
        sessions = self._sessions[pending.shard]
        if sessions.opening is pending:
            sessions.opening = None
        sessions.opened(SessionId(answer.facts[0]), self._loop.time())
        if not pending.future.done():  # else nobody waits for it now, and the next write has it
            pending.future.set_result(None)
        self._sessions_changed(pending.shard, sessions)

    def _session_expired(self, write: Pending) -> None:
        """The shard refuses the session for ever. A write that travelled only once was answered
        by that one frame, so it was not done and may go under a new number; of another nobody can
        say."""
        session = write.session
        if session is None:
            return  # renumbered meanwhile
        self._sessions[write.shard].forget(session)
        if write.sent > 1 or write.doubtful:
            self._fail(write, OutcomeUnknown("the session expired before an answer came"))
            return
        session.release(write.seq)
        write.session, write.seq, write.sent = None, 0, 0
        if not write.future.done():
            self._route(write)

    def _refused(self, pending: Pending, message: str) -> None:
        """A server would not read the frame."""
        if pending.key is None:
            self._park(pending)
        elif pending.unknown:
            self._fail(pending, OutcomeUnknown(message))
        else:
            self._fail(pending, InvalidArgument(message))

    # Shards that nobody serves just now

    def _park(self, pending: Pending, *, at_once: bool = True) -> None:
        """Try the operation again when its shard's pause is over, or the configuration is newer."""
        parked = self._parked.get(pending.shard)
        if parked is None:
            parked = self._parked[pending.shard] = _Parked(self._rng)
        parked.operations.append(pending)
        if len(parked.operations) > 2 * len(self._pending) + PARKED_MIN:
            # Without a configuration nothing tries them again, so those that have ended would stay.
            alive = [each for each in parked.operations if not each.future.done()]
            parked.operations = deque(alive)
        if parked.timer is None and at_once:
            pause = parked.backoff.next()
            parked.timer = self._loop.call_later(pause, self._retry, pending.shard)

    def _retry(self, shard: ShardId) -> None:
        parked = self._parked[shard]
        parked.timer = None
        operations, parked.operations = parked.operations, deque()
        config = self.config
        if config is not None and config.shards[shard] == NO_GROUP:
            self._refresh()
        for pending in operations:
            if not pending.future.done():
                self._route(pending)

    def _unpark(self, shard: ShardId) -> None:
        """The shard is served: the next refusal starts with a short pause again."""
        self._detours.answered(shard)
        parked = self._parked.get(shard)
        if parked is not None and not parked.operations:
            if parked.timer is not None:
                parked.timer.cancel()
            del self._parked[shard]

    # Configurations

    def _link(self, gid: GroupId) -> GroupLink:
        link = self._links.get(gid)
        if link is None:
            assert self._view is not None, "an operation is routed by a configuration"
            link = self._links[gid] = GroupLink(
                gid,
                self._transport,
                self._rng,
                answered=self._answered,
                refused=self._refused,
                strayed=self._strayed,
                round_failed=self._refresh,
                contexts=self._contexts,
            )
            link.members_are(_members(self._view, gid), self._view.config.number)
        return link

    async def _current(self, refresh: bool, stale: bool) -> View | None:
        """The configuration to route by; asked for where there is none, or with `refresh`. For a
        stale read any that a node knows will do to begin with."""
        if self._closed:
            raise Closed()
        if stale and self._view is None and self._nodes is not None:
            view = await ask_around(self._transport, self._nodes())
            if view is not None and self._view is None:
                self._adopt(view)
        if refresh or self._view is None:
            try:
                async with asyncio.timeout(None if self._view is None else REFRESH_SECONDS):
                    self._adopt(await self._controller.newest())
            except TimeoutError:
                self._refresh_trouble = "controller: no answer in time"
            except ShardCtrlerError as error:  # the caller asks again, within its time
                self._refresh_trouble = f"controller: {error}"
        return self._view

    async def _known_routing(self, timeout: float | None) -> Routing:
        """Key to shard; asked for where it is not known yet."""
        seconds = self._timeout if timeout is None else timeout
        backoff = Backoff(self._rng)
        try:
            async with asyncio.timeout(min(seconds, TIMEOUT_SECONDS_MAX)):
                while self._routing is None:
                    if await self._current(refresh=False, stale=False) is None:
                        await asyncio.sleep(backoff.next())
        except TimeoutError:
            trouble = f" ({self._refresh_trouble})" if self._refresh_trouble else ""
            raise Unavailable(f"no configuration in time{trouble}: nothing was done") from None
        return self._routing

    def _leader(self, gid: GroupId) -> Address | None:
        return self._links[gid].leader if gid in self._links else None

    def _new_read_link(self, gid: GroupId) -> ReadLink:
        return ReadLink(
            gid,
            self._transport,
            self._rng,
            answered=self._answered,
            failed=self._fail,
            refused=self._refused,
            strayed=self._strayed,
            round_failed=self._refresh,
        )

    def _members(self, gid: GroupId) -> tuple[tuple[Address, ...], int]:
        """A group's members, and the number of the configuration that says so."""
        assert self._view is not None, "an operation is routed by a configuration"
        return _members(self._view, gid), self._view.config.number

    def _is_there(self, gid: GroupId) -> bool:
        """Whether anybody is known to be a member of a group."""
        assert self._view is not None, "an operation was sent by one"
        return bool(_members(self._view, gid))

    def _refresh(self) -> None:
        """Learn the newest configuration; one question at a time."""
        if self._refreshing is None and not self._closed:
            self._refreshing = self._loop.create_task(self._learn())
            self._refreshing.add_done_callback(self._learnt)

    def _look_around(self) -> None:
        """A stale read waits for any configuration, and the controller may have no majority."""
        if self._looking_around is None and self._nodes is not None and not self._closed:
            self._looking_around = self._loop.create_task(self._ask_around(self._nodes))

    async def _ask_around(self, nodes: Callable[[], Sequence[Address]]) -> None:
        while self._view is None and self._pending:
            await asyncio.sleep(GRACE_SECONDS)
            view = await ask_around(self._transport, nodes())
            if view is not None and self._view is None:
                self._adopt(view)
        self._looking_around = None

    async def _learn(self) -> None:
        backoff = Backoff(self._rng)
        while True:
            try:
                view = await self._controller.newest()
            except ShardCtrlerError as error:  # the operations' deadlines bound it
                self._refresh_trouble = f"controller: {error}"
                log.debug("no configuration from the controller: %s", error)
            else:
                self._adopt(view)
                return
            if not self._pending:
                return  # nobody waits for it any more
            await asyncio.sleep(backoff.next())

    def _learnt(self, task: "asyncio.Task[None]") -> None:
        self._refreshing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a mistake of ours: let the loop's handler report it

    def _adopt(self, view: View) -> None:
        """Route by `view` from here on: where members are, and where each operation goes."""
        before = self._view
        if before is not None and (
            view.config.number < before.config.number
            or view.directory.version < before.directory.version
        ):
            return  # an answer that was overtaken on its way
        if self._routing is None:
            self._routing = SlotRouting(len(view.config.shards))
        self._view = view
        for gid, link in self._links.items():
            link.members_are(_members(view, gid), view.config.number)
        self._reads.adopt()
        if before is not None and view.config.number == before.config.number:
            return  # what is parked keeps its pause
        self._detours.clear()
        moved = [pending for link in self._links.values() for pending in link.take_back()]
        moved += self._reads.take_back()
        for parked in self._parked.values():
            if parked.timer is not None:
                parked.timer.cancel()
            moved += parked.operations
        self._parked.clear()
        for pending in moved:
            if not pending.future.done():
                self._route(pending)

    def _strayed(self, gid: GroupId, pending: Pending) -> bool:
        """Whether an operation that comes back to group `gid`'s link belongs to another by now;
        then it is on its way there."""
        config = self.config
        assert config is not None, "a link has one"
        if self._closed or self._detours.group(config, pending.shard) == gid:
            return False
        if not pending.future.done():
            self._route(pending)
        return True


def _members(view: View, gid: GroupId) -> tuple[Address, ...]:
    """Where a group's members take clients' calls, as far as is known now."""
    members = view.directory.members(gid)
    if not members and (group := view.config.group(gid)) is not None:
        members = group.members
    return tuple(Address(member.address) for member in members)
