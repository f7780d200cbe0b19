"""Snapshots and compaction that went wrong in the field: one named test a bug.

Real hosts on the simulated network and disk; `world.oracle` checks the invariants at every step.
Each docstring says where the bug was and what happened there. `test_field_bugs_can_fail.py` breaks
this code for each test, and the test must notice.
"""

import asyncio

import pytest

from labrpc.sim.loop import run
from raft.host import CompactionConfig
from raft.types import NodeId
from tests.raft.test_safeguards import CRASHES, QUICK, led
from tests.support.chaos import ChaosNode, ChaosWorld, Knobs, live
from tests.support.hosts import ledger

TIGHT = CompactionConfig(log_entries_max=100_000, keep_entries=0)
"""Cut when told to, and then whole."""
STEP_SECONDS = 0.00005
"""A quarter of a sync."""


def world_of(seed: int = 5, size: int = 3, compaction: CompactionConfig = TIGHT) -> ChaosWorld:
    return ChaosWorld(seed, Knobs(size=size, faults=(), config=QUICK, compaction=compaction))


async def settled(world: ChaosWorld) -> ChaosNode:
    """The leader, once all show what it shows."""
    await world.until(lambda: world.leading() is not None)
    leader = await led(world)
    await world.until(lambda: all(n.has_replica and same(n, leader) for n in world.all))
    return leader


def same(one: ChaosNode, other: ChaosNode) -> bool:
    return ledger(one.replica) == ledger(other.replica)


async def with_a_tail(world: ChaosWorld, count: int) -> tuple[ChaosNode, ChaosNode]:
    """A deposed leader that is cut off with so many entries that nobody else has; and the leader
    that has committed others in their first places and cut its log behind them."""
    old = await settled(world)
    world.network.isolate(old.address, [node.address for node in world.all])
    lost = []
    for number in range(count):
        lost.append(old.rsm.submit(b"nobody else has it %d" % number))
        await asyncio.sleep(0.001)  # an entry of its own
    await world.until(lambda: world.leading() is not old)
    new = await led(world)
    for number in range(count // 2):
        await world.submit(new, b"committed %d" % number)
    await asyncio.gather(*lost, return_exceptions=True)
    assert new.host is not None
    await new.host.compact()
    assert old.replica.core.commit < new.replica.core.log.start.last.index
    assert new.replica.core.log.last.index < old.replica.core.log.last.index
    return old, new


def test_hashicorp_697_a_conflicting_tail_goes_with_the_snapshot() -> None:
    """hashicorp/raft#697 (2026): a follower with uncommitted entries of its own got a snapshot that
    ended among them, restored it and kept the entries. The entry at the snapshot's end had another
    term than the snapshot: every append was refused, and the snapshot sent again, for ever, while
    the follower's log grew (L11)."""

    async def main() -> None:
        world = world_of()
        await world.grow()
        old, new = await with_a_tail(world, 20)
        installs = world.oracle.probes["installed"]

        world.network.heal()

        await world.until(lambda: same(old, new), seconds=10)
        for number in range(10):
            await world.submit(new, b"behind it %d" % number)
        await world.until(lambda: same(old, new), seconds=2)
        assert world.oracle.probes["installed"] - installs <= 2, "L11: sent again and again"
        assert old.replica.core.log.last == new.replica.core.log.last
        world.look_for_silent()
        world.oracle.check()

    run(main())


def test_scylladb_9551_the_membership_in_force_is_the_snapshots() -> None:
    """scylladb#9551 (2021): a server with an uncommitted change of members in its log got a
    snapshot from a leader that had never seen that change, kept its own entries behind the
    snapshot, and went by the members that it had read there: two disjoint majorities."""

    async def main() -> None:
        world = world_of(seed=7)
        await world.grow()
        old = await settled(world)
        await world.submit(old, b"before")
        world.network.isolate(old.address, [node.address for node in world.all])
        lost = []
        for number in range(20):
            lost.append(old.rsm.submit(b"nobody else has it %d" % number))
            await asyncio.sleep(0.001)
        old.replica.change_members(add=[(NodeId("n9"), "n9")])
        assert [m.node for m in old.replica.core.membership.learners] == ["n9"]
        await world.until(lambda: world.leading() is not old)
        new = await led(world)
        for number in range(5):
            await world.submit(new, b"committed %d" % number)
        await asyncio.gather(*lost, return_exceptions=True)
        assert new.host is not None
        await new.host.compact()
        start = new.replica.core.log.start.last.index
        assert old.replica.core.log.start.last.index < start < old.replica.core.log.last.index

        world.network.heal()

        async with asyncio.timeout(10):
            while not same(old, new):
                await asyncio.sleep(0.0001)
                if old.replica.core.log.start.last.index >= start:
                    assert old.replica.core.membership == new.replica.core.membership
        assert not old.replica.core.membership.learners
        world.look_for_silent()
        world.oracle.check()

    run(main())


@pytest.mark.parametrize("gentle", [False, True], ids=["power cut", "process ended"])
def test_redisraft_43_no_gap_between_the_snapshot_and_the_log(gentle: bool) -> None:
    """RedisRaft#43 (2020): nodes did not start any more: their logs began behind the end of their
    snapshots. The log was cut when the snapshot was not safe yet. Here each node in turn is ended
    in the middle of a compaction, each time a little later; each must come back with all of it
    (R8, R18)."""

    async def main() -> None:
        world = world_of(seed=8)
        await world.grow()
        for step in range(36):
            leader = await settled(world)
            await world.submit(leader, b"command %d" % step)
            victim = world.all[step % 3]
            await world.until(lambda v=victim, at=leader: same(v, at))  # type: ignore[misc]
            assert victim.host is not None
            cutting = asyncio.ensure_future(victim.host.compact())
            await asyncio.sleep(step * STEP_SECONDS)
            victim.power_cut(gentle=gentle)
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)
            victim.power_up()
            await world.until(lambda v=victim: v.has_replica)  # type: ignore[misc]
        await settled(world)
        world.look_for_silent()
        world.oracle.check()

    run(main())


