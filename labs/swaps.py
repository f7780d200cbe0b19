"""Moves that are swaps: two groups hand each other a shard in one configuration.

No change of today's controller asks for that: a join or a leave makes the fewest moves, a move
makes one. But a group follows whatever configuration comes next, and must not wait for the other
to be done first, as the other would wait for it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import shardctrler.machine
from raft.types import GroupId
from shardctrler.rebalance import move
from shardctrler.types import ShardId


@contextmanager
def swaps() -> Iterator[None]:
    """Let a group that is given a shard give its own first one in return, if it has any.

    The placement stays a function of the configuration and the change, so that all replicas of the
    controller make the same one, and make it again when they are started.
    """

    def swap(shards: Sequence[GroupId], shard: ShardId, gid: GroupId) -> tuple[GroupId, ...]:
        moved = move(shards, shard, gid)
        return move(moved, ShardId(shards.index(gid)), shards[shard]) if gid in shards else moved

    vars(shardctrler.machine)["move"] = swap
    try:
        yield
    finally:
        vars(shardctrler.machine)["move"] = move
