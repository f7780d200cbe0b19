"""What every transport keeps to: the simulated network and gRPC.

To add an adapter, write a `Bench` for it and give it a line in `BENCHES`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest

from labrpc.errors import Refused, RpcError, Unknown, Unreachable
from labrpc.grpc.transport import GrpcTransport
from labrpc.limits import BODY_BYTES_MAX, CHANNEL_QUEUED_BYTES_MAX
from labrpc.sim.chance import Chance
from labrpc.sim.loop import run as run_virtually
from labrpc.sim.network import SimNetwork
from labrpc.transport import Address, Transport
from tests.support import wire

Scenario = Callable[["Bench"], Coroutine[Any, Any, None]]
Setup = Callable[[Transport], None]

SOON = 5.0


class Bench(Protocol):
    """A network on which a scenario can start processes."""

    async def start(self, setup: Setup = lambda _: None) -> tuple[Address, Transport]:
        """Start a process that listens; `setup` is run before it does."""
        ...

    def nowhere(self) -> Address:
        """An address at which nobody listens."""
        ...


class SimBench:
    def __init__(self, _: AsyncExitStack) -> None:
        self._network = SimNetwork(Chance(1))
        self._started = 0

    async def start(self, setup: Setup = lambda _: None) -> tuple[Address, Transport]:
        self._started += 1
        transport = self._network.transport(Address(f"p{self._started}"))
        setup(transport)
        return transport.address, transport

    def nowhere(self) -> Address:
        return Address("nowhere")


class GrpcBench:
    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def start(self, setup: Setup = lambda _: None) -> tuple[Address, Transport]:
        transport = GrpcTransport(wire.CLUSTER, "p", address=wire.LOOPBACK, close_grace_seconds=0.3)
        setup(transport)
        await transport.start()
        self._stack.push_async_callback(transport.close)
        return transport.address, transport

    def nowhere(self) -> Address:
        return wire.closed_port()


BENCHES: dict[str, tuple[Callable[[AsyncExitStack], Bench], Callable[..., None]]] = {
    "sim": (SimBench, run_virtually),
    "grpc": (GrpcBench, wire.run),
}


@pytest.fixture(params=sorted(BENCHES))
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario on one adapter, on the loop that it needs."""
    make, run = BENCHES[request.param]

    async def on_a_bench(scenario: Scenario) -> None:
        async with AsyncExitStack() as stack:
            await scenario(make(stack))

    return lambda scenario: run(on_a_bench(scenario))


Play = Callable[[Scenario], None]


async def echo(body: bytes) -> bytes:
    return body


def echoes(transport: Transport) -> None:
    transport.serve("echo", echo)


async def outcome(call: Coroutine[Any, Any, bytes]) -> bytes | type[RpcError] | str:
    """The answer, the code of a refusal, or the type of the failure."""
    try:
        return await call
    except Refused as error:
        return error.code
    except RpcError as error:
        return type(error)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110 - one poll for both adapters
            await asyncio.sleep(0.001)


