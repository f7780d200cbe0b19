"""Where a clerk asks about a shard that is not with the owner its configuration names (pure).

A shard on its way is answered by one group: its source until the freeze, its new owner from the
install on. Each of the two names the other, so the clerk only has to follow:

- `NOT_READY n, source`: ask the source, until that one says `WRONG_GROUP`.
- `WRONG_GROUP m` from whom the clerk asks by its own configuration N: with m > N there is a newer
  one to learn. With m < N that group is *behind*: it has not taken N yet, so the owner before it
  may serve the shard still. With m = N the owner has not got it and knows not from where: wait.

Two that name each other, for as long as the shard is frozen, must not be asked in a hot circle:
after `HOPS_MAX` without an answer the clerk pauses, and goes on from where it is.
"""

from enum import Enum, auto
from typing import Final

from raft.types import GroupId
from shardctrler.types import NO_GROUP, ShardConfig, ShardId

HOPS_MAX: Final = 2


class Next(Enum):
    """What to do with an operation that was not answered."""

    GO = auto()  # at once, where the shard is asked now
    PAUSE = auto()
    REFRESH = auto()  # there is a newer configuration


class _Detour:
    __slots__ = ("gid", "hops")

    def __init__(self) -> None:
        self.gid: GroupId | None = None  # None: the owner
        self.hops = 0  # since the last answer or pause


class Detours:
    """For each shard that needs one, the group to ask instead of its owner."""

    def __init__(self) -> None:
        self._detours: dict[ShardId, _Detour] = {}

    def group(self, config: ShardConfig, shard: ShardId) -> GroupId:
        """Whom to ask about a shard; 0: nobody."""
        owner = config.shards[shard]
        if not self._detours:
            return owner
        detour = self._detours.get(shard)
        return owner if detour is None or detour.gid is None else detour.gid

    def clear(self) -> None:
        """There is a new configuration: its owners are asked first."""
        self._detours.clear()

    def forget(self, shard: ShardId) -> None:
        """The group that is asked instead of the owner is no more: ask the owner again."""
        self._detours.pop(shard, None)

    def answered(self, shard: ShardId) -> None:
        """The shard was found where it was asked for."""
        detour = self._detours.get(shard)
        if detour is not None:
            detour.hops = 0

    def not_ready(
        self, config: ShardConfig, shard: ShardId, gid: GroupId, number: int, source: GroupId
    ) -> Next:
        """Group `gid` waits for the shard, by configuration `number`, from `source`."""
        if number > config.number:
            return Next.REFRESH
        if source in (gid, NO_GROUP):
            return Next.PAUSE
        return self._turn(shard, source)

    def wrong_group(self, config: ShardConfig, shard: ShardId, gid: GroupId, number: int) -> Next:
        """Group `gid`, which has configuration `number`, does not have the shard."""
        if number > config.number:
            return Next.REFRESH
        asked = self.group(config, shard)
        if gid != asked:
            return Next.GO  # it was asked before the last turn
        owner, previous = config.shards[shard], config.previous[shard]
        detour = self._detours.get(shard)
        if detour is not None and detour.gid is not None:
            return self._turn(shard, None)
        if number < config.number and previous not in (owner, NO_GROUP):
            return self._turn(shard, previous)
        return Next.PAUSE

    def _turn(self, shard: ShardId, gid: GroupId | None) -> Next:
        detour = self._detours.get(shard)
        if detour is None:
            detour = self._detours[shard] = _Detour()
        if detour.gid != gid:
            detour.gid = gid
            detour.hops += 1
        if detour.hops > HOPS_MAX:
            detour.hops = 0
            return Next.PAUSE
        return Next.GO
