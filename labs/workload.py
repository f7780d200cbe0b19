"""What simulated clients ask: appends to lists, registers that are put, read and deleted, and pairs
of registers that only batches write, both halves at once.

Some writes carry a name, and come again by another client where the answer was lost, or although it
was not: as from a user who presses the button twice. It is one request, and so one operation.

Every written value is unique in its run, so that a read names its write; the halves of a pair get
the same one, so that whoever sees both knows whether they belong together.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple, TypeVar

from labs.history import History, Kind, Operation
from labs.observer import InvariantBroken
from labs.store_invariants import StoreInvariants
from shardkv.clerk import Clerk
from shardkv.errors import OutcomeUnknown, Unavailable, ValueTooLong, VersionMismatch
from shardkv.once import TOKEN_BYTES, Once
from shardkv.tokens import ReadSession
from shardkv.types import Version
from shardkv.writes import Append, BatchOperation, Delete, Put

SEPARATOR: Final = b" "
NOT_DONE: Final = (Unavailable, VersionMismatch, ValueTooLong)

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadConfig:
    """How much is asked. Times in seconds."""

    clients: int = 6
    lists: int = 12
    registers: int = 12
    pairs: int = 4
    timeout: float = 3.0
    pause_max: float = 0.2
    """A client waits so long at most between two operations. Six clients then ask about 50 times
    a second."""
    writes: float = 0.6
    """The share of operations that write."""
    deletes: float = 0.15
    """The share of a register's writes that delete it."""
    batches: float = 0.15
    """The share of operations that are batches on a pair and its list."""
    named: float = 0.1
    """The share of writes and batches that carry a name."""
    again: float = 0.3
    """The share of those that come again although they were answered."""
    readers: int = 2
    """Clients beside them that read from any replica, keep sessions and list."""


class Pair(NamedTuple):
    """Two registers that are written together, and a list beside them; their tag is one."""

    left: bytes
    right: bytes
    log: bytes


