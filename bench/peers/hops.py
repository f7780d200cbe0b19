"""A put without a store: the same hops and the same two fsyncs, and nothing else.

Three nodes. The first takes a body from a client, writes it to a file and fsyncs it in a thread, as
a node does; at the same time it sends it to the two others, which do the same and answer. When two
of the three files have it the client is answered. No log, no state machine, no sessions, nothing
decoded. So what it costs is what the ways cost that the messages take, and no store that takes
these ways can be faster. Over our own transport on gRPC; over plain TCP by asyncio, a length before
each message, to tell what of it is gRPC's; and both without the fsyncs.
"""

import argparse
import asyncio
import contextlib
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Final, Protocol, cast

from bench.peers.store import Taken
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.disk.leveldb import FileSlot, Worker
from shardkv.benching import Load, Measured, measure

CLUSTER: Final = b"hops".ljust(16, b"\0")
NODES: Final = 3
MAJORITY: Final = 2
PUT, MEET = "put", "meet"
SECONDS: Final = 10.0
"""Patience."""
NUMBER: Final = struct.Struct(">Q")
HEAD: Final = struct.Struct(">IBQ")  # length of what follows, kind, number
CALL, ANSWER, FRAME = 0, 1, 2

Handler = Callable[[bytes], Awaitable[bytes]]


class Wire(Protocol):
    """What both ways are used by: as much of `labrpc.transport.Transport` as is needed."""

    async def open(self, serve: Mapping[str, Handler], listen: Callable[[bytes], None]) -> str:
        """Listen at a free port; returns the address."""
        ...

    async def call(self, to: str, method: str, body: bytes) -> bytes: ...

    def send(self, to: str, frame: bytes) -> None: ...


class Grpc:
    """Our own transport."""

    def __init__(self) -> None:
        self._transport = GrpcTransport(CLUSTER, "hops", address=Address("127.0.0.1:0"))

    async def open(self, serve: Mapping[str, Handler], listen: Callable[[bytes], None]) -> str:
        for method, handler in serve.items():
            self._transport.serve(method, handler)
        self._transport.listen(listen)
        return await self._transport.start()

    async def call(self, to: str, method: str, body: bytes) -> bytes:
        return await self._transport.call(Address(to), method, body, timeout=SECONDS)

    def send(self, to: str, frame: bytes) -> None:
        self._transport.channel(Address(to)).send(frame)


class _Connection(asyncio.Protocol):
    """Messages over one connection, whoever made it."""

    def __init__(self, tcp: "Tcp") -> None:
        self._tcp = tcp
        self._in = bytearray()
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= HEAD.size:
            size, kind, number = HEAD.unpack_from(self._in)
            if len(self._in) < HEAD.size + size:
                return
            body = bytes(self._in[HEAD.size : HEAD.size + size])
            del self._in[: HEAD.size + size]
            self._tcp.take(self, kind, number, body)

    def write(self, kind: int, number: int, body: bytes) -> None:
        assert self.transport is not None
        self.transport.write(HEAD.pack(len(body), kind, number) + body)


