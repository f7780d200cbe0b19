"""The pytest plugin of `labs run`, in every process that runs tests.

It keeps of what pytest collects the official tests that the user means, runs each with the seeds
that he wants, and puts what a report cannot know by itself into its `user_properties`: which
official test this is (`TEST`), and its run's figures (`FIGURES`).

PYTEST_DONT_REWRITE: it is imported before pytest starts.
"""

from collections.abc import Generator
from typing import Final

import pytest

from labs.cli import catalog
from labs.cli.catalog import LabTest
from labs.harness import figures
from labs.harness.edition import REPEAT_MARK, Edition, configure, plain_id
from labs.harness.figures import Figures

TEST, FIGURES = "lab_test", "lab_figures"

RECOGNISED: Final = pytest.StashKey[LabTest]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("labs")
    group.addoption("--lab-part", default="all")
    group.addoption("--lab-test", default=None)
    group.addoption("--lab-edition", default=None)
    group.addoption("--lab-seed", default=None)
    group.addoption("--lab-repeat", type=int, default=1)


@pytest.fixture(autouse=True)
def lab_seed(request: pytest.FixtureRequest) -> None:
    """Set before a test's own fixtures ask for it."""
    seed = getattr(request, "param", None)
    if seed is not None:
        configure(seed=seed)


@pytest.hookimpl(trylast=True)  # so that the mark comes last in an id
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    repeat: int = metafunc.config.getoption("--lab-repeat")
    seed: str | None = metafunc.config.getoption("--lab-seed")
    if repeat == 1 and seed is None:
        return  # each test's own
    drawn = seeds(seed, repeat)
    ids = [f"{REPEAT_MARK}{seed}" for seed in drawn]
    metafunc.parametrize("lab_seed", drawn, ids=ids, indirect=True)


def seeds(first: str | None, repeat: int) -> list[str]:
    """A number is counted up, from 1 if there is none; of a word come `word/0`, `word/1`..."""
    first = "1" if first is None else first
    if repeat == 1:
        return [first]
    if first.isascii() and first.isdigit():
        return [str(int(first) + number) for number in range(repeat)]
    return [f"{first}/{number}" for number in range(repeat)]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist puts its groups into the ids
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part, name, edition = (
        config.getoption(f"--lab-{option}") for option in ("part", "test", "edition")
    )
    chosen: list[pytest.Item] = []
    for item in items:
        test = catalog.recognise(plain_id(item.nodeid), _edition_of(item))
        if test is not None and catalog.matches(test, part, name, edition):
            item.stash[RECOGNISED] = test
            item.user_properties.append((TEST, (test.nodeid, test.edition)))
            chosen.append(item)
    items[:] = chosen


def _edition_of(item: pytest.Item) -> str | None:
    """What a test says: as a parameter, or for its whole module."""
    said = getattr(getattr(item, "module", None), "EDITION", None)
    callspec = getattr(item, "callspec", None)
    if callspec is not None:
        said = callspec.params.get("edition", said)
    return said.value if isinstance(said, Edition) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    def note(of_run: Figures) -> None:
        item.user_properties.append((FIGURES, tuple(of_run)))

    with figures.reporting_to(note):
        return (yield)
