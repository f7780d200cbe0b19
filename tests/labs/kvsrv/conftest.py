"""Runs the single-server labs' scenarios in virtual time; each module says which edition it is."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from labs.harness.edition import TEST_SECONDS_MAX, run_lab, seed_of
from labs.harness.kvsrv_cluster import KvsrvCluster
from tests.support.kvsrv_lab import Play


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Play:
    edition = request.module.EDITION
    seed = seed_of(request.node.name.partition("[")[0], edition)

    def play(scenario: Callable[[KvsrvCluster], Awaitable[None]], *, reliable: bool = True) -> None:
        async def main() -> None:
            cluster = KvsrvCluster(seed=seed, edition=edition, reliable=reliable)
            async with asyncio.timeout(TEST_SECONDS_MAX), cluster:
                await scenario(cluster)

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play
