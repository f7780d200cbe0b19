"""Break each safeguard in turn, and show what catches it: `make scorecard`.

    python -m tests.scorecard.run [--only ID ...] [--write FILE] [--minutes M]

Each row breaks one safeguard from outside (no switch in shipped code) and plays its trials until
one fails. The same trial is then played with the safeguard whole, and must be quiet. The table
goes to the file and to standard output; the exit status is 1 when a safeguard was not caught, was
caught by something unexpected, or when a canary misbehaves, and 2 when a listed safeguard has no
row.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raft.leader import Leader
from raft.types import Entry, EntryId, EntryKind
from tests.raft import test_safeguards as consensus
from tests.scorecard.table import LISTED, NOT_THERE, rows
from tests.scorecard.trials import FAILURES, Row, TestFailed, Trial, chaos, told_by

CANARY_SEEDS = 20


@dataclass(frozen=True)
class Line:
    id: str
    what: str
    tries: int
    verdict: str
    good: bool

    def __str__(self) -> str:
        tries = str(self.tries) if self.tries else ""
        return f"| {self.id} | {self.what} | {tries} | {self.verdict} |"


def judge(row: Row) -> Line:
    """Play the row's trials until one catches the broken safeguard."""
    tries = 0
    for trial in row.trials():
        tries += 1
        error = _broken(row.breaks, trial)
        if error is None:
            continue
        named = told_by(error)
        by = named[0] if named[0] not in ("test", "silent", "start") else _in_words(named[0])
        if whole := _fails(trial):
            return _line(row, tries, f"not caught: {trial.name} fails without it too: {whole}")
        if not set(named) & set(row.caught_by):
            return _line(row, tries, f"not caught as expected: {by} in {trial.name}: {error}")
        return _line(row, tries, f"caught by {by}, {_where(trial, error)}", good=True)
    return _line(row, tries, "not caught")


def _where(trial: Trial, error: BaseException) -> str:
    return f"`{error}`" if isinstance(error, TestFailed) else trial.name


def _in_words(name: str) -> str:
    return {
        "test": "a scripted case",
        "silent": "an assertion that stops the replica",
        "start": "a healthy node that is refused",
    }[name]


def _line(row: Row, tries: int, verdict: str, *, good: bool = False) -> Line:
    return Line(row.id, row.what, tries, " ".join(verdict.split())[:300], good)


def _broken(breaks: consensus.Break, trial: Trial) -> BaseException | None:
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        return _fails(trial)


def _fails(trial: Trial) -> BaseException | None:
    try:
        trial.play()
    except FAILURES as error:
        return error
    return None


# The canaries


def wrong_canary() -> Line:
    """Commit = last index at append: every run must fail."""
    guard = next(guard for guard in consensus.TABLE if guard.id == "canary")
    caught: Counter[str] = Counter()
    for trial in _some(chaos(guard)(), CANARY_SEEDS):
        error = _broken(guard.breaks, trial)
        caught[told_by(error)[0] if error is not None else "nothing"] += 1
    good = "nothing" not in caught
    named = ", ".join(f"{name} ({times})" for name, times in sorted(caught.items()))
    return Line(
        "canary", "commit = last index at append: every run must fail", CANARY_SEEDS,
        f"{'all runs' if good else 'NOT all runs'} caught by {named}", good,
    )  # fmt: skip


def harmless_canary() -> Line:
    """The same code under other names: no run may fail."""
    kinds = {(guard.faults, repr(guard.knobs)): guard for guard in consensus.TABLE}
    played, failed = 0, []
    for guard in kinds.values():
        for trial in _some(chaos(guard)(), 2):
            played += 1
            error = _broken(rename_a_local, trial)
            failed += [f"{trial.name}: {error}"] if error is not None else []
    told = f"failed: {failed[0]}" if failed else "no run failed: nothing caught, as it must be"
    return Line(
        "canary", "a renamed local variable: no run may fail", played,
        f"{told}; caught by nothing" if not failed else told, not failed,
    )  # fmt: skip


def rename_a_local(patch: pytest.MonkeyPatch) -> None:
    def append(self: Leader, kind: EntryKind, data: bytes) -> EntryId:
        entries = self._state.log
        number = type(entries.last.index)(entries.last.index + 1)
        entries.append((Entry(number, self._state.term, kind, data),))
        if kind is EntryKind.MEMBERSHIP:
            self.sync_members()
        return entries.last

    patch.setattr(Leader, "append", append)


def _some(trials: Iterator[Trial], count: int) -> Iterator[Trial]:
    for _, trial in zip(range(count), trials, strict=False):
        yield trial


# The table

HEAD = """# Scorecard

Written by `make scorecard`. Each safeguard is broken, one at a time and from outside; the trials of
its row are played until one fails, and the one that failed is played again with the safeguard
whole, where it must be quiet. The ids R, S, C, L, B, H in the last column are those of
[invariants.md](invariants.md). *Group* is one Raft group under faults (`tests/support/chaos.py`),
*hand-over model* the pure state machines of three groups (`tests/shardkv/test_handover_model.py`),
*cluster* the whole product, simulated (`python -m labs simulate`), *script* a story of one group or
cluster, told in steps, with the same invariants watching (`tests/raft/test_safeguards.py`,
`tests/scorecard/scripts.py`, `tests/raft/test_field_bugs_*.py`). *A scripted case* is a named
test: it has the last word where the real LevelDB, or a rule that needs no run, is what is broken.
*Tries*: how many trials it took. K rows are safeguards of this code that no list had.

| safeguard | broken so | tries | caught |
|---|---|---|---|
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--only", nargs="*", default=None, metavar="ID", help="these rows alone")
    arguments.add_argument("--write", type=Path, default=None, metavar="FILE")
    arguments.add_argument("--minutes", type=float, default=25.0, help="begin no row after so long")
    chosen = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    began, lines = time.monotonic(), []

    def tell(line: Line) -> None:
        lines.append(line)
        print(f"{time.monotonic() - began:6.1f} s {line}", flush=True)

    if chosen.only is None:
        tell(wrong_canary())
        tell(harmless_canary())
    table = {row.id: row for row in rows()}
    for id_ in sorted({*LISTED, *table}) if chosen.only is None else chosen.only:
        if id_ in NOT_THERE:
            tell(Line(id_, NOT_THERE[id_], 0, "not tried: there is nothing to break", True))
        elif id_ not in table:
            tell(Line(id_, "", 0, "not tried", False))
        elif time.monotonic() - began > chosen.minutes * 60:
            tell(Line(id_, table[id_].what, 0, "not tried: out of time", False))
        else:
            try:
                tell(judge(table[id_]))
            except Exception as error:
                tell(Line(id_, table[id_].what, 0, f"not tried: {error!r:.200}", False))
    if chosen.write is not None:
        chosen.write.write_text(HEAD + "".join(f"{line}\n" for line in lines))
    if any(not line.good and not line.verdict.startswith("not tried") for line in lines):
        return 1
    return 0 if all(line.good for line in lines) else 2


if __name__ == "__main__":
    sys.exit(main())
