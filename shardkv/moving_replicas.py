"""How a group's replicas move from node to node: what is the next missing step? Pure.

`shardkv ctl` and whoever heals the cluster by itself look at the nodes, ask `next_step`, carry it
out (`shardkv.operating`), and look again. Each step is read off from what is there, so whoever was
cut off in the middle is finished by anybody who wishes for the same change again; and of two who
wish for different ones, one goes first and the other is told so.

A replacement is one change of the group's log and not two: what arrives comes in as a learner,
which counts nowhere, becomes a voter by itself once it has caught up, and in that same joint change
what departs leaves. So at no moment does the group have one voter more to lose, or one less.

What is refused has had no effect. In particular no change begins after which fewer than a majority
of the voters would be alive *by what is seen now*: a dead voter that is counted on cannot be told
from one that comes back, and only an operator's explicit recovery may guess.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus
from shardkv.growth import CONTROLLER_GID, Complete, Seen, Strike, Wait, leader_of
from shardkv.text import named

VOTERS_MAX: Final = 9
LAG_ENTRIES_MAX: Final = 1_000
"""A replica that is so far behind what is committed counts as caught up: it gets there in moments,
and under load what nodes say of themselves is never of one instant."""


class Change(NamedTuple):
    """A wish for one group. With both, the ones take the places of the others, all at once.

    A node in both shall hold a voter that is not the one whose data it lost: a new one takes that
    one's place, on the same node.

    Args:
        arriving: Nodes that shall hold a voter.
        departing: Nodes that shall hold no replica.
    """

    gid: int
    arriving: tuple[str, ...] = ()
    departing: tuple[str, ...] = ()


class Begin(NamedTuple):
    """Have the leader begin the change, and create a blank replica on each node of `add` under the
    id that it is given. The rest goes by itself, through the group's log."""

    gid: int
    leader: str
    add: tuple[str, ...]
    remove: tuple[int, ...]  # replica ids


class HandOver(NamedTuple):
    """Have the leader hand its leadership to a voter."""

    gid: int
    leader: str
    to: str
    replica: int  # of `to`


class Refuse(NamedTuple):
    """It must not be done as things are; nothing was. `busy`: another change comes first."""

    reason: str
    busy: bool = False


Step: TypeAlias = Begin | HandOver | Strike | Wait | Complete | Refuse


def next_step(change: Change, seen: Seen) -> Step:
    """What to do next for one change.

    Args:
        seen: Every registered node, and what it said of itself (None: it did not answer).
    """
    found = leader_of(change.gid, seen)
    if found is None:
        return _without_leader(change.gid, seen)
    leader, group = found
    if group.outgoing:
        return Wait(f"group {change.gid} is changing its voters")
    if group.membership_at > group.commit:
        return Wait(f"group {change.gid} is committing a change of members")
    if group.promote or group.leaving:
        return _under_way(change, leader, group, seen)
    refusal = _impossible(change, group, seen)
    if refusal is not None:
        return refusal
    missing, leaving = _missing(change, group, seen), _leaving(change, group, seen)
    idle = [m.replica for m in group.learners if m.node in (*change.arriving, *change.departing)]
    if idle:  # a learner that nobody wishes to promote: it comes in anew, or not at all
        return Strike(change.gid, leader, tuple(idle))
    if not missing and not leaving:
        return Complete()
    staying = [member for member in group.voters if member not in leaving]
    if any(member.node == leader for member in leaving):
        heir = _heir(staying, group, seen)
        if heir is not None:
            return HandOver(change.gid, leader, heir.node, heir.replica)
    if waits := [reason for node in missing if (reason := _not_ready(node, group, seen))]:
        return Wait("; ".join(waits))
    return Begin(change.gid, leader, missing, tuple(member.replica for member in leaving))


