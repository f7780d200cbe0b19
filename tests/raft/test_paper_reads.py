"""ReadIndex: one test for each claim. Reference: dissertation, section 6.4."""

from dataclasses import replace

import pytest

from raft.core import Raft
from raft.messages import (
    AppendEntries,
    Heartbeat,
    HeartbeatReply,
    ReadReply,
    ReadRequest,
    RequestVote,
)
from raft.ready import ReadState, Ready
from raft.types import NOBODY, Index, ReplicaId, Role, Term
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
    entries,
    id_of,
    leader,
    membership,
)

T1, T2 = Term(1), Term(2)


def beats(done: Ready) -> list[Heartbeat]:
    return [m for m in done.early if isinstance(m, Heartbeat)]


def reads(replica: Raft) -> tuple[ReadState, ...]:
    return effects(replica).reads


def test_a_read_waits_for_a_majority_that_answers_a_later_heartbeat() -> None:
    """Step 3: a round of heartbeats that begins after the read came in (safeguard D01)."""
    replica = leader(1)

    replica.read_index(b"r")
    done = effects(replica)
    assert done.reads == ()
    assert beats(done) == [Heartbeat(N1, n, T1, Index(1), 1, asks=True) for n in (N2, N3)]

    replica.step(beat_reply(2, replica, 1, 1), NOW + 10)
    assert reads(replica) == (ReadState(b"r", Index(1)),)


def test_an_answer_to_an_earlier_heartbeat_confirms_nothing() -> None:
    """The leadership may have been lost between that heartbeat and the read."""
    replica = leader(1)
    replica.timeout(replica.deadline)
    (first, _) = beats(effects(replica))
    replica.read_index(b"r")
    effects(replica)

    replica.step(beat_reply(2, replica, first.token, 1), NOW + 11)
    assert reads(replica) == ()

    replica.step(beat_reply(3, replica, first.token + 1, 1), NOW + 11)
    assert reads(replica) == (ReadState(b"r", Index(1)),)


def test_only_heartbeats_that_a_read_waits_for_ask_for_a_prompt_answer() -> None:
    """The others' answers may travel with whatever goes that way next (`raft/courier.py`)."""
    replica = leader(1)
    replica.timeout(replica.deadline)
    assert [beat.asks for beat in beats(effects(replica))] == [False, False]

    replica.read_index(b"r")
    assert [beat.asks for beat in beats(effects(replica))] == [True, True]


def test_an_answer_of_an_earlier_term_confirms_nothing() -> None:
    replica = leader(1, "1")
    replica.read_index(b"r")
    effects(replica)

    replica.step(HeartbeatReply(N2, N1, T1, 1, Index(2)), NOW + 10)

    assert reads(replica) == ()


def test_answers_of_learners_and_strangers_confirm_nothing() -> None:
    replica = leader(1, voters=membership(1, 2, 3, learners=(4,)))
    replica.read_index(b"r")
    effects(replica)

    for source in (4, 9):
        replica.step(beat_reply(source, replica, 1, 1), NOW + 10)

    assert reads(replica) == ()


def test_no_read_before_an_entry_of_the_leaders_term_is_committed() -> None:
    """Step 1 (safeguard D02; etcd#7331, TiKV#6340): its commit index may be behind."""
    replica = core(1, "1 1")
    elect(replica)
    replica.read_index(b"r")
    done = effects(replica)
    assert (beats(done), done.reads) == ([], ())

    replica.timeout(replica.deadline)
    (beat, _) = beats(effects(replica))
    replica.step(beat_reply(2, replica, beat.token, 2), NOW + 10)
    assert reads(replica) == (), "that round does not count either: commit was not known"

    replica.step(ack(2, replica, 3), NOW + 10)
    (beat, _) = beats(effects(replica))
    replica.step(beat_reply(2, replica, beat.token, 3), NOW + 10)
    assert reads(replica) == (ReadState(b"r", Index(3)),)


