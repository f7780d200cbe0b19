"""What is recalled of a group that was recovered: the oracle of shards forgets as the plan said.

`labs/store_invariants.py` follows what each group has done. Where a majority is lost and the group
goes on from a survivor that was behind, some of that is undone, and it is said beforehand how much
(`ctl recover plan`). Here the oracle is told; from then on all its invariants hold as before.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

from labs.history import Operation
from labs.observer import Observer
from raft.ports import Reader
from raft.types import GroupId, Index, Term
from shardctrler.types import ShardId
from shardkv.machine import StoreMachine
from shardkv.once import Once
from shardkv.rows import DATA, decode_row, prefix_of
from shardkv.types import Answer

Origin = tuple[GroupId, Index]
"""An entry of a group's log."""


class State(NamedTuple):
    """A key between two writes."""

    value: bytes | None
    version: int
    since: float


@dataclass(slots=True)
class Known:
    """A key, and what became of it."""

    states: list[State] = field(default_factory=lambda: [State(None, 0, 0.0)])
    told: int = 0
    """The newest state that any client was told of."""
    batched: dict[int, tuple[tuple[bytes, int], ...]] = field(default_factory=dict)
    """Of a state that a batch made: which states of which keys the batch made, this one too."""
    origins: list[Origin | None] = field(default_factory=lambda: [None])
    """Of each state: the entry that led to it."""
    cut: tuple[float, int] = (-1.0, 0)
    """When states were lost last, and the newest one that anybody may have been told of since."""
    given: dict[int, bytes | None] = field(default_factory=dict)
    """Each version that was ever given, and for which value; of lost states, too."""


