"""A cluster that mends itself, in virtual time: nodes die, return, flap, are cut off, stand still.

The invariants of Raft and of the store watch every run (R11 among them: one uncommitted change of
members at a time); what is asked for here is that the right thing is done, and no more than that.
"""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import SimCluster, SimNode
from labs.history import History, Kind
from labs.linearizability import judge_list, judge_register
from labs.workload import Workload, WorkloadConfig
from raft.disk.log_store import ReplicaRecord
from raft.errors import MembershipRefused, NotLeader
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardkv.assembly import CONTROLLER
from shardkv.clerk import Clerk
from shardkv.disk_space import Space
from shardkv.errors import DiskFull
from shardkv.healing import Healer
from shardkv.planner import HealPolicy

GRACE = 5.0
POLICY = HealPolicy(
    grace_seconds=GRACE, dead_seconds=3.0, uneven_seconds=3.0, transfer_pause_seconds=1.0
)
BOUND = 15.0
"""What is seen, decided, copied and committed within so long after the grace period."""

Story = Callable[[SimCluster, Clerk, ControllerClient], Coroutine[Any, Any, None]]


def play(story: Story, seed: object, **shape: Any) -> None:
    """A cluster with all groups joined, and a story told on it."""

    async def main() -> None:
        cluster = SimCluster(Chance(f"healing/{seed}"), heal=POLICY, **shape)
        cluster.controllers = [node.address for node in cluster.nodes.values()]
        await cluster.start()
        clerk, admin = cluster.client()
        number = await admin.join([cluster.joining(gid) for gid in cluster.gids])
        await until(lambda: cluster.quiet(number), 30, "the cluster serves")
        await until(lambda: all_known(cluster), 10, "every node has registered")
        await story(cluster, clerk, admin)
        cluster.observer.finish()
        await clerk.close()
        await admin.close()

    run(main(), seed=f"healing/{seed}")


def all_known(cluster: SimCluster) -> bool:
    """Whether every node knows of every other."""
    return all(
        node.assembly is not None
        and node.assembly.feed.view is not None
        and len(node.assembly.feed.view.directory.nodes) == len(cluster.nodes)
        for node in cluster.nodes.values()
    )


async def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something is so; returns how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < seconds, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.05)
    return loop.time() - began


