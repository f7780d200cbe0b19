"""Replicas moved by operators in virtual time: they are cut off, nodes crash, clients go on.

The very planner, operator, admin service and clerk of production; the invariants of Raft and of the
store watch every run, and what the clients saw must be linearizable.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from labrpc.errors import Refused
from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labrpc.transport import Address
from labs.cluster import SimCluster
from labs.history import History, Kind
from labs.linearizability import judge_list, judge_register
from labs.workload import Workload, WorkloadConfig
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardkv.admin import CHANGE_MEMBERS, ChangeMembers, encode
from shardkv.errors import ShardKVError
from shardkv.moving_replicas import Change
from shardkv.operating import MembersRefused
from shardkv.planner import HealPolicy
from shardkv.relocation import Relocation

BY_HAND = HealPolicy(heal=False)
COMMAND_SECONDS = 20.0


class Operators:
    """People at command lines: each command is a process of its own."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._commands = 0

    async def do(self, work: Callable[[Relocation], Coroutine[Any, Any, None]]) -> None:
        """One command."""
        self._commands += 1
        name = f"operator{self._commands}"
        transport = self._cluster.network.transport(Address(name))
        rng = self._cluster.chance.rng(name)
        client = ControllerClient(transport, self._cluster.controllers, rng)
        deadline = asyncio.get_running_loop().time() + COMMAND_SECONDS
        tell = self._cluster.observer.tell
        try:
            relocation = await Relocation.prepared(
                client,
                transport,
                reaching=10.0,
                deadline=deadline,
                progress=lambda line: tell(f"{name}: {line}"),
            )
            await work(relocation)
        finally:
            await client.close()
            await transport.close()

    async def replace(self, old: str, new: str) -> None:
        async def work(relocation: Relocation) -> None:
            await relocation.carry_out(await relocation.replacements(old, new))

        await self.do(work)

    async def change(self, change: Change) -> None:
        await self.do(lambda relocation: relocation.carry_out([change]))

    async def transfer(self, gid: int, node: str) -> None:
        await self.do(lambda relocation: relocation.transfer(gid, node))


Story = Callable[[SimCluster, Operators], Coroutine[Any, Any, None]]


def play(seed: object, story: Story, *, clients: int = 4) -> None:
    """A story on a cluster of six: n1, n2 and n3 hold the controller and group 2, the others group
    1. The clients ask meanwhile, and are judged."""
    history = History()

    async def main() -> None:
        cluster = SimCluster(Chance(f"moving/{seed}"), groups=2, heal=BY_HAND)
        await cluster.start()
        pairs = [cluster.client() for _ in range(clients)]
        number = await pairs[0][1].join([cluster.joining(gid) for gid in cluster.gids])
        await until(lambda: cluster.quiet(number), 30, "the cluster serves")
        await until(lambda: known(cluster), 10, "every node is registered")
        workload = Workload(
            [clerk for clerk, _ in pairs],
            Random(str(seed)),
            WorkloadConfig(lists=3, registers=3, timeout=8.0, pause_max=0.05),
            history,
        )
        asking = asyncio.get_running_loop().create_task(workload.run())
        await story(cluster, Operators(cluster))
        workload.stop()
        await asking
        for key in workload.keys:
            last = await workload.ask(0, Kind.GET, key, None, 20.0)
            if key in workload.lists:
                judge_list(history.of(key), last.value)
            else:
                judge_register(history.of(key))
        cluster.observer.finish()
        for clerk, controller in pairs:
            await clerk.close()
            await controller.close()

    run(main(), seed=f"moving/{seed}")
    assert len(history.operations) > 10, "a run in which nobody asks shows nothing"


def known(cluster: SimCluster) -> bool:
    views = [node.assembly.feed.view for node in cluster.nodes.values() if node.assembly]
    return all(view and len(view.directory.nodes) == len(cluster.nodes) for view in views)


async def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while not condition():
        assert loop.time() < ends, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.05)


def voters(cluster: SimCluster, gid: int) -> list[str]:
    """Who votes, by the group's leader; [] while it changes or nobody leads."""
    node = cluster.leader(GroupId(gid))
    if node is None or node.host is None:
        return []
    core = node.host.replicas[GroupId(gid)].core
    at = core.membership
    if at.outgoing or at.promote or at.leaving or core.log.membership_index > core.commit:
        return []
    return sorted(str(member.node) for member in at.voters)


