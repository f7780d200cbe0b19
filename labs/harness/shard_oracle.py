"""What must hold of shards at every command that any group applies, watched in the lab tests."""

import asyncio
from typing import NoReturn

from labs.harness.edition import LabFailure
from raft.ports import Rows
from raft.types import GroupId, Index
from shardctrler.types import ShardId
from shardkv.machine import StoreMachine
from shardkv.phases import Phase
from shardkv.types import Answer


class ShardWatch:
    """At most one group serves a shard (S1), and configurations are taken one by one (S5).

    A group's state is what the first of its replicas comes to that applies a command; the others
    are behind, and what they show is past. A breach fails the run at once: raised in the machine it
    would only stop that replica.
    """

    def __init__(self, nshards: int) -> None:
        self.hand_overs = 0
        self._seen: dict[GroupId, tuple[Index, int]] = {}  # the newest command: entry, place in it
        self._numbers: dict[GroupId, int] = {}
        self._serving: list[GroupId | None] = [None] * nshards
        self._broken: list[LabFailure] = []

    def new_machine(self, gid: GroupId, nshards: int) -> StoreMachine:
        return _WatchedMachine(gid, nshards, self)

    def saw(self, machine: StoreMachine, index: Index, place: int) -> None:
        """`machine` has just applied the command at `place` of the entry at `index`."""
        gid = machine.gid
        if (index, place) <= self._seen.get(gid, (Index(0), 0)):
            return
        self._seen[gid] = (index, place)
        before = self._numbers.get(gid, 0)
        if not before <= machine.number <= before + 1:
            self._fail(f"S5: group {gid} goes from configuration {before} to {machine.number}")
        self._numbers[gid] = machine.number
        for shard, owner in enumerate(self._serving):
            serves = machine.record(ShardId(shard)).phase is Phase.SERVING
            if serves and owner != gid:
                if owner is not None:
                    self._fail(f"S1: groups {owner} and {gid} both serve shard {shard}")
                self._serving[shard] = gid
                self.hand_overs += 1
            elif not serves and owner == gid:
                self._serving[shard] = None

    def forget(self, gid: GroupId) -> None:
        """A group is gone for ever, and another one may come under its gid.

        Raises:
            LabFailure: it serves a shard, which is lost with it.
        """
        served = [shard for shard, owner in enumerate(self._serving) if owner == gid]
        if served:
            raise LabFailure(f"group {gid} goes, and serves {served}")
        self._seen.pop(gid, None)
        self._numbers.pop(gid, None)

    def finish(self) -> None:
        """At the end of a run: raise what was broken, if it has not failed of it already."""
        if self._broken:
            raise self._broken[0]

    def _fail(self, text: str) -> None:
        failure = LabFailure(text)
        self._broken.append(failure)
        asyncio.get_running_loop().call_soon(_throw, failure)


class _WatchedMachine(StoreMachine):
    def __init__(self, gid: GroupId, nshards: int, watch: ShardWatch) -> None:
        super().__init__(gid, nshards)
        self._watch = watch
        self._index, self._place = Index(0), 0

    def apply(self, index: Index, command: bytes, rows: Rows) -> Answer:
        answer = super().apply(index, command, rows)
        self._place = self._place + 1 if index == self._index else 1
        self._index = index
        self._watch.saw(self, index, self._place)
        return answer


def _throw(failure: LabFailure) -> NoReturn:
    raise failure