def next_transfer(gid: int, node: str, seen: Seen) -> Step:
    """What to do next so that `node` leads the group."""
    found = leader_of(gid, seen)
    if found is None:
        return _without_leader(gid, seen)
    leader, group = found
    if leader == node:
        return Complete()
    target = next((member for member in group.voters if member.node == node), None)
    if target is None:
        return Refuse(f"node {node} holds no voter of {title(gid)}: {_named(group.voters)} do")
    if not _lives(target, group, seen):
        return Refuse(f"node {node} does not run its replica of {title(gid)}")
    if group.outgoing or group.promote or group.leaving:
        return Wait(f"group {gid} is changing its members")
    return HandOver(gid, leader, node, target.replica)


def outline_transfer(gid: int, node: str, seen: Seen) -> list[str]:
    """What will be done so that `node` leads the group, in sentences; for `--dry-run`."""
    match next_transfer(gid, node, seen):
        case HandOver(_, leader, to, _):
            return [f"{title(gid)}: hand the leadership from {leader} to {to}"]
        case Refuse(reason) | Wait(reason) as step:
            how = "refused" if isinstance(step, Refuse) else "wait"
            return [f"{title(gid)}: {how}: {reason}"]
        case _:
            return [f"{title(gid)}: nothing to do"]


def next_wait(seen: Seen) -> Step:
    """What keeps the cluster from being whole: then any one node may be stopped."""
    silent = [node for node, status in seen.items() if status is None or status.state != "running"]
    if silent:
        return Wait(named(silent, "does not answer", "do not answer"))
    for gid in groups_of(seen):
        found = leader_of(gid, seen)
        if found is None:
            return Wait(f"group {gid} has no leader")
        group = found[1]
        if group.outgoing or group.promote or group.leaving:
            return Wait(f"group {gid} is changing its members")
        for member in group.voters:
            held = _held(member.node, gid, seen)
            if held is None or not _lives(member, group, seen):
                return Wait(f"the replica of group {gid} on {member.node} does not run")
            if held.applied + LAG_ENTRIES_MAX < group.commit:
                return Wait(_progress(member, group, seen))
    return Complete()


def groups_on(node: str, seen: Seen) -> tuple[int, ...]:
    """The groups that count or fill a replica on a node, the controller first: by their leaders,
    and where nobody leads, by whoever is there."""
    found = []
    for gid in groups_of(seen):
        leads = leader_of(gid, seen)
        held = [leads[1]] if leads is not None else _replicas(gid, seen)
        if any(node in {m.node for m in (*r.voters, *r.outgoing, *r.learners)} for r in held):
            found.append(gid)
    return tuple(found)


def groups_of(seen: Seen) -> tuple[int, ...]:
    """Every group of which any node that answered holds a replica, ascending."""
    answered = [status for status in seen.values() if status is not None]
    return tuple(sorted({replica.gid for status in answered for replica in status.replicas}))


def cost(voters: Sequence[MemberStatus], group: ReplicaStatus, seen: Seen) -> str:
    """Why a group must not be left with these voters now; "" if it may be.

    Args:
        voters: Those that stay.
        group: Its leader's replica.
    """
    return cost_of(len(voters), sum(_lives(member, group, seen) for member in voters))


def cost_of(voters: int, alive: int) -> str:
    """Why a group must not be left with so many voters, so many of them alive; "" if it may be."""
    needed = voters // 2 + 1
    return "" if alive >= needed else f"would leave {alive} of {voters} alive, and {needed} decide"


def title(gid: int) -> str:
    """A group as it is called in sentences."""
    return "the controller (group 0)" if gid == CONTROLLER_GID else f"group {gid}"


def _without_leader(gid: int, seen: Seen) -> Step:
    if gid in groups_of(seen) or None in seen.values():
        return Wait(f"group {gid} has no leader")
    return Refuse(f"there is no group {gid}")


