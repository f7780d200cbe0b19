"""Raft lab, part 3A: leader election. Each test is the official one of its name."""

import asyncio

from labs.harness.raft_cluster import ELECTION_SECONDS, RaftCluster
from tests.support.raft_lab import Play


def test_initial_election_3a(play: Play) -> None:
    """A leader is elected, and without failures it stays one."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.check_one_leader()
        await asyncio.sleep(0.05)  # lets the last follower learn of the election
        term = cluster.check_terms()
        assert term >= 1

        await asyncio.sleep(2 * ELECTION_SECONDS)

        assert cluster.check_terms() == term, "the term changed though nothing failed"
        await cluster.check_one_leader()

    play(scenario, servers=3)


def test_reelection_3a(play: Play) -> None:
    """A new leader after the old one's network fails, none without a majority."""

    async def scenario(cluster: RaftCluster) -> None:
        leader1 = await cluster.check_one_leader()
        cluster.disconnect(leader1)
        await cluster.check_one_leader()

        cluster.connect(leader1)  # the old one does not disturb the new one
        leader2 = await cluster.check_one_leader()

        cluster.disconnect(leader2)
        cluster.disconnect((leader2 + 1) % 3)
        await asyncio.sleep(2 * ELECTION_SECONDS)
        cluster.check_no_leader()

        cluster.connect((leader2 + 1) % 3)
        await cluster.check_one_leader()
        cluster.connect(leader2)
        await cluster.check_one_leader()

    play(scenario, servers=3)


def test_many_elections_3a(play: Play) -> None:
    """Seven servers, three of them away at a time."""

    async def scenario(cluster: RaftCluster) -> None:
        await cluster.check_one_leader()
        for _ in range(9):
            away = [cluster.rng.randrange(7) for _ in range(3)]
            for i in away:
                cluster.disconnect(i)
            await cluster.check_one_leader()
            for i in away:
                cluster.connect(i)
        await cluster.check_one_leader()

    play(scenario, servers=7)