def test_one_round_confirms_all_reads_that_wait_when_it_starts() -> None:
    """What comes in while it is under way is the next round."""
    replica = leader(1)
    for context in (b"a", b"b"):
        replica.read_index(context)
    assert len(beats(effects(replica))) == 2
    for context in (b"c", b"d"):
        replica.read_index(context)
    assert beats(effects(replica)) == [], "one round at a time"

    replica.step(beat_reply(2, replica, 1, 1), NOW + 10)
    done = effects(replica)
    assert done.reads == (ReadState(b"a", Index(1)), ReadState(b"b", Index(1)))
    assert [beat.token for beat in beats(done)] == [2, 2]

    replica.step(beat_reply(2, replica, 2, 1), NOW + 10)
    assert reads(replica) == (ReadState(b"c", Index(1)), ReadState(b"d", Index(1)))


def test_a_lost_round_is_made_up_by_the_next_heartbeat() -> None:
    replica = leader(1)
    replica.read_index(b"a")
    effects(replica)
    replica.read_index(b"b")
    effects(replica)

    replica.timeout(replica.deadline)
    (beat, _) = beats(effects(replica))
    replica.step(beat_reply(3, replica, beat.token, 1), NOW + 11)

    assert reads(replica) == (ReadState(b"a", Index(1)), ReadState(b"b", Index(1)))


def test_the_index_is_the_commit_index_when_the_round_starts() -> None:
    replica = leader(1)
    replica.read_index(b"r")
    effects(replica)
    replica.propose(b"2/1")
    effects(replica)
    replica.step(ack(2, replica, 2), NOW + 10)
    assert replica.commit == 2

    replica.step(beat_reply(2, replica, 1, 2), NOW + 10)

    assert reads(replica) == (ReadState(b"r", Index(1)),)


def test_a_group_of_one_confirms_itself() -> None:
    replica = leader(1, voters=membership(1))

    replica.read_index(b"r")

    assert reads(replica) == (ReadState(b"r", Index(1)),)


def test_a_replica_that_lost_what_it_acknowledged_confirms_nothing() -> None:
    """What it forgot may have been its vote for another leader."""
    replica = leader(1)
    replica.step(beat_reply(2, replica, 0, 1), NOW + 10)
    replica.timeout(replica.deadline)
    effects(replica)
    replica.step(beat_reply(2, replica, 1, 0), NOW + 10)
    assert replica.lost_replicas == (N2,)
    replica.read_index(b"r")
    effects(replica)

    replica.step(beat_reply(2, replica, 2, 1), NOW + 10)
    assert reads(replica) == ()
    replica.step(beat_reply(3, replica, 2, 1), NOW + 10)
    assert reads(replica) == (ReadState(b"r", Index(1)),)


def test_during_a_joint_change_both_majorities_confirm() -> None:
    replica = leader(1, voters=membership(1, 2, 3))
    replica.change_members(remove=[N3])
    effects(replica)
    assert replica.membership.outgoing
    replica.read_index(b"r")
    (beat, *_) = beats(effects(replica))

    replica.step(beat_reply(3, replica, beat.token, 1), NOW + 10)
    assert reads(replica) == (), "1 and 3 are a majority of the old voters alone"

    replica.step(beat_reply(2, replica, beat.token, 1), NOW + 10)
    assert reads(replica) == (ReadState(b"r", Index(1)),)


def test_a_follower_asks_its_leader() -> None:
    """Section 6.4: followers help with reads; the leader does the confirming. Of five voters the
    asker and the leader are two: one more must answer."""
    five = membership(1, 2, 3, 4, 5)
    follower, leads = core(2, "1", voters=five), leader(1, voters=five)
    follower.step(Heartbeat(N1, N2, T1), NOW)
    effects(follower)

    follower.read_index(b"r")
    (request,) = effects(follower).messages
    assert request == ReadRequest(N2, N1, T1, b"r")

    leads.step(request, NOW + 10)
    assert beats(effects(leads)) != []
    leads.step(beat_reply(3, leads, 1, 1), NOW + 10)
    assert effects(leads).messages == ()
    leads.step(beat_reply(4, leads, 1, 1), NOW + 10)
    (reply,) = effects(leads).messages
    assert reply == ReadReply(N1, N2, T1, b"r", Index(1))

    follower.step(reply, NOW)
    follower.step(reply, NOW)
    assert reads(follower) == (ReadState(b"r", Index(1)),), "once, however often it is told"


