"""Placement: who owns which shard after a change (pure).

After a join or a leave the groups own equally many shards, give or take one, and as few shards
change hands as that allows; a move changes one shard and nothing else. The result depends on
nothing but the arguments' values: every replica of the controller computes the same one.
"""

from collections.abc import Iterable, Sequence

from raft.types import GroupId
from shardctrler.types import NO_GROUP, ShardId


def balance(
    shards: Sequence[GroupId],
    groups: Iterable[GroupId],
    holders: Sequence[GroupId] = (),
) -> tuple[GroupId, ...]:
    """Spread `shards` over `groups`, and over nobody else.

    A parked shard goes back to its holder where that has less than its share: nothing is copied.
    Other shards without an owner among `groups`, in order, each go to the group that owns fewest, a
    parked one's holder among them first. Then,
    while one group owns two more than another, the one that owns most gives its first shard to the
    one that owns fewest. Ties go to the smallest gid.

    These are the fewest moves. Let b = len(shards) // len(groups). Shards without an owner must
    move in any case, and filling from below leaves the smallest shortage below b; so does giving
    one to a group that has less than b. A move from most
    to fewest then lowers the surplus above b + 1 by one while there is any, and the shortage below
    b by one while there is any; so max(surplus, shortage) moves are made, and no move can lower
    either by more than one.

    Args:
        shards: Each shard's owner so far; one that is not in `groups` counts as none.
        groups: In any order; none parks all shards at `NO_GROUP`.
        holders: Each shard's last owner, where its rows are; only that of parked ones counts.
    """
    owned: dict[GroupId, list[int]] = {gid: [] for gid in sorted(set(groups))}
    if not owned:
        return (NO_GROUP,) * len(shards)
    placed = list(shards)
    for shard, gid in enumerate(placed):
        if gid in owned:
            owned[gid].append(shard)

    def load(gid: GroupId) -> int:
        return len(owned[gid])

    parked = {
        shard: holder
        for shard, (gid, holder) in enumerate(zip(placed, holders, strict=False))
        if gid == NO_GROUP and holder in owned
    }
    for shard, holder in parked.items():
        if load(holder) < len(placed) // len(owned):
            owned[holder].append(shard)
            placed[shard] = holder
    for shard, gid in enumerate(placed):
        if gid not in owned:
            fewest = min(owned, key=load)  # `owned` is in order of gid, and `min` takes the first
            holder = parked.get(shard, fewest)
            chosen = holder if load(holder) == load(fewest) else fewest
            owned[chosen].append(shard)
            placed[shard] = chosen
    while True:
        most, fewest = max(owned, key=load), min(owned, key=load)
        if load(most) < load(fewest) + 2:
            return tuple(placed)
        shard = min(owned[most])
        owned[most].remove(shard)
        owned[fewest].append(shard)
        placed[shard] = fewest


def move(shards: Sequence[GroupId], shard: ShardId, gid: GroupId) -> tuple[GroupId, ...]:
    """Give one shard to one group. The next join or leave balances again, and may undo it."""
    return (*shards[:shard], gid, *shards[shard + 1 :])
