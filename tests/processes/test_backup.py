"""Backup and restore on real processes: while clients write, with kills; and every bad input."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shardkv
from labrpc.errors import RpcError
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.types import GroupId
from shardkv import admin, aio
from shardkv.admin import Nothing
from shardkv.commands import Mutation, Op, OpenSession, encode
from shardkv.held import EPOCH
from shardkv.once import TOKEN_BYTES, Once
from shardkv.protocol import KV, Status, decode_reply, encode_frame
from shardkv.routing import SlotRouting
from shardkv.types import Answer, Code, SessionId
from tests.support.load import Load
from tests.support.processes import (
    PROGRAM,
    ROOT,
    Cluster,
    Ended,
    environment,
    free_base_port,
    replicas_in,
    run,
    run_program,
    running,
    wait_for,
)

SHARDS = 8
KEYS = {b"key %d" % number: b"value %d" % number * (1 + number % 50) for number in range(400)}
BULK = b"x" * 100_000
ROUTING = SlotRouting(SHARDS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, two groups, with keys."""
    with running(tmp_path_factory.mktemp("backup"), groups=2, shards=SHARDS) as cluster:
        run(fill(cluster))
        yield cluster


async def fill(cluster: Cluster) -> None:
    async with aio.connect(cluster.endpoints) as kv:
        await asyncio.gather(*(kv.put(key, value) for key, value in KEYS.items()))
        await asyncio.gather(*(kv.put(b"big %d" % n, BULK) for n in range(40)))


def refused(done: Ended, status: int, *words: str) -> None:
    assert done.status == status, done
    assert done.out == b""
    line = done.err.strip().splitlines()[-1]
    for word in words:
        assert word in line, line


