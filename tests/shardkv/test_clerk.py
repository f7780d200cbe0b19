"""The clerk against groups without consensus, in virtual time: what it sends, and how it ends."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from raft.types import GroupId, NodeId
from shardctrler.types import ConfigNumber, Directory, View
from shardkv import client_sessions
from shardkv.clerk import Clerk
from shardkv.client_sessions import IDLE_SECONDS_MAX
from shardkv.commands import Batch, ExpireSessions, Mutation, OpenSession, encode
from shardkv.errors import (
    BatchCount,
    BatchTooLong,
    Closed,
    InvalidArgument,
    KeyEmpty,
    KeyTooLong,
    NamesFull,
    NotOneShard,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
    ValueTooLong,
    VersionMismatch,
    VersionOutOfRange,
)
from shardkv.limits import (
    FRAME_BYTES_MAX,
    FRAME_OPERATIONS_MAX,
    KEY_BYTES_MAX,
    SESSION_WINDOW,
    SESSIONS_MAX,
    VALUE_BYTES_MAX,
)
from shardkv.once import TOKEN_BYTES, Once
from shardkv.operations import PARKED_MIN
from shardkv.protocol import Frame, Leader, Proposal, Reply, Status
from shardkv.types import ABSENT, Row, Version
from shardkv.writes import Append, Delete, Put
from tests.support.clerks import with_clerk
from tests.support.fake_store import HOP_SECONDS, FakeStore, Fate

KEY = b"key"


def mutations(frames: list[tuple[str, Frame]]) -> list[Mutation]:
    return [
        operation.command
        for _, frame in frames
        for operation in frame.operations
        if isinstance(operation, Proposal) and isinstance(operation.command, Mutation)
    ]


# What it answers


def test_what_was_put_is_read_back() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> list[object]:
        return [
            await clerk.get(KEY),
            await clerk.get_row(KEY),
            await clerk.put(KEY, b"a"),
            await clerk.append(KEY, b"b"),
            await clerk.get_row(KEY),
            await clerk.delete(KEY),
            await clerk.get(KEY),
            await clerk.put(KEY, b""),
            await clerk.get(KEY),
        ]

    assert with_clerk(story) == [None, ABSENT, 1, 2, Row(b"ab", Version(2)), None, None, 3, b""]


def test_text_is_utf8_and_two_normal_forms_are_two_keys() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put("\u00e9", "composed")
        await clerk.put("e\u0301", bytearray(b"decomposed"))

        assert await clerk.get(b"\xc3\xa9") == b"composed"
        assert await clerk.get("e\u0301".encode()) == b"decomposed"

    with_clerk(story)


def test_a_conditional_put_tells_the_version_that_is_there() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        assert await clerk.put(KEY, b"a", if_version=0) == 1
        with pytest.raises(VersionMismatch) as caught:
            await clerk.put(KEY, b"b", if_version=0)

        assert caught.value.version == 1
        assert store.value(KEY) == b"a"

    with_clerk(story)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda c: c.get(b""), KeyEmpty, id="an empty key"),
        pytest.param(lambda c: c.get(b"k" * (KEY_BYTES_MAX + 1)), KeyTooLong, id="a long key"),
        pytest.param(
            lambda c: c.put(KEY, b"v" * (VALUE_BYTES_MAX + 1)), ValueTooLong, id="a long value"
        ),
        pytest.param(
            lambda c: c.put(KEY, b"v", if_version=-1), VersionOutOfRange, id="a version below 0"
        ),
        pytest.param(
            lambda c: c.put(KEY, b"v", if_version=2**63), VersionOutOfRange, id="a version too high"
        ),
        pytest.param(
            lambda c: c.put(KEY, b"v", if_version=True),
            InvalidArgument,
            id="a version of no number",
        ),
        pytest.param(lambda c: c.put(KEY, None), InvalidArgument, id="a value that is no bytes"),
        pytest.param(lambda c: c.get("\ud800"), InvalidArgument, id="a lone surrogate"),
        pytest.param(lambda c: c.get(KEY, timeout=math.nan), InvalidArgument, id="a time of NaN"),
        pytest.param(lambda c: c.get(KEY, timeout=0), Unavailable, id="no time at all"),
        pytest.param(lambda c: c.get(KEY, timeout=-1), Unavailable, id="negative time"),
    ],
)
def test_what_breaks_a_limit_is_refused_before_anything_is_sent(
    call: Callable[[Clerk], Awaitable[object]], error: type[Exception]
) -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        with pytest.raises(error):
            await call(clerk)

        assert store.frames == [] and store.queries == 0

    with_clerk(story)


def test_key_and_value_of_the_largest_size_are_stored() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        key, value = b"k" * KEY_BYTES_MAX, b"v" * VALUE_BYTES_MAX

        await clerk.put(key, value)

        assert await clerk.get(key) == value
        with pytest.raises(ValueTooLong):
            await clerk.append(key, b"v")

    with_clerk(story)


# Batches

L, R, LOG = "{pair}left", "{pair}right", "{pair}log"


def test_a_batch_is_answered_by_the_version_of_each_key() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        batch = [
            Put(L, "1"),
            Put(R, b"1"),
            Append(LOG, "a"),
            Append(LOG, "b"),
            Delete("{pair}none"),
        ]

        assert await clerk.batch(batch) == [1, 1, 1, 2, 0]
        assert await clerk.batch(iter([Put(L, "2", 1), Delete(R, if_version=1)])) == [2, 0]

        assert [store.value(key.encode()) for key in (L, R, LOG)] == [b"2", None, b"ab"]
        assert [len(frame.operations) for _, frame in store.frames] == [1, 1, 1], "with the session"

    with_clerk(story)


@pytest.mark.parametrize(
    ("batch", "error", "at", "says"),
    [
        pytest.param([], BatchCount, None, "1 to 128 operations, not 0", id="nothing"),
        pytest.param([Delete(L)] * 129, BatchCount, None, "not 129", id="129 operations"),
        pytest.param(
            [Put(L, b"v" * 2**19), Put(R, b"v" * 2**19)],
            BatchTooLong,
            None,
            "1048576 bytes together, not 1048597",
            id="too long together",
        ),
        pytest.param([Put(L, ""), Put("", "")], KeyEmpty, 1, "1 to 4096", id="an empty key"),
        pytest.param([Put(L, "", -1)], VersionOutOfRange, 0, "if_version", id="version -1"),
        pytest.param([Put(L, "", True)], InvalidArgument, 0, "if_version", id="version True"),
        pytest.param([(L, "v")], InvalidArgument, 0, "must be a Put, an", id="a pair"),
        pytest.param([Put(L, 7)], InvalidArgument, 0, "value must be bytes or str", id="a number"),
    ],
)
def test_a_batch_that_breaks_a_limit_is_never_sent(
    batch: Any, error: type[InvalidArgument], at: int | None, says: str
) -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        with pytest.raises(error, match=says) as caught:
            await clerk.batch(batch)

        assert caught.value.operation == at
        assert (f"operation {at} of the batch" in str(caught.value)) == (at is not None)
        assert store.frames == []

    with_clerk(story)


def test_keys_of_several_shards_are_refused_with_a_hint() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        keys = [f"key {number}" for number in range(20)]
        shards = [store.routing(key.encode()) for key in keys]
        other = next(at for at, shard in enumerate(shards) if shard != shards[0])

        with pytest.raises(
            NotOneShard, match=r"one shard\. Keys with the same \{tag\} are"
        ) as caught:
            await clerk.batch([Put(key, "v") for key in keys])

        assert caught.value.operation == other
        assert store.frames == []
        one = [Put(key, "v") for key, shard in zip(keys, shards, strict=True) if shard == shards[0]]
        assert await clerk.batch(one) == [1] * len(one), "several keys need no tag, but one shard"

    with_clerk(story)


def test_a_refused_batch_says_which_operation_it_was() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.batch([Put(L, "1"), Put(R, b"v" * VALUE_BYTES_MAX)][:1])
        await clerk.put(R, b"v" * VALUE_BYTES_MAX)

        with pytest.raises(VersionMismatch, match="operation 2 of the batch: the key is at") as one:
            await clerk.batch([Put(LOG, "1"), Put(L, "2", 1), Put(L, "3", 1)])
        with pytest.raises(ValueTooLong, match="operation 1 of the batch: value must be") as two:
            await clerk.batch([Put(LOG, "1"), Append(R, "2")])

        assert (one.value.operation, one.value.version) == (2, 2)
        assert (two.value.operation, two.value.length) == (1, VALUE_BYTES_MAX + 1)
        assert (store.value(L.encode()), store.value(LOG.encode())) == (b"1", None)

    with_clerk(story)


@pytest.mark.parametrize("fate", list(Fate))
def test_a_batch_takes_effect_once_whatever_becomes_of_its_frame(fate: Fate) -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(L, "")
        store.frames.clear()
        store.fates.append(fate)

        assert await clerk.batch([Append(L, "x"), Append(R, "x")]) == [2, 1]

        sent = [
            operation.command
            for _, frame in store.frames
            for operation in frame.operations
            if isinstance(operation, Proposal) and isinstance(operation.command, Batch)
        ]
        assert {(batch.session, batch.seq) for batch in sent} == {(1, 2)}
        assert (store.value(L.encode()), store.value(R.encode())) == (b"x", b"x")

    with_clerk(story)


@pytest.mark.parametrize("seed", range(10))
def test_batches_in_flight_are_whole_under_any_mixture_of_fates(seed: int) -> None:
    """Over moves of their shard, too; the two keys have each batch, in the same order."""
    chance = Random(f"batches {seed}")

    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.fates.extend(chance.choice([None, None, *Fate]) for _ in range(60))

        async def one(client: int) -> None:
            for number in range(10):
                word = b"%d-%d " % (client, number)
                await clerk.batch([Append(L, word), Append(R, word)])

        await asyncio.gather(moving(store, chance), *[one(client) for client in range(9)])

        left, right = store.value(L.encode()), store.value(R.encode())
        assert left == right
        words = (left or b"").split()
        assert len(words) == len(set(words)) == 90

    with_clerk(story, timeout=300.0)


async def moving(store: FakeStore, chance: Random) -> None:
    for _ in range(4):
        await asyncio.sleep(chance.uniform(0, 0.5))
        store.configure([chance.choice((1, 2)) for _ in range(4)], hand_over=False)
        await asyncio.sleep(chance.uniform(0, 0.5))
        store.hand_over()


def test_a_batch_that_nobody_answers_ends_as_unknown() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(L, "")
        store.fates.append(Fate.REQUEST_LOST)
        with pytest.raises(OutcomeUnknown):
            await clerk.batch([Put(L, "1"), Put(R, "1")], timeout=0.5)

        store.fates.extend([Fate.UNREACHABLE] * 1000)
        with pytest.raises(Unavailable):
            await clerk.batch([Put(L, "1"), Put(R, "1")], timeout=0.3)

    with_clerk(story)


# How it sends


def test_what_gathers_in_one_turn_travels_in_one_frame_a_group() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        keys = [b"key %d" % n for n in range(100)]
        await asyncio.gather(*[clerk.put(key, b"v") for key in keys])
        store.frames.clear()

        await asyncio.gather(*[clerk.get(key) for key in keys])

        assert [frame.gid for _, frame in store.frames] == [1, 2]
        assert sum(len(frame.operations) for _, frame in store.frames) == 100

    with_clerk(story)


def test_frames_keep_to_their_limits() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        small = [clerk.put(b"{tag}%d" % n, b"v") for n in range(1500)]
        large = [clerk.put(b"{tag}large %d" % n, b"v" * 700_000) for n in range(7)]

        await asyncio.gather(*small, *large)

        assert max(len(frame.operations) for _, frame in store.frames) <= FRAME_OPERATIONS_MAX
        assert max(len(body) for body in store.bodies) <= FRAME_BYTES_MAX
        assert max(len(body) for body in store.bodies) > 1_400_000, "two large ones fit in a frame"

    with_clerk(story)


def test_values_that_fill_replies_are_asked_for_a_few_at_a_time() -> None:
    """And not all again for each few that had room: and once there is room for all, together."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        keys = [b"{tag}%d" % n for n in range(48)]
        await asyncio.gather(*[clerk.put(key, key) for key in keys])
        store.values_a_reply = 3
        store.frames.clear()

        values = await asyncio.gather(*[clerk.get(key) for key in keys])

        assert values == keys
        asked = [len(frame.operations) for _, frame in store.frames]
        assert asked[0] == len(keys)
        assert max(asked[1:]) == 4, "one more is tried now and then"
        assert sum(asked) < 2.5 * len(keys)

        store.values_a_reply = None
        for _ in range(30):
            store.frames.clear()
            await asyncio.gather(*[clerk.get(key) for key in keys])
        assert len(store.frames) == 1

    with_clerk(story)


