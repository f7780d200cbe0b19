"""One test for each claim of the Raft paper that the core carries: terms, elections, the log.

Reference: Raft (extended version), sections 5.1 to 5.4 and figure 2; the dissertation where named.
Its siblings: `test_paper_elections.py` (PreVote, CheckQuorum), `test_paper_members.py`,
`test_paper_reads.py`, `test_paper_snapshots.py`, `test_paper_transfer.py`.
"""

from dataclasses import replace

import pytest

from raft.core import TERM_JUMP_MAX, Raft
from raft.messages import (
    AnyMessage,
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    VoteReply,
)
from raft.ready import Ready
from raft.types import NOBODY, EntryId, HardState, Index, ReplicaId, Role, Term
from tests.support.builders import (
    LAB,
    N1,
    N2,
    N3,
    N4,
    N5,
    NOW,
    PRODUCTION,
    ack,
    beat_reply,
    campaign,
    core,
    effects,
    elect,
    empty,
    entries,
    entry,
    id_of,
    leader,
    membership,
    said,
    settle,
)

FIVE = membership(1, 2, 3, 4, 5)
T1, T2, T3, T9 = Term(1), Term(2), Term(3), Term(9)


def vote_request(source: int, term: int, last: EntryId, target: int = 1) -> RequestVote:
    return RequestVote(ReplicaId(source), ReplicaId(target), Term(term), last)


# Section 5.1: terms


@pytest.mark.parametrize(
    "message",
    [
        vote_request(2, 5, id_of(9, 1)),
        VoteReply(N2, N1, Term(5), False),
        AppendEntries(N2, N1, Term(5), id_of(0, 0)),
        AppendReply(N2, N1, Term(5)),
        Heartbeat(N2, N1, Term(5)),
        HeartbeatReply(N2, N1, Term(5)),
    ],
    ids=lambda message: type(message).__name__,
)
@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER], ids=str)
def test_a_higher_term_in_any_message_makes_a_follower(role: Role, message: AnyMessage) -> None:
    """Section 5.1: "if a candidate or leader discovers that its term is out of date, it
    immediately reverts to follower state". In replies too (safeguard A16)."""
    replica = core(1, "1", config=LAB)
    if role is not Role.FOLLOWER:
        campaign(replica)
    if role is Role.LEADER:
        replica = leader(1, "1", config=LAB)
    assert replica.role is role

    replica.step(message, NOW + 11)

    assert (replica.role, replica.term) == (Role.FOLLOWER, 5)
    done = effects(replica)
    assert done.hard_state is not None and done.hard_state.term == 5, "durable (safeguard A17)"


def test_a_stale_leader_is_told_the_term_and_changes_nothing() -> None:
    """Section 5.1: "if a server receives a request with a stale term number, it rejects it"."""
    replica = core(1, "1 2", term=3)

    replica.step(AppendEntries(N2, N1, T2, id_of(1, 1), (entry(2, 1),)), NOW)

    assert effects(replica) == Ready(messages=(AppendReply(N1, N2, T3),))
    assert (replica.log.last, replica.leader) == (id_of(2, 2), NOBODY)


def test_a_term_that_no_cluster_reaches_is_dropped_and_counted() -> None:
    replica = core(1, "1")

    replica.step(vote_request(2, TERM_JUMP_MAX + 2, id_of(1, 1)), NOW)
    replica.step(AppendReply(N2, N1, Term(TERM_JUMP_MAX + 2)), NOW)

    assert replica.dropped["implausible term"] == 2
    assert (replica.term, effects(replica)) == (1, Ready())


def test_a_message_for_another_replica_changes_nothing() -> None:
    replica = core(1, "1")

    replica.step(vote_request(2, 9, id_of(9, 9), target=3), NOW)

    assert (effects(replica), replica.dropped["for another replica"]) == (Ready(), 1)


# Section 5.2: leader election


def test_servers_start_as_followers() -> None:
    """Section 5.2."""
    replica = core(1)

    assert (replica.role, replica.leader, effects(replica)) == (Role.FOLLOWER, NOBODY, Ready())