async def lasting(seconds: float, condition: Callable[[], object], what: str) -> None:
    """Something is so, and stays so."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    while loop.time() < ends:
        assert condition(), what
        await asyncio.sleep(0.05)


def voters(cluster: SimCluster, gid: GroupId) -> set[str]:
    """The nodes that vote in a group, by its leader; none while it changes."""
    node = cluster.leader(gid)
    if node is None or node.host is None:
        return set()
    membership = node.host.replicas[gid].core.membership
    if membership.outgoing or membership.promote:
        return set()
    return {str(member.node) for member in membership.voters}


def whole_without(cluster: SimCluster, *gone: str) -> bool:
    """Every group has three voters that live, none of them on these nodes, and has caught up."""
    return all(
        len(voters(cluster, gid)) == 3
        and not voters(cluster, gid) & set(gone)
        and cluster.converged(gid)
        for gid in cluster.placement
    )


def given(cluster: SimCluster) -> dict[GroupId, int]:
    """The next replica id of each group, which grows with every replica that is added; {} while
    some group is not led."""
    found = {}
    for gid in cluster.placement:
        node = cluster.leader(gid)
        if node is None or node.host is None:
            return {}
        found[gid] = int(node.host.replicas[gid].core.membership.next_id)
    return found


def promoting(cluster: SimCluster, gid: GroupId) -> list[str]:
    """The nodes whose learners shall become voters of a group."""
    node = cluster.leader(gid)
    if node is None or node.host is None:
        return []
    membership = node.host.replicas[gid].core.membership
    return [str(m.node) for m in membership.learners if m.id in membership.promote]


def healer(cluster: SimCluster) -> Healer:
    found = controller(cluster).healer
    assert found is not None
    return found


def leads(cluster: SimCluster) -> dict[str, int]:
    counts = dict.fromkeys(cluster.nodes, 0)
    for gid in cluster.placement:
        if (node := cluster.leader(gid)) is not None:
            counts[str(node.name)] += 1
    return counts


def controller(cluster: SimCluster) -> SimNode:
    node = cluster.leader(CONTROLLER)
    assert node is not None
    return node


class Clients:
    """Four clients that ask all the time, and a judge of what they saw."""

    def __init__(self, cluster: SimCluster, seed: object) -> None:
        self._history = History()
        self._clerks = [cluster.client()[0] for _ in range(4)]
        self._workload = Workload(
            self._clerks, Random(str(seed)), WorkloadConfig(clients=4), self._history
        )
        self._asking = asyncio.ensure_future(self._workload.run())

    @property
    def acknowledged(self) -> int:
        return sum(one.happened is True for one in self._history.operations)

    async def judged(self) -> None:
        """Stop asking; nothing that was acknowledged is missing, and nothing is out of order."""
        self._workload.stop()
        await self._asking
        for key in self._workload.keys:
            last = await self._workload.ask(0, Kind.GET, key, None, 10.0)
            assert last.happened, f"{key!r} is not served"
            if key in self._workload.lists:
                judge_list(self._history.of(key), last.value)
            else:
                judge_register(self._history.of(key))
        for clerk in self._clerks:
            await clerk.close()


@pytest.mark.parametrize("victim", ["n1", "n2", "n5"])
@pytest.mark.parametrize("seed", range(2))
def test_a_node_that_dies_for_good_is_made_up_for(seed: int, victim: str) -> None:
    """n1 founded the controller's group and leads it at first: then its successor heals."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        clients = Clients(cluster, seed)
        await asyncio.sleep(1.0)
        cluster.nodes[victim].crash()
        died = asyncio.get_running_loop().time()

        await until(lambda: given(cluster), 5.0, "every group is led again")
        ids = given(cluster)
        left = died + GRACE - asyncio.get_running_loop().time() - 0.1
        await lasting(left, lambda: given(cluster) in ({}, ids), "nothing within the grace period")
        await until(lambda: whole_without(cluster, victim), BOUND, "replicas made anew")
        mended = given(cluster)
        await asyncio.sleep(1.0)
        await clients.judged()

        assert sum(mended.values()) == sum(ids.values()) + 2, "one change in each of two groups"
        assert clients.acknowledged > 100

    play(story, f"{seed}/{victim}")


def test_replicas_go_where_there_are_fewest() -> None:
    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        cluster.nodes["n2"].crash()

        await until(lambda: whole_without(cluster, "n2"), GRACE + BOUND, "replicas made anew")

        held = [
            sum(name in voters(cluster, gid) for gid in cluster.placement)
            for name in cluster.nodes
            if name != "n2"
        ]
        assert max(held) - min(held) <= 1

    play(story, "fewest")


def test_two_nodes_die_one_after_the_other() -> None:
    """The second as soon as what the first held is made anew: three of six would not be enough."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        clients = Clients(cluster, "two")
        for gone in (["n2"], ["n2", "n3"], ["n2", "n3", "n4"]):
            cluster.nodes[gone[-1]].crash()
            await until(
                lambda gone=gone: whole_without(cluster, *gone),  # type: ignore[misc]
                GRACE + BOUND,
                f"whole without {gone}",
            )
        await clients.judged()

    play(story, "two")


def test_two_that_die_together_are_waited_for() -> None:
    """n4 and n5 are two of three of groups 1 and 3: without a majority nothing can be changed."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        for name in ("n4", "n5"):
            cluster.nodes[name].crash()
        await asyncio.sleep(GRACE + 10.0)

        report = healer(cluster).report()
        assert [node.node for node in report.nodes if node.health == "dead"] == ["n4", "n5"]
        assert [line for line in report.why if "has no leader" in line] == [
            f"group {gid} has no leader: did it lose a majority of its voters?" for gid in (1, 3)
        ]
        for name in ("n4", "n5"):
            await cluster.nodes[name].start()
        await until(lambda: whole_without(cluster), 10.0, "they came back, and all is well")
        assert set(given(cluster).values()) == {4}, "no replica was made"

    play(story, "together")


