"""The faults do what they say, and no more: damage within the atlas, drift, topologies, points."""

import asyncio
from random import Random

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import VirtualLoop, run
from labs.cluster import LOG, SimCluster
from labs.knobs import Knobs
from labs.nemesis import (
    COSTLY_FAULTS,
    FAULTS,
    NAMED_FAULTS,
    NOT_STRUCK,
    RARE_FAULTS,
    Nemesis,
)
from labs.points import Points
from labs.scenario import ScenarioConfig, drawn_faults, play
from labs.strikes.arena import Arena
from labs.strikes.atlas import Atlas
from labs.strikes.disks import DAMAGES, DiskStrikes
from labs.swaps import swaps
from labs.topology import WEIGHTS, drawn, topology
from raft.disk.log_store import LogStore
from raft.host import CompactionConfig
from shardctrler import machine
from shardctrler.types import ShardId
from tests.support.stores import A, B


def arena(cluster: SimCluster) -> Arena:
    return Arena(cluster, Random(1), election_seconds=1.0, acknowledged=lambda: 0)


def test_every_kind_is_carried_out_by_somebody() -> None:
    async def main() -> set[str]:
        cluster = SimCluster(Chance("kinds"), groups=1)
        nemesis = Nemesis(
            cluster, list(FAULTS), Random(1),
            pause_max=1.0, election_seconds=1.0, acknowledged=lambda: 0,
        )  # fmt: skip
        return set(nemesis._strikes)

    assert run(main()) | NOT_STRUCK == {*FAULTS, *RARE_FAULTS, *COSTLY_FAULTS, *NAMED_FAULTS}


def test_the_swarm_draws_every_kind_and_the_rare_ones_seldom() -> None:
    drawn_so = [drawn_faults(seed) for seed in range(300)]

    assert {kind for kinds in drawn_so for kind in kinds} == {
        *FAULTS, *RARE_FAULTS, *COSTLY_FAULTS
    }  # fmt: skip
    assert 0 < sum("ruin" in kinds for kinds in drawn_so) < 20


def test_the_atlas_spares_a_majority_of_every_group() -> None:
    async def main() -> list[bool]:
        cluster = SimCluster(Chance("atlas"), groups=1)
        await cluster.start()
        atlas = Atlas(cluster)
        first, second, third = (cluster.nodes[name] for name in cluster.placement[cluster.gids[0]])
        allowed = [atlas.may_lose(first)]
        first.condemned = True
        first.crash()
        allowed += [atlas.may_lose(second), atlas.may_lose(third)]
        outside = next(n for n in cluster.nodes if n not in cluster.placement[cluster.gids[0]])
        allowed.append(atlas.may_lose(cluster.nodes[outside]))
        return allowed

    assert run(main()) == [True, False, False, True]


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_node_refuses_or_is_as_it_was(what: str) -> None:
    """And the group serves, and takes in the node that comes for it."""

    async def main() -> tuple[bool, str]:
        cluster = SimCluster(Chance(f"damage/{what}"), groups=1)
        await cluster.start()
        gid = cluster.gids[0]
        clerk, admin = cluster.client()
        await admin.join([cluster.joining(gid)])
        for number in range(20):
            await clerk.put(f"key {number}", "value")
        node = cluster.nodes[cluster.placement[gid][-1]]
        before = node.drive.image()
        await asyncio.sleep(1.0)
        await clerk.put("key", "value")
        await asyncio.sleep(1.0)
        node.condemned = True
        node.crash()
        harmed = DiskStrikes(arena(cluster))._harm(node, what, before)
        if what.startswith("data"):
            for watcher in cluster.watchers.values():
                watcher.data_lost(node.name, node.drive.durable("data"))
        await node.start()
        await clerk.put("key", "after")
        await clerk.close()
        await admin.close()
        cluster.observer.finish()
        return harmed, node.refused

    harmed, refused = run(main())

    repaired = what in ("promise flipped", "data rolled back", "data wiped", "data row unreadable")
    assert bool(refused) or repaired or not harmed
    if what.startswith(("log", "promises")) and harmed:
        assert refused, "what it had promised is gone"


