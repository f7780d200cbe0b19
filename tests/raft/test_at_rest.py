"""Heartbeats of a group that nothing happens to take a short way, which must change nothing: here
each is compared with the long way of `timeout`, `step` and `ready`."""

from collections.abc import Callable
from inspect import isfunction
from typing import Any

import pytest

from raft.core import Raft
from raft.deadlines import NEVER, Deadlines
from raft.messages import AppendEntries, Heartbeat, HeartbeatReply, ReadRequest
from raft.progress import Progress
from raft.types import EntryId, Index, Role, Term
from tests.support.builders import (
    N1,
    N2,
    N3,
    NOW,
    PRODUCTION,
    ack,
    beat_reply,
    core,
    effects,
    entries,
    leader,
)

T1 = Term(1)
LATER = NOW + 10.2
BEAT = Heartbeat(N1, N2, T1, Index(2), 7)


def follower() -> Raft:
    """Of replica 1, with two entries, both committed and applied, that has told everything."""
    replica = core(2, "1 1", term=1)
    replica.step(Heartbeat(N1, N2, T1, Index(2), 6), NOW)
    effects(replica)
    return replica


def shape(replica: Raft) -> dict[str, Any]:
    """All that a heartbeat may touch."""
    state = replica._state
    followers = {
        progress.id: (progress.heard, progress.token, progress.match, progress.next)
        for progress in replica.progress.values()
    }
    leads = replica._leader
    round_ = None if leads is None else (leads.replication.round, leads._heartbeat_at)
    times = (state.heard_at, state.election_at, replica.deadline, replica._now)
    return {
        "role": (state.role, state.term, state.leader, state.commit),
        "times": times,
        "followers": followers,
        "round": round_,
        "effects": (state.early, state.messages, state.reads),
    }


@pytest.mark.parametrize("asks", [False, True])
def test_an_answer_at_rest_is_the_answer_of_the_long_way(asks: bool) -> None:
    short, long = follower(), follower()
    if asks:
        short.read_index(b"q", patient=True)
        long.read_index(b"q", patient=True)

    answer = short.answer(BEAT, LATER)
    long.step(BEAT, LATER)

    assert effects(long).messages == (answer,)
    assert shape(short) == shape(long)


def wait_for_a_read(replica: Raft) -> Heartbeat:
    replica.read_index(b"r")
    effects(replica)
    return BEAT


def keep_something_unsaid(replica: Raft) -> Heartbeat:
    replica.read_index(b"r")
    return BEAT


def grow(replica: Raft) -> Heartbeat:
    replica.step(AppendEntries(N1, N2, T1, EntryId(Index(2), T1), entries("1", after=2)), LATER)
    return BEAT


KNOWN = pytest.mark.parametrize(
    "known",
    [
        pytest.param(False, id="looked at for the first time"),
        pytest.param(True, id="known to be at rest"),
    ],
)
"""What was found out at one heartbeat is taken for true at the next: until something happens."""


@KNOWN
@pytest.mark.parametrize(
    "unrest",
    [
        pytest.param(lambda _: BEAT._replace(term=Term(2)), id="a newer term"),
        pytest.param(lambda _: BEAT._replace(term=Term(0)), id="an older term"),
        pytest.param(lambda _: BEAT._replace(source=N3), id="not of the leader that is known"),
        pytest.param(lambda _: BEAT._replace(target=N3), id="for another replica"),
        pytest.param(lambda _: BEAT._replace(told=b"q"), id="a question is answered"),
        pytest.param(lambda replica: replica.timeout(LATER + 9) or BEAT, id="a pre-candidate"),
        pytest.param(lambda _: BEAT._replace(commit=Index(3)), id="something more is committed"),
        pytest.param(wait_for_a_read, id="a question waits"),
        pytest.param(keep_something_unsaid, id="something is not handed out"),
        pytest.param(grow, id="an entry is not saved"),
    ],
)
def test_an_answer_at_rest_is_refused_where_more_follows(
    unrest: Callable[[Raft], Heartbeat], known: bool
) -> None:
    replica = follower()
    if known:
        assert replica.answer(BEAT._replace(token=6), NOW) is not None
    beat = unrest(replica)
    before = shape(replica)

    assert replica.answer(beat, LATER) is None
    assert shape(replica) == before, "refused, and yet something was done"


def resting_leader() -> Raft:
    """Everybody has its log and answered its first heartbeats."""
    replica = leader(1, now=NOW + 10)
    replica.timeout(replica.deadline)
    effects(replica)
    for source in (2, 3):
        replica.step(beat_reply(source, replica, 1, 1), replica._now)
    assert not effects(replica)
    return replica


