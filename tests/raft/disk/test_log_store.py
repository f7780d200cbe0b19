"""The log store: what a save promises, and what is refused at the start."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from labrpc.sim.loop import run
from raft.disk.log_store import SWEEP_ROWS_MAX, LogStore, NodeIdentity, ReplicaRefused
from raft.disk.promise import find_promise
from raft.disk.records import (
    BOOT_KEY,
    HARD_STATE,
    IDENTITY_KEY,
    REPLICA,
    START,
    TAIL,
    WRITE_NUMBER_KEY,
    decode_number,
    encode_hard_state,
    encode_number,
    entry_key,
    group_key,
    seal,
)
from raft.errors import Compacted, DataUnusable
from raft.ports import Write
from raft.types import GroupId, HardState, Index, NodeId, ReplicaId, SnapshotMeta
from tests.support.storage import (
    G1,
    G2,
    IDENTITY,
    ONE_VOTER,
    TWO_VOTERS,
    Storage,
    entries,
    entry,
    entry_id,
    held,
    loaded,
    meta,
    one_group,
    record,
    vote,
)

EVERYTHING = 1 << 30
SLOTS = ("promise.0", "promise.1")


# What is saved is there


def test_a_new_node_knows_itself_and_holds_nothing() -> None:
    async def main() -> None:
        storage = Storage()
        store = await storage.create()
        assert (store.identity, store.replicas(), store.boot) == (IDENTITY, [], 1)

        store = await storage.reopen(store)
        assert (store.identity, store.replicas(), store.boot) == (IDENTITY, [], 2)

    run(main())


def test_what_was_saved_is_loaded() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 2")
        await store.create_replica(record(2, replica=3), meta(0, 0, TWO_VOTERS))
        await store.save(G2, vote(5, 3), [])

        store = await storage.crash(store)

        assert store.replicas() == [record(), record(2, replica=3)]
        one, two = store.load(G1), store.load(G2)
        assert (one.record, one.hard_state, one.start) == (record(), vote(2, 1), meta(0, 0))
        assert list(one.entries) == entries(1, "1 1 2")
        assert (two.hard_state, two.start) == (vote(5, 3), meta(0, 0, TWO_VOTERS))
        assert list(two.entries) == []

    run(main())


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_entries_replace_the_suffix_from_the_first_one_on(first: int) -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 1 1 1")
        before = store.bytes(G1)

        await store.save(G1, vote(2), entries(first, "2"))

        expected = [*entries(1, "1 1 1")[: first - 1], *entries(first, "2")]
        assert store.read(G1, Index(1), Index(first + 1), EVERYTHING) == tuple(expected)
        assert store.last(G1) == (first, 2)
        assert before - store.bytes(G1) == (5 - first) * (16 + len(b"1/1"))
        store = await storage.crash(store)
        assert loaded(store) == expected

    run(main())


def test_entries_may_be_replaced_and_read_while_they_are_on_their_way() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")

        saves = [store.save(G1, vote(1, 1), entries(3, "1 1 1"))]
        assert store.read(G1, Index(1), Index(6), EVERYTHING) == tuple(entries(1, "1 1 1 1 1"))
        saves.append(store.save(G1, vote(3), entries(4, "3")))
        assert store.read(G1, Index(2), Index(5), EVERYTHING) == tuple(entries(2, "1 1 3"))
        assert store.term_at(G1, Index(4)) == 3
        await asyncio.sleep(0)  # the first two are on their way to the disk now
        saves.append(store.save(G1, None, entries(2, "3")))
        assert store.read(G1, Index(1), Index(3), EVERYTHING) == tuple(entries(1, "1 3"))
        await asyncio.gather(*saves)

        assert store.read(G1, Index(1), Index(3), EVERYTHING) == tuple(entries(1, "1 3"))
        store = await storage.crash(store)
        assert loaded(store) == entries(1, "1 3")

    run(main())


def test_reading_stops_at_the_bound_but_gives_one_entry_at_least() -> None:
    async def main() -> None:
        store = await one_group(Storage())
        rows = [entry(index, 1, bytes(100)) for index in range(1, 6)]
        await store.save(G1, vote(1), rows)

        assert store.read(G1, Index(2), Index(6), 250) == tuple(rows[1:3])
        assert store.read(G1, Index(2), Index(6), 200) == tuple(rows[1:3])
        assert store.read(G1, Index(2), Index(6), 1) == tuple(rows[1:2])
        assert store.read(G1, Index(2), Index(4), EVERYTHING) == tuple(rows[1:3])
        assert store.read(G1, Index(2), Index(2), EVERYTHING) == ()

    run(main())


def test_bytes_count_term_index_payload_and_hard_state() -> None:
    """The labs' `PersistBytes`: no framing, no keys."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage)
        assert store.bytes(G1) == 16

        await store.save(G1, vote(1), [entry(1, 1, bytes(10)), entry(2, 1, bytes(20))])
        assert store.bytes(G1) == 16 + (16 + 10) + (16 + 20)
        await store.cut(G1, meta(1, 1))
        assert store.bytes(G1) == 16 + (16 + 20)
        store = await storage.crash(store)
        loaded(store)
        assert store.bytes(G1) == 16 + (16 + 20)

    run(main())


