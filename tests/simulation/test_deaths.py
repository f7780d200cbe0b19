"""Clusters that mend themselves, under every other kind of fault: runs with the fault `death`."""

from dataclasses import replace

import pytest

from labs.scenario import Played, ScenarioConfig, play
from shardkv.planner import HealPolicy, _Planner

DEATHS = ScenarioConfig(seconds=30.0, also=("death",))


@pytest.mark.parametrize("seed", range(1, 9))
def test_whatever_else_goes_wrong_the_cluster_is_whole_again(seed: int) -> None:
    play(f"deaths/{seed}", DEATHS)


def test_replicas_are_made_anew_while_shards_move_and_the_controller_fails_over() -> None:
    """And taken back, and crossed by what administrators do: the runs above visit these."""
    config = replace(DEATHS, topology="T1", faults=("changes", "members", "controller"))
    visited: dict[str, int] = {}
    for seed in range(4):
        outcome, _ = play(f"deaths/crossed/{seed}", config)
        for probe, count in outcome.probes.items():
            visited[probe] = visited.get(probe, 0) + count

    for probe in (
        "node died with its disk",
        "stranger came under a dead node's name",
        "healing made a replica anew",
        "replica moved by an operator of a cluster that heals",
        "operator's command died half-way",
        "controller's leader changed during a change",
        "shard written while it moved",
    ):
        assert visited.get(probe), f"{probe}: never visited"


def test_the_same_seed_tells_the_same_story() -> None:
    stories = [play("deaths/again", DEATHS)[0].story_hash for _ in range(2)]

    assert stories[0] == stories[1]


def test_a_healer_that_sees_to_the_first_of_the_dead_alone_breaks_l13(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seed 74: one was dead, and had nowhere to go while all nodes held the group; the other had
    come back without its disk, and needed no more than its own place."""
    replace_ = _Planner._replace

    def broken(self: _Planner, group: object) -> object:
        lost = [m.replica for m in group.voters if self._is_lost(group, m)]  # type: ignore[attr-defined]
        step = replace_(self, group)  # type: ignore[arg-type]
        return step if step is None or step.replica == lost[0] else None

    monkeypatch.setattr(_Planner, "_replace", broken)

    faults = (
        "duplication", "reordering", "partial", "crash", "kill", "power-cut", "crash-loop", "pause",
        "pause-all", "slow-disk", "full", "clients", "members", "controller", "migration-crash",
        "lonely", "transfer-cut", "overload",
    )  # fmt: skip
    with pytest.raises(Played, match="every group whole") as failed:
        play(74, replace(DEATHS, faults=faults))

    assert failed.value.invariant == "L13"


def test_nodes_that_die_while_nobody_heals_break_l13(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labs.scenario.POLICY", HealPolicy(heal=False))
    config = replace(DEATHS, topology="T1", faults=("crash",))

    with pytest.raises(Played, match="every group whole") as failed:
        play("deaths/0", config)

    assert failed.value.invariant == "L13"