def test_election_timeouts_are_drawn_from_the_interval_and_differ() -> None:
    """Section 5.2: "chosen randomly from a fixed interval"; so split votes are rare."""
    waits = {core(1, seed=seed).deadline - NOW for seed in range(50)}

    assert len(waits) == 50
    low, high = PRODUCTION.election_seconds_min, PRODUCTION.election_seconds_max
    assert all(low <= wait < high for wait in waits)
    assert max(waits) - min(waits) > 0.8 * (high - low)


def test_a_follower_that_hears_nobody_campaigns_in_a_new_term() -> None:
    """Section 5.2: it increments its term, votes for itself and asks all others."""
    replica = core(2, "1 1", config=LAB)

    replica.timeout(replica.deadline)
    done = effects(replica)

    assert replica.role is Role.CANDIDATE
    assert done.hard_state == HardState(T2, N2)
    assert done.messages == (
        RequestVote(N2, N1, T2, id_of(2, 1)),
        RequestVote(N2, N3, T2, id_of(2, 1)),
    )


def test_requests_and_the_own_vote_leave_only_with_the_durable_vote() -> None:
    """Invariant R9, safeguard A01: they are `messages` of the Ready that saves term and vote,
    and the candidate's own vote is one of them."""
    replica = core(1, config=LAB)

    replica.timeout(replica.deadline)
    ready = replica.ready()

    assert ready.hard_state == HardState(T1, N1) and ready.early == ()
    assert VoteReply(N1, N1, T1, True) in ready.messages
    replica.step(VoteReply(N2, N1, T1, True), NOW)
    assert replica.role is Role.CANDIDATE, "its own vote is not on the disk yet"
    replica.step(VoteReply(N1, N1, T1, True), NOW)
    assert replica.role is Role.LEADER


def test_a_group_of_one_leads_only_once_its_vote_is_durable() -> None:
    replica = core(1, voters=membership(1))

    replica.timeout(NOW)
    ready = replica.ready()
    assert (replica.role, ready.hard_state) == (Role.CANDIDATE, HardState(T1, N1))

    for message in ready.messages:
        replica.step(message, NOW)
    assert replica.role is Role.LEADER


def test_follower_votes_for_one_candidate_a_term() -> None:
    """Section 5.2: "at most one candidate in a given term, first-come-first-served" (A03)."""
    replica = core(1)

    replica.step(vote_request(2, 1, id_of(0, 0)), NOW)
    replica.step(vote_request(3, 1, id_of(5, 1)), NOW)
    replica.step(vote_request(2, 1, id_of(0, 0)), NOW)

    assert effects(replica) == Ready(
        hard_state=HardState(T1, N2),
        messages=(
            VoteReply(N1, N2, T1, True),
            VoteReply(N1, N3, T1, False),
            VoteReply(N1, N2, T1, True),
        ),
    )


def test_a_restarted_voter_remembers_its_vote() -> None:
    """Figure 2: currentTerm and votedFor are persistent."""
    replica = core(1, term=4, vote=3)

    replica.step(vote_request(2, 4, id_of(9, 3)), NOW)

    assert effects(replica).messages == (VoteReply(N1, N2, Term(4), False),)


@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        pytest.param(3, {2: True}, Role.LEADER, id="two of three win"),
        pytest.param(3, {}, Role.CANDIDATE, id="one of three waits"),
        pytest.param(4, {2: True}, Role.CANDIDATE, id="half of four is no majority"),
        pytest.param(4, {2: True, 3: True}, Role.LEADER, id="three of four win"),
        pytest.param(5, {2: True, 3: True}, Role.LEADER, id="three of five win"),
        pytest.param(5, {2: True, 3: False}, Role.CANDIDATE, id="two of five wait"),
        pytest.param(3, {2: False, 3: False}, Role.FOLLOWER, id="two refusals of three lose"),
        pytest.param(5, {2: False, 3: False, 4: False}, Role.FOLLOWER, id="three of five lose"),
    ],
)
def test_a_majority_of_votes_wins(size: int, votes: dict[int, bool], role: Role) -> None:
    """Section 5.2."""
    replica = core(1, voters=membership(*range(1, size + 1)), config=LAB)
    campaign(replica)

    for voter, granted in votes.items():
        replica.step(VoteReply(ReplicaId(voter), N1, T1, granted), NOW)

    assert replica.role is role


def test_a_voter_is_counted_once_however_often_it_answers() -> None:
    """Safeguard A09: the network repeats messages."""
    replica = core(1, voters=FIVE, config=LAB)
    campaign(replica)

    for _ in range(5):
        replica.step(VoteReply(N2, N1, T1, True), NOW)

    assert replica.role is Role.CANDIDATE


