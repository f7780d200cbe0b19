"""Reads on any replica, lists and exports, on real processes and by the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardkv.cli.exportfile import NAME
from tests.support.processes import Cluster, running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("reads"), nodes=3, groups=2) as cluster:
        yield cluster


def listed_rows(cluster: Cluster, prefix: str) -> list[dict[str, Any]]:
    listed = cluster.cli("list", prefix, "--values", "--json")
    return [json.loads(line) for line in listed.out.splitlines()]


def test_keys_go_out_and_come_back_exactly(cluster: Cluster, tmp_path: Path) -> None:
    """Files in, a list, an export, an import of it under another prefix, and a list again."""
    site = tmp_path / "site"
    site.mkdir()
    for number in range(300):
        (site / f"page {number:03}").write_bytes(b"\xff\x00 body of %d\n" % number)
    (site / "empty").write_bytes(b"")
    assert cluster.cli("import", str(site), "--prefix", "site/").status == 0

    listed = cluster.cli("list", "site/")
    names = sorted(["site/empty", *[f"site/page {number:03}" for number in range(300)]])
    assert listed.out.decode().splitlines() == names
    some = cluster.cli("list", "site/page", "--after", "site/page 100", "--limit", "2", "--values")
    assert some.out.decode().splitlines() == [
        f"site/page {number}\t\\xff\\x00 body of {number}\\n" for number in (101, 102)
    ]

    out = tmp_path / "out"
    exported = cluster.cli("export", "site/", str(out))
    assert exported.status == 0
    assert exported.out.startswith(b"301 keys, ")
    again = cluster.cli("export", "site/", str(out))
    assert (again.status, again.out) == (1, b"")
    assert "is there already" in again.err

    imported = cluster.cli("import", str(out / NAME), "--prefix", "copy/")
    assert imported.status == 0
    rows, before = listed_rows(cluster, "copy/"), listed_rows(cluster, "site/")
    assert [{**row, "key": row["key"].removeprefix("copy/")} for row in rows] == before

    (out / NAME).write_bytes((out / NAME).read_bytes()[:-20])
    refused = cluster.cli("import", str(out / NAME), "--prefix", "cut/")
    assert refused.status == 1
    assert "nothing was written" in refused.err
    assert cluster.cli("list", "cut/").out == b""


def test_each_consistency_shows_what_was_written(cluster: Cluster) -> None:
    assert cluster.cli("put", "greeting", "hello").status == 0
    for how in (["linearizable"], ["spread"], ["stale", "--max-age", "0.001"]):
        assert cluster.cli("get", "greeting", "--consistency", *how).out == b"hello"


def test_a_stale_read_that_nobody_is_new_enough_for_is_3(cluster: Cluster) -> None:
    """With the two other nodes stopped, what is left tells how old it is."""
    assert cluster.cli("put", "greeting", "hello").status == 0
    names = sorted(cluster.nodes)
    last = names[-1]
    for name in names[:-1]:
        cluster.pause(name)
    try:
        at = ["--endpoints", cluster.nodes[last].client]
        wide = cluster.cli("get", "greeting", "--consistency", "stale", "--max-age", "600", *at)
        narrow = cluster.cli("get", "greeting", "--consistency", "stale", "--max-age", "0.01", *at)
    finally:
        for name in names[:-1]:
            cluster.resume(name)
    assert (wide.status, wide.out) == (0, b"hello")
    assert narrow.status == 3
    assert "no replica is known to be at most 0.01 s old" in narrow.err
