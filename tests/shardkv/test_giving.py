"""The source's side of a copy: when it freezes, whom it slows down, and that it always ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from labrpc.sim.loop import run
from raft.disk.overlay import Overlay
from raft.errors import NotLeader, OutcomeUnknown
from raft.types import Index
from shardctrler.types import ConfigNumber
from shardkv import giving
from shardkv.commands import Command, OpenSession, decode
from shardkv.copies import PullReply, PullRequest
from shardkv.giving import Giver, Pace
from shardkv.handover import rest_seconds
from shardkv.holding import Holds
from shardkv.limits import (
    HOLD_SECONDS,
    ROUNDS_IN_VAIN_MAX,
    ROUNDS_UNTIL_SLOWER,
    SLOWED_BYTES_PER_SECOND,
    WRITE_OVERHEAD_BYTES,
)
from shardkv.phases import Phase
from shardkv.progress import Meter, Progress
from shardkv.rows import ROWS_DONE, changes_cursor
from shardkv.types import NO_COPY, CopyId
from tests.support.stores import S0, S1, A, B, Group, configures, put

T = TypeVar("T")
N2 = ConfigNumber(2)


class Source:
    """Group A, which gives shard 0 to B, with what a giver needs of its replica."""

    def __init__(self) -> None:
        self.group = Group(A)
        first, second = configures([A, A, A, A], [B, A, A, A])
        self.group.apply(first)
        self.group.apply(OpenSession(S0))
        self.group.apply(put(1, 1, b"k", b"v"))
        self.group.apply(second)
        self.leads = True
        self.fails = False
        self.stops = False
        self.stopped_because: str | None = None
        self.proposed: list[Command] = []
        self.store = self
        self.looked = 0
        self.giver = Giver(self, self, self.group.machine, self._due)  # type: ignore[arg-type]

    @property
    def reader(self) -> Any:
        return self.group.rows

    async def submit(self, command: bytes) -> object:
        self.proposed.append(decode(command))
        await asyncio.sleep(0)
        if self.fails:
            raise NotLeader(None)
        if self.stops:
            self.group.machine.apply(Index(99), command, Overlay(self.group.rows))  # never stored
            self.stopped_because = "the entry's next command has a damaged row"
            raise OutcomeUnknown("the replica stopped while the command was on its way")
        return self.group.apply(command)

    def _due(self) -> None:
        self.looked += 1

    @property
    def phase(self) -> Phase:
        return self.group.machine.record(S0).phase

    def write(self, seqs: range, value: bytes = b"v") -> None:
        for seq in seqs:
            self.group.apply(put(1, seq, b"k%d" % seq, value, floor=seq))

    async def pull(
        self, cursor: bytes, *, freeze: bool = True, number: int = 2, older: bool = False
    ) -> PullReply:
        copy_id = CopyId(self.group.machine.record(S0).copy_id - older)
        request = PullRequest(A, S0, ConfigNumber(number), copy_id, cursor, 10_000, freeze)
        return await self.giver.pull(request, "a:1")


def told(story: Callable[[Source], Awaitable[T]]) -> T:
    async def main() -> T:
        return await story(Source())

    return run(main())


def test_a_shard_is_frozen_when_little_is_left_and_the_answer_has_the_rest() -> None:
    async def story(source: Source) -> None:
        source.write(range(2, 5))

        reply = await source.pull(ROWS_DONE)

        assert source.phase is Phase.LEAVING
        assert reply.chunk is not None
        assert (reply.end, changes_cursor(6)) == (6, reply.chunk.next_cursor)
        assert (reply.changes_left, reply.leader, source.looked) == (0, "a:1", 1)

    told(story)


@pytest.mark.parametrize(
    "why", ["among the rows", "not asked", "follower", "old number", "old copy"]
)
def test_it_is_not_frozen_for_less(why: str) -> None:
    async def story(source: Source) -> None:
        source.leads = why != "follower"
        cursor = b"" if why == "among the rows" else ROWS_DONE

        await source.pull(
            cursor,
            freeze=why != "not asked",
            number=1 if why == "old number" else 2,
            older=why == "old copy",
        )

        assert source.phase is Phase.MOVING and source.proposed == []

    told(story)


def test_with_much_left_the_next_chunk_is_given_and_nothing_frozen() -> None:
    async def story(source: Source) -> None:
        source.write(range(2, 80), b"v" * 1000)

        reply = await source.pull(ROWS_DONE)

        assert source.phase is Phase.MOVING
        assert reply.chunk is not None and reply.end is None and reply.changes_left > 100

    told(story)


def test_a_source_that_stops_in_the_entry_of_the_freeze_says_nothing_of_it() -> None:
    """Its mirrors say that the shard is frozen, and where its copy ends; the rows do not."""

    async def story(source: Source) -> None:
        source.stops = True

        reply = await source.pull(ROWS_DONE)

        assert source.phase is Phase.LEAVING
        assert (reply.chunk, reply.end) == (None, None)

    told(story)


def test_a_freeze_that_failed_is_asked_for_again() -> None:
    async def story(source: Source) -> None:
        source.fails = True
        assert (await source.pull(ROWS_DONE)).end is None
        source.fails = False

        assert (await source.pull(ROWS_DONE)).end == 0

    told(story)


def test_a_copy_that_does_not_get_on_is_frozen_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """L4: with any number of change rows left."""
    monkeypatch.setattr(giving, "FREEZE_BYTES", 1)
    monkeypatch.setattr(giving, "CHUNK_BYTES_MAX", 1)

    async def story(source: Source) -> int:
        rounds = 0
        while source.phase is Phase.MOVING:
            source.write(range(2 + 10 * rounds, 12 + 10 * rounds))
            await source.pull(ROWS_DONE)
            rounds += 1
        return rounds

    assert told(story) == 1 + ROUNDS_IN_VAIN_MAX


def test_what_does_not_shrink_and_fits_in_one_chunk_is_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(giving, "FREEZE_BYTES", 1)

    async def story(source: Source) -> int:
        rounds = 0
        while source.phase is Phase.MOVING:
            source.write(range(2 + 10 * rounds, 12 + 10 * rounds))
            await source.pull(ROWS_DONE)
            rounds += 1
        return rounds

    assert told(story) == 1 + ROUNDS_UNTIL_SLOWER


def test_too_many_change_rows_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "CHANGE_ROWS_MAX", 5)

    async def story(source: Source) -> None:
        source.write(range(2, 4))
        await source.pull(b"", freeze=False)
        assert source.looked == 0
        source.write(range(4, 6))
        await source.pull(b"", freeze=False)
        assert source.looked == 1

    told(story)


def test_a_copy_rests_longer_than_its_chunks_take_where_nodes_are_busy() -> None:
    assert rest_seconds(0.0) == 0.0
    assert rest_seconds(0.005) == pytest.approx(0.00625)
    assert rest_seconds(0.04) == pytest.approx(0.12)
    assert rest_seconds(5.0) == 0.5


# Slowing down


def test_writers_are_slowed_after_rounds_in_vain_and_more_with_each() -> None:
    pace, at = Pace(), (0, 1000)
    gets_on, in_vain = (100, 50), (100, 51)
    for copied, written in [(0, 0), gets_on, *[in_vain] * ROUNDS_UNTIL_SLOWER]:
        assert pace.pay(10**6, 0, now=0.0) == 0.0
        at = (at[0] + copied, at[1] + written)
        pace.round(*at)
    assert pace.level == 1
    for _ in range(ROUNDS_UNTIL_SLOWER):
        pace.round(*at)  # the same place again: nothing was copied
    assert pace.level == 2
    pace.round(at[0] + 100, at[1])

    assert pace.level == 2
    assert not pace.is_vain


def test_a_large_copy_that_gets_on_is_not_frozen_however_many_rounds_it_takes() -> None:
    """A hundred chunks of change rows, and each finds fewer. They were counted against the copy:
    the shard was frozen after 24 of them, with all the others still to go."""
    pace, left, counter = Pace(), 400_000, 0
    total = left
    while counter < total:
        pace.round(counter, total)
        counter, total = counter + 4000, total + 500

    assert (pace.level, pace.is_vain) == (0, False)


def test_rounds_in_vain_end_a_copy_also_with_others_between_them() -> None:
    """L4."""
    pace, counter, total, rounds = Pace(), 0, 10_000, 0
    while not pace.is_vain:
        pace.round(counter, total)
        rounds += 1
        counter, total = counter + 100, total + (100 if rounds % 3 else 0)

    assert rounds < 3 * ROUNDS_IN_VAIN_MAX


def test_a_slowed_writer_pays_for_its_bytes_and_never_waits_for_long() -> None:
    pace = Pace()
    pace.level = 2
    cost = int(0.05 * SLOWED_BYTES_PER_SECOND / 2)

    waits = [pace.pay(cost, 0, now=0.0) for _ in range(5)]

    assert waits[:3] == pytest.approx([0.05, 0.1, 0.15], abs=1e-3)
    assert waits[4] == HOLD_SECONDS
    assert pace.pay(cost, 0, now=9.0) == pytest.approx(0.05, abs=1e-3)
    assert Pace().pay(cost, 1, now=0.0) == pytest.approx(0.025, abs=1e-3), "a restart counts"


def test_only_writers_of_the_shard_that_moves_wait() -> None:
    async def story(source: Source) -> None:
        copy_id = source.group.machine.record(S0).copy_id
        source.giver._pace(S0, copy_id).level = 3

        assert source.giver.delay([(S1, 10**6)]) == 0.0
        assert source.giver.delay([(S1, 10**6), (S0, 10**6)]) == HOLD_SECONDS
        assert WRITE_OVERHEAD_BYTES > 0

    told(story)


# Holding


def test_requests_wait_until_the_shard_is_in() -> None:
    async def story(source: Source) -> float:
        holds, loop = Holds(), asyncio.get_running_loop()
        assert not holds
        holds.begin(S0)
        loop.call_later(0.02, holds.end, S0)

        await holds.wait([S1])
        assert loop.time() == 0.0 and holds.requests == 0
        await holds.wait([S1, S0, S0])
        assert not holds and holds.requests == 1
        return loop.time()

    assert told(story) == pytest.approx(0.02)


def test_they_do_not_wait_for_ever() -> None:
    async def story(source: Source) -> float:
        holds = Holds()
        holds.begin(S0)

        await holds.wait([S0])

        return asyncio.get_running_loop().time()

    assert told(story) == pytest.approx(HOLD_SECONDS)


def test_a_leader_that_is_none_any_more_lets_them_go() -> None:
    async def story(source: Source) -> float:
        holds = Holds()
        for shard in (S0, S1):
            holds.begin(shard)
        asyncio.get_running_loop().call_later(0.01, holds.end_all)

        await holds.wait([S0, S1])

        return asyncio.get_running_loop().time()

    assert told(story) == pytest.approx(0.01)


# What people see


def test_a_meter_says_how_far_a_copy_has_come() -> None:
    async def story(source: Source) -> None:
        source.write(range(2, 6))
        copy_id = source.group.machine.record(S0).copy_id
        meter = Meter(copy_id, now=10.0)
        assert Meter(NO_COPY, 0.0).progress(b"") == Progress("waiting")

        rows = await source.pull(b"", freeze=False)
        assert rows.chunk is not None
        meter.took(1000, rows._replace(shard_bytes=5000), now=12.0)
        assert meter.progress(b"dk") == Progress("rows", 1000, 4000 + 8 * 256, 500)

        changes = await source.pull(ROWS_DONE, freeze=False)
        meter.took(800, changes._replace(changes_left=2), now=12.0)
        assert meter.progress(ROWS_DONE) == Progress("changes", 1800, 200, 900)

    told(story)
