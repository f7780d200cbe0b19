"""Work that nobody awaits fails aloud."""

import asyncio

import pytest

from labrpc.sim.loop import Unhandled, VirtualLoop, run
from raft.chores import begin_chore


async def fails() -> None:
    await asyncio.sleep(1.0)
    raise ValueError("why")


async def never_ends() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_chore_that_fails_is_told_at_once_with_what_is_lost() -> None:
    async def main() -> list[tuple[str, object]]:
        told: list[tuple[str, object]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: told.append((context["message"], context["exception"]))
        )
        chore = begin_chore(fails(), "nothing is swept")
        await asyncio.sleep(2.0)
        assert chore.done()
        return told

    ((message, error),) = run(main())
    assert message == "nothing is swept"
    assert isinstance(error, ValueError)


def test_a_simulated_run_fails_by_it() -> None:
    async def main() -> None:
        begin_chore(fails(), "nothing is swept")
        await asyncio.sleep(2.0)

    with pytest.raises(Unhandled, match="nothing is swept"):
        run(main())


def test_one_that_is_cancelled_at_the_end_says_nothing() -> None:
    async def main() -> None:
        chore = begin_chore(never_ends(), "nothing is swept")
        await asyncio.sleep(2.0)
        chore.cancel()
        await asyncio.sleep(1.0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop) and not loop.failures

    run(main())
