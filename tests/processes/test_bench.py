"""`shardkv bench` against real nodes: what it says is what it did."""

import json
from pathlib import Path

import pytest

from tests.support.processes import run_program, running


def test_a_load_is_put_on_a_cluster_by_one_process_and_shared_by_two(tmp_path: Path) -> None:
    with running(tmp_path, groups=1) as cluster:
        for processes in ("1", "2"):
            ended = run_program(
                "bench", "--endpoints", ",".join(cluster.endpoints), "--clients", "1",
                "--clients", "8", "--gets", "0.5", "--keys", "100", "--seconds", "0.5",
                "--processes", processes, "--json", seconds=60,
            )  # fmt: skip

            assert ended.status == 0, ended.err
            figures = json.loads(ended.out)["figures"]
            assert [row["clients"] for row in figures] == [1, 8]
            for row in figures:
                assert row["operations"] > 0 and row["errors"] == 0
                assert row["seconds"] >= 0.5 and row["began"] > 0 and row["cpu_seconds"] > 0
                rate = row["operations"] / row["seconds"]
                assert row["per_second"] == pytest.approx(rate, rel=1e-3)
                assert row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        told = run_program("list", "--endpoints", ",".join(cluster.endpoints), "bench/")
        assert b"bench/99" in told.out, "the keys stay, as the help says"
