"""The front door of real nodes under clients that mean no good, and what the logs keep of them."""

import asyncio
import http.client
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest

from labrpc.errors import RpcError
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from shardkv.http.limits import BODY_SECONDS, CONNECTIONS_MAX, HEADERS_SECONDS
from shardkv.protocol import KV
from tests.support.http import series
from tests.support.processes import Cluster, run, running, wait_for

HOST = "127.0.0.1"
IDLE = 3000
DRIPPING = 100
CANCELS = 1000
FILES_WANTED = 8192
SECRETS = ("canary-value-7f3a", "canary-name-7f3a", "canary-agent-7f3a", "canary-long-" + "z" * 60)
HOSTILE = 'key-7f3a\n{"level":"info","message":"forged"}\x1b[31m'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = {"SHARDKV_LOG_FORMAT": "json", "SHARDKV_LOG_LEVEL": "debug"}
    directory = tmp_path_factory.mktemp("door")
    with running(directory, groups=2, shards=8, settings=settings) as cluster:
        yield cluster


def port(cluster: Cluster, name: str = "n1") -> int:
    return int(cluster.nodes[name].client.rpartition(":")[2]) + 2


def ask(
    port: int, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=20)
    try:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def figures(port: int) -> dict[str, float]:
    """What the node says that it holds; the question itself is one connection and one task."""
    found = series(ask(port, "GET", "/metrics")[1])
    names = ("process_open_fds", "shardkv_tasks", "shardkv_http_connections")
    return {name: found[name][0][1] for name in (*names, "process_resident_memory_bytes")}


def back_to(port: int, before: dict[str, float]) -> Callable[[], bool]:
    """Whether files, tasks and connections are as many as before, but for a handful."""

    def settled() -> bool:
        now = figures(port)
        return (
            now["shardkv_http_connections"] <= before["shardkv_http_connections"]
            and now["shardkv_tasks"] <= before["shardkv_tasks"] + 4
            and now["process_open_fds"] <= before["process_open_fds"] + 4
        )

    return settled


class Held(asyncio.Protocol):
    """A connection, and all that it got until it was closed. Whoever goes on to send is told that
    by a reset, which a `StreamReader` reports instead of what had come before it."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got += data

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set_result(self._got)


async def until_closed(port: int, begin: bytes, drip: bytes = b"") -> bytes:
    """What a connection gets that begins so, and goes on with a byte a second."""
    loop = asyncio.get_running_loop()
    try:
        transport, held = await loop.create_connection(Held, HOST, port)
    except ConnectionError:
        return b""
    try:
        async with asyncio.timeout(60):
            transport.write(begin)
            for at in range(len(drip)):
                if (await asyncio.wait([held.closed], timeout=1.0))[0]:
                    break
                transport.write(drip[at : at + 1])
            return await held.closed
    finally:
        transport.abort()


@pytest.mark.timeout(180)
def test_clients_that_only_hold_on_leave_nothing_behind(cluster: Cluster) -> None:
    """3,000 connections that say nothing, headers and bodies that come a byte a second: who has a
    connection is served meanwhile, and 10 s later all is as it was (B8)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES_WANTED:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES_WANTED, hard), hard))
    target = port(cluster)
    head = b"PUT /kv/held HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    body = head + b"Content-Length: 100\r\n\r\n"

    async def story() -> tuple[list[bytes], list[bytes], float]:
        warm = [until_closed(target, b"GET /kv/a HTTP/1.0\r\n\r\n") for _ in range(64)]
        await asyncio.gather(*warm)
        loop = asyncio.get_running_loop()
        before = await loop.run_in_executor(None, figures, target)
        kept = http.client.HTTPConnection(HOST, target, timeout=10)
        kept.request("GET", "/livez")
        kept.getresponse().read()
        dripping = [
            asyncio.ensure_future(until_closed(target, begin, drip))
            for begin, drip in ((head, b"X: " + b"x" * 60), (body, b"v" * 60))
            for _ in range(DRIPPING)
        ]
        await loop.run_in_executor(
            None,
            wait_for,
            lambda: figures(target)["shardkv_http_connections"] >= len(dripping) + 2,
            "each that drips to have its connection, besides the kept one and the question's",
        )
        opened = loop.time()
        idle = [asyncio.ensure_future(until_closed(target, b"")) for _ in range(IDLE)]

        def serve() -> None:
            for number in range(20):
                kept.request("PUT", f"/kv/meanwhile{number}", b"v", {"Content-Type": OCTETS})
                answer = kept.getresponse()
                assert (answer.status, answer.read()) == (204, b"")

        await loop.run_in_executor(None, serve)
        slow, silent = await asyncio.gather(*dripping), await asyncio.gather(*idle)
        held_seconds = loop.time() - opened
        kept.close()
        await loop.run_in_executor(None, wait_for, back_to(target, before), "all to be let go")
        after = await loop.run_in_executor(None, figures, target)
        grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
        assert grown < 50e6, (before, after)
        return slow, silent, held_seconds

    begun = time.monotonic()
    slow, silent, held_seconds = run(story())
    assert time.monotonic() - begun > min(HEADERS_SECONDS, BODY_SECONDS)

    assert {answer[9:12] for answer in slow} == {b"408"}
    refused = sum(answer[9:12] == b"503" for answer in silent)
    late = sum(answer[9:12] == b"408" for answer in silent)
    assert refused + late + silent.count(b"") == IDLE
    # Who has a place has it for `HEADERS_SECONDS`: each such time has room for so many at most.
    places = CONNECTIONS_MAX * int(held_seconds / HEADERS_SECONDS)
    assert refused >= IDLE - places, "told so, and closed"
    assert late > 0


