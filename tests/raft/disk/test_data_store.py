"""A replica's rows: commits, snapshots out and in, garbage, and how log and state come together."""

import asyncio
from random import Random
from zlib import crc32

import msgpack
import pytest

from labrpc.sim.disk import SimDrive
from labrpc.sim.loop import run
from raft.disk.data_store import (
    _CHUNK,
    _CHUNK_END,
    _NO_DIGEST,
    CHUNK_FORMAT,
    PROGRESS,
    ROWS,
    ReplicaData,
    Staging,
    _digest,
    reconcile,
    sweep_orphans,
)
from raft.disk.log_store import LogStore
from raft.disk.records import group_key
from raft.errors import BadChunk, DataUnusable
from raft.types import EntryId, GroupId, Index, Membership, SnapshotMeta
from tests.support.storage import (
    G1,
    G2,
    ONE_VOTER,
    TWO_VOTERS,
    Storage,
    entries,
    entry_id,
    held,
    loaded,
    meta,
    one_group,
    record,
    vote,
)

Rows = dict[bytes, bytes]
END = b"\xff" * 8


def contents(data: ReplicaData) -> Rows:
    return dict(data.range(b"", END))


def filled(count: int, size: int = 10) -> list[tuple[bytes, bytes | None]]:
    return [(b"key%05d" % number, b"%d" % number + bytes(size)) for number in range(count)]


def state(drive: SimDrive, rows: int = 20, applied: int = 5) -> ReplicaData:
    """A replica with rows."""
    data = ReplicaData(drive.disk("data"), G1)
    data.adopt(7, ONE_VOTER)
    data.commit(filled(rows), entry_id(applied, 2), TWO_VOTERS)
    return data


def chunks(data: ReplicaData, bytes_max: int = 100) -> list[bytes]:
    capture = data.capture()
    found = list(capture.chunks(bytes_max))
    capture.close()
    return found


def staged(data: ReplicaData, source: ReplicaData, bytes_max: int = 100) -> Staging:
    """All of another replica's state, staged."""
    staging = data.stage(SnapshotMeta(source.applied, source.membership))
    for chunk in chunks(source, bytes_max):
        staging.add(chunk)
    return staging


def drives() -> tuple[SimDrive, SimDrive]:
    return SimDrive(Random(1)), SimDrive(Random(2))


# Commits


def test_rows_applied_index_and_membership_are_one_batch() -> None:
    """Safeguards B21 and C09: whatever a crash keeps, the three belong together."""

    async def main() -> None:
        kept = set()
        for seed in range(60):
            drive = SimDrive(Random(seed))
            data = ReplicaData(drive.disk("data"), G1)
            data.adopt(7, ONE_VOTER)
            for index in range(1, 6):
                membership = TWO_VOTERS if index == 3 else None
                rows = [(b"k%d" % index, b"v"), (b"last", b"%d" % index)]
                data.commit(rows, entry_id(index, 1), membership)
                assert (data.get(b"last"), data.applied) == (b"%d" % index, (index, 1))
                if index == 2:
                    assert await data.flush() == 2
            drive.crash()

            data = ReplicaData(drive.disk("data"), G1)
            index = data.applied.index
            assert index >= 2, "flushed"
            expected = {b"k%d" % number: b"v" for number in range(1, index + 1)}
            assert contents(data) == {**expected, b"last": b"%d" % index}
            assert data.membership == (TWO_VOTERS if index >= 3 else ONE_VOTER)
            kept.add(index)
        assert kept == {2, 3, 4, 5}

    run(main())


def test_flush_answers_what_was_applied_when_it_began() -> None:
    async def main() -> None:
        drive = SimDrive(Random(1))
        data = state(drive)
        flushed = asyncio.ensure_future(data.flush())
        await asyncio.sleep(0)
        data.commit([(b"late", b"")], entry_id(9, 2), None)
        assert await flushed == 5

    run(main())


def test_groups_share_a_disk_and_see_only_their_own_rows() -> None:
    async def main() -> None:
        disk = SimDrive(Random(1)).disk("data")
        one, two = ReplicaData(disk, G1), ReplicaData(disk, G2)
        last = ReplicaData(disk, GroupId(2**63 - 1))
        for number, data in enumerate((one, two, last)):
            data.adopt(7, ONE_VOTER)
            data.commit([(b"", b"%d" % number), (END, b"")], entry_id(number + 1, 1), None)
        assert contents(one) == {b"": b"0"}
        assert contents(two) == {b"": b"1"}
        assert list(last.range(b"", END + b"\0", reverse=True)) == [(END, b""), (b"", b"2")]
        assert two.get(END) == b""

    run(main())


