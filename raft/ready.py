"""Effects, in the one safe order: what the core wants done, as one value.

The field order is the safety argument; `raft/replica.py` is the only code that carries it out.
"""

from typing import Final, NamedTuple

from raft.messages import AnyMessage, AppendEntries, Heartbeat
from raft.types import Entry, HardState, Index, ReplicaId, SnapshotMeta


class ReadState(NamedTuple):
    """A confirmed read: serve it once `applied >= index`. Index 0: refused, leadership was lost."""

    context: bytes
    index: Index  # type: ignore[assignment]  # hides tuple.index, which nobody calls


class Ready(NamedTuple):
    """Everything that followed from the steps since the last `ready()`. Empty is false.

    `save_order`: 1. `early` may leave while 2 is on its way to the disk: appends
    (dissertation, 10.2.1) and a leader's heartbeats, of a term that is durable already.
    2. `hard_state`, `entries` and `snapshot` are one durable batch; entries replace any suffix
    from `entries[0].index` on. 3. `messages` leave once 2, and all that earlier
    values saved, is durable: each is a promise.
    4. `committed` is applied in order, each entry exactly once, and only when it is durable
    *here* too. 5. `reads` are served once applied reaches their index.
    """

    early: tuple[AppendEntries | Heartbeat, ...] = ()
    hard_state: HardState | None = None  # None: unchanged
    snapshot: SnapshotMeta | None = None  # install the staged snapshot and restart the log there
    entries: tuple[Entry, ...] = ()
    messages: tuple[AnyMessage, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadState, ...] = ()
    send_snapshot: tuple[ReplicaId, ...] = ()  # followers whose next entries were compacted away

    def __bool__(self) -> bool:
        return any(self)  # a NamedTuple of empty fields is otherwise true

    @property
    def must_save(self) -> bool:
        return bool(self.hard_state is not None or self.entries or self.snapshot is not None)


NOTHING: Final = Ready()
"""What a core with nothing to do says; this very value, so that a driver need not look into it."""
