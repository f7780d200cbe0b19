"""State machines and disks that went apart in the field: one named test a bug.

Each docstring says where the bug was and what happened there. `test_field_bugs_can_fail.py` breaks
this code for each test, and the test must notice.
"""

import asyncio

import pytest

from labrpc.sim.loop import run
from raft.host import CompactionConfig
from tests.raft.test_safeguards import QUICK, led, others
from tests.support.chaos import ChaosNode, ChaosWorld, Knobs
from tests.support.hosts import ledger

STEP_SECONDS = 0.00005
"""A quarter of a sync."""
KEEPS = CompactionConfig(log_entries_max=100_000, keep_entries=3)


def world_of(seed: int) -> ChaosWorld:
    return ChaosWorld(seed, Knobs(size=3, faults=(), config=QUICK, compaction=KEEPS))


async def ended_while_it_applies(flushes: bool) -> None:
    """A follower's power goes while it applies a write, each time a little later.

    Args:
        flushes: Whether its data database is being flushed meanwhile, as for a compaction.
    """
    world = world_of(11)
    await world.grow()
    victim: ChaosNode | None = None
    for step in range(60):
        await world.until(lambda: world.leading() is not None)
        leader = await led(world)
        victim = others(world, leader)[step % 2]
        await world.until(lambda v=victim: v.has_replica)  # type: ignore[misc]
        assert victim.host is not None
        tasks: list[asyncio.Future[None]] = []
        writing = asyncio.ensure_future(world.submit(leader, b"write %d" % step))
        await asyncio.sleep(0.0005)
        if flushes:
            tasks.append(asyncio.ensure_future(victim.host.compact()))
        await asyncio.sleep(step * STEP_SECONDS)
        victim.power_cut(gentle=step % 3 == 0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await writing
        victim.power_up()
        await world.until(lambda v=victim: v.has_replica)  # type: ignore[misc]
        await world.until(
            lambda v=victim, at=leader: ledger(v.replica) == ledger(at.replica),  # type: ignore[misc]
            seconds=5,
        )
    for node in world.all:
        rows = ledger(node.replica)
        assert len(rows) == len(set(rows)) == 60, f"{node.name}: a write twice, or none"
        world.oracle.state_is_canonical(node.name, node.replica)
    world.look_for_silent()
    world.oracle.check()


def test_etcd_13766_the_applied_index_and_the_data_are_one_batch() -> None:
    """etcd#13766 (2022): the index of what was applied was written, by a timer, in another
    transaction than the data. A crash between the two, under high load, and a member had an index
    without its data: it skipped entries for ever, and differed from the others in silence."""
    run(ended_while_it_applies(flushes=False))


def test_etcd_14685_a_background_commit_tears_no_entry_apart() -> None:
    """etcd#14685 (2022): a defragmentation committed the open transaction while an entry was being
    applied: its index was on disk, half of what it did was not. A crash then, and the member had
    another history than the others. Here the data database is flushed at every moment of an
    apply, and power goes at every moment of the flush."""
    run(ended_while_it_applies(flushes=True))


@pytest.mark.parametrize("sync_seconds", [0.05, 0.5])
def test_tikv_994_power_goes_while_the_log_is_synced(sync_seconds: float) -> None:
    """TiKV#994 (2016), with real parts: what a follower says must be on its disk (R9 at every
    message), also when the disk takes long, and when power goes before it has done."""

    async def main() -> None:
        world = world_of(12)
        await world.grow()
        for number in range(8):
            await world.until(lambda: world.leading() is not None)
            leader = await led(world)
            victim = others(world, leader)[number % 2]
            await world.until(lambda v=victim: v.has_replica)  # type: ignore[misc]
            victim.drive.sync_seconds = sync_seconds
            for more in range(3):
                await world.submit(leader, b"entry %d/%d" % (number, more))
            victim.power_cut()
            victim.drive.sync_seconds = 0.0002
            victim.power_up()
            await world.until(lambda v=victim: v.has_replica)  # type: ignore[misc]
            await world.until(
                lambda v=victim, at=leader: ledger(v.replica) == ledger(at.replica),  # type: ignore[misc]
                seconds=5,
            )
        world.look_for_silent()
        world.oracle.check()

    run(main())