def test_votes_of_an_earlier_term_do_not_count() -> None:
    replica = core(1, config=LAB)
    campaign(replica)
    campaign(replica, NOW + 20)
    assert replica.term == 2

    replica.step(VoteReply(N2, N1, T1, True), NOW + 20)

    assert replica.role is Role.CANDIDATE


def test_a_candidate_yields_to_the_leader_of_its_term() -> None:
    """Section 5.2: "recognizes the leader as legitimate and returns to follower state"."""
    replica = core(1, config=LAB)
    campaign(replica)

    replica.step(AppendEntries(N3, N1, T1, id_of(0, 0)), NOW)

    assert (replica.role, replica.leader, replica.term) == (Role.FOLLOWER, N3, 1)


def test_a_candidate_without_a_verdict_tries_again_in_a_new_term() -> None:
    """Section 5.2: split votes time out."""
    replica = core(1, config=LAB)
    campaign(replica)

    replica.timeout(replica.deadline)

    assert (replica.role, replica.term) == (Role.CANDIDATE, 2)


def test_a_new_leader_speaks_at_once_to_prevent_new_elections() -> None:
    """Section 5.2, and figure 2: an empty AppendEntries "upon election"."""
    replica = core(1, "1 1")

    done = elect(replica)

    first = empty(3, 2)
    assert done.entries == (first,)
    assert done.early == (
        AppendEntries(N1, N2, T2, id_of(2, 1), (first,), Index(0)),
        AppendEntries(N1, N3, T2, id_of(2, 1), (first,), Index(0)),
    )


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(AppendEntries(N2, N1, T1, id_of(0, 0)), id="an append of the leader"),
        pytest.param(Heartbeat(N2, N1, T1), id="a heartbeat of the leader"),
        pytest.param(vote_request(2, 2, id_of(9, 1)), id="a vote given"),
    ],
)
def test_what_restarts_the_election_timer(message: AnyMessage) -> None:
    """Figure 2, rules for servers: an AppendEntries from the current leader, or a vote given."""
    replica = core(1, "1")
    before = replica.deadline

    replica.step(message, before - 0.01)

    assert replica.deadline >= before - 0.01 + PRODUCTION.election_seconds_min


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(vote_request(2, 9, id_of(0, 0)), id="a vote refused: the log is stale"),
        pytest.param(AppendEntries(N2, N1, T1, id_of(0, 0)), id="an append of an old leader"),
        pytest.param(Heartbeat(N2, N1, T1), id="a heartbeat of an old leader"),
        pytest.param(VoteReply(N2, N1, T3, False), id="somebody's answer"),
    ],
)
def test_what_does_not_restart_the_election_timer(message: AnyMessage) -> None:
    """Safeguard A14: a replica that cannot win must not keep those who can from trying."""
    replica = core(1, "3 3")
    before = replica.deadline

    replica.step(message, before - 0.01)

    assert replica.deadline == before


# Section 5.4.1: election restriction


@pytest.mark.parametrize(
    ("voter_log", "candidate_last", "granted"),
    [
        pytest.param("1 1", id_of(2, 1), True, id="equal"),
        pytest.param("1 1", id_of(3, 1), True, id="same term, longer"),
        pytest.param("1 1", id_of(1, 1), False, id="same term, shorter"),
        pytest.param("1 1 1", id_of(1, 2), True, id="later term beats length"),
        pytest.param("1 2", id_of(9, 1), False, id="length does not beat a later term"),
        pytest.param("", id_of(0, 0), True, id="both empty"),
    ],
)
def test_a_vote_is_given_only_to_a_log_at_least_as_up_to_date(
    voter_log: str, candidate_last: EntryId, granted: bool
) -> None:
    """Section 5.4.1; safeguards A06 and A07."""
    replica = core(1, voter_log)

    replica.step(vote_request(2, 9, candidate_last), NOW)

    assert effects(replica).messages == (VoteReply(N1, N2, T9, granted),)
    assert replica.term == 9, "its term is taken either way"


# Section 5.3: log replication


