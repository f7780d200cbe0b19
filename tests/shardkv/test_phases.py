"""A shard's life is the table, and nothing beside it."""

from itertools import product
from pathlib import Path

import pytest

from shardkv.phases import NEXT, SERVES, SETTLED, Event, IllegalTransition, Phase, advance, diagram

LEGAL = [
    (Phase.ABSENT, Event.CREATED, Phase.SERVING),
    (Phase.ABSENT, Event.ASSIGNED, Phase.ARRIVING),
    (Phase.ARRIVING, Event.INSTALLED, Phase.SERVING),
    (Phase.SERVING, Event.REASSIGNED, Phase.MOVING),
    (Phase.SERVING, Event.UNASSIGNED, Phase.PARKED),
    (Phase.MOVING, Event.RESTARTED, Phase.MOVING),
    (Phase.MOVING, Event.FROZEN, Phase.LEAVING),
    (Phase.LEAVING, Event.RENEWED, Phase.LEAVING),
    (Phase.PARKED, Event.RETURNED, Phase.SERVING),
    (Phase.PARKED, Event.REASSIGNED, Phase.LEAVING),
    (Phase.LEAVING, Event.CONFIRMED, Phase.ABSENT),
    (Phase.ARRIVING, Event.ABANDONED, Phase.SERVING),
    (Phase.MOVING, Event.ABANDONED, Phase.SERVING),
    (Phase.LEAVING, Event.ABANDONED, Phase.PARKED),
    (Phase.MOVING, Event.LOST, Phase.ABSENT),
    (Phase.LEAVING, Event.LOST, Phase.ABSENT),
]


@pytest.mark.parametrize(("before", "event", "after"), LEGAL)
def test_legal_transitions(before: Phase, event: Event, after: Phase) -> None:
    assert advance(before, event) is after


@pytest.mark.parametrize(
    ("phase", "event"),
    [pair for pair in product(Phase, Event) if pair not in [legal[:2] for legal in LEGAL]],
)
def test_every_other_transition_is_refused(phase: Phase, event: Event) -> None:
    with pytest.raises(IllegalTransition, match=f"{phase.name} cannot be {event.value}"):
        advance(phase, event)


def test_a_frozen_copy_never_serves_again() -> None:
    """Invariant S1: once it is given out, only forgetting is left; or, if its taker is given up, to
    lie where it is until a later configuration gives it out again."""
    after = {event: after for (before, event), after in NEXT.items() if before is Phase.LEAVING}

    assert after == {
        Event.CONFIRMED: Phase.ABSENT,
        Event.RENEWED: Phase.LEAVING,
        Event.ABANDONED: Phase.PARKED,
        Event.LOST: Phase.ABSENT,
    }


def test_clients_are_answered_until_the_freeze_and_from_the_install_on() -> None:
    """Invariant S1: from a phase that serves nothing leads to one that gives out a frozen copy but
    the freeze, and nothing but the install ends the waiting."""
    assert SERVES == (Phase.SERVING, Phase.MOVING)
    for (before, event), after in NEXT.items():
        if after is Phase.LEAVING:
            assert event is Event.FROZEN or before in (Phase.LEAVING, Phase.PARKED)
        if before is Phase.ARRIVING:
            assert event in (Event.INSTALLED, Event.ABANDONED)


def test_configurations_find_settled_shards_only() -> None:
    """Invariant S5: a step of a copy ends each phase in which a configuration must wait."""
    by_config = (
        Event.CREATED,
        Event.ASSIGNED,
        Event.REASSIGNED,
        Event.UNASSIGNED,
        Event.RETURNED,
    )
    for phase, event in NEXT:
        assert (phase in SETTLED) == (event in by_config)


def test_the_diagram_has_a_line_for_each_row_of_the_table() -> None:
    lines = diagram().splitlines()

    assert lines[:2] == ["stateDiagram-v2", "    [*] --> ABSENT"]
    assert sorted(lines[2:]) == sorted(
        f"    {before.name} --> {after.name}: {event.value}" for before, event, after in LEGAL
    )


def test_the_document_shows_the_diagram_as_it_is_drawn() -> None:
    document = Path(__file__).parents[2] / "docs" / "architecture.md"

    assert f"```mermaid\n{diagram()}```\n" in document.read_text(encoding="utf-8")