def test_of_three_the_question_itself_is_the_answer_that_was_missing() -> None:
    """It is of this term, and was sent after the read came in; with the leader that is a majority.
    So no other leader was elected before, and what he would have acknowledged came later."""
    leads = leader(1)

    leads.step(ReadRequest(N2, N1, T1, b"r"), NOW + 10)

    done = effects(leads)
    assert (beats(done), done.messages) == ([], (ReadReply(N1, N2, T1, b"r", Index(1)),))


def test_a_question_of_who_does_not_count_is_no_answer() -> None:
    """A learner's; one of a joint change that is no majority of both; one of a voter that lost what
    it had acknowledged, and may have forgotten a vote too."""
    learner = leader(1, voters=membership(1, 2, 3, learners=(4,)))
    learner.step(ReadRequest(N4, N1, T1, b"r"), NOW + 10)
    assert beats(effects(learner)) != []

    lossy = leader(1)
    lossy.progress[N2].lost = True
    lossy.step(ReadRequest(N2, N1, T1, b"r"), NOW + 10)
    assert beats(effects(lossy)) != []


def test_a_follower_asks_again_when_the_leader_lives_and_does_not_answer() -> None:
    """The request or its answer was lost: a read must not wait for the next election."""
    replica = core(2, "1")
    replica.step(Heartbeat(N1, N2, T1), NOW)
    replica.read_index(b"r")
    effects(replica)

    replica.step(Heartbeat(N1, N2, T1), NOW + 0.1)
    first = effects(replica).messages
    replica.step(Heartbeat(N1, N2, T1), NOW + 0.2)
    second = effects(replica).messages
    replica.step(Heartbeat(N1, N2, T1), NOW + 0.3)
    third = effects(replica).messages

    again = ReadRequest(N2, N1, T1, b"r")
    assert [again in messages for messages in (first, second, third)] == [False, True, False]


def ask_patiently(replica: Raft, token: int, question: bytes = b"q") -> None:
    """Follower 2 of a leader asks, with its answer to a heartbeat."""
    replica.step(HeartbeatReply(N2, N1, T1, token, Index(1), question=question), NOW + 10)


def next_beats(replica: Raft) -> tuple[Heartbeat, Heartbeat]:
    """Those of the next round: to 2 and to 3."""
    replica.timeout(replica.deadline)
    (to_second, to_third) = beats(effects(replica))
    return to_second, to_third


def test_a_patient_question_is_answered_by_heartbeats_that_are_due_anyway() -> None:
    """`raft/freshness.py`: it costs no message, and is confirmed like any other."""
    replica = leader(1)
    ask_patiently(replica, 0)
    assert beats(effects(replica)) == [], "it starts no round"

    (beat, _) = next_beats(replica)
    assert (beat.asks, beat.told) == (False, b""), "nobody has answered a later heartbeat"
    replica.step(beat_reply(3, replica, beat.token, 1), NOW + 10)
    to_second, to_third = next_beats(replica)

    assert (to_second.told, to_second.told_at) == (b"q", Index(1))
    assert to_third.told == b"", "who did not ask is told nothing"


def test_an_answer_to_an_earlier_heartbeat_confirms_no_patient_question() -> None:
    """It may have been sent before the question: another leader may have come in between."""
    replica = leader(1)
    (earlier, _) = next_beats(replica)
    ask_patiently(replica, 0)
    next_beats(replica)

    replica.step(beat_reply(3, replica, earlier.token, 1), NOW + 10)

    assert next_beats(replica)[0].told == b""


def test_each_patient_question_is_confirmed_by_a_round_of_its_own() -> None:
    """What was committed before it came in is older than that round."""
    replica = leader(1)
    ask_patiently(replica, 0)
    (beat, _) = next_beats(replica)
    replica.step(beat_reply(3, replica, beat.token, 1), NOW + 10)
    (beat, _) = next_beats(replica)
    assert beat.told == b"q"

    replica.propose(b"x")
    effects(replica)
    replica.step(ack(3, replica, 2), NOW + 10)
    effects(replica)
    ask_patiently(replica, beat.token, b"p")
    (beat, _) = next_beats(replica)
    assert beat.told == b""
    replica.step(beat_reply(3, replica, beat.token, 2), NOW + 10)

    assert next_beats(replica)[0][-2:] == (b"p", Index(2))


