"""Room on the disk: a watermark under which clients' writes are refused, and a ballast to get over
the worst.

A full disk ends a node (a failed write is never repeated), and where all of a group's disks fill up
alike it ends them all. So a node stops taking clients' writes while there is still room for what
keeps the group alive: terms, votes, memberships, the copies of shards, deletes. It takes them again
by itself once there is clearly more room: the two marks lie apart, so that a disk at the mark does
not go on and off. Who leads a group from a full disk gives the leadership to a node with room
(`planner`).

The *ballast* is a file that means nothing but its size. LevelDB needs room to open a database (it
writes its log and tables anew), and a node that ended on a full disk would not start again; then
the ballast is given up. It is made again at a start that finds room.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from raft.chores import begin_chore

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
LIFT: Final = 1.2
"""Writes are taken again above so many times the watermark."""
MIB: Final = 1024 * 1024
BALLAST_FILE: Final = "ballast"
BALLAST_SHARE_MAX: Final = 0.05
"""Of the volume: on a small one the ballast is smaller."""


class Space(NamedTuple):
    """A volume, in bytes."""

    free: int
    total: int

    @property
    def percent(self) -> float:
        """How much of it is free."""
        return 100.0 * self.free / self.total if self.total else 100.0


PLENTY: Final = Space(1 << 40, 1 << 40)


def space_of(directory: Path) -> Space:
    """The volume that a directory is on; what only root may use is not free."""
    found = shutil.disk_usage(directory)
    return Space(found.free, found.total)


class DiskSpace:
    """Looks once a second; never on the way of a write. `start` it, look at `roomy`, `close` it.

    Args:
        look: The volume now. A look that fails changes nothing.
        percent_min: The watermark, in percent of the volume; 0: there is none.
    """

    def __init__(self, look: Callable[[], Space], percent_min: float = 5.0) -> None:
        self.roomy = True
        self.space = PLENTY
        self._look = look
        self._percent_min = percent_min
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.look()
        self._task = begin_chore(self._run(), "how full the disk is is no longer looked at")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever asks after the node's health must hear."""
        if self.roomy:
            return ()
        mark = self._percent_min
        return (
            f"{self.space.percent:.1f} % of the disk is free, less than free_percent_min "
            f"({mark:g}): clients' writes are refused until {mark * LIFT:.1f} % is",
        )

    def look(self) -> None:
        """Look now."""
        try:
            space = self.space = self._look()
        except OSError as error:
            log.warning("how much of the disk is free cannot be told: %s", error)
            return
        mark = self._percent_min
        if self.roomy and space.percent < mark:
            self.roomy = False
            log.warning("%s. Free some space", *self.warnings)
        elif not self.roomy and space.percent >= mark * LIFT:
            self.roomy = True
            log.warning("%.1f %% of the disk is free: clients' writes are taken", space.percent)


def make_ballast(directory: Path, size: int, space: Space, percent_min: float) -> int:
    """Make the ballast, where there is none and it does not itself bring the disk to its mark.

    Args:
        size: Bytes wished for; 0: none.

    Returns:
        Its size now.
    """
    path = directory / BALLAST_FILE
    size = min(size, int(space.total * BALLAST_SHARE_MAX))
    if path.exists():
        if path.stat().st_size >= size > 0:
            return path.stat().st_size
        path.unlink()  # half made, or of another size
    left = Space(space.free - size, space.total)
    if size <= 0 or left.percent < percent_min * LIFT:
        return 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:  # no room after all, or a file system that cannot: do without
        log.warning("no ballast of %d bytes: %s", size, error.strerror)
        path.unlink()
        return 0
    finally:
        os.close(handle)
    return size


def give_up_ballast(directory: Path) -> int:
    """Delete the ballast; returns how many bytes that freed, 0 if there was none."""
    path = directory / BALLAST_FILE
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size
