"""A node's answers to operators' tools: how it is, and the explicit commands of growth.

Nothing here is ever done because of a Raft message. Each command names the life of the process that
it is for (`boot`), so that one that was delayed does nothing to a node that was started again,
perhaps on an empty disk.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final, Protocol, TypeVar

from labrpc.errors import Refused
from labrpc.transport import Transport
from raft.disk.log_store import ReplicaRecord, ReplicaRefused
from raft.errors import MembershipBusy, MembershipRefused, NotLeader, TransferRefused
from raft.host import Host
from raft.membership import members
from raft.replica import Replica
from raft.types import (
    NOBODY,
    EntryId,
    GroupId,
    GroupUuid,
    Member,
    NodeId,
    ReplicaId,
)
from shardkv import admin
from shardkv.admin import (
    AskStanding,
    BadAdmin,
    ChangeMembers,
    CreateGroup,
    CreateReplica,
    Done,
    GroupCreated,
    MembersChanging,
    MemberStatus,
    NodeStatus,
    Nothing,
    ReplicaStatus,
    ShardStatus,
    Standing,
    Transfer,
)
from shardkv.moving_replicas import cost_of
from shardkv.recovery import SUPERSEDED

log = logging.getLogger(__name__)

COMMIT_SECONDS: Final = 4.0
"""How long a change of members may take to be committed before the caller is told to look again."""
POLL_SECONDS: Final = 0.005
GID_MAX: Final = 2**31 - 1

Question = TypeVar("Question", bound=tuple[object, ...])


class Groups(Protocol):
    """What the node runs on its replicas, as this service sees it."""

    async def start(self, gid: GroupId) -> None:
        """Start the replica of a group that was just created on disk."""
        ...

    def config_number(self, gid: GroupId) -> int:
        """Of the configuration that a store group has applied; 0 if none."""
        ...

    def shards(self, gid: GroupId) -> tuple[ShardStatus, ...]:
        """The shards that a store group holds, awaits or gives away."""
        ...


class AdminService:
    """Serves the `admin.*` calls of one node.

    Args:
        facts: What the node says of itself; the replicas are filled in here.
        rng: For uuids and incarnations: a source that nobody can guess or repeat.
    """

    def __init__(
        self, facts: Callable[[], NodeStatus], boot: int, host: Host, groups: Groups, rng: Random
    ) -> None:
        self._facts = facts
        self._boot = boot
        self._host = host
        self._groups = groups
        self._rng = rng
        self._creating = asyncio.Lock()

    def serve(self, transport: Transport) -> None:
        """Answer on a transport."""
        _serve(transport, admin.STATUS, Nothing, self.status)
        _serve(transport, admin.CREATE_GROUP, CreateGroup, self.create_group)
        _serve(transport, admin.CREATE_REPLICA, CreateReplica, self.create_replica)
        _serve(transport, admin.CHANGE_MEMBERS, ChangeMembers, self.change_members)
        _serve(transport, admin.TRANSFER, Transfer, self.transfer)
        _serve(transport, admin.STANDING, AskStanding, self.standing)

    async def status(self, _: Nothing) -> NodeStatus:
        """How this node is, from what it knows by itself."""
        return self.full_status()

    def full_status(self) -> NodeStatus:
        """The node's facts with its replicas'."""
        replicas = tuple(
            self._replica_status(replica) for _, replica in sorted(self._host.replicas.items())
        )
        return self._facts()._replace(replicas=replicas)

    async def create_group(self, command: CreateGroup) -> GroupCreated:
        """Give birth to a group with one voter, this node; the uuid is drawn here and synced.

        Asked again for a group that is here, it answers with the uuid that the group has.
        """
        self._for_this_life(command.boot)
        if command.gid > GID_MAX:
            raise Refused("INVALID_ARGUMENT", f"gid must be from 0 to {GID_MAX}")
        gid = GroupId(command.gid)
        async with self._creating:
            for record in self._host.records():
                if record.gid == gid:
                    return GroupCreated(record.uuid)
            uuid = GroupUuid(self._rng.randbytes(16))
            try:
                await self._host.found_group(gid, uuid, self._rng.getrandbits(63))
            except ReplicaRefused as error:  # one was dropped here: the group lives elsewhere
                raise Refused("ALREADY_EXISTS", str(error)) from None
            await self._groups.start(gid)
        log.info("group born", extra={"gid": gid, "uuid": uuid.hex()})
        return GroupCreated(uuid)

    async def create_replica(self, command: CreateReplica) -> Done:
        """Create a blank replica under an id that the group's log has just given."""
        self._for_this_life(command.boot)
        gid, uuid = GroupId(command.gid), GroupUuid(command.uuid)
        record = ReplicaRecord(gid, uuid, ReplicaId(command.replica), self._rng.getrandbits(63))
        async with self._creating:
            here = next((held for held in self._host.records() if held.gid == gid), None)
            if here is not None and (here.uuid, here.replica) == (uuid, record.replica):
                return Done()
            if here is not None:
                await self._make_room(here, uuid)
            try:
                await self._host.create_replica(record)
            except ReplicaRefused as error:
                raise Refused("ALREADY_EXISTS", str(error)) from None
            await self._groups.start(gid)
        log.info("replica created", extra={"gid": gid, "replica": record.replica})
        return Done()

    async def _make_room(self, here: ReplicaRecord, uuid: GroupUuid) -> None:
        """Make room for another id. Only a replica that never took part may go, which has promised
        nothing to anybody; or one of which the controller has said that its gid means another
        group by now (`shardkv/recovery_service.py`)."""
        replica = self._host.replicas.get(here.gid)
        superseded = replica is not None and replica.stopped_because == SUPERSEDED
        blank = (superseded and here.uuid != uuid) or (
            replica is not None
            and replica.core.term == 0
            and replica.core.log.last.index == 0
            and replica.applied == 0
        )
        if not blank:
            raise Refused(
                "ALREADY_EXISTS",
                f"this node holds replica {here.replica} of group {here.gid}, which took part",
            )
        await self._host.drop_replica(here.gid)

    async def change_members(self, command: ChangeMembers) -> MembersChanging:
        """Begin a change: nodes come in as learners that become voters once they have caught up,
        and only then do the named voters leave. The answer comes when the first entry of it is
        committed, and names the new replicas' ids; the rest goes by itself.

        Refused without any effect: FAILED_PRECONDITION what must not be, ABORTED what has to wait.
        """
        replica = self._replica(command.gid, command.uuid)
        if not replica.leads:
            raise Refused("ABORTED", str(NotLeader(replica.leader)))
        remove = [ReplicaId(id) for id in command.remove]
        self._check_cost(replica, len(command.add), remove)
        first = replica.core.membership.next_id
        add = [(NodeId(node), address) for node, address in command.add]
        try:
            placed = replica.change_members(add=add, remove=remove)
        except (NotLeader, MembershipBusy) as error:
            raise Refused("ABORTED", str(error)) from None
        except MembershipRefused as error:
            raise Refused("FAILED_PRECONDITION", str(error)) from None
        await self._committed(replica, placed)
        ids = tuple(range(first, first + len(add)))
        # By what is committed: an id of an entry that is cut away may be given to another node.
        committed = members(replica.core.log.membership_at(replica.core.commit))
        learners = {member.id: member.node for member in committed.values()}
        if [learners.get(ReplicaId(id)) for id in ids] != [node for node, _ in add]:
            raise Refused("ABORTED", "another change of members came first; look again")
        return MembersChanging(ids)

    def _check_cost(self, replica: Replica, adding: int, remove: Sequence[ReplicaId]) -> None:
        """Refuse what would leave the group with too few voters alive: by what this leader's own
        heartbeats tell it, that is who answered within an election timeout."""
        core = replica.core
        voters = core.membership.voters
        staying = [member.id for member in voters if member.id not in remove]
        if not staying or (len(staying) == len(voters) and not adding):
            return  # no change of voters, or one that is refused for another reason
        lived_since = asyncio.get_running_loop().time() - core.config.election_seconds_max
        heard = {replica.id: True}  # who may be alive -> whether it has answered in this term
        for id, progress in core.progress.items():
            if progress.heard >= lived_since and not progress.lost:
                heard[id] = progress.token > 0
        count = len(staying) + adding
        reason = cost_of(count, sum(heard.get(id, False) for id in staying) + adding)
        if reason and not cost_of(count, sum(id in heard for id in staying) + adding):
            raise Refused("ABORTED", "this leader is new, and has yet to hear who is alive")
        if reason:
            raise Refused("FAILED_PRECONDITION", f"{reason} in group {replica.gid}")

    async def _committed(self, replica: Replica, placed: EntryId) -> None:
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                while replica.applied < placed.index:
                    if replica.core.term != placed.term or not replica.leads:
                        raise Refused("ABORTED", "the leadership was lost; look again")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise Refused("ABORTED", "not committed in time; look again") from None

    async def transfer(self, command: Transfer) -> Done:
        """Hand the leadership to another voter; the answer comes when this replica leads no more.

        It says nothing about who leads then: the caller looks.
        """
        replica = self._replica(command.gid, command.uuid)
        term = replica.core.term
        try:
            replica.transfer(ReplicaId(command.replica))
        except NotLeader as error:
            raise Refused("ABORTED", str(error)) from None
        except TransferRefused as error:
            raise Refused("FAILED_PRECONDITION", str(error)) from None
        while replica.leads and replica.core.term == term:
            if replica.core.transfer_target == NOBODY:
                raise Refused("ABORTED", "the target did not take the leadership over in time")
            await asyncio.sleep(POLL_SECONDS)
        return Done()

    async def standing(self, question: AskStanding) -> Standing:
        """What is committed here of a replica. "removed" is for ever: an id that was given is
        never given again, so who is no member any more never will be."""
        replica = self._replica(question.gid, question.uuid)
        return Standing(standing_of(ReplicaId(question.replica), replica))

    def _for_this_life(self, boot: int) -> None:
        if boot != self._boot:
            raise Refused("ABORTED", "this node was started again since; look again")

    def _replica(self, gid: int, uuid: bytes) -> Replica:
        replica = self._host.replicas.get(GroupId(gid))
        if replica is None:
            raise Refused("NOT_FOUND", f"this node has no replica of group {gid}")
        if replica.record.uuid != uuid:
            raise Refused("FAILED_PRECONDITION", f"group {gid} has another uuid")
        return replica

    def _replica_status(self, replica: Replica) -> ReplicaStatus:
        core, gid = replica.core, replica.gid
        membership = core.membership
        leader = replica.leader
        return ReplicaStatus(
            gid=gid,
            uuid=replica.record.uuid,
            replica=replica.id,
            role=core.role.value,
            stopped=replica.stopped_because or "",
            term=core.term,
            leader=leader.node if leader is not None else "",
            commit=core.commit,
            applied=replica.applied,
            last=core.log.last.index,
            log_bytes=self._host.log_bytes(gid),
            voters=_members(membership.voters),
            outgoing=_members(membership.outgoing),
            learners=_members(membership.learners),
            config_number=self._groups.config_number(gid),
            shards=self._groups.shards(gid),
            lost=_members(
                tuple(member for member in _everyone(replica) if member.id in core.lost_replicas)
            ),
            promote=membership.promote,
            leaving=membership.leaving,
            membership_at=core.log.membership_index,
            next_id=membership.next_id,
        )


def standing_of(id: ReplicaId, replica: Replica) -> str:
    """What another replica's committed membership says of a member's id; see `Standing`.

    Only committed memberships count: one that is undone may have removed, or added, anybody.
    """
    membership = replica.core.log.membership_at(replica.core.commit)
    if id in members(membership):
        return "member"
    return "removed" if id < membership.next_id else "unknown"


def _everyone(replica: Replica) -> tuple[Member, ...]:
    membership = replica.core.membership
    return (*membership.learners, *membership.voters)


def _members(members: tuple[Member, ...]) -> tuple[MemberStatus, ...]:
    return tuple(MemberStatus(member.id, member.node, member.address) for member in members)


def _serve(
    transport: Transport,
    method: str,
    kind: type[Question],
    answer: Callable[[Question], Awaitable[tuple[object, ...]]],
) -> None:
    async def handler(body: bytes) -> bytes:
        try:
            question = admin.decode(kind, body)
        except BadAdmin as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from None
        return admin.encode(await answer(question))

    transport.serve(method, handler)
