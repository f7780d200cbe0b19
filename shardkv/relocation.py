"""Replicas and leaderships moved as an operator asks for it, over all the groups that it concerns.

What is asked for is a wish, not a deed: each function looks at what is there and does what is
missing, so running it again finishes what was cut off, and asking for what is so already changes
nothing. `moving_replicas` decides, `operating` acts.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from labrpc.transport import Transport
from raft.types import NodeId
from shardctrler.client import ControllerClient
from shardctrler.commands import Code
from shardctrler.errors import ChangeRefused
from shardkv.control import UnknownNode
from shardkv.growth import CONTROLLER_GID, Complete, Seen
from shardkv.moving_replicas import (
    Change,
    Refuse,
    groups_of,
    groups_on,
    next_step,
    next_transfer,
    next_wait,
    outline,
    outline_transfer,
    title,
)
from shardkv.operating import PAUSE_SECONDS, ChangeAborted, MembersRefused, Operator

Say = Callable[[str], None]

REPORTED_SECONDS: Final = 5.0
"""Within so long the leaders have told the controller who their members are."""


class Relocation:
    """What may be moved in one cluster, by what its controller knows of its nodes.

    Args:
        gids: The groups that the controller knows of. One that never joined is known by its nodes.
        deadline: Of each call, in loop seconds.
        progress: Told each step, and what is waited for.
    """

    def __init__(
        self,
        client: ControllerClient,
        operator: Operator,
        gids: Collection[int],
        *,
        deadline: float,
        progress: Say,
    ) -> None:
        self._client = client
        self._gids = gids
        self._operator = operator
        self._deadline = deadline
        self._progress = progress

    @classmethod
    async def prepared(
        cls,
        client: ControllerClient,
        transport: Transport,
        *,
        reaching: float,
        deadline: float,
        progress: Say,
    ) -> "Relocation":
        """With every node that is registered now.

        Args:
            reaching: Seconds for the controller to answer in.

        Raises:
            shardctrler.errors.Unavailable: the controller does not answer.
        """
        directory = (await client.newest(timeout=reaching)).directory
        places = {str(node): found.client for node, found in directory.nodes.items()}
        operator = Operator(transport, places)
        gids = (CONTROLLER_GID, *directory.groups)
        return cls(client, operator, gids, deadline=deadline, progress=progress)

    async def replacements(self, old: str, new: str, gid: int | None = None) -> list[Change]:
        """What it takes to move every replica of `old`, or that of one group, to `new`: one change
        a group, the controller first. Groups that have nothing on `old` are left alone. A node
        that is to take its own place gets new replicas for those that it has lost.

        Raises:
            UnknownNode, MembersRefused: it makes no sense; nothing was changed.
        """
        self._check_known(old, new)
        seen = await self._operator.observe()
        gids = groups_on(old, seen)
        if gid is not None:
            gids = tuple(on for on in gids if on == gid)
        changes = [Change(on, (new,), (old,)) for on in gids]
        if old != new:
            return changes
        return [change for change in changes if not isinstance(next_step(change, seen), Complete)]

    async def carry_out(self, changes: Sequence[Change]) -> None:
        """Make each change so, one after the other. What can be seen to be refused is refused
        before the first begins.

        Raises:
            UnknownNode, MembersRefused, Unavailable: those before it are done.
        """
        await self.outlined(changes)
        for change in changes:
            await self._operator.pursue(
                lambda seen, change=change: next_step(change, seen),  # type: ignore[misc]
                deadline=self._deadline,
                progress=self._progress,
            )

    async def transfer(self, gid: int, node: str) -> None:
        """Let a node lead a group.

        Raises:
            UnknownNode, MembersRefused, Unavailable.
        """
        self._check_known(node)
        self._check_group(gid, await self._operator.observe())
        await self._operator.pursue(
            lambda seen: next_transfer(gid, node, seen),
            deadline=self._deadline,
            progress=self._progress,
        )

    async def transfer_outlined(self, gid: int, node: str) -> list[str]:
        """What `transfer` would do now, in sentences; nothing is done.

        Raises:
            UnknownNode, MembersRefused: as `transfer` would.
        """
        self._check_known(node)
        seen = await self._operator.observe()
        self._check_group(gid, seen)
        step = next_transfer(gid, node, seen)
        if isinstance(step, Refuse):
            raise MembersRefused(step.reason)
        return outline_transfer(gid, node, seen)

    async def outlined(self, changes: Sequence[Change]) -> list[str]:
        """What `carry_out` would do now, in sentences; nothing is done.

        Raises:
            UnknownNode, MembersRefused: as `carry_out` would.
        """
        for change in changes:
            self._check_known(*change.arriving, *change.departing)
        seen = await self._operator.observe()
        for change in changes:
            self._check_group(change.gid, seen)
            step = next_step(change, seen)
            if isinstance(step, Refuse):
                raise ChangeAborted(step.reason) if step.busy else MembersRefused(step.reason)
        return [line for change in changes for line in outline(change, seen)]

    async def whole(self) -> None:
        """Return once every node answers and every group has all its voters, caught up.

        Raises:
            Unavailable: not in time; the text says what is missing.
        """
        await self._operator.pursue(next_wait, deadline=self._deadline, progress=self._progress)

    async def forgotten(self, node: str) -> bool:
        """Let the cluster forget a node that is gone for good; whether there was one registered.

        Raises:
            MembersRefused: it answers, or a group has a member there: nothing was changed.
            shardctrler.errors.ShardCtrlerError: of the controller.
        """
        if not await self.may_be_forgotten(node):
            return False
        until = min(self._deadline, asyncio.get_running_loop().time() + REPORTED_SECONDS)
        while True:
            try:
                await self._client.forget_node(NodeId(node))
            except ChangeRefused as refused:
                # The groups have let it go, and have yet to report that.
                late = asyncio.get_running_loop().time() > until
                if refused.code is not Code.NODE_IS_MEMBER or late:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return True

    async def may_be_forgotten(self, node: str) -> bool:
        """Whether there is such a node to forget; nothing is done.

        Raises:
            MembersRefused: it answers, or a group has a member there.
        """
        if node not in self._operator.nodes:
            return False
        seen = await self._operator.observe()
        if seen[node] is not None:
            raise MembersRefused(f"node {node} answers: stop it first, or it registers again")
        gids = groups_on(node, seen)
        if gids:
            names = ", ".join(map(title, gids))
            raise MembersRefused(
                f"node {node} holds a replica of {names}: replace it, or remove that first"
            )
        return True

    def _check_group(self, gid: int, seen: Seen) -> None:
        if gid not in self._gids and gid not in groups_of(seen):
            raise MembersRefused(f"there is no group {gid}")

    def _check_known(self, *nodes: str) -> None:
        for node in nodes:
            if node not in self._operator.nodes:
                raise UnknownNode(node, sorted(self._operator.nodes))
