"""The labs' own tests of their network: a test here for each there, in virtual time.

`TestTypes` is about Go's pointers, so here it tries the two kinds of handlers that we have; the
codec's three tests are in `tests/labs/test_labgob.py`. `TestBenchmark` asks that every answer is
right; how long they take is no matter of virtual time.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from labrpc.sim.labnet import HOP_SECONDS_MAX, LabEnd, LabNetwork, LabServer
from labrpc.sim.loop import Unhandled, run

Scenario = Callable[[LabNetwork], Coroutine[Any, Any, None]]


class JunkServer:
    """The handlers that the labs' tests call."""

    def __init__(self) -> None:
        self.log1: list[str] = []
        self.log2: list[int] = []
        self._locked = asyncio.Lock()

    def handler1(self, body: bytes) -> bytes:
        self.log1.append(body.decode())
        return body

    def handler2(self, body: bytes) -> bytes:
        self.log2.append(int(body))
        return b"handler2-" + body

    async def handler3(self, body: bytes) -> bytes:
        async with self._locked:
            await asyncio.sleep(20)
        return b"%d" % -int(body)

    def handler6(self, body: bytes) -> bytes:
        return b"%d" % len(body)

    def handler7(self, body: bytes) -> bytes:
        return b"y" * int(body)

    def server(self) -> LabServer:
        names = ("handler1", "handler2", "handler3", "handler6", "handler7")
        return LabServer({f"Junk.{name}": getattr(self, name) for name in names})


def play(scenario: Scenario, seed: int = 1) -> None:
    async def main() -> None:
        await scenario(LabNetwork(Random(seed)))

    run(main(), seed=seed)


def end_to(network: LabNetwork, server: object, name: str = "end", enabled: bool = True) -> LabEnd:
    end = network.make_end(name)
    network.connect(name, server)
    network.enable(name, enabled)
    return end


def test_basic() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")

        assert await end.call("Junk.handler2", b"111") == b"handler2-111"
        assert await end.call("Junk.handler1", b"9099") == b"9099"

    play(scenario)


