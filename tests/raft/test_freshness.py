"""How old a replica's state may be: one test for each claim of `raft/freshness.py`."""

from math import inf

import pytest

from raft.freshness import RATE_DRIFT, REFRESH_SECONDS, Freshness
from raft.ready import ReadState
from raft.types import Index

A, B = b"a", b"b"


def age_after(freshness: Freshness, now: float) -> float:
    return freshness.age(now) * (1 - RATE_DRIFT)


def test_a_replica_that_never_asked_knows_nothing_of_its_age() -> None:
    assert Freshness().age(10.0) == inf


def test_the_age_counts_from_the_question_and_not_from_the_answer() -> None:
    """However long the answer took: what was told between the two may be missing."""
    freshness = Freshness()
    freshness.asked(A, 10.0)

    freshness.answered(ReadState(A, Index(5)), applied=Index(5))

    assert age_after(freshness, 13.0) == pytest.approx(3.0)


def test_an_answer_counts_once_its_index_is_applied() -> None:
    freshness = Freshness()
    freshness.asked(A, 10.0)
    freshness.answered(ReadState(A, Index(5)), applied=Index(3))
    freshness.applied(Index(4))
    assert freshness.age(11.0) == inf

    freshness.applied(Index(5))

    assert age_after(freshness, 11.0) == pytest.approx(1.0)
    assert not freshness._confirmed, "it is looked at no more"


def test_a_refusal_makes_nothing_younger() -> None:
    freshness = Freshness()
    freshness.asked(A, 10.0)

    freshness.answered(ReadState(A, Index(0)), applied=Index(5))

    assert freshness.age(11.0) == inf


def test_an_older_question_answered_late_makes_nothing_older() -> None:
    freshness = Freshness()
    freshness.asked(A, 10.0)
    freshness.asked(B, 12.0)
    freshness.answered(ReadState(B, Index(5)), applied=Index(5))

    freshness.answered(ReadState(A, Index(5)), applied=Index(5))

    assert age_after(freshness, 13.0) == pytest.approx(1.0)


def test_one_patient_question_at_a_time_and_not_too_often() -> None:
    freshness = Freshness()
    assert freshness.is_due(10.0)
    freshness.asked(A, 10.0, patient=True)
    assert not freshness.is_due(10.0 + 2 * REFRESH_SECONDS), "the last one is not answered"

    freshness.answered(ReadState(A, Index(5)), applied=Index(5))

    assert not freshness.is_due(10.0 + REFRESH_SECONDS / 2)
    assert freshness.is_due(10.0 + REFRESH_SECONDS)
