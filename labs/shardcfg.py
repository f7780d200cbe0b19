"""The 2025 lab's configurations: which group has which of twelve shards, and how they are placed.

Placement is the production controller's (`shardctrler.rebalance`), which follows the same rules. A
configuration here is the lab's mutable one, with a text form (JSON); `labs.shardkv1` turns it into
the production one, which groups take.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from raft.types import GroupId
from shardctrler.rebalance import balance
from shardctrler.types import NO_GROUP, ShardId

NSHARDS: Final = 12
FIRST_NUMBER: Final = 1
GID1: Final = GroupId(1)
"""The group that owns every shard from the beginning."""

_FNV_START, _FNV_PRIME = 0x811C9DC5, 0x01000193


def key2shard(key: bytes) -> ShardId:
    """FNV-1a of 32 bits over the key's bytes, modulo the number of shards."""
    value = _FNV_START
    for byte in key:
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return ShardId(value % NSHARDS)


class BadGroups(ValueError):
    """A change of groups that no configuration can make; the lab ends the process."""


class ShardConfig:
    """One configuration. `num` is 0 until the first group joins.

    Args:
        shards: The gid of each shard; 0 is no group.
        groups: The names of each group's servers.
    """

    def __init__(
        self,
        num: int = 0,
        shards: Sequence[GroupId] = (NO_GROUP,) * NSHARDS,
        groups: Mapping[GroupId, Sequence[str]] | None = None,
    ) -> None:
        self.num = num
        self.shards = list(shards)
        self.groups = {gid: list(names) for gid, names in (groups or {}).items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardConfig) and str(self) == str(other)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        """The text form, the same for equal configurations."""
        groups = {str(gid): self.groups[gid] for gid in sorted(self.groups)}
        return json.dumps({"Num": self.num, "Shards": self.shards, "Groups": groups})

    @classmethod
    def from_string(cls, text: str) -> "ShardConfig":
        fields = json.loads(text)
        groups = {GroupId(int(gid)): names for gid, names in fields["Groups"].items()}
        return cls(fields["Num"], fields["Shards"], groups)

    def copy(self) -> "ShardConfig":
        """One that shares nothing with this one."""
        return ShardConfig(self.num, self.shards, self.groups)

    def join(self, groups: Mapping[GroupId, Sequence[str]]) -> bool:
        """Add groups, and count up; False, and nothing changes, if one is there already.

        Raises:
            BadGroups: no group is named, or a server that another group has.
        """
        if not groups:
            raise BadGroups("join of no group")
        if any(gid in self.groups for gid in groups):
            return False
        names = [
            name for taken in (self.groups, groups) for group in taken.values() for name in group
        ]
        if len(set(names)) != len(names):
            raise BadGroups(f"a server is in two groups: {sorted(names)}")
        self.groups.update({gid: list(group) for gid, group in groups.items()})
        self.num += 1
        return True

    def leave(self, gids: Collection[GroupId]) -> bool:
        """Remove groups, and count up; False, and nothing changes, if one is not there.

        Raises:
            BadGroups: no group is named.
        """
        if not gids:
            raise BadGroups("leave of no group")
        if any(gid not in self.groups for gid in gids):
            return False
        for gid in gids:
            del self.groups[gid]
        self.num += 1
        return True

    def rebalance(self) -> None:
        """Spread the shards over the groups, with the fewest moves."""
        self.shards = list(balance(self.shards, self.groups))

    def join_balance(self, groups: Mapping[GroupId, Sequence[str]]) -> bool:
        joined = self.join(groups)
        if joined:
            self.rebalance()
        return joined

    def leave_balance(self, gids: Collection[GroupId]) -> bool:
        left = self.leave(gids)
        if left:
            self.rebalance()
        return left

    def gid_servers(self, shard: ShardId) -> tuple[GroupId, list[str], bool]:
        """The shard's group, its servers, and whether there is such a group."""
        gid = self.shards[shard]
        return gid, self.groups.get(gid, []), gid in self.groups

    def is_member(self, gid: GroupId) -> bool:
        """Whether some shard is assigned to the group."""
        return gid in self.shards

    def check(self, gids: Iterable[GroupId]) -> None:
        """Exactly these groups, every shard on one of them, and balanced.

        Raises:
            AssertionError: what is not so.
        """
        expected = sorted(gids)
        assert sorted(self.groups) == expected, f"groups {sorted(self.groups)}, not {expected}"
        if expected:
            assert set(self.shards) <= set(expected), f"a shard is on no group: {self.shards}"
            loads = [self.shards.count(gid) for gid in expected]
            assert max(loads) - min(loads) <= 1, f"not balanced: {self.shards}"
