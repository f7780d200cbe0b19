"""The raft lab's interface on the production code: make, start, get_state, snapshot, kill.

A lab server is a whole node: the production host with one group, its log and data databases on a
simulated drive, and calls of the lab network as its courier. What differs from production is only
configuration: the core's lab mode without an empty entry at the start of a term (the lab's tests
count indexes from 1), and a voter set that is fixed at birth.

The state machine is the lab's *service*, which reads `ApplyMsg`s from a queue and hands snapshots
back. Between two of its snapshots the applied commands are kept as rows, so that what the
production code captures, streams and installs is always the state at the applied index: the last
snapshot and the commands behind it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Any, Final, NamedTuple

import msgpack

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabServer
from labs.node import DATA, GID, LOG, UUID, LabNode, Watcher
from raft.config import Mode, RaftConfig
from raft.ports import Reader, Rows, Write
from raft.replica import Replica
from raft.types import Entry, EntryKind, Index, Role, Term

__all__ = [
    "Raft",
    "ApplyMsg",
    "ApplyQueue",
    "Command",
    "Started",
    "Watcher",
    "GID",
    "UUID",
    "LAB_CONFIG",
    "DATA",
    "LOG",
]

Command = Any
"""Whatever msgpack carries and `==` compares: the tests use ints and strings."""

LAB_CONFIG: Final = RaftConfig(mode=Mode.LAB, empty_entry_at_start=False)

ROWS_MAX: Final = 1_000
SNAPSHOT_KEY: Final = b"s"
COMMAND_KEY: Final = b"c"


class ApplyMsg(NamedTuple):
    """What the service is told: a command, or a snapshot that replaces its state."""

    command_valid: bool = False
    command: Command = None
    command_index: int = 0
    snapshot_valid: bool = False
    snapshot: bytes = b""
    snapshot_term: int = 0
    snapshot_index: int = 0


class Started(NamedTuple):
    """What `start` says: where the command will stand if it is ever committed, and the term."""

    at: int
    term: int
    is_leader: bool


ApplyQueue = asyncio.Queue[ApplyMsg | None]
"""What the service reads; None says that no more will come. Of size 1: the lab's channel is
unbuffered, so nothing is handed over that nobody reads."""


class Raft:
    """One Raft server of the lab. Made by `make`."""

    def __init__(self, node: LabNode, replica: Replica, machine: "_ServiceMachine") -> None:
        """Use `make`."""
        self.name, self.replica = node.name, replica
        self._node, self._machine = node, machine
        self._loop = asyncio.get_running_loop()
        self._compactions: dict[asyncio.Task[None], None] = {}

    @classmethod
    async def make(
        cls,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        apply_queue: ApplyQueue,
        rng: Random,
        *,
        watcher: Watcher | None = None,
        config: RaftConfig = LAB_CONFIG,
    ) -> "Raft":
        """Start server `me` (from 0) of as many as there are `peers`, from what the drive holds.

        Args:
            peers: An end to each server; the one to itself is not used.
            drive: The persister. A blank one makes a new server.
            apply_queue: Where committed commands and received snapshots go, in order.
            rng: Draws the election time-outs.
        """
        node = await LabNode.open(peers, me, drive, rng, config=config, watcher=watcher)
        machine = _ServiceMachine(apply_queue)
        made = cls(node, await node.start(machine), machine)
        machine.begin()
        return made

    @property
    def server(self) -> LabServer:
        """What answers this server's peers."""
        return LabServer(self._node.handlers)

    def start(self, command: Command) -> Started:
        """Propose a command, if this server leads; returns at once, and promises nothing."""
        term, leads = self.get_state()
        if not leads:
            return Started(-1, term, False)
        placed = self.replica.propose(encode_command(command))
        if placed is None:
            return Started(-1, term, False)
        return Started(placed.index, placed.term, True)

    def get_state(self) -> tuple[int, bool]:
        """The current term, and whether this server believes that it leads."""
        core = self.replica.core
        return core.term, core.role is Role.LEADER and not self._node.dead

    def snapshot(self, index: int, data: bytes) -> None:
        """The service has everything up to `index` in `data`: the log may be cut there."""
        if self._node.dead or self.replica.stopped_because is not None:
            return
        self._machine.snapshot = (index, data)
        self.replica.collect_garbage(ROWS_MAX)
        if self._machine.snapshot is not None:
            return  # a received snapshot is being installed; the driver asks again later
        task = self._loop.create_task(self._compact(Index(index)))
        self._compactions[task] = None
        task.add_done_callback(self._compacted)

    async def _compact(self, index: Index) -> None:
        """Cut the log, but only once the snapshot is durable (a cut log cannot be replayed)."""
        durable = await self.replica.store.flush()
        if not self._node.dead:
            self.replica.compact(durable, index)

    def _compacted(self, task: "asyncio.Task[None]") -> None:
        self._compactions.pop(task, None)
        if not task.cancelled():
            task.result()  # a failure is ours: let the loop report it

    def read_snapshot(self) -> tuple[int, bytes]:
        """The index and bytes of the stored snapshot, (0, b"") if there is none."""
        index, _, data = _read_snapshot(self.replica.store.reader)
        return index, data

    def persist_bytes(self) -> int:
        """Term, index and payload of the entries held, and the hard state; no framing."""
        return self._node.persist_bytes()

    def kill(self) -> None:
        """Stop: nothing more is said, stored or delivered, and the queue ends with None."""
        if self._node.dead:
            return
        self._node.kill()
        for task in self._compactions:
            task.cancel()
        self._machine.end()


