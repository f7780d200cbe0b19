"""Runs the key/value lab's scenarios in virtual time; each module says which edition it is."""

import asyncio

import pytest

from labs.compaction import NEVER
from labs.harness.edition import TEST_SECONDS_MAX, run_lab, seed_of
from labs.harness.kv_cluster import KvCluster
from tests.support.kv_lab import Play, Scenario


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Play:
    edition = request.module.EDITION
    seed = seed_of(request.node.name.partition("[")[0], edition)

    def play(
        scenario: Scenario,
        *,
        servers: int = 5,
        reliable: bool = True,
        maxraftstate: int = NEVER,
    ) -> None:
        async def main() -> None:
            cluster = KvCluster(
                servers, seed=seed, edition=edition, reliable=reliable, maxraftstate=maxraftstate
            )
            async with asyncio.timeout(TEST_SECONDS_MAX), cluster:
                await scenario(cluster)

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play
