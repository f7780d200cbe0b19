"""The connection's guards, on real sockets of this machine: what httptools and uvicorn let through.

Limits of time are shortened by patching, so that nothing here waits for long.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest

from shardkv.http import wire
from shardkv.http.limits import URL_BYTES_MAX
from shardkv.http.wire import GuardedProtocol, HttpServer, _State

SECONDS = 5.0


async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Answers with the length of what it was sent; `/slow` never answers, `/flood` is long."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    path = scope["path"]
    if path == "/slow":
        await asyncio.sleep(60)
    body = b"%d" % size
    headers = [] if path == "/flood" else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(500 if path == "/flood" else 0):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": body})


def with_server(story: Callable[[HttpServer, int], Awaitable[None]]) -> None:
    async def main() -> None:
        server = HttpServer(app, time.time)
        await server.start("127.0.0.1", 0)
        assert server._server is not None
        port = server._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(SECONDS):
                await story(server, port)
        finally:
            await server.close()
        assert server.connections == 0

    asyncio.run(main())


async def exchange(port: int, data: bytes) -> bytes:
    """Send, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer.split()[1])


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


REFUSED = {
    "random bytes": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", 400),
    "another protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "no target": (b"GET\r\n\r\n", 400),
    "no path": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a negative length": (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "no length": (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
    "two lengths": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    "a length and chunks": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "HTTP/2 in words": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "a length with a sign": (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400),
    "a length in two parts": (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", 400),
    "a length past all bounds": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\na",
        400,
    ),
    "chunks below another coding": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        501,
    ),
    "a coding that is none": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        501,
    ),
    "chunked in a name with a space": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 1\r\n\r\na",
        400,
    ),
    "chunked twice": (
        b"PUT / HTTP/1.1\r\nHost: a\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
        400,
    ),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "lines without CR": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "CR in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "an unknown method": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a header without name": (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
    "a header with a space": (b"GET / HTTP/1.1\r\nA B: x\r\n\r\n", 400),
    "bytes that are no ASCII": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a long URL": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a URL without end": (b"GET /" + b"a" * 30_000, 414),
    "a long header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 17_000 + b"\r\n\r\n", 431),
    "a header without end": (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431),
}


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_request_is_answered_once_and_closed(data: bytes, expected: int) -> None:
    async def story(_: HttpServer, port: int) -> None:
        answer = await exchange(port, data)
        assert status(answer) == expected
        assert b"application/problem+json" in answer
        assert statuses(answer) == [expected]
        assert b"Traceback" not in answer

    with_server(story)


CHUNKED = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n\r\n",
        b"1\r\naXX0\r\n\r\n",
        b"fffffffffffffffff\r\na\r\n",
        b"-1\r\na\r\n",
        b"1;\n\r\na",
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "in two"])
def test_chunks_that_are_none_are_answered_and_never_reach_the_end(
    chunks: bytes, apart: bool
) -> None:
    """Also where the request before it is answered yet: in their order."""

    async def story(server: HttpServer, port: int) -> None:
        for before in (b"", GET, GET + GET):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(before + CHUNKED)
            if apart:
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.write(chunks)
            answer = await reader.read()
            writer.close()
            assert statuses(answer) == [200] * before.count(b"GET") + [400], answer
        await until(lambda: server.connections == 0)

    with_server(story)


def test_what_follows_a_whole_request_does_not_take_its_answer_away() -> None:
    async def story(_: HttpServer, port: int) -> None:
        one = b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"
        answer = await exchange(port, one + b"GARBAGE\r\n\r\n")
        assert statuses(answer) == [200, 400], answer

    with_server(story)


def test_keep_alive_pipelining_and_what_a_request_may_have() -> None:
    async def story(_: HttpServer, port: int) -> None:
        largest = b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: a\r\n"
        largest += b"X: " + b"b" * 15_000 + b"\r\n"
        one = b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = await exchange(port, largest + b"\r\n" + one * 3 + last)
        assert answer.count(b"HTTP/1.1 200 OK") == 5
        assert answer.count(b"date: ") == 5

    with_server(story)


