"""Acts on a cluster from outside: asks nodes how they are, and carries out the steps of growth and
of replicas that move.

Used by `shardkv up`, `shardkv ctl` and whoever heals the cluster. Everything here may be cut off
anywhere and begun again: `growth` and `moving_replicas` read the next step off what is there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from labrpc.errors import Refused, RpcError
from labrpc.transport import Address, Transport
from shardkv import admin
from shardkv.admin import (
    ChangeMembers,
    CreateGroup,
    CreateReplica,
    Done,
    GroupCreated,
    MembersChanging,
    NodeStatus,
    Nothing,
    Transfer,
)
from shardkv.errors import ShardKVError, Unavailable
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
from shardkv.moving_replicas import Begin, HandOver, Refuse
from shardkv.moving_replicas import Step as MovingStep

log = logging.getLogger(__name__)

STATUS_SECONDS: Final = 1.0
"""A node that has not said how it is by then counts as silent."""
STEP_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.05
TELL_SECONDS: Final = 1.0
"""What is waited for is told at most so often: a copy's progress changes all the time."""

AnyStep = Step | MovingStep

Answer = TypeVar("Answer", bound=tuple[object, ...])


class MembersRefused(ShardKVError):
    """A change of members was refused, and nothing was changed by the step that it stands for."""


class ChangeAborted(MembersRefused):
    """Another change of members comes first. Look at what it made, and try again."""


class _Telling:
    """Tells what is waited for: each text once, and not more often than `TELL_SECONDS`."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._told, self._told_at = "", -TELL_SECONDS

    def waits(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if reason and reason != self._told and now - self._told_at >= TELL_SECONDS:
            self._told, self._told_at = reason, now
            self._progress(reason)


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

    def with_nodes(self, more: Mapping[str, str]) -> "Operator":
        """One that asks these nodes too."""
        return Operator(self._transport, {**more, **self.nodes})

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
        telling = _Telling(progress)
        while True:
            seen = await self.observe()
            steps = [next_step(wish, seen) for wish in wishes]
            if all(isinstance(step, Complete) for step in steps):
                return seen
            troubles = await asyncio.gather(*(self._try(step, seen) for step in steps))
            waiting = "; ".join(step.reason for step in steps if isinstance(step, Wait))
            telling.waits(waiting)
            if asyncio.get_running_loop().time() > deadline:
                failed = [
                    f"group {wish.gid}: {trouble}"
                    for wish, trouble in zip(wishes, troubles, strict=True)
                    if trouble
                ]
                why = "; ".join([*filter(None, [waiting]), *failed])
                raise Unavailable(f"not complete in time: {why or 'the last step was just taken'}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def pursue(
        self,
        decide: Callable[[Seen], MovingStep],
        *,
        deadline: float,
        progress: Callable[[str], None] = log.info,
    ) -> None:
        """Take every step that `decide` reads off the cluster, until it says that it is complete.

        Args:
            decide: Pure; such as `moving_replicas.next_step` of one change.
            deadline: In loop seconds.
            progress: Told each step, and what is waited for.

        Raises:
            MembersRefused: it must not be done; `ChangeAborted` if another change comes first.
            Unavailable: the deadline passed; the text says what was waited for.
        """
        telling = _Telling(progress)
        told: AnyStep | None = None
        trouble = ""
        while True:
            seen = await self.observe()
            step = decide(seen)
            match step:
                case Complete():
                    return
                case Refuse(reason, busy):
                    raise ChangeAborted(reason) if busy else MembersRefused(reason)
                case Wait(reason):
                    trouble = reason
                    telling.waits(reason)
                case _:
                    if step != told:  # one that is tried again is told once
                        told = step
                        progress(_told(step))
                    trouble = await self._try(step, seen) or trouble
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(
                    f"not complete in time: {trouble or 'still under way'}; what has begun goes "
                    "on by itself, and running it again finishes the rest"
                )
            await asyncio.sleep(PAUSE_SECONDS)

    async def _try(self, step: AnyStep, seen: Seen) -> str:
        """Carry out a step. Of one that fails the next look shows what became of it.

        Returns:
            Why it failed; "".

        Raises:
            MembersRefused: a leader refused to move replicas: it knows better than what was seen.
        """
        try:
            await self._take(step, seen)
        except Refused as error:
            log.info("step %s: %s", step, error)
            if error.code == "FAILED_PRECONDITION" and isinstance(step, Begin | HandOver):
                raise MembersRefused(error.message) from error
            return str(error)
        except (RpcError, admin.BadAdmin) as error:
            log.info("step %s: %s", step, error)
            return str(error)
        return ""

    async def _take(self, step: AnyStep, seen: Seen) -> None:
        match step:
            case Birth(gid, node):
                await self._give_birth(gid, node, seen)
            case Enlarge(gid, leader, nodes):
                await self._change(gid, leader, nodes, (), seen)
            case Begin(gid, leader, add, remove):
                await self._change(gid, leader, add, remove, seen)
            case Strike(gid, leader, replicas):
                await self._change(gid, leader, (), replicas, seen)
            case HandOver(gid, leader, _, replica):
                transfer = Transfer(gid, self._uuid(gid, seen), replica)
                await self._ask(self.nodes[leader], admin.TRANSFER, transfer, Done)
            case Wait() | Complete() | Refuse():
                pass

    async def _give_birth(self, gid: int, node: str, seen: Seen) -> None:
        status = seen[node]
        assert status is not None, "a founder that answered"
        create = CreateGroup(gid, status.boot)
        await self._ask(self.nodes[node], admin.CREATE_GROUP, create, GroupCreated)

    async def _change(
        self, gid: int, leader: str, nodes: Sequence[str], remove: Sequence[int], seen: Seen
    ) -> None:
        """Have the leader begin a change, and fill the ids that it gives with blank replicas."""
        uuid = self._uuid(gid, seen)
        known = [(node, status) for node in nodes if (status := seen[node]) is not None]
        add = tuple((node, status.peer) for node, status in known)
        change = ChangeMembers(gid, uuid, add, tuple(remove))
        added = await self._ask(self.nodes[leader], admin.CHANGE_MEMBERS, change, MembersChanging)
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


def _told(step: AnyStep) -> str:
    """A step as an operator reads it."""
    match step:
        case Begin(gid, leader, add, remove):
            parts = [f"{node} comes in" for node in add]
            parts += [f"replica {replica} goes" for replica in remove]
            return f"group {gid}: {leader} begins a change: {', '.join(parts)}"
        case HandOver(gid, leader, to, _):
            return f"group {gid}: {leader} hands its leadership to {to}"
        case Strike(gid, _, replicas):
            numbers = ", ".join(map(str, replicas))
            return f"group {gid}: learner {numbers} is given up"
        case _:
            return str(step)


def complete(wishes: Iterable[Wish], seen: Seen) -> bool:
    """Whether every group has all its voters."""
    return all(isinstance(next_step(wish, seen), Complete) for wish in wishes)


def is_mismatch(error: RpcError) -> bool:
    """Whether a node turned us away because it is of another cluster or version."""
    return isinstance(error, Refused) and "mismatch" in error.message
