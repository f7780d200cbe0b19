"""`shardkv import`: files, each under its relative path, or an export's keys; many in flight."""

import asyncio
import os
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import click

from shardkv.cli.finding import Request, print_json, run, talks
from shardkv.errors import KeyTooLong, ValueTooLong
from shardkv.limits import MIB, VALUE_BYTES_MAX
from shardkv.text import shown
from shardkv.types import Version

FILES_IN_FLIGHT_MAX: Final = 128
BYTES_IN_FLIGHT_MAX: Final = 16 * MIB
PATH_SHOWN_CHARACTERS_MAX: Final = 512


class Putter(Protocol):
    """What an import needs of the store."""

    async def put(self, key: bytes, value: bytes) -> Version: ...


@dataclass(slots=True)
class Tally:
    """What an import has done so far."""

    files: int = 0
    """Or keys, of an export."""
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)  # with the reason
    seconds: float = 0.0


@click.command(
    "import",
    epilog="""\b
Examples:
  shardkv import ./site
  shardkv import /usr/lib/python3.11 --prefix python/
  shardkv import ./users/keys.jsonl
""",
)
@click.argument("source", type=click.Path(path_type=Path), metavar="DIRECTORY|FILE")
@click.option("--prefix", default="", type=click.UNPROCESSED, help="Put before each key.")
@talks
def import_(request: Request, source: Path, prefix: str) -> None:
    """Write every regular file below DIRECTORY; its relative path is the key.

    What cannot be stored (too large, unreadable, no regular file) is named and skipped, and the
    exit status is then 1. Running it again writes everything again.

    Of a FILE that `shardkv export` wrote, or the DIRECTORY that holds nothing else, every key is
    written with its value; versions are given anew. A file that was cut or changed is refused
    before anything is written.
    """
    from shardkv.cli.failures import misused, refused

    source = _written_by_export(source)
    if source.is_file():
        tally = run(_import_export(request, source, os.fsencode(prefix)), write=True)
    elif source.is_dir():
        tally = run(_import(request, source, os.fsencode(prefix)), write=True)
    else:
        raise misused(f"{shown(str(source))}: no such directory, nor an export's file")
    if request.as_json:
        print_json(
            {
                "files": tally.files,
                "bytes": tally.bytes,
                "seconds": round(tally.seconds, 3),
                "skipped": tally.skipped,
            }
        )
    else:
        rate = tally.files / tally.seconds if tally.seconds else 0.0
        what = "keys" if source.is_file() else "files"
        sys.stdout.write(
            f"{tally.files} {what}, {tally.bytes} bytes in {tally.seconds:.1f} s ({rate:.0f}/s)\n"
        )
    for reason in tally.skipped:
        click.echo(f"shardkv import: skipped {reason}", err=True)
    if tally.skipped:
        raise refused(f"{len(tally.skipped)} files were skipped")


def _written_by_export(source: Path) -> Path:
    """The export's file, where the directory was given that `export` made for it."""
    from shardkv.cli.exportfile import NAME, is_export

    alone = [entry.name for entry in source.iterdir()] == [NAME] if source.is_dir() else False
    if alone and is_export(source / NAME):
        return source / NAME
    return source


async def _import(request: Request, directory: Path, prefix: bytes) -> Tally:

    files = await asyncio.to_thread(lambda: sorted(walk(directory)))
    async with request.store() as store:
        with _progress(len(files)) as advance:
            return await put_files(store, directory, files, prefix, advance)


async def _import_export(request: Request, source: Path, prefix: bytes) -> Tally:
    from shardkv.cli.exportfile import BadExport, read_export
    from shardkv.cli.failures import refused

    with source.open("rb") as file:
        try:
            total = await asyncio.to_thread(lambda: sum(1 for _ in read_export(file)))
        except BadExport as error:
            raise refused(f"{shown(str(source))}: {error}; nothing was written") from None
        async with request.store() as store:
            with _progress(total) as advance:
                return await put_rows(store, read_export(file), prefix, advance)


