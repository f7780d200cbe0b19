"""The tester of the single-server labs: one server, and clerks with an end each."""

import asyncio
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.labnet import LabEnd, LabNetwork
from labs import kvsrv
from labs.harness.clerks import Recorder, Strings, Versioned
from labs.harness.edition import TEST_SECONDS_MAX, Edition, LabFailure
from labs.harness.kv_history import judge_calls
from labs.harness.kv_tests import Clients, StringsClient, check_elements

ITERATIONS: Final = 3
ITERATION_SECONDS: Final = 1.0
WORK_SECONDS_MAX: Final = 0.01
SERVER: Final = "s0"


class KvsrvCluster:
    """The tester's `config`: an async context.

    Args:
        seed: Of everything in the run.
        edition: Which server runs, and by whose model the history is judged.
        reliable: The network's kind.
    """

    def __init__(self, *, seed: str, edition: Edition, reliable: bool) -> None:
        self._chance = Chance(seed)
        self.rng = self._chance.rng("tester")
        self.edition = edition
        self.network = LabNetwork(self._chance.rng("network"))
        self.network.reliable = reliable
        self.server = kvsrv.KVServer() if edition is Edition.E2024 else kvsrv.VersionedServer()
        self.network.add_server(SERVER, self.server.server)
        self.recorder = Recorder()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._ends: dict[Strings | Versioned, LabEnd] = {}
        self._ends_made = 0

    async def __aenter__(self) -> "KvsrvCluster":
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        took = self._loop.time() - self._began
        self.network.cleanup()
        if kind is None:
            if took > TEST_SECONDS_MAX:
                raise LabFailure(f"the test took {took:.1f} s; the limit is {TEST_SECONDS_MAX} s")
            judge_calls(self.recorder.calls, self.edition)

    def end(self) -> LabEnd:
        """A new way to the server."""
        self._ends_made += 1
        end = self.network.make_end(self._ends_made)
        self.network.connect(end.name, SERVER)
        self.network.enable(end.name, True)
        return end

    def strings(self) -> Strings:
        """A new clerk of 2024, written down."""
        end = self.end()
        clerk = Strings(kvsrv.Clerk(end), self.recorder)
        self._ends[clerk] = end
        return clerk

    def versioned(self) -> Versioned:
        """A new clerk of 2025, written down."""
        end = self.end()
        clerk = Versioned(kvsrv.VersionedClerk(end), self.recorder)
        self._ends[clerk] = end
        return clerk

    async def delete(self, clerk: Strings | Versioned) -> None:
        await clerk.close()
        self.network.delete_end(self._ends.pop(clerk).name)


async def many_strings(cluster: KvsrvCluster, clients: int) -> None:
    """GenericTest of the 2024 lab: clients on a key each, and what each of them must see."""
    checker = cluster.strings()
    for _ in range(ITERATIONS):
        running = Clients(clients, WORK_SECONDS_MAX)
        clerks = [cluster.strings() for _ in range(clients)]
        bodies = [
            StringsClient(number, clerk, Random(cluster.rng.random()), keys=0, old_values=True).run(
                running
            )
            for number, clerk in enumerate(clerks)
        ]
        written = await running.run(bodies, ITERATION_SECONDS)
        for clerk in clerks:
            await cluster.delete(clerk)
        for number, count in enumerate(written):
            check_elements(number, await checker.get(str(number)), count)
