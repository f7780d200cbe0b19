"""What must hold of shards at every entry that any group applies, watched in the lab tests."""

import asyncio
from typing import NoReturn

from labs.cluster import ShardOracle
from raft.ports import Rows
from raft.types import GroupId, Index
from shardkv.machine import StoreMachine
from shardkv.types import Answer


class ShardWatch:
    """At most one group serves a shard (S1), and configurations are taken one by one (S5).

    A breach fails the run at once: raised in the machine it would only stop that replica.
    """

    def __init__(self, nshards: int) -> None:
        self.oracle = ShardOracle(nshards)
        self._broken: list[AssertionError] = []

    def new_machine(self, gid: GroupId, nshards: int) -> StoreMachine:
        return _WatchedMachine(gid, nshards, self)

    def saw(self, machine: StoreMachine, index: Index) -> None:
        try:
            self.oracle.saw(machine, index)
        except AssertionError as error:
            self._broken.append(error)
            asyncio.get_running_loop().call_soon(_throw, error)

    def finish(self) -> None:
        """At the end of a run: raise what was broken, if it has not failed of it already."""
        if self._broken:
            raise self._broken[0]


class _WatchedMachine(StoreMachine):
    def __init__(self, gid: GroupId, nshards: int, watch: ShardWatch) -> None:
        super().__init__(gid, nshards)
        self._watch = watch

    def apply(self, index: Index, command: bytes, rows: Rows) -> Answer:
        answer = super().apply(index, command, rows)
        self._watch.saw(self, index)
        return answer


def _throw(error: AssertionError) -> NoReturn:
    raise error
