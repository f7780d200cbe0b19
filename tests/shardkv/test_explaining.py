"""Where something is, how it is, and why it is not better: from one look at a small cluster."""

import pytest

from raft.types import GroupId, GroupUuid
from shardctrler.types import ConfigNumber, GroupInfo, ShardConfig
from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus, ShardStatus
from shardkv.explaining import Explainer, Explanation, NoSuchThing, Target, parse
from shardkv.growth import Seen
from shardkv.healing_beats import HealthReport, NodeHealth

UUID = b"u" * 16


def member(replica: int, node: str) -> MemberStatus:
    return MemberStatus(replica, node, f"{node}:1")


VOTERS = (member(1, "n1"), member(2, "n2"), member(3, "n3"))


def replica(
    gid: int, id: int, *, leads: bool = False, applied: int = 500, **more: object
) -> ReplicaStatus:
    status = ReplicaStatus(
        gid=gid, uuid=UUID, replica=id, role="leader" if leads else "follower", stopped="", term=7,
        leader="n1", commit=500, applied=applied, last=500, log_bytes=0, voters=VOTERS,
        outgoing=(), learners=(), config_number=4, shards=(),
    )  # fmt: skip
    return status._replace(**more)  # type: ignore[arg-type]


def node(name: str, *replicas: ReplicaStatus) -> NodeStatus:
    return NodeStatus(
        node=name, cluster=b"c", version="0", pid=1, boot=1, uptime_ms=0, client=f"{name}:0",
        peer="", http="", nshards=4, state="running", config_number=4, known=(), replicas=replicas,
    )  # fmt: skip


CONFIG = ShardConfig(
    ConfigNumber(4),
    (GroupId(1), GroupId(1), GroupId(0), GroupId(2)),
    {GroupId(gid): GroupInfo(GroupUuid(UUID), ()) for gid in (1, 2)},
    (GroupId(1), GroupId(2), GroupId(1), GroupId(2)),
)
SHARDS = (ShardStatus(0, "serving", 0, ""), ShardStatus(1, "arriving", 2, "copying"))
SEEN: dict[str, NodeStatus | None] = {
    "n1": node("n1", replica(0, 1, leads=True), replica(1, 1, leads=True, shards=SHARDS)),
    "n2": node("n2", replica(0, 2), replica(1, 2)),
    "n3": node("n3", replica(0, 3), replica(1, 3)),
    "n4": node("n4"),
}


def report(
    *silent: str, ms: int = 40_000, step: str = "", why: tuple[str, ...] = ()
) -> HealthReport:
    nodes = tuple(
        NodeHealth(name, "dead" if name in silent else "alive", ms * (name in silent), 1, 1, 0, 0)
        for name in SEEN
    )
    return HealthReport(1, 1, 60_000, 100_000, nodes, step, why, ())


def explain(
    text: str, seen: Seen = SEEN, told: HealthReport | None = None, config: bool = True
) -> Explanation:
    return Explainer(seen, CONFIG if config else None, told or report()).explain(parse(text))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("s12", Target("shard", "12")),
        ("g3", Target("group", "3")),
        ("3", Target("group", "3")),
        ("n2", Target("node", "n2")),
        ("s1a", Target("node", "s1a")),
        ("node:s1", Target("node", "s1")),
    ],
)
def test_what_is_asked_about(text: str, target: Target) -> None:
    assert parse(text) == target


@pytest.mark.parametrize(
    ("text", "seen", "state", "healthy", "says"),
    [
        ("s0", SEEN, "serving", True, "group 1, led by n1, serves it"),
        (
            "s1",
            SEEN,
            "arriving",
            False,
            "its copy from group 2 is copying; until it is in, nobody serves it",
        ),
        ("s2", SEEN, "parked", False, "its rows are parked at group 1: `ctl move` hands them on"),
        ("s3", SEEN, "unserved", False, "group 2 has no leader: nobody serves it now"),
        ("1", SEEN, "whole", True, "led by n1 in term 7; voters on n1, n2, n3"),
        ("g0", SEEN, "whole", True, "led by n1 in term 7; voters on n1, n2, n3"),
        (
            "1",
            SEEN | {"n3": None},
            "degraded",
            False,
            "n3 is dead: the controller's leader has not heard it for 40 s; after 60 s its "
            "replicas are made anew elsewhere",
        ),
        ("1", SEEN | {"n3": node("n3")}, "degraded", False, "n3 does not run its replica"),
        (
            "1",
            SEEN | {"n3": node("n3", replica(1, 3, stopped="AssertionError"))},
            "degraded",
            False,
            "its replica on n3 stopped: AssertionError",
        ),
        (
            "1",
            SEEN | {"n3": node("n3", replica(1, 3, applied=300))},
            "degraded",
            False,
            "n3 lags 200 entries behind",
        ),
        (
            "1",
            SEEN | {"n1": node("n1", replica(1, 1, leads=True, learners=(member(4, "n4"),),
                                             promote=(4,)))},
            "degraded",
            False,
            "n4 catches up and becomes a voter then",
        ),
        (
            "1",
            SEEN | {"n1": None},
            "leaderless",
            False,
            "nobody leads it: a majority of its voters must be up and reach each other",
        ),
        ("n1", SEEN, "alive", True, "leads groups 0, 1"),
        ("n4", SEEN, "alive", True, "member of groups none"),
        (
            "n3",
            SEEN | {"n3": None},
            "dead",
            False,
            "n3 is dead: the controller's leader has not heard it for 40 s; after 60 s its "
            "replicas are made anew elsewhere",
        ),
        (
            "n4",
            SEEN | {"n4": node("n4", replica(1, 9))},
            "alive",
            False,
            "it holds a replica that group 1 has let go",
        ),
    ],
)  # fmt: skip
def test_an_explanation(text: str, seen: Seen, state: str, healthy: bool, says: str) -> None:
    silent = [name for name, status in seen.items() if status is None]

    found = explain(text, seen, report(*silent))

    assert (found.state, found.healthy) == (state, healthy)
    assert says in found.lines


def test_what_comes_next_is_told_where_it_concerns() -> None:
    step = "re-create group 1's replica of n3 on n4"
    told = report("n3", step=step, why=("n3 is dead: silent for 70 s",))

    for text in ("1", "n3", "n4"):
        assert f"next: {step}" in explain(text, told=told).lines
    assert not any(step in line for line in explain("n2", told=told).lines)


def test_without_a_controller_it_says_what_it_does_not_know() -> None:
    shard = Explainer(SEEN, None, None).explain(parse("s0"))
    node_ = Explainer(SEEN, None, None).explain(parse("n2"))

    assert shard.state == node_.state == "unknown"
    assert shard.lines == (
        "the controller does not answer: who shall own it is not known",
        "group 1 has it as serving",
    )
    assert "how the controller's leader sees it is not known: nobody leads it" in node_.lines


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s4", "no shard 4: shards are 0 to 3"),
        ("7", "no group 7: groups are 0, 1, 2"),
        ("n9", "no node 'n9': nodes are n1, n2, n3, n4"),
    ],
)
def test_what_is_not_there(text: str, says: str) -> None:
    with pytest.raises(NoSuchThing) as caught:
        explain(text)

    assert str(caught.value) == says