def test_a_leader_appends_what_clients_propose_and_sends_it_in_one_message() -> None:
    """Section 5.3; everything since the last `ready` travels together."""
    replica = leader(1)

    ids = [replica.propose(b"2/1"), replica.propose(b"3/1")]
    done = effects(replica)

    assert ids == [id_of(2, 1), id_of(3, 1)]
    assert done.entries == entries("1 1", after=1)
    assert done.early == tuple(
        AppendEntries(N1, follower, T1, id_of(1, 1), entries("1 1", after=1), Index(1))
        for follower in (N2, N3)
    )


def test_only_a_leader_takes_proposals() -> None:
    replica = core(1)
    assert replica.propose(b"x") is None
    campaign(replica)
    assert replica.propose(b"x") is None


def test_a_leader_commits_what_a_majority_holds_and_tells_it_with_what_comes_next() -> None:
    """Section 5.3: "keeps track of the highest index it knows to be committed, and includes
    that index in future AppendEntries RPCs"; nothing is sent for its sake alone."""
    replica = leader(1)
    replica.propose(b"2/1")
    effects(replica)

    replica.step(ack(2, replica, 2), NOW + 10)
    done = effects(replica)
    assert (replica.commit, done.committed, done.early, done.messages) == (
        2, entries("1", after=1), (), (),
    )  # fmt: skip

    replica.propose(b"3/1")
    assert [m.commit for m in effects(replica).early] == [2, 2]


def test_a_leader_counts_itself_only_once_its_own_disk_has_the_entry() -> None:
    """Dissertation, section 10.2.1: it may even commit before, by the others; safeguard B03."""
    replica = leader(1)
    replica.propose(b"2/1")
    ready = replica.ready()
    assert ready.early, "the appends overlap the leader's own save"

    replica.step(ack(2, replica, 2), NOW + 10)
    assert replica.commit == 1, "one follower and an unfinished save are one of three"

    replica.persisted(*ready.entries[-1].id)
    assert replica.commit == 2


def test_followers_can_commit_without_their_leaders_disk() -> None:
    """Dissertation, section 10.2.1. The leader applies only what it has durable itself (H10)."""
    replica = leader(1)
    replica.propose(b"2/1")
    ready = replica.ready()
    for follower in (2, 3):
        replica.step(ack(follower, replica, 2), NOW + 10)

    assert replica.commit == 2
    assert replica.ready().committed == ()

    replica.persisted(*ready.entries[-1].id)
    assert replica.ready().committed == entries("1", after=1)


def test_a_persisted_report_of_replaced_entries_does_not_count() -> None:
    """Safeguard H09: the save of (2, term 1) ends after (2, term 2) took its place."""
    replica = core(1, "1")
    replica.step(AppendEntries(N2, N1, T1, id_of(1, 1), (entry(2, 1),)), NOW)
    assert replica.ready().entries == (entry(2, 1),)
    replica.step(AppendEntries(N3, N1, T2, id_of(1, 1), (entry(2, 2),), Index(2)), NOW)
    assert replica.ready().committed == (entry(1, 1),)

    replica.persisted(Index(2), T1)
    assert replica.ready().committed == ()

    replica.persisted(Index(2), T2)
    assert replica.ready().committed == (entry(2, 2),)


def test_entries_are_durable_before_they_are_acknowledged() -> None:
    """Invariant R9, safeguard B04: entries and acknowledgement are one Ready, saved first."""
    replica = core(1)

    replica.step(AppendEntries(N2, N1, T1, id_of(0, 0), entries("1 1")), NOW)
    ready = replica.ready()

    assert ready == Ready(
        hard_state=HardState(T1, NOBODY),
        entries=entries("1 1"),
        messages=(AppendReply(N1, N2, T1, Index(2)),),
    )


@pytest.mark.parametrize(
    ("prev", "rejected", "hint"),
    [
        pytest.param(id_of(5, 4), 5, id_of(3, 2), id="the log is too short"),
        pytest.param(id_of(3, 3), 3, id_of(3, 2), id="another term: the last not above it"),
        pytest.param(id_of(3, 1), 3, id_of(1, 1), id="another term: skips the whole term 2"),
    ],
)
def test_an_append_that_does_not_fit_is_refused_with_a_hint(
    prev: EntryId, rejected: int, hint: EntryId
) -> None:
    """Section 5.3: the consistency check, and the conflict's term for going back quickly."""
    replica = core(1, "1 2 2", term=5)

    replica.step(AppendEntries(N2, N1, Term(5), prev, (entry(prev.index + 1, 5),)), NOW)

    assert said(replica) == [AppendReply(N1, N2, Term(5), rejected=Index(rejected), hint=hint)]
    assert replica.log.last == id_of(3, 2)


