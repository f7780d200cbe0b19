"""Elections that went wrong in the field, played on this Raft: one named test a bug.

Each docstring says where the bug was and what happened there. `test_field_bugs_can_fail.py` breaks
this code for each test, and the test must notice.
"""

import asyncio

import pytest

from labrpc.sim.loop import run
from raft.disk.records import ReplicaRecord
from raft.messages import AppendEntries, Heartbeat
from raft.types import NodeId, ReplicaId, Role, Term
from tests.raft.test_safeguards import LONG_LOGS, QUICK, led, others
from tests.support.builders import N1, N2, NOW, effects, leader
from tests.support.chaos import ChaosNode, ChaosWorld, Knobs
from tests.support.hosts import GID, UUID, ledger
from tests.support.scripted import E, Scripted

EIGHT = [
    (victim, sends, peers)
    for victim in ("leader", "follower")
    for sends in (True, False)
    for peers in ("all", "one")
]


def test_etcd_8243_a_node_with_a_small_term_does_not_hold_up_the_election() -> None:
    """etcd#8243 (2017, PreVote): C was cut off in term 1 while A and B went on to term 5. C came
    back at the moment in which the leader B crashed. A ignored C's messages for their low term,
    and C's term did not rise by A's pre-votes: no pre-vote ever succeeded, nobody led."""
    cluster = Scripted(3)
    cluster.led()
    cut_off = next(n for n in (1, 2, 3) if cluster.node(n) is not cluster.leading()[-1])
    cluster.cut_off(cut_off)
    while True:
        left = cluster.led()
        assert left.core is not None
        if left.core.term >= 5:
            break
        cluster.crash(left)
        cluster.run(0.01)
        cluster.start(left)
        cluster.run(2 * E)
    small = cluster.node(cut_off).core
    assert small is not None and small.term < 5 and left.core is not None

    cluster.mend()
    cluster.crash(left)

    assert cluster.led().id not in (left.id, cut_off), "only the third can win: it has the log"
    cluster.commits(b"after")


def test_etcd_8501_a_node_with_a_large_term_and_a_short_log_is_taken_back() -> None:
    """etcd#8501 (2017): while replicas were restarted with PreVote, one was left in a higher term
    with a shorter log. It could win no vote, and dropped its leader's messages for their low term
    without a word: it was out for ever, and with a second one so was the group."""
    cluster = Scripted(3)
    first = cluster.commits(b"before")
    follower = next(n for n in cluster.nodes.values() if n not in cluster.leading())
    cluster.crash(follower)
    cluster.commits(b"while it is down")
    follower.image.hard_state = follower.image.hard_state._replace(
        term=Term(follower.image.hard_state.term + 5), vote=ReplicaId(0)
    )

    cluster.start(follower)

    assert first.core is not None
    cluster.commits(b"after")
    cluster.agree((1, 2, 3), seconds=20 * E)


def test_hashicorp_695_a_heartbeat_changes_no_term_behind_the_leaders_back() -> None:
    """hashicorp/raft#695 (2026): heartbeats were handled on the thread of the transport. One of a
    higher term, between the leader's look at its term and its append, made the leader write and
    send its client's entry in a term that another node led: logs differed under one (index, term),
    committed entries were lost."""
    old = leader(1)
    term = old.term
    placed = old.propose(b"the client's")

    old.step(Heartbeat(N2, N1, Term(term + 1)), NOW + 11)
    done = effects(old, NOW + 11)

    assert placed is not None and old.log.id_at(placed.index).term == term
    assert not [m for m in (*done.early, *done.messages) if isinstance(m, AppendEntries)]
    assert old.role is Role.FOLLOWER and old.propose(b"late") is None


@pytest.mark.parametrize("seed", range(4))
def test_hashicorp_695_partitions_that_heal_while_clients_write(seed: int) -> None:
    """hashicorp/raft#695, as Antithesis came upon it: the old leader of a partition that heals
    hears its successor's heartbeats while it serves clients. R3, R5, R6 and R17 are checked at
    every step."""
    cluster = Scripted(3, seed=seed)
    for cycle in range(12):
        cluster.led()
        old = cluster.leading()[-1]
        cluster.cut_off(old.id)
        cluster.until(lambda o=old: cluster.leading()[-1] is not o, 20 * E, "L1")  # type: ignore[misc]
        cluster.mend()
        for beat in range(25):  # both believe to lead for a moment, and both are asked
            for node in cluster.nodes.values():
                cluster.propose(node, b"%d/%d/%d" % (cycle, beat, node.id))
            cluster.run(0.004)
    cluster.converge()


def test_scylladb_10618_a_leader_that_leaves_votes_for_itself() -> None:
    """scylladb#10618 (2022): A was the only voter and appended the joint membership that makes B
    the voter in its place; the link broke, A gave up its leadership, and B had not the entry. A
    alone could win, and did not vote for itself because it was no voter of the new membership:
    leaderless for ever, also when the link was mended."""
    cluster = Scripted(1, spare=1)
    a = cluster.led()
    assert a.core is not None
    cluster.commits(b"before")
    core = a.core
    cluster.lost = lambda message: bool(core.membership.outgoing)  # the link breaks then
    core.change_members(add=[(NodeId("n2"), "n2:1")], remove=[N1])
    cluster.turn(a)
    cluster.until(lambda: bool(core.membership.outgoing), 10, "no joint membership")
    cluster.until(lambda: not cluster.leading(), 10 * E, "A leads on without B")
    cluster.run(5 * E)

    cluster.lost = lambda message: False

    cluster.until(lambda: cluster.leading() == [cluster.node(2)], 60 * E, "L5: not B")
    cluster.commits(b"after")


