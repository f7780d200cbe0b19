"""What a group's leader does when the group at the other end of a hand-over was given up for lost.

The directory says that a gid means no group any more, and one configuration of the history says
which shards are lost with it (`shardctrler.commands.Abandon`). Shards that were to go there are
settled at once. Those that were to come from there begin anew only once every other group has come
to this group's configuration: a former owner further back may still serve the shard, because the
lost group never took it from there. Whoever is furthest back waits for nobody, so all get on.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from raft.types import GroupId
from shardctrler.codec import encode_config
from shardctrler.types import RETIRED, ConfigNumber, ShardConfig, ShardId, View
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
    lost = [record.phase for _, record in unsettled if record.peer in config.abandoned]
    if any(phase is not Phase.ARRIVING for phase in lost):
        return Abandoned(encode_config(config), arriving=False)
    for other in _others(gid, feed.view):
        if await stands_at(other) < number:
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


def _others(gid: GroupId, view: View) -> Iterable[GroupId]:
    """Every other group that may still hold a shard."""
    groups = view.directory.groups
    named = dict.fromkeys((*view.config.groups, *view.config.departed))
    return [
        other
        for other in named
        if other != gid and other in groups and groups[other].uuid != RETIRED
    ]
