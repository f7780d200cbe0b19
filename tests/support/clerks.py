"""A clerk with groups that have no consensus, in virtual time."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from labrpc.sim.loop import run
from shardkv.clerk import Clerk
from tests.support.fake_store import FakeStore

T = TypeVar("T")


def with_clerk(
    story: Callable[[FakeStore, Clerk], Awaitable[T]],
    store: FakeStore | None = None,
    **options: Any,
) -> T:
    """Run the story in virtual time, with the store's and the clerk's books balanced at its end."""

    async def main() -> T:
        world = store or FakeStore()
        clerk = Clerk(world, world, rng=Random("clerk"), **options)  # type: ignore[arg-type]
        try:
            result = await story(world, clerk)
            assert not clerk._pending, "an operation has ended and is still on the books"
            assert clerk._pending_bytes == 0
            assert not any(clerk._deadlines._ticks.values()), "and is still waited for"
            return result
        finally:
            await clerk.close()

    return run(main())
