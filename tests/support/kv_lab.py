"""What the key/value labs' tests ask of their `play` fixture (`tests/labs/kvraft/conftest.py`)."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from labs.compaction import NEVER
from labs.harness.kv_cluster import KvCluster

Scenario = Callable[[KvCluster], Awaitable[None]]


class Play(Protocol):
    """Runs a scenario on a new cluster."""

    def __call__(
        self,
        scenario: Scenario,
        *,
        servers: int = 5,
        reliable: bool = True,
        maxraftstate: int = NEVER,
    ) -> None: ...
