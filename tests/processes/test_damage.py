"""Every file of a node's directory damaged in turn, and directories of somebody else.

A node refuses with status 4 and says what is wrong and what to do, also where LevelDB says nothing;
or it starts, because what was damaged is not needed. The rest of the cluster never notices.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardkv import aio, nodedir
from shardkv.launcher import Plan, prepare
from tests.support.processes import (
    Cluster,
    Seen,
    Warm,
    free_base_port,
    is_running,
    processes_naming,
    run,
    run_program,
    running,
    wait_for,
)

LOG_BYTES_MAX = 65_536
SETTINGS = {
    "SHARDKV_RAFT_LOG_BYTES_MAX": f"{LOG_BYTES_MAX}",
    "SHARDKV_RAFT_LOG_KEEP_ENTRIES": "0",
    "SHARDKV_BALLAST_BYTES": "0",
}
"""So that the data database has tables, and logs are cut to what is in them: a table that a cut
manifest does not name any more holds what no log can replay, or the loss of it would be none."""
NEEDED = ("log/CURRENT", "log/MANIFEST-*", "log/*.ldb", "log/*.log")
NEEDED_DATA = ("data/CURRENT", "data/MANIFEST-*", "data/*.ldb")
HARMLESS = (
    *("LOCK", "node.log", "log/LOCK", "log/LOG", "log/LOG.old", "log/OWNER"),
    *("data/*.log", "data/LOCK", "data/LOG", "data/LOG.old", "data/OWNER", "data/set-aside/*"),
)
KINDS = ("flip", "cut", "empty", "delete")


def damage(path: Path, kind: str) -> None:
    """Flip a bit in the middle, cut the tail, leave nothing in it, or remove it."""
    content = bytearray(path.read_bytes())
    match kind:
        case "flip":
            content[len(content) // 2] ^= 0x10
        case "cut":
            del content[-min(50, len(content) // 2 + 1) :]
        case "empty":
            content.clear()
        case "delete":
            path.unlink()
            return
    path.write_bytes(content)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with cut logs and tables; n3 is stopped and stays so, its copies are damaged."""

    async def fill(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, aio.connect(cluster.endpoints) as clerk:
            for turn in range(3):
                for number in range(60):
                    await clerk.put(f"key {number}", f"{turn}" * 2000)
                if turn == 1:  # a second start leaves tables in the log database too
                    cluster.send("n3", signal.SIGTERM)
                    cluster.wait_ended("n3")
                    await asyncio.to_thread(cluster.restart, "n3")
                await eyes.whole()

            def has_tables() -> bool:
                return any((cluster.nodes["n3"].data / "data").glob("*.ldb"))

            await asyncio.to_thread(wait_for, has_tables, "tables in n3's data database")
            await eyes.until(is_cut, "n3's log cut to what its tables hold")
        cluster.send("n3", signal.SIGTERM)
        cluster.wait_ended("n3")

    with running(tmp_path_factory.mktemp("damage"), settings=SETTINGS) as cluster:
        run(fill(cluster))
        yield cluster
        run(serves(cluster))


def is_cut(seen: Seen) -> bool:
    """Whether no flush is under way on n3, nor a cut of what it made durable."""
    status = seen["n3"]
    replica = status.replica(1) if status is not None else None
    return replica is not None and replica.log_bytes <= LOG_BYTES_MAX


async def serves(cluster: Cluster) -> None:
    """The others never noticed."""
    async with aio.connect(cluster.endpoints) as clerk:
        for number in range(60):
            assert await clerk.get(f"key {number}") == b"2" * 2000
        await clerk.put("and still", "writes")


def copy_of(cluster: Cluster, node: str, to: Path) -> Path:
    shutil.copytree(cluster.nodes[node].data, to)
    return to


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    warm = Warm(tmp_path_factory.mktemp("warm"))
    yield warm
    warm.close()


def refusal(warm: Warm, directory: Path, *, status: int = 4) -> str:
    """What a node says that will not start on the directory: one line."""
    log = directory / "node.log"
    before = log.stat().st_size if log.exists() else 0

    def runs() -> bool:
        return log.exists() and b" running " in log.read_bytes()[before:]

    pid = warm.begin("node", "--data", str(directory), **SETTINGS)
    wait_for(lambda: not is_running(pid) or runs(), f"an end of {directory}")
    if is_running(pid):
        os.kill(pid, signal.SIGKILL)
    ended = warm.end()
    assert ended.status == status, f"status {ended.status}, said: {ended.err}"
    assert ended.err.count("\n") == 1 and ended.out == b"", ended
    return ended.err


def files_of(directory: Path, patterns: tuple[str, ...]) -> list[str]:
    found = [str(p.relative_to(directory)) for pattern in patterns for p in directory.glob(pattern)]
    return sorted(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("database", ["log", "data"])
def test_a_damaged_database_is_refused_with_its_name_and_what_to_do(
    cluster: Cluster, warm: Warm, tmp_path: Path, database: str, kind: str
) -> None:
    original = cluster.nodes["n3"].data
    names = files_of(original, NEEDED if database == "log" else NEEDED_DATA)
    assert {Path(name).suffix or Path(name).name[:8] for name in names} >= {
        ".ldb",
        "CURRENT",
        "MANIFEST",
    }
    for number, name in enumerate(names):
        copy = copy_of(cluster, "n3", tmp_path / f"copy-{number}")
        damage(copy / name, kind)
        said = refusal(warm, copy)
        assert str(copy / database) in said or f"{database} database" in said, (name, said)
        assert "under a new id" in said, (name, said)
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_needed_may_be_damaged_and_one_of_two_promises_too(
    cluster: Cluster, kind: str
) -> None:
    """All of it at once; the node starts and catches up as ever."""
    directory = cluster.nodes["n3"].data
    unneeded = files_of(directory, HARMLESS)
    assert {"LOCK", "log/LOCK", "data/LOCK", "node.log"} <= set(unneeded)
    assert any(name.startswith("data/0") for name in unneeded), "its log is never trusted"
    for promise in ("promise-a", "promise-b"):
        for name in files_of(directory, HARMLESS):
            if (directory / name).stat().st_size or kind in ("empty", "delete"):
                damage(directory / name, kind)
        damage(directory / promise, kind)
        cluster.restart("n3")
        run(catches_up(cluster))
        cluster.send("n3", signal.SIGTERM)
        cluster.wait_ended("n3")


async def catches_up(cluster: Cluster) -> None:
    async with cluster.eyes() as eyes:
        await eyes.whole()


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_promise_a_node_refuses(
    cluster: Cluster, warm: Warm, tmp_path: Path, kind: str
) -> None:
    copy = copy_of(cluster, "n3", tmp_path / "copy")
    damage(copy / "promise-a", kind)
    damage(copy / "promise-b", kind)
    said = refusal(warm, copy)
    assert "promise-a" in said and "promise-b" in said and "give the cluster a new node" in said


def test_settings_that_are_damaged_are_named(cluster: Cluster, warm: Warm, tmp_path: Path) -> None:
    for number, kind in enumerate(("cut", "empty", "delete")):
        copy = copy_of(cluster, "n3", tmp_path / f"copy-{number}")
        damage(copy / "node.yaml", kind)
        assert str(copy / "node.yaml") in refusal(warm, copy, status=2)


EXCHANGES = {
    "its log": (["log"], "log database: it belongs to node n2"),
    "its promises": (["promise-a", "promise-b"], "belongs to node n2 of cluster"),
    "its log and promises": (["log", "promise-a", "promise-b"], "belongs to node n2 of cluster"),
    "its settings": (["node.yaml"], "belongs to node n3 of cluster"),
    "its data": (["data"], "data database"),
    "all but the settings": (
        ["log", "data", "promise-a", "promise-b"],
        "belongs to node n2 of cluster",
    ),
}


@pytest.mark.parametrize("what", EXCHANGES)
def test_another_nodes_files_are_refused(
    cluster: Cluster, warm: Warm, tmp_path: Path, what: str
) -> None:
    names, complaint = EXCHANGES[what]
    copy = copy_of(cluster, "n3", tmp_path / "copy")
    replace(copy, cluster.nodes["n2"].data, names)
    assert complaint in refusal(warm, copy)


def replace(directory: Path, other: Path, names: list[str]) -> None:
    """Put another directory's files in the place of one's own."""
    for name in names:
        if (other / name).is_dir():
            shutil.rmtree(directory / name)
            shutil.copytree(other / name, directory / name)
        else:
            shutil.copy(other / name, directory / name)


def test_another_clusters_log_is_refused(cluster: Cluster, warm: Warm, tmp_path: Path) -> None:
    copy = copy_of(cluster, "n3", tmp_path / "copy")
    nodedir.create(tmp_path / "other", cluster=bytes(16), settings={"node": "n3"})
    replace(copy, tmp_path / "other", ["log"])
    said = refusal(warm, copy)
    assert f"belongs to node n3 of cluster {bytes(16).hex()}" in said
    assert cluster.cluster.hex() in said


def test_up_refuses_a_directory_of_another_cluster_before_it_starts_anything(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    found = prepare(Plan(data=data, base_port=free_base_port(3)))
    settings = {"node": "n2", "client": found.nodes["n2"].client, "peer": found.nodes["n2"].peer}
    shutil.rmtree(data / "n2")
    nodedir.create(data / "n2", cluster=bytes(range(16)), settings=settings)
    before = contents(data)

    ended = run_program("up", "--data", str(data))

    assert ended.status == 4 and ended.out == b"", ended
    assert f"{data}/n2: belongs to node n2 of cluster {bytes(range(16)).hex()}" in ended.err
    assert found.cluster in ended.err and ended.err.count("\n") == 1
    assert contents(data) == before
    assert not processes_naming(data)


def contents(directory: Path) -> dict[str, str]:
    """Every file's digest, but for locks."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("LOCK", "up.lock", "node.log")
    }


def test_an_old_copy_put_back_counts_no_more_and_status_says_so(warm: Warm, tmp_path: Path) -> None:
    """The node itself cannot know; its leader, which it told that it had more, can: as long as it
    leads, and so nobody stands for election in between, nor evens leaderships."""
    steady = {
        "SHARDKV_HEAL": "false",
        "SHARDKV_ELECTION_MIN_MS": "20000",
        "SHARDKV_ELECTION_MAX_MS": "30000",
    }

    async def append(cluster: Cluster, letter: str) -> str:
        async with cluster.eyes() as eyes, aio.connect(cluster.endpoints) as clerk:
            for _ in range(20):
                await clerk.append("letters", letter)
            value = await clerk.get("letters")
            assert value is not None and value.endswith(letter.encode() * 20)
            return await eyes.leader(1)

    def stop(cluster: Cluster, name: str) -> None:
        cluster.send(name, signal.SIGTERM)
        cluster.wait_ended(name)

    with running(tmp_path / "cluster", settings=steady) as cluster:
        leader = run(append(cluster, "a"))
        victim = min(cluster.nodes.keys() - {leader})
        directory = cluster.nodes[victim].data
        run(catches_up(cluster))
        stop(cluster, victim)
        shutil.copytree(directory, tmp_path / "old")
        cluster.restart(victim)
        assert run(append(cluster, "b")) == leader
        run(catches_up(cluster))
        stop(cluster, victim)
        shutil.rmtree(directory)
        shutil.copytree(tmp_path / "old", directory)
        cluster.restart(victim)

        def status() -> str:
            return warm.run("status", "--endpoints", ",".join(cluster.endpoints)).err

        complaint = f"group 1 on {victim} lost entries that it had acknowledged"
        wait_for(lambda: complaint in status(), "a complaint of the leader")
        assert run(append(cluster, "c")) == leader, "the others serve"


# What is in use, and what is no node


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


@pytest.mark.parametrize("port", ["--client", "--peer"])
def test_a_port_in_use_is_refused_before_data_is_touched(
    cluster: Cluster, warm: Warm, tmp_path: Path, listener: socket.socket, port: str
) -> None:
    copy = copy_of(cluster, "n3", tmp_path / "copy")
    before = contents(copy)
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    ended = warm.run("node", "--data", str(copy), port, address)
    assert ended.status == 5 and ended.err.count("\n") == 1, ended
    assert f"cannot listen on {address}: the address is in use" in ended.err
    assert contents(copy) == before


def test_a_second_process_on_a_directory_is_refused(cluster: Cluster, warm: Warm) -> None:
    running = cluster.nodes["n1"].data
    ended = warm.run("node", "--data", str(running))
    assert ended.status == 5 and "in use by another process" in ended.err
    again = warm.run("node", "--data", str(running))
    assert again.status == 5, "also after the first refusal"
    second = warm.run("up", "--data", str(cluster.data))
    assert second.status == 5 and "another `shardkv up` runs on it" in second.err
    assert cluster.runs("n1")


def test_a_directory_without_a_node_is_refused_and_nothing_is_created(
    warm: Warm, tmp_path: Path
) -> None:
    for directory in (tmp_path / "absent", tmp_path):
        ended = warm.run("node", "--data", str(directory))
        assert ended.status == 4 and ended.err.count("\n") == 1, ended
        assert "not initialised" in ended.err and "shardkv init" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_node_directory_is_never_made_over_another(
    cluster: Cluster, warm: Warm, tmp_path: Path
) -> None:
    """`init` on a directory that holds a node, or anything."""
    copy = copy_of(cluster, "n3", tmp_path / "copy")
    (tmp_path / "stuff").mkdir()
    (tmp_path / "stuff" / "letter").write_text("dear")
    before = contents(tmp_path)
    flags = ["--node", "n9", "--join", cluster.endpoints[0], "--client", "127.0.0.1:9"]
    for directory in (copy, tmp_path / "stuff"):
        ended = warm.run("init", "--data", str(directory), *flags)
        assert ended.status == 4 and "nothing was changed" in ended.err, ended
    assert contents(tmp_path) == before
