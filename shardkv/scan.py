"""Lists over all shards: their pages, merged in the order of the keys.

Keys are hashed to shards, so the next key of a list may lie in any of them: a list holds the next
rows of every shard and gives out the least. A prefix that holds a whole `{tag}` pins one shard, and
then only that one is asked.

What a list promises. Keys come in order, none twice. A key that is present from the list's begin
until its end is in it: it lies in exactly one of the ranges that the pages of its shard cover, and
each page shows its range as it stood at one moment (`shardkv/listing.py`). A key that comes or goes
meanwhile may be there or not; so the whole is *not one snapshot* of the store. The place where a
list stands is nothing but the last key of each shard, so it goes on wherever the shards move.

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
    Rows,
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
        self, cursors: dict[ShardId, bytes | None], rows_max: int
    ) -> dict[ShardId, Rows]:
        """A page of each shard, after its cursor.

        Raises:
            TooStale, Unavailable: not all of them in time; nothing is known of why but the last.
        """
        found: dict[ShardId, Rows] = {}
        until = self._loop.time() + self._way.timeout
        refresh = False
        while True:
            missing = {shard: after for shard, after in cursors.items() if shard not in found}
            if not missing:
                self._backoff.reset()
                return found
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
            asked = [
                self._ask(view, gid, {s: missing[s] for s in shards}, rows_max, len(groups))
                for gid, shards in groups.items()
            ]
            steps: list[Next] = []
            for pages, step in await asyncio.gather(*asked):
                found.update(pages)
                steps.append(Next.GO if pages else step)
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
    ) -> tuple[dict[ShardId, Rows], Next]:
        """One question to one replica: the pages it gave; and, if it gave none, what then."""
        members = self._network.members(view, gid) if gid != NO_GROUP else ()
        if not members:
            self._trouble = f"no group serves shard {next(iter(cursors))}"
            return {}, Next.REFRESH
        to = self._member(gid, members)
        shards = list(cursors)[:FRAME_OPERATIONS_MAX]
        session = self._way.session
        starts = [
            From(shard, cursors[shard], NOTHING if session is None else session.mark(shard))
            for shard in shards
        ]
        stale, age_ms_max = self._way.reading.is_stale, self._way.reading.age_ms_max
        bytes_max = min(PAGE_BYTES_MAX, max(FRAME_BYTES_MIN, HELD_BYTES_MAX // groups))
        frame = ListFrame(
            gid, view.config.number, stale, age_ms_max, self._way.prefix, self._way.values,
            min(rows_max + len(shards), PAGE_ROWS_MAX), bytes_max, tuple(starts),
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
        if reply.status is not Status.ANSWERED or len(reply.pages) != len(shards):
            return self._in_vain(gid, to, f"cannot answer for group {gid} now", members)
        found: dict[ShardId, Rows] = {}
        steps: list[Next] = []
        in_vain = False
        for shard, page in zip(shards, reply.pages, strict=True):
            if isinstance(page, Rows):
                found[shard] = page
                self._detours.answered(shard)
                if session is not None:
                    session.note(shard, page.epoch, reply.applied)
            elif isinstance(page, Refusal):
                in_vain = in_vain or page.trouble is not Trouble.REPLY_FULL
                if page.trouble is Trouble.TOO_OLD:
                    known = UNKNOWN_AGE_MS if self._age_ms is None else self._age_ms
                    self._age_ms = min(known, page.age_ms)
            else:
                steps.append(self._elsewhere(view, gid, shard, page))
        spreads = self._way.reading.consistency is not Consistency.LINEARIZABLE
        if in_vain or spreads:  # on to the next replica
            self._turns[gid] = self._turns.get(gid, 0) + 1
        step = next((one for one in (Next.REFRESH, Next.GO) if one in steps), Next.PAUSE)
        return found, step

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
    ) -> tuple[dict[ShardId, Rows], Next]:
        """This member could not answer: the next question goes to another."""
        self._trouble = f"{to}: {trouble}"
        turn = self._turns.get(gid)
        at = members.index(to) if turn is None and to in members else (turn or 0)
        self._turns[gid] = at + 1
        return {}, Next.REFRESH if (at + 1) % len(members) == 0 else Next.PAUSE


class Scan:
    """One list, from its begin to its end.

    Args:
        limit: Rows wanted at most, None: all; only a hint for the size of pages here.
    """

    def __init__(
        self, pages: Pages, shards: Sequence[ShardId], after: bytes | None, limit: int | None
    ) -> None:
        self._pages = pages
        self._limit = math.inf if limit is None else limit
        self._cursors: dict[ShardId, bytes | None] = dict.fromkeys(shards, after)
        self._held: dict[ShardId, deque[Listed]] = {shard: deque() for shard in shards}
        self._low: dict[ShardId, int] = dict.fromkeys(shards, 0)  # fetch with others at so few
        self._heads: list[tuple[bytes, ShardId]] = []

    async def rows(self) -> AsyncIterator[Listed]:
        """Rows in the order of their keys.

        Raises:
            TooStale, Unavailable: the next ones did not come in time.
        """
        given = 0
        while given < self._limit:
            if any(not self._held[shard] for shard in self._cursors):
                await self._fetch(given)
            if not self._heads:
                return
            _, shard = heappop(self._heads)
            held = self._held[shard]
            row = held.popleft()
            if held:
                heappush(self._heads, (held[0].key, shard))
            given += 1
            yield row

    async def _fetch(self, given: int) -> None:
        """The next page of each shard that has run out, and of those that soon will."""
        wanted = {
            shard: after
            for shard, after in self._cursors.items()
            if len(self._held[shard]) <= self._low[shard]
        }
        rows_max = int(min(self._limit - given, PAGE_ROWS_MAX))
        pages = await self._pages.fetch(wanted, rows_max)
        for shard, page in pages.items():
            held = self._held[shard]
            was_empty = not held
            held.extend(page.rows)
            if page.rows:
                self._cursors[shard] = page.rows[-1].key
                self._low[shard] = len(page.rows) // 4
                if was_empty:
                    heappush(self._heads, (held[0].key, shard))
            if not page.more:
                del self._cursors[shard]
