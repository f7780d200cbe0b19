"""Moments that random schedules seldom hit: between two lines of an installation, of a birth."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from labrpc.sim.loop import run
from raft.config import RaftConfig
from raft.disk.log_store import ReplicaRecord, ReplicaRefused
from raft.errors import NotLeader, RaftError, ReplicaStopped, Unavailable
from raft.host import HOUSEKEEPING_SECONDS, CompactionConfig
from raft.messages import AnyMessage, InstallSnapshot, RequestVote
from raft.ready import Ready
from raft.snapshot_stream import REPEATS_MAX
from raft.types import EntryId, HardState, Index, NodeId, ReplicaId, SnapshotMeta, Term
from tests.support.chaos import ChaosNode, ChaosWorld, Knobs
from tests.support.hosts import GID, UUID, Ledger, ledger

STEP_SECONDS = 0.00005  # a quarter of a sync, a twentieth of a flush
QUICK = RaftConfig(
    heartbeat_seconds=0.02,
    election_seconds_min=0.08,
    election_seconds_max=0.2,
    snapshot_reply_seconds=0.2,
    snapshot_chunk_bytes_max=100,
)
SHORT_LOGS = CompactionConfig(log_entries_max=5, keep_entries=0)


def world_of(
    size: int, compaction: CompactionConfig | None = None, config: RaftConfig = QUICK
) -> ChaosWorld:
    kept = compaction or CompactionConfig()
    return ChaosWorld(7, Knobs(size=size, faults=(), config=config, compaction=kept))


async def three(
    compaction: CompactionConfig | None = None, config: RaftConfig = QUICK
) -> tuple[ChaosWorld, ChaosNode]:
    """A group of three, and its leader."""
    world = world_of(3, compaction, config)
    await world.grow()
    leader = world.leading()
    assert leader is not None
    return world, leader


def others(world: ChaosWorld, one: ChaosNode) -> list[ChaosNode]:
    return [node for node in world.all if node is not one]


async def fill(world: ChaosWorld, leader: ChaosNode, count: int = 30) -> None:
    for number in range(count):
        await world.submit(leader, b"%d/%d" % (len(world.oracle.commands), number))


async def behind(world: ChaosWorld, leader: ChaosNode) -> ChaosNode:
    """A follower that is down and can only come back by a snapshot."""
    follower = others(world, leader)[0]
    follower.power_cut()
    last = leader.replica.core.log.last.index
    await fill(world, leader)
    assert leader.host is not None
    await leader.host.compact()
    assert leader.replica.core.log.start.last.index > last
    return follower


# Power cuts in the middle of an installation


@pytest.mark.parametrize("gentle", [False, True], ids=["power cut", "process ended"])
def test_an_installation_may_be_cut_at_any_moment(gentle: bool) -> None:
    """Each time a little later, until it is over; each time the replica must come back."""

    async def main() -> int:
        world, leader = await three(SHORT_LOGS)
        for steps in range(200):
            follower = await behind(world, leader)
            await begin_install(world, follower)
            installing = follower.replica
            for _ in range(steps):
                await asyncio.sleep(STEP_SECONDS)
            over = installing._installing is None
            follower.power_cut(gentle=gentle)
            follower.power_up()
            await world.until(lambda f=follower: _agrees(f, leader))  # type: ignore[misc]
            world.look_for_silent()
            world.oracle.check()
            if over:
                return steps
        raise AssertionError("the installation never ended")

    assert run(main()) > 20


async def begin_install(world: ChaosWorld, follower: ChaosNode) -> None:
    """Return in the very turn in which the follower begins to install a snapshot."""
    follower.power_up()
    await world.until(lambda: follower.up)
    await watch_install(follower)


def watch_install(follower: ChaosNode) -> "asyncio.Future[Ready]":
    """Done in the turn in which the follower begins to install a snapshot, with what says so."""
    begins: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    install = follower.replica._install

    def watched(ready: Ready, meta: SnapshotMeta) -> Coroutine[Any, Any, None]:
        begins.set_result(ready)
        return install(ready, meta)

    follower.replica._install = watched  # type: ignore[method-assign]
    return begins


def _agrees(node: ChaosNode, leader: ChaosNode) -> bool:
    return node.has_replica and ledger(node.replica) == ledger(leader.replica)


def test_rows_and_what_mirrors_them_change_in_one_step() -> None:
    """Whoever looks while a snapshot is being installed sees one state or the other."""

    async def main() -> None:
        world, leader = await three(SHORT_LOGS)
        follower = await behind(world, leader)
        follower.drive.flush_seconds = 0.05
        await begin_install(world, follower)
        machine = follower.rsm.machine
        assert isinstance(machine, Ledger)
        counts: list[int] = []
        while not _agrees(follower, leader):
            assert machine.count == len(ledger(follower.replica))
            counts.append(machine.count)
            await asyncio.sleep(STEP_SECONDS)
        assert len(counts) > 100, "nobody looked in between"

    run(main())


def test_what_was_committed_and_is_covered_by_a_snapshot_is_not_applied_again() -> None:
    """A follower saves before it applies. So where its disk stands still, entries that are
    committed wait for their turn; and a snapshot may come to take their place, because the leader
    sends no more entries than it may, and cuts its log."""

    async def main() -> None:
        world, leader = await three(SHORT_LOGS, replace(QUICK, inflight_messages_max=2))
        follower = others(world, leader)[0]
        replica = follower.replica
        await world.until(lambda: replica.applied == leader.replica.applied)
        await world.submit(leader, b"durable")
        for _ in range(1000):
            await asyncio.sleep(STEP_SECONDS)
            if replica.core.log.durable == leader.replica.core.log.last.index:
                break
        follower.drive.stall()
        await world.submit(leader, b"on its way to the disk, and says that the one before counts")
        await world.until(lambda: replica.core.commit > replica.applied)
        begins = watch_install(follower)
        await fill(world, leader)
        assert leader.host is not None
        await leader.host.compact()
        await begins
        assert replica._committed, "nothing is covered"

        follower.drive.heal()

        await world.until(lambda: _agrees(follower, leader))
        world.look_for_silent()
        world.oracle.check()

    run(main())


def test_a_term_and_a_vote_are_saved_in_order_around_an_installation() -> None:
    """The snapshot tells of a term that was not heard of; while it is installed, another comes."""

    async def main() -> None:
        world, leader = await three(SHORT_LOGS)
        follower = await behind(world, leader)
        follower.power_up()
        await world.until(lambda: follower.up)
        replica, third = follower.replica, others(world, leader)[1].replica
        begins, step, term = watch_install(follower), replica.core.step, replica.core.term

        def later(message: AnyMessage, now: float) -> None:
            staged = isinstance(message, InstallSnapshot)
            step(message._replace(term=Term(term + 1)) if staged else message, now)

        replica.core.step = later  # type: ignore[method-assign]
        assert (await begins).hard_state == HardState(Term(term + 1))
        last = leader.replica.core.log.last
        campaign = RequestVote(third.id, replica.id, Term(term + 2), last, transfer=True)
        replica.take(campaign, "n9")

        await world.until(lambda: not replica.installing or replica.stopped_because is not None)
        world.look_for_silent()
        assert (replica.core.term, replica.core.vote) == (term + 2, third.id)
        await world.until(lambda: _agrees(follower, leader))

    run(main())


# Snapshots on their way out


def test_a_stream_ends_with_the_leadership_that_began_it() -> None:
    async def main() -> None:
        world, leader = await three(SHORT_LOGS)
        follower = await behind(world, leader)
        follower.power_up()
        await world.until(lambda: follower.up)
        world.network.cut(follower.address, leader.address)  # no chunk is acknowledged
        leader.replica._send_snapshot(_id_of(leader, follower))
        await asyncio.sleep(0.01)
        assert leader.replica.snapshot_floor is not None and leader.replica._tasks

        world.network.isolate(leader.address, [node.address for node in world.all])
        await world.until(lambda: not leader.replica.leads)
        await asyncio.sleep(0.01)

        assert leader.replica.snapshot_floor is None
        assert not leader.replica._streams and not leader.replica._tasks

    run(main())


def test_the_log_is_kept_from_where_a_stream_began() -> None:
    async def main() -> None:
        world, leader = await three(SHORT_LOGS)
        follower = await behind(world, leader)
        world.network.cut(follower.address, leader.address)
        follower.power_up()
        leader.replica._send_snapshot(follower_id := _id_of(leader, follower))
        await asyncio.sleep(0)
        floor = leader.replica.snapshot_floor
        assert floor is not None and follower_id in leader.replica._streams
        await fill(world, leader)
        assert leader.host is not None

        await leader.host.compact()

        assert leader.replica.core.log.start.last.index <= floor
        assert leader.replica.applied > floor + 20

    run(main())


def test_a_stream_that_is_slower_than_the_writes_does_not_fill_the_disk() -> None:
    """The follower takes no chunk, or hardly any, and the group writes on: past a bound the log is
    cut all the same, and the follower gets a newer snapshot once it can take one."""

    async def main() -> None:
        world, leader = await three(
            CompactionConfig(log_entries_max=5, keep_entries=0, snapshot_log_bytes_max=2_000),
            replace(QUICK, snapshot_reply_seconds=60.0),
        )
        follower = await behind(world, leader)
        world.network.cut(leader.address, follower.address)
        follower.power_up()
        leader.replica._send_snapshot(_id_of(leader, follower))
        await asyncio.sleep(0)
        began = leader.replica.snapshot_floor
        assert began is not None and leader.host is not None
        await fill(world, leader)
        await asyncio.sleep(2 * HOUSEKEEPING_SECONDS)
        assert leader.replica.core.log.start.last.index <= began, "it is kept up to the bound"

        await fill(world, leader, 200)
        await asyncio.sleep(3 * HOUSEKEEPING_SECONDS)

        assert leader.replica.core.log.start.last.index > began
        assert leader.host.log_bytes(GID) < 2_000
        world.network.heal()
        await world.until(lambda: _agrees(follower, leader))
        world.look_for_silent()

    run(main())


def test_a_log_that_a_stream_needs_is_not_flushed_for_in_vain() -> None:
    """To flush costs tables that are joined again; it is done where something can be cut."""

    async def main() -> None:
        world, leader = await three(SHORT_LOGS)
        follower = await behind(world, leader)
        world.network.cut(leader.address, follower.address)
        follower.power_up()
        leader.replica._send_snapshot(_id_of(leader, follower))
        await asyncio.sleep(0)
        flushes = 0
        assert leader.host is not None
        compact = leader.host.compact

        async def counted() -> None:
            nonlocal flushes
            flushes += 1
            await compact()

        leader.host.compact = counted  # type: ignore[method-assign]
        await fill(world, leader)
        await asyncio.sleep(0.9 * REPEATS_MAX * QUICK.snapshot_reply_seconds)

        assert leader.replica.snapshot_floor is not None
        assert flushes <= 1

    run(main())


def _id_of(leader: ChaosNode, node: ChaosNode) -> ReplicaId:
    voters = leader.replica.core.membership.voters
    return next(member.id for member in voters if member.node == node.name)


# Stopping


def test_a_node_that_stops_sends_nothing_that_was_not_durable_yet() -> None:
    """Saves are on their way when it stops: they may land, but nobody is told of them."""

    async def main() -> None:
        world, leader = await three()
        follower = others(world, leader)[0]
        follower.drive.sync_seconds = 0.05
        doomed = leader.rsm.submit(b"x")
        await asyncio.sleep(0.005)
        assert follower.replica._last_save is not None
        assert not follower.replica._last_save.done()
        sent = follower.drive.syncs, world.network.counts.frames

        assert follower.host is not None
        follower.host.stop("closing")
        frames = _frames_of(follower)
        await asyncio.sleep(0.5)

        assert follower.drive.syncs > sent[0], "the save did land"
        assert frames() == 0
        await doomed

    run(main())


def _frames_of(node: ChaosNode) -> Callable[[], int]:
    """Counts what a node's courier is given from here on."""
    assert node.host is not None
    posted: list[object] = []
    node.host._courier.post = lambda *parcel: posted.append(parcel)  # type: ignore[method-assign]
    return lambda: len(posted)


