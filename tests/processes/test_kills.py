"""kill -9 of one, of most, of all; and the orderly ends. Nothing acknowledged is ever lost."""

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path

import pytest

from labrpc.errors import Refused
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.types import GroupId
from shardkv import aio
from shardkv.errors import OutcomeUnknown, Unavailable
from shardkv.protocol import KV, Get, Status, decode_reply, encode_frame
from tests.support.load import Load
from tests.support.processes import (
    Cluster,
    processes_naming,
    run,
    running,
    wait_for,
)

SERVICE_GAP_SECONDS_MAX = 2.0
"""Without service after a leader's kill: the median of a few."""


def test_the_leader_is_killed_again_and_again_under_load(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> list[float]:
        gaps = []
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            for _ in range(3):
                await load.some(150)
                leader = await eyes.leader(1)
                killed = time.monotonic()
                cluster.kill(leader)
                await load.some(150)
                gaps.append(load.longest_gap(killed, time.monotonic()))
                cluster.restart(leader)
                await eyes.whole()
            await load.some(50)
            await load.finish()
        return gaps

    with running(tmp_path) as cluster:
        gaps = run(scenario(cluster))
    print(f"seconds without service after a leader's kill: {[round(gap, 2) for gap in gaps]}")
    assert statistics.median(gaps) < SERVICE_GAP_SECONDS_MAX


def test_everything_is_killed_at_once_under_load_again_and_again(tmp_path: Path) -> None:
    """`up` too; it finds everything, without flags, and the clerks go on where they were."""

    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            for _ in range(3):
                await load.some(150)
                cluster.crash()
                await asyncio.to_thread(cluster.start, "--nodes", "3")
            await load.some(150)
            await eyes.whole()
            await load.finish()

    with running(tmp_path) as cluster:
        run(scenario(cluster))


def test_a_minority_answers_no_read_and_no_write(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, aio.connect(cluster.endpoints) as clerk:
            await clerk.put("before", "1")
            await eyes.whole()
            leader = await eyes.leader(1)
            for name in cluster.nodes.keys() - {leader}:
                cluster.kill(name)

            # The old leader still hears us, and has every row.
            reads = asyncio.create_task(ask_directly(cluster, leader, b"before"))
            with pytest.raises(Unavailable):
                await clerk.get("before", timeout=1.5)
            with pytest.raises((Unavailable, OutcomeUnknown)):
                await clerk.put("during", "1", timeout=1.5)
            statuses = await reads
            assert statuses and Status.ANSWERED not in statuses

            ended = cluster.cli("get", "before", "--timeout", "1")
            assert ended.status == 3 and ended.out == b"" and ended.seconds < 4
            assert "unavailable" in ended.err
            seen = cluster.cli("status", "--json", "--timeout", "2")
            assert seen.status == 1 and b'"leader": null' in seen.out
            assert "group 1 has no leader" in seen.err and seen.seconds < 4

            for words in (["move", "0", "1"], ["leave", "1"], ["forget", "n9"]):
                ended = cluster.cli("ctl", *words, "--timeout", "1")
                assert ended.status == 3 and ended.out == b"" and ended.seconds < 4, ended

            back = next(iter(cluster.nodes.keys() - {leader}))
            cluster.restart(back)
            assert await clerk.get("before", timeout=20) == b"1"
            assert await clerk.get("during", timeout=20) in (None, b"1")
            await clerk.put("after", "1", timeout=20)
            assert cluster.cli("ctl", "query").out.startswith(b"config 1: "), "no change came of it"

    with running(tmp_path) as cluster:
        run(scenario(cluster))


async def ask_directly(cluster: Cluster, name: str, key: bytes) -> list[Status]:
    """What a node itself answers to reads of a key for two seconds."""
    loop = asyncio.get_running_loop()
    statuses = []
    transport = GrpcTransport(cluster.cluster, "reader")
    try:
        until = loop.time() + 2
        frame = encode_frame(GroupId(1), 1, [Get(key)])
        while loop.time() < until:
            body = await transport.call(Address(cluster.nodes[name].client), KV, frame, timeout=5)
            reply = decode_reply(body)
            served = any(not isinstance(result, int) for result in reply.results)
            statuses.append(Status.ANSWERED if served else Status.NOT_LEADER)
            await asyncio.sleep(0.01)
    except Refused:
        statuses.append(Status.NOT_LEADER)
    finally:
        await transport.close()
    return statuses


def test_the_nodes_end_when_up_is_killed_and_up_resumes(tmp_path: Path) -> None:
    async def write(cluster: Cluster) -> None:
        async with aio.connect(cluster.endpoints) as clerk:
            for number in range(20):
                await clerk.put(f"key {number}", f"value {number}")

    async def check(cluster: Cluster) -> None:
        async with aio.connect(cluster.endpoints) as clerk:
            for number in range(20):
                assert await clerk.get(f"key {number}") == b"value %d" % number

    with running(tmp_path) as cluster:
        run(write(cluster))
        for node in cluster.nodes.values():
            words = Path(f"/proc/{node.pid}/cmdline").read_bytes().split(b"\0")
            assert os.fsencode(node.data) in words, "a node's command line names its directory"
        cluster.up.kill()
        cluster.up.wait()
        for name in cluster.nodes:
            cluster.wait_ended(name, 8)
        wait_for(lambda: not processes_naming(tmp_path), "no process left")
        cluster.start("--shards", "8")
        run(check(cluster))


def test_up_stops_in_order_by_either_signal_and_a_node_by_sigterm_hands_over(
    tmp_path: Path,
) -> None:
    async def scenario(cluster: Cluster) -> float:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(100)
            leader = await eyes.leader(1)
            asked = time.monotonic()
            cluster.send(leader, signal.SIGTERM)
            await load.some(100)
            gap = load.longest_gap(asked, time.monotonic())
            cluster.wait_ended(leader, 6)
            assert cluster.obituary(leader)[0] == "ended with status 0"
            cluster.restart(leader)
            await eyes.whole()
            await load.finish()
            return gap

    with running(tmp_path) as cluster:
        gap = run(scenario(cluster))
        print(f"seconds without service while a leader hands over: {gap:.2f}")
        assert gap < SERVICE_GAP_SECONDS_MAX
        restarted = next(n.process for n in cluster.nodes.values() if n.process is not None)
        for _ in range(20):
            restarted.send_signal(signal.SIGHUP)
        restarted.terminate()
        restarted.terminate()  # at once, and still consistent
        assert restarted.wait(6) == 0
        assert cluster.interrupt(signal.SIGTERM) == 0
        assert not processes_naming(tmp_path)
        cluster.start()
        assert cluster.interrupt(signal.SIGINT) == 0
        assert not processes_naming(tmp_path)
        assert "Traceback" not in cluster.complaints()
