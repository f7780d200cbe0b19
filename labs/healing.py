"""Simulated clusters that mend themselves, as production ones do, and what is asked of them.

Nodes run the healer, and let go of replicas that their groups removed; administrators who move
replicas use the code of `shardkv ctl`, and their commands die in the middle now and then. Nobody
else sees to replicas here: what a death has left is for the cluster to make up for.

L13: where the cluster mends itself, it ends, and what it ends with is whole: every voter of every
group lives, as long as there is a living node without a replica of the group to take its place.
"""

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Final

from labrpc.transport import Address
from labs.cluster import SimCluster
from labs.operator import Operator
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardkv.errors import ShardKVError
from shardkv.healing import SHUN_SECONDS
from shardkv.moving_replicas import Change
from shardkv.planner import HealPolicy
from shardkv.relocation import Relocation

GRACE_SECONDS: Final = 5.0
POLICY: Final = HealPolicy(
    grace_seconds=GRACE_SECONDS,
    dead_seconds=3.0,
    uneven_seconds=1e9,  # leaderships are left where they are: nobody may be elected at rest (L7)
)
SPARE_SECONDS: Final = 3 * GRACE_SECONDS + SHUN_SECONDS
"""What a cluster that mends itself may take longer to come to rest: a node must have been silent
for the grace period, and one where a replica could not be made is passed over for a while."""
COMMAND_SECONDS: Final = 10.0


class Administrators(Operator):
    """People at command lines; each command that moves a replica is a process of its own."""

    def __init__(
        self, cluster: SimCluster, admin: ControllerClient, kinds: list[str], rng: Random
    ) -> None:
        super().__init__(cluster, admin, kinds, rng)
        self._commands: list[asyncio.Task[None]] = []

    async def maintain(self) -> None:
        """Nobody does: the cluster mends itself."""
        await asyncio.get_running_loop().create_future()

    async def done(self) -> None:
        """Every command has ended, one way or other."""
        await asyncio.gather(*self._commands)

    def _replace(self, gids: list[GroupId]) -> None:
        """Have a voter of a group take its place on another node; or one more, or one fewer."""
        cluster, rng = self._cluster, self._rng
        gid = rng.choice(gids)
        leader = cluster.leader(gid)
        if leader is None or leader.host is None:
            return
        membership = leader.host.replicas[gid].core.membership
        free = [str(node.name) for node in self._free(membership)]
        voters = [str(member.node) for member in membership.voters]
        if not free or not voters:
            return
        to, old = rng.choice(free), rng.choice(voters)
        change = Change(int(gid), (to,), (old,))
        patience = rng.choice((0.0, 0.05, 1.0)) if rng.random() < 0.3 else COMMAND_SECONDS
        cluster.observer.tell(f"admin replaces in g{gid} {old} by {to}")
        number = len(self._commands) + 1
        work = self._command(f"operator{number}", change, patience)
        self._commands.append(asyncio.get_running_loop().create_task(work))

    async def _command(self, name: str, change: Change, patience: float) -> None:
        """`shardkv ctl replace`; after `patience` seconds its process is gone."""
        cluster = self._cluster
        transport = cluster.network.transport(Address(name))
        client = ControllerClient(transport, cluster.controllers, cluster.chance.rng(name))
        deadline = asyncio.get_running_loop().time() + COMMAND_SECONDS
        tell = cluster.observer.tell
        try:
            async with asyncio.timeout(patience):
                relocation = await Relocation.prepared(
                    client, transport, reaching=2.0, deadline=deadline,
                    progress=lambda line: tell(f"{name}: {line}"),
                )  # fmt: skip
                await relocation.carry_out([change])
            cluster.observer.probe("replica moved by an operator of a cluster that heals")
        except TimeoutError:
            cluster.observer.probe("operator's command died half-way")
        except (ShardKVError, ShardCtrlerError) as error:
            tell(f"{name}: {type(error).__name__}: {error}")
        finally:
            await client.close()
            await transport.close()


def missing(cluster: SimCluster) -> Mapping[GroupId, list[str]]:
    """By group: the voters that the cluster should have replaced, and has not; {} if it is whole.

    A group that nobody leads is missing all of them.
    """
    found = {}
    for gid in cluster.placement:
        if lacks := _lacks(cluster, gid):
            found[gid] = lacks
    return found


def _lacks(cluster: SimCluster, gid: GroupId) -> list[str]:
    node = cluster.leader(gid)
    if node is None or node.host is None:
        return ["a leader"]
    membership = node.host.replicas[gid].core.membership
    if membership.outgoing or membership.promote:
        return ["the end of a change"]
    taken = [member.node for member in (*membership.voters, *membership.learners)]
    free = [name for name, other in cluster.nodes.items() if other.running and name not in taken]
    lacks = []
    for member in membership.voters:
        holder = cluster.nodes[member.node]
        if holder.running:
            host = holder.host
            held = host.replicas.get(gid) if host is not None else None
            if held is None or held.id != member.id:
                lacks.append(f"{member.node}, which lost its replica {member.id}")
        elif free:
            lacks.append(f"{member.node}, which is dead, with {', '.join(free)} to take its place")
    return lacks