@pytest.mark.parametrize(
    ("before", "prev", "new", "after"),
    [
        pytest.param("1 1", id_of(2, 1), "2", "1 1 2", id="what follows is appended"),
        pytest.param("1 1 1", id_of(1, 1), "2", "1 2", id="a conflict cuts what follows it"),
        pytest.param("1 1 1", id_of(0, 0), "2 2", "2 2", id="even the whole log"),
        pytest.param("1 1 1", id_of(0, 0), "1 1", "1 1 1", id="an old message cuts nothing"),
        pytest.param("1 1 1", id_of(1, 1), "1 1 1", "1 1 1 1", id="an overlap is no conflict"),
        pytest.param("1 1 1", id_of(3, 1), "", "1 1 1", id="a probe changes nothing"),
    ],
)
def test_a_followers_log_becomes_the_leaders(
    before: str, prev: EntryId, new: str, after: str
) -> None:
    """Section 5.3, figure 2 steps 3 and 4; safeguard B07 is the fourth row."""
    replica = core(1, before, term=3)
    sent = entries(new, after=prev.index) if new else ()

    replica.step(AppendEntries(N2, N1, T3, prev, sent), NOW)
    done = effects(replica)

    expected = entries(after)
    assert replica.log.slice(Index(1), Index(len(expected) + 1), 1 << 20) == expected
    assert done.messages == (AppendReply(N1, N2, T3, Index(prev.index + len(sent))),)
    if done.entries:
        assert done.entries[-1] == expected[-1], "saved from the cut on"


def test_a_followers_commit_is_clamped_to_what_the_message_proved() -> None:
    """Figure 2 step 5, and safeguard B06: the own tail may be another leader's."""
    replica = core(1, "1 1 1", term=2)

    replica.step(AppendEntries(N2, N1, T2, id_of(1, 1), (), Index(3)), NOW)

    assert (replica.commit, effects(replica).committed) == (1, entries("1"))


def test_a_committed_entry_is_never_touched_by_a_late_message() -> None:
    """Leader Completeness lets a follower skip what it has committed; the place may be gone."""
    replica = core(1, "1 1 1", term=2)
    replica.step(AppendEntries(N2, N1, T2, id_of(3, 1), (entry(4, 2),), Index(4)), NOW)
    effects(replica)
    replica.compact(Index(3))

    replica.step(AppendEntries(N2, N1, T2, id_of(0, 0), entries("1 1")), NOW)
    replica.step(AppendEntries(N2, N1, T2, id_of(1, 1), (*entries("1 1", 1), entry(4, 2))), NOW)

    assert said(replica) == [AppendReply(N1, N2, T2, Index(4))] * 2
    assert replica.log.last == id_of(4, 2)


def test_replacing_a_committed_entry_stops_the_replica() -> None:
    """State Machine Safety: it would be a broken invariant, so it is an assertion."""
    replica = core(1, "1 1")
    replica.step(AppendEntries(N2, N1, T1, id_of(2, 1), (), Index(1)), NOW)

    with pytest.raises(AssertionError, match="R8"):
        replica.step(AppendEntries(N3, N1, T2, id_of(0, 0), (entry(1, 2), entry(2, 2))), NOW)


def test_two_leaders_in_one_term_stop_the_replica() -> None:
    """Election Safety."""
    replica = leader(1)

    with pytest.raises(AssertionError, match="R1"):
        replica.step(AppendEntries(N2, N1, T1, id_of(0, 0)), NOW + 10)


def test_a_leader_never_cuts_its_own_log() -> None:
    """Leader Append-Only: messages that would cut a follower's log are another leader's, so it
    is a follower by the time it cuts."""
    replica = leader(1, "1 1", settled=False)
    replica.propose(b"4/2")

    replica.step(AppendEntries(N2, N1, T1, id_of(0, 0), entries("1")), NOW + 10)
    assert (replica.role, replica.log.last) == (Role.LEADER, id_of(4, 2))

    replica.step(AppendEntries(N2, N1, T3, id_of(2, 1), (entry(3, 3),)), NOW + 10)
    assert (replica.role, replica.log.last) == (Role.FOLLOWER, id_of(3, 3))