def test_a_floor_is_the_lowest_index_with_no_more_entries_and_bytes_above_it() -> None:
    """By brute force over every bound, also behind a cut and in an empty log."""

    async def main() -> None:
        store = await one_group(Storage())
        assert store.floor(G1, 0, 0) == store.floor(G1, 9, 99) == 0
        sizes = [0, 30, 5, 200, 1, 64, 7]
        await store.save(G1, vote(1), [entry(at, 1, bytes(n)) for at, n in enumerate(sizes, 1)])

        for start in (0, 3, 7):
            if start:
                await store.cut(G1, meta(start, 1))
            for entries_max in range(9):
                for bytes_max in range(420):
                    floor = next(
                        index
                        for index in range(start, 8)
                        if 7 - index <= entries_max
                        and sum(16 + n for n in sizes[index:]) <= bytes_max
                    )
                    assert store.floor(G1, entries_max, bytes_max) == floor
            for index in range(start, 8):
                cut = sum(16 + n for n in sizes[start:index])
                assert store.bytes_up_to(G1, Index(index)) == cut

    run(main())


# Cut and reset


def test_a_cut_log_begins_after_its_start_and_goes_on() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 2 2 2")

        await store.cut(G1, meta(3, 2, TWO_VOTERS))
        with pytest.raises(Compacted):
            store.read(G1, Index(3), Index(5), EVERYTHING)
        assert store.read(G1, Index(4), Index(6), EVERYTHING) == tuple(entries(4, "2 2"))
        await store.save(G1, None, entries(6, "2"))

        store = await storage.crash(store)
        saved = store.load(G1)
        assert saved.start == meta(3, 2, TWO_VOTERS)
        assert list(saved.entries) == entries(4, "2 2 2")

    run(main())


def test_a_log_cut_to_its_end_goes_on() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.cut(G1, meta(2, 1))
        await store.save(G1, None, entries(3, "1"))
        store = await storage.crash(store)
        assert loaded(store) == entries(3, "1")

    run(main())


def test_what_lies_below_the_start_is_deleted_in_slices() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage)
        await store.save(G1, vote(1), [entry(index, 1) for index in range(1, 1001)])

        def below() -> int:
            lo, hi = entry_key(G1, 0), entry_key(G1, 991)
            return sum(1 for key in storage.drive.durable("log") if lo <= key < hi)

        await store.cut(G1, meta(990, 1))
        assert below() == 990 - 256
        store = await storage.crash(store)  # it is found again
        assert held(store)[0] == (991, 1)
        for index in range(1001, 1004):
            await store.save(G1, None, [entry(index, 1)])
        assert below() == 0
        await store.cut(G1, meta(1003, 1))
        await store.save(G1, None, [entry(1004, 1)])
        assert sum(1 for key in storage.drive.durable("log") if key[:1] == b"e") == 1

    run(main())


