"""PreVote, CheckQuorum and the refusal of votes: one test for each claim.

Reference: dissertation, sections 4.2.3 (disruptive servers), 6.2 (a leader steps down) and 9.6
(PreVote); etcd-io/raft for how the three work together.
"""

import pytest

from raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from raft.ready import Ready
from raft.types import NOBODY, HardState, Index, ReplicaId, Role, Term
from tests.support.builders import (
    LAB,
    N1,
    N2,
    N3,
    N4,
    NOW,
    PRODUCTION,
    ack,
    beat_reply,
    campaign,
    core,
    effects,
    id_of,
    leader,
    membership,
    said,
)

T1, T2, T3 = Term(1), Term(2), Term(3)
E_MIN, E_MAX = PRODUCTION.election_seconds_min, PRODUCTION.election_seconds_max


def pre_vote(source: int, term: int, index: int, last_term: int) -> RequestVote:
    return RequestVote(ReplicaId(source), N1, Term(term), id_of(index, last_term), pre=True)


# PreVote


def test_a_pre_vote_changes_nothing_durable_anywhere() -> None:
    """Section 9.6: the term is not increased before a majority would vote."""
    replica = core(1, "1 1")
    replica.timeout(replica.deadline)

    assert effects(replica) == Ready(
        messages=(
            RequestVote(N1, N2, T2, id_of(2, 1), pre=True),
            RequestVote(N1, N3, T2, id_of(2, 1), pre=True),
        )
    )
    assert (replica.role, replica.term, replica.vote) == (Role.PRE_CANDIDATE, 1, NOBODY)


def test_a_voter_gives_a_pre_vote_without_giving_its_vote() -> None:
    replica = core(1, "1", term=3, vote=2)
    before = replica.deadline

    replica.step(pre_vote(2, 4, 1, 1), NOW)
    replica.step(pre_vote(3, 4, 1, 1), NOW)

    assert effects(replica) == Ready(
        messages=(
            VoteReply(N1, N2, Term(4), True, pre=True),
            VoteReply(N1, N3, Term(4), True, pre=True),
        )
    )
    assert (replica.term, replica.vote, replica.deadline) == (3, 2, before)


def test_a_majority_of_pre_votes_starts_the_campaign() -> None:
    replica = core(1, "1")
    replica.timeout(replica.deadline)
    effects(replica)

    replica.step(VoteReply(N2, N1, T2, True, pre=True), NOW)

    assert replica.role is Role.CANDIDATE
    assert effects(replica).hard_state == HardState(T2, N1)


def test_a_pre_candidate_that_cannot_win_keeps_its_term() -> None:
    """Section 9.6: a server that was partitioned away does not disturb when it comes back."""
    replica = core(1, "1")
    for _ in range(5):
        replica.timeout(replica.deadline)
        effects(replica)
        for voter in (N2, N3):
            replica.step(VoteReply(voter, N1, T1, False, pre=True), NOW)
        assert replica.role is Role.FOLLOWER

    assert replica.term == 1


def test_pre_votes_count_only_for_the_term_they_were_asked_for() -> None:
    """A late grant of an earlier round, and a real vote, are not pre-votes of this round."""
    replica = core(1, "1", term=2)
    replica.timeout(replica.deadline)
    effects(replica)

    replica.step(VoteReply(N2, N1, T2, True, pre=True), NOW)
    replica.step(VoteReply(N2, N1, T2, True), NOW)

    assert replica.role is Role.PRE_CANDIDATE


def test_a_pre_vote_is_refused_to_a_stale_log() -> None:
    replica = core(1, "1 2")

    replica.step(pre_vote(2, 9, 5, 1), NOW)

    assert said(replica) == [VoteReply(N1, N2, T2, False, pre=True)]


def test_a_pre_vote_of_a_lower_term_is_answered_with_ours() -> None:
    """openraft#1796: left unanswered, the higher term never spreads and nobody leads for ever."""
    replica = core(1, "1", term=5)

    replica.step(pre_vote(2, 2, 1, 1), NOW)

    assert said(replica) == [VoteReply(N1, N2, Term(5), False, pre=True)]


def test_a_refusal_with_a_higher_term_is_adopted() -> None:
    """The other half of openraft#1796."""
    replica = core(1, "1")
    replica.timeout(replica.deadline)
    effects(replica)

    replica.step(VoteReply(N2, N1, Term(5), False, pre=True), NOW)

    assert (replica.role, replica.term) == (Role.FOLLOWER, 5)