def test_beats_at_rest_are_those_of_the_long_way() -> None:
    short, long = resting_leader(), resting_leader()
    due = short.deadline

    beats = short.beat(due)
    long.timeout(due)

    assert tuple(beats or ()) == effects(long).early != ()
    assert shape(short) == shape(long)


def let_a_follower_lag(replica: Raft) -> float:
    replica.propose(b"x")
    effects(replica)
    replica.step(ack(2, replica, 2), replica._now)
    effects(replica)
    return replica.deadline


def ask(replica: Raft) -> float:
    replica.step(ReadRequest(N2, N1, T1, b"r"), replica._now)
    return replica.deadline


def wait_for_a_round(replica: Raft) -> float:
    replica.read_index(b"r")
    effects(replica)
    return replica.deadline


def lose_a_follower(replica: Raft) -> float:
    replica.timeout(replica.deadline)
    effects(replica)
    assert replica._leader is not None
    replica.step(beat_reply(3, replica, replica._leader.replication.round, 0), replica._now)
    assert replica.progress[N3].lost
    return replica.deadline


def hand_over(replica: Raft) -> float:
    replica.transfer(N2)
    effects(replica)
    return replica.deadline


def remove(replica: Raft) -> float:
    replica.change_members(remove=[N3])
    effects(replica)
    return replica.deadline


def have_removed_one(replica: Raft) -> float:
    """It has the entry that says so, and may not know yet that this one is committed."""
    replica.change_members(remove=[N3])
    for _ in range(3):
        effects(replica)
        for source in replica.progress:
            replica.step(ack(source, replica, replica.log.last.index), replica._now)
    effects(replica)
    assert replica.progress[N3].removed_at is not None
    assert N3 not in [member.id for member in replica.membership.voters]
    return replica.deadline


@KNOWN
@pytest.mark.parametrize(
    "unrest",
    [
        pytest.param(lambda replica: replica.deadline - 0.01, id="not due yet"),
        pytest.param(lambda replica: replica.deadline + 2, id="nobody was heard within E"),
        pytest.param(let_a_follower_lag, id="a follower lacks something"),
        pytest.param(ask, id="a question is answered"),
        pytest.param(wait_for_a_round, id="a read waits"),
        pytest.param(lose_a_follower, id="one lost what it promised"),
        pytest.param(hand_over, id="a hand-over is under way"),
        pytest.param(remove, id="members change"),
        pytest.param(have_removed_one, id="one is told that it was removed"),
    ],
)
def test_beats_at_rest_are_refused_where_more_is_to_be_done(
    unrest: Callable[[Raft], float], known: bool
) -> None:
    replica = resting_leader()
    if known:
        assert replica.beat(replica.deadline) is not None
    moment = unrest(replica)
    before = shape(replica)

    assert replica.beat(moment) is None
    assert {**shape(replica), "times": ()} == {**before, "times": ()}


def test_a_leader_whose_own_disk_lags_looks_at_it() -> None:
    replica = resting_leader()
    replica.propose(b"x")
    ready = replica.ready()
    assert ready.entries, "handed to the disk, and not durable"

    assert replica.beat(replica.deadline) is None


@pytest.mark.parametrize("question", [b"", b"q"])
def test_an_answer_is_heard_at_rest_as_by_the_long_way(question: bytes) -> None:
    short, long = resting_leader(), resting_leader()
    for replica in (short, long):
        replica.beat(replica.deadline)
    reply = beat_reply(2, short, 2, 1)._replace(question=question)

    assert short.hear(reply, LATER)
    long.step(reply, LATER)

    assert not effects(long)
    assert shape(short) == shape(long)
    for name in Progress.__slots__[1:]:
        assert getattr(short.progress[N2], name) == getattr(long.progress[N2], name)


