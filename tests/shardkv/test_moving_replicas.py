"""Replicas move by steps that are read off from what is there: cut anywhere, it ends as wished."""

from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus
from shardkv.growth import Complete, Seen, Strike, Wait
from shardkv.moving_replicas import (
    Begin,
    Change,
    HandOver,
    Refuse,
    Step,
    groups_on,
    next_step,
    next_transfer,
    next_wait,
    outline,
    outline_transfer,
)

UUID = b"u" * 16
NODES = ("n1", "n2", "n3", "n4", "n7")
REPLACE = Change(1, ("n7",), ("n2",))


def members(nodes: str) -> tuple[MemberStatus, ...]:
    """`members("1:n1 4:n7")`."""
    pairs = (word.split(":") for word in nodes.split())
    return tuple(MemberStatus(int(id), node, f"{node}:1") for id, node in pairs)


def replica(id: int, *, leads: bool = False, gid: int = 1, **what: object) -> ReplicaStatus:
    made = ReplicaStatus(
        gid=gid, uuid=UUID, replica=id, role="leader" if leads else "follower", stopped="", term=1,
        leader="", commit=9, applied=9, last=9, log_bytes=0, voters=(), outgoing=(), learners=(),
        config_number=0, shards=(),
    )  # fmt: skip
    return made._replace(**what)  # type: ignore[arg-type]


def node(name: str, *replicas: ReplicaStatus, state: str = "running") -> NodeStatus:
    return NodeStatus(
        node=name, cluster=b"c", version="0", pid=1, boot=1, uptime_ms=0, client="", peer="",
        http="", nshards=1, state=state, config_number=0, known=(), replicas=replicas,
    )  # fmt: skip


def seen(
    voters: str = "1:n1 2:n2 3:n3", *, leader: str = "n1", dead: str = "", **what: object
) -> dict[str, NodeStatus | None]:
    """A group as its members' nodes tell of it, of all `NODES`; every voter has its replica."""
    held = {member.node: member for member in members(voters)}
    everything: dict[str, NodeStatus | None] = {}
    for name in NODES:
        mine = held.get(name)
        at = {"voters": members(voters), **what} if name == leader else {}
        replicas = () if mine is None else (replica(mine.replica, leads=name == leader, **at),)
        everything[name] = None if name in dead.split() else node(name, *replicas)
    return everything


FILLING = {"learners": members("4:n7"), "promote": (4,), "leaving": (2,)}


@pytest.mark.parametrize(
    ("looks", "step"),
    [
        pytest.param(seen(), Begin(1, "n1", ("n7",), (2,)), id="one change does both"),
        pytest.param(seen(dead="n2"), Begin(1, "n1", ("n7",), (2,)), id="a dead one is replaced"),
        pytest.param(
            seen(leader="n2"), HandOver(1, "n2", "n1", 1), id="who leads hands over before it goes"
        ),
        pytest.param(
            seen(leader="n2", dead="n1"),
            HandOver(1, "n2", "n3", 3),
            id="to one that lives",
        ),
        pytest.param(
            seen("2:n2", leader="n2"),
            Begin(1, "n2", ("n7",), (2,)),
            id="a lone voter has nobody to hand over to: the change itself does",
        ),
        pytest.param(seen(dead="n7"), Wait("n7 does not answer"), id="nobody to take it in"),
        pytest.param(
            seen() | {"n7": node("n7", state="stopping")},
            Wait("n7 does not answer"),
            id="a node that stops takes nothing in",
        ),
        pytest.param(
            seen() | {"n7": node("n7", replica(1))},
            Wait("n7 has yet to drop the replica of group 1 that it held before"),
            id="a replica of an earlier membership goes first",
        ),
        pytest.param(
            seen(**FILLING),
            Strike(1, "n1", (4,)),
            id="a learner without a replica is struck, never filled",
        ),
        pytest.param(
            seen(**FILLING) | {"n7": node("n7", replica(4, applied=5))},
            Wait("n7 catches up in group 1: 5 of 9"),
            id="a filled learner catches up by itself",
        ),
        pytest.param(
            seen(**FILLING, dead="n7"),
            Wait("n7 does not answer; it was to catch up in group 1"),
            id="a silent one may hold it",
        ),
        pytest.param(
            seen("1:n1 3:n3 4:n7", outgoing=members("1:n1 2:n2 3:n3")),
            Wait("group 1 is changing its voters"),
            id="a joint change ends by itself",
        ),
        pytest.param(
            seen("1:n1 3:n3 4:n7", membership_at=10),
            Wait("group 1 is committing a change of members"),
            id="what is not committed may be undone",
        ),
        pytest.param(seen("1:n1 3:n3 4:n7"), Complete(), id="it was done before"),
        pytest.param(
            seen(learners=members("4:n4"), promote=(4,)),
            Refuse(
                "another change of group 1 is under way (n4 arrives): try again when it is done",
                busy=True,
            ),
            id="somebody else's change comes first",
        ),
        pytest.param(
            seen("1:n1 3:n3 4:n4"),
            Refuse("n2 holds no replica of group 1 that could be replaced"),
            id="somebody else has replaced it",
        ),
        pytest.param(
            seen("1:n1 2:n2 3:n7"),
            Refuse("n7 holds a replica of group 1 already: name another node"),
            id="one node cannot stand for two",
        ),
        pytest.param(
            seen(dead="n3"),
            Begin(1, "n1", ("n7",), (2,)),
            id="two of three are alive after it: it has caught up before it counts",
        ),
        pytest.param(seen(leader=""), Wait("group 1 has no leader"), id="no leader, no step"),
    ],
)  # fmt: skip
def test_the_next_step_of_a_replacement(looks: Seen, step: Step) -> None:
    assert next_step(REPLACE, looks) == step


