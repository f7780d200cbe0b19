"""Changes of members, as pure steps from one `Membership` to the next.

    settled --add--> learners catching up --all caught up, committed--> joint --committed--> settled
       \\--remove-----------------------------------------------------^

Each arrow is one entry of the log, in force from the moment it is appended and undone if the entry
is truncated. Joint consensus, not one-by-one changes: the two electorates of a joint entry overlap
with those before and after, however many members change. Source: Raft (extended), section 6;
dissertation, sections 4.2.1 (catching up new servers), 4.2.2 (removing the leader) and 4.3.
"""

from collections.abc import Sequence
from typing import Final

from raft.errors import MembershipBusy, MembershipRefused
from raft.types import Member, Membership, NodeId, ReplicaId

VOTERS_MAX: Final = 9
LEARNERS_MAX: Final = 9
ADDRESS_CHARACTERS_MAX: Final = 255


def members(membership: Membership) -> dict[ReplicaId, Member]:
    """Everybody who gets the log, in order of ids."""
    everyone = (*membership.outgoing, *membership.voters, *membership.learners)
    return {member.id: member for member in sorted(everyone)}


def in_change(membership: Membership) -> bool:
    """Whether an operator's wish is still being carried out."""
    return bool(membership.outgoing or membership.promote or membership.leaving)


def begin(
    membership: Membership,
    *,
    add: Sequence[tuple[NodeId, str]],
    remove: Sequence[ReplicaId],
    promote: bool,
) -> Membership:
    """The first entry of a change.

    With `promote`, what is added becomes a voter once it has caught up (with nothing to add or
    remove: every learner there is), and only then the voters in `remove` leave, in one joint
    change. Removing a learner that is to be promoted cancels a change in its first phase.

    Raises:
        MembershipRefused: one change is under way, or this one makes no sense; says why.
    """
    if in_change(membership):
        return _cancel(membership, add, remove)
    known = members(membership)
    _refuse_unknown(known, remove)
    added = _new_members(membership, add, leaving=frozenset(remove))
    learners = tuple(m for m in membership.learners if m.id not in remove)
    leaving = tuple(m.id for m in membership.voters if m.id in remove)
    promoted = tuple(m.id for m in added) if promote else ()
    if promote and not add and not remove:
        promoted = tuple(m.id for m in learners)
        if not promoted:
            raise MembershipRefused("nothing to change")
    elif not add and not remove:
        raise MembershipRefused("nothing to change")
    voters = len(membership.voters) - len(leaving) + len(promoted)
    if voters < 1:
        raise MembershipRefused("a group needs at least one voter")
    if voters > VOTERS_MAX or len(learners) + len(added) > LEARNERS_MAX:
        raise MembershipRefused(f"a group has at most {VOTERS_MAX} voters and learners each")
    begun = membership._replace(
        learners=(*learners, *added),
        promote=promoted,
        leaving=leaving,
        next_id=ReplicaId(membership.next_id + len(added)),
    )
    return begun if promoted else enter_joint(begun)


def enter_joint(membership: Membership) -> Membership:
    """Promote and remove what the change asks for; without voters to change, nothing is joint."""
    assert not membership.outgoing, "one change at a time (R11)"
    arriving = tuple(m for m in membership.learners if m.id in membership.promote)
    staying = tuple(m for m in membership.voters if m.id not in membership.leaving)
    if not arriving and len(staying) == len(membership.voters):
        return membership._replace(promote=(), leaving=())
    return membership._replace(
        voters=tuple(sorted((*staying, *arriving))),
        outgoing=membership.voters,
        learners=tuple(m for m in membership.learners if m.id not in membership.promote),
        promote=(),
        leaving=(),
    )


def leave_joint(membership: Membership) -> Membership:
    """The new voters decide alone. Only once the joint entry is committed (camunda#60086)."""
    assert membership.outgoing, "only a joint membership can be left"
    return membership._replace(outgoing=())


def _cancel(
    membership: Membership, add: Sequence[tuple[NodeId, str]], remove: Sequence[ReplicaId]
) -> Membership:
    cancels = bool(remove) and not add and all(r in membership.promote for r in remove)
    if not cancels or membership.outgoing:
        raise MembershipBusy("another change of members is under way")
    return membership._replace(
        learners=tuple(m for m in membership.learners if m.id not in membership.promote),
        promote=(),
        leaving=(),
    )


def _refuse_unknown(known: dict[ReplicaId, Member], remove: Sequence[ReplicaId]) -> None:
    for replica in remove:
        if replica not in known:
            raise MembershipRefused(f"replica {replica} is no member of the group")
    if len(set(remove)) != len(remove):
        raise MembershipRefused("a replica is named twice")


def _new_members(
    membership: Membership, add: Sequence[tuple[NodeId, str]], leaving: frozenset[ReplicaId]
) -> tuple[Member, ...]:
    taken = {m.node for m in members(membership).values() if m.id not in leaving}
    added: list[Member] = []
    for node, address in add:
        if node in taken:
            raise MembershipRefused(f"node {node} already has a replica of the group")
        if not node or not address or len(address) > ADDRESS_CHARACTERS_MAX:
            raise MembershipRefused("a member needs a node and an address")
        taken.add(node)
        added.append(Member(ReplicaId(membership.next_id + len(added)), node, address))
    return tuple(added)
