"""Runs the raft lab's scenarios in virtual time, in both editions, on any implementation."""

import pytest

from labs.harness.edition import Edition, implementation, run_lab, seed_of
from labs.harness.foreign import maker_of
from labs.harness.raft_cluster import RaftCluster
from labs.raft import Raft
from tests.support.raft_lab import Play, Scenario


@pytest.fixture(params=list(Edition), ids=[edition.value for edition in Edition])
def edition(request: pytest.FixtureRequest) -> Edition:
    chosen: Edition = request.param
    return chosen


@pytest.fixture
def play(edition: Edition, request: pytest.FixtureRequest) -> Play:
    title = request.node.name.partition("[")[0]
    seed = seed_of(title, edition)

    def play(
        scenario: Scenario, *, servers: int, reliable: bool = True, snapshots: bool = False
    ) -> None:
        foreign = implementation()

        async def main() -> None:
            cluster = RaftCluster(
                servers,
                seed=seed,
                edition=edition,
                reliable=reliable,
                snapshots=snapshots,
                make=Raft.make if foreign is None else maker_of(foreign),
            )
            async with cluster:
                await scenario(cluster)
            assert foreign or cluster.invariants.checks > 0, "a run unwatched proves nothing"

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play
