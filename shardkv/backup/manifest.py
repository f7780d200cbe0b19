"""What a backup says of itself: `DIR/manifest`, written last.

    shardkv-backup 1 <SHA-256 of all that follows this line>
    {"cluster": ..., "config": ..., "groups": [...], ...}

The first line is the same in all formats, so an older version can say that a backup is newer than
it knows. A backup without a manifest, or with one that its first line does not fit, is none.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

from shardkv.backup.rows import BackupDamaged

NAME: Final = "manifest"
FORMAT: Final = 1
MANIFEST_BYTES_MAX: Final = 1024 * 1024
_MAGIC: Final = b"shardkv-backup"
_NUMBER_MAX: Final = 2**63 - 1
_HEX_32: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_HEX_64: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class BackupNewer(BackupDamaged):
    """The backup has a format that this version does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFile:
    """One group of the backup, and the file that holds it."""

    gid: int  # 0: the controller
    uuid: str  # of the group that it was, in hex
    index: int  # the entry that the snapshot ends at; committed
    term: int  # of that entry
    newest_term: int  # the highest that its replica had seen
    nodes: tuple[str, ...]  # that held its voters
    rows: int
    keys: int  # of clients
    sessions: int
    bytes: int  # of the file
    sha256: str  # of the file, in hex

    @property
    def name(self) -> str:
        """The file's name. It follows from the gid, so that no manifest can name another file."""
        return file_name(self.gid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole manifest."""

    version: str  # of the program that wrote it
    made: str  # when, as text; nothing depends on it
    cluster: str  # the id of the cluster that it was taken of, in hex
    nshards: int
    config: int  # the configuration number of the cut
    groups: tuple[GroupFile, ...]  # the controller first, then by gid


def file_name(gid: int) -> str:
    return f"group-{gid}.rows"


def encode(manifest: Manifest) -> bytes:
    body = json.dumps(asdict(manifest), indent=1, sort_keys=True).encode() + b"\n"
    head = b"%s %d %s\n" % (_MAGIC, FORMAT, hashlib.sha256(body).hexdigest().encode())
    return head + body


def decode(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        BackupNewer: of a later format.
        BackupDamaged: it does not fit its first line, or a field is not what it should be.
    """
    head, newline, body = data.partition(b"\n")
    words = head.split(b" ")
    if not newline or len(words) < 3 or words[0] != _MAGIC or not words[1].isdigit():
        raise BackupDamaged("the manifest is no shardkv backup's, or its beginning is damaged")
    if int(words[1][:9]) != FORMAT:
        raise BackupNewer(
            f"the backup has format {int(words[1][:9])}, this version reads format {FORMAT}: use "
            "the version that wrote it"
        )
    if hashlib.sha256(body).hexdigest().encode() != words[2]:
        raise BackupDamaged("the manifest is damaged: its hash does not fit")
    try:
        return _checked(json.loads(body))
    except (KeyError, TypeError, ValueError) as error:
        raise BackupDamaged(f"the manifest's fields do not fit: {error}") from error


def _checked(content: dict[str, Any]) -> Manifest:
    rows = content["groups"]
    if not isinstance(rows, list) or not rows:
        raise TypeError("groups must be a list")
    groups = tuple(_group(row) for row in rows)
    gids = [group.gid for group in groups]
    if gids[0] != 0 or gids != sorted(set(gids)):
        raise ValueError("groups must ascend, the controller first")
    return Manifest(
        version=_text(content["version"]),
        made=_text(content["made"]),
        cluster=_hex(content["cluster"], _HEX_32),
        nshards=_number(content["nshards"], 1),
        config=_number(content["config"]),
        groups=groups,
    )


def _group(row: dict[str, Any]) -> GroupFile:
    nodes = row["nodes"]
    if not isinstance(nodes, list):
        raise TypeError("nodes must be a list")
    return GroupFile(
        gid=_number(row["gid"]),
        uuid=_hex(row["uuid"], _HEX_32),
        index=_number(row["index"]),
        term=_number(row["term"]),
        newest_term=_number(row["newest_term"]),
        nodes=tuple(_text(node) for node in nodes),
        rows=_number(row["rows"]),
        keys=_number(row["keys"]),
        sessions=_number(row["sessions"]),
        bytes=_number(row["bytes"]),
        sha256=_hex(row["sha256"], _HEX_64),
    )


def _number(value: object, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= _NUMBER_MAX:
        raise ValueError(f"a number is out of range: {value!r:.32}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise TypeError("a text is missing or too long")
    return value


def _hex(value: object, shape: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise ValueError(f"not in hex: {value!r:.64}")
    return value
