"""The two editions of the labs' test suites, and how a failed run is replayed."""

import os
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Final

from labrpc.sim.loop import run

SEED_VARIABLE: Final = "LAB_SEED"
TEST_SECONDS_MAX: Final = 120.0
"""Of each test, counted from the making of its cluster."""


class Edition(Enum):
    """The year of a course; its harness differs where `labs.harness` says so."""

    E2024 = "2024"
    E2025 = "2025"


class LabFailure(AssertionError):
    """A lab test's own check has failed."""


def seed_of(title: str, edition: Edition) -> str:
    """The seed of a test's run: fixed, unless the environment gives another one."""
    return os.environ.get(SEED_VARIABLE, f"{title}/{edition.value}")


def run_lab(main: Coroutine[Any, Any, None], *, seed: str, test: str) -> None:
    """Run a lab test in virtual time; a failure says how to replay it.

    Args:
        test: The pytest id of the test.
    """
    try:
        run(main, seed=seed)
    except Exception as error:
        error.add_note(f"replay: {SEED_VARIABLE}={seed} python -m pytest '{test}'")
        raise
