"""A clerk's ways when something is in them: full disks, windows, dead members, operations given up.

As `test_clerk.py`: the real state machine without consensus, in virtual time.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.transport import Address
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.types import ConfigNumber, Directory, GroupMember, GroupRecord, View
from shardkv.clerk import Clerk
from shardkv.client_sessions import IDLE_SECONDS_MAX, SESSIONS_A_SHARD_MAX, ShardSessions
from shardkv.commands import Mutation, OpenSession
from shardkv.errors import (
    DiskFull,
    InvalidArgument,
    OutcomeUnknown,
    Overloaded,
    TooStale,
    Unavailable,
)
from shardkv.group_link import (
    CALL_SECONDS,
    EAGER_OPERATIONS,
    LINGER_SECONDS,
    NO_ROOM_SECONDS,
)
from shardkv.protocol import (
    Frame,
    Leader,
    Proposal,
    Reply,
    Result,
    Status,
    Trouble,
    encode_reply,
)
from shardkv.reading import READ, ReadReply, Refusal, Served, decode_read, encode_read_reply
from shardkv.reading import Trouble as ReadTrouble
from shardkv.types import Answer, Code, SessionId
from tests.support.clerks import with_clerk
from tests.support.fake_store import HOP_SECONDS, FakeStore, Fate

KEY = b"key"


class Answering(FakeStore):
    """Answers mutations as `says` does; None: as ever."""

    def __init__(self, says: Callable[[], Result | None]) -> None:
        super().__init__()
        self._says = says

    def serve(self, to: str, frame: Frame, fate: Fate | None) -> Reply:
        reply = super().serve(to, frame, fate)
        if reply.status is not Status.ANSWERED:
            return reply
        results = [
            said if _is_mutation(operation) and (said := self._says()) is not None else result
            for operation, result in zip(frame.operations, reply.results, strict=True)
        ]
        return reply._replace(results=tuple(results))


def _is_mutation(operation: object) -> bool:
    return isinstance(operation, Proposal) and isinstance(operation.command, Mutation)


def once(result: Result) -> Callable[[], Result | None]:
    left = deque([result])
    return lambda: left.popleft() if left else None


def always(result: Result) -> Callable[[], Result | None]:
    return lambda: result


def writes(frames: list[tuple[str, Frame]]) -> list[Mutation]:
    return [
        operation.command
        for _, frame in frames
        for operation in frame.operations
        if isinstance(operation, Proposal) and isinstance(operation.command, Mutation)
    ]


def opened(frames: list[tuple[str, Frame]]) -> int:
    return sum(
        isinstance(operation, Proposal) and isinstance(operation.command, OpenSession)
        for _, frame in frames
        for operation in frame.operations
    )


# What a shard may answer


def test_a_write_past_the_window_waits_and_is_asked_again() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v", timeout=2.0)

        assert [write.seq for write in writes(store.frames)] == [1, 1]

    with_clerk(story, Answering(once(Answer(Code.SEQUENCE_OVER_WINDOW))))


def test_a_command_that_is_not_known_may_have_been_done_by_who_knew_it() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        with pytest.raises(InvalidArgument):
            await clerk.put(KEY, b"v")

        store.fates.extend([None, Fate.REPLY_LOST])
        with pytest.raises(OutcomeUnknown):
            await clerk.put(b"other" + KEY, b"v")

    with_clerk(story, Answering(always(Answer(Code.BAD_COMMAND))))


def test_a_full_disk_is_waited_for_a_while_and_told_then() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        with pytest.raises(DiskFull):
            await clerk.put(KEY, b"v")

        assert NO_ROOM_SECONDS < loop.time() - began < NO_ROOM_SECONDS + 1.0

    with_clerk(story, Answering(always(Trouble.NO_ROOM)))


def test_a_disk_that_has_room_again_takes_what_waited() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await asyncio.wait_for(clerk.put(KEY, b"v"), 1.0)

    with_clerk(story, Answering(once(Trouble.NO_ROOM)))


def test_a_write_that_may_have_been_done_before_the_disk_was_full_is_unknown() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.fates.extend([None, Fate.REPLY_LOST])
        with pytest.raises(OutcomeUnknown):
            await clerk.put(KEY, b"v")

    with_clerk(story, Answering(always(Trouble.NO_ROOM)))


def test_who_does_not_know_the_method_is_not_asked_again() -> None:
    class Old(FakeStore):
        async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
            await asyncio.sleep(HOP_SECONDS)
            raise Refused("UNIMPLEMENTED", f"no such method: {method}")

    async def story(store: FakeStore, clerk: Clerk) -> None:
        with pytest.raises(InvalidArgument, match="no such method"):
            await asyncio.wait_for(clerk.get(KEY), 1.0)

    with_clerk(story, Old())


# What was given up


def test_what_was_given_up_while_it_waited_is_never_sent() -> None:
    """Its caller was told that nothing was done."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"before")
        group = store.groups[store.config.shards[store.routing(KEY)]]
        group.leader = ""
        with pytest.raises(Unavailable, match="nothing was done"):
            await clerk.put(KEY, b"given up", timeout=0.5)
        sent = len(store.frames)
        group.leader = group.members[1]

        await clerk.append(KEY, b" and after")

        assert [write.value for write in writes(store.frames[sent:])] == [b" and after"]
        assert store.value(KEY) == b"before and after"

    with_clerk(story)


