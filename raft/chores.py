"""Work that goes on beside everything else, and that nobody awaits."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any


def begin_chore(work: Coroutine[Any, Any, None], without_it: str) -> "asyncio.Task[None]":
    """Start it in a task of its own; whoever does keeps the task, and cancels it at the end.

    A task that fails keeps its exception for whoever looks at it, and nobody ever looks at these:
    a node would go on without a word, and without what the chore did. So the loop is told at once,
    as of any exception that nobody caught: it is logged, and a simulated run fails by it.

    Args:
        without_it: What does not happen any more if it fails, for people.
    """
    task = asyncio.get_running_loop().create_task(work)
    task.add_done_callback(partial(_tell, without_it))
    return task


def _tell(without_it: str, task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": without_it, "exception": error, "task": task}
        )
