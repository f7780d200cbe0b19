"""Who and what a port lets in: bounds, strangers, garbage, and a port that is taken."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from labrpc.errors import AddressInUse, CannotListen, Refused, Unknown, Unreachable
from labrpc.grpc import handshake
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.client import EXCHANGE
from labrpc.grpc.transport import GrpcTransport
from labrpc.limits import BODY_BYTES_MAX, PACK_ITEMS_MAX, PortLimits
from labrpc.transport import Address
from tests.support.wire import (
    CLUSTER,
    SOON,
    Fake,
    Gate,
    client,
    echo,
    outcome,
    run,
    server,
    until,
)


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


@pytest.mark.parametrize(
    ("oldest", "newest", "said"),
    [
        pytest.param(1, 2, "", id="the next version still speaks ours"),
        pytest.param(0, 1, "", id="a partner that names no oldest one speaks one version"),
        pytest.param(2, 3, "speaks versions 2 to 3, ", id="two versions on, ours is forgotten"),
        pytest.param(0, 2, "speaks version 2, ", id="only the next one"),
        pytest.param(0, 0, "speaks version 0, ", id="one before ours"),
    ],
)
def test_partners_need_one_version_that_both_speak(oldest: int, newest: int, said: str) -> None:
    hello = wire.Hello(cluster=CLUSTER, version=newest, oldest=oldest, sender="other")
    reason = handshake.Identity(CLUSTER, "me").mismatch(hello)
    if said:
        assert reason == f"protocol version mismatch: 'other' {said}'me' speaks version 1"
    else:
        assert reason is None


def test_a_newer_one_that_forgot_nothing_lets_us_in(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = handshake.Identity(CLUSTER, "old").hello()
    monkeypatch.setattr(handshake, "PROTOCOL_VERSION", 2)
    newer = handshake.Identity(CLUSTER, "new")
    assert newer.mismatch(ours) is None
    monkeypatch.setattr(handshake, "PROTOCOL_OLDEST", 2)
    assert newer.mismatch(ours) == (
        "protocol version mismatch: 'old' speaks version 1, 'new' speaks version 2"
    )


def test_a_stranger_with_a_long_name_is_refused_all_the_same() -> None:
    """The text is a header of gRPC's, and those have a bound of their own."""

    async def scenario() -> None:
        async with server() as peer, grpc.aio.insecure_channel(peer.address) as channel:
            stream: Any = channel.stream_stream(EXCHANGE)()
            hello = wire.Hello(cluster=bytes(100_000), version=1, sender="\n" * 1_000_000)
            await stream.write(wire.Requests(hello=hello).SerializeToString())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()

            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert len(caught.value.details() or "") < 512

    run(scenario())


def test_another_version_is_refused_by_the_client_with_both() -> None:
    """A server of another version may not check; we do, before anything is sent."""

    async def lax(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.read()
        hello = wire.Hello(cluster=CLUSTER, version=0, sender="older")
        await context.write(wire.Answers(hello=hello).SerializeToString())
        await context.read()

    async def scenario() -> None:
        async with Fake(lax) as address, client() as me:
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
        async with Fake(mad) as address, client() as me:
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
