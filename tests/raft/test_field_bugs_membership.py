"""Changes of members that went wrong in the field: one named test a bug.

Each tells what happened there and plays it here, with disks, elections and a network; the cluster
checks the invariants of Raft at each step (`tests/support/raft_sim.py`).
"""

from collections.abc import Callable
from contextlib import suppress

import pytest

from raft.core import Raft
from raft.errors import MembershipBusy, MembershipRefused, NotLeader, TransferRefused
from raft.membership import in_change
from raft.messages import AnyMessage, AppendEntries, AppendReply, TimeoutNow, VoteReply
from raft.types import EntryKind, Membership, NodeId, ReplicaId, Role
from tests.support.builders import member
from tests.support.raft_sim import Node
from tests.support.scripted import E, Scripted


def core_of(node: Node) -> Raft:
    assert node.core is not None, f"replica {node.id} is down"
    return node.core


def change(
    cluster: Scripted, node: Node, *, add: tuple[int, ...] = (), remove: tuple[int, ...] = ()
) -> None:
    """Ask a leader for a change; added replicas get the next ids, so name those."""
    core = core_of(node)
    assert [core.membership.next_id + at for at in range(len(add))] == list(add)
    core.change_members(
        add=[(NodeId(member(id).node), member(id).address) for id in add],
        remove=[ReplicaId(id) for id in remove],
    )
    cluster.turn(node)


def voters_of(membership: Membership) -> list[int]:
    return [int(voter.id) for voter in membership.voters]


def settled(cluster: Scripted, voters: list[int], seconds: float = 40 * E) -> None:
    """Until the leader's membership is this one, committed, with no change under way."""

    def so() -> bool:
        lead = cluster.leading()
        if not lead:
            return False
        core = core_of(lead[-1])
        return (
            voters_of(core.membership) == voters
            and not in_change(core.membership)
            and core.log.membership_index <= core.commit
        )

    cluster.until(so, seconds, f"L5: the members do not become {voters}")


def led_by(cluster: Scripted, number: int) -> Node:
    """Let this one lead."""
    node = cluster.node(number)
    for _ in range(30):
        lead = cluster.led()
        if lead is node:
            cluster.until(
                lambda: core_of(node).commit == core_of(node).log.last.index, E, "its own commit"
            )
            return node
        with suppress(TransferRefused):
            core_of(lead).transfer(node.id)
        cluster.turn(lead)
        cluster.run(E)
    raise AssertionError(f"{number} does not come to lead")


def membership_appends_to(*targets: int) -> Callable[[AnyMessage], bool]:
    """Whether a message brings a change of members to one of these."""

    def brings(message: AnyMessage) -> bool:
        return (
            isinstance(message, AppendEntries)
            and message.target in targets
            and any(entry.kind is EntryKind.MEMBERSHIP for entry in message.entries)
        )

    return brings


# redpanda#17675


def test_redpanda_17675_two_of_three_replaced_in_quick_order_under_partition() -> None:
    """redpanda#17675 (2024): a leader that was cut off from two of its three voters took two
    changes, one after the other, before the first was committed. The voters that they added were
    on its side of the partition, so it counted them to a majority, while the other two voters
    elected a leader of their own: two leaders that both committed."""
    cluster = Scripted(3, spare=2)
    one = led_by(cluster, 1)
    cluster.cut_off(2, [1, 4, 5])
    cluster.cut_off(3, [1, 4, 5])

    change(cluster, one, add=(4,), remove=(2,))
    with pytest.raises(MembershipBusy, match="not committed yet"):
        change(cluster, one, add=(5,), remove=(3,))
    for _ in range(30):  # and again and again, while it believes that it leads
        cluster.run(0.05)
        try:
            change(cluster, one, add=(5,), remove=(3,))
        except (MembershipRefused, NotLeader):
            continue
        raise AssertionError("R11: two changes at once")
    other = cluster.commits(b"by the other side")

    assert other.id in (2, 3)
    assert core_of(one).role is not Role.LEADER, "no majority answered it"
    assert core_of(one).commit < core_of(one).log.membership_index, "nothing of it was committed"
    cluster.mend()
    cluster.agree((1, 2, 3))
    assert voters_of(core_of(one).membership) == [1, 2, 3], "the change was undone"

    # One after the other, each when the one before is done, it is no trouble at all.
    change(cluster, led_by(cluster, 1), add=(4,), remove=(2,))
    settled(cluster, [1, 3, 4])
    change(cluster, cluster.led(), add=(5,), remove=(3,))
    settled(cluster, [1, 4, 5])
    cluster.commits(b"by the new ones")


