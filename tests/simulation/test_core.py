"""How the harness heals a cluster: who lives on, and who makes the replicas that are missing."""

import asyncio

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import SimCluster
from labs.scenario import has_majority
from raft.disk.log_store import ReplicaRecord
from raft.types import ReplicaId


def test_a_membership_counts_also_while_all_who_hold_it_are_down() -> None:
    """Seed 2110391728: a group of which nobody ran was thought to do without anybody."""

    async def main() -> None:
        cluster = SimCluster(Chance("down"), groups=1)
        await cluster.start()
        gid = cluster.gids[0]
        for name in cluster.placement[gid]:
            cluster.nodes[name].crash()
        first, second, _ = cluster.placement[gid]

        assert not has_majority(cluster, gid, {first})
        assert has_majority(cluster, gid, {first, second})

    run(main())


def test_a_replica_that_is_being_made_when_its_node_dies_is_given_up() -> None:
    """Seed 2568674899: a disk that is gone answers nobody, so whoever asked it waited for ever."""

    async def main() -> bool:
        cluster = SimCluster(Chance("dies"), groups=1)
        await cluster.start()
        gid = cluster.gids[0]
        node = next(n for n in cluster.nodes.values() if n.name not in cluster.placement[gid])
        node.drive.sync_seconds = 1.0
        asyncio.get_running_loop().call_later(0.5, node.crash)
        record = ReplicaRecord(gid, cluster.uuids[gid], ReplicaId(9), 1)
        async with asyncio.timeout(5.0):
            return await node.create(record)

    assert not run(main())