@pytest.mark.parametrize("applied", [entry_id(4, 2), entry_id(5, 1), entry_id(5, 3)])
def test_applied_never_falls_back(applied: EntryId) -> None:
    """Invariant R7. Only deletes of garbage come without an entry of their own."""

    async def main() -> None:
        data = state(SimDrive(Random(1)))
        data.commit([(b"key00000", None)], entry_id(5, 2), None)
        with pytest.raises(AssertionError):
            data.commit([], applied, None)

    run(main())


def test_a_damaged_progress_record_is_refused() -> None:
    async def main() -> None:
        drive = SimDrive(Random(1))
        await state(drive).flush()
        drive.crash()
        drive.flip_bit("data", group_key(PROGRESS, G1))
        with pytest.raises(DataUnusable, match=r"data database, group 1, progress"):
            ReplicaData(drive.disk("data"), G1)

    run(main())


# Snapshots


@pytest.mark.parametrize("rows", [0, 1, 20])
@pytest.mark.parametrize("bytes_max", [1, 60, 100, 1 << 20])
def test_a_snapshot_arrives_whole(rows: int, bytes_max: int) -> None:
    async def main() -> None:
        ours, theirs = drives()
        source = state(ours, rows)
        target = ReplicaData(theirs.disk("data"), G1)
        target.adopt(8, Membership())
        target.commit([(b"old", b"gone")], entry_id(1, 1), None)

        staging = staged(target, source, bytes_max)
        assert contents(target) == {b"old": b"gone"}, "staged beside the live rows"
        await staging.install()

        def check() -> None:
            assert contents(target) == contents(source)
            assert (target.applied, target.membership) == (entry_id(5, 2), TWO_VOTERS)
            assert (target.installed, target.incarnation) == (entry_id(5, 2), 8)

        check()
        theirs.crash()
        target = ReplicaData(theirs.disk("data"), G1)
        check()

    run(main())


def test_a_capture_stands_still() -> None:
    async def main() -> None:
        data = state(SimDrive(Random(1)))
        before = chunks(data)
        capture = data.capture()
        data.commit([(b"key00001", None), (b"new", b"")], entry_id(6, 3), ONE_VOTER)
        assert capture.meta == SnapshotMeta(entry_id(5, 2), TWO_VOTERS)
        assert list(capture.chunks(100)) == before

    run(main())


def test_chunks_are_bounded_but_hold_a_row_each() -> None:
    async def main() -> None:
        data = state(SimDrive(Random(1)))
        data.commit([(b"big", bytes(5_000))], entry_id(6, 2), None)
        sizes = [len(chunk) for chunk in chunks(data, 100)]
        assert sum(1 for size in sizes if size > 200) == 1
        assert max(sizes) < 5_100
        assert len(sizes) > 4

    run(main())


def sealed(rest: bytes) -> bytes:
    return crc32(rest).to_bytes(4, "big") + rest


def test_every_chunk_that_does_not_fit_is_refused() -> None:
    async def main() -> None:
        ours, theirs = drives()
        source = state(ours)
        target = ReplicaData(theirs.disk("data"), G1)
        target.adopt(8, ONE_VOTER)
        good = chunks(source)
        source.commit([(b"more", b"")], entry_id(6, 2), None)
        foreign = chunks(source)
        staging = target.stage(meta(5, 2))
        staging.add(good[0])

        newer = sealed(bytes([2]) + good[1][5:])
        cases = {
            "without its header": b"",
            "header": good[1][:20],
            "checksum": good[1][:-1],
            "checksum does": good[1][:40] + b"?" + good[1][41:],
            "format 2": newer,
            "of snapshot 6/2": foreign[1],
            "after 0 rows": good[0],
            "rows, where": good[2],
            "not msgpack": sealed(good[1][4:-1]),
            "in turn": sealed(good[1][4:30] + b"\x91\x01"),
        }
        for said, chunk in cases.items():
            with pytest.raises(BadChunk, match=said):
                staging.add(chunk)
        for chunk in good[1:]:
            assert not staging.complete
            staging.add(chunk)
        assert staging.complete, "a refused chunk changed nothing"
        with pytest.raises(BadChunk):
            staging.add(good[-1])

    run(main())


