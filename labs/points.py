"""Fault points: places in the parts where something unusual, but allowed, is made usual.

They are put in from here, for the time of a run, and are in no shipped code. Of the points a run
that has them makes a quarter active, and an active one fires every fourth time that it is passed
(FoundationDB's BUGGIFY), or as seldom as `SELDOM` says where that would let nothing else happen.
Whatever a point does a correct part may do at any time; so nothing may break because of it.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from random import Random
from typing import Any, Final

import raft.election
import raft.replica
from labrpc.sim.disk import SimDisk
from labrpc.sim.network import _Call
from labs.cluster import SimCluster, SimNode
from raft.courier import FrameCourier
from raft.errors import Overloaded
from raft.host import Host
from raft.leader import Leader
from raft.messages import RequestVote
from raft.parcel import Parcel
from raft.progress import Progress, Sending
from raft.replica import Replica
from raft.replication import Replication
from raft.state import State
from raft.types import Entry, EntryId, Index
from shardctrler.client import ControllerClient
from shardctrler.types import View
from shardkv.copies import PullReply, PullRequest, SettledReply, SettledRequest
from shardkv.feed import ConfigFeed
from shardkv.handover import Handover
from shardkv.protocol import Frame, Reply, Status
from shardkv.server import GroupServer
from shardkv.types import Code

ACTIVE: Final = 0.25
FIRES: Final = 0.25
SELDOM: Final = {
    "a sync is late": 0.02,
    "a leader steps down": 0.01,
    "the answer is lost": 0.05,
    "crash before a sync": 0.002,
    "crash before an apply": 0.002,
    "crash after an apply": 0.002,
    "overloaded": 0.05,
}
LATE_SECONDS_MAX: Final = 2.0

Patch = tuple[Any, str, Any]


class Points:
    """The points of one run.

    Args:
        rng: Which are active, and when they fire.
    """

    def __init__(self, cluster: SimCluster, rng: Random) -> None:
        self.on = True
        """Off after the healing: a part that is ill for ever need not come to rest."""
        self._cluster, self._rng = cluster, rng
        self._starting: list[asyncio.Future[bool]] = []
        self._made = self._points()
        self.active = [name for name in self._made if rng.random() < ACTIVE]

    def fires(self, name: str) -> bool:
        """Whether the point does its harm this time."""
        if not self.on or self._rng.random() >= SELDOM.get(name, FIRES):
            return False
        self._cluster.observer.probe(f"point: {name}")
        return True

    @contextmanager
    def put_in(self) -> Iterator[None]:
        """Patch the parts, and put them back."""
        patches = [self._made[name] for name in self.active]
        before = [getattr(place, name) for place, name, _ in patches]
        for place, name, value in patches:
            setattr(place, name, value)
        try:
            yield
        finally:
            for (place, name, _), value in reversed(list(zip(patches, before, strict=True))):
                setattr(place, name, value)

    def _points(self) -> dict[str, Patch]:
        return {
            # consensus
            "a short batch": (Replication, "_entries", self._short(Replication._entries)),
            "a message twice": (FrameCourier, "post", self._twice(FrameCourier.post)),
            "a snapshot instead of the log": (
                Replication, "_id_before", self._snapshot(Replication._id_before)
            ),
            "compact now": (Host, "_log_is_long", self._long(Host._log_is_long)),
            "apply one entry only": (
                Replica, "_apply_some", self._one_entry(Replica._apply_some)
            ),
            "a leader steps down": (Leader, "timeout", self._resigns(Leader.timeout)),
            "timers ring together": (
                State, "restart_election_timer", self._together(State.restart_election_timer)
            ),
            "a vote is refused": (
                raft.election, "answer", self._refuses(raft.election.answer)
            ),
            "overloaded": (Replica, "propose", self._overloaded(Replica.propose)),
            # disks and processes
            "a sync is late": (SimDisk, "_begin", self._late(SimDisk._begin)),
            "crash before a sync": (SimDisk, "sync", self._crash_at_sync(SimDisk.sync)),
            "crash before an apply": (Host, "_apply_turn", self._crash_before(Host._apply_turn)),
            "crash after an apply": (Replica, "apply", self._crash_after(Replica.apply)),
            # answers
            "the answer is lost": (_Call, "respond", self._loses(_Call.respond)),
            "ask somebody else": (GroupServer, "answer", self._elsewhere(GroupServer.answer)),
            "no chunk yet": (GroupServer, "pull", self._no_chunk(GroupServer.pull)),
            "not settled yet": (GroupServer, "settled", self._unsettled(GroupServer.settled)),
            # hand-over and configurations
            "a step twice": (Handover, "_propose", self._step_twice(Handover._propose)),
            "news passed over": (ConfigFeed, "_adopt", self._passes(ConfigFeed._adopt)),
            "anybody asked first": (ControllerClient, "_ask", self._anybody(ControllerClient._ask)),
        }  # fmt: skip

    # Consensus

    def _short(self, usual: Callable[..., tuple[Entry, ...]]) -> object:
        def entries(replication: Replication, lo: Index) -> tuple[Entry, ...]:
            found = usual(replication, lo)
            return found[:1] if self.fires("a short batch") else found

        return entries

    def _twice(self, usual: Callable[..., None]) -> object:
        def post(courier: FrameCourier, address: str, parcel: Parcel) -> None:
            usual(courier, address, parcel)
            if self.fires("a message twice"):
                usual(courier, address, parcel)

        return post

    def _snapshot(self, usual: Callable[..., EntryId | None]) -> object:
        def id_before(replication: Replication, progress: Progress) -> EntryId | None:
            probing = progress.sending is Sending.PROBE
            # A log is cut only up to what is applied: who has applied nothing has all of it.
            some = replication._state.applied > 0
            if probing and some and self.fires("a snapshot instead of the log"):
                progress.become_snapshot()
                replication._state.send_snapshot.append(progress.id)
                return None
            return usual(replication, progress)

        return id_before

    def _long(self, usual: Callable[..., bool]) -> object:
        def log_is_long(host: Host, replica: Replica) -> bool:
            runs = replica.stopped_because is None
            return usual(host, replica) or (runs and self.fires("compact now"))

        return log_is_long

    def _one_entry(self, usual: Callable[[Replica], None]) -> object:
        def apply_some(replica: Replica) -> None:
            most = raft.replica.APPLY_ENTRIES_MAX
            if self.fires("apply one entry only"):
                vars(raft.replica)["APPLY_ENTRIES_MAX"] = 1
            try:
                usual(replica)
            finally:
                vars(raft.replica)["APPLY_ENTRIES_MAX"] = most

        return apply_some

    def _resigns(self, usual: Callable[..., None]) -> object:
        def timeout(leader: Leader, now: float) -> None:
            usual(leader, now)
            if leader.resigned is None and self.fires("a leader steps down"):
                leader.resigned = "a fault point"

        return timeout

    def _together(self, usual: Callable[[State, float], None]) -> object:
        """Waits that end on a grid of time: those who drew it are candidates in one moment."""

        def restart(state: State, now: float) -> None:
            usual(state, now)
            if self.fires("timers ring together"):
                grid = state.config.election_seconds_max
                state.election_at = ceil(state.election_at / grid) * grid

        return restart

    def _refuses(self, usual: Callable[..., None]) -> object:
        def answer(state: State, request: RequestVote, now: float) -> None:
            if self.fires("a vote is refused"):
                raft.election.refuse(state, request)
            else:
                usual(state, request, now)

        return answer

    def _overloaded(self, usual: Callable[..., EntryId | None]) -> object:
        def propose(replica: Replica, data: bytes) -> EntryId | None:
            if replica.leads and self.fires("overloaded"):
                raise Overloaded("a fault point")
            return usual(replica, data)

        return propose

    # Disks and processes

    def _late(self, usual: Callable[[SimDisk], None]) -> object:
        def begin(disk: SimDisk) -> None:
            if self.fires("a sync is late"):
                late = self._rng.uniform(0, LATE_SECONDS_MAX)
                asyncio.get_running_loop().call_later(late, usual, disk)
            else:
                usual(disk)

        return begin

    def _crash_at_sync(self, usual: Callable[..., object]) -> object:
        def sync(disk: SimDisk, batch: Sequence[tuple[bytes, bytes | None]]) -> object:
            if self.fires("crash before a sync"):
                self._crash(lambda node: node.drive is disk._drive)
            return usual(disk, batch)

        return sync

    def _crash_before(self, usual: Callable[[Host], None]) -> object:
        def apply_turn(host: Host) -> None:
            if self.fires("crash before an apply"):
                self._crash(lambda node: node.host is host)
            else:
                usual(host)

        return apply_turn

    def _crash_after(self, usual: Callable[[Replica], None]) -> object:
        def apply(replica: Replica) -> None:
            usual(replica)
            if self.fires("crash after an apply"):
                self._crash(
                    lambda node: node.host is not None and replica in node.host.replicas.values()
                )

        return apply

    def _crash(self, is_it: Callable[[SimNode], bool]) -> None:
        for node in self._cluster.nodes.values():
            if is_it(node):
                asyncio.get_running_loop().call_soon(self._end, node)

    def _end(self, node: SimNode) -> None:
        node.crash()
        asyncio.get_running_loop().call_later(self._rng.uniform(0, 1.0), self._start, node)

    def _start(self, node: SimNode) -> None:
        if self.on and not node.alive and not node.condemned:
            self._starting.append(asyncio.ensure_future(node.start()))

    # Answers

    def _loses(self, usual: Callable[..., None]) -> object:
        def respond(call: _Call, outcome: Any) -> None:
            if self.fires("the answer is lost"):
                assert call._server is not None
                call._server.settle(call)
            else:
                usual(call, outcome)

        return respond

    def _elsewhere(self, usual: Callable[..., Any]) -> object:
        async def answer(server: GroupServer, frame: Frame) -> Reply:
            if self.fires("ask somebody else"):
                return Reply(Status.NOT_LEADER, server.machine.number, server.leader())
            reply: Reply = await usual(server, frame)
            return reply

        return answer

    def _no_chunk(self, usual: Callable[..., Any]) -> object:
        async def pull(server: GroupServer, request: PullRequest) -> PullReply:
            if self.fires("no chunk yet"):
                return PullReply(code=Code.OUT_OF_STEP)
            reply: PullReply = await usual(server, request)
            return reply

        return pull

    def _unsettled(self, usual: Callable[..., SettledReply]) -> object:
        def settled(server: GroupServer, request: SettledRequest) -> SettledReply:
            reply = usual(server, request)
            return reply._replace(settled=False) if self.fires("not settled yet") else reply

        return settled

    # Hand-over and configurations

    def _step_twice(self, usual: Callable[..., Any]) -> object:
        async def propose(handover: Handover, command: bytes) -> bool:
            if self.fires("a step twice"):
                await usual(handover, command)
            done: bool = await usual(handover, command)
            return done

        return propose

    def _passes(self, usual: Callable[..., bool]) -> object:
        def adopt(feed: ConfigFeed, view: View) -> bool:
            return not self.fires("news passed over") and usual(feed, view)

        return adopt

    def _anybody(self, usual: Callable[..., Any]) -> object:
        async def ask(client: ControllerClient, *args: Any, **named: Any) -> Any:
            if self.fires("anybody asked first"):
                client._leader = None
            return await usual(client, *args, **named)

        return ask
