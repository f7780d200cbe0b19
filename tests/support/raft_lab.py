"""What the raft lab's tests ask of their `play` fixture (`tests/labs/raft/conftest.py`)."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from labs.harness.raft_cluster import RaftCluster

Scenario = Callable[[RaftCluster], Awaitable[None]]


class Play(Protocol):
    """Runs a scenario on a new cluster."""

    def __call__(
        self,
        scenario: Scenario,
        *,
        servers: int,
        reliable: bool = True,
        snapshots: bool = False,
    ) -> None: ...
