"""Whole states compared: what a snapshot holds is what its group's state was at its index (R13).

The rows of copies that a group has let go, and their change rows, are garbage, which each replica
deletes when it likes: they are no part of a state.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

from labs.observer import Observer
from raft.codec import encode_membership
from raft.ports import Reader
from raft.replica import Replica
from raft.types import GroupId, Index, Membership
from shardctrler.types import ShardId
from shardkv.held import prefixes
from shardkv.machine import StoreMachine
from shardkv.rows import CHANGES, COPIES, prefix_of

LAST_KEY: Final = b"\xff" * 8
KINDS: Final = (COPIES[0], CHANGES[0])
PREFIX_BYTES: Final = len(prefix_of(ShardId(0), 0))  # type: ignore[arg-type]


def state_hash(replica: Replica) -> bytes:
    """Of the rows that a replica shows now, and its members."""
    store: Any = replica.store
    machine: Any = replica._machine
    return rows_hash(store.reader, _innermost(machine), store.membership)


def _innermost(machine: Any) -> Any:
    while True:
        inner = getattr(machine, "_inner", None) or getattr(machine, "machine", None)
        if inner is None:
            return machine
        machine = inner


def live_rows(replica: Replica) -> Iterator[tuple[bytes, bytes]]:
    """The rows that are part of the state that a replica shows now."""
    machine: Any = replica._machine
    return _live(replica.store.reader, _innermost(machine))


def live_bytes(replica: Replica) -> int:
    """What the live rows take, keys and all."""
    store: Any = replica.store
    machine: Any = replica._machine
    own = store._prefix
    skip, kind_end = len(own), len(own) + 1
    alive = _alive(_innermost(machine))
    size = 0
    for prefix, (rows, held) in store._disk.weigh(skip + PREFIX_BYTES).items():
        if prefix.startswith(own) and (
            alive is None or prefix[skip:] in alive or prefix[skip:kind_end] not in KINDS
        ):
            size += held - rows * skip  # the machine's keys begin after it
    return size


def _alive(machine: object) -> set[bytes] | None:
    """The prefixes of copies whose rows count; None: all count."""
    if not isinstance(machine, StoreMachine):
        return None
    return {
        prefix
        for number, record in enumerate(machine.facts.records)
        for prefix in prefixes(ShardId(number), record)
    }


def _live(rows: Reader, machine: object) -> Iterator[tuple[bytes, bytes]]:
    alive = _alive(machine)
    if alive is None:
        return rows.range(b"", LAST_KEY)
    return (
        row
        for row in rows.range(b"", LAST_KEY)
        if row[0][:1] not in KINDS or row[0][:PREFIX_BYTES] in alive
    )


def rows_hash(rows: Reader, machine: object, members: Membership) -> bytes:
    hash_ = blake2b(encode_membership(members), digest_size=8)
    for key, row in _live(rows, machine):
        hash_.update(len(key).to_bytes(4, "big") + key)
        hash_.update(len(row).to_bytes(4, "big") + row)
    return hash_.digest()


class SnapshotInvariants:
    """Watches the snapshots of one group (R13)."""

    def __init__(self, gid: GroupId, observer: Observer) -> None:
        self._gid, self._observer = gid, observer
        self._hashes: dict[Index, tuple[bytes, str]] | None = None

    def watch(self, node: str, replica: Replica) -> None:
        """Look at each snapshot that this replica gives out."""
        if self._hashes is None:
            self._hashes = {}
        store: Any = replica.store
        capture = store.capture

        def captured() -> Any:
            self.seen(node, replica, "gives out")
            return capture()

        store.capture = captured

    def seen(self, node: str, replica: Replica, does: str) -> None:
        """A replica gives out its state, or has installed it: at one index there is one state."""
        if self._hashes is None:
            return  # nobody looks
        here, index = state_hash(replica), replica.applied
        known, other = self._hashes.setdefault(index, (here, node))
        if known != here:
            self._observer.broke(
                "R13",
                f"group {self._gid}: {node} {does} another state at {index} than {other} had",
            )