@KNOWN
@pytest.mark.parametrize(
    "unrest",
    [
        pytest.param(lambda r: beat_reply(2, r, 2, 1)._replace(term=Term(9)), id="another term"),
        pytest.param(lambda r: beat_reply(2, r, 2, 1)._replace(target=N3), id="for another"),
        pytest.param(lambda r: beat_reply(4, r, 2, 1), id="of no member"),
        pytest.param(lambda r: beat_reply(2, r, 9, 1), id="to a heartbeat that was never sent"),
        pytest.param(lambda r: beat_reply(2, r, 2, 0), id="of a log that lost what it promised"),
        pytest.param(lambda r: r.propose(b"x") and beat_reply(2, r, 2, 1), id="it lacks an entry"),
        pytest.param(lambda r: r.read_index(b"r") or beat_reply(2, r, 2, 1), id="a read waits"),
        pytest.param(
            lambda r: r.step(Heartbeat(N2, N1, Term(9)), LATER) or beat_reply(2, r, 2, 1),
            id="no leader any more",
        ),
    ],
)
def test_an_answer_is_not_heard_at_rest_where_more_follows(
    unrest: Callable[[Raft], HeartbeatReply], known: bool
) -> None:
    replica = resting_leader()
    beats = replica.beat(replica.deadline)
    assert beats is not None, "now it is known to be at rest"
    if not known:
        replica._stir()
    reply = unrest(replica)
    before = shape(replica)

    assert not replica.hear(reply, LATER)
    assert {**shape(replica), "times": ()} == {**before, "times": ()}


STIRRING: dict[str, Callable[[Raft], object]] = {
    "timeout": lambda r: r.timeout(r._now),
    "step": lambda r: r.step(beat_reply(2, r, 2, 1), r._now),
    "propose": lambda r: r.propose(b"x"),
    "read_index": lambda r: r.read_index(b"r"),
    "change_members": lambda r: r.change_members(remove=[N3]),
    "transfer": lambda r: r.transfer(N2),
    "persisted": lambda r: r.persisted(Index(1), T1),
    "applied_to": lambda r: r.applied_to(Index(1)),
    "compact": lambda r: r.compact(Index(0)),
    "report_snapshot": lambda r: r.report_snapshot(N2, ok=True),
}
PUBLIC = [name for name, at in vars(Raft).items() if isfunction(at) and name[0] != "_"]
RESTFUL = ("answer", "beat", "hear", "ready", "let_go")


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_core_is_told_ends_what_it_knows_of_its_rest(name: str) -> None:
    """Or a heartbeat would be answered by what was true before."""
    replica = resting_leader()
    assert replica.beat(replica.deadline) is not None and replica._rest is not None

    if name in RESTFUL:
        assert name not in STIRRING
    else:
        STIRRING[name](replica)
        assert replica._rest is None


def test_a_leader_whose_followers_lost_what_they_promised_steps_down() -> None:
    """However well they are heard: they are no majority that it could count on."""
    replica = resting_leader()
    for follower in (N2, N3):
        replica.progress[follower].lost = True

    replica.timeout(replica.deadline)

    assert replica.role is Role.FOLLOWER


def test_one_follower_that_lost_what_it_promised_costs_no_majority() -> None:
    replica = resting_leader()
    replica.progress[N3].lost = True

    replica.timeout(replica.deadline)

    assert replica.role is Role.LEADER


@pytest.mark.parametrize("beats", [43, 81, 86, 91, 162])
def test_the_next_beat_is_later_than_this_one(beats: int) -> None:
    """Also where a multiple of the interval, divided by it, is a little less than the number."""
    every = PRODUCTION.heartbeat_seconds
    assert (beats * every) / every < beats, "nothing is shown"

    replica = leader(1, now=beats * every)

    assert replica.deadline == pytest.approx((beats + 1) * every)


# Deadlines


def test_deadlines_come_in_their_order_and_once() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.note("b", 2.0)
    deadlines.note("a", 1.0)
    deadlines.note("c", 3.0)

    assert deadlines.first == 1.0
    assert list(deadlines.take(2.5)) == ["a", "b"]
    assert list(deadlines.take(2.5)) == []
    assert deadlines.first == 3.0


def test_an_earlier_deadline_counts_and_a_later_one_waits_for_the_look() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.note("a", 5.0)
    deadlines.note("a", 3.0)
    deadlines.note("a", 7.0)

    assert list(deadlines.take(3.0)) == ["a"]
    assert list(deadlines.take(9.0)) == [], "the one that was overtaken is forgotten"


def test_one_that_was_overtaken_does_not_wake_whoever_was_noted_since() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.note("a", 5.0)
    deadlines.note("a", 3.0)
    assert list(deadlines.take(3.0)) == ["a"]
    deadlines.note("a", 8.0)

    assert list(deadlines.take(5.0)) == []
    assert list(deadlines.take(8.0)) == ["a"]


def test_who_never_wants_to_be_woken_is_not() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.note("a", NEVER)

    assert deadlines.first == NEVER
    assert list(deadlines.take(1e9)) == []
