"""`python -m labs` as a user calls it, on our Raft, on a right one and on a wrong one."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labs.__main__ import main
from labs.cli import impl
from labs.cli.plugin import seeds
from labs.harness.edition import plain_id
from labs.harness.realtime import run_really

ROOT = Path(__file__).resolve().parents[2]
RIGHT = "docs/examples/compact_raft.py:CompactRaft"
WRONG = "docs/examples/hasty_raft.py:HastyRaft"
RIGHT_KV = "docs/examples/compact_kv.py:CompactKv"
WRONG_KV = "docs/examples/forgetful_kv.py:ForgetfulKv"


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


def test_a_right_server_of_somebody_else_passes_both_editions() -> None:
    run = labs("run", "kvraft", "--impl", RIGHT_KV, "--jobs", "2")

    assert run.returncode == 0, run.stdout
    assert sum(map(len, verdicts(run.stdout).values())) == 45
    assert len(re.findall("^ok +2024 4[AB]", run.stdout, re.MULTILINE)) == 23
    assert len(re.findall("^ok +2025 4[BC]", run.stdout, re.MULTILINE)) == 22


@pytest.mark.parametrize(
    ("edition", "part", "told"),
    [("2024", "4A", "'x 1 2 y' is there twice"), ("2025", "4B", "'k' is at version 22")],
)
def test_a_wrong_server_fails_in_either_edition(edition: str, part: str, told: str) -> None:
    run = labs("run", part, "unreliable", "--impl", WRONG_KV, "--edition", edition, "--seed", "1")

    assert run.returncode == 1, run.stdout
    assert verdicts(run.stdout)[f"TestUnreliable{part}"] == ["FAILED"]
    assert told in run.stdout
    assert f"LAB_IMPL={WRONG_KV}" in run.stdout


def test_list_has_one_line_for_a_test_that_runs_with_many_arguments() -> None:
    listed = labs("list", "labrpc", "killed")
    assert listed.returncode == 0, listed.stderr

    (line,) = listed.stdout.splitlines()
    assert line.split()[3:] == [
        "TestKilled", "tests/labrpc/test_labnet.py::test_killed", "(30", "runs)"
    ]  # fmt: skip


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


UNFIT = """
def function(*arguments): ...

class Bare: ...

class Lame:
    def start(self, command): ...
    def get_state(self): ...
    def kill(self): ...

class StringsClerk:
    async def get(self, key): ...
    async def put(self, key, value): ...

class Server:
    clerks = {"2024": StringsClerk}
    def get_state(self): ...
    def kill(self): ...

class Unpaired(Server):
    clerks = {"2026": StringsClerk}

class Versioned(Server):
    clerks = {"2025": StringsClerk}
"""


@pytest.mark.parametrize(
    ("part", "edition", "named", "told"),
    [
        ("3A", None, "nowhere:Nothing", "cannot load 'nowhere:Nothing': No module named 'nowhere'"),
        ("3A", None, "nowhere.py:Nothing", "cannot load 'nowhere.py:Nothing': "),
        ("3A", None, "broken.py:Raft", "its import raised ZeroDivisionError: division by zero"),
        ("3A", None, "unfit.py:Nothing", "there is no 'Nothing' in unfit.py"),
        ("3A", None, "unfit.py", "'unfit.py' is not module:Name, nor file.py:Name"),
        ("3A", None, "unfit.py:function", "function is not a class, so it is not a Raft"),
        ("3A", None, "unfit.py:Lame", "Lame is not a Raft: it lacks snapshot()"),
        ("3A", None, "unfit.py:Server", "is a key/value server: it is for the kvraft lab"),
        ("4A", "2024", "unfit.py:Bare", "Bare has no clerks: a server brings them"),
        ("4A", "2024", "unfit.py:Server", "StringsClerk is not a clerk of 2024: it lacks append()"),
        ("4A", "2024", "unfit.py:Unpaired", "Unpaired.clerks must map 2024 or 2025 to a class"),
        ("kvraft", "2024", "unfit.py:Versioned", "Versioned has no clerk of 2024, only of 2025"),
        (
            "4A",
            "2025",
            "unfit.py:Versioned",
            "lab (kvraft, kvraft1), not for 4A of 2025",
        ),
        ("5A", None, "unfit.py:Server", "--impl is for the raft lab (raft, 3A to 3D) and the"),
    ],
)
def test_what_cannot_be_tested_is_told_in_one_line(
    part: str,
    edition: str | None,
    named: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "unfit.py").write_text(UNFIT)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    chosen = ["--edition", edition] if edition else []
    monkeypatch.setattr(sys, "argv", ["labs", "run", part, "--impl", named, *chosen])

    assert main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err


def test_a_server_of_one_edition_runs_as_that_one() -> None:
    assert impl.fit(RIGHT_KV, "kvraft", None) == (impl.KVRAFT, None)
    assert impl.fit(RIGHT_KV, "kvraft", "2024") == (impl.KVRAFT, "2024")
    assert impl.fit(RIGHT_KV, "4A", None) == (impl.KVRAFT, "2024")
    assert impl.fit(RIGHT, "raft", None) == (impl.RAFT, None)


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