def _under_way(change: Change, leader: str, group: ReplicaStatus, seen: Seen) -> Step:
    """A change is in its first phase: ours goes on, somebody else's comes first."""
    filling = [member for member in group.learners if member.replica in group.promote]
    arriving = {member.node for member in filling}
    departing = {member.node for member in group.voters if member.replica in group.leaving}
    voters = {member.node for member in group.voters}
    if not change.arriving and arriving and arriving <= set(change.departing):
        return Strike(change.gid, leader, tuple(member.replica for member in filling))  # given up
    renewed = set(change.arriving) & set(change.departing)
    wished = set(change.arriving) - (voters - renewed)
    ours = arriving == wished and departing == set(change.departing) & voters
    if not ours:
        parts = [f"{node} arrives" for node in sorted(arriving)]
        parts += [f"{node} departs" for node in sorted(departing)]
        return Refuse(
            f"another change of {title(change.gid)} is under way ({', '.join(parts)}): try again "
            "when it is done",
            busy=True,
        )
    orphans = tuple(member.replica for member in filling if _is_orphan(member, group, seen))
    if orphans:
        # Never filled again: it might have promised something in a life that was lost.
        return Strike(change.gid, leader, orphans)
    return Wait("; ".join(_progress(member, group, seen) for member in filling))


def _impossible(change: Change, group: ReplicaStatus, seen: Seen) -> Refuse | None:
    """Why the change must not begin, if anything forbids it."""
    voters = {member.node for member in group.voters}
    there = voters | {member.node for member in group.learners}
    for node in (*change.arriving, *change.departing):
        if node not in seen and node not in there:
            return Refuse(f"there is no node {node}")
    missing = _missing(change, group, seen)
    leaving = {member.node for member in _leaving(change, group, seen)}
    if change.arriving and not missing and leaving:
        names = ", ".join(change.arriving)
        return Refuse(f"{names} holds a replica of {title(change.gid)} already: name another node")
    if missing and change.departing and not there & set(change.departing):
        names = ", ".join(change.departing)
        return Refuse(f"{names} holds no replica of {title(change.gid)} that could be replaced")
    staying = [member for member in group.voters if member.node not in leaving]
    count = len(staying) + len(missing)
    if not missing and not leaving:
        return None
    if count < 1:
        only = ", ".join(sorted(leaving))
        return Refuse(f"{only} holds the last replica of {title(change.gid)}")
    if count > VOTERS_MAX:
        return Refuse(f"{title(change.gid)} would have {count} replicas, {VOTERS_MAX} are allowed")
    alive = sum(_lives(member, group, seen) for member in staying)
    reason = cost_of(count, alive + len(missing))  # who arrives has caught up before it counts
    if reason:
        dead = [member.node for member in staying if not _lives(member, group, seen)]
        return Refuse(f"{reason} in {title(change.gid)}: {', '.join(dead)} must come back first")
    return None


def _missing(change: Change, group: ReplicaStatus, seen: Seen) -> tuple[str, ...]:
    """Nodes that shall hold a voter and hold none, or one that they have lost."""
    voters = {member.node: member for member in group.voters}
    return tuple(
        node
        for node in change.arriving
        if node not in voters
        or (node in change.departing and _is_orphan(voters[node], group, seen))
    )


def _leaving(change: Change, group: ReplicaStatus, seen: Seen) -> tuple[MemberStatus, ...]:
    """Voters that shall go: of a node that shall hold one as well, only the one that it lost."""
    return tuple(
        member
        for member in group.voters
        if member.node in change.departing
        and (member.node not in change.arriving or _is_orphan(member, group, seen))
    )


def _lives(member: MemberStatus, group: ReplicaStatus, seen: Seen) -> bool:
    """Whether a member's replica runs, and still holds what it has promised."""
    replica = _held(member.node, group.gid, seen)
    return (
        replica is not None
        and (replica.replica, replica.uuid) == (member.replica, group.uuid)
        and not replica.stopped
        and member not in group.lost
    )


def _replicas(gid: int, seen: Seen) -> list[ReplicaStatus]:
    found = (status.replica(gid) for status in seen.values() if status is not None)
    return [replica for replica in found if replica is not None]


