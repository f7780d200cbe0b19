"""`cluster.yaml` is read as it was written, or refused with what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from shardkv import clusterfile
from shardkv.clusterfile import ClusterFile, NodePlace
from shardkv.config import ConfigError


def place(port: int, node: str) -> NodePlace:
    return NodePlace(
        client=f"127.0.0.1:{port}",
        peer=f"127.0.0.1:{port + 1}",
        http=f"127.0.0.1:{port + 2}",
        data=f"/data/{node}",
        log=f"/data/{node}/node.log",
    )


WRITTEN = ClusterFile(
    cluster="00ff" * 8,
    shards=64,
    nodes={"n1": place(7400, "n1"), "n2": place(7410, "n2")},
    controller=("n1", "n2"),
    groups={1: ("n2", "n1"), 2: ("n1",)},
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    WRITTEN.write(tmp_path)

    assert clusterfile.read(tmp_path / "cluster.yaml") == WRITTEN
    assert WRITTEN.endpoints == ("127.0.0.1:7400", "127.0.0.1:7410")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml"]


def test_the_keys_stand_in_the_documented_order() -> None:
    keys = [line.split(":")[0] for line in WRITTEN.render().splitlines() if line[0].isalpha()]

    assert keys == ["format", "cluster", "shards", "endpoints", "nodes", "controller", "groups"]


def test_a_write_that_dies_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITTEN.write(tmp_path)

    def dies(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", dies)
    with pytest.raises(OSError, match="No space left"):
        replace(WRITTEN, shards=12).write(tmp_path)

    assert clusterfile.read(tmp_path / "cluster.yaml") == WRITTEN


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format: 1", "format: 2", "format '2' is not 1"),
        ("shards: 64", "shards: 0", "damaged: 'must be from 1 to 1024'"),
        ("client: 127.0.0.1:7400", "client: nowhere", "damaged: 'must be HOST:PORT"),
        ("cluster: ", "clusters: ", "damaged: '\\'cluster\\''"),
        ("controller:\n- n1\n- n2", "controller: n1", "damaged: 'a group must be a list"),
        ("nodes:", "nodes: [", "damaged, no YAML"),
        ("00ff", "zzzz", "damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = WRITTEN.render()
    assert old in text
    (tmp_path / "cluster.yaml").write_text(text.replace(old, new, 1))

    with pytest.raises(ConfigError) as caught:
        clusterfile.read(tmp_path / "cluster.yaml")

    assert said.replace("\\'", "'") in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_cut_of_the_file_is_read_as_another_cluster(tmp_path: Path) -> None:
    """A cut file is refused, or (cut within the last list) lacks only nodes of the last group."""
    text = WRITTEN.render()
    for length in range(len(text)):
        (tmp_path / "cluster.yaml").write_text(text[:length])
        try:
            cut = clusterfile.read(tmp_path / "cluster.yaml")
        except ConfigError:
            continue
        assert replace(cut, groups={}) == replace(WRITTEN, groups={})
