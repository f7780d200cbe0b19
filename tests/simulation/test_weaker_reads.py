"""Reads on any replica, sessions and lists of a simulated cluster: one story for each claim."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import SimCluster, SimNode
from labs.scenario import ScenarioConfig, play
from labs.workload import WorkloadConfig
from raft.errors import NotLeader, RaftError
from raft.freshness import REFRESH_SECONDS
from raft.parcel import Parcel
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.types import ShardId
from shardkv.clerk import Clerk
from shardkv.errors import InvalidArgument, TooStale, Unavailable
from shardkv.types import ABSENT, Row, Version

T = TypeVar("T")
KEY = b"key"
ONE, TWO = GroupId(1), GroupId(2)
Story = Callable[["World"], Awaitable[T]]


class World:
    """A cluster with a clerk and an administrator; every group owns its share of the shards."""

    def __init__(self, cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        self.cluster, self.clerk, self.admin = cluster, clerk, admin

    def node(self, gid: GroupId, *, leads: bool) -> SimNode:
        """The group's leader's node, or the first of its others."""
        leader = self.cluster.leader(gid)
        assert leader is not None
        names = self.cluster.placement[gid]
        return (
            leader
            if leads
            else next(node for name in names if (node := self.cluster.nodes[name]) is not leader)
        )

    def others(self, gid: GroupId, node: SimNode) -> list[SimNode]:
        nodes = [self.cluster.nodes[name] for name in self.cluster.placement[gid]]
        return [other for other in nodes if other is not node]

    def cut_off(self, node: SimNode) -> None:
        """From all other nodes; clients still reach it."""
        for other in self.cluster.nodes.values():
            if other is not node:
                self.cluster.network.cut(node.address, other.address)
                self.cluster.network.cut(other.address, node.address)

    async def until(self, true: Callable[[], bool]) -> None:
        for _ in range(1000):
            if true():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it did not come true in time")


def told(story: Story[T], *, nodes: int = 3, groups: int = 1) -> T:
    async def main() -> T:
        cluster = SimCluster(Chance("reads"), nodes=nodes, groups=groups)
        await cluster.start()
        clerk, admin = cluster.client()
        await admin.join([cluster.joining(gid) for gid in cluster.gids])
        await clerk.put(b"warm", b"")
        result = await story(World(cluster, clerk, admin))
        cluster.observer.finish()
        return result

    return run(main(), seed="reads")


# Linearizable reads on followers


def test_spread_reads_show_what_was_just_written_and_followers_answer_them() -> None:
    async def story(world: World) -> int:
        for number in range(30):
            await world.clerk.put(KEY, b"%d" % number)
            assert await world.clerk.get(KEY, consistency="spread") == b"%d" % number
        return world.cluster.observer.probes["read confirmed on a follower"]

    assert told(story) >= 15, "two of three replicas are followers"


def test_a_spread_read_after_a_write_does_not_wait_for_the_next_heartbeat() -> None:
    """The answer of the leader says what is committed (`ForwardedReads.answered`)."""

    async def story(world: World) -> float:
        loop, longest = asyncio.get_running_loop(), 0.0
        for number in range(30):
            await world.clerk.put(KEY, b"%d" % number)
            began = loop.time()
            await world.clerk.get(KEY, consistency="spread")
            longest = max(longest, loop.time() - began)
        return longest

    assert told(story) < 0.05


def test_a_follower_without_its_leader_answers_no_linearizable_read() -> None:
    """It would be stale (safeguard D11); the clerk goes to those that can."""

    async def story(world: World) -> None:
        follower = world.node(ONE, leads=False)
        await world.clerk.put(KEY, b"old")
        world.cut_off(follower)
        await world.clerk.put(KEY, b"new")

        for _ in range(12):
            assert await world.clerk.get(KEY, consistency="spread") == b"new"

        assert follower.host is not None
        with pytest.raises(RaftError):
            await follower.host.replicas[ONE].read_barrier()

    told(story)


def test_hundreds_of_reads_share_one_question_to_the_leader() -> None:
    async def story(world: World) -> int:
        follower = world.node(ONE, leads=False)
        assert follower.host is not None
        replica = follower.host.replicas[ONE]
        before = replica._read_number
        await asyncio.gather(*[replica.read_barrier() for _ in range(300)])
        return replica._read_number - before

    assert told(story) <= 2, "its own now-and-then question may fall in between"


# Stale reads


async def leaderless(world: World) -> SimNode:
    """Two of three nodes are gone for a while; returns the one that is left."""
    await world.clerk.put(KEY, b"value")
    last = world.node(ONE, leads=False)
    await asyncio.sleep(2 * REFRESH_SECONDS)
    for node in world.others(ONE, last):
        node.crash()
    await asyncio.sleep(5.0)
    return last


def test_without_a_leader_a_stale_read_is_served_within_its_bound_and_refused_beyond_it() -> None:
    """The bound counts from the last moment that a leader had a quorum."""

    async def story(world: World) -> None:
        await leaderless(world)

        assert await world.clerk.get(KEY, consistency="stale", max_age=30.0) == b"value"
        with pytest.raises(TooStale, match="at most 2 s old: the youngest is") as caught:
            await world.clerk.get(KEY, consistency="stale", max_age=2.0)
        assert caught.value.age is not None
        assert 5.0 < caught.value.age < 5.0 + 3 * REFRESH_SECONDS
        with pytest.raises(Unavailable):
            await world.clerk.get(KEY, consistency="spread", timeout=2.0)

    told(story)


def test_a_client_that_begins_without_a_controller_is_told_where_by_whoever_is_left() -> None:
    """Nobody can say which configuration is the newest; for a stale read any will do."""

    async def story(world: World) -> None:
        await leaderless(world)
        fresh, _ = world.cluster.client()

        assert await fresh.get(KEY, consistency="stale", max_age=30.0) == b"value"
        with pytest.raises(Unavailable):
            await fresh.get(KEY, timeout=2.0)
        another, _ = world.cluster.client()
        rows = another.list(consistency="stale", max_age=30.0)
        assert [row.key async for row in rows] == [KEY, b"warm"]

    told(story)


def test_a_replica_that_was_restarted_does_not_know_its_age() -> None:
    async def story(world: World) -> None:
        last = await leaderless(world)
        last.crash()
        await last.start()
        await asyncio.sleep(2.0)

        with pytest.raises(TooStale, match="no replica knows its age"):
            await world.clerk.get(KEY, consistency="stale", max_age=60.0)

    told(story)


def test_a_stale_read_is_answered_without_the_leader_while_the_replica_is_young() -> None:
    async def story(world: World) -> list[int]:
        await world.clerk.put(KEY, b"value")
        await asyncio.sleep(2 * REFRESH_SECONDS)
        replicas = [node.host.replicas[ONE] for node in world.cluster.nodes.values() if node.host]
        followers = [replica for replica in replicas if not replica.leads]
        before = [replica._reads_asked for replica in followers]
        rounds = world.cluster.observer.probes["read confirmed on a follower"]
        for _ in range(30):
            assert await world.clerk.get(KEY, consistency="stale", max_age=5.0) == b"value"
        assert [replica._reads_asked for replica in followers] == before
        return [world.cluster.observer.probes["read confirmed on a follower"] - rounds]

    assert told(story) == [0]


def test_a_bound_of_zero_is_as_good_as_linearizable() -> None:
    async def story(world: World) -> None:
        for number in range(20):
            await world.clerk.put(KEY, b"%d" % number)
            value = await world.clerk.get(KEY, consistency="stale", max_age=0)
            assert value == b"%d" % number

    told(story)


# Sessions


async def lagging(world: World) -> SimNode:
    """A replica that will not hear of the next write; clients reach it, and it is young still."""
    await world.clerk.put(KEY, b"old")
    await asyncio.sleep(2 * REFRESH_SECONDS)
    follower = world.node(ONE, leads=False)
    world.cut_off(follower)
    return follower


def test_without_a_session_a_stale_read_may_miss_the_own_write_and_with_one_it_does_not() -> None:
    async def story(world: World) -> tuple[set[bytes | None], set[bytes | None]]:
        await lagging(world)
        session = world.clerk.session()
        await world.clerk.put(KEY, b"new", session=session)
        plain = {await world.clerk.get(KEY, consistency="stale", max_age=60) for _ in range(9)}
        own = {
            await world.clerk.get(KEY, consistency="stale", max_age=60, session=session)
            for _ in range(9)
        }
        return plain, own

    plain, own = told(story)

    assert plain == {b"old", b"new"}, "or this story shows nothing"
    assert own == {b"new"}


def test_a_token_carries_a_session_to_another_process() -> None:
    async def story(world: World) -> None:
        await lagging(world)
        session = world.clerk.session()
        await world.clerk.put(KEY, b"new", session=session)
        other, _ = world.cluster.client()
        for _ in range(9):
            later = other.session(str(session))
            row = await other.get_row(KEY, consistency="stale", max_age=60, session=later)
            assert row == Row(b"new", Version(2))

    told(story)


def test_reads_of_a_session_never_go_back() -> None:
    async def story(world: World) -> None:
        await lagging(world)
        await world.clerk.put(KEY, b"new")  # by somebody else
        session = world.clerk.session()
        seen = [
            await world.clerk.get(KEY, consistency="stale", max_age=60, session=session)
            for _ in range(12)
        ]
        assert seen.count(b"new") > 0
        assert b"old" not in seen[seen.index(b"new") :]

    told(story)


def test_a_token_survives_the_shards_moves() -> None:
    """To another group, whose log has other indexes, and back again."""

    async def story(world: World) -> None:
        clerk, cluster = world.clerk, world.cluster
        for number in range(100):  # so that indexes of the two groups are far apart
            await clerk.put(b"elsewhere %d" % number, b"")
        session = clerk.session()
        await clerk.put(KEY, b"value", session=session)
        assert clerk._routing is not None and clerk.config is not None
        shard = clerk._routing(KEY)
        home = clerk.config.shards[shard]
        for gid in (ONE if home == TWO else TWO, home):
            await world.admin.move(ShardId(shard), gid)
            for number in range(6):
                for kv in (clerk, cluster.client()[0]):
                    row = await kv.get_row(
                        KEY, consistency="stale", max_age=60, session=kv.session(str(session))
                    )
                    assert row.value == b"value", (gid, number)
            await clerk.get(KEY, consistency="stale", session=session)

    told(story, nodes=6, groups=2)


# Lists


async def fill(clerk: Clerk, count: int) -> list[bytes]:
    keys = [b"key %05d" % number for number in range(count)]
    await asyncio.gather(*[clerk.put(key, b"value of " + key) for key in keys])
    return keys


@pytest.mark.parametrize("consistency", ["linearizable", "spread", "stale"])
def test_a_list_is_in_order_over_all_shards(consistency: str) -> None:
    async def story(world: World) -> None:
        keys = await fill(world.clerk, 3000)
        how: Any = {"consistency": consistency, "max_age": 0 if consistency == "stale" else None}

        rows = [row async for row in world.clerk.list(b"key ", values=True, **how)]
        assert [row.key for row in rows] == keys
        assert all(row.value == b"value of " + row.key and row.version == 1 for row in rows)

        some = [row.key async for row in world.clerk.list(b"key 01", after=b"key 01234", limit=3)]
        assert some == keys[1235:1238]

    told(story, nodes=6, groups=3)


def test_a_list_goes_on_while_its_shards_move() -> None:
    async def story(world: World) -> None:
        keys = await fill(world.clerk, 2000)
        listed: list[bytes] = []
        async for row in world.clerk.list(b"key "):
            listed.append(row.key)
            if len(listed) % 200 == 0:
                shard = len(listed) // 200
                await world.admin.move(ShardId(shard), GroupId(shard % 3 + 1))
        assert listed == keys

    told(story, nodes=6, groups=3)


def test_a_page_token_goes_on_after_a_move_and_knows_its_list() -> None:
    async def story(world: World) -> None:
        clerk = world.clerk
        keys = await fill(clerk, 50)
        first = await clerk.list_page(b"key ", limit=20)
        assert first.token is not None
        assert [row.key for row in first.rows] == keys[:20]
        await world.admin.move(ShardId(3), GroupId(2))
        await world.admin.move(ShardId(4), GroupId(1))

        second = await clerk.list_page(b"key ", limit=10**9, token=first.token)
        assert [row.key for row in second.rows] == keys[20:]
        assert second.token is None

        edited = first.token[:-1] + ("A" if first.token[-1] != "A" else "B")
        refused: list[tuple[Any, str]] = [
            ({"token": edited}, "cut or edited"),
            ({"token": first.token[:9]}, "cut or edited"),
            ({"token": str(clerk.session())}, "another version"),
            ({"token": first.token, "values": True}, "another list"),
            ({"token": first.token, "after": b"a"}, "not both"),
            ({"limit": 0}, "from 1 on"),
            ({"limit": -1}, "from 1 on"),
        ]
        for options, why in refused:
            with pytest.raises(InvalidArgument, match=why):
                await clerk.list_page(b"key ", **options)
        with pytest.raises(InvalidArgument, match="another list"):
            await clerk.list_page(b"key", token=first.token)

    told(story, nodes=6, groups=2)


def test_a_page_is_a_thousand_rows_or_a_mebibyte() -> None:
    async def story(world: World) -> None:
        clerk = world.clerk
        await fill(clerk, 1100)
        assert len((await clerk.list_page(b"key ", limit=10**9)).rows) == 1000
        for number in range(5):
            await clerk.put(b"large %d" % number, bytes(400_000))
        page = await clerk.list_page(b"large ", values=True)
        assert [row.key for row in page.rows] == [b"large 0", b"large 1"]
        rows = [row async for row in clerk.list(b"large ", values=True)]
        assert [len(row.value or b"") for row in rows] == [400_000] * 5

    told(story)


def test_a_prefix_with_a_whole_tag_asks_one_shard_alone() -> None:
    async def story(world: World) -> list[int]:
        clerk = world.clerk
        await asyncio.gather(*[clerk.put(b"{tag}%d" % number, b"") for number in range(5)])
        asked: list[int] = []
        transport = clerk._lists._network.transport
        call = transport.call

        async def counted(to: Any, method: str, body: bytes, *, timeout: float) -> bytes:
            asked.append(len(body))
            return await call(to, method, body, timeout=timeout)

        transport.call = counted  # type: ignore[method-assign]
        rows = [row.key async for row in clerk.list(b"{tag}")]
        assert rows == [b"{tag}%d" % number for number in range(5)]
        return asked

    asked = told(story, nodes=6, groups=3)
    assert len(asked) == 1
    assert asked[0] < 60, "one shard, not twelve"


@pytest.mark.parametrize(
    ("prefix", "after"),
    [(b"zzz", None), (b"key", b"z"), (b"key", b"key 00099"), (b"\xff\xff", None)],
    ids=["no such key", "after the prefix", "after the last", "above all"],
)
def test_a_list_of_nothing_is_empty(prefix: bytes, after: bytes | None) -> None:
    async def story(world: World) -> list[bytes]:
        await fill(world.clerk, 100)
        return [row.key async for row in world.clerk.list(prefix, after=after)]

    assert told(story) == []


def test_keys_of_any_bytes_are_listed_exactly() -> None:
    keys = [b"\x00", b"\x00\x00", b"..", b"/", b"a/../b", b"\xff" * 10, b"\xff", b"d", b"k\n"]

    async def story(world: World) -> list[bytes]:
        for key in keys:
            await world.clerk.put(key, key)
        await world.clerk.delete(b"warm")
        return [row.key async for row in world.clerk.list()]

    assert told(story) == sorted(keys)


# Safeguard H11


def test_an_answer_about_one_group_confirms_no_other() -> None:
    """Two groups on the same three nodes. One is cut in two, by group and not by node, and its old
    leader hears its peers answer for the other group all the time (R14)."""

    async def story(world: World) -> None:
        cluster, clerk = world.cluster, world.clerk
        assert clerk.config is not None and clerk._routing is not None
        old = world.node(TWO, leads=True)
        assert old.host is not None
        if cluster.leader(ONE) is not old:
            leader = world.node(ONE, leads=True)
            assert leader.host is not None
            membership = leader.host.replicas[ONE].core.membership
            here = next(m.id for m in membership.voters if m.node == old.name)
            leader.host.replicas[ONE].transfer(here)
            await world.until(lambda: cluster.leader(ONE) is old)
        for node in cluster.nodes.values():
            assert node.host is not None
            _drop(node, TWO, old)
        new = world.others(TWO, old)
        await world.until(
            lambda: any(node.host is not None and node.host.replicas[TWO].leads for node in new)
        )
        leading = next(node for node in new if node.host and node.host.replicas[TWO].leads)
        assert leading.assembly is not None
        await leading.assembly.groups[TWO].server.rsm.read()

        with pytest.raises((NotLeader, RaftError)):
            await asyncio.wait_for(old.host.replicas[TWO].read_barrier(), 3.0)

    told(story, nodes=3, groups=2)


def _drop(node: SimNode, gid: GroupId, other: SimNode) -> None:
    """Nothing of the group passes between this node and the other any more."""
    host = node.host
    assert host is not None
    deliver = host.deliver

    def filtered(parcel: Parcel, address: str) -> None:
        if parcel.gid != gid or other.address not in (address, node.address):
            deliver(parcel, address)

    host.deliver = filtered  # type: ignore[method-assign]


# All of it under faults


@pytest.mark.parametrize("seed", range(1, 5))
def test_weaker_reads_keep_their_promises_under_faults(seed: int) -> None:
    workload = WorkloadConfig(clients=3, readers=5)
    outcome, _ = play(f"weaker {seed}", ScenarioConfig(seconds=8.0, workload=workload))

    for kind in ("spread read", "stale read", "session read", "list"):
        assert outcome.probes[kind], "a run that asked nothing shows nothing"


def test_an_absent_key_is_absent_everywhere() -> None:
    async def story(world: World) -> set[Row]:
        return {
            await world.clerk.get_row(b"nothing", consistency=consistency)
            for consistency in ("linearizable", "spread", "stale")
        }

    assert told(story) == {ABSENT}