def test_a_pre_candidate_knows_no_leader_so_it_votes_for_others() -> None:
    """openraft#1796: two pre-candidates would refuse each other for ever."""
    replica = core(1, "1")
    replica.step(Heartbeat(N3, N1, T1), NOW)
    assert replica.leader == N3
    replica.timeout(replica.deadline)
    effects(replica)

    replica.step(pre_vote(2, 2, 1, 1), NOW + 0.1)

    assert replica.leader == NOBODY
    assert said(replica) == [VoteReply(N1, N2, T2, True, pre=True)]


# Votes refused while a leader is heard


@pytest.mark.parametrize("pre", [True, False], ids=["pre-vote", "vote"])
def test_no_vote_while_a_leader_is_heard(pre: bool) -> None:
    """Section 4.2.3: "it does not update its term or grant its vote"."""
    replica = core(1, "1")
    replica.step(Heartbeat(N2, N1, T1), NOW)
    effects(replica)

    request = RequestVote(N3, N1, Term(7), id_of(9, 6), pre)
    replica.step(request, NOW + E_MIN - 0.01)

    refusal = [VoteReply(N1, N3, T1, False, pre=True)] if pre else []
    assert said(replica) == refusal
    assert (replica.term, replica.leader) == (1, N2)

    replica.step(request, NOW + E_MIN)
    (reply,) = said(replica)
    assert reply == VoteReply(N1, N3, Term(7), True, pre)


def test_a_leader_refuses_votes_as_long_as_it_leads() -> None:
    """CheckQuorum ends a leadership that is none; until then a candidate only disturbs."""
    replica = leader(1)

    replica.step(RequestVote(N3, N1, Term(7), id_of(9, 6)), NOW + 10)

    assert (replica.role, replica.term, said(replica)) == (Role.LEADER, 1, [])


def test_the_leaders_own_order_to_campaign_passes_the_refusal() -> None:
    """Section 4.2.3: the candidate says that it has permission, from a leadership transfer."""
    replica = core(1, "1")
    replica.step(Heartbeat(N2, N1, T1), NOW)
    effects(replica)

    replica.step(RequestVote(N3, N1, T2, id_of(1, 1), transfer=True), NOW + 0.01)

    assert said(replica) == [VoteReply(N1, N3, T2, True)]


def test_who_follows_a_terms_leader_has_no_vote_left_in_that_term() -> None:
    """It may never have been asked for its own; a majority has given its votes to that leader."""
    replica = core(1, "1", config=LAB)
    replica.step(AppendEntries(N2, N1, T2, id_of(1, 1), (), Index(0)), NOW)
    effects(replica)
    before = replica.deadline

    replica.step(RequestVote(N3, N1, T2, id_of(9, 1)), NOW + 0.1)
    assert said(replica) == [VoteReply(N1, N3, T2, False)]
    assert (replica.vote, replica.deadline) == (NOBODY, before)
    replica.step(RequestVote(N3, N1, T3, id_of(9, 1)), NOW + 0.1)
    assert said(replica) == [VoteReply(N1, N3, T3, True)]


@pytest.mark.parametrize(("first", "role"), [(False, Role.CANDIDATE), (True, Role.LEADER)])
def test_a_voters_first_answer_counts_and_what_follows_changes_nothing(
    first: bool, role: Role
) -> None:
    replica = core(1, "1", voters=membership(1, 2, 3, 4, 5))
    campaign(replica)
    for answer in (first, not first):
        replica.step(VoteReply(N2, N1, T2, answer), NOW)
    replica.step(VoteReply(N3, N1, T2, True), NOW)

    assert replica.role is role


def test_lab_mode_has_none_of_this() -> None:
    """Plain Raft: a heard leader does not keep a voter from a higher term."""
    replica = core(1, "1", config=LAB)
    replica.step(Heartbeat(N2, N1, T1), NOW)
    effects(replica)

    replica.step(RequestVote(N3, N1, T2, id_of(1, 1)), NOW + 0.01)

    assert said(replica) == [VoteReply(N1, N3, T2, True)]


