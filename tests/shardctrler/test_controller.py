"""A controller of three replicas, its server and its clients, in virtual time under faults."""

import asyncio
from collections import Counter
from random import Random

import pytest

from labrpc.errors import Refused
from labrpc.sim.loop import run
from labrpc.sim.network import Faults
from labrpc.transport import Address
from raft.types import GroupId, NodeId
from shardctrler.client import ControllerClient
from shardctrler.codec import encode_config
from shardctrler.commands import Code
from shardctrler.errors import (
    ChangeRefused,
    ConfigChanged,
    NoSuchConfig,
    OutcomeUnknown,
    Unavailable,
)
from shardctrler.protocol import CHANGE, QUERY, WATCH, Status, Watch, decode_reply, encode_watch
from shardctrler.types import ConfigNumber, NodeAddresses, ShardConfig, ShardId
from tests.support.controllers import ControllerNode, ControllerWorld, group


async def histories_agree(world: ControllerWorld) -> list[ShardConfig]:
    """Invariant S6: every replica ends with one history, byte for byte; each page follows from
    the one before it. Returns the history."""
    await world.until(
        lambda: len({machine.config().number for machine in world.controllers()}) == 1
    )
    newest = world.controllers()[0].config().number
    written = [
        [encode_config(machine.config(number)) for number in range(newest + 1)]
        for machine in world.controllers()
    ]
    assert all(history == written[0] for history in written)
    return [world.controllers()[0].config(number) for number in range(newest + 1)]


def test_changes_are_read_back_by_everybody_who_asks_later() -> None:
    async def main() -> None:
        world = ControllerWorld(1)
        await world.start()
        admin, reader = world.client(), world.client()

        assert await admin.join([group(1), group(2)]) == 1
        assert (await reader.query()).number == 1
        assert await admin.leave([GroupId(1)]) == 2
        assert (await reader.newest()).config.shards == (2,) * 10
        assert await admin.move(ShardId(0), GroupId(2)) == 2

        assert (await reader.query(1)).groups.keys() == {1, 2}
        assert (await reader.query(99)).number == 2
        assert await reader.config(ConfigNumber(0)) == await reader.query(0)
        with pytest.raises(NoSuchConfig):
            await reader.config(ConfigNumber(3))
        assert len(await histories_agree(world)) == 3

    run(main())


def test_refusals_reach_the_client_with_their_reason() -> None:
    async def main() -> None:
        world = ControllerWorld(2)
        await world.start()
        client = world.client()
        await client.join([group(1)])

        with pytest.raises(ChangeRefused, match="group 1 is the last one") as refused:
            await client.leave([GroupId(1)])
        assert refused.value.code is Code.LAST_GROUP
        with pytest.raises(ChangeRefused, match="shards are 0 to 9"):
            await client.move(ShardId(10), GroupId(1))
        with pytest.raises(ConfigChanged) as lost:
            await client.join([group(2)], expect=ConfigNumber(0))
        assert lost.value.number == 1
        assert (await client.query()).number == 1

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_two_administrators_at_once_are_serialised_and_the_losers_are_told(seed: int) -> None:
    """Bad input: each change that was acknowledged made one page; each loser made none."""

    async def administrate(client: ControllerClient, first: int) -> int:
        made = 0
        while made < 10:
            config = await client.query()
            gid = GroupId(first + made % 5)
            try:
                if gid in config.groups:
                    await client.leave([gid], expect=config.number)
                else:
                    await client.join([group(gid)], expect=config.number)
            except ConfigChanged:
                continue
            except ChangeRefused as refused:
                assert refused.code is Code.LAST_GROUP
                await client.join([group(first + 9)])
            made += 1
        return made

    async def main() -> None:
        world = ControllerWorld(seed)
        await world.start()

        made = await asyncio.gather(
            administrate(world.client(), 10), administrate(world.client(), 20)
        )

        assert len(await histories_agree(world)) == sum(made) + 1

    run(main())