def test_a_store_closes_although_a_caller_gave_up() -> None:
    """The birth was cancelled while its save was on its way: it lands, and close waits for it."""

    async def main() -> None:
        world = world_of(1)
        node = world.nodes["n1"] = world.make_node("n1")
        await node.start(create=True)
        node.made = True
        assert node.host is not None
        birth = asyncio.ensure_future(node.host.found_group(GID, UUID, incarnation=1))
        await asyncio.sleep(0.0001)
        birth.cancel()
        await asyncio.gather(birth, return_exceptions=True)

        node.host.stop("closing")
        await node.host._log_store.close()
        node.power_cut()
        node.power_up()
        await world.until(lambda: node.up)

        assert node.has_replica

    run(main())


def test_reads_and_commands_end_when_the_node_stops() -> None:
    async def main() -> None:
        world, leader = await three()
        world.network.isolate(leader.address, [node.address for node in world.all])
        read = asyncio.ensure_future(leader.rsm.read())
        command = leader.rsm.submit(b"x")
        await asyncio.sleep(0.01)

        assert leader.host is not None
        leader.host.stop("closing")

        with pytest.raises(ReplicaStopped):
            await read
        with pytest.raises(RaftError):
            await command
        with pytest.raises(ReplicaStopped):
            await leader.rsm.submit(b"y")
        with pytest.raises(ReplicaStopped):
            await leader.rsm.read()

    run(main())


