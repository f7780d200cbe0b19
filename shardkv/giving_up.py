"""What a group's leader does when the group at the other end of a hand-over was given up for lost.

The directory says that a gid means no group any more, and one configuration of the history says
which shards are lost with it (`shardctrler.commands.Abandon`). Shards that were to go there are
settled at once. Those that were to come from there begin anew only once nobody further back serves
them: the lost group may never have taken a shard from its owner before, who serves it until he
comes to that configuration. So the last owner of each such shard that is not lost itself must have
come to this group's configuration; then he has settled every one before it, and with it whatever
lies still further back. Whoever is furthest back waits for nobody, so all get on.

He is found in the history. It does not matter whether he takes part any more: a group that has left
serves its shards until they are gone, and may be far behind.
"""

from collections.abc import Awaitable, Callable, Sequence

from raft.types import GroupId
from shardctrler.codec import encode_config
from shardctrler.types import NO_GROUP, RETIRED, ConfigNumber, ShardConfig, ShardId, View
from shardkv.commands import Abandoned
from shardkv.feed import ConfigFeed
from shardkv.phases import Phase
from shardkv.rows import ShardRecord

Unsettled = Sequence[tuple[ShardId, ShardRecord]]


def waits_for_lost(unsettled: Unsettled, view: View | None) -> bool:
    """Whether a shard is on its way to or from a group that was given up."""
    if view is None:
        return False
    groups = view.directory.groups
    return any(
        (known := groups.get(record.peer)) is not None and known.uuid == RETIRED
        for _, record in unsettled
    )


async def what_to_propose(
    gid: GroupId,
    number: ConfigNumber,
    unsettled: Unsettled,
    feed: ConfigFeed,
    stands_at: Callable[[GroupId], Awaitable[int]],
) -> Abandoned | None:
    """The command that is due; None while something is not known, or is waited for.

    Args:
        gid: The group's own.
        number: Of its configuration.
        stands_at: Asks another group for the number of the configuration it has applied; 0 if it
            does not answer.
    """
    config = await _giving_up(number, unsettled, feed)
    if config is None or feed.view is None:
        return None
    lost = [(shard, it.phase) for shard, it in unsettled if it.peer in config.abandoned]
    if any(phase is not Phase.ARRIVING for _, phase in lost):
        return Abandoned(encode_config(config), arriving=False)
    owners: dict[GroupId, None] = {}
    for shard, _ in lost:
        owner = await _owner_before(shard, number, feed)
        if owner is None:
            return None
        owners[owner] = None
    for owner in owners:
        if owner not in (gid, NO_GROUP) and await stands_at(owner) < number:
            return None
    return Abandoned(encode_config(config), arriving=True)


async def _giving_up(
    number: ConfigNumber, unsettled: Unsettled, feed: ConfigFeed
) -> ShardConfig | None:
    """The first configuration after `number` that gives up a group which is waited for."""
    peers = [record.peer for _, record in unsettled]
    for later in range(number + 1, feed.number + 1):
        config = await feed.config(ConfigNumber(later))
        if config is None:
            return None
        if any(peer in config.abandoned for peer in peers):
            return config
    return None


async def _owner_before(shard: ShardId, number: ConfigNumber, feed: ConfigFeed) -> GroupId | None:
    """The last owner before configuration `number` that is not given up; `NO_GROUP` if there was
    none, None if that is not known."""
    assert feed.view is not None, "it says which groups are given up"
    groups = feed.view.directory.groups
    for at in range(number, 0, -1):
        config = await feed.config(ConfigNumber(at))
        if config is None:
            return None
        owner = config.previous[shard]
        if owner == NO_GROUP or groups[owner].uuid != RETIRED:
            return owner
    return NO_GROUP