class Tcp:
    """Plain TCP."""

    def __init__(self) -> None:
        self._serve: Mapping[str, Handler] = {}
        self._listen: Callable[[bytes], None] = lambda frame: None
        self._connections: dict[str, _Connection] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._tasks: set[asyncio.Future[None]] = set()

    async def open(self, serve: Mapping[str, Handler], listen: Callable[[bytes], None]) -> str:
        self._serve, self._listen = serve, listen
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def call(self, to: str, method: str, body: bytes) -> bytes:
        connection = await self._dial(to)
        self._number += 1
        answer = self._calls[self._number] = asyncio.get_running_loop().create_future()
        connection.write(CALL, self._number, method.encode().ljust(8) + body)
        return await answer

    def send(self, to: str, frame: bytes) -> None:
        self._connections[to].write(FRAME, 0, frame)

    async def _dial(self, to: str) -> _Connection:
        if to not in self._connections:
            host, _, port = to.rpartition(":")
            loop = asyncio.get_running_loop()
            _, made = await loop.create_connection(lambda: _Connection(self), host, int(port))
            self._connections[to] = made
        return self._connections[to]

    def take(self, connection: _Connection, kind: int, number: int, body: bytes) -> None:
        if kind == FRAME:
            self._listen(body)
        elif kind == ANSWER:
            self._calls.pop(number).set_result(body)
        else:
            task = asyncio.ensure_future(self._answer(connection, number, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, connection: _Connection, number: int, body: bytes) -> None:
        handler = self._serve[body[:8].strip().decode()]
        connection.write(ANSWER, number, await handler(body[8:]))


WIRES: Final[Mapping[str, Callable[[], Wire]]] = {"grpc": Grpc, "tcp": Tcp}


class Node:
    """One of the three. It leads once it was met by its two followers."""

    def __init__(self, wire: Wire, file: Path | None) -> None:
        self._wire = wire
        self._slot = FileSlot(file, Worker("hops")) if file is not None else None
        self._others: list[str] = []
        self._waiting: dict[int, tuple[asyncio.Future[None], int]] = {}  # and how many have it
        self._number = 0

    async def run(self, leader: str | None) -> None:
        address = await self._wire.open({PUT: self._put, MEET: self._meet}, self._hear)
        if leader is not None:
            self._others = [leader]
            await self._wire.call(leader, MEET, address.encode())
        print(address, flush=True)
        await asyncio.Event().wait()

    async def _meet(self, body: bytes) -> bytes:
        """A follower, at this address; it is met in turn, so that there is a way to it too."""
        if body:
            await self._wire.call(body.decode(), MEET, b"")
            self._others.append(body.decode())
        return b""

    async def _put(self, body: bytes) -> bytes:
        self._number += 1
        number = self._number
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (done, 0)
        for other in self._others:
            self._wire.send(other, NUMBER.pack(number) + body)
        self._save(body, lambda: self._has(number))
        await done
        return b"done"

    def _save(self, body: bytes, then: Callable[[], None]) -> None:
        if self._slot is None:
            then()
        else:
            self._slot.write(body).add_done_callback(lambda _: then())

    def _has(self, number: int) -> None:
        done, count = self._waiting.get(number, (None, 0))
        if done is None:
            return
        if count + 1 < MAJORITY:
            self._waiting[number] = (done, count + 1)
            return
        del self._waiting[number]
        if not done.done():
            done.set_result(None)

    def _hear(self, frame: bytes) -> None:
        number = frame[: NUMBER.size]
        if len(frame) > NUMBER.size:  # a follower hears a body, and answers by its number
            self._save(frame, lambda: self._wire.send(self._others[0], number))
        else:
            self._has(NUMBER.unpack(number)[0])


class _Asker:
    """As much of a store as a load needs."""

    def __init__(self, wire: Wire, leader: str) -> None:
        self._wire, self._leader = wire, leader

    async def put(self, key: bytes, value: bytes) -> object:
        return await self._wire.call(self._leader, PUT, key + value)

    async def get(self, key: bytes) -> object:
        raise NotImplementedError("there is nothing to get")


class Hops:
    """Running nodes."""

    def __init__(
        self, name: str, wire: str, nodes: list["subprocess.Popen[str]"], leader: str
    ) -> None:
        self.name = name
        self._wire, self._nodes, self._leader = wire, nodes, leader

    def fill(self, load: Load) -> None:
        """Nothing is kept."""

    def measure(self, load: Load) -> Taken:
        words = [self._wire, "--ask", self._leader, "--seconds", str(load.seconds)]
        words += ["--clients", str(load.clients), "--size", str(load.value_bytes)]
        done = subprocess.run(_command(*words), check=True, stdout=subprocess.PIPE, text=True)
        return Taken.of(Measured.read(done.stdout))

    def processes(self) -> Mapping[str, int]:
        return {f"h{number}": node.pid for number, node in enumerate(self._nodes)}

    def leader(self) -> str:
        return "h0"


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench.peers.hops", *words]


@contextlib.contextmanager
def started(name: str, wire: str, *, fsync: bool) -> Iterator[Hops]:
    """Three nodes of their own."""
    nodes: list[subprocess.Popen[str]] = []
    addresses: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hops-bench-") as directory:
        try:
            for number in range(NODES):
                words = [wire, *(["--leader", addresses[0]] if addresses else [])]
                words += ["--file", f"{directory}/{number}"] if fsync else []
                node = subprocess.Popen(_command(*words), stdout=subprocess.PIPE, text=True)
                nodes.append(node)
                assert node.stdout is not None
                addresses.append(node.stdout.readline().strip())
                if not addresses[-1]:
                    raise RuntimeError("a node of the bare hops did not start")
            yield Hops(name, wire, nodes, addresses[0])
        finally:
            for node in nodes:
                node.kill()
                node.wait()


async def _ask(wire: Wire, leader: str, load: Load) -> Measured:
    asker = _Asker(wire, leader)
    until = time.monotonic() + 0.2
    while time.monotonic() < until:  # connections and code are warm when the clock starts
        await asker.put(b"warm", bytes(load.value_bytes))
    return await measure(asker, load, Random(1))


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wire", choices=WIRES)
    parser.add_argument("--leader", help="address of the node that leads")
    parser.add_argument("--file", type=Path, help="where to write and fsync; default: nowhere")
    parser.add_argument("--ask", help="put a load on the node at this address")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.ask:
            load = Load(clients=options.clients, seconds=options.seconds, value_bytes=options.size)
            print(runner.run(_asked(options.wire, options.ask, load)).write())
        else:
            runner.run(_serve(options.wire, options.file, options.leader))


async def _asked(wire: str, leader: str, load: Load) -> Measured:
    return await _ask(WIRES[wire](), leader, load)


async def _serve(wire: str, file: Path | None, leader: str | None) -> None:
    await Node(WIRES[wire](), file).run(leader)


if __name__ == "__main__":
    main()
