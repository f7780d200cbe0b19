"""What may catch a broken safeguard: seeds of a simulation, scripts, and named tests.

A trial is played once with the safeguard broken, and must fail; and once with it whole, and must
be quiet. So a trial that fails for another reason counts for nothing.
"""

import contextlib
import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from labrpc.sim.loop import SimulationError
from labs.scenario import Played, ScenarioConfig
from labs.scenario import play as play_cluster
from tests.raft import test_safeguards as consensus
from tests.shardkv import test_handover_model as handover
from tests.support.chaos import live

FAILURES = (AssertionError, SimulationError, LookupError, ArithmeticError, ValueError, TypeError)
"""What a trial that catches something raises; anything else is a mistake of the scorecard's."""
NAMELESS = "H1"
"""The invariant of an error that names none: no replica stops, and no task dies, unasked."""


@dataclass(frozen=True)
class Trial:
    name: str
    play: Callable[[], None]


@dataclass(frozen=True)
class Row:
    """A safeguard.

    Args:
        breaks: Takes it away, from outside.
        caught_by: The invariants that may be the first to be broken; "test" for a named test.
        trials: Played one after the other until one fails.
    """

    id: str
    what: str
    breaks: consensus.Break
    caught_by: tuple[str, ...]
    trials: Callable[[], Iterator[Trial]]


class TestFailed(AssertionError):
    """A named test failed."""

    __test__ = False


def told_by(error: BaseException) -> tuple[str, ...]:
    """The names of the invariants that a trial's error is about."""
    if isinstance(error, TestFailed):
        return ("test",)
    if isinstance(error, Played):
        return (error.invariant,)
    first = error.args[0] if error.args else ""
    if isinstance(first, tuple):  # the hand-over model: ("S3, S4", shard)
        first = first[0]
    if first == "the hand-overs do not end":
        return ("L4",)
    # pytest, which may have rewritten the assertion, shows a tuple as text and goes on below it.
    begins = str(first).partition(":")[0].split("\n")[0]
    words = "".join(" " if letter in ",()'\"" else letter for letter in begins).split()
    known = tuple(word for word in words if _is_a_name(word))
    return known or (_by_place(error),)


def _by_place(error: BaseException) -> str:
    """Of an assertion without words: what it is about follows from where it stands."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return NAMELESS
    code = trace.tb_frame.f_code
    if "/tests/" not in code.co_filename:
        return "silent"
    return {"restart": "R13", "check_end": "C1"}.get(code.co_name, NAMELESS)


def _is_a_name(word: str) -> bool:
    letter, number = word[:1], word[1:]
    return word in ("silent", "start", "lost") or (letter in "RSCLBH" and number.isdigit())


def chaos(guard: consensus.Safeguard) -> Callable[[], Iterator[Trial]]:
    """Seeds of one group under faults: from the first, whatever seed is known to find it."""

    def trials() -> Iterator[Trial]:
        for seed in range(guard.first + guard.seeds):
            yield Trial(f"group, seed {seed}", lambda s=seed: _quietly(live, s, knobs))

    knobs = consensus.knobs(guard)
    return trials


def scripted(script: consensus.Script) -> Callable[[], Iterator[Trial]]:
    def trials() -> Iterator[Trial]:
        name = script.play.__name__
        yield Trial(f"script `{name}`", lambda: consensus.play(script))

    return trials


def model(seeds: int = 40) -> Callable[[], Iterator[Trial]]:
    """Seeds of the pure model of groups that hand shards over."""

    def trials() -> Iterator[Trial]:
        for seed in range(seeds):
            yield Trial(
                f"hand-over model, seed {seed}", lambda s=seed: _quietly(handover.run, f"card {s}")
            )

    return trials


def cluster(*faults: str, seeds: int = 10, seconds: float = 6.0) -> Callable[[], Iterator[Trial]]:
    """Seeds of the whole product, simulated."""

    def trials() -> Iterator[Trial]:
        for seed in range(seeds):
            config = ScenarioConfig(seconds=seconds, faults=faults or None)
            yield Trial(
                f"cluster, seed {seed}", lambda s=seed, c=config: _quietly(play_cluster, s, c)
            )

    return trials


def tests(*names: str) -> Callable[[], Iterator[Trial]]:
    """Named tests, by pytest's id."""

    def trials() -> Iterator[Trial]:
        for name in names:
            yield Trial(f"`{name}`", lambda n=name: _run_test(n))

    return trials


def first_of(*kinds: Callable[[], Iterator[Trial]]) -> Callable[[], Iterator[Trial]]:
    def trials() -> Iterator[Trial]:
        for kind in kinds:
            yield from kind()

    return trials


def _quietly(play: Callable[..., object], *args: object) -> None:
    """Play; what a broken node would print is of no interest."""
    with contextlib.redirect_stderr(io.StringIO()):
        play(*args)


class _Failures:
    """Counts what pytest ran, and tells of the first that failed."""

    def __init__(self) -> None:
        self.ran = 0
        self.first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.ran += 1
            if report.failed and not self.first:
                self.first = report.nodeid


def _run_test(name: str) -> None:
    failures = _Failures()
    state, out = random.getstate(), io.StringIO()
    options: Sequence[str] = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = pytest.main([name, *options], plugins=[failures])
    random.setstate(state)
    if failures.first:
        raise TestFailed(failures.first)
    if code != pytest.ExitCode.OK or not failures.ran:
        raise RuntimeError(f"{name} did not run:\n{out.getvalue()}")
