"""The key/value lab's tester: servers, clerks on ends of their own, and what is checked at the end.

At the end of every test, and where a test asks for it, the whole history is judged; to give up
judging is a failure. The observer of Raft's invariants watches throughout.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from labrpc.sim.chance import Chance
from labrpc.sim.labnet import LabNetwork
from labs import kvraft
from labs.compaction import NEVER
from labs.harness.clerks import (
    ClerkEnds,
    Recorder,
    Strings,
    StringsClient,
    Versioned,
    VersionedClient,
)
from labs.harness.edition import TEST_SECONDS_MAX, Edition, LabFailure
from labs.harness.kv_history import judge_calls
from labs.harness.servers import Make, ReplicatedServer, ServerGroup
from labs.transport import LabTransport
from raft.config import RaftConfig

ELECTION_SECONDS: Final = 1.0
"""The tests' unit of sleep (electionTimeout)."""
RAFT_STATE_FACTOR: Final = 8
"""A raft state may hold so many times `maxraftstate`."""

CONFIGS: Final[Mapping[Edition, RaftConfig]] = {
    Edition.E2024: kvraft.PLAIN,
    Edition.E2025: kvraft.PRODUCTION,
}
"""One edition runs each mode of the core, so that the suites see both."""


class MakeStrings(Protocol):
    def __call__(
        self, transport: LabTransport, servers: Sequence[str], rng: Random
    ) -> StringsClient: ...


class MakeVersioned(Protocol):
    def __call__(
        self, transport: LabTransport, servers: Sequence[str], rng: Random
    ) -> VersionedClient: ...


class KvCluster:
    """The tester's `config`: an async context, which starts the servers.

    Args:
        count: How many servers.
        seed: Of everything in the run.
        edition: By whose model the history is judged: the clerks are of it.
        reliable: The network's kind.
        maxraftstate: In bytes; `NEVER` (-1): no snapshots.
        make: Starts a server; None: the project's own. Only of that one can the invariants be
            watched; the tester's own checks hold for any.
        clerks: What makes a clerk of either edition.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: str,
        edition: Edition,
        reliable: bool,
        maxraftstate: int = NEVER,
        make: Make[Any] | None = None,
        strings: MakeStrings = kvraft.Clerk,
        versioned: MakeVersioned = kvraft.VersionedClerk,
    ) -> None:
        chance = Chance(seed)
        self.edition = edition
        self.rng = chance.rng("tester")
        self.network = LabNetwork(chance.rng("network"))
        self.network.reliable = reliable
        self.group: ServerGroup[ReplicatedServer] = ServerGroup(
            make or partial(kvraft.KVServer.make, config=CONFIGS[edition]),
            count,
            self.network,
            chance,
            maxraftstate=maxraftstate,
        )
        self.recorder = Recorder()
        self.maxraftstate = maxraftstate
        self._watched = make is None
        self._strings, self._versioned = strings, versioned
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._clerks: dict[Strings | Versioned, ClerkEnds] = {}

    async def __aenter__(self) -> "KvCluster":
        await self.group.start_all()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        took = self._loop.time() - self._began
        for clerk in list(self._clerks):
            await self.delete(clerk)
        self.group.shutdown_all()
        self.network.cleanup()
        self.group.invariants.finish()
        if kind is None:
            if took > TEST_SECONDS_MAX:
                raise LabFailure(f"the test took {took:.1f} s; the limit is {TEST_SECONDS_MAX} s")
            self.check_linearizable()
            if self._watched and self.group.invariants.checks == 0:
                raise LabFailure("a run that looked at nothing proves nothing")

    # Clerks

    def strings(self, to: Sequence[int] | None = None) -> Strings:
        """A new clerk of the append edition.

        Args:
            to: The servers that it can reach; None: all.
        """
        ends, order, rng = self._new_ends(to)
        clerk = Strings(self._strings(LabTransport(ends.ends), order, rng), self.recorder)
        self._clerks[clerk] = ends
        return clerk

    def versioned(self, to: Sequence[int] | None = None) -> Versioned:
        """A new clerk of the versioned edition."""
        ends, order, rng = self._new_ends(to)
        clerk = Versioned(self._versioned(LabTransport(ends.ends), order, rng), self.recorder)
        self._clerks[clerk] = ends
        return clerk

    def _new_ends(self, to: Sequence[int] | None) -> tuple[ClerkEnds, list[str], Random]:
        number = self.recorder.clerks + 1
        rng = self._chance.rng(f"clerk/{number}")
        ends = ClerkEnds(self.network, number, self.group.names)
        ends.connect(self._names(to))
        order = list(self.group.names)
        rng.shuffle(order)  # "server 0" of a clerk is not server 0
        return ends, order, rng

    def connect_clerk(self, clerk: Strings | Versioned, to: Sequence[int] | None = None) -> None:
        """Let a clerk reach these servers and no others; None: all."""
        self._clerks[clerk].connect(self._names(to))

    async def delete(self, clerk: Strings | Versioned) -> None:
        """End a clerk, with what it still waits for."""
        ends = self._clerks.pop(clerk)
        await clerk.close()
        ends.delete()

    def _names(self, to: Sequence[int] | None) -> list[str]:
        return self.group.names if to is None else [self.group.names[i] for i in to]

    # What is checked

    def check_linearizable(self) -> None:
        """Judge all that clerks were told so far."""
        judge_calls(self.recorder.calls, self.edition)

    def check_sizes(self) -> None:
        """The raft state stays near `maxraftstate`; without snapshots there is none."""
        if self.maxraftstate > 0:
            size, most = self.group.log_size(), RAFT_STATE_FACTOR * self.maxraftstate
            if size > most:
                raise LabFailure(f"a log was not cut: {size} > {most} bytes")
        elif (size := self.group.snapshot_size()) > 0:
            raise LabFailure(f"a snapshot of {size} bytes, and none was asked for")
