"""How groups are born and grow: what is the next missing step? Pure; `launcher` and `ctl` act.

A group is born with one voter. Every other member comes in through the group's own log: the leader
adds it as a learner (which gives it its replica id), the node creates a blank replica of that id,
and the leader makes it a voter once it has caught up. Whoever was cut off in the middle is
finished by asking again: each step is read off from what is there.

Why this never forgets a promise: a replica is created under an id only by the one who has just been
given that id, on the very process (`boot`) that was seen without one. A learner whose node has no
replica is never filled again: it is removed, and the node comes in under a new id. So a node that
lost its disk can never pose as the voter it was.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from shardkv.admin import NodeStatus, ReplicaStatus
from shardkv.text import named

CONTROLLER_GID = 0


class Wish(NamedTuple):
    """A group as it should be: its nodes, the founder first."""

    gid: int
    nodes: tuple[str, ...]


class Birth(NamedTuple):
    """Create the group on its founder."""

    gid: int
    node: str


class Enlarge(NamedTuple):
    """Have the leader add these nodes, and create a replica on each."""

    gid: int
    leader: str
    nodes: tuple[str, ...]


class Strike(NamedTuple):
    """Have the leader remove learners that were never filled."""

    gid: int
    leader: str
    replicas: tuple[int, ...]


class Wait(NamedTuple):
    """Nothing to do but wait, for the reason given."""

    reason: str


class Complete(NamedTuple):
    """Every node of the wish is a voter."""


Step: TypeAlias = Birth | Enlarge | Strike | Wait | Complete

Seen: TypeAlias = Mapping[str, NodeStatus | None]
"""What each node said of itself; None: it did not answer."""


def leader_of(gid: int, seen: Seen) -> tuple[str, ReplicaStatus] | None:
    """The node that leads a group, and its replica; of several that think so, the latest term."""
    leaders = [
        (node, replica)
        for node, status in seen.items()
        if status is not None
        for replica in status.replicas
        if replica.gid == gid and replica.leads
    ]
    return max(leaders, key=lambda found: found[1].term, default=None)


def next_step(wish: Wish, seen: Seen) -> Step:
    """What to do next for one group."""
    answered = {node: status for node, status in seen.items() if status is not None}
    silent = [node for node in wish.nodes if node not in answered]
    if not any(status.replica(wish.gid) for status in answered.values()):
        if len(answered) < len(seen) or silent:
            absent = silent or [node for node in seen if node not in answered]
            return Wait(f"{', '.join(absent)} must answer before group {wish.gid} is created")
        return Birth(wish.gid, wish.nodes[0])
    found = leader_of(wish.gid, seen)
    if found is None:
        return Wait(f"group {wish.gid} has no leader")
    leader, group = found
    if group.outgoing:
        return Wait(f"group {wish.gid} is changing its voters")
    orphans, filling, missing = _sorted_out(wish, group, answered)
    if orphans:
        return Strike(wish.gid, leader, tuple(orphans))
    if filling:
        return Wait(f"{named(filling, 'catches', 'catch')} up in group {wish.gid}")
    if not missing:
        return Complete()
    reachable = tuple(node for node in missing if node in answered)
    if not reachable:
        return Wait(named(missing, "does not answer", "do not answer"))
    return Enlarge(wish.gid, leader, reachable)


def _sorted_out(
    wish: Wish, group: ReplicaStatus, answered: Mapping[str, NodeStatus]
) -> tuple[list[int], list[str], list[str]]:
    """Learners that were never filled, nodes that catch up, and nodes that are no members."""
    voters = {member.node for member in group.voters}
    learners = {member.node: member for member in group.learners}
    orphans, filling, missing = [], [], []
    for node in wish.nodes:
        if node in voters:
            continue
        if node not in learners:
            missing.append(node)
            continue
        status = answered.get(node)
        held = status.replica(group.gid) if status is not None else None
        if status is None or (
            held is not None and (held.replica, held.uuid) == (learners[node].replica, group.uuid)
        ):
            filling.append(node)
        else:
            orphans.append(learners[node].replica)
    return orphans, filling, missing


def spread(nodes: Sequence[str], groups: int, replicas: int) -> tuple[Wish, ...]:
    """Place the controller (gid 0) and `groups` groups evenly: no node holds two replicas more
    than another, and the founders, who lead first, go round too.

    Args:
        nodes: At least `replicas` of them.
    """
    held = dict.fromkeys(nodes, 0)
    founded = dict.fromkeys(nodes, 0)
    wishes = []
    for gid in range(groups + 1):
        chosen = sorted(nodes, key=lambda node: (held[node], nodes.index(node)))[:replicas]
        founder = min(chosen, key=lambda node: (founded[node], chosen.index(node)))
        for node in chosen:
            held[node] += 1
        founded[founder] += 1
        wishes.append(Wish(gid, (founder, *(node for node in chosen if node != founder))))
    return tuple(wishes)