@pytest.mark.parametrize("until_joint", [False, True], ids=["as learners", "in the joint change"])
def test_two_of_three_replaced_by_one_change_when_a_partition_comes(until_joint: bool) -> None:
    """The same replacement as one change: {1, 2, 3} to {1, 4, 5}. While it is joint, 1, 4 and 5
    are a majority of the new voters only, 2 and 3 of the old ones only: neither is enough."""
    cluster = Scripted(3, spare=2)
    one = led_by(cluster, 1)
    change(cluster, one, add=(4, 5), remove=(2, 3))
    if until_joint:
        # Let the learners catch up, and keep the joint membership itself from the old voters.
        cluster.lost = lambda m: (
            membership_appends_to(2, 3)(m) and bool(core_of(one).membership.outgoing)
        )
        cluster.until(lambda: bool(core_of(one).membership.outgoing), 5 * E, "never joint")
    cluster.cut_off(2, [1, 4, 5])
    cluster.cut_off(3, [1, 4, 5])
    cluster.run(5 * E)

    assert core_of(one).role is not Role.LEADER
    assert all(node.core is None or node.id in (2, 3) for node in cluster.leading())
    other = cluster.commits(b"by the old voters")
    assert other.id in (2, 3)
    cluster.lost = lambda m: False
    cluster.mend()
    cluster.agree((1, 2, 3))
    lead = cluster.led()
    if voters_of(core_of(lead).membership) == [1, 2, 3] and not in_change(core_of(lead).membership):
        change(cluster, led_by(cluster, 1), add=(4, 5), remove=(2, 3))
    settled(cluster, [1, 4, 5])


# Ongaro 2015


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param({"add": (5,)}, {"remove": (4,)}, id="one added, one removed"),
        pytest.param({"add": (5,)}, {"add": (5,)}, id="two added"),
        pytest.param({"remove": (4,)}, {"remove": (3,)}, id="two removed"),
    ],
)
def test_ongaro_2015_no_change_before_a_commit_of_ones_own_term(
    first: dict[str, tuple[int, ...]], second: dict[str, tuple[int, ...]]
) -> None:
    """The bug of single-server changes (raft-dev, July 2015). S1 of four appends a change and
    reaches nobody. S2 leads the next term from the log before it and changes the members too; with
    a majority that S1's need not meet. S1 then leads again and commits its own: two disjoint
    majorities, and a committed change is overwritten. The rule: S2 waits until an entry of its own
    term is committed, after which S1 can win no election."""
    cluster = Scripted(4, spare=2)
    s1 = led_by(cluster, 1)
    cluster.lost = membership_appends_to(2, 3, 4, 5, 6)
    change(cluster, s1, **first)
    lonely = core_of(s1).log.last
    cluster.cut_off(1)
    cluster.lost = lambda m: isinstance(m, AppendReply)  # S2 cannot commit anything for a while
    cluster.until(
        lambda: bool(cluster.leading()) and cluster.leading()[-1].id != 1, 20 * E, "L1: no S2"
    )
    s2 = cluster.leading()[-1]
    with pytest.raises(MembershipBusy, match="no entry of this leader's term"):
        change(cluster, s2, **second)

    cluster.lost = lambda m: False
    cluster.until(lambda: core_of(s2).commit == core_of(s2).log.last.index, 5 * E, "own commit")
    change(cluster, s2, **second)
    committed = core_of(s2).log.id_at(core_of(s2).commit)
    refusers = [n for n in (2, 3, 4) if cluster.node(n).image.holds(committed)]
    assert len(refusers) >= 2, "two of these three refuse: S1 has no majority of four"
    for number in refusers:
        assert not lonely.is_up_to_date_with(cluster.node(number).image.last())
    cluster.mend()
    cluster.run(5 * E)
    wanted = {1, 2, 3, 4, *second.get("add", ())} - {*second.get("remove", ())}
    settled(cluster, sorted(wanted))
    assert not core_of(s1).log.holds(lonely), "what was never committed is gone"
    cluster.commits(b"after")


# openraft#1808


