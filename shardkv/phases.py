"""A shard's life in one group: the table, and nothing beside it.

The phase alone decides who serves (invariant S1): of the phases below only `SERVING` and `MOVING`
answer clients, and a shard is in one of them in one group at most, because

- it leaves the two by an entry of its group's log (the freeze, or the parking), and never comes
  back under that configuration: no row below leads from `LEAVING` to a phase that serves;
- the next group reaches `SERVING` only over `INSTALLED`, which names the end of the changes; only a
  group in `LEAVING` tells an end (`machine.pull`), and after it nothing changes there;
- `CREATED` and `RETURNED` need no copy: nobody ever had the shard, or nobody else had it since it
  was parked here. The history of configurations says so, and it is the same for every group;
- `ABANDONED` is an operator's word, numbered in the history: the group at the other end is gone for
  good (`steps.abandon` says what is asked before a shard begins anew).
"""

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final


class Phase(IntEnum):
    """Where a shard stands in this group. The numbers are stored."""

    ABSENT = 0  # nothing here; another group has it, or nobody
    ARRIVING = 1  # owned by this group, and on its way here
    SERVING = 2  # answers clients
    MOVING = 3  # answers clients, and notes what changes while the next owner copies
    LEAVING = 4  # frozen, and given out to the next owner, until that one has it
    PARKED = 5  # frozen: the configuration gives it to nobody; handed on from here later


class Event(Enum):
    """What happens to a shard in this group: by a configuration, or by a step of a copy."""

    CREATED = "created"  # assigned here, and no group ever had it
    ASSIGNED = "assigned"  # assigned here, and another group has it
    REASSIGNED = "reassigned"  # assigned to another group
    UNASSIGNED = "unassigned"  # assigned to nobody
    RETURNED = "returned"  # assigned here again after it was parked here
    RESTARTED = "restarted"  # too much has changed: the copy begins again
    FROZEN = "frozen"  # the next owner has nearly all of it: nothing changes here any more
    INSTALLED = "installed"  # the copy is complete: this group takes over
    CONFIRMED = "confirmed"  # a later owner has it: what is here is of no use
    ABANDONED = "abandoned"  # the group at the other end is given up for lost
    RENEWED = "renewed"  # this group was recovered: the copy given out begins again, still frozen
    LOST = "lost"  # and what is here was given on by it already, as the history has it


NEXT: Final[Mapping[tuple[Phase, Event], Phase]] = MappingProxyType(
    {  # absent means refused
        (Phase.ABSENT, Event.CREATED): Phase.SERVING,
        (Phase.ABSENT, Event.ASSIGNED): Phase.ARRIVING,
        (Phase.ARRIVING, Event.INSTALLED): Phase.SERVING,
        (Phase.SERVING, Event.REASSIGNED): Phase.MOVING,
        (Phase.SERVING, Event.UNASSIGNED): Phase.PARKED,
        (Phase.MOVING, Event.RESTARTED): Phase.MOVING,
        (Phase.MOVING, Event.FROZEN): Phase.LEAVING,
        (Phase.LEAVING, Event.RENEWED): Phase.LEAVING,
        (Phase.PARKED, Event.RETURNED): Phase.SERVING,
        (Phase.PARKED, Event.REASSIGNED): Phase.LEAVING,
        (Phase.LEAVING, Event.CONFIRMED): Phase.ABSENT,
        (Phase.ARRIVING, Event.ABANDONED): Phase.SERVING,
        (Phase.MOVING, Event.ABANDONED): Phase.SERVING,
        (Phase.LEAVING, Event.ABANDONED): Phase.PARKED,
        (Phase.MOVING, Event.LOST): Phase.ABSENT,
        (Phase.LEAVING, Event.LOST): Phase.ABSENT,
    }
)

SERVES: Final = (Phase.SERVING, Phase.MOVING)
"""Clients are answered here (S1), and nowhere else."""

SETTLED: Final = (Phase.ABSENT, Phase.SERVING, Phase.PARKED)
"""A group takes the next configuration only when each of its shards is in one of these (S5)."""


class IllegalTransition(AssertionError):
    """An event that the table does not have in this phase: our own mistake; the replica stops."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"a shard that is {phase.name} cannot be {event.value}")
        self.phase, self.event = phase, event


def advance(phase: Phase, event: Event) -> Phase:
    """The phase after `event`; raises IllegalTransition for what the table does not have."""
    after = NEXT.get((phase, event))
    if after is None:
        raise IllegalTransition(phase, event)
    return after


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documents; phases not in it are left out."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.ABSENT.name}"]
    lines += [
        f"    {before.name} --> {after.name}: {event.value}"
        for (before, event), after in NEXT.items()
    ]
    return "\n".join(lines) + "\n"
