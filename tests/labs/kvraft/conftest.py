"""Runs the key/value lab's scenarios in virtual time, on any implementation.

Each module says which edition it is.
"""

import asyncio
from typing import Any

import pytest

from labs.compaction import NEVER
from labs.harness.edition import (
    TEST_SECONDS_MAX,
    Edition,
    implementation,
    run_lab,
    seed_of,
)
from labs.harness.foreign_kv import maker_of
from labs.harness.kv_cluster import KvCluster
from tests.support.kv_lab import Play, Scenario


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Play:
    edition: Edition = request.module.EDITION
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
                servers,
                seed=seed,
                edition=edition,
                reliable=reliable,
                maxraftstate=maxraftstate,
                **_foreign(edition),
            )
            async with asyncio.timeout(TEST_SECONDS_MAX), cluster:
                await scenario(cluster)

        run_lab(main(), seed=seed, test=request.node.nodeid)

    return play


def _foreign(edition: Edition) -> dict[str, Any]:
    """Somebody else's server and clerks, if the environment names any."""
    name = implementation()
    if name is None:
        return {}
    maker = maker_of(name, edition)
    return {"make": maker, "strings": maker.strings, "versioned": maker.versioned}