def test_a_follower_stuck_in_a_higher_term_makes_its_leader_step_down() -> None:
    """etcd#8501: its leader refuses its votes and it refuses its leader's appends; the answer
    with the higher term is the way out."""
    replica = core(3, "1", term=6)

    replica.step(Heartbeat(N1, N3, T1), NOW)
    (answer,) = said(replica)
    assert answer == AppendReply(N3, N1, Term(6))

    old = leader(1)
    old.step(answer, NOW + 10)
    assert (old.role, old.term) == (Role.FOLLOWER, 6)


def test_five_nodes_with_one_well_connected_elect_it() -> None:
    """Howard and Abraham 2020: with 4-2 and 5-3 as the only links to 4 and 5, PreVote keeps
    those two from deposing a leader that the majority 1-2-3 hears."""
    follower = core(2, "1", voters=membership(1, 2, 3, 4, 5))
    follower.step(Heartbeat(N1, N2, T1), NOW)
    effects(follower)

    follower.step(RequestVote(N4, N2, T2, id_of(1, 1), pre=True), NOW + 0.1)

    assert said(follower) == [VoteReply(N2, N4, T1, False, pre=True)]
    assert (follower.term, follower.leader) == (1, N1)


# CheckQuorum


def run_leader(replica_now: float, until: float, answers: bool) -> tuple[Role, float]:
    """Let a leader's time pass, one of its two followers answering or not."""
    replica = leader(1, now=replica_now)
    while replica.role is Role.LEADER and replica.deadline <= until:
        now = replica.deadline
        replica.timeout(now)
        for message in said(replica, now):
            if answers and isinstance(message, Heartbeat) and message.target == N2:
                replica.step(beat_reply(2, replica, message.token, 1), now)
    return replica.role, now


def test_a_leader_without_a_quorum_steps_down_within_e() -> None:
    """Section 6.2: "if an election timeout elapses without a successful round of heartbeats"."""
    role, at = run_leader(NOW, NOW + 5, answers=False)

    assert role is Role.FOLLOWER
    assert at - NOW <= E_MAX + 2 * PRODUCTION.heartbeat_seconds


def test_a_leader_that_a_majority_answers_leads_on() -> None:
    role, _ = run_leader(NOW, NOW + 5, answers=True)

    assert role is Role.LEADER


def test_a_paused_leader_steps_down_by_the_clock_and_not_by_ticks() -> None:
    """etcd#20418: ticks stand still while a process is stopped."""
    replica = leader(1)

    replica.timeout(NOW + 30)

    assert replica.role is Role.FOLLOWER


def test_learners_do_not_keep_a_leader_in_office() -> None:
    replica = leader(1, voters=membership(1, 2, 3, learners=(4, 5)))
    for now in (NOW + 10.5, NOW + 11, NOW + 11.5):
        replica.timeout(now)
        for learner in (4, 5):
            replica.step(beat_reply(learner, replica, 1, 1), now)

    assert replica.role is Role.FOLLOWER


def test_a_lab_leader_stays_without_a_quorum() -> None:
    """The labs' partition tests need an isolated leader that keeps its callers waiting."""
    replica = leader(1, config=LAB)

    for step in range(100):
        replica.timeout(NOW + 10 + step)

    assert replica.role is Role.LEADER


def test_a_leader_whose_own_disk_hangs_hands_over() -> None:
    """Gray failure: the followers' majority is ahead of the leader's disk. After 2 E it orders a
    campaign; after 3 E, since the order was lost, it steps down whoever comes after it."""
    replica = leader(1)
    replica.propose(b"2/1")
    assert replica.ready().entries, "saved, and never reported as durable"
    for follower in (2, 3):
        replica.step(ack(follower, replica, 2), NOW + 10)

    now = NOW + 10
    ordered_at = None
    while replica.role is Role.LEADER and now < NOW + 20:
        now = replica.deadline
        replica.timeout(now)
        orders = [said for said in replica.ready().messages if isinstance(said, TimeoutNow)]
        if orders and ordered_at is None:
            ordered_at = now
        for follower in (2, 3):
            if replica.role is Role.LEADER:
                token = replica.progress[N2].token + 1
                replica.step(beat_reply(follower, replica, token, 2), now)

    assert ordered_at is not None
    assert 2 * E_MAX < ordered_at - (NOW + 10) < 2 * E_MAX + 0.5
    assert replica.role is Role.FOLLOWER
    assert 3 * E_MAX < now - (NOW + 10) < 3 * E_MAX + 0.5


