"""Who waits for whom in a hand-over (L12): nobody in a circle, and nobody for what could be had.

A group that is not settled waits, shard by shard, for one other group: the destination for the
source to give the shard away, the source for the destination to have it. Where the other one has
yet to come to that configuration, it must itself be settled first: that is an edge from the one to
the other, and edges must never close a circle. They cannot as long as each leads to a group of an
older configuration; so that is looked at with every configuration and step that is taken.

And whoever is asked for what it has by its own applied state must give it, whatever it waits for
itself: two groups that swap shards would otherwise wait for each other for ever (safeguard F21).
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from labs.observer import Observer
from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.copies import PullReply, PullRequest, SettledReply, SettledRequest
from shardkv.phases import Phase
from shardkv.rows import ShardRecord
from shardkv.server import GroupServer
from shardkv.steps import RECOVERED_BEGINS
from shardkv.types import Code

_GIVES = (Phase.MOVING, Phase.LEAVING)


class Wait(NamedTuple):
    """What one shard's hand-over waits for."""

    shard: ShardId
    number: ConfigNumber
    phase: Phase
    peer: GroupId


class Waits:
    """Of all groups of a store, in canonical state."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._numbers: dict[GroupId, ConfigNumber] = {}
        self._waits: dict[GroupId, tuple[Wait, ...]] = {}

    def moved_on(
        self,
        gid: GroupId,
        number: ConfigNumber,
        unsettled: tuple[tuple[ShardId, ShardRecord], ...],
    ) -> None:
        """A group has taken a configuration, or a step of a hand-over."""
        waits = tuple([Wait(s, r.number, r.phase, r.peer) for s, r in unsettled])
        if self._numbers.get(gid) == number and self._waits.get(gid) == waits:
            return
        self._numbers[gid], self._waits[gid] = number, waits
        for wait in waits:
            if wait.peer in (GroupId(0), gid):
                self._observer.broke("L12", f"group {gid} waits for nobody: {wait}")
        circle = self.circle(gid)
        if circle:
            told = ", ".join(
                f"group {one} (configuration {self._numbers.get(one, 0)}) for {self._waits[one]}"
                for one in circle
            )
            self._observer.broke("L12", f"groups wait in a circle: {told}")

    def waits_for(self, gid: GroupId) -> list[GroupId]:
        """The groups that must come to a later configuration first, in order of their ids."""
        numbers = self._numbers
        behind = {w.peer for w in self._waits.get(gid, ()) if numbers.get(w.peer, 0) < w.number}
        return sorted(behind)

    def circle(self, gid: GroupId) -> list[GroupId]:
        """A circle of waits that a group is in; empty if it is in none."""
        path: list[GroupId] = []
        seen: dict[GroupId, None] = {}

        def leads_back(one: GroupId) -> bool:
            path.append(one)
            for other in self.waits_for(one):
                if other == gid:
                    return True
                if other not in seen:
                    seen[other] = None
                    if leads_back(other):
                        return True
            path.pop()
            return False

        return path if leads_back(gid) else []

    # Questions that could have been answered

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at what groups answer each other, for the time of a run."""
        pull, settled = GroupServer.pull, GroupServer.settled
        for name, watched in (("pull", self._pull(pull)), ("settled", self._settled(settled))):
            setattr(GroupServer, name, watched)
        try:
            yield
        finally:
            for name, usual in (("pull", pull), ("settled", settled)):
                setattr(GroupServer, name, usual)

    def _pull(self, usual: Callable[..., Awaitable[PullReply]]) -> object:
        async def pull(server: GroupServer, request: PullRequest) -> PullReply:
            could = _could_give(server, request)
            reply = await usual(server, request)
            record = server.machine.record(request.shard)
            if could and _could_give(server, request) and not _gives(reply, record):
                self._withheld(server, request, f"answers {reply}")
            return reply

        return pull

    def _settled(self, usual: Callable[..., SettledReply]) -> object:
        def settled(server: GroupServer, request: SettledRequest) -> SettledReply:
            reply = usual(server, request)
            record = server.machine.record(request.shard)
            serves = record.phase is Phase.SERVING and record.number >= request.number
            if serves and not reply.settled:
                self._withheld(server, request, "says that it has it not")
            return reply

        return settled

    def _withheld(
        self, server: GroupServer, request: PullRequest | SettledRequest, what: str
    ) -> None:
        record = server.machine.record(request.shard)
        self._observer.broke(
            "L12", f"group {server.gid} is asked {request}, {what}, and its shard is {record}"
        )


def _could_give(server: GroupServer, request: PullRequest) -> bool:
    """Whether a shard is on its way under that configuration, by what is applied here; of a group
    that was recovered, once its copy is renewed (`steps.renew`)."""
    if server.rsm.stopped_because is not None or request.shard >= server.machine.nshards:
        return False
    record = server.machine.record(request.shard)
    return (
        record.phase in _GIVES
        and record.number == request.number
        and record.copy_id >= request.copy_id
        and (server.machine.is_named or record.copy_id >= RECOVERED_BEGINS)
    )


def _gives(reply: PullReply, record: ShardRecord) -> bool:
    """A shard that is written may have nothing new for now; of a frozen one the end is told."""
    return reply.code is Code.OK and (reply.end is not None or record.phase is not Phase.LEAVING)