@pytest.mark.parametrize(
    ("change", "looks", "reason"),
    [
        pytest.param(
            Change(1, (), ("n2",)),
            seen(dead="n3"),
            "would leave 1 of 2 alive, and 2 decide in group 1: n3 must come back first",
            id="not below a majority",
        ),
        pytest.param(
            Change(1, (), ("n2",)),
            seen("1:n1 2:n2 3:n3 4:n4", dead="n3 n4"),
            "would leave 1 of 3 alive, and 2 decide in group 1: n3, n4 must come back first",
            id="one of three is no majority",
        ),
        pytest.param(
            Change(1, (), ("n1", "n2", "n3")),
            seen(),
            "n1, n2, n3 holds the last replica of group 1",
            id="not the last",
        ),
        pytest.param(Change(1, ("n9",)), seen(), "there is no node n9", id="nobody knows it"),
        pytest.param(Change(1, (), ("n9",)), seen(), "there is no node n9", id="nor that one"),
        pytest.param(Change(8, ("n7",)), seen(), "there is no group 8", id="no such group"),
        pytest.param(
            Change(1, tuple(f"n{i}" for i in range(11, 18))),
            {**seen(), **{f"n{i}": node(f"n{i}") for i in range(11, 18)}},
            "group 1 would have 10 replicas, 9 are allowed",
            id="not more than nine",
        ),
    ],
)  # fmt: skip
def test_what_must_not_be_is_refused(change: Change, looks: Seen, reason: str) -> None:
    assert next_step(change, looks) == Refuse(reason)


def test_a_replica_that_stopped_or_lost_what_it_promised_is_not_alive() -> None:
    stopped = seen() | {"n3": node("n3", replica(3, stopped="broken"))}
    lost = seen(lost=members("3:n3"))

    for looks in (stopped, lost):
        step = next_step(Change(1, (), ("n2",)), looks)
        assert isinstance(step, Refuse) and "would leave 1 of 2 alive" in step.reason


def test_removing_a_learner_gives_its_change_up() -> None:
    """The only way out when a new node dies while it catches up."""
    assert next_step(Change(1, (), ("n7",)), seen(**FILLING, dead="n7")) == Strike(1, "n1", (4,))


def test_a_learner_that_nobody_promotes_comes_in_anew() -> None:
    looks = seen(learners=members("4:n7")) | {"n7": node("n7", replica(4))}

    assert next_step(REPLACE, looks) == Strike(1, "n1", (4,))


@pytest.mark.parametrize(
    ("to", "looks", "step"),
    [
        pytest.param("n1", seen(), Complete(), id="it leads"),
        pytest.param("n3", seen(), HandOver(1, "n1", "n3", 3), id="it will"),
        pytest.param(
            "n7", seen(), Refuse("node n7 holds no voter of group 1: n1, n2, n3 do"), id="no voter"
        ),
        pytest.param(
            "n3", seen(dead="n3"), Refuse("node n3 does not run its replica of group 1"), id="dead"
        ),
        pytest.param(
            "n3", seen(**FILLING), Wait("group 1 is changing its members"), id="one at a time"
        ),
        pytest.param("n3", seen(leader=""), Wait("group 1 has no leader"), id="nobody to ask"),
    ],
)
def test_the_next_step_of_a_transfer(to: str, looks: Seen, step: Step) -> None:
    assert next_transfer(1, to, looks) == step


