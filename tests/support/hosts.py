"""A few nodes that run real hosts on the simulated network and disk, in virtual time."""

import asyncio
from collections.abc import Callable, Sequence

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.network import SimNetwork, SimTransport
from labrpc.transport import Address, Channel
from raft.config import RaftConfig
from raft.courier import FrameCourier
from raft.disk.log_store import LogStore
from raft.disk.records import NodeIdentity, ReplicaRecord
from raft.frames import FrameCodec
from raft.host import CompactionConfig, Host
from raft.ports import Reader, Rows, Write
from raft.replica import Replica
from raft.rsm import ReplicatedStateMachine
from raft.types import GroupId, GroupUuid, Index, NodeId

CLUSTER = b"c" * 16
GID = GroupId(1)
UUID = GroupUuid(b"u" * 16)


class Ledger:
    """A machine that keeps what it was told, in order: it shows each double and each gap."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, index: Index, command: bytes, rows: Rows) -> object:
        self.count += 1
        rows.put(self.count.to_bytes(8, "big"), command)
        return self.count

    def reload(self, rows: Reader) -> None:
        self.count = sum(1 for _ in rows.range(b"", b"\xff" * 9))

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        return ()


def ledger(replica: Replica) -> list[bytes]:
    """What a replica's ledger holds, in order."""
    return [value for _, value in replica.store.reader.range(b"", b"\xff" * 9)]


class Node:
    """One node: it crashes and comes back on the same drive."""

    def __init__(self, name: str, world: "World") -> None:
        self.name = name
        self.drive = SimDrive(world.chance.rng(f"drive/{name}"))
        self.host: Host | None = None
        self.machine: ReplicatedStateMachine | None = None
        self.world = world
        self._boot = 0

    @property
    def address(self) -> Address:
        return Address(self.name)

    @property
    def replica(self) -> Replica:
        assert self.host is not None
        return self.host.replicas[GID]

    @property
    def rsm(self) -> ReplicatedStateMachine:
        assert self.machine is not None
        return self.machine

    async def start(self, *, create: bool = False) -> Host:
        world = self.world
        self._boot += 1
        disk, data = self.drive.disk("log"), self.drive.disk("data")
        slots = (self.drive.slot("promise.0"), self.drive.slot("promise.1"))
        identity = NodeIdentity(CLUSTER, NodeId(self.name))
        log_store = await (LogStore.create if create else LogStore.open)(disk, slots, identity)
        transport: SimTransport = world.network.transport(self.address)
        codec = FrameCodec(CLUSTER, NodeId(self.name), self.address)

        def dial(to: str, bulk: bool) -> Channel:
            return transport.channel(Address(to), bulk=bulk)

        self.host = Host(
            node=NodeId(self.name),
            address=self.address,
            log_store=log_store,
            data_disk=data,
            courier=FrameCourier(dial, codec, world.config.heartbeat_seconds),
            codec=codec,
            config=world.config,
            rng=world.chance.rng(f"host/{self.name}/{self._boot}"),
            boot=self._boot,
            compaction=world.compaction,
        )
        transport.listen(self.host.receive)
        for record in self.host.records():
            await self.start_replica(record.gid)
        return self.host

    async def start_replica(self, gid: GroupId) -> Replica:
        assert self.host is not None
        self.machine = ReplicatedStateMachine(Ledger())
        replica = await self.host.start_replica(gid, self.machine)
        self.machine.attach(replica)
        return replica

    def crash(self) -> None:
        assert self.host is not None
        self.host.stop("crashed")
        self.host = None
        self.world.network.crash(self.address)
        self.drive.crash()


class World:
    """`size` nodes whose group 1 was born on the first and grew to all of them."""

    def __init__(
        self,
        seed: int,
        *,
        config: RaftConfig | None = None,
        compaction: CompactionConfig | None = None,
    ) -> None:
        self.chance = Chance(seed)
        self.network = SimNetwork(self.chance)
        self.config = config or RaftConfig()
        self.compaction = compaction
        self.nodes: dict[str, Node] = {}

    def make_node(self, name: str) -> Node:
        """Of which kind the nodes are; another world may have others."""
        return Node(name, self)

    async def add_node(self, name: str) -> Node:
        node = self.nodes[name] = self.make_node(name)
        await node.start(create=True)
        return node

    async def found(self, name: str) -> Node:
        node = await self.add_node(name)
        assert node.host is not None
        await node.host.found_group(GID, UUID, incarnation=1)
        await node.start_replica(GID)
        await self.leader()
        return node

    async def join(self, name: str) -> Node:
        """Add a node's replica as the product does: through the log, then by explicit command."""
        node = await self.add_node(name)
        leader = await self.leader()
        leader.replica.change_members(add=[(NodeId(name), node.address)])
        added = leader.replica.core.membership.learners[-1]
        assert node.host is not None
        await node.host.create_replica(ReplicaRecord(GID, UUID, added.id, incarnation=1))
        await node.start_replica(GID)
        await self.until(lambda: self._is_voter(name))
        return node

    def _is_voter(self, name: str) -> bool:
        memberships = [node.replica.core.membership for node in self._up() if node.replica.leads]
        return any(
            not m.outgoing and any(member.node == name for member in m.voters) for m in memberships
        )

    def _up(self) -> list[Node]:
        return [n for n in self.nodes.values() if n.host is not None and GID in n.host.replicas]

    async def leader(self) -> Node:
        """The leader of the highest term, once there is one."""
        await self.until(lambda: any(node.replica.leads for node in self._up()))
        leaders = [node for node in self._up() if node.replica.leads]
        return max(leaders, key=lambda node: node.replica.core.term)

    async def until(self, true: Callable[[], bool], seconds: float = 60) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not true():
            assert loop.time() < deadline, "it did not come true in time"
            await asyncio.sleep(0.01)
