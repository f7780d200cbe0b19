"""Runs the shard controller lab's scenarios (2024, 5A) in virtual time."""

from collections.abc import Awaitable, Callable

import pytest

from labs.harness.edition import Edition, run_lab, seed_of
from labs.harness.shard_ctrler_cluster import ShardCtrlerCluster

Scenario = Callable[[ShardCtrlerCluster], Awaitable[None]]


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    seed = seed_of(request.node.name.partition("[")[0], Edition.E2024)

    def play(scenario: Scenario) -> None:
        async def main() -> None:
            cluster = ShardCtrlerCluster(seed=seed)
            async with cluster:
                await scenario(cluster)
            assert cluster.group.invariants.checks > 0, (
                "a run that looked at nothing proves nothing"
            )

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play
