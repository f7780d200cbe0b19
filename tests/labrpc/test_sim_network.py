"""The simulated network's faults; what it shares with gRPC is in tests/conformance."""

import asyncio
from collections.abc import Callable

import pytest

from labrpc.errors import AddressInUse, RpcError, Unknown, Unreachable
from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labrpc.sim.network import GARBAGE_BYTES_MAX, HEALTHY, Faults, SimNetwork, SimTransport
from labrpc.transport import Address

A, B, C = Address("a"), Address("b"), Address("c")


async def echo(body: bytes) -> bytes:
    return body


def pair(network: SimNetwork) -> tuple[SimTransport, SimTransport, list[bytes]]:
    """Two processes; the second echoes calls and keeps frames."""
    got: list[bytes] = []
    a, b = network.transport(A), network.transport(B)
    b.serve("echo", echo)
    b.listen(got.append)
    return a, b, got


async def outcome(call: "asyncio.Future[bytes] | object") -> type[RpcError] | bytes:
    try:
        return await call  # type: ignore[no-any-return, misc]
    except RpcError as error:
        return type(error)


async def ask(transport: SimTransport, to: Address = B) -> type[RpcError] | bytes:
    return await outcome(transport.call(to, "echo", b"x", timeout=1.0))


def test_a_hop_takes_half_a_millisecond_to_one_and_a_half() -> None:
    async def main() -> list[float]:
        a, _, _ = pair(SimNetwork(Chance(1)))
        loop = asyncio.get_running_loop()
        took: list[float] = []
        for _ in range(200):
            begun = loop.time()
            await a.call(B, "echo", b"", timeout=1.0)
            took.append(loop.time() - begun)
        return took

    took = run(main())

    assert 0.001 <= min(took) < 0.0013
    assert 0.0027 < max(took) < 0.0031


def test_a_link_without_delay_is_refused() -> None:
    with pytest.raises(ValueError, match="the clock never moves"):
        Faults(delay_seconds_min=0.0)
    with pytest.raises(ValueError, match="the clock never moves"):
        Faults(delay_seconds_min=0.002)


def test_two_processes_cannot_share_an_address() -> None:
    async def main() -> None:
        network = SimNetwork(Chance(1))
        network.transport(A)
        with pytest.raises(AddressInUse):
            network.transport(A)

    run(main())


def test_a_one_way_cut_loses_answers_but_not_requests() -> None:
    async def main() -> None:
        network = SimNetwork(Chance(1))
        a, _, got = pair(network)
        network.cut(B, A)

        assert await ask(a) is Unknown
        a.channel(B).send(b"f")
        await asyncio.sleep(0.1)
        assert got == [b"f"]

        network.mend(B, A)
        assert await ask(a) == b"x"

    run(main())


def test_a_cut_request_is_unreachable_or_unknown_and_never_answered() -> None:
    """Whether the caller could tell depends on whether it had a connection: both are met."""

    async def main() -> set[object]:
        network = SimNetwork(Chance(1))
        a, _, _ = pair(network)
        network.cut(A, B)
        return {await ask(a) for _ in range(20)}

    assert run(main()) == {Unreachable, Unknown}


def test_a_partition_cuts_between_its_sides_only() -> None:
    async def main() -> None:
        network = SimNetwork(Chance(1))
        processes = {name: network.transport(name) for name in (A, B, C)}
        for process in processes.values():
            process.serve("echo", echo)

        network.partition([A], [B, C])
        reached = [
            (source, target)
            for source, process in processes.items()
            for target in processes
            if await ask(process, target) == b"x"
        ]
        assert reached == [(A, A), (B, B), (B, C), (C, B), (C, C)]

        network.heal()
        assert await ask(processes[A], C) == b"x"
        network.isolate(C, processes)
        assert await ask(processes[A], B) == b"x"
        assert await ask(processes[A], C) in (Unknown, Unreachable)

    run(main())


def frames_through(faults: Faults, count: int = 1000) -> list[int]:
    """What arrives of `count` numbered frames, a millisecond apart."""

    async def main() -> list[int]:
        network = SimNetwork(Chance(7), faults)
        a, _, got = pair(network)
        channel = a.channel(B)
        for number in range(count):
            channel.send(b"%d" % number)
            await asyncio.sleep(0.001)
        await asyncio.sleep(10.0)
        return [int(frame) for frame in got]

    return run(main())


