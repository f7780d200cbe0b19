"""The servers of one group on the lab network, and what a tester does to them.

A server is shut down in the labs' order: its ends are disabled, its server deleted, its storage
cut off (as the labs copy the persister), and only then is it killed. Storage is a simulated drive
and a shutdown is a power cut, which is harder than the labs' persister: what was not synced is
lost. A restarted server gets new outgoing ends and is connected to nobody.
"""

from collections.abc import Awaitable, Sequence
from random import Random
from typing import Generic, Protocol, TypeVar

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabNetwork, LabServer
from labs.checkers import RaftInvariants
from labs.harness.edition import LabFailure
from labs.node import DATA, GID, LOG, Watcher


class ReplicatedServer(Protocol):
    """What a tester asks of a server that it made."""

    @property
    def server(self) -> LabServer: ...

    def get_state(self) -> tuple[int, bool]:
        """The current term, and whether this server believes that it leads."""
        ...

    def persist_bytes(self) -> int: ...

    def snapshot_bytes(self) -> int: ...

    def kill(self) -> None: ...


S = TypeVar("S", bound=ReplicatedServer)
S_co = TypeVar("S_co", bound=ReplicatedServer, covariant=True)


class Make(Protocol[S_co]):
    """Starts server `me` (from 0) of as many as there are `peers`, from what the drive holds."""

    def __call__(
        self,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        rng: Random,
        *,
        maxraftstate: int,
        watcher: Watcher | None,
    ) -> Awaitable[S_co]: ...


class ServerGroup(Generic[S]):
    """Servers `s0` to `s<count - 1>`, named so on the network; `start_all` makes them.

    Args:
        make: Starts one.
        chance: Of drives and servers.
    """

    def __init__(
        self,
        make: Make[S],
        count: int,
        network: LabNetwork,
        chance: Chance,
        *,
        maxraftstate: int,
    ) -> None:
        self.count = count
        self.names = [f"s{i}" for i in range(count)]
        self.servers: list[S | None] = [None] * count
        self.invariants = RaftInvariants(GID)
        self._make, self._maxraftstate = make, maxraftstate
        self._network, self._chance = network, chance
        self._drives = [SimDrive(chance.rng(f"drive/{i}")) for i in range(count)]
        self._lives = [0] * count
        self._ends: list[list[str]] = [[] for _ in range(count)]
        for name, drive in zip(self.names, self._drives, strict=True):
            self.invariants.watch_drive(name, drive, log=LOG, data=DATA)

    # Up and down

    async def start(self, i: int) -> None:
        """Start a server from its storage; connects nobody."""
        self.shutdown(i)
        self._lives[i] += 1
        ends = []
        self._ends[i] = []
        for target in self.names:
            name = f"{self.names[i]}.{self._lives[i]}->{target}"
            ends.append(self._network.make_end(name))
            self._network.connect(name, target)
            self._ends[i].append(name)
        server = self.servers[i] = await self._make(
            ends,
            i,
            self._drives[i],
            self._chance.rng(f"server/{i}/{self._lives[i]}"),
            maxraftstate=self._maxraftstate,
            watcher=self.invariants,
        )
        self._network.add_server(self.names[i], server.server)

    def shutdown(self, i: int) -> None:
        """Stop a server at once; what it had not synced is lost."""
        server = self.servers[i]
        if server is None:
            return
        self.isolate(i)
        self._network.delete_server(self.names[i])
        self._drives[i].crash()
        server.kill()
        self.servers[i] = None

    async def start_all(self) -> None:
        """Start every server and connect all."""
        for i in range(self.count):
            await self.start(i)
        self.connect_all()

    def shutdown_all(self) -> None:
        for i in range(self.count):
            self.shutdown(i)

    def alive(self) -> list[S]:
        return [server for server in self.servers if server is not None]

    def server(self, i: int) -> S:
        """Server `i`, which must be up."""
        server = self.servers[i]
        if server is None:
            raise LabFailure(f"server {i} is down")
        return server

    # Links

    def connect_all(self) -> None:
        for i in range(self.count):
            for j in range(self.count):
                self._enable(i, j, True)

    def isolate(self, i: int) -> None:
        """Disable every link from and to `i`."""
        for j in range(self.count):
            self._enable(i, j, False)
            self._enable(j, i, False)

    def reconnect(self, i: int) -> None:
        """Enable every link between `i` and the others."""
        for j in range(self.count):
            self._enable(i, j, True)
            self._enable(j, i, True)

    def partition(self, one: Sequence[int], other: Sequence[int]) -> None:
        """Cut the links between the sides, and mend those within each."""
        for side, far in ((one, other), (other, one)):
            for i in side:
                for j in far:
                    self._enable(i, j, False)
                for j in side:
                    self._enable(i, j, True)

    def make_partition(self, leader: int) -> tuple[list[int], list[int]]:
        """A majority without the leader, and a minority that ends with it."""
        others = [i for i in range(self.count) if i != leader]
        majority = self.count // 2 + 1
        return others[:majority], [*others[majority:], leader]

    def _enable(self, i: int, j: int, enabled: bool) -> None:
        if self._ends[i]:
            self._network.enable(self._ends[i][j], enabled)

    # What there is to see

    def leader(self) -> int | None:
        """The first server that claims to lead."""
        for i, server in enumerate(self.servers):
            if server is not None and server.get_state()[1]:
                return i
        return None

    @property
    def rpc_total(self) -> int:
        """RPCs handed to the servers that are up."""
        return sum(
            self._network.count(name)
            for name, server in zip(self.names, self.servers, strict=True)
            if server is not None
        )

    def log_size(self) -> int:
        """The largest raft state of any server, in bytes."""
        return max(server.persist_bytes() for server in self.alive())

    def snapshot_size(self) -> int:
        """The largest snapshot of any server, in bytes."""
        return max(server.snapshot_bytes() for server in self.alive())
