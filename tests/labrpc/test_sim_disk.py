"""What the simulated drive keeps and what it forgets; the port's rules are in tests/conformance."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

import pytest

from labrpc.sim.disk import DiskFailed, SimDisk, SimDrive, Write
from labrpc.sim.loop import run

T = TypeVar("T")
A, B, C = b"a", b"b", b"c"


def all_rows(disk: SimDisk) -> dict[bytes, bytes]:
    return dict(disk.range(b"", b"\xff"))


def every_end(scenario: "type[Any] | Any", seeds: int = 100) -> list[Any]:
    """The distinct results of a scenario over many seeds, in order of first sight."""
    seen: list[Any] = []
    for seed in range(seeds):
        result = run(scenario(SimDrive(Random(seed))), seed=seed)
        if result not in seen:
            seen.append(result)
    return seen


def test_a_crash_keeps_what_was_synced() -> None:
    async def scenario(drive: SimDrive) -> dict[bytes, bytes]:
        await drive.disk("log").sync([(A, b"1")])
        drive.crash()
        return all_rows(drive.disk("log"))

    assert every_end(scenario) == [{A: b"1"}]


def test_a_crash_keeps_a_prefix_of_the_calls_under_way() -> None:
    async def scenario(drive: SimDrive) -> dict[bytes, bytes]:
        disk = drive.disk("log")
        disk.sync([(A, b"1"), (B, b"1")])  # one call is never torn
        disk.sync([(C, b"2")])
        await asyncio.sleep(drive.sync_seconds / 2)
        drive.crash()
        return all_rows(drive.disk("log"))

    ends = every_end(scenario)

    assert sorted(ends, key=len) == [{}, {A: b"1", B: b"1"}, {A: b"1", B: b"1", C: b"2"}]


def test_a_sync_not_yet_handed_over_is_lost() -> None:
    async def scenario(drive: SimDrive) -> dict[bytes, bytes]:
        drive.disk("log").sync([(A, b"1")])
        drive.crash()
        return all_rows(drive.disk("log"))

    assert every_end(scenario) == [{}]


def test_no_sync_saves_an_unsynced_write() -> None:
    """LevelDB syncs only its newest log file: a synced put kept the applied index and lost the
    rows written before it, with paranoid checks on."""

    async def scenario(drive: SimDrive) -> dict[bytes, bytes]:
        disk = drive.disk("data")
        disk.write([(A, b"row")])
        await disk.sync([(B, b"applied")])
        drive.crash()
        return all_rows(drive.disk("data"))

    assert sorted(every_end(scenario), key=len) == [{B: b"applied"}, {A: b"row", B: b"applied"}]


def test_a_flush_saves_what_was_written_before_it_began() -> None:
    async def scenario(drive: SimDrive) -> dict[bytes, bytes]:
        disk = drive.disk("data")
        disk.write([(A, b"1")])
        flushing = asyncio.ensure_future(disk.flush())
        await asyncio.sleep(drive.flush_seconds / 2)
        disk.write([(A, b"2"), (B, b"2")])
        await flushing
        drive.crash()
        return all_rows(drive.disk("data"))

    assert every_end(scenario) == [{A: b"1"}, {A: b"2", B: b"2"}]


def test_unsynced_writes_survive_only_as_a_prefix() -> None:
    async def scenario(drive: SimDrive) -> str:
        disk = drive.disk("data")
        for number in range(4):
            disk.write([(b"%d" % number, b"x")])
        drive.crash()
        return b"".join(all_rows(drive.disk("data"))).decode()

    assert sorted(every_end(scenario, seeds=300)) == ["", "0", "01", "012", "0123"]


def test_unflushed_rows_do_not_outlive_their_process() -> None:
    """At every start the write-ahead log of the data database is set aside."""

    async def scenario(drive: SimDrive) -> dict[bytes, bytes]:
        disk = drive.disk("data")
        disk.write([(A, b"1")])
        await disk.close()
        return all_rows(drive.disk("data"))

    assert every_end(scenario) == [{}]


def test_a_process_that_ends_leaves_what_it_handed_over() -> None:
    async def scenario(drive: SimDrive) -> tuple[dict[bytes, bytes], bytes]:
        drive.disk("log").sync([(A, b"1")])
        drive.slot("promise").write(b"new")
        await asyncio.sleep(drive.sync_seconds / 2)
        drive.end_process()
        return all_rows(drive.disk("log")), drive.slot("promise").read()

    assert every_end(scenario) == [({A: b"1"}, b"new")]


def test_a_slot_under_way_is_old_new_or_torn() -> None:
    async def scenario(drive: SimDrive) -> bytes:
        slot = drive.slot("promise")
        await slot.write(b"oooo")
        slot.write(b"nnnn")
        await asyncio.sleep(drive.sync_seconds / 2)
        drive.crash()
        return drive.slot("promise").read()

    assert sorted(every_end(scenario)) == [b"nnnn", b"nnno", b"nnoo", b"nooo", b"oooo"]


def test_the_dead_reach_the_drive_no_more() -> None:
    async def scenario(drive: SimDrive) -> tuple[dict[bytes, bytes], bytes, bool]:
        disk, slot = drive.disk("log"), drive.slot("promise")
        drive.crash()
        disk.write([(A, b"1")])
        futures = [disk.sync([(A, b"1")]), slot.write(b"1")]
        await asyncio.sleep(1.0)
        rows, record = all_rows(drive.disk("log")), drive.slot("promise").read()
        return rows, record, any(future.done() for future in futures)

    assert every_end(scenario) == [({}, b"", False)]


def test_a_failed_sync_ends_the_node_and_resolves_nothing() -> None:
    async def main() -> tuple[list[str], bool]:
        failures: list[str] = []
        drive = SimDrive(Random(1), on_failure=lambda error: failures.append(str(error)))
        drive.fail_next()
        future = drive.disk("log").sync([(A, b"1")])
        await asyncio.sleep(1.0)
        await drive.disk("log").sync([(A, b"2")])  # the next life finds a working disk
        return failures, future.done()

    assert run(main()) == (["input/output error"], False)


@pytest.mark.parametrize("room", [0, 3])
def test_a_full_disk_fails_the_first_write_that_does_not_fit(room: int) -> None:
    async def main() -> None:
        drive = SimDrive(Random(1))
        disk = drive.disk("data")
        drive.room = room
        if room:
            disk.write([(A, b"")])
        with pytest.raises(DiskFailed, match="no space left"):
            disk.write([(A, b"123")])
        drive.heal()
        assert all_rows(drive.disk("data")) == {}

    run(main())


def test_a_failed_sync_that_nobody_handles_fails_the_run() -> None:
    async def main() -> None:
        drive = SimDrive(Random(1))
        drive.fail_next()
        drive.disk("log").sync([(A, b"1")])
        await asyncio.sleep(1.0)

    with pytest.raises(Exception, match="input/output error"):
        run(main())


def test_a_flipped_bit_is_seen_by_the_living_and_after_a_crash() -> None:
    async def scenario(drive: SimDrive) -> tuple[int, bool]:
        disk = drive.disk("log")
        await disk.sync([(A, b"\x00\x00")])
        assert drive.flip_bit("log") == A
        damaged = disk.get(A)
        drive.crash()
        assert damaged is not None
        return int.from_bytes(damaged, "big").bit_count(), drive.disk("log").get(A) == damaged

    assert every_end(scenario) == [(1, True)]


def test_an_old_image_comes_back_whole() -> None:
    async def scenario(drive: SimDrive) -> tuple[bytes | None, bytes]:
        disk, slot = drive.disk("log"), drive.slot("promise")
        await disk.sync([(A, b"1")])
        await slot.write(b"1")
        image = drive.image()
        await disk.sync([(A, b"2")])
        await slot.write(b"2")
        drive.crash()
        drive.restore(image)
        return drive.disk("log").get(A), drive.slot("promise").read()

    assert every_end(scenario) == [(b"1", b"1")]


def test_the_watchers_shadow_is_the_durable_image() -> None:
    """What they are told adds up to what a new process finds, whatever the crash left."""

    async def scenario(drive: SimDrive) -> bool:
        shadow: dict[bytes, bytes] = {}

        def watch(name: str, batch: "list[Write] | Any") -> None:
            for key, value in batch:
                if value is None:
                    shadow.pop(key, None)
                else:
                    shadow[key] = value

        drive.watch(watch)
        disk = drive.disk("data")
        for number in range(20):
            disk.write([(b"w%d" % (number % 7), b"%d" % number)])
            disk.sync([(b"s%d" % number, b"x"), (b"s%d" % (number - 2), None)])
            await asyncio.sleep(drive.sync_seconds / 3)
            if number == 10:
                await disk.flush()
        drive.crash()
        return shadow == all_rows(drive.disk("data"))

    assert every_end(scenario) == [True]


def test_a_slow_disk_takes_its_time() -> None:
    async def main(drive: SimDrive) -> float:
        drive.sync_seconds = 2.0
        await drive.disk("log").sync([(A, b"1")])
        return asyncio.get_running_loop().time()

    work: Coroutine[Any, Any, float] = main(SimDrive(Random(1)))
    assert run(work) == 2.0


def test_rows_are_weighed_without_reading_them() -> None:
    """Whoever watches a disk must not be the reader at whose read the node ends."""

    async def main() -> None:
        drive = SimDrive(Random(1))
        disk = drive.disk("data")
        disk.write([(A, b"1"), (B, b"22"), (b"bb", b"333")])
        drive.fail_next_read()

        assert disk.weigh(1) == {A: [1, 1 + 1], B: [2, 1 + 2 + 2 + 3]}
        with pytest.raises(DiskFailed):
            disk.get(A)

    run(main())


def test_what_was_weighed_once_follows_each_write() -> None:
    """As a count of all rows would say, whatever is put, replaced, deleted and put again."""

    async def main() -> None:
        rng, drive = Random(4711), SimDrive(Random(1))
        disk = drive.disk("data")
        disk.weigh(2)
        for turn in range(300):
            keys = [
                bytes(rng.choices(b"ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 4))
            ]
            batch: list[Write] = [
                (key, b"x" * rng.randint(0, 9) if rng.random() < 0.6 else None) for key in keys
            ]
            disk.write(batch)
            if turn % 50 == 10:
                disk.snapshot()
            if turn % 50 == 20:
                drive.fail_next_read()
            if turn % 50 == 30:
                drive.heal()
            counted: dict[bytes, list[int]] = {}
            for key, row in disk.rows():
                held = counted.setdefault(key[:2], [0, 0])
                held[0], held[1] = held[0] + 1, held[1] + len(key) + len(row)
            assert disk.weigh(2) == counted

    run(main())