def test_loss_thins_the_frames_and_keeps_their_order() -> None:
    arrived = frames_through(HEALTHY.with_(loss=0.2))

    assert 700 < len(arrived) < 900
    assert arrived == sorted(set(arrived))


def test_duplication_brings_some_twice() -> None:
    arrived = frames_through(HEALTHY.with_(duplication=0.1))

    assert set(arrived) == set(range(1000))
    assert 1050 < len(arrived) < 1150


def test_reordering_lets_later_frames_overtake() -> None:
    arrived = frames_through(HEALTHY.with_(reordering=0.1))

    assert arrived != sorted(arrived)
    assert sorted(arrived) == list(range(1000))


def test_long_delays_hold_up_what_comes_behind() -> None:
    arrived = frames_through(HEALTHY.with_(long_delay=0.05))

    assert arrived == list(range(1000))


def test_a_slow_link_takes_its_time() -> None:
    async def main() -> float:
        network = SimNetwork(Chance(1), HEALTHY.with_(bytes_per_second=1000))
        a, _, got = pair(network)
        a.channel(B).send(bytes(5000))
        while not got:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time()

    assert 5.0 < run(main()) < 5.1


def test_faults_of_one_link_outlast_a_change_of_all_until_healed() -> None:
    async def main() -> None:
        network = SimNetwork(Chance(1))
        a, b, got = pair(network)
        a.serve("echo", echo)
        network.set_faults(HEALTHY.with_(loss=1.0), A, B)
        network.set_faults(HEALTHY.with_(loss=0.0))
        assert await ask(a) in (Unknown, Unreachable)
        network.heal()
        assert await ask(a) == b"x"
        network.set_faults(HEALTHY.with_(loss=1.0))
        a.channel(B).send(b"lost")
        await asyncio.sleep(1.0)
        assert got == [], "it is like any other link again"
        network.set_faults(HEALTHY)
        with pytest.raises(ValueError, match="both ends"):
            network.set_faults(HEALTHY, A)
        assert await ask(b, A) == b"x"

    run(main())


def test_a_crash_breaks_calls_and_cancels_handlers() -> None:
    async def main() -> None:
        network = SimNetwork(Chance(1))
        a, b, _ = pair(network)
        cancelled: list[bool] = []

        async def endless(_: bytes) -> bytes:
            try:
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        b.serve("echo", endless)
        call = asyncio.ensure_future(ask(a))
        await asyncio.sleep(0.01)
        network.crash(B)

        assert await call is Unknown
        assert asyncio.get_running_loop().time() < 0.02, "the reset is news, not a time-out"
        assert cancelled == [True]
        assert await ask(a) is Unreachable

    run(main())


def test_a_crash_loses_what_was_on_its_way_to_the_crashed_and_nothing_else() -> None:
    async def main() -> None:
        network = SimNetwork(Chance(1))
        a, b, got = pair(network)
        from_b: list[bytes] = []
        a.listen(from_b.append)

        a.channel(B).send(b"to the crashed")
        b.channel(A).send(b"from the crashed")
        network.crash(B)
        again = network.transport(B)
        again.listen(got.append)
        await asyncio.sleep(0.01)

        assert (got, from_b) == ([], [b"from the crashed"])

        a.channel(B).send(b"to the next")
        await asyncio.sleep(0.2)
        assert got == [b"to the next"]

    run(main())


def test_a_channel_dials_again_after_a_pause() -> None:
    async def main() -> list[bytes]:
        network = SimNetwork(Chance(1))
        a = network.transport(A)
        got: list[bytes] = []
        assert a.channel(B).send(b"1")
        await asyncio.sleep(0.01)
        assert not a.channel(B).send(b"2"), "nobody listened, and the next dial is not due"
        network.transport(B).listen(got.append)
        await asyncio.sleep(0.1)
        assert a.channel(B).send(b"3")
        await asyncio.sleep(0.01)
        return got

    assert run(main()) == [b"3"]


