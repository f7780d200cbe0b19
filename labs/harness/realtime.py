"""A lab test on the real clock: the same code, slower, and never twice the same.

As on the virtual loop, an exception that nobody handles fails the run.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


def run_really(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a loop of its own.

    Raises:
        RuntimeError: a task or a callback failed, and nobody looked.
    """
    unseen: list[dict[str, Any]] = []

    async def watched() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            unseen.append(context)
            task.cancel()

        loop.set_exception_handler(note)
        await main

    try:
        asyncio.run(watched())
    except asyncio.CancelledError:
        if not unseen:
            raise
    if unseen:
        cause = unseen[0].get("exception")
        raise RuntimeError(f"{unseen[0]['message']}: {cause!r}") from cause
