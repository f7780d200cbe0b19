"""When `up` may say ready: what is asked of any of its nodes next is answered."""

from collections.abc import Callable

import pytest

from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.types import (
    ConfigNumber,
    Directory,
    GroupInfo,
    GroupMember,
    NodeAddresses,
    ShardConfig,
    View,
)
from shardkv.admin import MemberStatus, NodeStatus, ReplicaStatus
from shardkv.control import incomplete

OURS = ("n1", "n2")
NODES = (*OURS, "n3")  # n3 was started by somebody else
UUID = GroupUuid(b"u" * 16)
MEMBERS = tuple(GroupMember(NodeId(node), f"{node}:1") for node in NODES)
VOTERS = tuple(MemberStatus(id, node, f"{node}:2") for id, node in enumerate(NODES, 1))
VIEW = View(
    ShardConfig(ConfigNumber(2), (GroupId(1),), {GroupId(1): GroupInfo(UUID, MEMBERS)}),
    Directory(1, nodes={NodeId(node): NodeAddresses(f"{node}:1", "", "") for node in NODES}),
)

Change = Callable[[NodeStatus], NodeStatus]


def replica(gid: int, node: str) -> ReplicaStatus:
    """Of three voters, led by n3."""
    return ReplicaStatus(
        gid=gid, uuid=UUID, replica=NODES.index(node) + 1,
        role="leader" if node == "n3" else "follower", stopped="", term=4, leader="n3", commit=9,
        applied=9, last=9, log_bytes=0, voters=VOTERS, outgoing=(), learners=(),
        config_number=2 if gid else 0, shards=(),
    )  # fmt: skip


def node(name: str) -> NodeStatus:
    return NodeStatus(
        node=name, cluster=b"c", version="0", pid=1, boot=1, uptime_ms=0, client=f"{name}:1",
        peer=f"{name}:2", http="", nshards=1, state="running", config_number=2,
        known=tuple((other, f"{other}:1") for other in NODES),
        replicas=(replica(0, name), replica(1, name)),
    )  # fmt: skip


def with_replica(gid: int, **changed: object) -> Change:
    """Where one of its replicas is otherwise."""

    def change(status: NodeStatus) -> NodeStatus:
        return status._replace(
            replicas=tuple(
                held._replace(**changed) if held.gid == gid else held  # type: ignore[arg-type]
                for held in status.replicas
            )
        )

    return change


def test_a_cluster_is_whole_when_its_nodes_know_what_the_controller_knows() -> None:
    assert incomplete(VIEW, {name: node(name) for name in NODES}, OURS) == []


@pytest.mark.parametrize(
    ("name", "change", "missing"),
    [
        pytest.param(
            "n1",
            lambda status: status._replace(config_number=0, known=()),
            "n1 has yet to hear of configuration 2",
            id="it has heard nothing since it was started",
        ),
        pytest.param(
            "n2",
            lambda status: status._replace(config_number=1),
            "n2 has yet to hear of configuration 2",
            id="it knows an older configuration",
        ),
        pytest.param(
            "n2",
            lambda status: status._replace(known=status.known[:2]),
            "n2 has yet to hear of configuration 2",
            id="it does not know of the third node, where its groups are led",
        ),
        pytest.param(
            "n1",
            with_replica(1, leader=""),
            "group 1's replica on n1 has yet to hear its leader",
            id="who says that it leads may have been deposed, and not know it",
        ),
        pytest.param(
            "n2",
            with_replica(0, leader="n1"),
            "group 0's replica on n2 has yet to hear its leader",
            id="a replica follows another leader",
        ),
        pytest.param(
            "n1",
            with_replica(1, stopped="broken"),
            "group 1's replica on n1 does not run",
            id="a replica has stopped",
        ),
        pytest.param(
            "n3", with_replica(1, role="follower"), "group 1 has no leader", id="nobody leads"
        ),
        pytest.param(
            "n3",
            with_replica(1, config_number=0),
            "group 1 has yet to take up a configuration",
            id="a group that serves nothing yet",
        ),
        pytest.param(
            "n3",
            with_replica(0, learners=(MemberStatus(4, "n4", "n4:2"),)),
            "group 0 is changing its members",
            id="a learner",
        ),
    ],
)
def test_what_keeps_it_from_being_whole_is_named(name: str, change: Change, missing: str) -> None:
    seen = {other: node(other) for other in NODES}

    assert incomplete(VIEW, seen | {name: change(seen[name])}, OURS) == [missing]


def test_a_node_that_is_not_registered_is_named() -> None:
    view = VIEW._replace(
        directory=Directory(1, nodes={NodeId("n1"): VIEW.directory.nodes[NodeId("n1")]})
    )

    assert incomplete(view, {name: node(name) for name in NODES}, OURS) == ["n2 is not registered"]


def test_what_other_nodes_know_is_not_waited_for() -> None:
    seen = {other: node(other) for other in NODES}
    stranger = seen["n3"]._replace(config_number=0, known=())

    assert incomplete(VIEW, seen | {"n3": stranger}, OURS) == []