def test_a_bit_flipped_anywhere_in_a_chunk_is_refused() -> None:
    async def main() -> None:
        ours, theirs = drives()
        source = state(ours, 2)
        target = ReplicaData(theirs.disk("data"), G1)
        (chunk,) = chunks(source, 1 << 20)
        staging = target.stage(meta(5, 2))
        for bit in range(len(chunk) * 8):
            damaged = bytearray(chunk)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(BadChunk):
                staging.add(bytes(damaged))

    run(main())


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"]], ids=["falling", "twice"])
def test_keys_that_do_not_ascend_are_no_snapshot(keys: list[bytes]) -> None:
    """Also where checksum, count and digest are those of such a chunk."""
    body = msgpack.packb([field for key in keys for field in (key, b"v")])
    end = _CHUNK_END.pack(len(keys), _digest(_NO_DIGEST, body))
    rest = _CHUNK.pack(0, CHUNK_FORMAT, True, 5, 2, 0)[4:] + end + body
    chunk = crc32(rest).to_bytes(4, "big") + rest

    async def main() -> None:
        target = ReplicaData(drives()[0].disk("data"), G1)
        with pytest.raises(BadChunk, match="ascend"):
            target.stage(meta(5, 2)).add(chunk)

    run(main())


def test_a_stream_cut_short_or_spliced_is_no_snapshot() -> None:
    async def main() -> None:
        ours, theirs = drives()
        source, target = state(ours), ReplicaData(theirs.disk("data"), G1)
        target.adopt(8, ONE_VOTER)
        good = chunks(source)

        staging = target.stage(meta(5, 2))
        for chunk in good[:-1]:
            staging.add(chunk)
        with pytest.raises(AssertionError):
            await staging.install()

        # Another state of the same index: as many rows before the last chunk, other values in it.
        other, _ = drives()
        twin = ReplicaData(other.disk("data"), G1)
        twin.adopt(7, ONE_VOTER)
        rows = [(key, (value or b"")[::-1]) for key, value in filled(20)]
        twin.commit(rows, entry_id(5, 2), TWO_VOTERS)
        spliced = chunks(twin)
        staging = target.stage(meta(5, 2))
        for chunk in good[:-1]:
            staging.add(chunk)
        with pytest.raises(BadChunk, match="counts or sums"):
            staging.add(spliced[-1])

    run(main())


def test_an_older_snapshot_is_never_installed() -> None:
    """Safeguard C01."""

    async def main() -> None:
        ours, theirs = drives()
        source, target = state(ours), state(theirs, applied=5)
        staging = staged(target, source)
        with pytest.raises(AssertionError):
            await staging.install()

    run(main())


def test_install_numbers_are_never_used_again() -> None:
    """Safeguard H03: not after an abort, a crash, or a replica that is made anew."""

    async def main() -> None:
        for seed in range(40):
            ours, theirs = SimDrive(Random(1)), SimDrive(Random(seed))
            source = state(ours)
            data = state(theirs, applied=1)
            used = {data.install}
            for _ in range(4):
                staging = staged(data, source)
                assert staging.number not in used
                stale = theirs.durable("data")
                assert not [
                    key for key in stale if key[:1] == ROWS and _install(key) >= staging.number
                ]
                used = {number for number in used if number < staging.number}
                if seed % 2:
                    staging.abort()
                theirs.crash()
                data = ReplicaData(theirs.disk("data"), G1)
                rows = [key for key in theirs.durable("data") if key[:1] == ROWS]
                highest = max(map(_install, rows), default=0)
                assert data.stage(meta(9, 9)).number > highest
                used = {_install(key) for key in rows}

    run(main())


def _install(key: bytes) -> int:
    return int.from_bytes(key[9:17], "big")


