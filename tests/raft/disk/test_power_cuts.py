"""Power cuts at random moments of random lives: what was acknowledged is there, and nothing is odd.

The synced batches of a node are durable in call order. So after a crash its logs must be, all of
them at once, as they were after the first k calls, for a k no smaller than the number of calls that
had been acknowledged (invariants R8, R9, R18, R2). And a healthy node must never be refused.
"""

import asyncio
from collections import Counter
from copy import deepcopy
from functools import partial
from random import Random

import pytest

from labrpc.sim.disk import SimDrive
from labrpc.sim.loop import run
from raft.disk.data_store import ReplicaData, reconcile
from raft.disk.log_store import LogStore
from raft.disk.promise import PromiseKeeper
from raft.disk.records import ReplicaRecord
from raft.errors import DataUnusable
from raft.types import (
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    HardState,
    Index,
    ReplicaId,
    SnapshotMeta,
    Term,
)
from tests.support.storage import (
    G1,
    ONE_VOTER,
    TWO_VOTERS,
    Storage,
    entries,
    entry_id,
    loaded,
    one_group,
    record,
    vote,
)

GIDS = [GroupId(gid) for gid in (0, 1, 2)]


class Replica:
    """What one replica's log should hold."""

    def __init__(self, made: ReplicaRecord) -> None:
        self.record = made
        self.hard_state = HardState()
        self.start = SnapshotMeta(membership=ONE_VOTER)
        self.entries: list[Entry] = []

    @property
    def last(self) -> EntryId:
        return self.entries[-1].id if self.entries else self.start.last

    def term_at(self, index: int) -> Term:
        at = index - self.start.last.index
        return self.entries[at - 1].term if at else self.start.last.term

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Replica) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


Model = dict[GroupId, Replica]


class Life:
    """Random calls on a store, with what the logs should be after each of them."""

    def __init__(self, seed: object) -> None:
        self.rng = Random(f"calls/{seed}")
        self.storage = Storage(seed)
        self.model: Model = {}
        self.highest: dict[GroupId, int] = {}
        self.history: list[Model] = [{}]
        self.acknowledged = 0
        self.calls: Counter[str] = Counter()

    def call(self, store: LogStore) -> None:
        """Make one call and note what it should do."""
        rng, gid = self.rng, self.rng.choice(GIDS)
        replica = self.model.get(gid)
        if replica is None:
            future = self._create(store, gid)
        elif rng.random() < 0.02:
            self.calls["drop"] += 1
            del self.model[gid]
            future = store.drop_replica(gid)
        elif rng.random() < 0.1 and replica.entries:
            future = self._cut(store, gid, replica)
        elif rng.random() < 0.04:
            future = self._reset(store, gid, replica)
        else:
            future = self._save(store, gid, replica)
        self.history.append(deepcopy(self.model))
        future.add_done_callback(partial(self._acknowledge, len(self.history) - 1))

    def _acknowledge(self, call: int, future: "asyncio.Future[None]") -> None:
        future.result()
        self.acknowledged = max(self.acknowledged, call)

    def _create(self, store: LogStore, gid: GroupId) -> "asyncio.Future[None]":
        self.calls["create"] += 1
        self.highest[gid] = self.highest.get(gid, 0) + 1
        made = record(gid, self.highest[gid], self.rng.getrandbits(40))
        replica = self.model[gid] = Replica(made)
        return store.create_replica(made, replica.start)

    def _save(self, store: LogStore, gid: GroupId, replica: Replica) -> "asyncio.Future[None]":
        rng, state = self.rng, None
        if rng.random() < 0.2:
            term, vote = replica.hard_state
            if vote or rng.random() < 0.7:
                state = HardState(Term(term + rng.randint(1, 3)), ReplicaId(rng.randint(0, 3)))
            else:
                state = HardState(term, ReplicaId(rng.randint(1, 3)))
            replica.hard_state = state
        fresh: list[Entry] = []
        if state is None or rng.random() < 0.5:
            kept = len(replica.entries)
            if kept and rng.random() < 0.2:
                kept = rng.randrange(kept)
                self.calls["truncate"] += 1
            first = replica.start.last.index + kept + 1
            term = replica.hard_state.term
            fresh = [
                Entry(Index(first + at), term, EntryKind.COMMAND, rng.randbytes(rng.randint(0, 9)))
                for at in range(rng.randint(1, 4))
            ]
            replica.entries = replica.entries[:kept] + fresh
        self.calls["vote" if state else "append"] += 1
        return store.save(gid, state, fresh)

    def _cut(self, store: LogStore, gid: GroupId, replica: Replica) -> "asyncio.Future[None]":
        self.calls["cut"] += 1
        index = self.rng.randint(replica.start.last.index, replica.last.index)
        start = SnapshotMeta(EntryId(Index(index), replica.term_at(index)), TWO_VOTERS)
        replica.entries = replica.entries[index - replica.start.last.index :]
        replica.start = start
        return store.cut(gid, start)

    def _reset(self, store: LogStore, gid: GroupId, replica: Replica) -> "asyncio.Future[None]":
        self.calls["reset"] += 1
        index = Index(replica.start.last.index + self.rng.randint(1, 20))
        replica.start = SnapshotMeta(EntryId(index, replica.hard_state.term), TWO_VOTERS)
        replica.entries = []
        return store.reset(gid, replica.start)

    def recover(self, store: LogStore) -> None:
        """Compare what the store holds with the history, and go on from there."""
        held: Model = {}
        for found in store.replicas():
            replica = held[found.gid] = Replica(found)
            saved = store.load(found.gid)
            replica.hard_state, replica.start = saved.hard_state, saved.start
            replica.entries = list(saved.entries)
            counted = sum(16 + len(entry.data) for entry in replica.entries)
            assert store.bytes(found.gid) == counted + 16
        since = self.history[self.acknowledged :]
        assert held in since, (
            f"{held} is no state after {self.acknowledged} calls were acknowledged"
        )
        for gid in GIDS:
            dropped = store.tombstone(gid)
            self.highest[gid] = max(dropped, held[gid].record.replica if gid in held else 0)
        self.model, self.history, self.acknowledged = held, [deepcopy(held)], 0