class _ServiceMachine:
    """The state machine port for the lab's service: rows, and a queue in the order of the log."""

    def __init__(self, queue: ApplyQueue) -> None:
        self._queue = queue
        self._outbox: deque[ApplyMsg] = deque()
        self._news = asyncio.Event()
        self._told: int | None = None  # the index that the service has come to; None: not begun
        self._pump: asyncio.Task[None] | None = None
        self.snapshot: tuple[int, bytes] | None = None
        """Of the service, up to an index; the next `garbage` stores it."""

    def begin(self) -> None:
        """Let the service hear what is waiting."""
        self._pump = asyncio.get_running_loop().create_task(self._run())

    def end(self) -> None:
        """Take back what nobody has read yet, and say that no more will come."""
        if self._pump is not None:
            self._pump.cancel()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    # The port

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        for index, term, kind, data in entries:
            if kind is EntryKind.COMMAND:
                rows.put(_command_key(index), term.to_bytes(8, "big") + data)
                self._tell_command(index, data)

    def reload(self, rows: Reader) -> None:
        """At the start the service reads the stored snapshot itself; later it is told a newer one.
        The commands behind the snapshot follow."""
        index, term, data = _read_snapshot(rows)
        if self._told is None:
            self._told = index
        elif index > self._told:
            self._told = index
            self._tell(ApplyMsg(
                snapshot_valid=True, snapshot=data, snapshot_term=term, snapshot_index=index,
            ))  # fmt: skip
        behind = rows.range(_command_key(self._told + 1), _command_key(2**63))
        for key, value in behind:
            self._tell_command(int.from_bytes(key[1:], "big"), value[8:])

    def leadership_changed(self, leads: bool) -> None:
        """The lab's service asks with `get_state`."""

    def snapshot_installed(self, index: Index) -> None:
        """`reload` has told it."""

    def stopped(self) -> None:
        """`Raft.kill` ends the queue."""

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        """Put the service's new snapshot in place of the commands that it stands for."""
        if self.snapshot is None:
            return ()
        (index, data), self.snapshot = self.snapshot, None
        if index <= _read_snapshot(rows)[0]:
            return ()  # a newer one was received meanwhile
        value = rows.get(_command_key(index))
        assert value is not None, f"the service cannot know command {index} yet"
        replaced = rows.range(_command_key(0), _command_key(index + 1))
        stored = (SNAPSHOT_KEY, index.to_bytes(8, "big") + value[:8] + data)
        return [stored, *((key, None) for key, _ in replaced)]

    # The queue

    def _tell_command(self, index: int, data: bytes) -> None:
        self._told = index
        command = decode_command(data)
        self._tell(ApplyMsg(command_valid=True, command=command, command_index=index))

    def _tell(self, message: ApplyMsg) -> None:
        self._outbox.append(message)
        self._news.set()

    async def _run(self) -> None:
        while True:
            while self._outbox:
                await self._queue.put(self._outbox.popleft())
            self._news.clear()
            await self._news.wait()


def encode_command(command: Command) -> bytes:
    packed: bytes = msgpack.packb(command)
    return packed


def decode_command(data: bytes) -> Command:
    return msgpack.unpackb(data)


def _command_key(index: int) -> bytes:
    return COMMAND_KEY + index.to_bytes(8, "big")


def _read_snapshot(rows: Reader) -> tuple[int, Term, bytes]:
    raw = rows.get(SNAPSHOT_KEY)
    if raw is None:
        return 0, Term(0), b""
    index, term = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:16], "big")
    return index, Term(term), raw[16:]