def test_more_in_flight_than_a_window_takes_more_sessions() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await asyncio.gather(*[clerk.append(b"{tag}", b"%d " % n) for n in range(300)])

        sessions = {mutation.session for mutation in mutations(store.frames)}
        assert len(sessions) > 1
        value = store.value(b"{tag}")
        assert value is not None
        assert sorted(map(int, value.split())) == list(range(300))

    with_clerk(story)


def test_writes_beyond_all_sessions_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_sessions, "SESSIONS_A_SHARD_MAX", 1)

    async def story(store: FakeStore, clerk: Clerk) -> None:
        count = 3 * SESSION_WINDOW
        await asyncio.gather(*[clerk.append(KEY, b".") for _ in range(count)])

        assert store.value(KEY) == b"." * count
        sent = mutations(store.frames)
        assert {m.session for m in sent} == {1}
        assert all(m.seq < m.floor + SESSION_WINDOW for m in sent), "or the shard would refuse it"

    with_clerk(story)


def test_a_session_is_opened_once_for_all_writes_that_wait() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await asyncio.gather(*[clerk.put(b"{tag}%d" % n, b"v") for n in range(10)])

        assert {mutation.session for mutation in mutations(store.frames)} == {1}
        opened, written = store.frames
        assert (len(opened[1].operations), len(written[1].operations)) == (1, 10)

    with_clerk(story)


