"""Lets go of replicas that their groups have removed: they are told, or they find out, and go.

A removed replica hears of it from its leader (`raft.core.Facts.removed`: the removal is committed
in its own log). One that was away meanwhile is a voter by its own log, and would ask for votes for
ever, which nobody gives. So a replica that hears no leader asks the cluster's nodes about itself.

Why nobody goes who is needed: an answer counts only what is *committed* where it was given, and
says "removed" only if this very id was given and is no member any more. An id is never given again,
so that stays true for ever, whoever said it and however long it was on its way. What is dropped
leaves a tombstone: the node never takes the id back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from raft.chores import begin_chore
from raft.host import Host
from raft.replica import Replica
from raft.types import NOBODY, GroupId
from shardkv import admin
from shardkv.admin import AskStanding, BadAdmin, Standing
from shardkv.feed import ConfigFeed

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
FAREWELL_SECONDS: Final = 1.0
"""Between the news and the end: the answer shall reach the leader, which then says no more."""
ALONE_SECONDS: Final = 3.0
"""Without a leader for so long a replica asks whether it is still a member; and so often."""
ASK_SECONDS: Final = 1.0


class Departing:
    """Looks after the replicas of one node. `start` it; it works until `close`.

    Args:
        feed: Knows where the cluster's nodes take calls.
        retire: Stops a group's replica here and deletes it, durably.
    """

    def __init__(
        self,
        host: Host,
        feed: ConfigFeed,
        transport: Transport,
        retire: Callable[[GroupId], Awaitable[None]],
    ) -> None:
        self._host = host
        self._feed = feed
        self._transport = transport
        self._retire = retire
        self._loop = asyncio.get_running_loop()
        self._known_since: dict[GroupId, float] = {}  # its removal
        self._alone_since: dict[GroupId, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = begin_chore(self._run(), "removed replicas stay on this node")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for gid, replica in list(self._host.replicas.items()):
                removed = not self._is_well(gid, replica) and await self._is_removed(gid, replica)
                # Another may have taken its place while the others were asked about it.
                if removed and self._host.replicas.get(gid) is replica:
                    words = "replica %d is no member of group %d any more: its data is deleted"
                    log.warning(words, replica.id, gid)
                    await self._retire(gid)
                    self._known_since.pop(gid, None)
                    self._alone_since.pop(gid, None)

    def _is_well(self, gid: GroupId, replica: Replica) -> bool:
        """Whether it is a member, as far as it knows, and hears a leader."""
        if replica.core.removed:
            return False
        self._known_since.pop(gid, None)
        if replica.stopped_because is not None or replica.core.leader == NOBODY:
            return False
        self._alone_since.pop(gid, None)
        return True

    async def _is_removed(self, gid: GroupId, replica: Replica) -> bool:
        """Of one that is not well: whether it is known, for long enough, to be no member."""
        now = self._loop.time()
        if replica.core.removed:
            return now - self._known_since.setdefault(gid, now) >= FAREWELL_SECONDS
        if now - self._alone_since.setdefault(gid, now) < ALONE_SECONDS:
            return False
        self._alone_since[gid] = now
        return await self._others_say_so(gid, replica)

    async def _others_say_so(self, gid: GroupId, replica: Replica) -> bool:
        """Whether any node knows it to be committed that this replica was removed."""
        if self._feed.view is None:
            return False
        nodes = self._feed.view.directory.nodes
        others = [found.client for node, found in nodes.items() if node != self._host.node]
        question = AskStanding(gid, replica.record.uuid, replica.id)
        answers = await asyncio.gather(*(self._ask(to, question) for to in others if to))
        return "removed" in answers

    async def _ask(self, to: str, question: AskStanding) -> str:
        try:
            body = await self._transport.call(
                Address(to), admin.STANDING, admin.encode(question), timeout=ASK_SECONDS
            )
            return admin.decode(Standing, body).standing
        except (RpcError, BadAdmin) as error:  # it holds no replica of the group, or is away
            log.debug("%s says nothing of group %d: %s", to, question.gid, error)
            return "unknown"
