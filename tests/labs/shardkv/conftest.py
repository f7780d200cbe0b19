"""Runs the sharded store lab's scenarios (2024, 5A static and 5B) in virtual time."""

import asyncio

import pytest

from labs.compaction import NEVER
from labs.harness.edition import TEST_SECONDS_MAX, Edition, run_lab, seed_of
from labs.harness.shard_kv_cluster import ShardKVCluster
from tests.support.shard_lab import Play, Scenario


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Play:
    seed = seed_of(request.node.name.partition("[")[0], Edition.E2024)

    def play(scenario: Scenario, *, reliable: bool = True, maxraftstate: int = NEVER) -> None:
        async def main() -> None:
            cluster = ShardKVCluster(seed=seed, reliable=reliable, maxraftstate=maxraftstate)
            async with cluster:
                async with asyncio.timeout(TEST_SECONDS_MAX):
                    await scenario(cluster)
            assert all(group.invariants.checks > 0 for group in cluster.groups)
            assert cluster.watch.hand_overs > 0, "the watch has seen nothing"

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play