def test_counters_tell_what_was_carried() -> None:
    async def main() -> None:
        network = SimNetwork(Chance(1))
        a, _, _ = pair(network)
        for _ in range(3):
            await a.call(B, "echo", b"1234", timeout=1.0)
        a.channel(B).send(b"12345")
        network.cut(A, B)
        await ask(a)

        counts = network.counts
        assert (counts.calls, counts.call_bytes) == (4, 3 * 8 + 1)
        assert (counts.frames, counts.frame_bytes, counts.lost) == (1, 5, 1)
        assert counts.calls_by_method == {"echo": 4}

    run(main())


def trace(
    seed: int, act: Callable[[SimNetwork], None] = lambda _: None
) -> list[tuple[float, bytes]]:
    """When each frame from a arrived at b, over a bad link."""

    async def main() -> list[tuple[float, bytes]]:
        loop = asyncio.get_running_loop()
        network = SimNetwork(Chance(seed), HEALTHY.with_(loss=0.1, reordering=0.1))
        act(network)
        a, b, _ = pair(network)
        seen: list[tuple[float, bytes]] = []
        b.listen(lambda frame: seen.append((loop.time(), frame)))
        for number in range(100):
            a.channel(B).send(b"%d" % number)
            await asyncio.sleep(0.001)
        await asyncio.sleep(1.0)
        return seen

    return run(main())


def test_a_link_draws_from_a_stream_of_its_own() -> None:
    """What another link carries moves nothing here."""

    def chatter(network: SimNetwork) -> None:
        other = network.transport(C)
        for _ in range(10):
            other.channel(A).send(b"noise")

    assert trace(1) == trace(1, chatter)
    assert trace(1) != trace(2)


def test_a_cut_moves_no_later_draw() -> None:
    """Or a run without it would be another run altogether."""

    async def main(*, cut: bool) -> list[tuple[float, bytes]]:
        network = SimNetwork(Chance(1), HEALTHY.with_(loss=0.3))
        a, b, _ = pair(network)
        loop = asyncio.get_running_loop()
        seen: list[tuple[float, bytes]] = []
        b.listen(lambda frame: seen.append((loop.time(), frame)))
        for number in range(100):
            if cut and number == 20:
                network.cut(A, B)
            if cut and number == 50:
                network.mend(A, B)
            a.channel(B).send(b"%03d" % number)
            await asyncio.sleep(0.01)
        return [(when, frame) for when, frame in seen if not b"020" <= frame < b"050"]

    assert run(main(cut=True)) == run(main(cut=False))


def test_a_frame_larger_than_the_queue_goes_where_nothing_is_before_it() -> None:
    async def main() -> None:
        faults = HEALTHY.with_(queue_bytes_max=1000, bytes_per_second=10_000)
        a, _, got = pair(SimNetwork(Chance(1), faults))
        channel = a.channel(B)
        assert channel.send(bytes(2000))
        assert not channel.send(b"x"), "no room behind it"
        await asyncio.sleep(1.0)
        assert channel.send(b"y")
        await asyncio.sleep(1.0)
        assert got == [bytes(2000), b"y"]

    run(main())


def test_corruption_changes_bytes_of_frames_and_of_nothing_else() -> None:
    """Fault N12; what calls carry is not touched, nor how many frames there are."""

    async def main() -> tuple[list[bytes], object]:
        a, _, got = pair(SimNetwork(Chance(5), Faults(corruption=1.0)))
        for number in range(100):
            a.channel(B).send(bytes([number] * 20))
        answer = await ask(a)
        await asyncio.sleep(1.0)
        return got, answer

    got, answer = run(main())

    assert answer == b"x"
    assert [len(frame) for frame in got] == [20] * 100
    changed = [sum(byte != number for byte in frame) for number, frame in enumerate(got)]
    assert min(changed) == 1, "a flipped bit"
    assert 2 < max(changed) <= GARBAGE_BYTES_MAX, "a few bytes of garbage"


def test_what_a_broken_connection_had_queued_never_leaves() -> None:
    async def main() -> tuple[list[bytes], int]:
        network = SimNetwork(Chance(1), HEALTHY.with_(bytes_per_second=1000))
        a, _, got = pair(network)
        channel = a.channel(B)
        for n in range(3):
            assert channel.send(bytes([n]) * 400)
        await asyncio.sleep(0.5)  # the first one is on its way, the others wait for the wire
        channel.disconnected()
        assert channel.send(b"later")
        await asyncio.sleep(3.0)
        return got, channel.queued_bytes

    assert run(main()) == ([bytes(400), b"later"], 0)