@pytest.mark.parametrize(
    ("to", "looks", "line"),
    [
        ("n1", seen(), "nothing to do"),
        ("n3", seen(), "hand the leadership from n1 to n3"),
        ("n3", seen(**FILLING), "wait: group 1 is changing its members"),
        ("n7", seen(), "refused: node n7 holds no voter of group 1: n1, n2, n3 do"),
    ],
)
def test_a_transfer_is_told_before_it_is_done(to: str, looks: Seen, line: str) -> None:
    assert outline_transfer(1, to, looks) == [f"group 1: {line}"]


CHANGING = {"promote": (4,), "learners": members("4:n7")}


@pytest.mark.parametrize(
    ("looks", "step"),
    [
        pytest.param(seen(), Complete(), id="all of it runs"),
        pytest.param(seen(dead="n7"), Wait("n7 does not answer"), id="a node that holds nothing"),
        pytest.param(seen(leader=""), Wait("group 1 has no leader"), id="nobody leads"),
        pytest.param(
            seen(**CHANGING), Wait("group 1 is changing its members"), id="on its way"
        ),
        pytest.param(
            seen() | {"n3": node("n3", replica(3, stopped="broken"))},
            Wait("the replica of group 1 on n3 does not run"),
            id="a stopped replica",
        ),
        pytest.param(
            seen(commit=2000, applied=2000)
            | {"n2": node("n2", replica(2, applied=1999)), "n3": node("n3", replica(3, applied=9))},
            Wait("n3 catches up in group 1: 9 of 2000"),
            id="far behind",
        ),
    ],
)  # fmt: skip
def test_whether_any_one_node_may_be_stopped(looks: Seen, step: Step) -> None:
    assert next_wait(looks) == step


def test_groups_of_a_node_are_found_by_their_leaders() -> None:
    looks = seen() | {"n2": None}

    assert groups_on("n2", looks) == (1,)
    assert groups_on("n7", looks) == ()


def test_the_outline_says_all_of_it_and_changes_nothing() -> None:
    assert outline(REPLACE, seen(leader="n2")) == [
        "group 1: hand the leadership from n2 to n1",
        "group 1: create a learner on n7, and let it catch up",
        "group 1: change the voters from n1, n2, n3 to n1, n3, n7, in one joint change",
        "group 1: n2 drops its replica, once it runs",
    ]
    assert outline(REPLACE, seen("1:n1 3:n3 4:n7")) == ["group 1: nothing to do"]


def test_a_node_that_takes_its_own_place_is_outlined_as_such() -> None:
    own_place = Change(1, ("n2",), ("n2",))
    wiped = {**seen(), "n2": node("n2")}

    assert outline(own_place, wiped) == [
        "group 1: create a learner on n2, and let it catch up",
        "group 1: it votes in the place of the one that n2 has lost",
    ]
    assert outline(own_place, seen()) == ["group 1: nothing to do"]


@dataclass
class World:
    """A group that obeys its leader, and helpers that may die between any two of their calls."""

    rng: Random
    voters: dict[int, str] = field(default_factory=lambda: {1: "n1", 2: "n2", 3: "n3"})
    held: dict[str, int] = field(default_factory=lambda: {"n1": 1, "n2": 2, "n3": 3})
    learners: dict[int, str] = field(default_factory=dict)
    leaving: tuple[int, ...] = ()
    leader: int = 1
    next_id: int = 4
    filled: list[int] = field(default_factory=list)
    dead: frozenset[str] = frozenset()

    def seen(self) -> Seen:
        everything: dict[str, NodeStatus | None] = {}
        for name in NODES:
            id = self.held.get(name)
            status = node(name)
            if id is not None:
                at = {
                    "voters": tuple(MemberStatus(i, n, "a") for i, n in self.voters.items()),
                    "learners": tuple(MemberStatus(i, n, "a") for i, n in self.learners.items()),
                    "promote": tuple(self.learners),
                    "leaving": self.leaving,
                }
                status = node(name, replica(id, leads=id == self.leader, **at))
            silent = name in self.dead or self.rng.random() < 0.15
            everything[name] = None if silent else status
        return everything

    def obey(self, step: Step) -> None:
        dies = self.rng.random() < 0.3
        match step:
            case Begin(_, _, add, remove) if not self.learners and not self.leaving:
                ids = {self.next_id + at: name for at, name in enumerate(add)}
                self.next_id += len(add)
                self.learners, self.leaving = ids, remove
                for id, name in ids.items():
                    if dies:
                        break
                    assert id not in self.filled and name not in self.held
                    self.filled.append(id)
                    self.held[name] = id
            case Strike(_, _, ids_) if set(ids_) <= set(self.learners):
                self.learners, self.leaving = {}, ()
            case HandOver(_, _, to, _) if to not in self.dead:
                self.leader = self.held[to]
        filled = all(self.held.get(name) == id for id, name in self.learners.items())
        if (self.learners or self.leaving) and filled and self.rng.random() < 0.5:
            stay = {i: n for i, n in self.voters.items() if i not in self.leaving}
            self.voters = stay | self.learners
            self.learners, self.leaving = {}, ()
            if self.leader not in self.voters:
                self.leader = min(self.voters)
        for name, id in list(self.held.items()):  # a node drops what is no member any more
            if id not in self.voters and id not in self.learners and self.rng.random() < 0.5:
                del self.held[name]


