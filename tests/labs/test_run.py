"""`python -m labs` as a user calls it, on our Raft, on a right one and on a wrong one."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labs.cli.plugin import seeds
from labs.harness.edition import plain_id
from labs.harness.realtime import run_really

ROOT = Path(__file__).resolve().parents[2]
RIGHT = "docs/examples/compact_raft.py:CompactRaft"
WRONG = "docs/examples/hasty_raft.py:HastyRaft"


def labs(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return python("-m", "labs", *arguments)


def python(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=110,
    )


def verdicts(out: str) -> dict[str, list[str]]:
    """Of each official test, what its runs came to."""
    found: dict[str, list[str]] = {}
    for verdict, name in re.findall(r"^(ok|FAILED) +\d{4} +\w+ +(\w+)", out, re.MULTILINE):
        found.setdefault(name, []).append(verdict)
    return found


def test_a_run_prints_a_line_a_test() -> None:
    """Seconds simulated and real, peers, RPCs, bytes, agreements; the same from the same seed."""
    first, second = (labs("run", "3B", "basic", "--edition", "2024") for _ in range(2))

    assert first.returncode == 0, first.stderr
    line = re.search(
        r"^ok +2024 3B +TestBasicAgree3B +(\d+\.\d) +\d+\.\d +3 +(\d+) +(\d+) +3$",
        first.stdout,
        re.MULTILINE,
    )
    assert line is not None, first.stdout
    seconds, rpcs, sent = (float(number) for number in line.groups())
    assert 0 < seconds < 10 and 0 < rpcs < 100 and 0 < sent < 100_000
    assert "1 passed, 0 failed" in first.stdout
    again = re.search(r"TestBasicAgree3B +(\d+\.\d) +\d+\.\d +3 +(\d+) +(\d+)", second.stdout)
    assert again is not None and again.groups() == line.groups()


def test_repetitions_draw_from_other_seeds_in_several_processes() -> None:
    run = labs("run", "3A", "initial", "--repeat", "3", "--seed", "7", "--jobs", "2")

    assert run.returncode == 0, run.stderr
    assert verdicts(run.stdout) == {"TestInitialElection3A": ["ok"] * 6}
    sent = re.findall(r"^ok +2024 .* (\d+) +(\d+) +\d+$", run.stdout, re.MULTILINE)
    assert len(sent) == 3 and len(set(sent)) > 1, "RPCs and bytes of three seeds"


def test_a_right_implementation_of_somebody_else_passes() -> None:
    run = labs("run", "raft", "--impl", RIGHT, "--edition", "2025")

    assert run.returncode == 0, run.stdout
    assert len(verdicts(run.stdout)) == 28


def test_a_wrong_one_fails_and_its_failure_is_replayed() -> None:
    run = labs("run", "3B", "failure", "--impl", WRONG, "--edition", "2024", "--seed", "5")

    assert run.returncode == 1, run.stdout
    assert verdicts(run.stdout)["TestFollowerFailure3B"] == ["FAILED"]
    assert "committed without a majority" in run.stdout
    assert "seed: 5" in run.stdout
    replay = re.search(
        rf"replay: LAB_SEED=5 LAB_IMPL={re.escape(WRONG)} python -m pytest "
        r"'(\S+::test_follower_failure_3b\[2024\])'",
        run.stdout,
    )
    assert replay is not None, run.stdout

    again = python(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", replay.group(1)),
        LAB_SEED="5",
        LAB_IMPL=WRONG,
    )
    assert again.returncode == 1
    assert "committed without a majority" in again.stdout


def test_list_names_the_tests_and_a_wrong_call_is_told() -> None:
    listed = labs("list", "3A", "--edition", "2025")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[4] for line in listed.stdout.splitlines()] == [
        "TestInitialElection3A",
        "TestReElection3A",
        "TestManyElections3A",
    ]

    unknown = labs("run", "3B", "nosuchtest")
    assert (unknown.returncode, "no such test" in unknown.stderr) == (2, True)
    unfit = labs("run", "4A", "--impl", RIGHT)
    assert (unfit.returncode, "is for the raft lab" in unfit.stderr) == (2, True)
    absent = labs("run", "3A", "--impl", "nowhere:Nothing")
    assert (absent.returncode, "cannot load" in absent.stderr) == (2, True)


def test_a_test_also_runs_on_the_real_clock() -> None:
    run = labs("run", "3B", "basic", "--edition", "2025", "--real-time")

    assert run.returncode == 0, run.stdout
    line = re.search(r"TestBasicAgree3B +(\d+\.\d) +(\d+\.\d)", run.stdout)
    assert line is not None
    run_seconds, real_seconds = (float(number) for number in line.groups())
    assert real_seconds >= run_seconds > 0.1


def test_on_the_real_clock_a_failure_that_nobody_saw_fails_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(int, "no number")
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match="no number"):
        run_really(main())


def test_seeds_are_counted_up() -> None:
    assert seeds(None, 3) == ["1", "2", "3"]
    assert seeds("7", 2) == ["7", "8"]
    assert seeds("7", 1) == ["7"]
    assert seeds("x", 2) == ["x/0", "x/1"]


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("a.py::test_x", "a.py::test_x"),
        ("a.py::test_x[2024]", "a.py::test_x[2024]"),
        ("a.py::test_x[2024-@7]", "a.py::test_x[2024]"),
        ("a.py::test_x[@word/3]", "a.py::test_x"),
        ("a.py::test_x[2024-@7]@processes", "a.py::test_x[2024]"),
        ("a.py::test_x@processes", "a.py::test_x"),
    ],
)
def test_an_id_is_shown_as_plain_pytest_knows_it(marked: str, plain: str) -> None:
    assert plain_id(marked) == plain