@pytest.mark.parametrize("fate", [Fate.REQUEST_LOST, Fate.REPLY_LOST, Fate.BUSY])
def test_a_session_that_no_write_waits_for_is_not_asked_for_again(fate: Fate) -> None:
    """Simulated seed 950000061, L10: it was, for ever, an entry in the group's log each time. After
    an overload that was all that the group still did."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.fates.extend([fate] * 100)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await clerk.put(KEY, b"v", timeout=0.5)
        await asyncio.sleep(2.0)  # what is on its way comes back
        frames = len(store.frames)

        await asyncio.sleep(60.0)

        assert len(store.frames) == frames
        store.fates.clear()
        assert await clerk.put(KEY, b"w") == 1

    with_clerk(story)


def test_a_session_that_was_opened_for_a_write_given_up_serves_the_next_one() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.get(KEY)
        given_up = asyncio.ensure_future(clerk.put(KEY, b"v"))
        await asyncio.sleep(HOP_SECONDS / 2)  # the opening is on its way
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        await asyncio.sleep(3 * HOP_SECONDS)
        frames = len(store.frames)

        await clerk.put(KEY, b"w")

        assert [mutation.session for mutation in mutations(store.frames)] == [1]
        assert len(store.frames) == frames + 1

    with_clerk(story)


def test_a_write_that_gets_no_session_is_told_which_limit_is_met() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        shard = store.routing(KEY)
        group = store.groups[store.config.shards[shard]]
        for _ in range(SESSIONS_MAX):
            group.apply(encode(OpenSession(shard)))

        with pytest.raises(Unavailable, match=f"shard {shard} has {SESSIONS_MAX} sessions open"):
            await clerk.put(KEY, b"v", timeout=0.5)

        group.apply(encode(ExpireSessions(shard, tuple((n, 0) for n in range(1, 9)))))
        assert await clerk.put(KEY, b"v", timeout=5.0) == 1

    with_clerk(story)


def test_one_slow_frame_holds_up_nobody() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> float:
        await clerk.put(KEY, b"v")
        store.fates.append(Fate.REQUEST_LOST)
        slow = asyncio.ensure_future(clerk.get(KEY))
        await asyncio.sleep(0.001)
        started = asyncio.get_running_loop().time()

        await clerk.get(KEY)

        seconds = asyncio.get_running_loop().time() - started
        await slow
        return seconds

    assert with_clerk(story) < 0.010


def test_past_its_bound_the_next_operation_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shardkv.operations.OPERATIONS_MAX", 3)

    async def story(store: FakeStore, clerk: Clerk) -> None:
        three = [asyncio.ensure_future(clerk.get(KEY)) for _ in range(3)]
        await asyncio.sleep(0)

        with pytest.raises(Overloaded, match="limits are 3"):
            await clerk.get(KEY)

        assert await asyncio.gather(*three) == [None] * 3
        assert await clerk.get(KEY) is None

    with_clerk(story)


# Exactly once


@pytest.mark.parametrize("fate", list(Fate))
def test_an_append_takes_effect_once_whatever_becomes_of_its_frame(fate: Fate) -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.append(KEY, b"a")
        store.frames.clear()
        store.fates.append(fate)

        await clerk.append(KEY, b"b")

        first, *repeated = mutations(store.frames)
        assert {(m.session, m.seq) for m in repeated} == {(first.session, first.seq)}
        assert store.value(KEY) == b"ab"

    with_clerk(story)


@pytest.mark.parametrize("seed", range(20))
def test_appends_in_flight_take_effect_once_each_under_any_mixture_of_fates(seed: int) -> None:
    chance = Random(seed)

    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.fates.extend(chance.choice([None, None, *Fate]) for _ in range(60))

        async def one(client: int) -> None:
            for number in range(10):
                await clerk.append(b"key %d" % (client % 3), b"%d-%d " % (client, number))

        await asyncio.gather(moving(store, chance), *[one(client) for client in range(9)])

        for at in range(3):
            words = (store.value(b"key %d" % at) or b"").split()
            assert len(words) == len(set(words)) == 30
            for client in (at, at + 3, at + 6):
                own = [word for word in words if word.startswith(b"%d-" % client)]
                assert own == [b"%d-%d" % (client, number) for number in range(10)]

    with_clerk(story, timeout=300.0)


def test_a_refusal_is_recorded_and_a_retry_gets_it_again() -> None:
    """C5: the answer was lost, then the key changed; the retry still hears of the first version."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        other = Clerk(store, store, rng=Random("other"))  # type: ignore[arg-type]
        await clerk.put(KEY, b"a")
        store.fates.append(Fate.REPLY_LOST)
        refused = asyncio.ensure_future(clerk.put(KEY, b"b", if_version=7))
        await asyncio.sleep(0.01)
        for _ in range(6):
            await other.put(KEY, b"c")

        with pytest.raises(VersionMismatch) as caught:
            await refused

        assert caught.value.version == 1
        await other.close()

    with_clerk(story)


