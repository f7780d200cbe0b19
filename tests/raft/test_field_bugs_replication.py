"""Replication and commit that went wrong in the field, played on this Raft: one named test a bug.

Each docstring says where the bug was and what happened there. `test_field_bugs_can_fail.py` breaks
this code for each test, and the test must notice.
"""

from raft.codec import decode_membership, encode_membership
from raft.errors import Compacted
from raft.messages import AppendEntries, AppendReply, VoteReply
from raft.types import Entry, EntryKind, Index, Membership, Role, Term
from tests.raft.test_paper import test_figure_8 as figure_8
from tests.support.builders import (
    N1,
    N2,
    NOW,
    ack,
    beat_reply,
    campaign,
    core,
    effects,
    entries,
    id_of,
    leader,
    log_of,
    membership,
    said,
    snapshot,
)
from tests.support.scripted import E, Scripted


def test_figure_8_an_entry_of_an_old_term_on_a_majority_is_not_committed() -> None:
    """Raft (extended), section 5.4.2; LogCabin#44 (2013) and every second course solution: a
    leader that commits an earlier term's entry by counting replicas sees it overwritten later."""
    figure_8()


def test_figure_8_with_disks_and_elections() -> None:
    """The same as a run: leaders come and go so that each leaves an entry that few have, and what
    was once applied stays (R5, R6, R10 at every step)."""
    cluster = Scripted(5)
    for cycle in range(25):
        lead = cluster.led()
        keeps = cluster.rng.choice(cluster.numbers(lead.id))
        for other in cluster.numbers(lead.id, keeps):
            cluster.cut_one_way(lead.id, other)
        cluster.propose(lead, b"few have it, %d" % cycle)
        cluster.run(cluster.rng.choice([0.003, 0.02]))
        cluster.crash(lead)
        cluster.mend()
        if cluster.rng.random() < 0.5:
            cluster.led()
        cluster.start(lead)
    cluster.converge()


def test_etcd_raft_76f1249_a_compacted_term_matches_nothing() -> None:
    """etcd-io/raft 76f1249 (2014): the term of an entry that was compacted, or never there, read
    as 0. A message whose `prev` had no term either then "matched", and entries were appended where
    the logs did not agree; a leader sent such a `prev` instead of a snapshot."""
    follower = core(2, log=log_of("2 2", snapshot(5, 1, membership(1, 2, 3))))
    gap = AppendEntries(N1, N2, Term(2), id_of(9, 0), entries("2", after=9))
    follower.step(gap, NOW)
    (reply,) = [m for m in said(follower) if isinstance(m, AppendReply)]
    assert reply.rejected == 9, "there is no entry 9, and nothing is 0"

    lead = leader(1, "1 1 1 1 1 1")
    lead.compact(Index(4))
    lead.step(AppendReply(N2, N1, lead.term, rejected=Index(7), hint=id_of(1, 1)), NOW + 10)
    done = effects(lead)
    appends = [m for m in done.early if isinstance(m, AppendEntries) and m.target == N2]
    assert all(append.prev.index >= 4 for append in appends)
    try:
        lead.log.term(Index(2))
    except Compacted:
        return
    raise AssertionError("a term that is not known has a value")


def test_etcd_raft_8ecce32_a_page_of_entries_does_not_stand_for_all() -> None:
    """etcd-io/raft 8ecce32: what is committed was handed out in pages of bounded size, and then
    all of it was marked as applied: the rest of it was never seen by the state machine. Here pages
    hold three entries, and a follower comes back to sixty."""
    cluster = Scripted(3)
    cluster.commits(b"before")
    follower = next(n for n in cluster.nodes.values() if n not in cluster.leading())
    cluster.crash(follower)
    for number in range(60):
        cluster.propose(cluster.led(), b"%d" % number * 60)
        cluster.run(0.01)

    cluster.start(follower)

    cluster.agree((1, 2, 3), seconds=10 * E)
    commands = [entry.data for entry in follower.applied if entry.data]
    assert commands == [b"before", *(b"%d" % number * 60 for number in range(60))]


