"""Which shards a group would begin anew, if it were recovered from a survivor that was behind."""

import pytest

from shardctrler.types import NO_GROUP, ConfigNumber, ShardConfig
from shardkv.forgotten import Fates, Forgotten, explained, fates
from shardkv.phases import Phase
from shardkv.recovery import ShardStands, Stands
from tests.support.stores import S0, S1, A, B, C, History

SERVING, ABSENT, ARRIVING = Phase.SERVING, Phase.ABSENT, Phase.ARRIVING
MOVING, LEAVING, PARKED = Phase.MOVING, Phase.LEAVING, Phase.PARKED
N1, N2, N3, N4 = (ConfigNumber(number) for number in range(1, 5))


def stands(number: int, *shards: tuple[int, Phase, int, int, int]) -> Stands:
    """At configuration `number`; each shard: its phase, number, taken, peer."""
    return Stands("n1", A, b"u" * 16, number, tuple(ShardStands(*one) for one in shards))


def history(*owners: tuple[int, ...]) -> list[ShardConfig]:
    """From configuration 1 on; the first group to own a shard creates it."""
    made = History(len(owners[0]))
    for row in owners:
        made.then(*row)
    return made.configs[1:]


def told(survivor: Stands, configs: list[ShardConfig], **others: Stands | None) -> Fates:
    named = {"B": B, "C": C}
    missed = [config for config in configs if config.number > survivor.config_number]
    return fates(A, survivor, missed, {named[gid]: it for gid, it in others.items()})


def anew(survivor: Stands, configs: list[ShardConfig], **others: Stands | None) -> list[int]:
    found = told(survivor, configs, **others)
    assert not found.unsure
    return [one.shard for one in found.anew]


def test_a_survivor_that_missed_nothing_forgot_nothing() -> None:
    configs = history((A, B), (A, A))
    survivor = stands(2, (0, SERVING, 1, 1, 0), (1, SERVING, 2, 2, 0))

    found = told(survivor, configs, B=stands(2, (1, ABSENT, 2, 1, 0)))

    assert found == Fates("n1", 2, 2, (), ())
    assert explained(found) == []


def test_what_came_by_a_missed_configuration_begins_anew_once_its_source_has_dropped_it() -> None:
    configs = history((A, B), (A, A))
    survivor = stands(1, (0, SERVING, 1, 1, 0))

    assert anew(survivor, configs, B=stands(1, (1, SERVING, 1, 1, 0))) == []
    assert anew(survivor, configs, B=stands(2, (1, MOVING, 2, 1, A))) == []
    assert anew(survivor, configs, B=stands(2, (1, LEAVING, 2, 1, A))) == []
    assert anew(survivor, configs, B=stands(2, (1, ABSENT, 2, 1, 0))) == [1]


def test_what_was_on_its_way_when_the_survivor_was_cut_off_counts_too() -> None:
    configs = history((A, B), (A, A))
    survivor = stands(2, (0, SERVING, 1, 1, 0), (1, ARRIVING, 2, 0, B))

    assert anew(survivor, configs, B=stands(2, (1, LEAVING, 2, 1, A))) == []
    found = told(survivor, configs, B=stands(2, (1, ABSENT, 2, 1, 0)))
    assert found.anew == (Forgotten(S1, N2, B),)


def test_what_a_later_owner_took_over_is_not_lost() -> None:
    """To the group and on to another one, all while the survivor was cut off."""
    configs = history((A, B), (A, A), (A, C))
    survivor = stands(1, (0, SERVING, 1, 1, 0))
    gone = stands(3, (1, ABSENT, 2, 1, 0))

    assert anew(survivor, configs, B=gone, C=stands(3, (1, SERVING, 3, 3, 0))) == []
    assert anew(survivor, configs, B=gone, C=stands(3, (1, ARRIVING, 3, 0, A))) == [1]
    assert anew(survivor, configs, B=gone, C=stands(2)) == [1], "it would get what is empty"


def test_what_left_and_came_back_is_judged_by_its_last_coming() -> None:
    configs = history((A, B), (B, B), (A, B))
    survivor = stands(1, (0, SERVING, 1, 1, 0))

    assert anew(survivor, configs, B=stands(3, (0, LEAVING, 3, 2, A))) == []
    assert anew(survivor, configs, B=stands(3, (0, ABSENT, 3, 2, 0))) == [0]
    assert anew(survivor, configs, B=stands(2, (0, ARRIVING, 2, 0, A))) == [], "it never left"


def test_what_is_empty_goes_round_as_such() -> None:
    """It came from B, went on to C, who never got it, and shall come back from C."""
    configs = history((A, B), (A, A), (A, C), (A, A))
    survivor = stands(1, (0, SERVING, 1, 1, 0))
    gone = stands(4, (1, ABSENT, 2, 1, 0))

    assert anew(survivor, configs, B=gone, C=stands(2)) == [1]
    assert anew(survivor, configs, B=gone, C=stands(4, (1, LEAVING, 4, 3, A))) == []


def test_a_shard_that_was_parked_comes_from_where_it_lies() -> None:
    configs = history((A, B), (A, NO_GROUP), (A, A))
    survivor = stands(2, (0, SERVING, 1, 1, 0))

    assert anew(survivor, configs, B=stands(2, (1, PARKED, 2, 1, 0))) == []
    assert anew(survivor, configs, B=stands(3, (1, ABSENT, 3, 1, 0))) == [1]


def test_a_group_that_nobody_answers_for_leaves_it_open() -> None:
    configs = history((A, B), (A, A), (A, C))
    survivor = stands(1, (0, SERVING, 1, 1, 0))

    assert told(survivor, configs, B=None, C=stands(2)).unsure == ((Forgotten(S1, N2, B), B),)
    dropped = stands(3, (1, ABSENT, 2, 1, 0))
    assert told(survivor, configs, B=dropped, C=None).unsure == ((Forgotten(S1, N2, B), C),)
    in_ = stands(3, (1, SERVING, 3, 3, 0))
    assert anew(survivor, configs, B=None, C=in_) == [], "whoever has it says so"


def test_what_a_group_that_was_given_up_gave_is_gone() -> None:
    configs = history((A, B), (A, A))

    assert anew(stands(1, (0, SERVING, 1, 1, 0)), configs, C=stands(1)) == [1]


def test_the_words_name_each_shard_and_what_is_gone() -> None:
    found = Fates(
        "n2", 1, 4,
        (Forgotten(S0, N2, B), Forgotten(S1, N2, B)),
        ((Forgotten(S1, N3, C), C),),
    )  # fmt: skip

    assert explained(found) == [
        "n2 was left behind: its log ends in configuration 1, the newest is 4",
        "BEGIN ANEW, EMPTY: shards 0, 1, which had come from group 2 by configuration 2, in "
        "entries that nobody who is left has; group 2 has dropped them since: every acknowledged "
        "write to their keys is gone",
        "MAY BEGIN ANEW, EMPTY: shard 1, which had come from group 3 by configuration 3: group 3 "
        "has no leader to say who has them now. If it lost its majority too, recover it first",
    ]


@pytest.mark.parametrize("nshards", [1, 1024])
def test_every_shard_is_looked_at(nshards: int) -> None:
    configs = history((B,) * nshards, (A,) * nshards)
    dropped = stands(2, *[(shard, ABSENT, 2, 1, 0) for shard in range(nshards)])

    assert anew(stands(1), configs, B=dropped) == list(range(nshards))