def test_openraft_1808_a_snapshot_replaces_a_membership_that_was_never_committed() -> None:
    """openraft#1808 (2026): B, leader for a moment, appended a membership that was never committed.
    The others went on without it and cut their logs. The snapshot that B got then ended past that
    entry, but its own membership had a lower index, and so B took its stale one for the newer:
    it believed in voters that there were not, won an election by them, and overwrote what the
    real majority had committed."""
    cluster = Scripted(3, spare=2)
    b = led_by(cluster, 1)
    cluster.cut_off(1, [2, 3])
    change(cluster, b, add=(4, 5), remove=(2, 3))  # 4 and 5 are on its side
    stale = core_of(b).log.membership_index
    cluster.until(lambda: core_of(b).role is not Role.LEADER, 5 * E, "it lost its majority")
    lead = None
    for number in range(12):
        lead = cluster.commits(b"%d without b" % number)
    assert lead is not None
    cluster.agree((2, 3))
    for number in (2, 3):
        node = cluster.node(number)
        cluster.until(lambda node=node: not node.saves, E, "saved")  # type: ignore[misc]
        core = core_of(node)
        start = core.compact(core.applied)
        node.image.entries = []
        node.image.start, node.image.state = start, tuple(node.applied)
        assert start.last.index > stale

    cluster.mend()
    cluster.agree((1, 2, 3))
    assert cluster.snapshots_installed >= 1, "it needed the snapshot"
    assert core_of(b).membership == core_of(cluster.node(2)).membership
    assert voters_of(core_of(b).membership) == [1, 2, 3]

    # Alone with those that it once believed to be voters, it leads nobody.
    cluster.cut_off(1, [2, 3])
    before = cluster.elections
    cluster.run(10 * E)
    assert core_of(b).role is not Role.LEADER
    assert cluster.commits(b"by the real majority").id in (2, 3)
    assert cluster.elections >= before


# openraft#1796


def test_openraft_1796_six_voters_in_a_joint_change_elect_somebody() -> None:
    """openraft#1796 (2026): a leader of six voters began to remove the sixth. The joint entry
    reached half of them, which so had the longest log; the other half had a candidate, and so the
    highest term. With PreVote the first half was refused for its term, and never heard of the
    higher one; the second for its log. Nobody ever led again."""
    cluster = Scripted(6)
    leader = led_by(cluster, 1)
    cluster.lost = membership_appends_to(4, 5, 6)
    change(cluster, leader, remove=(6,))
    cluster.until(
        lambda: all(bool(core_of(cluster.node(n)).membership.outgoing) for n in (1, 2, 3)),
        E,
        "the joint entry on half of the voters",
    )
    for number in (4, 5, 6):
        cluster.cut_off(number, [1, 2, 3])
    term = core_of(leader).term
    four = cluster.node(4)
    core_of(four).step(TimeoutNow(leader.id, four.id, term), cluster.now)  # it was on its way
    cluster.turn(four)
    cluster.run(3 * E)
    assert not cluster.leading(), "neither half is a majority of six"
    assert all(core_of(cluster.node(n)).term > term for n in (4, 5, 6)), "the highest term"
    assert all(core_of(cluster.node(n)).term == term for n in (2, 3)), "the longest log"

    cluster.lost = lambda m: False
    cluster.mend()
    cluster.led(seconds=12 * E)
    cluster.commits(b"after")
    lead = cluster.led()
    assert lead.id in (1, 2, 3), "only they can win"
    settled(cluster, [1, 2, 3, 4, 5])


# A leader that dies around its change


def _appended(core: Raft) -> bool:
    return in_change(core.membership)


def _left_joint(core: Raft) -> bool:
    return voters_of(core.membership) == [1, 3, 4] and not in_change(core.membership)


CRASHES: list[tuple[str, Callable[[Raft], bool]]] = [
    ("appended, nowhere durable", _appended),
    ("committed, the learner has nothing", lambda core: _appended(core) and _committed(core)),
    ("joint appended", lambda core: bool(core.membership.outgoing)),
    ("joint committed, and so left", _left_joint),
    ("all committed", lambda core: _left_joint(core) and _committed(core)),
]


def _committed(core: Raft) -> bool:
    return core.log.membership_index <= core.commit


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays down"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("point", CRASHES, ids=[name for name, _ in CRASHES])
def test_a_leader_that_dies_around_its_change(
    point: tuple[str, Callable[[Raft], bool]], seed: int, comes_back: bool
) -> None:
    """G1 of the fault matrix: n4 for n2, and the leader dies before and after each append and each
    commit of it. Whoever leads next carries the wish on if it is in its log, and else it never was:
    then the operator asks again. Never two truths, never a change that hangs."""
    cluster = Scripted(3, spare=1, seed=seed)
    one = led_by(cluster, 1)
    change(cluster, one, add=(4,), remove=(2,))
    core = core_of(one)
    if "learner" in point[0]:
        cluster.lost = lambda m: m.target == 4
    steps = 0
    while not point[1](core):
        cluster.run(0.0005)
        steps += 1
        assert steps < 20_000, point[0]
    cluster.crash(one)
    cluster.lost = lambda m: False

    cluster.commits(b"without it")
    if comes_back:
        cluster.start(one)
    cluster.run(2 * E)
    lead = cluster.led()
    now = core_of(lead).membership
    if voters_of(now) == [1, 2, 3] and not in_change(now):
        assert core_of(lead).membership.next_id == 4, "the id was not given"
        change(cluster, lead, add=(4,), remove=(2,))
    settled(cluster, [1, 3, 4])
    cluster.commits(b"after")
    if not comes_back:
        cluster.start(one)
    cluster.agree((1, 3, 4))


