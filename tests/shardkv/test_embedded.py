"""The embedded store and the blocking face, on a real directory."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import shardkv
from shardkv import nodedir


def test_what_was_written_is_there_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with shardkv.open(path) as kv:
        assert kv.get("a") is None
        assert kv.put("a", "1") == 1
        assert kv.append(b"a", b"2") == 2
        kv.put("gone", "x")
        kv.delete("gone")

    with shardkv.open(str(path)) as kv:
        assert kv.get_row(b"a") == (b"12", 2)
        assert kv.get("gone") is None
        assert kv.put("gone", "y", if_version=0) == 2


def test_a_batch_is_done_whole_and_is_there_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with shardkv.open(path) as kv:
        seen = kv.session()
        pair = [shardkv.Put("{u}name", "Ada"), shardkv.Append("{u}log", "named;")]
        assert kv.batch(pair, session=seen) == [1, 1]
        with pytest.raises(shardkv.VersionMismatch, match="operation 1 of the batch") as caught:
            kv.batch([shardkv.Delete("{u}name"), shardkv.Put("{u}log", "", if_version=7)])
        assert (caught.value.operation, caught.value.version) == (1, 1)
        with pytest.raises(shardkv.NotOneShard, match=r"\{tag\}"):
            kv.batch([shardkv.Put(f"key {number}", "") for number in range(50)])
        with pytest.raises(shardkv.InvalidArgument, match="1 to 128 operations"):
            kv.batch([])

    with shardkv.open(path) as kv:
        assert (kv.get("{u}name"), kv.get("{u}log")) == (b"Ada", b"named;")
        assert kv.batch([shardkv.Delete("{u}name", 1), shardkv.Delete("{u}log")]) == [0, 0]
        assert list(kv.list("{u}")) == []


def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    """C8, for one process: nothing is flushed on its way out."""
    path = tmp_path / "store"
    script = (
        "import sys, shardkv\n"
        f"kv = shardkv.open({str(path)!r})\n"
        "for number in range(10_000):\n"
        "    kv.append('log', f'{number} ')\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()

    with shardkv.open(path) as kv:
        numbers = [int(word) for word in (kv.get("log") or b"").split()]

    assert numbers == list(range(len(numbers)))
    assert len(acknowledged) <= len(numbers) <= len(acknowledged) + 1


def test_a_second_opening_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with shardkv.open(path) as kv:
        kv.put("a", "1")
        with pytest.raises(shardkv.StoreInUse, match="in use"):
            shardkv.open(path)
        again = subprocess.run(
            [sys.executable, "-c", f"import shardkv; shardkv.open({str(path)!r})"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "StoreInUse" in again.stderr
        assert kv.get("a") == b"1"

    with shardkv.open(path) as kv:
        assert kv.get("a") == b"1"


def test_a_directory_with_something_else_in_it_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")

    with pytest.raises(shardkv.DataUnusable, match="not empty"):
        shardkv.open(tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


def test_a_node_of_a_cluster_is_refused(tmp_path: Path) -> None:
    nodedir.create(tmp_path / "n1", cluster=bytes(16), settings={"node": "n1"})

    with pytest.raises(shardkv.DataUnusable, match="node n1 of a cluster"):
        shardkv.open(tmp_path / "n1")


@pytest.mark.parametrize("shards", [0, 16_385])
def test_shards_out_of_range_are_refused_and_nothing_is_made(tmp_path: Path, shards: int) -> None:
    with pytest.raises(shardkv.InvalidArgument, match="shards must be 1 to 16384"):
        shardkv.open(tmp_path / "store", shards=shards)

    assert not (tmp_path / "store").exists()


def test_another_number_of_shards_is_refused(tmp_path: Path) -> None:
    with shardkv.open(tmp_path / "store", shards=4) as kv:
        kv.put("a", "1")

    with pytest.raises(shardkv.InvalidArgument, match="made with 4 shards, not 8"):
        shardkv.open(tmp_path / "store", shards=8)
    with shardkv.open(tmp_path / "store") as kv:
        assert kv.get("a") == b"1"


def test_a_creation_cut_short_is_ended_by_the_next_opening(tmp_path: Path) -> None:
    """The directory exists, and no group has been born: what a kill between the two leaves."""
    path = tmp_path / "store"
    nodedir.create(path, cluster=bytes(16), settings={"node": "embedded", "shards": 8})

    with shardkv.open(path) as kv:
        assert kv.put("a", "1") == 1


def test_a_store_whose_log_was_deleted_is_refused(tmp_path: Path) -> None:
    """LevelDB would open it without a word."""
    path = tmp_path / "store"
    with shardkv.open(path) as kv:
        kv.put("a", "1")
    for log in (path / "log").glob("*.log"):
        log.unlink()

    with pytest.raises(shardkv.DataUnusable, match=r"promised|empty"):
        shardkv.open(path)


def test_a_copy_of_the_directory_is_a_store_too(tmp_path: Path) -> None:
    with shardkv.open(tmp_path / "store") as kv:
        kv.put("a", "1")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")

    with shardkv.open(tmp_path / "copy") as kv:
        assert kv.get("a") == b"1"


def test_many_threads_share_one_store(tmp_path: Path) -> None:
    with shardkv.open(tmp_path / "store") as kv:

        def appending(thread: int) -> None:
            for number in range(20):
                kv.append("log", f"{thread}-{number} ")

        threads = [threading.Thread(target=appending, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        words = (kv.get("log") or b"").decode().split()

    assert len(words) == len(set(words)) == 160
    for thread in range(8):
        own = [word for word in words if word.startswith(f"{thread}-")]
        assert own == [f"{thread}-{number}" for number in range(20)]


def test_what_is_asked_of_a_closed_store_is_refused(tmp_path: Path) -> None:
    kv = shardkv.open(tmp_path / "store")
    kv.close()
    kv.close()

    with pytest.raises(shardkv.Closed):
        kv.get("a")


def test_a_call_that_meets_another_threads_close_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is closed between the call's look whether it is and its way to the loop."""
    kv = shardkv.open(tmp_path / "store")
    kv.put("a", "1")
    closer = threading.Thread(target=kv.close, daemon=True)
    hand_over = asyncio.run_coroutine_threadsafe

    def closing(*work: Any) -> Any:
        monkeypatch.undo()
        closer.start()
        closer.join(0.2)  # it has to wait for this very call
        return hand_over(*work)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", closing)
    with contextlib.suppress(shardkv.ShardKVError):  # if the loop was asked to close it first
        assert kv.get("a") == b"1"
    closer.join()

    with pytest.raises(shardkv.Closed):
        kv.get("a")


def test_ctrl_c_ends_the_wait_and_the_store_lives_on(tmp_path: Path) -> None:
    with shardkv.open(tmp_path / "store") as kv:
        main = threading.main_thread().ident
        assert main is not None
        store = kv._store
        asked = threading.Event()

        async def never(key: object, **how: object) -> bytes | None:
            asked.set()
            await asyncio.Event().wait()
            return None

        def interrupt() -> None:
            asked.wait()
            signal.pthread_kill(main, signal.SIGINT)

        store.get = never  # type: ignore[method-assign]
        interrupter = threading.Thread(target=interrupt, daemon=True)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            kv.get("a")
        interrupter.join()
        del store.get  # type: ignore[attr-defined]

        assert kv.put("a", "1") == 1


def test_the_asyncio_face(tmp_path: Path) -> None:
    async def main() -> list[bytes | None]:
        async with shardkv.aio.open(tmp_path / "store", shards=4) as kv:
            await asyncio.gather(*[kv.put(f"{n}", f"{n}") for n in range(200)])
            return await asyncio.gather(*[kv.get(f"{n}") for n in range(200)])

    assert asyncio.run(main()) == [str(n).encode() for n in range(200)]
