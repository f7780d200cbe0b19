"""The driver on a simulated drive and network: births, crashes, snapshots, reads."""

import asyncio

import pytest

from labrpc.sim.loop import run
from raft.errors import NotLeader, OutcomeUnknown, RaftError
from raft.host import CompactionConfig
from raft.types import Role
from tests.support.hosts import GID, Node, World, ledger


async def three(seed: int, compaction: CompactionConfig | None = None) -> World:
    world = World(seed, compaction=compaction)
    await world.found("n1")
    await world.join("n2")
    await world.join("n3")
    return world


async def submit(world: World, command: bytes) -> None:
    """Until it is certainly in: a ledger shows doubles, so *unknown* is a failure here."""
    while True:
        leader = await world.leader()
        try:
            await leader.rsm.submit(command)
        except NotLeader:
            await asyncio.sleep(0.05)
        else:
            return


def test_a_group_is_born_with_one_voter_and_grows_through_its_log() -> None:
    async def main() -> None:
        world = await three(1)

        await submit(world, b"a")
        await world.until(lambda: all(ledger(n.replica) == [b"a"] for n in world.nodes.values()))

        membership = (await world.leader()).replica.core.membership
        assert [member.node for member in membership.voters] == ["n1", "n2", "n3"]
        assert membership.next_id == 4

    run(main())


def test_everybody_applies_the_same_commands_in_the_same_order() -> None:
    async def main() -> None:
        world = await three(2)
        commands = [b"%d" % i for i in range(200)]
        leader = await world.leader()

        results = await asyncio.gather(*(leader.rsm.submit(c) for c in commands))

        assert results == list(range(1, 201))
        await world.until(lambda: all(ledger(n.replica) == commands for n in world.nodes.values()))

    run(main())


@pytest.mark.parametrize("seed", range(5))
def test_what_was_acknowledged_survives_a_power_cut_of_every_node(seed: int) -> None:
    async def main() -> None:
        world = await three(seed)
        for i in range(20):
            await submit(world, b"%d" % i)

        for node in world.nodes.values():
            node.crash()
        for node in world.nodes.values():
            await node.start()

        leader = await world.leader()
        await leader.rsm.read()
        assert ledger(leader.replica) == [b"%d" % i for i in range(20)]

    run(main())


@pytest.mark.parametrize("seed", range(5))
def test_a_crashed_leader_is_replaced_and_catches_up_when_it_returns(seed: int) -> None:
    async def main() -> None:
        world = await three(seed)
        await submit(world, b"before")
        old = await world.leader()

        old.crash()
        await submit(world, b"without")
        await old.start()
        await submit(world, b"after")

        expected = [b"before", b"without", b"after"]
        await world.until(lambda: ledger(old.replica) == expected)

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_follower_far_behind_gets_a_snapshot_and_keeps_it_through_a_crash(seed: int) -> None:
    async def main() -> None:
        compaction = CompactionConfig(log_entries_max=20, keep_entries=5)
        world = await three(seed, compaction)
        leader = await world.leader()
        behind = next(n for n in world.nodes.values() if n is not leader)

        behind.crash()
        for i in range(100):
            await submit(world, b"%d" % i)
        await asyncio.sleep(2)
        start = (await world.leader()).replica.core.log.start.last.index
        await behind.start()
        assert behind.replica.core.log.last.index < start, "without need of a snapshot: no test"
        expected = [b"%d" % i for i in range(100)]
        await world.until(lambda: ledger(behind.replica) == expected)
        behind.crash()
        await behind.start()
        await submit(world, b"last")

        await world.until(lambda: ledger(behind.replica) == [*expected, b"last"])

    run(main())


def test_a_read_barrier_on_any_replica_sees_what_was_acknowledged() -> None:
    async def main() -> None:
        world = await three(3)
        for i in range(10):
            await submit(world, b"%d" % i)
            for node in world.nodes.values():
                await node.rsm.read()
                assert len(ledger(node.replica)) == i + 1

    run(main())


def test_a_deposed_leader_answers_no_read_and_no_command() -> None:
    async def main() -> None:
        world = await three(4)
        await submit(world, b"a")
        old = await world.leader()

        world.network.isolate(old.address, [n.address for n in world.nodes.values()])
        read = asyncio.ensure_future(old.rsm.read())
        write = old.rsm.submit(b"lost")
        await asyncio.sleep(3)

        assert old.replica.core.role is not Role.LEADER
        with pytest.raises(RaftError):
            await read
        with pytest.raises(OutcomeUnknown):
            await write

    run(main())


def test_one_broken_machine_stops_one_replica_and_says_why() -> None:
    async def main() -> None:
        world = await three(5)
        victim = next(n for n in world.nodes.values() if not n.replica.leads)
        _break(victim)

        await submit(world, b"a")
        await world.until(lambda: victim.replica.stopped_because is not None)
        await submit(world, b"b")

        assert victim.replica.stopped_because == "ZeroDivisionError: a bug"
        assert victim.host is not None and victim.host.replicas[GID] is victim.replica

    run(main())


def _break(node: Node) -> None:
    def apply(*_: object) -> object:
        raise ZeroDivisionError("a bug")

    node.rsm.machine.apply = apply  # type: ignore[method-assign]


def test_leadership_is_handed_over_on_request() -> None:
    async def main() -> None:
        world = await three(6)
        await submit(world, b"a")
        old = await world.leader()
        assert old.host is not None

        await old.host.hand_over()
        await world.until(lambda: not old.replica.leads, seconds=1)
        await submit(world, b"b")

        assert (await world.leader()) is not old

    run(main())
