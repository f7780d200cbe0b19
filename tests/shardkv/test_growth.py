"""A group's growth is a loop that reads what is there: cut anywhere, it ends where it should."""

from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus
from shardkv.growth import (
    Birth,
    Complete,
    Enlarge,
    Seen,
    Step,
    Strike,
    Wait,
    Wish,
    next_step,
    spread,
)

UUID = b"u" * 16


def member(replica: int, node: str) -> MemberStatus:
    return MemberStatus(replica, node, f"{node}:1")


def replica(
    id: int,
    *,
    role: str = "follower",
    voters: tuple[MemberStatus, ...] = (),
    learners: tuple[MemberStatus, ...] = (),
    outgoing: tuple[MemberStatus, ...] = (),
    uuid: bytes = UUID,
    term: int = 1,
) -> ReplicaStatus:
    return ReplicaStatus(
        gid=1, uuid=uuid, replica=id, role=role, stopped="", term=term, leader="", commit=1,
        applied=1, last=1, log_bytes=0, voters=voters, outgoing=outgoing, learners=learners,
        config_number=0, shards=(),
    )  # fmt: skip


def node(name: str, *replicas: ReplicaStatus) -> NodeStatus:
    return NodeStatus(
        node=name, cluster=b"c", version="0", pid=1, boot=1, uptime_ms=0, client="", peer="",
        http="", nshards=1, state="running", config_number=0, known=(), replicas=replicas,
    )  # fmt: skip


WISH = Wish(1, ("n1", "n2", "n3"))
BORN = replica(1, role="leader", voters=(member(1, "n1"),))
BLANK = {"n1": node("n1"), "n2": node("n2"), "n3": node("n3")}


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        pytest.param(BLANK, Birth(1, "n1"), id="nothing is there: the founder founds"),
        pytest.param(
            BLANK | {"n3": None},
            Wait("n3 must answer before group 1 is created"),
            id="a silent node might hold the group already",
        ),
        pytest.param(
            BLANK | {"n4": None},
            Wait("n4 must answer before group 1 is created"),
            id="even one that is not wished for",
        ),
        pytest.param(
            BLANK | {"n1": node("n1", BORN)},
            Enlarge(1, "n1", ("n2", "n3")),
            id="born: all others come in by one change",
        ),
        pytest.param(
            BLANK | {"n1": node("n1", BORN), "n3": None},
            Enlarge(1, "n1", ("n2",)),
            id="a silent node is left for later",
        ),
        pytest.param(
            BLANK | {"n1": node("n1", BORN._replace(role="candidate"))},
            Wait("group 1 has no leader"),
            id="no leader, no step",
        ),
        pytest.param(
            BLANK | {"n1": node("n1", BORN._replace(stopped="broken"))},
            Wait("group 1 has no leader"),
            id="a stopped replica leads nobody",
        ),
        pytest.param(
            BLANK | {"n1": node("n1", BORN._replace(outgoing=(member(1, "n1"),)))},
            Wait("group 1 is changing its voters"),
            id="one change at a time",
        ),
        pytest.param(
            BLANK | {"n1": node("n1", BORN._replace(learners=(member(2, "n2"),)))},
            Strike(1, "n1", (2,)),
            id="a learner without a replica is struck, never filled",
        ),
        pytest.param(
            BLANK
            | {
                "n1": node("n1", BORN._replace(learners=(member(2, "n2"),))),
                "n2": node("n2", replica(2, uuid=b"other")),
            },
            Strike(1, "n1", (2,)),
            id="nor is one whose node holds another group's replica",
        ),
        pytest.param(
            BLANK
            | {
                "n1": node("n1", BORN._replace(learners=(member(2, "n2"),))),
                "n2": node("n2", replica(2)),
            },
            Wait("n2 catches up in group 1"),
            id="a filled learner catches up by itself",
        ),
        pytest.param(
            BLANK
            | {
                "n1": node("n1", BORN._replace(learners=(member(2, "n2"), member(3, "n3")))),
                "n2": node("n2", replica(2)),
                "n3": node("n3", replica(3)),
            },
            Wait("n2, n3 catch up in group 1"),
            id="so do two",
        ),
        pytest.param(
            {
                "n1": node("n1", replica(1, role="leader", term=1, voters=(member(1, "n1"),))),
                "n2": node("n2", replica(2, role="leader", term=2, voters=tuple(
                    member(i, f"n{i}") for i in (1, 2, 3)))),
                "n3": node("n3", replica(3)),
            },
            Complete(),
            id="of two who think they lead, the later term is asked",
        ),
    ],
)  # fmt: skip
def test_the_next_step_is_read_off_what_is_there(seen: Seen, step: Step) -> None:
    assert next_step(WISH, seen) == step


