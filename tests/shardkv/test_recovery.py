"""What is left of a group, judged; and what becomes of the shards of one that is given up."""

from typing import Any

import pytest

from raft.types import GroupId
from shardctrler.types import ShardConfig
from shardkv.admin import ReplicaStatus, ShardStatus
from shardkv.recovering import losses
from shardkv.recovery import SUPERSEDED, Left, assess, explained
from tests.support.stores import History

THREE = ("n1", "n2", "n3")
FOUR = (*THREE, "n4")
FIVE = (*FOUR, "n5")


def left(node: str, last: tuple[int, int] = (2, 10), **changed: Any) -> Left:
    term, index = last
    one = Left(
        node, 7, 1, b"u" * 16, 1, term, index, term, index - 2, index - 3, 0, "", "", THREE, ()
    )
    return one._replace(**changed)


def test_the_longest_is_chosen_by_term_first() -> None:
    """Raft (extended), section 5.4.1: as a leader is."""
    found = assess(1, [left("n1", (2, 99)), left("n2", (3, 10))], ["n3"])

    assert found.choice is not None and found.choice.node == "n2"


SAFE = [
    pytest.param(THREE, (), ["n1"], False, id="one of three: the other two were a majority"),
    pytest.param(FOUR, (), ["n1", "n2"], True, id="two of four: no three are without them"),
    pytest.param(FIVE, (), ["n1", "n2"], False, id="two of five: the other three were one"),
    pytest.param(FOUR, THREE, ["n4"], False, id="one of a joint change"),
    pytest.param(FOUR, THREE, ["n1", "n2"], True, id="two in both halves of a joint change"),
]


@pytest.mark.parametrize(("voters", "outgoing", "nodes", "safe"), SAFE)
def test_nothing_is_gone_where_every_majority_has_a_survivor(
    voters: tuple[str, ...], outgoing: tuple[str, ...], nodes: list[str], safe: bool
) -> None:
    found = assess(1, [left(n, voters=voters, outgoing=outgoing) for n in nodes], [])

    assert found.safe is safe
    assert any("MAY BE GONE" in line for line in explained(found)) is not safe
    assert any("may be gone: nothing" in line for line in explained(found)) is safe


def test_a_majority_or_a_leader_that_lives_needs_no_recovery() -> None:
    assert assess(1, [left("n1"), left("n2")], []).alive
    assert assess(1, [left("n1", leads=1)], []).alive
    assert not assess(1, [left("n1"), left("n2", stopped="damaged")], []).alive
    assert not assess(1, [left("n1"), left("n2", stopped=SUPERSEDED)], []).alive
    assert not assess(1, [left("n1"), left("n2", boot=0)], []).alive
    half = ("n2", "n5", "n6")
    for voters, outgoing in ((THREE, half), (half, THREE)):
        both = [left(name, voters=voters, outgoing=outgoing) for name in ("n1", "n2")]
        assert not assess(1, both, []).alive, "a majority of one half of a joint change"


def test_a_directory_counts_and_is_never_chosen() -> None:
    found = assess(1, [left("n1", (2, 10)), left("n2", (2, 30), boot=0, commit=4)], ["n3"])

    assert found.choice is not None and found.choice.node == "n1"
    assert found.longer is not None and found.longer.node == "n2"
    assert not found.safe, "what n2 holds beyond is lost unless it is started"
    assert any("start that node first" in line for line in explained(found))


def test_one_that_was_silenced_for_another_may_be_chosen_after_all() -> None:
    """The node that was to be born again is lost too."""
    found = assess(1, [left("n2", stopped=SUPERSEDED)], [])

    assert found.choice is not None


