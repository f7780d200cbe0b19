"""Calls over gRPC: every way in which one can end, on real sockets."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc.aio
import pytest
import uvloop

from labrpc.errors import AddressInUse, CannotListen, Refused, RpcError, Unknown, Unreachable
from labrpc.grpc import handshake
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.client import EXCHANGE
from labrpc.grpc.transport import GrpcTransport
from labrpc.limits import BODY_BYTES_MAX, PACK_ITEMS_MAX, PortLimits
from labrpc.transport import Address
from tests.support.wire import (
    CLUSTER,
    LOOPBACK,
    SOON,
    Wire,
    client,
    closed_port,
    run,
    server,
    until,
)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Run:
    return lambda scenario: run(scenario, request.param)


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


def test_many_calls_share_a_connection_and_each_gets_its_own_answer(go: Run) -> None:
    async def scenario() -> None:
        async with server(echo=echo) as peer, Wire(peer.address) as wire, client() as me:
            bodies = [b"%d" % n * (n % 50) for n in range(1000)]

            answers = await asyncio.gather(
                *(me.call(wire.address, "echo", body, timeout=SOON) for body in bodies)
            )

            assert answers == bodies
            assert wire.connections == 1

    go(scenario())


def test_a_slow_call_delays_no_other(go: Run) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with server(echo=echo, slow=gate) as peer, client() as me:
            slow = asyncio.create_task(me.call(peer.address, "slow", b"slow", timeout=SOON))
            await until(lambda: gate.begun)

            assert await me.call(peer.address, "echo", b"fast", timeout=SOON) == b"fast"

            gate.open.set()
            assert await slow == b"slow"

    go(scenario())


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "ABORTED"])
def test_a_refusal_keeps_its_code_and_text(code: str) -> None:
    async def refuse(body: bytes) -> bytes:
        raise Refused(code, "not today")

    async def scenario() -> None:
        async with server(ask=refuse) as peer, client() as me:
            with pytest.raises(Refused) as caught:
                await me.call(peer.address, "ask", b"", timeout=SOON)

            assert (caught.value.code, caught.value.message) == (code, "not today")

    run(scenario())


async def _raises(body: bytes) -> bytes:
    raise ValueError("the password is hunter2")


async def _answers_text(body: bytes) -> bytes:
    return "the password is hunter2"  # type: ignore[return-value]


async def _answers_too_much(body: bytes) -> bytes:
    return bytes(BODY_BYTES_MAX + 1)


async def _awaits_what_is_cancelled(body: bytes) -> bytes:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    future.cancel()
    return await future


@pytest.mark.parametrize(
    "handler", [_raises, _answers_text, _answers_too_much, _awaits_what_is_cancelled]
)
def test_a_fault_of_a_handler_is_logged_there_and_told_by_number(
    handler: Callable[[bytes], Coroutine[Any, Any, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    """A caller learns a number that the server's log has; never the exception's text."""

    async def scenario() -> None:
        async with server(ask=handler) as peer, client() as me:
            with pytest.raises(Refused) as caught:
                await me.call(peer.address, "ask", b"", timeout=SOON)

            text, number = caught.value.message.rsplit(" ", 1)
            assert caught.value.code == "INTERNAL"
            assert text == "internal error; the server's log has it under"
            assert number in caplog.text

    with caplog.at_level(logging.ERROR):
        run(scenario())


def test_an_unknown_method_is_refused() -> None:
    async def scenario() -> None:
        async with server() as peer, client() as me:
            assert await outcome(me.call(peer.address, "x", b"", timeout=SOON)) == "UNIMPLEMENTED"

    run(scenario())


def test_a_call_without_an_answer_is_unknown_at_its_deadline(go: Run) -> None:
    """And the work goes on: nobody may conclude that it did not happen."""

    async def scenario() -> None:
        gate = Gate()
        async with server(slow=gate) as peer, client() as me:
            loop = asyncio.get_running_loop()
            await outcome(me.call(peer.address, "x", b"", timeout=SOON))  # connects
            begun = loop.time()

            assert await outcome(me.call(peer.address, "slow", b"", timeout=0.1)) is Unknown

            assert 0.09 < loop.time() - begun < 1
            gate.open.set()
            await until(lambda: gate.ended)

    go(scenario())


def test_a_closed_port_is_unreachable_at_once(go: Run) -> None:
    async def scenario() -> None:
        async with client() as me:
            begun = asyncio.get_running_loop().time()

            assert await outcome(me.call(closed_port(), "echo", b"", timeout=SOON)) is Unreachable

            assert asyncio.get_running_loop().time() - begun < 1

    go(scenario())


def test_no_time_left_is_unreachable() -> None:
    async def scenario() -> None:
        async with server(echo=echo) as peer, client() as me:
            assert await outcome(me.call(peer.address, "echo", b"", timeout=0)) is Unreachable

    run(scenario())


def test_a_port_that_never_speaks_is_unreachable_at_the_deadline(go: Run) -> None:
    async def scenario() -> None:
        async with server(echo=echo) as peer, Wire(peer.address) as wire, client() as me:
            wire.stall()

            assert await outcome(me.call(wire.address, "echo", b"", timeout=0.3)) is Unreachable

            # The same connection attempt, or the next, serves once it can.
            wire.flow()
            assert await outcome(me.call(wire.address, "echo", b"a", timeout=SOON)) in (
                b"a",
                Unreachable,
            )

    go(scenario())


def test_without_a_hello_nothing_is_sent() -> None:
    """Unreachable is exact: the peer took the stream, and got no request before its hello."""
    seen: list[wire.Requests] = []

    async def silent(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while isinstance(raw := await context.read(), bytes):
            seen.append(wire.Requests.FromString(raw))

    async def scenario() -> None:
        async with fake(silent) as address, client() as me:
            assert await outcome(me.call(address, "echo", b"", timeout=0.3)) is Unreachable

            assert [bool(first.requests) for first in seen] == [False]
            assert seen[0].hello == wire.Hello(
                cluster=CLUSTER, version=1, sender="client", target=address
            )

    run(scenario())


def test_a_connection_lost_after_sending_is_unknown_at_once(go: Run) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with server(slow=gate) as peer, Wire(peer.address) as wire, client() as me:
            call = asyncio.create_task(outcome(me.call(wire.address, "slow", b"", timeout=SOON)))
            await until(lambda: gate.begun)

            wire.cut()

            async with asyncio.timeout(1):
                assert await call is Unknown
            gate.open.set()

    go(scenario())


def test_behind_a_full_window_nothing_was_sent() -> None:
    """The peer takes in nothing more: what still waits here is unreachable, the rest unknown."""

    async def scenario() -> None:
        async with server(echo=echo) as peer, Wire(peer.address) as wire, client() as me:
            await me.call(wire.address, "echo", b"", timeout=SOON)
            wire.stall()

            body = bytes(BODY_BYTES_MAX)
            ends = await asyncio.gather(
                *(outcome(me.call(wire.address, "echo", body, timeout=0.5)) for _ in range(8))
            )

            unknown = ends.count(Unknown)
            assert ends == [Unknown] * unknown + [Unreachable] * (8 - unknown)
            assert 1 <= unknown < 8

    run(scenario())


def test_a_peer_that_comes_back_is_reached_within_two_seconds(go: Run) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with client() as me:
            async with server(echo=echo) as peer:
                await me.call(peer.address, "echo", b"", timeout=SOON)
            down = loop.time()
            while loop.time() - down < 1.5:  # long enough for the back-off to grow
                end = await outcome(me.call(peer.address, "echo", b"", timeout=1))
                assert end is Unreachable
                await asyncio.sleep(0.05)
            async with server(address=peer.address, echo=echo):
                begun = loop.time()
                while await outcome(me.call(peer.address, "echo", b"", timeout=1)) != b"":  # noqa: ASYNC110 - paces itself
                    await asyncio.sleep(0.02)

                assert loop.time() - begun < 2

    go(scenario())


@pytest.mark.parametrize(
    ("limits", "bound"),
    [
        (PortLimits(connection_operations_max=2), "2 operations of one connection"),
        (PortLimits(connection_bytes_max=25), "25 bytes of one connection"),
        (PortLimits(node_operations_max=2), "2 operations of this node"),
    ],
)
def test_what_is_too_much_is_refused_with_a_hint(limits: PortLimits, bound: str) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with server(slow=gate, limits=limits) as peer, client() as me:
            taken = [
                asyncio.create_task(me.call(peer.address, "slow", bytes(10), timeout=SOON))
                for _ in range(2)
            ]
            await until(lambda: gate.begun == 2)

            with pytest.raises(Refused) as caught:
                await me.call(peer.address, "slow", bytes(10), timeout=SOON)

            assert caught.value.code == "RESOURCE_EXHAUSTED"
            assert (
                caught.value.message == f"{bound} are in flight; ask again in 100 ms, or elsewhere"
            )
            assert (peer.server.operations, peer.server.refused) == (2, 1)
            gate.open.set()
            assert await asyncio.gather(*taken) == [bytes(10)] * 2
            assert await me.call(peer.address, "slow", bytes(10), timeout=SOON) == bytes(10)
            await until(lambda: peer.server.operations == 0)

    run(scenario())


def test_a_large_body_alone_is_never_too_much() -> None:
    async def scenario() -> None:
        limits = PortLimits(connection_bytes_max=1)
        async with server(echo=echo, limits=limits) as peer, client() as me:
            assert await me.call(peer.address, "echo", b"large", timeout=SOON) == b"large"

    run(scenario())


def test_one_connection_more_than_the_bound_is_not_served() -> None:
    async def scenario() -> None:
        limits = PortLimits(connections_max=1)
        async with server(echo=echo, limits=limits) as peer, client() as me, client() as other:
            await me.call(peer.address, "echo", b"", timeout=SOON)

            end = await outcome(other.call(peer.address, "echo", b"", timeout=1))

            assert end is Unreachable
            assert await me.call(peer.address, "echo", b"a", timeout=SOON) == b"a"

    run(scenario())


def test_another_cluster_is_refused_with_both_ids() -> None:
    async def scenario() -> None:
        async with server(echo=echo) as peer, client(cluster=b"\xff" * 16) as stranger:
            with pytest.raises(Refused) as caught:
                await stranger.call(peer.address, "echo", b"", timeout=SOON)

            assert caught.value.code == "FAILED_PRECONDITION"
            assert caught.value.message == (
                f"cluster id mismatch: 'client' belongs to cluster {'ff' * 16}, "
                f"'server' to cluster {CLUSTER.hex()}"
            )

    run(scenario())


def test_another_version_is_refused_by_the_server_with_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with server() as peer, grpc.aio.insecure_channel(peer.address) as channel:
            stream: Any = channel.stream_stream(EXCHANGE)()
            hello = wire.Hello(cluster=CLUSTER, version=7, sender="newer")
            await stream.write(wire.Requests(hello=hello).SerializeToString())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()

            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == (
                "protocol version mismatch: 'newer' speaks version 7, 'server' speaks version 1"
            )

    run(scenario())


def test_another_version_is_refused_by_the_client_with_both() -> None:
    """A server of another version may not check; we do, before anything is sent."""

    async def lax(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.read()
        hello = wire.Hello(cluster=CLUSTER, version=0, sender="older")
        await context.write(wire.Answers(hello=hello).SerializeToString())
        await context.read()

    async def scenario() -> None:
        async with fake(lax) as address, client() as me:
            with pytest.raises(
                Refused, match="'older' speaks version 0, 'client' speaks version 1"
            ):
                await me.call(address, "echo", b"", timeout=SOON)

    run(scenario())


def test_a_port_in_use_is_told_by_type() -> None:
    async def scenario() -> None:
        async with server(echo=echo) as peer:
            second = GrpcTransport(CLUSTER, "second", address=peer.address)
            with pytest.raises(AddressInUse, match=peer.address):
                await second.start()
            everywhere = Address("0.0.0.0:" + peer.address.rpartition(":")[2])
            third = GrpcTransport(CLUSTER, "third", address=everywhere)
            with pytest.raises(AddressInUse):
                await third.start()
            await asyncio.gather(second.close(), third.close())

    run(scenario())


@pytest.mark.parametrize("address", ["", "7000", "host", "127.0.0.1:65536", "a:b", "192.0.2.1:0"])
def test_an_address_that_cannot_be_is_told(address: str) -> None:
    async def scenario() -> None:
        transport = GrpcTransport(CLUSTER, "me", address=Address(address))
        with pytest.raises(CannotListen):
            await transport.start()
        await transport.close()

    run(scenario())


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 4096,
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ],
    ids=["zeros", "TLS", "HTTP/1.1", "Redis"],
)
def test_garbage_is_hung_up_on_and_hurts_nobody(garbage: bytes) -> None:
    async def scenario() -> None:
        async with server(echo=echo) as peer, client() as me:
            host, _, port = peer.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(garbage)
            writer.write_eof()
            async with asyncio.timeout(10):
                try:
                    while await reader.read(4096):
                        pass
                except ConnectionResetError:
                    pass  # hung up, too
            writer.close()

            assert await me.call(peer.address, "echo", b"a", timeout=SOON) == b"a"

    run(scenario())


HELLO = wire.Requests(hello=wire.Hello(cluster=CLUSTER, version=1)).SerializeToString()


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([b"\xff\xff\xff"], "the first message is broken"),
        ([b""], "the first message has no hello"),
        ([HELLO, b"\xff\xff\xff"], "a message is broken"),
        (
            [HELLO, wire.Requests(requests=[wire.Request()] * 1025).SerializeToString()],
            "1025 requests in one message",
        ),
    ],
)
def test_who_breaks_the_protocol_loses_the_stream(messages: list[bytes], text: str) -> None:
    assert PACK_ITEMS_MAX == 1024

    async def scenario() -> None:
        async with server(echo=echo) as peer, grpc.aio.insecure_channel(peer.address) as channel:
            stream: Any = channel.stream_stream(EXCHANGE)()
            for message in messages:
                await stream.write(message)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await stream.read() is not grpc.aio.EOF:
                    pass

            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == text

    run(scenario())


@pytest.mark.parametrize(
    "answers",
    [b"\xff\xff\xff", wire.Answers(answers=[wire.Answer(id=99)] * 2).SerializeToString()],
    ids=["a broken message ends the connection", "an answer to nobody is dropped"],
)
def test_a_peer_that_answers_nonsense_makes_no_call_succeed(answers: bytes) -> None:
    async def mad(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.read()
        hello = handshake.Identity(CLUSTER, "mad").hello()
        await context.write(wire.Answers(hello=hello).SerializeToString())
        await context.read()
        await context.write(answers)
        await context.read()

    async def scenario() -> None:
        async with fake(mad) as address, client() as me:
            assert await outcome(me.call(address, "echo", b"", timeout=0.3)) is Unknown

    run(scenario())


def test_a_body_may_have_four_mebibytes_and_no_byte_more() -> None:
    async def scenario() -> None:
        async with server(echo=echo) as peer, client() as me:
            largest = bytes(BODY_BYTES_MAX)
            assert await me.call(peer.address, "echo", largest, timeout=SOON) == largest

            with pytest.raises(Refused, match="INVALID_ARGUMENT: a body of 4194305 bytes"):
                await me.call(peer.address, "echo", largest + b"x", timeout=SOON)

            assert await me.call(peer.address, "echo", b"a", timeout=SOON) == b"a"

    run(scenario())


def test_a_caller_that_gives_up_does_not_stop_the_work(go: Run) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with server(slow=gate) as peer, client() as me:
            call = asyncio.create_task(me.call(peer.address, "slow", b"", timeout=SOON))
            await until(lambda: gate.begun)

            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await me.close()
            gate.open.set()

            await until(lambda: gate.ended == 1)
            await until(lambda: peer.server.operations == 0)

    go(scenario())


def test_giving_up_a_thousand_times_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        begun = ended = 0

        async def brief(body: bytes) -> bytes:
            nonlocal begun, ended
            begun += 1
            await asyncio.sleep(0)
            ended += 1
            return body

        async with server(brief=brief) as peer, client() as me:
            await me.call(peer.address, "brief", b"", timeout=SOON)
            for turns in range(1000):
                call = asyncio.create_task(me.call(peer.address, "brief", b"", timeout=SOON))
                for _ in range(turns % 10):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            assert await me.call(peer.address, "brief", b"last", timeout=SOON) == b"last"
            await until(lambda: peer.server.operations == 0)
            assert begun == ended

    run(scenario())


def test_closing_lets_what_runs_be_answered_and_takes_on_nothing(go: Run) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with server(slow=gate, close_grace_seconds=SOON) as peer, client() as me:
            running = asyncio.create_task(me.call(peer.address, "slow", b"last", timeout=SOON))
            await until(lambda: gate.begun)

            closing = asyncio.create_task(peer.close())
            await asyncio.sleep(0)
            refused = await outcome(me.call(peer.address, "slow", b"", timeout=SOON))
            gate.open.set()
            await closing

            assert refused is Unreachable  # not begun: safe to ask elsewhere
            assert await running == b"last"
            assert gate.begun == 1

    go(scenario())


def test_closing_waits_no_longer_than_its_grace(go: Run) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with server(slow=gate, close_grace_seconds=0.1) as peer, client() as me:
            call = asyncio.create_task(outcome(me.call(peer.address, "slow", b"", timeout=SOON)))
            await until(lambda: gate.begun)

            async with asyncio.timeout(2):
                await peer.close()

            assert await call is Unknown
            assert gate.ended == 0

    go(scenario())


def test_closing_ones_own_end_ends_its_calls() -> None:
    async def scenario() -> None:
        gate = Gate()
        async with server(slow=gate) as peer, client() as me:
            call = asyncio.create_task(outcome(me.call(peer.address, "slow", b"", timeout=SOON)))
            await until(lambda: gate.begun)

            await me.close()

            assert await call is Unknown
            assert await outcome(me.call(peer.address, "slow", b"", timeout=SOON)) is Unreachable
            gate.open.set()

    run(scenario())


def test_a_node_can_call_itself() -> None:
    async def scenario() -> None:
        async with server(echo=echo, address=LOOPBACK) as me:
            assert await me.call(me.address, "echo", b"a", timeout=SOON) == b"a"

    run(scenario())


class fake:
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
