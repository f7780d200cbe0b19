"""How a leader sends: probe, stream, window; and bounds of bytes everywhere.

Every entry travels once to each follower while nothing is lost, and a lost one is found out.
"""

from dataclasses import replace

import pytest

from raft.config import Mode, RaftConfig
from raft.core import Raft
from raft.errors import Overloaded
from raft.messages import AppendEntries, AppendReply, Heartbeat
from raft.progress import Sending
from raft.ready import Ready
from raft.types import Entry, Index, Term
from tests.support.builders import (
    LAB,
    N1,
    N2,
    N3,
    NOW,
    PRODUCTION,
    ack,
    beat_reply,
    core,
    effects,
    elect,
    entries,
    entry,
    id_of,
    leader,
    membership,
)

TWO = membership(1, 2)
T1 = Term(1)


def appends(done: Ready, to: int = N2) -> list[AppendEntries]:
    return [m for m in done.early if isinstance(m, AppendEntries) and m.target == to]


def sent(done: Ready, to: int = N2) -> list[Entry]:
    return [e for append in appends(done, to) for e in append.entries]


def propose(replica: Raft, *numbers: int) -> Ready:
    for number in numbers:
        replica.propose(b"%d/%d" % (number, replica.term))
    return effects(replica)


def beat(replica: Raft) -> int:
    """Let it send heartbeats; the token of the one for replica 2."""
    replica.timeout(replica.deadline)
    done = effects(replica)
    return next(m.token for m in done.early if isinstance(m, Heartbeat) and m.target == N2)


def test_a_follower_that_keeps_up_gets_each_entry_as_it_comes() -> None:
    """Optimistic pipelining: nothing waits for an acknowledgement."""
    replica = leader(1, voters=TWO)

    got = [sent(propose(replica, n)) for n in (2, 3, 4)]

    assert got == [[entry(2, 1)], [entry(3, 1)], [entry(4, 1)]]


def test_a_probe_waits_for_its_answer() -> None:
    """Where the logs agree is not known yet: one message, not a flood of wrong ones."""
    replica = core(1, voters=TWO)
    first = elect(replica)
    assert len(appends(first)) == 1

    assert appends(propose(replica, 2)) == []
    assert appends(propose(replica, 3)) == []

    replica.step(ack(2, replica, 1), NOW + 10)
    assert sent(effects(replica)) == list(entries("1 1", after=1))


def test_a_lost_probe_is_repeated_without_its_entries_when_a_later_heartbeat_is_answered() -> None:
    replica = core(1, voters=TWO)
    elect(replica)
    token = beat(replica)

    replica.step(beat_reply(2, replica, token, 0), NOW + 10)
    (repeated,) = appends(effects(replica))
    assert (repeated.prev, repeated.entries) == (id_of(0, 0), ())

    replica.step(ack(2, replica, 0), NOW + 10)
    assert len(sent(effects(replica))) == 1, "then the entries, once more"


def test_an_answer_to_a_heartbeat_from_before_the_probe_proves_nothing() -> None:
    replica = core(1, voters=TWO, config=LAB)
    elect(replica)

    replica.step(beat_reply(2, replica, 0, 0), NOW + 10)

    assert appends(effects(replica)) == []


def test_a_lost_append_is_found_by_a_bare_message_and_sent_again() -> None:
    replica = leader(1, voters=TWO)
    assert sent(propose(replica, 2, 3)) == list(entries("1 1", after=1))
    token = beat(replica)

    replica.step(beat_reply(2, replica, token, 1), NOW + 10)
    (recheck,) = appends(effects(replica))
    assert (recheck.prev, recheck.entries) == (id_of(3, 1), ()), "is it lost, or only slow?"

    lost = AppendReply(N2, N1, T1, rejected=Index(3), hint=id_of(1, 1))
    replica.step(lost, NOW + 10)
    assert sent(effects(replica)) == list(entries("1 1", after=1))
    replica.step(ack(2, replica, 3), NOW + 10)
    assert replica.commit == 3


def test_a_slow_append_is_not_sent_again() -> None:
    """A follower's disk may take longer than a heartbeat; bytes are sent once (lab limit 3B)."""
    replica = leader(1, voters=TWO)
    propose(replica, 2, 3)
    total: list[Entry] = []
    for _ in range(5):
        token = beat(replica)
        replica.step(beat_reply(2, replica, token, 1), NOW + 10)
        total += sent(effects(replica))

    replica.step(ack(2, replica, 3), NOW + 10)

    assert (total, replica.commit) == ([], 3)