@pytest.mark.parametrize("seed", range(20))
def test_clients_change_exactly_once_through_losses_and_crashes(seed: int) -> None:
    """Ten clients each join a group, join another and let it leave (6.5840, ConcurrentLeaveJoin),
    while messages are lost and replicas crash and return: invariants C3, C4, S6 and S10."""

    async def work(client: ControllerClient, gid: int, rng: Random) -> None:
        await asyncio.sleep(rng.uniform(0, 2))
        await client.join([group(gid + 1000)])
        await asyncio.sleep(rng.uniform(0, 2))
        await client.join([group(gid)])
        await asyncio.sleep(rng.uniform(0, 2))
        await client.leave([GroupId(gid + 1000)])

    async def crash_and_return(world: ControllerWorld) -> None:
        for _ in range(4):
            await asyncio.sleep(0.3)
            node = await world.leader()
            node.crash()
            await asyncio.sleep(0.5)
            await node.start()

    async def main() -> None:
        world = ControllerWorld(seed)
        await world.start()
        clients = [world.client(timeout_seconds=120.0) for _ in range(10)]
        for node in world.nodes:
            for number in range(1, 11):
                client = Address(f"client{number}")
                world.network.set_faults(Faults(loss=0.1), client, Address(node))
                world.network.set_faults(Faults(loss=0.1), Address(node), client)

        await asyncio.gather(
            crash_and_return(world),
            *(
                work(client, 100 + at, world.chance.rng(f"work/{at}"))
                for at, client in enumerate(clients)
            ),
        )

        history = await histories_agree(world)
        assert len(history) == 31, "one page a change: none lost, none doubled"
        assert set(history[-1].groups) == set(range(100, 110))
        assert Counter(history[-1].shards) == dict.fromkeys(range(100, 110), 1)

    run(main())


def test_a_minority_answers_nothing_and_a_change_through_it_is_unknown() -> None:
    """Bad input: never two histories; a leader cut off answers no linearizable query."""

    async def main() -> None:
        world = ControllerWorld(3)
        await world.start()
        client = world.client()
        await client.join([group(1)])
        old = await world.leader()
        rest = [Address(name) for name in world.nodes if name != old.name]
        lonely = ControllerClient(
            world.network.transport(Address("lonely")), [old.address], world.chance.rng("lonely")
        )
        await lonely.query()
        world.network.partition([old.address, Address("lonely")], [*rest, Address("client1")])

        asked = asyncio.create_task(lonely.query(timeout=3.0))
        changed = asyncio.create_task(lonely.join([group(2)], timeout=3.0))
        assert await client.join([group(3)]) == 2

        with pytest.raises(Unavailable):
            await asked
        with pytest.raises((OutcomeUnknown, Unavailable)):
            await changed
        world.network.heal()
        history = await histories_agree(world)
        assert history[2].groups.keys() == {1, 3}

    run(main())


def test_a_watch_brings_news_at_once_and_the_same_after_a_while() -> None:
    async def main() -> None:
        world = ControllerWorld(4)
        await world.start()
        admin, watcher = world.client(), world.client()
        await admin.join([group(1)])
        seen = await watcher.newest()
        loop = asyncio.get_running_loop()

        started = loop.time()
        assert await watcher.watch(seen, seconds=2.0) == seen
        assert 2.0 <= loop.time() - started < 2.2

        watch = asyncio.create_task(watcher.watch(seen))
        await asyncio.sleep(1.0)
        assert not watch.done()
        changed = loop.time()
        await admin.join([group(2)])
        news = await watch
        assert news.config.number == 2
        assert loop.time() - changed < 0.1

        watch = asyncio.create_task(watcher.watch(news))
        await asyncio.sleep(0.1)
        await admin.register_node(NodeId("s1a"), NodeAddresses("s1a:1", "s1a:2"))
        where = (await watch).directory
        assert [member.address for member in where.members(GroupId(1))] == ["s1a:1", "s1b", "s1c"]

    run(main())


