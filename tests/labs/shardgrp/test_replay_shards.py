"""A shard lab run is a number: the same seed is the same run in every process, of both editions."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from labrpc.sim.loop import run
from labs.harness.shard_groups_cluster import ShardGroupsCluster
from labs.harness.shard_kv_cluster import Model, ShardKVCluster

ROOT = Path(__file__).resolve().parents[3]


def trace(seed: str) -> str:
    """What runs with moves, losses and crashes amount to."""
    lines: list[object] = []

    async def store() -> None:
        cluster = ShardKVCluster(seed=seed, reliable=False, maxraftstate=300)
        async with cluster:
            await cluster.join(0)
            model = Model(cluster, cluster.make_clerk())
            await model.put_all(10, 5)
            await cluster.join(1)
            cluster.groups[0].shutdown_server(0)
            await model.append_all(5)
            await cluster.groups[0].start_server(0)
            await cluster.leave(0)
            await model.check_all()
            lines.append((model.values, asyncio.get_running_loop().time()))
            lines.append((cluster.network.total_count, cluster.network.total_bytes))

    async def groups() -> None:
        cluster = ShardGroupsCluster(seed=seed, reliable=False)
        async with cluster:
            values = await cluster.spread_puts(cluster.make_clerk())
            gids, ctrler = [cluster.new_gid(), cluster.new_gid()], cluster.controller.ctrler
            assert await cluster.join_groups(ctrler, gids)
            cluster.groups[gids[0]].shutdown_server(0)
            assert await cluster.leave_groups(ctrler, gids)
            await values.check()
            lines.append([str(call) for call in cluster.recorder.calls])
            lines.append((cluster.network.total_count, cluster.network.total_bytes))

    run(store(), seed=seed)
    run(groups(), seed=seed)
    return repr(lines)


def test_the_same_seed_is_the_same_run_in_a_new_process() -> None:
    here = trace("4711")

    there = subprocess.run(
        [sys.executable, __file__, "4711"],
        env={**os.environ, "PYTHONHASHSEED": "42", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    ).stdout.strip()

    assert there == here
    assert trace("4712") != here


if __name__ == "__main__":
    print(trace(sys.argv[1]))