def test_a_node_that_returns_before_its_successor_has_caught_up_is_kept() -> None:
    """n7 is empty, so it is chosen; it stands still, so it cannot catch up; n3 comes back."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        cluster.nodes["n3"].crash()
        await until(lambda: promoting(cluster, CONTROLLER) == ["n7"], GRACE + BOUND, "begun")
        cluster.nodes["n7"].pause()
        await cluster.nodes["n3"].start()

        await until(lambda: voters(cluster, CONTROLLER) == {"n1", "n2", "n3"}, BOUND, "taken back")
        cluster.nodes["n7"].resume()
        await until(lambda: whole_without(cluster, "n7"), BOUND, "whole")
        ids = given(cluster)
        await lasting(2 * GRACE, lambda: given(cluster) == ids, "and nothing more is done")
        (done,) = [line for line in healer(cluster).report().done if line.startswith("take back")]
        assert done.endswith("n3 is back")

    play(story, "returns", nodes=7, groups=1)


def test_a_successor_that_dies_is_replaced_by_another() -> None:
    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        cluster.nodes["n3"].crash()
        await until(lambda: promoting(cluster, CONTROLLER) == ["n7"], GRACE + BOUND, "begun")
        cluster.nodes["n7"].crash()

        await until(lambda: whole_without(cluster, "n3", "n7"), 2 * (GRACE + BOUND), "whole")

    play(story, "successor dies", nodes=7, groups=1)


def test_a_node_that_returns_too_late_lets_its_replicas_go() -> None:
    """It was made up for; now it is a node like any empty one, and takes part again as such."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        late = cluster.nodes["n2"]
        late.crash()
        await until(lambda: whole_without(cluster, "n2"), GRACE + BOUND, "replicas made anew")

        await late.start()
        await until(lambda: late.host is not None and not late.host.replicas, BOUND, "let go")
        cluster.nodes["n5"].crash()
        await until(lambda: whole_without(cluster, "n5"), GRACE + BOUND, "whole again")

        assert any("n2" in voters(cluster, gid) for gid in cluster.placement)

    play(story, "too late")


def test_a_flapping_node_is_left_alone() -> None:
    """Down for most of the grace period, up for a moment, over and over."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        clients = Clients(cluster, "flaps")
        ids = given(cluster)
        for _ in range(8):
            cluster.nodes["n5"].crash()
            await asyncio.sleep(GRACE - 1.5)
            await cluster.nodes["n5"].start()
            await asyncio.sleep(1.5)
        await until(lambda: whole_without(cluster), BOUND, "whole")

        assert given(cluster) == ids, "no replica was made"
        await clients.judged()

    play(story, "flaps")


def test_who_is_cut_off_from_the_controller_alone_is_not_dead() -> None:
    """The controller's leader does not hear n5, and the leader of n5's groups does."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        ids = given(cluster)
        cluster.network.isolate(
            cluster.nodes["n5"].address, [cluster.nodes[n].address for n in ("n1", "n2", "n3")]
        )
        at = controller(cluster)

        await lasting(3 * GRACE, lambda: given(cluster) in ({}, ids), "nothing is done")

        found = {node.node: node.health for node in healer(cluster).report().nodes}
        assert controller(cluster) is at
        assert found["n5"] == "suspect"
        assert {health for name, health in found.items() if name != "n5"} == {"alive"}

    play(story, "cut off")


def test_a_controller_s_leader_that_is_cut_off_harms_nobody() -> None:
    """It cannot hear anybody; it must not conclude that they are all dead. Its successor counts
    anew, and makes up for it; when it is back, everybody agrees."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        clients = Clients(cluster, "partition")
        at = controller(cluster)
        others = [node.address for node in cluster.nodes.values()]
        cluster.network.isolate(at.address, others)

        await until(lambda: whole_without(cluster, str(at.name)), GRACE + BOUND, "made up for")
        cluster.network.heal()
        await asyncio.sleep(GRACE)
        await until(lambda: whole_without(cluster, str(at.name)), BOUND, "still so")
        await clients.judged()

    play(story, "partition")


def test_a_controller_s_leader_that_stood_still_counts_anew() -> None:
    """Twice the grace period passed for it in an instant; nobody was silent."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        await asyncio.sleep(GRACE)
        ids = given(cluster)
        for node in cluster.nodes.values():
            node.pause()
        await asyncio.sleep(2 * GRACE)
        for node in cluster.nodes.values():
            node.resume()

        await asyncio.sleep(GRACE)
        await until(lambda: whole_without(cluster), BOUND, "whole")
        assert given(cluster) == ids, "no replica was made"

    play(story, "stood still")


