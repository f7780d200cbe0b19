"""The file that `export` writes and `import` reads: JSON lines, with a digest at the end.

    {"shardkv": "export", "format": 1, "prefix": "user/"}
    {"key": "user/1", "value": "...", "version": 3}
    ...
    {"end": true, "rows": 2, "digest": "..."}

Bytes that are no UTF-8 stand in base64, under `key_base64` and `value_base64`. The last line counts
the rows and has the BLAKE2b digest of all lines before it: a file that was cut or changed is
refused before anything of it is written to a store.

A file appears whole or not at all: it is written under a name of its own, synced, and linked to its
real name, which fails if there is something by then. What is written through is the directory that
was opened, whatever its path leads to later; a path with `..`, and a link in the place of the
directory, are refused.
"""

import base64
import binascii
import contextlib
import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from shardkv.cli.failures import misused, refused
from shardkv.cli.finding import text_fields
from shardkv.limits import KEY_BYTES_MAX, KEY_BYTES_MIN, MIB, VALUE_BYTES_MAX
from shardkv.listing import Listed
from shardkv.text import shown

NAME: Final = "keys.jsonl"
FORMAT: Final = 1
LINE_BYTES_MAX: Final = 8 * MIB
"""A value of 1 MiB, every byte of it as `\\u0000`, with its key."""
_KIND: Final = "export"


def is_export(path: Path) -> bool:
    """Whether a file begins as an export does; what follows is another question."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(LINE_BYTES_MAX))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and first.get("shardkv") == _KIND


class ExportRow(NamedTuple):
    key: bytes
    value: bytes


class ExportWriter:
    """Writes the export file of a directory; a context: it appears if the block succeeds.

    Raises:
        Failure: the directory or the file may not be used; nothing is left behind.
        OSError: the disk refuses; nothing is left behind.
    """

    def __init__(self, directory: Path, prefix: bytes) -> None:
        self.rows = self.bytes = 0
        self._path = directory
        self._prefix = prefix
        self._digest = blake2b(digest_size=16)
        self._partial = f".{NAME}.partial-{os.getpid()}"
        self._made = False
        self._directory = -1
        self._file: BinaryIO | None = None

    def __enter__(self) -> "ExportWriter":
        self._directory = self._open_directory()
        try:
            if _exists(NAME, self._directory):
                raise self._already()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._partial, flags, 0o600, dir_fd=self._directory)
            self._file = os.fdopen(handle, "wb", buffering=MIB)
            self._write({"shardkv": _KIND, "format": FORMAT, **text_fields("prefix", self._prefix)})
        except BaseException:
            self._discard()
            raise
        return self

    def _open_directory(self) -> int:
        path = self._path
        if ".." in path.parts:
            raise misused(f"{shown(str(path))}: a path with '..' is not written to")
        if path.is_symlink():
            raise refused(f"{shown(str(path))} is a link: name the directory itself")
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
            self._made = True
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def add(self, row: Listed) -> None:
        """Write a key and its value."""
        assert row.value is not None, "an export lists values"
        fields = text_fields("key", row.key) | text_fields("value", row.value)
        self._write({**fields, "version": row.version})
        self.rows += 1

    def _write(self, fields: dict[str, Any]) -> None:
        line = json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        self._digest.update(line)
        self.bytes += len(line)
        assert self._file is not None, "within the block"
        self._file.write(line)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        assert self._file is not None, "within the block"
        self._write({"end": True, "rows": self.rows, "digest": self._digest.hexdigest()})
        self._file.flush()
        os.fsync(self._file.fileno())
        here = self._directory
        try:
            os.link(self._partial, NAME, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
        except FileExistsError:
            raise self._already() from None
        self._made = False
        os.fsync(here)

    def _discard(self) -> None:
        """Remove the name of its own, and a directory that was made for nothing."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk was told of already
                self._file.close()
        if self._directory >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial, dir_fd=self._directory)
            os.close(self._directory)
            self._directory = -1
        if self._made:
            with contextlib.suppress(OSError):  # somebody put something there meanwhile
                self._path.rmdir()

    def _already(self) -> Exception:
        return refused(f"{shown(str(self._path / NAME))} is there already: name another directory")


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class BadExport(Exception):
    """Not an export file, or not a whole one; the message says why and where."""


def read_export(file: BinaryIO) -> Iterator[ExportRow]:
    """The rows of an export file, from its begin; checked line by line, the digest at the end.

    Raises:
        BadExport: it is none, or was cut or changed. Read it through once before any use.
    """
    file.seek(0)
    digest = blake2b(digest_size=16)
    rows = 0
    for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), 1):
        fields = _fields(line, number)
        if number == 1:
            if fields.get("shardkv") != _KIND:
                raise BadExport("the first line is not that of an export of shardkv")
            if fields.get("format") != FORMAT:
                raise BadExport(f"an export of format {fields.get('format')!r:.20}; this reads 1")
        elif "end" in fields:
            if fields.get("rows") != rows or fields.get("digest") != digest.hexdigest():
                raise BadExport("the file was changed: its rows do not match its last line")
            if file.readline(1):
                raise BadExport("something follows the last line")
            return
        else:
            rows += 1
            yield _row(fields, number)
        digest.update(line)
    raise BadExport("the file was cut: its last line is missing")


def _fields(line: bytes, number: int) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise BadExport(f"line {number} is not JSON, or was cut") from None
    if not isinstance(fields, dict):
        raise BadExport(f"line {number} is not a JSON object")
    return fields


def _row(fields: dict[str, Any], number: int) -> ExportRow:
    key, value = _octets(fields, "key", number), _octets(fields, "value", number)
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise BadExport(f"line {number}: a key is {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes")
    if len(value) > VALUE_BYTES_MAX:
        raise BadExport(f"line {number}: a value is at most {VALUE_BYTES_MAX} bytes")
    return ExportRow(key, value)


def _octets(fields: dict[str, Any], name: str, number: int) -> bytes:
    text, coded = fields.get(name), fields.get(f"{name}_base64")
    try:
        if isinstance(text, str) and coded is None:
            return text.encode()
        if isinstance(coded, str) and text is None:
            return base64.b64decode(coded, validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        pass
    raise BadExport(f"line {number} has no {name}, or not one that can be read")