@dataclass(slots=True)
class Followed:
    """One group's canonical state, as far as it is followed."""

    at: tuple[int, int] = (0, -1)
    answers: dict[tuple[int, int], Answer] = field(default_factory=dict)
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What the oracle follows, and here is changed where it is lost."""

    observer: Observer
    now: Callable[[], float]
    groups: dict[GroupId, Followed]
    serving: list[GroupId | None]
    answers: dict[tuple[int, int, int], tuple[Answer, GroupId, Term, Index]]
    by_name: dict[tuple[int, Once], tuple[Answer, GroupId, Index]]
    keys: dict[bytes, Known]
    effects: dict[tuple[bytes, bytes], int]


class Memory:
    """What the oracle recalls of a group that lost its majority (`ctl recover`), and what not.

    A group is recovered from one survivor. Of what its majority had done, entries that the survivor
    does not hold are lost, and the states that they led to with them, as the plan has announced:

    - of a shard that the group served, or was giving away or taking over, and that no other group
      has: the states that those entries led to;
    - of a shard that begins anew, all states.

    A shard that nobody served then was on its way: whoever takes it may have all of it.

    Nobody serves such a shard until a group takes it, and then its rows must be what is recalled:
    no more is lost than was announced, and nothing else is there (C8). Shards that another group
    has are not touched. What clients were told of lost states they were told rightly.

    Attributes:
        announced: The shards that will begin anew, as the plan said.
    """

    def __init__(self, oracle: Recalled, shard_of: Callable[[bytes], ShardId]) -> None:
        self._oracle, self._shard_of = oracle, shard_of
        self.announced: dict[ShardId, None] = {}
        self.lost: dict[bytes, tuple[float, float]] = {}
        """By key: since when, and until when, what clients were told of may be lost."""
        self._values: dict[tuple[bytes, bytes | None], None] = {}  # that lost writes wrote
        self._open: dict[ShardId, tuple[GroupId, Index]] = {}  # recalled, and not yet compared
        self._kept: dict[GroupId, Index] = {}  # where the log of a group's survivor ended

    def recall(self, gid: GroupId, agreed: Index, end: Index) -> None:
        """Group `gid` goes on from a survivor.

        Args:
            agreed: Up to here the survivor's log is what the group had committed.
            end: Where its log ends. What lies between was not known to be committed; it will be.
        """
        oracle = self._oracle
        group = oracle.groups[gid]
        group.answers = {at: it for at, it in group.answers.items() if at[0] <= agreed}
        group.at = min(group.at, (int(agreed), 2**62))
        group.number = 0
        self._kept[gid] = end
        for number, owner in enumerate(oracle.serving):
            shard = ShardId(number)
            if owner == gid:
                self._lose(shard, gid, agreed)
            if owner in (None, gid):
                oracle.serving[number] = None
                self._open[shard] = (gid, agreed)

    def _lose(self, shard: ShardId, gid: GroupId, agreed: Index) -> None:
        """What group `gid` did to a shard by entries beyond `agreed` is lost."""
        oracle = self._oracle
        for request, (_, by, _, index) in list(oracle.answers.items()):
            if by == gid and index > agreed and request[0] == shard:
                del oracle.answers[request]
        for named, (_, by, index) in list(oracle.by_name.items()):
            if by == gid and index > agreed and named[0] == shard:
                del oracle.by_name[named]
        for name, key in oracle.keys.items():
            if self._shard_of(name) == shard:
                self._forget(name, key, lambda origin: origin[0] == gid and origin[1] > agreed)

    def gone(self, gid: GroupId) -> None:
        """Nothing is left of group `gid`, and it will be given up (`ctl abandon`): shards stay with
        whoever has them whole, without what the group did to them since; the others begin anew."""
        self.recall(gid, Index(0), Index(0))

    def _forget(self, name: bytes, key: Known, is_lost: Callable[[Origin], bool]) -> None:
        """Drop the newest states, for as long as what led to them is lost."""
        oracle, since, before = self._oracle, self._oracle.now(), len(key.states)
        while (origin := key.origins[-1]) is not None and is_lost(origin):
            since = key.states.pop().since
            key.origins.pop()
        left = len(key.states)
        key.told = min(key.told, left - 1)
        key.cut = (oracle.now(), key.told)
        if left < before:
            self._note(name, since)
        key.batched = {at: its for at, its in key.batched.items() if at < left}
        for named, at in list(oracle.effects.items()):
            if named[0] == name and at >= left:
                del oracle.effects[named]
                self._values[named] = None
                oracle.observer.probe("acknowledged write lost with a majority")

    def _note(self, name: bytes, since: float) -> None:
        earliest = min(since, self.lost.get(name, (since, 0.0))[0])
        self.lost[name] = (earliest, self._oracle.now())

    def compare(self, machine: StoreMachine, shard: ShardId, rows: Reader) -> None:
        """A group takes the shard over, for the first time since it was recalled, or one that the
        plan has announced: with what is recalled, or, of those, with nothing."""
        if shard not in self._open and shard not in self.announced:
            return
        lost = self._open.pop(shard, None)
        oracle = self._oracle
        prefix = prefix_of(shard, machine.record(shard).generation) + DATA
        found: dict[bytes, tuple[bytes | None, int]] = {}
        for name in [name for name in oracle.keys if self._shard_of(name) == shard]:
            row = rows.get(prefix + name)
            value, version = (None, 0) if row is None else decode_row(prefix + name, row)
            found[name] = (value, version)
        if shard in self.announced and all(stands == (None, 0) for stands in found.values()):
            self._begin_anew(shard, found)
            return
        if lost is not None and any(stands != self._last(name) for name, stands in found.items()):
            # It was on its way, and its target had not yet heard all that there was.
            self._lose(shard, *lost)
        for name, stands in found.items():
            if stands != self._last(name):
                oracle.observer.broke(
                    "C8",
                    f"group {machine.gid} takes shard {shard} after a recovery with {stands} at "
                    f"{name!r}; what the plan left of it is {self._last(name)}",
                )

    def _last(self, name: bytes) -> tuple[bytes | None, int]:
        last = self._oracle.keys[name].states[-1]
        return last.value, last.version

    def _begin_anew(self, shard: ShardId, names: Iterable[bytes]) -> None:
        oracle = self._oracle
        del self.announced[shard]
        for name in names:
            key = oracle.keys[name]
            if len(key.states) > 1:
                self._forget(name, key, lambda origin: True)
                self._note(name, 0.0)
        for request in [request for request in oracle.answers if request[0] == shard]:
            del oracle.answers[request]
        for named in [named for named in oracle.by_name if named[0] == shard]:
            del oracle.by_name[named]
        oracle.observer.probe("shard begun anew, as the plan said")

    def may_be_done_after_all(self, gid: GroupId, index: Index) -> bool:
        """Whether an entry was in a survivor's log, in the place of one that is lost: who was told
        that it was not done was told so by the lost one."""
        return index <= self._kept.get(gid, 0)

    def lost_since(self, key: bytes, began: float) -> bool:
        """Whether anything that was done to a key was lost since then."""
        return began <= self.lost.get(key, (0.0, -1.0))[1]

    def is_lost(self, operation: Operation) -> bool:
        """Whether what an operation did, or was shown, may be lost."""
        since, until = self.lost.get(operation.key, (0.0, -1.0))
        return operation.began <= until and operation.ended >= since

    def left(self, operations: Iterable[Operation]) -> list[Operation]:
        """A history without what was lost, for judges from outside: a write that may be lost may
        have happened or not, and what a lost state showed was shown rightly."""
        kept = []
        for one in operations:
            if not self.is_lost(one):
                kept.append(one)
            elif one.writes and one.happened is not False:
                kept.append(replace(one, happened=None, ended=inf))
        return kept
