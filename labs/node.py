"""A lab server below its service: a whole production node, its disk simulated, its peers lab ends.

What every lab on consensus starts from: the log and data databases on a drive, a host with one
group whose voters are fixed at birth, and calls of the lab network as its courier.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, Final, Protocol

from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import Handler, LabEnd
from labs.courier import METHOD, CallCourier
from raft.config import RaftConfig
from raft.courier import Courier
from raft.disk.log_store import LogStore
from raft.disk.records import NodeIdentity, ReplicaRecord
from raft.frames import FrameCodec
from raft.host import CompactionConfig, Host
from raft.ports import StateMachine
from raft.replica import Replica
from raft.types import (
    GroupId,
    GroupUuid,
    Member,
    Membership,
    NodeId,
    ReplicaId,
    SnapshotMeta,
)

GID: Final = GroupId(1)
UUID: Final = GroupUuid(b"the raft lab's g")
CLUSTER: Final = b"the raft lab's c"
LOG, DATA = "log", "data"


class Watcher(Protocol):
    """Looks at a node's parts while they run; see `labs.checkers`."""

    def machine(self, name: str, inner: StateMachine) -> StateMachine: ...

    def courier(self, name: str, inner: Courier) -> Courier: ...

    def started(self, name: str, replica: Replica) -> None: ...

    def stopped(self, name: str) -> None: ...


class LabNode:
    """Server `name` of a group. Made by `open`; `start` lets it take part."""

    def __init__(
        self,
        name: str,
        gid: GroupId,
        host: Host,
        store: LogStore,
        courier: CallCourier,
        watcher: Watcher | None,
    ) -> None:
        """Use `open`."""
        self.name, self.gid, self.host = name, gid, host
        self.dead = False
        self._store, self._courier, self._watcher = store, courier, watcher

    @classmethod
    async def open(
        cls,
        peers: Sequence[LabEnd],
        me: int,
        drive: SimDrive,
        rng: Random,
        *,
        config: RaftConfig,
        names: Sequence[str] | None = None,
        gid: GroupId = GID,
        uuid: GroupUuid = UUID,
        compaction: CompactionConfig | None = None,
        watcher: Watcher | None = None,
    ) -> "LabNode":
        """Open what the drive holds for server `me` (from 0) of as many as there are `peers`.

        Args:
            peers: An end to each server; the one to itself is not used.
            drive: The persister. A blank one makes a new server.
            rng: Draws the election time-outs.
            names: Of all servers, in order.
        """
        everybody = names or [f"s{peer}" for peer in range(len(peers))]
        name = everybody[me]
        codec = FrameCodec(CLUSTER, NodeId(name), name)
        disk, slots = drive.disk(LOG), (drive.slot("promise-0"), drive.slot("promise-1"))
        identity = NodeIdentity(CLUSTER, NodeId(name))
        if any(slot.read() for slot in slots):
            store = await LogStore.open(disk, slots, identity)
        else:
            store = await LogStore.create(disk, slots, identity)
        if not store.replicas():
            born = SnapshotMeta(membership=_fixed_membership(everybody))
            record = ReplicaRecord(gid, uuid, ReplicaId(me + 1), incarnation=rng.getrandbits(62))
            await store.create_replica(record, born)

        def deliver(parcel: Any, address: str) -> None:
            host.deliver(parcel, address)

        courier = CallCourier(dict(zip(everybody, peers, strict=True)), codec, deliver)
        host = Host(
            node=NodeId(name),
            address=name,
            log_store=store,
            data_disk=drive.disk(DATA),
            courier=watcher.courier(name, courier) if watcher is not None else courier,
            codec=codec,
            config=config,
            rng=rng,
            boot=store.boot,
            compaction=compaction or CompactionConfig(),
        )
        return cls(name, gid, host, store, courier, watcher)

    async def start(self, machine: StateMachine) -> Replica:
        """Load the replica and let it take part, with `machine` on it."""
        watcher = self._watcher
        watched = watcher.machine(self.name, machine) if watcher is not None else machine
        replica = await self.host.start_replica(self.gid, watched)
        if watcher is not None:
            watcher.started(self.name, replica)
        return replica

    @property
    def handlers(self) -> dict[str, Handler]:
        """What answers this server's peers, by method."""
        return {METHOD: self._courier.handle}

    def persist_bytes(self) -> int:
        """Term, index and payload of the entries held, and the hard state; no framing."""
        return self._store.bytes(self.gid)

    def kill(self) -> None:
        """Stop: nothing more is said, stored or applied."""
        if self.dead:
            return
        self.dead = True
        self.host.stop("killed")
        self._store.abandon()
        self._courier.close()
        if self._watcher is not None:
            self._watcher.stopped(self.name)


def _fixed_membership(names: Sequence[str]) -> Membership:
    voters = [
        Member(ReplicaId(number + 1), NodeId(name), name) for number, name in enumerate(names)
    ]
    return Membership(voters=tuple(voters), next_id=ReplicaId(len(names) + 1))
