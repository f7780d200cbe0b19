"""Bad inputs to a real cluster: keys, values and frames at their limits, impossible administration,
and the command line where a cluster is needed to tell.

Limits are asked for twice: by the clerk, which refuses before it sends,
and by frames made by hand, which the server has to refuse by itself.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from labrpc.errors import Refused
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.types import ShardId
from shardkv import admin, aio, nodedir
from shardkv.admin import ChangeMembers, NodeStatus, Nothing
from shardkv.clerk import Clerk
from shardkv.commands import Batch, BatchWrite, Mutation, Op, OpenSession, encode
from shardkv.errors import (
    InvalidArgument,
    KeyEmpty,
    KeyTooLong,
    OutcomeUnknown,
    Unavailable,
    ValueTooLong,
    VersionMismatch,
    VersionOutOfRange,
)
from shardkv.protocol import KV, Get, Reply, Status, decode_reply, encode_frame
from shardkv.routing import SlotRouting
from shardkv.types import Answer, Code, Row, SessionId, Version
from shardkv.writes import Append, BatchOperation, Delete, Put
from tests.support.processes import (
    Cluster,
    Seen,
    free_base_port,
    leader_in,
    replicas_in,
    run,
    running,
    wait_for,
)

KEY_BYTES_MAX = 4096
VALUE_BYTES_MAX = 1024 * 1024
BATCH_BYTES_MAX = 1024 * 1024
SHARDS = 8
REFUSAL_SECONDS_MAX = 1.0
GROWTH_BYTES_MAX = 30 * 1024 * 1024
FILES_MORE_MAX = 12
"""Open files of all nodes together that may be more: the test's own connections."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("inputs"), groups=2, shards=SHARDS) as cluster:
        yield cluster


# What holds besides, for every refusal


@dataclass(frozen=True)
class Facts:
    """What a refusal leaves as it was."""

    pids: tuple[int, ...]
    boots: tuple[int, ...]
    config: int
    commits: dict[int, int]  # of the store's groups: the controller's has entries of its own
    replicas: tuple[tuple[str, int, str], ...]


async def facts_of(cluster: Cluster) -> Facts:
    async with cluster.eyes() as eyes:
        await eyes.whole()
        seen: Seen = await eyes.until(lambda seen: seen, "any answer")
    statuses = [status for status in seen.values() if status is not None]
    return Facts(
        tuple(status.pid for status in statuses),
        tuple(status.boot for status in statuses),
        max(status.config_number for status in statuses),
        {
            gid: dict(replicas_in(seen, gid))[leader_in(seen, gid)].commit
            for gid in sorted({r.gid for status in statuses for r in status.replicas} - {0})
        },
        tuple((status.node, r.gid, r.stopped) for status in statuses for r in status.replicas),
    )


def resources(cluster: Cluster) -> tuple[int, int]:
    """Open files and resident bytes of all nodes."""
    files = memory = 0
    for node in cluster.nodes.values():
        files += len(os.listdir(f"/proc/{node.pid}/fd"))
        memory += int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * 4096
    return files, memory


@asynccontextmanager
async def nothing_happens(cluster: Cluster, *, logged: bool = False) -> AsyncIterator[None]:
    """What is inside changes nothing: the same processes, configuration, replicas and, unless it
    is refused only when it is applied (`logged`), not one entry in any log; nothing grows, and
    the cluster serves."""
    before = await facts_of(cluster)
    files, memory = resources(cluster)
    yield
    after = await facts_of(cluster)
    assert (after.pids, after.boots, after.config) == (before.pids, before.boots, before.config)
    assert after.replicas == before.replicas
    if not logged:
        assert after.commits == before.commits, "a refusal was logged"
    wait_for(lambda: resources(cluster)[0] <= files + FILES_MORE_MAX, "connections closed again")
    grown = resources(cluster)[1] - memory
    assert grown <= GROWTH_BYTES_MAX, f"{grown} bytes more are resident"


# D: keys and values, on the client and again on the server