def membership_index(cluster: SimCluster, gid: int) -> int:
    node = cluster.leader(GroupId(gid))
    assert node is not None and node.host is not None
    return node.host.replicas[GroupId(gid)].core.log.membership_index


def holds(cluster: SimCluster, name: str) -> list[int]:
    """The groups of which a node has a replica."""
    host = cluster.nodes[name].host
    return [] if host is None else sorted(int(record.gid) for record in host.records())


@pytest.mark.parametrize("seed", range(6))
def test_a_replacement_survives_its_operators_and_its_nodes(seed: int) -> None:
    """G1, G3: n2 to n5, for the controller and group 2. Operators are cut off at any moment, nodes
    have power cuts; with odd seeds n2 is gone for good. Asked again at the end, it is done."""

    async def story(cluster: SimCluster, operators: Operators) -> None:
        rng = Random(f"moving/{seed}")
        loop = asyncio.get_running_loop()
        dead = seed % 2 == 1
        if dead:
            cluster.nodes["n2"].crash()
        for _ in range(6):
            command = loop.create_task(operators.replace("n2", "n5"))
            await asyncio.sleep(rng.uniform(0, 0.6))
            command.cancel()
            await asyncio.gather(command, return_exceptions=True)
            victims = ["n5"] if dead else ["n5", "n2", "n1", "n3", "n4"]
            victim = cluster.nodes[rng.choice(victims)]
            if rng.random() < 0.6:
                victim.crash()
                await asyncio.sleep(rng.uniform(0, 2.0))
                await victim.start()
        for _ in range(4):  # a command that times out says so, and is finished by the next
            try:
                await operators.replace("n2", "n5")
                break
            except (ShardKVError, ShardCtrlerError) as error:
                cluster.observer.tell(f"again, after {error}")
        else:
            raise AssertionError("L5: it is never done")
        for gid in (0, 2):
            assert voters(cluster, gid) == ["n1", "n3", "n5"]
        if dead:
            await asyncio.sleep(12.0)  # its former leaders have stopped telling it
            await cluster.nodes["n2"].start()
        await until(lambda: holds(cluster, "n2") == [], 20, "n2 drops what it was removed from")
        await until(lambda: holds(cluster, "n5") == [0, 1, 2], 5, "n5 holds it")

    play(seed, story)


def test_a_node_that_lost_its_disk_takes_its_own_place() -> None:
    """It is back under its name, a stranger; a voter that it lost is never that voter again."""

    async def story(cluster: SimCluster, operators: Operators) -> None:
        node = cluster.nodes["n2"]
        groups = (GroupId(0), GroupId(2))
        before = {gid: cluster.voters(gid) for gid in groups}
        node.crash()
        node.lose_disk()
        await asyncio.sleep(2.0)
        await node.start()
        await asyncio.sleep(1.0)
        assert holds(cluster, "n2") == []

        await operators.replace("n2", "n2")

        assert holds(cluster, "n2") == list(groups)
        for gid in groups:
            assert sorted(voters(cluster, gid)) == ["n1", "n2", "n3"]
            lost = next(member.id for member in before[gid] if member.node == "n2")
            assert lost not in [member.id for member in cluster.voters(gid)]
        await operators.replace("n2", "n2")  # there is nothing left to do

    play("its own place", story)


def test_every_replica_moves_and_clients_that_know_only_the_old_nodes_go_on() -> None:
    """The controller too: it is found by those who were told where it was once."""

    async def story(cluster: SimCluster, operators: Operators) -> None:
        for old, new in (("n1", "n4"), ("n2", "n5"), ("n3", "n6")):
            await operators.replace(old, new)
        for old in ("n1", "n2", "n3"):
            await until(lambda old=old: holds(cluster, old) == [], 20, f"{old} is empty")  # type: ignore[misc]
            cluster.nodes[old].crash()
        for gid in (0, 1, 2):
            assert voters(cluster, gid) == ["n4", "n5", "n6"]
        for name in ("n4", "n5", "n6"):  # they start again, and find each other
            cluster.nodes[name].crash()
            await asyncio.sleep(0.5)
            await cluster.nodes[name].start()
            await asyncio.sleep(2.0)
        _, admin = cluster.client()
        cluster.controllers[:] = [Address("n5")]
        await admin.close()
        _, admin = cluster.client()
        assert (await admin.newest()).config.number == 1
        await admin.close()

    play("every replica", story)


