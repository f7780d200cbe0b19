"""Runs the replicated state machine's scenarios in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from labs.compaction import NEVER
from labs.harness.edition import TEST_SECONDS_MAX, run_lab, seed_of
from labs.harness.rsm_cluster import RsmCluster

PlayRsm = Callable[..., None]


@pytest.fixture
def play(request: pytest.FixtureRequest) -> PlayRsm:
    seed = seed_of(request.node.name.partition("[")[0], request.module.EDITION)

    def play(
        scenario: Callable[[RsmCluster], Awaitable[None]], *, maxraftstate: int = NEVER
    ) -> None:
        async def main() -> None:
            cluster = RsmCluster(seed=seed, maxraftstate=maxraftstate)
            async with asyncio.timeout(TEST_SECONDS_MAX), cluster:
                await scenario(cluster)
            assert cluster.group.invariants.checks > 0, "a run that looked at nothing"

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play
