"""What a port has taken on: how much, and the tasks that carry it out."""

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from typing import Final

from labrpc.errors import Refused
from labrpc.limits import PortLimits

log = logging.getLogger(__name__)

RETRY_HINT: Final = "ask again in 100 ms, or elsewhere"


class Stopping(Exception):
    """The port is closing: the operation was not begun, and may be repeated elsewhere."""

    def __init__(self) -> None:
        super().__init__("this node is stopping")


class Share:
    """One connection's part of what is in flight."""

    def __init__(self) -> None:
        self.operations = 0
        self.bytes = 0  # of the bodies: of the request, and of the answer until it is written


class Work:
    """Everything in flight at one port, and the bounds that keep it from growing for ever."""

    def __init__(self, limits: PortLimits) -> None:
        self._limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self.operations = 0
        self.refused = 0
        self.closing = False

    def admit(self, share: Share, size: int) -> None:
        """Take one operation of `size` bytes on; `release` gives it back.

        Raises:
            Stopping: the port is closing.
            Refused: a bound is met (RESOURCE_EXHAUSTED).
        """
        limits = self._limits
        if self.closing:
            raise Stopping
        if share.operations >= limits.connection_operations_max:
            bound = f"{limits.connection_operations_max} operations of one connection"
        elif share.bytes + size > limits.connection_bytes_max and share.operations:
            bound = f"{limits.connection_bytes_max} bytes of one connection"
        elif self.operations >= limits.node_operations_max:
            bound = f"{limits.node_operations_max} operations of this node"
        else:
            self.operations += 1
            share.operations += 1
            share.bytes += size
            return
        self.refused += 1
        raise Refused("RESOURCE_EXHAUSTED", f"{bound} are in flight; {RETRY_HINT}")

    def release(self, share: Share, size: int) -> None:
        """An operation of `size` bytes is over."""
        self.operations -= 1
        share.operations -= 1
        share.bytes -= size

    def start(self, job: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a job in a task of its own: only `drain` ends it, never its caller's going away."""
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Admit no more."""
        self.closing = True

    async def drain(self, grace: float) -> None:
        """Admit no more; give what runs `grace` seconds to end, then cancel it."""
        self.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def internal_error(what: str, error: BaseException) -> Refused:
    """Log an exception under a new number, and tell the caller only the number."""
    number = secrets.token_hex(4)
    log.error("error %s in %s", number, what, exc_info=error)
    return Refused("INTERNAL", f"internal error; the server's log has it under {number}")