@pytest.mark.parametrize("seed", range(200))
def test_a_replacement_ends_as_wished_wherever_it_is_cut(seed: int) -> None:
    rng = Random(seed)
    world = World(rng, leader=rng.choice((1, 3)), dead=frozenset({"n2"} if seed % 2 else ()))

    for _ in count():
        step = next_step(REPLACE, world.seen())
        if isinstance(step, Complete):
            break
        world.obey(step)

    assert sorted(world.voters.values()) == ["n1", "n3", "n7"]


@pytest.mark.parametrize("seed", range(200))
def test_of_two_operators_with_different_wishes_one_is_told(seed: int) -> None:
    """n2 shall go to n7, and to n4. Both never happen."""
    world = World(Random(seed))
    wishes = [REPLACE, Change(1, ("n4",), ("n2",))]
    ended: dict[Change, Step] = {}

    for _ in count():
        for wish in wishes:
            step = next_step(wish, world.seen())
            if isinstance(step, Complete) or (isinstance(step, Refuse) and not step.busy):
                ended[wish] = step
            elif wish not in ended:
                world.obey(step)
        if len(ended) == len(wishes):
            break

    assert sorted(world.voters.values()) in (["n1", "n3", "n4"], ["n1", "n3", "n7"])
    assert sum(isinstance(step, Complete) for step in ended.values()) == 1


RENEW = Change(1, ("n2",), ("n2",))


@pytest.mark.parametrize(
    ("looks", "step"),
    [
        pytest.param(
            seen() | {"n2": node("n2")}, Begin(1, "n1", ("n2",), (2,)), id="its disk was lost"
        ),
        pytest.param(seen(), Complete(), id="it holds what it is counted for"),
        pytest.param(seen(dead="n2"), Complete(), id="silent: it may hold it"),
        pytest.param(
            seen(learners=members("4:n2"), promote=(4,), leaving=(2,))
            | {"n2": node("n2", replica(4))},
            Wait("n2 catches up in group 1: 9 of 9"),
            id="the new one fills",
        ),
        pytest.param(
            seen(learners=members("4:n2"), promote=(4,), leaving=(2,)) | {"n2": node("n2")},
            Strike(1, "n1", (4,)),
            id="the disk was lost again",
        ),
        pytest.param(seen("1:n1 4:n2 3:n3"), Complete(), id="done"),
    ],
)  # fmt: skip
def test_a_voter_that_was_lost_is_replaced_on_its_own_node(looks: Seen, step: Step) -> None:
    assert next_step(RENEW, looks) == step


def test_a_lost_voter_is_not_replaced_without_a_majority() -> None:
    refused = next_step(RENEW, seen(dead="n3") | {"n2": node("n2")})

    assert isinstance(refused, Begin)  # two of three live once the new one has caught up
    refused = next_step(RENEW, seen("1:n1 2:n2 3:n3 4:n4 5:n7", dead="n3 n4") | {"n2": node("n2")})
    assert isinstance(refused, Begin)
    refused = next_step(
        RENEW, seen("1:n1 2:n2 3:n3 4:n4 5:n7", dead="n3 n4 n7") | {"n2": node("n2")}
    )
    assert isinstance(refused, Refuse)
