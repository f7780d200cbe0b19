"""Changes of members as pure steps: what is asked, what follows, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.errors import MembershipRefused
from raft.membership import begin, enter_joint, in_change, leave_joint, members
from raft.types import Member, Membership, NodeId, ReplicaId
from tests.support.builders import member, membership

N4 = (NodeId("n4"), "n4:1")
N5 = (NodeId("n5"), "n5:1")


def test_an_added_replica_begins_as_a_learner_that_waits_for_promotion() -> None:
    """Dissertation, section 4.2.1: it must not hold up commits while it catches up."""
    begun = begin(membership(1, 2, 3), add=[N4], remove=[], promote=True)

    assert begun == membership(1, 2, 3, learners=(4,), promote=(4,))


def test_a_replacement_leaves_only_together_with_the_promotion() -> None:
    """One operator's wish, three entries: learner, joint, settled."""
    begun = begin(membership(1, 2, 3), add=[N4], remove=[ReplicaId(1)], promote=True)
    joint = enter_joint(begun)
    settled = leave_joint(joint)

    assert begun == membership(1, 2, 3, learners=(4,), promote=(4,), leaving=(1,))
    assert joint == membership(2, 3, 4, outgoing=(1, 2, 3))
    assert settled == membership(2, 3, 4)


def test_a_removal_alone_is_joint_at_once() -> None:
    begun = begin(membership(1, 2, 3), add=[], remove=[ReplicaId(3)], promote=True)

    assert begun == membership(1, 2, outgoing=(1, 2, 3))._replace(next_id=ReplicaId(4))


def test_learners_come_and_go_without_a_joint_change() -> None:
    """They are not counted, so the electorate does not change."""
    added = begin(membership(1, 2, 3), add=[N4], remove=[], promote=False)
    removed = begin(added, add=[], remove=[ReplicaId(4)], promote=True)

    assert added == membership(1, 2, 3, learners=(4,))
    assert removed == membership(1, 2, 3)._replace(next_id=ReplicaId(5))


def test_standing_learners_are_promoted_on_request() -> None:
    begun = begin(membership(1, learners=(2, 3)), add=[], remove=[], promote=True)

    assert begun == membership(1, learners=(2, 3), promote=(2, 3))


def test_an_id_is_never_given_twice() -> None:
    """A removed replica's id stays used: its log may be gone, its promises are not (E14)."""
    shrunk = leave_joint(begin(membership(1, 2, 3), add=[], remove=[ReplicaId(3)], promote=True))

    again = begin(shrunk, add=[(NodeId("n3"), "n3:1")], remove=[], promote=True)

    assert again.learners == (Member(ReplicaId(4), NodeId("n3"), "n3:1"),)
    assert again.next_id == 5


def test_a_learner_that_never_comes_up_can_be_given_up() -> None:
    """Removing it cancels the whole change, the removal that waited for it too."""
    begun = begin(membership(1, 2, 3), add=[N4], remove=[ReplicaId(1)], promote=True)

    cancelled = begin(begun, add=[], remove=[ReplicaId(4)], promote=True)

    assert cancelled == membership(1, 2, 3)._replace(next_id=ReplicaId(5))


def refused(at: Membership, says: str, **change: object) -> None:
    arguments = {"add": [], "remove": [], "promote": True, **change}
    with pytest.raises(MembershipRefused, match=says):
        begin(at, **arguments)  # type: ignore[arg-type]


def test_what_makes_no_sense_is_refused_with_the_reason() -> None:
    three = membership(1, 2, 3)

    refused(three, "nothing to change")
    refused(three, "replica 9 is no member", remove=[ReplicaId(9)])
    refused(three, "named twice", remove=[ReplicaId(1), ReplicaId(1)])
    refused(three, "at least one voter", remove=[ReplicaId(n) for n in (1, 2, 3)])
    refused(three, "node n2 already has", add=[(NodeId("n2"), "elsewhere:1")])
    refused(three, "node n4 already has", add=[N4, N4])
    refused(membership(1, learners=(4,)), "node n4 already has", add=[N4])
    refused(three, "needs a node and an address", add=[(NodeId("n4"), "")])
    refused(membership(*range(1, 10)), "at most 9", add=[(NodeId("n10"), "n10:1")])


def test_one_change_at_a_time() -> None:
    """Invariant R11; redpanda#17675 is two leaders after doing without."""
    for busy in (
        membership(1, 2, 3, learners=(4,), promote=(4,)),
        membership(2, 3, 4, outgoing=(1, 2, 3)),
    ):
        refused(busy, "another change", add=[N5])
        refused(busy, "another change", remove=[ReplicaId(2)])
        refused(busy, "another change", remove=[ReplicaId(4), ReplicaId(2)])


def test_a_node_may_replace_its_own_replica() -> None:
    """A wiped node comes back under a new id while its old one leaves."""
    begun = begin(
        membership(1, 2, 3), add=[(NodeId("n3"), "n3:1")], remove=[ReplicaId(3)], promote=True
    )  # fmt: skip

    assert [m.id for m in enter_joint(begun).voters] == [1, 2, 4]


def test_members_names_everybody_once_in_order() -> None:
    at = membership(3, 4, outgoing=(1, 3), learners=(2,))

    assert list(members(at)) == [1, 2, 3, 4]
    assert members(at)[ReplicaId(2)] == member(2)


@given(st.data())
def test_random_walks_keep_the_shape(data: st.DataObject) -> None:
    """Sorted places, nobody in two of them but old and new voter, ids that never come back."""
    at = membership(1, 2, 3)
    given_ids = {1, 2, 3}
    for _ in range(data.draw(st.integers(1, 12))):
        try:
            if at.outgoing:
                at = leave_joint(at)
            elif in_change(at) and data.draw(st.booleans()):
                at = enter_joint(at)
            else:
                nodes = data.draw(st.lists(st.sampled_from("abcdefgh"), max_size=2))
                remove = data.draw(st.lists(st.sampled_from(list(members(at))), max_size=2))
                before = at.next_id
                add = [(NodeId(node), f"{node}:1") for node in nodes]
                at = begin(at, add=add, remove=remove, promote=data.draw(st.booleans()))
                fresh = set(range(before, at.next_id))
                assert not fresh & given_ids
                given_ids |= fresh
        except MembershipRefused:
            continue
        for place in (at.voters, at.outgoing, at.learners):
            assert list(place) == sorted(place)
        voters = {m.id for m in (*at.voters, *at.outgoing)}
        assert at.voters and not voters & {m.id for m in at.learners}
        assert set(at.promote) <= {m.id for m in at.learners}
        assert set(at.leaving) <= {m.id for m in at.voters}
