"""An asyncio loop in virtual time: nothing runnable means a jump to the next timer.

Callbacks run in the order they were scheduled, timers in the order of their time, and there are no
sockets, signals, threads or executors, so `(seed, code)` determine a run byte for byte. What would
hang in real time is an error here: `Deadlock` when everybody waits and no timer is left, `Stalled`
when callbacks breed callbacks and the clock no longer moves. An exception that nobody handles
fails the run.

    result = run(main(), seed=4711)
"""

import asyncio
import gc
import heapq
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, ContextVar, copy_context
from heapq import heappush
from typing import Any, Final, NoReturn, TypeVar

from labrpc.sim.chance import Seed
from labrpc.sim.disk import DiskFailed

T = TypeVar("T")

TURNS_WITHOUT_TIME_MAX: Final = 1_000_000
NAMED_TASKS_MAX: Final = 50
CANCELLED_TIMERS_MAX: Final = 1000
"""More of them are taken out of the heap."""
COLLECT_AFTER: Final = (50_000, 20, 100)
"""When garbage is collected: nearly all of a run's objects live long, and looking at them over and
over would cost a fifth of its time."""
PROCESS: Final[ContextVar[str]] = ContextVar("process", default="")
"""Which simulated process a callback belongs to; what it schedules belongs to the same one."""
RESOLUTION_SECONDS: Final = 1e-9
"""Timers so close together ring in one turn, as on asyncio's own loops."""


class SimulationError(Exception):
    """The run itself went wrong, not what it simulates."""


class Deadlock(SimulationError):
    """Everybody waits, and no timer is left that could wake anybody."""


class Stalled(SimulationError):
    """The loop turned very often without the clock moving: somebody spins."""


class Unhandled(SimulationError):
    """A task or a callback failed, and nobody looked."""


class _Soon(asyncio.Handle):
    """A handle made without asking for debugging each time. `call` is the callback and what it is
    called with."""

    __slots__ = ("call",)
    _repr = _source_traceback = None  # of debugging only: not of each handle

    def __init__(self, call: tuple[Any, ...], context: Context) -> None:
        self.call, self._context, self._cancelled = call, context, False

    def cancel(self) -> None:
        self._cancelled = True
        self.call = ()

    def __repr__(self) -> str:
        return _told(self.call)


class _Timer(asyncio.TimerHandle):
    """The same for a timer, which is on the heap until the loop takes it off."""

    __slots__ = ("call",)
    _repr = _source_traceback = None

    def __init__(self, when: float, call: tuple[Any, ...], loop: Any, context: Context) -> None:
        self.call, self._context, self._cancelled = call, context, False
        self._when, self._scheduled, self._loop = when, True, loop

    def cancel(self) -> None:
        if self._scheduled and not self._cancelled:
            self._loop._timer_cancelled_count += 1
        self._cancelled = True
        self.call = ()

    def __repr__(self) -> str:
        return _told(self.call)


def _told(call: tuple[Any, ...]) -> str:
    return f"{call[0]!r} with {call[1:]!r:.200}" if call else "a cancelled callback"


