"""The scorecard's own machinery, on a few of its rows: so that it cannot rot between two runs.

`make scorecard` plays all of them. Here are both canaries, rows of every kind of trial, and a row
that must not be caught.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.raft import test_safeguards as consensus
from tests.scorecard import run
from tests.scorecard.table import LISTED, NOT_THERE, rows
from tests.scorecard.trials import Row, TestFailed, Trial, told_by

ROOT = Path(__file__).parents[2]
TABLE = {row.id: row for row in rows()}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Broken replicas have much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_every_listed_safeguard_has_one_row_or_a_reason() -> None:
    ids = [row.id for row in rows()]

    assert len(ids) == len(set(ids)), "two rows of one id"
    assert set(LISTED) <= {*ids, *NOT_THERE}
    assert not set(ids) & set(NOT_THERE), "it is there, and says that it is not"


def test_the_published_table_speaks_of_all_of_them() -> None:
    page = (ROOT / "docs/scorecard.md").read_text()
    told = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines()}

    for row in rows():
        assert "caught by" in told.get(row.id, "no row"), f"{row.id}: run `make scorecard`"


def test_the_wrong_canary_dies_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CANARY_SEEDS", 2)

    line = run.wrong_canary()

    assert line.good, line


def test_the_harmless_canary_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    guards = [guard for guard in consensus.TABLE if guard.id in ("canary", "C08")]
    monkeypatch.setattr(consensus, "TABLE", tuple(guards))

    line = run.harmless_canary()

    assert line.good and line.tries == 4, line


@pytest.mark.parametrize("id_", ["A01", "B13", "C18", "G14", "H08"])
def test_a_row_is_caught(id_: str) -> None:
    """Seeds of a group, a script of a group, two stories, and the model of hand-overs."""
    line = run.judge(TABLE[id_])

    assert line.good, line
    assert " caught by " in str(line)


def test_what_nothing_notices_is_said_to_be_not_caught() -> None:
    row = Row("X01", "nothing at all", lambda patch: None, ("R1",), TABLE["B13"].trials)

    line = run.judge(row)

    assert (line.verdict, line.good) == ("not caught", False)


def test_a_trial_that_fails_by_itself_counts_for_nothing() -> None:
    def fail() -> None:
        raise AssertionError("R1: always")

    row = Row("X02", "a bad trial", lambda patch: None, ("R1",), lambda: iter([Trial("t", fail)]))

    line = run.judge(row)

    assert not line.good and "fails without it too" in line.verdict


def test_another_invariant_than_the_named_is_not_as_expected() -> None:
    broken: list[bool] = []

    def fail_when_broken() -> None:
        if broken and broken.pop():
            raise AssertionError("R3: something else")

    row = Row(
        "X03", "caught by another", lambda patch: broken.append(True), ("R1",),
        lambda: iter([Trial("t", fail_when_broken)]),
    )  # fmt: skip

    line = run.judge(row)

    assert not line.good and line.verdict.startswith("not caught as expected: R3")


def test_the_names_of_invariants_are_read_from_errors() -> None:
    assert told_by(AssertionError("S3, S4: two")) == ("S3", "S4")
    assert told_by(AssertionError("silent: n1")) == ("silent",)
    assert told_by(TestFailed("a::b")) == ("test",)
    assert told_by(AssertionError(("S5", 3))) == ("S5",)
