"""Which shards a group would begin anew, empty, if it were recovered from a survivor now (pure).

A survivor that was behind has missed moves. It comes to each configuration that it missed, in turn
(`machine.py`), and what becomes of a shard then is:

- *It had left the group*, and a later owner has taken it: nothing is lost. If none has, the copy
  begins again from what the survivor holds (`steps.renew`).
- *It had come to the group*, and its source still has it: it is copied again.
- *It had come to the group, and its source has dropped it*, because the lost replicas said that it
  was in: nobody has its rows any more, unless a later owner took it over from the group. It begins
  anew, empty. Not only what the lost replicas alone had acknowledged is gone then, but every write
  to it, back to the first; so this is said before anybody decides.

What the group recalls is judged as if its whole log were committed (`foresight.py`), because a
recovery commits it. What others have is judged by the applied state of their leaders.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from raft.types import GroupId
from shardctrler.types import NO_GROUP, ConfigNumber, ShardConfig, ShardId
from shardkv.phases import Phase
from shardkv.recovery import ShardStands, Stands

Others = Mapping[GroupId, Stands | None]
"""How shards stand at the other groups' leaders; None: nobody says so. A group that was given up
for lost is not in it: it has nothing."""


class Forgotten(NamedTuple):
    """A shard that came to the group by entries which the survivor does not have."""

    shard: ShardId
    number: ConfigNumber  # of the configuration that brought it
    source: GroupId  # the group that it came from


class Fates(NamedTuple):
    """What the survivor has forgotten."""

    node: str
    stands_at: int  # the configuration that its log ends in
    newest: int  # the controller's
    anew: tuple[Forgotten, ...]  # begin anew, empty
    unsure: tuple[tuple[Forgotten, GroupId], ...]
    """May begin anew: the group beside each would know, and nobody answers for it."""


def fates(gid: GroupId, survivor: Stands, history: Sequence[ShardConfig], others: Others) -> Fates:
    """What becomes of each shard that the survivor does not know to have come.

    Args:
        gid: The group to be recovered.
        history: The configurations after the survivor's, ascending and without a gap, to the
            newest.
        others: Every other group that may hold a shard.
    """
    records = _by_shard(survivor)
    known = {other: None if it is None else _by_shard(it) for other, it in others.items()}
    anew: list[Forgotten] = []
    unsure: list[tuple[Forgotten, GroupId]] = []
    nshards = len(history[0].shards) if history else max(records, default=-1) + 1
    for number in range(nshards):
        shard = ShardId(number)
        fate = _Walk(gid, shard, known).along(records.get(shard), history)
        if fate is not None and fate[1] is None:
            anew.append(fate[0])
        elif fate is not None and fate[1] is not None:
            unsure.append((fate[0], fate[1]))
    newest = history[-1].number if history else survivor.config_number
    return Fates(survivor.node, survivor.config_number, newest, tuple(anew), tuple(unsure))


def _by_shard(stands: Stands) -> dict[int, ShardStands]:
    return {one.shard: one for one in stands.shards}


_Fate = tuple[Forgotten, GroupId | None]
"""A shard that begins anew; or may, as the group knows that says nothing."""


class _Walk:
    """One shard, from the survivor's configuration to the newest."""

    def __init__(
        self,
        gid: GroupId,
        shard: ShardId,
        others: Mapping[GroupId, Mapping[int, ShardStands] | None],
    ) -> None:
        self._gid, self._shard, self._others = gid, shard, others
        self._fate: _Fate | None = None

    def along(self, record: ShardStands | None, history: Iterable[ShardConfig]) -> _Fate | None:
        left = 0  # the configuration by which the group gave the shard away last
        if record is not None and record.phase == Phase.ARRIVING:
            self._comes(ConfigNumber(record.number), GroupId(record.peer), left)
        elif record is not None and record.phase in (Phase.MOVING, Phase.LEAVING):
            left = record.number
        for config in history:
            owner, source = config.shards[self._shard], config.previous[self._shard]
            if source == NO_GROUP:
                self._fate = None  # nobody had it, or it was given up for lost before
            elif owner == self._gid and source != self._gid:
                self._comes(config.number, source, left)
            elif source == self._gid and owner not in (self._gid, NO_GROUP):
                left = config.number
                self._goes(left)
        return self._fate

    def _comes(self, number: ConfigNumber, source: GroupId, left: int) -> None:
        """From a group that still has it, or not any more."""
        forgotten = Forgotten(self._shard, number, source)
        if source not in self._others:
            self._fate = (forgotten, None)
            return
        stands = self._others[source]
        if stands is None:
            self._fate = (forgotten, source)
            return
        there = self._record(stands)
        if there.number > number or (there.number == number and there.phase == Phase.ABSENT):
            self._fate = (forgotten, None)
        elif there.taken >= left:  # else it is still to take over what begins anew here
            self._fate = None

    def _goes(self, number: int) -> None:
        """To another group. If that one or a later owner took it over, all is well with it."""
        if self._fate is None:
            return
        told = [stands for stands in self._others.values() if stands is not None]
        if any(self._record(stands).taken >= number for stands in told):
            self._fate = None
            return
        silent = next((gid for gid, stands in self._others.items() if stands is None), None)
        if silent is not None:
            self._fate = (self._fate[0], silent)

    def _record(self, stands: Mapping[int, ShardStands]) -> ShardStands:
        return stands.get(self._shard, ShardStands(self._shard, Phase.ABSENT, 0, 0, 0))


def explained(found: Fates) -> list[str]:
    """In words, a line each configuration and source that shards were forgotten of."""
    lines = []
    if found.stands_at < found.newest:
        lines.append(
            f"{found.node} was left behind: its log ends in configuration {found.stands_at}, the "
            f"newest is {found.newest}"
        )
    for (number, source), shards in _gathered(found.anew).items():
        lines.append(
            f"BEGIN ANEW, EMPTY: {shards}, which had come from group {source} by configuration "
            f"{number}, in entries that nobody who is left has; group {source} has dropped them "
            "since: every acknowledged write to their keys is gone"
        )
    silent = dict.fromkeys(group for _, group in found.unsure)
    for group in silent:
        of_it = [one for one, told_by in found.unsure if told_by == group]
        for (number, source), shards in _gathered(of_it).items():
            lines.append(
                f"MAY BEGIN ANEW, EMPTY: {shards}, which had come from group {source} by "
                f"configuration {number}: group {group} has no leader to say who has them now. If "
                f"it lost its majority too, recover it first"
            )
    return lines


def _gathered(forgotten: Iterable[Forgotten]) -> dict[tuple[int, int], str]:
    """By configuration and source: which shards, in words."""
    found: dict[tuple[int, int], list[int]] = {}
    for shard, number, source in forgotten:
        found.setdefault((number, source), []).append(shard)
    return {
        key: ("shard " if len(shards) == 1 else "shards ") + ", ".join(map(str, shards))
        for key, shards in found.items()
    }