class VirtualLoop(base_events.BaseEventLoop):
    """A loop whose clock starts at 0.0 and moves only when nothing can run.

    `failures` holds the messages and exceptions that nobody handled.
    """

    # Of the base class:
    _ready: "deque[Any]"
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[tuple[str, BaseException | None]] = []
        self._now = 0.0
        self._tasks_born = 0
        self.events = 0  # callbacks run so far
        self._timers_set = 0
        # By time, and those of one moment in the order they were set. Tuples: they compare in C.
        self._timers: list[tuple[float, int, Any]] = []
        self._standing: dict[str, list[asyncio.Handle]] = {}
        self._rates: dict[str, float] = {}
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        """Virtual seconds since the loop was made; in a process with a clock of its own, those."""
        return self._now

    def true_time(self) -> float:
        """Virtual seconds since the loop was made, whoever asks."""
        return self._now

    # Processes that stand still, and clocks that are fast or slow

    def pause(self, process: str) -> None:
        """Let every callback of a process wait, as SIGSTOP does. Its clock goes on."""
        self._standing.setdefault(process, [])

    def resume(self, process: str) -> None:
        """Let it go on: what came meanwhile comes now, in its order."""
        self._ready.extend(self._standing.pop(process, ()))

    def is_paused(self, process: str) -> bool:
        return process in self._standing

    def skew(self, rates: Mapping[str, float]) -> None:
        """From now on the clocks of these processes run so much faster (above 1) or slower. Only
        before they set their first timer. A run that asks for none pays nothing for it."""
        self._rates = dict(rates)
        self.time = self._skewed_time  # type: ignore[method-assign]
        self.call_at = self._skewed_call_at  # type: ignore[method-assign]
        self.call_later = self._skewed_call_later  # type: ignore[method-assign]

    def _skewed_time(self) -> float:
        return self._now * self._rates.get(PROCESS.get(), 1.0)

    def _skewed_call_at(
        self, when: float, *call: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        rate = self._rates.get(PROCESS.get(), 1.0)
        # Never before `when` by the clock of whoever set it, whatever was lost in rounding.
        true = when if rate == 1.0 else when / rate + RESOLUTION_SECONDS
        return VirtualLoop.call_at(self, true, *call, context=context)

    def _skewed_call_later(
        self, delay: float, *call: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._skewed_call_at(self._skewed_time() + delay, *call, context=context)

    # What the base class asks of a concrete loop

    def _run_once(self) -> None:
        """Turns, until somebody stops the loop: what is ready runs, and what that makes ready runs
        in the next one. When nothing is, the clock jumps to the next timer."""
        ready, pop, standing = self._ready, heapq.heappop, self._standing
        popleft = ready.popleft
        due = self._now + RESOLUTION_SECONDS
        turns_without_time = 0
        while True:
            if not ready and not self._stopping and self._jump():
                due, turns_without_time = self._now + RESOLUTION_SECONDS, 0
            timers = self._timers
            turns_without_time += 1
            if turns_without_time > TURNS_WITHOUT_TIME_MAX:
                raise Stalled(
                    f"{TURNS_WITHOUT_TIME_MAX} turns at {self._now:.6f} s: somebody spins:\n"
                    f"{self._who_waits()}"
                )
            while timers and timers[0][0] < due:
                timer = pop(timers)[2]
                timer._scheduled = False
                if timer._cancelled:
                    self._timer_cancelled_count -= 1
                else:
                    ready.append(timer)
            for _ in range(len(ready)):
                handle = popleft()
                if handle._cancelled or (standing and self._stands(handle)):
                    continue
                self.events += 1
                try:  # as `Handle._run` does
                    handle._context.run(*handle.call)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self._failed(handle, error)
            if self._stopping:
                return

    def _jump(self) -> bool:
        """Nothing can run: let it be the time of the next timer. False: it is so already."""
        if self._timer_cancelled_count > CANCELLED_TIMERS_MAX:
            self._forget_cancelled()
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)[2]._scheduled = False
        if not timers:
            waits = self._who_waits()
            raise Deadlock(f"at {self._now:.6f} s everybody waits for ever:\n{waits}")
        if timers[0][0] <= self._now:
            return False
        self._now = timers[0][0]
        return True

    def _stands(self, handle: Any) -> bool:
        """Whether it is a standing process's; then it waits for that to go on."""
        held = self._standing.get(handle._context.get(PROCESS, ""))
        if held is None:
            return False
        held.append(handle)
        return True

    def _failed(self, handle: Any, error: BaseException) -> None:
        message = f"Exception in callback {handle!r}"
        self.call_exception_handler({"message": message, "exception": error, "handle": handle})

    def _forget_cancelled(self) -> None:
        kept = []
        for item in self._timers:
            if item[2]._cancelled:
                item[2]._scheduled = False
            else:
                kept.append(item)
        heapq.heapify(kept)
        self._timers = kept
        self._timer_cancelled_count = 0

    def _write_to_self(self) -> None:
        """Wakes a sleeping selector; ours never sleeps."""

    # (`call` is the callback and its arguments: the tuple in which they come is kept as it is.)

    def call_at(  # type: ignore[override]
        self, when: float, *call: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back at `when`; timers of one moment ring in the order they were set."""
        self._timers_set += 1
        timer = _Timer(when, call, self, copy_context() if context is None else context)
        heappush(self._timers, (when, self._timers_set, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, *call: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back in `delay` virtual seconds."""
        when = self._now + delay
        self._timers_set += 1
        timer = _Timer(when, call, self, copy_context() if context is None else context)
        heappush(self._timers, (when, self._timers_set, timer))
        return timer

    def call_soon(  # type: ignore[override]
        self, *call: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back in the next turn; in the order of the calls."""
        handle = _Soon(call, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)  # also of `call_soon_threadsafe`

    # What must not happen in a simulation

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Refused: a thread ends when it likes, and the run would no longer repeat."""
        raise SimulationError(f"no threads on the simulated path: run_in_executor({func!r})")

    # Tasks and failures

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, T],
        context: Context | None = None,
    ) -> "asyncio.Task[T]":
        self._tasks_born += 1  # the default names count over all loops of a process
        name = f"{self._tasks_born}:{getattr(work, '__qualname__', type(work).__name__)}"
        return asyncio.Task(work, loop=loop, name=name, context=context)

    def tasks(self) -> "list[asyncio.Task[Any]]":
        """The unfinished tasks, in order of their birth."""
        return sorted(asyncio.all_tasks(self), key=_birth)

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, asyncio.CancelledError) or (
            isinstance(error, DiskFailed) and error.ended
        ):
            return  # a process that ended in the middle of a callback, or by its disk
        self.failures.append((str(context["message"]), error))
        self.stop()

    def _who_waits(self) -> str:
        tasks = self.tasks()
        lines = [f"  {task.get_name()} {_where(task)}" for task in tasks[:NAMED_TASKS_MAX]]
        if len(tasks) > NAMED_TASKS_MAX:
            lines.append(f"  and {len(tasks) - NAMED_TASKS_MAX} more")
        return "\n".join(lines) or "  (no task is left)"

    # A whole run

    def complete(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main` ends or somebody fails unhandled; then cancel what is left."""
        task = self.create_task(main)
        try:
            self._run(task)
            return task.result()
        finally:
            self._cancel_the_rest()

    def _run(self, task: "asyncio.Task[Any]") -> None:
        stop: Callable[[object], None] = lambda _: self.stop()  # noqa: E731
        task.add_done_callback(stop)
        self.run_forever()
        task.remove_done_callback(stop)
        if not task.done() or not task.exception():
            self.raise_failure()

    def raise_failure(self) -> None:
        """Raise `Unhandled` if anything failed without being handled."""
        if self.failures:
            message, cause = self.failures[0]
            more = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
            raise Unhandled(f"at {self._now:.6f} s: {message}{more}: {cause!r}") from cause

    def _cancel_the_rest(self) -> None:
        for process in list(self._standing):
            self.resume(process)  # or its tasks would never hear that they are cancelled
        if rest := self.tasks():
            for task in rest:
                task.cancel()
            gathered = asyncio.gather(*rest, return_exceptions=True)
            gathered.add_done_callback(lambda _: self.stop())
            while not gathered.done():  # a failure noted on the way stops the loop, too
                self.run_forever()
            for task, end in zip(rest, gathered.result(), strict=True):
                if isinstance(end, Exception):
                    self.failures.append((f"{task.get_name()} failed when cancelled", end))
        self.call_soon(self.stop)
        self.run_forever()  # what was scheduled by the last of them


def run(main: Coroutine[Any, Any, T], *, seed: Seed | None = None) -> T:
    """Run `main` on a new virtual loop and return its result.

    Args:
        main: The whole simulation. Tasks that it leaves behind are cancelled.
        seed: Named in a note on whatever exception leaves this function.

    Raises:
        Deadlock, Stalled, Unhandled: see there.
    """
    gc.freeze()  # so that the collection at the end looks only at what the run made
    usual = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    loop = VirtualLoop()
    try:
        result = loop.complete(main)
        del main
        gc.collect()  # a task that failed in a reference cycle reports only when collected
        loop.raise_failure()
        return result
    except BaseException as error:
        if seed is not None:
            error.add_note(f"seed: {seed}")
        raise
    finally:
        loop.close()
        gc.set_threshold(*usual)
        gc.unfreeze()


def process_context(process: str) -> Context:
    """A context in which everything belongs to `process`."""
    context = copy_context()
    context.run(PROCESS.set, process)
    return context


def true_clock() -> Callable[[], float]:
    """The running loop's time; of a virtual loop the one that no process's clock bends."""
    loop = asyncio.get_running_loop()
    return loop.true_time if isinstance(loop, VirtualLoop) else loop.time


def _birth(task: "asyncio.Task[Any]") -> int:
    number, _, _ = task.get_name().partition(":")
    return int(number) if number.isdigit() else 0


def _where(task: "asyncio.Task[Any]") -> str:
    stack = task.get_stack(limit=1)
    if not stack:
        return "(not started, or in foreign code)"
    frame = stack[-1]
    return f"at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
