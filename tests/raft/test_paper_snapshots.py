"""Snapshots and compaction: one test for each claim. Reference: Raft (extended), section 7."""

import pytest

from raft.core import Raft
from raft.errors import Compacted
from raft.messages import AppendEntries, AppendReply, Heartbeat, HeartbeatReply, InstallSnapshot
from raft.progress import Sending
from raft.ready import Ready
from raft.types import Index, SnapshotMeta, Term
from tests.support.builders import (
    N1,
    N2,
    N3,
    NOW,
    ack,
    beat_reply,
    core,
    effects,
    entries,
    entry,
    id_of,
    leader,
    log_of,
    membership,
    said,
    snapshot,
)

T1, T2, T3 = Term(1), Term(2), Term(3)
THREE = membership(1, 2, 3)
FOUR = membership(1, 2, 3, 4)


def install(replica: Raft, index: int, term: int, at_term: Term = T3) -> SnapshotMeta:
    meta = snapshot(index, term, FOUR)
    replica.step(InstallSnapshot(N2, replica.id, at_term, meta), NOW)
    return meta


# The follower


@pytest.mark.parametrize(
    "held",
    [
        pytest.param("", id="an empty log"),
        pytest.param("1 1", id="a shorter log"),
        pytest.param("1 1 1 1 2", id="another term at its last index"),
        pytest.param("1 1 1 1 2 2 2 2", id="a longer log that contradicts it"),
    ],
)
def test_a_snapshot_replaces_a_log_that_does_not_hold_its_last_entry(held: str) -> None:
    """Section 7: "the follower discards its entire log"; safeguard C02 (hashicorp/raft#697)."""
    replica = core(1, held, term=2)

    meta = install(replica, 5, 3)
    ready = replica.ready()

    assert (ready.snapshot, ready.entries, ready.committed) == (meta, (), ())
    assert ready.messages == (AppendReply(N1, N2, T3, Index(5)),), "once it is durable"
    assert (replica.log.start, replica.log.last, replica.commit) == (meta, meta.last, 5)
    assert replica.membership == FOUR


def test_a_snapshot_of_what_the_log_holds_commits_it_and_installs_nothing() -> None:
    """Section 7: a prefix of the log; the entries behind it are kept and still valid."""
    replica = core(1, "1 1 2 2", term=2)

    install(replica, 3, 2)
    done = effects(replica)

    assert done.snapshot is None
    assert done.committed == entries("1 1 2")
    assert done.messages == (AppendReply(N1, N2, T3, Index(3)),)
    assert replica.log.last == id_of(4, 2)


def test_an_old_snapshot_changes_nothing() -> None:
    """Safeguard C01: it would take the state machine back in time."""
    replica = core(1, "1 1 2", term=2, applied=3)

    install(replica, 2, 1)

    done = effects(replica)
    assert (done.snapshot, done.messages) == (None, (AppendReply(N1, N2, T3, Index(3)),))


def test_a_snapshot_of_an_old_leader_is_answered_with_the_term() -> None:
    replica = core(1, "1", term=5)

    install(replica, 9, 2)

    assert effects(replica) == Ready(messages=(AppendReply(N1, N2, Term(5)),))


def test_nothing_is_appended_acknowledged_or_campaigned_for_during_an_install() -> None:
    """The log is being replaced: it is silent until `persisted` says the snapshot is durable."""
    replica = core(1, "1")
    meta = install(replica, 5, 3)
    replica.ready()

    replica.step(AppendEntries(N2, N1, T3, meta.last, (entry(6, 3),), Index(6)), NOW)
    replica.step(Heartbeat(N2, N1, T3, Index(5), 4), NOW)
    replica.timeout(NOW + 100)
    assert (replica.ready(), replica.deadline) == (Ready(), float("inf"))

    replica.persisted(*meta.last)
    replica.step(Heartbeat(N2, N1, T3, Index(5), 5), NOW)
    assert said(replica) == [HeartbeatReply(N1, N2, T3, 5, Index(5))]
    assert (replica.applied, replica.deadline < float("inf")) == (5, True)


def test_replication_goes_on_behind_an_installed_snapshot() -> None:
    replica = core(1, "1")
    meta = install(replica, 5, 3)
    effects(replica)

    replica.step(AppendEntries(N2, N1, T3, meta.last, (entry(6, 3),), Index(6)), NOW)
    done = effects(replica)

    assert (done.entries, done.committed) == ((entry(6, 3),), (entry(6, 3),))
    assert done.messages == (AppendReply(N1, N2, T3, Index(6)),)


def test_saves_from_before_the_snapshot_count_for_nothing_after_it() -> None:
    """An old save that ends late must not make entries durable that were dropped."""
    replica = core(1, "1", term=1)
    replica.step(AppendEntries(N2, N1, T1, id_of(1, 1), entries("1 1 1 1 1 1", 1)), NOW)
    replica.ready()
    install(replica, 5, 3)
    replica.ready()

    replica.persisted(Index(7), T1)

    assert replica.log.durable < 5