class Hand:
    """Makes frames by hand, as a client would that checks nothing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._transport = GrpcTransport(cluster.cluster, "hand")
        self._routing = SlotRouting(SHARDS)
        self._owners: Sequence[int] = ()
        self._leaders: dict[int, str] = {}

    async def open(self) -> None:
        async with aio.connect(self._cluster.endpoints) as clerk:
            await clerk.get("any")
            assert clerk.config is not None
            self._owners = clerk.config.shards
        async with self._cluster.eyes() as eyes:
            for gid in (1, 2):
                self._leaders[gid] = await eyes.leader(gid)

    async def close(self) -> None:
        await self._transport.close()

    def shard(self, key: bytes) -> ShardId:
        return self._routing(key)

    def group(self, key: bytes) -> int:
        return self._owners[self.shard(key)]

    def leader(self, key: bytes) -> str:
        return self._leaders[self.group(key)]

    async def send(
        self,
        key: bytes,
        *operations: Get | bytes,
        to: str = "",
        gid: int = -1,
        number: int = 1,
    ) -> Reply:
        """A frame about a key to the leader of its group, or wherever."""
        node = self._cluster.nodes[to or self.leader(key)]
        group = GroupId(self.group(key) if gid < 0 else gid)
        frame = encode_frame(group, number, operations)
        return await self.raw(node.client, frame)

    async def raw(self, address: str, frame: bytes) -> Reply:
        return decode_reply(await self._transport.call(Address(address), KV, frame, timeout=10))

    async def session(self, key: bytes) -> SessionId:
        reply = await self.send(key, encode(OpenSession(self.shard(key))))
        answer = reply.results[0]
        assert isinstance(answer, Answer) and answer.code is Code.OK
        return SessionId(answer.facts[0])

    def put(self, key: bytes, value: bytes, session: int = 1) -> bytes:
        """The first put of a session."""
        return encode(Mutation(Op.PUT, self.shard(key), SessionId(session), 1, 1, key, value))


@asynccontextmanager
async def by_hand(cluster: Cluster) -> AsyncIterator[Hand]:
    hand = Hand(cluster)
    await hand.open()
    try:
        yield hand
    finally:
        await hand.close()


def filled(letter: str, length: int) -> bytes:
    return letter.encode() * length


LIMITS: list[tuple[bytes, bytes, type[InvalidArgument] | None]] = [
    (b"", b"v", KeyEmpty),
    (b"k", b"", None),
    (filled("k", KEY_BYTES_MAX - 1), b"v", None),
    (filled("k", KEY_BYTES_MAX), b"v", None),
    (filled("k", KEY_BYTES_MAX + 1), b"v", KeyTooLong),
    (b"v-", filled("v", VALUE_BYTES_MAX - 1), None),
    (b"v", filled("v", VALUE_BYTES_MAX), None),
    (b"v+", filled("v", VALUE_BYTES_MAX + 1), ValueTooLong),
]
RULES = {
    KeyEmpty: "key must be 1 to 4096 bytes, not 0",
    KeyTooLong: "key must be 1 to 4096 bytes, not 4097",
    ValueTooLong: "value must be at most 1048576 bytes, not 1048577",
}


def test_limits_hold_on_the_client_and_again_on_the_server(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with aio.connect(cluster.endpoints) as clerk, by_hand(cluster) as hand:
            for key, value, error in LIMITS:
                if error is None:
                    await clerk.put(key, value)
                    assert await clerk.get(key) == value
                    mutation = hand.put(key, value, await hand.session(key))
                    reply = await hand.send(key, mutation, Get(key))
                    answer, row = reply.results
                    assert isinstance(answer, Answer) and answer.code is Code.OK
                    assert isinstance(row, Row) and row.value == value
            async with nothing_happens(cluster):
                for key, value, error in LIMITS:
                    if error is not None:
                        await refuse_everywhere(clerk, hand, key, value, error)

    run(scenario())


def test_a_batch_is_bounded_and_of_one_shard_on_both_sides(cluster: Cluster) -> None:
    """0, 1, 128 and 129 operations; 1 MiB of keys and values; keys of two groups, so of two shards;
    one key twice, which is defined: in order."""
    tagged = [b"{batch}%d" % number for number in range(129)]

    async def scenario() -> None:
        async with aio.connect(cluster.endpoints) as clerk, by_hand(cluster) as hand:
            shard, session = hand.shard(tagged[0]), await hand.session(tagged[0])

            def batch(*writes: BatchWrite, seq: int = 1) -> bytes:
                return encode(Batch(shard, session, seq, 1, writes))

            puts = [BatchWrite(Op.PUT, key, b"v") for key in tagged]
            longest = BatchWrite(Op.PUT, tagged[0], filled("v", BATCH_BYTES_MAX - len(tagged[0])))
            numbered = [b"%d" % number for number in range(1000)]
            elsewhere = next(key for key in numbered if hand.group(key) != hand.group(tagged[0]))
            twice: list[BatchOperation] = [
                Put(tagged[0], "a"),
                Append(tagged[0], "b"),
                Delete(tagged[1]),
            ]
            assert len(await clerk.batch([Put(key, b"v") for key in tagged[:128]])) == 128
            assert await clerk.batch([Put(tagged[0], longest.value)]) == [2]
            assert await clerk.batch(twice) == [3, 4, 0]
            reply = await hand.send(tagged[0], batch(*puts[:128]), batch(longest, seq=2))
            assert [answer.code for answer in reply.results] == [Code.OK, Code.OK]  # type: ignore[union-attr]

            async with nothing_happens(cluster):
                wrongs: list[tuple[list[BatchOperation], str]] = [
                    ([], "1 to 128 operations, not 0"),
                    ([Put(key, b"v") for key in tagged], "1 to 128 operations, not 129"),
                    ([Put(tagged[0], longest.value + b"v")], "1048576 bytes together, not 1048577"),
                    ([Put(tagged[0], b"v"), Put(elsewhere, b"v")], "a batch is of one shard"),
                ]
                for wrong, rule in wrongs:
                    begun = time.monotonic()
                    with pytest.raises(InvalidArgument, match=rule):
                        await clerk.batch(wrong)
                    assert time.monotonic() - begun < REFUSAL_SECONDS_MAX
                for data, rule in (
                    (batch(), "1 to 128 operations, not 0"),
                    (batch(*puts), "1 to 128 operations, not 129"),
                    (batch(longest, puts[0]), "1048576 bytes together"),
                    (batch(puts[0], BatchWrite(Op.PUT, b"")), "key must be 1 to 4096 bytes, not 0"),
                ):
                    with pytest.raises(Refused, match=rule) as refused:
                        await hand.send(tagged[0], Get(tagged[0]), data)
                    assert refused.value.code == "INVALID_ARGUMENT"
                stray = batch(puts[0], BatchWrite(Op.PUT, elsewhere), seq=3)
                reply = await hand.send(tagged[0], stray)
                assert reply.results == (Answer(Code.BAD_COMMAND),)

    run(scenario())


async def refuse_everywhere(
    clerk: Clerk, hand: Hand, key: bytes, value: bytes, error: type[InvalidArgument]
) -> None:
    rule = RULES[error]
    attempts = [clerk.put(key, value), clerk.append(key, value)]
    if error is not ValueTooLong:
        attempts += [clerk.get(key), clerk.get_row(key), clerk.delete(key)]
    for attempt in attempts:
        begun = time.monotonic()
        with pytest.raises(error, match=rule):
            await attempt
        assert time.monotonic() - begun < REFUSAL_SECONDS_MAX
    where = b"here"
    good = hand.put(b"beside", b"x", session=10**6)
    frames: list[list[Get | bytes]] = [[hand.put(key, value)], [good, hand.put(key, value)]]
    if error is not ValueTooLong:
        frames.append([Get(key)])
    for frame in frames:  # one that is wrong refuses the frame: nothing of it was done
        with pytest.raises(Refused, match=rule) as refused:
            await hand.send(where, *frame)
        assert refused.value.code == "INVALID_ARGUMENT"


def test_frames_have_limits_of_their_own(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with by_hand(cluster) as hand:
            key = b"framed"
            await hand.send(key, Get(key))
            async with nothing_happens(cluster):
                assert len((await hand.send(key, *[Get(key)] * 1024)).results) == 1024
                with pytest.raises(Refused, match="a frame holds 1 to 1024 operations"):
                    await hand.send(key, *[Get(key)] * 1025)
                with pytest.raises(Refused, match="a frame holds 1 to 1024 operations"):
                    await hand.send(key)
                third = hand.put(key, filled("v", 700_000))
                with pytest.raises(Refused, match="a frame is at most 2097152 bytes, not 2"):
                    await hand.send(key, third, third, third)
                to = cluster.nodes[hand.leader(key)].client
                for junk in (b"", b"\xc1", b"\x00" * 100, os.urandom(5000), b"\x93" * 10_000):
                    with pytest.raises(Refused) as refused:
                        await hand.raw(to, junk)
                    assert refused.value.code == "INVALID_ARGUMENT"

    run(scenario())


ODD_KEYS = [
    *(b"\x00", b"\xff" * 10, b"\n", b"a\r\nb", b" ", b"\xc3", b"-", b"--"),  # no text, or no word
    *(b"..", b"/", b"a/../b", b"%2e%2e"),  # paths
    *("\u00e9".encode(), "e\u0301".encode(), "\u202ekey".encode()),  # alike, or turned
    *("\U0001f40d".encode(), b"\xed\xa0\x80"),  # four bytes; a surrogate
    *(b"\x00raft", b"meta/shards", b"a\x00\x00", b"d\x00\x00\x00", b"session/1"),  # internal?
    *(b"{tag}", b"{tag}x", b"{}", b"{", b"}{"),  # hash tags
    *(b"${jndi:ldap://x}", b"%s%n", b"<script>", b'"}\n{"level":"info"'),
]  # fmt: skip


def test_odd_keys_are_bytes_and_nothing_else(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with aio.connect(cluster.endpoints) as clerk:
            for number, key in enumerate(ODD_KEYS):
                assert await clerk.put(key, b"%d" % number, if_version=0) > 0, key
            for number, key in enumerate(ODD_KEYS):
                assert await clerk.get(key) == b"%d" % number, key
            for key in ODD_KEYS:
                await clerk.delete(key)
            for key in ODD_KEYS:
                assert await clerk.get_row(key) == (None, 0), key

    assert len(set(ODD_KEYS)) == len(ODD_KEYS)
    run(scenario())


def test_an_append_past_the_limit_is_refused_when_it_is_applied(cluster: Cluster) -> None:
    """Of two at once that fit one by one and not together, one is done and one is not."""

    async def scenario() -> None:
        room = 10
        async with aio.connect(cluster.endpoints) as one, aio.connect(cluster.endpoints) as two:
            for turn in range(4):
                key = f"full {turn}"
                first = await one.put(key, filled("v", VALUE_BYTES_MAX - room))
                await two.get(key)
                outcomes = await asyncio.gather(
                    one.append(key, b"1" * (room - 4)),
                    two.append(key, b"2" * (room - 4)),
                    return_exceptions=True,
                )
                refused = [outcome for outcome in outcomes if isinstance(outcome, ValueTooLong)]
                assert len(refused) == 1 and outcomes.count(first + 1) == 1, outcomes
                assert refused[0].length == VALUE_BYTES_MAX + 2
                async with nothing_happens(cluster, logged=True):
                    with pytest.raises(ValueTooLong):
                        await one.append(key, b"12345")
                assert await two.append(key, b"1234") == first + 2, "to the last byte"
                row = await one.get_row(key)
                assert row.value is not None
                assert len(row.value) == VALUE_BYTES_MAX and row.version == first + 2
                winner = b"2" if isinstance(outcomes[0], ValueTooLong) else b"1"
                assert row.value.endswith(winner * (room - 4) + b"1234")
                await one.delete(key)

    run(scenario())


def test_conditional_puts_at_the_edges(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with aio.connect(cluster.endpoints) as clerk:
            key = "guarded"
            for version in (-1, 2**63, -(2**63)):
                with pytest.raises(VersionOutOfRange, match=r"0 \(absent\) to 9223372036854775807"):
                    await clerk.put(key, "x", if_version=version)
            with pytest.raises(VersionMismatch, match="absent"):
                await clerk.put(key, "x", if_version=1)
            first = await clerk.put(key, "a", if_version=0)
            for version in (0, first + 1, 2**63 - 1):
                with pytest.raises(VersionMismatch, match=f"at version {first}") as mismatch:
                    await clerk.put(key, "x", if_version=version)
                assert mismatch.value.version == first
            await clerk.delete(key)
            with pytest.raises(VersionMismatch, match="absent"):
                await clerk.put(key, "x", if_version=first)
            assert await clerk.put(key, "b", if_version=0) > first, "no version comes twice"

    run(scenario())


def test_a_session_answers_each_number_once(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with by_hand(cluster) as hand:
            key = b"once"
            session = await hand.session(key)

            async def put(value: bytes, seq: int, floor: int = 1, by: int = session) -> Answer:
                mutation = encode(
                    Mutation(Op.APPEND, hand.shard(key), SessionId(by), seq, floor, key, value)
                )
                (answer,) = (await hand.send(key, mutation)).results
                assert isinstance(answer, Answer)
                return answer

            first = (await put(b"a", 1)).facts[0]
            async with nothing_happens(cluster, logged=True):
                assert await put(b"a", 1) == Answer(Code.OK, (first,)), "the recorded answer"
                assert (await put(b"b", 1)).code is Code.SEQUENCE_REUSED
                assert (await put(b"b", 1 + 64)).code is Code.SEQUENCE_OVER_WINDOW
                assert (await put(b"b", 1, by=session + 1000)).code is not Code.OK
            assert await put(b"c", 3, floor=3) == Answer(Code.OK, (first + 1,))
            assert (await put(b"b", 2, floor=1)).code is Code.SEQUENCE_STALE
            assert (await put(b"a", 1)).code is Code.SEQUENCE_STALE
            (row,) = (await hand.send(key, Get(key))).results
            assert row == Row(b"ac", Version(first + 1))

    run(scenario())


@pytest.mark.parametrize("seconds", [0, -1, -math.inf, math.nan])
def test_no_time_is_a_definite_answer(cluster: Cluster, seconds: float) -> None:
    async def scenario() -> None:
        async with aio.connect(cluster.endpoints) as clerk:
            await clerk.put("in no time", "before")
            async with nothing_happens(cluster):
                begun = time.monotonic()
                for attempt in (
                    clerk.get("in no time", timeout=seconds),
                    clerk.put("in no time", "after", timeout=seconds),
                ):
                    with pytest.raises(InvalidArgument if math.isnan(seconds) else Unavailable):
                        await attempt
                assert time.monotonic() - begun < REFUSAL_SECONDS_MAX
            assert await clerk.get("in no time", timeout=315_360_000.0) == b"before"

    run(scenario())


def test_hardly_any_time_is_an_answer_or_a_timeout_at_once(cluster: Cluster) -> None:
    """Deadlines are kept to a tick, so an answer may come in time."""

    async def scenario() -> None:
        async with aio.connect(cluster.endpoints) as clerk:
            version = await clerk.put("hardly any", "")
            begun = time.monotonic()
            certain = unknown = 0
            for _ in range(20):
                try:
                    await clerk.append("hardly any", "x", timeout=1e-9)
                    certain += 1
                except OutcomeUnknown:
                    unknown += 1
                except Unavailable:
                    pass
            assert time.monotonic() - begun < 20 * REFUSAL_SECONDS_MAX / 4
            row = await clerk.get_row("hardly any")
            assert row.value is not None
            assert certain <= len(row.value) <= certain + unknown
            assert row.version == version + len(row.value)

    run(scenario())


def test_the_wrong_replica_points_to_the_right_one_and_serves_nothing(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with aio.connect(cluster.endpoints) as clerk, by_hand(cluster) as hand:
            key = b"somewhere"
            version = await clerk.put(key, "here")
            leader = hand.leader(key)
            other_group = 3 - hand.group(key)
            async with cluster.eyes() as eyes:
                other_leader = await eyes.leader(other_group)
            async with nothing_happens(cluster):
                for name in cluster.nodes.keys() - {leader}:
                    for operation in (Get(key), hand.put(key, b"x")):
                        reply = await hand.send(key, operation, to=name)
                        assert (reply.status, reply.results) == (Status.NOT_LEADER, ())
                        assert reply.leader == (leader, cluster.nodes[leader].client)
                for operation in (Get(key), hand.put(key, b"x")):
                    reply = await hand.send(key, operation, to=other_leader, gid=other_group)
                    assert [r.code for r in reply.results] == [Code.WRONG_GROUP]  # type: ignore[union-attr]
                for gid in (0, 3, 2**31 - 1):
                    reply = await hand.send(key, Get(key), gid=gid)
                    assert reply.status is Status.NO_SUCH_GROUP
                for number in (0, 1, 99, 2**63 - 1):  # a hint, never a reason to refuse
                    reply = await hand.send(key, Get(key), number=number)
                    assert reply.results == (Row(b"here", version),)
                elsewhere = encode(Mutation(Op.PUT, ShardId((hand.shard(key) + 2) % SHARDS),
                                            SessionId(1), 1, 1, key, b"x"))  # fmt: skip
                (answer,) = (await hand.send(key, elsewhere)).results
                assert answer == Answer(Code.BAD_COMMAND), "a shard that is not the key's"

    run(scenario())


def test_a_client_of_another_cluster_is_turned_away(cluster: Cluster, tmp_path: Path) -> None:
    async def scenario() -> None:
        stranger = GrpcTransport(bytes(range(16)), "stranger")
        async with nothing_happens(cluster):
            try:
                for node in cluster.nodes.values():
                    for method, body in ((KV, b""), (admin.STATUS, admin.encode(Nothing()))):
                        with pytest.raises(Refused, match="cluster id mismatch"):
                            await stranger.call(Address(node.client), method, body, timeout=5)
            finally:
                await stranger.close()

    run(scenario())
    port = free_base_port(1)
    other = f"127.0.0.1:{port}"
    settings = {"node": "n1", "client": other, "peer": f"127.0.0.1:{port + 1}"}
    nodedir.create(cluster.directory / "other", cluster=bytes(range(16)), settings=settings)
    process = cluster.start_node(cluster.directory / "other")
    try:
        log = cluster.directory / "other" / "node.log"
        wait_for(lambda: log.exists() and " running " in log.read_text(), "the other cluster")
        mixed = f"{cluster.endpoints[0]},{other}"
        ended = cluster.cli("get", "k", "--endpoints", mixed)
        assert ended.status == 1 and "cluster id mismatch" in ended.err, ended
        assert cluster.cluster.hex() in ended.err and bytes(range(16)).hex() in ended.err
    finally:
        process.terminate()
        assert process.wait(10) == 0


# A: the command line, where it takes a cluster to tell


def test_dead_endpoints_are_skipped_and_twice_the_same_is_once(cluster: Cluster) -> None:
    assert cluster.cli("put", "skip", "1", "--endpoints", cluster.endpoints[0]).status == 0
    dead = f"127.0.0.1:{free_base_port(1)}"
    for endpoints in (
        f"{dead},{cluster.endpoints[1]}",
        f"{cluster.endpoints[2]},{dead},{cluster.endpoints[2]}",
    ):
        ended = cluster.cli("get", "skip", "--endpoints", endpoints, "--timeout", "5")
        assert (ended.status, ended.out, ended.err) == (0, b"1", ""), ended


# H: impossible administration

ADMINISTRATION: list[tuple[list[str], int, str]] = [
    (["join", "1=n1,n2,n3"], 1, "group 1 takes part already"),
    (["join", "1=n1,n2"], 1, "group 1 exists already, on"),
    (["join", "0=n1"], 2, "must name a group's id from 1 to 2147483647"),
    (["join", "2147483648=n1"], 2, "must name a group's id from 1 to 2147483647"),
    (["join", "99999999999999=n1"], 2, "must be GID=NODE,NODE,..."),
    (["join", "3=n9"], 1, "no node 'n9'; registered are n1, n2, n3"),
    (["join", "3=n1,n9"], 1, "no node 'n9'"),
    (["join", "3=n1,n1"], 2, "group 3: a node is named twice"),
    (["join", "3=n1", "3=n2"], 2, "a group is named twice"),
    (["join", "3=n1", "1=n1,n2,n3"], 1, "group 1 takes part already"),
    (["join", "3=" + ",".join(["n1"] * 10)], 2, "group 3: "),
    (["leave", "7"], 1, "group 7 does not take part"),
    (["leave", "0"], 1, "group 0 does not take part"),
    (["leave", "1", "2"], 1, "group 2 is the last one"),
    (["leave", "1", "7"], 1, "group 7 does not take part"),
    (["leave", "1", "1"], 1, "one twice"),
    (["move", "8", "1"], 1, "shard 8 does not exist: shards are 0 to 7"),
    (["move", "0", "7"], 1, "group 7 does not take part"),
    (["move", "0", "0"], 1, "group 0 does not take part"),
    (["query", "99"], 1, "there is no configuration 99 yet; the newest is"),
]


def test_impossible_administration_changes_nothing(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with nothing_happens(cluster, logged=True):
            for words, status, complaint in ADMINISTRATION:
                ended = await asyncio.to_thread(cluster.cli, "ctl", *words)
                assert ended.status == status, (words, ended)
                assert complaint in ended.err and ended.err.count("\n") == 1, (words, ended)
                assert ended.out == b"" and ended.seconds < REFUSAL_SECONDS_MAX, (words, ended)

    run(scenario())


def test_members_that_cannot_go_stay(cluster: Cluster) -> None:
    async def scenario() -> None:
        transport = GrpcTransport(cluster.cluster, "admin")
        try:
            async with cluster.eyes() as eyes, nothing_happens(cluster):
                leader = cluster.nodes[await eyes.leader(1)]
                body = await transport.call(
                    Address(leader.client), admin.STATUS, admin.encode(Nothing()), timeout=5
                )
                group = admin.decode(NodeStatus, body).replica(1)
                assert group is not None
                everyone = tuple(member.replica for member in group.voters)
                follower = next(node for node in cluster.nodes.values() if node is not leader)
                for to, uuid, replicas, code in (
                    (leader, group.uuid, everyone, "FAILED_PRECONDITION"),
                    (leader, group.uuid, (99,), "FAILED_PRECONDITION"),
                    (leader, bytes(16), everyone[:1], "FAILED_PRECONDITION"),
                    (follower, group.uuid, everyone[:1], "ABORTED"),
                ):
                    remove = admin.encode(ChangeMembers(1, uuid, (), replicas))
                    with pytest.raises(Refused) as refused:
                        await transport.call(
                            Address(to.client), admin.CHANGE_MEMBERS, remove, timeout=5
                        )
                    assert refused.value.code == code
        finally:
            await transport.close()

    run(scenario())


def test_two_operators_at_once_are_put_in_order(cluster: Cluster) -> None:
    """Each change makes one configuration; none is lost and none is made twice."""

    async def scenario() -> None:
        transport = GrpcTransport(cluster.cluster, "operators")
        endpoints = [Address(endpoint) for endpoint in cluster.endpoints]
        clients = [ControllerClient(transport, endpoints, Random(seed)) for seed in range(3)]

        async def move(client: ControllerClient, shard: int) -> list[int]:
            numbers = []
            for turn in range(8):
                gid = GroupId(1 + turn % 2)
                numbers.append(int(await client.move(ShardId(shard), gid)))
            return numbers

        try:
            before = (await clients[0].newest()).config.number
            made = await asyncio.gather(*[move(c, shard) for shard, c in enumerate(clients)])
            newest = (await clients[0].newest()).config
            every = sorted(number for numbers in made for number in numbers if number > before)
            assert len(set(every)) == newest.number - before
            assert set(every) == set(range(before + 1, newest.number + 1))
            assert all(numbers == sorted(numbers) for numbers in made)
            assert [newest.shards[shard] for shard in range(3)] == [2, 2, 2]
        finally:
            for client in clients:
                await client.close()
            await transport.close()

    run(scenario())


def test_a_group_on_a_node_that_is_down_is_finished_by_asking_again(cluster: Cluster) -> None:
    cluster.kill("n3")
    before = cluster.cli("ctl", "query")
    words = ["ctl", "join", "3=n1,n2,n3"]
    ended = cluster.cli(*words, "--timeout", "2")
    assert ended.status == 3 and ended.seconds < 5, ended
    assert cluster.cli("ctl", "query").out == before.out
    status = cluster.cli("status", "--timeout", "2")
    assert status.status == 1 and "does not answer" in status.err
    cluster.restart("n3")
    ended = cluster.cli(*words, "--timeout", "20")
    assert ended.status == 0, ended

    async def serves() -> None:
        async with cluster.eyes() as eyes, aio.connect(cluster.endpoints) as clerk:
            await eyes.whole()
            assert await clerk.put("served by three groups", "1") > 0

    run(serves())
