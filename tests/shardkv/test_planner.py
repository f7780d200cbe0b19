"""What healing decides, from tables: a view, and the step that follows or the reason why none."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from shardkv.admin import MemberStatus
from shardkv.planner import (
    ClusterView,
    GroupView,
    HealPolicy,
    Health,
    NodeView,
    Replace,
    Step,
    Transfer,
    Undo,
    describe,
    health,
    led,
    plan,
    uneven,
)

POLICY = HealPolicy(grace_seconds=60.0)
GONE = 60.0
"""As long a silence as the grace period."""


def node(name: str, silent: float = 0.0, *replicas: tuple[int, int], **more: bool) -> NodeView:
    return NodeView(name, silent, replicas, **more)


def member(replica: int, name: str) -> MemberStatus:
    return MemberStatus(replica, name, f"{name}:1")


def group(gid: int = 1, leader: str = "n1", nodes: str = "n1 n2 n3", **more: Any) -> GroupView:
    """A group whose replica 1 is on the first node, and so on; everybody has all entries."""
    names = nodes.split()
    view = GroupView(
        gid,
        leader,
        b"u" * 16,
        led_seconds=100.0,
        voters=tuple(member(at + 1, name) for at, name in enumerate(names)),
        next_id=len(names) + 1,
        lags=tuple((name, 0) for name in names if name != leader),
        heard=tuple(name for name in names if name != leader),
    )
    return view._replace(**more)


def cluster(*values: NodeView | GroupView, uneven: float = 100.0) -> ClusterView:
    return ClusterView(
        nodes=tuple(value for value in values if isinstance(value, NodeView)),
        groups=tuple(value for value in values if isinstance(value, GroupView)),
        uneven_seconds=uneven,
    )


def four(silent: float, *groups: GroupView) -> ClusterView:
    """n3 is silent for so long; the others live, n4 holds nothing."""
    return cluster(node("n1"), node("n2"), node("n3", silent), node("n4"), *groups)


WITHOUT_N3 = group(heard=("n2",), lags=(("n2", 0), ("n3", 50)))
WIPED = WITHOUT_N3._replace(wiped=(3,), wiped_seconds=5.0)
"""n3 answers, and does not hold its replica."""
LEARNS = WITHOUT_N3._replace(
    learners=(member(4, "n4"),), promote=(4,), leaving=(3,), next_id=5, ours=(4,)
)
"""n4 is about to take n3's place, by healing's doing."""


def holding(view: ClusterView, name: str, *replicas: tuple[int, int]) -> ClusterView:
    """The same, with what a node says that it holds."""
    nodes = tuple(
        one._replace(replicas=replicas) if one.node == name else one for one in view.nodes
    )
    return replace(view, nodes=nodes)


@pytest.mark.parametrize(
    ("view", "step"),
    [
        pytest.param(four(0.0, group()), None, id="all is well"),
        pytest.param(
            four(0.0, WIPED), Replace(1, "n1", "n3", 3, "n3"), id="a node that lost its data"
        ),
        pytest.param(
            four(0.0, WIPED._replace(wiped_seconds=4.9)), None, id="that may be about to change"
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", roomy=False), node("n4"), WIPED),
            Replace(1, "n1", "n3", 3, "n4"),
            id="a node that lost its data and has no room",
        ),
        pytest.param(
            cluster(
                node("n1"), node("n2"), node("n3", GONE), node("n4"), node("n5"),
                group(nodes="n1 n2 n3 n4 n5", heard=("n2", "n5"), wiped=(4,), wiped_seconds=5.0),
            ),
            Replace(1, "n1", "n4", 4, "n4"),
            id="a dead one that has no other place keeps none waiting that has its own",
        ),
        pytest.param(
            holding(four(0.0, WIPED), "n3", (1, 9)),
            Replace(1, "n1", "n3", 3, "n4"),
            id="a node that lost its data and has yet to drop another replica",
        ),
        pytest.param(
            four(0.0, WIPED._replace(wiped=(2, 3))), None, id="two that lost it: no majority"
        ),
        pytest.param(
            holding(four(0.0, WIPED._replace(
                learners=(member(4, "n3"),), promote=(4,), leaving=(3,), next_id=5, ours=(4,),
            )), "n3", (1, 4)),
            None,
            id="a node that lost its data is not back for that it answers",
        ),
        pytest.param(four(GONE - 0.1, WITHOUT_N3), None, id="the grace period is not over"),
        pytest.param(
            four(GONE, WITHOUT_N3), Replace(1, "n1", "n3", 3, "n4"), id="dead past the grace"
        ),
        pytest.param(
            four(GONE, group()), None, id="silent to us, and its group's leader hears it: not dead"
        ),
        pytest.param(
            four(GONE, WITHOUT_N3._replace(leader="")), None, id="nobody leads: nobody to ask"
        ),
        pytest.param(
            four(GONE, WITHOUT_N3._replace(settled=False)),
            None,
            id="an uncommitted membership: one change a group at a time",
        ),
        pytest.param(
            four(GONE, WITHOUT_N3._replace(outgoing=(member(1, "n1"),))),
            None,
            id="a joint membership ends by itself",
        ),
        pytest.param(
            cluster(node("n1"), node("n2", GONE), node("n3", GONE), node("n4"), WITHOUT_N3._replace(
                heard=())),
            None,
            id="one of three alive: no change could be committed",
        ),
        pytest.param(
            cluster(node("n1"), node("n2", 4.0), node("n3", GONE), node("n4"), WITHOUT_N3._replace(
                heard=())),
            None,
            id="a suspect voter is not counted on",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", GONE), WITHOUT_N3),
            None,
            id="no node is left without a replica",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", GONE), node("n4", 4.0), node("n5"),
                    WITHOUT_N3),
            Replace(1, "n1", "n3", 3, "n5"),
            id="a suspect node is no target",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", GONE), node("n4", roomy=False), node("n5"),
                    WITHOUT_N3),
            Replace(1, "n1", "n3", 3, "n5"),
            id="nor is one whose disk is full",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", GONE), node("n4", shunned=True), node("n5"),
                    WITHOUT_N3),
            Replace(1, "n1", "n3", 3, "n5"),
            id="nor one where it came to nothing lately",
        ),
        pytest.param(
            four(GONE, WITHOUT_N3._replace(resting=True), WITHOUT_N3._replace(gid=2)),
            Replace(2, "n1", "n3", 3, "n4"),
            id="a group of which a step failed keeps no other waiting",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", GONE), node("n4", 0.0, (1, 2)), node("n5"),
                    WITHOUT_N3._replace(learners=())),
            Replace(1, "n1", "n3", 3, "n5"),
            id="nor one that still holds an earlier replica of the group",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", GONE), node("n4"), node("n5"), node("n6"),
                    WITHOUT_N3, group(2, "n4", "n4 n5 n6"), group(3, "n5", "n5 n4 n6"),
                    group(4, "n4", "n4 n5 n1")),
            Replace(1, "n1", "n3", 3, "n6"),
            id="the least loaded node takes it",
        ),
        pytest.param(
            four(GONE, WITHOUT_N3._replace(gid=0)),
            Replace(0, "n1", "n3", 3, "n4"),
            id="the controller's group is mended too",
        ),
        pytest.param(
            holding(four(GONE, LEARNS), "n4", (1, 4)), None, id="a newcomer catches up: wait"
        ),
        pytest.param(
            holding(four(0.0, LEARNS), "n4", (1, 4)),
            Undo(1, "n1", (4,), "n3 is back"),
            id="the dead returned before the promotion: undone",
        ),
        pytest.param(
            holding(four(0.0, LEARNS._replace(outgoing=(member(3, "n3"),))), "n4", (1, 4)),
            None,
            id="once it is joint it goes on",
        ),
        pytest.param(
            holding(four(0.0, LEARNS._replace(ours=())), "n4", (1, 4)),
            None,
            id="an operator's replacement of a living node is not undone",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", GONE), node("n4", 30.0), node("n5"), LEARNS),
            Undo(1, "n1", (4,), "n4 is dead", "n4"),
            id="the newcomer died: another one is looked for",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3"), node("n4", 30.0), LEARNS._replace(ours=())),
            None,
            id="an operator's newcomer gets the whole grace period",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3"), node("n4", GONE), LEARNS._replace(ours=())),
            Undo(1, "n1", (4,), "n4 is dead", "n4"),
            id="and not more than that",
        ),
        pytest.param(
            four(GONE, LEARNS._replace(orphan_seconds=4.0)),
            None,
            id="whoever added it may be about to create it",
        ),
        pytest.param(
            four(GONE, LEARNS._replace(orphan_seconds=5.0, ours=())),
            Undo(1, "n1", (4,), "n4 was never given that replica", "n4"),
            id="a learner that was never filled is struck, whoever added it",
        ),
        pytest.param(
            four(0.0, group(nodes="n1 n2 n3")._replace(learners=(member(4, "n4"),))),
            None,
            id="a learner that nobody wants to promote is the operator's",
        ),
        pytest.param(
            cluster(node("n1", roomy=False), node("n2"), node("n3"), group()),
            Transfer(1, "n1", "n2", 2, "the disk of n1 is full"),
            id="a leader without room: lead from where there is some",
        ),
        pytest.param(
            cluster(node("n1", roomy=False), node("n2", roomy=False), node("n3", 4.0), group()),
            None,
            id="no voter that lives has room",
        ),
    ],
)  # fmt: skip
def test_the_next_step(view: ClusterView, step: Step | None) -> None:
    found = plan(view, POLICY)

    assert found.step == step
    if step is not None:
        assert describe(step)


THREE = (node("n1"), node("n2"), node("n3"))


@pytest.mark.parametrize(
    ("view", "step"),
    [
        pytest.param(
            cluster(*THREE, group(1), group(2), group(3, "n2")),
            Transfer(1, "n1", "n3", 3, "n1 leads 2 groups, n3 leads 0"),
            id="two more than another: one goes there",
        ),
        pytest.param(cluster(*THREE, group(1), group(2, "n2")), None, id="one more is even"),
        pytest.param(
            cluster(*THREE, group(1), group(2), group(3, "n2"), uneven=9.0),
            None,
            id="not at once",
        ),
        pytest.param(
            replace(cluster(*THREE, group(1), group(2), group(3, "n2")), since_transfer=4.0),
            None,
            id="nor soon after another",
        ),
        pytest.param(
            cluster(*THREE, group(0), group(2), group(3, "n2")),
            Transfer(2, "n1", "n3", 3, "n1 leads 2 groups, n3 leads 0"),
            id="the controller's group last",
        ),
        pytest.param(
            cluster(*THREE, group(1, moving=True), group(2), group(3, "n2")),
            Transfer(2, "n1", "n3", 3, "n1 leads 2 groups, n3 leads 0"),
            id="not where shards move",
        ),
        pytest.param(
            cluster(*THREE, group(1, settled=False), group(2, promote=(9,)), group(3, "n2")),
            None,
            id="nor where members change",
        ),
        pytest.param(
            cluster(*THREE, group(1, led_seconds=4.0), group(2, led_seconds=4.0), group(3, "n2")),
            None,
            id="nor where somebody has just begun to lead",
        ),
        pytest.param(
            cluster(*THREE, *[group(g, lags=(("n2", 0), ("n3", 101))) for g in (1, 2)],
                    group(3, "n2")),
            None,
            id="never to a replica that lags",
        ),
        pytest.param(
            cluster(*THREE, *[group(g, heard=("n2",)) for g in (1, 2)], group(3, "n2")),
            None,
            id="nor to one that the leader does not hear",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", quick=False), group(1), group(2),
                    group(3, "n2")),
            None,
            id="nor to a slow disk",
        ),
        pytest.param(
            cluster(node("n1"), node("n2"), node("n3", 4.0), group(1), group(2), group(3, "n2")),
            None,
            id="nor to a suspect",
        ),
        pytest.param(
            cluster(*THREE, node("n4"), group(1), group(2), group(3, "n2"), group(4, "n3")),
            None,
            id="a node that could lead none of them does not count",
        ),
    ],
)  # fmt: skip
def test_leaderships_are_evened(view: ClusterView, step: Step | None) -> None:
    assert plan(view, POLICY).step == step


def test_switched_off_it_says_what_is_wrong_and_does_nothing() -> None:
    found = plan(four(GONE, WITHOUT_N3), HealPolicy(grace_seconds=60.0, heal=False))

    assert found.step is None
    assert found.why == (
        "n3 is dead: silent for 60 s",
        "healing is switched off (heal: false); it would re-create group 1's replica of n3 on n4",
    )


@pytest.mark.parametrize("gone", [1, 2])
def test_half_of_the_voters_are_no_majority_that_a_change_could_ask(gone: int) -> None:
    names = ["n1", "n2", "n3", "n4"]
    dead = names[-gone:]
    nodes = [node(name, GONE if name in dead else 0.0) for name in names]
    heard = tuple(name for name in names[1:] if name not in dead)
    view = cluster(*nodes, node("n5"), group(nodes=" ".join(names), heard=heard))

    assert (plan(view, POLICY).step is None) is (gone == 2)


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (four(4.0, WITHOUT_N3), ("n3 is silent for 4 s",)),
        (
            four(40.0, WITHOUT_N3),
            ("n3 is dead: silent for 40 s; in 20 s its replicas are made anew",),
        ),
        (
            four(GONE, group()),
            ("n3 does not answer the controller's leader, and group 1 hears it",),
        ),
        (
            cluster(node("n1"), node("n2"), node("n3", GONE), WITHOUT_N3),
            (
                "n3 is dead: silent for 60 s",
                "group 1 stays without its replica on n3: no living node with room is without a "
                "replica of it; add a node",
            ),
        ),
        (
            cluster(node("n1"), node("n2", 5.0), node("n3", GONE), WITHOUT_N3._replace(heard=())),
            (
                "n2 is silent for 5 s",
                "n3 is dead: silent for 60 s",
                "group 1 waits: a change needs a majority of its voters alive",
            ),
        ),
        (
            four(0.0, GroupView(7)),
            ("group 7 has no leader: did it lose a majority of its voters?",),
        ),
    ],
)
def test_what_is_not_done_has_a_reason(view: ClusterView, why: tuple[str, ...]) -> None:
    assert plan(view, POLICY).why == why


def test_no_more_groups_are_mended_at_once_than_allowed() -> None:
    busy = [LEARNS._replace(gid=gid) for gid in range(1, 5)]
    fifth = WITHOUT_N3._replace(gid=5)
    full = node("n4", 0.0, *[(gid, 4) for gid in range(1, 5)])
    nodes = (node("n1"), node("n2"), node("n3", GONE), full, node("n5"))

    three = plan(cluster(*nodes, *busy[:3], fifth, uneven=0.0), POLICY)
    four_of_them = plan(cluster(*nodes, *busy, fifth, uneven=0.0), POLICY)

    assert three.step == Replace(5, "n1", "n3", 3, "n5")
    assert four_of_them.step is None
    assert "group 5 waits: 4 groups are being mended" in four_of_them.why


@pytest.mark.parametrize(
    ("silent", "state"),
    [(0.0, Health.ALIVE), (2.9, Health.ALIVE), (3.0, Health.SUSPECT), (30.0, Health.DEAD)],
)
def test_the_health_of_a_node(silent: float, state: Health) -> None:
    assert health(node("n3", silent), four(silent), POLICY) is state


def test_a_short_grace_period_is_also_when_a_node_is_dead() -> None:
    policy = HealPolicy(grace_seconds=5.0)

    assert health(node("n3", 5.0), four(5.0), policy) is Health.DEAD
    assert plan(four(5.0, WITHOUT_N3), policy).step is not None


@pytest.mark.parametrize("seed", range(200))
def test_evening_ends_and_leaves_nobody_with_two_more_than_another_could_take(seed: int) -> None:
    """Followed step by step from any start. The bound is that of the module's text: the sum of
    the squares falls by two at least with each step."""
    rng = Random(seed)
    names = [f"n{at + 1}" for at in range(rng.randint(2, 7))]
    groups = []
    for gid in range(rng.randint(1, 12)):
        chosen = rng.sample(names, min(len(names), rng.choice([1, 2, 3, 3, 5])))
        groups.append(group(gid, rng.choice(chosen), " ".join(chosen)))
    view = cluster(*map(node, names), *groups)
    steps_max = sum(count**2 for count in led(view).values()) // 2

    for _ in range(steps_max + 1):
        step = plan(view, POLICY).step
        if step is None:
            break
        assert isinstance(step, Transfer)
        view = replace(
            view,
            groups=tuple(
                group(one.gid, step.to, " ".join(m.node for m in one.voters))
                if one.gid == step.gid
                else one
                for one in view.groups
            ),
        )

    counts = led(view)
    assert not uneven(view, POLICY)
    for one in view.groups:
        for voter in one.voters:
            assert counts[one.leader] - counts[voter.node] < 2


def test_changes_that_somebody_else_began_keep_no_group_waiting() -> None:
    """Only so many groups are mended at a time; what an operator does is his to bound."""
    catching_up = {"learners": (member(4, "n4"),), "promote": (4,), "heard": ("n2",)}
    theirs = [group(gid, **catching_up) for gid in range(2, 2 + POLICY.changes_max)]
    ours = [other._replace(ours=(4,)) for other in theirs]

    assert isinstance(plan(four(GONE, WITHOUT_N3, *theirs), POLICY).step, Replace)
    waits = plan(four(GONE, WITHOUT_N3, *ours), POLICY)
    assert not isinstance(waits.step, Replace)
    assert f"group 1 waits: {POLICY.changes_max} groups are being mended" in waits.why
