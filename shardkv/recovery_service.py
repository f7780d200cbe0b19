"""A node's part when a majority is lost: says what it holds, and is born again when it is told to.

Nothing here happens but by an operator's explicit command, and each step is checked against the
controller: a replica becomes the first of the group `new_uuid` only where the controller's log says
that the gid means `new_uuid`, to be born on this very node. So of two commands that were meant for
two survivors one finds the controller of another mind, and does nothing. Only the controller's own
group has nobody above it: there the operator's word stands alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from labrpc.errors import Refused
from labrpc.transport import Transport
from raft.chores import begin_chore
from raft.errors import StopReplica
from raft.host import Host
from raft.replica import Replica
from raft.types import NOBODY, GroupId, GroupUuid
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import View
from shardkv import admin
from shardkv.admin import BadAdmin
from shardkv.feed import ConfigFeed
from shardkv.foresight import WentOn
from shardkv.recovery import (
    LEFT,
    REBIRTH,
    RETIRE,
    STANDS,
    SUPERSEDED,
    AskLeft,
    AskStands,
    Left,
    Rebirth,
    Reborn,
    Retire,
    Retired,
    Stands,
)

log = logging.getLogger(__name__)

CONTROLLER: Final = GroupId(0)
ASK_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 1.0

Question = TypeVar("Question", bound=tuple[object, ...])


class Groups(Protocol):
    """What the node runs on its replicas."""

    async def rebirth(self, gid: GroupId, uuid: GroupUuid) -> None:
        """Let a replica be the first of another group, durably, and start it as such."""
        ...

    async def retire(self, gid: GroupId) -> None:
        """Stop a replica and delete it, durably."""
        ...

    async def stands(self, gid: GroupId, *, whole: bool) -> Stands | None:
        """How shards stand at a replica here, by what it has applied; or by its whole log."""
        ...


class RecoveryService:
    """Serves the `recover.*` calls of one node; silences replicas whose gid means another group.

    Args:
        boot: Of this process; commands name it.
        client: Asks the controller.
        feed: Tells of news.
    """

    def __init__(
        self,
        host: Host,
        groups: Groups,
        client: ControllerClient,
        feed: ConfigFeed,
        boot: int,
    ) -> None:
        self._host = host
        self._groups = groups
        self._client = client
        self._feed = feed
        self._boot = boot
        self._changing = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    def serve(self, transport: Transport) -> None:
        """Answer on a transport, and look after the replicas here from now on."""
        transport.serve(LEFT, _answering(AskLeft, self._left))
        transport.serve(STANDS, _answering(AskStands, self._stands))
        transport.serve(REBIRTH, _answering(Rebirth, self._rebirth))
        transport.serve(RETIRE, _answering(Retire, self._retire))
        self._feed.listen(self._look)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    # What is here

    async def _left(self, question: AskLeft) -> Left:
        replica = self._host.replicas.get(GroupId(question.gid))
        if replica is None:
            raise Refused("NOT_FOUND", f"this node has no replica of group {question.gid}")
        core = replica.core
        leader = replica.leader
        return Left(
            node=self._host.node,
            boot=self._boot,
            gid=replica.gid,
            uuid=replica.record.uuid,
            replica=replica.id,
            term=core.term,
            last_index=core.log.last.index,
            last_term=core.log.last.term,
            commit=core.commit,
            applied=replica.applied,
            leads=int(replica.leads),
            leader=leader.node if leader is not None else "",
            stopped=replica.stopped_because or "",
            voters=tuple(member.node for member in core.membership.voters),
            outgoing=tuple(member.node for member in core.membership.outgoing),
        )

    async def _stands(self, question: AskStands) -> Stands:
        gid = GroupId(question.gid)
        try:
            stands = await self._groups.stands(gid, whole=bool(question.whole))
        except WentOn:
            raise Refused("ABORTED", f"group {gid}'s replica here goes on; look again") from None
        except StopReplica as error:
            raise Refused("FAILED_PRECONDITION", str(error)) from None
        if stands is None:
            raise Refused("NOT_FOUND", f"this node has no replica of group {gid}")
        return stands

    # Commands

    async def _rebirth(self, command: Rebirth) -> Reborn:
        gid, uuid = GroupId(command.gid), GroupUuid(command.new_uuid)
        if len(uuid) != 16:
            raise Refused("INVALID_ARGUMENT", "a uuid has 16 bytes")
        async with self._changing:
            replica = self._meant(gid, command.boot, command.uuid, command.replica, uuid)
            if replica.record.uuid == uuid:
                return Reborn(replica.id)  # said again
            if gid != CONTROLLER:
                await self._allowed(gid, uuid)
            self._check_unchanged(replica, command)
            replica.stop("it is born again as another group")
            log.warning(
                "group %d is born again from this node's replica, under uuid %s", gid, uuid.hex()
            )
            await self._groups.rebirth(gid, uuid)
            return Reborn(self._host.replicas[gid].id)

    def _meant(self, gid: GroupId, boot: int, uuid: bytes, id: int, new: bytes = b"") -> Replica:
        if boot != self._boot:
            raise Refused("ABORTED", "this node was started again since; look again")
        replica = self._host.replicas.get(gid)
        if replica is None:
            raise Refused("NOT_FOUND", f"this node has no replica of group {gid}")
        if replica.record.uuid == new:
            return replica
        if (replica.record.uuid, replica.id) != (uuid, id):
            raise Refused("ABORTED", f"this node holds another replica of group {gid}; look again")
        return replica

    async def _allowed(self, gid: GroupId, uuid: GroupUuid) -> None:
        record = (await self._newest()).directory.groups.get(gid)
        if record is None or record.uuid != uuid:
            raise Refused(
                "FAILED_PRECONDITION", f"the controller knows group {gid} by another uuid"
            )
        if [member.node for member in record.members] != [self._host.node]:
            raise Refused("FAILED_PRECONDITION", f"group {gid} is to be born on another node")

    async def _newest(self) -> View:
        try:
            return await self._client.newest(timeout=ASK_SECONDS)
        except ShardCtrlerError as error:
            raise Refused("UNAVAILABLE", f"the controller does not confirm it: {error}") from None

    def _check_still_here(self, replica: Replica) -> None:
        """While the controller was asked the replica may have gone, and another have come in its
        place: by healing, by another operator, because its group removed it."""
        if self._host.replicas.get(replica.gid) is not replica:
            raise Refused(
                "ABORTED", f"this node holds another replica of group {replica.gid}; look again"
            )

    def _check_unchanged(self, replica: Replica, command: Rebirth) -> None:
        """Nothing is awaited between this and the replica's stop."""
        self._check_still_here(replica)
        core = replica.core
        if replica.stopped_because is not None and replica.stopped_because != SUPERSEDED:
            raise Refused("FAILED_PRECONDITION", f"it has stopped: {replica.stopped_because}")
        if replica.installing:
            raise Refused("ABORTED", "it is taking in a snapshot; look again")
        if replica.stopped_because is None and (replica.leads or core.leader != NOBODY):
            raise Refused("FAILED_PRECONDITION", f"group {replica.gid} has a leader: it lives")
        if core.log.last != (command.last_index, command.last_term):
            raise Refused("ABORTED", "its log has changed since; look again")

    async def _retire(self, command: Retire) -> Retired:
        gid = GroupId(command.gid)
        async with self._changing:
            replica = self._meant(gid, command.boot, command.uuid, command.replica)
            if gid != CONTROLLER:
                record = (await self._newest()).directory.groups.get(gid)
                if record is None or record.uuid == replica.record.uuid:
                    raise Refused("FAILED_PRECONDITION", f"group {gid} means this very replica's")
            self._check_still_here(replica)
            log.warning("replica %d of group %d is deleted: an operator says so", replica.id, gid)
            await self._groups.retire(gid)
        return Retired()

    # Silence

    def superseded(self, gid: GroupId) -> bool:
        """Whether this node's replica of a group was silenced here."""
        replica = self._host.replicas.get(gid)
        return replica is not None and replica.stopped_because == SUPERSEDED

    def _look(self) -> None:
        """At news: does a gid mean another group than the replica here is of?"""
        under_way = self._looking is not None and not self._looking.done()
        if not under_way and any(self._differs(gid) for gid in self._host.replicas):
            self._looking = begin_chore(self._silence(), "replicas of former groups go on")

    def _differs(self, gid: GroupId) -> bool:
        replica, view = self._host.replicas[gid], self._feed.view
        record = view.directory.groups.get(gid) if view is not None else None
        return (
            record is not None
            and record.uuid != replica.record.uuid
            and replica.stopped_because is None
        )

    async def _silence(self) -> None:
        """Stop those replicas. The news may be older than a replica that was just created, so the
        controller is asked, linearizably, after it was seen here: a new uuid is in its log before
        the first replica of it exists."""
        here = {gid: replica for gid, replica in self._host.replicas.items() if gid != CONTROLLER}
        while True:
            try:
                view = await self._client.newest(timeout=ASK_SECONDS)
                break
            except ShardCtrlerError as error:  # there may be no more news to bring it up again
                log.info("not known whether a group was recovered: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
        for gid, replica in here.items():
            record = view.directory.groups.get(gid)
            if record is not None and record.uuid != replica.record.uuid:
                log.warning("group %d: replica %d falls silent: %s", gid, replica.id, SUPERSEDED)
                replica.stop(SUPERSEDED)


def _answering(
    kind: type[Question], answer: Callable[[Question], Awaitable[tuple[object, ...]]]
) -> Callable[[bytes], Awaitable[bytes]]:
    async def handler(body: bytes) -> bytes:
        try:
            question = admin.decode(kind, body)
        except BadAdmin as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from None
        return admin.encode(await answer(question))

    return handler
