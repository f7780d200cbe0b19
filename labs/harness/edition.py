"""The two editions of the labs' test suites, what a run is told from outside, and its replay.

The environment says how the tests run, so that any way of calling pytest can: `LAB_SEED` (of all
that is drawn), `LAB_IMPL` (`module:Class`, somebody else's Raft or server; see
`labs.harness.foreign` and `foreign_kv`) and `LAB_REAL_TIME` (on the real clock).
"""

import os
import re
import shlex
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Final

from labrpc.sim.loop import run
from labs.harness.figures import Gauge
from labs.harness.realtime import run_really

SEED_VARIABLE: Final = "LAB_SEED"
IMPLEMENTATION_VARIABLE: Final = "LAB_IMPL"
REAL_TIME_VARIABLE: Final = "LAB_REAL_TIME"
TEST_SECONDS_MAX: Final = 120.0
"""Of each test, counted from the making of its cluster."""

REPEAT_MARK: Final = "@"
"""Begins what a repeated test's id has at its end, within the brackets."""


class Edition(Enum):
    """The year of a course; its harness differs where `labs.harness` says so."""

    E2024 = "2024"
    E2025 = "2025"


class LabFailure(AssertionError):
    """A lab test's own check has failed."""


def seed_of(title: str, edition: Edition) -> str:
    """The seed of a test's run: fixed, unless the environment gives another one."""
    return os.environ.get(SEED_VARIABLE, f"{title}/{edition.value}")


def implementation() -> str | None:
    """`module:Class` of somebody else's Raft or server; None: the project's own is tested."""
    return os.environ.get(IMPLEMENTATION_VARIABLE)


def configure(
    *, seed: str | None = None, implementation: str | None = None, real_time: bool = False
) -> None:
    """Tell the runs of this process, and of its children, what is not None."""
    if seed is not None:
        os.environ[SEED_VARIABLE] = seed
    if implementation is not None:
        os.environ[IMPLEMENTATION_VARIABLE] = implementation
    if real_time:
        os.environ[REAL_TIME_VARIABLE] = "1"


def replay_command(seed: str | None, test: str) -> str:
    """The command that does one run again."""
    names = (IMPLEMENTATION_VARIABLE, REAL_TIME_VARIABLE)
    told = {name: os.environ[name] for name in names if name in os.environ}
    if seed is not None:
        told = {SEED_VARIABLE: seed, **told}
    setting = "".join(f"{name}={shlex.quote(value)} " for name, value in told.items())
    return f"{setting}python -m pytest '{plain_id(test)}'"


def plain_id(test: str) -> str:
    """A pytest id without the mark of its repetition and without a group of pytest-xdist."""
    ungrouped = re.sub(rf"{REPEAT_MARK}[^\[\]]*$", "", test)
    return re.sub(rf"(?:\[{REPEAT_MARK}[^\[\]]*\]|-{REPEAT_MARK}[^\[\]]*(\]))$", r"\1", ungrouped)


def run_lab(main: Coroutine[Any, Any, None], *, seed: str, test: str) -> None:
    """Run a lab test, in virtual time unless told otherwise; a failure says how to replay it.

    Args:
        test: The pytest id of the test.
    """
    gauge = Gauge(seed)
    try:
        with gauge.counting():
            if REAL_TIME_VARIABLE in os.environ:
                run_really(gauge.timed(main))
            else:
                run(gauge.timed(main), seed=seed)
    except Exception as error:
        error.add_note(f"replay: {replay_command(seed, test)}")
        raise
