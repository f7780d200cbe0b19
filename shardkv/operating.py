"""Acts on a cluster from outside: asks nodes how they are, and carries out the steps of growth.

Used by `shardkv up`, `shardkv ctl` and `shardkv status`. Everything here may be cut off anywhere
and begun again: `growth` reads the next step off what is there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from labrpc.errors import Refused, RpcError
from labrpc.transport import Address, Transport
from shardkv import admin
from shardkv.admin import (
    AddMembers,
    CreateGroup,
    CreateReplica,
    Done,
    GroupCreated,
    MembersAdded,
    NodeStatus,
    Nothing,
    RemoveMembers,
)
from shardkv.errors import Unavailable
from shardkv.growth import (
    Birth,
    Complete,
    Enlarge,
    Seen,
    Step,
    Strike,
    Wait,
    Wish,
    leader_of,
    next_step,
)

log = logging.getLogger(__name__)

STATUS_SECONDS: Final = 1.0
"""A node that has not said how it is by then counts as silent."""
STEP_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.05

Answer = TypeVar("Answer", bound=tuple[object, ...])


class Operator:
    """Asks and instructs nodes.

    Args:
        transport: Of the cluster; stays its owner's to close.
        nodes: Node name -> where it takes clients' calls.
    """

    def __init__(self, transport: Transport, nodes: Mapping[str, str]) -> None:
        self._transport = transport
        self.nodes = dict(nodes)
        self._seen: dict[str, NodeStatus | None] = dict.fromkeys(nodes)

    async def observe(self) -> Seen:
        """Ask every node how it is."""
        answers = await asyncio.gather(*(self._status(to) for to in self.nodes.values()))
        self._seen = dict(zip(self.nodes, answers, strict=True))
        return self._seen

    async def _status(self, to: str) -> NodeStatus | None:
        try:
            return await self._ask(to, admin.STATUS, Nothing(), NodeStatus, STATUS_SECONDS)
        except (RpcError, admin.BadAdmin) as error:
            log.debug("no status from %s: %s", to, error)
            return None

    async def grow(
        self,
        wishes: Sequence[Wish],
        *,
        deadline: float,
        progress: Callable[[str], None] = log.info,
    ) -> Seen:
        """Take every missing step of all wishes, until each is complete.

        Args:
            deadline: In loop seconds.
            progress: Told when something is waited for, once a reason.

        Returns:
            What was seen last, with every wish complete.

        Raises:
            Unavailable: the deadline passed; the text says what was waited for.
        """
        told = ""
        while True:
            seen = await self.observe()
            steps = [next_step(wish, seen) for wish in wishes]
            if all(isinstance(step, Complete) for step in steps):
                return seen
            await asyncio.gather(*(self._take(step, seen) for step in steps))
            waiting = "; ".join(step.reason for step in steps if isinstance(step, Wait))
            if waiting and waiting != told:
                told = waiting
                progress(waiting)
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"not complete in time: {waiting or 'steps keep failing'}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _take(self, step: Step, seen: Seen) -> None:
        """Carry out a step. One that fails is logged: the next look shows what became of it."""
        try:
            match step:
                case Birth(gid, node):
                    await self._give_birth(gid, node, seen)
                case Enlarge(gid, leader, nodes):
                    await self._enlarge(gid, leader, nodes, seen)
                case Strike(gid, leader, replicas):
                    uuid = self._uuid(gid, seen)
                    remove = RemoveMembers(gid, uuid, replicas)
                    await self._ask(self.nodes[leader], admin.REMOVE_MEMBERS, remove, Done)
                case Wait() | Complete():
                    pass
        except (RpcError, admin.BadAdmin) as error:
            log.info("step %s: %s", step, error)

    async def _give_birth(self, gid: int, node: str, seen: Seen) -> None:
        status = seen[node]
        assert status is not None, "a founder that answered"
        create = CreateGroup(gid, status.boot)
        await self._ask(self.nodes[node], admin.CREATE_GROUP, create, GroupCreated)

    async def _enlarge(self, gid: int, leader: str, nodes: Sequence[str], seen: Seen) -> None:
        uuid = self._uuid(gid, seen)
        known = [(node, status) for node in nodes if (status := seen[node]) is not None]
        add = AddMembers(gid, uuid, tuple((node, status.peer) for node, status in known))
        added = await self._ask(self.nodes[leader], admin.ADD_MEMBERS, add, MembersAdded)
        creations = [
            self._ask(
                self.nodes[node],
                admin.CREATE_REPLICA,
                CreateReplica(gid, uuid, replica, status.boot),
                Done,
            )
            for (node, status), replica in zip(known, added.replicas, strict=True)
        ]
        for outcome in await asyncio.gather(*creations, return_exceptions=True):
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, RpcError | admin.BadAdmin):
                    raise outcome
                log.info("a replica of group %d was not created: %s", gid, outcome)

    def _uuid(self, gid: int, seen: Seen) -> bytes:
        found = leader_of(gid, seen)
        assert found is not None, "the step was read off a leader's status"
        return found[1].uuid

    async def _ask(
        self,
        to: str,
        method: str,
        question: tuple[object, ...],
        answer: type[Answer],
        timeout: float = STEP_SECONDS,
    ) -> Answer:
        body = await self._transport.call(
            Address(to), method, admin.encode(question), timeout=timeout
        )
        return admin.decode(answer, body)


def complete(wishes: Iterable[Wish], seen: Seen) -> bool:
    """Whether every group has all its voters."""
    return all(isinstance(next_step(wish, seen), Complete) for wish in wishes)


def is_mismatch(error: RpcError) -> bool:
    """Whether a node turned us away because it is of another cluster or version."""
    return isinstance(error, Refused) and "mismatch" in error.message