async def live(seed: object, crashes: int) -> Life:
    life = Life(seed)
    store = await life.storage.create()
    for _ in range(crashes):
        for _ in range(life.rng.randint(0, 40)):
            for _ in range(life.rng.choice([1, 1, 3, 8])):
                life.call(store)
            await asyncio.sleep(life.rng.choice([0, 0.00005, 0.0003, 0.001, 0.15]))
        if life.rng.random() < 0.15:
            await store.close()
        store = await life.storage.crash(store)
        life.recover(store)
    return life


@pytest.mark.parametrize("block", range(6))
def test_what_was_acknowledged_survives_power_cuts(block: int) -> None:
    async def main() -> None:
        calls: Counter[str] = Counter()
        for seed in range(block * 10, block * 10 + 10):
            calls += (await live(seed, crashes=6)).calls
        assert min(calls.values()) >= 3, "every kind of call was made"
        assert len(calls) == 7

    run(main())


# A snapshot comes in, and the power fails somewhere on the way


async def install_and_cut(seed: int) -> str:
    """The driver's order: rows, flip, flush, restart of the log. Cut anywhere, then start."""
    rng, storage = Random(f"install/{seed}"), Storage(seed)
    source = ReplicaData(SimDrive(Random(0)).disk("data"), G1)
    source.adopt(1, ONE_VOTER)
    source.commit([(b"k%d" % number, b"new") for number in range(50)], entry_id(9, 4), TWO_VOTERS)
    capture = source.capture()
    store = await one_group(storage, "1 1 2 2")
    data = storage.data()
    await reconcile(store, data, G1)
    data.commit([(b"old", b"")], entry_id(2, 1), None)
    await data.flush()

    async def install() -> None:
        staging = data.stage(capture.meta)
        for chunk in capture.chunks(100):
            staging.add(chunk)
            await asyncio.sleep(0.0001)
        await staging.install()
        store.reset(G1, capture.meta)
        await store.save(G1, vote(4, 0), ())
        installed.append(True)
        data.collect_garbage(1000)

    installed: list[bool] = []
    installing = asyncio.ensure_future(install())
    await asyncio.sleep(rng.uniform(0, 0.004))
    installing.cancel()
    storage.cut(store)

    store, data = await storage.open(), storage.data()
    await reconcile(store, data, G1)
    rows = dict(data.range(b"", b"\xff"))
    if data.applied == (2, 1):
        assert not installed
        assert (rows, data.membership) == ({b"old": b""}, ONE_VOTER)
        assert loaded(store) == entries(1, "1 1 2 2")
        return "before"
    assert (data.applied, data.membership) == (entry_id(9, 4), TWO_VOTERS)
    assert rows == {b"k%d" % number: b"new" for number in range(50)}
    assert (store.start(G1), loaded(store)) == (capture.meta, [])
    assert store.hard_state(G1).term == 4
    return "acknowledged" if installed else "finished at the start"


def test_an_install_is_whole_or_not_at_all_wherever_the_power_fails() -> None:
    """Safeguards C09 and C08: rows and applied index flip together, the log follows."""

    async def main() -> None:
        outcomes = Counter([await install_and_cut(seed) for seed in range(150)])
        assert set(outcomes) == {"before", "finished at the start", "acknowledged"}

    run(main())


# The same lives with a safeguard broken: they must notice


async def lives_until(error: type[BaseException], seeds: int = 40) -> None:
    with pytest.raises(error):
        for seed in range(seeds):
            await live(f"broken/{seed}", crashes=6)


def test_a_promise_beside_the_log_s_sync_makes_a_healthy_node_look_guilty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Safeguard H05."""
    sync = LogStore._sync

    def beside(self: LogStore, group, rows, hard_state, entries=(), **more):  # type: ignore[no-untyped-def]
        self._keeper.synced(self._number + 1)
        if hard_state is not None:
            self._keeper.vow(group.record.gid, group.record.replica, hard_state)
        return sync(self, group, rows, hard_state, entries, **more)

    monkeypatch.setattr(LogStore, "_sync", beside)
    run(lives_until(DataUnusable))


def test_a_future_before_its_sync_loses_what_it_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Safeguard B30."""
    sync = LogStore._sync

    def early(self: LogStore, *args, **more):  # type: ignore[no-untyped-def]
        done = sync(self, *args, **more)
        done.set_result(None)
        return done

    monkeypatch.setattr(LogStore, "_sync", early)
    run(lives_until(AssertionError))


def test_a_suffix_left_behind_breaks_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was cut off and its replacement are one batch; rows left over are found at the start."""
    sync = LogStore._sync

    def keep(self: LogStore, group, rows, *args, **more):  # type: ignore[no-untyped-def]
        rows[:] = [(key, value) for key, value in rows if value is not None]
        return sync(self, group, rows, *args, **more)

    monkeypatch.setattr(LogStore, "_sync", keep)
    run(lives_until(DataUnusable))


def test_one_slot_written_over_itself_loses_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest valid promise is never written over: a torn slot leaves the other one."""
    begin = PromiseKeeper._begin

    def same(self: PromiseKeeper) -> None:
        self._slot = 1
        begin(self)

    monkeypatch.setattr(PromiseKeeper, "_begin", same)
    run(lives_until(DataUnusable))
