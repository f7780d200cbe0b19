"""A real process killed while it saves: what it had acknowledged is there."""

import asyncio
import subprocess
import sys
from pathlib import Path

from raft.disk.leveldb import LOG_OPTIONS, FileSlot, LevelDB, Worker
from raft.disk.log_store import LogStore
from tests.support.storage import G1, IDENTITY, entry, vote

REPOSITORY = Path(__file__).parents[3]

SAVING = """
import asyncio, sys
from pathlib import Path
from raft.disk.leveldb import LOG_OPTIONS, FileSlot, LevelDB, Worker
from raft.disk.log_store import LogStore
from raft.types import SnapshotMeta
from tests.support.storage import G1, IDENTITY, entry, record, vote

async def main():
    path, worker = Path(sys.argv[1]), Worker("slots")
    disk = LevelDB.create(path / "log", LOG_OPTIONS)
    slots = (FileSlot(path / "promise.0", worker), FileSlot(path / "promise.1", worker))
    store = await LogStore.create(disk, slots, IDENTITY)
    await store.create_replica(record(), SnapshotMeta())
    for index in range(1, 1_000_000):
        state = vote(index, 1) if index % 7 == 1 else None
        term = (index - 1) // 7 * 7 + 1
        saved = store.save(G1, state, [entry(index, term)])
        store.save(G1, None, [entry(index + 1, term), entry(index + 2, term)])  # nobody waits
        await saved
        print(index, flush=True)

asyncio.run(main())
"""


def test_what_a_killed_process_acknowledged_is_there(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SAVING, tmp_path],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 40:
                break
        process.kill()
        acknowledged = [40, *map(int, process.stdout.read().split())][-1]

    async def main() -> None:
        worker = Worker("slots")
        disk = LevelDB.open(tmp_path / "log", LOG_OPTIONS, trust_log=True)
        slots = (
            FileSlot(tmp_path / "promise.0", worker),
            FileSlot(tmp_path / "promise.1", worker),
        )
        store = await LogStore.open(disk, slots, IDENTITY)
        held = list(store.load(G1).entries)
        expected = [entry(i, (i - 1) // 7 * 7 + 1) for i in range(1, acknowledged + 1)]
        assert held[:acknowledged] == expected
        assert acknowledged <= len(held) <= acknowledged + 3
        assert store.hard_state(G1) in (
            vote(held[acknowledged - 1].term, 1),
            vote(held[-1].term, 1),
        )
        await store.close()
        await disk.close()
        worker.stop()
        for slot in slots:
            slot.close()

    asyncio.run(main())
