"""Builders for what a node stores: a drive with a log, a state and a promise, and short entries."""

from collections.abc import Sequence
from random import Random

from labrpc.sim.disk import SimDisk, SimDrive
from raft.disk.data_store import ReplicaData
from raft.disk.log_store import LogStore, NodeIdentity, ReplicaRecord
from raft.types import (
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    GroupUuid,
    HardState,
    Index,
    Member,
    Membership,
    NodeId,
    ReplicaId,
    SnapshotMeta,
    Term,
)

IDENTITY = NodeIdentity(b"c" * 16, NodeId("n1"))
G1, G2 = GroupId(1), GroupId(2)
ONE_VOTER = Membership(voters=(Member(ReplicaId(1), NodeId("n1"), "n1:1"),), next_id=ReplicaId(2))
TWO_VOTERS = Membership(
    voters=(*ONE_VOTER.voters, Member(ReplicaId(2), NodeId("n2"), "n2:1")), next_id=ReplicaId(3)
)


def record(gid: int = 1, replica: int = 1, incarnation: int = 7) -> ReplicaRecord:
    uuid = GroupUuid(bytes([gid]) * 16)
    return ReplicaRecord(GroupId(gid), uuid, ReplicaId(replica), incarnation)


def entry_id(index: int, term: int) -> EntryId:
    return EntryId(Index(index), Term(term))


def entry(index: int, term: int, data: bytes | None = None) -> Entry:
    payload = b"%d/%d" % (index, term) if data is None else data
    return Entry(Index(index), Term(term), EntryKind.COMMAND, payload)


def entries(first: int, terms: str) -> list[Entry]:
    """Entries from `first` on, one a term: `entries(3, "1 1 2")`."""
    return [entry(first + at, int(term)) for at, term in enumerate(terms.split())]


def vote(term: int, replica: int = 0) -> HardState:
    return HardState(Term(term), ReplicaId(replica))


def meta(index: int, term: int, membership: Membership = ONE_VOTER) -> SnapshotMeta:
    return SnapshotMeta(entry_id(index, term), membership)


class Storage:
    """One node's storage on a simulated drive: it is created, closed, crashed and opened again."""

    def __init__(self, seed: object = 1) -> None:
        self.drive = SimDrive(Random(str(seed)))

    def log_disk(self) -> SimDisk:
        return self.drive.disk("log")

    async def create(self) -> LogStore:
        slots = (self.drive.slot("promise.0"), self.drive.slot("promise.1"))
        return await LogStore.create(self.log_disk(), slots, IDENTITY)

    async def open(self, identity: NodeIdentity | None = IDENTITY) -> LogStore:
        slots = (self.drive.slot("promise.0"), self.drive.slot("promise.1"))
        return await LogStore.open(self.log_disk(), slots, identity)

    async def reopen(self, store: LogStore) -> LogStore:
        """Close cleanly, and open again."""
        await store.close()
        self.drive.crash()
        return await self.open()

    async def crash(self, store: LogStore) -> LogStore:
        """Cut the power, and open again."""
        self.cut(store)
        return await self.open()

    def cut(self, store: LogStore) -> None:
        self.drive.crash()
        store.abandon()

    async def rewrite(self, key: bytes, value: bytes | None) -> None:
        """Change a row behind the store's back; nothing may be open."""
        disk = self.log_disk()
        await disk.sync([(key, value)])
        await disk.close()

    def data(self) -> ReplicaData:
        return ReplicaData(self.drive.disk("data"), G1)


async def one_group(storage: Storage, terms: str = "", term: int | None = None) -> LogStore:
    """A store with group 1, whose log holds entries of these terms."""
    store = await storage.create()
    await store.create_replica(record(), SnapshotMeta(membership=ONE_VOTER))
    found = entries(1, terms)
    if found or term is not None:
        top = found[-1].term if term is None else term
        await store.save(G1, vote(top, 1), found)
    return store


def loaded(store: LogStore, gid: GroupId = G1) -> list[Entry]:
    return list(store.load(gid).entries)


def held(store: LogStore, gid: GroupId = G1) -> Sequence[EntryId]:
    return [item.id for item in loaded(store, gid)]
