"""Lists over all shards: their pages, merged in the order of the keys.

Keys are hashed to shards, so the next key of a list may lie in any of them. Each group is asked
once for the least keys of all its shards together, and the list gives out the least of what the
groups gave: so it costs a message a group, confirmed by one round of its leader's, and not one a
shard. A prefix that holds a whole `{tag}` pins one shard, and then only that one is asked.

What a list promises. Keys come in order, none twice. A key that is present from the list's begin
until its end is in it: it lies in exactly one of the ranges that the pages cover of its shard, and
each page shows that range as it stood at one moment (`shardkv/listing.py`). A key that comes or
goes meanwhile may be there or not; so the whole is *not one snapshot* of the store. The place where
a list stands is nothing but a key for each shard, so it goes on wherever the shards move.

A list holds about 4 MiB of rows, and at least one page a group.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Final, NamedTuple

from labrpc.errors import Refused, RpcError
from labrpc.transport import Address, Transport
from raft.types import GroupId
from shardctrler.types import NO_GROUP, ShardId, View
from shardkv.backoff import Backoff
from shardkv.consistency import Consistency, Reading
from shardkv.detours import Detours, Next
from shardkv.errors import InvalidArgument, ShardKVError, TooStale, Unavailable
from shardkv.limits import FRAME_OPERATIONS_MAX, KIB, MIB, PAGE_BYTES_MAX, PAGE_ROWS_MAX
from shardkv.listing import (
    LIST,
    From,
    Listed,
    ListFrame,
    Part,
    decode_list_reply,
    encode_list,
)
from shardkv.protocol import BadFrame, Status
from shardkv.reading import UNKNOWN_AGE_MS, Refusal, Trouble
from shardkv.routing import Routing, SlotRouting
from shardkv.tokens import NOTHING, ReadSession
from shardkv.types import Answer, Code

HELD_BYTES_MAX: Final = 4 * MIB
"""Of rows that one list holds, beside one page a group."""
FRAME_BYTES_MIN: Final = 16 * KIB
CALL_SECONDS: Final = 2.0


class Way(NamedTuple):
    """How the pages of one list are read."""

    prefix: bytes
    values: bool
    reading: Reading
    session: ReadSession | None
    timeout: float
    """Seconds that a round of pages may take."""


class Network(NamedTuple):
    """What a list asks by: the clerk's own ways."""

    transport: Transport
    rng: Random
    view: Callable[[bool, bool], Awaitable[View | None]]
    """The newest view known, or with True a newer one if there is; None while there is none. The
    second: whether the list may be stale."""
    members: Callable[[View, GroupId], Sequence[Address]]
    leader: Callable[[GroupId], Address | None]


def pinned_shard(routing: Routing, prefix: bytes) -> ShardId | None:
    """The one shard of all keys that begin so; None if they may lie anywhere.

    The tag of a key is what stands between its first `{` and the next `}`, if that is anything:
    whatever follows a prefix that has such a tag changes nothing about it.
    """
    if not isinstance(routing, SlotRouting):
        return None
    start = prefix.find(b"{")
    end = prefix.find(b"}", start + 1)
    return routing(prefix) if start >= 0 and end > start + 1 else None


