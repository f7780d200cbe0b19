"""Three nodes, two groups: shards move back and forth under load while processes are killed."""

import asyncio
from pathlib import Path

from shardkv import aio
from tests.support.load import Load
from tests.support.processes import (
    Cluster,
    Eyes,
    Seen,
    leader_in,
    replicas_in,
    run,
    running,
)

SHARDS = 8
BALLAST_ROWS = 120
BALLAST_BYTES = 40_000
"""So that a shard is not moved in the blink of an eye."""


def test_groups_leave_and_join_while_leaders_and_everything_are_killed(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await put_ballast(cluster)
            operator = Operator(cluster, eyes)

            await load.some(80)
            await operator.ctl("move", "0", "2")
            await operator.ctl("move", "0", "1")
            await operator.settle()

            await operator.ctl("leave", "2")  # its leader dies while it hands over
            await operator.kill_leader_of(2)
            await load.some(80)
            await operator.settle()

            await operator.ctl("join", "2=n1,n2,n3")  # whoever leads the controller dies too
            await operator.kill_leader_of(0)
            await load.some(80)
            await operator.settle()

            await operator.ctl("leave", "1")  # and now everything does
            cluster.crash()
            await asyncio.to_thread(cluster.start, "--nodes", "3")
            await load.some(80)
            await operator.settle()

            await operator.ctl("join", "1=n1,n2,n3")  # who takes over dies
            await operator.kill_leader_of(1)
            await load.some(80)
            await operator.settle()

            await eyes.whole()
            await load.finish()
            await check_ballast(cluster)

    with running(tmp_path, groups=2, shards=SHARDS) as cluster:
        run(scenario(cluster))


class Operator:
    """Changes configurations by the command line, and waits until shards have come to rest."""

    def __init__(self, cluster: Cluster, eyes: Eyes) -> None:
        self._cluster, self._eyes = cluster, eyes
        self._number = 1
        self._killed = ""

    async def ctl(self, *words: str) -> None:
        ended = await asyncio.to_thread(self._cluster.cli, "ctl", *words, "--timeout", "20")
        assert ended.status == 0, ended
        self._number += 1
        assert ended.out == b"config %d\n" % self._number

    async def kill_leader_of(self, gid: int) -> None:
        self._killed = await self._eyes.leader(gid)
        self._cluster.kill(self._killed)

    async def settle(self) -> None:
        """Restart what was killed, and wait until all shards serve in the newest configuration."""
        if self._killed:
            await asyncio.to_thread(self._cluster.restart, self._killed)
            self._killed = ""
        await self._eyes.until(
            lambda seen: is_settled(seen, self._number), f"settled in config {self._number}", 40
        )


def is_settled(seen: Seen, number: int) -> bool:
    """Whether both groups have applied the configuration and every shard serves in one of them."""
    serving: list[int] = []
    for gid in (1, 2):
        leader = leader_in(seen, gid)
        replica = dict(replicas_in(seen, gid)).get(leader)
        if replica is None or replica.config_number != number:
            return False
        if any(shard.phase != "serving" for shard in replica.shards):
            return False
        serving += [shard.shard for shard in replica.shards]
    return sorted(serving) == list(range(SHARDS))


async def put_ballast(cluster: Cluster) -> None:
    async with aio.connect(cluster.endpoints) as clerk:
        await asyncio.gather(
            *[
                clerk.put(f"ballast {n}", b"%d " % n * (BALLAST_BYTES // 4))
                for n in range(BALLAST_ROWS)
            ]
        )


async def check_ballast(cluster: Cluster) -> None:
    async with aio.connect(cluster.endpoints) as clerk:
        for n in range(BALLAST_ROWS):
            row = await clerk.get_row(f"ballast {n}")
            assert row.value == b"%d " % n * (BALLAST_BYTES // 4) and row.version == 1
