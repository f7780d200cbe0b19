"""The raft lab's tester: servers on the lab network, what it does to them, what it checks.

A server is crashed in the tester's order: its ends are disabled, its server deleted, its storage
cut off (as the labs copy the persister), and only then is it killed. Storage is a simulated drive
and a crash is a power cut, which is harder than the labs' persister: what was not synced is lost.

Checked on every apply: all servers apply the same command at an index, and in order. The reader
with snapshots is stricter, see `_SnapshotReader`.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from random import Random
from typing import Final, Protocol

import msgpack

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabNetwork, LabServer
from labs.checkers import RaftInvariants
from labs.harness.edition import TEST_SECONDS_MAX, Edition, LabFailure
from labs.harness.figures import note_operations
from labs.raft import DATA, GID, LOG, ApplyMsg, ApplyQueue, Command, Raft, Started, Watcher

ELECTION_SECONDS: Final = 1.0
"""The tests' unit of sleep (RaftElectionTimeout)."""
SNAPSHOT_INTERVAL: Final = 10
LOG_BYTES_MAX: Final = 2000


class RaftServer(Protocol):
    """What the tester asks of a server; `labs.raft.Raft` says what each call means."""

    @property
    def server(self) -> LabServer: ...

    def start(self, command: Command) -> Started: ...

    def get_state(self) -> tuple[int, bool]: ...

    def snapshot(self, index: int, data: bytes) -> None: ...

    def read_snapshot(self) -> tuple[int, bytes]: ...

    def persist_bytes(self) -> int: ...

    def kill(self) -> None: ...


class MakeRaft(Protocol):
    """As `labs.raft.Raft.make`."""

    def __call__(
        self,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        apply_queue: ApplyQueue,
        rng: Random,
        *,
        watcher: Watcher | None = None,
    ) -> Awaitable[RaftServer]: ...


