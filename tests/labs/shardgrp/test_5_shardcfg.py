"""Shard configurations of the 2025 lab: the official test, and the answers that the lab knows."""

import pytest

from labs.shardcfg import NSHARDS, BadGroups, ShardConfig, key2shard
from raft.types import GroupId

G1, G2, G3 = GroupId(1), GroupId(2), GroupId(3)


def names(gid: GroupId) -> list[str]:
    return [f"{gid}{letter}" for letter in "abc"]


def test_basic() -> None:
    """Groups come and go; every configuration on the way is as it should be."""
    config = ShardConfig()
    config.check([])

    assert config.join_balance({G1: ["x", "y", "z"]})
    config.check([G1])
    assert config.join_balance({G2: ["a", "b", "c"]})
    config.check([G1, G2])
    assert config.groups == {G1: ["x", "y", "z"], G2: ["a", "b", "c"]}

    assert config.leave_balance([G1])
    config.check([G2])
    assert config.leave_balance([G2])
    config.check([])
    assert config.num == 4


def test_placement_gives_the_answers_that_the_lab_knows() -> None:
    config = ShardConfig()
    seen = []
    for gid in map(GroupId, range(1, 6)):
        config.join_balance({gid: names(gid)})
        seen.append("".join(map(str, config.shards)))
    for gid in (G1, G3):
        config.leave_balance([gid])
        seen.append("".join(map(str, config.shards)))

    assert seen == [
        "111111111111", "222222111111", "332222331111", "434222334111", "434522334511",
        "434522334525", "424522454525",
    ]  # fmt: skip


def test_keys_fall_on_the_shards_that_the_lab_knows() -> None:
    assert [key2shard(b"k%d" % n) for n in range(12)] == [10, 9, 0, 11, 6, 5, 8, 7, 6, 5, 7, 8]
    assert [key2shard(key) for key in (b"k", b"x", b"a", b"1")] == [6, 3, 4, 4]
    shards = [key2shard(b"k%d" % n) for n in range(60)]
    assert [shards.count(s) for s in range(NSHARDS)] == [7, 3, 3, 3, 3, 8, 8, 5, 5, 4, 4, 7]


def test_a_change_that_cannot_be_made_changes_nothing() -> None:
    config = ShardConfig()
    config.join_balance({G1: names(G1)})
    before = config.copy()

    assert not config.join({G1: names(G3)})
    assert not config.leave([G2])
    for change in (lambda: config.join({}), lambda: config.leave([]),
                   lambda: config.join({G2: names(G1)})):  # fmt: skip
        with pytest.raises(BadGroups):
            change()

    assert config == before


def test_text_and_copy_hold_all_of_a_configuration() -> None:
    config = ShardConfig()
    config.join_balance({G1: names(G1), G2: names(G2)})

    copy, read = config.copy(), ShardConfig.from_string(str(config))
    assert copy == read == config

    copy.groups[G1].append("more")
    copy.shards[0] = G3
    assert copy != config