def test_the_floor_tells_which_answers_the_shard_may_forget() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        for _ in range(3):
            await clerk.put(KEY, b"v")

        assert [(m.seq, m.floor) for m in mutations(store.frames)] == [(1, 1), (2, 2), (3, 3)]

    with_clerk(story)


def test_an_operation_given_up_counts_as_acknowledged() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        store.fates.append(Fate.REQUEST_LOST)
        lost = asyncio.ensure_future(clerk.put(KEY, b"lost"))
        await asyncio.sleep(0.01)
        lost.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lost

        await clerk.put(KEY, b"next")

        assert [(m.seq, m.floor) for m in mutations(store.frames)] == [(1, 1), (2, 2), (3, 3)]

    with_clerk(story)


def test_a_session_idle_for_long_is_not_used_again() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        await asyncio.sleep(IDLE_SECONDS_MAX + 1)
        await clerk.put(KEY, b"w")

        assert [(m.session, m.seq) for m in mutations(store.frames)] == [(1, 1), (2, 1)]

    with_clerk(story)


@pytest.mark.parametrize(("fate", "known"), [(None, True), (Fate.REQUEST_LOST, False)])
def test_an_expired_session_is_replaced_where_that_is_safe(fate: Fate | None, known: bool) -> None:
    """A write that travelled once and met an expired session was not done, so it may go under
    another number. One that travelled before might have been done by then: unknown."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        shard = store.routing(KEY)
        group = store.groups[store.config.shards[shard]]
        expire = ExpireSessions(shard, ((1, 1),))  # type: ignore[arg-type]
        assert group.apply(encode(expire)).facts == (1,)
        store.fates.append(fate)

        if known:
            await clerk.append(KEY, b"w")
            assert store.value(KEY) == b"vw"
        else:
            with pytest.raises(OutcomeUnknown):
                await clerk.append(KEY, b"w")
            assert store.value(KEY) == b"v"

    with_clerk(story)


# Finding the leader, the group and the shard


def test_a_redirection_is_followed_at_once_and_remembered() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> float:
        for group in store.groups.values():
            group.leader = group.members[2]
        await clerk.get(KEY)
        store.frames.clear()
        started = asyncio.get_running_loop().time()
        await clerk.get(KEY)

        assert [to[-1] for to, _ in store.frames] == ["c"]
        return asyncio.get_running_loop().time() - started

    assert with_clerk(story) == pytest.approx(0.002)


def test_members_are_asked_in_turn_while_nobody_leads() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        group = store.groups[store.config.shards[store.routing(KEY)]]
        group.leader = ""
        asking = asyncio.ensure_future(clerk.put(KEY, b"v"))
        await asyncio.sleep(2.0)
        asked = {to[-1] for to, _ in store.frames}
        group.leader = group.members[1]

        await asking

        assert asked == {"a", "b", "c"}
        assert len(store.frames) < 40, "with a pause between"

    with_clerk(story)


def test_a_dead_leader_that_a_follower_still_names_does_not_trap_the_clerk() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        group = store.groups[store.config.shards[store.routing(KEY)]]
        group.leader = "dead"  # `serve` answers NO_SUCH_GROUP there

        asking = asyncio.ensure_future(clerk.put(KEY, b"v"))
        await asyncio.sleep(1.0)
        group.leader = group.members[2]
        await asking

        assert {to for to, _ in store.frames} >= {*group.members, "dead"}

    with_clerk(story)


def test_two_members_that_each_name_the_other_are_not_asked_in_a_hot_circle() -> None:
    class Mirrors(FakeStore):
        def serve(self, to: str, frame: Frame, fate: Fate | None) -> Reply:
            a, b, _ = self.groups[frame.gid].members
            other = b if to == a else a
            return Reply(Status.NOT_LEADER, 1, Leader(NodeId(f"n-{other}"), other))

    async def story(store: FakeStore, clerk: Clerk) -> None:
        with pytest.raises(Unavailable):
            await clerk.get(KEY, timeout=2.0)

        assert 40 < len(store.frames) < 120, "three redirections, then a pause"

    with_clerk(story, Mirrors())


def test_a_write_that_comes_back_goes_where_its_shard_is_by_then() -> None:
    """Its frame was lost while the shard moved; the group that it was sent to is no more."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.append(KEY, b"a")
        before = store.groups[store.config.shards[store.routing(KEY)]]
        store.fates.append(Fate.REQUEST_LOST)
        lost = asyncio.ensure_future(clerk.append(KEY, b"b"))
        await asyncio.sleep(0.01)
        store.configure([3 - before.gid] * 4)
        clerk._adopt(View(store.config, Directory()))
        before.members = ("nobody",)

        await asyncio.wait_for(lost, 2.0)

        assert store.value(KEY) == b"ab"

    with_clerk(story)


