"""What other programs find at the port: health, reflection, and the typed service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.grpc import kv_pb2 as kv
from labrpc.grpc.transport import GrpcTransport
from labrpc.limits import PortLimits
from tests.support.wire import CLUSTER, LOOPBACK, SOON, run, server, until

Row = tuple[bytes, int]


class Shelf:
    """A store of one process, and what it is told to fail with."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.failure: Exception | None = None
        self.timeouts: list[float] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.begun = self.ended = 0

    async def _enter(self, timeout: float) -> None:
        self.timeouts.append(timeout)
        self.begun += 1
        await self.hold.wait()
        self.ended += 1
        if self.failure:
            raise self.failure

    async def get(self, request: kv.GetRequest, timeout: float) -> kv.GetReply:
        await self._enter(timeout)
        if request.key not in self.rows:
            return kv.GetReply()
        value, version = self.rows[request.key]
        return kv.GetReply(found=True, value=value, version=version)

    async def put(self, request: kv.PutRequest, timeout: float) -> kv.PutReply:
        await self._enter(timeout)
        version = self.rows.get(request.key, (b"", 0))[1]
        if request.HasField("if_version") and request.if_version != version:
            raise Refused("FAILED_PRECONDITION", f"the version is {version}")
        self.rows[request.key] = request.value, version + 1
        return kv.PutReply(version=version + 1)

    async def append(self, request: kv.AppendRequest, timeout: float) -> kv.AppendReply:
        await self._enter(timeout)
        value, version = self.rows.get(request.key, (b"", 0))
        self.rows[request.key] = value + request.value, version + 1
        return kv.AppendReply(version=version + 1)

    async def delete(self, request: kv.DeleteRequest, timeout: float) -> kv.DeleteReply:
        await self._enter(timeout)
        self.rows.pop(request.key, None)
        return kv.DeleteReply()

    async def batch(self, request: kv.BatchRequest, timeout: float) -> kv.BatchReply:
        await self._enter(timeout)
        for one in request.operations:
            self.rows[one.key] = one.put, self.rows.get(one.key, (b"", 0))[1] + 1
        return kv.BatchReply(versions=[self.rows[one.key][1] for one in request.operations])

    async def list(self, request: kv.ListRequest, timeout: float) -> kv.ListReply:
        await self._enter(timeout)
        keys = sorted(key for key in self.rows if key.startswith(request.prefix))
        return kv.ListReply(rows=[kv.ListedRow(key=key, version=self.rows[key][1]) for key in keys])

    async def status(self, request: kv.StatusRequest, timeout: float) -> kv.StatusReply:
        await self._enter(timeout)
        return kv.StatusReply(node="n1", cluster=CLUSTER)


