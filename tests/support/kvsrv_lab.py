"""What the single-server labs' tests ask of their `play` fixture."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from labs.harness.kvsrv_cluster import KvsrvCluster


class Play(Protocol):
    """Runs a scenario on a new server."""

    def __call__(
        self, scenario: Callable[[KvsrvCluster], Awaitable[None]], *, reliable: bool = True
    ) -> None: ...