@pytest.fixture(scope="module")
def backup(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it, made once."""
    directory = tmp_path_factory.mktemp("made") / "backup"
    done = cluster.cli("backup", str(directory))
    assert done.status == 0, done
    assert done.out.startswith(b"backup ")
    return directory


def restored(backup: Path, directory: Path, *flags: str) -> Cluster:
    """A new cluster from a backup, not started yet."""
    directory.mkdir(exist_ok=True)
    new = Cluster(directory, groups=2, shards=SHARDS)
    port = ("--base-port", str(free_base_port(4)))
    done = run_program("restore", str(backup), "--data", str(new.data), *port, *flags)
    assert done.status == 0, done
    return new


def start(new: Cluster) -> None:
    """`up`, which first copies every group to all its nodes."""
    new.begin("--nodes", "3")
    wait_for(lambda: "ready" in new.lines() or new.up.poll() is not None, "all copied", 90)
    new.wait_ready()


async def ask(cluster: Cluster, command: Mutation | OpenSession) -> Answer:
    """What the group that serves the shard answers, whoever asks: no clerk is between."""
    transport = GrpcTransport(cluster.cluster, "raw")
    try:
        async with asyncio.timeout(20):
            while True:
                for gid in (1, 2):
                    for address in cluster.endpoints:
                        frame = encode_frame(GroupId(gid), 0, [encode(command)])
                        body = await transport.call(Address(address), KV, frame, timeout=5)
                        reply = decode_reply(body)
                        answer = reply.results[0] if reply.status is Status.ANSWERED else None
                        if isinstance(answer, Answer) and answer.code is not Code.WRONG_GROUP:
                            return answer
    finally:
        await transport.close()


@pytest.mark.timeout(180)
def test_a_cluster_is_backed_up_under_load_and_restored(cluster: Cluster, tmp_path: Path) -> None:
    """Every key that was acknowledged before is there; the new cluster has an id of its own, grows
    to all its voters, and neither nodes nor clients of the two take each other for their own."""

    async def under_load() -> int:
        async with Load(cluster.endpoints, clients=4) as load:
            await load.some(100)
            loop = asyncio.get_running_loop()
            done = await loop.run_in_executor(
                None, lambda: cluster.cli("backup", str(tmp_path / "b"), "--json")
            )
            assert done.status == 0, done
            assert json.loads(done.out)["keys"] >= len(KEYS)
            await load.some(100)
            await load.finish()
            return load.acknowledged

    assert run(under_load()) > 200
    assert not (tmp_path / "b.partial").exists()
    verified = run_program("backup", "verify", str(tmp_path / "b"))
    assert verified.status == 0, verified

    new = restored(tmp_path / "b", tmp_path / "new")
    try:
        start(new)
        assert new.cluster != cluster.cluster
        with shardkv.connect(new.endpoints) as kv:
            for key, value in KEYS.items():
                assert kv.get(key) == value
            key, value = next(iter(KEYS.items()))
            assert kv.put(key, value, if_version=1) > EPOCH, "2 may have been given meanwhile"
            kv.put("after", "the restore")
        run(grown(new))
        assert not (new.data / "growing").exists()
        run(strangers(cluster, new))
        assert new.interrupt() == 0
        start(new)  # and is found again
        with shardkv.connect(new.endpoints) as kv:
            assert kv.get("after") == b"the restore"
    finally:
        new.close()


async def grown(new: Cluster) -> None:
    async with new.eyes() as eyes:
        await eyes.whole()
        await eyes.until(
            lambda seen: all(
                len(list(replicas_in(seen, gid))) == 3
                and all(len(replica.voters) == 3 for _, replica in replicas_in(seen, gid))
                for gid in (0, 1, 2)
            ),
            "three voters a group",
        )


async def strangers(old: Cluster, new: Cluster) -> None:
    """A process of one cluster is told so by the other, whoever asks."""
    for mine, theirs in ((old, new), (new, old)):
        transport = GrpcTransport(mine.cluster, "stranger")
        try:
            with pytest.raises(RpcError, match="mismatch"):
                await transport.call(
                    Address(theirs.endpoints[0]), admin.STATUS, admin.encode(Nothing()), timeout=5
                )
        finally:
            await transport.close()


@pytest.mark.timeout(120)
def test_an_old_clients_retry_is_not_applied_twice(cluster: Cluster, tmp_path: Path) -> None:
    """What the backup holds is answered from it, by the name that a client gave it too; a session
    that was opened after it is unknown for ever, and no stranger's."""
    key, shard = b"counted", ROUTING(b"counted")
    name = Once(b"n" * TOKEN_BYTES)

    def append(session: int, seq: int, value: bytes) -> Mutation:
        return Mutation(Op.APPEND, shard, SessionId(session), seq, 1, key, value)

    async def before() -> int:
        opened = await ask(cluster, OpenSession(shard))
        named = append(opened.facts[0], 1, b"one ")._replace(once=name)
        assert (await ask(cluster, named)).code is Code.OK
        return opened.facts[0]

    old = run(before())
    assert cluster.cli("backup", str(tmp_path / "b")).status == 0
    late = run(ask(cluster, OpenSession(shard))).facts[0]
    new = restored(tmp_path / "b", tmp_path / "new")

    async def after() -> None:
        again = await ask(new, append(old, 1, b"one "))
        assert (again.code, again.facts) == (Code.OK, (1,)), "the answer that it had at first"
        assert (await ask(new, append(late, 1, b"lost "))).code is Code.SESSION_EXPIRED
        other = (await ask(new, OpenSession(shard))).facts[0]
        assert other > late + 2**31
        assert (await ask(new, append(other, 1, b"one ")._replace(once=name))).facts == (1,)
        assert (await ask(new, append(old, 2, b"two "))).code is Code.OK
        async with aio.connect(new.endpoints) as kv:
            assert await kv.get(key) == b"one two "

    try:
        start(new)
        run(after())
    finally:
        new.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("led", [0, 1], ids=["of the controller", "of a group"])
def test_a_node_that_is_killed_during_a_backup(tmp_path: Path, led: int) -> None:
    """Another replica is read, or it fails for certain; never half of it."""
    with running(tmp_path / "c", groups=2, shards=SHARDS) as cluster:
        run(fill(cluster))

        async def leads() -> str:
            async with cluster.eyes() as eyes:
                return await eyes.leader(led)

        leader = run(leads())
        assert cluster.cli("status").status == 0  # the process that forks is warm
        warm = cluster._warm
        assert warm is not None
        nodes = ",".join(cluster.endpoints)
        warm.begin("backup", str(tmp_path / "b"), "--rate", "2", SHARDKV_ENDPOINTS=nodes)
        wait_for(lambda: "MiB" in warm.said(), "the backup under way")
        cluster.kill(leader)
        done = warm.end()
        assert not (tmp_path / "b.partial").exists()
        assert done.status == 0, done
        assert run_program("backup", "verify", str(tmp_path / "b")).status == 0


def test_a_backup_that_is_cut_off_leaves_nothing_to_mistake(
    cluster: Cluster, tmp_path: Path
) -> None:
    """kill -9 of the backup itself: what lies there says by its name and by lacking a manifest that
    it is none, and the next one clears it away."""
    process = subprocess.Popen(
        [*PROGRAM, "backup", str(tmp_path / "b"), "--rate", "1"],
        env=environment(SHARDKV_ENDPOINTS=",".join(cluster.endpoints)),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: list(tmp_path.glob("b.partial/*.rows")), "its first file")
        refused(cluster.cli("backup", str(tmp_path / "b")), 5, "another process")
    finally:
        process.kill()
        process.wait()

    refused(cluster.cli("backup", "verify", str(tmp_path / "b")), 1, "no directory")
    refused(cluster.cli("backup", "verify", str(tmp_path / "b.partial")), 1, "no manifest")
    refused(cluster.cli("restore", str(tmp_path / "b.partial"), "--data", str(tmp_path / "n")), 1)
    assert not (tmp_path / "n").exists()
    assert cluster.cli("backup", str(tmp_path / "b")).status == 0
    assert not (tmp_path / "b.partial").exists()


# Bad inputs


def test_where_no_backup_can_be(cluster: Cluster, tmp_path: Path) -> None:
    """Refused at once, and nothing is left."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b3.partial").mkdir()
    (tmp_path / "b3.partial" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))

    def backup(place: object, *flags: str) -> Ended:
        return cluster.cli("backup", str(place), *flags)

    refused(backup(tmp_path / "file"), 1, "exists and is no directory")
    refused(backup(tmp_path / "full"), 1, "not empty")
    refused(backup("/dev/full"), 1, "exists and is no directory")
    refused(backup(tmp_path / "full" / ".." / "b"), 2, "'..'")
    refused(backup(tmp_path / "link"), 2, "symbolic link")
    refused(backup(tmp_path / "none" / "b"), 2, "no directory; make it first")
    refused(backup(tmp_path / "b3"), 1, "no part of a backup")
    refused(backup(""), 2)
    refused(cluster.cli("backup"), 2)
    refused(cluster.cli("backup", "verify", "a", "b"), 2, "one DIR")
    refused(backup(tmp_path / "b", "--rate", "0"), 2, "from 1 to")
    refused(backup(tmp_path / "b", "--rate", "1e3"), 2)
    refused(backup(tmp_path / "b", "--wait", "-1"), 2)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "LOCK"] == before


def test_a_full_disk_leaves_no_half_file(cluster: Cluster, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: a write fails half-way."""
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; trap "" XFSZ; exec "$@"', "-", *PROGRAM, "backup",
         str(tmp_path / "b")],
        env=environment(SHARDKV_ENDPOINTS=",".join(cluster.endpoints)),
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 1, done
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def newer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"shardkv-backup 1", b"shardkv-backup 2", 1))


