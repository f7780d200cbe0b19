"""The watermark and the ballast: when writes are refused and taken, and what makes room."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardctrler.types import ShardId
from shardkv.commands import Batch, BatchWrite, Mutation, Op, OpenSession
from shardkv.disk_space import (
    BALLAST_FILE,
    MIB,
    DiskSpace,
    Space,
    give_up_ballast,
    make_ballast,
    space_of,
)
from shardkv.server import _makes_room
from shardkv.types import SessionId

S0 = ShardId(0)
GIB = 1024 * MIB
WIDE = Space(free=80 * GIB, total=100 * GIB)


def test_a_full_disk_takes_what_makes_room_and_what_costs_none() -> None:
    def mutation(op: Op) -> Mutation:
        return Mutation(op, S0, SessionId(1), 1, 1, b"k", b"" if op is Op.DELETE else b"v")

    def batch(*ops: Op) -> Batch:
        return Batch(S0, SessionId(1), 1, 1, tuple([BatchWrite(op, b"k") for op in ops]))

    taken = [mutation(Op.DELETE), batch(Op.DELETE, Op.DELETE), OpenSession(S0)]
    refused = [mutation(Op.PUT), mutation(Op.APPEND), batch(Op.PUT), batch(Op.DELETE, Op.APPEND)]
    assert all(map(_makes_room, taken))
    assert not any(map(_makes_room, refused))


def test_the_two_marks_lie_apart() -> None:
    """A disk at its mark does not go on and off."""
    free = [100.0, 5.0, 4.9, 5.1, 5.9, 6.0, 5.0, 4.0]
    left = iter(free)
    disk = DiskSpace(lambda: Space(int(next(left) * 10), 1000))

    roomy = []
    for _ in free:
        disk.look()
        roomy.append(disk.roomy)

    assert roomy == [True, True, False, False, False, True, True, False]


def test_who_asks_after_a_node_with_a_full_disk_is_told() -> None:
    """As long as it lasts: with the figure of the last look, and what must be free again."""
    left = iter([0.5, 0.049, 0.055, 0.06])
    disk = DiskSpace(lambda: Space(int(next(left) * 1000), 1000))

    told = []
    for _ in range(4):
        disk.look()
        told.append(disk.warnings)

    text = (
        "% of the disk is free, less than free_percent_min (5): clients' writes are refused until "
        "6.0 % is"
    )
    assert told == [(), (f"4.9 {text}",), (f"5.5 {text}",), ()]


def test_without_a_watermark_nobody_is_refused() -> None:
    disk = DiskSpace(lambda: Space(0, 1000), percent_min=0)

    disk.look()

    assert disk.roomy


def test_a_look_that_fails_changes_nothing() -> None:
    answers: Iterator[Space | OSError] = iter([Space(1, 1000), OSError(errno.EIO, "gone")])

    def look() -> Space:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    disk = DiskSpace(look)
    disk.look()
    disk.look()

    assert not disk.roomy
    assert disk.space == Space(1, 1000)


def test_the_volume_of_a_directory(tmp_path: Path) -> None:
    found = space_of(tmp_path)

    assert 0 < found.free < found.total
    assert 0.0 < found.percent < 100.0


@pytest.mark.parametrize(
    ("space", "size"),
    [
        pytest.param(WIDE, 64 * MIB, id="as wished for"),
        pytest.param(Space(900 * MIB, 1000 * MIB), 50 * MIB, id="at most a twentieth"),
        pytest.param(Space(7 * GIB, 100 * GIB), 64 * MIB, id="above the mark"),
        pytest.param(Space(6 * GIB, 100 * GIB), 0, id="not where it takes what keeps writes going"),
        pytest.param(Space(0, 0), 0, id="a volume that says nothing"),
    ],
)
def test_the_ballast_s_size(tmp_path: Path, space: Space, size: int) -> None:
    assert make_ballast(tmp_path, 64 * MIB, space, 5.0) == size

    path = tmp_path / BALLAST_FILE
    assert (path.stat().st_size if path.exists() else 0) == size


def test_the_ballast_takes_its_room_for_good(tmp_path: Path) -> None:
    """Not a hole in a file: blocks."""
    make_ballast(tmp_path, 4 * MIB, WIDE, 5.0)

    assert (tmp_path / BALLAST_FILE).stat().st_blocks * 512 >= 4 * MIB


def test_one_that_is_there_is_kept_and_one_half_made_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / BALLAST_FILE
    make_ballast(tmp_path, MIB, WIDE, 5.0)
    inode = path.stat().st_ino

    assert make_ballast(tmp_path, MIB, WIDE, 5.0) == MIB
    assert path.stat().st_ino == inode
    os.truncate(path, 17)
    assert make_ballast(tmp_path, MIB, WIDE, 5.0) == MIB


def test_switched_off_it_is_taken_away(tmp_path: Path) -> None:
    make_ballast(tmp_path, MIB, WIDE, 5.0)

    assert make_ballast(tmp_path, 0, WIDE, 5.0) == 0
    assert not (tmp_path / BALLAST_FILE).exists()


def test_giving_it_up_says_what_that_freed(tmp_path: Path) -> None:
    make_ballast(tmp_path, MIB, WIDE, 5.0)

    assert give_up_ballast(tmp_path) == MIB
    assert give_up_ballast(tmp_path) == 0, "there is none any more"


def test_a_disk_without_room_for_it_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    assert make_ballast(tmp_path, MIB, WIDE, 5.0) == 0
    assert not (tmp_path / BALLAST_FILE).exists(), "nothing half made"
