"""A leader that stands still for ten seconds and wakes up believing that it leads."""

import asyncio
import time
from pathlib import Path

from labrpc.errors import RpcError
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.types import GroupId
from shardkv.protocol import KV, Get, decode_reply, encode_frame
from shardkv.types import Row
from tests.support.judge import Operation
from tests.support.load import Load
from tests.support.processes import Cluster, run, running

PAUSE_SECONDS = 10.0
KEYS = [b"list 0", b"list 1", b"register 0", b"register 1"]


def test_a_leader_paused_for_ten_seconds_serves_no_stale_read_and_loses_no_write(
    tmp_path: Path,
) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with cluster.eyes() as eyes, Load(cluster.endpoints) as load:
            await load.some(150)
            old = await eyes.leader(1)
            reader = DirectReader(cluster, old, load.history)
            assert await reader.ask(KEYS[0]), "it leads, and answers"

            cluster.pause(old)
            paused = time.monotonic()
            await eyes.leader(1, other_than=old)
            while time.monotonic() < paused + PAUSE_SECONDS - 0.5:
                await load.some(50)  # the world goes on, far past what the old leader knows
            gap = load.longest_gap(paused, time.monotonic())
            waiting = [asyncio.create_task(reader.ask(key)) for key in KEYS * 3]
            while time.monotonic() < paused + PAUSE_SECONDS:
                await load.some(1)
            cluster.resume(old)
            awake = time.monotonic()
            while time.monotonic() < awake + 1.5:
                await asyncio.gather(*[reader.ask(key) for key in KEYS])
                await asyncio.sleep(0.002)
            await asyncio.gather(*waiting)
            await reader.close()
            assert reader.asked > 50, "it was asked as soon as it woke"

            await eyes.whole()
            await load.some(100)
            await load.finish()  # judges what the old leader answered with all the rest
        assert gap < 4, f"{gap:.1f} s without service after the pause"
        print(
            f"{gap:.2f} s without service after the pause; the leader that woke up was asked"
            f" {reader.asked} times and served {reader.served}"
        )

    with running(tmp_path) as cluster:
        run(scenario(cluster))


class DirectReader:
    """Reads keys from one node, whatever the others say; what it serves is history."""

    def __init__(self, cluster: Cluster, name: str, history: list[Operation]) -> None:
        self._to = Address(cluster.nodes[name].client)
        self._history = history
        self._transport = GrpcTransport(cluster.cluster, "reader")
        self.asked = self.served = 0

    async def ask(self, key: bytes) -> bool:
        """Whether it served the read."""
        loop = asyncio.get_running_loop()
        self.asked += 1
        operation = Operation(-2, "get", key, None, loop.time())
        try:
            frame = encode_frame(GroupId(1), 1, [Get(key)])
            body = await self._transport.call(self._to, KV, frame, timeout=15)
        except RpcError:
            return False
        reply = decode_reply(body)
        if not reply.results or not isinstance(reply.results[0], Row):
            return False
        operation.result, operation.version = reply.results[0]
        operation.outcome, operation.ret = "ok", loop.time()
        self._history.append(operation)
        self.served += 1
        return True

    async def close(self) -> None:
        await self._transport.close()
