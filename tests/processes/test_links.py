"""Links that are cut one way, in part, slowed and broken, under load, through a proxy each.

Numbers (3) to (6) of the scenarios for real processes, without root. The short ones run with every
test, those marked `real` by `make ci-real`: the same scenario with more operations and cycles.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.support.linked import through_proxies
from tests.support.load import Load
from tests.support.processes import Cluster, Eyes, run, running
from tests.support.proxy import Links

Scenario = Callable[[Cluster, Eyes, Links, Load, int, int], Coroutine[Any, Any, None]]
SHORT = (1, 120)
LONG = (2, 1200)
"""Cycles, and acknowledged operations in each state of the network."""
OPERATIONS_MIN = 20_000
"""Judged by a long one: C1, C3 and C8 on fewer say little."""
LENGTHS = [
    pytest.param(*SHORT, id="short"),
    pytest.param(*LONG, id="long", marks=pytest.mark.real),
]


def play(
    directory: Path,
    scenario: Scenario,
    cycles: int,
    operations: int,
    *,
    nodes: int = 3,
    clients: int = 10,
) -> int:
    """Run it on a cluster whose links are proxies; returns how many operations were judged."""

    async def whole(cluster: Cluster) -> int:
        async with through_proxies(cluster) as links, cluster.eyes() as eyes:
            await eyes.whole(40)
            dense = operations > SHORT[1]
            load = Load(
                cluster.endpoints,
                clients=clients if dense else 6,
                lists=2 * clients if dense else 16,
                registers=6 * clients if dense else 8,
                pause=0.002 if dense else 0.012,
            )
            async with load:
                await load.some(operations, 60)
                await scenario(cluster, eyes, links, load, cycles, operations)
                links.mend()
                await eyes.whole(60)
                least = OPERATIONS_MIN if dense else 0
                await load.some(max(operations, least - len(load.history)), 90)
                await load.finish()
                return len(load.history)

    with running(directory, nodes=nodes, replicas=nodes, settings={"SHARDKV_HEAL": "false"}) as of:
        judged = run(whole(of), 300)
    print(f"{judged} operations judged")
    assert judged >= OPERATIONS_MIN or operations == SHORT[1]
    return judged


async def one_way(
    cluster: Cluster, eyes: Eyes, links: Links, load: Load, cycles: int, operations: int
) -> None:
    """(4) The leader is not heard by its followers, then it does not hear them."""
    for cycle in range(cycles):
        leader = await eyes.leader(1)
        others = sorted(cluster.nodes.keys() - {leader})
        if cycle % 2 == 0:
            links.stall_one_way(leader, others)
        else:
            for other in others:
                links.stall_one_way(other, [leader])
        await eyes.leader(1, other_than=leader)
        await load.some(operations, 90)
        links.mend()
        await eyes.whole(60)


@pytest.mark.parametrize(("cycles", "operations"), LENGTHS)
def test_a_leader_that_is_cut_off_one_way_is_replaced(
    tmp_path: Path, cycles: int, operations: int
) -> None:
    play(tmp_path, one_way, 2 * cycles, operations)


async def partial(
    cluster: Cluster, eyes: Eyes, links: Links, load: Load, cycles: int, operations: int
) -> None:
    """(5) Howard's five: n1, n2 and n3 see each other, n4 only n2, n5 only n3."""
    for _ in range(cycles):
        links.keep_only(("n1", "n2"), ("n1", "n3"), ("n2", "n3"), ("n2", "n4"), ("n3", "n5"))
        await asyncio.sleep(3)
        before = await load_leader(eyes)
        await load.some(operations, 90)
        await asyncio.sleep(2)
        assert await load_leader(eyes) == before, "one leader, and it lasts"
        links.mend()
        await eyes.whole(60)


async def load_leader(eyes: Eyes) -> str:
    return await eyes.leader(1)


@pytest.mark.parametrize(("cycles", "operations"), LENGTHS)
def test_a_partial_partition_of_five_has_a_leader_that_lasts(
    tmp_path: Path, cycles: int, operations: int
) -> None:
    play(tmp_path, partial, max(1, cycles // 2), operations, nodes=5)


async def far_apart(
    cluster: Cluster, eyes: Eyes, links: Links, load: Load, cycles: int, operations: int
) -> None:
    """(6) 50 ms and 30 more or less each way, links that stall for as long as TCP needs to send
    again what was lost, and connections that break in the middle of a frame."""
    for link in links:
        link.delay_seconds = (0.02, 0.08)
    every = list(links)
    for cycle in range(8 * cycles):
        link = every[cycle * 5 % len(every)]
        link.stall()
        await asyncio.sleep(0.25)
        link.mend()
        link.delay_seconds = (0.02, 0.08)
        every[cycle * 3 % len(every)].reset()
        await load.some(max(5, operations // 60), 90)


@pytest.mark.parametrize(("cycles", "operations"), LENGTHS[1:])
def test_links_that_are_slow_stall_and_break(tmp_path: Path, cycles: int, operations: int) -> None:
    # An answer takes a tenth of a second: it takes many clients to ask so often.
    play(tmp_path, far_apart, cycles, operations, clients=64)


async def noise(
    cluster: Cluster, eyes: Eyes, links: Links, load: Load, cycles: int, operations: int
) -> None:
    """Connections that begin with garbage, links of 300 kB/s, and refusals, one after another."""
    every = list(links)
    for cycle in range(3 * cycles):
        link = every[cycle % len(every)]
        link.garbled = True
        link.reset()
        every[(cycle + 2) % len(every)].bytes_per_second = 300_000
        every[(cycle + 4) % len(every)].refuse()
        await load.some(operations // 3, 90)
        links.mend()
        await load.some(operations // 3, 90)
    for name in cluster.nodes:
        assert cluster.runs(name), "nobody dies of garbage"
        log = (cluster.nodes[name].data / "node.log").read_text()
        assert "Traceback" not in log, log[-3000:]


@pytest.mark.parametrize(("cycles", "operations"), LENGTHS[1:])
def test_garbage_refusals_and_thin_links_disturb_nobody(
    tmp_path: Path, cycles: int, operations: int
) -> None:
    play(tmp_path, noise, cycles, operations)