OCTETS = "application/octet-stream"


@pytest.mark.timeout(180)
def test_a_thousand_clients_that_leave_at_any_moment(cluster: Cluster) -> None:
    """In the middle of the request, or before its answer: no append is done twice, what was
    answered is done, and nothing of them is left in the node."""
    target = port(cluster)
    rng = Random(80)
    assert ask(target, "PUT", "/kv/left", b"", {"Content-Type": OCTETS})[0] == 204

    async def one(number: int, answered: list[int]) -> None:
        data = b"%d " % number
        whole = (
            b"POST /append/left HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%b"
        ) % (len(data), data)
        moment = rng.random()
        cut = rng.randrange(len(whole)) if moment < 0.3 else len(whole)
        reader, writer = await asyncio.open_connection(HOST, target)
        try:
            writer.write(whole[:cut])
            await writer.drain()
            if moment > 0.9:
                if (await reader.read())[9:12] == b"204":
                    answered.append(number)
            elif moment > 0.6:
                await asyncio.sleep(rng.random() * 0.02)
        finally:
            writer.transport.abort()

    async def story() -> list[int]:
        answered: list[int] = []
        for at in range(0, CANCELS, 50):
            await asyncio.gather(*(one(number, answered) for number in range(at, at + 50)))
        return answered

    before = figures(target)
    answered = run(story())

    wait_for(back_to(target, before), "nothing of them to be left")
    done = [int(word) for word in ask(target, "GET", "/kv/left", headers=ACCEPT)[1].split()]
    assert len(done) == len(set(done)), "twice"
    assert set(answered) <= set(done) and len(answered) > 50
    assert ask(target, "GET", "/readyz")[0] == 200


ACCEPT = {"Accept": OCTETS}


def test_the_log_is_json_and_keeps_nothing_that_users_sent(cluster: Cluster) -> None:
    """Canaries in values, names, headers, paths and frames, where they are done and where they are
    refused, at the level that logs most (H4)."""
    value, name, agent, long = SECRETS
    target = port(cluster)
    headers = {
        "Content-Type": OCTETS,
        "Idempotency-Key": name,
        "User-Agent": agent,
        "Shardkv-Session": name,
        "Cookie": value,
        "Authorization": f"Bearer {value}",
    }
    quoted = "".join(f"%{byte:02x}" for byte in HOSTILE.encode())
    asked = [
        ("PUT", f"/kv/{quoted}", value.encode(), headers | {"Shardkv-Session": "new"}, 204),
        ("PUT", f"/kv/{quoted}", b"other" + value.encode(), headers, 400),
        ("POST", f"/append/{quoted}", value.encode(), headers | {"Shardkv-Session": "new"}, 409),
        (
            "PUT",
            "/kv/a",
            b'{"value": "' + value.encode(),
            {"Content-Type": "application/json"},
            400,
        ),
        (
            "PUT",
            "/kv/a",
            b'{"' + value.encode() + b'": 1}',
            {"Content-Type": "application/json"},
            400,
        ),
        ("PUT", "/kv/a", value.encode(), {"Content-Type": long}, 415),
        ("GET", f"/kv/a?{long}=1", b"", {"Host": long}, 421),
        ("POST", "/cluster/move", value.encode(), {"Shardkv-Confirm": value}, 400),
        ("GET", f"/kv/{long}?timeout=0.001", b"", {}, None),
    ]
    for method, path, body, given, expected in asked:
        status, _ = ask(target, method, path, body, given)
        assert expected is None or status == expected, (method, path, status)
    _raw(target, f"{value} {value}\r\n{value}: {value}\r\n\r\n".encode())
    _raw(target - 2, value.encode() * 20)  # not gRPC
    run(_bad_frame(cluster, value.encode()))
    assert cluster.cli("put", HOSTILE, value).status == 0
    assert cluster.cli("put", "k", value, "--if-version", "7").status == 1
    cluster.kill("n3")
    assert ask(target, "PUT", "/kv/after", value.encode(), {"Content-Type": OCTETS})[0] == 204

    lines = 0
    for node in cluster.nodes.values():
        written = (node.data / "node.log").read_bytes()
        for secret in SECRETS:
            assert secret.encode() not in written, (node.name, secret)
        assert b"forged" not in written and b"\x1b" not in written
        for line in written.splitlines():
            event = json.loads(line)
            assert {"time", "level", "logger", "message"} <= set(event), line
            lines += 1
    assert lines > 50
    cluster.restart("n3")


def _raw(port: int, data: bytes) -> None:
    with socket.create_connection((HOST, port), timeout=5) as client:
        client.sendall(data)
        while client.recv(65536):
            pass


async def _bad_frame(cluster: Cluster, data: bytes) -> None:
    transport = GrpcTransport(cluster.cluster, "stranger")
    try:
        for method in (KV, "no-such-method"):
            with pytest.raises(RpcError):
                await transport.call(Address(cluster.endpoints[0]), method, data, timeout=5)
    finally:
        await transport.close()
