"""Calls over gRPC: every way in which one can end, on real sockets."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc.aio
import pytest
import uvloop

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.grpc import wire_pb2 as wire
from labrpc.grpc.diagnosis import in_short
from labrpc.limits import BODY_BYTES_MAX
from tests.support.wire import (
    CLUSTER,
    LOOPBACK,
    SOON,
    Fake,
    Gate,
    Wire,
    client,
    closed_port,
    echo,
    outcome,
    run,
    server,
    until,
)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Run:
    return lambda scenario: run(scenario, request.param)


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


def test_who_is_not_there_is_told_in_the_systems_words(go: Run) -> None:
    address = closed_port()

    async def scenario() -> None:
        async with client() as me:
            with pytest.raises(Unreachable) as caught:
                await me.call(address, "echo", b"", timeout=SOON)
        assert str(caught.value) == f"{address} cannot be reached: Connection refused"

    go(scenario())
    other = "last error: UNKNOWN: ipv4:10.0.0.1:7400: Failed to connect to remote host: connect: "
    other += "No route to host (113)"
    assert in_short("UNAVAILABLE", other) == "No route to host"
    assert in_short("UNAVAILABLE", "Socket closed") == "UNAVAILABLE: Socket closed"


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
        async with Fake(silent) as address, client() as me:
            assert await outcome(me.call(address, "echo", b"", timeout=0.3)) is Unreachable

            assert [bool(first.requests) for first in seen] == [False]
            assert seen[0].hello == wire.Hello(
                cluster=CLUSTER, version=1, sender="client", target=address, oldest=1
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
            ends = []
            while loop.time() - down < 1.5:  # long enough for the back-off to grow
                ends.append(await outcome(me.call(peer.address, "echo", b"", timeout=1)))
                await asyncio.sleep(0.05)
            # The first may have been handed to a connection whose end was still unheard of here.
            assert ends[0] in (Unknown, Unreachable)
            assert set(ends[1:]) == {Unreachable}
            async with server(address=peer.address, echo=echo):
                begun = loop.time()
                while await outcome(me.call(peer.address, "echo", b"", timeout=1)) != b"":  # noqa: ASYNC110 - paces itself
                    await asyncio.sleep(0.02)

                assert loop.time() - begun < 2

    go(scenario())


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