def test_a_log_that_is_put_back_unnoticed_breaks_r18(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator does not depend on the product's own check of the promise."""

    async def main() -> list[str]:
        cluster = SimCluster(Chance("rolled back"), groups=1)
        cluster.may_be_ruined = True
        await cluster.start()
        gid = cluster.gids[0]
        clerk, admin = cluster.client()
        await admin.join([cluster.joining(gid)])
        node = cluster.nodes[cluster.placement[gid][-1]]
        before = node.drive.image()
        await clerk.put("key", "value")
        await asyncio.sleep(1.0)
        node.crash()
        node.drive.restore(before)  # the promise too: nothing on the disk says that it is old
        await node.start()
        await clerk.close()
        await admin.close()
        return [error.invariant for error in cluster.observer.broken]

    with pytest.raises(Exception, match=r"R18: group \d: n\d starts with"):
        run(main())


@pytest.mark.parametrize("seed", [1, 5])
def test_damage_beyond_the_atlas_ends_in_refusals_and_no_wrong_answer(seed: int) -> None:
    """Seed 5 loses every node."""
    config = ScenarioConfig(topology="T1", faults=("ruin", "crash", "changes"))
    outcome, history = play(seed, config)

    assert any(probe.startswith("damage refused") for probe in outcome.probes)
    assert any(operation.happened is False for operation in history.operations)


def test_clocks_differ_by_a_tenth_at_most() -> None:
    rates: list[dict[str, float]] = []
    original = VirtualLoop.skew

    def skew(loop: VirtualLoop, given: dict[str, float]) -> None:
        rates.append(given)
        original(loop, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VirtualLoop, "skew", skew)
        play("drift", ScenarioConfig(seconds=2.0, topology="T1", faults=("drift",)))

    (found,) = rates
    assert len(found) == 6
    assert all(0.9 <= rate <= 1.1 for rate in found.values())
    assert max(found.values()) - min(found.values()) > 0.02


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_topology_is_what_its_name_says_and_is_played(name: str) -> None:
    drawn_so = [topology(name, Random(seed)) for seed in range(20)]
    most = {"T0": 5, "T1": 6, "T2": 8, "T3": 9, "T4": 1}

    assert max(one.nodes for one in drawn_so) == most[name]
    outcome, _ = play(f"topology {name}", ScenarioConfig(seconds=1.0, topology=name))

    assert outcome.topology == name
    assert outcome.acknowledged > 0


def test_seeds_draw_every_topology() -> None:
    assert {drawn(Random(seed)) for seed in range(100)} == set(WEIGHTS)


def test_points_are_put_in_for_the_run_and_taken_out_again() -> None:
    before = LogStore.save
    outcome, _ = play("points", ScenarioConfig(seconds=4.0, topology="T1", faults=("points",)))

    assert any(probe.startswith("point: ") for probe in outcome.probes)
    assert LogStore.save is before

    async def main() -> tuple[set[str], list[object], list[object]]:
        cluster = SimCluster(Chance("points"), groups=1)
        every = [Points(cluster, Random(seed)) for seed in range(20)]
        active = {name for points in every for name in points.active}
        places = [(place, name) for place, name, _ in every[0]._made.values()]
        usual: list[object] = [getattr(place, name) for place, name in places]
        with every[0].put_in():
            pass
        return active, usual, [getattr(place, name) for place, name in places]

    active, usual, after = run(main())
    assert len(active) > 15, "each is active in some seed"
    assert usual == after


def test_a_log_row_that_reads_wrong_is_a_damage_that_the_store_names() -> None:
    async def main() -> str:
        cluster = SimCluster(Chance("flip"), groups=1)
        await cluster.start()
        node = cluster.nodes[cluster.placement[cluster.gids[0]][0]]
        node.condemned = True
        node.crash()
        key = next(key for key in sorted(node.drive.durable(LOG)) if key[:1] == b"e")
        node.drive.flip_bit(LOG, key)
        await node.start()
        return node.refused

    assert "entry" in run(main())


SHORT_LOGS = Knobs(compaction=CompactionConfig(log_entries_max=5, keep_entries=0))


@pytest.mark.parametrize(
    ("faults", "probe"),
    [
        (("unheard",), "duplicate answered after a restart or snapshot"),
        (("transfer-cut",), "transfer crossed by an election"),
        (("torn",), "half-written promise left by a power cut"),
        (("full", "isolate"), "disk full at a snapshot"),
        (("full",), "disk full at a vote or term"),
        (("second-candidate",), "vote after restart in same term refused"),
        (("newer-snapshot",), "snapshot interrupted by a newer one"),
        (("swaps", "changes"), "mutual moves"),
        ((), "named write answered from the table"),
    ],
)
def test_what_a_strike_aims_at_is_reached(faults: tuple[str, ...], probe: str) -> None:
    """In one of a few runs that have hardly anything else."""
    config = ScenarioConfig(seconds=9.0, topology="T1", faults=faults, knobs=SHORT_LOGS)

    assert any(play(f"aims/{seed}", config)[0].probes[probe] for seed in range(5))


def test_a_run_begins_with_one_of_its_stories_and_with_nothing_beside_it() -> None:
    lines: list[str] = []
    config = ScenarioConfig(seconds=5.0, topology="T1", faults=("second-candidate", "crash"))
    play("opening", config, sink=lines.append)

    strikes = [line.split()[2:] for line in lines if line.split()[1:2] == ["nemesis"]]
    assert strikes[0] == ["second-candidate"]


def test_swaps_end_with_their_run() -> None:
    usual = vars(machine)["move"]
    with swaps():
        swapped = vars(machine)["move"]([A, A, B], ShardId(1), B)

    assert swapped == (A, B, A), "B gives its first one in return"
    assert vars(machine)["move"] is usual
    with swaps():
        assert vars(machine)["move"]([A, A], ShardId(1), B) == (A, B), "who has none gives none"


def test_timers_that_ring_together_split_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Points, "fires", lambda self, name: self.on and name == "timers ring together"
    )
    monkeypatch.setattr("labs.points.ACTIVE", 1.0)
    config = ScenarioConfig(seconds=6.0, topology="T1", faults=("points", "crash"))

    assert any(play(f"split/{seed}", config)[0].probes["split vote"] for seed in range(3))