def test_a_learner_that_was_never_filled_is_struck() -> None:
    """An operator's command died between the leader's answer and the creation of the replica."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        node = cluster.leader(GroupId(1))
        assert node is not None and node.host is not None
        node.host.replicas[GroupId(1)].change_members(add=[(cluster.nodes["n1"].name, "n1")])
        await until(lambda: promoting(cluster, GroupId(1)) == ["n1"], 1.0, "added")

        took = await until(lambda: whole_without(cluster), POLICY.orphan_seconds + 5.0, "struck")

        assert took > POLICY.orphan_seconds - 1.5, "who added it had time to create it"

    play(story, "orphan")


def test_an_operator_s_replacement_is_left_to_end() -> None:
    """n4 lives, and shall leave all the same: it did not 'come back'."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        gid = GroupId(1)
        node = cluster.leader(gid)
        assert node is not None and node.host is not None
        replica = node.host.replicas[gid]
        leaving = next(m for m in replica.core.membership.voters if m.node != node.name)
        learner = replica.core.membership.next_id
        replica.change_members(add=[(cluster.nodes["n1"].name, "n1")], remove=[leaving.id])
        await asyncio.sleep(POLICY.orphan_seconds - 2.0)
        await cluster.nodes["n1"].create(ReplicaRecord(gid, cluster.uuids[gid], learner, 4711))

        await until(lambda: "n1" in voters(cluster, gid), 5.0, "it ends")
        ids = given(cluster)
        await lasting(2 * GRACE, lambda: given(cluster) == ids, "and stays so")
        assert str(leaving.node) not in voters(cluster, gid)

    play(story, "operator")


def test_leaderships_are_even_again_after_all_nodes_were_restarted() -> None:
    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        for gid in cluster.placement:  # all on one node, where there can be
            node = cluster.leader(gid)
            assert node is not None and node.host is not None
            replica = node.host.replicas[gid]
            for member in replica.core.membership.voters:
                if member.node == "n1" and node.name != "n1":
                    replica.transfer(member.id)
        await until(lambda: leads(cluster)["n1"] >= 3, 5.0, f"uneven {leads(cluster)}")
        assert max(leads(cluster).values()) >= 3

        await until(lambda: max(leads(cluster).values()) <= 2, 30.0, "even")
        for node in list(cluster.nodes.values()):
            node.kill()
        for node in list(cluster.nodes.values()):
            await node.start()
        await until(lambda: len(given(cluster)) == len(cluster.placement), 10.0, "led")
        await asyncio.sleep(20.0)

        counts = leads(cluster)
        for gid in cluster.placement:
            leader = cluster.leader(gid)
            assert leader is not None
            for voter in voters(cluster, gid):
                assert counts[str(leader.name)] - counts[voter] < 2, counts
        await clerk.put("key", "value")

    play(story, "even", nodes=3, groups=5)


