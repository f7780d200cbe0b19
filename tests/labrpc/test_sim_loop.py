"""The virtual loop: time jumps, nothing hangs, nothing fails unseen."""

import asyncio
from random import Random

import pytest

from labrpc.sim.loop import (
    CANCELLED_TIMERS_MAX,
    Deadlock,
    SimulationError,
    Stalled,
    Unhandled,
    VirtualLoop,
    process_context,
    run,
)


def test_an_hour_of_sleep_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(3600.0)
        return asyncio.get_running_loop().time()

    assert run(main()) == 3600.0


def test_timers_ring_in_order_of_their_time() -> None:
    rang: list[str] = []

    async def ring(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        rang.append(name)

    async def main() -> None:
        await asyncio.gather(ring("c", 0.3), ring("a", 0.1), ring("b", 0.2))

    run(main())

    assert rang == ["a", "b", "c"]


def test_timers_of_one_moment_ring_in_the_order_they_were_set() -> None:
    async def main() -> list[int]:
        rang: list[int] = []
        for number in range(100):
            asyncio.get_running_loop().call_at(1.0, rang.append, number)
        await asyncio.sleep(2.0)
        return rang

    assert run(main()) == list(range(100))


def test_timers_that_are_set_by_their_delay_ring_in_that_order_too() -> None:
    async def main() -> list[int]:
        rang: list[int] = []
        for number in range(100):
            asyncio.get_running_loop().call_later(1.0, rang.append, number)
        await asyncio.sleep(2.0)
        return rang

    assert run(main()) == list(range(100))


def test_cancelled_timers_are_let_go_and_the_others_keep_their_order() -> None:
    async def main() -> list[float]:
        loop, rng = asyncio.get_running_loop(), Random(1)
        assert isinstance(loop, VirtualLoop)
        rang: list[float] = []
        for _ in range(5 * CANCELLED_TIMERS_MAX):
            when = rng.uniform(10.0, 20.0)
            timer = loop.call_at(when, rang.append, when)
            if rng.random() < 0.8:
                timer.cancel()
        await asyncio.sleep(1.0)
        await asyncio.sleep(1.0)
        assert len(loop._timers) < 2 * CANCELLED_TIMERS_MAX
        await asyncio.sleep(20.0)
        return rang

    rang = run(main())

    assert len(rang) > CANCELLED_TIMERS_MAX / 2
    assert rang == sorted(rang)


def test_the_clock_stands_exactly_at_the_timer_that_rings() -> None:
    """Adding the difference instead could round to just before it, and turn once more."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        seen: list[float] = []
        for number in range(1, 1000):
            loop.call_at(number / 7, lambda: seen.append(loop.time()))
        await asyncio.sleep(1000)
        return seen

    assert run(main()) == [number / 7 for number in range(1, 1000)]


def test_a_timeout_ends_a_wait_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main()) == 5.0


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.gather(waits_for_ever(), waits_for_ever())

    with pytest.raises(Deadlock) as caught:
        run(main(), seed=4711)

    assert str(caught.value).count("in waits_for_ever") == 2
    assert "test_sim_loop.py" in str(caught.value)
    assert caught.value.__notes__ == ["seed: 4711"]


def test_a_spin_without_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labrpc.sim.loop.TURNS_WITHOUT_TIME_MAX", 1000)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - spinning is the point
            await asyncio.sleep(0)

    with pytest.raises(Stalled, match="somebody spins"):
        run(main())


def test_a_failed_callback_fails_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: 1 // 0)
        await asyncio.sleep(10.0)

    with pytest.raises(Unhandled, match=r"at 1\.000000 s.*ZeroDivisionError"):
        run(main())


def test_a_task_that_fails_unseen_fails_the_run() -> None:
    async def fails() -> None:
        raise ValueError("nobody looks")

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(fails())
        await asyncio.sleep(1.0)
        del task

    with pytest.raises(Unhandled, match="nobody looks"):
        run(main())


def test_what_main_leaves_behind_is_cancelled_in_order_of_birth() -> None:
    ended: list[int] = []

    async def child(number: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(number)

    async def main() -> list[asyncio.Task[None]]:
        children = [asyncio.get_running_loop().create_task(child(n)) for n in range(20)]
        await asyncio.sleep(0)
        return children

    assert all(task.cancelled() for task in run(main()))
    assert ended == list(range(20))


def test_a_child_that_fails_while_cancelled_fails_the_run() -> None:
    async def child() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            raise ValueError("in the end")

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(child())
        await asyncio.sleep(0)
        return task

    with pytest.raises(Unhandled, match="in the end"):
        run(main())


def test_mains_own_exception_comes_out_as_it_is() -> None:
    async def main() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(main())


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(SimulationError, match="no threads"):
        run(main())


def test_tasks_are_numbered_by_their_loop() -> None:
    """The default names count over all loops of a process, which would leak into traces."""

    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name().partition(":")[0]

    assert [run(main()), run(main())] == ["1", "1"]


def test_a_loop_can_be_used_by_hand() -> None:
    loop = VirtualLoop()
    try:
        assert loop.complete(asyncio.sleep(2.0, "done")) == "done"
        assert loop.time() == 2.0
    finally:
        loop.close()


def test_a_paused_process_stands_still_and_takes_up_all_that_came() -> None:
    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        seen: list[tuple[str, float]] = []

        async def tick(name: str) -> None:
            for _ in range(3):
                await asyncio.sleep(1.0)
                seen.append((name, loop.time()))

        tasks = [loop.create_task(tick(name), context=process_context(name)) for name in "ab"]
        loop.call_at(0.5, loop.pause, "a")
        loop.call_at(2.5, loop.resume, "a")
        await asyncio.gather(*tasks)
        return seen

    assert run(main()) == [
        ("b", 1.0), ("b", 2.0), ("a", 2.5), ("b", 3.0), ("a", 3.5), ("a", 4.5),
    ]  # fmt: skip


def test_what_came_to_a_paused_process_comes_in_its_order() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        seen: list[int] = []
        for number in range(10):
            loop.call_at(1.0 + number / 10, seen.append, number, context=process_context("a"))
        loop.call_at(0.5, loop.pause, "a")
        loop.call_at(2.5, loop.resume, "a")
        await asyncio.sleep(3.0)
        return seen

    assert run(main()) == list(range(10))


def test_a_fast_clock_shows_more_and_rings_sooner_for_its_own_process_alone() -> None:
    async def main() -> tuple[list[float], float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.skew({"fast": 1.1})
        shown: list[float] = []

        async def wait() -> None:
            await asyncio.sleep(11.0)
            shown.append(loop.time())
            shown.append(loop.true_time())

        await loop.create_task(wait(), context=process_context("fast"))
        await asyncio.sleep(1.0)
        return shown, loop.time(), loop.true_time()

    (own, true), here, now = run(main())

    assert own >= 11.0, "a timer never rings before its time by its own clock"
    assert own == pytest.approx(11.0, abs=1e-6)
    assert true == pytest.approx(10.0, abs=1e-6)
    assert here == now == pytest.approx(11.0, abs=1e-6)