def test_a_newer_configuration_ends_every_detour() -> None:
    """Where a shard was answered on its way is not asked again: that group may be no more."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        shard = store.routing(KEY)
        source = store.groups[store.config.shards[shard]]
        await clerk.append(KEY, b"a")
        store.configure([3 - source.gid] * 4, hand_over=False)
        clerk._adopt(View(store.config, Directory()))
        await asyncio.wait_for(clerk.append(KEY, b"b"), 0.1)  # its source serves it
        store.hand_over()
        store.configure([3 - source.gid] * 4)
        source.members = ("nobody",)
        clerk._adopt(View(store.config, Directory()))

        await asyncio.wait_for(clerk.append(KEY, b"c"), 0.1)

        assert store.value(KEY) == b"abc"

    with_clerk(story)


def test_a_configuration_that_was_overtaken_on_its_way_changes_nothing() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        old = View(store.config, Directory())
        store.configure([1] * 4)
        clerk._adopt(View(store.config, Directory()))

        clerk._adopt(old)

        assert clerk.config == store.config

    with_clerk(story)


def test_a_leader_that_is_no_member_any_more_is_not_asked() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        group = store.groups[store.config.shards[store.routing(KEY)]]
        group.members = ("newcomer",)
        group.leader = "newcomer"
        store.configure(store.config.shards)
        clerk._adopt(View(store.config, Directory()))
        store.frames.clear()

        assert await clerk.get(KEY) == b"v"

        assert [to for to, _ in store.frames] == ["newcomer"]

    with_clerk(story)


def test_a_moved_shard_is_followed_with_its_sessions() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.append(KEY, b"a")
        owner = store.config.shards[store.routing(KEY)]
        store.configure([3 - owner] * 4)

        await clerk.append(KEY, b"b")

        assert store.value(KEY) == b"ab"
        assert [(m.session, m.seq) for m in mutations(store.frames)][-1] == (1, 2)
        assert store.queries == 2, "one at the start, and one for the newer configuration"

    with_clerk(story)


def test_an_arriving_shard_is_asked_until_it_is_in_and_others_are_not_held_up() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        keys = {store.routing(b"%d" % n): b"%d" % n for n in range(50)}
        await asyncio.gather(*[clerk.put(key, b"v") for key in keys.values()])
        owners = list(store.config.shards)
        moved = store.routing(keys[0])
        owners[moved] = GroupId(3 - owners[moved])
        store.configure(owners, hand_over=False)
        await asyncio.wait_for(clerk.append(keys[0], b"-"), 0.1)  # its source serves it
        store.freeze(moved)

        waiting = asyncio.ensure_future(clerk.append(keys[0], b"w"))
        others = [clerk.append(key, b"w") for shard, key in keys.items() if shard != moved]
        await asyncio.wait_for(asyncio.gather(*others), 0.1)
        await asyncio.sleep(0.5)
        assert not waiting.done()
        store.hand_over()
        await asyncio.wait_for(waiting, 1.1)

        assert store.value(keys.pop(moved)) == b"v-w"
        assert {store.value(key) for key in keys.values()} == {b"vw"}

    with_clerk(story)


def test_a_source_that_is_no_more_is_not_waited_for() -> None:
    """It was given up for lost, and who waits for the shard has not heard of that: the owner is
    asked again until it serves it."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        owner = store.routing(KEY) % 2 + 1
        lost, heir = GroupId(owner), GroupId(3 - owner)
        assert store.config.shards[store.routing(KEY)] == lost
        store.configure([heir] * 4, hand_over=False)
        number = ConfigNumber(store.config.number + 1)
        heirs = {heir: store.config.groups[heir]}
        store.config = replace(store.config, number=number, groups=heirs, departed={})

        waiting = asyncio.ensure_future(clerk.put(KEY, b"v"))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        asked = [(to, frame.gid) for to, frame in store.frames]
        assert asked and {gid for _, gid in asked} == {heir}
        for shard, record in store.groups[heir].machine.unsettled:
            assert record.peer == lost
            store.copy(store.groups[heir], shard, store.groups[lost])

        await asyncio.wait_for(waiting, 1.0)
        assert store.value(KEY) == b"v"

    with_clerk(story)