def test_what_lies_below_the_start_of_an_idle_log_is_swept() -> None:
    """Simulated seed 42, B7: only the saves of its own group took such rows away."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage)
        await store.create_replica(record(2), SnapshotMeta(membership=ONE_VOTER))
        for gid in (G1, G2):
            await store.save(gid, vote(1), [entry(index, 1) for index in range(1, 401)])
            await store.cut(gid, meta(390, 1))
        assert entry_rows(storage) == 2 * (400 - 256)
        store = await storage.crash(store)

        assert store.sweep(200)
        await asyncio.sleep(0.01)
        assert entry_rows(storage) == 2 * (400 - 256) - 200, "a slice, of whichever groups"
        assert store.sweep(200)
        assert not store.sweep(200)
        store = await storage.crash(await storage.reopen(store))

        assert entry_rows(storage) == 20
        assert loaded(store, G1) == loaded(store, G2) == entries(391, " ".join("1" * 10))

    run(main())


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(meta(9, 4, TWO_VOTERS), id="past the end of the log"),
        pytest.param(meta(3, 4, TWO_VOTERS), id="within the log, with another term"),
        pytest.param(meta(5, 4, TWO_VOTERS), id="at its end"),
    ],
)
def test_a_reset_drops_the_whole_log(start: SnapshotMeta) -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 2 2 2", term=4)

        await store.reset(G1, start)
        assert store.last(G1) == start.last
        assert store.bytes(G1) == 16
        store = await storage.crash(store)
        assert store.load(G1).start == start
        assert loaded(store) == []
        await store.save(G1, None, entries(start.last.index + 1, "4 4"))
        store = await storage.crash(store)
        assert loaded(store) == entries(start.last.index + 1, "4 4")
        rows = [key for key in storage.drive.durable("log") if key[:1] == b"e"]
        assert len(rows) == 2, "what the old log left is swept"

    run(main())


def test_a_reset_raises_a_term_below_the_snapshot_s() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1", term=2)
        await store.reset(G1, meta(9, 5))
        store = await storage.crash(store)
        assert store.hard_state(G1) == vote(5)
        await store.reset(G1, meta(12, 5))
        await store.save(G1, vote(5, 2), [])
        await store.reset(G1, meta(15, 5))
        assert store.hard_state(G1) == vote(5, 2), "a vote in that very term stands"

    run(main())


def test_a_reset_may_keep_a_suffix_whose_term_matches() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 2 2 2")
        await store.reset(G1, meta(3, 2, TWO_VOTERS), keep_suffix=True)
        store = await storage.crash(store)
        assert (store.start(G1), loaded(store)) == (meta(3, 2, TWO_VOTERS), entries(4, "2 2"))

    run(main())


def test_a_cut_at_another_term_is_a_broken_invariant() -> None:
    async def main() -> None:
        store = await one_group(Storage(), "1 1 2")
        with pytest.raises(AssertionError):
            store.cut(G1, meta(3, 1))

    run(main())


@pytest.mark.parametrize(
    ("first", "terms"),
    [
        pytest.param(5, "2", id="a gap"),
        pytest.param(1, "1", id="below the start"),
        pytest.param(4, "1", id="a term that falls"),
    ],
)
def test_entries_that_do_not_continue_the_log_are_a_broken_invariant(
    first: int, terms: str
) -> None:
    async def main() -> None:
        store = await one_group(Storage(), "1 1 2")
        await store.cut(G1, meta(1, 1))
        with pytest.raises(AssertionError):
            store.save(G1, None, entries(first, terms))

    run(main())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(vote(5, 1), vote(4, 0), id="a term that falls (R12)"),
        pytest.param(vote(5, 1), vote(5, 2), id="a second vote in a term (R2)"),
        pytest.param(vote(5, 1), vote(5, 0), id="a vote forgotten"),
    ],
)
def test_a_promise_is_never_taken_back(old: HardState, new: HardState) -> None:
    async def main() -> None:
        store = await one_group(Storage())
        await store.save(G1, old, [])
        with pytest.raises(AssertionError):
            store.save(G1, new, [])

    run(main())


# Replicas


def test_a_dropped_replica_leaves_a_tombstone() -> None:
    async def main() -> None:
        storage = Storage()
        store = await storage.create()
        await store.create_replica(record(1, replica=4), SnapshotMeta())
        await store.save(G1, vote(1), entries(1, "1 1"))

        dropped = store.drop_replica(G1)
        with pytest.raises(ReplicaRefused):
            store.create_replica(record(1, replica=4), SnapshotMeta())
        await dropped

        store = await storage.crash(store)
        assert (store.replicas(), store.tombstone(G1)) == ([], 4)
        for used in (1, 4):
            with pytest.raises(ReplicaRefused):
                store.create_replica(record(1, replica=used), SnapshotMeta())
        await store.create_replica(record(1, replica=5), SnapshotMeta())
        with pytest.raises(ReplicaRefused):
            store.create_replica(record(1, replica=6), SnapshotMeta())
        store = await storage.crash(store)
        assert store.replicas() == [record(1, replica=5)]
        assert loaded(store) == []

    run(main())


def test_a_dropped_log_is_swept_in_slices_across_crashes() -> None:
    """One batch of a whole log would hold up every other group of the node."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, " ".join(["1"] * 10), term=1)
        await store.drop_replica(G1)
        assert entry_rows(storage) == 10

        store.sweep(4)
        await asyncio.sleep(0.01)
        assert entry_rows(storage) == 6
        store = await storage.crash(store)
        assert (store.replicas(), entry_rows(storage)) == ([], 6)
        assert store.sweep(4) and store.sweep(4)
        assert not store.sweep(4)
        await store.close()
        assert entry_rows(storage) == 0
        assert [key for key in storage.drive.durable("log") if key[:1] == b"g"] == []

    run(main())


