"""What every disk keeps to: the simulated one and LevelDB.

To add an adapter, write a `Bench` for it and give it a line in `BENCHES`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest

from labrpc.sim.disk import SimDrive
from labrpc.sim.loop import run
from raft.disk.leveldb import FileSlot, LevelDB, Worker
from raft.ports import Disk, Slot


class Bench(Protocol):
    """One place to store things, whatever it is made of."""

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a scenario on the kind of loop that this adapter needs."""
        ...

    def open(self) -> Disk:
        """A handle on the map; the one before is closed."""
        ...

    def slot(self) -> Slot:
        """A handle on the record."""
        ...

    def dispose(self) -> None: ...


class SimBench:
    def __init__(self, directory: Path) -> None:
        self._drive = SimDrive(Random(1))

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    def open(self) -> Disk:
        return self._drive.disk("map")

    def slot(self) -> Slot:
        return self._drive.slot("record")

    def dispose(self) -> None:
        pass


class LevelDBBench:
    """Real files. The map trusts its write-ahead log, as one whose writes are all synced may."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._worker = Worker("slots")
        self._slots: list[FileSlot] = []
        self._created = False

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        asyncio.run(main)

    def open(self) -> Disk:
        path = self._directory / "map"
        if self._created:
            return LevelDB.open(path, trust_log=True)
        self._created = True
        return LevelDB.create(path)

    def slot(self) -> Slot:
        self._slots.append(FileSlot(self._directory / "record", self._worker))
        return self._slots[-1]

    def dispose(self) -> None:
        self._worker.stop()
        for slot in self._slots:
            slot.close()


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "sim": SimBench,
    "leveldb": LevelDBBench,
}


@pytest.fixture(params=sorted(BENCHES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = BENCHES[request.param](tmp_path)
    yield made
    made.dispose()


def keys(rows: Iterator[tuple[bytes, bytes]]) -> list[bytes]:
    return [key for key, _ in rows]


def test_what_is_written_is_read_back_at_once(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()

        disk.write([(b"k", b"1"), (b"l", b"")])

        assert disk.get(b"k") == b"1"
        assert disk.get(b"l") == b"", "an empty value is not an absent one"
        assert disk.get(b"m") is None
        await disk.close()

    bench.run(main())


def test_a_batch_is_applied_in_order(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()

        disk.write([(b"k", b"1"), (b"k", None), (b"k", b"2"), (b"gone", b"x"), (b"gone", None)])
        await disk.sync([(b"s", b"1"), (b"s", b"2")])

        assert list(disk.range(b"", b"\xff")) == [(b"k", b"2"), (b"s", b"2")]
        await disk.close()

    bench.run(main())


@pytest.mark.parametrize(
    ("lo", "hi", "found"),
    [
        pytest.param(b"b", b"d", [b"b", b"c"], id="the low end is in and the high end is not"),
        pytest.param(b"aa", b"c", [b"b"], id="the ends need not exist"),
        pytest.param(b"b", b"c", [b"b"], id="the low end alone"),
        pytest.param(b"", b"\xff", [b"a", b"b", b"c", b"d"], id="everything"),
        pytest.param(b"c", b"c", [], id="nothing lies between a key and itself"),
        pytest.param(b"d", b"b", [], id="nothing lies between ends that crossed"),
        pytest.param(b"x", b"y", [], id="nothing lies past the last key"),
    ],
)
def test_ranges_come_in_key_order(bench: Bench, lo: bytes, hi: bytes, found: list[bytes]) -> None:
    async def main() -> None:
        disk = bench.open()
        disk.write([(key, key.upper()) for key in (b"c", b"a", b"d", b"b")])

        assert keys(disk.range(lo, hi)) == found
        assert keys(disk.range(lo, hi, reverse=True)) == found[::-1]
        assert list(disk.range(lo, hi)) == [(key, key.upper()) for key in found]
        await disk.close()

    bench.run(main())


def test_keys_are_ordered_as_bytes(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        ordered = [b"\x00", b"\x00\x00", b"\x01", b"a", b"a\x00", b"aa", b"\x7f", b"\x80", b"\xfe"]

        disk.write([(key, b"x") for key in reversed(ordered)])

        assert keys(disk.range(b"", b"\xff")) == ordered
        await disk.close()

    bench.run(main())


def test_a_range_does_not_see_what_is_written_while_it_is_read(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        disk.write([(b"a", b"1"), (b"b", b"1"), (b"c", b"1")])

        rows = disk.range(b"", b"\xff")
        first = next(rows)
        disk.write([(b"b", None), (b"c", b"2"), (b"d", b"2")])

        assert [first, *rows] == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]
        await disk.close()

    bench.run(main())


def test_a_snapshot_stands_still(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        disk.write([(b"a", b"1"), (b"b", b"1")])

        snapshot = disk.snapshot()
        disk.write([(b"a", b"2"), (b"b", None), (b"c", b"2")])
        later = disk.snapshot()
        await disk.sync([(b"d", b"3")])

        assert list(snapshot.range(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"1")]
        assert list(snapshot.range(b"", b"\xff", reverse=True)) == [(b"b", b"1"), (b"a", b"1")]
        assert (snapshot.get(b"b"), snapshot.get(b"c")) == (b"1", None)
        assert list(later.range(b"", b"\xff")) == [(b"a", b"2"), (b"c", b"2")]
        snapshot.close()
        later.close()
        await disk.close()

    bench.run(main())


def test_syncs_resolve_in_call_order_and_are_visible_then(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        resolved: list[int] = []
        futures: list[asyncio.Future[None]] = []

        def note(number: int, _: "asyncio.Future[None]") -> None:
            resolved.append(number)

        for number in range(10):
            future = disk.sync([(b"k", b"%d" % number), (b"k%d" % number, b"x")])
            future.add_done_callback(partial(note, number))
            futures.append(future)
            if number % 3 == 0:
                await asyncio.sleep(0)

        await futures[4]
        assert disk.get(b"k4") == b"x"
        await futures[-1]
        await asyncio.sleep(0)

        assert resolved == list(range(10))
        assert disk.get(b"k") == b"9"
        await disk.close()

    bench.run(main())


def test_a_waiter_that_gives_up_does_not_undo_its_sync(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()

        given_up = disk.sync([(b"a", b"1")])
        after = disk.sync([(b"b", b"1")])
        given_up.cancel()
        await after

        assert (disk.get(b"a"), disk.get(b"b")) == (b"1", b"1")
        await disk.close()

    bench.run(main())


def test_an_empty_sync_resolves(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        await disk.sync([])
        await disk.close()

    bench.run(main())


def test_what_was_synced_or_flushed_is_there_when_opened_again(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        disk.write([(b"flushed", b"1"), (b"gone", b"1")])
        disk.write([(b"gone", None)])
        await disk.flush()
        await disk.sync([(b"synced", b"2")])
        await disk.close()

        disk = bench.open()
        assert list(disk.range(b"", b"\xff")) == [(b"flushed", b"1"), (b"synced", b"2")]
        await disk.close()

    bench.run(main())


def test_closing_waits_for_the_syncs_under_way(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        disk.sync([(b"a", b"1")])
        await asyncio.sleep(0)
        disk.sync([(b"b", b"1")])
        await disk.close()

        disk = bench.open()
        assert keys(disk.range(b"", b"\xff")) == [b"a", b"b"]
        await disk.close()

    bench.run(main())


def test_a_flush_of_nothing_returns(bench: Bench) -> None:
    async def main() -> None:
        disk = bench.open()
        await disk.flush()
        await asyncio.gather(disk.flush(), disk.flush())
        await disk.close()

    bench.run(main())


def test_a_slot_reads_as_empty_before_its_first_write(bench: Bench) -> None:
    async def main() -> None:
        assert bench.slot().read() == b""

    bench.run(main())


def test_a_slot_holds_its_last_record(bench: Bench) -> None:
    async def main() -> None:
        slot = bench.slot()

        for record in (b"first" * 10, b"second" * 10, b"second" * 10):
            await slot.write(record)
            assert slot.read()[: len(record)] == record

    bench.run(main())


def test_slot_writes_land_in_call_order(bench: Bench) -> None:
    async def main() -> None:
        slot = bench.slot()

        first, second = slot.write(b"1111"), slot.write(b"2222")
        await second

        assert first.done()
        assert slot.read()[:4] == b"2222"

    bench.run(main())
