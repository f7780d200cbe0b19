"""Questions to any replica: the wire, and when one replica may answer."""

import asyncio
from dataclasses import dataclass
from math import inf
from typing import Any

import pytest

from labrpc.sim.loop import run
from raft.errors import NotLeader, ReplicaStopped
from raft.types import GroupId
from shardctrler.types import ShardId
from shardkv.holding import Holds
from shardkv.limits import FRAME_OPERATIONS_MAX, INTEGER_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX
from shardkv.listing import (
    From,
    Listed,
    ListFrame,
    ListReply,
    Part,
    decode_list,
    decode_list_reply,
    encode_list,
    encode_list_reply,
)
from shardkv.protocol import BadFrame, Status, pack
from shardkv.reading import (
    AGE_MS_MAX,
    UNKNOWN_AGE_MS,
    Question,
    ReadFrame,
    ReadReply,
    Refusal,
    ReplicaReads,
    Served,
    Trouble,
    decode_read,
    decode_read_reply,
    encode_read,
    encode_read_reply,
)
from shardkv.rows import ShardRecord
from shardkv.server import REPLY_BYTES_MAX
from shardkv.tokens import NOTHING, Mark
from shardkv.types import ABSENT, Answer, Code, Row, Version

G, S = GroupId(1), ShardId(3)

# The wire


def test_questions_and_answers_read_as_they_were_written() -> None:
    questions = (Question(b"a", NOTHING), Question(b"\xff" * KEY_BYTES_MAX, Mark(3, INTEGER_MAX)))
    frame = ReadFrame(G, 7, True, 1500, questions)
    assert decode_read(encode_read(frame)) == frame

    results = (
        Served(Row(b"v", Version(3)), 4),
        Served(ABSENT, 4),
        Answer(Code.WRONG_GROUP, (9,)),
        Refusal(Trouble.TOO_OLD, 2500),
        Refusal(Trouble.UNCONFIRMED),
    )
    reply = ReadReply(Status.ANSWERED, 9, 1000, results)
    assert decode_read_reply(encode_read_reply(reply)) == reply


def test_pages_read_as_they_were_written() -> None:
    starts = (From(S, None, NOTHING), From(ShardId(4), b"k", Mark(2, 9)))
    frame = ListFrame(G, 7, False, 0, b"pre", True, 100, 65536, starts)
    assert decode_list(encode_list(frame)) == frame

    rows = (Listed(b"k", Version(3), b"v"), Listed(b"l", Version(1)))
    parts = (Part(4, True), Refusal(Trouble.BEHIND, 5), Answer(Code.WRONG_GROUP, (9,)))
    reply = ListReply(Status.ANSWERED, 7, 1000, parts, rows)
    assert decode_list_reply(encode_list_reply(reply)) == reply


QUESTION = [b"k", 0, 0]
START = [3, None, 0, 0]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([G, 7, 1, 0, [QUESTION]], id="stale is no flag"),
        pytest.param([G, 7, True, -1, [QUESTION]], id="an age below 0"),
        pytest.param([G, 7, True, AGE_MS_MAX + 1, [QUESTION]], id="an age above all"),
        pytest.param([G, 7, True, 1.5, [QUESTION]], id="an age of no whole number"),
        pytest.param([G, 7, True, 0, []], id="no question"),
        pytest.param([G, 7, True, 0, [QUESTION] * (FRAME_OPERATIONS_MAX + 1)], id="too many"),
        pytest.param([G, 7, True, 0, [[b"", 0, 0]]], id="an empty key"),
        pytest.param([G, 7, True, 0, [[b"k" * (KEY_BYTES_MAX + 1), 0, 0]]], id="a long key"),
        pytest.param([G, 7, True, 0, [["k", 0, 0]]], id="a key of text"),
        pytest.param([G, 7, True, 0, [[b"k", -1, 0]]], id="an epoch below 0"),
        pytest.param([G, 7, True, 0, [[b"k", 0, 2**63]]], id="an index above all"),
        pytest.param([G, 7, True, 0, [[b"k", 0]]], id="a question cut short"),
        pytest.param([G, 7, True, 0], id="a frame cut short"),
        pytest.param([2**31, 7, True, 0, [QUESTION]], id="a gid above all"),
    ],
)
def test_a_question_that_breaks_a_rule_is_refused(fields: list[Any]) -> None:
    with pytest.raises(BadFrame):
        decode_read(pack([1, *fields]))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({2: 1}, id="stale is no flag"),
        pytest.param({4: b"p" * (KEY_BYTES_MAX + 1)}, id="a long prefix"),
        pytest.param({5: 1}, id="values is no flag"),
        pytest.param({6: 0}, id="no rows"),
        pytest.param({7: 0}, id="no bytes"),
        pytest.param({8: []}, id="no shard"),
        pytest.param({8: [START] * (FRAME_OPERATIONS_MAX + 1)}, id="too many shards"),
        pytest.param({8: [[3, b"k" * (KEY_BYTES_MAX + 1), 0, 0]]}, id="a long key to go on after"),
        pytest.param({8: [[16384, None, 0, 0]]}, id="a shard above all"),
        pytest.param({8: [[3, "k", 0, 0]]}, id="a key of text"),
    ],
)
def test_a_question_for_pages_that_breaks_a_rule_is_refused(changed: dict[int, Any]) -> None:
    fields: list[Any] = [G, 7, False, 0, b"", True, 100, 100, [START]]
    decode_list(pack([1, *fields]))

    for at, value in changed.items():
        fields[at] = value

    with pytest.raises(BadFrame):
        decode_list(pack([1, *fields]))


