"""What an administrator does to a simulated cluster, and what `shardkv up` would do for him.

Groups join and leave, shards are moved, leadership is handed on, replicas are replaced. All of it
may be refused or be in vain; that is his daily bread.
"""

import asyncio
from random import Random
from typing import Final

from labs.cluster import SimCluster, SimNode
from raft.disk.log_store import ReplicaRecord, ReplicaRefused
from raft.errors import DataUnusable, MembershipRefused, NotLeader, TransferRefused
from raft.membership import members
from raft.types import GroupId, Member, NodeId, ReplicaId
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import ShardId

ASK_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.2


class Operator:
    """Works until it is cancelled.

    Args:
        admin: His way to the controller.
        kinds: Which of `changes`, `transfer` and `members` he does.
    """

    def __init__(
        self, cluster: SimCluster, admin: ControllerClient, kinds: list[str], rng: Random
    ) -> None:
        self._cluster, self._admin, self._rng = cluster, admin, rng
        self._kinds = [kind for kind in kinds if kind in ("changes", "transfer", "members")]
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
                    self._replace()

    async def _change_config(self) -> None:
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
            replica.transfer(to.id)
        except (TransferRefused, NotLeader):
            return
        cluster.observer.tell(f"admin hands g{gid} from {leader.name} to {to.node}")
        self._transfers[gid] = to.node

    def _look_at_transfers(self) -> None:
        for gid, to in list(self._transfers.items()):
            leader = self._cluster.leader(gid)
            if leader is not None and leader.name == to:
                self._cluster.observer.probe("transfer succeeded")
            del self._transfers[gid]

    def _replace(self) -> None:
        """Put a replica on a node that has none, for one of those that are there."""
        cluster, rng = self._cluster, self._rng
        gid = rng.choice(cluster.gids)
        leader = cluster.leader(gid)
        if leader is None or leader.host is None:
            return
        membership = leader.host.replicas[gid].core.membership
        taken = [member.node for member in members(membership).values()]
        free = [node for node in cluster.nodes.values() if node.name not in taken]
        add = [(node.name, str(node.address)) for node in rng.sample(free, min(1, len(free)))]
        remove = [rng.choice(membership.voters).id] if add or len(membership.voters) > 3 else []
        try:
            leader.host.replicas[gid].change_members(add=add, remove=remove)
        except (MembershipRefused, NotLeader):
            return
        cluster.observer.tell(f"admin replaces in g{gid} {remove} by {add}")

    # What `shardkv up` does: make the replicas that the log asks for, drop those it let go

    async def maintain(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for gid in self._cluster.gids:
                leader = self._cluster.leader(gid)
                if leader is None or leader.host is None:
                    continue
                core = leader.host.replicas[gid].core
                if core.log.membership_index > core.commit:
                    continue
                everybody = members(core.membership)
                hopeless = [m.id for m in core.membership.learners if m.node in self.lost]
                if hopeless:
                    self._let_go(leader, gid, hopeless)
                for node in self._cluster.nodes.values():
                    if node.running:
                        wanted = [m for m in everybody.values() if m.node == node.name]
                        next_id = int(core.membership.next_id)
                        try:
                            await self._match(node, gid, wanted, list(everybody), next_id)
                        except (DataUnusable, OSError):
                            if node.alive:
                                raise

    def _let_go(self, leader: SimNode, gid: GroupId, learners: list[ReplicaId]) -> None:
        assert leader.host is not None
        try:
            leader.host.replicas[gid].change_members(remove=learners)
        except (MembershipRefused, NotLeader):
            return  # asked again at the next look
        self._cluster.observer.tell(f"admin lets go of g{gid} {learners}")

    async def _match(
        self,
        node: SimNode,
        gid: GroupId,
        wanted: list[Member],
        known: list[ReplicaId],
        next_id: int,
    ) -> None:
        """Bring one node in line with what a group's committed membership says of it."""
        host = node.host
        if host is None:
            return
        held = next((record for record in host.records() if record.gid == gid), None)
        if held is not None and held.replica not in known and held.replica < next_id:
            await node.drop(gid)
        elif held is None and wanted:
            record = ReplicaRecord(
                gid, self._cluster.uuids[gid], wanted[-1].id, self._rng.getrandbits(63)
            )
            try:
                created = await node.create(record)
            except ReplicaRefused:
                return
            if created:
                self._cluster.observer.probe("replica replaced")
