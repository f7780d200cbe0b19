"""The fuzzy suite of hashicorp/raft (`fuzzy/*_test.go`), played on this Raft from seeds.

Its four themes: partitions around the leader, votes that one node sends slowly, votes that it hears
slowly, members that come and go. At the end its tests compare the logs and the state machines of
all nodes; so do these, and every invariant holds at every step besides. The suite was there for
years, and hashicorp/raft#695 to #697 were not found by it: so each theme also has clients, repeats
and crashes here.
"""

import pytest

from raft.config import Mode
from raft.messages import AnyMessage, RequestVote, VoteReply
from raft.types import Role
from tests.raft.test_safeguards import LONG_LOGS, PLAIN, QUICK
from tests.support.chaos import Knobs, live
from tests.support.scripted import E, Scripted

SEEDS = range(5)
SLOW_SECONDS = 0.8
"""Most of an election time-out."""


@pytest.mark.parametrize("seed", SEEDS)
def test_hashicorp_fuzzy_leader_partitions(seed: int) -> None:
    """`TestRaft_FuzzyLeaderPartitions`: again and again a side of random size holds the leader."""
    cluster = Scripted(5, seed=seed)
    for cycle in range(10):
        leader = cluster.led()
        side = cluster.rng.sample([n for n in cluster.numbers() if n != leader.id], 2)
        beside = [leader.id, *side[: cluster.rng.randrange(3)]]
        for one in beside:
            cluster.cut_off(one, [n for n in cluster.numbers() if n not in beside])
        cluster.propose(leader, b"on the leader's side, %d" % cycle)
        cluster.run(3 * E)
        for node in cluster.leading():
            cluster.propose(node, b"wherever one leads, %d/%d" % (cycle, node.id))
        cluster.run(E)
        cluster.mend()
        cluster.run(E)
    end(cluster)


@pytest.mark.parametrize("mode", [Mode.PRODUCTION, Mode.LAB], ids=["production", "lab"])
@pytest.mark.parametrize("what", [RequestVote, VoteReply], ids=["sends", "hears"])
@pytest.mark.parametrize("seed", SEEDS)
def test_hashicorp_fuzzy_slow_votes(seed: int, what: type, mode: Mode) -> None:
    """`TestRaft_FuzzySlowSendVote` and `...SlowRecvVote`: one node's requests for votes leave
    late, or its votes do, while the others elect one leader after the other."""
    cluster = Scripted(5, seed=seed, mode=mode)
    slow = cluster.rng.choice(cluster.numbers())

    def late(message: AnyMessage) -> float:
        mine = message.source == slow and isinstance(message, what)
        return cluster.rng.uniform(0.1, SLOW_SECONDS) if mine else 0.0

    cluster.delayed = late
    for cycle in range(6):
        leader = cluster.led()
        cluster.commits(b"cycle %d" % cycle)
        if leader.core is not None and leader.core.role is Role.LEADER:
            cluster.cut_off(leader.id)
        cluster.run(3 * E)
        cluster.mend()
    end(cluster)


@pytest.mark.parametrize("seed", SEEDS)
def test_hashicorp_fuzzy_add_and_remove_members(seed: int) -> None:
    """`TestRaft_FuzzyAddRemoveNodes`: members come and go while clients write, and the network
    loses and repeats. `live` ends with the equality of all members' states."""
    oracle = live(
        seed,
        Knobs(
            size=3,
            faults=("members", "loss", "duplication", "isolate", "slow disk"),
            config=QUICK if seed % 2 else PLAIN,
            compaction=LONG_LOGS,
            seconds=4.0,
            pause_seconds_max=0.2,
        ),
    )

    assert oracle.probes["changes of members"] > 0, "nobody came or went"


def end(cluster: Scripted) -> None:
    """All links whole: the same log and the same state everywhere, with a fresh command in it."""
    cluster.delayed = lambda message: 0.0
    cluster.converge()
    logs = {
        tuple(entry.id for entry in node.image.entries)
        for node in cluster.nodes.values()
        if node.core is not None
    }
    assert len(logs) == 1, "logs differ at the end"
