"""A small disk that can be filled: a file system in a sparse file. Mounting it takes root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import wait_for

FILLER = "filler"


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

    def empty(self) -> None:
        (self.path / FILLER).unlink()


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[SmallDisk]:
    """An ext4 of so many bytes, unmounted at the end; the test is skipped where none can be had."""
    image, path = directory / "disk.img", directory / "mnt"
    path.mkdir()
    with image.open("wb") as sparse:
        sparse.truncate(size)
    try:
        _do("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        _do("mount", "-o", "loop", str(image), str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop-mounted ext4 here: {error}")
    try:
        yield SmallDisk(path)
    finally:
        wait_for(lambda: _tried("umount", str(path)), f"{path} unmounted")


def _do(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _tried(*words: str) -> bool:
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
