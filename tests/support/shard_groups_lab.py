"""What the shard group tests ask of their `play` fixture (`tests/labs/shardgrp/conftest.py`)."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from labs.compaction import NEVER
from labs.harness.shard_groups_cluster import ShardGroupsCluster

Scenario = Callable[[ShardGroupsCluster], Awaitable[None]]


class Play(Protocol):
    """Runs a scenario on a new cluster."""

    def __call__(
        self,
        scenario: Scenario,
        *,
        reliable: bool = True,
        maxraftstate: int = NEVER,
        with_group1: bool = True,
    ) -> None: ...