async def put_rows(
    store: Putter,
    rows: Iterator[tuple[bytes, bytes]],
    prefix: bytes = b"",
    advance: Callable[[], None] = lambda: None,
) -> Tally:
    """Put each row, with bounded numbers of rows and bytes in flight."""
    tally = Tally()
    room = _Room(BYTES_IN_FLIGHT_MAX)
    started = time.monotonic()

    async def worker() -> None:
        for key, value in rows:  # one iterator: each row goes to one worker
            try:
                async with room.for_bytes(len(value)):
                    await store.put(prefix + key, value)
            except KeyTooLong as error:  # with the prefix
                tally.skipped.append(f"'{shown(key)}': {error}")
            else:
                tally.files += 1
                tally.bytes += len(value)
            advance()

    await _together(worker)
    tally.seconds = time.monotonic() - started
    return tally


async def _together(worker: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run so many of it; when one fails, none goes on."""
    workers = [asyncio.ensure_future(worker()) for _ in range(FILES_IN_FLIGHT_MAX)]
    try:
        await asyncio.gather(*workers)
    except BaseException:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        raise


def walk(directory: Path) -> Iterator[Path]:
    """Everything below a directory that is no directory; links to directories are not followed."""
    for base, _, names in os.walk(directory):
        for name in names:
            yield Path(base) / name


async def put_files(
    store: Putter,
    directory: Path,
    files: list[Path],
    prefix: bytes = b"",
    advance: Callable[[], None] = lambda: None,
) -> Tally:
    """Put each file, with bounded numbers of files and bytes in flight."""
    tally = Tally()
    waiting = iter(files)
    room = _Room(BYTES_IN_FLIGHT_MAX)
    started = time.monotonic()

    async def worker() -> None:
        for file in waiting:  # one iterator: each file goes to one worker
            try:
                data = read_file(file)
                key = prefix + os.fsencode(file.relative_to(directory))
                async with room.for_bytes(len(data)):
                    await store.put(key, data)
            except (OSError, KeyTooLong, ValueTooLong) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                name = shown(os.fsencode(file.relative_to(directory)), PATH_SHOWN_CHARACTERS_MAX)
                tally.skipped.append(f"'{name}': {reason}")
            else:
                tally.files += 1
                tally.bytes += len(data)
            advance()

    await _together(worker)
    tally.seconds = time.monotonic() - started
    return tally


def read_file(file: Path) -> bytes:
    """A regular file's bytes.

    Raises:
        OSError: it cannot be read, or is no regular file (a pipe would never end).
        ValueTooLong: judged by its size, before it is read.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(0, "no regular file", str(file))
        if facts.st_size > VALUE_BYTES_MAX:
            raise ValueTooLong(facts.st_size)
        data = stream.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise ValueTooLong(len(data))
    return data


class _Room:
    """Bytes that may be in flight; whoever finds none waits."""

    def __init__(self, bytes_max: int) -> None:
        self._free = bytes_max
        self._changed = asyncio.Condition()

    def for_bytes(self, size: int) -> "_Taken":
        return _Taken(self, size)

    async def take(self, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= size)
            self._free -= size

    async def give_back(self, size: int) -> None:
        async with self._changed:
            self._free += size
            self._changed.notify_all()


class _Taken:
    def __init__(self, room: _Room, size: int) -> None:
        self._room, self._size = room, size

    async def __aenter__(self) -> None:
        await self._room.take(self._size)

    async def __aexit__(self, *_: object) -> None:
        await self._room.give_back(self._size)


def _progress(total: int) -> AbstractContextManager[Callable[[], None]]:
    """A bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda: None)
    return _Bar(total)


class _Bar(AbstractContextManager[Callable[[], None]]):
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True))
        self._task = self._progress.add_task("files", total=total)

    def __enter__(self) -> Callable[[], None]:
        self._progress.start()
        return lambda: self._progress.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


assert VALUE_BYTES_MAX <= BYTES_IN_FLIGHT_MAX, "the largest file has room"
