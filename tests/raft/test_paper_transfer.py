"""Handing the leadership over: one test for each claim. Reference: dissertation, section 3.10."""

import pytest

from raft.errors import NotLeader, TransferRefused
from raft.messages import AppendEntries, Heartbeat, RequestVote, TimeoutNow
from raft.types import NOBODY, HardState, Index, Role, Term
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
    core,
    effects,
    elect,
    id_of,
    leader,
    membership,
    said,
)

T1, T2 = Term(1), Term(2)
E_MAX = PRODUCTION.election_seconds_max


def test_a_target_with_the_whole_log_is_told_at_once() -> None:
    """Section 3.10, step 3."""
    replica = leader(1)

    replica.transfer(N2)

    assert said(replica) == [TimeoutNow(N1, N2, T1)]
    assert replica.transfer_target == N2


def test_a_target_that_lags_is_brought_up_to_date_first() -> None:
    """Section 3.10, step 2."""
    replica = leader(1)
    replica.propose(b"2/1")
    effects(replica)
    replica.transfer(N2)
    assert said(replica) == []

    replica.step(ack(3, replica, 2), NOW + 10)
    assert said(replica) == []

    replica.step(ack(2, replica, 2), NOW + 10)
    replica.step(ack(2, replica, 2), NOW + 10)
    assert said(replica) == [TimeoutNow(N1, N2, T1)], "once"


def test_no_proposals_while_handing_over() -> None:
    """Section 3.10, step 1: or the target might never catch up."""
    replica = leader(1)

    replica.transfer(N2)

    assert replica.propose(b"x") is None
    assert replica.log.last == id_of(1, 1)


@pytest.mark.parametrize("config", [PRODUCTION, LAB], ids=["production", "lab"])
def test_the_target_campaigns_at_once_and_without_a_pre_vote(config: object) -> None:
    replica = core(2, "1", config=config)  # type: ignore[arg-type]
    replica.step(Heartbeat(N1, N2, T1), NOW)
    effects(replica)

    replica.step(TimeoutNow(N1, N2, T1), NOW + 0.01)
    done = effects(replica)

    assert replica.role is Role.CANDIDATE
    assert done.hard_state == HardState(T2, N2)
    assert done.messages == tuple(
        RequestVote(N2, voter, T2, id_of(1, 1), transfer=True) for voter in (N1, N3)
    )


def test_the_old_leader_votes_for_its_successor() -> None:
    replica = leader(1)
    replica.transfer(N2)
    effects(replica)

    replica.step(RequestVote(N2, N1, T2, id_of(1, 1), transfer=True), NOW + 10)

    assert (replica.role, replica.vote) == (Role.FOLLOWER, N2)


def test_a_transfer_ends_after_e_and_service_goes_on() -> None:
    """Section 3.10: "if leadership transfer does not complete after about an election timeout,
    the prior leader aborts" (invariant R16)."""
    replica = leader(1, config=LAB)
    replica.transfer(N2)
    effects(replica)
    expires = NOW + 10 + E_MAX

    while replica.deadline < expires:
        replica.timeout(replica.deadline)
        assert replica.propose(b"x") is None
    replica.timeout(expires)

    assert replica.transfer_target == NOBODY
    assert replica.propose(b"2/1") == id_of(2, 1)


def test_a_transfer_dies_with_the_leadership() -> None:
    """Safeguard D13 (hashicorp/raft#696): a flag that outlived the role refused proposals for
    ever once the same replica led again."""
    replica = leader(1)
    replica.transfer(N2)
    effects(replica)

    replica.step(AppendEntries(N3, N1, T2, id_of(1, 1)), NOW + 10)
    assert replica.transfer_target == NOBODY
    effects(replica)
    elect(replica, NOW + 20)

    assert replica.transfer_target == NOBODY
    assert replica.propose(b"x") is not None


def test_asking_again_for_the_same_target_changes_nothing() -> None:
    replica = leader(1)
    replica.transfer(N2)
    effects(replica)

    replica.transfer(N2)

    assert said(replica) == []
    with pytest.raises(TransferRefused, match="to replica 2 is under way"):
        replica.transfer(N3)


@pytest.mark.parametrize(
    "target", [pytest.param(N1, id="itself"), pytest.param(N4, id="a learner")]
)
def test_only_another_voter_can_be_handed_the_leadership(target: int) -> None:
    replica = leader(1, voters=membership(1, 2, 3, learners=(4,)))

    with pytest.raises(TransferRefused, match="not another voter"):
        replica.transfer(target)  # type: ignore[arg-type]

    with pytest.raises(NotLeader):
        core(1).transfer(N2)


def test_an_order_of_an_old_leader_is_ignored() -> None:
    replica = core(2, "1 2")

    replica.step(TimeoutNow(N1, N2, T1), NOW)

    assert (replica.role, said(replica)) == (Role.FOLLOWER, [])


def test_a_learner_or_a_leader_ignores_the_order() -> None:
    learner = core(4, "1", voters=membership(1, 2, 3, learners=(4,)))
    learner.step(TimeoutNow(N1, N4, T1), NOW)
    assert learner.role is Role.FOLLOWER

    leads = leader(1)
    leads.step(TimeoutNow(N2, N1, T1), NOW)
    assert leads.role is Role.LEADER


def test_the_best_successor_is_the_voter_that_holds_most() -> None:
    replica = leader(1, voters=membership(1, 2, 3, learners=(4,)))
    replica.propose(b"2/1")
    effects(replica)
    for follower in (4, 3):
        replica.step(ack(follower, replica, 2), NOW + 10)
    replica.propose(b"3/1")
    effects(replica)
    replica.step(ack(4, replica, 3), NOW + 10)

    assert replica.best_successor() == N3, "a learner does not count, however much it holds"
    assert leader(1, voters=membership(1)).best_successor() is None
    assert core(1).best_successor() is None


def test_reads_are_still_confirmed_while_handing_over() -> None:
    """Only proposals stop; it leads until it is deposed."""
    replica = leader(1)
    replica.transfer(N2)
    replica.read_index(b"r")
    effects(replica)

    replica.step(beat_reply(3, replica, 1, 1), NOW + 10)

    assert [read.index for read in effects(replica).reads] == [Index(1)]
