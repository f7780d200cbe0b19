"""Write the golden files of the present formats: `python -m tests.formats.make`.

To be run once for each new format, which gets files of a number of its own; files of an older one
are kept for ever, because what they hold must be read for ever. Kinds of bytes that are new are
added to the list; what is in it already is never replaced. (Before the first release a change on
purpose is made by removing the files first.)
"""

import asyncio
import hashlib
import json
import os
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import raft.host
from shardkv.clerk import Clerk
from shardkv.embedded import open_store
from tests.formats.samples import samples

HERE = Path(__file__).parent
SHARDS = 4


async def fill(clerk: Clerk, name: str) -> dict[str, tuple[str, int]]:
    """Keys of every shape; returns what each holds, hashed, and its version (0: deleted)."""
    held: dict[str, tuple[str, int]] = {}

    async def note(key: bytes) -> None:
        row = await clerk.get_row(key)
        value = "" if row.value is None else hashlib.sha256(row.value).hexdigest()
        held[key.hex()] = (value, row.version)

    for number in range(20):
        key = f"{name}/{number}".encode()
        await clerk.put(key, b"value %d" % number)
        if number % 3 == 0:
            await clerk.append(key, b", appended")
        if number % 5 == 0:
            await clerk.delete(key)
        if number % 10 == 0:
            await clerk.put(key, b"made anew", if_version=0)
        await note(key)
    shapes = {
        b"\x00\xff": b"binary",
        name.encode() + b"/empty": b"",
        name.encode() + b"/{tag}/large": bytes(range(256)) * 100,
    }
    for key, value in shapes.items():
        await clerk.put(key, value)
        await note(key)
    return held


async def make(directory: Path) -> dict[str, tuple[str, int]]:
    """A store whose first half is in tables behind a cut log, and whose second is in its log."""
    usual, often = raft.host.CompactionConfig, raft.host.HOUSEKEEPING_SECONDS
    eager = partial(usual, log_entries_max=1, keep_entries=2)
    vars(raft.host).update(CompactionConfig=eager, HOUSEKEEPING_SECONDS=0.05)
    try:
        async with open_store(directory, shards=SHARDS) as clerk:
            held = await fill(clerk, "cut")
            await asyncio.sleep(1.0)
    finally:
        vars(raft.host).update(CompactionConfig=usual, HOUSEKEEPING_SECONDS=often)
    async with open_store(directory) as clerk:
        held |= await fill(clerk, "logged")
    return held


def add_samples(listed: Path) -> None:
    known = listed.read_text().splitlines() if listed.exists() else []
    names = {line.rpartition(": ")[0] for line in known}
    new = [f"{name}: {raw.hex()}" for name, (raw, _, _) in samples().items() if name not in names]
    listed.write_text("\n".join([*known, *new]) + "\n")


def main() -> None:
    add_samples(HERE / "bytes-1.txt")
    archive = HERE / "store-1.tar.gz"
    if archive.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "store"
        held = asyncio.run(make(directory))
        for left in ("node.log", "LOCK", "log/LOG.old", "data/LOG.old", "log/LOG", "data/LOG"):
            (directory / left).unlink(missing_ok=True)
        with tarfile.open(archive, "w:gz") as tar:
            for path in sorted(directory.rglob("*")):
                info = tar.gettarinfo(path, arcname=os.fspath(path.relative_to(temporary)))
                info.uid = info.gid = info.mtime = 0
                info.uname = info.gname = ""
                with path.open("rb") if path.is_file() else open(os.devnull, "rb") as file:
                    tar.addfile(info, file if path.is_file() else None)
    listed = {"shards": SHARDS, "keys": held}
    (HERE / "store-1.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    main()