def test_what_was_given_up_behind_another_is_not_in_its_frame() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"before")
        store.fates.extend([Fate.UNREACHABLE])
        first = asyncio.ensure_future(clerk.append(KEY, b"1"))
        await asyncio.sleep(HOP_SECONDS / 2)
        second = asyncio.ensure_future(clerk.append(KEY, b"2"))
        await asyncio.sleep(0)
        second.cancel()
        await first

        assert store.value(KEY) == b"before1"

    with_clerk(story)


def test_a_write_given_up_before_it_has_a_number_takes_none() -> None:
    """Or its session's floor would stand still for ever."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.get(KEY)
        first, second = [asyncio.ensure_future(clerk.append(KEY, b"%d" % n)) for n in (1, 2)]
        await asyncio.sleep(HOP_SECONDS / 2)
        assert opened(store.frames) == 1 and writes(store.frames) == []
        second.cancel()
        await first

        await clerk.append(KEY, b"3")

        assert [(write.seq, write.floor) for write in writes(store.frames)] == [(1, 1), (2, 2)]

    with_clerk(story)


def test_nobody_asks_for_a_configuration_that_nobody_waits_for() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.controller_up = False
        with pytest.raises(Unavailable):
            await clerk.get(KEY, timeout=1.0)
        await asyncio.sleep(1.0)
        asked = store.queries

        await asyncio.sleep(60.0)

        assert store.queries == asked

    with_clerk(story)


def test_a_shard_of_nobody_is_looked_for_with_growing_pauses() -> None:
    """However often the configuration is told that is known already."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.configure([0] * 4)
        with pytest.raises(Unavailable):
            await clerk.get(KEY, timeout=10.0)

        assert 40 < store.queries < 160

    with_clerk(story)


# Bounds


def test_past_its_bytes_the_next_operation_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shardkv.operations.OPERATIONS_BYTES_MAX", 1000)

    async def story(store: FakeStore, clerk: Clerk) -> None:
        large = asyncio.ensure_future(clerk.put(KEY, bytes(900)))
        await asyncio.sleep(0)

        with pytest.raises(Overloaded, match="and 1000"):
            await clerk.put(KEY, bytes(200))

        await large
        await clerk.put(KEY, bytes(200))

    with_clerk(story)


def test_many_that_wait_leave_beside_a_frame_that_is_away() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        store.fates.extend([Fate.REQUEST_LOST])
        lost = asyncio.ensure_future(clerk.get(KEY))
        await asyncio.sleep(0.0001)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*[clerk.get(KEY) for _ in range(EAGER_OPERATIONS)])
        assert asyncio.get_running_loop().time() - began < LINGER_SECONDS
        await lost

    with_clerk(story)


def test_patience_is_short_again_after_an_answer() -> None:
    class Timed(FakeStore):
        async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
            patience.append(timeout)
            return await super().call(to, method, body, timeout=timeout)

    patience: list[float] = []

    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.fates.extend([Fate.REQUEST_LOST, Fate.REQUEST_LOST])
        await clerk.get(KEY)
        await clerk.get(KEY)

        assert (patience[:2], patience[-1]) == ([CALL_SECONDS, 2 * CALL_SECONDS], CALL_SECONDS)

    with_clerk(story, Timed())


def test_each_redirection_after_an_answer_is_followed_at_once() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.get(KEY)
        group = store.groups[store.config.shards[store.routing(KEY)]]
        for turn in range(12):
            group.leader = group.members[turn % 3]
            began = asyncio.get_running_loop().time()
            await clerk.get(KEY)
            assert asyncio.get_running_loop().time() - began < 5 * HOP_SECONDS

    with_clerk(story)


def test_a_late_redirection_does_not_undo_a_newer_one() -> None:
    """The old leader answered one frame long ago: it named who was to follow then."""

    class Late(FakeStore):
        held: list[str]

        async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
            if to not in self.held:
                return await super().call(to, method, body, timeout=timeout)
            self.held.remove(to)
            await asyncio.sleep(0.1)
            other = next(group for group in self.groups.values() if to in group.members).members[1]
            leader = Leader(NodeId(f"n-{other}"), other)
            return encode_reply(Reply(Status.NOT_LEADER, 1, leader))

    async def story(store: FakeStore, clerk: Clerk) -> None:
        assert isinstance(store, Late)
        store.held = []
        await clerk.get(KEY)
        group = store.groups[store.config.shards[store.routing(KEY)]]
        store.held = [group.members[0]]
        first = asyncio.ensure_future(clerk.get(KEY))
        await asyncio.sleep(2 * LINGER_SECONDS)
        group.leader = group.members[2]
        await clerk.get(KEY)
        await first

        assert group.members[1] not in [to for to, _ in store.frames]

    with_clerk(story, Late())


