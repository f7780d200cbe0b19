"""One pytest session in this process, heard by a listener of ours instead of by pytest's terminal.

pytest does the collecting, the fixtures, the time limits and, with several jobs, the processes
(pytest-xdist): the tests are those that any `pytest tests/labs` runs, by the same ids.
"""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from labs.cli import catalog, plugin
from labs.cli.catalog import LabTest
from labs.harness.edition import configure, plain_id, replay_command
from labs.harness.figures import Figures

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to run, and how."""

    part: str = "all"
    test: str | None = None
    edition: str | None = None
    seed: str | None = None
    repeat: int = 1
    jobs: int = 1
    implementation: str | None = None
    place: str | None = None
    """The folder of tests that can test the implementation; None: all that the part has."""
    real_time: bool = False


@dataclass(slots=True)
class Ran:
    """One run of one test, once it is over."""

    test: LabTest
    passed: bool = True
    skipped: bool = False
    seconds: float = 0.0
    """Real ones."""
    figures: Figures | None = None
    """None: it does not run on the lab network."""
    message: str = ""
    """Of a failure, its first lines, without the notes on how to replay it."""
    traceback: str = ""
    replay: str = ""


class Listener(Protocol):
    def expect(self, count: int) -> None:
        """So many runs are to come."""
        ...

    def ran(self, ran: Ran) -> None:
        """One is over."""
        ...


@dataclass(slots=True, eq=False)
class _Ear:
    """Puts pytest's three reports of a run together."""

    listener: Listener
    under_way: dict[str, Ran] = field(default_factory=dict)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:  # the controller of pytest-xdist collects nothing itself
            self.listener.expect(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self.listener.expect(len(ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told: dict[str, Any] = dict(report.user_properties)
        ran = self.under_way.get(report.nodeid)
        if ran is None:
            test = _test_of(report.nodeid, told)
            ran = self.under_way[report.nodeid] = Ran(test=test)
        ran.seconds += report.duration
        if plugin.FIGURES in told:
            ran.figures = Figures(*told[plugin.FIGURES])
        if report.skipped:
            ran.skipped = True
        if report.failed and ran.passed:
            ran.passed = False
            ran.traceback = report.longreprtext
            ran.message = _message_of(report)
            seed = ran.figures.seed if ran.figures is not None else None
            ran.replay = replay_command(seed, report.nodeid)
        if report.when == "teardown" or (report.when not in ("setup", "call")):
            del self.under_way[report.nodeid]
            self.listener.ran(ran)


def _test_of(nodeid: str, told: dict[str, Any]) -> LabTest:
    """From what the plugin told; of a process that died nothing was told."""
    found, edition = told.get(plugin.TEST, (plain_id(nodeid), None))
    test = catalog.recognise(found, edition)
    assert test is not None, f"{nodeid} was chosen, so it was recognised"
    return test


def _message_of(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    lines = [line for line in text.splitlines() if not line.startswith(("seed: ", "replay: "))]
    return "\n".join(lines[:8])


def run(choice: Choice, listener: Listener) -> None:
    """Run what was chosen; the listener hears of each run as it ends.

    Raises:
        SystemExit: the tests are not there, or pytest itself failed or was interrupted; what it
            said was written.
    """
    configure(implementation=choice.implementation, real_time=choice.real_time)
    options = [f"--lab-repeat={choice.repeat}"]
    if choice.seed is not None:
        options.append(f"--lab-seed={choice.seed}")
    if choice.jobs > 1:
        options += ["-n", str(choice.jobs), "--dist", "loadgroup"]
    _pytest(choice, options, _Ear(listener))


def collect(choice: Choice) -> list[LabTest]:
    """What would be run, without its repetitions, in order."""

    class Collected:
        tests: Final[list[LabTest]] = []

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.tests.extend(item.stash[plugin.RECOGNISED] for item in session.items)

    collected = Collected()
    _pytest(choice, ["--collect-only"], collected)
    return collected.tests


def _selection(choice: Choice) -> list[str]:
    options = [f"--lab-part={choice.part}"]
    if choice.test is not None:
        options.append(f"--lab-test={choice.test}")
    if choice.edition is not None:
        options.append(f"--lab-edition={choice.edition}")
    return options


def _pytest(choice: Choice, arguments: Sequence[str], ear: object) -> None:
    if not (ROOT / "tests" / "labs").is_dir():
        raise SystemExit(f"the labs' tests are not beside the package: no tests/labs in {ROOT}")
    meant = catalog.places_of(choice.part) if choice.place is None else [choice.place]
    places = [ROOT / place for place in meant]
    paths = [str(place) for place in places if place.is_file() or any(place.glob("test_*.py"))]
    if not paths:
        return
    fixed = [
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-o", "addopts="),
        *("--import-mode=importlib", "-p", "no:cacheprovider", "-p", plugin.__name__),
        "--capture=sys",  # the terminal itself stays ours
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main([*fixed, *_selection(choice), *arguments, *paths], plugins=[ear])
    ended_well = (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    )
    if status not in ended_well:
        sys.stderr.write(said.getvalue())
        raise SystemExit(130 if status == pytest.ExitCode.INTERRUPTED else 3)