def test_a_quiet_cluster_stays_as_it_is() -> None:
    """No leadership goes round and round."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        await asyncio.sleep(30.0)
        ids, counts = given(cluster), leads(cluster)
        calls = cluster.network.counts.calls

        await lasting(60.0, lambda: leads(cluster) == counts, "nobody hands anything on")

        assert given(cluster) == ids
        calls = cluster.network.counts.calls - calls
        assert calls <= 6 * 35 + 5 * 62, "one watch in two seconds, one beat a second a node"

    play(story, "quiet")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_it_comes_to_rest_and_nothing_is_lost(seed: int) -> None:
    """Nodes die for short and for long, links are cut, processes stand still, an operator changes
    members himself. Then all but one node are well: every group has three voters on living nodes,
    and no change of members is under way (L3, L5)."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        rng = Random(f"healing/{seed}")
        clients = Clients(cluster, seed)
        names = list(cluster.nodes)
        addresses = [node.address for node in cluster.nodes.values()]
        loop = asyncio.get_running_loop()
        ends = loop.time() + 60.0
        while loop.time() < ends:
            node = cluster.nodes[rng.choice(names)]
            match rng.choice(["die", "die", "cut off", "stand still", "operator"]):
                case "die":
                    node.crash()
                    await asyncio.sleep(rng.choice([1.0, GRACE, 2 * GRACE]))
                    if not node.alive:
                        await node.start()
                case "cut off":
                    cluster.network.isolate(node.address, rng.sample(addresses, 4))
                    await asyncio.sleep(rng.choice([1.0, GRACE, 2 * GRACE]))
                    cluster.network.heal()
                case "stand still":
                    node.pause()
                    await asyncio.sleep(rng.choice([1.0, GRACE]))
                    node.resume()
                case "operator":
                    gid = rng.choice(list(cluster.placement))
                    leader = cluster.leader(gid)
                    if leader is not None and leader.host is not None:
                        replica = leader.host.replicas[gid]
                        try:
                            replica.change_members(add=[(node.name, str(node.address))])
                        except (MembershipRefused, NotLeader):
                            continue
            await asyncio.sleep(rng.uniform(0.0, 4.0))
        gone = rng.choice(names)
        cluster.nodes[gone].crash()

        await until(
            lambda: whole_without(cluster, gone),
            GRACE + 60 * cluster.raft.election_seconds_max,
            f"whole without {gone}",
        )
        await clients.judged()
        assert clients.acknowledged > 200

    play(story, f"random/{seed}")


# Disks


def test_a_full_disk_gives_leaderships_to_disks_with_room() -> None:
    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        await clerk.put("key", "before")
        clients = Clients(cluster, "full")
        full = cluster.leader(GroupId(1))
        assert full is not None
        full.space = Space(free=4, total=100)

        await until(lambda: leads(cluster)[str(full.name)] == 0, 10.0, "it leads nothing")
        acknowledged = clients.acknowledged
        await asyncio.sleep(2.0)
        assert clients.acknowledged > acknowledged + 20, "clients write"
        await lasting(10.0, lambda: leads(cluster)[str(full.name)] == 0, "nor is it given any")
        full.space = None
        await clients.judged()

    play(story, "full", nodes=3, groups=2)


def test_where_all_disks_are_full_writes_are_refused_and_the_rest_goes_on() -> None:
    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        await clerk.put("key", "before")
        for node in cluster.nodes.values():
            node.space = Space(free=49, total=1000)
        await asyncio.sleep(2.0)

        began = asyncio.get_running_loop().time()
        with pytest.raises(DiskFull, match="free_percent_min"):
            await clerk.put("key", "after")
        assert asyncio.get_running_loop().time() - began < 5.0, "its deadline is 10 s"
        assert await clerk.get("key") == b"before"
        await clerk.delete("key")
        await lasting(5.0, lambda: len(given(cluster)) == 2, "groups are led")

        for node in cluster.nodes.values():
            node.space = Space(free=59, total=1000)
        await asyncio.sleep(2.0)
        with pytest.raises(DiskFull):
            await clerk.put("key", "a little more room is not enough")
        for node in cluster.nodes.values():
            node.space = Space(free=60, total=1000)
        await asyncio.sleep(2.0)
        await clerk.put("key", "lifted by itself")

    play(story, "all full", nodes=3, groups=1)


def test_a_slow_disk_gives_up_its_leaderships() -> None:
    """Every sync takes 1.5 E. Clients wait for a hand-over or two, and not for that disk."""

    async def story(cluster: SimCluster, clerk: Clerk, admin: ControllerClient) -> None:
        clients = Clients(cluster, "slow")
        await asyncio.sleep(2.0)
        slow = cluster.leader(GroupId(1))
        assert slow is not None
        slow.drive.sync_seconds = 1.5

        await until(
            lambda: cluster.leader(GroupId(1)) not in (None, slow), 8.0, "another one leads"
        )
        acknowledged = clients.acknowledged
        await lasting(15.0, lambda: cluster.leader(GroupId(1)) is not slow, "it is not given back")
        assert clients.acknowledged > acknowledged + 100
        quick = {node.node: node.quick for node in healer(cluster).report().nodes}
        assert quick == {name: int(name != slow.name) for name in cluster.nodes}
        slow.drive.sync_seconds = 0.0002
        await until(lambda: whole_without(cluster), 20.0, "it catches up")
        await clients.judged()

    play(story, "slow", nodes=3, groups=2)
