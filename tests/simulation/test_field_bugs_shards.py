"""Shard moves and clients that went wrong in the field, played on simulated clusters of this store.

One named test a bug; each docstring says where it was and what happened there. The watchers of the
simulator (S1 to S9, C3, R1 to R18) look on, and each test is played with this code broken too: it
must notice.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

import pytest

import shardkv.steps
from labrpc.sim.chance import Chance
from labrpc.sim.loop import SimulationError, run
from labs.cluster import SimCluster
from labs.observer import Observer
from raft.host import CompactionConfig
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.types import ShardId
from shardkv.changes import ChangeLog
from shardkv.clerk import Clerk
from shardkv.errors import ShardKVError
from shardkv.machine import StoreMachine
from shardkv.routing import SlotRouting
from shardkv.rows import decode_row
from shardkv.types import ABSENT, Answer, Row
from tests.scorecard.sharding import a_new_number_for_a_repetition

MOVES = 6
A, B = GroupId(1), GroupId(2)
SHORT_LOGS = CompactionConfig(log_entries_max=10, keep_entries=2)


class Scene:
    """Two groups of three that share four shards, one clerk, and an administrator."""

    def __init__(self, cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        self.cluster, self.clerk, self.admin = cluster, clerk, admin
        self.moving = True

    async def moves(self, shard: ShardId, *, pause: float = 0.25) -> None:
        """The shard goes from A to B and back, again and again, and comes to rest."""
        for number in range(MOVES):
            await self.admin.move(shard, (B, A)[number % 2])
            await asyncio.sleep(pause)
        self.moving = False

    async def shard_of_a(self) -> ShardId:
        config = (await self.admin.newest()).config
        return ShardId(config.shards.index(A))

    def keys(self, shard: ShardId, count: int) -> list[str]:
        """Keys that lie in the shard."""
        routing = SlotRouting(self.cluster.nshards)
        every = (f"key-{number}" for number in range(1000))
        return list(islice((key for key in every if routing(key.encode()) == shard), count))


def play(script: Callable[[Scene], Coroutine[Any, Any, None]], seed: int, **options: Any) -> None:
    """Run a script on a new cluster; a broken invariant of the watchers fails it."""

    async def main() -> None:
        observer = Observer()
        cluster = SimCluster(
            Chance(f"field/{seed}"), nodes=6, groups=2, nshards=4, observer=observer, **options
        )
        await cluster.start()
        clerk, admin = cluster.client()
        await admin.join([cluster.joining(gid) for gid in cluster.gids])
        async with asyncio.timeout(200):
            await script(Scene(cluster, clerk, admin))
        await clerk.close()
        await admin.close()
        observer.finish()

    run(main(), seed=f"field/{seed}")


async def dgraph_2338(scene: Scene) -> None:
    shard = await scene.shard_of_a()
    keys = scene.keys(shard, 6)
    for number in range(50):  # more than is copied after the freeze (64 KiB)
        await scene.clerk.put(f"z{number}{{{keys[0]}}}", bytes(8000))
    inserted: list[tuple[str, int]] = []

    async def insert(key: str, rng: Random) -> None:
        number = 0
        while scene.moving:
            number += 1
            await scene.clerk.append(key, f"{number} ")
            inserted.append((key, number))
            await asyncio.sleep(rng.uniform(0, 0.02))

    await asyncio.gather(
        scene.moves(shard), *[insert(key, Random(number)) for number, key in enumerate(keys)]
    )

    assert len(inserted) > 200
    for key in keys:
        numbers = [int(word) for word in (await scene.clerk.get(key) or b"").split()]
        assert numbers == [number for of, number in inserted if of == key], "C3, C4: lost or twice"


@pytest.mark.parametrize("seed", range(2))
def test_dgraph_2338_no_insert_is_lost_because_its_shard_moves(seed: int) -> None:
    """dgraph#2338 (2018): with no crash and no fault of the network about one insert in five hours
    was acknowledged and lost, because its tablet moved meanwhile: it was written at the source
    after the copy had passed its place. Here six clients insert while the shard goes to and fro."""
    play(dgraph_2338, seed)


async def dgraph_4496(scene: Scene) -> None:
    shard = await scene.shard_of_a()
    keys = scene.keys(shard, 4)
    for key in keys:
        await scene.clerk.put(key, f"{key} is here")
    reads = 0

    async def read(key: str) -> None:
        nonlocal reads
        while scene.moving:
            value = await scene.clerk.get(key)
            assert value == f"{key} is here".encode(), f"C1: {key} reads {value!r}"
            reads += 1
            await asyncio.sleep(0.002)

    await asyncio.gather(scene.moves(shard), *[read(key) for key in keys])
    assert reads > 500


@pytest.mark.parametrize("seed", range(2))
def test_dgraph_4496_nothing_reads_as_absent_during_a_move(seed: int) -> None:
    """dgraph#4496 (2020, with #4540 and #4575): the target answered reads before it had received
    the tablet, the source after it had deleted it: reads of what was there brought nulls."""
    play(dgraph_4496, seed)


async def dgraph_8581(scene: Scene) -> None:
    shard = await scene.shard_of_a()
    key, other, gone = scene.keys(shard, 3)
    await scene.clerk.put(other, "never written again")
    await scene.clerk.put(gone, "deleted by the next owner")
    for turn in range(MOVES):
        await scene.clerk.append(key, f"{turn} ")
        await scene.admin.move(shard, (B, A)[turn % 2])
        assert await scene.clerk.get(key) == b"".join(b"%d " % n for n in range(turn + 1))
        if turn == 0:
            await scene.clerk.delete(gone)
        assert await scene.clerk.get(gone) is None, "C1: what was deleted elsewhere is back"
        for node in list(scene.cluster.nodes.values()):
            if turn == 3:  # also by the rows that are on disk
                node.kill()
                await node.start()
    assert await scene.clerk.get(other) == b"never written again"
    assert (await scene.admin.newest()).config.shards[shard] == A


@pytest.mark.parametrize("seed", range(2))
def test_dgraph_8581_a_shard_that_moved_there_and_back_is_readable(seed: int) -> None:
    """dgraph#8581 (2023): a tablet that was moved to another group and back was unreadable: the
    first owner took its own mark of the deletion, or what it had kept, for the state. Here a shard
    goes there and back three times, with a short log so that snapshots carry it, and is written
    by every owner."""
    play(dgraph_8581, seed, compaction=SHORT_LOGS)


async def jetcd_0_8_2(scene: Scene) -> None:
    shard = await scene.shard_of_a()
    (key,) = scene.keys(shard, 1)
    cluster = scene.cluster
    clients = cluster.client_addresses
    told: list[int] = []

    async def lose_answers() -> None:
        """Requests arrive; their answers do not, one node after the other."""
        while scene.moving:
            for node in cluster.nodes.values():
                for client in clients:
                    cluster.network.cut(node.address, client)
                await asyncio.sleep(0.15)
                cluster.network.heal()
                await asyncio.sleep(0.05)

    async def append() -> None:
        number = 0
        while scene.moving:
            number += 1
            try:
                await scene.clerk.append(key, f"{number} ", timeout=20)
                told.append(number)
            except ShardKVError:
                continue

    await asyncio.gather(lose_answers(), append(), scene.moves(shard, pause=0.6))
    cluster.network.heal()
    numbers = [int(word) for word in (await scene.clerk.get(key) or b"").split()]
    assert len(told) > 3 and len(numbers) == len(set(numbers)), "C3: twice"
    assert set(told) <= set(numbers), "C4: acknowledged, and not there"
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("seed", range(2))
def test_jetcd_0_8_2_a_retry_is_no_second_write(seed: int) -> None:
    """jetcd 0.8.2 (2024): the client library asked again by itself when an answer did not come, and
    etcd has no way to know a repetition: writes took effect twice, and what was reported as failed
    had happened. Here answers are lost at each node in turn while the shard moves, so that the
    retry often goes to another group than the first request."""
    play(jetcd_0_8_2, seed)


# What must be noticed


def writes_pass_the_copy_by(patch: pytest.MonkeyPatch) -> None:
    """What is written at the source behind the copy's cursor does not follow (H01)."""
    patch.setattr(ChangeLog, "note", lambda self, key, rows: None)


