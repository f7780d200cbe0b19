"""Leadership transfers that went wrong in the field: one named test a bug."""

from contextlib import suppress

from raft.config import RaftConfig
from raft.errors import TransferRefused
from raft.messages import AppendEntries
from raft.types import Role
from tests.support.raft_sim import Node
from tests.support.scripted import E, Scripted


def test_hashicorp_696_a_transfer_that_was_broken_off_binds_no_later_leadership() -> None:
    """hashicorp/raft#696 (2026): A was handing over to B and waited for B to catch up when it lost
    its leadership to C. The transfer's goroutine waited for ever, and its flag "in progress" stayed
    set. Much later A was elected again, and refused every command, without a word and for good."""
    cluster = Scripted(3)
    a = cluster.commits(b"before")
    cluster.run(2 * E)
    a = cluster.leading()[-1]
    b = cluster.node(cluster.numbers(a.id)[0])
    cluster.lost = lambda m: m.target == b.id and isinstance(m, AppendEntries)
    cluster.propose(a, b"b has it not")
    cluster.run(0.05)
    cluster.cut_off(a.id)
    cluster.run(0.9 * E)  # it still believes to lead
    assert a.core is not None
    a.core.transfer(b.id)
    cluster.turn(a)
    assert not cluster.propose(a, b"during the transfer"), "it waits for b"
    cluster.lost = lambda m: False
    cluster.run(0.5 * E)
    assert a.core.role is not Role.LEADER, "before the transfer's time is over"
    cluster.commits(b"c leads")
    cluster.mend()
    cluster.agree((1, 2, 3))
    hand_over_to(cluster, a)

    assert cluster.propose(a, b"much later"), "it leads, and refuses what it is asked"
    cluster.commits(b"much later", seconds=E)


def test_hashicorp_493_a_transfer_that_fails_gives_the_leader_back() -> None:
    """hashicorp/raft#493 (2022): the flag was cleared only when a transfer succeeded."""
    cluster = Scripted(3)
    cluster.commits(b"before")
    cluster.run(2 * E)
    a = cluster.leading()[-1]
    b = cluster.node(cluster.numbers(a.id)[0])
    cluster.cut_off(b.id)
    assert a.core is not None
    a.core.transfer(b.id)
    cluster.turn(a)

    cluster.run(RaftConfig().election_seconds_max + 0.3)

    assert cluster.leading() == [a], "nobody else could win"
    assert cluster.propose(a, b"after"), "R16: a transfer lasts one E at most"
    cluster.commits(b"after", seconds=E)


def hand_over_to(cluster: Scripted, node: Node) -> None:
    """Whoever leads hands over to this one, and tries again if the election goes otherwise."""
    for _ in range(20):
        lead = cluster.led()
        if lead is node:
            return
        assert lead.core is not None
        with suppress(TransferRefused):
            lead.core.transfer(node.id)
        cluster.turn(lead)
        cluster.run(E)
    raise AssertionError("L5: the leadership does not move")