def test_a_drop_buries_what_was_not_swept_yet_too() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, " ".join("1" * 2 * SWEEP_ROWS_MAX))
        await store.cut(G1, meta(2 * SWEEP_ROWS_MAX - 1, 1))
        assert entry_rows(storage) == SWEEP_ROWS_MAX
        await store.drop_replica(G1)

        while store.sweep(100):
            pass

        await store.close()
        assert entry_rows(storage) == 0

    run(main())


def test_what_never_was_is_not_swept() -> None:
    """A log that begins anew far behind its end has no rows in between."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        deleted: list[bytes] = []
        sync = store._disk.sync

        def counting(batch: Sequence[Write]) -> "asyncio.Future[None]":
            deleted.extend(key for key, value in batch if value is None)
            return sync(batch)

        store._disk.sync = counting  # type: ignore[method-assign]
        await store.reset(G1, meta(1_000_000, 1))
        for at in range(1_000_001, 1_000_004):
            await store.save(G1, None, entries(at, "1"))
        store.cut(G1, meta(1_000_002, 1))
        await store.save(G1, None, entries(1_000_004, "1"))
        assert not store.sweep(100)

        assert sorted(set(deleted)) == [
            entry_key(G1, Index(at)) for at in (1, 2, 1_000_001, 1_000_002)
        ]
        await store.close()

    run(main())


def test_a_replica_made_anew_does_not_find_entries_of_the_one_before() -> None:
    """Its grave goes in the batch that makes the new one."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 1 1", term=1)
        store.drop_replica(G1)
        store.sweep(1)
        await store.create_replica(record(1, replica=9), SnapshotMeta())
        await store.save(G1, vote(3), entries(1, "3 3"))
        assert not store.sweep(9)
        store = await storage.crash(store)
        assert loaded(store) == entries(1, "3 3")
        assert entry_rows(storage) == 2

    run(main())


def entry_rows(storage: Storage) -> int:
    return sum(key[:1] == b"e" for key in storage.drive.durable("log"))


def test_a_drop_before_the_next_promise_is_no_loss() -> None:
    """The promise still names the replica; its tombstone says where it went."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1", term=3)
        store.drop_replica(G1)
        await asyncio.sleep(0.0003)  # the log is synced, the promise is on its way
        store = await storage.crash(store)
        assert store.replicas() == []

    run(main())


def test_a_promise_names_no_replica_that_is_gone() -> None:
    """Or it would grow with every replica that a node ever held."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1", term=3)
        await store.create_replica(record(2), SnapshotMeta())
        await store.save(G2, vote(1, 1), [])
        await store.drop_replica(G1)
        await store.close()
        storage.drive.crash()
        promise = find_promise([storage.drive.slot(name) for name in SLOTS]).promise
        assert promise is not None
        assert promise.vows == ((G2, ReplicaId(1), vote(1, 1)),)

    run(main())


# The promise


