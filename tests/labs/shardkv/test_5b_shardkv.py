"""Sharded store lab (2024): static shards, movement, and the two challenges.

Each test is the official one of its name, with its parameters. While they run, every replica is
held to Raft's invariants, and every applied entry to this: one group at most serves a shard, and a
group takes configurations one by one.
"""

import asyncio
from collections.abc import Sequence

from labs.harness.clerks import Recorder, Strings
from labs.harness.edition import Edition
from labs.harness.kv_history import judge_calls
from labs.harness.kv_tests import Clients
from labs.harness.shard_ctrler_cluster import ShardCtrlerCluster
from labs.harness.shard_kv_cluster import GIDS, SERVERS, Model, ShardKVCluster
from labs.shardkv import key2shard
from tests.support.shard_lab import Play

KEYS = [str(number) for number in range(10)]
QUIET_SECONDS = 2.0
"""So long without a completion, and those that are to come have come."""
STATE_BYTES_MAX = 3 * (27 * 1000 + 2 * 3 * 1000 + 6000)


async def count_gets(
    cluster: ShardKVCluster, model: Model, ctrler: ShardCtrlerCluster | None = None
) -> int:
    """One Get a key, each by a fresh clerk; how many complete before all is quiet. Each must bring
    the right value."""
    loop = asyncio.get_running_loop()
    last, done = loop.time(), 0

    async def get(key: str) -> None:
        nonlocal last, done
        await model.check(key, cluster.make_clerk(ctrler))
        last, done = loop.time(), done + 1

    gets = [asyncio.create_task(get(key)) for key in model.values]
    while loop.time() < last + QUIET_SECONDS:  # noqa: ASYNC110 - it is silence that is awaited
        await asyncio.sleep(0.05)
    for task in gets:
        if task.done():
            task.result()
        else:
            task.cancel()
    return done


class Appenders:
    """A task a key that appends to it again and again, each with a clerk of its own.

    Args:
        pause: Seconds between two appends; None: as long as a client works on its own.
    """

    def __init__(
        self, cluster: ShardKVCluster, model: Model, length: int, pause: float | None = None
    ) -> None:
        self._clients = Clients(len(model.values))
        self._cluster, self._model = cluster, model
        self._length, self._pause = length, pause
        self._tasks = [asyncio.create_task(self._run(key)) for key in model.values]

    async def _run(self, key: str) -> None:
        clerk = self._cluster.make_clerk()
        while not self._clients.stopped:
            await self._model.append(key, self._length, clerk)
            if self._pause is None:
                await self._clients.work(self._cluster.rng)
            else:
                await asyncio.sleep(self._pause)

    async def stop(self) -> None:
        self._clients.stopped = True
        await asyncio.gather(*self._tasks)


def restart(cluster: ShardKVCluster, groups: Sequence[int]) -> "asyncio.Future[list[None]]":
    return asyncio.gather(*[cluster.groups[g].start() for g in groups])


# Static shards


def test_static_shards_5a(play: Play) -> None:
    """With one of two groups down exactly half the keys are served."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        await cluster.join(1)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 20)
        await model.check_all()

        cluster.groups[1].shutdown()
        cluster.check_logs()
        assert await count_gets(cluster, model) == 5

        await cluster.groups[1].start()
        await model.check_all()

    play(scenario)


def test_rejection_5a(play: Play) -> None:
    """A group turns away what is not its own, whatever the client believes."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        await cluster.join(1)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 20)
        await model.check_all()

        other = ShardCtrlerCluster(
            seed=cluster.random_string(20), network=cluster.network, prefix="other"
        )
        await other.group.start()
        await other.make_clerk().join({GIDS[0]: cluster.groups[0].names})

        assert await count_gets(cluster, model, other) == 5
        other.group.shutdown()

    play(scenario)


# Movement


def test_join_leave_5b(play: Play) -> None:
    """Data moves both ways, and is then served without the group it came from."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 5)
        await model.check_all()

        await cluster.join(1)
        await model.append_all(5)
        await cluster.leave(0)
        await model.append_all(5)

        await asyncio.sleep(1)
        cluster.check_logs()
        cluster.groups[0].shutdown()
        await model.check_all()

    play(scenario)


def test_snapshot_5b(play: Play) -> None:
    """Everything comes back from snapshots: configuration, shards, sessions."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(30, 20)
        await model.check_all()

        await cluster.join(1)
        await cluster.join(2)
        await cluster.leave(0)
        await model.append_all(20)
        await cluster.leave(1)
        await cluster.join(0)
        await model.append_all(20)

        await asyncio.sleep(1)
        await model.check_all()
        await asyncio.sleep(1)
        cluster.check_logs()
        for group in cluster.groups:
            group.shutdown()
        await restart(cluster, (0, 1, 2))
        await model.check_all()

    play(scenario, maxraftstate=1000)