# Members and sessions


def test_a_group_that_moved_to_other_nodes_is_found_there() -> None:
    """The configuration is the same; where its members are the controller's directory says."""

    class Moved(FakeStore):
        async def newest(self) -> View:
            view = await super().newest()
            records = {
                gid: GroupRecord(
                    GroupUuid(bytes([gid]) * 16),
                    version,
                    tuple(GroupMember(NodeId(f"n-{name}"), name) for name in group.members),
                )
                for gid, group in self.groups.items()
            }
            return View(view.config, Directory(version, records))

    version = 1

    async def story(store: FakeStore, clerk: Clerk) -> None:
        nonlocal version
        await clerk.put(KEY, b"v")
        group = store.groups[store.config.shards[store.routing(KEY)]]
        group.members = tuple(f"new-{name}" for name in group.members)
        group.leader = group.members[1]
        version += 1

        await asyncio.wait_for(clerk.append(KEY, b"w"), 3.0)

        assert store.value(KEY) == b"vw"

    with_clerk(story, Moved())


def test_idle_sessions_are_let_go_one_after_the_other() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        for turn in range(SESSIONS_A_SHARD_MAX + 2):
            await clerk.put(KEY, b"%d" % turn)
            await asyncio.sleep(IDLE_SECONDS_MAX + 1)

        assert opened(store.frames) == SESSIONS_A_SHARD_MAX + 2

    with_clerk(story)


def test_an_opened_session_ends_the_trouble_of_opening_one() -> None:
    sessions = ShardSessions()
    sessions.trouble = "the table is full"

    sessions.opened(SessionId(1), 0.0)

    assert sessions.trouble == ""


def test_a_late_session_leaves_the_question_for_another_open() -> None:
    """One was asked for, given up, and came all the same, while the next one is on its way."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.get(KEY)
        first = asyncio.ensure_future(clerk.put(KEY, b"1"))
        await asyncio.sleep(HOP_SECONDS / 2)
        assert opened(store.frames) == 1
        first.cancel()
        await asyncio.sleep(0)
        second = asyncio.ensure_future(clerk.put(KEY, b"2"))
        await asyncio.sleep(HOP_SECONDS)

        await asyncio.gather(second, *[clerk.put(KEY, b"%d" % n) for n in range(100)])

        assert opened(store.frames) == 2, "each has room for 64"

    with_clerk(story)


# Reads on any replica


class Reading(FakeStore):
    """Members answer reads as `says` does: a refusal, or what the group's machine holds."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: dict[str, Refusal] = {}
        self.dead: set[str] = set()
        self.silent: set[str] = set()

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        await asyncio.sleep(HOP_SECONDS)
        if to in self.dead:
            raise Unreachable("no connection")
        if to in self.silent:
            await asyncio.sleep(timeout)
            raise Unknown("no answer in time")
        if method != READ:
            return await super().call(to, method, body, timeout=timeout)
        frame = decode_read(body)
        group = self.groups[frame.gid]
        results: list[Served | Answer | Refusal] = []
        for question in frame.questions:
            row = group.machine.get(group.rows, self.routing(question.key), question.key)
            served = row if isinstance(row, Answer) else Served(row, 1)
            results.append(self.refusals.get(to, served))
        return encode_read_reply(
            ReadReply(Status.ANSWERED, group.machine.number, 1, tuple(results))
        )


def test_a_stale_read_whose_time_is_over_says_how_old_the_state_is() -> None:
    """Though one member does not answer at all."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        assert isinstance(store, Reading)
        await clerk.put(KEY, b"v")
        group = store.groups[store.config.shards[store.routing(KEY)]]
        for member in group.members:
            store.refusals[member] = Refusal(ReadTrouble.TOO_OLD, 4000)
        store.silent = {group.members[2]}
        with pytest.raises(TooStale, match="4"):
            await clerk.get(KEY, consistency="stale", max_age=1.0, timeout=1.0)

    with_clerk(story, Reading())


def test_reads_that_wait_for_a_group_that_is_no_more_go_on_to_the_next_owner() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        assert isinstance(store, Reading)
        await clerk.put(KEY, b"v")
        owner = store.config.shards[store.routing(KEY)]
        heir = GroupId(3 - owner)
        store.configure([heir] * 4)
        number = ConfigNumber(store.config.number + 1)
        heirs = {heir: store.config.groups[heir]}
        store.config = replace(store.config, number=number, groups=heirs, departed={})
        store.dead = set(store.groups[owner].members)

        reads = [clerk.get(KEY, consistency="spread", timeout=3.0) for _ in range(3)]
        assert await asyncio.gather(*reads) == [b"v"] * 3

    with_clerk(story, Reading())