def test_garbage_is_deleted_in_bounded_slices_and_nothing_else() -> None:
    async def main() -> None:
        ours, theirs = drives()
        source, target = state(ours, 30), state(theirs, 30, applied=1)
        neighbour = ReplicaData(target._disk, G2)
        neighbour.adopt(7, ONE_VOTER)
        neighbour.commit(filled(3), entry_id(1, 1), None)
        target.stage(meta(3, 2)).abort()
        given_up = staged(target, source)
        given_up.abort()
        installed = staged(target, source)
        await installed.install()
        source.commit([(b"more", b"")], entry_id(6, 2), None)
        coming = staged(target, source)

        def rows() -> int:
            prefix = ROWS + G1.to_bytes(8, "big")
            return sum(1 for _ in target._disk.range(prefix, prefix + END))

        assert rows() == 30 + 30 + 30 + 31
        slices = 0
        while target.collect_garbage(7):
            slices += 1
        assert rows() == 30 + 31
        assert slices == 9, "60 rows in slices of 7"
        assert len(contents(target)) == 30
        await coming.install()
        assert len(contents(target)) == 31
        while target.collect_garbage(1000):
            pass
        assert rows() == 31
        assert len(contents(neighbour)) == 3
        target._disk.get = None  # type: ignore[method-assign, assignment]
        target._disk.range = None  # type: ignore[method-assign, assignment]
        assert not target.collect_garbage(1000), "looking for none costs nothing"

    run(main())


def test_a_slice_of_garbage_is_bounded_in_bytes_too() -> None:
    async def main() -> None:
        ours, theirs = drives()
        target = ReplicaData(theirs.disk("data"), G1)
        target.adopt(7, ONE_VOTER)
        target.commit(filled(9, 1 << 20), entry_id(1, 1), None)
        await staged(target, state(ours)).install()
        slices = 0
        while target.collect_garbage(1000):
            slices += 1
        assert slices == 3

    run(main())


def test_what_is_given_up_after_the_last_garbage_went_is_garbage_too() -> None:
    async def main() -> None:
        ours, theirs = drives()
        source, target = state(ours, 30), state(theirs, 30, applied=1)
        coming = staged(target, source)
        while target.collect_garbage(1000):
            pass

        coming.abort()

        assert target.collect_garbage(1000)
        prefix = ROWS + G1.to_bytes(8, "big")
        assert sum(1 for _ in target._disk.range(prefix, prefix + END)) == 30

    run(main())


def test_garbage_left_by_an_earlier_life_is_found() -> None:
    async def main() -> None:
        ours, theirs = drives()
        target = state(theirs, 30, applied=1)
        await staged(target, state(ours)).install()
        theirs.crash()
        target = ReplicaData(theirs.disk("data"), G1)
        assert target.collect_garbage(1000)
        assert not target.collect_garbage(1000)
        await target.flush()
        assert sum(1 for key in theirs.durable("data") if key[:1] == ROWS) == 20

    run(main())


# Log and state together


async def both(storage: Storage, terms: str, applied: int) -> tuple[LogStore, ReplicaData]:
    """A log, and a state that has durably applied it up to an index."""
    store = await one_group(storage, terms)
    data = storage.data()
    await reconcile(store, data, G1)
    if applied:
        term = entries(1, terms)[applied - 1].term
        data.commit(filled(3), entry_id(applied, term), None)
    await data.flush()
    return store, data


async def again(storage: Storage, store: LogStore) -> tuple[LogStore, ReplicaData]:
    storage.cut(store)
    store = await storage.open()
    data = storage.data()
    await reconcile(store, data, G1)
    return store, data


def test_a_new_replica_takes_its_first_members_from_its_log() -> None:
    async def main() -> None:
        storage = Storage()
        store, data = await both(storage, "1 1", 0)
        assert (data.membership, data.applied, data.incarnation) == (ONE_VOTER, (0, 0), 7)
        store, data = await again(storage, store)
        assert data.membership == ONE_VOTER
        assert held(store) == [(1, 1), (2, 1)]

    run(main())