def test_headers_that_come_too_slowly_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte at a time, for ever; and nothing at all."""
    monkeypatch.setattr(wire, "HEADERS_SECONDS", 0.3)

    async def drip(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reading = asyncio.ensure_future(reader.read())
        for byte in b"GET /" + b"a" * 1000:
            if reading.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        writer.close()
        return await reading

    async def story(_: HttpServer, port: int) -> None:
        dripped, silent = await asyncio.gather(drip(port), exchange(port, b""))
        assert (status(dripped), status(silent)) == (408, 408)

    with_server(story)


def test_a_second_request_is_not_waited_for_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEADERS_SECONDS", 0.3)

    async def story(_: HttpServer, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n0")
        await asyncio.sleep(0.5)  # idle longer than that: kept alive
        writer.write(b"GET / HT")
        assert status(await reader.read()) == 408
        writer.close()

    with_server(story)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SEND_SECONDS", 0.3)

    async def story(server: HttpServer, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        assert server.connections == 1
        await until(lambda: server.connections == 0)
        writer.close()

    with_server(story)


def test_a_client_that_reads_again_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SEND_SECONDS", 1.0)

    async def story(server: HttpServer, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        (connection,) = server._state.connections
        assert isinstance(connection, GuardedProtocol) and connection._stuck is not None
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            tail = (tail + await reader.read(1 << 20))[-16:]
        await asyncio.sleep(1.2)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert status(await reader.read()) == 200
        writer.close()

    with_server(story)


def test_a_target_that_comes_in_pieces_is_no_longer_for_that() -> None:
    async def story(server: HttpServer, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /" + b"a" * (URL_BYTES_MAX - 100))
        await asyncio.sleep(0.1)
        writer.write(b"a" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status(await reader.read()) == 414
        writer.close()

    with_server(story)


def test_too_many_connections_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CONNECTIONS_MAX", 2)

    async def story(server: HttpServer, port: int) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: server.connections == 2)
        refused = await exchange(port, b"")
        assert (status(refused), b"retry-after: 1\r\n" in refused) == (503, True)
        for _, writer in held:
            writer.close()
        await until(lambda: server.connections == 0)
        assert status(await exchange(port, b"GET / HTTP/1.0\r\n\r\n")) == 200

    with_server(story)


def test_a_stop_does_not_wait_for_a_request_that_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "STOP_SECONDS", 0.2)

    async def story(server: HttpServer, port: int) -> None:
        slow = asyncio.ensure_future(exchange(port, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"))
        idle = asyncio.ensure_future(exchange(port, b""))
        await until(lambda: server.connections == 2)
        await asyncio.sleep(0.05)
        begun = asyncio.get_running_loop().time()
        await server.close()
        assert asyncio.get_running_loop().time() - begun < 2
        await asyncio.gather(slow, idle)

    with_server(story)


def test_the_date_of_answers_is_at_most_a_second_old() -> None:
    """By a clock that only goes forward; it is made only where somebody asks for it."""
    clock, wall = SimpleNamespace(now=100.0), SimpleNamespace(now=0.0)
    clock.time = lambda: clock.now
    state = _State(clock, lambda: wall.now)  # type: ignore[arg-type]

    def date(seconds: float) -> bytes:
        clock.now, wall.now = 100.0 + seconds, seconds
        ((name, value),) = state.default_headers
        assert name == b"date"
        return value

    assert [date(seconds)[-12:] for seconds in (0.0, 0.9, 1.0, 1.9, 5.0)] == [
        b"00:00:00 GMT", b"00:00:00 GMT", b"00:00:01 GMT", b"00:00:01 GMT", b"00:00:05 GMT",
    ]  # fmt: skip
