"""What nodes tell the controller's leader once a second, and what that one tells an operator.

Why asked for, and why so: the node that leads the controller's group asks every registered node, so
nobody else needs to know who that is, and silence is measured by one clock. One small call a node a
second carries the sign of life *and* all that a decision needs (a node tells of the groups that it
leads, a hundred bytes each), so nothing else is ever asked in an idle cluster. Cheaper ways were
looked at: the watches of configurations come every two seconds anyway, but say nothing of groups,
and clients send them too; peers' heartbeats reach only nodes that share a group; `admin.status`
carries every shard, which takes a millisecond to read. The cost: 0.5 ms of processor a node and
second, half of it at the leader.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from labrpc.errors import Refused
from labrpc.transport import Transport
from raft.host import Host
from raft.membership import members
from raft.replica import Replica
from raft.types import NOBODY, Member
from shardkv import admin
from shardkv.admin import BadAdmin, MemberStatus, Nothing

BEAT: Final = "admin.beat"
HEALTH: Final = "admin.health"
SLOW_DISK_SECONDS: Final = 60.0
"""For so long after its disk held up a group that it led a node is handed no leadership."""


class Follower(NamedTuple):
    """A member of a group, as its leader sees it."""

    node: str
    lag: int  # entries that it has not acknowledged
    silent_ms: int  # since it answered last


class LedGroup(NamedTuple):
    """A group, by the replica that leads it as far as it knows."""

    gid: int
    uuid: bytes
    term: int
    voters: tuple[MemberStatus, ...]
    outgoing: tuple[MemberStatus, ...]
    learners: tuple[MemberStatus, ...]
    promote: tuple[int, ...]
    leaving: tuple[int, ...]
    next_id: int
    settled: int  # 1: its membership is committed, and no leadership is being handed over
    moving: int  # 1: shards come or go
    followers: tuple[Follower, ...]


class Beat(NamedTuple):
    """A node's sign of life."""

    node: str
    boot: int  # drawn anew at each start of the process
    running: int  # 0: it is stopping
    roomy: int  # 0: its disk is below the watermark
    quick: int  # 0: its disk held up a group lately
    replicas: tuple[tuple[int, int], ...]  # (gid, replica id) of those it runs
    led: tuple[LedGroup, ...]


class NodeHealth(NamedTuple):
    """A node as the controller's leader sees it."""

    node: str
    health: str  # "alive", "suspect" or "dead"
    silent_ms: int  # since it was first asked in vain; 0: it answers
    roomy: int
    quick: int
    leads: int  # groups
    replicas: int  # memberships, by the groups' leaders


class HealthReport(NamedTuple):
    """What the controller's leader sees and would do."""

    leads: int  # 0: this node does not lead the controller's group, and the rest means nothing
    heal: int  # 0: switched off
    grace_ms: int
    watched_ms: int  # for how long it has been watching: silence is counted from then on
    nodes: tuple[NodeHealth, ...]
    step: str  # what it does next, in words; "" for nothing
    why: tuple[str, ...]  # what is not as it should be, and what is waited for
    done: tuple[str, ...]  # the last steps that it took, the newest last


class Own(NamedTuple):
    """What a node knows of itself besides its replicas."""

    boot: int
    running: bool = True
    roomy: bool = True


def serve_beats(
    transport: Transport, host: Host, own: Callable[[], Own], moving: Callable[[int], bool]
) -> None:
    """Answer the controller's leader.

    Args:
        moving: Whether shards of a group come or go.
    """

    async def answer(body: bytes) -> bytes:
        try:
            admin.decode(Nothing, body)
        except BadAdmin as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from None
        return admin.encode(beat(host, own(), moving))

    transport.serve(BEAT, answer)


def beat(host: Host, own: Own, moving: Callable[[int], bool]) -> Beat:
    """A node's sign of life, from what it knows by itself."""
    now = asyncio.get_running_loop().time()
    replicas = [replica for _, replica in sorted(host.replicas.items())]
    slow_at = max((replica.core.slow_disk_at for replica in replicas), default=float("-inf"))
    return Beat(
        str(host.node),
        own.boot,
        int(own.running),
        int(own.roomy),
        int(now - slow_at > SLOW_DISK_SECONDS),
        tuple((replica.gid, replica.id) for replica in replicas),
        tuple(_led(replica, moving(replica.gid), now) for replica in replicas if replica.leads),
    )


def _led(replica: Replica, moving: bool, now: float) -> LedGroup:
    core = replica.core
    membership = core.membership
    settled = core.log.membership_index <= core.commit and core.transfer_target == NOBODY
    nodes = {member.id: str(member.node) for member in members(membership).values()}
    return LedGroup(
        replica.gid,
        replica.record.uuid,
        core.term,
        _members(membership.voters),
        _members(membership.outgoing),
        _members(membership.learners),
        tuple(membership.promote),
        tuple(membership.leaving),
        membership.next_id,
        int(settled),
        int(moving),
        tuple(
            Follower(
                nodes[follower],
                max(0, core.log.last.index - progress.match),
                max(0, int((now - progress.heard) * 1000)),
            )
            for follower, progress in core.progress.items()
            if follower in nodes
        ),
    )


def _members(found: tuple[Member, ...]) -> tuple[MemberStatus, ...]:
    return tuple(MemberStatus(member.id, str(member.node), member.address) for member in found)
