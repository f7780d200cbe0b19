"""Which collected test is which official one, and which ones a user means. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from labs.cli.official import GO_SECONDS, OFFICIAL, Official

_PART: Final = re.compile(r"_(\d[a-d])$")
_OFFICIAL_PART: Final = re.compile(r"\d[A-D]$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabTest:
    """One test of this project that is an official one's counterpart."""

    nodeid: str
    edition: str
    """Which one it runs as: "2024", "2025", or "both" where there is no difference."""
    official: Official

    @property
    def name(self) -> str:
        """The function's."""
        return function_of(self.nodeid)

    @property
    def part(self) -> str:
        """`3B`, or the lab's number where it has no parts."""
        found = _PART.search(self.name)
        return found.group(1).upper() if found else self.official.lab.split()[0].upper()


def function_of(nodeid: str) -> str:
    return nodeid.rpartition("::")[2].partition("[")[0]


def recognise(nodeid: str, edition: str | None) -> LabTest | None:
    """The official test that a collected one is; None: it is one of ours alone.

    Args:
        edition: That it says it runs as; None: it does not say.
    """
    file = nodeid.partition("::")[0]
    places = (file, file.rpartition("/")[0])
    name = function_of(nodeid)
    spellings = (_plain(name), _plain(_PART.sub("", name)))
    for official in OFFICIAL:
        if official.where not in places or _plain(official.name) not in spellings:
            continue
        if edition is None or official.edition in {"both", edition}:
            return LabTest(nodeid=nodeid, edition=edition or official.edition, official=official)
    return None


def _plain(name: str) -> str:
    """`TestReElection3A` and `test_reelection_3a` are one test."""
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("test")


def counterparts(tests: Iterable[LabTest]) -> list[list[LabTest]]:
    """What is there of each official test in each edition: one test, or one that runs with several
    arguments."""
    found: dict[tuple[Official, str], list[LabTest]] = {}
    for test in tests:
        found.setdefault((test.official, test.edition), []).append(test)
    return list(found.values())


def place_of(tests: Sequence[LabTest]) -> str:
    """Where such a counterpart is, without the arguments if there are several."""
    nodeid = tests[0].nodeid
    return nodeid.partition("[")[0] if len(tests) > 1 else nodeid


def matches(test: LabTest, what: str, name: str | None, edition: str | None) -> bool:
    """Whether a user means this test.

    Args:
        what: A part (`3B`), a lab by number or name (`3`, `raft`, `kvraft1`, `mr`), or `all`.
        name: A piece of its name, ours or the official one; None: any.
        edition: None: any.
    """
    if what.lower() not in _names(test.official, test.part):
        return False
    if edition is not None and test.edition not in {"both", edition}:
        return False
    if name is None:
        return True
    return _plain(name) in _plain(test.name) or _plain(name) in _plain(test.official.name)


def places_of(what: str) -> list[str]:
    """Folders and files with tests that a user can mean; for `what` see `matches`."""
    return list(dict.fromkeys(official.where for official in _meant(what)))


def editions_of(what: str, place: str) -> list[str]:
    """The editions that have tests in `place` which a user can mean."""
    found = [official.edition for official in _meant(what) if official.where == place]
    return ["2024", "2025"] if "both" in found else sorted(set(found))


def _meant(what: str) -> Iterator[Official]:
    for official in OFFICIAL:
        part = _OFFICIAL_PART.search(official.name)
        if what.lower() in _names(official, part.group() if part else ""):
            yield official


def _names(official: Official, part: str) -> list[str]:
    """What a lab or a part of it goes by, in lower case."""
    number, _, lab = official.lab.lower().rpartition(" ")
    folder = official.where.rpartition("/")[2]
    return ["all", lab, *filter(None, (number, number[:1])), folder, part.lower()]


class Spent(NamedTuple):
    """What the runs of one lab took, in seconds."""

    runs: int
    real: float
    simulated: float


def table(
    tests: Iterable[LabTest], failed: Sequence[str], spent: Mapping[str, Spent] | None = None
) -> str:
    """`docs/labs.md`: every official test, its counterparts, and whether they passed.

    Args:
        tests: Those that were run.
        failed: Ids of those of them that failed.
        spent: By lab, for the figures beside those of the official suites; None: none.
    """
    found = {(own[0].official, own[0].edition): own for own in counterparts(tests)}
    rows = []
    for official in OFFICIAL:
        here = {edition: own for (of, edition), own in found.items() if of == official}
        for edition, own in sorted(here.items()):
            passed = not any(test.nodeid in failed for test in own)
            rows.append((edition, official, f"`{place_of(own)}`", "yes" if passed else "**no**"))
        if not here:
            rows.append((official.edition, official, "", "not there yet"))
    lines = [f"| {e} | {of.lab} | {of.name} | {ours} | {passed} |" for e, of, ours, passed in rows]
    if spent:
        lines += ["", _TIMES_HEAD]
        for lab, (runs, real, simulated) in spent.items():
            go = str(GO_SECONDS.get(lab, ""))
            lines.append(f"| {lab} | {runs} | {real:.1f} | {simulated:.0f} | {go} |")
    return "\n".join([_TABLE_HEAD, *lines, ""])


_TABLE_HEAD: Final = """\
# The labs, test by test

Written by `make labs-table` from a run of all. An edition is `both` where the two suites are
one in this test; a test that runs as each has a row for each. Run one with
`python -m labs run 3B basic_agree --edition 2024`, list them with `python -m labs list`.

| edition | lab | official test | here | passed |
|---|---|---|---|---|"""

_TIMES_HEAD: Final = """\
## How long it takes

Seconds by the wall of the run that wrote this, one test a core, beside those of the official suites
in Go, which wait in real time. (About what the course states or has shown for a right solution;
where nothing was found the field is empty.)

| lab | runs | seconds here | simulated seconds | seconds in Go |
|---|---|---|---|---|"""