def test_a_shard_of_nobody_is_waited_for() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.configure([0] * 4)
        waiting = asyncio.ensure_future(clerk.put(KEY, b"v"))
        await asyncio.sleep(1.0)
        assert not waiting.done() and store.frames == []
        store.configure([1] * 4)

        await waiting

        assert store.value(KEY) == b"v"

    with_clerk(story)


# How it ends


@pytest.mark.parametrize("timeout", [1e-9, 0.3, 0.349, 3.0])
def test_a_write_that_never_left_fails_definitely_within_its_deadline(timeout: float) -> None:
    """C7, and C4: definite errors tell the truth."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.controller_up = False

        with pytest.raises(Unavailable, match="nothing was done"):
            await clerk.put(KEY, b"v", timeout=timeout)

        assert timeout <= asyncio.get_running_loop().time() <= timeout + 0.06
        assert store.frames == []

    with_clerk(story)


def test_what_ended_while_there_was_no_configuration_is_kept_no_longer() -> None:
    """A node's own clerk, that serves HTTP, may be asked for hours before the controller is up."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.controller_up = False
        for _ in range(40):
            puts = [clerk.put(KEY, bytes(1000), timeout=0.1) for _ in range(10)]
            ended = await asyncio.gather(*puts, return_exceptions=True)
            assert {type(error) for error in ended} == {Unavailable}

        kept = [pending for parked in clerk._parked.values() for pending in parked.operations]
        assert len(kept) <= PARKED_MIN + 2 * 10, "400 were asked for, 10 at a time"

        store.controller_up = True
        assert await clerk.put(KEY, b"v") == 1

    with_clerk(story)


