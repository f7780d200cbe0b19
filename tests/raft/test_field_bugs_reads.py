"""Reads that went wrong in the field, played on this Raft: one named test a bug.

Each docstring says where the bug was and what happened there. `test_field_bugs_can_fail.py` breaks
this code for each test, and the test must notice.
"""

import asyncio
from functools import partial

from labrpc.sim.loop import run
from raft.errors import RaftError
from raft.messages import AppendEntries, AppendReply, Heartbeat, ReadReply, ReadRequest
from raft.ready import ReadState, Ready
from raft.types import Index, Role, Term
from tests.raft.test_safeguards import LONG_LOGS, PLAIN, QUICK, led, others
from tests.support.builders import (
    N1,
    N2,
    N3,
    NOW,
    ack,
    beat_reply,
    core,
    effects,
    elect,
    entries,
    id_of,
    leader,
)
from tests.support.chaos import ChaosNode, ChaosWorld, Knobs
from tests.support.hosts import Ledger


def world_of(seed: int, size: int = 3, *, plain: bool = False) -> ChaosWorld:
    config = PLAIN if plain else QUICK
    return ChaosWorld(seed, Knobs(size=size, faults=(), config=config, compaction=LONG_LOGS))


def test_etcd_7331_a_new_leader_answers_no_read_by_its_old_commit_index() -> None:
    """etcd#7331 (2017): ReadIndex took the commit index of a new leader, which may be behind what
    its predecessor had acknowledged until an entry of its own term is committed. Here the old
    leader dies in the very moment in which it acknowledges a write, so that nobody else knows the
    write to be committed; reads at the new one begin in its first moment (R14)."""

    async def main() -> None:
        for seed in range(12):
            world = world_of(seed)
            await world.grow()
            old = await led(world)
            await world.submit(old, b"first")
            await world.until(partial(equal, world))
            await world.submit(old, b"acknowledged")
            old.power_cut()
            for node in others(world, old):
                node.drive.sync_seconds = 0.02  # its empty entry takes longer than a heartbeat
            await world.until(partial(is_led, world))
            new = await led(world)
            await world.read(new)
            world.oracle.check()

    run(main())


def test_tikv_6340_a_followers_read_waits_for_the_new_leaders_first_commit() -> None:
    """TiKV#6340 (2020): with follower reads a replica asked its new leader for a read index before
    that one had applied to its term, and was given an old one. The question waits, as the leader's
    own would."""
    lead = core(1, "1 1")
    elect(lead)
    lead.step(ReadRequest(N2, N1, lead.term, b"r"), NOW + 10)
    lead.timeout(lead.deadline)
    for beat in beats(effects(lead)):
        lead.step(beat_reply(int(beat.target), lead, beat.token, 2), NOW + 10)
    early = [m for m in effects(lead).messages if isinstance(m, ReadReply)]
    assert early == [], "its commit index is not known to be the group's"

    lead.step(ack(2, lead, 3), NOW + 10)
    beat = beats(effects(lead))[0]
    lead.step(beat_reply(2, lead, beat.token, 3), NOW + 10)

    answers = [m for m in effects(lead).messages if isinstance(m, ReadReply)]
    assert answers == [ReadReply(N1, N2, lead.term, b"r", Index(3))]


def test_etcd_12680_a_read_that_comes_too_early_is_kept_and_not_dropped() -> None:
    """etcd#12680 (2021): a leader that had committed nothing in its term dropped the requests for
    a read index, and whoever asked waited for his time-out, seconds later. Here the read waits, and
    is answered as soon as the first entry is committed, without being asked again."""

    async def main() -> None:
        world = world_of(3)
        await world.grow()
        old = await led(world)
        await world.submit(old, b"acknowledged")
        old.power_cut()
        for node in others(world, old):
            node.drive.sync_seconds = 0.02
        await world.until(partial(is_led, world))
        new = await led(world)
        core = new.replica.core
        assert core.log.term(core.commit) < core.term, "nothing of its term is committed"

        async with asyncio.timeout(0.25):
            await new.rsm.read()

        assert core.log.term(core.commit) == core.term
        world.oracle.check()

    run(main())