# Reads where nothing else ever happens


def test_a_read_on_a_follower_waits_for_no_save_that_it_does_not_need() -> None:
    """A follower saves before it applies, unless somebody waits for what is applied."""

    async def main() -> None:
        world, leader = await three()
        follower, third = others(world, leader)
        replica = follower.replica
        await world.until(lambda: replica.applied == leader.replica.applied)
        await world.submit(leader, b"committed")
        for _ in range(1000):
            await asyncio.sleep(STEP_SECONDS)
            if replica.core.log.durable == leader.replica.core.log.last.index:
                break
        for node in (follower, third):
            node.drive.stall()
        leader.rsm.submit(b"not to be committed while they stand still")
        await world.until(lambda: replica.core.commit > replica.applied)

        async with asyncio.timeout(0.05):
            await follower.rsm.read()

        assert ledger(replica)[-1] == b"committed" and replica._saving
        for node in (follower, third):
            node.drive.heal()

    run(main())


def test_a_read_on_a_learner_that_is_cut_off_ends() -> None:
    """A learner has no election timer, so nothing else would ever wake it."""

    async def main() -> None:
        world, leader = await three()
        learner = await world.add_node("n4")
        assert isinstance(learner, ChaosNode) and learner.host is not None
        leader.replica.core.change_members(add=[(NodeId("n4"), learner.address)], promote=False)
        leader.replica._wake(leader.replica)
        added = leader.replica.core.membership.learners[-1]
        await learner.host.create_replica(ReplicaRecord(GID, UUID, added.id, 99))
        await learner.start_replica(GID)
        await world.until(lambda: learner.replica.applied == leader.replica.applied)
        await learner.rsm.read()

        world.network.isolate(learner.address, [node.address for node in world.all])
        async with asyncio.timeout(2):
            with pytest.raises((Unavailable, NotLeader)):
                await learner.rsm.read()

    run(main())