def test_a_vote_waits_for_its_promise_and_entries_do_not() -> None:
    """At every moment: what a future said is in the promise that a crash would leave."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage)
        loop = asyncio.get_running_loop()
        sync = storage.drive.sync_seconds

        begun = loop.time()
        await store.save(G1, None, [entry(1, 0)])
        assert loop.time() - begun == pytest.approx(sync)

        begun = loop.time()
        voted = store.save(G1, vote(1, 1), [])
        behind = store.save(G1, None, entries(2, "1"))
        await voted
        assert loop.time() - begun == pytest.approx(2 * sync)
        assert behind.done(), "an entry behind a vote shows the vote's term, so it waits too"

    run(main())


def test_saves_of_a_turn_share_one_sync_and_one_promise() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage)
        await store.create_replica(record(2), SnapshotMeta())
        await asyncio.sleep(1)
        before = storage.drive.syncs

        saves = [store.save(gid, vote(1, 1), entries(1, "1 1")) for gid in (G1, G2)]
        await asyncio.gather(*saves)

        assert storage.drive.syncs - before == 2

    run(main())


def test_the_promise_follows_entries_within_a_tenth_of_a_second() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, term=1)
        await asyncio.sleep(1)
        image = storage.drive.image()
        await store.save(G1, None, entries(1, "1"))
        records = dict(storage.drive.image().records)
        await asyncio.sleep(0.11)
        assert storage.drive.image().records != records
        await asyncio.sleep(1)
        settled = storage.drive.syncs
        await asyncio.sleep(10)
        assert storage.drive.syncs == settled, "an idle node writes nothing"

        storage.cut(store)
        image.records.update(storage.drive.image().records)
        storage.drive.restore(image)
        with pytest.raises(DataUnusable, match=r"ends at write 3, .* had promised 4"):
            await storage.open()

    run(main())


def test_closing_writes_the_last_promise() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, term=1)
        image = storage.drive.image()
        store.save(G1, None, entries(1, "1"))
        await store.close()
        storage.drive.crash()
        image.records.update(storage.drive.image().records)
        storage.drive.restore(image)
        with pytest.raises(DataUnusable, match="had promised"):
            await storage.open()

    run(main())


def test_what_replaces_entries_on_their_way_is_read_once_those_have_landed() -> None:
    """The first save's end must not make the log forget what is on its way behind it."""

    async def main() -> None:
        store = await one_group(Storage(), term=1)
        first = store.save(G1, None, entries(1, "1 1"))
        await asyncio.sleep(0)
        second = store.save(G1, vote(2), entries(1, "2 2"))
        await first

        assert not second.done()
        assert list(store.read(G1, Index(1), Index(3), EVERYTHING)) == entries(1, "2 2")
        await second
        assert list(store.read(G1, Index(1), Index(3), EVERYTHING)) == entries(1, "2 2")

    run(main())


def test_the_promise_follows_what_was_swept() -> None:
    """It is a write like any other: a log that lost its end lost that too."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, " ".join("1" * 2 * SWEEP_ROWS_MAX))
        await store.cut(G1, meta(2 * SWEEP_ROWS_MAX, 1))
        await asyncio.sleep(1.0)
        assert store.sweep(100)
        await store.close()

        stored = storage.drive.durable("log")[WRITE_NUMBER_KEY]
        storage.drive.crash()
        promise = find_promise([storage.drive.slot(name) for name in SLOTS]).promise
        assert promise is not None
        assert promise.write_number == decode_number("", WRITE_NUMBER_KEY, stored)

    run(main())


def test_closing_waits_for_the_promise_of_a_vote() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage)
        voting = store.save(G1, vote(3, 1), [])
        await store.close()
        assert voting.done() and voting.exception() is None

    run(main())


def test_closing_promises_too_what_was_synced_beside_the_last_promise() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, term=1)
        await asyncio.sleep(1)
        voted = store.save(G1, vote(2, 1), [])
        await asyncio.sleep(0)
        store.save(G1, None, entries(1, "2"))
        await voted  # its promise is on disk, and the entry was synced while that was written
        await store.close()
        storage.drive.crash()
        promise = find_promise([storage.drive.slot(name) for name in SLOTS]).promise
        assert promise is not None
        number = storage.drive.durable("log")[WRITE_NUMBER_KEY]
        assert promise.write_number == decode_number("", WRITE_NUMBER_KEY, number)

    run(main())


def test_truncation_does_not_look_like_loss() -> None:
    """The write number rises where the last index rightly falls."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 1 1 1")
        await store.save(G1, vote(2), entries(2, "2"))
        store = await storage.reopen(store)
        assert held(store) == [(1, 1), (2, 2)]

    run(main())


Damage = Callable[[Storage], None]


def records_of(storage: Storage) -> dict[str, bytes]:
    return storage.drive._records


def tear(name: str) -> Damage:
    def damage(storage: Storage) -> None:
        records = records_of(storage)
        records[name] = records[name][:-3] + b"xyz"

    return damage