class Workload:
    """Clients that ask until they are told to stop, and what they were told.

    Args:
        clerks: One a client.
        rng: What is asked; nothing else draws from it.
        witness: Told of each operation's begin and end.
        deadline: Draws each operation's time in seconds; None: as the config says.
        first_client: The number of the first client in the history.
    """

    def __init__(
        self,
        clerks: list[Clerk],
        rng: Random,
        config: WorkloadConfig,
        history: History,
        witness: StoreInvariants | None = None,
        *,
        deadline: Callable[[Random], float] | None = None,
        first_client: int = 0,
    ) -> None:
        self.first_client = first_client
        self._deadline = deadline
        self._witness = witness
        self._clerks = clerks
        seeds = [f"{rng.random()}/{client}" for client in range(len(clerks))]
        self._rngs = [Random(seed) for seed in seeds]
        self._naming = [Random(f"{seed}/names") for seed in seeds]
        self._config = config
        self._history = history
        self._stopping = False
        tags = [b"{pair %d}" % number for number in range(config.pairs)]
        self.pairs = [Pair(tag + b"left", tag + b"right", tag + b"log") for tag in tags]
        self.halves = [half for pair in self.pairs for half in (pair.left, pair.right)]
        self.lists = [b"list %d" % number for number in range(config.lists)]
        self.lists += [pair.log for pair in self.pairs]
        self.registers = [b"register %d" % number for number in range(config.registers)]
        self._versions: dict[bytes, int] = {}  # of left halves, as somebody was told last

    @property
    def keys(self) -> list[bytes]:
        return self.written_alone + self.halves

    @property
    def written_alone(self) -> list[bytes]:
        """What any write may write; halves are written by batches only."""
        return self.lists + self.registers

    async def run(self) -> None:
        """Ask until `stop`; each client ends its last operation first."""
        await asyncio.gather(*[self._client(client) for client in range(len(self._clerks))])

    def stop(self) -> None:
        self._stopping = True

    async def _client(self, client: int) -> None:
        rng = self._rngs[client]
        written = 0
        while not self._stopping:
            timeout = None if self._deadline is None else self._deadline(rng)
            if self.pairs and rng.random() < self._config.batches:
                written += 1
                await self._batch(client, b"%d.%d" % (client, written), rng, timeout)
            else:
                kind, key = self._draw(rng)
                value: bytes | None = None
                if kind in (Kind.PUT, Kind.APPEND):
                    written += 1
                    value = b"%d.%d" % (client, written)
                    value += SEPARATOR if kind is Kind.APPEND else b""
                once = None if kind is Kind.GET else self._name(client)
                await self.ask(client, kind, key, value, timeout, once=once)
            await asyncio.sleep(rng.uniform(0, self._config.pause_max))

    async def _batch(self, client: int, value: bytes, rng: Random, timeout: float | None) -> None:
        """Both halves of a pair get `value`, or both go; now and then on a condition, or with more
        beside them."""
        left, right, log = rng.choice(self.pairs)
        batch: list[BatchOperation]
        match rng.choice(("put", "put", "put and append", "put twice", "delete", "if")):
            case "put":
                batch = [Put(left, value), Put(right, value)]
            case "put and append":
                batch = [Put(left, value), Append(log, value + SEPARATOR), Put(right, value)]
            case "put twice":  # the first value is never seen
                batch = [Put(right, value + b"?"), Put(left, value), Put(right, value)]
            case "delete":
                batch = [Delete(right), Delete(left)]
            case _:  # refused in the middle, if somebody was faster
                version = rng.choice((0, self._versions.get(left, 0)))
                batch = [Append(log, value + SEPARATOR), Put(right, value)]
                batch += [Put(left, value, version)]
        await self.ask_batch(client, batch, timeout, once=self._name(client))

    def _name(self, client: int) -> Once | None:
        rng = self._naming[client]
        return Once(rng.randbytes(TOKEN_BYTES)) if rng.random() < self._config.named else None

    async def _certain(
        self,
        client: int,
        once: Once | None,
        keys: Sequence[bytes],
        ask: Callable[[Clerk], Awaitable[Told]],
    ) -> Told:
        """What a request is answered; of a named one by another client, where this one does not
        hear it. Raises what the clerk raises, of the request as a whole."""
        if once is None:
            return await ask(self._clerks[client])
        began = asyncio.get_running_loop().time()
        told: list[Told] = []
        lost = False
        try:
            told.append(await ask(self._clerks[client]))
        except OutcomeUnknown:
            lost = True
        except Unavailable:
            pass  # the next one may be luckier
        if told and self._naming[client].random() >= self._config.again:
            return told[0]
        try:
            told.append(await ask(self._clerks[(client + 1) % len(self._clerks)]))
        except (OutcomeUnknown, Unavailable):
            if lost:  # what the second one did not do, the first may have done
                raise OutcomeUnknown("nobody was told") from None
            if not told:
                raise
        if told[0] != told[-1] and not self._may_be_lost(keys, began):
            raise InvariantBroken("C5", f"{once} is answered {told[0]}, and then {told[1]}")
        return told[-1]

    def _may_be_lost(self, keys: Sequence[bytes], began: float) -> bool:
        """Whether what was done to any of the keys since then was lost with a group's majority, and
        the name that did it with it."""
        witness = self._witness
        return witness is not None and any(witness.memory.lost_since(key, began) for key in keys)

    async def ask_batch(
        self,
        client: int,
        batch: Sequence[BatchOperation],
        timeout: float | None = None,
        *,
        once: Once | None = None,
    ) -> list[Operation]:
        """A batch, recorded as one operation a write, all with the same call and answer."""
        now = asyncio.get_running_loop().time()
        seconds = self._config.timeout if timeout is None else timeout
        operations = self._history.begin_batch(
            self.first_client + client, [_recorded(one) for one in batch], now
        )
        with self._witnessed(operations, seconds if once is None else 2 * seconds):
            try:
                versions = await self._certain(
                    client,
                    once,
                    [operation.key for operation in operations],
                    lambda clerk: clerk.batch(batch, once=once, timeout=seconds),
                )
            except OutcomeUnknown:
                return operations
            except NOT_DONE:
                happened = False
                versions = [Version(0)] * len(batch)
            else:
                happened = True
            for operation, version in zip(operations, versions, strict=True):
                operation.happened, operation.version = happened, version
                operation.ended = asyncio.get_running_loop().time()
                if happened:
                    self._versions[operation.key] = version
        return operations

    def _draw(self, rng: Random) -> tuple[Kind, bytes]:
        config = self._config
        writes = rng.random() < config.writes
        if rng.random() * (config.lists + config.registers) < config.lists:
            return (Kind.APPEND if writes else Kind.GET), rng.choice(self.lists)
        if not writes:
            return Kind.GET, rng.choice(self.registers + self.halves)
        deletes = rng.random() < config.deletes
        return (Kind.DELETE if deletes else Kind.PUT), rng.choice(self.registers)

    async def ask(
        self,
        client: int,
        kind: Kind,
        key: bytes,
        value: bytes | None,
        timeout: float | None = None,
        *,
        consistency: str = "linearizable",
        session: ReadSession | None = None,
        once: Once | None = None,
    ) -> Operation:
        """One operation, recorded with what became of it."""
        loop = asyncio.get_running_loop()
        seconds = self._config.timeout if timeout is None else timeout
        operation = self._history.begin(self.first_client + client, kind, key, value, loop.time())
        with self._witnessed([operation], seconds if once is None else 2 * seconds):
            await self._carry_out(client, operation, seconds, consistency, session, once)
        return operation

    @contextmanager
    def _witnessed(self, operations: Sequence[Operation], seconds: float) -> Iterator[None]:
        """Tell the witness of operations that begin now and end with the block."""
        witness = self._witness
        if witness is None:
            yield
            return
        told = [witness.called(operation) for operation in operations]
        try:
            yield
        finally:
            for operation, known in zip(operations, told, strict=True):
                witness.ended(operation, known, operation.began + seconds)

    async def _carry_out(
        self,
        client: int,
        operation: Operation,
        seconds: float,
        consistency: str,
        session: ReadSession | None,
        once: Once | None,
    ) -> None:
        """A write of a name of its own is never asked in a session that reads."""
        kind, key, value = operation.kind, operation.key, operation.value
        try:
            match kind:
                case Kind.GET:
                    operation.value, operation.version = await self._clerks[client].get_row(
                        key, consistency=consistency, session=session, timeout=seconds
                    )
                case Kind.PUT:
                    operation.version = await self._certain(
                        client,
                        once,
                        [key],
                        lambda clerk: clerk.put(
                            key, value or b"", session=session, once=once, timeout=seconds
                        ),
                    )
                case Kind.APPEND:
                    operation.version = await self._certain(
                        client,
                        once,
                        [key],
                        lambda clerk: clerk.append(
                            key, value or b"", session=session, once=once, timeout=seconds
                        ),
                    )
                case Kind.DELETE:
                    await self._certain(
                        client,
                        once,
                        [key],
                        lambda clerk: clerk.delete(
                            key, session=session, once=once, timeout=seconds
                        ),
                    )
        except OutcomeUnknown:
            return  # it has no end
        except NOT_DONE:
            operation.happened = False
        else:
            operation.happened = True
        operation.ended = asyncio.get_running_loop().time()


def _recorded(operation: BatchOperation) -> tuple[Kind, bytes, bytes | None]:
    match operation:
        case Put(bytes(key), bytes(value)):
            return Kind.PUT, key, value
        case Append(bytes(key), bytes(value)):
            return Kind.APPEND, key, value
        case Delete(bytes(key)):
            return Kind.DELETE, key, None
    raise AssertionError(operation)