@pytest.mark.parametrize("seed", range(6))
def test_redisraft_52_no_two_histories_after_crashes_and_partitions(seed: int) -> None:
    """RedisRaft#52 (2020): after crashes and partitions operations that reads had seen were gone,
    others were there twice, and nodes told two histories of one key. Crashes at every kind of
    moment, partitions and snapshots of a few entries; at the end all show one history, in which
    each acknowledged command is once (R6, C3, C4)."""
    oracle = live(
        seed,
        Knobs(
            size=3 if seed % 2 else 5,
            faults=("partition", "isolate", *CRASHES),
            config=QUICK,
            compaction=CompactionConfig(log_entries_max=5, keep_entries=seed % 3),
            seconds=3.0,
            pause_seconds_max=0.15,
        ),
    )

    assert oracle.acknowledged and len(oracle.commands) == len(set(oracle.commands))


def test_rqlite_2759_a_failed_restore_is_the_replicas_end_and_nobody_elses() -> None:
    """rqlite#2759 (2026): restoring a snapshot failed half-way; the node logged that and went on,
    applied entries on top of what it had, showed rows twice, was elected leader and gave its state
    to the others. Here the replica stops: it neither votes nor leads, the others go on, and a new
    start of the node restores it whole."""

    async def main() -> None:
        world = world_of(seed=9)
        await world.grow()
        victim, leader = await with_a_tail(world, 6)
        world.network.heal()
        breaks_in_the_middle(victim)
        for _ in range(200):
            if victim.replica.stopped_because is not None:
                break
            await asyncio.sleep(0.02)
        assert victim.replica.stopped_because is not None, "R13: half restored, it goes on"
        for number in range(5):
            await world.submit(leader, b"without it %d" % number)

        third = next(n for n in world.all if n not in (victim, leader))
        leader.power_cut()
        for _ in range(60):
            await asyncio.sleep(0.02)
            assert world.leading() is None, "R1: a half restored replica votes"
        leader.power_up()
        victim.power_cut()
        victim.power_up()
        await world.until(lambda: victim.has_replica and leader.has_replica)
        await world.until(lambda: world.leading() is not None)
        await world.until(lambda: same(victim, third) and same(leader, third), seconds=10)
        rows = ledger(victim.replica)
        assert len(rows) == len(set(rows)), "rows twice"
        world.look_for_silent()
        world.oracle.check()

    run(main())


def breaks_in_the_middle(victim: ChaosNode) -> None:
    """The machine fails to read what an installation has put there."""

    def reload(_: object) -> None:
        raise OSError("half of it is there")

    victim.rsm.machine.reload = reload  # type: ignore[assignment, method-assign]