@dataclass
class World:
    """Nodes that obey steps, with a helper that may die between any two of its calls."""

    rng: Random
    held: dict[str, int] = field(default_factory=dict)  # node -> replica id
    voters: dict[int, str] = field(default_factory=dict)
    learners: dict[int, str] = field(default_factory=dict)
    next_id: int = 1
    founded: int = 0
    filled: list[int] = field(default_factory=list)
    nodes: tuple[str, ...] = ("n1", "n2", "n3", "n4")

    def seen(self) -> Seen:
        everything: dict[str, NodeStatus | None] = {}
        for name in self.nodes:
            held = self.held.get(name)
            status = node(name)
            if held is not None:
                leads = held == min(self.voters)
                status = node(name, replica(
                    held,
                    role="leader" if leads else "follower",
                    voters=tuple(member(i, n) for i, n in self.voters.items()),
                    learners=tuple(member(i, n) for i, n in self.learners.items()),
                ))  # fmt: skip
            everything[name] = None if self.rng.random() < 0.2 else status
        return everything

    def dies(self) -> bool:
        return self.rng.random() < 0.3

    def obey(self, step: Step) -> None:
        match step:
            case Birth(_, name):
                self.founded += 1
                self.voters[1], self.held[name], self.next_id = name, 1, 2
            case Enlarge(_, _, names):
                ids = {name: self.next_id + i for i, name in enumerate(names)}
                self.next_id += len(names)
                self.learners |= {id: name for name, id in ids.items()}
                for name, id in ids.items():
                    if self.dies():
                        return
                    assert id not in self.filled, "an id is filled once"
                    self.filled.append(id)
                    self.held[name] = id
            case Strike(_, _, ids):
                for id in ids:
                    del self.learners[id]
            case Wait() | Complete():
                pass
        for id, name in list(self.learners.items()):
            if self.held.get(name) == id and self.rng.random() < 0.5:
                self.voters[id] = self.learners.pop(id)


@pytest.mark.parametrize("seed", range(200))
def test_growth_ends_where_it_should_wherever_it_is_cut(seed: int) -> None:
    world = World(Random(seed))
    wish = Wish(1, ("n3", "n1", "n4"))

    for _ in count():
        step = next_step(wish, world.seen())
        if isinstance(step, Complete):
            break
        world.obey(step)

    assert sorted(world.voters.values()) == ["n1", "n3", "n4"]
    assert (world.founded, world.learners) == (1, {})


@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("groups", range(8))
@pytest.mark.parametrize("nodes", range(1, 8))
def test_replicas_are_spread_evenly(nodes: int, groups: int, replicas: int) -> None:
    names = [f"n{i}" for i in range(1, nodes + 1)]
    if replicas > nodes:
        return
    wishes = spread(names, groups, replicas)

    assert [wish.gid for wish in wishes] == list(range(groups + 1))
    assert all(len(set(wish.nodes)) == replicas for wish in wishes)
    held = [sum(name in wish.nodes for wish in wishes) for name in names]
    assert max(held) - min(held) <= 1


def test_three_nodes_with_two_groups_each_found_one() -> None:
    assert [wish.nodes[0] for wish in spread(["n1", "n2", "n3"], 2, 3)] == ["n1", "n2", "n3"]
