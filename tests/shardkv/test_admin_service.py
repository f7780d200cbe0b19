"""What a node does for an operator, and what it refuses: on a real core, without a network."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from labrpc.errors import Refused
from labrpc.sim.loop import run
from raft.codec import encode_membership
from raft.core import Raft
from raft.disk.log_store import ReplicaRecord
from raft.messages import AppendEntries
from raft.types import Entry, EntryId, EntryKind, GroupId, GroupUuid, Index, Member, Role, Term
from shardkv.admin import AskStanding, ChangeMembers, CreateGroup, CreateReplica, Done
from shardkv.admin_service import AdminService
from shardkv.recovery import SUPERSEDED
from tests.support.builders import (
    N1,
    N2,
    beat_reply,
    core,
    effects,
    empty,
    id_of,
    leader,
    log_of,
    membership,
)

G, UUID, OTHER = GroupId(1), GroupUuid(b"u" * 16), GroupUuid(b"o" * 16)
BOOT = 7
RECORD = ReplicaRecord(G, UUID, N1, 1)


@dataclass
class FakeReplica:
    """A core that an instant disk and an instant machine serve."""

    core: Raft
    record: ReplicaRecord = RECORD
    stopped_because: str | None = None
    leader: Member | None = None

    @property
    def id(self) -> int:
        return self.record.replica

    @property
    def leads(self) -> bool:
        return self.core.role is Role.LEADER

    @property
    def applied(self) -> Index:
        return self.core.applied

    def change_members(self, **change: Any) -> EntryId:
        placed = self.core.change_members(**change)
        effects(self.core)
        return placed


@dataclass
class FakeHost:
    replicas: dict[GroupId, FakeReplica] = field(default_factory=dict)
    did: list[object] = field(default_factory=list)

    def records(self) -> list[ReplicaRecord]:
        return [replica.record for replica in self.replicas.values()]

    async def create_replica(self, record: ReplicaRecord) -> None:
        self.did.append((record.uuid, record.replica))

    async def drop_replica(self, gid: GroupId) -> None:
        del self.replicas[gid]
        self.did.append("dropped")

    async def start(self, gid: GroupId) -> None:
        self.did.append("started")


def service_of(host: FakeHost) -> AdminService:
    return AdminService(lambda: None, BOOT, host, host, Random(1))  # type: ignore[arg-type, return-value]


def refused(work: Coroutine[Any, Any, object]) -> str:
    async def main() -> object:
        return await work

    with pytest.raises(Refused) as caught:
        run(main())
    return caught.value.code


def test_orders_for_an_earlier_life_are_refused() -> None:
    """Who gave them knew another state: this node may have lost what it had."""
    host = FakeHost()
    service = service_of(host)

    assert refused(service.create_group(CreateGroup(1, BOOT - 1))) == "ABORTED"
    assert refused(service.create_replica(CreateReplica(1, UUID, 2, BOOT + 1))) == "ABORTED"
    assert host.did == []


@pytest.mark.parametrize(
    ("here", "uuid", "makes_room"),
    [
        pytest.param(FakeReplica(core(1)), UUID, True, id="blank"),
        pytest.param(FakeReplica(core(1, term=3)), UUID, False, id="it may have voted"),
        pytest.param(FakeReplica(core(1, "1")), UUID, False, id="it holds entries"),
        pytest.param(
            FakeReplica(core(1, "1"), stopped_because=SUPERSEDED), OTHER, True, id="superseded"
        ),
        pytest.param(
            FakeReplica(core(1, "1"), stopped_because=SUPERSEDED), UUID, False, id="of this uuid"
        ),
        pytest.param(
            FakeReplica(core(1, "1"), stopped_because="damaged"), OTHER, False, id="damaged"
        ),
    ],
)
def test_only_a_replica_that_promised_nothing_makes_room_for_another(
    here: FakeReplica, uuid: GroupUuid, makes_room: bool
) -> None:
    host = FakeHost({G: here})
    wanted = CreateReplica(G, uuid, 5, BOOT)

    if makes_room:
        assert run(service_of(host).create_replica(wanted)) == Done()
        assert host.did == ["dropped", (uuid, 5), "started"]
    else:
        assert refused(service_of(host).create_replica(wanted)) == "ALREADY_EXISTS"
        assert host.did == []


def change(index: int, term: int, *voters: int, learners: tuple[int, ...] = ()) -> Entry:
    data = encode_membership(membership(*voters, learners=learners))
    return Entry(Index(index), Term(term), EntryKind.MEMBERSHIP, data)


def test_only_what_is_committed_says_who_is_a_member() -> None:
    """A change that is undone may have removed, or added, anybody; "removed" is for ever."""
    log = log_of("1", at=membership(1, 2, 3))
    log.append((change(2, 1, 1, 2, learners=(4,)),))
    replica = FakeReplica(core(1, log=log, applied=1))
    service = service_of(FakeHost({G: replica}))

    def standing(id: int) -> str:
        return run(service.standing(AskStanding(G, UUID, id))).standing

    assert [standing(id) for id in (1, 3, 4)] == ["member", "member", "unknown"]
    replica.core.step(AppendEntries(N2, N1, Term(1), id_of(2, 1), (), Index(2)), 100.0)
    effects(replica.core)
    assert [standing(id) for id in (1, 3, 4, 5)] == ["member", "removed", "member", "unknown"]


def leading() -> FakeReplica:
    """A leader that every follower has answered lately."""
    replica = leader(1, voters=membership(1, 2, 3))
    replica.timeout(replica.deadline)
    effects(replica)
    for follower in (2, 3):
        replica.step(beat_reply(follower, replica, 1, 1), 110.0)
    return FakeReplica(replica)


def test_a_change_is_not_done_where_another_leaders_entry_took_its_place() -> None:
    """And an entry that asks for the same may be cut away as well, while it is not committed."""

    async def main() -> None:
        replica = leading()
        service = service_of(FakeHost({G: replica}))
        asked = asyncio.ensure_future(
            service.change_members(ChangeMembers(G, UUID, (("n4", "n4:1"),)))
        )
        await asyncio.sleep(0)
        entries = (empty(2, 2), change(3, 2, 1, 2, 3, learners=(4,)))
        replica.core.step(AppendEntries(N2, N1, Term(2), id_of(1, 1), entries, Index(2)), 111.0)
        effects(replica.core)
        assert (replica.applied, replica.core.membership.learners[0].node) == (2, "n4")

        with pytest.raises(Refused, match="another change of members came first"):
            await asked

    run(main())


def test_a_change_is_waited_for_no_longer_than_its_leadership() -> None:
    """Won again, in another term: what was placed in the one before may be cut away."""

    async def main() -> None:
        replica = leading()
        service = service_of(FakeHost({G: replica}))
        asked = asyncio.ensure_future(
            service.change_members(ChangeMembers(G, UUID, (("n4", "n4:1"),)))
        )
        await asyncio.sleep(0)
        again = leader(1, "1", voters=membership(1, 2, 3), settled=False)
        assert again.term == replica.core.term + 1
        replica.core = again

        with pytest.raises(Refused, match="the leadership was lost"):
            await asyncio.wait_for(asked, 1.0)

    run(main())
