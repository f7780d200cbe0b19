"""Pages of keys: the merge of many shards' rows, against a list that is sorted at once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from labrpc.sim.disk import SimDrive
from labrpc.sim.loop import run
from raft.disk.heads import Head, heads
from raft.disk.leveldb import LevelDB
from raft.ports import Disk
from shardkv import listing
from shardkv.limits import PAGE_BYTES_MAX, PAGE_ROWS_MAX, VALUE_BYTES_MAX
from shardkv.listing import From, Least, Listed, ListFrame, ListReply, Part, answer_list
from shardkv.protocol import BadFrame, pack
from shardkv.rows import encode_row
from shardkv.scan import rows_wanted
from shardkv.tokens import NOTHING
from shardkv.types import Version
from tests.support.stores import S0, A, Group, configures, put

SHARDS = 8
MANY = 10**9


class Store:
    """Rows of some shards on a disk of the simulation; each shard's lie below its number."""

    def __init__(self, keys: Sequence[bytes], rng: Random, value_bytes: int = 10) -> None:
        self.disk = SimDrive(Random(1)).disk("data")
        self.all: list[Listed] = []
        self.shards: dict[bytes, int] = {}
        for number, key in enumerate(sorted(keys), 1):
            value = rng.randbytes(rng.randrange(1, value_bytes))
            self.all.append(Listed(key, Version(number), value))
            row = encode_row(number, value)
            shard = self.shards[key] = rng.randrange(SHARDS)
            self.disk.write([(b"%c" % shard + key, row)])

    def least(self, rows_max: int, shards: Sequence[int] = range(SHARDS)) -> Least:
        spans = [(b"%c" % shard, b"%c" % (shard + 1)) for shard in shards]
        return Least(self.disk, spans, rows_max, skip=1)


def keys(rng: Random, count: int) -> list[bytes]:
    return [b"key/%06d" % number for number in rng.sample(range(10**6), count)]


@pytest.mark.parametrize("seed", range(20))
def test_the_least_rows_of_all_shards_come_in_order(seed: int) -> None:
    rng = Random(seed)
    store = Store(keys(rng, rng.choice([0, 1, 5, 100, 400])), rng)
    wanted = rng.choice([1, 7, 50, 1000])
    least = store.least(wanted)

    taken = least.take(wanted, MANY, values=True)

    assert list(taken) == store.all[:wanted]
    if len(store.all) <= wanted:
        assert not any(least.more(shard) for shard in range(SHARDS)), "all was taken"


@pytest.mark.parametrize("seed", range(10))
def test_a_shard_with_more_says_so_and_only_one_that_may(seed: int) -> None:
    """What follows the last row in a shard without more would be lost."""
    rng = Random(seed)
    store = Store(keys(rng, 60), rng)
    least = store.least(20)
    last = least.take(20, MANY, values=False)[-1].key

    for shard in range(SHARDS):
        rest = store.disk.range(b"%c" % shard + last + b"\0", b"%c" % (shard + 1))
        assert least.more(shard) or not list(rest)


def test_one_shard_may_hold_all_of_them() -> None:
    """Far more than its share: it is read again until the page is full."""
    store = Store([], Random(1))
    for number in range(300):
        store.disk.write([(b"\3key/%06d" % number, encode_row(1, b"v"))])

    taken = store.least(200).take(200, MANY, values=False)

    assert [row.key for row in taken] == [b"key/%06d" % number for number in range(200)]


def test_a_page_ends_where_its_bytes_do_and_has_one_row_at_least() -> None:
    rng = Random(2)
    store = Store(keys(rng, 50), rng, value_bytes=100)

    some = store.least(50).take(50, 500, values=True)
    size = sum(len(row.key) + listing.ROW_OVERHEAD_BYTES + len(row.value or b"") for row in some)

    assert list(some) == store.all[: len(some)]
    assert 1 < len(some) < 50
    assert size <= 500
    assert list(store.least(50).take(50, 1, values=True)) == store.all[:1]


def test_large_rows_are_not_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not looked at is told apart: its next row may be the least of all."""
    monkeypatch.setattr(listing, "SCAN_BYTES_MAX", 1000)
    store = Store([], Random(3))
    for shard in range(SHARDS):
        rows = [(b"%ckey/%d" % (shard, n), encode_row(1, bytes(400))) for n in range(3)]
        store.disk.write(rows)
    least = store.least(100)

    taken = least.take(100, MANY, values=False)
    looked_at = [shard for shard in range(SHARDS) if least.more(shard) is not None]

    assert 0 < len(looked_at) < SHARDS
    assert 0 < len(taken) <= 5
    assert all(least.more(shard) for shard in looked_at)


@pytest.mark.parametrize("seed", range(20))
def test_however_little_may_be_read_no_row_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Of the shards that were looked at: who goes on in them after the last key of a page would
    never come to it. Of the others nothing was said."""
    rng = Random(seed)
    monkeypatch.setattr(listing, "SCAN_BYTES_MAX", rng.randrange(1, 3000))
    store = Store(keys(rng, 200), rng, value_bytes=100)

    least = store.least(30)

    taken = least.take(30, MANY, values=True)

    seen = [row for row in store.all if least.more(store.shards[row.key]) is not None]
    assert list(taken) == seen[: len(taken)] != []