def test_what_is_certain_kept_and_gone_is_said() -> None:
    lines = explained(assess(1, [left("n1", (2, 10), commit=8)], ["n2"]))

    assert lines == [
        "n1: replica 1 of 75757575, entry 10 of term 2, commit 8; runs",
        "n2: no answer, or nothing there",
        "n3: no answer, or nothing there",
        "certain: entries up to 8 were committed, and are kept",
        "kept: entries 9 to 10 of n1; they may never have been acknowledged, or have been refused",
        "MAY BE GONE: acknowledged writes in entries 11 to an end unknown: the lost replicas may "
        "have held them, and nobody who is left can tell",
        "versions: every write from then on gets one above all that were given before, so none "
        "that was read comes again for another value; but those of the kept entries may: read such "
        "keys again before you rely on one",
        "to go on from n1: shardkv ctl recover apply 1 --cluster ID",
    ]


def test_versions_are_spoken_of_where_there_are_any() -> None:
    certain = explained(assess(1, [left("n1", (2, 10), commit=10)], ["n2"]))
    controller = explained(assess(0, [left("n1", (2, 10))], ["n2"]))

    (line,) = [line for line in certain if line.startswith("versions: ")]
    assert line.endswith("comes again for another value"), "no entry is kept that may be another's"
    assert not any(line.startswith("versions") for line in controller)


def test_nothing_left_points_to_the_way_out() -> None:
    assert "shardkv ctl abandon 1" in explained(assess(1, [], ["n1"]))[-1]


# What becomes of shards

G1, G2, G3 = GroupId(1), GroupId(2), GroupId(3)


def history(*owners: tuple[int, ...]) -> list[ShardConfig]:
    """From configuration 1 on."""
    made = History(len(owners[0]))
    for row in owners:
        made.then(*row, groups=(G1, G2, G3))
    return made.configs[1:]


def holding(at: int, *shards: tuple[int, str, int]) -> ReplicaStatus:
    """A group's leader that stands at configuration `at`."""
    held = tuple(ShardStatus(shard, phase, other, "") for shard, phase, other in shards)
    return ReplicaStatus(
        0, b"", 1, "leader", "", 1, "n1", 1, 1, 1, 0, (), (), (), config_number=at, shards=held
    )


def test_what_the_group_owned_is_lost_and_what_it_was_to_get_is_kept() -> None:
    configs = history((1, 2, 2, 2), (1, 1, 1, 2))
    others = {
        G2: holding(2, (1, "leaving", 1), (2, "moving", 1), (3, "serving", 0)),
        G3: holding(2),
    }

    found = losses(G1, configs, others)

    assert found.kept == ((1, G2), (2, G2))
    assert found.stale == ((1, G2),), "it may have taken that one over, and been written"
    assert (found.owned, found.awaited) == ((0,), ())


def test_what_was_on_its_way_from_it_is_lost() -> None:
    configs = history((1, 1), (2, 3))

    others = {G2: holding(2, (0, "arriving", 1)), G3: holding(2, (1, "serving", 0))}
    found = losses(G1, configs, others)

    assert found.lost == (0,), "shard 1 has arrived"


def test_what_the_history_gave_on_cannot_be_kept() -> None:
    """2 to 1, then 1 to 3: group 2 still has it whole, and the history has it with 3."""
    configs = history((2,), (1,), (3,))

    found = losses(G1, configs, {G2: holding(2, (0, "leaving", 1)), G3: holding(3)})

    assert found.lost == (0,), "although group 3 does not await it yet"
    assert found.given_on == ((0, G2),), "save it first"


def test_a_group_that_has_yet_to_come_to_the_move_keeps_what_it_has() -> None:
    """It would give the shard to the lost group, and get it back from there."""
    configs = history((2, 2), (1, 1), (2, 1), (2, 1))

    found = losses(G1, configs, {G2: holding(1, (0, "serving", 0), (1, "serving", 0))})

    assert found.lost == ()
    assert found.kept == ((1, G2),)
    assert found.stale == ()


def test_a_shard_that_nobody_has_made_yet_is_not_lost() -> None:
    configs = history((2, 3))

    assert losses(G1, configs, {G2: holding(1, (0, "serving", 0)), G3: holding(0)}).lost == ()
