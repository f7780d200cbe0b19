"""Groups of lab servers and their clients' ends, as the shard labs' testers have them.

A server is shut down in the tester's order: its own ends are disabled, the server deleted, its
storage cut off, and only then is it killed. A drive's crash is a power cut, which is harder than
the labs' persister: what was not synced is lost.
"""

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from random import Random
from typing import Generic, Protocol, TypeVar

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabEnd, LabNetwork, LabServer
from labrpc.transport import Address
from labs.checkers import RaftInvariants
from labs.harness.edition import LabFailure
from labs.node import DATA, LOG, LabNode, Watcher
from raft.types import GroupId


class Serving(Protocol):
    """A running lab server."""

    @property
    def server(self) -> LabServer: ...

    @property
    def node(self) -> LabNode: ...

    def leads(self) -> bool: ...

    def kill(self) -> None: ...


S_co = TypeVar("S_co", bound=Serving, covariant=True)
S = TypeVar("S", bound=Serving)


class Ends(Mapping[Address, LabEnd]):
    """One process's ends, by the name of the server: each made when it is first asked for.

    Args:
        owner: Of these ends; no other process of the run has the name.
        known: Servers whose ends are there from the beginning, in this order.
    """

    def __init__(self, network: LabNetwork, owner: str, known: Sequence[Address] = ()) -> None:
        self._network, self._owner = network, owner
        self._ends: dict[Address, LabEnd] = {}
        self._connected = True
        for name in known:
            self._make(name)

    def __getitem__(self, name: Address) -> LabEnd:
        return self._ends.get(name) or self._make(name)

    def __iter__(self) -> Iterator[Address]:
        return iter(self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    def connect(self) -> None:
        """Let calls of this process through."""
        self._enable_all(True)

    def disconnect(self) -> None:
        """Cut the process off: no call of it reaches anybody, also to servers yet to come."""
        self._enable_all(False)

    def disable(self, names: Sequence[Address]) -> None:
        for name in names:
            self._network.enable(self[name].name, False)

    def delete(self) -> None:
        """The process is gone for good."""
        for end in self._ends.values():
            self._network.delete_end(end.name)

    def _enable_all(self, enabled: bool) -> None:
        self._connected = enabled
        for end in self._ends.values():
            self._network.enable(end.name, enabled)

    def _make(self, name: Address) -> LabEnd:
        end = self._ends[name] = self._network.make_end(f"{self._owner}->{name}")
        self._network.connect(end.name, name)
        self._network.enable(end.name, self._connected)
        return end


class StartServer(Protocol[S_co]):
    """Starts server `me` of a group from what its drive holds."""

    def __call__(
        self, ends: Ends, me: int, drive: SimDrive, rng: Random, watcher: Watcher
    ) -> Awaitable[S_co]: ...


class Group(Generic[S]):
    """The servers of one group: their drives, which outlive them, and who runs now.

    Args:
        names: Of the servers.
        start: Starts one of them.
        cut_off: Servers outside that one that is shut down cannot call any more. Others it could:
            it must be silent by itself.
        birth: Tells groups apart that have the same servers' names, one after the other.
    """

    def __init__(
        self,
        network: LabNetwork,
        chance: Chance,
        gid: GroupId,
        names: Sequence[Address],
        start: StartServer[S],
        *,
        cut_off: Sequence[Address] = (),
        birth: int = 0,
    ) -> None:
        self.gid, self.names = gid, list(names)
        self.servers: list[S | None] = [None] * len(names)
        self.invariants = RaftInvariants(gid)
        self._network, self._chance = network, chance
        self._start, self._cut_off = start, list(cut_off)
        self._drives = [SimDrive(chance.rng(f"drive/{name}/{birth}")) for name in names]
        self._ends: list[Ends | None] = [None] * len(names)
        self._birth, self._lives = birth, [0] * len(names)
        for name, drive in zip(names, self._drives, strict=True):
            self.invariants.watch_drive(name, drive, log=LOG, data=DATA)

    async def start(self) -> None:
        """Start every server that does not run."""
        for i, server in enumerate(self.servers):
            if server is None:
                await self.start_server(i)

    async def start_server(self, i: int) -> None:
        """Start a server from what its drive holds; it is connected at once."""
        assert self.servers[i] is None, f"{self.names[i]} runs"
        self._lives[i] += 1
        life = f"{self.names[i]}.{self._birth}.{self._lives[i]}"
        ends = self._ends[i] = Ends(self._network, life, self.names)
        server = await self._start(
            ends, i, self._drives[i], self._chance.rng(f"server/{life}"), self.invariants
        )
        self.servers[i] = server
        self._network.add_server(self.names[i], server.server)

    def shutdown(self) -> None:
        """Shut every server down that runs."""
        for i in range(len(self.servers)):
            self.shutdown_server(i)

    def shutdown_server(self, i: int) -> None:
        server, ends = self.servers[i], self._ends[i]
        if server is None or ends is None:
            return
        self._must_be_sound(server)
        ends.disable([*self.names, *self._cut_off])
        self._network.delete_server(self.names[i])
        self._drives[i].crash()
        server.kill()
        self.servers[i] = self._ends[i] = None

    def _must_be_sound(self, server: S) -> None:
        """A replica that met a broken invariant falls silent; here that fails the test."""
        because = server.node.host.replicas[self.gid].stopped_because
        if because is not None:
            raise LabFailure(f"{server.node.name} has stopped: {because}")

    def running(self) -> list[S]:
        return [server for server in self.servers if server is not None]

    def leader(self) -> int:
        """The server that claims to lead.

        Raises:
            LabFailure: none does.
        """
        for i, server in enumerate(self.servers):
            if server is not None and server.leads():
                return i
        raise LabFailure(f"group {self.gid} has no leader")


def shuffled(rng: Random, names: Sequence[Address]) -> list[Address]:
    """The order in which one clerk knows the servers."""
    order = list(names)
    rng.shuffle(order)
    return order