@pytest.mark.parametrize(
    "result",
    [[200, 1, b"v"], [200, 1, b"v" * (VALUE_BYTES_MAX + 1), 4], [999, 1], [106], [], "x", [20, -1]],
    ids=["no epoch", "a long value", "no such code", "no age", "empty", "text", "below 0"],
)
def test_a_result_that_breaks_a_rule_is_refused(result: Any) -> None:
    with pytest.raises(BadFrame):
        decode_read_reply(pack([1, 0, 7, 100, [result]]))


# One replica


@dataclass
class FakeReplica:
    applied: int = 100
    age: float = 1.0


class FakeServer:
    """A replica that holds shard 3 under epoch 4, and whose leader confirms or does not."""

    def __init__(
        self, *, age: float = 1.0, epoch: int = 4, confirms: bool = True, stops: bool = False
    ) -> None:
        self.replica = FakeReplica(age=age)
        self.rsm = self
        self.machine = self
        self.stopped_because: str | None = None
        self.barriers = 0
        self._confirms = confirms
        self._stops = stops
        self._epoch = epoch

    def record(self, shard: ShardId) -> ShardRecord:
        return ShardRecord(taken=self._epoch)  # type: ignore[arg-type]

    async def read(self) -> None:
        self.barriers += 1
        await asyncio.sleep(0.01)
        if self._stops:
            self.stopped_because = "RowDamaged"
            raise ReplicaStopped(self.stopped_because)
        if not self._confirms:
            raise NotLeader()


def confirm(server: FakeServer, *, stale: bool, age_ms: int = 0, mark: Mark = NOTHING) -> Any:
    reads = ReplicaReads(server)  # type: ignore[arg-type]
    marks = [(S, mark)] if mark.epoch else []
    return run(_confirm(reads, stale, age_ms, marks))


async def _confirm(reads: ReplicaReads, stale: bool, age_ms: int, marks: Any) -> Any:
    return await reads.confirm(stale, age_ms, marks)


def test_a_stale_read_within_its_bound_asks_nobody() -> None:
    server = FakeServer(age=1.0)
    assert confirm(server, stale=True, age_ms=1000) is None
    assert server.barriers == 0


def test_a_replica_that_has_stopped_answers_nobody_however_young_it_is() -> None:
    """It may have stopped in the middle of what it holds."""
    server = FakeServer(age=0.0)
    server.stopped_because = "RowDamaged"
    assert confirm(server, stale=True, age_ms=1000) == Refusal(Trouble.UNCONFIRMED)
    assert server.barriers == 0


def test_nor_does_one_that_stops_while_it_waits_for_what_a_session_has_seen() -> None:
    server = FakeServer(age=0.0, stops=True)
    refused = Refusal(Trouble.UNCONFIRMED)
    assert confirm(server, stale=True, age_ms=5000, mark=Mark(4, 101)) == refused
    assert server.barriers == 1


