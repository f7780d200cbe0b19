"""The observer has teeth: each safeguard is broken once, and the run fails by its invariant."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest

from labrpc.sim.disk import SimDrive
from labrpc.sim.loop import Unhandled, run
from labs.checkers import InvariantBroken, RaftInvariants
from labs.harness.edition import Edition, LabFailure
from labs.harness.raft_cluster import RaftCluster
from labs.raft import DATA, GID, LOG, UUID
from raft import election, replication
from raft.disk.log_store import LogStore, SavedLog
from raft.disk.records import HARD_STATE, encode_hard_state, group_key
from raft.log import Log
from raft.messages import AppendEntries, RequestVote
from raft.parcel import Parcel
from raft.replication import Replication
from raft.state import State
from raft.types import ZERO, Entry, GroupId, HardState, Index, ReplicaId, Term

Break = Callable[[pytest.MonkeyPatch], None]
SEEDS = 20


def acknowledge_before_the_save(patch: pytest.MonkeyPatch) -> None:
    save = LogStore.save

    def hasty(
        self: LogStore, gid: Any, hard_state: HardState | None, entries: Sequence[Entry]
    ) -> "asyncio.Future[None]":
        save(self, gid, hard_state, entries)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    patch.setattr(LogStore, "save", hasty)


def forget_term_and_vote(patch: pytest.MonkeyPatch) -> None:
    save = LogStore.save

    def forgetful(
        self: LogStore, gid: Any, hard_state: HardState | None, entries: Sequence[Entry]
    ) -> "asyncio.Future[None]":
        return save(self, gid, None, entries)

    patch.setattr(LogStore, "save", forgetful)


def commit_entries_of_older_terms(patch: pytest.MonkeyPatch) -> None:
    def figure_8(self: Replication) -> bool:
        state = self._state
        agreed = Index(state.electorate.committed(self.match))
        if agreed <= state.commit:
            return False
        state.commit_to(agreed)
        return True

    patch.setattr(Replication, "advance_commit", figure_8)


def commit_without_a_majority(patch: pytest.MonkeyPatch) -> None:
    def alone(self: Replication) -> bool:
        state = self._state
        if state.log.durable <= state.commit or state.log.term(state.log.durable) != state.term:
            return False
        state.commit_to(state.log.durable)
        return True

    patch.setattr(Replication, "advance_commit", alone)


def vote_for_a_shorter_log(patch: pytest.MonkeyPatch) -> None:
    def generous(state: State, request: RequestVote) -> bool:
        return request.term > state.term or state.vote in (0, request.source)

    patch.setattr(election, "would_vote", generous)


def cut_the_log_at_every_append(patch: pytest.MonkeyPatch) -> None:
    def cut(state: State, entries: tuple[Entry, ...]) -> None:
        if entries:
            if entries[0].index <= state.log.last.index:
                state.log.truncate(entries[0].index)
            state.log.append(entries)

    patch.setattr(replication, "_reconcile", cut)


def believe_every_previous_entry(patch: pytest.MonkeyPatch) -> None:
    take = replication.take_append

    def credulous(state: State, append: AppendEntries) -> None:
        known = min(append.prev.index, state.log.last.index)
        if append.prev.index == known >= state.log.start.last.index:
            append = append._replace(prev=state.log.id_at(known))
        take(state, append)

    patch.setattr("raft.core.take_append", credulous)


def count_what_is_not_on_disk(patch: pytest.MonkeyPatch) -> None:
    """It shows where a disk is slower than a follower and the way there and back."""
    patch.setattr("labrpc.sim.disk.SYNC_SECONDS", 0.01)
    append = Log.append

    def hasty(self: Log, entries: Sequence[Entry]) -> None:
        append(self, entries)
        self.durable = self.last.index

    patch.setattr(Log, "append", hasty)


async def trouble(cluster: RaftCluster) -> None:
    """Commands, crashes and partitions, 300 rounds of them."""
    rng = cluster.rng
    for _ in range(300):
        for server in cluster.alive():
            server.start(rng.randrange(10_000))
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.01, 0.1)))
        i = rng.randrange(cluster.count)
        draw = rng.random()
        if draw < 0.1:
            cluster.crash(i)
        elif draw < 0.25:
            cluster.disconnect(i)
        elif cluster.servers[i] is None:
            await cluster.start(i)
            cluster.connect(i)
        else:
            cluster.connect(i)


def troubled(seed: int) -> None:
    async def main() -> None:
        cluster = RaftCluster(
            3, seed=str(seed), edition=Edition.E2024, reliable=False, snapshots=False
        )
        async with cluster:
            cluster.set_long_reordering(seed % 2 == 0)
            await trouble(cluster)

    run(main(), seed=seed)


def test_a_sound_group_in_trouble_breaks_nothing() -> None:
    for seed in range(5):
        troubled(seed)


@pytest.mark.parametrize(
    ("sabotage", "caught_by"),
    [
        pytest.param(acknowledge_before_the_save, ("R9",), id="promises before the disk"),
        pytest.param(forget_term_and_vote, ("R9",), id="votes that are never stored"),
        pytest.param(commit_entries_of_older_terms, ("R10",), id="figure 8"),
        pytest.param(commit_without_a_majority, ("R10",), id="a leader commits alone"),
        pytest.param(vote_for_a_shorter_log, ("R5",), id="votes for who lacks entries"),
        pytest.param(cut_the_log_at_every_append, ("R8", "R10"), id="an old append cuts"),
        pytest.param(believe_every_previous_entry, ("R3", "R6"), id="no consistency check"),
        pytest.param(count_what_is_not_on_disk, ("R9",), id="memory counts as disk"),
    ],
)
def test_a_broken_safeguard_is_caught(
    sabotage: Break, caught_by: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)

    for seed in range(SEEDS):
        try:
            troubled(seed)
        except Unhandled as failure:
            assert isinstance(failure.__cause__, InvariantBroken | LabFailure | AssertionError)
            if isinstance(failure.__cause__, InvariantBroken):
                broken = str(failure.__cause__)
                assert broken.partition(":")[0] in caught_by, broken
                return
    pytest.fail(f"{SEEDS} runs, and nothing was noticed")


async def another_won_the_term(cluster: RaftCluster, leader: int) -> None:
    term = cluster.server(leader).get_state()[0]
    cluster.invariants.leaders[Term(term + 1)] = "another"
    cluster.disconnect(leader)
    await asyncio.sleep(5.0)


async def a_leader_cuts_its_log(cluster: RaftCluster, leader: int) -> None:
    for i in range(3):
        if i != leader:
            cluster.disconnect(i)
    server = cluster.server(leader)
    server.start("not to be committed")
    await asyncio.sleep(0.1)
    log = server.replica.core.log
    log.truncate(log.last.index)
    await asyncio.sleep(1.0)


async def a_follower_speaks_as_leader(cluster: RaftCluster, leader: int) -> None:
    follower = cluster.server((leader + 1) % 3)
    forged = AppendEntries(follower.replica.id, ReplicaId(leader + 1), Term(1), ZERO)
    cluster.invariants.said(follower.name, Parcel(GID, UUID, forged))
    await asyncio.sleep(0.1)


async def a_drive_goes_back_in_time(cluster: RaftCluster, leader: int) -> None:
    drive = cluster.drives[leader]
    image = drive.image()
    await cluster.one("forgotten", 3, retry=False)
    cluster.crash(leader)
    drive.restore(image)
    await cluster.start(leader)
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("deed", "invariant"),
    [
        (another_won_the_term, "R1"),
        (a_leader_cuts_its_log, "R4"),
        (a_follower_speaks_as_leader, "R17"),
        (a_drive_goes_back_in_time, "R18"),
    ],
)
def test_what_must_never_happen_is_noticed(
    deed: Callable[[RaftCluster, int], Awaitable[None]], invariant: str
) -> None:
    async def main() -> None:
        cluster = RaftCluster(3, seed="1", edition=Edition.E2024, reliable=True, snapshots=False)
        async with cluster:
            await cluster.one("first", 3, retry=True)
            await deed(cluster, await cluster.check_one_leader())

    with pytest.raises(Unhandled) as failure:
        run(main())

    assert isinstance(failure.value.__cause__, InvariantBroken)
    assert str(failure.value.__cause__).startswith(f"{invariant}:")


def test_a_log_that_loads_with_another_term_in_its_middle_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Begin and end are as they were synced, and so is what the entries say."""

    load = LogStore.load

    def other(self: LogStore, gid: GroupId) -> SavedLog:
        saved = load(self, gid)
        first, second, third = saved.entries
        assert second.term < third.term
        return saved._replace(entries=iter((first, second._replace(term=third.term), third)))

    async def main() -> None:
        cluster = RaftCluster(3, seed="1", edition=Edition.E2024, reliable=True, snapshots=False)
        async with cluster:
            await cluster.one("first", 3, retry=True)
            await cluster.one("second", 3, retry=True)
            cluster.disconnect(await cluster.check_one_leader())
            leader = await cluster.check_one_leader()
            await cluster.one("third", 2, retry=True)
            cluster.crash(leader)
            monkeypatch.setattr(LogStore, "load", other)
            await cluster.start(leader)

    with pytest.raises(InvariantBroken, match=r"R18: .* loads another entry 2"):
        run(main())


@pytest.mark.parametrize(
    ("then", "invariant"),
    [
        pytest.param(HardState(Term(4), ReplicaId(2)), "R12", id="the term falls"),
        pytest.param(HardState(Term(5), ReplicaId(2)), "R2", id="the vote changes"),
        pytest.param(HardState(Term(5)), "R2", id="the vote vanishes"),
    ],
)
def test_a_durable_vote_stays(then: HardState, invariant: str) -> None:
    async def main() -> None:
        drive = SimDrive(Random(1))
        RaftInvariants(GID).watch_drive("s0", drive, log=LOG, data=DATA)
        disk = drive.disk(LOG)
        for state in (HardState(Term(5), ReplicaId(1)), then):
            await disk.sync([(group_key(HARD_STATE, GID), encode_hard_state(GID, state))])
        await asyncio.sleep(0.1)

    with pytest.raises(Unhandled, match=f"InvariantBroken\\('{invariant}:"):
        run(main())
