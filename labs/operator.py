"""What an administrator does to a simulated cluster, and what `shardkv up` would do for him.

Groups join and leave, shards are moved, leadership is handed on, replicas are replaced. All of it
may be refused or be in vain; that is his daily bread.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Final

from labs.cluster import SimCluster, SimNode
from raft.disk.log_store import ReplicaRecord, ReplicaRefused
from raft.errors import DataUnusable, MembershipRefused, NotLeader, TransferRefused
from raft.membership import members
from raft.types import GroupId, Member, Membership, NodeId, ReplicaId
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import ShardId

ASK_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.2
KINDS: Final = ("changes", "transfer", "members", "controller-members")


class Operator:
    """Works until it is cancelled.

    Args:
        admin: His way to the controller.
        kinds: Which of `KINDS` he does.
    """

    def __init__(
        self, cluster: SimCluster, admin: ControllerClient, kinds: list[str], rng: Random
    ) -> None:
        self._cluster, self._admin, self._rng = cluster, admin, rng
        self._kinds = [kind for kind in kinds if kind in KINDS]
        self._transfers: dict[GroupId, NodeId] = {}
        self.lost: set[str] = set()
        """Nodes that are gone for good: a learner there will never catch up, and is let go."""

    async def change(self, seconds: float, pause_max: float) -> None:
        """Change something now and then, for so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            await asyncio.sleep(self._rng.uniform(0, pause_max))
            self._look_at_transfers()
            match self._rng.choice(self._kinds) if self._kinds else "":
                case "changes":
                    await self._change_config()
                case "transfer":
                    self._transfer()
                case "members":
                    self._replace(self._cluster.gids)
                case "controller-members":
                    self._replace([self._cluster.controller])

    async def done(self) -> None:
        """What he has begun has ended, one way or other."""

    async def _change_config(self) -> None:
        cluster = self._cluster
        before = cluster.leader(cluster.controller)
        cluster.changing += 1
        if cluster.changing > 1:
            cluster.observer.probe("two administrators at once")
        try:
            await self._change_once()
        finally:
            cluster.changing -= 1
        if cluster.leader(cluster.controller) is not before:
            cluster.observer.probe("controller's leader changed during a change")

    async def _change_once(self) -> None:
        rng, cluster, admin = self._rng, self._cluster, self._admin
        try:
            config = (await admin.newest(timeout=ASK_SECONDS)).config
            gid = rng.choice(cluster.gids)
            if rng.random() < 0.4:
                shard = ShardId(rng.randrange(cluster.nshards))
                to = rng.choice(sorted(config.groups))
                cluster.observer.tell(f"admin moves shard={shard} to=g{to}")
                await admin.move(shard, to, timeout=ASK_SECONDS)
            elif gid in config.groups:
                if any(machine.unsettled for machine in cluster.machines(gid)):
                    cluster.observer.probe("group left while its hand-over ran")
                cluster.observer.tell(f"admin lets g{gid} leave")
                await admin.leave([gid], timeout=ASK_SECONDS)
            else:
                cluster.observer.tell(f"admin lets g{gid} join")
                await admin.join([cluster.joining(gid)], timeout=ASK_SECONDS)
        except ShardCtrlerError as error:
            cluster.observer.tell(f"admin: {type(error).__name__}")

    def _transfer(self) -> None:
        cluster = self._cluster
        gid = self._rng.choice(list(cluster.placement))
        leader = cluster.leader(gid)
        if leader is None or leader.host is None:
            return
        replica = leader.host.replicas[gid]
        to = self._rng.choice(replica.core.membership.voters)
        try:
            leader.context.run(replica.transfer, to.id)
        except (TransferRefused, NotLeader):
            return
        cluster.observer.tell(f"admin hands g{gid} from {leader.name} to {to.node}")
        self._transfers[gid] = to.node

    def _look_at_transfers(self) -> None:
        for gid, to in list(self._transfers.items()):
            leader = self._cluster.leader(gid)
            if leader is not None:
                done = leader.name == to
                self._cluster.observer.probe("transfer succeeded" if done else "transfer failed")
            del self._transfers[gid]

    def _replace(self, gids: list[GroupId]) -> None:
        """Put a replica on a node that has none, for one of those that are there."""
        cluster, rng = self._cluster, self._rng
        gid = rng.choice(gids)
        leader = cluster.leader(gid)
        if leader is None or leader.host is None:
            return
        membership = leader.host.replicas[gid].core.membership
        free = self._free(membership)
        add = [(node.name, str(node.address)) for node in rng.sample(free, min(1, len(free)))]
        remove = [rng.choice(membership.voters).id] if add or len(membership.voters) > 3 else []
        if self._change(leader, gid, add, remove):
            cluster.observer.tell(f"admin replaces in g{gid} {remove} by {add}")
            if any(m.id in remove and m.node == leader.name for m in membership.voters):
                cluster.observer.probe("leader removed from its group")

    def _free(self, membership: Membership) -> list[SimNode]:
        """Nodes that a replica can come to."""
        taken = [member.node for member in members(membership).values()]
        nodes = self._cluster.nodes.values()
        return [n for n in nodes if n.name not in (*taken, *sorted(self.lost)) and not n.condemned]

    def _change(
        self,
        leader: SimNode,
        gid: GroupId,
        add: list[tuple[NodeId, str]],
        remove: list[ReplicaId],
    ) -> bool:
        """Whether the leader took it; what it refuses is asked again some time."""
        assert leader.host is not None
        change = partial(leader.host.replicas[gid].change_members, add=add, remove=remove)
        try:
            leader.context.run(change)
        except (MembershipRefused, NotLeader):
            return False
        return True

    # What `shardkv up` does: make the replicas that the log asks for, drop those it let go

    async def maintain(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for gid in self._cluster.placement:
                leader = self._cluster.leader(gid)
                if leader is None or leader.host is None or leader.paused:
                    continue
                core = leader.host.replicas[gid].core
                if core.log.membership_index > core.commit:
                    continue
                await self._maintain(gid, leader, core.membership)

    async def _maintain(self, gid: GroupId, leader: SimNode, membership: Membership) -> None:
        self._let_go(leader, gid, membership)
        everybody = members(membership)
        wanted = {member.node: member for member in everybody.values()}
        for node in list(self._cluster.nodes.values()):
            if node.running and not node.paused:
                try:
                    await self._match(node, gid, wanted.get(node.name), everybody, membership)
                except (DataUnusable, OSError):
                    if node.alive:
                        raise

    def _let_go(self, leader: SimNode, gid: GroupId, membership: Membership) -> None:
        """Learners on nodes that are gone, and whoever is on a condemned one."""
        condemned = [name for name, node in self._cluster.nodes.items() if node.condemned]
        gone = [*sorted(self.lost), *condemned]
        learners = [m.id for m in membership.learners if m.node in gone]
        if membership.promote:  # a change under way is given up first, by naming its learners alone
            learners = [replica for replica in learners if replica in membership.promote]
        voters = [m.id for m in membership.voters if m.node in condemned]
        tell = self._cluster.observer.tell
        if learners:
            if self._change(leader, gid, [], learners):
                tell(f"admin lets go of g{gid} {learners}")
        elif voters and not membership.outgoing and not membership.promote:
            free = [node for node in self._free(membership) if node.running][-1:]
            add = [(node.name, str(node.address)) for node in free]
            if add and self._change(leader, gid, add, voters[:1]):
                tell(f"admin replaces in g{gid} condemned {voters[:1]} by {add}")
                self._cluster.observer.probe("node re-added with new id")

    async def _match(
        self,
        node: SimNode,
        gid: GroupId,
        wanted: Member | None,
        known: Mapping[ReplicaId, Member],
        membership: Membership,
    ) -> None:
        """Bring one node in line with what a group's committed membership says of it."""
        host = node.host
        if host is None:
            return
        held = host.record(gid)
        if held is not None and held.replica not in known and held.replica < membership.next_id:
            await node.drop(gid)
        elif held is None and wanted is not None:
            record = ReplicaRecord(
                gid, self._cluster.uuids[gid], wanted.id, self._rng.getrandbits(63)
            )
            try:
                created = await node.create(record)
            except ReplicaRefused:
                return
            if created:
                self._cluster.observer.probe("replica replaced")