def test_one_rejection_is_followed_once() -> None:
    """Of a burst behind a lost message each is rejected; only the first moves anything."""
    replica = leader(1, voters=TWO)
    for n in (2, 3, 4, 5):
        propose(replica, n)

    again: list[Entry] = []
    for prev in (2, 3, 4):
        rejection = AppendReply(N2, N1, T1, rejected=Index(prev), hint=id_of(1, 1))
        replica.step(rejection, NOW + 10)
        again += sent(effects(replica))

    assert again == list(entries("1 1 1 1", after=1))


def test_a_rejection_that_comes_seconds_late_changes_nothing() -> None:
    """Long reordering: it was answered long ago, and following it would send all again."""
    replica = leader(1, voters=TWO)
    propose(replica, 2, 3)
    replica.step(ack(2, replica, 3), NOW + 10)
    propose(replica, 4)

    for prev in (0, 1, 2, 9):
        rejection = AppendReply(N2, N1, T1, rejected=Index(prev), hint=id_of(0, 0))
        replica.step(rejection, NOW + 12)

    progress = replica.progress[N2]
    assert (progress.match, progress.next, progress.sending) == (3, 5, Sending.REPLICATE)
    assert appends(effects(replica)) == []


def test_a_rejection_never_moves_next_to_or_below_what_is_acknowledged() -> None:
    replica = core(1, "1 1 1", voters=TWO)
    elect(replica)
    replica.progress[N2].match = Index(2)

    rejection = AppendReply(N2, N1, replica.term, rejected=Index(3), hint=id_of(0, 0))
    replica.step(rejection, NOW + 10)

    assert replica.progress[N2].next == 3


def test_a_rejection_of_what_was_acknowledged_is_not_answered_with_the_same_again() -> None:
    """Late, or of a replica that lost data: either way not a message for a message for ever."""
    replica = leader(1, voters=TWO)
    propose(replica, 2)
    propose(replica, 3)
    lost = AppendReply(N2, N1, T1, rejected=Index(2), hint=id_of(1, 1))
    replica.step(lost, NOW + 10)
    (probe,) = appends(effects(replica))
    assert probe.prev == id_of(1, 1)

    rejection = AppendReply(N2, N1, T1, rejected=Index(1), hint=id_of(0, 0))
    replica.step(rejection, NOW + 10)

    assert appends(effects(replica)) == []


def test_the_window_bounds_messages_in_flight() -> None:
    """Invariant B3."""
    replica = leader(1, voters=TWO, config=replace(PRODUCTION, inflight_messages_max=2))

    got = [len(sent(propose(replica, n))) for n in (2, 3, 4, 5)]
    assert got == [1, 1, 0, 0]

    replica.step(ack(2, replica, 2), NOW + 10)
    assert sent(effects(replica)) == list(entries("1 1", after=3)), "what gathered goes together"


def test_the_window_bounds_bytes_in_flight() -> None:
    config = replace(PRODUCTION, inflight_bytes_max=100, append_bytes_max=100)
    replica = leader(1, voters=TWO, config=config)
    for _ in range(5):
        replica.propose(b"x" * 60)

    assert len(sent(effects(replica))) == 2, "the one that passes the bound is the last"

    replica.step(ack(2, replica, 3), NOW + 10)
    assert len(sent(effects(replica))) == 2


def test_an_append_is_bounded_by_bytes_or_one_entry() -> None:
    config = replace(PRODUCTION, append_bytes_max=300)
    replica = leader(1, voters=TWO, config=config)
    for size in (100, 100, 1000, 10):
        replica.propose(b"x" * size)

    got = [[len(e.data) for e in append.entries] for append in appends(effects(replica))]

    assert got == [[100], [100], [1000], [10]], "a counted entry is its data and 64 bytes"


def test_followers_at_the_same_place_share_one_slice() -> None:
    """The same tuple object: the codec and the log do the work once."""
    replica = leader(1)

    done = propose(replica, 2)

    assert appends(done, N2)[0].entries is appends(done, N3)[0].entries