def test_etcd_20418_answers_from_before_a_pause_confirm_no_read_after_it() -> None:
    """etcd#20418 (2025): a leader's process stood still while the others elected another one and
    acknowledged writes. When it went on, answers to its heartbeats of before the pause still lay in
    its sockets: they confirmed reads that clients asked for only now, with the old value. And a
    lease counted in ticks had not run out, because ticks stand still too."""
    lead = leader(1, "1")
    lead.read_index(b"before the pause")
    beat = beats(effects(lead))[0]

    wakes = NOW + 40
    lead.read_index(b"after the pause")
    lead.step(beat_reply(2, lead, beat.token, 2), wakes)
    served = effects(lead, wakes).reads
    assert ReadState(b"after the pause", Index(2)) not in served

    lead.step(AppendReply(N3, N1, Term(lead.term + 1)), wakes)
    assert effects(lead, wakes).reads == (ReadState(b"after the pause", Index(0)),)

    lead = leader(1, "1")
    lead.read_index(b"before the pause")
    effects(lead)
    lead.timeout(wakes)
    assert lead.role is not Role.LEADER, "by the clock it has heard nobody for long"
    assert effects(lead, wakes).reads == (ReadState(b"before the pause", Index(0)),)


def test_etcd_20418_a_late_answer_serves_the_question_that_it_was_given_to_alone() -> None:
    """The follower's side of etcd#20418: the paused leader's answer to an old question came after
    a newer question had been asked, and was taken for an answer to it."""
    follower = core(2, "1 1")
    follower.step(Heartbeat(N1, N2, Term(1)), NOW)
    follower.read_index(b"boot 1, 1")
    effects(follower)
    follower.step(Heartbeat(N1, N2, Term(2)), NOW + 1)
    follower.step(AppendEntries(N1, N2, Term(2), id_of(2, 1), entries("2", after=2)), NOW + 1)
    follower.read_index(b"boot 1, 2")
    refused = effects(follower, NOW + 1).reads
    assert refused == (ReadState(b"boot 1, 1", Index(0)),), "its leader is gone"

    follower.step(ReadReply(N1, N2, Term(2), b"boot 1, 1", Index(1)), NOW + 1)
    follower.step(ReadReply(N1, N2, Term(1), b"boot 1, 2", Index(1)), NOW + 1)

    assert effects(follower, NOW + 1).reads == ()


def test_redisraft_18_a_minority_that_has_started_again_reads_nothing() -> None:
    """RedisRaft#18 (2020): all nodes were killed and started, and then a majority of them killed.
    A node of the minority, with nothing applied yet, answered a read with an empty list."""

    async def main() -> None:
        world = world_of(4, size=5)
        await world.grow()
        lead = await led(world)
        for number in range(10):
            await world.submit(lead, b"element %d" % number)
        for node in world.all:
            node.power_cut()
        for node in world.all:
            node.power_up()
        await world.until(lambda: all(node.has_replica for node in world.all))
        for node in world.all[2:]:
            node.power_cut()

        for _ in range(20):
            for node in world.all[:2]:
                await must_not_be_stale(world, node)
            await asyncio.sleep(0.05)

        for node in world.all[2:]:
            node.power_up()
        await world.until(partial(is_led, world))
        await world.read(await led(world))
        world.oracle.check()

    run(main())


def test_redisraft_19_a_leader_that_was_replaced_reads_nothing() -> None:
    """RedisRaft#19 (2020): with processes that pause reads missed what had been acknowledged 0.7
    seconds before. An old leader of plain Raft, which no CheckQuorum ends, is asked for reads all
    the time while another one acknowledges writes."""

    async def main() -> None:
        world = world_of(5, plain=True)
        await world.grow()
        old = await led(world)
        await world.submit(old, b"known to all")
        world.network.isolate(old.address, [node.address for node in world.all])
        assert old.replica.leads
        await world.until(lambda: world.leading() is not old)
        new = await led(world)

        for number in range(20):
            await world.submit(new, b"newer %d" % number)
            await must_not_be_stale(world, old)

        assert old.replica.core.role is Role.LEADER, "it does not know, and says nothing wrong"
        world.oracle.check()

    run(main())


async def must_not_be_stale(world: ChaosWorld, node: ChaosNode) -> None:
    """A read here fails or is fresh; who cannot say waits, and we wait a little for it."""
    acknowledged = max(world.oracle.acknowledged.values(), default=0)
    rsm = node.rsm
    try:
        async with asyncio.timeout(0.05):
            await rsm.read()
    except (RaftError, TimeoutError):
        return
    assert isinstance(rsm.machine, Ledger)
    world.oracle.is_fresh(node.name, rsm.machine.count, acknowledged)


def is_led(world: ChaosWorld) -> bool:
    return world.leading() is not None


def beats(done: Ready) -> list[Heartbeat]:
    return [m for m in (*done.early, *done.messages) if isinstance(m, Heartbeat)]


def equal(world: ChaosWorld) -> bool:
    return len({node.replica.applied for node in world.all if node.has_replica}) == 1
