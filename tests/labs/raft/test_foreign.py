"""Somebody else's Raft below the tester: what its persister keeps, and which figures are shown."""

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Any

from labrpc.sim.chance import Chance
from labrpc.sim.disk import SimDrive
from labrpc.sim.labnet import LabNetwork, LabServer
from labrpc.sim.loop import run
from labs.harness import figures
from labs.harness.edition import run_lab
from labs.harness.figures import Figures
from labs.harness.foreign import ForeignMaker, Persister


class Scribe:
    """A server that does nothing but save."""

    handlers: Mapping[str, Any] = {}

    def __init__(
        self, peers: Any, me: int, persister: Persister, apply_queue: Any, rng: Random
    ) -> None:
        self.persister = persister

    def start(self, command: Any) -> tuple[int, int, bool]:
        return -1, 0, False

    def get_state(self) -> tuple[int, bool]:
        return 0, False

    def snapshot(self, index: int, snapshot: bytes) -> None: ...

    def kill(self) -> None: ...


def test_what_a_killed_server_still_saves_is_lost() -> None:
    made: list[Scribe] = []

    def make(*arguments: Any) -> Scribe:
        made.append(Scribe(*arguments))
        return made[-1]

    async def main() -> None:
        maker, chance = ForeignMaker(make), Chance("1")
        queue: asyncio.Queue[Any] = asyncio.Queue(1)
        for me in (0, 1, 0):
            drive = SimDrive(chance.rng("drive"))
            server = await maker([], me, drive, queue, chance.rng("raft"))
            if len(made) == 1:
                made[0].persister.save(b"state", b"\x92\x07\x90")
                made[0].persister.save(b"newer state")
        made[0].persister.save(b"from the grave")

        assert [(scribe.persister.state, scribe.persister.snapshot) for scribe in made[1:]] == [
            (b"", b""),
            (b"newer state", b"\x92\x07\x90"),
        ]
        assert server.read_snapshot() == (7, b"\x92\x07\x90")
        assert server.persist_bytes() == len(b"newer state")

    run(main())


def test_a_run_is_counted_also_when_it_fails() -> None:
    told: list[Figures] = []

    async def main() -> None:
        network = LabNetwork(Random(1))
        network.add_server("s", LabServer({"echo": lambda body: body}))
        end = network.make_end("end")
        network.connect("end", "s")
        network.enable("end", True)
        assert await end.call("echo", b"four") == b"four"
        figures.note_operations(3)
        await asyncio.sleep(2.5)
        raise ValueError("after all that")

    with figures.reporting_to(told.append):
        try:
            run_lab(main(), seed="x", test="t")
        except ValueError:
            pass
        else:
            raise AssertionError("it fails")

    (told_of,) = told
    assert told_of._replace(seconds=round(told_of.seconds, 1)) == Figures(
        seed="x", seconds=2.5, peers=1, rpcs=1, bytes=8, operations=3
    )
