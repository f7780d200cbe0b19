"""The labs' `maxraftstate`: a log is cut as soon as it holds more bytes, not at the next round."""

import asyncio
from collections.abc import Sequence
from typing import Final

from labs.node import LabNode
from raft.host import CompactionConfig
from raft.ports import Reader, Rows, StateMachine, Write
from raft.types import Entry, Index

NEVER: Final = -1
KEPT_ENTRY_BYTES: Final = 250
"""An entry for so many bytes of the bound is kept behind the applied one, for slow followers."""
GARBAGE_ROWS_MAX: Final = 10_000


def compaction(maxraftstate: int) -> CompactionConfig:
    """What the host is told: its own round does the same, half a second later."""
    if maxraftstate == NEVER:
        return CompactionConfig()
    return CompactionConfig(
        log_bytes_max=maxraftstate, keep_entries=maxraftstate // KEPT_ENTRY_BYTES
    )


class CompactingMachine:
    """Stands between a replica and its state machine, and cuts the log when it has grown.

    The order is production's: what was applied is made durable, then the log is cut up to there.
    """

    def __init__(self, inner: StateMachine, node: LabNode, maxraftstate: int) -> None:
        self._inner, self._node, self._bytes_max = inner, node, maxraftstate
        self._cutting: asyncio.Task[None] | None = None

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        self._inner.apply(entries, rows)
        if (
            self._cutting is None
            and self._bytes_max != NEVER
            and self._node.persist_bytes() > self._bytes_max
        ):
            self._cutting = asyncio.get_running_loop().create_task(self._cut())

    async def _cut(self) -> None:
        host, gid = self._node.host, self._node.gid
        try:
            if not self._node.dead:
                host.replicas[gid].collect_garbage(GARBAGE_ROWS_MAX)
                await host.compact()
        finally:
            self._cutting = None

    def stopped(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        self._inner.stopped()

    def reload(self, rows: Reader) -> None:
        self._inner.reload(rows)

    def leadership_changed(self, leads: bool) -> None:
        self._inner.leadership_changed(leads)

    def snapshot_installed(self, index: Index) -> None:
        self._inner.snapshot_installed(index)

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        return self._inner.garbage(rows, rows_max)


def snapshot_bytes(node: LabNode) -> int:
    """What a follower that needs all of the state would be sent; 0 while the log is whole."""
    replica = node.host.replicas[node.gid]
    if replica.core.log.start.last.index == 0:
        return 0
    capture = replica.store.capture()
    try:
        return sum(len(chunk) for chunk in capture.chunks(2**20))
    finally:
        capture.close()