def empty(name: str) -> Damage:
    def damage(storage: Storage) -> None:
        records_of(storage).pop(name, None)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(tear("promise.0"), id="first torn"),
        pytest.param(tear("promise.1"), id="second torn"),
        pytest.param(empty("promise.0"), id="first gone"),
        pytest.param(empty("promise.1"), id="second gone"),
    ],
)
@pytest.mark.parametrize("more", [0, 1], ids=["even", "odd"])
def test_one_damaged_slot_is_repaired_from_the_other(damage: Damage, more: int) -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        for term in range(2, 2 + more):
            await store.save(G1, vote(term, 1), [])
        hard_state = store.hard_state(G1)
        await store.close()
        storage.drive.crash()

        damage(storage)
        store = await storage.open()
        assert store.hard_state(G1) == hard_state
        loaded(store)
        await store.save(G1, vote(9, 1), [])
        await asyncio.sleep(1)
        await store.close()
        storage.drive.crash()

        for other in ("promise.0", "promise.1"):
            whole = records_of(storage)[other]
            empty(other)(storage)
            store = await storage.open()
            assert store.hard_state(G1) == vote(9, 1), "each of the two is good again"
            storage.cut(store)
            records_of(storage)[other] = whole

    run(main())


@pytest.mark.parametrize("how", [tear, empty])
def test_two_damaged_slots_are_refused(how: Callable[[str], Damage]) -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.close()
        storage.drive.crash()
        how("promise.0")(storage)
        how("promise.1")(storage)
        with pytest.raises(DataUnusable, match="both slots"):
            await storage.open()
        storage.drive.crash()
        with pytest.raises(DataUnusable, match="holds a node already"):
            await storage.create()

    run(main())


def test_an_old_copy_of_the_log_put_back_is_refused() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        old = storage.drive.image()
        await store.save(G1, vote(2, 1), entries(3, "2"))
        await store.close()
        storage.drive.crash()
        old.records.update(storage.drive.image().records)
        storage.drive.restore(old)
        with pytest.raises(DataUnusable, match="old copy put back"):
            await storage.open()

    run(main())