@pytest.mark.parametrize("seed", range(3))
def test_of_operators_with_different_wishes_each_is_done_or_told(seed: int) -> None:
    """O4. n2 to n5 and n2 to n6 at once, a transfer and a removal beside them."""

    async def story(cluster: SimCluster, operators: Operators) -> None:
        ended = await asyncio.gather(
            operators.change(Change(2, ("n5",), ("n2",))),
            operators.change(Change(2, ("n6",), ("n2",))),
            operators.transfer(2, "n3"),
            operators.change(Change(0, (), ("n2",))),
            return_exceptions=True,
        )
        told = [error for error in ended if error is not None]
        assert all(isinstance(error, MembersRefused) for error in told), told
        replaced = [error is None for error in ended[:2]]
        assert sum(replaced) == 1, ended
        new = "n5" if replaced[0] else "n6"
        await until(lambda: voters(cluster, 2) == sorted(["n1", "n3", new]), 10, "one of them")
        assert voters(cluster, 0) == ["n1", "n3"]

    play(f"wishes/{seed}", story)


def test_what_would_cost_a_quorum_is_refused_without_any_effect() -> None:
    """Refused: too many, the last, the unknown; by the operator's view and by the
    leader's own."""

    async def story(cluster: SimCluster, operators: Operators) -> None:
        cluster.nodes["n3"].crash()
        await until(lambda: voters(cluster, 2), 10, "a leader")
        await asyncio.sleep(2.0)
        before = [membership_index(cluster, gid) for gid in (0, 1, 2)]
        for change, reason in (
            (Change(2, (), ("n2",)), "would leave 1 of 2 alive"),
            (Change(0, (), ("n1",)), "would leave 1 of 2 alive"),
            (Change(1, (), ("n4", "n5", "n6")), "the last replica of group 1"),
            (Change(9, ("n4",)), "there is no group 9"),
        ):
            with pytest.raises(MembersRefused, match=reason):
                await operators.change(change)
        with pytest.raises(ShardKVError, match="no node 'n9'"):
            await operators.change(Change(1, ("n9",)))
        # An operator who looked before n3 died: the leader itself knows better.
        leader = cluster.leader(GroupId(2))
        assert leader is not None and leader.host is not None
        at = leader.host.replicas[GroupId(2)].core.membership
        other = next(m.id for m in at.voters if m.node not in (leader.name, "n3"))
        remove = ChangeMembers(2, cluster.uuids[GroupId(2)], (), (other,))
        stale = cluster.network.transport(Address("stale"))
        with pytest.raises(Refused, match="would leave 1 of 2 alive") as refused:
            await stale.call(leader.address, CHANGE_MEMBERS, encode(remove), timeout=5.0)
        assert refused.value.code == "FAILED_PRECONDITION"
        await stale.close()
        assert [membership_index(cluster, gid) for gid in (0, 1, 2)] == before
        await operators.replace("n3", "n4")  # and this is what helps
        await until(lambda: voters(cluster, 2) == ["n1", "n2", "n4"], 10, "n4 for n3")
        await operators.change(Change(2, (), ("n2",)))
        assert voters(cluster, 2) == ["n1", "n4"]
        await cluster.nodes["n3"].start()
        await until(lambda: holds(cluster, "n3") == [], 20, "n3 is told")

    play("quorum", story)


def test_the_directory_follows_the_members_and_never_goes_back() -> None:
    """A report carries the index of the membership: two leaders who report the same change, or an
    old one late, agree on what is newer."""

    async def story(cluster: SimCluster, operators: Operators) -> None:
        _, admin = cluster.client()
        seen: list[tuple[int, tuple[str, ...]]] = []
        for old, new in (("n1", "n4"), ("n2", "n5"), ("n4", "n1"), ("n5", "n2")):
            await operators.replace(old, new)
            await operators.transfer(2, "n3")
            await operators.transfer(2, new)
            wanted = voters(cluster, 2)

            async def told(wanted: list[str]) -> bool:
                record = (await admin.newest()).directory.groups[GroupId(2)]
                seen.append((record.version, tuple(str(m.node) for m in record.members)))
                return sorted(seen[-1][1]) == wanted

            for _ in range(100):
                if await told(wanted):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(f"the directory says {seen[-1]}, and it is {wanted}")
        versions = [version for version, _ in seen]
        assert versions == sorted(versions)
        by_version: dict[int, tuple[str, ...]] = {}
        for version, members in seen:
            assert by_version.setdefault(version, members) == members, "one truth a version"
        await admin.close()

    play("directory", story)