def test_a_patient_question_waits_for_nothing_that_is_not_committed() -> None:
    replica = leader(1)
    replica.propose(b"x")
    effects(replica)
    ask_patiently(replica, 0)
    (beat, _) = next_beats(replica)
    replica.step(beat_reply(3, replica, beat.token, 1), NOW + 10)

    assert next_beats(replica)[0][-2:] == (b"q", Index(1))


def test_a_patient_question_waits_for_an_entry_of_the_term() -> None:
    """As every read (dissertation, section 6.4, step 1)."""
    replica = leader(1, settled=False)
    ask_patiently(replica, 0)
    (beat, _) = next_beats(replica)
    replica.step(beat_reply(3, replica, beat.token, 0), NOW + 10)
    assert next_beats(replica)[0].told == b"", "what is committed is not known yet"

    for follower in (2, 3):
        replica.step(ack(follower, replica, 1), NOW + 10)
    (beat, _) = next_beats(replica)
    replica.step(beat_reply(3, replica, beat.token, 1), NOW + 10)

    assert (next_beats(replica)[0].told, replica.commit) == (b"q", 1)


def test_a_patient_question_is_asked_until_it_is_answered() -> None:
    replica = core(2, "1")
    replica.step(Heartbeat(N1, N2, T1, Index(1)), NOW)
    effects(replica)
    replica.read_index(b"q", patient=True)

    asked = []
    for token in (1, 2):
        replica.step(Heartbeat(N1, N2, T1, Index(1), token), NOW)
        asked += effects(replica).messages
    replica.step(Heartbeat(N1, N2, T1, Index(1), 3, told=b"q", told_at=Index(1)), NOW)
    done = effects(replica)

    assert asked == [HeartbeatReply(N2, N1, T1, t, Index(1), question=b"q") for t in (1, 2)]
    assert done.reads == (ReadState(b"q", Index(1)),)
    assert done.messages == (HeartbeatReply(N2, N1, T1, 3, Index(1)),)


def test_the_answer_to_another_question_answers_nothing() -> None:
    """Of an earlier life of this replica, say: its names are never used again."""
    replica = core(2, "1")
    replica.step(Heartbeat(N1, N2, T1, Index(1)), NOW)
    effects(replica)
    replica.read_index(b"q", patient=True)

    replica.step(Heartbeat(N1, N2, T1, Index(1), 3, told=b"p", told_at=Index(1)), NOW)

    assert reads(replica) == ()


def test_a_newer_patient_question_takes_the_place_of_an_older_one() -> None:
    replica = core(2, "1")
    replica.step(Heartbeat(N1, N2, T1, Index(1)), NOW)
    effects(replica)
    replica.read_index(b"p", patient=True)

    replica.read_index(b"q", patient=True)

    assert reads(replica) == (ReadState(b"p", Index(0)),)
    replica.step(Heartbeat(N1, N2, T1, Index(1), 3, told=b"q", told_at=Index(1)), NOW)
    assert reads(replica) == (ReadState(b"q", Index(1)),)


def test_a_patient_question_ends_with_its_leader() -> None:
    replica = core(2, "1")
    replica.step(Heartbeat(N1, N2, T1, Index(1)), NOW)
    effects(replica)
    replica.read_index(b"q", patient=True)

    replica.step(Heartbeat(N3, N2, T2), NOW)
    done = effects(replica)

    assert done.reads == (ReadState(b"q", Index(0)),)
    assert done.messages == (HeartbeatReply(N2, N3, T2, 0, Index(1)),)


def test_a_patient_question_without_a_leader_is_refused() -> None:
    replica = core(2, "1")

    replica.read_index(b"q", patient=True)

    assert reads(replica) == (ReadState(b"q", Index(0)),)


def test_the_answer_says_what_is_committed_as_far_as_the_logs_are_known_to_agree() -> None:
    """A read on a follower need not wait for the heartbeat that says so again."""
    replica = core(2, "1")
    replica.step(AppendEntries(N1, N2, T1, id_of(1, 1), entries("1", after=1)), NOW)
    effects(replica)
    replica.read_index(b"r")
    effects(replica)

    replica.step(ReadReply(N1, N2, T1, b"r", Index(3)), NOW)

    assert replica.commit == 2, "and not 3, which this log does not hold"


