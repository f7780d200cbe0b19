"""Changes of members at work in the core: one test for each claim.

Reference: Raft (extended), section 6; dissertation, chapter 4; the bug that Ongaro announced on
raft-dev in July 2015 ("bug in single-server membership changes") and its three cases.
"""

import pytest

from raft.codec import decode_membership, encode_membership
from raft.core import Raft
from raft.errors import MembershipRefused, NotLeader
from raft.messages import (
    AppendEntries,
    Heartbeat,
    InstallSnapshot,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from raft.ready import Ready
from raft.types import (
    Entry,
    EntryId,
    EntryKind,
    Index,
    Membership,
    NodeId,
    ReplicaId,
    Role,
    SnapshotMeta,
    Term,
)
from tests.support.builders import (
    N1,
    N2,
    N3,
    N4,
    N5,
    NOW,
    ack,
    beat_reply,
    campaign,
    core,
    effects,
    elect,
    empty,
    entry,
    id_of,
    leader,
    membership,
    said,
    settle,
)

T1, T2 = Term(1), Term(2)
ADD_4 = [(NodeId("n4"), "n4:1")]


def change(index: int, term: int, to: Membership) -> Entry:
    return Entry(Index(index), Term(term), EntryKind.MEMBERSHIP, encode_membership(to))


def memberships(done: Ready) -> list[Membership]:
    return [decode_membership(e.data) for e in done.entries if e.kind is EntryKind.MEMBERSHIP]


def everybody_acknowledges(replica: Raft, *but: int) -> Ready:
    for follower in list(replica.progress):
        if follower not in but and follower in replica.progress:
            replica.step(ack(follower, replica, replica.log.last.index), NOW + 10)
    return effects(replica)


# The whole way


def test_a_new_server_is_a_learner_then_joint_then_a_voter() -> None:
    """Section 6 and dissertation 4.2.1, in one go: three entries, each after the commit of the
    one before, none of which the operator has to ask for."""
    replica = leader(1, voters=membership(1, 2, 3))

    replica.change_members(add=ADD_4)
    done = effects(replica)
    assert memberships(done) == [membership(1, 2, 3, learners=(4,), promote=(4,))]
    assert [m.target for m in done.early] == [N2, N3, N4]

    done = everybody_acknowledges(replica)
    assert memberships(done) == [membership(1, 2, 3, 4, outgoing=(1, 2, 3))]
    done = everybody_acknowledges(replica)
    assert memberships(done) == [membership(1, 2, 3, 4)]
    everybody_acknowledges(replica)
    assert (replica.membership, replica.commit) == (membership(1, 2, 3, 4), 4)
    assert effects(replica) == Ready(), "and there it ends (etcd bd3c759 left many times)"


def test_a_learner_does_not_hold_up_commits() -> None:
    """Dissertation, section 4.2.1: otherwise adding a server is a gap in availability."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(add=ADD_4)
    replica.propose(b"3/1")
    effects(replica)

    everybody_acknowledges(replica, 4)

    assert replica.commit == 3
    assert replica.membership == membership(1, 2, 3, learners=(4,), promote=(4,))


def test_a_learner_is_promoted_when_its_last_round_was_short() -> None:
    """Dissertation, section 4.2.1: rounds of catching up, the last within an election timeout."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(add=ADD_4)
    everybody_acknowledges(replica, 4)
    for n in (3, 4, 5):
        replica.propose(b"%d/1" % n)
    everybody_acknowledges(replica, 4)

    replica.step(ack(4, replica, 2), NOW + 15)
    assert memberships(effects(replica)) == [], "a round of five seconds is no catching up"

    replica.step(ack(4, replica, 5), NOW + 15.1)
    assert memberships(effects(replica)) == [membership(1, 2, 3, 4, outgoing=(1, 2, 3))]


def test_the_first_step_must_be_committed_before_the_next() -> None:
    """A learner that caught up with an uncommitted membership is not promoted by it."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(add=ADD_4)
    effects(replica)

    replica.step(ack(4, replica, 2), NOW + 10)
    assert memberships(effects(replica)) == []

    replica.step(ack(2, replica, 2), NOW + 10)
    assert len(memberships(effects(replica))) == 1


def test_no_step_is_taken_before_an_entry_of_the_leaders_term_is_committed() -> None:
    """A new leader may know that the step before is committed, and not what came after (Ongaro)."""
    catching_up = membership(1, 2, 3, learners=(4,), promote=(4,))
    replica = leader(1, voters=catching_up, settled=False)

    replica.step(ack(4, replica, 1), NOW + 10)
    assert memberships(effects(replica)) == []

    replica.step(ack(2, replica, 1), NOW + 10)
    assert memberships(effects(replica)) == [membership(1, 2, 3, 4, outgoing=(1, 2, 3))]


def test_a_learner_that_lost_what_it_held_is_not_promoted() -> None:
    """It had caught up, and waited for another newcomer."""
    two = membership(1, 2, 3, learners=(4, 5), promote=(4, 5))
    replica = leader(1, voters=two, settled=False)
    everybody_acknowledges(replica, 5)
    replica.step(beat_reply(4, replica, 0, 1), NOW + 10)
    replica.timeout(replica.deadline)
    effects(replica)
    replica.step(beat_reply(4, replica, 1, 0), NOW + 10)
    assert replica.lost_replicas == (N4,)

    everybody_acknowledges(replica)

    assert replica.membership == two


def test_joint_entries_need_both_majorities() -> None:
    """Section 6; two counters (safeguard E05, async-raft#62)."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(add=[*ADD_4, (NodeId("n5"), "n5:1")], remove=[N2, N3])
    everybody_acknowledges(replica)
    assert replica.membership == membership(1, 4, 5, outgoing=(1, 2, 3))
    joint_at = replica.log.last.index

    for follower in (4, 5):
        replica.step(ack(follower, replica, joint_at), NOW + 10)
    assert replica.commit < joint_at, "1, 4 and 5 are no majority of 1, 2, 3"

    replica.step(ack(2, replica, joint_at), NOW + 10)
    assert replica.commit == joint_at
    assert replica.membership == membership(1, 4, 5)


def test_the_joint_membership_is_left_only_after_it_is_committed() -> None:
    """camunda#60086 left it before."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(remove=[N3])
    effects(replica)
    joint_at = replica.log.last.index

    replica.step(ack(3, replica, joint_at), NOW + 10)
    assert memberships(effects(replica)) == [], "1 and 3 are no majority of 1, 2"

    replica.step(ack(2, replica, joint_at), NOW + 10)
    assert memberships(effects(replica)) == [
        membership(1, 2)._replace(next_id=ReplicaId(4)),
    ]


def test_elections_during_a_joint_change_need_both_majorities() -> None:
    """Section 6: "agreement (for elections and entry commitment) requires separate majorities"."""
    joint = membership(1, 4, 5, outgoing=(1, 2, 3))
    replica = core(1, "1", voters=joint)
    campaign(replica)
    assert replica.role is Role.CANDIDATE

    for voter in (N4, N5):
        replica.step(VoteReply(voter, N1, T2, True), NOW)
    assert replica.role is Role.CANDIDATE

    replica.step(VoteReply(N3, N1, T2, True), NOW)
    assert replica.role is Role.LEADER


def test_a_candidate_of_six_joint_voters_asks_each_once() -> None:
    """openraft#1796 was found with six voters in a joint change."""
    replica = core(1, "1", voters=membership(1, 4, 5, 6, outgoing=(1, 2, 3)))
    replica.timeout(replica.deadline)

    assert [m.target for m in said(replica)] == [2, 3, 4, 5, 6]


# In force from the append, undone by truncation


def test_a_membership_is_in_force_from_the_moment_it_is_appended() -> None:
    """Section 6: "a server always uses the latest configuration in its log, regardless of
    whether the entry is committed"."""
    replica = core(4, voters=Membership())
    assert replica.deadline == float("inf")
    grown = membership(1, 2, 3, 4)

    replica.step(AppendEntries(N1, N4, T1, id_of(0, 0), (change(1, 1, grown),)), NOW)

    assert (replica.membership, replica.commit) == (grown, 0)
    assert replica.deadline < float("inf")


def test_a_truncated_membership_is_undone() -> None:
    """Section 6, and G2 of the fault matrix: the membership before is in force again."""
    replica = core(2, "1", voters=membership(1, 2, 3))
    grown = membership(1, 2, 3, 4)
    replica.step(AppendEntries(N1, N2, T1, id_of(1, 1), (change(2, 1, grown),)), NOW)
    assert replica.membership == grown

    replica.step(AppendEntries(N3, N2, T2, id_of(1, 1), (empty(2, 2),)), NOW)

    assert replica.membership == membership(1, 2, 3)


def test_a_deposed_leader_forgets_the_learner_it_had_added() -> None:
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(add=ADD_4)
    effects(replica)

    replica.step(AppendEntries(N2, N1, T2, id_of(1, 1), (empty(2, 2),)), NOW + 10)

    assert (replica.membership, replica.progress) == (membership(1, 2, 3), {})


# A successor carries on


@pytest.mark.parametrize(
    ("at", "then"),
    [
        pytest.param(
            membership(1, 2, 3, 4, outgoing=(1, 2, 3)), membership(1, 2, 3, 4), id="leaves joint"
        ),
        pytest.param(
            membership(1, 2, 3, learners=(4,), promote=(4,)),
            membership(1, 2, 3, 4, outgoing=(1, 2, 3)),
            id="promotes",
        ),
    ],
)
def test_a_new_leader_carries_a_change_on(at: Membership, then: Membership) -> None:
    """The wish travels in the log: it needs nobody to ask again. And only after an entry of the
    new leader's own term is committed."""
    replica = core(2, "1", voters=membership(1, 2, 3))
    replica.step(AppendEntries(N1, N2, T1, id_of(1, 1), (change(2, 1, at),), Index(2)), NOW)
    effects(replica)
    assert replica.commit == 2

    elect(replica)
    assert replica.membership == at
    done = settle(replica)

    assert memberships(done)[:1] == [then]


# One at a time, after a commit in one's own term


def test_a_second_change_waits_for_the_first() -> None:
    """Invariant R11, safeguard E01."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(add=ADD_4, promote=False)
    effects(replica)

    with pytest.raises(MembershipRefused, match="not committed yet"):
        replica.change_members(remove=[N3])

    everybody_acknowledges(replica)
    replica.change_members(remove=[N3])


def test_only_the_leader_changes_members() -> None:
    with pytest.raises(NotLeader):
        core(1).change_members(add=ADD_4)


def test_no_change_while_the_leadership_is_handed_over() -> None:
    replica = leader(1)
    replica.transfer(N2)

    with pytest.raises(MembershipRefused, match="handed over"):
        replica.change_members(add=ADD_4)


ONGARO_CASES = [
    pytest.param("add", "remove", id="one added, one removed"),
    pytest.param("add", "add", id="two added"),
    pytest.param("remove", "remove", id="two removed"),
]


def ask(replica: Raft, kind: str, who: int) -> EntryId:
    if kind == "add":
        return replica.change_members(add=[(NodeId(f"n{who}"), f"n{who}:1")], promote=False)
    return replica.change_members(remove=[ReplicaId(who)])


@pytest.mark.parametrize(("first", "second"), ONGARO_CASES)
def test_ongaro_2015(first: str, second: str) -> None:
    """The three cases of the 2015 bug. S1 appends a change, reaches nobody and is cut off. S2
    leads the next term from the log before it. Without the rule it would start a change of its
    own at once, commit it with a majority that S1's majority need not meet, and S1 could then
    commit its own: two disjoint majorities. The rule: no change before an entry of one's own
    term is committed, which makes S1's uncommitted entry impossible to commit first."""
    four = membership(1, 2, 3, 4)
    s1 = leader(1, "1", voters=four)
    ask(s1, first, 4 if first == "remove" else 5)
    effects(s1)
    lonely = s1.log.last
    assert s1.commit < lonely.index

    s2 = core(2, "1", voters=four, term=2)
    elect(s2)
    assert s2.term == 3
    with pytest.raises(MembershipRefused, match="no entry of this leader's term"):
        ask(s2, second, 3 if second == "remove" else 6)

    everybody_acknowledges(s2, 1)
    ask(s2, second, 3 if second == "remove" else 6)
    effects(s2)

    # Whoever acknowledged S2's own entry refuses S1, so S1 wins no election and commits nothing.
    s3 = core(3, "1", voters=four, term=3)
    s3.step(AppendEntries(N2, N3, Term(3), id_of(1, 1), (empty(2, 3),)), NOW)
    effects(s3)
    s3.step(RequestVote(N1, N3, Term(4), lonely, transfer=True), NOW + 5)
    assert said(s3) == [VoteReply(N3, N1, Term(4), False)]


def test_a_snapshot_replaces_an_uncommitted_membership() -> None:
    """openraft#1808: keeping it gives disjoint quorums and lost commits (G7)."""
    replica = core(3, "1", voters=membership(1, 2, 3))
    uncommitted = membership(3, outgoing=(1, 2, 3))
    replica.step(AppendEntries(N1, N3, T1, id_of(1, 1), (change(2, 1, uncommitted),)), NOW)
    assert replica.membership == uncommitted

    meta = SnapshotMeta(id_of(9, 2), membership(1, 2, 3, 4))
    replica.step(InstallSnapshot(N2, N3, T2, meta), NOW)

    assert replica.membership == membership(1, 2, 3, 4)


# Removal


def test_a_removed_leader_leads_until_its_removal_is_committed_then_hands_over() -> None:
    """Dissertation, section 4.2.2: it does not count itself, and steps down after the commit."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(remove=[N1])
    everybody_acknowledges(replica)
    assert replica.membership == membership(2, 3)._replace(next_id=ReplicaId(4))
    removal = replica.log.last.index
    assert (replica.role, replica.commit) == (Role.LEADER, removal - 1)

    replica.step(ack(2, replica, removal), NOW + 10)
    assert replica.role is Role.LEADER, "2 alone is no majority of 2 and 3"

    replica.step(ack(3, replica, removal), NOW + 10)
    assert (replica.role, replica.commit, replica.deadline) == (
        Role.FOLLOWER, removal, float("inf"),
    )  # fmt: skip
    assert TimeoutNow(N1, N2, T1) in said(replica), "the others need not wait for a timeout"


def test_a_group_shrinks_to_one_voter_that_is_not_its_leader() -> None:
    replica = leader(1, voters=membership(1, 2))
    replica.change_members(remove=[N1])
    everybody_acknowledges(replica)
    everybody_acknowledges(replica)

    assert (replica.role, replica.membership.voters[0].id) == (Role.FOLLOWER, 2)


def test_whoever_may_not_be_removed_yet_still_campaigns() -> None:
    """Dissertation, section 4.2.2: a leader that died with the only copy of its own removal may
    be the only one that every electorate still accepts. Found by seed 1432 of the random
    schedules: nobody else could win, and it did not try."""
    joint = membership(2, 3, outgoing=(1, 2))
    replica = core(1, "1", voters=joint)
    replica.step(
        AppendEntries(N2, N1, T1, id_of(1, 1), (change(2, 1, membership(2, 3)),)), NOW
    )  # fmt: skip
    effects(replica)
    assert replica.deadline < float("inf")

    campaign(replica)
    assert replica.role is Role.CANDIDATE
    replica.step(VoteReply(N2, N1, T2, True), NOW)
    assert replica.role is Role.CANDIDATE, "its own vote does not count any more"
    replica.step(VoteReply(N3, N1, T2, True), NOW)
    assert replica.role is Role.LEADER

    for follower in (2, 3):
        replica.step(ack(follower, replica, 3), NOW)
    assert (replica.role, replica.commit) == (Role.FOLLOWER, 3)


def test_a_removed_replica_whose_removal_is_committed_is_quiet() -> None:
    replica = core(1, "1", voters=membership(1, 2, 3))
    removal = (change(2, 1, membership(2, 3)),)
    replica.step(AppendEntries(N2, N1, T1, id_of(1, 1), removal, Index(2)), NOW)

    assert (replica.removed, replica.deadline) == (True, float("inf"))
    replica.timeout(NOW + 100)
    assert replica.role is Role.FOLLOWER
    assert not core(4, voters=Membership()).removed, "a blank replica is still to be added"


def test_a_newcomer_that_reads_of_the_members_before_it_was_not_removed() -> None:
    """Its log tells of those who belonged before it was added, committed long ago; nobody had been
    given its id by then. Its node deletes a replica that was removed, data and all."""
    newcomer = core(4, voters=Membership())

    newcomer.step(
        AppendEntries(N1, N4, T1, id_of(0, 0), (change(1, 1, membership(1, 2, 3)),), Index(1)), NOW
    )
    assert (newcomer.commit, newcomer.removed) == (1, False)

    added = change(2, 1, membership(1, 2, 3, learners=(4,), promote=(4,)))
    newcomer.step(AppendEntries(N1, N4, T1, id_of(1, 1), (added,), Index(2)), NOW)
    assert not newcomer.removed

    struck = membership(1, 2, 3)._replace(next_id=N5)
    newcomer.step(AppendEntries(N1, N4, T1, id_of(2, 1), (change(3, 1, struck),), Index(3)), NOW)
    assert newcomer.removed


def test_a_newcomer_filled_by_a_snapshot_from_before_it_was_not_removed() -> None:
    """The leader may have taken it before the entry that adds the newcomer was applied."""
    newcomer = core(4, voters=Membership())
    before = SnapshotMeta(id_of(7, 1), membership(1, 2, 3))

    newcomer.step(InstallSnapshot(N1, N4, T1, before), NOW)
    effects(newcomer)

    assert (newcomer.commit, newcomer.removed) == (7, False)


def test_a_removed_follower_is_told_and_then_left_alone() -> None:
    """It hears of the commit of its removal, so that it need not campaign to find out."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(remove=[N3])
    everybody_acknowledges(replica)
    removal = replica.log.last.index
    replica.step(ack(2, replica, removal), NOW + 10)
    assert replica.commit == removal
    assert N3 in replica.progress and N3 not in [m.id for m in replica.membership.voters]
    effects(replica)

    told = []
    for _ in range(3):
        replica.timeout(replica.deadline)
        for message in said(replica):
            if isinstance(message, Heartbeat) and message.target == N3:
                told.append(message.commit)
                replica.step(ack(3, replica, removal), NOW + 10)
                for _ in ("an answer", "and once more"):
                    replica.step(beat_reply(3, replica, message.token, removal), NOW + 10)

    assert told == [removal - 1, removal]
    assert list(replica.progress) == [N2]


def test_a_removed_follower_that_is_dead_is_not_waited_for() -> None:
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(remove=[N3])
    everybody_acknowledges(replica, 3)
    everybody_acknowledges(replica, 3)
    assert N3 in replica.progress

    now = NOW + 10
    while now < NOW + 25:
        now = replica.deadline
        replica.timeout(now)
        for message in said(replica, now):
            if isinstance(message, Heartbeat) and message.target == N2:
                replica.step(beat_reply(2, replica, message.token, 4), now)

    assert (replica.role, list(replica.progress)) == (Role.LEADER, [N2])


def test_a_transfer_ends_where_its_target_leaves_by_a_change_that_was_under_way() -> None:
    begun = membership(1, 2, 3, learners=(4,), promote=(4,), leaving=(2,))
    replica = leader(1, voters=begun, settled=False)
    everybody_acknowledges(replica, 2, 4)
    replica.transfer(N2)
    assert replica.propose(b"x") is None

    for _ in range(3):
        everybody_acknowledges(replica, 2)

    assert [member.id for member in replica.membership.voters] == [N1, N3, N4]
    assert replica.propose(b"x") is not None


def test_removing_the_target_of_a_transfer_is_refused_until_it_ends() -> None:
    replica = leader(1)
    replica.transfer(N3)
    replica.timeout(NOW + 10.9)
    for follower in (2, 3):
        replica.step(beat_reply(follower, replica, 1, 1), NOW + 10.9)
    replica.timeout(NOW + 11.2)

    replica.change_members(remove=[N3])

    assert N3 in [m.id for m in replica.membership.outgoing]


def test_a_follower_applies_memberships_like_any_entry() -> None:
    """The driver stores them; the core has followed them since they were appended."""
    replica = core(2, "1", voters=membership(1, 2, 3))
    grown = change(2, 1, membership(1, 2, 3, 4))

    replica.step(
        AppendEntries(N1, N2, T1, id_of(1, 1), (grown, entry(3, 1)), Index(3)), NOW
    )  # fmt: skip

    assert effects(replica).committed == (entry(1, 1), grown, entry(3, 1))
