"""A lab run is a number: the same seed is the same run, in every process."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labrpc.sim.loop import run
from labs.harness.edition import Edition, LabFailure, run_lab, seed_of
from labs.harness.raft_cluster import RaftCluster

ROOT = Path(__file__).resolve().parents[3]


def trace(seed: str) -> str:
    """What a run with crashes, losses and snapshots amounts to."""
    lines: list[object] = []

    async def main() -> None:
        cluster = RaftCluster(3, seed=seed, edition=Edition.E2025, reliable=False, snapshots=True)
        async with cluster:
            for number in range(60):
                lines.append(await cluster.one(number, 2, retry=True))
                lines.append((asyncio.get_running_loop().time(), cluster.bytes_total))
                if number % 7 == 0:
                    victim = cluster.rng.randrange(3)
                    cluster.crash(victim)
                    await cluster.one(-number, 2, retry=True)
                    await cluster.restart(victim)
            lines.append(cluster.logs)
            lines.append(sorted(cluster.invariants.leaders.items()))

    run(main(), seed=seed)
    return repr(lines)


def test_the_same_seed_is_the_same_run_in_a_new_process() -> None:
    here = trace("4711")

    there = subprocess.run(
        [sys.executable, __file__, "4711"],
        env={**os.environ, "PYTHONHASHSEED": "42", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    ).stdout.strip()

    assert there == here
    assert trace("4712") != here


def test_a_failed_run_says_how_to_replay_it() -> None:
    async def main() -> None:
        raise LabFailure("no leader")

    with pytest.raises(LabFailure) as failure:
        run_lab(main(), seed="4711", test="tests/labs/x.py::test_y[2024]")

    assert failure.value.__notes__ == [
        "seed: 4711",
        "replay: LAB_SEED=4711 python -m pytest 'tests/labs/x.py::test_y[2024]'",
    ]


def test_the_environment_can_give_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_SEED", raising=False)
    assert seed_of("test_x", Edition.E2024) == "test_x/2024"
    monkeypatch.setenv("LAB_SEED", "7")
    assert seed_of("test_x", Edition.E2024) == "7"


def test_a_run_longer_than_the_limit_fails() -> None:
    async def main() -> None:
        cluster = RaftCluster(3, seed="1", edition=Edition.E2024, reliable=True, snapshots=False)
        async with cluster:
            await asyncio.sleep(121)

    with pytest.raises(LabFailure, match="the limit is"):
        run(main())


if __name__ == "__main__":
    print(trace(sys.argv[1]))