def _held(node: str, gid: int, seen: Seen) -> ReplicaStatus | None:
    status = seen.get(node)
    return None if status is None else status.replica(gid)


def _is_orphan(member: MemberStatus, group: ReplicaStatus, seen: Seen) -> bool:
    """Whether a learner's node is up and has no such replica: nobody created it, or it is lost."""
    if seen.get(member.node) is None:
        return False
    held = _held(member.node, group.gid, seen)
    return held is None or (held.replica, held.uuid) != (member.replica, group.uuid)


def _progress(member: MemberStatus, group: ReplicaStatus, seen: Seen) -> str:
    held = _held(member.node, group.gid, seen)
    if held is None:
        return f"{member.node} does not answer; it was to catch up in group {group.gid}"
    if held.stopped:
        return f"the replica of group {group.gid} on {member.node} has stopped: {held.stopped}"
    return f"{member.node} catches up in group {group.gid}: {held.applied} of {group.commit}"


def _not_ready(node: str, group: ReplicaStatus, seen: Seen) -> str:
    """Why a node cannot take a replica in now; "" if it can."""
    status: NodeStatus | None = seen.get(node)
    if status is None or status.state != "running":
        return f"{node} does not answer"
    if status.replica(group.gid) is not None:
        return f"{node} has yet to drop the replica of group {group.gid} that it held before"
    return ""


def _heir(staying: Sequence[MemberStatus], group: ReplicaStatus, seen: Seen) -> MemberStatus | None:
    """Of the voters that stay, the living one that is furthest; of equals the first by name."""
    best: tuple[int, MemberStatus] | None = None
    for member in sorted(staying, key=lambda member: member.node):
        if _lives(member, group, seen):
            held = _held(member.node, group.gid, seen)
            assert held is not None, "a replica that lives"
            if best is None or held.applied > best[0]:
                best = (held.applied, member)
    return None if best is None else best[1]


def _named(members: Sequence[MemberStatus]) -> str:
    return ", ".join(sorted(member.node for member in members))


# What is told of it beforehand


def outline(change: Change, seen: Seen) -> list[str]:
    """What will be done for a change, in sentences, if all goes well; for `--dry-run`."""
    found = leader_of(change.gid, seen)
    step = next_step(change, seen)
    name = title(change.gid)
    match step:
        case Complete():
            return [f"{name}: nothing to do"]
        case Refuse(reason):
            return [f"{name}: refused: {reason}"]
        case Wait(reason):
            return [f"{name}: wait: {reason}"]
        case Strike(_, _, replicas):
            numbers = ", ".join(map(str, replicas))
            return [f"{name}: remove learner {numbers}, which never came up", f"{name}: look again"]
        case HandOver(_, leader, to, _):
            assert found is not None, "a leader hands over"
            lines = [f"{name}: hand the leadership from {leader} to {to}"]
            return [*lines, *_outlined(change, found[1], name)]
        case Begin():
            assert found is not None, "a leader begins"
            return _outlined(change, found[1], name)


def _outlined(change: Change, group: ReplicaStatus, name: str) -> list[str]:
    voters = {member.node for member in group.voters}
    renewed = sorted(set(change.arriving) & set(change.departing))
    missing = [node for node in change.arriving if node not in voters or node in renewed]
    leaving = sorted(voters & set(change.departing))
    lines = [f"{name}: create a learner on {node}, and let it catch up" for node in missing]
    if renewed:
        names = ", ".join(renewed)
        return [*lines, f"{name}: it votes in the place of the one that {names} has lost"]
    after = sorted((voters - set(leaving)) | set(missing))
    lines.append(
        f"{name}: change the voters from {', '.join(sorted(voters))} to "
        f"{', '.join(after)}, in one joint change"
    )
    lines += [f"{name}: {node} drops its replica, once it runs" for node in leaving]
    return lines
