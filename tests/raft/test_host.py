"""The driver on a simulated drive and network: births, crashes, snapshots, reads."""

import asyncio
from dataclasses import replace
from zlib import crc32

import msgpack
import pytest

import raft.replica
from labrpc.sim.loop import run
from raft.config import RaftConfig
from raft.disk.log_store import ReplicaRecord
from raft.errors import NotLeader, OutcomeUnknown, RaftError
from raft.frames import CHECKSUM_BYTES, FORMAT, FrameCodec
from raft.host import REASONS_MAX, CompactionConfig, Host
from raft.replica import Replica
from raft.types import Member, NodeId, ReplicaId, Role
from tests.support.hosts import CLUSTER, GID, UUID, Node, World, ledger


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


def test_a_leadership_that_ends_answers_some_of_what_is_committed_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits to be applied may be a lot: that is why leaderships end. The rest is unknown to
    those who wait, and is applied all the same."""
    monkeypatch.setattr(raft.replica, "APPLY_ENTRIES_MAX", 2)
    monkeypatch.setattr(raft.replica, "LAST_SLICES_MAX", 3)

    async def main() -> None:
        world = await three(9)
        leader = await world.leader()
        commands = [b"%d" % i for i in range(20)]
        with monkeypatch.context() as held_up:
            held_up.setattr(Replica, "may_apply", False)
            before = leader.replica.applied
            waiting = []
            for command in commands:  # an entry each
                waiting.append(leader.rsm.submit(command))
                await asyncio.sleep(0)
            await world.until(lambda: len(leader.replica._committed) == len(commands))
            others = [node.address for node in world.nodes.values() if node is not leader]
            world.network.isolate(leader.address, others)
            await world.until(lambda: not leader.replica.leads)
            assert leader.replica.applied == before + 6
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert outcomes[:6] == list(range(1, 7))
        assert all(isinstance(outcome, OutcomeUnknown) for outcome in outcomes[6:])

        world.network.heal()
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


def test_a_log_of_large_entries_is_cut_seldom_and_to_half_its_bound() -> None:
    """Few entries may be more bytes than a log may hold (the chunks of a shard that arrives). Each
    cut has to be worth the flush that it costs: tables of every half second were joined again, over
    and over, while a shard was copied."""

    async def main() -> None:
        compaction = CompactionConfig(log_bytes_max=100_000, keep_entries=1000)
        world = await three(3, compaction)
        await world.leader()
        flushes: dict[NodeId, int] = {}
        for node in world.nodes.values():
            assert node.host is not None
            count_flushes(node.host, flushes)

        for _ in range(80):
            await submit(world, bytes(5_000))
            await asyncio.sleep(0.5)

        for node in world.nodes.values():
            assert node.host is not None
            assert node.host.log_bytes(GID) <= 100_000 + 2 * 5_016
            assert 400_000 / 75_000 <= flushes[node.host.node] <= 400_000 / 40_000

    run(main())


def count_flushes(host: Host, flushes: dict[NodeId, int]) -> None:
    compact = host.compact
    flushes[host.node] = 0

    async def counted() -> None:
        flushes[host.node] += 1
        await compact()

    host.compact = counted  # type: ignore[method-assign]


def test_a_read_barrier_on_any_replica_sees_what_was_acknowledged() -> None:
    async def main() -> None:
        world = await three(3)
        for i in range(10):
            await submit(world, b"%d" % i)
            for node in world.nodes.values():
                await node.rsm.read()
                assert len(ledger(node.replica)) == i + 1

    run(main())


def test_reads_of_a_group_that_nothing_happens_to_wait_for_no_heartbeat() -> None:
    """Nor does one that came in while others were confirmed."""

    async def main() -> None:
        world = await three(3)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1.03)
        for node in world.nodes.values():
            began = loop.time()
            first = node.replica.read_barrier()
            await asyncio.sleep(0.0001)
            second = node.replica.read_barrier()
            await asyncio.gather(first, second)
            assert loop.time() - began < 0.01 < world.config.heartbeat_seconds / 5

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


def test_a_node_that_has_room_again_counts_again() -> None:
    async def main() -> None:
        world = await three(6)
        leader = await world.leader()
        host = leader.host
        assert host is not None

        def say(node: Node, *, roomy: bool) -> None:
            codec = FrameCodec(CLUSTER, NodeId(node.name), node.address)
            codec.roomy = lambda: roomy
            host.receive(codec.pack([]))

        one, other = [node for node in world.nodes.values() if node is not leader]
        say(one, roomy=False)
        assert host.has_room(GID), "a majority has"
        say(other, roomy=False)
        assert not host.has_room(GID)
        say(one, roomy=True)
        assert host.has_room(GID)

    run(main())


def test_a_replica_that_stopped_keeps_no_entries_in_memory() -> None:
    async def main() -> None:
        world = await three(6)
        for number in range(20):
            await submit(world, b"%d" % number)
        leader = await world.leader()
        assert leader.host is not None and leader.host.entry_memory.used > 0

        leader.replica.stop("enough")

        assert leader.host.entry_memory.used == 0

    run(main())


def test_a_backlog_is_applied_without_waiting_for_heartbeats() -> None:
    """More than the core hands out at once, and more than one slice."""

    async def main() -> None:
        config = replace(RaftConfig(), unapplied_bytes_max=1000, append_bytes_max=500)
        world = World(6, config=config)
        node = await world.found("n1")
        loop = asyncio.get_running_loop()
        began = loop.time()
        node.rsm._entry_bytes_max = 1
        await asyncio.gather(*[node.rsm.submit(bytes(100)) for _ in range(100)])
        assert loop.time() - began < config.heartbeat_seconds / 5

    run(main())


def test_a_node_that_stops_leaves_a_hand_over_as_it_is() -> None:
    """To another than it would choose now."""

    async def main() -> None:
        world = await three(6)
        leader = await world.leader()
        slow, quick = [node for node in world.nodes.values() if node is not leader]
        world.network.cut(leader.address, slow.address)
        await submit(world, b"a")
        leader.replica.transfer(slow.replica.id)
        assert leader.host is not None
        assert leader.replica.core.best_successor() == quick.replica.id

        await leader.host.hand_over()

        assert leader.replica.core.transfer_target == slow.replica.id

    run(main())


def test_why_frames_were_not_taken_is_counted_for_a_bounded_number_of_reasons() -> None:
    """They may quote what a stranger sent."""

    async def main() -> None:
        world = await three(6)
        host = (await world.leader()).host
        assert host is not None
        for number in range(3 * REASONS_MAX):
            fields = (FORMAT, CLUSTER, "n2", "n2", True, [[GID, UUID, f"kind {number}", []]])
            packed = msgpack.packb(fields)
            host.receive(crc32(packed).to_bytes(CHECKSUM_BYTES, "big") + packed)

        assert sum(host.dropped.values()) >= 3 * REASONS_MAX
        assert len(host.dropped) <= REASONS_MAX + 1

    run(main())


def test_a_leader_is_answered_where_it_was_heard_whatever_an_uncommitted_membership_says() -> None:
    """Simulated seed 3686491679: a follower held a membership that was never committed, in which
    another node had the id that its leader was then given. It answered that node for ever.

    1. A leader and one follower are cut off from three; it adds n6, which gets id 6.
    2. The three elect another leader; it adds n7, which gets id 6, and becomes a voter.
    3. n7 leads. The follower comes back: what it holds of step 1 must give way.
    """

    async def main() -> None:
        world = await three(7)
        await world.join("n4")
        await world.join("n5")
        await submit(world, b"a")
        for name in ("n6", "n7"):
            await world.add_node(name)
        old = await world.leader()
        follower, *rest = [
            n for n in world.nodes.values() if n.host and n.host.replicas and n is not old
        ]
        apart = [world.nodes[name].address for name in ("n6", "n7")]
        world.network.partition(
            [old.address, follower.address], [*(node.address for node in rest), *apart]
        )

        old.replica.change_members(add=[(NodeId("n6"), world.nodes["n6"].address)])
        await world.until(lambda: _learners(follower) == [(ReplicaId(6), "n6")], seconds=1)
        old.crash()
        await world.until(lambda: any(node.replica.leads for node in rest))
        second = await world.leader()
        await submit(world, b"b")
        seventh = await _add(world, second, "n7")
        second.replica.transfer(ReplicaId(6))
        await world.until(lambda: seventh.replica.leads)
        assert _learners(follower) == [(ReplicaId(6), "n6")]
        world.network.heal()

        await world.until(lambda: ledger(follower.replica) == [b"a", b"b"], seconds=10)
        assert _learners(follower) == []

    run(main())


async def _add(world: World, leader: Node, name: str) -> Node:
    """Add a replica on a node that is there, and wait until it votes."""
    node = world.nodes[name]
    assert node.host is not None
    leader.replica.change_members(add=[(NodeId(name), node.address)])
    (added,) = leader.replica.core.membership.learners
    await node.host.create_replica(ReplicaRecord(GID, UUID, added.id, incarnation=1))
    await node.start_replica(GID)
    await world.until(lambda: _votes(leader, added))
    return node


def _votes(leader: Node, member: Member) -> bool:
    membership = leader.replica.core.membership
    return member in membership.voters and not membership.outgoing


def _learners(node: Node) -> list[tuple[ReplicaId, str]]:
    return [(member.id, str(member.node)) for member in node.replica.core.membership.learners]
