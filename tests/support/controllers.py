"""A controller of several replicas on the simulated network and disk, and clients of it."""

from collections.abc import Sequence

from labrpc.sim.network import SimTransport
from labrpc.transport import Address
from raft.replica import Replica
from raft.rsm import ReplicatedStateMachine
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.client import ControllerClient
from shardctrler.commands import JoiningGroup
from shardctrler.machine import ControllerMachine
from shardctrler.server import ControllerServer
from shardctrler.types import GroupMember, NodeAddresses
from tests.support.hosts import Node, World

NSHARDS = 10


def group(number: int, *, nodes: Sequence[str] = (), version: int = 0) -> JoiningGroup:
    """A group with a uuid of its own; its members answer clients under their nodes' names."""
    names = nodes or [f"s{number}{letter}" for letter in "abc"]
    members = tuple(GroupMember(NodeId(name), name) for name in names)
    return JoiningGroup(GroupId(number), GroupUuid(number.to_bytes(16, "big")), members, version)


class ControllerNode(Node):
    """A node whose replica is the controller's."""

    controller: ControllerMachine
    server: ControllerServer
    session_idle_seconds = 3_600.0

    async def start_replica(self, gid: GroupId) -> Replica:
        assert self.host is not None
        self.controller = ControllerMachine(NSHARDS)
        self.machine = ReplicatedStateMachine(self.controller)
        replica = await self.host.start_replica(gid, self.machine)
        self.machine.attach(replica)
        transport = self.world.network.process(self.address)
        assert isinstance(transport, SimTransport)
        self.server = ControllerServer(
            self.machine, transport, session_idle_seconds=self.session_idle_seconds
        )
        self.server.start()
        return replica


class ControllerWorld(World):
    """Nodes n1 to n3 that hold the controller."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._clients = 0

    def make_node(self, name: str) -> Node:
        return ControllerNode(name, self)

    async def start(self, size: int = 3) -> None:
        await self.found("n1")
        for number in range(2, size + 1):
            await self.join(f"n{number}")

    def client(self, *, timeout_seconds: float = 20.0) -> ControllerClient:
        self._clients += 1
        name = f"client{self._clients}"
        endpoints = [Address(node) for node in self.nodes]
        transport = self.network.transport(Address(name))
        return ControllerClient(
            transport, endpoints, self.chance.rng(name), timeout_seconds=timeout_seconds
        )

    def controllers(self) -> list[ControllerMachine]:
        return [node.controller for node in self.nodes.values() if isinstance(node, ControllerNode)]

    async def register_nodes(self, client: ControllerClient) -> None:
        """As every node does when it starts: a follower then knows where its leader answers."""
        for name in self.nodes:
            await client.register_node(NodeId(name), NodeAddresses(client=name, peer=name))