def test_a_blank_replica_refuses_reads_and_never_campaigns() -> None:
    """Created, and not yet reached by its leader: it knows no member, not even itself."""

    async def main() -> None:
        world = world_of(1)
        node = world.make_node("n1")
        world.nodes["n1"] = node
        await node.start(create=True)
        assert node.host is not None
        await node.host.create_replica(ReplicaRecord(GID, UUID, ReplicaId(5), 99))
        await node.start_replica(GID)

        with pytest.raises(NotLeader):
            await node.rsm.read()
        await asyncio.sleep(5)

        assert node.replica.core.term == 0
        assert node.replica.stopped_because is None

    run(main())


# Births, deaths, and births again


@pytest.mark.parametrize("crash", ["none", "before it starts", "after it caught up"])
def test_a_later_replica_sees_nothing_of_an_earlier_one(crash: str) -> None:
    async def main() -> None:
        world, leader = await three()
        await fill(world, leader)
        old = others(world, leader)[0]
        await world.until(lambda: _agrees(old, leader))
        assert old.host is not None
        await old.host._data_disk.flush()  # so that the old rows are there after any crash
        leader.replica.change_members(remove=[old.replica.id])
        await world.until(world._is_settled)

        await old.host.drop_replica(GID)
        with pytest.raises(ReplicaRefused):
            await old.host.create_replica(ReplicaRecord(GID, UUID, ReplicaId(1), 98))
        await old.host.create_replica(ReplicaRecord(GID, UUID, ReplicaId(9), 99))
        if crash == "before it starts":
            old.power_cut()
            old.power_up()
            await world.until(lambda: old.up)
        else:
            await old.start_replica(GID)

        assert ledger(old.replica) == [] and old.replica.applied == 0
        assert old.replica.store.reader.get((1).to_bytes(8, "big")) is None
        if crash == "after it caught up":
            old.power_cut()
            old.power_up()
            await world.until(lambda: old.up)
            assert ledger(old.replica) == [] and old.replica.applied == 0

    run(main())


