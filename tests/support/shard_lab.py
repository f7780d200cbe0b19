"""What the 2024 shardkv tests ask of their `play` fixture (`tests/labs/shardkv/conftest.py`)."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from labs.compaction import NEVER
from labs.harness.shard_kv_cluster import ShardKVCluster

Scenario = Callable[[ShardKVCluster], Awaitable[None]]


class Play(Protocol):
    """Runs a scenario on a new cluster."""

    def __call__(
        self, scenario: Scenario, *, reliable: bool = True, maxraftstate: int = NEVER
    ) -> None: ...
