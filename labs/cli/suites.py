"""`labs list`, `labs run` and `labs table`: the official suites."""

import argparse
import sys
import time
from collections.abc import Sequence

from labs.cli import catalog, impl, session
from labs.cli.catalog import Spent
from labs.cli.lines import Lines
from labs.cli.session import Choice, Ran


def list_tests(arguments: argparse.Namespace) -> int:
    rows = catalog.counterparts(session.collect(_choice(arguments)))
    for tests in rows:
        test, official = tests[0], tests[0].official
        many = f"  ({len(tests)} runs)" if len(tests) > 1 else ""
        sys.stdout.write(
            f"{test.edition:4}  {test.part:6} {official.lab:13} {official.name:44} "
            f"{catalog.place_of(tests)}{many}\n"
        )
    return 0 if rows else _nothing(arguments)


def run_tests(arguments: argparse.Namespace) -> int:
    """Returns 0 if all passed, 1 if any failed, 2 if there was none or it cannot be tested."""
    if arguments.implementation is not None:
        try:
            fit = impl.fit(arguments.implementation, arguments.part, arguments.edition)
        except LookupError as why:
            sys.stderr.write(f"{why}\n")
            return 2
        arguments.place, arguments.edition = fit
    began = time.perf_counter()
    with Lines(sys.stdout, tracebacks=arguments.traceback) as lines:
        session.run(_choice(arguments), lines)
    if not lines.runs:
        return _nothing(arguments)
    for text in summary(lines.runs):
        sys.stdout.write(f"{text}\n")
    passed, failed = len(lines.runs) - len(lines.failed), len(lines.failed)
    took = time.perf_counter() - began
    sys.stdout.write(f"{passed} passed, {failed} failed in {took:.1f} s\n")
    return 1 if failed else 0


def summary(runs: Sequence[Ran]) -> list[str]:
    """A line a lab, if there are several: its runs, and their seconds in all."""
    labs = spent(runs)
    if len(labs) < 2:
        return []
    return [
        f"{lab:14} {count:4} runs {simulated:9.1f} s simulated {real:8.1f} s real"
        for lab, (count, real, simulated) in labs.items()
    ]


def spent(runs: Sequence[Ran]) -> dict[str, Spent]:
    """By lab, in the order of the first run of each."""
    labs: dict[str, list[Ran]] = {}
    for ran in runs:
        labs.setdefault(ran.test.official.lab, []).append(ran)
    return {
        lab: Spent(
            len(own),
            sum(ran.seconds for ran in own),
            sum(ran.figures.seconds for ran in own if ran.figures is not None),
        )
        for lab, own in labs.items()
    }


def write_table(arguments: argparse.Namespace) -> int:
    """Run all, and write `docs/labs.md` to standard output; the lines go to standard error."""
    with Lines(sys.stderr) as lines:
        session.run(_choice(arguments), lines)
    failed = [ran.test.nodeid for ran in lines.runs if not ran.passed or ran.skipped]
    tests = (ran.test for ran in lines.runs)
    sys.stdout.write(catalog.table(tests, failed, spent(lines.runs)))
    return 1 if failed else 0


def _choice(arguments: argparse.Namespace) -> Choice:
    """Of what the verb offers."""
    given = vars(arguments)
    fields = Choice.__dataclass_fields__
    return Choice(**{name: given[name] for name in fields if name in given})


def _nothing(arguments: argparse.Namespace) -> int:
    edition = f" in the edition {arguments.edition}" if arguments.edition else ""
    named = f"{arguments.part} {arguments.test or ''}".strip()
    sys.stderr.write(f"no such test{edition}: {named}; see `labs list`\n")
    return 2