# Heartbeats


def test_heartbeats_of_all_groups_of_a_node_fall_on_one_grid() -> None:
    """So a node wakes once for all of them, and their messages share frames."""
    every = PRODUCTION.heartbeat_seconds
    for began in (NOW + 10.01, NOW + 10.07, NOW + 10.0999):
        replica = leader(1, now=began)
        beats = replica.deadline / every
        assert abs(beats - round(beats)) < 1e-6
        assert began < replica.deadline <= began + every + 1e-9


def test_a_heartbeat_commits_no_more_than_its_target_is_known_to_hold() -> None:
    """The target's log may differ beyond; the paper's clamp needs `prev`, a heartbeat has none."""
    replica = leader(1)
    replica.propose(b"2/1")
    effects(replica)
    replica.step(ack(2, replica, 2), NOW + 10)
    assert replica.commit == 2

    replica.timeout(replica.deadline)

    beats = {m.target: m.commit for m in said(replica) if isinstance(m, Heartbeat)}
    assert beats == {N2: 2, N3: 1}


def test_a_follower_commits_and_answers_by_heartbeat() -> None:
    replica = core(1, "1 1")

    replica.step(Heartbeat(N2, N1, T1, Index(2), 7), NOW)
    done = effects(replica)

    assert replica.commit == 2
    (reply,) = done.messages
    assert (reply.token, reply.last) == (7, 2)  # type: ignore[union-attr]


def test_a_follower_that_lost_entries_believes_no_commit_beyond_them() -> None:
    replica = core(1, "1 1")

    replica.step(Heartbeat(N2, N1, T1, Index(9)), NOW)

    assert replica.commit == 0


def test_a_replica_that_lost_what_it_acknowledged_is_not_counted_again() -> None:
    """A restarted replica tells its last index; a leader that had a higher one
    acknowledged by it in this term stops counting it."""
    replica = leader(1)
    for n in (2, 3):
        replica.propose(b"%d/1" % n)
    effects(replica)
    replica.step(ack(2, replica, 3), NOW + 10)
    replica.step(beat_reply(2, replica, 0, 3), NOW + 10)
    replica.timeout(replica.deadline)
    effects(replica)

    replica.step(beat_reply(2, replica, 1, 1), NOW + 11)
    assert replica.lost_replicas == (N2,)

    assert replica.propose(b"4/1") == id_of(4, 1)
    effects(replica)
    replica.step(ack(2, replica, 4), NOW + 11)
    assert replica.commit == 3, "its word does not count in this term any more"
    replica.step(ack(3, replica, 4), NOW + 11)
    assert replica.commit == 4


def test_a_late_heartbeat_answer_is_no_proof_of_loss() -> None:
    """An answer that left before the acknowledgement tells of less, and lost nothing."""
    replica = leader(1)
    replica.timeout(replica.deadline)
    effects(replica)
    replica.propose(b"2/1")
    effects(replica)
    replica.step(ack(2, replica, 2), NOW + 11)

    replica.step(beat_reply(2, replica, 1, 1), NOW + 11)

    assert replica.lost_replicas == ()


# Who campaigns


def test_a_learner_never_campaigns_but_votes() -> None:
    """It may have been promoted already in the candidate's view (etcd#12359)."""
    replica = core(4, "1", voters=membership(1, 2, 3, learners=(4,)))
    assert replica.deadline == float("inf")

    replica.timeout(NOW + 100)
    replica.step(RequestVote(N1, N4, T2, id_of(1, 1)), NOW)

    assert said(replica) == [VoteReply(N4, N1, T2, True)]


def test_the_only_voter_campaigns_at_once() -> None:
    """It waits for nobody: a group is born with one voter."""
    assert core(1, voters=membership(1)).deadline == NOW


def test_a_stale_campaign_ends_with_a_leaders_append() -> None:
    replica = core(1, "1")
    campaign(replica)
    assert replica.role is Role.CANDIDATE

    replica.step(AppendEntries(N2, N1, T2, id_of(1, 1)), NOW + 10)
    replica.step(VoteReply(N3, N1, T2, True), NOW + 10)

    assert (replica.role, replica.leader) == (Role.FOLLOWER, N2)
