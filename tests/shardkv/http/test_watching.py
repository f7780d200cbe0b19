"""One node's eyes on its cluster, in virtual time: whom it asks, and for how long."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from labrpc.errors import Unreachable
from labrpc.sim.loop import run
from labrpc.transport import Address
from raft.types import NodeId
from shardctrler.types import Directory, NodeAddresses, View, first_config
from shardkv import admin
from shardkv.admin import NodeStatus
from shardkv.healing_beats import HEALTH, HealthReport
from shardkv.http.cluster import Sample
from shardkv.http.watching import LINGER_SECONDS, LOOK_SECONDS, Surroundings, Watching
from shardkv.load import NodeLoad

STATUS = NodeStatus("n1", bytes(16), "1", 1, 5, 9000, "n1:1", "n1:2", "", 4, "running", 0, (), ())
LOAD = NodeLoad(5, 0, 0, 0, (0,) * 21, (0,) * 21, 0, 0, 0)


class Cluster:
    """n2 and n3 are there and do not answer."""

    def __init__(self) -> None:
        self.looks: list[float] = []
        self.report: HealthReport | None = None
        nodes = {NodeId(name): NodeAddresses(f"{name}:1", "") for name in ("n1", "n2", "n3")}
        view = View(first_config(4), Directory(1, {}, nodes))
        around = Surroundings("n1", lambda: STATUS, lambda: LOAD, tuple, lambda: view, self)  # type: ignore[arg-type]
        self.watching = Watching(around, lambda: "now")

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        if (to, method) == ("n2:1", admin.STATUS):
            self.looks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        if method == HEALTH and self.report is not None:
            return admin.encode(self.report)
        raise Unreachable("no connection")


def told(story: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = Cluster()
        await story(cluster)
        await cluster.watching.close()

    run(main())


def test_who_asks_while_a_look_is_under_way_shares_it() -> None:
    async def story(cluster: Cluster) -> None:
        first, second = await asyncio.gather(
            cluster.watching.document(), cluster.watching.document()
        )
        assert first is second and len(cluster.looks) == 1

    told(story)


def test_the_cluster_is_looked_at_while_somebody_watches_and_a_little_longer() -> None:
    """A page that reloads finds what is known."""

    async def story(cluster: Cluster) -> None:
        watching = cluster.watching
        watching.start()
        await asyncio.sleep(10.0)
        assert cluster.looks == [], "nobody watches"

        stream = watching.stream(0)
        async with asyncio.timeout(10.0):
            for _ in range(5):
                await anext(stream)
        assert len(cluster.looks) >= 3
        await stream.aclose()  # type: ignore[attr-defined]
        left = asyncio.get_running_loop().time()
        await asyncio.sleep(20.0)

        assert left + LINGER_SECONDS - 2 * LOOK_SECONDS < cluster.looks[-1]
        assert cluster.looks[-1] < left + LINGER_SECONDS + LOOK_SECONDS

    told(story)


def test_rates_are_drawn_over_about_a_second_however_often_is_looked() -> None:
    async def story(cluster: Cluster) -> None:
        watching = cluster.watching
        watching._earlier.extend(Sample(at / 4, {}, {}, {}) for at in range(8))

        base = watching._base(2.0)

        assert base is not None and base.at == 1.0

    told(story)


def test_only_who_leads_the_controller_says_how_nodes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardkv.http.watching.leader_of", lambda gid, seen: ("n2", None))

    async def story(cluster: Cluster) -> None:
        watching = cluster.watching
        await watching.document()
        for leads in (0, 1):
            cluster.report = HealthReport(leads, 1, 0, 0, (), "", (), ())
            found = await watching._health({"n2": "n2:1"})
            assert found == (cluster.report if leads else None)

    told(story)