# Conflict back-tracking


def rejections(leader_log: str, follower_log: str) -> int:
    """How many appends of a new leader one follower rejects until the logs are equal."""
    leads = core(1, leader_log, term=10)
    follows = core(2, follower_log, term=10)
    count = 0
    outgoing = [m for m in elect(leads).early if m.target == N2]
    for _ in range(200):
        if not outgoing:
            break
        for message in outgoing:
            follows.step(message, NOW)
        replies = said(follows)
        count += sum(isinstance(m, AppendReply) and m.rejected > 0 for m in replies)
        for reply in replies:
            leads.step(reply, NOW + 10)
        outgoing = [m for m in said(leads) if m.target == N2]
    assert follows.log.last == leads.log.last
    assert all(follows.log.term(Index(n)) == leads.log.term(Index(n)) for n in range(1, 5))
    return count


@pytest.mark.parametrize(
    ("leader_log", "follower_log", "most"),
    [
        pytest.param("1 1 1 4 4 5 5 6 6 6", "1 1 1 4 4 5 5 6 6", 1, id="7a: missing one"),
        pytest.param("1 1 1 4 4 5 5 6 6 6", "1 1 1 4", 1, id="7b: missing many"),
        pytest.param("1 1 1 4 4 5 5 6 6 6", "1 1 1 4 4 5 5 6 6 6 6", 1, id="7c: one too many"),
        pytest.param("1 1 1 4 4 5 5 6 6 6", "1 1 1 4 4 5 5 6 6 6 7 7", 1, id="7d: two of term 7"),
        pytest.param("1 1 1 4 4 5 5 6 6 6", "1 1 1 4 4 4 4", 2, id="7e: an old leader's tail"),
        pytest.param("1 1 1 4 4 5 5 6 6 6", "1 1 1 2 2 2 3 3 3 3 3", 2, id="7f: two old tails"),
        pytest.param("1 1 1 1 " + "9 " * 60, "1 1 1 1 " + "8 " * 60, 2, id="one long conflict"),
        pytest.param("1 1 1 1 " + "9 " * 60, "1 1 1 1 " + "2 3 4 5 6 7 " + "8 " * 50, 2,
                     id="many terms that the leader never saw"),
    ],
)  # fmt: skip
def test_logs_of_figure_7_agree_after_few_rejections(
    leader_log: str, follower_log: str, most: int
) -> None:
    """Figure 7, and "one AppendEntries RPC will be required for each term with conflicting
    entries, rather than one RPC per entry"; here both sides skip, so never more than two."""
    assert rejections(leader_log, follower_log) <= most


# Section 5.4.2: committing entries from previous terms


def test_an_entry_of_an_earlier_term_is_never_committed_by_counting() -> None:
    """Section 5.4.2 and figure 8 (safeguard B01)."""
    replica = core(1, "1 2", config=LAB, term=3)
    elect(replica)
    assert replica.term == 4

    for follower in (2, 3):
        replica.step(ack(follower, replica, 2), NOW + 10)
    assert replica.commit == 0

    replica.step(ack(2, replica, 3), NOW + 10)
    assert replica.commit == 3, "with the first entry of its own term all before it is committed"


