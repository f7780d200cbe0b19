"""What simulated clients ask: appends to lists, and registers that are put, read and deleted.

Every written value is unique in its run, so that a read names its write.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from labs.history import History, Kind, Operation
from labs.store_invariants import StoreInvariants
from shardkv.clerk import Clerk
from shardkv.errors import OutcomeUnknown, Unavailable
from shardkv.tokens import ReadSession

SEPARATOR: Final = b" "


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadConfig:
    """How much is asked. Times in seconds."""

    clients: int = 6
    lists: int = 12
    registers: int = 12
    timeout: float = 3.0
    pause_max: float = 0.2
    """A client waits so long at most between two operations. Six clients then ask about 50 times
    a second."""
    writes: float = 0.6
    """The share of operations that write."""
    deletes: float = 0.15
    """The share of a register's writes that delete it."""
    readers: int = 2
    """Clients beside them that read from any replica, keep sessions and list."""


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
        self._rngs = [Random(f"{rng.random()}/{client}") for client in range(len(clerks))]
        self._config = config
        self._history = history
        self._stopping = False
        self.lists = [b"list %d" % number for number in range(config.lists)]
        self.registers = [b"register %d" % number for number in range(config.registers)]

    @property
    def keys(self) -> list[bytes]:
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
            kind, key = self._draw(rng)
            value: bytes | None = None
            if kind in (Kind.PUT, Kind.APPEND):
                written += 1
                value = b"%d.%d" % (client, written)
                value += SEPARATOR if kind is Kind.APPEND else b""
            timeout = None if self._deadline is None else self._deadline(rng)
            await self.ask(client, kind, key, value, timeout)
            await asyncio.sleep(rng.uniform(0, self._config.pause_max))

    def _draw(self, rng: Random) -> tuple[Kind, bytes]:
        config = self._config
        writes = rng.random() < config.writes
        if rng.random() * (config.lists + config.registers) < config.lists:
            return (Kind.APPEND if writes else Kind.GET), rng.choice(self.lists)
        if not writes:
            return Kind.GET, rng.choice(self.registers)
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
    ) -> Operation:
        """One operation, recorded with what became of it."""
        loop = asyncio.get_running_loop()
        clerk = self._clerks[client]
        seconds = self._config.timeout if timeout is None else timeout
        operation = self._history.begin(self.first_client + client, kind, key, value, loop.time())
        witness = self._witness
        told = witness.called(operation) if witness is not None else 0
        try:
            await self._carry_out(clerk, operation, seconds, consistency, session)
        finally:
            if witness is not None:
                witness.ended(operation, told, operation.began + seconds)
        return operation

    async def _carry_out(
        self,
        clerk: Clerk,
        operation: Operation,
        seconds: float,
        consistency: str,
        session: ReadSession | None,
    ) -> None:
        kind, key, value = operation.kind, operation.key, operation.value
        try:
            match kind:
                case Kind.GET:
                    operation.value, operation.version = await clerk.get_row(
                        key, consistency=consistency, session=session, timeout=seconds
                    )
                case Kind.PUT:
                    operation.version = await clerk.put(
                        key, value or b"", session=session, timeout=seconds
                    )
                case Kind.APPEND:
                    operation.version = await clerk.append(
                        key, value or b"", session=session, timeout=seconds
                    )
                case Kind.DELETE:
                    await clerk.delete(key, session=session, timeout=seconds)
        except OutcomeUnknown:
            return  # it has no end
        except Unavailable:
            operation.happened = False
        else:
            operation.happened = True
        operation.ended = asyncio.get_running_loop().time()
