"""Disks that are full, that fail, and that lose power. The node ends at once with status 4, the
rest serves, and after a restart nothing that was acknowledged is missing."""

import asyncio
import fcntl
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.load import Load
from tests.support.processes import Cluster, Eyes, run, running, wait_for

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
"""What is not on the disk yet is lost, as when the power fails."""


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_a_full_disk_ends_the_node_and_nothing_else(tmp_path: Path, which: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(100)
            victim = await pick(cluster, eyes, which)
            node = cluster.nodes[victim]
            # Every write past the end of a file fails now, as on a full disk: the log's next one.
            longest = max(p.stat().st_size for p in (node.data / "log").glob("*.log"))
            limit = longest + 512
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            full = time.monotonic()
            await asyncio.to_thread(cluster.wait_ended, victim)
            assert time.monotonic() - full < 3, "at the first write that fails"
            how, _ = cluster.obituary(victim)
            assert how == "ended with status 4"
            assert "storage failed" in cluster.complaints()
            assert "storage failed" in (node.data / "node.log").read_text()
            await load.some(150)  # the others serve
            await asyncio.to_thread(cluster.restart, victim)  # there is room again
            await eyes.whole()
            await load.some(50)
            await load.finish()

    with running(tmp_path) as cluster:
        run(scenario(cluster))


async def pick(cluster: Cluster, eyes: Eyes, which: str) -> str:
    """The leader of group 1, or a node that leads nothing of it."""
    leader = await eyes.leader(1)
    return leader if which == "leader" else min(cluster.nodes.keys() - {leader})


def strace_works() -> bool:
    program = shutil.which("strace")
    if program is None:
        return False
    done = subprocess.run(
        [program, "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync", "true"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.mark.skipif(not strace_works(), reason="strace is not here, or may not trace")
@pytest.mark.parametrize("call", ["fdatasync:error=EIO", "write:error=EIO"])
def test_an_error_of_the_disk_ends_the_node_at_once(tmp_path: Path, call: str) -> None:
    """Injected into the system calls on the log database's write-ahead log, once: a second try
    would succeed, and must not be made."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(50)
            victim = await pick(cluster, eyes, "follower")
            cluster.kill(victim)
            node = cluster.nodes[victim]
            cluster.obituary(victim)
            # The log's own file is only known once it is open; what else is synced fails as well.
            strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(tmp_path / "strace.out")]
            where = [word for path in wal_names(node.data / "log") for word in ("-P", path)]
            inject = ["-e", f"inject={call}:when=40"]
            node.process = cluster.start_node(node.data, prefix=[*strace, *where, *inject])
            process = node.process
            await asyncio.to_thread(wait_for, lambda: process.poll() is not None, "its end")
            assert process.returncode == 4
            said = (tmp_path / f"{victim}.err").read_text()
            assert said.count("storage failed") == 1, said
            trace = (tmp_path / "strace.out").read_text().splitlines()
            failed = next(n for n, line in enumerate(trace) if "INJECTED" in line)
            rest = [line for line in trace[failed + 1 :] if "exited" not in line]
            assert not rest, "nothing may be written after a write that failed"
            await load.some(100)
            await asyncio.to_thread(cluster.restart, victim)
            await eyes.whole()
            await load.finish()

    with running(tmp_path) as cluster:
        run(scenario(cluster))


def wal_names(database: Path) -> list[str]:
    """The write-ahead logs that the database will use next: LevelDB numbers its files upwards."""
    newest = max(int(p.stem) for p in database.glob("*.log"))
    return [str(database / f"{number:06d}.log") for number in range(newest + 1, newest + 4)]


@contextmanager
def disk_of_its_own(directory: Path) -> Iterator["Disk"]:
    disk = Disk(directory)
    try:
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop-mounted ext4 here: {error}")
    try:
        yield disk
    finally:
        disk.unmount()


class Disk:
    """A file system in a file, whose power can be cut."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "disk.img"
        self.path = directory / "mnt"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(96 * 1024 * 1024)
        self._mounts = 0

    def mount(self) -> None:
        """Each time from a file of its own. The file system of before may live on, shut down as it
        is: whoever copied our mounts meanwhile, as a browser's sandbox does, keeps it, and to mount
        its file again would give that one, on which all is an error."""
        if self._mounts == 0:
            _do("mkfs.ext4", "-q", "-F", str(self._image))
        else:
            before = self._image
            self._image = before.with_name(f"disk.{self._mounts}.img")
            _do("cp", "--sparse=always", str(before), str(self._image))
            before.unlink()
        self._mounts += 1
        _do("mount", "-o", "loop", str(self._image), str(self.path))

    def cut_power(self) -> None:
        """From here on nothing reaches the disk, and nothing ever will that has not."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(handle)

    def unmount(self) -> None:
        wait_for(lambda: _tried("umount", str(self.path)), f"{self.path} unmounted")


def _do(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _tried(*words: str) -> bool:
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk of one's own takes root")
def test_a_power_cut_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """All three nodes on one disk: what an fsync did not bring there is gone for all of them."""

    async def scenario(cluster: Cluster, disk: Disk) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            for _ in range(3):
                await load.some(150)
                disk.cut_power()
                for name in cluster.nodes:
                    await asyncio.to_thread(cluster.wait_ended, name)
                    how, _ = cluster.obituary(name)
                    assert how == "ended with status 4", f"{name} {how}: a failed sync ends it"
                cluster.up.send_signal(signal.SIGTERM)
                cluster.up.wait(10)
                disk.unmount()
                disk.mount()
                await asyncio.to_thread(cluster.start, "--nodes", "3")
            await load.some(150)
            await eyes.whole()
            await load.finish()

    with (
        disk_of_its_own(tmp_path) as disk,
        running(tmp_path, data=disk.path / "data") as cluster,
    ):
        run(scenario(cluster, disk))
