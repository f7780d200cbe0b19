"""A cluster forms itself: tables of what a blank node and the first seed do next, and a world in
which nodes crash, lose their disks and hear each other late: there is never a second cluster."""

from dataclasses import dataclass, field
from random import Random

import pytest

from shardkv.admin import NodeStatus, ReplicaStatus
from shardkv.auto import completed
from shardkv.config import ConfigError
from shardkv.forming import (
    Adopt,
    Answers,
    BirthStep,
    Conflict,
    Found,
    Said,
    next_for_blank,
    next_for_founder,
)
from shardkv.growth import Wait, Wish

SEEDS = ("a:1", "b:1", "c:1")
ONE, OTHER = b"1" * 16, b"2" * 16
BLANK = Said(b"", 7)


def answers(a: Said | None, b: Said | None, c: Said | None) -> Answers:
    return dict(zip(SEEDS, (a, b, c), strict=True))


@pytest.mark.parametrize(
    ("own", "seen", "step"),
    [
        pytest.param("a:1", answers(BLANK, BLANK, BLANK), Found(), id="all blank: the first seed"),
        pytest.param("b:1", answers(BLANK, BLANK, BLANK), Wait, id="nobody but the first founds"),
        pytest.param("d:1", answers(BLANK, BLANK, BLANK), Wait, id="nor one that is no seed"),
        pytest.param("a:1", answers(BLANK, None, BLANK), Wait, id="who is silent may hold one"),
        pytest.param("a:1", answers(None, BLANK, BLANK), Wait, id="it cannot reach itself"),
        pytest.param(
            "a:1", answers(Said(b"", 8), BLANK, BLANK), Wait, id="another process has its address"
        ),
        pytest.param(
            "a:1", answers(BLANK, None, Said(ONE)), Adopt(ONE, "c:1"), id="its disk was lost"
        ),
        pytest.param("b:1", answers(Said(ONE), BLANK, None), Adopt(ONE, "a:1"), id="it joins"),
        pytest.param("d:1", answers(None, Said(ONE), None), Adopt(ONE, "b:1"), id="a late one"),
        pytest.param("b:1", answers(Said(ONE), BLANK, Said(OTHER)), Conflict, id="two clusters"),
    ],
)
def test_what_a_blank_node_does_next(
    own: str, seen: Answers, step: BirthStep | type[BirthStep]
) -> None:
    decided = next_for_blank(own, 7, SEEDS, seen)

    assert decided == step or type(decided) is step


@dataclass
class World:
    """Nodes with disks: a disk is None or the cluster that its directory was made for."""

    rng: Random
    disks: dict[str, bytes | None] = field(default_factory=lambda: dict.fromkeys(SEEDS))
    boots: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SEEDS, 0))
    decided: dict[str, BirthStep] = field(default_factory=dict)
    """What a node has made up its mind to do, from what it saw a while ago."""
    founded: int = 0

    def look(self, own: str) -> None:
        seen = {
            seed: None
            if self.rng.random() < 0.3
            else Said(self.disks[seed] or b"", self.boots[seed])
            for seed in SEEDS
        }
        self.decided[own] = next_for_blank(own, self.boots[own], SEEDS, seen)

    def act(self, own: str) -> None:
        match self.decided.pop(own, None):
            case Adopt(cluster, _):
                self.disks[own] = cluster
            case Found():
                self.founded += 1
                self.disks[own] = bytes([self.founded]) * 16

    def crash(self, own: str, *, lose_disk: bool) -> None:
        self.decided.pop(own, None)
        self.boots[own] += 1
        if lose_disk and sum(disk is not None for disk in self.disks.values()) > 1:
            self.disks[own] = None

    def turn(self) -> None:
        own = self.rng.choice(SEEDS)
        if self.rng.random() < 0.1:
            self.crash(own, lose_disk=self.rng.random() < 0.5)
        elif self.disks[own] is None and own not in self.decided:
            self.look(own)
        else:
            self.act(own)


@pytest.mark.parametrize("seed", range(200))
def test_there_is_one_cluster_while_one_disk_remembers_it(seed: int) -> None:
    world = World(Random(f"{seed}/forming"))

    for _ in range(200):
        world.turn()
        assert len({disk for disk in world.disks.values() if disk is not None}) <= 1

    assert world.founded == 1
    for _ in range(200):  # nobody crashes any more: all come in
        for own in SEEDS:
            if world.disks[own] is None:
                world.look(own)
                world.act(own)
    assert set(world.disks.values()) == {b"\x01" * 16}


def node(name: str, *gids: int, state: str = "running") -> NodeStatus:
    held = tuple(
        ReplicaStatus(
            gid=gid, uuid=b"u" * 16, replica=1, role="leader", stopped="", term=1, leader=name,
            commit=1, applied=1, last=1, log_bytes=0, voters=(), outgoing=(), learners=(),
            config_number=0, shards=(),
        )
        for gid in gids
    )  # fmt: skip
    return NodeStatus(
        node=name, cluster=ONE, version="0", pid=1, boot=1, uptime_ms=0, client="", peer="",
        http="", nshards=1, state=state, config_number=0, known=(), replicas=held,
    )  # fmt: skip


def founder(*statuses: NodeStatus | None) -> object:
    seen = dict(zip(SEEDS, statuses, strict=True))
    return next_for_founder(SEEDS, seen, groups=2, replicas=5)


def test_the_founding_groups_are_spread_over_the_seeds() -> None:
    wishes = founder(node("x"), node("y"), node("z"))

    assert wishes == (
        Wish(0, ("x", "y", "z")), Wish(1, ("y", "x", "z")), Wish(2, ("z", "x", "y"))
    )  # fmt: skip
    assert founder(node("x", 0), node("y", 1), node("z")) == wishes  # it was cut off there


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        pytest.param((node("x"), None, node("z")), "b:1 must answer", id="a silent one"),
        pytest.param((node("x"), node("y", state="starting"), node("z")), "y must run", id="early"),
        pytest.param((node("x"), node("x"), node("z")), "one name: x, x, z", id="twins"),
        pytest.param((node("x"), node("y", 1), node("z")), "was lost", id="no controller left"),
    ],
)
def test_nothing_is_born_before_all_is_clear(
    statuses: tuple[NodeStatus | None, ...], reason: str
) -> None:
    step = founder(*statuses)

    assert isinstance(step, Wait | Conflict) and reason in step.reason


def test_the_other_addresses_lie_beside_the_clients() -> None:
    environment = {"SHARDKV_CLIENT": "kv-0.kv:7400", "SHARDKV_HTTP": "kv-0.kv:80"}

    assert completed({}, environment) == {"peer": "kv-0.kv:7401"}
    assert completed({"client": "[::1]:5"}, {}) == {
        "client": "[::1]:5", "peer": "[::1]:6", "http": "[::1]:7"
    }  # fmt: skip
    with pytest.raises(ConfigError, match="SHARDKV_CLIENT"):
        completed({}, {})
