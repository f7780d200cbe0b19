"""Real sockets for tests: transports that are closed, a wire that can be cut, and a strict loop."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from labrpc.errors import Refused, RpcError
from labrpc.grpc.transport import GrpcTransport
from labrpc.limits import PortLimits
from labrpc.transport import Address
from tests.support.patience import Patience

CLUSTER = bytes(range(16))
LOOPBACK = Address("127.0.0.1:0")
SOON = 5.0
"""Seconds in which a thing that happens has happened: only a failing test waits for it."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run(scenario: Coroutine[Any, Any, None], loop_factory: LoopFactory | None = None) -> None:
    """Run a scenario, and fail if it leaves a task behind or an error that nobody saw."""
    unseen: list[dict[str, Any]] = []

    async def strict() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(30):
            await scenario
        # Ours have ended by now; gRPC's own are told to and get a few turns to.
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(strict())
        gc.collect()
    assert not unseen, unseen


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds. Yields to the loop; fails after `SOON`."""
    patience = Patience(SOON)
    while not condition():  # real sockets set no event
        if patience.ended():
            raise TimeoutError(f"not within {SOON:g} s")
        await asyncio.sleep(0.001)


@asynccontextmanager
async def client(cluster: bytes = CLUSTER, **options: Any) -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(cluster, "client", **options)
    try:
        yield transport
    finally:
        await transport.close()


@asynccontextmanager
async def server(
    *,
    address: Address = LOOPBACK,
    limits: PortLimits | None = None,
    close_grace_seconds: float = 0.2,
    **handlers: Callable[[bytes], Awaitable[bytes]],
) -> AsyncIterator[GrpcTransport]:
    """A started transport; each keyword that is left is a method and its handler."""
    transport = GrpcTransport(
        CLUSTER, "server", address=address, limits=limits, close_grace_seconds=close_grace_seconds
    )
    for method, handler in handlers.items():
        transport.serve(method, handler)
    await transport.start()
    try:
        yield transport
    finally:
        await transport.close()


def closed_port() -> Address:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(f"127.0.0.1:{probe.getsockname()[1]}")


class Wire:
    """A TCP proxy to `target` that can stand still, as a stopped process does, or break."""

    def __init__(self, target: Address) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.connections = 0
        self.address = Address("")

    async def __aenter__(self) -> "Wire":
        self._listener = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.address = Address(f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Bytes are taken in no more, and nobody is told."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(far_writer)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            self._tasks.append(asyncio.create_task(self._carry(source, target)))

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._flows.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass  # the other side is gone, and so is this one below
        finally:
            target.close()


async def echo(body: bytes) -> bytes:
    return body


class Gate:
    """A handler that begins at once and ends when told."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.open = asyncio.Event()

    async def __call__(self, body: bytes) -> bytes:
        self.begun += 1
        await self.open.wait()
        self.ended += 1
        return body


async def outcome(call: Coroutine[Any, Any, bytes]) -> bytes | type[RpcError] | str:
    """The answer, the code of a refusal, or the type of the failure."""
    try:
        return await call
    except Refused as refused:
        return refused.code
    except RpcError as error:
        return type(error)


class Fake:
    """A grpc server whose Exchange is `behaviour`."""

    def __init__(self, behaviour: Callable[..., Coroutine[Any, Any, None]]) -> None:
        self._behaviour = behaviour

    async def __aenter__(self) -> Address:
        self._server = grpc.aio.server()
        method: Any = grpc.stream_stream_rpc_method_handler(self._behaviour)
        handler = grpc.method_handlers_generic_handler("labrpc.v1.Calls", {"Exchange": method})
        self._server.add_generic_rpc_handlers((handler,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return Address(f"127.0.0.1:{port}")

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)