def linked(path: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


DAMAGES = [
    pytest.param(lambda d: flip(d / "group-1.rows", 300), "hash|checksum", id="a bit flipped"),
    pytest.param(lambda d: flip(d / "group-1.rows", 15), "length", id="a length damaged"),
    pytest.param(lambda d: cut(d / "group-2.rows", -1), "bytes, and the manifest", id="cut by 1"),
    pytest.param(lambda d: cut(d / "group-0.rows", 0), "bytes, and the manifest", id="emptied"),
    pytest.param(lambda d: (d / "group-1.rows").unlink(), "missing", id="a file is missing"),
    pytest.param(lambda d: linked(d / "group-1.rows"), "symbolic link", id="a file is a link"),
    pytest.param(
        lambda d: shutil.copy(d / "group-1.rows", d / "group-2.rows"),
        "bytes, and the manifest|hash|snapshot",
        id="a file put in another's place",
    ),
    pytest.param(lambda d: (d / "manifest").unlink(), "no manifest", id="no manifest"),
    pytest.param(lambda d: flip(d / "manifest", 200), "its hash", id="a bit of the manifest"),
    pytest.param(lambda d: cut(d / "manifest", 100), "its hash", id="the manifest is cut"),
    pytest.param(lambda d: cut(d / "manifest", 0), "no shardkv backup", id="an empty manifest"),
    pytest.param(lambda d: newer(d / "manifest"), "format 2", id="a newer format"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES)
def test_a_damaged_backup_is_refused_before_anything_is_written(
    cluster: Cluster, backup: Path, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    directory = tmp_path / "b"
    shutil.copytree(backup, directory)
    assert cluster.cli("backup", "verify", str(directory)).status == 0
    damage(directory)

    for done in (
        cluster.cli("backup", "verify", str(directory)),
        cluster.cli("restore", str(directory), "--data", str(tmp_path / "new")),
    ):
        refused(done, 1)
        assert re.search(says, done.err), done.err
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new.partial").exists()


def test_where_no_restore_can_go(cluster: Cluster, backup: Path, tmp_path: Path) -> None:
    """Data that is there is never touched."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()

    def restore(place: object, *flags: str) -> Ended:
        return cluster.cli("restore", str(backup), "--data", str(place), *flags)

    refused(restore(tmp_path / "full"), 1, "not empty")
    refused(restore(cluster.data), 1, "not empty")
    refused(restore(tmp_path / "a" / ".." / "b"), 2, "'..'")
    refused(restore(tmp_path / "new", "--nodes", "0"), 2)
    refused(restore(tmp_path / "new", "--nodes", "2", "--replicas", "3"), 2, "needs as many nodes")
    refused(cluster.cli("restore", str(tmp_path / "none"), "--data", str(tmp_path / "n")), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_an_old_node_does_not_come_into_the_new_cluster(
    cluster: Cluster, backup: Path, tmp_path: Path
) -> None:
    """A directory of the old cluster put into the new one's place is found by
    its promise, before anything is opened."""
    new = restored(backup, tmp_path / "new")
    other = restored(backup, tmp_path / "other")  # of the same backup, and yet a stranger
    shutil.rmtree(new.data / "n2")
    shutil.copytree(other.data / "n2", new.data / "n2")

    done = run_program("up", "--data", str(new.data))

    refused(done, 4, "belongs to node n2 of cluster", "nothing was changed")


def test_what_help_says(cluster: Cluster) -> None:
    for words in (("backup", "--help"), ("restore", "--help")):
        done = cluster.cli(*words)
        assert done.status == 0
        assert b"Examples:" in done.out