def reads_before_the_install(patch: pytest.MonkeyPatch) -> None:
    """The new owner answers from what it has so far, the old one from what it has left."""

    def broken(self: StoreMachine, rows: Any, shard: ShardId, key: bytes) -> Row | Answer:
        held = self._shards[shard]
        raw = rows.get(held.data_prefix + key)
        return ABSENT if raw is None else decode_row(held.data_prefix + key, raw)

    patch.setattr(StoreMachine, "get", broken)


def a_generation_is_used_twice(patch: pytest.MonkeyPatch) -> None:
    """What an owner left behind counts again when the shard comes back (H03)."""
    patch.setattr(shardkv.steps, "Generation", lambda index: 1)


@dataclass(frozen=True)
class Bug:
    script: Callable[[Scene], Coroutine[Any, Any, None]]
    breaks: Callable[[pytest.MonkeyPatch], None]
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.script.__name__}-{self.breaks.__name__}"


NOTICED = (
    AssertionError, SimulationError, LookupError, ValueError, TypeError, TimeoutError, ShardKVError,
)  # fmt: skip
TABLE = (
    Bug(dgraph_2338, writes_pass_the_copy_by),
    Bug(dgraph_4496, reads_before_the_install),
    Bug(dgraph_8581, a_generation_is_used_twice, {"compaction": SHORT_LOGS}),
    Bug(jetcd_0_8_2, a_new_number_for_a_repetition),
)


@pytest.mark.parametrize("bug", TABLE, ids=str)
def test_a_scenario_notices_its_bug(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.breaks(monkeypatch)

    for seed in range(3):
        try:
            play(bug.script, seed, **bug.options)
        except NOTICED:
            return
    pytest.fail("nothing was noticed")
