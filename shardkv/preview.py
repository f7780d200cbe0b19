"""What a change of the configuration would do, told before it is asked for; nothing is changed.

Placement is a pure function of the newest view, so it can be carried out here as the controller
would. Between this and the change somebody else may be first: then it is decided anew.
"""

from collections.abc import Mapping, Sequence

from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.commands import Answer, Change, Join, JoiningGroup
from shardctrler.errors import error_of
from shardctrler.machine import foreseen
from shardctrler.types import GroupMember, ShardConfig, ShardId, View
from shardkv.control import check_join
from shardkv.growth import Wish

Moves = Mapping[tuple[GroupId, GroupId], tuple[ShardId, ...]]
"""By former and next owner (0: nobody): the shards that move, ascending."""


def previewed(view: View, change: Change) -> ShardConfig:
    """The configuration that a change would lead to.

    Raises:
        ChangeRefused: as the controller would refuse it now.
    """
    outcome = foreseen(view, change)
    if isinstance(outcome, Answer):
        error = error_of(outcome)
        assert error is not None, outcome
        raise error
    return outcome.config


def joined(view: View, wishes: Sequence[Wish]) -> Join:
    """The join that wishes come to; a group that does not exist yet gets a name for the while.

    Raises:
        ConfigError, UnknownNode, GroupIsElsewhere, ChangeRefused: as `control.join`.
    """
    nodes = {str(node): found.client for node, found in view.directory.nodes.items()}
    groups = []
    for wish in wishes:
        check_join(wish, view, nodes)
        record = view.directory.groups.get(GroupId(wish.gid))
        uuid = GroupUuid(b"not yet born" + wish.gid.to_bytes(4, "big"))
        members = tuple(GroupMember(NodeId(node), nodes[node]) for node in wish.nodes)
        groups.append(
            JoiningGroup(GroupId(wish.gid), uuid if record is None else record.uuid, members)
        )
    return Join(tuple(groups))


def moves(before: ShardConfig, after: ShardConfig) -> Moves:
    """Which shards change their owner from one configuration to another."""
    found: dict[tuple[GroupId, GroupId], list[ShardId]] = {}
    for shard, (old, new) in enumerate(zip(before.shards, after.shards, strict=True)):
        if old != new:
            found.setdefault((old, new), []).append(ShardId(shard))
    return {pair: tuple(shards) for pair, shards in sorted(found.items())}