# Compaction


def test_only_what_was_applied_is_compacted() -> None:
    """Invariant R7."""
    replica = leader(1, "1 1 1")
    assert replica.applied == 4

    assert replica.compact(Index(3)) == snapshot(3, 1, THREE)
    with pytest.raises(AssertionError, match="R7"):
        replica.compact(Index(5))
    with pytest.raises(Compacted):
        replica.log.term(Index(2))


def test_a_compacted_log_still_leads_and_votes() -> None:
    replica = core(1, log=log_of("2 2", snapshot(5, 1, THREE)))

    replica.timeout(replica.deadline)

    assert {m.last for m in said(replica)} == {id_of(7, 2)}  # type: ignore[union-attr]


# The leader


def lagging() -> Raft:
    """A leader whose follower 2 holds nothing, and whose log begins behind that."""
    replica = leader(1, "1 1 1")
    replica.progress[N2].become_probe(Index(5))
    replica.progress[N2].match = Index(0)
    replica.compact(Index(3))
    replica.timeout(replica.deadline)
    effects(replica)
    replica.step(AppendReply(N2, N1, T2, rejected=Index(4), hint=id_of(0, 0)), NOW + 10)
    return replica


def test_a_follower_whose_next_entries_are_compacted_gets_a_snapshot() -> None:
    """Section 7: "when the leader has already discarded the next log entry"; asked for once."""
    replica = lagging()

    done = effects(replica)
    assert (done.send_snapshot, replica.progress[N2].sending) == ((N2,), Sending.SNAPSHOT)

    replica.propose(b"5/2")
    for now in (NOW + 10.2, NOW + 10.3):
        replica.timeout(now)
        token = replica.progress[N2].token + 1
        replica.step(beat_reply(2, replica, token, 0), now)
        done = effects(replica)
        assert done.send_snapshot == (), "while one is on its way, no other (invariant L11)"
        assert not any(isinstance(m, AppendEntries) and m.target == N2 for m in done.early)


def test_a_late_acknowledgement_of_less_begins_no_stream_anew() -> None:
    replica = lagging()
    assert effects(replica).send_snapshot == (N2,)

    replica.step(ack(2, replica, 2), NOW + 10)

    assert effects(replica).send_snapshot == ()
    assert replica.progress[N2].sending is Sending.SNAPSHOT


def test_replication_goes_on_when_the_follower_acknowledges_the_snapshot() -> None:
    replica = lagging()
    effects(replica)

    replica.report_snapshot(N2, True)
    replica.step(ack(2, replica, 4), NOW + 10)
    replica.propose(b"5/2")

    (append, _) = [m for m in said(replica) if isinstance(m, AppendEntries)]
    assert (append.target, append.prev, append.entries) == (N2, id_of(4, 2), (entry(5, 2),))


def test_a_stream_that_failed_is_tried_again_after_a_sign_of_life() -> None:
    """Not at once: a follower that cannot take it must not be flooded."""
    replica = lagging()
    effects(replica)

    replica.report_snapshot(N2, False)
    assert effects(replica).send_snapshot == ()

    replica.timeout(replica.deadline)
    effects(replica)
    replica.step(beat_reply(2, replica, replica.progress[N3].token + 2, 0), NOW + 11)
    assert effects(replica).send_snapshot == (N2,)


def test_a_lost_acknowledgement_of_a_snapshot_is_made_up_by_a_heartbeat() -> None:
    """Found by the random schedules: a follower left alone because its answer was lost. It is
    silent while it installs, so an answer to a heartbeat sent after the stream ended means that
    it has installed the snapshot, or forgot it."""
    for last, again in ((4, False), (0, True)):
        replica = lagging()
        effects(replica)
        replica.report_snapshot(N2, True)
        replica.step(beat_reply(2, replica, replica.progress[N2].token + 1, last), NOW + 10)
        assert said(replica) == [], "that heartbeat left before the stream ended"
        replica.timeout(replica.deadline)
        beat = next(m for m in said(replica) if isinstance(m, Heartbeat) and m.target == N2)

        replica.step(beat_reply(2, replica, beat.token, last), NOW + 11)
        done = effects(replica)

        assert (done.send_snapshot == (N2,)) is again
        probes = [m for m in done.early if isinstance(m, AppendEntries) and m.target == N2]
        assert [probe.prev for probe in probes] == ([] if again else [id_of(4, 2)])


def test_reports_about_strangers_change_nothing() -> None:
    """Nor does a late one about a follower that needs no snapshot any more."""
    replica = leader(1)
    replica.report_snapshot(N2, True)
    replica.report_snapshot(N2, False)
    replica.report_snapshot(Index(9), False)  # type: ignore[arg-type]
    core(1).report_snapshot(N2, True)

    assert replica.progress[N2].sending is Sending.REPLICATE
