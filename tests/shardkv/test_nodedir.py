"""A node's directory is made whole or not at all, and is nobody else's."""

import asyncio
import os
from pathlib import Path
from random import Random

import pytest

from raft.disk.leveldb import LevelDB
from raft.disk.records import NodeIdentity
from raft.errors import DataInUse, DataUnusable, StorageFailed
from raft.types import NodeId
from shardkv import nodedir
from shardkv.config import ConfigError, load
from shardkv.node import check_identity, run
from shardkv.nodedir import NodeLock

CLUSTER = bytes(range(16))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    directory = tmp_path / "n1"
    nodedir.create(directory, cluster=CLUSTER, settings={"node": "n1", "shards": 8})
    return directory


def test_what_was_made_opens_and_says_whose_it_is(made: Path) -> None:
    assert nodedir.identity(made) == NodeIdentity(CLUSTER, NodeId("n1"))
    settings = load(file=made / "node.yaml").config
    assert (settings.node, settings.shards) == ("n1", 8)


def test_it_is_never_made_over_something(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match="a node is there already"):
        nodedir.create(made, cluster=CLUSTER, settings={"node": "n1"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    with pytest.raises(DataUnusable, match="not empty, and no node"):
        nodedir.create(tmp_path / "full", cluster=CLUSTER, settings={"node": "n1"})


def test_an_empty_directory_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    nodedir.create(tmp_path / "n1", cluster=CLUSTER, settings={"node": "n1"})

    assert nodedir.exists(tmp_path / "n1")


def test_what_an_earlier_attempt_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "n1.new").mkdir()
    (tmp_path / "n1.new" / "half").touch()
    nodedir.create(tmp_path / "n1", cluster=CLUSTER, settings={"node": "n1"})

    assert [path.name for path in tmp_path.iterdir()] == ["n1"]


def test_a_node_never_makes_a_directory(tmp_path: Path) -> None:
    for directory in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataUnusable, match="not initialised; run `shardkv init"):
            run(directory, flags={})
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(made: Path) -> None:
    lock = NodeLock(made)
    with pytest.raises(DataInUse, match="in use by another process"):
        run(made, flags={})
    lock.release()
    NodeLock(made).release()


def test_who_runs_on_a_directory_is_known_without_disturbing_him(made: Path) -> None:
    assert nodedir.runner(made) is None, "it has never run"
    lock = NodeLock(made)

    assert nodedir.runner(made) == os.getpid()
    with pytest.raises(DataInUse):
        NodeLock(made)

    lock.release()
    assert nodedir.runner(made) is None
    NodeLock(made).release()


def test_settings_of_another_node_are_refused(made: Path) -> None:
    settings = load(flags={"node": "n2"}).config
    with pytest.raises(DataUnusable, match=r"belongs to node n1 of cluster 0001.*settings say n2"):
        check_identity(made, settings, nodedir.identity(made))


def test_wrong_settings_are_refused_before_the_data_is_opened(made: Path) -> None:
    before = sorted(path.name for path in (made / "log").iterdir())
    with pytest.raises(ConfigError, match="--heartbeat-ms: '1' must be from 10 to 60000 ms"):
        run(made, flags={"heartbeat_ms": "1"})
    assert sorted(path.name for path in (made / "log").iterdir()) == before


@pytest.mark.parametrize("change", ["cut", "deleted", "zeroed"])
def test_both_promises_lost_is_refused_and_one_is_enough(made: Path, change: str) -> None:
    def damage(path: Path) -> None:
        if change == "deleted":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:20] if change == "cut" else bytes(64))

    damage(made / "promise-a")
    assert nodedir.identity(made).node == "n1"
    damage(made / "promise-b")
    with pytest.raises(DataUnusable, match=r"promise-a and .*promise-b: missing or damaged"):
        nodedir.identity(made)


@pytest.mark.parametrize("damage", ["a bit", "cut short", "emptied"])
def test_a_damaged_table_is_found_at_the_start_whoever_would_read_it(
    made: Path, damage: str
) -> None:
    """In the middle of the largest table: nothing but reading it through can find it."""

    async def fill() -> None:
        data = LevelDB.open(made / "data", trust_log=False)
        rng = Random(7)
        data.write([(b"d%05d" % n, rng.randbytes(500)) for n in range(2000)])
        await data.flush()
        await data.close()

    failures: list[str] = []

    def fails(error: BaseException) -> None:
        failures.append(str(error))

    async def start() -> None:
        databases = await nodedir.open_databases(made, nodedir.identity(made), on_failure=fails)
        await databases.close()

    asyncio.run(fill())
    asyncio.run(start())
    assert failures == []
    table = max((made / "data").glob("*.ldb"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 0x10
    kept = {"a bit": len(content), "cut short": len(content) // 2, "emptied": 0}
    table.write_bytes(content[: kept[damage]])

    with pytest.raises(StorageFailed):
        asyncio.run(start())
    assert len(failures) == 1
    assert "data" in failures[0]


def test_what_was_heard_of_other_nodes_is_kept_and_never_trusted(tmp_path: Path) -> None:
    """It only says whom to ask: lost, cut or damaged, a start goes on with what is left."""
    assert nodedir.remembered_endpoints(tmp_path) == []

    nodedir.remember_endpoints(tmp_path, ["127.0.0.1:7400", "n4.local:7430"])
    assert nodedir.remembered_endpoints(tmp_path) == ["127.0.0.1:7400", "n4.local:7430"]

    (tmp_path / nodedir.ENDPOINTS_FILE).write_text("127.0.0.1:7400\nn4.lo\n")
    assert nodedir.remembered_endpoints(tmp_path) == ["127.0.0.1:7400"]
    (tmp_path / nodedir.ENDPOINTS_FILE).write_bytes(b"\xff\xfe")
    assert nodedir.remembered_endpoints(tmp_path) == []
    nodedir.remember_endpoints(tmp_path / "gone", ["127.0.0.1:7400"])  # no exception


def test_the_lock_names_the_process(made: Path) -> None:
    lock = nodedir.NodeLock(made)
    try:
        assert (made / nodedir.LOCK_FILE).read_text() == f"{os.getpid()}\n"
    finally:
        lock.release()


def test_values_are_compressed_where_that_is_asked_for(made: Path) -> None:
    """And may be from one start to the next: what lies there is read whatever it is."""

    async def tables(compression: str, begin: int) -> int:
        databases = await nodedir.open_databases(
            made, nodedir.identity(made), compression=compression
        )
        disk = databases.data_disk
        disk.write([(b"%06d" % number, b"the same " * 100) for number in range(begin, begin + 500)])
        await disk.flush()
        assert len(list(disk.range(b"", b"\xff"))) == begin + 500
        await databases.close()
        return sum(path.stat().st_size for path in (made / "data").glob("*.ldb"))

    plain = asyncio.run(tables("none", 0))
    assert plain > 400_000
    assert asyncio.run(tables("snappy", 500)) - plain < 100_000
    assert load(file=made / "node.yaml").config.compression == "none"
