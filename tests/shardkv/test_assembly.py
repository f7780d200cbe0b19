"""A node's parts put together, on a small simulated cluster: the doors, and what they refuse."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import pytest

from labrpc.errors import Refused
from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labrpc.sim.network import SimTransport
from labrpc.transport import Address
from labs.cluster import SimCluster
from raft.disk.log_store import ReplicaRecord
from raft.types import GroupId, ReplicaId
from shardctrler.client import ControllerClient
from shardctrler.types import ConfigNumber, ShardId
from shardkv import copies, once
from shardkv.assembly import CONTROLLER
from shardkv.clerk import Clerk
from shardkv.commands import Batch, BatchWrite, Mutation, Op, OpenSession, encode
from shardkv.handover import SESSION_IDLE_SECONDS, SURVEY_SECONDS, RateLimit, _idle
from shardkv.limits import VALUE_BYTES_MAX
from shardkv.protocol import (
    KV,
    Get,
    Reply,
    Status,
    Trouble,
    decode_reply,
    encode_frame,
)
from shardkv.routing import SlotRouting
from shardkv.types import NO_COPY, Answer, Code, Row, SessionId, Version

T = TypeVar("T")
ONE = GroupId(1)
TWO = GroupId(2)


def with_cluster(
    story: Callable[[SimCluster, Clerk, ControllerClient, SimTransport], Awaitable[T]],
    *,
    nodes: int = 4,
    replicas: int = 1,
    joined: int = 1,
) -> T:
    """Two groups of `replicas`, of which the first `joined` take part; and a stranger."""

    async def main() -> T:
        cluster = SimCluster(
            Chance("assembly"), nodes=nodes, groups=2, replicas=replicas, nshards=4
        )
        await cluster.start()
        clerk, admin = cluster.client()
        number = await admin.join([cluster.joining(gid) for gid in cluster.gids[:joined]])
        stranger = cluster.network.transport(Address("stranger"))
        async with asyncio.timeout(10):
            while not cluster.quiet(number):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        result = await story(cluster, clerk, admin, stranger)
        await clerk.close()
        await admin.close()
        return result

    return run(main())


async def ask(stranger: SimTransport, to: str, *operations: Get | bytes, gid: int = 1) -> Reply:
    frame = encode_frame(GroupId(gid), 1, operations)
    return decode_reply(await stranger.call(Address(to), KV, frame, timeout=1.0))


def address_of(cluster: SimCluster, gid: GroupId) -> str:
    node = cluster.leader(gid)
    assert node is not None
    return str(node.address)


def put(key: bytes, value: bytes, session: int, seq: int, shard: int | None = None) -> bytes:
    place = SlotRouting(4)(key) if shard is None else ShardId(shard)
    return encode(Mutation(Op.PUT, place, SessionId(session), seq, 1, key, value))


def test_a_frame_is_answered_operation_by_operation() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        to = address_of(cluster, ONE)
        shard = SlotRouting(4)(b"k")
        opened = await ask(stranger, to, encode(OpenSession(shard)))
        assert opened.results == (Answer(Code.OK, (1,)),)

        reply = await ask(
            stranger,
            to,
            Get(b"k"),
            put(b"k", b"v", 1, 1),
            put(b"k", b"w", 1, 1),
            put(b"k", b"x", 7, 1),
            put(b"k", b"y", 1, 2, shard=(shard + 1) % 4),
            encode(OpenSession(ShardId(9))),
        )

        read, *written = reply.results
        assert read in (Row(None, Version(0)), Row(b"v", Version(1)))
        assert written == [
            Answer(Code.OK, (1,)),
            Answer(Code.SEQUENCE_REUSED),
            Answer(Code.SESSION_EXPIRED),
            Answer(Code.BAD_COMMAND),
            Answer(Code.BAD_COMMAND),
        ]

    with_cluster(story)


def test_a_batch_of_keys_that_are_not_its_shards_does_not_enter_the_log() -> None:
    """The machine does not know the routing: what is let in here is done."""
    shard = SlotRouting(4)(b"k")
    other = next(key for key in (b"a", b"b", b"c", b"d") if SlotRouting(4)(key) != shard)

    def batch(*keys: bytes, place: int = shard) -> bytes:
        writes = tuple(BatchWrite(Op.PUT, key, b"v") for key in keys)
        return encode(Batch(ShardId(place), SessionId(1), 1, 1, writes))

    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        to = address_of(cluster, ONE)
        await ask(stranger, to, encode(OpenSession(shard)))

        reply = await ask(
            stranger,
            to,
            batch(b"k", other),
            batch(b"k", place=(shard + 1) % 4),
            batch(b"k", b"{k}", place=9),
            batch(b"k", b"{k}"),
        )

        bad = Answer(Code.BAD_COMMAND)
        assert reply.results == (bad, bad, bad, Answer(Code.OK, (1, 1)))
        assert await clerk.get(other) is None

    with_cluster(story)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        (KV, b"\xc1"),
        (KV, encode_frame(ONE, 1, [Get(b"")])),
        (copies.PULL, b"junk"),
        (copies.SETTLED, b"junk"),
    ],
)
def test_what_is_no_request_is_refused_at_the_door(method: str, body: bytes) -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        with pytest.raises(Refused) as caught:
            await stranger.call(Address(address_of(cluster, ONE)), method, body, timeout=1.0)

        assert caught.value.code == "INVALID_ARGUMENT"
        assert await clerk.put(b"k", b"v") == 1, "and nobody else noticed"

    with_cluster(story)


def test_the_wrong_group_says_which_configuration_it_knows() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        shard = SlotRouting(4)(b"k")
        reply = await ask(
            stranger, address_of(cluster, TWO), Get(b"k"), encode(OpenSession(shard)), gid=2
        )

        assert reply.results == (Answer(Code.WRONG_GROUP, (1,)),) * 2

    with_cluster(story)


def test_a_node_without_the_group_and_a_follower_say_where_not_to_ask() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        leader = address_of(cluster, ONE)
        for name in cluster.nodes:
            reply = await ask(stranger, name, Get(b"k"))
            if name == leader:
                assert reply.status is Status.ANSWERED
            elif name in cluster.placement[ONE]:
                assert reply.status is Status.NOT_LEADER
                assert reply.leader is not None and reply.leader.address == leader
            else:
                assert reply.status is Status.NO_SUCH_GROUP

    with_cluster(story, replicas=3)


def test_values_that_have_no_room_in_a_reply_are_asked_for_again() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        keys = [b"%d" % number for number in range(5)]
        large = b"v" * VALUE_BYTES_MAX
        await asyncio.gather(*[clerk.put(key, large) for key in keys])

        reply = await ask(stranger, address_of(cluster, ONE), *map(Get, keys))

        full = [result is Trouble.REPLY_FULL for result in reply.results]
        assert full == [False, False, False, True, True]
        assert await asyncio.gather(*[clerk.get(key) for key in keys]) == [large] * 5

    with_cluster(story)


def test_past_the_node_s_limit_frames_are_turned_away_whole() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        node = cluster.leader(ONE)
        assert node is not None and node.assembly is not None
        service = node.assembly.service
        service.operations = 8192 - 1

        reply = await ask(stranger, str(node.address), Get(b"k"), Get(b"l"))

        assert reply.status is Status.BUSY
        service.operations = 0
        assert (await ask(stranger, str(node.address), Get(b"k"))).status is Status.ANSWERED
        assert service.operations == 0

    with_cluster(story)


def test_questions_about_copies_change_nothing_and_name_what_is_out_of_step() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        to = Address(address_of(cluster, ONE))

        async def pull(gid: int, shard: int, number: int) -> Code:
            request = copies.PullRequest(
                GroupId(gid), ShardId(shard), ConfigNumber(number), NO_COPY, b"", 1000
            )
            body = await stranger.call(to, copies.PULL, copies.encode_pull(request), timeout=1.0)
            return copies.decode_pull_reply(body).code

        assert await pull(1, 0, 1) is Code.OUT_OF_STEP
        assert await pull(1, 0, 2) is Code.OUT_OF_STEP
        assert await pull(9, 0, 1) is Code.WRONG_GROUP
        assert await pull(1, 9, 1) is Code.BAD_COMMAND

    with_cluster(story)


def test_the_controller_is_found_from_any_node() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        for name in cluster.nodes:
            client = ControllerClient(stranger, [Address(name)], Random(1))
            assert (await client.newest(timeout=2.0)).config.number == 1

    with_cluster(story)


def test_a_node_and_the_members_of_a_group_are_registered() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        await asyncio.sleep(5.0)

        directory = (await admin.newest()).directory

        assert sorted(directory.nodes) == sorted(cluster.nodes)
        assert [member.node for member in directory.members(ONE)] == cluster.placement[ONE]

    with_cluster(story)


def test_a_session_that_was_used_again_at_last_is_not_idle() -> None:
    """However long it was before: its client waits for what it has just asked."""
    shard, long = ShardId(0), SESSION_IDLE_SECONDS + 1
    before = {(shard, session): (5, 0.0) for session in (1, 2)}
    seen: dict[tuple[ShardId, int], tuple[int, float]] = {}

    idle = _idle(shard, [(1, 5), (2, 6), (3, 9)], long, before, seen)

    assert idle == [(1, 5)]
    assert seen == {(shard, 1): (5, 0.0), (shard, 2): (6, long), (shard, 3): (9, long)}


def test_idle_sessions_are_forgotten_and_used_ones_are_not() -> None:
    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        node = cluster.leader(ONE)
        assert node is not None and node.assembly is not None
        server = node.assembly.groups[ONE].server
        shard = SlotRouting(4)(b"k")
        idle, busy = cluster.client()[0], cluster.client()[0]
        await idle.put(b"k", b"v")

        for _ in range(int(SESSION_IDLE_SECONDS / 300) + 2):
            await busy.put(b"k", b"w")
            await asyncio.sleep(300)
        await asyncio.sleep(SURVEY_SECONDS * 2)

        sessions = dict(server.machine.survey(server.replica.store.reader, shard))
        assert len(sessions) == 1
        assert await idle.append(b"k", b"!") == await busy.append(b"k", b"!") - 1
        await idle.close()
        await busy.close()

    with_cluster(story)


def test_names_of_requests_are_forgotten_by_time_that_leaders_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A day is 2,000 s here. A leader that falls takes less than one interval's time with it."""
    monkeypatch.setattr(once, "KEEP_MS", 2_000_000)

    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        def names() -> tuple[int, int]:
            node = cluster.leader(ONE)
            assert node is not None and node.assembly is not None
            server = node.assembly.groups[ONE].server
            found = server.machine.names(server.replica.store.reader, shard)
            assert found is not None
            return found

        shard = SlotRouting(4)(b"k")
        name = once.Once(b"n" * once.TOKEN_BYTES)
        assert await clerk.append(b"k", b"x", once=name) == 1
        await asyncio.sleep(once.PASS_SECONDS * 2 + SURVEY_SECONDS * 2)
        age, known = names()
        assert known == 1 and 0 < age <= (once.PASS_SECONDS * 2 + SURVEY_SECONDS * 2) * 1000
        assert await clerk.append(b"k", b"x", once=name) == 1, "done before"

        await asyncio.sleep(2_000)

        assert names()[1] == 0
        grown = names()[0]
        await asyncio.sleep(once.PASS_SECONDS * 3)
        assert names() == (grown, 0), "a shard that knows no name costs no entry"
        assert await clerk.append(b"k", b"x", once=name) == 2

    with_cluster(story)