@pytest.mark.parametrize(
    ("left", "said"),
    [
        pytest.param(vote(7, 1), "it says term 7", id="a term"),
        pytest.param(vote(8), "it says term 8, vote 0", id="a vote"),
        pytest.param(vote(8, 2), "it says term 8, vote 2", id="another vote"),
    ],
)
def test_a_vote_missing_from_the_log_is_refused(left: HardState, said: str) -> None:
    """The write number alone is no proof: each group's term and vote are compared too."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.create_replica(record(2), SnapshotMeta())
        await store.save(G2, vote(8, 1), [])
        await store.close()
        storage.drive.crash()
        await storage.rewrite(group_key(HARD_STATE, G2), encode_hard_state(G2, left))
        with pytest.raises(DataUnusable, match=f"group 2, term and vote: {said}"):
            await storage.open()

    run(main())


# Refused at the start, each with the record's name


Rewrite = tuple[bytes, bytes | None]
FLIPPED = b"flip"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        pytest.param(IDENTITY_KEY, FLIPPED, "the node's identity", id="identity flipped"),
        pytest.param(IDENTITY_KEY, None, "it is empty", id="identity gone"),
        pytest.param(WRITE_NUMBER_KEY, FLIPPED, "write number", id="write number flipped"),
        pytest.param(WRITE_NUMBER_KEY, None, "write number", id="write number gone"),
        pytest.param(BOOT_KEY, FLIPPED, "boot number", id="boot number flipped"),
        pytest.param(BOOT_KEY, None, "boot number", id="boot number gone"),
        pytest.param(group_key(REPLICA, G1), FLIPPED, "replica record", id="replica flipped"),
        pytest.param(group_key(REPLICA, G1), None, "replica 1 is not in it", id="replica gone"),
        pytest.param(group_key(HARD_STATE, G1), FLIPPED, "term and vote", id="hard state flipped"),
        pytest.param(group_key(HARD_STATE, G1), None, "term and vote", id="hard state gone"),
        pytest.param(group_key(START, G1), FLIPPED, "start of the log", id="start flipped"),
        pytest.param(group_key(START, G1), None, "start of the log", id="start gone"),
        pytest.param(group_key(TAIL, G1), FLIPPED, "end of the log", id="end flipped"),
        pytest.param(group_key(TAIL, G1), None, "end of the log", id="end gone"),
        pytest.param(entry_key(G1, 1), FLIPPED, "group 1, entry 1", id="first entry flipped"),
        pytest.param(entry_key(G1, 1), None, "group 1, entry 1", id="first entry gone"),
        pytest.param(entry_key(G1, 3), FLIPPED, "group 1, entry 3", id="middle entry flipped"),
        pytest.param(entry_key(G1, 3), None, "group 1, entry 3", id="middle entry gone"),
        pytest.param(entry_key(G1, 5), FLIPPED, "group 1, entry 5", id="last entry flipped"),
        pytest.param(entry_key(G1, 5), None, "group 1, entry 5", id="last entry gone"),
        pytest.param(entry_key(G1, 6), b"", "group 1, entry 6", id="an entry too many"),
    ],
)
def test_a_damaged_record_is_refused_by_name(key: bytes, value: bytes | None, said: str) -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 1 2 2")
        await store.close()
        storage.drive.crash()
        if value == FLIPPED:
            storage.drive.flip_bit("log", key)
        else:
            await storage.rewrite(key, value)

        with pytest.raises(DataUnusable, match=said) as refused:
            loaded(await storage.open())
        assert "add the node again" in str(refused.value) or "newer version" in str(refused.value)

    run(main())


def test_every_bit_of_an_entry_is_covered() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 1")
        key = entry_key(G1, 2)
        raw = storage.drive.durable("log")[key]
        await store.close()
        storage.drive.crash()

        for bit in range(len(raw) * 8):
            damaged = bytearray(raw)
            damaged[bit // 8] ^= 1 << bit % 8
            await storage.rewrite(key, bytes(damaged))
            store = await storage.open()
            with pytest.raises(DataUnusable, match="group 1, entry 2"):
                loaded(store)
            with pytest.raises(DataUnusable, match="group 1, entry 2"):
                store.read(G1, Index(2), Index(3), EVERYTHING)
            storage.cut(store)

    run(main())


def test_a_log_ahead_of_its_term_is_refused() -> None:
    """Its replica might vote a second time in the term of its own entries."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.save(G1, None, entries(3, "2"))
        store = await storage.reopen(store)
        with pytest.raises(DataUnusable, match="term and vote: it says term 1, and entry 3 is of"):
            loaded(store)

    run(main())


def test_an_entry_of_another_log_is_refused() -> None:
    """A row that is whole, but was written for other predecessors, breaks the chain."""

    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1 1")
        old = storage.drive.durable("log")[entry_key(G1, 3)]
        await store.save(G1, vote(2), entries(2, "2 2"))
        await store.close()
        storage.drive.crash()
        await storage.rewrite(entry_key(G1, 3), old)
        with pytest.raises(DataUnusable, match="entry 3: the hash chain breaks here"):
            loaded(await storage.open())

    run(main())


def test_rows_of_one_group_are_not_another_s() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.create_replica(record(2), SnapshotMeta(membership=ONE_VOTER))
        await store.save(G2, vote(1, 1), entries(1, "1 1"))
        rows = storage.drive.durable("log")
        await store.close()
        storage.drive.crash()

        for ours, others, said in (
            (group_key(HARD_STATE, G1), group_key(HARD_STATE, G2), "group 1, term and vote"),
            (group_key(TAIL, G1), group_key(TAIL, G2), "group 1, end of the log"),
            (entry_key(G1, 1), entry_key(G2, 1), "group 1, entry 1"),
        ):
            await storage.rewrite(ours, rows[others])
            with pytest.raises(DataUnusable, match=said):
                loaded(await storage.open())
            storage.drive.crash()
            await storage.rewrite(ours, rows[ours])
        assert held(await storage.open()) == [(1, 1), (2, 1)]

    run(main())


def test_a_newer_format_is_refused_as_such() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.close()
        storage.drive.crash()
        key = group_key(HARD_STATE, G1)
        await storage.rewrite(key, seal(key, b"\x02something new"))
        with pytest.raises(DataUnusable, match=r"it has format 2, .* Start the newer version"):
            await storage.open()

    run(main())


