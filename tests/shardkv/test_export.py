"""Export files: exact, whole or absent, and refused when they were touched."""

import asyncio
import os
from pathlib import Path

import pytest

from shardkv.cli.exportfile import NAME, BadExport, ExportRow, ExportWriter, read_export
from shardkv.cli.failures import Exit, Failure
from shardkv.cli.importing import _written_by_export, put_rows
from shardkv.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX
from shardkv.listing import Listed
from shardkv.types import Version

ODD = [
    b"\x00", b"\xff" * 10, b"..", b"/", b"a/../b", b"%2e%2e", b"a\nb", b"\r", b'"', b"\\u0000",
    "\U0001f600".encode(), "\u00e9".encode(), "e\u0301".encode(), "\u202e".encode(),
    b"\xed\xa0\x80", b"k" * KEY_BYTES_MAX,
]  # fmt: skip


def write(directory: Path, rows: list[tuple[bytes, bytes]]) -> Path:
    with ExportWriter(directory, b"") as writer:
        for key, value in rows:
            writer.add(Listed(key, Version(1), value))
    return directory / NAME


def read(file: Path) -> list[ExportRow]:
    with file.open("rb") as stream:
        return list(read_export(stream))


def test_what_was_written_is_read_back_to_the_byte(tmp_path: Path) -> None:
    rows = [(key, key[::-1]) for key in ODD] + [
        (b"empty", b""),
        (b"large", b"\0" * VALUE_BYTES_MAX),
    ]

    file = write(tmp_path / "out", rows)

    assert read(file) == rows
    assert file.read_bytes().isascii()
    assert [path.name for path in file.parent.iterdir()] == [NAME]
    assert file.stat().st_mode & 0o077 == 0, "nobody else reads it"


def test_an_export_of_nothing_is_a_whole_file(tmp_path: Path) -> None:
    assert read(write(tmp_path / "out", [])) == []


def test_an_import_puts_what_the_export_held(tmp_path: Path) -> None:
    rows = [(key, b"value of " + key[:10]) for key in ODD[:-1]]
    file = write(tmp_path / "out", rows)
    stored: dict[bytes, bytes] = {}

    class Store:
        async def put(self, key: bytes, value: bytes) -> Version:
            stored[key] = value
            return Version(1)

    with file.open("rb") as stream:
        tally = asyncio.run(put_rows(Store(), read_export(stream), b"copy/"))

    assert stored == {b"copy/" + key: value for key, value in rows}
    assert (tally.files, tally.skipped) == (len(rows), [])


def test_the_directory_of_an_export_is_imported_as_what_it_is(tmp_path: Path) -> None:
    """It was stored as one file, under the key `keys.jsonl`."""
    file = write(tmp_path / "out", [(b"k", b"v")])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / NAME).write_bytes(b'{"no": "export"}\n')

    assert _written_by_export(tmp_path / "out") == file
    assert _written_by_export(file) == file
    assert _written_by_export(tmp_path / "site") == tmp_path / "site"
    assert _written_by_export(tmp_path / "nothing") == tmp_path / "nothing"
    (tmp_path / "out" / "more").touch()
    assert _written_by_export(tmp_path / "out") == tmp_path / "out"


def touched(file: Path) -> list[tuple[str, bytes]]:
    data = file.read_bytes()
    lines = data.splitlines(keepends=True)
    return [
        ("the last line is gone", b"".join(lines[:-1])),
        ("the last line is cut", data[:-5]),
        ("a row is gone", b"".join(lines[:2] + lines[3:])),
        ("a row comes twice", b"".join([*lines[:2], lines[1], *lines[2:]])),
        ("two rows changed places", b"".join([lines[0], lines[2], lines[1], *lines[3:]])),
        ("a value changed", data.replace(b"value 1", b"value 7")),
        ("something follows", data + b"{}\n"),
        ("the first line is gone", b"".join(lines[1:])),
        ("it is of another format", data.replace(b'"format":1', b'"format":2')),
        ("it is empty", b""),
        ("it is no JSON", b"\x7fELF\x00\xff"),
        ("a line is a number", b"7\n"),
        ("a line is deep", b"[" * 100_000),
    ]


def test_whatever_was_touched_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "out", [(b"key %d" % n, b"value %d" % n) for n in range(5)])

    for what, data in touched(file):
        other = tmp_path / "other"
        other.write_bytes(data)
        with pytest.raises(BadExport):
            read(other)
            pytest.fail(what)


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    file = write(tmp_path / "out", [(b"a", b"1")])
    before = file.read_bytes()

    with pytest.raises(Failure, match="is there already") as caught:
        write(tmp_path / "out", [(b"b", b"2")])

    assert caught.value.status == Exit.REFUSED
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [NAME]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    with pytest.raises(Failure, match="is there already"), ExportWriter(directory, b""):
        (directory / NAME).write_bytes(b"somebody else's")

    assert (directory / NAME).read_bytes() == b"somebody else's"
    assert [path.name for path in directory.iterdir()] == [NAME]


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ExportWriter(tmp_path / "out", b"") as writer:
        writer.add(Listed(b"a", Version(1), b"1"))
        raise RuntimeError("the cluster went away")

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    writer = ExportWriter(tmp_path / "out", b"")
    with pytest.raises(OSError, match="No space left on device"), writer:
        assert writer._file is not None
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, writer._file.fileno())
        os.close(full)
        for number in range(3000):
            writer.add(Listed(b"key %d" % number, Version(1), bytes(1000)))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["../out", "a/../out", "out/.."])
def test_a_path_with_dots_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)

    with pytest.raises(Failure, match=r"'\.\.'") as caught:
        write(Path(place), [])

    assert caught.value.status == Exit.USAGE
    assert [path.name for path in tmp_path.rglob("*")] == ["inner"]


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(Failure, match="is a link"):
        write(tmp_path / "link", [])

    assert list((tmp_path / "real").iterdir()) == []


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / NAME).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Failure, match="is there already"):
        write(directory, [(b"a", b"1")])

    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("place", ["/dev/null", "/dev/full", "file", "/proc/nothing", "no/parent"])
def test_what_is_no_place_for_a_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"kept")

    with pytest.raises(OSError):
        write(Path(place), [])

    assert Path("file").read_bytes() == b"kept"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
