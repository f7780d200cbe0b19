"""Channels over gRPC: ordered while they live, dropped rather than blocked, dialled again."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc.aio
import pytest
import uvloop

from labrpc.errors import Unreachable
from labrpc.grpc import diagnosis, transport
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.channel import FEED, PeerChannel
from labrpc.limits import BODY_BYTES_MAX
from labrpc.transport import Address
from tests.support.wire import CLUSTER, SOON, Wire, client, closed_port, run, server, until

Run = Callable[[Coroutine[Any, Any, None]], None]
KIB = 1024


@pytest.fixture(params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Run:
    return lambda scenario: run(scenario, request.param)


def number(n: int, size: int = 8) -> bytes:
    return n.to_bytes(8, "big").ljust(size, b"\0")


def test_frames_arrive_in_the_order_sent(go: Run) -> None:
    async def scenario() -> None:
        got: list[bytes] = []
        async with server() as peer, client() as me:
            peer.listen(got.append)
            channel = me.channel(peer.address)
            # Of very different sizes, so that they are packed in many ways.
            frames = [number(n, 8 + n * 997 % 70_000) for n in range(2000)]

            for n, frame in enumerate(frames):
                while not channel.send(frame):
                    await channel.drained()
                if n % 100 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(got) == len(frames))

            assert got == frames
            assert channel.queued_bytes == 0

    go(scenario())


def test_the_same_arguments_give_the_same_channel() -> None:
    async def scenario() -> None:
        async with client() as me:
            a, b = Address("127.0.0.1:1"), Address("127.0.0.1:2")

            assert me.channel(a) is me.channel(a)
            assert len({me.channel(a), me.channel(b), me.channel(a, bulk=True)}) == 3

    run(scenario())


def test_a_peer_that_takes_nothing_in_costs_frames_and_never_time(go: Run) -> None:
    """A stopped process: the queue fills up to its bound, then frames are dropped."""

    async def scenario() -> None:
        got: list[bytes] = []
        bound = 512 * KIB
        async with (
            server() as peer,
            Wire(peer.address) as wire,
            client(channel_queued_bytes_max=bound) as me,
        ):
            peer.listen(got.append)
            channel = me.channel(wire.address)
            assert channel.send(number(0))
            await until(lambda: got)
            wire.stall()

            sent = 0
            while channel.send(number(1 + sent, 16 * KIB)):
                sent += 1
                await asyncio.sleep(0)
                assert channel.queued_bytes <= bound
                assert sent < 10_000

            waiting = asyncio.create_task(channel.drained())
            await asyncio.sleep(0)
            assert not waiting.done()
            wire.flow()
            async with asyncio.timeout(SOON):
                await waiting
            assert channel.queued_bytes < bound / 2
            await until(lambda: len(got) == 1 + sent)
            assert [int.from_bytes(frame[:8], "big") for frame in got] == list(range(1 + sent))
            assert channel.frames_dropped == 1

    go(scenario())


def test_a_lost_connection_is_dialled_again_and_what_waited_is_gone(go: Run) -> None:
    async def scenario() -> None:
        got: list[bytes] = []
        async with server() as peer, Wire(peer.address) as wire, client() as me:
            peer.listen(got.append)
            channel = me.channel(wire.address)
            channel.send(b"first")
            await until(lambda: got == [b"first"])
            wire.stall()
            assert channel.send(b"lost" * 50_000)
            await asyncio.sleep(0)

            wire.cut()
            await until(lambda: not channel.connected)
            assert not channel.send(b"dropped")
            wire.flow()

            await until(lambda: channel.send(b"again"))
            await until(lambda: len(got) == 2)
            assert got == [b"first", b"again"]

    go(scenario())


def test_a_peer_that_comes_back_hears_frames_within_two_seconds(go: Run) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        got: list[bytes] = []
        async with client() as me:
            async with server() as peer:
                peer.listen(got.append)
                channel = me.channel(peer.address)
                channel.send(b"first")
                await until(lambda: got)
            await until(lambda: not channel.connected)
            down = loop.time()
            await until(lambda: loop.time() > down + 1.5)  # the back-off grows

            async with server(address=peer.address) as back:
                back.listen(got.append)
                begun = loop.time()
                await until(lambda: channel.send(b"again"))
                await until(lambda: got == [b"first", b"again"])

                assert loop.time() - begun < 2

    go(scenario())


def test_nobody_there_costs_what_was_queued_within_a_second() -> None:
    async def scenario() -> None:
        async with client() as me:
            channel = me.channel(closed_port())
            assert channel.send(b"early")
            assert channel.queued_bytes == 5

            await until(lambda: channel.queued_bytes == 0)

            assert not channel.send(b"late")
            assert channel.frames_dropped == 2
            async with asyncio.timeout(1):
                await channel.drained()

    run(scenario())


def test_a_waiter_for_room_is_told_when_the_connection_is_lost() -> None:
    async def scenario() -> None:
        async with (
            server() as peer,
            Wire(peer.address) as wire,
            client(channel_queued_bytes_max=64 * KIB) as me,
        ):
            channel = me.channel(wire.address)
            channel.send(b"a")
            await until(lambda: channel.connected)
            wire.stall()
            await until(lambda: not channel.send(bytes(16 * KIB)))
            waiting = asyncio.create_task(channel.drained())
            await asyncio.sleep(0)
            assert not waiting.done()

            wire.cut()

            async with asyncio.timeout(SOON):
                await waiting
            assert channel.queued_bytes == 0

    run(scenario())


def test_a_frame_may_have_four_mebibytes_and_no_byte_more() -> None:
    async def scenario() -> None:
        got: list[bytes] = []
        async with server() as peer, client() as me:
            peer.listen(got.append)
            channel = me.channel(peer.address)

            assert channel.send(bytes(BODY_BYTES_MAX))
            assert not channel.send(bytes(BODY_BYTES_MAX + 1))
            assert channel.send(b"next")

            await until(lambda: len(got) == 2)
            assert [len(frame) for frame in got] == [BODY_BYTES_MAX, 4]

    run(scenario())


def test_bulk_frames_have_a_connection_of_their_own(go: Run) -> None:
    """Calls and small frames share one; a bulk channel that stands still delays neither."""

    async def echo(body: bytes) -> bytes:
        return body

    async def scenario() -> None:
        got: list[bytes] = []
        async with server(echo=echo) as peer, Wire(peer.address) as wire, client() as me:
            peer.listen(got.append)
            await me.call(wire.address, "echo", b"", timeout=SOON)
            me.channel(wire.address).send(b"small")
            await until(lambda: len(got) == 1)
            assert wire.connections == 1

            me.channel(wire.address, bulk=True).send(b"bulk")
            await until(lambda: len(got) == 2)
            assert wire.connections == 2

    go(scenario())


def test_a_frame_that_its_handler_cannot_take_costs_only_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    got: list[bytes] = []

    def handler(frame: bytes) -> None:
        if frame == b"bad":
            raise ValueError(frame)
        got.append(frame)

    async def scenario() -> None:
        async with server() as peer, client() as me:
            peer.listen(handler)
            for frame in (b"1", b"bad", b"2"):
                me.channel(peer.address).send(frame)
            await until(lambda: got == [b"1", b"2"])
            assert peer.frames == {"sent": 0, "dropped": 0, "received": 3, "failed": 1}
            assert me.frames == {"sent": 3, "dropped": 0}

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert "a frame of 3 bytes could not be handled" in caplog.text


def test_another_cluster_hears_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        got: list[bytes] = []
        async with server() as peer, client(cluster=b"\xff" * 16) as stranger:
            peer.listen(got.append)
            channel = stranger.channel(peer.address)
            channel.send(b"a")
            await until(lambda: channel.frames_dropped == 1)
            assert not channel.connected
            assert got == []

    run(scenario())
    assert f"'client' belongs to cluster {'ff' * 16}" in caplog.text


def test_a_stream_with_too_many_frames_in_a_message_is_ended() -> None:
    async def scenario() -> None:
        got: list[bytes] = []
        async with server() as peer, grpc.aio.insecure_channel(peer.address) as connection:
            peer.listen(got.append)
            stream: Any = connection.stream_stream(FEED)()
            hello = wire.Hello(cluster=CLUSTER, version=1)
            await stream.write(wire.Frames(hello=hello).SerializeToString())
            await stream.write(wire.Frames(frames=[b""] * 1025).SerializeToString())
            with pytest.raises(grpc.aio.AioRpcError, match="1025 frames in one message"):
                while await stream.read() is not grpc.aio.EOF:
                    pass
            assert got == []

    run(scenario())


def test_after_closing_every_frame_is_dropped() -> None:
    async def scenario() -> None:
        async with server() as peer, client() as me:
            used, unused = me.channel(peer.address), me.channel(peer.address, bulk=True)
            used.send(b"a")
            await until(lambda: used.connected)

            await me.close()

            fresh: PeerChannel = me.channel(Address("127.0.0.1:1"))
            assert [channel.send(b"b") for channel in (used, unused, fresh)] == [False] * 3

    run(scenario())


def test_a_mistake_at_this_end_costs_a_dial_and_not_the_peer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody awaits what holds a channel: if it ended, the peer would hear nothing ever again."""

    async def scenario() -> None:
        got: list[bytes] = []
        async with server() as peer, client() as me:
            peer.listen(got.append)
            channel = me.channel(peer.address)
            dial = channel._connection

            def breaks() -> grpc.aio.Channel:
                channel._connection = dial
                raise RuntimeError("a mistake")

            channel._connection = breaks
            channel.send(b"lost")
            await until(lambda: channel.connected)

            assert channel.send(b"arrives")
            await until(lambda: got == [b"arrives"])

    run(scenario())
    assert "it is dialled again" in caplog.text


def test_who_is_away_and_not_spoken_to_is_dialled_no_more(
    go: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes leave for good; who was dialled once must not be dialled for ever."""
    monkeypatch.setattr(diagnosis, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(transport, "UNUSED_SECONDS", 0.1)

    async def scenario() -> None:
        got: list[bytes] = []
        away, missed = closed_port(), closed_port()
        async with server() as me, server() as peer:
            peer.listen(got.append)
            channel = me.channel(peer.address)
            channel.send(b"a")
            me.channel(away).send(b"a")
            with pytest.raises(Unreachable):
                await me.call(away, "echo", b"", timeout=SOON)

            def let_go() -> bool:
                me.channel(missed).send(b"a")  # which does not let it be
                return (away, False) not in me._connections and me._replaced == []

            await until(let_go)

            assert set(me._channels) == {(peer.address, False), (missed, False)}
            assert away not in me._calls
            assert me.channel(peer.address) is channel and channel.connected
            async with server(address=away) as back:
                back.listen(got.append)
                await until(lambda: me.channel(away).send(b"b") and b"b" in got)

    go(scenario())
