"""Changes of the cluster's configuration as an operator makes them: groups that do not exist yet
are born and grown first, and everything ends in one numbered change of the controller."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from labrpc.transport import Address, Transport
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.client import ControllerClient
from shardctrler.commands import Code, JoiningGroup
from shardctrler.errors import ChangeRefused, ConfigChanged
from shardctrler.types import ConfigNumber, GroupInfo, GroupMember, ShardConfig, View
from shardkv.admin import NodeStatus, ReplicaStatus
from shardkv.config import ConfigError
from shardkv.errors import ShardKVError, Unavailable
from shardkv.growth import CONTROLLER_GID, Seen, Wish, leader_of
from shardkv.operating import Operator
from shardkv.text import quoted

PAUSE_SECONDS: Final = 0.05
NODES_OF_GROUP_MAX: Final = 9
GID_MAX: Final = 2**31 - 1


class GroupIsElsewhere(ShardKVError):
    """A gid means one group for ever, and that one lives on other nodes."""

    def __init__(self, gid: int, nodes: Sequence[str]) -> None:
        super().__init__(
            f"group {gid} exists already, on {', '.join(nodes)}: name those nodes, or another gid"
        )


class UnknownNode(ShardKVError):
    """A node that never registered with the controller."""

    def __init__(self, node: str, known: Sequence[str]) -> None:
        super().__init__(f"no node {quoted(node)}; registered are {', '.join(known) or 'none'}")


async def join_founders(
    client: ControllerClient, operator: Operator, founders: Sequence[Wish], *, deadline: float
) -> None:
    """Let the founding groups take part, all in configuration 1. Nothing, if there is one."""
    left = deadline - asyncio.get_running_loop().time()
    view = await client.newest(timeout=left)
    if view.config.number > 0 or not founders:
        return
    seen = await operator.grow(founders, deadline=deadline)
    groups = [joining(wish, seen, operator.nodes) for wish in founders]
    try:
        await client.join(groups, expect=ConfigNumber(0), timeout=left)
    except ConfigChanged:
        return  # somebody else finished the founding


async def join(
    client: ControllerClient,
    transport: Transport,
    wishes: Sequence[Wish],
    *,
    deadline: float,
    progress: Callable[[str], None],
) -> ConfigNumber:
    """Let groups take part: those that do not exist are born on their nodes and grown first.

    Raises:
        ConfigError, UnknownNode, GroupIsElsewhere: nothing was changed.
        ChangeRefused: of the controller; a group that was born stays, and can join later.
        Unavailable, OutcomeUnknown.
    """
    left = deadline - asyncio.get_running_loop().time()
    view = await client.newest(timeout=left)
    nodes = {str(node): found.client for node, found in view.directory.nodes.items()}
    if len({wish.gid for wish in wishes}) != len(wishes):
        raise ConfigError("a group is named twice")
    for wish in wishes:
        check_join(wish, view, nodes)
    wished = {node: nodes[node] for wish in wishes for node in wish.nodes}
    operator = Operator(transport, wished)
    seen = await operator.grow(wishes, deadline=deadline, progress=progress)
    return await client.join(
        [joining(wish, seen, nodes) for wish in wishes],
        timeout=deadline - asyncio.get_running_loop().time(),
    )


def check_join(wish: Wish, view: View, nodes: Mapping[str, str]) -> None:
    """Refuse a wish that cannot come true, before anything is done."""
    if len(dict.fromkeys(wish.nodes)) != len(wish.nodes):
        raise ConfigError(f"group {wish.gid}: a node is named twice")
    if not 1 <= len(wish.nodes) <= NODES_OF_GROUP_MAX:
        raise ConfigError(f"group {wish.gid}: from 1 to {NODES_OF_GROUP_MAX} nodes")
    for node in wish.nodes:
        if node not in nodes:
            raise UnknownNode(node, sorted(nodes))
    record = view.directory.groups.get(GroupId(wish.gid))
    if record is not None and not record.members:
        raise ChangeRefused(Code.UUID_DIFFERS, (wish.gid,))  # it is no more, and keeps its gid
    if record is not None:
        there = [str(member.node) for member in record.members]
        if sorted(there) != sorted(wish.nodes):
            raise GroupIsElsewhere(wish.gid, there)
    if GroupId(wish.gid) in view.config.groups:
        raise ChangeRefused(Code.ALREADY_JOINED, (wish.gid,))


def joining(wish: Wish, seen: Seen, nodes: Mapping[str, str]) -> JoiningGroup:
    """A grown group as the controller is told of it, with the uuid that the group itself gave."""
    found = leader_of(wish.gid, seen)
    assert found is not None, "a complete group has a leader"
    members = tuple(
        GroupMember(NodeId(member.node), nodes[member.node]) for member in found[1].voters
    )
    version = found[1].membership_at
    return JoiningGroup(GroupId(wish.gid), GroupUuid(found[1].uuid), members, version)


def as_of_now(view: View) -> ShardConfig:
    """The newest configuration, its groups on the nodes that hold them now."""
    groups = {
        gid: GroupInfo(group.uuid, view.directory.members(gid) or group.members)
        for gid, group in view.config.groups.items()
    }
    return replace(view.config, groups=groups)


async def groups_complete(client: ControllerClient, operator: Operator, *, deadline: float) -> None:
    """Return once the controller and every group that takes part lead and are whole, and all the
    operator's nodes are registered and know of it: what is asked of any of them next is answered.

    Raises:
        Unavailable: not in time; the text says what is missing.
    """
    loop = asyncio.get_running_loop()
    while True:
        view = await client.newest(timeout=max(deadline - loop.time(), 0.1))
        ours = tuple(operator.nodes)
        others = {str(node): found.client for node, found in view.directory.nodes.items()}
        seen = await operator.with_nodes(others).observe()
        missing = incomplete(view, seen, ours)
        if not missing:
            return
        if loop.time() > deadline:
            raise Unavailable(f"not complete in time: {'; '.join(missing)}")
        await asyncio.sleep(PAUSE_SECONDS)


def incomplete(view: View, seen: Seen, ours: Sequence[str]) -> list[str]:
    """What keeps a cluster from being whole. Pure.

    Of a group: no leader, a leader without a configuration, a change of voters under way, a voter
    on one of our nodes whose replica does not run, or has not heard of that leader (who may be
    one that was deposed, and has yet to notice). Of one of our nodes: the controller does not know
    it, or it does not know what the controller does. What other nodes do is not ours to wait for.
    """
    missing = []
    for gid in (CONTROLLER_GID, *view.config.groups):
        found = leader_of(gid, seen)
        if found is None:
            missing.append(f"group {gid} has no leader")
            continue
        leader, group = found
        if gid != CONTROLLER_GID and group.config_number == 0:
            missing.append(f"group {gid} has yet to take up a configuration")
        if group.outgoing or group.learners:
            missing.append(f"group {gid} is changing its members")
        for member in group.voters:
            if member.node not in ours:
                continue
            if not _runs(seen[member.node], group):
                missing.append(f"group {gid}'s replica on {member.node} does not run")
            elif not _follows(seen[member.node], gid, leader):
                missing.append(f"group {gid}'s replica on {member.node} has yet to hear its leader")
    for node in ours:
        if NodeId(node) not in view.directory.nodes:
            missing.append(f"{node} is not registered")
        elif not _has_heard(seen[node], view):
            missing.append(f"{node} has yet to hear of configuration {view.config.number}")
    return missing


def _runs(status: NodeStatus | None, group: ReplicaStatus) -> bool:
    replica = status.replica(group.gid) if status is not None else None
    return replica is not None and replica.uuid == group.uuid and not replica.stopped


def _follows(status: NodeStatus | None, gid: int, leader: str) -> bool:
    replica = status.replica(gid) if status is not None else None
    return replica is not None and replica.leader == leader


def _has_heard(status: NodeStatus | None, view: View) -> bool:
    """Whether a node knows the configuration, and where everybody is."""
    if status is None or status.config_number < view.config.number:
        return False
    known = {(str(node), there.client) for node, there in view.directory.nodes.items()}
    return known <= set(status.known)


def parse_group(text: str) -> Wish:
    """`GID=NODE,NODE,...`.

    Raises:
        ValueError: the rule that the text breaks.
    """
    gid, equals, names = text.partition("=")
    if not equals or not gid.isascii() or not gid.isdigit() or len(gid) > 10:
        raise ValueError("must be GID=NODE,NODE,..., such as 3=n4,n5,n6")
    if not 1 <= int(gid) <= GID_MAX:
        raise ValueError(f"must name a group's id from 1 to {GID_MAX}")
    nodes = tuple(names.split(","))
    if not all(nodes):
        raise ValueError("names no node between two commas")
    return Wish(int(gid), nodes)


def endpoints_of(addresses: Sequence[str]) -> list[Address]:
    """Addresses as the controller's client wants them."""
    return [Address(address) for address in addresses]
