"""A backup as a directory: made aside, complete or not at all; and read again, every byte checked.

    DIR/manifest         what there is, with a SHA-256 of each file; written last
    DIR/group-0.rows     the controller
    DIR/group-1.rows     and each group

While it is being made it is `DIR.partial`, held by a lock. When every file is synced the manifest
is written and synced, then the directory gets its name. So whatever the process dies of: a
directory called DIR that was not there before is whole, and one called DIR.partial has never been
a backup.

A file is a line that names its format, then chunks, each behind its length in four bytes.
"""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from struct import Struct
from typing import IO, Final

from raft.errors import DataInUse
from raft.types import EntryId, GroupId, Index, Term
from shardkv import __version__
from shardkv.backup import manifest as manifests
from shardkv.backup.manifest import GroupFile, Manifest, file_name
from shardkv.backup.rows import BackupDamaged, Contents, RowReader, check_cut
from shardkv.backup.taking import BackupFailed, Cut
from shardkv.clusterfile import sync_directory
from shardkv.config import ConfigError
from shardkv.text import quoted

PARTIAL: Final = ".partial"
LOCK: Final = "LOCK"
HEADER: Final = b"shardkv-rows 1\n"
CHUNK_BYTES_MAX: Final = 4 * 1024 * 1024
_LENGTH: Final = Struct(">I")


def check_target(directory: Path) -> None:
    """Refuse a place where no backup can or should be made; nothing is created.

    Raises:
        ConfigError: the path leads upwards, or through a symbolic link at its end.
        BackupFailed: something is there.
    """
    if ".." in directory.parts:
        raise ConfigError(f"{quoted(str(directory))}: a path with '..' is not taken; name it whole")
    if directory.is_symlink():
        raise ConfigError(f"{quoted(str(directory))} is a symbolic link; name the place itself")
    if not directory.parent.is_dir():
        raise ConfigError(f"{quoted(str(directory.parent))} is no directory; make it first")
    if directory.exists():
        if not directory.is_dir():
            raise BackupFailed(f"{quoted(str(directory))} exists and is no directory")
        if any(directory.iterdir()):
            raise BackupFailed(
                f"{quoted(str(directory))} exists and is not empty; nothing was changed. Give a "
                "new name"
            )


class BackupWriter:
    """Makes one backup; a `taking.Sink`. `finish` it, or `abandon` it, which leaves nothing.

    Raises:
        ConfigError, BackupFailed: see `check_target`.
        DataInUse: another process makes a backup there.
        OSError: the disk is full, or the place is not writable.
    """

    def __init__(self, directory: Path) -> None:
        check_target(directory)
        self._directory = directory
        self._aside = directory.with_name(directory.name + PARTIAL)
        if self._aside.is_symlink():
            raise ConfigError(f"{quoted(str(self._aside))} is a symbolic link; remove it")
        self._aside.mkdir(mode=0o700, exist_ok=True)
        self._lock = _locked(self._aside)
        self._files: dict[GroupId, IO[bytes]] = {}
        self._hashes: dict[GroupId, hashlib._Hash] = {}
        self._sizes: dict[GroupId, int] = {}
        try:
            self._clear()
        except BaseException:
            os.close(self._lock)
            raise

    def begin(self, gid: GroupId) -> None:
        """See `taking.Sink`."""
        old = self._files.pop(gid, None)
        if old is not None:
            old.close()
        self._files[gid] = (self._aside / file_name(gid)).open("wb")
        self._hashes[gid], self._sizes[gid] = hashlib.sha256(), 0
        self._put(gid, HEADER)

    def add(self, gid: GroupId, chunk: bytes) -> None:
        """See `taking.Sink`."""
        self._put(gid, _LENGTH.pack(len(chunk)))
        self._put(gid, chunk)

    def end(self, gid: GroupId) -> None:
        """See `taking.Sink`."""
        file = self._files[gid]
        file.flush()
        os.fsync(file.fileno())

    def _put(self, gid: GroupId, data: bytes) -> None:
        self._files[gid].write(data)
        self._hashes[gid].update(data)
        self._sizes[gid] += len(data)

    def finish(self, cut: Cut, *, cluster: bytes, made: str) -> Manifest:
        """Write the manifest and give the backup its name: from here on it exists."""
        for file in self._files.values():
            file.close()
        groups = tuple(self._group_file(gid, cut, cut.contents[gid]) for gid in sorted(cut.sources))
        manifest = Manifest(
            version=__version__,
            made=made,
            cluster=cluster.hex(),
            nshards=cut.nshards,
            config=cut.number,
            groups=groups,
        )
        for path in self._aside.iterdir():  # of a group that an attempt before this one still had
            if path.name not in {LOCK, *(group.name for group in groups)}:
                path.unlink()
        with (self._aside / manifests.NAME).open("wb") as file:
            file.write(manifests.encode(manifest))
            file.flush()
            os.fsync(file.fileno())
        (self._aside / LOCK).unlink()
        sync_directory(self._aside)
        check_target(self._directory)
        self._aside.rename(self._directory)  # fails over a directory that is not empty
        sync_directory(self._directory.parent)
        os.close(self._lock)
        return manifest

    def _group_file(self, gid: GroupId, cut: Cut, contents: Contents) -> GroupFile:
        opened = cut.sources[gid].opened
        return GroupFile(
            gid=gid,
            uuid=opened.uuid.hex(),
            index=opened.index,
            term=opened.term,
            newest_term=opened.newest_term,
            nodes=cut.sources[gid].nodes,
            rows=contents.rows,
            keys=contents.keys,
            sessions=contents.sessions,
            bytes=self._sizes[gid],
            sha256=self._hashes[gid].hexdigest(),
        )

    def abandon(self) -> None:
        """Remove everything that was written."""
        for file in self._files.values():
            file.close()
        self._clear()
        for name in (manifests.NAME, LOCK):
            (self._aside / name).unlink(missing_ok=True)
        self._aside.rmdir()
        os.close(self._lock)

    def _clear(self) -> None:
        """Remove what an attempt that died left; refuse a directory that holds anything else."""
        left = [path for path in self._aside.iterdir() if path.name != LOCK]
        for path in left:
            if path.name != manifests.NAME and not path.name.endswith(".rows"):
                raise BackupFailed(
                    f"{quoted(str(path))} is no part of a backup: remove {quoted(self._aside.name)}"
                )
        for path in left:
            path.unlink()


