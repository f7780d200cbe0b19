"""A clerk's reads on their way to all replicas of a group, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from labrpc.errors import Unreachable
from labrpc.sim.loop import run
from labrpc.transport import Address
from raft.types import GroupId
from shardctrler.types import ShardId
from shardkv.consistency import reading
from shardkv.errors import ShardKVError, TooStale
from shardkv.protocol import Result, Status
from shardkv.read_link import LINGER_SECONDS, PASSED_OVER_SECONDS, ReadLink, ReadPending
from shardkv.reading import (
    ReadFrame,
    ReadReply,
    Refusal,
    Served,
    Trouble,
    decode_read,
    encode_read_reply,
)
from shardkv.reading import Result as Answered
from shardkv.tokens import Mark, ReadSession
from shardkv.types import Answer, Code, Row, Version

G, NUMBER = GroupId(1), 7
MEMBERS = tuple(Address(name) for name in "abc")
BEHIND = Answer(Code.WRONG_GROUP, (NUMBER - 1,))
SERVED = Served(Row(b"v", Version(1)), 4)


class Group:
    """Three replicas; `says` makes each one's answer to a question."""

    def __init__(self, says: Callable[[str], Answered]) -> None:
        self.frames: list[tuple[str, ReadFrame]] = []
        self.rounds_in_vain = 0
        self.slow: dict[str, float] = {}
        self.dead: list[str] = []
        self._says = says
        self.link = ReadLink(
            G,
            self,  # type: ignore[arg-type]
            Random("link"),
            answered=self._answered,
            failed=self._failed,
            refused=lambda pending, why: pytest.fail(why),
            strayed=lambda gid, pending: False,
            round_failed=self._round_failed,
        )
        self.link.members_are(MEMBERS, NUMBER)

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        frame = decode_read(body)
        self.frames.append((to, frame))
        await asyncio.sleep(self.slow.get(to, 0.001))
        if to in self.dead:
            raise Unreachable("no connection")
        results = tuple([self._says(to) for _ in frame.questions])
        return encode_read_reply(ReadReply(Status.ANSWERED, NUMBER, 100, results))

    def _answered(self, gid: GroupId, pending: Any, result: Result) -> None:
        pending.future.set_result(result)

    def _failed(self, pending: Any, error: ShardKVError) -> None:
        pending.future.set_exception(error)

    def _round_failed(self) -> None:
        self.rounds_in_vain += 1

    def ask(
        self, consistency: str, max_age: float | None = None, marks: ReadSession | None = None
    ) -> "asyncio.Future[Any]":
        future = asyncio.get_running_loop().create_future()
        pending = ReadPending(future, b"k", reading(consistency, max_age), marks)
        pending.shard = ShardId(3)
        self.link.put(pending)
        return future


def told(says: Callable[[str], Answered], story: Callable[[Group], Awaitable[None]]) -> None:
    async def main() -> None:
        group = Group(says)
        try:
            await story(group)
        finally:
            await asyncio.gather(*group.link.close(), return_exceptions=True)

    run(main())


def test_a_frame_holds_reads_of_one_kind() -> None:
    """What is said of a frame holds for each of its questions: how old an answer may be."""

    async def story(group: Group) -> None:
        kinds = [("spread", None), ("stale", 5.0), ("spread", None), ("stale", 1.0)]
        rows = await asyncio.gather(*[group.ask(*kind) for kind in kinds])

        assert rows == [SERVED.row] * 4
        asked = [(f.stale, f.age_ms_max, len(f.questions)) for _, f in group.frames]
        assert sorted(asked) == [(False, 0, 2), (True, 1000, 1), (True, 5000, 1)]

    told(lambda to: SERVED, story)


def test_a_bound_that_no_member_keeps_is_told_after_each_was_asked_twice() -> None:
    ages = dict(zip(MEMBERS, (9_000, 4_000, 6_000), strict=True))

    async def story(group: Group) -> None:
        with pytest.raises(TooStale) as caught:
            await asyncio.wait_for(group.ask("stale", 1.0), 5.0)

        assert "4" in str(caught.value), "the youngest one's age"
        assert sorted(to for to, _ in group.frames) == sorted(MEMBERS * 2)
        assert group.rounds_in_vain > 0, "the members may be others by now"

    told(lambda to: Refusal(Trouble.TOO_OLD, ages[Address(to)]), story)


