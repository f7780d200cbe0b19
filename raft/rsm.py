"""The replicated state machine: commands in, each one's result out, at every replica alike.

The way of a command: `submit` queues it and hands back a future -> at the end of the loop turn all
that queued become one log entry (closed at `ENTRY_BYTES_MAX`) -> consensus -> `apply` runs the
commands of the entry one by one, each on the rows as the one before left them -> the futures get
the results. There is a future a command, and no task.

What a future may say, and why it is true:

- *the result*: the entry applied here at the index where the command was placed is of the term it
  was placed in. An (index, term) names one entry for ever (log matching, Raft section 5.3).
- `NotLeader`, that is *not applied, and never will be*: nothing was proposed; or an entry of
  another term was **applied** at that index. Applied entries never change, so the command's entry
  can be applied nowhere. That another entry was merely appended there proves nothing: a leader to
  come may still bring ours back (figure 8).
- `OutcomeUnknown`: everything else, said at once rather than guessed later. Leadership was lost
  while the entry was on its way; a snapshot took the place of entries up to its index; the replica
  stopped.

Cancelling a caller cancels its future and nothing else: what was proposed runs its course.

A group that is asked for more than it can do is a queue that grows. Whoever waits in it for longer
than he has patience is answered in vain, asks again, and stands in it twice: so a store stays down
when what overloaded it is long over (Bronson et al., *Metastable failures*, HotOS 2021). Therefore
commands are refused at once, and definitely, while the oldest one has waited for `late_seconds`:
what nobody waits for any more has gone soon after the load has.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from math import inf
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from raft.errors import (
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    ReplicaStopped,
    StopReplica,
)
from raft.ports import Reader, Rows, Write
from raft.tracing import EntryTracer
from raft.types import Entry, EntryId, EntryKind, Index, Member, Term

ENTRY_BYTES_MAX: Final = 64 * 1024
"""An entry closes before the command that would take it past this; one command may be larger. An
entry is applied in one go, and its answers leave together: some 200 writes are enough to share what
an entry costs, and few enough that client, leader and followers work at the same time."""
FORMAT: Final = 1


class Machine(Protocol):
    """What is replicated. It decides in log order, on every replica; so it is pure: no clock, no
    chance, no I/O but the rows it is given, nothing that depends on the order of a set."""

    def apply(self, index: Index, command: bytes, rows: Rows) -> object:
        """Carry out one command of the entry at `index` and return its result.

        A refusal is a result. It never raises for bytes that a leader lets in; for a version it
        does not know it raises `StopReplica`. Several commands may share an index.
        """
        ...

    def reload(self, rows: Reader) -> None:
        """Read what it keeps in memory anew: at start, and after a snapshot was installed."""
        ...

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        """Deletes of at most `rows_max` rows that no command will ever read; none: ()."""
        ...


class Proposer(Protocol):
    """What this layer asks of its replica (`raft/replica.py`)."""

    @property
    def leader(self) -> Member | None: ...

    def propose(self, data: bytes) -> EntryId | None: ...

    def read_barrier(self) -> "asyncio.Future[None]": ...


class _Frame:
    """Commands that are answered together: their outcomes so far, and how many are missing."""

    __slots__ = ("future", "missing", "outcomes")

    def __init__(self, future: "asyncio.Future[list[object]]", size: int) -> None:
        self.future = future
        self.missing = size
        self.outcomes: list[object] = [None] * size

    def put(self, at: int, outcomes: Sequence[object]) -> None:
        self.outcomes[at : at + len(outcomes)] = outcomes
        self.missing -= len(outcomes)
        if not self.missing and not self.future.done():
            self.future.set_result(self.outcomes)


class _Waiter(NamedTuple):
    """Who waits for `size` commands that follow each other: a future for its only one, or a frame
    from its place `at` on."""

    sink: "asyncio.Future[object] | _Frame"
    at: int
    size: int


class ReplicatedStateMachine:
    """A machine on one replica, and those who wait for its results. A `raft.ports.StateMachine`.

    `attach` it to its replica as soon as there is one; the replica wants the machine first.

    Args:
        late_seconds: None is taken while one has waited for so long to be applied.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
        late_seconds: float = inf,
    ) -> None:
        self.machine = machine
        self.leads = False  # as this replica believes; only `read` makes certain
        self.stopped_because: str | None = None
        self.tracer: EntryTracer | None = None
        self._entry_bytes_max = entry_bytes_max
        self._late_seconds = late_seconds
        self._replica: Proposer | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[Sequence[bytes], _Waiter]] = []
        self._flush_scheduled = False
        self._placed: dict[Index, tuple[Term, list[_Waiter]]] = {}
        self._since: deque[tuple[Index, float]] = deque()
        """When each was placed, the oldest first; some that have gone are among them."""

    def attach(self, replica: Proposer) -> None:
        assert self._replica is None, "one machine, one replica"
        self._replica = replica

    @property
    def replica(self) -> Proposer:
        assert self._replica is not None, "attach the replica first"
        return self._replica

    @property
    def pending(self) -> int:
        """Commands queued or proposed whose outcome is not known yet."""
        queued = sum(waiter.size for _, waiter in self._queue)
        placed = chain.from_iterable(waiters for _, waiters in self._placed.values())
        return queued + sum(waiter.size for waiter in placed)

    # What others may ask

    def submit(self, command: bytes) -> "asyncio.Future[object]":
        """Replicate a command; the future brings its result.

        The future fails with `NotLeader`, `Overloaded` or `ReplicaStopped`: certainly not applied;
        or with `OutcomeUnknown`.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        self._enqueue((command,), _Waiter(future, 0, 1))
        return future

    def submit_frame(self, commands: Sequence[bytes]) -> "asyncio.Future[list[object]]":
        """Replicate commands, in order; the future brings each one's outcome, in the same order.

        It never fails: an outcome is the command's result or the error that `submit` would raise.
        They may fall into several entries, so that some are applied and others are not.
        """
        future: asyncio.Future[list[object]] = self._loop.create_future()
        if not commands:
            future.set_result([])
            return future
        count = len(commands)
        self._enqueue(commands, _Waiter(_Frame(future, count), 0, count))
        return future

    @property
    def waited(self) -> float:
        """For how many seconds the oldest command has waited to be applied; 0.0 if none does."""
        since = self._since
        while since and since[0][0] not in self._placed:
            since.popleft()
        return self._loop.time() - since[0][1] if since else 0.0

    async def read(self) -> None:
        """Return when what this replica has applied holds everything that was acknowledged before
        the call: a linearizable read may then be served from its rows, without another await.

        Raises:
            NotLeader, Unavailable, ReplicaStopped: it cannot be known; ask elsewhere, or again.
        """
        await self.replica.read_barrier()
        if self.stopped_because is not None:  # in the turn in which the barrier was passed
            raise ReplicaStopped(self.stopped_because)

    # Proposing

    def _enqueue(self, commands: Sequence[bytes], waiter: _Waiter) -> None:
        self._queue.append((commands, waiter))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Propose what has queued in this turn of the loop, in order, in as few entries as fit."""
        self._flush_scheduled = False
        queue, self._queue = self._queue, []
        commands: list[bytes] = []
        waiters: list[_Waiter] = []
        room = self._entry_bytes_max
        for more, (sink, at, size) in queue:
            begin = 0  # of what goes into the entry that is open
            for place, command in enumerate(more):
                if len(command) > room and (commands or place > begin):
                    if place > begin:
                        commands += more[begin:place]
                        waiters.append(_Waiter(sink, at + begin, place - begin))
                    self._propose(commands, waiters)
                    commands, waiters, begin, room = [], [], place, self._entry_bytes_max
                room -= len(command)
            commands += more[begin:]
            waiters.append(_Waiter(sink, at + begin, size - begin))
        if commands:
            self._propose(commands, waiters)

    def _propose(self, commands: list[bytes], waiters: list[_Waiter]) -> None:
        if self.stopped_because is not None:
            return _fail(waiters, partial(ReplicaStopped, self.stopped_because))
        if (waited := self.waited) > self._late_seconds:
            most = f"{self._late_seconds:g} s may"
            return self._turn_away(waiters, f"the oldest command waits for {waited:.1f} s, {most}")
        try:
            placed = self.replica.propose(encode_entry(commands))
        except Overloaded as error:
            return self._turn_away(waiters, str(error))
        if placed is None:
            return _fail(waiters, partial(NotLeader, self.replica.leader))
        overwritten = self._placed.pop(placed.index, None)
        if overwritten is not None:  # leadership was lost and won again within one turn
            because = "another leader's entry took the place"
            _fail(overwritten[1], partial(OutcomeUnknown, because))
        self._placed[placed.index] = (placed.term, waiters)
        self._since.append((placed.index, self._loop.time()))
        if self.tracer is not None:
            self.tracer.placed(placed, commands)
        return None

    def _turn_away(self, waiters: list[_Waiter], because: str) -> None:
        self.turned_away(sum([waiter.size for waiter in waiters]))
        _fail(waiters, partial(Overloaded, because))

    def turned_away(self, commands: int) -> None:
        """Told of so many commands that were refused because too much waits."""

    # What the replica calls

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        """Apply committed entries in order, and answer those who wait for them.

        The futures are resolved before the rows are stored; their callbacks run after it, since
        the replica stores in the same turn. The results are true even if it then cannot: the
        entry is committed, and every replica computes the same ones.
        """
        tracer = self.tracer
        if tracer is not None:
            tracer.applying(entries)
        for entry in entries:
            results: list[object] = []
            if entry.kind is EntryKind.COMMAND:
                apply, index = self.machine.apply, entry.index
                results = [apply(index, command, rows) for command in decode_entry(entry)]
            placed = self._placed.pop(entry.index, None)
            if placed is None:
                continue
            term, waiters = placed
            if term != entry.term:
                _fail(waiters, partial(NotLeader, self.replica.leader))
                continue
            begin, waited = 0, sum([waiter.size for waiter in waiters])
            assert len(results) == waited, (entry.id, len(results), waited)
            for sink, at, size in waiters:
                if isinstance(sink, _Frame):
                    sink.put(at, results[begin : begin + size])
                elif not sink.done():  # its caller may have been cancelled
                    sink.set_result(results[begin])
                begin += size
        if tracer is not None:
            tracer.applied(entries)

    def reload(self, rows: Reader) -> None:
        self.machine.reload(rows)

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        return self.machine.garbage(rows, rows_max)

    def leadership_changed(self, leads: bool) -> None:
        """What was placed as leader may be replaced now, or be committed by the next one."""
        self.leads = leads
        if not leads:
            self._tell_tracer("leadership was lost")
            self._give_up("leadership was lost while the command was on its way")

    def snapshot_installed(self, index: Index) -> None:
        """The entries up to `index` will not be applied here: what they did cannot be told."""
        covered = [at for at in self._placed if at <= index]
        for at in covered:
            because = "a snapshot took the entry's place"
            _fail(self._placed.pop(at)[1], partial(OutcomeUnknown, because))

    def stopped(self) -> None:
        self.stopped_because = "the replica has stopped"
        self.leads = False
        self._tell_tracer("the replica stopped")
        self._give_up("the replica stopped while the command was on its way")

    def _tell_tracer(self, because: str) -> None:
        if self.tracer is not None:
            self.tracer.abandoned(because)

    def _give_up(self, because: str) -> None:
        placed, self._placed = self._placed, {}
        for _, waiters in placed.values():
            _fail(waiters, partial(OutcomeUnknown, because))


def encode_entry(commands: Sequence[bytes]) -> bytes:
    """An entry's data: a format byte and the commands, each as it was submitted."""
    packed = msgpack.packb([FORMAT, commands])
    assert isinstance(packed, bytes)
    return packed


def decode_entry(entry: Entry) -> list[bytes]:
    """The commands of an entry.

    Raises:
        StopReplica: it is of another format. Damage was found before: the log checks its chain.
    """
    fields: Any = msgpack.unpackb(entry.data)
    if not isinstance(fields, list) or len(fields) != 2 or fields[0] != FORMAT:
        raise StopReplica(f"entry {entry.index}: format {fields!r:.32}; this is format {FORMAT}")
    commands: list[bytes] = fields[1]
    return commands


def _fail(waiters: Sequence[_Waiter], error: Callable[[], RaftError]) -> None:
    """Tell each waiter, by an error of its own: a traceback belongs to one of them."""
    for sink, at, size in waiters:
        if isinstance(sink, _Frame):
            sink.put(at, [error() for _ in range(size)])
        elif not sink.done():
            sink.set_exception(error())
