"""Reads, sessions and lists of the blocking store, embedded: what a script writes."""

from itertools import islice
from pathlib import Path

import pytest

import shardkv


def test_every_consistency_sessions_and_lists_without_asyncio(tmp_path: Path) -> None:
    with shardkv.open(tmp_path / "store", shards=8) as kv:
        seen = kv.session()
        keys = [f"key {number:04}" for number in range(700)]
        for key in keys[:3]:
            kv.put(key, key, session=seen)
        for key in keys[3:]:
            kv.put(key, "")
        again = kv.session(str(seen))
        for consistency in ("linearizable", "spread", "stale"):
            assert kv.get(keys[0], consistency=consistency, session=again) == keys[0].encode()
        kv.append(keys[0], "!", session=seen)
        row = kv.get_row(keys[0], consistency="stale", max_age=60, session=seen)
        assert (row.value, row.version) == (b"key 0000!", 2)

        listed = list(kv.list("key "))
        assert [row.key.decode() for row in listed] == keys
        assert listed[0] == shardkv.Listed(b"key 0000", listed[0].version, None)
        page = kv.list_page("key ", limit=5, after=keys[9], values=True)
        assert [row.key.decode() for row in page.rows] == keys[10:15]
        more = kv.list_page("key ", limit=5, token=page.token, values=True)
        assert [row.key.decode() for row in more.rows] == keys[15:20]


def test_a_list_may_be_left_in_the_middle(tmp_path: Path) -> None:
    with shardkv.open(tmp_path / "store", shards=8) as kv:
        for number in range(600):
            kv.put(f"{number:03}", "")
        assert [row.key for row in islice(kv.list(), 2)] == [b"000", b"001"]
        kv.delete("000", session=kv.session())
        assert next(iter(kv.list())).key == b"001"

    with pytest.raises(shardkv.Closed):
        next(iter(kv.list()))


def test_a_write_that_is_named_may_be_repeated_by_whoever_comes_after(tmp_path: Path) -> None:
    for _ in range(2):  # the second one as another process, which does not know what became of it
        with shardkv.open(tmp_path / "store", shards=8) as kv:
            assert kv.append("log", "paid ", once="order-4711") == 1
            assert kv.put("lock", "mine", if_version=0, once=b"c") == 1
            assert kv.batch([shardkv.Append("n", "1")], once="b") == [1]
            kv.delete("gone", if_version=0, once="d")
    with shardkv.open(tmp_path / "store") as kv:
        assert (kv.get("log"), kv.get("n")) == (b"paid ", b"1")
        with pytest.raises(shardkv.ShardKVError, match="a different request"):
            kv.append("log", "again ", once="order-4711")
        with pytest.raises(shardkv.VersionMismatch):
            kv.delete("log", if_version=7)
        for name in ("", "n" * 256):
            with pytest.raises(shardkv.InvalidArgument, match="once must be 1 to 255 bytes"):
                kv.append("log", "x", once=name)
