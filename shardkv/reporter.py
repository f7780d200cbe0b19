"""Tells the controller where this node is, and who the members of the groups it leads are.

The groups' own logs are the truth about their members; what the controller holds is how others
find them. So it is told again whenever what it says differs from what is so.
"""

import asyncio
import logging
from typing import Final

from raft.chores import begin_chore
from raft.host import Host
from raft.replica import Replica
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import Directory, GroupMember, NodeAddresses
from shardkv.feed import ConfigFeed

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 1.0
"""How often what the controller says is compared with what is so."""
FIRST_SECONDS: Final = 0.05
"""How often a node that has just started looks whether it has heard of the controller yet."""


class Reporter:
    """`start` it; it compares and reports until `close`."""

    def __init__(
        self,
        host: Host,
        feed: ConfigFeed,
        client: ControllerClient,
        addresses: NodeAddresses,
    ) -> None:
        self._host = host
        self._feed = feed
        self._client = client
        self._addresses = addresses
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = begin_chore(self._run(), "the controller is told no more of this node")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._feed.view is None:  # noqa: ASYNC110 - the first view, and no other news
            await asyncio.sleep(FIRST_SECONDS)
        while True:
            view = self._feed.view
            if view is not None:
                try:
                    await self._compare(view.directory)
                except ShardCtrlerError as error:  # the next comparison finds the same difference
                    log.debug("the controller was not told: %s", error)
            await asyncio.sleep(REPORT_SECONDS)

    async def _compare(self, directory: Directory) -> None:
        if directory.nodes.get(self._host.node) != self._addresses:
            await self._client.register_node(self._host.node, self._addresses)
        for gid, replica in list(self._host.replicas.items()):
            known = directory.groups.get(gid)
            if known is None or not replica.leads or known.uuid != replica.record.uuid:
                continue
            version = replica.core.log.membership_index
            if version > replica.core.commit or version <= known.version:
                continue  # it may be undone yet, or is no news
            members = self._members(gid, replica, directory)
            if {member.node for member in known.members} != {member.node for member in members}:
                await self._client.update_members(gid, version, members, uuid=replica.record.uuid)

    def _members(
        self, gid: GroupId, replica: Replica, directory: Directory
    ) -> tuple[GroupMember, ...]:
        """The voters, where their nodes are registered.

        Their version is the index at which the group's log says so, or, where the log is cut above
        it, the index that it begins after. So it grows with each change, whoever reports it: a
        change is appended behind all that is committed, and a log is cut below it.
        """
        known = {member.node: member.address for member in directory.members(gid)}
        return tuple(
            GroupMember(voter.node, directory.nodes[voter.node].client)
            if voter.node in directory.nodes
            else GroupMember(voter.node, known.get(voter.node, ""))
            for voter in replica.core.membership.voters
        )