class Pages:
    """Asks groups for pages of their shards until they are there, or the time is over."""

    def __init__(self, network: Network, way: Way) -> None:
        self._network = network
        self._way = way
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(network.rng)
        self._turns: dict[GroupId, int] = {}  # whose turn it is in a group
        self._detours = Detours()
        self._number = 0  # of the configuration that they are detours of
        self._trouble = ""
        self._age_ms: int | None = None  # of the youngest replica that was too old

    async def shards(self) -> int:
        """How many there are.

        Raises:
            Unavailable: no configuration in time.
        """
        until = self._loop.time() + self._way.timeout
        while (view := await self._view(refresh=False, until=until)) is None:
            await self._pause(until)
        return len(view.config.shards)

    async def fetch(
        self, cursors: dict[ShardId, bytes | None], rows_max: int | None, of: int
    ) -> list["Run"]:
        """The next rows of these shards, each after its cursor.

        Args:
            rows_max: So many are wanted over all shards of the list; None: all.
            of: How many shards of the list may hold some.

        Raises:
            TooStale, Unavailable: not all of them in time; nothing is known of why but the last.
        """
        runs: list[Run] = []
        missing = dict(cursors)
        until = self._loop.time() + self._way.timeout
        refresh = False
        while True:
            if not missing:
                self._backoff.reset()
                return runs
            view = await self._view(refresh=refresh, until=until)
            if view is None:
                await self._pause(until)
                continue
            if view.config.number != self._number:
                self._number = view.config.number
                self._detours.clear()
            groups: dict[GroupId, list[ShardId]] = {}
            for shard in missing:
                groups.setdefault(self._detours.group(view.config, shard), []).append(shard)
            asked = []
            for gid, shards in groups.items():
                starts = {shard: missing[shard] for shard in shards[:FRAME_OPERATIONS_MAX]}
                rows = rows_wanted(rows_max, len(starts), of)
                asked.append(self._ask(view, gid, starts, rows, len(groups)))
            steps: list[Next] = []
            for run, step in await asyncio.gather(*asked):
                for shard in run.shards:
                    del missing[shard]
                if run.rows:
                    runs.append(run)
                steps.append(Next.GO if run.shards else step)
            refresh = Next.REFRESH in steps
            if Next.GO not in steps:
                await self._pause(until)

    async def _view(self, *, refresh: bool, until: float) -> View | None:
        try:
            async with asyncio.timeout_at(until):
                return await self._network.view(refresh, self._way.reading.is_stale)
        except TimeoutError:
            raise self._out_of_time() from None

    async def _pause(self, until: float) -> None:
        pause = self._backoff.next()
        if self._loop.time() + pause > until:
            raise self._out_of_time()
        await asyncio.sleep(pause)

    def _out_of_time(self) -> ShardKVError:
        if self._age_ms is not None:
            known = self._age_ms < UNKNOWN_AGE_MS
            age = self._age_ms / 1000 if known else None
            return TooStale(self._way.reading.age_ms_max / 1000, age)
        trouble = f" ({self._trouble})" if self._trouble else ""
        return Unavailable(f"no page in time{trouble}; the list can go on after its last key")

    async def _ask(
        self,
        view: View,
        gid: GroupId,
        cursors: dict[ShardId, bytes | None],
        rows_max: int,
        groups: int,
    ) -> tuple["Run", Next]:
        """One question to one replica: what it gave; and, if it gave nothing, what then."""
        members = self._network.members(view, gid) if gid != NO_GROUP else ()
        if not members:
            self._trouble = f"no group serves shard {next(iter(cursors))}"
            return NO_RUN, Next.REFRESH
        to = self._member(gid, members)
        shards = list(cursors)
        session = self._way.session
        if session is None:
            new = tuple.__new__  # one for each shard: its own constructor takes thrice as long
            starts = [new(From, (shard, after, NOTHING)) for shard, after in cursors.items()]
        else:
            starts = [From(shard, cursors[shard], session.mark(shard)) for shard in shards]
        stale, age_ms_max = self._way.reading.is_stale, self._way.reading.age_ms_max
        bytes_max = min(PAGE_BYTES_MAX, max(FRAME_BYTES_MIN, HELD_BYTES_MAX // groups))
        frame = ListFrame(
            gid, view.config.number, stale, age_ms_max, self._way.prefix, self._way.values,
            rows_max, bytes_max, tuple(starts),
        )  # fmt: skip
        try:
            body = await self._network.transport.call(
                to, LIST, encode_list(frame), timeout=CALL_SECONDS
            )
            reply = decode_list_reply(body)
        except (RpcError, BadFrame) as error:
            if isinstance(error, Refused) and error.code == "INVALID_ARGUMENT":
                raise InvalidArgument(error.message) from None
            return self._in_vain(gid, to, str(error) or "no answer in time", members)
        if reply.status is not Status.ANSWERED or len(reply.parts) != len(shards):
            return self._in_vain(gid, to, f"cannot answer for group {gid} now", members)
        found: list[ShardId] = []
        open_: list[ShardId] = []
        steps: list[Next] = []
        in_vain = False
        for shard, part in zip(shards, reply.parts, strict=True):
            if isinstance(part, Part):
                found.append(shard)
                if part.more:
                    open_.append(shard)
                self._detours.answered(shard)
                if session is not None:
                    session.note(shard, part.epoch, reply.applied)
            elif isinstance(part, Refusal):
                in_vain = in_vain or part.trouble is not Trouble.REPLY_FULL
                if part.trouble is Trouble.TOO_OLD:
                    known = UNKNOWN_AGE_MS if self._age_ms is None else self._age_ms
                    self._age_ms = min(known, part.age_ms)
            else:
                steps.append(self._elsewhere(view, gid, shard, part))
        spreads = self._way.reading.consistency is not Consistency.LINEARIZABLE
        if in_vain or spreads:  # on to the next replica
            self._turns[gid] = self._turns.get(gid, 0) + 1
        step = next((one for one in (Next.REFRESH, Next.GO) if one in steps), Next.PAUSE)
        return Run(deque(reply.rows), found, open_), step

    def _elsewhere(self, view: View, gid: GroupId, shard: ShardId, answer: Answer) -> Next:
        """The group that was asked does not serve the shard now (`shardkv/detours.py`)."""
        self._trouble = f"group {gid} answers {answer.code.name} for shard {shard}"
        config = view.config
        if answer.code is Code.NOT_READY:
            number, source = answer.facts
            return self._detours.not_ready(config, shard, gid, number, GroupId(source))
        if answer.code is Code.WRONG_GROUP:
            return self._detours.wrong_group(config, shard, gid, answer.facts[0])
        return Next.PAUSE

    def _member(self, gid: GroupId, members: Sequence[Address]) -> Address:
        turn = self._turns.get(gid)
        if turn is None:
            if self._way.reading.consistency is Consistency.LINEARIZABLE:
                leader = self._network.leader(gid)
                if leader is not None:
                    return leader
            turn = self._turns[gid] = self._network.rng.randrange(len(members))
        return members[turn % len(members)]

    def _in_vain(
        self, gid: GroupId, to: Address, trouble: str, members: Sequence[Address]
    ) -> tuple["Run", Next]:
        """This member could not answer: the next question goes to another."""
        self._trouble = f"{to}: {trouble}"
        turn = self._turns.get(gid)
        at = members.index(to) if turn is None and to in members else (turn or 0)
        self._turns[gid] = at + 1
        return NO_RUN, Next.REFRESH if (at + 1) % len(members) == 0 else Next.PAUSE


class Run:
    """Rows of some shards of a group, in order: all that they hold up to the last one.

    Attributes:
        rows: Those not given out yet.
        shards: Whose rows they are.
        open: Of these, who may hold more, after `through`.
        low: Fetch with others when so few are left.
    """

    __slots__ = ("low", "open", "rows", "shards", "through")

    def __init__(
        self, rows: deque[Listed], shards: Sequence[ShardId], open_: Sequence[ShardId]
    ) -> None:
        self.rows, self.shards, self.open = rows, shards, open_
        self.through = rows[-1].key if rows else b""
        self.low = len(rows) // 4


NO_RUN: Final = Run(deque(), (), ())


def rows_wanted(rows_max: int | None, shards: int, of: int) -> int:
    """How many rows to ask a group for that has `shards` of the shards of a list: its share, and
    three times the deviation that hashing gives it. One that has more is asked again."""
    if rows_max is None:
        return PAGE_ROWS_MAX
    share = rows_max * shards / of
    return max(1, min(rows_max, math.ceil(share + 3 * math.sqrt(share)), PAGE_ROWS_MAX))


class Scan:
    """One list, from its begin to its end.

    Args:
        limit: Rows wanted at most, None: all; only a hint for the size of pages here.
    """

    def __init__(
        self, pages: Pages, shards: Sequence[ShardId], after: bytes | None, limit: int | None
    ) -> None:
        self._pages = pages
        self._limit = limit
        self._wanted: dict[ShardId, bytes | None] = dict.fromkeys(shards, after)
        self._runs: dict[int, Run] = {}
        self._number = 0  # of the last run
        self._heads: list[tuple[bytes, int]] = []  # the next row of each run

    async def chunks(self) -> AsyncIterator[list[Listed]]:
        """Rows in the order of their keys, as many at a time as are certain without asking again.

        Raises:
            TooStale, Unavailable: the next ones did not come in time.
        """
        given = 0
        while self._limit is None or given < self._limit:
            if self._wanted:
                await self._fetch(None if self._limit is None else self._limit - given)
            if not self._heads:
                return
            chunk: list[Listed] = []
            while self._heads and not self._wanted:
                if len(self._heads) == 1:  # nothing to merge with: all that it has
                    number = self._heads.pop()[1]
                    chunk += self._runs[number].rows
                    self._end(number)
                else:
                    number = heappop(self._heads)[1]
                    run = self._runs[number]
                    chunk.append(run.rows.popleft())
                    if run.rows:
                        heappush(self._heads, (run.rows[0].key, number))
                    else:
                        self._end(number)
            if self._limit is not None:
                del chunk[self._limit - given :]
            given += len(chunk)
            yield chunk

    def _end(self, number: int) -> None:
        """A run was given out. What its shards hold next may be the least of all: nothing comes
        before it."""
        run = self._runs.pop(number)
        self._wanted |= dict.fromkeys(run.open, run.through)

    async def _fetch(self, rows_max: int | None) -> None:
        """The next rows of the shards that have run out, and of those that soon will."""
        open_ = len(self._wanted) + sum(len(run.open) for run in self._runs.values())
        for run in self._runs.values():
            if len(run.rows) <= run.low:
                self._wanted |= dict.fromkeys(run.open, run.through)
                run.open = ()
        runs = await self._pages.fetch(self._wanted, rows_max, open_)
        self._wanted = {}
        for run in runs:
            self._number += 1
            self._runs[self._number] = run
            heappush(self._heads, (run.rows[0].key, self._number))
