"""A group loses its majority, or all of itself, and operators go on from what is left: with every
invariant watched, and what is lost held against what the plan said."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from labrpc.sim.loop import Unhandled
from labs.bereft import BereftConfig, play
from labs.observer import InvariantBroken
from raft.types import GroupId
from shardkv import giving_up, handover
from shardkv.commands import Abandoned
from shardkv.forgotten import Fates
from shardkv.held import HeldShard
from shardkv.recovering import Recoverer

FROM_A_SURVIVOR = BereftConfig(whole=False)
NOTHING_LEFT = BereftConfig(whole=True)
SEEDS = range(1, 26)
"""As many as a test may need, until one does what it waits for."""
PROBES = (
    "acknowledged write lost with a majority",
    "shard begun anew, as the plan said",
    "survivor was configurations behind",
    "recovery died half-way",
    "hand-over of a recovered group begun anew",
    "group went on from a survivor",
)


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_group_goes_on_from_what_is_left_of_it(seed: int) -> None:
    play(f"survivor/{seed}", FROM_A_SURVIVOR)


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_group_of_which_nothing_is_left_is_given_up(seed: int) -> None:
    play(f"given up/{seed}", NOTHING_LEFT)


def test_the_runs_visit_what_they_are_about() -> None:
    visited: Counter[str] = Counter()
    for seed in SEEDS:
        if all(visited[probe] for probe in PROBES):
            return
        visited += play(seed, FROM_A_SURVIVOR).probes
    raise AssertionError(f"never visited: {[probe for probe in PROBES if not visited[probe]]}")


def test_the_same_seed_tells_the_same_story() -> None:
    assert play("again").story_hash == play("again").story_hash


def broken_by(config: BereftConfig, seeds: range = SEEDS) -> str:
    """The first invariant that one of the seeds breaks."""
    for seed in seeds:
        try:
            play(seed, config)
        except (Unhandled, InvariantBroken) as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, InvariantBroken):
                cause = cause.__cause__
            assert isinstance(cause, InvariantBroken), error
            return cause.invariant
    return ""


def test_a_plan_that_forgets_what_begins_anew_breaks_c8(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten = Recoverer.forgotten

    async def broken(self: Recoverer, *asked: Any) -> Fates | None:
        fates = await forgotten(self, *asked)
        return None if fates is None else fates._replace(anew=())

    monkeypatch.setattr(Recoverer, "forgotten", broken)

    assert broken_by(FROM_A_SURVIVOR) == "C8"


def test_a_shard_that_begins_anew_beside_its_owner_breaks_s1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody further back is asked: a group that has left serves on, for it is far behind."""
    due = giving_up.what_to_propose

    async def broken(
        gid: GroupId, number: Any, unsettled: Any, feed: Any,
        stands_at: Callable[[GroupId], Awaitable[int]],
    ) -> Abandoned | None:  # fmt: skip
        async def far(_: GroupId) -> int:
            return 2**31

        return await due(gid, number, unsettled, feed, far)

    monkeypatch.setattr(handover, "what_to_propose", broken)

    assert broken_by(NOTHING_LEFT, range(14, 40)) == "S1"


def test_a_recovered_group_that_gives_versions_again_breaks_c11(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    know = HeldShard.know_highest

    def broken(self: HeldShard, version: int) -> None:
        know(self, version)
        self.epoch_begins = 0

    monkeypatch.setattr(HeldShard, "know_highest", broken)

    assert broken_by(FROM_A_SURVIVOR, range(7, 12)) == "C11"