# A leader that is removed while it is away


@pytest.mark.parametrize("away", [2, 25], ids=["while it is still told", "long after"])
def test_a_leader_is_removed_while_it_is_cut_off_and_returns(away: int) -> None:
    """G4: it is a voter, and a leader, by its own log. Back again it must depose nobody and lead
    nobody; while its former group still tells it, it learns that it is out, and falls silent."""
    cluster = Scripted(3)
    one = led_by(cluster, 1)
    cluster.cut_off(1)
    assert cluster.propose(one, b"nobody hears it")
    cluster.until(
        lambda: bool(cluster.leading()) and cluster.leading()[-1].id != 1, 20 * E, "L1: nobody"
    )
    other = cluster.leading()[-1]
    cluster.until(lambda: core_of(other).commit == core_of(other).log.last.index, 2 * E, "commit")
    change(cluster, other, remove=(1,))
    settled(cluster, [2, 3])
    cluster.run(away * E)
    assert core_of(one).role is not Role.LEADER, "no majority answered it"
    term, elections = core_of(other).term, cluster.elections

    cluster.mend()
    cluster.run(15 * E)

    assert (core_of(other).term, cluster.elections) == (term, elections), "L9: it disturbs nobody"
    assert core_of(other).role is Role.LEADER
    assert core_of(one).role is not Role.LEADER
    assert all(entry.data != b"nobody hears it" for entry in other.applied)
    if away < 10:
        assert core_of(one).removed and core_of(one).deadline == float("inf")
        assert all(entry.data != b"nobody hears it" for entry in one.applied)
    cluster.commits(b"after")


# A transfer, a change and a crash


@pytest.mark.parametrize("seed", range(24))
def test_a_transfer_a_change_and_a_crash_at_once(seed: int) -> None:
    """G9: n4 for n2 under way, the leadership handed to 3 in the middle of it, and one of the two
    dies at some moment. R16: a hand-over ends within E; L5: the change comes to its end, by
    whoever leads then."""
    cluster = Scripted(3, spare=1, seed=seed)
    one = led_by(cluster, 1)
    change(cluster, one, add=(4,), remove=(2,))
    cluster.run(cluster.rng.uniform(0, 0.08))
    with suppress(TransferRefused, NotLeader):
        core_of(one).transfer(ReplicaId(3))
    cluster.turn(one)
    cluster.run(cluster.rng.uniform(0, 0.06))
    victim = cluster.node(cluster.rng.choice((1, 3)))
    cluster.crash(victim)
    cluster.run(2 * E)
    for lead in cluster.leading():
        assert core_of(lead).transfer_target == 0, "R16: a hand-over outlives E"
    cluster.commits(b"meanwhile")
    cluster.start(victim)
    lead = cluster.led()
    if voters_of(core_of(lead).membership) == [1, 2, 3] and not in_change(core_of(lead).membership):
        cluster.until(lambda: core_of(lead).commit == core_of(lead).log.last.index, E, "commit")
        change(cluster, lead, add=(4,), remove=(2,))
    settled(cluster, [1, 3, 4])
    cluster.commits(b"after")
    cluster.agree((1, 3, 4))


def test_votes_of_the_new_voters_alone_elect_nobody_in_a_joint_change() -> None:
    """async-raft#62 (2020): one count over both sets of voters. Here 1, 4 and 5 would be three of
    five, and lead while 2 and 3, who know nothing of the change, lead too."""
    cluster = Scripted(3, spare=2)
    one = led_by(cluster, 1)
    change(cluster, one, add=(4, 5), remove=(2, 3))
    cluster.lost = lambda m: (
        membership_appends_to(2, 3)(m) and bool(core_of(one).membership.outgoing)
    )
    cluster.until(
        lambda: all(bool(core_of(cluster.node(n)).membership.outgoing) for n in (1, 4, 5)),
        5 * E,
        "joint on 1, 4, 5",
    )
    cluster.cut_off(2, [1, 4, 5])
    cluster.cut_off(3, [1, 4, 5])
    granted: list[VoteReply] = []
    cluster.lost = lambda m: (
        granted.append(m) or False if isinstance(m, VoteReply) and m.granted else False
    )
    cluster.run(20 * E)

    assert granted, "they do vote for each other"
    assert all(node.id in (2, 3) for node in cluster.leading())
