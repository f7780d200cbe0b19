"""The healer's clock: what it counts as silence, and what it does not."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from labrpc.errors import Refused, Unreachable
from labrpc.sim.loop import run
from labrpc.transport import Address, CallHandler, Transport
from raft.host import Host
from shardctrler.types import Directory, NodeAddresses, View, first_config
from shardkv import admin
from shardkv.admin import MemberStatus
from shardkv.healing import Healer
from shardkv.healing_beats import BEAT, Beat, LedGroup, NodeHealth, Own
from shardkv.planner import HealPolicy

ALIVE = Beat("", 1, 1, 1, 1, (), ())


@dataclass
class Nodes:
    """Nodes that answer, refuse or are silent, as told."""

    answers: dict[str, Beat | Exception] = field(default_factory=dict)
    held_up: float = 0.0
    """The next question takes this long: the asking process stands still meanwhile."""

    def serve(self, method: str, handler: CallHandler) -> None:
        """Nobody asks this one."""

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        assert method == BEAT
        seconds, self.held_up = self.held_up, 0.0
        await asyncio.sleep(seconds or 0.001)
        answer = self.answers.get(to, ALIVE)
        if isinstance(answer, Exception):
            raise answer
        return admin.encode(answer)


class Watching:
    """A healer on n1, which leads the controller's group; nothing is ever to be mended."""

    def __init__(self, nodes: Nodes, names: str = "n1 n2 n3") -> None:
        self.core = SimpleNamespace(slow_disk_at=float("-inf"))
        self.replica = SimpleNamespace(leads=True, gid=0, id=1, core=self.core)
        host = SimpleNamespace(node="n1", replicas={})
        addresses = {name: NodeAddresses(name, name) for name in names.split()}
        view = View(first_config(4), Directory(1, {}, cast(Any, addresses)))
        self.healer = Healer(
            cast(Host, host),
            cast(Transport, nodes),
            view=lambda: view,
            own=lambda: Own(1),
            moving=lambda gid: False,
            policy=HealPolicy(grace_seconds=600.0),
        )
        self.leads = True
        type(self.healer).leads = property(lambda _: self.leads)  # type: ignore[assignment]

    def seen(self) -> Mapping[str, NodeHealth]:
        return {node.node: node for node in self.healer.report().nodes}


@pytest.fixture(autouse=True)
def leadership(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Watching` says who leads; afterwards the class is as it was."""
    monkeypatch.setattr(Healer, "leads", Healer.leads)


def test_silence_is_counted_from_the_first_question_in_vain() -> None:
    async def main() -> None:
        nodes = Nodes()
        watching = Watching(nodes)
        watching.healer.start()
        await asyncio.sleep(10.0)
        nodes.answers["n2"] = Unreachable("gone")
        await asyncio.sleep(7.0)

        found = watching.seen()

        assert found["n2"].health == "suspect"
        assert 5000 < found["n2"].silent_ms <= 8000
        assert found["n1"].health == found["n3"].health == "alive"
        del nodes.answers["n2"]
        await asyncio.sleep(1.5)
        assert watching.seen()["n2"].silent_ms == 0
        await watching.healer.close()

    run(main())


def test_a_new_leadership_counts_anew() -> None:
    async def main() -> None:
        nodes = Nodes({"n2": Unreachable("gone")})
        watching = Watching(nodes)
        watching.healer.start()
        await asyncio.sleep(20.0)
        watching.leads = False
        await asyncio.sleep(1.5)
        assert watching.healer.report().leads == 0
        watching.leads = True
        await asyncio.sleep(2.5)

        assert watching.seen()["n2"].silent_ms < 4000
        await watching.healer.close()

    run(main())


def test_time_in_which_this_process_stood_still_is_nobody_s_silence() -> None:
    """n2 missed one beat; then nobody asked for an hour."""

    async def main() -> None:
        nodes = Nodes()
        watching = Watching(nodes)
        watching.healer.start()
        await asyncio.sleep(5.2)
        nodes.answers["n2"] = Unreachable("lost")
        await asyncio.sleep(1.0)
        nodes.held_up = 3600.0
        await asyncio.sleep(3605.0)

        assert watching.seen()["n2"].silent_ms < 7000
        await watching.healer.close()

    run(main())


def test_a_look_that_comes_late_counts_anew() -> None:
    """Between two looks this process stood still, and so it was this node that did not listen."""

    async def main() -> list[int]:
        watching = Watching(Nodes({"n2": Unreachable("silent")}))
        view = watching.healer._directory()
        assert view is not None
        silent = []
        for pause in (0.0, 2.0, 60.0, 2.0):
            await asyncio.sleep(pause)
            await watching.healer._look(view.directory)
            silent.append(watching.seen()["n2"].silent_ms)
        return silent

    first, second, anew, again = run(main())
    assert first < 1000 <= second < 4000
    assert anew < 1000 <= again < 4000


def test_a_node_that_starts_is_alive_and_one_of_another_cluster_is_not() -> None:
    async def main() -> None:
        nodes = Nodes(
            {
                "n2": Refused("UNAVAILABLE", "the node is starting"),
                "n3": Refused("FAILED_PRECONDITION", "cluster mismatch"),
            }
        )
        watching = Watching(nodes)
        watching.healer.start()
        await asyncio.sleep(10.0)

        assert watching.seen()["n2"].health == "alive"
        assert watching.seen()["n3"].health == "suspect"
        await watching.healer.close()

    run(main())


def test_a_member_that_never_registered_is_watched_too() -> None:
    """It died before it could tell the controller where it is; its replicas are missing all the
    same."""
    led = LedGroup(
        1, b"u", 3, tuple(MemberStatus(at, f"n{at}", "") for at in (1, 2, 9)), (), (), (), (), 4, 1,
        0, (),
    )  # fmt: skip

    async def main() -> None:
        watching = Watching(Nodes({"n2": ALIVE._replace(led=(led,))}))
        watching.healer.start()
        await asyncio.sleep(10.0)

        assert watching.seen()["n9"].health == "suspect"
        await watching.healer.close()

    run(main())


@pytest.mark.parametrize("terms", [(3, 5), (5, 3)])
def test_of_two_that_believe_they_lead_the_later_one_counts(terms: tuple[int, int]) -> None:
    voters = tuple(MemberStatus(at, f"n{at}", "") for at in (1, 2, 3))

    def leads(term: int) -> Beat:
        led = LedGroup(1, b"u", term, voters, (), (), (), (), 4, 1, 0, ())
        return ALIVE._replace(led=(led,))

    async def main() -> str:
        watching = Watching(Nodes({"n2": leads(terms[0]), "n3": leads(terms[1])}))
        view = watching.healer._directory()
        assert view is not None
        await watching.healer._look(view.directory)
        group = watching.healer._seen.group(1)
        assert group is not None
        return group.leader

    assert run(main()) == ("n3" if terms == (3, 5) else "n2")
