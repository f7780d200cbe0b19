"""The nouns of configurations: which group owns which shard, and where to find a group.

A `ShardConfig` is one numbered page of the history and never changes. The `Directory` is what is
known *now* of where groups and nodes are; it changes without a new configuration.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NewType, TypeVar

from raft.types import GroupId, GroupUuid, NodeId

_K = TypeVar("_K", bound=Any)
_V = TypeVar("_V")

ShardId = NewType("ShardId", int)
"""A shard's number, in [0, nshards)."""
ConfigNumber = NewType("ConfigNumber", int)
"""Configurations count from 0, the one without groups."""

RETIRED: Final = GroupUuid(bytes(16))
"""In place of the uuid of a group that was abandoned: no group is ever born with it."""
NO_GROUP: Final = GroupId(0)
"""The owner of a shard that no group owns. (As a Raft group, 0 is the controller itself.)"""


class GroupMember(NamedTuple):
    """A node that holds a replica of a group, and where it answers clients."""

    node: NodeId
    address: str  # host:port, or a name in the simulator


class GroupInfo(NamedTuple):
    """Who a group is, for ever (`uuid`), and who its members were when this was written."""

    uuid: GroupUuid
    members: tuple[GroupMember, ...]


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """One configuration: complete in itself, so that a group can apply it and ask nobody.

    Two of equal content are equal and have one encoding, whatever order their groups came in.
    """

    number: ConfigNumber
    shards: tuple[GroupId, ...]
    """The owner of each shard; `NO_GROUP` parks it where it is."""
    groups: Mapping[GroupId, GroupInfo] = field(default_factory=dict)
    """The groups that take part, sorted by gid; those that own no shard too."""
    previous: tuple[GroupId, ...] = ()
    """Each shard's last owner other than `NO_GROUP` in the configurations before this one;
    `NO_GROUP` if it never had one. It is where the shard's rows are, or are on their way to."""
    departed: Mapping[GroupId, GroupInfo] = field(default_factory=dict)
    """The groups of `previous` that take part no more, sorted by gid: shards still leave them."""
    abandoned: tuple[GroupId, ...] = ()
    """The groups that this configuration gives up for lost; nobody waits for them any more."""
    lost: tuple[ShardId, ...] = ()
    """The shards whose rows are lost with them, ascending; their owners begin them anew, empty."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", _frozen(self.groups))
        object.__setattr__(self, "departed", _frozen(self.departed))
        if not self.previous:
            object.__setattr__(self, "previous", (NO_GROUP,) * len(self.shards))
        assert len(self.previous) == len(self.shards), (self.shards, self.previous)
        assert all(gid in self.groups for gid in self.shards if gid != NO_GROUP), self
        assert not any(gid in self.groups for gid in self.departed), self

    def owner(self, shard: ShardId) -> GroupId:
        """The group that this configuration gives the shard to; `NO_GROUP` if none."""
        return self.shards[shard]

    def holder(self, shard: ShardId) -> GroupId:
        """The shard's last owner other than `NO_GROUP`, this configuration included: the
        `previous` owner in the next one."""
        return self.shards[shard] or self.previous[shard]

    def group(self, gid: GroupId) -> GroupInfo | None:
        """A group that takes part, or that a shard is still on its way from."""
        return self.groups.get(gid) or self.departed.get(gid)

    def shards_of(self, gid: GroupId) -> tuple[ShardId, ...]:
        """The shards that a group owns, ascending."""
        return tuple(ShardId(at) for at, owner in enumerate(self.shards) if owner == gid)


class NodeAddresses(NamedTuple):
    """Where a node listens; an empty text where it does not."""

    client: str
    peer: str
    http: str = ""


class GroupRecord(NamedTuple):
    """What the controller knows of a group now, whether it takes part or has left."""

    uuid: GroupUuid
    version: int  # of the membership; a lower one never replaces a higher one
    members: tuple[GroupMember, ...]


@dataclass(frozen=True, slots=True)
class Directory:
    """Where groups and nodes are now. `version` grows with each change of it."""

    version: int = 0
    groups: Mapping[GroupId, GroupRecord] = field(default_factory=dict)
    nodes: Mapping[NodeId, NodeAddresses] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", _frozen(self.groups))
        object.__setattr__(self, "nodes", _frozen(self.nodes))

    def members(self, gid: GroupId) -> tuple[GroupMember, ...]:
        """A group's members at the addresses that their nodes registered last; () if unknown."""
        record = self.groups.get(gid)
        if record is None:
            return ()
        return tuple(self._resolved(member) for member in record.members)

    def _resolved(self, member: GroupMember) -> GroupMember:
        registered = self.nodes.get(member.node)
        if registered is None or registered.client in ("", member.address):
            return member
        return GroupMember(member.node, registered.client)


class View(NamedTuple):
    """What the controller answers: a configuration, and where everybody is now."""

    config: ShardConfig
    directory: Directory


def first_config(nshards: int) -> ShardConfig:
    """Configuration 0: no groups, and no shard ever had an owner."""
    return ShardConfig(ConfigNumber(0), (NO_GROUP,) * nshards)


def successor(
    config: ShardConfig,
    shards: Iterable[GroupId],
    groups: Mapping[GroupId, GroupInfo],
    known: Mapping[GroupId, GroupInfo],
) -> ShardConfig:
    """The configuration after `config`: new owners, and each shard's last owner carried on.

    Args:
        groups: The groups that take part from now on.
        known: Every group that ever took part; those that shards come from become `departed`.
    """
    holders = tuple(config.holder(ShardId(shard)) for shard in range(len(config.shards)))
    gone = sorted({gid for gid in holders if gid != NO_GROUP and gid not in groups})
    return ShardConfig(
        ConfigNumber(config.number + 1),
        tuple(shards),
        groups,
        holders,
        {gid: known[gid] for gid in gone},
    )


def _frozen(mapping: Mapping[_K, _V]) -> Mapping[_K, _V]:
    """A view that cannot be changed, in the order of its (distinct) keys."""
    return MappingProxyType(dict(sorted(mapping.items(), key=lambda item: item[0])))