def test_openraft_1501_a_late_rejection_is_no_sign_of_a_lost_log() -> None:
    """openraft#1501 (2025): a heartbeat's check failed at a follower that was behind; its answer
    came late, when the follower had long caught up. The leader took it for a follower whose log
    had gone back, and panicked; with reversion allowed it started again from the beginning
    (etcd#1366 is its ancestor)."""
    lead = leader(1, "1 1 1 1", settled=False)
    early = AppendReply(N2, N1, lead.term, rejected=Index(4), hint=id_of(2, 1))
    lead.step(early, NOW + 10)
    effects(lead)
    lead.step(ack(2, lead, 5), NOW + 10)
    lead.step(ack(3, lead, 5), NOW + 10)
    effects(lead)
    progress = lead.progress[N2]
    before = (progress.match, progress.next, progress.sending)
    assert progress.match == 5

    for late in (early, early._replace(rejected=Index(3)), ack(2, lead, 2)):
        lead.step(late, NOW + 10)
        sent = effects(lead)
        assert not [m for m in (*sent.early, *sent.messages) if m.target == N2]
    lead.step(beat_reply(2, lead, token=0, last=4), NOW + 10)

    assert (progress.match, progress.next, progress.sending) == before
    assert not progress.lost and lead.role is Role.LEADER


def test_tikv_994_an_acknowledged_entry_survives_the_machine() -> None:
    """TiKV#994 (2016): a follower acknowledged entry 10 before its log was on disk, and its machine
    lost power. It came back with 9 entries, the leader's heartbeat said that 10 was committed, and
    it panicked; the leader counted it for what it had not. Here power goes at every twentieth of a
    millisecond after the entry was sent (R9 is checked at every message, R10 at every commit)."""
    for step in range(60):
        cluster = Scripted(3, seed=step)
        cluster.commits(b"before")
        cluster.run(2 * E)
        lead = cluster.leading()[-1]
        follower = cluster.node(cluster.numbers(lead.id)[0])
        cluster.propose(lead, b"entry")
        cluster.run(step * 0.0005)
        cluster.crash(follower)
        cluster.run(0.05)
        cluster.start(follower)
        cluster.agree((1, 2, 3), seconds=10 * E)
        assert any(e.data == b"entry" for e in follower.applied)


def test_camunda_60086_a_recovered_joint_membership_is_committed_before_it_is_left() -> None:
    """camunda#60086 (2026): a leader that found an uncommitted joint membership in its log appended
    the final one at once. In force from the moment it was appended, it made the new members decide
    alone: 1 and 2 scale down to 1, and 2's removal was committed without 2."""
    joint = membership(1, outgoing=(1, 2))._replace(next_id=membership(1, 2).next_id)
    held = [*entries("1"), membership_entry(2, 1, joint)]
    log = log_of("1", at=membership(1, 2))
    log.append(held[1:])
    log.take_unsaved()
    log.persisted(*held[1].id)
    recovered = core(1, log=log, term=1)
    campaign(recovered)
    recovered.step(VoteReply(N2, N1, recovered.term, True), NOW + 10)
    done = effects(recovered)

    assert recovered.role is Role.LEADER and recovered.membership == joint
    assert not settled_by(done.entries) and recovered.commit == 0, "2 has not said a word"

    recovered.step(ack(2, recovered, recovered.log.last.index), NOW + 10)
    assert [m.voters for m in settled_by(effects(recovered).entries)] == [membership(1).voters]


def membership_entry(index: int, term: int, to: Membership) -> Entry:
    return Entry(Index(index), Term(term), EntryKind.MEMBERSHIP, encode_membership(to))


def settled_by(done: tuple[Entry, ...]) -> list[Membership]:
    found = [decode_membership(e.data) for e in done if e.kind is EntryKind.MEMBERSHIP]
    return [at for at in found if not at.outgoing]