def test_nothing_is_left_of_a_controller_s_replica_that_another_took_the_place_of() -> None:
    """Room is made for a new id where the one before never took part: a learner that was struck."""

    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        host, assembly = cluster.nodes["n4"].host, cluster.nodes["n4"].assembly
        assert host is not None and assembly is not None and assembly.controller is None
        uuid = cluster.uuids[CONTROLLER]
        await host.create_replica(ReplicaRecord(CONTROLLER, uuid, ReplicaId(90), 1))
        await assembly.start(CONTROLLER)
        first = assembly.controller
        assert first is not None

        cluster.watchers[CONTROLLER].dropped("n4")
        await host.drop_replica(CONTROLLER)
        await host.create_replica(ReplicaRecord(CONTROLLER, uuid, ReplicaId(91), 2))
        await assembly.start(CONTROLLER)

        assert assembly.controller is not first
        assert first._closed and first._expiry is not None and first._expiry.done()

    with_cluster(story)


def test_copies_share_one_rate() -> None:
    async def main() -> float:
        rate = RateLimit(bytes_per_second=1000)
        await asyncio.gather(*[rate.take(500) for _ in range(5)])
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(2.0), "the last waits for the four before it"


def test_writes_are_refused_while_most_voters_have_no_room_though_the_leader_has() -> None:
    """What is committed needs a majority's disks. Followers say it in the frames that they send
    anyway, and it lifts by itself; deletes and reads always go."""

    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        await clerk.put(b"k", b"v")
        leader = cluster.leader(ONE)
        assert leader is not None
        to, shard = str(leader.address), SlotRouting(4)(b"k")
        opened = (await ask(stranger, to, encode(OpenSession(shard)))).results[0]
        assert isinstance(opened, Answer)
        session, number = opened.facts[0], iter(range(1, 99))
        holders = [node for node in cluster.nodes.values() if ONE in node.host.replicas]
        followers = [node for node in holders if node is not leader]
        assert len(followers) == 2

        async def write(op: Op = Op.PUT) -> object:
            at = next(number)
            value = b"v" if op is Op.PUT else b""
            command = encode(Mutation(op, shard, SessionId(session), at, at, b"k", value))
            return (await ask(stranger, to, command)).results[0]

        async def becomes(expected: object) -> None:
            async with asyncio.timeout(1):
                while type(await write()) is not type(expected):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.05)

        followers[0].assembly.roomy = lambda: False
        await asyncio.sleep(1)
        assert isinstance(await write(), Answer), "the leader and the other are a majority"
        followers[1].assembly.roomy = lambda: False
        await becomes(Trouble.NO_ROOM)
        assert isinstance(await write(Op.DELETE), Answer)
        assert (await ask(stranger, to, Get(b"k"))).results[0] == Row(None, Version(0))
        followers[0].assembly.roomy = lambda: True
        await becomes(Answer(Code.OK))
        leader.assembly.roomy = lambda: False
        assert await write() is Trouble.NO_ROOM

    with_cluster(story, replicas=3, nodes=3)


def test_a_replica_that_starts_while_its_node_stops_begins_nothing() -> None:
    """Nobody would end its tasks (B8 found it: a replica was being made when the node stopped)."""

    async def story(
        cluster: SimCluster, clerk: Clerk, admin: ControllerClient, stranger: SimTransport
    ) -> None:
        node = cluster.leader(ONE)
        assert node is not None and node.assembly is not None and node.host is not None
        assembly, replica = node.assembly, node.host.replicas[ONE]
        await assembly._stop(ONE)
        gate = asyncio.Event()

        async def slowly(gid: GroupId, machine: object) -> object:
            await gate.wait()
            return replica

        assembly.host.start_replica = slowly  # type: ignore[method-assign, assignment]
        starting = asyncio.get_running_loop().create_task(assembly.start(ONE))
        await asyncio.sleep(0)

        await assembly.close()
        gate.set()
        await starting

        assert ONE not in assembly.groups

    with_cluster(story)