def test_a_number_out_of_range_is_refused() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.close()
        storage.drive.crash()
        await storage.rewrite(WRITE_NUMBER_KEY, encode_number(WRITE_NUMBER_KEY, 2**63))
        with pytest.raises(DataUnusable, match="write number: the number is out of range"):
            await storage.open()

    run(main())


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        (NodeIdentity(b"x" * 16, NodeId("n1")), "not to node n1 of cluster 7878"),
        (NodeIdentity(b"c" * 16, NodeId("n2")), "not to node n2"),
    ],
)
def test_another_node_s_directory_is_refused(identity: NodeIdentity, said: str) -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        await store.close()
        storage.drive.crash()
        with pytest.raises(DataUnusable, match=said):
            await storage.open(identity)

    run(main())


def test_slots_of_another_node_are_refused() -> None:
    async def main() -> None:
        storage, other = Storage(), Storage()
        await (await one_group(storage, "1 1")).close()
        slots = (other.drive.slot("promise.0"), other.drive.slot("promise.1"))
        stranger = NodeIdentity(b"c" * 16, NodeId("n2"))
        await (await LogStore.create(other.log_disk(), slots, stranger)).close()
        storage.drive.crash()
        records_of(storage).update(records_of(other))
        with pytest.raises(DataUnusable, match="files were exchanged"):
            await storage.open()

    run(main())


def test_a_node_never_created_is_refused_and_nothing_is_made() -> None:
    async def main() -> None:
        storage = Storage()
        with pytest.raises(DataUnusable, match="not initialised"):
            await storage.open()
        assert (storage.drive.syncs, dict(storage.drive.durable("log"))) == (0, {})

    run(main())


def test_creation_never_overwrites() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1 1")
        storage.cut(store)
        with pytest.raises(DataUnusable, match="holds a node already"):
            await storage.create()
        storage.drive.crash()
        assert held(await storage.open()) == [(1, 1), (2, 1)]

    run(main())


def test_a_creation_cut_short_at_any_moment_may_be_repeated() -> None:
    async def attempt(seed: int, seconds: float) -> str:
        storage = Storage(seed)
        task = asyncio.ensure_future(storage.create())
        await asyncio.sleep(seconds)
        task.cancel()
        storage.drive.crash()
        try:
            store = await storage.open()
        except DataUnusable:
            storage.drive.crash()
            store = await storage.create()
            await store.close()
            storage.drive.crash()
            await storage.open()
            return "created again"
        return "opened"

    async def main() -> None:
        outcomes = [await attempt(seed, step * 0.00005) for seed in range(20) for step in range(16)]
        assert set(outcomes) == {"created again", "opened"}

    run(main())


@pytest.mark.parametrize("gid", [0, 2**63 - 1])
def test_the_ends_of_the_range_of_group_ids(gid: int) -> None:
    async def main() -> None:
        storage = Storage()
        store = await storage.create()
        await store.create_replica(record(1)._replace(gid=GroupId(gid)), SnapshotMeta())
        await store.save(GroupId(gid), vote(1), entries(1, "1"))
        store = await storage.crash(store)
        assert loaded(store, GroupId(gid)) == entries(1, "1")

    run(main())


def test_a_failed_sync_reaches_every_waiter() -> None:
    """What the driver sees if the process were still there: no save succeeds after it."""

    class Failing:
        def __init__(self, disk: object) -> None:
            self._disk = disk

        def __getattr__(self, name: str) -> object:
            return getattr(self._disk, name)

        def sync(self, batch: object) -> "asyncio.Future[None]":
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(OSError("input/output error"))
            return future

    async def main() -> None:
        store = await one_group(Storage(), "1 1")
        store._disk = Failing(store._disk)  # type: ignore[assignment]
        saves: list[Awaitable[None]] = [
            store.save(G1, vote(3, 1), entries(3, "3")),
            store.save(G1, None, entries(4, "3")),
        ]
        for save in saves:
            with pytest.raises(OSError, match="input/output"):
                await save

    run(main())


def test_votes_of_groups_keep_apart() -> None:
    async def main() -> None:
        storage = Storage()
        store = await one_group(storage, "1")
        await store.create_replica(record(2, replica=2), SnapshotMeta())
        await asyncio.gather(store.save(G1, vote(4, 1), []), store.save(G2, vote(9, 2), []))
        store = await storage.crash(store)
        assert (store.hard_state(G1), store.hard_state(G2)) == (vote(4, 1), vote(9, 2))
        assert store.last(G1) == entry_id(1, 1)
        assert store.record(G2).replica == ReplicaId(2)

    run(main())