def answered(group: Group, **asked: Any) -> ListReply:
    """What a replica that is young enough says."""
    replica = SimpleNamespace(
        age=0.0, applied=group.index, store=SimpleNamespace(reader=group.rows)
    )
    server = SimpleNamespace(
        machine=group.machine,
        holds=None,
        look_for=lambda number: None,
        replica=replica,
        rsm=SimpleNamespace(stopped_because=None),
    )
    frame = ListFrame(group.gid, 1, True, 1000, b"", True, 10**6, 10**9, (From(S0, None, NOTHING),))

    async def main() -> ListReply:
        return await answer_list(server, frame._replace(**asked))  # type: ignore[arg-type]

    return run(main())


def test_a_page_has_its_bounds_whoever_asks_for_more() -> None:
    group = Group(A)
    for configure in configures([A] * 4):
        group.apply(configure)
    session = group.open()
    for seq in range(1, PAGE_ROWS_MAX + 2):
        group.apply(put(session, seq, b"k%05d" % seq, b"v", floor=seq))
    reply = answered(group)
    assert len(reply.rows) == PAGE_ROWS_MAX and reply.parts == (Part(1, True),)

    size = VALUE_BYTES_MAX
    for seq in range(PAGE_ROWS_MAX + 2, PAGE_ROWS_MAX + 2 + PAGE_BYTES_MAX // size + 1):
        group.apply(put(session, seq, b"large%05d" % seq, bytes(size), floor=seq))
    reply = answered(group, prefix=b"large")
    assert 0 < sum(len(row.value or b"") for row in reply.rows) <= PAGE_BYTES_MAX
    assert reply.parts == (Part(1, True),)


def test_more_that_follow_no_row_are_refused() -> None:
    with pytest.raises(BadFrame, match="follow none"):
        listing.decode_list_reply(pack([1, 0, 7, 100, [[200, 4, True]], []]))


@pytest.mark.parametrize(
    ("rows_max", "shards", "of", "rows"),
    [
        pytest.param(50, 64, 64, 50, id="the only group gives all"),
        pytest.param(100, 16, 64, 40, id="one of four: its share and a margin"),
        pytest.param(1, 1, 64, 1, id="one at least"),
        pytest.param(10**6, 64, 64, PAGE_ROWS_MAX, id="no more than a page"),
        pytest.param(None, 1, 64, PAGE_ROWS_MAX, id="all that there are: whole pages"),
    ],
)
def test_a_group_is_asked_for_what_it_may_hold_of_the_list(
    rows_max: int | None, shards: int, of: int, rows: int
) -> None:
    assert rows_wanted(rows_max, shards, of) == rows


# The first rows of many ranges


def by_range(disk: Disk, ranges: Sequence[tuple[bytes, bytes]], rows_max: int) -> list[Head]:
    found = []
    for lo, hi in ranges:
        rows = list(disk.range(lo, hi))
        head = rows[:rows_max]
        size = sum(len(value) for _, value in head)
        found.append(Head(head, len(rows) < rows_max, size))
    return found


def test_leveldb_reads_heads_as_it_reads_ranges(tmp_path: Path) -> None:
    """In tables, handed over, and not yet: what was written last counts, and deletes do."""

    async def scenario() -> None:
        rng = Random(4)
        disk = LevelDB.create(tmp_path / "data")
        ranges = [(b"%c" % n, b"%c" % (n + 1)) for n in range(6)]
        ranges += [(b"\2k5", b"\2k5"), (b"\7", b"\x08"), (b"\1k2", b"\1k7")]
        for turn in range(12):
            batch = [
                (b"%ck%d" % (rng.randrange(6), rng.randrange(10)), rng.choice([b"", b"v", None]))
                for _ in range(25)
            ]
            disk.write([(key, value and value + b"%d" % turn) for key, value in batch])
            if turn in (3, 7):
                await disk.flush()
            for rows_max in (1, 3, 100):
                found = heads(disk, ranges, rows_max, MANY)
                assert found == by_range(disk, ranges, rows_max)
        assert heads(disk, [], 3, MANY) == []
        bounded = heads(disk, ranges, 100, 8)
        whole = heads(disk, ranges, 100, MANY)
        assert len(bounded) < len(whole)
        assert bounded[:-1] == whole[: len(bounded) - 1]
        assert bounded[-1].rows == whole[len(bounded) - 1].rows[: len(bounded[-1].rows)]
        await disk.close()

    asyncio.run(scenario())


def test_the_simulated_disk_reads_heads_by_ranges() -> None:
    async def scenario() -> None:
        store = Store(keys(Random(5), 40), Random(5))
        ranges = [(b"%c" % n, b"%c" % (n + 1)) for n in range(SHARDS)]
        assert heads(store.disk, ranges, 3, MANY) == by_range(store.disk, ranges, 3)
        assert len(heads(store.disk, ranges, 3, 1)) == 1, "the first one passes the bound"

    run(scenario())
