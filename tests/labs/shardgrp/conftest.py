"""Runs the shard group lab's scenarios (2025, lab 5) in virtual time."""

import asyncio

import pytest

from labs.compaction import NEVER
from labs.harness.edition import TEST_SECONDS_MAX, Edition, run_lab, seed_of
from labs.harness.shard_groups_cluster import ShardGroupsCluster
from tests.support.shard_groups_lab import Play, Scenario


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Play:
    seed = seed_of(request.node.name.partition("[")[0], Edition.E2025)

    def play(
        scenario: Scenario,
        *,
        reliable: bool = True,
        maxraftstate: int = NEVER,
        with_group1: bool = True,
    ) -> None:
        async def main() -> None:
            cluster = ShardGroupsCluster(
                seed=seed,
                reliable=reliable,
                maxraftstate=maxraftstate,
                with_group1=with_group1,
            )
            async with cluster:
                async with asyncio.timeout(TEST_SECONDS_MAX):
                    await scenario(cluster)
            assert cluster.watch.hand_overs > 0 or not with_group1, "the watch has seen nothing"

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play