def test_figure_8() -> None:
    """The schedule of figure 8: S1's entry of term 2 reaches a majority and is still lost; the
    paper's (c) then (d), with a leader that counts replicas of old terms, would lose a commit."""
    s1 = core(1, "1", voters=FIVE, config=LAB)
    elect(s1)
    assert s1.log.last == id_of(2, 2)  # (a) S1 leads term 2, its entry reaches S2 only
    s2 = core(2, "1", voters=FIVE, config=LAB)
    s2.step(AppendEntries(N1, N2, T2, id_of(1, 1), (empty(2, 2),)), NOW)
    effects(s2)

    s5 = core(5, "1", voters=FIVE, config=LAB, term=2)
    campaign(s5)  # (b) S5 wins term 3 with S3 and S4 and appends there
    for voter in (N3, N4):
        s5.step(VoteReply(voter, N5, T3, True), NOW)
    effects(s5)
    assert s5.log.last == id_of(2, 3)

    s1 = core(1, log=s1.log, voters=FIVE, config=LAB, term=3)
    campaign(s1)  # (c) S1 is back and wins term 4; its entry (2, term 2) reaches S3 too
    for voter in (N2, N3):
        s1.step(VoteReply(voter, N1, Term(4), True), NOW)
    effects(s1)
    for follower in (2, 3):
        s1.step(ack(follower, s1, 2), NOW)
    assert s1.commit == 0, "(2, term 2) is on S1, S2 and S3, and not committed"

    s2.step(vote_request(5, 5, id_of(2, 3), target=2), NOW)
    assert said(s2) == [VoteReply(N2, N5, Term(5), True)], "(d) S5 may still win and overwrite it"

    for follower in (2, 3):  # (e) unless an entry of term 4 reached the majority first
        s1.step(ack(follower, s1, 3), NOW)
    assert s1.commit == 3
    s3 = core(3, voters=FIVE, config=LAB, term=4)
    s3.step(AppendEntries(N1, N3, Term(4), id_of(0, 0), (*entries("1 2"), empty(3, 4))), NOW)
    s3.step(vote_request(5, 5, id_of(2, 3), target=3), NOW)
    assert VoteReply(N3, N5, Term(5), False) in said(s3), "now S5 cannot win"


def test_a_new_leader_commits_what_earlier_terms_left_without_waiting_for_clients() -> None:
    """Section 8: "each leader commit a blank no-op entry at the start of its term" (A19)."""
    replica = core(1, "1 1")
    elect(replica)

    done = settle(replica)

    assert done.committed == (*entries("1 1"), empty(3, 2))


def test_the_raft_lab_counts_from_one() -> None:
    """With `empty_entry_at_start` off the first entry is the first command, and a new leader
    still speaks at once."""
    replica = core(1, config=replace(LAB, empty_entry_at_start=False))
    done = elect(replica)

    assert done.entries == ()
    assert done.early == (
        AppendEntries(N1, N2, T1, id_of(0, 0)),
        AppendEntries(N1, N3, T1, id_of(0, 0)),
    )
    assert replica.propose(b"first") == id_of(1, 1)


# Stale and repeated answers


def test_acknowledgements_of_an_earlier_term_do_not_count() -> None:
    """Safeguard B13 (openraft a80579ef): what was acknowledged to another leader may be gone."""
    replica = leader(1, "1")
    replica.propose(b"3/2")
    effects(replica)

    replica.step(AppendReply(N2, N1, T1, Index(3)), NOW + 10)

    assert replica.commit == 2


def test_what_a_follower_acknowledged_never_falls_by_a_late_answer() -> None:
    """etcd#1366: reordered answers."""
    replica = leader(1)
    for n in (2, 3, 4):
        replica.propose(b"%d/1" % n)
    effects(replica)

    replica.step(ack(2, replica, 4), NOW + 10)
    replica.step(ack(2, replica, 2), NOW + 10)
    replica.step(AppendReply(N2, N1, T1, rejected=Index(3), hint=id_of(1, 1)), NOW + 10)

    assert (replica.progress[N2].match, replica.progress[N2].next) == (4, 5)
    assert effects(replica).early == (), "nothing is sent again"


def test_an_acknowledgement_of_what_was_never_sent_is_dropped() -> None:
    replica = leader(1)

    replica.step(ack(2, replica, 99), NOW + 10)

    assert replica.dropped["acknowledges what was never sent"] == 1
    assert replica.commit == 1


def test_answers_of_strangers_change_nothing() -> None:
    """A removed replica may still answer."""
    replica = leader(1)
    replica.propose(b"2/1")
    effects(replica)

    replica.step(ack(9, replica, 2), NOW + 10)
    replica.step(beat_reply(9, replica, 0, 2), NOW + 10)

    assert (replica.commit, effects(replica)) == (1, Ready())


def test_repeated_messages_have_no_effect() -> None:
    """Section 5.5: "Raft RPCs are idempotent"."""
    replica = core(1)
    append = AppendEntries(N2, N1, T1, id_of(0, 0), entries("1 1"), Index(1))
    replica.step(append, NOW)
    first = effects(replica)

    replica.step(append, NOW)

    assert effects(replica) == Ready(messages=first.messages)


def test_ready_is_empty_when_nothing_happened() -> None:
    replica: Raft = leader(1)

    assert not replica.ready()
