"""The healer's clock: what it counts as silence, and what it does not."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from labrpc.errors import Refused, Unreachable
from labrpc.sim.loop import run
from labrpc.transport import Address, CallHandler, Transport
from raft.host import Host
from raft.types import GroupId, GroupUuid
from shardctrler.types import Directory, GroupRecord, NodeAddresses, View, first_config
from shardkv import admin
from shardkv.admin import MemberStatus
from shardkv.errors import Unavailable
from shardkv.healing import REST_SECONDS, SHUN_SECONDS, STEP_SECONDS_MAX, Healer, _Ours
from shardkv.healing_beats import BEAT, Beat, LedGroup, NodeHealth, Own
from shardkv.planner import GroupView, HealPolicy, Plan, Step, Undo

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
        self.view = View(first_config(4), Directory(1, {}, cast(Any, addresses)))
        self.healer = Healer(
            cast(Host, host),
            cast(Transport, nodes),
            view=lambda: self.view,
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
        gone = nodes.answers.pop("n2")
        await asyncio.sleep(1.5)
        assert watching.seen()["n2"].silent_ms == 0
        nodes.answers["n2"] = gone
        await asyncio.sleep(3.0)
        assert 1000 < watching.seen()["n2"].silent_ms <= 4000, "it begins anew"
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


# What a leadership remembers of its looks


def led_by_n2(**more: Any) -> Beat:
    """n2 leads group 1, of which n3 is the other voter."""
    voters = (MemberStatus(2, "n2", ""), MemberStatus(3, "n3", ""))
    led = LedGroup(1, b"u", 3, voters, (), (), (), (), 4, 1, 0, ())._replace(**more)
    return ALIVE._replace(replicas=((1, 2),), led=(led,))


async def look(watching: Watching, seconds: float = 1.0) -> GroupView:
    """One look, so long after the last."""
    await asyncio.sleep(seconds)
    view = watching.healer._directory()
    assert view is not None
    await watching.healer._look(view.directory)
    group = watching.healer._seen.group(1)
    assert group is not None
    return group


def test_a_group_under_another_uuid_is_not_the_one_that_is_meant() -> None:
    """It was given up and born again; what is left of the old one leads nobody."""

    async def main() -> str:
        watching = Watching(Nodes({"n2": led_by_n2(), "n3": ALIVE}))
        record = GroupRecord(GroupUuid(b"another"), 1, ())
        watching.view = watching.view._replace(
            directory=Directory(2, {GroupId(1): record}, watching.view.directory.nodes)
        )
        return (await look(watching)).leader

    assert run(main()) == ""


def test_missing_replicas_count_from_when_these_were_first_missing() -> None:
    async def main() -> list[int]:
        there = ALIVE._replace(replicas=((1, 3),))
        nodes = Nodes({"n2": led_by_n2(), "n3": there})
        watching = Watching(nodes)
        seen = []
        for beat in (there, there, there, ALIVE, ALIVE, ALIVE, there, ALIVE):
            nodes.answers["n3"] = beat
            group = await look(watching)
            seen.append(round(group.wiped_seconds) if group.wiped else -1)
        return seen

    assert run(main()) == [-1, -1, -1, 0, 1, 2, -1, 0]


def test_a_newcomer_that_nobody_made_counts_from_when_it_was_first_missing() -> None:
    async def main() -> list[int]:
        newcomer = {"learners": (MemberStatus(9, "n1", ""),), "promote": (9,)}
        nodes = Nodes({"n2": led_by_n2(**newcomer), "n3": ALIVE._replace(replicas=((1, 3),))})
        watching = Watching(nodes)
        seen = []
        for there in (False, False, False, True, True, False):
            nodes.answers["n2"] = led_by_n2(
                **newcomer if not there else {"learners": (), "promote": ()}
            )
            seen.append(round((await look(watching)).orphan_seconds))
        return seen

    assert run(main()) == [0, 1, 2, 0, 0, 0]


@pytest.mark.parametrize(("replica", "ours"), [(8, ()), (9, (9,)), (12, (12,))])
def test_a_newcomer_with_an_older_id_is_somebody_else_s(
    replica: int, ours: tuple[int, ...]
) -> None:
    async def main() -> tuple[int, ...]:
        change = {
            "learners": (MemberStatus(replica, "n1", ""),),
            "promote": (replica,),
            "leaving": (3,),
        }
        watching = Watching(Nodes({"n2": led_by_n2(**change), "n3": ALIVE}))
        await look(watching)
        assert watching.healer._watch is not None
        watching.healer._watch.ours[1] = _Ours("n1", 3, 9)
        return (await look(watching)).ours

    assert run(main()) == ours


UNDO = Undo(1, "n2", (9,), "n3 never made it", "n3")


def carrying_out(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Awaitable[None]]) -> Watching:
    """A healer whose first look finds a step to take."""
    steps: list[Step | None] = [UNDO]
    monkeypatch.setattr("shardkv.planner.plan", lambda *_: Plan(steps.pop() if steps else None, ()))

    async def carry_out(*_: object) -> None:
        await work()

    monkeypatch.setattr("shardkv.healing.carry_out", carry_out)
    return Watching(Nodes({"n2": led_by_n2(), "n3": ALIVE._replace(replicas=((1, 3),))}))


def test_a_step_that_failed_lets_its_group_rest_and_its_node_be_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail() -> None:
        raise Unavailable("not now")

    async def main() -> None:
        watching = carrying_out(monkeypatch, fail)
        assert not (await look(watching)).resting

        assert (await look(watching)).resting
        shunned = {node.node: node.shunned for node in watching.healer._seen.nodes}
        assert shunned == {"n1": False, "n2": False, "n3": True}
        for _ in range(round(REST_SECONDS)):
            group = await look(watching)
        assert not group.resting
        for _ in range(round(SHUN_SECONDS)):
            await look(watching)
        assert not any(node.shunned for node in watching.healer._seen.nodes)

    run(main())


def test_a_step_that_took_very_long_was_held_up_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody was listened to meanwhile, and silence counts anew."""

    async def main() -> None:
        watching = carrying_out(monkeypatch, lambda: asyncio.sleep(STEP_SECONDS_MAX + 1))
        await look(watching)
        assert watching.healer._watch is None

    run(main())