class Stub:
    """What a generated client does."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def __call__(self, request: Any, reply: Any, timeout: float | None = SOON) -> Any:
        name = type(request).__name__.removesuffix("Request")
        method: Any = self._channel.unary_unary(
            f"/shardkv.v1.Kv/{name}", lambda message: message.SerializeToString(), reply.FromString
        )
        return await method(request, timeout=timeout)


@asynccontextmanager
async def store(limits: PortLimits | None = None) -> AsyncIterator[tuple[Shelf, Stub]]:
    shelf = Shelf()
    transport = GrpcTransport(
        CLUSTER, "n1", address=LOOPBACK, limits=limits, close_grace_seconds=0.2
    )
    transport.serve_kv(shelf)
    try:
        async with grpc.aio.insecure_channel(await transport.start()) as channel:
            yield shelf, Stub(channel)
    finally:
        await transport.close()


def test_each_operation_reaches_its_handler() -> None:
    async def scenario() -> None:
        async with store() as (_, ask):
            assert await ask(kv.GetRequest(key=b"k"), kv.GetReply) == kv.GetReply()
            put = kv.PutRequest(key=b"k", value=b"a", if_version=0)
            assert await ask(put, kv.PutReply) == kv.PutReply(version=1)
            append = kv.AppendRequest(key=b"k", value=b"b")
            assert await ask(append, kv.AppendReply) == kv.AppendReply(version=2)
            assert await ask(kv.GetRequest(key=b"k"), kv.GetReply) == kv.GetReply(
                found=True, value=b"ab", version=2
            )
            two = [kv.BatchOperation(key=key, put=b"v") for key in (b"k", b"l")]
            batch = await ask(kv.BatchRequest(operations=two), kv.BatchReply)
            assert batch == kv.BatchReply(versions=[3, 1])
            assert await ask(kv.DeleteRequest(key=b"k"), kv.DeleteReply) == kv.DeleteReply()
            assert not (await ask(kv.GetRequest(key=b"k"), kv.GetReply)).found
            assert (await ask(kv.StatusRequest(), kv.StatusReply)).node == "n1"

    run(scenario())


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (Refused("ABORTED", "moved"), "ABORTED", "moved"),
        (Refused("NO_SUCH_CODE", "odd"), "UNKNOWN", "odd"),
        (Unreachable("no leader"), "UNAVAILABLE", "no leader"),
        (Unknown("no answer"), "DEADLINE_EXCEEDED", "outcome unknown: no answer"),
        (ValueError("hunter2"), "INTERNAL", "internal error; the server's log has it under "),
    ],
)
def test_each_failure_has_its_status(failure: Exception, code: str, text: str) -> None:
    async def scenario() -> None:
        async with store() as (shelf, ask):
            shelf.failure = failure
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(kv.GetRequest(key=b"k"), kv.GetReply)

            assert caught.value.code().name == code
            assert (caught.value.details() or "").startswith(text)
            assert "hunter2" not in (caught.value.details() or "")

    run(scenario())


def test_the_clients_deadline_reaches_the_handler() -> None:
    async def scenario() -> None:
        async with store() as (shelf, ask):
            await ask(kv.GetRequest(key=b"k"), kv.GetReply, timeout=7.0)
            await ask(kv.GetRequest(key=b"k"), kv.GetReply, timeout=None)
            await ask(kv.GetRequest(key=b"k"), kv.GetReply, timeout=3600)

            assert 5 < shelf.timeouts[0] <= 7.1  # gRPC rounds
            assert shelf.timeouts[1:] == [30.0, 30.0]

    run(scenario())


def test_a_write_whose_client_goes_away_is_carried_out() -> None:
    async def scenario() -> None:
        async with store() as (shelf, ask):
            shelf.hold.clear()
            request = kv.PutRequest(key=b"k", value=b"v")
            call = asyncio.create_task(ask(request, kv.PutReply))
            await until(lambda: shelf.begun)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

            shelf.hold.set()
            await until(lambda: shelf.rows == {b"k": (b"v", 1)})

    run(scenario())


def test_operations_over_the_bound_of_the_node_are_refused() -> None:
    async def scenario() -> None:
        async with store(PortLimits(node_operations_max=1)) as (shelf, ask):
            shelf.hold.clear()
            first = asyncio.create_task(ask(kv.GetRequest(key=b"k"), kv.GetReply))
            await until(lambda: shelf.begun)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(kv.GetRequest(key=b"k"), kv.GetReply)

            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            shelf.hold.set()
            assert await first == kv.GetReply()

    run(scenario())


def test_a_broken_message_is_refused() -> None:
    async def scenario() -> None:
        async with store() as (_, ask):
            method: Any = ask._channel.unary_unary("/shardkv.v1.Kv/Get")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"\xff\xff\xff", timeout=SOON)

            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    run(scenario())


async def health(channel: grpc.aio.Channel, service: str = "") -> str:
    check: Any = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        lambda request: request.SerializeToString(),
        health_pb2.HealthCheckResponse.FromString,
    )
    reply = await check(health_pb2.HealthCheckRequest(service=service), timeout=SOON)
    return {1: "SERVING", 2: "NOT_SERVING"}[reply.status]


def test_health_says_what_it_is_told() -> None:
    async def scenario() -> None:
        async with server() as peer, grpc.aio.insecure_channel(peer.address) as channel:
            assert await health(channel) == "SERVING"

            await peer.server.set_serving(False)
            assert await health(channel) == "NOT_SERVING"

            await peer.server.set_serving(True, "shardkv.v1.Kv")
            assert await health(channel, "shardkv.v1.Kv") == "SERVING"

    run(scenario())


def test_reflection_lists_the_services_and_describes_them() -> None:
    async def scenario() -> None:
        async with store() as (_, ask):
            stream: Any = ask._channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                lambda request: request.SerializeToString(),
                reflection_pb2.ServerReflectionResponse.FromString,
            )(timeout=SOON)

            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            listed = (await stream.read()).list_services_response.service
            await stream.write(
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="shardkv.v1.Kv")
            )
            described = (await stream.read()).file_descriptor_response.file_descriptor_proto
            await stream.done_writing()

            assert sorted(service.name for service in listed) == [
                "grpc.health.v1.Health",
                "grpc.reflection.v1alpha.ServerReflection",
                "labrpc.v1.Calls",
                "labrpc.v1.Channels",
                "shardkv.v1.Kv",
            ]
            assert kv.DESCRIPTOR.serialized_pb in described

    run(scenario())
