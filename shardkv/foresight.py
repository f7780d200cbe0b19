"""What a replica's state would come to if all of its log were committed; nothing is changed.

A group that is recovered keeps its survivor's whole log (`recovery.py`), and a replica without a
leader cannot apply what it does not know to be committed. So before an operator decides, the
entries that are not applied here are applied to a state machine of its own, above the rows.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from raft.disk.overlay import Overlay
from raft.replica import Replica
from raft.rsm import Machine, decode_entry
from raft.types import EntryKind, Index
from shardkv.commands import Batch, ExpireSessions, Mutation, OpenSession, PassTime, decode
from shardkv.errors import InvalidArgument

PAGE_BYTES: Final = 256 * 1024

_OF_CLIENTS: Final = (Mutation, Batch, OpenSession, ExpireSessions, PassTime)

M = TypeVar("M", bound=Machine)


class WentOn(Exception):
    """The replica has applied or received something meanwhile: ask again."""


async def foreseen(
    replica: Replica, machine: M, wanted: Callable[[bytes], bool] = lambda _: True
) -> M:
    """`machine`, a new one, brought to where the replica's log ends.

    Args:
        wanted: Which commands matter; the others are passed over.

    Raises:
        WentOn: of a replica that has a leader; or that takes in a snapshot.
        StopReplica: a command of a newer format.
    """
    log, applied, end = replica.core.log, replica.applied, replica.core.log.last
    if replica.installing:
        raise WentOn
    rows = Overlay(replica.store.reader)
    machine.reload(rows)
    index = applied
    while index < end.index:
        for entry in log.slice(Index(index + 1), Index(end.index + 1), PAGE_BYTES):
            index = entry.index
            if entry.kind is EntryKind.COMMAND:
                for command in filter(wanted, decode_entry(entry)):
                    machine.apply(index, command, rows)
        await asyncio.sleep(0)  # others are served between two pages
        if replica.installing or (replica.applied, log.last) != (applied, end):
            raise WentOn
    return machine


def concerns_shards(command: bytes) -> bool:
    """Whether a store's command is a configuration or a step of a hand-over: what clients write
    moves no shard, and need not be gone through."""
    try:
        decoded = decode(command)
    except InvalidArgument:
        return False
    return not isinstance(decoded, _OF_CLIENTS)
