"""Carries out what healing decided, by the means of the operator's commands.

`operating.Operator` looks at all nodes once more, in full, and `moving_replicas` judges the wish by
that; the group's leader judges it a third time. So a step is taken only if what called for it is
still so, and a change that somebody else began meanwhile comes first.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from labrpc.transport import Transport
from shardkv import moving_replicas, planner
from shardkv.growth import Complete, Seen, Strike, leader_of
from shardkv.moving_replicas import Begin, Change, HandOver
from shardkv.operating import Operator
from shardkv.planner import Replace, Transfer, Undo

STEP_SECONDS: Final = 4.0
"""A step that has not been taken by then is decided on anew."""


async def carry_out(step: planner.Step, transport: Transport, nodes: Mapping[str, str]) -> None:
    """Take a step. What follows from it goes on by itself, through the group's log.

    Args:
        nodes: Every registered node, and where it takes clients' calls.

    Raises:
        MembersRefused: it must not be done as things are, and was not.
        Unavailable: it could not be taken in time.
    """
    deadline = asyncio.get_running_loop().time() + STEP_SECONDS
    await Operator(transport, nodes).pursue(_once(_decide(step)), deadline=deadline)


def _decide(step: planner.Step) -> Callable[[Seen], moving_replicas.Step]:
    match step:
        case Replace(gid, _, dead, _, to):
            change = Change(gid, arriving=(to,), departing=(dead,))
            return lambda seen: moving_replicas.next_step(change, seen)
        case Transfer(gid, _, to, _, _):
            return lambda seen: moving_replicas.next_transfer(gid, to, seen)
        case Undo(gid, _, replicas, _, _):
            return lambda seen: _undo(gid, replicas, seen)


def _undo(gid: int, replicas: tuple[int, ...], seen: Seen) -> moving_replicas.Step:
    """Strike the learners, unless the change has ended or gone further meanwhile."""
    found = leader_of(gid, seen)
    if found is None or found[1].outgoing or found[1].promote != replicas:
        return Complete()
    return Strike(gid, found[0], replicas)


def _once(decide: Callable[[Seen], moving_replicas.Step]) -> Callable[[Seen], moving_replicas.Step]:
    """One deed, and not all that follows: the next look is the healer's."""
    done = False

    def decided(seen: Seen) -> moving_replicas.Step:
        nonlocal done
        if done:
            return Complete()
        step = decide(seen)
        done = isinstance(step, Begin | HandOver | Strike)
        return step

    return decided