def test_what_is_known_to_agree_is_known_of_this_terms_leader_alone() -> None:
    """Also where another leader before it had shown that more of the log agreed with its own."""
    replica = core(2, "1 1 1")
    replica.step(AppendEntries(N3, N2, T1, id_of(3, 1)), NOW)
    replica.step(AppendEntries(N1, N2, T2, id_of(2, 1)), NOW)
    effects(replica)
    replica.read_index(b"r")
    effects(replica)

    replica.step(ReadReply(N1, N2, T2, b"r", Index(3)), NOW)

    assert replica.commit == 2


def test_what_another_leader_left_in_the_log_is_not_committed_by_an_answer() -> None:
    """Safeguard B06 again: only what this term's leader sent is known to agree with its log."""
    replica = core(2, "1 1 1")
    replica.step(Heartbeat(N1, N2, T2), NOW)
    replica.read_index(b"r")
    effects(replica)

    replica.step(ReadReply(N1, N2, T2, b"r", Index(3)), NOW)

    assert replica.commit == 0


def test_without_a_leader_a_read_is_refused_at_once() -> None:
    replica = core(1)

    replica.read_index(b"r")

    assert reads(replica) == (ReadState(b"r", Index(0)),)


def test_whoever_is_not_the_leader_says_so() -> None:
    replica = core(1, "1")

    replica.step(ReadRequest(N2, N1, T1, b"r"), NOW)

    assert effects(replica).messages == (ReadReply(N1, N2, T1, b"r", Index(0)),)


@pytest.mark.parametrize("confirming", [True, False], ids=["round under way", "gathering"])
def test_losing_the_leadership_refuses_every_read_that_waits(confirming: bool) -> None:
    five = membership(1, 2, 3, 4, 5)
    replica = leader(1, voters=five) if confirming else core(1, "1")
    if not confirming:
        elect(replica)
    replica.read_index(b"own")
    replica.step(ReadRequest(N2, N1, replica.term, b"other"), NOW + 10)
    effects(replica)

    replica.step(HeartbeatReply(N3, N1, Term(9)), NOW + 10)
    done = effects(replica)

    assert replica.role is Role.FOLLOWER
    assert done.reads == (ReadState(b"own", Index(0)),)
    assert ReadReply(N1, N2, Term(9), b"other", Index(0)) in done.messages


def test_a_follower_that_loses_its_leader_refuses_what_it_asked() -> None:
    replica = core(2, "1")
    replica.step(Heartbeat(N1, N2, T1), NOW)
    replica.read_index(b"r")
    effects(replica)

    replica.step(RequestVote(N3, N2, T2, id_of(9, 1), transfer=True), NOW)

    assert (reads(replica), replica.leader) == ((ReadState(b"r", Index(0)),), NOBODY)


def test_reads_that_wait_are_bounded() -> None:
    few = replace(PRODUCTION, reads_waiting_max=2)
    replica = leader(1, config=few)
    for context in (b"a", b"b", b"c"):
        replica.read_index(context)
    assert reads(replica) == (ReadState(b"c", Index(0)),)

    replica.step(beat_reply(2, replica, 1, 1), NOW + 10)
    effects(replica)
    replica.read_index(b"d")
    assert reads(replica) == ()

    follower = core(2, "1", config=few)
    follower.step(Heartbeat(N1, N2, T1), NOW)
    for context in (b"a", b"b", b"c"):
        follower.read_index(context)
    assert reads(follower) == (ReadState(b"c", Index(0)),)


def test_a_lab_leader_confirms_reads_the_same_way() -> None:
    replica = leader(1, config=LAB)
    replica.read_index(b"r")
    effects(replica)

    replica.step(beat_reply(N2, replica, 1, 1), NOW + 10)

    assert reads(replica) == (ReadState(b"r", Index(1)),)


def test_an_unexpected_answer_from_the_future_is_ignored() -> None:
    """A token that was never given confirms nothing."""
    replica = leader(1, voters=membership(1, 2, 3, learners=(4,)))
    replica.step(beat_reply(2, replica, 99, 1), NOW + 10)
    replica.read_index(b"r")

    assert reads(replica) == ()
    assert replica.progress[N4].token == replica.progress[ReplicaId(2)].token == 0