def test_howard_2020_five_nodes_of_which_some_hear_only_one() -> None:
    """Howard and Abraham 2020, and six hours of Cloudflare's outage: 1, 2 and 3 see each other, 4
    sees only 2 and 5 only 3. Without PreVote and CheckQuorum 4 and 5, which hear no leader, drive
    the terms up and depose each: none lasts. Here one does, from 20 E on."""
    cluster = Scripted(5)
    cluster.led()
    cluster.only_links((1, 2), (1, 3), (2, 3), (2, 4), (3, 5))
    cluster.run(20 * E)
    stable = cluster.led()
    assert stable.core is not None
    term = stable.core.term

    for number in range(20):
        cluster.run(E)
        cluster.commits(b"%d" % number, seconds=2 * E)

    assert cluster.leading()[-1] is stable and stable.core.term == term


@pytest.mark.parametrize(("victim", "sends", "peers"), EIGHT)
def test_three_nodes_of_which_one_is_isolated_one_way(victim: str, sends: bool, peers: str) -> None:
    """All cases of three nodes, after TigerBeetle's scripts: the leader or a follower can only
    send, or only receive, with regard to both others or to one (of a follower: the leader). An
    up-to-date voter has a majority both ways in each, so commands go through; an isolated leader
    is followed by one other at most, and an isolated follower disturbs nobody."""
    cluster = Scripted(3)
    cluster.commits(b"before")
    cluster.run(5 * E)
    lead = cluster.leading()[-1]
    followers = [node for node in cluster.nodes.values() if node is not lead]
    one = lead if victim == "leader" else followers[0]
    others = [node for node in cluster.nodes.values() if node is not one]
    peer = followers[-1] if victim == "leader" else lead
    elections = cluster.elections
    for other in others if peers == "all" else [peer]:
        ends = (other.id, one.id) if sends else (one.id, other.id)
        cluster.cut_one_way(*ends)

    for number in range(10):
        cluster.commits(b"during %d" % number)
        cluster.run(2 * E)

    assert cluster.elections - elections <= (victim == "leader"), "L9: it disturbs the others"
    cluster.mend()
    cluster.commits(b"after")
    cluster.agree((1, 2, 3))


def test_rethinkdb_a_wiped_node_does_not_vote_and_returns_as_another_replica() -> None:
    """RethinkDB 2.2.3 (2016): a node was removed and added again, its log erased, under the name
    that the others knew. It voted as if it had promised nothing: two leaders, and what one of them
    had acknowledged was gone. Here n3 holds half of a majority for a write that n2 has missed, and
    loses its disk: with n1 away, n2 and n3 must not get along without that write."""

    async def main() -> None:
        world = ChaosWorld(3, Knobs(size=3, faults=(), config=QUICK, compaction=LONG_LOGS))
        await world.grow()
        n1 = await led(world)
        n2, n3 = others(world, n1)
        world.network.isolate(n2.address, [node.address for node in world.all])
        await world.submit(n1, b"acknowledged")

        n3.power_cut()
        n3.drive.wipe("log")
        n3.power_up()
        await asyncio.sleep(0.1)
        refused = [story for story in world.oracle.violations if "DataUnusable" in story]
        assert len(refused) == 1, "its promise tells that it has lost what it had"
        world.oracle.violations.remove(refused[0])

        n3.power_cut()
        blank(n3)
        n3.power_up()
        await world.until(lambda: n3.up)
        world.network.heal()
        n1.power_cut()
        for _ in range(100):
            await asyncio.sleep(0.03)
            assert world.leading() is None, "R8: n2 and a blank n3 are no majority"
            assert not n3.has_replica, "R1: messages for the old replica make no new one"

        n1.power_up()
        await world.until(lambda: n1.up and world.leading() is n1)
        (lost,) = [m for m in n1.replica.core.membership.voters if m.node == n3.name]
        n1.replica.change_members(add=[(NodeId(n3.name), n3.address)], remove=[lost.id])
        added = n1.replica.core.membership.learners[-1]
        assert n3.host is not None and added.id > lost.id
        await n3.host.create_replica(ReplicaRecord(GID, UUID, added.id, incarnation=2))
        await n3.start_replica(GID)
        await world.until(lambda: agree(world))
        assert b"acknowledged" in ledger(n3.replica)
        world.oracle.check()

    run(main())


def blank(node: ChaosNode) -> None:
    """A new disk in the old node."""
    for what in ("log", "data", "promise.0", "promise.1"):
        node.drive.wipe(what)
    node.made = False


def agree(world: ChaosWorld) -> bool:
    """All three are voters, the change is over, and they show the same."""
    nodes = [node for node in world.all if node.has_replica]
    if len(nodes) < 3 or not all(node.replica.core.membership.voters for node in nodes):
        return False
    at = nodes[0].replica.core.membership
    voters = {member.node for member in at.voters}
    same = all(ledger(node.replica) == ledger(nodes[0].replica) for node in nodes)
    return same and not at.outgoing and voters == {"n1", "n2", "n3"}
