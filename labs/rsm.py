"""Lab 4A of 2025: the replicated state machine's interface on the production one.

`submit` is `ReplicatedStateMachine.submit`; what the lab calls ErrWrongLeader is every error of it:
not the leader, leadership lost, another command in its place, killed. The service is a Python
object with a state of its own, and the production code keeps state as rows. So the rows hold the
service's last snapshot and the commands behind it, and what is captured, streamed and installed is
always the state at the applied index.
"""

from collections.abc import Sequence
from enum import Enum
from random import Random
from typing import Any, Final, Protocol

import msgpack

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabServer
from labs.compaction import NEVER, CompactingMachine, compaction, snapshot_bytes
from labs.node import LabNode, Watcher
from raft.config import Mode, RaftConfig
from raft.errors import RaftError
from raft.ports import Reader, Rows, Write
from raft.replica import Replica
from raft.rsm import ReplicatedStateMachine
from raft.types import Index

Request = Any
"""What msgpack carries."""

RSM_CONFIG: Final = RaftConfig(mode=Mode.LAB)
"""Plain Raft: an isolated leader leads on, and `submit` there waits until it hears of another."""

SNAPSHOT_KEY: Final = b"s"
COMMANDS: Final = (b"c", b"d")
"""The range `[lo, hi)` of the keys of commands: `c` u64 index, u32 place in the entry."""


class Err(Enum):
    """What `submit` says."""

    OK = "OK"
    WRONG_LEADER = "ErrWrongLeader"


class Service(Protocol):
    """The state machine that is replicated. Deterministic, and quick."""

    def do_op(self, request: Request) -> object:
        """Carry out a committed request and return its reply; the same on every server."""
        ...

    def snapshot(self) -> bytes: ...

    def restore(self, snapshot: bytes) -> None:
        """Have the state that `snapshot` was taken of."""
        ...


class RSM:
    """One server. Made by `make`."""

    def __init__(
        self, node: LabNode, replica: Replica, rsm: ReplicatedStateMachine, service: Service
    ) -> None:
        """Use `make`."""
        self.name, self.replica, self.service = node.name, replica, service
        self._node, self._rsm = node, rsm

    @classmethod
    async def make(
        cls,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        service: Service,
        rng: Random,
        *,
        maxraftstate: int = NEVER,
        watcher: Watcher | None = None,
        config: RaftConfig = RSM_CONFIG,
    ) -> "RSM":
        """Start server `me` (from 0) of as many as there are `peers`, from what the drive holds.

        Args:
            service: In the state in which everything began; what is stored is restored into it.
            maxraftstate: The log is cut when it holds more bytes; `NEVER` (-1): it is not.
        """
        node = await LabNode.open(
            peers, me, drive, rng, config=config, compaction=compaction(maxraftstate),
            watcher=watcher,
        )  # fmt: skip
        rsm = ReplicatedStateMachine(_ServiceMachine(service, folds=maxraftstate != NEVER))
        replica = await node.start(CompactingMachine(rsm, node, maxraftstate))
        rsm.attach(replica)
        return cls(node, replica, rsm, service)

    async def submit(self, request: Request) -> tuple[Err, object]:
        """Have a request carried out everywhere; returns its reply here.

        With WRONG_LEADER it may have been carried out, or may yet be.
        """
        try:
            return Err.OK, await self._rsm.submit(msgpack.packb(request))
        except RaftError:
            return Err.WRONG_LEADER, None

    @property
    def waiting(self) -> int:
        """Requests in `submit` that have no outcome yet."""
        return self._rsm.pending

    @property
    def server(self) -> LabServer:
        """What answers this server's peers."""
        return LabServer(self._node.handlers)

    def get_state(self) -> tuple[int, bool]:
        """The current term, and whether this server believes that it leads."""
        return self.replica.core.term, self.replica.leads

    def persist_bytes(self) -> int:
        """What the raft state holds, without the snapshot."""
        return self._node.persist_bytes()

    def snapshot_bytes(self) -> int:
        """What the snapshot takes; 0 if the log was never cut."""
        return snapshot_bytes(self._node)

    def kill(self) -> None:
        """Stop; who waits in `submit` is told WRONG_LEADER."""
        self._node.kill()


class _ServiceMachine:
    """A `raft.rsm.Machine` that hands each command to the service.

    Args:
        folds: Whether commands give way to a snapshot of what they did.
    """

    def __init__(self, service: Service, *, folds: bool) -> None:
        self._service, self._folds = service, folds
        self._initial = service.snapshot()
        self._fresh = True  # nothing was done to the service yet
        self._index, self._place = Index(0), 0
        self._behind = 0  # commands in the rows

    def apply(self, index: Index, command: bytes, rows: Rows) -> object:
        self._place = self._place + 1 if index == self._index else 0
        self._index = index
        key = COMMANDS[0] + index.to_bytes(8, "big") + self._place.to_bytes(4, "big")
        rows.put(key, command)
        self._behind += 1
        return self._do(command)

    def reload(self, rows: Reader) -> None:
        """Do again what the rows say was done, from the snapshot on."""
        snapshot = rows.get(SNAPSHOT_KEY)
        if snapshot is not None or not self._fresh:
            self._service.restore(self._initial if snapshot is None else snapshot)
        self._behind = 0
        for _, command in rows.range(*COMMANDS):
            self._do(command)
            self._behind += 1

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        """The service's snapshot in place of all commands: one batch, so `rows_max` is no bound."""
        if not self._folds or not self._behind:
            return ()
        self._behind = 0
        folded: list[Write] = [(key, None) for key, _ in rows.range(*COMMANDS)]
        return [(SNAPSHOT_KEY, self._service.snapshot()), *folded]

    def _do(self, command: bytes) -> object:
        self._fresh = False
        return self._service.do_op(msgpack.unpackb(command))
