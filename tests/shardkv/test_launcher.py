"""`up` without processes: what is founded, what is resumed, what is refused untouched."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from labrpc.errors import AddressInUse
from raft.errors import DataInUse, DataUnusable
from shardkv import clusterfile, launcher, nodedir
from shardkv.config import ConfigError
from shardkv.launcher import DirectoryLock, Plan, founding, prepare, wishes_of

PORT = 21000


def files(directory: Path) -> dict[str, bytes]:
    """Everything below a directory: an untouched one compares equal."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def plan(data: Path, **flags: int) -> Plan:
    given = {"nodes": 2, "replicas": 1, "shards": 4, "groups": 1, "base_port": PORT} | flags
    return Plan(data=data, **given)


def resumed(data: Path, **flags: int) -> Plan:
    return Plan(data=data, **flags)


def test_the_default_cluster() -> None:
    file = founding(Plan(data=Path("/data")), "ab" * 16)

    assert file.shards == 64
    assert list(file.nodes) == ["n1", "n2", "n3"]
    assert [place.client for place in file.nodes.values()] == [
        "127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"
    ]  # fmt: skip
    assert file.nodes["n3"].peer == "127.0.0.1:7421"
    assert file.nodes["n3"].http == "127.0.0.1:7422"
    assert [wish.gid for wish in wishes_of(file)] == [0, 1, 2]
    assert [sorted(wish.nodes) for wish in wishes_of(file)] == [["n1", "n2", "n3"]] * 3


def test_one_node_is_a_cluster_of_single_voters() -> None:
    file = founding(Plan(data=Path("/data"), nodes=1), "ab" * 16)

    assert [wish.nodes for wish in wishes_of(file)] == [("n1",)] * 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"nodes": 2, "replicas": 3}, "--replicas 3 needs as many nodes, there are 2"),
        ({"nodes": 64, "base_port": 65000}, "leaves no room for 64 nodes"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(flags: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        founding(Plan(data=Path("/data"), **flags), "")


def test_an_empty_directory_gets_a_cluster_and_the_same_one_is_resumed(tmp_path: Path) -> None:
    made = prepare(plan(tmp_path))

    assert nodedir.exists(tmp_path / "n1")
    assert nodedir.exists(tmp_path / "n2")
    assert nodedir.identity(tmp_path / "n2").cluster.hex() == made.cluster
    assert clusterfile.read(tmp_path / "cluster.yaml") == made
    before = files(tmp_path)
    assert prepare(plan(tmp_path)) == made
    assert prepare(resumed(tmp_path)) == made
    assert files(tmp_path) == before


@pytest.mark.parametrize("step", range(1, 6))
def test_a_founding_that_dies_anywhere_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Dies at the `step`-th rename: `founding.yaml`, the files of a node, its directory, ..."""
    renames = 0
    real = Path.rename

    class Died(Exception):
        pass

    def dying(path: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == step:
            raise Died
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Died):
            prepare(plan(tmp_path))

    begun = tmp_path / launcher.FOUNDING
    cluster = clusterfile.read(begun).cluster if begun.exists() else None
    made = prepare(plan(tmp_path))
    assert cluster in (None, made.cluster)
    assert [nodedir.identity(tmp_path / node).node for node in made.nodes] == ["n1", "n2"]
    assert not begun.exists()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".new"] == []


@pytest.mark.parametrize(
    ("flag", "value"),
    [("nodes", 3), ("groups", 2), ("replicas", 2), ("shards", 5), ("base_port", 7400)],
)
def test_a_flag_that_contradicts_the_cluster_is_refused(
    tmp_path: Path, flag: str, value: int
) -> None:
    prepare(plan(tmp_path))
    before = files(tmp_path)

    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')} {value} contradicts"):
        prepare(resumed(tmp_path, **{flag: value}))

    assert files(tmp_path) == before


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()

    with pytest.raises(DataUnusable, match="not empty \\('letters' is there\\) and no cluster"):
        prepare(plan(tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def test_a_node_whose_directory_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    prepare(plan(tmp_path))
    (tmp_path / "n2").rename(tmp_path / "elsewhere")

    with pytest.raises(DataUnusable, match="the data of node n2 is gone"):
        prepare(resumed(tmp_path))

    assert not (tmp_path / "n2").exists()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on, of n1's peers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_in_use_is_found_before_anything_is_made(tmp_path: Path, taken: int) -> None:
    with pytest.raises(AddressInUse, match=f"127.0.0.1:{taken}: the address is in use"):
        prepare(plan(tmp_path, base_port=taken - 1))

    assert list(tmp_path.iterdir()) == []


def test_two_cannot_run_on_one_directory(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(DataInUse, match="another `shardkv up` runs on it"):
        DirectoryLock(tmp_path)
    lock.release()

    DirectoryLock(tmp_path).release()
