"""What was written once is read for ever: golden files of each format, kept as they were made.

- `bytes-N.txt`: one value of each kind that is stored or sent. What is written today is what was
  written then; a difference is a new format, which takes a number of its own, files of its own
  (`python -m tests.formats.make`) and code that still reads the old ones.
- `store-N.tar.gz`: a whole node's directory: log and data database, promise, settings.
"""

import asyncio
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any, get_args

import pytest

from raft.messages import AnyMessage
from shardctrler import commands as controller
from shardkv import commands as store
from shardkv.embedded import open_store
from tests.formats.samples import CONTROLLER, MESSAGES, STORE, samples

HERE = Path(__file__).parent
SAMPLES = samples()
KEPT = {
    name: bytes.fromhex(raw)
    for listed in sorted(HERE.glob("bytes-*.txt"))
    for name, _, raw in (line.rpartition(": ") for line in listed.read_text().splitlines())
}


@pytest.mark.parametrize("name", list(SAMPLES))
def test_what_is_written_now_is_what_was_written_then(name: str) -> None:
    raw, _, _ = SAMPLES[name]

    assert name in KEPT, "a new kind: python -m tests.formats.make"
    assert raw.hex() == KEPT[name].hex()


@pytest.mark.parametrize("name", list(KEPT))
def test_what_was_written_then_is_read(name: str) -> None:
    _, read, value = SAMPLES[name]

    assert read(KEPT[name]) == value


@pytest.mark.parametrize(
    ("union", "sampled"),
    [
        (store.Command, [type(command) for command in STORE]),
        (controller.Command, [type(command) for command in CONTROLLER]),
        (
            controller.Change,
            [type(c.change) for c in CONTROLLER if isinstance(c, controller.Request)],
        ),
        (AnyMessage, [type(message) for message in MESSAGES]),
    ],
    ids=["the store's commands", "the controller's", "its changes", "messages of Raft"],
)
def test_every_kind_that_a_log_holds_or_a_peer_sends_is_kept(
    union: Any, sampled: list[type]
) -> None:
    assert set(get_args(union)) - set(sampled) == set()


@pytest.mark.parametrize("archive", sorted(HERE.glob("store-*.tar.gz")), ids=lambda path: path.name)
def test_a_directory_of_then_is_opened_and_goes_on(archive: Path, tmp_path: Path) -> None:
    """Half of it lies in tables behind a log that was cut, half in the log. Versions go on."""
    listed = json.loads(archive.with_name(archive.name.replace(".tar.gz", ".json")).read_text())
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    cut = sorted(path.name for path in (tmp_path / "store").rglob("*.ldb"))
    assert cut, "without a table it says nothing of tables"

    async def check() -> None:
        async with open_store(tmp_path / "store", shards=listed["shards"]) as clerk:
            for key, (value, version) in listed["keys"].items():
                row = await clerk.get_row(bytes.fromhex(key))
                held = "" if row.value is None else hashlib.sha256(row.value).hexdigest()
                assert (held, row.version) == (value, version), bytes.fromhex(key)
                if version:
                    wants = version + 1
                    assert await clerk.append(bytes.fromhex(key), b"!") == wants
        async with open_store(tmp_path / "store") as clerk:
            for key, (_, version) in listed["keys"].items():
                row = await clerk.get_row(bytes.fromhex(key))
                assert row.version == (version + 1 if version else 0)

    asyncio.run(check())