def test_an_older_replica_asks_its_leader_before_it_refuses() -> None:
    server = FakeServer(age=1.0)
    assert confirm(server, stale=True, age_ms=999) is None
    assert server.barriers == 1

    alone = FakeServer(age=1.0, confirms=False)
    assert confirm(alone, stale=True, age_ms=999) == Refusal(Trouble.TOO_OLD, 1000)


def test_a_linearizable_read_is_confirmed_however_young_the_replica_is() -> None:
    server = FakeServer(age=0.0)
    assert confirm(server, stale=False) is None
    assert server.barriers == 1

    alone = FakeServer(age=0.0, confirms=False)
    assert confirm(alone, stale=False) == Refusal(Trouble.UNCONFIRMED, 0)


def test_a_replica_that_never_heard_of_a_leader_does_not_know_its_age() -> None:
    alone = FakeServer(age=inf, confirms=False)
    assert confirm(alone, stale=True, age_ms=AGE_MS_MAX) == Refusal(Trouble.TOO_OLD, UNKNOWN_AGE_MS)


def test_what_a_session_has_seen_is_waited_for() -> None:
    server = FakeServer()
    assert confirm(server, stale=True, age_ms=5000, mark=Mark(4, 100)) is None
    assert server.barriers == 0
    assert confirm(server, stale=True, age_ms=5000, mark=Mark(4, 101)) is None
    assert server.barriers == 1, "what it has to hold may be on its way"


def test_a_reply_is_bounded_and_says_what_had_no_room() -> None:
    """The first value always has room."""
    large = Row(bytes(VALUE_BYTES_MAX), Version(1))

    class Large(FakeServer):
        routing = staticmethod(lambda key: S)
        holds = number = store = reader = None

        def look_for(self, number: int) -> None:
            """It is no news."""

        def get(self, rows: object, shard: ShardId, key: bytes) -> Row:
            return large

    server = Large()
    server.replica.store = server  # type: ignore[attr-defined]
    questions = tuple([Question(b"%d" % n, NOTHING) for n in range(9)])
    frame = ReadFrame(G, 0, True, 5000, questions)
    reply = run(ReplicaReads(server).answer(frame))  # type: ignore[arg-type]

    full = -(-REPLY_BYTES_MAX // VALUE_BYTES_MAX)  # the one that passes the bound has room yet
    assert reply.results[:full] == (Served(large, 4),) * full
    assert reply.results[full:] == (Refusal(Trouble.REPLY_FULL),) * (9 - full)


def test_a_question_about_a_shard_that_is_about_to_come_in_waits_for_it() -> None:
    """As a client's frame at the leader does: the shard is here in a moment."""

    class Arriving(FakeServer):
        routing = staticmethod(lambda key: S)
        number = store = reader = None

        def look_for(self, number: int) -> None:
            """It is no news."""

        def get(self, rows: object, shard: ShardId, key: bytes) -> Row:
            return Row(b"in", Version(1)) if not self.holds else ABSENT

    async def main() -> None:
        server = Arriving()
        server.replica.store = server  # type: ignore[attr-defined]
        server.holds = Holds()  # type: ignore[attr-defined]
        server.holds.begin(S)  # type: ignore[attr-defined]
        asyncio.get_running_loop().call_later(0.05, server.holds.end, S)  # type: ignore[attr-defined]
        frame = ReadFrame(G, 0, True, 5000, (Question(b"k", NOTHING),))
        reply = await ReplicaReads(server).answer(frame)  # type: ignore[arg-type]
        assert reply.results == (Served(Row(b"in", Version(1)), 4),)

    run(main())


def test_a_replica_of_an_older_epoch_covers_nothing() -> None:
    """Indexes of two groups' logs cannot be compared (`shardkv/tokens.py`)."""
    reads = ReplicaReads(FakeServer(epoch=4))  # type: ignore[arg-type]
    assert reads.covers(S, Mark(4, 100))
    assert not reads.covers(S, Mark(4, 101))
    assert not reads.covers(S, Mark(5, 1))
    assert reads.covers(S, Mark(3, 10**9))