def _locked(aside: Path) -> int:
    handle = os.open(aside / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise
        raise DataInUse(f"{aside}: another process makes a backup there") from error
    return handle


# Reading


def read_manifest(directory: Path) -> Manifest:
    """What the backup says it is.

    Raises:
        BackupDamaged: there is no manifest, it is damaged, or (`BackupNewer`) of a later format.
    """
    if not directory.is_dir():
        raise BackupDamaged(f"{quoted(str(directory))}: no directory, so no backup")
    path = directory / manifests.NAME
    try:
        with _opened(path) as file:
            data = file.read(manifests.MANIFEST_BYTES_MAX + 1)
    except FileNotFoundError:
        raise BackupDamaged(
            f"{quoted(str(directory))}: no manifest, so this is no backup, or one that was never "
            "finished"
        ) from None
    if len(data) > manifests.MANIFEST_BYTES_MAX:
        raise BackupDamaged(f"{quoted(str(path))}: too long for a manifest")
    return manifests.decode(data)


def verify(
    directory: Path, progress: Callable[[str], None] = lambda line: None
) -> tuple[Manifest, Mapping[GroupId, Contents]]:
    """Read every byte of a backup: hashes, checksums, order and counts of rows, and the cut.

    Raises:
        BackupDamaged: the first thing that does not fit, with the file's name.
    """
    manifest = read_manifest(directory)
    contents = {}
    for group in manifest.groups:
        reader = RowReader(GroupId(group.gid), EntryId(Index(group.index), Term(group.term)))
        for chunk in chunks(directory, group):
            if reader.complete:
                raise BackupDamaged(f"{group.name}: something follows its last chunk")
            reader.add(chunk)
        if not reader.complete:
            raise BackupDamaged(f"{group.name}: it ends before its last chunk")
        found = contents[GroupId(group.gid)] = reader.contents
        if (found.rows, found.keys, found.sessions) != (group.rows, group.keys, group.sessions):
            raise BackupDamaged(f"{group.name}: it holds other rows than the manifest counts")
        progress(f"{group.name}: {group.bytes} bytes, {found.rows} rows, as they were written")
    check_cut(contents)
    newest = contents[GroupId(0)].config
    if newest is not None and (newest.number, len(newest.shards)) != (
        manifest.config,
        manifest.nshards,
    ):
        raise BackupDamaged("the manifest names another configuration than its files hold")
    return manifest, contents


def chunks(directory: Path, group: GroupFile) -> Iterator[bytes]:
    """The chunks of one file; its size and hash are checked by the time of the last one.

    Raises:
        BackupDamaged: it is missing, cut, longer, or its hash does not fit.
    """
    path = directory / group.name
    try:
        file = _opened(path)
    except FileNotFoundError:
        raise BackupDamaged(f"{group.name}: missing") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size != group.bytes:
            raise BackupDamaged(f"{group.name}: {size} bytes, and the manifest says {group.bytes}")
        digest = hashlib.sha256()
        head = file.read(len(HEADER))
        digest.update(head)
        if head != HEADER:
            raise BackupDamaged(f"{group.name}: it does not begin as a file of a backup does")
        while prefix := file.read(_LENGTH.size):
            length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else -1
            chunk = file.read(length) if 0 <= length <= CHUNK_BYTES_MAX else b""
            if len(chunk) != length:
                raise BackupDamaged(f"{group.name}: damaged: a chunk's length is not right")
            digest.update(prefix)
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != group.sha256:
            raise BackupDamaged(f"{group.name}: damaged: its hash is not the manifest's")


def _opened(path: Path) -> IO[bytes]:
    """A regular file, never what a symbolic link points to."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BackupDamaged(f"{quoted(str(path))} is a symbolic link") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BackupDamaged(f"{quoted(str(path))} is no regular file")
    return os.fdopen(handle, "rb")