def test_each_entry_travels_once_to_each_follower_without_loss() -> None:
    """Lab 3B: ten commands of 5,000 bytes to two followers may cost 200 kB, and need 100."""
    leads = leader(1, config=LAB)
    followers = {n: core(n, config=LAB) for n in (N2, N3)}
    for follower in followers.values():
        follower.step(AppendEntries(N1, follower.id, T1, id_of(0, 0), leads.log.slice(
            Index(1), Index(2), 1 << 20), Index(1)), NOW)  # fmt: skip
        effects(follower)
    bytes_sent, messages_sent, now = 0, 0, NOW + 10
    for number in range(10):
        leads.propose(b"%d" % number * 5000)
        for _ in range(6):  # message rounds, a heartbeat among them
            now += 0.03
            if now >= leads.deadline:
                leads.timeout(now)
            for message in effects(leads, now).early:
                if isinstance(message, AppendEntries):
                    bytes_sent += sum(len(e.data) for e in message.entries)
                    messages_sent += 1
                follower = followers[message.target]
                follower.step(message, now)
                for reply in effects(follower, now).messages:
                    leads.step(reply, now)

    assert leads.commit == 11
    assert bytes_sent == 2 * 10 * 5000
    assert messages_sent == 2 * 10, "a raised commit index rides on what is sent anyway"


# Bounds of memory


def test_proposals_beyond_the_bound_are_refused_until_something_commits() -> None:
    """Invariant B2: back to 0 when all is committed."""
    replica = leader(1, voters=TWO, config=replace(PRODUCTION, uncommitted_bytes_max=100))
    replica.propose(b"x" * 60)
    replica.propose(b"x" * 40)
    with pytest.raises(Overloaded, match="100 bytes wait for commit, 100 may"):
        replica.propose(b"x")
    effects(replica)

    replica.step(ack(2, replica, 3), NOW + 10)

    assert replica.propose(b"x" * 1000) is not None, "one alone is always taken"
    with pytest.raises(Overloaded):
        replica.propose(b"x")


def test_committed_entries_wait_in_the_log_while_the_machine_lags() -> None:
    config = replace(PRODUCTION, unapplied_bytes_max=1, append_bytes_max=1)
    replica = leader(1, voters=membership(1), config=config)
    for n in (2, 3):
        replica.propose(b"%d/1" % n)
    ready = replica.ready()
    replica.persisted(*ready.entries[-1].id)
    assert replica.commit == 3

    assert replica.ready().committed == entries("1", after=1)
    assert replica.ready().committed == ()
    replica.applied_to(Index(2))
    assert replica.ready().committed == entries("1", after=2)


def test_a_page_never_skips_what_it_did_not_hold() -> None:
    """Safeguard B20 (etcd-io/raft 8ecce32): applied := commit though one page was applied."""
    replica = core(1, "1 1 1 1 1", voters=TWO, config=replace(PRODUCTION, append_bytes_max=150))
    replica.step(Heartbeat(N2, N1, T1, Index(5)), NOW)

    pages = []
    while ready := replica.ready():
        pages.append(ready.committed)

    assert len(pages) > 1
    assert tuple(e for page in pages for e in page) == entries("1 1 1 1 1")


def test_applying_out_of_order_is_a_broken_invariant() -> None:
    replica = core(1, "1 1", voters=TWO)

    with pytest.raises(AssertionError, match="in order"):
        replica.applied_to(Index(1))


# Configuration


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"election_seconds_min": 0.29}, r"election_seconds_min \(0.29\) must be at least 3 x"),
        ({"election_seconds_max": 0.5}, r"election_seconds_max \(0.5\) must be above"),
        ({"heartbeat_seconds": 0.0}, "heartbeat_seconds must be a positive number"),
        ({"heartbeat_seconds": float("nan")}, "heartbeat_seconds must be a positive number"),
        ({"append_bytes_max": 0}, "append_bytes_max must be at least 1, not 0"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.split()[0],
)
def test_a_configuration_that_cannot_work_is_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RaftConfig(**fields)  # type: ignore[arg-type]


def test_an_unwise_configuration_is_allowed_and_warned_about() -> None:
    assert RaftConfig().warnings() == ()
    (warning,) = RaftConfig(election_seconds_min=0.4).warnings()
    assert "below 5 x heartbeat_seconds" in warning


def test_the_switch_has_two_positions() -> None:
    assert RaftConfig().checks_quorum
    assert not RaftConfig(mode=Mode.LAB).checks_quorum
