"""HTTP without sockets: a node's door on a simulated cluster, asked in virtual time."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.parse import unquote

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import CLUSTER, SimCluster, SimNode
from shardctrler.types import View
from shardkv import admin
from shardkv.admin import NodeStatus
from shardkv.admin_service import AdminService
from shardkv.clerk import Clerk
from shardkv.http.front import FrontConfig, FrontDoor
from shardkv.http.inside import Parts
from shardkv.load import LOAD, node_load

T = TypeVar("T")

NODES = 3
SERIES = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
OCTETS = {"content-type": "application/octet-stream"}
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The problem's name; the answer must be one of its status."""
        assert self.headers["content-type"] == "application/problem+json", self
        document = self.json()
        assert document["status"] == self.status, self
        assert set(document) - {"operation"} == {"type", "title", "status", "detail"}, self
        return str(document["type"]).removeprefix("/problems/")


async def at_once(work: Callable[[], T]) -> T:
    """What a node does in a thread is done on the loop: its time is virtual."""
    return work()


class HttpClient:
    """Asks an ASGI application as uvicorn would.

    Args:
        peer: The client's address.
    """

    def __init__(self, app: Any, peer: str = "127.0.0.1") -> None:
        self._app = app
        self._peer = peer

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] = b"",
        headers: dict[str, str] | None = None,
        *,
        pieces_seconds: float = 0.0,
        read_seconds: float | None = None,
    ) -> Answer:
        """One request.

        Args:
            body: In one piece, or in pieces.
            pieces_seconds: Between two pieces.
            read_seconds: When the client leaves; None: it stays to the end.
        """
        pieces = [body] if isinstance(body, bytes) else list(body)
        said: list[MutableMapping[str, Any]] = []
        gone = asyncio.Event()

        async def receive() -> MutableMapping[str, Any]:
            if pieces:
                if pieces_seconds:
                    await asyncio.sleep(pieces_seconds)
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            said.append(message)

        task = asyncio.ensure_future(
            self._app(self._scope(method, target, headers or {}), receive, send)
        )
        if read_seconds is not None:
            await asyncio.sleep(read_seconds)
            gone.set()
        await task
        start, *rest = said
        found = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], found, b"".join(part.get("body", b"") for part in rest))

    def _scope(self, method: str, target: str, headers: dict[str, str]) -> dict[str, Any]:
        raw, _, query = target.partition("?")
        named = {"host": "127.0.0.1:7402"} | {k.lower(): v for k, v in headers.items()}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(raw),
            "raw_path": raw.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in named.items() if v],
            "client": (self._peer, 50000),
            "server": ("127.0.0.1", 7402),
            "state": {},
        }

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.ask("GET", target, headers=_dashed(headers))

    async def put(self, target: str, value: str | bytes, **headers: str) -> Answer:
        if isinstance(value, str):
            body, kind = json.dumps({"value": value}).encode(), JSON
        else:
            body, kind = value, OCTETS
        return await self.ask("PUT", target, body, kind | _dashed(headers))

    async def act(self, action: str, **fields: Any) -> Answer:
        """An operator's action, confirmed."""
        body = json.dumps(fields).encode()
        return await self.ask(
            "POST", f"/cluster/{action}", body, JSON | {"shardkv-confirm": action}
        )


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class SimFront:
    """The front door of a simulated node."""

    def __init__(self, node: SimNode, directory: Path, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        assert node.transport is not None and node.assembly is not None and node.host is not None
        self.node = node
        self.clerk: Clerk | None = Clerk(node.transport, node.assembly.client, rng=Random(1))
        self.state = "running"
        boot = node.host._boot
        self._admin = AdminService(self.facts, boot, node.host, node.assembly, Random(2))
        if node._cluster.heal is None:
            self._admin.serve(node.transport)

        async def load(_: bytes) -> bytes:
            return admin.encode(self.load())

        node.transport.serve(LOAD, load)
        parts = Parts(
            node=str(node.name),
            directory=directory,
            transport=node.transport,
            status=self._admin.full_status,
            load=self.load,
            clerk=lambda: self.clerk,
            host=lambda: node.host,
            assembly=lambda: node.assembly,
            databases=lambda: None,
            frames=lambda: {"sent": 2, "dropped": 1, "received": 2, "failed": 1},
        )
        config = FrontConfig("127.0.0.1", 7402)._replace(**settings)
        start = 1_800_000_000.0
        self.front = FrontDoor(
            config,
            parts,
            clock=loop.time,
            wall_clock=lambda: start + loop.time(),
            aside=at_once,
        )
        self.front.watch()
        self.http = HttpClient(self.front.door)

    def load(self) -> Any:
        assert self.node.assembly is not None and self.node.host is not None
        service = self.node.assembly.service
        measures = self.front.measures
        return node_load(
            self.node.host._boot,
            service.meter,
            service.operations,
            (measures.total, measures.errors),
        )

    def facts(self) -> NodeStatus:
        assert self.node.assembly is not None and self.node.host is not None
        view = self.node.assembly.feed.view
        return NodeStatus(
            node=str(self.node.name), cluster=CLUSTER, version="sim", pid=1,
            boot=self.node.host._boot, uptime_ms=1000, client=self.node.address,
            peer=self.node.address, http="127.0.0.1:7402", nshards=self.node._cluster.nshards,
            state=self.state, config_number=view.config.number if view is not None else 0,
            known=(), replicas=(),
        )  # fmt: skip

    async def close(self) -> None:
        await self.front.close()
        if self.clerk is not None:
            await self.clerk.close()


def _knows(view: View | None, number: int) -> bool:
    """Whether a node has heard of the configuration, and where all three nodes are."""
    return view is not None and view.config.number >= number and len(view.directory.nodes) == NODES


class World:
    """A simulated cluster of three nodes and two groups, and HTTP on the first node."""

    def __init__(self, cluster: SimCluster, fronts: list[SimFront]) -> None:
        self.cluster = cluster
        self.fronts = fronts
        self.http = fronts[0].http


def with_world(
    directory: Path,
    story: Callable[[World], Awaitable[T]],
    *,
    fronts: int = 1,
    joined: int = 2,
    **settings: Any,
) -> T:
    """Play a story on a cluster that has settled, in virtual time."""

    async def main() -> T:
        cluster = SimCluster(Chance("http"), nodes=NODES, groups=2, replicas=3, nshards=4)
        await cluster.start()
        clerk, client = cluster.client()
        number = await client.join([cluster.joining(gid) for gid in cluster.gids[:joined]])
        async with asyncio.timeout(20):
            while not cluster.quiet(number):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        nodes = list(cluster.nodes.values())[:fronts]
        doors = [SimFront(node, directory, **settings) for node in nodes]
        for node in nodes:
            assert node.assembly is not None
            async with asyncio.timeout(20):
                while not _knows(node.assembly.feed.view, number):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        try:
            return await story(World(cluster, doors))
        finally:
            for door in doors:
                await door.close()
            await clerk.close()
            await client.close()

    return run(main())


def series(text: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every sample, by its name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            match = SERIES.match(line)
            assert match is not None, line
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            found.setdefault(match[1], []).append((labels, float(match[3])))
    return found