def test_miss_change_5b(play: Play) -> None:
    """Servers that were down while configurations changed."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 20)
        await model.check_all()
        await cluster.join(1)

        for group in cluster.groups:
            group.shutdown_server(0)
        await cluster.join(2)
        await cluster.leave(1)
        await cluster.leave(0)
        await model.append_all(20)
        await cluster.join(1)
        await model.append_all(20)
        for group in cluster.groups:
            await group.start_server(0)
        await model.append_all(20)

        await asyncio.sleep(2)
        for group in cluster.groups:
            group.shutdown_server(1)
        await cluster.join(0)
        await cluster.leave(2)
        await model.append_all(20)
        for group in cluster.groups:
            await group.start_server(1)
        await model.check_all()

    play(scenario, maxraftstate=1000)


def test_concurrent1_5b(play: Play) -> None:
    """Appends while shards move and groups crash whole."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 5)
        appenders = Appenders(cluster, model, 5, pause=0.01)

        await asyncio.sleep(0.15)
        await cluster.join(1)
        await asyncio.sleep(0.5)
        await cluster.join(2)
        await asyncio.sleep(0.5)
        await cluster.leave(0)
        cluster.groups[0].shutdown()
        await asyncio.sleep(0.1)
        cluster.groups[1].shutdown()
        await asyncio.sleep(0.1)
        cluster.groups[2].shutdown()
        await cluster.leave(2)
        await asyncio.sleep(0.1)
        await restart(cluster, (0, 1, 2))
        await asyncio.sleep(0.1)
        await cluster.join(0)
        await cluster.leave(1)
        await asyncio.sleep(0.5)
        await cluster.join(1)
        await asyncio.sleep(1)

        await appenders.stop()
        await model.check_all()

    play(scenario, maxraftstate=100)


def test_concurrent2_5b(play: Play) -> None:
    """After a restart that replays the whole log the sources of shards are still found."""

    async def scenario(cluster: ShardKVCluster) -> None:
        for group in (1, 0, 2):
            await cluster.join(group)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 1)
        appenders = Appenders(cluster, model, 1, pause=0.05)

        await cluster.leave(0)
        await cluster.leave(2)
        await asyncio.sleep(3)
        await cluster.join(0)
        await cluster.join(2)
        await cluster.leave(1)
        await asyncio.sleep(3)
        await cluster.join(1)
        await cluster.leave(0)
        await cluster.leave(2)
        await asyncio.sleep(3)
        cluster.groups[1].shutdown()
        cluster.groups[2].shutdown()
        await asyncio.sleep(1)
        await restart(cluster, (1, 2))
        await asyncio.sleep(2)

        await appenders.stop()
        await model.check_all()

    play(scenario)


def test_concurrent3_5b(play: Play) -> None:
    """Twelve seconds of moves, and of all groups crashing at once."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 1)
        appenders = Appenders(cluster, model, 1)
        loop = asyncio.get_running_loop()
        until = loop.time() + 12

        async def a_while() -> None:
            await asyncio.sleep(cluster.rng.randrange(900) / 1000)

        while loop.time() < until:
            await cluster.join(2)
            await cluster.join(1)
            await a_while()
            for group in cluster.groups:
                group.shutdown()
            await restart(cluster, (0, 1, 2))
            await a_while()
            await cluster.leave(1)
            await cluster.leave(2)
            await a_while()
        await asyncio.sleep(2)

        await appenders.stop()
        await model.check_all()

    play(scenario, maxraftstate=300)


def test_unreliable1_5b(play: Play) -> None:
    """Moves on a network that loses one message in ten."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 5)

        await cluster.join(1)
        await cluster.join(2)
        await cluster.leave(0)
        await model.append_all(5)
        await model.append_all(5)
        await cluster.join(0)
        await cluster.leave(1)
        await model.check_all()
        await model.check_all()

    play(scenario, reliable=False, maxraftstate=100)