@pytest.mark.parametrize("knows", ["a", "b", "c", "nobody"])
def test_a_member_that_is_behind_is_not_the_group(knows: str) -> None:
    """A stale read does not ask how far the replica has to be; what all say the group says."""

    async def story(group: Group) -> None:
        answer = await asyncio.wait_for(group.ask("stale", 5.0), 5.0)

        assert answer == (BEHIND if knows == "nobody" else SERVED.row)
        assert len(group.frames) <= len(MEMBERS) + 1

    told(lambda to: SERVED if to == knows else BEHIND, story)


@pytest.mark.parametrize(
    ("consistency", "answer"),
    [
        pytest.param("spread", BEHIND, id="it asked its leader how far it has to be"),
        pytest.param("stale", Answer(Code.WRONG_GROUP, (NUMBER,)), id="it knows as much"),
    ],
)
def test_a_member_that_is_not_behind_speaks_for_its_group(consistency: str, answer: Answer) -> None:
    async def story(group: Group) -> None:
        assert await group.ask(consistency) == answer
        assert len(group.frames) == 1

    told(lambda to: answer, story)


def test_what_a_session_was_shown_is_noted() -> None:
    async def story(group: Group) -> None:
        session = ReadSession(bytes(16))
        await group.ask("spread", marks=session)
        assert session.mark(ShardId(3)) == Mark(4, 100)

    told(lambda to: SERVED, story)


def test_a_member_that_is_slow_gets_no_second_frame_meanwhile() -> None:
    async def story(group: Group) -> None:
        group.slow = dict.fromkeys(MEMBERS, 1.0)
        first = group.ask("spread")
        await asyncio.sleep(0.1)
        group.slow = {}
        ((busy, _),) = group.frames
        for _ in range(6):
            await asyncio.wait_for(group.ask("spread"), 0.1)
        assert busy not in [to for to, _ in group.frames[1:]]
        await first

    told(lambda to: SERVED, story)


def test_a_member_that_did_not_answer_is_passed_over_for_a_while() -> None:
    async def story(group: Group) -> None:
        group.dead = ["a"]
        for _ in range(30):
            await group.ask("spread")
        assert [to for to, _ in group.frames].count("a") == 1

        group.dead = []
        await asyncio.sleep(PASSED_OVER_SECONDS)
        for _ in range(3):
            await group.ask("spread")
        assert {to for to, _ in group.frames[-3:]} == set(MEMBERS)

    told(lambda to: SERVED, story)


def test_who_is_passed_over_is_asked_only_where_nobody_else_is() -> None:
    async def story(group: Group) -> None:
        group.dead = ["a"]
        for _ in range(3):
            await group.ask("spread")
        group.slow = {"b": 0.1, "c": 0.1}
        waiting = []
        for _ in range(3):
            waiting.append(group.ask("spread"))
            await asyncio.sleep(2 * LINGER_SECONDS)
        await asyncio.gather(*waiting)
        assert [to for to, _ in group.frames].count("a") == 1

        group.dead = ["b", "c"]
        await asyncio.wait_for(group.ask("spread"), 1.0)
        assert group.frames[-1][0] == "a", "the others are as dead"

    told(lambda to: SERVED, story)


def test_a_member_that_answered_is_passed_over_no_longer() -> None:
    """Of several that were the first to answer again is asked before the others."""

    async def story(group: Group) -> None:
        group.dead = list(MEMBERS)
        waiting = group.ask("spread")
        await asyncio.sleep(0.5)
        group.dead = []
        await waiting
        answered = group.frames[-1][0]
        for _ in range(4):
            await group.ask("spread")
        assert {to for to, _ in group.frames[-4:]} == {answered}

    told(lambda to: SERVED, story)