def test_state_behind_its_log_is_replayed() -> None:
    async def main() -> None:
        storage = Storage()
        store, data = await both(storage, "1 1 2", 2)
        data.commit([(b"lost", b"")], entry_id(3, 2), None)
        store, data = await again(storage, store)
        assert data.applied.index in (2, 3)
        assert loaded(store) == entries(1, "1 1 2")

    run(main())


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(meta(9, 4, TWO_VOTERS), id="past the log"),
        pytest.param(meta(3, 3, TWO_VOTERS), id="within the log, with another term"),
    ],
)
def test_an_install_that_a_crash_cut_in_two_is_finished(snapshot: SnapshotMeta) -> None:
    """The state flipped, the log did not restart: it does so at the next start."""

    async def main() -> None:
        storage = Storage()
        store, data = await both(storage, "1 1 2 2", 1)
        staging = data.stage(snapshot)
        source = ReplicaData(SimDrive(Random(3)).disk("data"), G1)
        source.adopt(1, ONE_VOTER)
        source.commit(filled(5), snapshot.last, snapshot.membership)
        for chunk in chunks(source):
            staging.add(chunk)
        await staging.install()

        for _ in range(2):
            store, data = await again(storage, store)
            assert (data.applied, contents(data)) == (snapshot.last, contents(source))
            assert (store.start(G1), store.last(G1)) == (snapshot, snapshot.last)
            assert loaded(store) == []
            assert store.hard_state(G1) == vote(max(2, snapshot.last.term), 0)

    run(main())


def test_an_installed_snapshot_keeps_its_log_when_it_is_started_again() -> None:
    async def main() -> None:
        storage = Storage()
        store, data = await both(storage, "1", 1)
        staging = data.stage(meta(5, 2))
        source = state(SimDrive(Random(3)))
        for chunk in chunks(source):
            staging.add(chunk)
        await staging.install()
        await store.reset(G1, SnapshotMeta(data.applied, data.membership))
        await store.save(G1, vote(3, 1), entries(6, "2 3"))
        store, data = await again(storage, store)
        assert loaded(store) == entries(6, "2 3")

    run(main())


def test_a_log_that_lost_what_was_applied_is_refused() -> None:
    """Within the promise's tenth of a second the state is the witness."""

    async def main() -> None:
        storage = Storage()
        store, data = await both(storage, "1 1", 2)
        image = storage.drive.image()
        await store.save(G1, None, entries(3, "1"))
        data.commit([(b"k", b"v")], entry_id(3, 1), None)
        await data.flush()
        storage.cut(store)
        now = storage.drive.image()
        image.volumes["data"] = now.volumes["data"]
        storage.drive.restore(image)
        store = await storage.open()
        with pytest.raises(DataUnusable, match="entry 3 of term 1 had been applied"):
            await reconcile(store, storage.data(), G1)

    run(main())


def test_a_state_that_lost_what_the_log_no_longer_has_is_refused() -> None:
    """Safeguard C08: a log cut before the rows were durable leaves a hole."""

    async def main() -> None:
        storage = Storage()
        store, _ = await both(storage, "1 1 1", 2)
        await store.cut(G1, meta(3, 1))
        storage.cut(store)
        store = await storage.open()
        with pytest.raises(DataUnusable, match="rows were lost that no log can replay"):
            await reconcile(store, storage.data(), G1)

    run(main())


def test_a_replica_made_anew_does_not_inherit_rows() -> None:
    async def main() -> None:
        storage = Storage()
        store, data = await both(storage, "1 1 1", 3)
        assert contents(data)
        await store.drop_replica(G1)
        await store.create_replica(record(replica=2, incarnation=8), SnapshotMeta())
        store, data = await again(storage, store)
        assert (data.applied, contents(data), data.incarnation) == ((0, 0), {}, 8)
        assert data.membership == Membership()
        while data.collect_garbage(100):
            pass
        await data.flush()
        rows = [key for key in storage.drive.durable("data") if key[:1] == ROWS]
        assert rows == []
        assert store.read(G1, Index(1), Index(1), 1) == ()

    run(main())


def test_rows_of_a_dropped_replica_go_in_slices_its_progress_last() -> None:
    """While any are there the record keeps a new replica from taking them for its own."""

    async def main() -> None:
        storage = Storage()
        store, data = await both(storage, "1 1 1", 3)
        held = len(contents(data))
        assert held > 1
        await store.drop_replica(G1)
        disk = data._disk

        def kinds() -> list[bytes]:
            return [key[:1] for key, _ in disk.range(b"", b"z") if key[:1] in (PROGRESS, ROWS)]

        assert not sweep_orphans(disk, [G1], 1), "held again: it is that replica's to clean up"
        assert kinds() == [PROGRESS] + [ROWS] * held
        assert sweep_orphans(disk, [], 1)
        assert kinds() == [PROGRESS] + [ROWS] * (held - 1)
        while sweep_orphans(disk, [], 1):
            assert kinds()[:1] in ([PROGRESS], [])
        assert kinds() == []

    run(main())