@pytest.mark.parametrize("fate", [Fate.REPLY_LOST, Fate.UNKNOWN, Fate.INTERNAL, Fate.TOO_MANY])
def test_a_write_that_left_and_was_never_answered_is_unknown(fate: Fate) -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        store.fates.extend([fate] * 1000)
        started = asyncio.get_running_loop().time()

        with pytest.raises(OutcomeUnknown):
            await clerk.append(KEY, b"w", timeout=2.5)

        assert asyncio.get_running_loop().time() - started <= 2.56
        assert store.value(KEY) == b"vw"

    with_clerk(story)


@pytest.mark.parametrize(("fate", "error"), [(None, NamesFull), (Fate.REPLY_LOST, OutcomeUnknown)])
def test_a_shard_with_its_fill_of_names_is_a_definite_answer_to_what_was_sent_once(
    fate: Fate | None, error: type[Exception]
) -> None:
    """A request that was lost on its way may be done yet, by when a name was forgotten."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        for group in store.groups.values():
            group.machine._names_max = 0
        store.fates.append(fate)

        with pytest.raises(error):
            await clerk.append(KEY, b"w", once=Once(b"n" * TOKEN_BYTES))

        assert store.value(KEY) == b"v"

    with_clerk(story)


@pytest.mark.parametrize("fate", [Fate.UNREACHABLE, Fate.BUSY, Fate.EXHAUSTED, Fate.NOT_APPLIED])
def test_a_write_that_was_only_ever_turned_away_fails_definitely(fate: Fate) -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        store.fates.extend([fate] * 1000)

        with pytest.raises(Unavailable):
            await clerk.append(KEY, b"w", timeout=2.0)

        store.fates.clear()
        assert store.value(KEY) == b"v"

    with_clerk(story)


def test_a_read_that_gets_no_answer_is_unavailable() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        store.fates.extend([Fate.REPLY_LOST] * 10)

        with pytest.raises(Unavailable):
            await clerk.get(KEY, timeout=2.0)

    with_clerk(story)


def test_close_ends_what_is_pending_and_refuses_what_comes_after() -> None:
    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        store.fates.append(Fate.REQUEST_LOST)
        sent = asyncio.ensure_future(clerk.put(KEY, b"w"))
        await asyncio.sleep(0.0015)
        unsent = asyncio.ensure_future(clerk.put(KEY, b"x"))
        await asyncio.sleep(0)

        await clerk.close()

        with pytest.raises(OutcomeUnknown):
            await sent
        with pytest.raises(Unavailable):
            await unsent
        with pytest.raises(Closed):
            await clerk.get(KEY)

    with_clerk(story)


def test_a_group_that_leaves_while_its_frame_is_about_to_go_harms_nobody() -> None:
    """The members are gone between the decision to send and the sending."""

    async def story(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put(KEY, b"v")
        owner = store.config.shards[store.routing(KEY)]
        asking = asyncio.ensure_future(clerk.append(KEY, b"w"))
        await asyncio.sleep(0)
        link = clerk._links[owner]
        asyncio.get_running_loop().call_soon(link.members_are, (), 2)

        with pytest.raises((Unavailable, asyncio.TimeoutError)):
            await asyncio.wait_for(asyncio.gather(asking, clerk.get(KEY)), 0.5)

        link.members_are(store.groups[owner].members, 2)
        assert await clerk.get(KEY) in (b"v", b"vw")

    with_clerk(story)