class RaftCluster:
    """The tester's `config`: use it as an async context, which starts the servers.

    Args:
        count: How many servers.
        seed: Of everything in the run.
        edition: Whose rules hold where they differ.
        reliable: The network's kind.
        snapshots: Whether the service takes snapshots.
        make: Starts a server, the project's own by default. Only of that one can the invariants be
            watched; the tester's own checks hold for any.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: str,
        edition: Edition,
        reliable: bool,
        snapshots: bool,
        make: MakeRaft = Raft.make,
    ) -> None:
        self.count, self.edition = count, edition
        self.rng = Chance(seed).rng("tester")
        self.servers: list[RaftServer | None] = [None] * count
        self.connected = [False] * count
        self.index_max = 0  # the highest index that anybody applied
        self._chance = Chance(seed)
        self._snapshots, self._make = snapshots, make
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._network = LabNetwork(self._chance.rng("network"))
        self._network.reliable = reliable
        self._network.long_delays = True
        self.drives = [SimDrive(self._chance.rng(f"drive/{i}")) for i in range(count)]
        self._readers: list[_Reader] = []
        self._reading: list[asyncio.Task[None] | None] = [None] * count
        self._lives = [0] * count
        self._left_bytes = [0] * count  # of those that are down: their raft state at the crash
        self._ends: list[list[str]] = [[] for _ in range(count)]
        self.invariants = RaftInvariants(GID)
        for i, drive in enumerate(self.drives):
            self.invariants.watch_drive(f"s{i}", drive, log=LOG, data=DATA)
            self._readers.append(self._new_reader(i))
        self.logs: list[dict[int, Command]] = [reader.log for reader in self._readers]

    async def __aenter__(self) -> "RaftCluster":
        for i in range(self.count):
            await self.start(i)
        for i in range(self.count):
            self.connect(i)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        took = self._loop.time() - self._began
        for i in range(self.count):
            self.crash(i)
        self._network.cleanup()
        note_operations(self.index_max)
        self.invariants.finish()
        if kind is None and took > TEST_SECONDS_MAX:
            raise LabFailure(f"the test took {took:.1f} s; the limit is {TEST_SECONDS_MAX} s")

    # Servers

    def crash(self, i: int) -> None:
        """Stop a server at once; what it had not synced is lost."""
        self.disconnect(i)
        server = self.servers[i]
        if server is None:
            return
        self._left_bytes[i] = server.persist_bytes()
        self._network.delete_server(i)
        self.drives[i].crash()
        server.kill()
        self.servers[i] = None
        reading = self._reading[i]
        if reading is not None:
            reading.cancel()

    async def start(self, i: int) -> None:
        """Start a server from its storage (crash it first if it runs); connects nobody."""
        self.crash(i)
        self._lives[i] += 1
        ends = []
        self._ends[i] = []
        for j in range(self.count):
            name = f"{i}.{self._lives[i]}->{j}"
            ends.append(self._network.make_end(name))
            self._network.connect(name, j)
            self._ends[i].append(name)
        queue: ApplyQueue = asyncio.Queue(maxsize=1)
        server = await self._make(
            ends,
            i,
            self.drives[i],
            queue,
            self._chance.rng(f"raft/{i}/{self._lives[i]}"),
            watcher=self.invariants,
        )
        reader = self._readers[i]
        if self.edition is Edition.E2025 or self._snapshots:
            reader = self._readers[i] = self._new_reader(i)
            self.logs[i] = reader.log
        reader.begin(server)
        reading = self._reading[i] = self._loop.create_task(reader.read(queue))
        reading.add_done_callback(_fail_the_run)
        self.servers[i] = server
        self._network.add_server(i, server.server)

    async def restart(self, i: int) -> None:
        """Bring a server (back) up: 2024 connects it alone, 2025 connects everybody."""
        await self.start(i)
        if self.edition is Edition.E2025:
            for j in range(self.count):
                if self.servers[j] is not None:
                    self.connect(j)
        else:
            self.connect(i)

    async def restart_all(self) -> None:
        for i in range(self.count):
            self.crash(i)
        for i in range(self.count):
            await self.start(i)
        for i in range(self.count):
            self.connect(i)

    def alive(self) -> list[RaftServer]:
        return [server for server in self.servers if server is not None]

    def server(self, i: int) -> RaftServer:
        """Server `i`, which must be up."""
        server = self.servers[i]
        if server is None:
            raise LabFailure(f"server {i} is down")
        return server

    # The network

    def connect(self, i: int) -> None:
        """Enable the links between `i` and every server that is connected."""
        self.connected[i] = True
        for j in range(self.count):
            if self.connected[j]:
                self._enable(i, j, True)
                self._enable(j, i, True)

    def disconnect(self, i: int) -> None:
        """Disable every link from and to `i`."""
        self.connected[i] = False
        for j in range(self.count):
            self._enable(i, j, False)
            self._enable(j, i, False)

    def _enable(self, i: int, j: int, enabled: bool) -> None:
        if self._ends[i]:
            self._network.enable(self._ends[i][j], enabled)

    def set_reliable(self, reliable: bool) -> None:
        self._network.reliable = reliable

    def set_long_reordering(self, long_reordering: bool) -> None:
        self._network.long_reordering = long_reordering

    @property
    def rpc_total(self) -> int:
        """RPCs handed to the servers that are up, as the tester sums them."""
        return sum(self._network.count(i) for i in range(self.count))

    @property
    def bytes_total(self) -> int:
        return self._network.total_bytes

    def log_size(self) -> int:
        """The largest raft state of any server, in bytes; of one that is down what it left."""
        return max(
            self._left_bytes[i] if server is None else server.persist_bytes()
            for i, server in enumerate(self.servers)
        )

    # What the tests ask

    async def check_one_leader(self) -> int:
        """The leader of the highest term; fails when there is none for about 5 s, or two in one."""
        for _ in range(10):
            await asyncio.sleep((450 + self.rng.randrange(100)) / 1000)
            leaders: dict[int, list[int]] = {}
            for i, server in enumerate(self.servers):
                if server is not None and self.connected[i]:
                    term, leads = server.get_state()
                    if leads:
                        leaders.setdefault(term, []).append(i)
            for term, found in leaders.items():
                if len(found) > 1:
                    raise LabFailure(f"term {term} has {len(found)} leaders: {found}")
            if leaders:
                return leaders[max(leaders)][0]
        raise LabFailure("expected one leader, got none")

    def check_no_leader(self) -> None:
        for i, server in enumerate(self.servers):
            if server is not None and self.connected[i] and server.get_state()[1]:
                raise LabFailure(f"expected no leader among the connected, but {i} says it leads")

    def check_terms(self) -> int:
        """The term, on which all connected servers must agree."""
        terms = {
            i: server.get_state()[0]
            for i, server in enumerate(self.servers)
            if server is not None and self.connected[i]
        }
        if len(set(terms.values())) != 1:
            raise LabFailure(f"servers disagree on the term: {terms}")
        return next(iter(terms.values()))

    def n_committed(self, index: int) -> tuple[int, Command]:
        """How many servers have applied something at `index`, and what."""
        count, command = 0, None
        for i, log in enumerate(self.logs):
            if index in log:
                if count > 0 and log[index] != command:
                    raise LabFailure(
                        f"committed values at {index} differ: {command!r}, {log[index]!r} at {i}"
                    )
                count, command = count + 1, log[index]
        return count, command

    async def wait(self, index: int, count: int, start_term: int) -> Command | None:
        """What `count` servers applied at `index`; None when a term passed `start_term` (unless
        that is -1). Fails when they do not within some 30 s."""
        pause = 0.01
        for _ in range(30):
            if self.n_committed(index)[0] >= count:
                break
            await asyncio.sleep(pause)
            if pause < 1.0:
                pause *= 2
            if start_term > -1 and any(
                server.get_state()[0] > start_term for server in self.alive()
            ):
                return None
        committed, command = self.n_committed(index)
        if committed < count:
            raise LabFailure(f"only {committed} decided for index {index}; wanted {count}")
        return command

    async def one(self, command: Command, expected: int, *, retry: bool) -> int:
        """Have a command agreed on by at least `expected` servers; return its index.

        Without `retry` the first leader must do it within 2 s; with it, somebody within 10 s. A
        command that is submitted again may be in the log twice.
        """
        until = self._loop.time() + 10.0
        starts = 0
        while self._loop.time() < until:
            index = -1
            for _ in range(self.count):
                starts = (starts + 1) % self.count
                server = self.servers[starts]
                if server is not None and self.connected[starts]:
                    started = server.start(command)
                    if started.is_leader:
                        index = started.at
                        break
            if index == -1:
                await asyncio.sleep(0.05)
                continue
            patience = self._loop.time() + 2.0
            while self._loop.time() < patience:
                committed, found = self.n_committed(index)
                if committed >= expected and found == command:
                    return index
                await asyncio.sleep(0.02)
            if not retry:
                raise LabFailure(f"one({command!r:.40}) failed to reach agreement")
        raise LabFailure(f"one({command!r:.40}) failed to reach agreement within 10 s")

    # Readers

    def _new_reader(self, i: int) -> "_Reader":
        return _SnapshotReader(self, i) if self._snapshots else _Reader(self, i)


def _fail_the_run(reading: "asyncio.Task[None]") -> None:
    """A failed check of a reader fails the run at once: the loop does not survive this raising."""
    if not reading.cancelled():
        reading.result()


class _Reader:
    """Reads what a server applies. In 2024 it outlives its server; what is applied again is then
    compared, and in 2025 every life begins with an empty record."""

    def __init__(self, cluster: RaftCluster, i: int) -> None:
        self.cluster, self.i = cluster, i
        self.log: dict[int, Command] = {}

    def begin(self, server: RaftServer) -> None:
        """A new life of the server begins."""

    async def read(self, queue: ApplyQueue) -> None:
        while (message := await queue.get()) is not None:
            self.take(message)

    def take(self, message: ApplyMsg) -> None:
        if message.command_valid:
            self.record(message)

    def record(self, message: ApplyMsg) -> None:
        index, command = message.command_index, message.command
        for j, log in enumerate(self.cluster.logs):
            if index in log and log[index] != command:
                raise LabFailure(
                    f"commit index={index} server={self.i} {command!r:.40} "
                    f"!= server={j} {log[index]!r:.40}"
                )
        if index > 1 and index - 1 not in self.log:
            raise LabFailure(f"server {self.i} applies {index} out of order")
        self.log[index] = command
        self.cluster.index_max = max(self.cluster.index_max, index)


class _SnapshotReader(_Reader):
    """The service that takes a snapshot whenever (index + 1) % 10 == 0.

    A command must follow the last one exactly, and a snapshot replaces the record without being
    asked whether it is newer: a stale one makes the next command fail.
    """

    def __init__(self, cluster: RaftCluster, i: int) -> None:
        super().__init__(cluster, i)
        self.last_applied = 0
        self.server: RaftServer | None = None

    def begin(self, server: RaftServer) -> None:
        self.server = server
        index, snapshot = server.read_snapshot()
        if snapshot:
            self.ingest(snapshot, index)

    def take(self, message: ApplyMsg) -> None:
        if message.snapshot_valid:
            self.ingest(message.snapshot, message.snapshot_index)
        elif message.command_valid:
            if message.command_index != self.last_applied + 1:
                raise LabFailure(
                    f"server {self.i} apply out of order, expected index "
                    f"{self.last_applied + 1}, got {message.command_index}"
                )
            self.record(message)
            self.last_applied = message.command_index
            if (message.command_index + 1) % SNAPSHOT_INTERVAL == 0:
                commands: Sequence[Command] = [
                    self.log.get(index) for index in range(message.command_index + 1)
                ]
                assert self.server is not None
                snapshot = msgpack.packb((message.command_index, commands))
                self.server.snapshot(message.command_index, snapshot)

    def ingest(self, snapshot: bytes, index: int) -> None:
        included, commands = msgpack.unpackb(snapshot)
        if index != included:
            raise LabFailure(f"server {self.i} snapshot says {included}, the message {index}")
        self.log.clear()
        self.log.update((at, command) for at, command in enumerate(commands) if command is not None)
        self.last_applied = index
