"""What a replica tells of single entries on their way, to whoever traces them; as a rule nobody.

A replica has no tracer unless tracing is on, and then asks it a few times a *turn*, not an entry:
what a trace costs is paid by what is traced. A tracer only watches: nothing here decides anything.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from raft.messages import AnyMessage
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.types import Entry, EntryId, Index

TRACES_MAX: Final = 16
"""Traced operations of one frame, and traced entries that one message names; more go untraced."""
CONTEXT_CHARACTERS_MAX: Final = 64

Traces = tuple[tuple[Index, str], ...]
"""Entries of one message that are traced: each one's index, and a W3C `traceparent`."""


class EntryTracer(Protocol):
    """Told of one replica's entries as they pass. Each call returns at once and never raises."""

    def placed(self, id: EntryId, commands: Sequence[bytes]) -> None:
        """Commands were put into the log as one entry, by this replica as the leader."""
        ...

    def sending(self, message: AnyMessage) -> Traces:
        """A message leaves; returns which of its entries are traced."""
        ...

    def taken(self, content: AnyMessage | SnapshotChunk | ChunkReply, traces: Traces) -> None:
        """A message came from another replica, with what its sender traces of it."""
        ...

    def saving(self, entries: Sequence[Entry], saved: "asyncio.Future[None]") -> None:
        """Entries are on their way to the disk; `saved` tells when they are there."""
        ...

    def committed(self, entries: Sequence[Entry]) -> None:
        """Entries are committed and durable here: they wait to be applied."""
        ...

    def applying(self, entries: Sequence[Entry]) -> None: ...

    def applied(self, entries: Sequence[Entry]) -> None: ...

    def abandoned(self, because: str) -> None:
        """What this replica had begun as a leader is not known to end here."""
        ...
