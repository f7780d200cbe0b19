"""Seeded schedules of every fault on real hosts: nothing that was promised breaks.

A failure names its seed; this replays it:

    CHAOS_FIRST=4711 CHAOS_SEEDS=1 python -m pytest tests/raft/test_host_chaos.py -k no_schedule

`CHAOS_SEEDS` says how many seeds to run, from `CHAOS_FIRST` on.
"""

import os
from collections import Counter
from typing import Final

import pytest

from tests.support.chaos import live

DEFAULT: Final = 60
SEEDS: Final = int(os.environ.get("CHAOS_SEEDS", DEFAULT))
FIRST: Final = int(os.environ.get("CHAOS_FIRST", "0"))
BATCH: Final = 10

PROBES: Final = (
    "elections", "votes", "reads", "installed", "changes of members", "created", "dropped",
    "transfers", "sent SnapshotChunk", "trapped at log", "trapped at data", "trapped at promise",
    "unknown, and done", "unknown, not done",
)  # fmt: skip

seen: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BATCH))
def test_no_schedule_breaks_a_promise(first: int) -> None:
    for seed in range(first, min(first + BATCH, FIRST + SEEDS)):
        seen.update(replay(seed))


def test_the_schedules_reached_the_rare_places() -> None:
    """A simulation that never visits the hard states proves nothing. Runs after the one above."""
    missed = [probe for probe in PROBES if not seen[probe]]

    assert missed == [] or len(seen) == 0 or SEEDS < DEFAULT


def test_a_seed_is_a_run() -> None:
    """The same seed twice: the same messages, entries and answers."""
    first, again = live(3), live(3)

    assert first.canonical == again.canonical
    assert first.probes == again.probes
    assert first.acknowledged == again.acknowledged


def replay(seed: int) -> Counter[str]:
    try:
        return live(seed).probes
    except BaseException as error:
        error.add_note(
            f"replay: CHAOS_FIRST={seed} CHAOS_SEEDS=1 python -m pytest "
            "tests/raft/test_host_chaos.py -k no_schedule"
        )
        raise