def test_types() -> None:
    """The labs' two kinds of handlers take pointers and values; ours are plain and `async`."""

    async def later(body: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return b"async " + body

    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", LabServer({"plain": lambda body: b"plain " + body, "async": later}))
        end = end_to(network, "s")

        assert await end.call("plain", b"x") == b"plain x"
        assert await end.call("async", b"x") == b"async x"

    play(scenario)


def test_disconnect() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s", enabled=False)

        assert await end.call("Junk.handler2", b"111") is None
        network.enable("end", True)
        assert await end.call("Junk.handler1", b"9099") == b"9099"

    play(scenario)


def test_counts() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server(99, JunkServer().server())
        end = end_to(network, 99)

        for number in range(17):
            assert await end.call("Junk.handler2", b"%d" % number) == b"handler2-%d" % number

        assert network.count(99) == 17

    play(scenario)


def test_bytes() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server(99, JunkServer().server())
        end = end_to(network, 99)

        for _ in range(17):
            assert await end.call("Junk.handler6", b"x" * 284) == b"284"
        first = network.total_bytes
        assert 4828 <= first <= 6000

        for _ in range(17):
            assert await end.call("Junk.handler7", b"107") == b"y" * 107
        assert 1800 <= network.total_bytes - first <= 2500

    play(scenario)


def test_concurrent_many() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server(1000, JunkServer().server())

        async def client(number: int) -> int:
            end = end_to(network, 1000, f"end{number}")
            for call in range(10):
                argument = b"%d" % (number * 100 + call)
                assert await end.call("Junk.handler2", argument) == b"handler2-" + argument
            return 10

        assert sum(await asyncio.gather(*(client(number) for number in range(20)))) == 200
        assert network.count(1000) == 200

    play(scenario)


def test_unreliable() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.reliable = False
        network.add_server(1000, JunkServer().server())

        async def client(number: int) -> bool:
            end = end_to(network, 1000, f"end{number}")
            answer = await end.call("Junk.handler2", b"%d" % (number * 100))
            assert answer in (None, b"handler2-%d" % (number * 100))
            return answer is not None

        answered = sum(await asyncio.gather(*(client(number) for number in range(300))))
        assert 200 < answered < 280, "nine in ten arrive, and nine in ten of the answers"
        assert 255 < network.count(1000) < 290

    play(scenario)


def test_concurrent_one() -> None:
    async def scenario(network: LabNetwork) -> None:
        junk = JunkServer()
        network.add_server(1000, junk.server())
        end = end_to(network, 1000)

        answers = await asyncio.gather(
            *(end.call("Junk.handler2", b"%d" % (100 + number)) for number in range(20))
        )

        assert answers == [b"handler2-%d" % (100 + number) for number in range(20)]
        assert sorted(junk.log2) == list(range(100, 120))
        assert network.count(1000) == 20

    play(scenario)


def test_regression_1() -> None:
    """Calls to a disabled end neither arrive late nor hold up later ones."""

    async def scenario(network: LabNetwork) -> None:
        junk = JunkServer()
        network.add_server(1000, junk.server())
        end = end_to(network, 1000, enabled=False)
        lost = [end.call("Junk.handler2", b"%d" % (100 + number)) for number in range(20)]
        await asyncio.sleep(0.1)

        network.enable("end", True)
        begun = asyncio.get_running_loop().time()
        assert await end.call("Junk.handler2", b"99") == b"handler2-99"
        assert asyncio.get_running_loop().time() - begun < 0.03

        assert await asyncio.gather(*lost) == [None] * 20
        assert junk.log2 == [99]
        assert network.count(1000) == 1

    play(scenario)


@pytest.mark.parametrize("how", ["deleted", "replaced", "disabled"])
@pytest.mark.parametrize("seed", range(10))
def test_killed(seed: int, how: str) -> None:
    async def scenario(network: LabNetwork) -> None:
        loop = asyncio.get_running_loop()
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        call = end.call("Junk.handler3", b"99")
        await asyncio.sleep(1.1)
        assert not call.done()

        if how == "deleted":
            network.delete_server("s")
        elif how == "replaced":
            network.add_server("s", JunkServer().server())
        else:
            network.enable("end", False)

        killed = loop.time()
        assert await call is None
        assert loop.time() - killed <= 0.1

    play(scenario, seed)


def test_benchmark() -> None:
    """100,000 calls, one after the other; 22 us each in the course's own network of 2016."""

    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        for _ in range(100_000):
            assert await end.call("Junk.handler2", b"111") == b"handler2-111"
        assert network.count("s") == network.total_count == 100_000

    play(scenario)


def test_long_delay_race() -> None:
    """A switch of the long delays, during a call too, harms nobody."""

    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        assert await end.call("Junk.handler1", b"9099") == b"9099"
        network.long_delays = True
        network.delete_server("s")

        call = end.call("Junk.handler1", b"9099")
        network.long_delays = True
        await asyncio.wait([call], timeout=0.2)
        network.long_delays = True

        assert await call is None
        assert asyncio.get_running_loop().time() < 7.1

    play(scenario)


def durations(network: LabNetwork, end: LabEnd, count: int) -> Coroutine[Any, Any, list[float]]:
    async def one() -> float:
        begun = asyncio.get_running_loop().time()
        await end.call("Junk.handler2", b"1")
        return asyncio.get_running_loop().time() - begun

    async def main() -> list[float]:
        return list(await asyncio.gather(*(one() for _ in range(count))))

    return main()


@pytest.mark.parametrize(
    ("long_delays", "longest"),
    [pytest.param(False, 0.1, id="a tenth of a second"), pytest.param(True, 7.0, id="seven")],
)
def test_who_cannot_be_reached_costs_time(long_delays: bool, longest: float) -> None:
    async def scenario(network: LabNetwork) -> None:
        network.long_delays = long_delays
        network.add_server("s", JunkServer().server())
        network.delete_server("s")

        took = await durations(network, end_to(network, "s"), 500)

        assert max(took) < longest
        assert max(took) > 0.9 * longest
        assert min(took) < 0.1 * longest
        assert network.total_count == 500

    play(scenario)


def test_long_reordering_delays_two_answers_in_three() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.long_reordering = True
        network.add_server("s", JunkServer().server())

        took = await durations(network, end_to(network, "s"), 3000)

        late = [seconds for seconds in took if seconds > 0.1]
        assert 1900 < len(late) < 2100
        assert min(late) >= 0.2
        assert max(late) < 2.21
        assert 0.65 < sum(late) / len(late) < 0.75

    play(scenario)


def test_a_late_answer_arrives_though_its_server_is_gone() -> None:
    """No third look: this is what makes long reordering bring answers out of another age."""

    async def scenario(network: LabNetwork) -> None:
        network.long_reordering = True
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        calls = [end.call("Junk.handler2", b"1") for _ in range(50)]
        await asyncio.sleep(0.1)
        network.delete_server("s")
        network.enable("end", False)

        answers = await asyncio.gather(*calls)

        assert answers == [b"handler2-1"] * 50

    play(scenario)


@pytest.mark.parametrize("reordering", [False, True])
@pytest.mark.parametrize("how", ["server", "end"])
def test_a_server_that_goes_before_it_answers_has_answered_nothing(
    reordering: bool, how: str
) -> None:
    """Also where its answer would have been a late one."""

    async def scenario(network: LabNetwork) -> None:
        network.long_reordering = reordering
        loop = asyncio.get_running_loop()

        async def slow(body: bytes) -> bytes:
            await asyncio.sleep(0.01)
            return body

        for number in range(20):
            network.add_server(number, LabServer({"S.slow": slow}))
            end = end_to(network, number, f"end {number}")
            asking = end.call("S.slow", b"x")
            go = network.delete_server if how == "server" else network.delete_end
            loop.call_later(0.005, go, number if how == "server" else end.name)
            assert await asking is None

    play(scenario)


def test_a_waiting_call_notices_its_server_s_end_at_its_next_look() -> None:
    """Every 100 ms from the moment in which the handler began."""

    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        loop = asyncio.get_running_loop()
        began = loop.time()
        asking = end_to(network, "s").call("Junk.handler3", b"1")
        loop.call_later(0.25, network.delete_server, "s")

        assert await asking is None

        assert 0.3 < loop.time() - began < 0.3 + 2 * HOP_SECONDS_MAX

    play(scenario)


def test_a_handler_that_was_cancelled_has_answered_nothing() -> None:
    async def scenario(network: LabNetwork) -> None:
        handling: list[asyncio.Task[Any]] = []

        async def slow(body: bytes) -> bytes:
            task = asyncio.current_task()
            assert task is not None
            handling.append(task)
            await asyncio.sleep(10)
            return body

        network.add_server("s", LabServer({"S.slow": slow}))
        asking = end_to(network, "s").call("S.slow", b"x")
        await asyncio.sleep(0.01)
        handling[0].cancel()

        assert await asyncio.wait_for(asking, 1.0) is None

    play(scenario)


def test_an_answer_on_its_way_is_lost_with_its_server() -> None:
    async def scenario(network: LabNetwork) -> None:
        loop = asyncio.get_running_loop()

        def last(body: bytes) -> bytes:
            loop.call_soon(network.delete_server, "s")
            return body

        network.add_server("s", LabServer({"S.last": last}))
        assert await end_to(network, "s").call("S.last", b"x") is None

    play(scenario)


def test_flags_are_looked_at_when_the_call_begins() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.reliable = False
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        calls = [end.call("Junk.handler2", b"1") for _ in range(200)]
        network.reliable = True

        assert None in await asyncio.gather(*calls)
        assert None not in await asyncio.gather(*(end.call("Junk.handler2", b"1") for _ in calls))

    play(scenario)


def test_after_cleanup_every_call_fails_at_once() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        network.cleanup()

        assert await end.call("Junk.handler2", b"1") is None
        assert asyncio.get_running_loop().time() == 0.0
        assert network.total_count == 0

    play(scenario)


def test_what_is_fatal_in_the_labs_raises() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        with pytest.raises(ValueError, match="exists already"):
            network.make_end("end")
        network.delete_server("s")
        with pytest.raises(LookupError, match="was deleted"):
            network.count("s")
        network.add_server("s", JunkServer().server())
        await end.call("Junk.nothing", b"")

    with pytest.raises(Unhandled, match=r"no method 'Junk\.nothing'"):
        play(scenario)


def test_a_deleted_end_is_as_a_disabled_one() -> None:
    async def scenario(network: LabNetwork) -> None:
        network.add_server("s", JunkServer().server())
        end = end_to(network, "s")
        network.delete_end("end")

        assert await end.call("Junk.handler2", b"1") is None

    play(scenario)