def test_rows_of_a_dropped_replica_stay_until_the_drop_is_durable() -> None:
    """Also where rows of others are being deleted: a crash might take the drop back."""

    async def main() -> None:
        world, leader = await three()
        await fill(world, leader)
        old = others(world, leader)[0]
        await world.until(lambda: _agrees(old, leader))
        host = old.host
        assert host is not None

        def rows() -> int:
            return sum(1 for _ in host._data_disk.range(b"", b"\xff" * 9))

        leader.replica.change_members(remove=[old.replica.id])
        await world.until(world._is_settled)
        before = rows()
        old.drive.stall()
        dropping = asyncio.ensure_future(host.drop_replica(GID))
        host._orphans = True
        await asyncio.sleep(5 * HOUSEKEEPING_SECONDS)
        assert not dropping.done() and rows() == before > 0

        old.drive.heal()
        await dropping
        await asyncio.sleep(5 * HOUSEKEEPING_SECONDS)
        assert rows() == 0

    run(main())


@pytest.mark.parametrize("turns", range(0, 40, 4))
def test_a_birth_that_a_power_cut_interrupts_happened_or_did_not(turns: int) -> None:
    async def main() -> None:
        world = world_of(1)
        node = world.nodes["n1"] = world.make_node("n1")
        await node.start(create=True)
        node.made = True
        assert node.host is not None
        birth = asyncio.ensure_future(node.host.found_group(GID, UUID, incarnation=1))
        for _ in range(turns):
            await asyncio.sleep(0.00002)
        told = birth.done()
        node.power_cut()
        birth.cancel()
        node.power_up()
        await world.until(lambda: node.up)

        assert node.host is not None
        assert node.has_replica or not told, "a birth that was reported is gone"
        if not node.has_replica:
            await node.host.found_group(GID, UUID, incarnation=2)
            await node.start_replica(GID)
        await world.until(lambda: node.replica.leads)
        await world.submit(node, b"x")
        world.oracle.check()

    run(main())


def test_the_state_knows_the_members_of_its_moment() -> None:
    """A snapshot of it says who is counted, and the log before it may be cut."""

    async def main() -> None:
        world, _ = await three()
        await asyncio.sleep(0.5)
        for node in world.all:
            core, store = node.replica.core, node.replica.store
            assert len(core.membership.voters) == 3 and core.log.membership_index <= core.applied
            capture = store.capture()
            assert capture.meta.membership == core.membership
            capture.close()

    run(main())


def test_no_two_lives_of_a_replica_name_a_question_alike() -> None:
    """An answer that the life before had asked for may come late."""

    async def main() -> None:
        world, leader = await three()
        follower = others(world, leader)[0]
        names = []
        for _ in range(3):
            names.append(follower.replica._new_context())
            follower.power_cut()
            await follower.start()
        assert len(set(names)) == 3

    run(main())


def test_no_peer_says_that_a_snapshot_lies_staged_here() -> None:
    """Its own driver does, once it has all of it: a frame that says so is dropped."""

    async def main() -> None:
        world, leader = await three()
        follower = others(world, leader)[0].replica
        before = follower.core.log.last
        far = SnapshotMeta(EntryId(Index(before.index + 9), before.term), follower.core.membership)
        told = InstallSnapshot(leader.replica.id, follower.id, follower.core.term, far)

        follower.take(told, leader.name)
        await asyncio.sleep(0.1)

        assert follower.stopped_because is None and not follower.installing
        assert follower.core.log.last == before

    run(main())


def test_a_broken_reload_stops_the_replica_alone() -> None:
    async def main() -> None:
        world, leader = await three(SHORT_LOGS)
        follower = await behind(world, leader)
        follower.power_up()
        await world.until(lambda: follower.up)

        def reload(_: object) -> None:
            raise ZeroDivisionError("a bug")

        follower.rsm.machine.reload = reload  # type: ignore[assignment, method-assign]
        await world.until(lambda: follower.replica.stopped_because is not None)
        await fill(world, leader, 3)

        assert follower.replica.stopped_because == "ZeroDivisionError: a bug"
        assert follower.host is not None and not follower.replica._tasks
        follower.power_cut()
        follower.power_up()
        await world.until(lambda: _agrees(follower, leader))

    run(main())
