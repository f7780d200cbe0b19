"""A small disk that can be filled: a file system in a sparse file. Mounting it takes root."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import wait_for

FILLER = "filler"
BLOCK_BYTES = 4096


class SmallDisk:
    """Mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """Bytes that anybody may use."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @property
    def total(self) -> int:
        found = os.statvfs(self.path)
        return found.f_blocks * found.f_frsize

    def fill(self, percent_left: float) -> None:
        """Take room until so much of the disk is free."""
        handle = os.open(self.path / FILLER, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held = os.fstat(handle).st_size
            size = held + self.free - int(self.total * percent_left / 100)
            os.posix_fallocate(handle, 0, size)
        finally:
            os.close(handle)

    def fill_up(self) -> None:
        """Take the last block, though others take some as well."""
        handle = os.open(self.path / FILLER, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            step = self.free
            while step >= BLOCK_BYTES:
                try:
                    os.posix_fallocate(handle, os.fstat(handle).st_size, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2
                else:
                    step = self.free
        finally:
            os.close(handle)

    def empty(self) -> None:
        (self.path / FILLER).unlink()


@contextmanager
def small_disk(directory: Path, size: int, place: Path | None = None) -> Iterator[SmallDisk]:
    """An ext4 of so many bytes, unmounted at the end; the test is skipped where none can be had.

    Args:
        directory: Where the file is that it lies in.
        place: A directory that moves onto the disk with all that is in it; else an empty one.
    """
    path = directory / "mnt" if place is None else place
    image, aside = directory / f"{path.name}.img", path.with_name(f"{path.name}.aside")
    if place is not None:
        place.rename(aside)
    path.mkdir()
    with image.open("wb") as sparse:
        sparse.truncate(size)
    try:
        _do("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        _do("mount", "-o", "loop", str(image), str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop-mounted ext4 here: {error}")
    try:
        if place is not None:
            shutil.copytree(aside, path, dirs_exist_ok=True)
            shutil.rmtree(aside)
        yield SmallDisk(path)
    finally:
        wait_for(lambda: _tried("umount", str(path)), f"{path} unmounted")


def _do(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _tried(*words: str) -> bool:
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