def test_a_watch_outlives_the_leader_that_held_it() -> None:
    async def main() -> None:
        world = ControllerWorld(5)
        await world.start()
        admin, watcher = world.client(), world.client()
        await admin.join([group(1)])
        seen = await watcher.newest()
        watch = asyncio.create_task(watcher.watch(seen))
        await asyncio.sleep(0.5)

        (await world.leader()).crash()
        await admin.join([group(2)])

        assert (await watch).config.number == 2

    run(main())


def test_followers_name_the_leader_once_nodes_are_registered() -> None:
    async def main() -> None:
        world = ControllerWorld(6)
        await world.start()
        client = world.client()
        await world.register_nodes(client)
        leader = await world.leader()
        await world.until(
            lambda: all(len(machine.view.directory.nodes) == 3 for machine in world.controllers())
        )
        transport = world.network.transport(Address("asker"))

        for node in world.nodes.values():
            body = encode_watch(Watch(ConfigNumber(0), 0, 0))
            reply = decode_reply(await transport.call(node.address, WATCH, body, timeout=1.0))
            if node is leader:
                assert reply.status is Status.OK
            else:
                assert (reply.status, reply.payload) == (Status.NOT_LEADER, leader.name.encode())

    run(main())


def test_bytes_that_are_no_request_are_refused_at_the_door() -> None:
    async def main() -> None:
        world = ControllerWorld(7)
        await world.start()
        leader = await world.leader()
        transport = world.network.transport(Address("stranger"))
        last = leader.replica.core.log.last

        for method in (QUERY, CHANGE, WATCH):
            for body in (b"", b"\xff" * 9, b"\x93\x01\x63\x90", b"\x93\x02\x01\x90"):
                with pytest.raises(Refused, match="INVALID_ARGUMENT"):
                    await transport.call(leader.address, method, body, timeout=1.0)
        with pytest.raises(Refused, match="INVALID_ARGUMENT"):
            await transport.call(leader.address, CHANGE, bytes(300_000), timeout=1.0)

        assert leader.replica.core.log.last == last, "a refused request leaves no entry"

    run(main())


def test_nobody_there_is_unavailable_within_the_deadline() -> None:
    async def main() -> None:
        world = ControllerWorld(8)
        await world.start()
        client = world.client()
        for node in world.nodes.values():
            node.crash()
        loop = asyncio.get_running_loop()
        started = loop.time()

        with pytest.raises(Unavailable):
            await client.join([group(1)], timeout=2.0)
        with pytest.raises(Unavailable):
            await client.query(timeout=0.0)

        assert loop.time() - started < 2.1

    run(main())


def test_a_change_given_up_does_not_happen_after_the_next_one() -> None:
    """The next change's floor passes the one that was given up: it is stale from there on."""

    async def main() -> None:
        world = ControllerWorld(9)
        await world.start()
        client = world.client()
        await client.join([group(1), group(2)])
        everybody = [Address(name) for name in world.nodes]
        for node in everybody:
            world.network.cut(node, Address("client1"))  # requests arrive, answers do not

        with pytest.raises(OutcomeUnknown):
            await client.join([group(3)], timeout=2.5)
        world.network.heal()
        await client.leave([GroupId(1)])
        await asyncio.sleep(10)

        history = await histories_agree(world)
        assert len(history) == 4
        assert history[-1].groups.keys() == {2, 3}

    run(main())


def test_a_closed_session_is_gone_and_an_idle_one_expires_in_time() -> None:
    async def main() -> None:
        world = ControllerWorld(10)
        ControllerNode.session_idle_seconds = 60.0
        await world.start()
        closing, idle = world.client(), world.client()
        await closing.join([group(1)])
        await idle.join([group(2)])

        await closing.close()
        leader = await world.leader()
        assert isinstance(leader, ControllerNode)
        assert len(leader.controller.survey_sessions()) == 1
        await asyncio.sleep(130)

        assert leader.controller.survey_sessions() == {}
        assert await idle.join([group(3)]) == 3, "it opens another: nothing of its was unanswered"

    try:
        run(main())
    finally:
        ControllerNode.session_idle_seconds = 3_600.0