async def moves(cluster: ShardKVCluster) -> None:
    """What goes on during Unreliable2 and Unreliable3."""
    await asyncio.sleep(0.15)
    await cluster.join(1)
    await asyncio.sleep(0.5)
    await cluster.join(2)
    await asyncio.sleep(0.5)
    await cluster.leave(0)
    await asyncio.sleep(0.5)
    await cluster.leave(1)
    await asyncio.sleep(0.5)
    await cluster.join(1)
    await cluster.join(0)
    await asyncio.sleep(2)


def test_unreliable2_5b(play: Play) -> None:
    """An append that is sent again, here or there, is done once."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(10, 5)
        appenders = Appenders(cluster, model, 5)

        await moves(cluster)

        cluster.network.reliable = True
        await appenders.stop()
        await model.check_all()

    play(scenario, reliable=False, maxraftstate=100)


def test_unreliable3_5b(play: Play) -> None:
    """Gets, puts and appends of ten clients are linearizable while shards move."""

    async def scenario(cluster: ShardKVCluster) -> None:
        recorder = Recorder()
        await cluster.join(0)
        first = Strings(cluster.make_clerk(), recorder)
        for key in KEYS:
            await first.put(key, cluster.random_string(5))
        clients = Clients(len(KEYS))

        async def client() -> None:
            clerk, rng = Strings(cluster.make_clerk(), recorder), cluster.rng
            while not clients.stopped:
                key = rng.choice(KEYS)
                if rng.random() < 0.5:
                    await clerk.append(key, cluster.random_string(5))
                elif rng.random() < 0.1:
                    await clerk.put(key, cluster.random_string(5))
                else:
                    await clerk.get(key)
                await clients.work(rng)

        running = asyncio.gather(*[client() for _ in KEYS])
        await moves(cluster)
        clients.stopped = True
        cluster.network.reliable = True
        await running

        judge_calls(recorder.calls, Edition.E2024)

    play(scenario, reliable=False, maxraftstate=100)


# Challenges


def test_challenge1_delete(play: Play) -> None:
    """What was handed off is deleted, everywhere: all that nine servers hold is bounded."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        await model.put_all(30, 1000)

        async def check_some() -> None:
            for key in ("0", "1", "2"):
                await model.check(key)

        await check_some()
        for _ in range(2):
            await cluster.join(1)
            await cluster.leave(0)
            await cluster.join(2)
            await asyncio.sleep(3)
            await check_some()
            await cluster.leave(1)
            await cluster.join(0)
            await cluster.leave(2)
            await asyncio.sleep(3)
            await check_some()
        await cluster.join(1)
        await cluster.join(2)
        for _ in range(3):
            await asyncio.sleep(1)
            await check_some()

        assert all(len(group.running()) == SERVERS for group in cluster.groups)
        assert cluster.stored_bytes() <= STATE_BYTES_MAX
        await model.check_all()

    play(scenario, maxraftstate=1)


def test_challenge2_unaffected(play: Play) -> None:
    """Shards that stay where they are are served while others cannot come."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0)
        model = Model(cluster, cluster.make_clerk())
        for key in map(str, range(10)):
            await model.put(key, "100")

        await cluster.join(1)
        config = await cluster.query()
        await asyncio.sleep(1)
        owned = owned_keys(model, config.shards, GIDS[1])
        for key in owned:
            await model.put(key, "101")
        cluster.groups[0].shutdown()
        await cluster.leave(0)
        await asyncio.sleep(1)

        await put_and_check(model, owned, "-1")

    play(scenario, reliable=False, maxraftstate=100)


def test_challenge2_partial(play: Play) -> None:
    """A shard that has come is served, though others of the same change never come."""

    async def scenario(cluster: ShardKVCluster) -> None:
        await cluster.join(0, 1, 2)
        await asyncio.sleep(1)
        model = Model(cluster, cluster.make_clerk())
        for key in map(str, range(10)):
            await model.put(key, "100")
        owned = owned_keys(model, (await cluster.query()).shards, GIDS[2])

        cluster.groups[0].shutdown()
        await cluster.leave(0, 2)
        await asyncio.sleep(1)

        await put_and_check(model, owned, "-2")

    play(scenario, reliable=False, maxraftstate=100)


def owned_keys(model: Model, shards: Sequence[int], gid: int) -> list[str]:
    """The keys of the shards that a group owns (by the key's shard: the original took the key's
    number for one)."""
    keys = [key for key in model.values if shards[key2shard(key.encode())] == gid]
    assert keys, f"group {gid} owns nothing"
    return keys


async def put_and_check(model: Model, keys: Sequence[str], suffix: str) -> None:
    for key in keys:
        await model.check(key)
        await model.put(key, model.values[key] + suffix)
        await model.check(key)
