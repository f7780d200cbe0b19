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


def test_rows_outlive_the_drop_of_their_replica_until_it_is_durable() -> None:
    """Seed 153: rows were deleted before the drop was durable; a crash kept the one and lost the
    other, and the node refused a log that began after a state which was gone."""

    async def main() -> tuple[int, int]:
        cluster = SimCluster(Chance("drop"), groups=1)
        await cluster.start()
        gid = cluster.gids[0]
        _, admin = cluster.client()
        await admin.join([cluster.joining(gid)])
        node = cluster.nodes[cluster.placement[gid][-1]]
        assert node.host is not None
        rows = node.host._data_disk
        node.drive.stall()
        dropping = asyncio.ensure_future(node.drop(gid))
        await asyncio.sleep(2.0)
        before = sum(1 for _ in rows.range(b"", b"\xff"))
        node.drive.heal()
        await dropping
        await asyncio.sleep(2.0)
        await admin.close()
        return before, sum(1 for _ in rows.range(b"", b"\xff"))

    before, after = run(main())

    assert before > 0, "a crash now would lose the drop, so it must not lose the rows"
    assert after == 0