def test_a_call_brings_the_answer(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start(echoes)
        _, me = await bench.start()

        assert await me.call(there, "echo", b"abc", timeout=SOON) == b"abc"
        assert await me.call(there, "echo", b"", timeout=SOON) == b""

    play(scenario)


def test_many_calls_at_once_each_get_their_own_answer(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start(echoes)
        _, me = await bench.start()
        bodies = [b"%d" % number for number in range(100)]

        calls = [me.call(there, "echo", body, timeout=SOON) for body in bodies]

        assert await asyncio.gather(*calls) == bodies

    play(scenario)


def test_a_slow_call_holds_up_no_other(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        gate = asyncio.Event()

        async def slow(body: bytes) -> bytes:
            await gate.wait()
            return body

        def setup(transport: Transport) -> None:
            transport.serve("slow", slow)
            echoes(transport)

        there, _ = await bench.start(setup)
        _, me = await bench.start()

        waiting = asyncio.ensure_future(me.call(there, "slow", b"s", timeout=SOON))
        assert await me.call(there, "echo", b"e", timeout=SOON) == b"e"
        gate.set()
        assert await waiting == b"s"

    play(scenario)


def test_a_process_can_call_itself(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        here, me = await bench.start(echoes)

        assert await me.call(here, "echo", b"a", timeout=SOON) == b"a"

    play(scenario)


def test_nobody_there_is_unreachable(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        _, me = await bench.start()

        assert await outcome(me.call(bench.nowhere(), "echo", b"", timeout=SOON)) is Unreachable

    play(scenario)


def test_no_time_left_is_unreachable(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start(echoes)
        _, me = await bench.start()

        assert await outcome(me.call(there, "echo", b"", timeout=0)) is Unreachable

    play(scenario)


def test_an_unknown_method_is_refused(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start(echoes)
        _, me = await bench.start()

        assert await outcome(me.call(there, "nothing", b"", timeout=SOON)) == "UNIMPLEMENTED"

    play(scenario)


def test_a_refusal_keeps_its_code_and_text(play: Play) -> None:
    async def refuses(_: bytes) -> bytes:
        raise Refused("FAILED_PRECONDITION", "not today")

    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start(lambda transport: transport.serve("ask", refuses))
        _, me = await bench.start()

        with pytest.raises(Refused) as caught:
            await me.call(there, "ask", b"", timeout=SOON)

        assert (caught.value.code, caught.value.message) == ("FAILED_PRECONDITION", "not today")

    play(scenario)


def test_a_handlers_own_fault_is_told_without_its_text(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(_: bytes) -> bytes:
        raise ValueError("a secret")

    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start(lambda transport: transport.serve("ask", fails))
        _, me = await bench.start()

        with pytest.raises(Refused) as caught:
            await me.call(there, "ask", b"", timeout=SOON)

        assert caught.value.code == "INTERNAL"
        assert "secret" not in caught.value.message

    with caplog.at_level(logging.ERROR):
        play(scenario)
    assert "a secret" in caplog.text


def test_no_answer_in_time_is_unknown_and_the_work_goes_on(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        gate, ended = asyncio.Event(), asyncio.Event()

        async def slow(body: bytes) -> bytes:
            await gate.wait()
            ended.set()
            return body

        there, _ = await bench.start(lambda transport: transport.serve("slow", slow))
        _, me = await bench.start()

        assert await outcome(me.call(there, "slow", b"", timeout=0.3)) is Unknown
        gate.set()
        async with asyncio.timeout(SOON):
            await ended.wait()

    play(scenario)


def test_the_server_going_away_makes_a_running_call_unknown(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        begun = asyncio.Event()

        async def endless(_: bytes) -> bytes:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

        there, peer = await bench.start(lambda transport: transport.serve("wait", endless))
        _, me = await bench.start()

        call = asyncio.ensure_future(outcome(me.call(there, "wait", b"", timeout=60)))
        await begun.wait()
        await peer.close()

        assert await call is Unknown
        assert await outcome(me.call(there, "wait", b"", timeout=SOON)) is Unreachable

    play(scenario)


def test_closing_lets_what_runs_be_answered(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        begun = asyncio.Event()

        async def brief(body: bytes) -> bytes:
            begun.set()
            await asyncio.sleep(0.05)
            return body

        there, peer = await bench.start(lambda transport: transport.serve("brief", brief))
        _, me = await bench.start()

        call = asyncio.ensure_future(me.call(there, "brief", b"a", timeout=SOON))
        await begun.wait()
        await peer.close()
        await peer.close()  # twice is once

        assert await call == b"a"

    play(scenario)


def test_closing_ones_own_end_ends_its_calls(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        begun, gate = asyncio.Event(), asyncio.Event()

        async def slow(body: bytes) -> bytes:
            begun.set()
            await gate.wait()
            return body

        there, _ = await bench.start(lambda transport: transport.serve("slow", slow))
        _, me = await bench.start()

        call = asyncio.ensure_future(outcome(me.call(there, "slow", b"", timeout=60)))
        await begun.wait()
        await me.close()

        assert await call is Unknown
        assert await outcome(me.call(there, "slow", b"", timeout=SOON)) is Unreachable
        gate.set()

    play(scenario)


def test_a_body_may_be_of_the_largest_size_and_no_byte_more(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start(echoes)
        _, me = await bench.start()
        body = bytes(BODY_BYTES_MAX)

        assert await me.call(there, "echo", body, timeout=SOON) == body
        too_much = me.call(there, "echo", body + b"x", timeout=SOON)
        assert await outcome(too_much) == "INVALID_ARGUMENT"

    play(scenario)


def test_frames_arrive_once_and_in_the_order_sent(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        got: list[bytes] = []
        there, _ = await bench.start(lambda transport: transport.listen(got.append))
        _, me = await bench.start()
        channel = me.channel(there)
        frames = [b"%d" % number for number in range(500)]

        for number, frame in enumerate(frames):
            assert channel.send(frame)
            if number % 50 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: len(got) >= len(frames))

        assert got == frames

    play(scenario)


def test_the_same_arguments_give_the_same_channel(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start()
        _, me = await bench.start()

        assert me.channel(there) is me.channel(there)
        assert me.channel(there, bulk=True) is me.channel(there, bulk=True)
        assert me.channel(there) is not me.channel(there, bulk=True)

    play(scenario)


def test_both_kinds_of_channel_reach_the_same_listener(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        got: list[bytes] = []
        there, _ = await bench.start(lambda transport: transport.listen(got.append))
        _, me = await bench.start()

        assert me.channel(there).send(b"frame")
        assert me.channel(there, bulk=True).send(b"bulk")
        await until(lambda: len(got) == 2)

        assert sorted(got) == [b"bulk", b"frame"]

    play(scenario)


def test_a_frame_too_large_or_too_many_is_dropped_and_room_comes_back(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        got: list[int] = []
        there, _ = await bench.start(
            lambda transport: transport.listen(lambda frame: got.append(len(frame)))
        )
        _, me = await bench.start()
        channel = me.channel(there)

        assert not channel.send(bytes(BODY_BYTES_MAX + 1))
        frame = bytes(BODY_BYTES_MAX)
        sent = 0
        while channel.send(frame):  # without a pause nothing can leave
            sent += 1
        assert sent * len(frame) <= CHANNEL_QUEUED_BYTES_MAX + len(frame)
        assert channel.queued_bytes <= CHANNEL_QUEUED_BYTES_MAX
        async with asyncio.timeout(SOON):
            await channel.drained()
        assert channel.queued_bytes * 2 < CHANNEL_QUEUED_BYTES_MAX
        assert channel.send(b"more")
        await until(lambda: got and got[-1] == 4)

        assert got == [len(frame)] * sent + [4]
        assert channel.queued_bytes == 0

    play(scenario)


def test_with_room_to_spare_drained_returns_at_once(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start()
        _, me = await bench.start()

        await me.channel(there).drained()

    play(scenario)


def test_frames_to_nobody_are_lost_and_not_an_error(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        _, me = await bench.start()
        channel = me.channel(bench.nowhere())

        channel.send(b"a")
        async with asyncio.timeout(SOON):
            while channel.send(b"b"):  # noqa: ASYNC110 - until the channel knows
                await asyncio.sleep(0.05)

    play(scenario)


def test_after_closing_every_frame_is_dropped(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        there, _ = await bench.start()
        _, me = await bench.start()
        used = me.channel(there)
        used.send(b"a")

        await me.close()

        assert not used.send(b"b")
        assert not me.channel(there, bulk=True).send(b"b")

    play(scenario)
