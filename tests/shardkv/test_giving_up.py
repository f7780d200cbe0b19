"""When a shard that was to come from a lost group may begin anew: whom its next owner waits for."""

import asyncio
from collections.abc import Mapping

import pytest

from raft.types import GroupId
from shardctrler.types import (
    RETIRED,
    ConfigNumber,
    Directory,
    GroupRecord,
    ShardConfig,
    View,
)
from shardkv.commands import Abandoned
from shardkv.giving_up import what_to_propose
from shardkv.phases import Phase
from shardkv.rows import ShardRecord
from tests.support.stores import S0, A, B, C, History, group_info


class Feed:
    """The history of one shard, by its owners; the last configuration gives `lost` up."""

    def __init__(self, *owners: int, lost: tuple[GroupId, ...]) -> None:
        made = History(1)
        for owner in owners:
            made.then(owner, groups=(A, B, C))
        last = made.configs[-1]
        made.configs[-1] = ShardConfig(
            last.number, last.shards, last.groups, last.previous, abandoned=lost
        )
        self.configs = made.configs
        self.number = last.number
        records = {gid: GroupRecord(group_info(gid).uuid, 1, ()) for gid in (A, B, C)}
        records |= {gid: GroupRecord(RETIRED, 1, ()) for gid in lost}
        self.view = View(last, Directory(1, records))
        self.silent = False

    async def config(self, number: ConfigNumber) -> ShardConfig | None:
        return None if self.silent else self.configs[number]


def due(feed: Feed, number: int, stands: Mapping[GroupId, int]) -> Abandoned | None:
    """What C proposes, at configuration `number`, of the shard that was to come to it from B."""
    asked: list[GroupId] = []

    async def stands_at(gid: GroupId) -> int:
        asked.append(gid)
        return stands[gid]

    record = ShardRecord(Phase.ARRIVING, ConfigNumber(number), peer=B)
    proposed = asyncio.run(
        what_to_propose(C, ConfigNumber(number), [(S0, record)], feed, stands_at)  # type: ignore[arg-type]
    )
    assert asked == list(stands), "nobody else is asked"
    return proposed


@pytest.mark.parametrize(("stands", "begins"), [(1, False), (2, False), (3, True), (9, True)])
def test_the_owner_before_the_lost_one_must_have_come_as_far(stands: int, begins: bool) -> None:
    """It serves the shard until it takes configuration 2, by which the lost one should have it; and
    what it has settled by 3 it serves no more. Whether it takes part any more does not matter."""
    feed = Feed(A, B, C, C, lost=(B,))
    assert A not in feed.view.config.departed, "the newest configuration does not name it"

    assert (due(feed, 3, {A: stands}) is not None) is begins


def test_of_several_that_are_lost_the_last_one_that_is_not_is_asked() -> None:
    feed = Feed(A, B, C, B, C, C, lost=(B,))
    assert due(feed, 5, {}) is not None, "C itself had it before: it stands where it stands"

    two = Feed(C, A, B, C, C, lost=(A, B))
    assert due(two, 4, {}) is not None


def test_nobody_is_asked_about_a_shard_that_only_lost_groups_ever_had() -> None:
    assert due(Feed(B, C, C, lost=(B,)), 2, {}) is not None


def test_without_the_history_nothing_begins() -> None:
    feed = Feed(A, B, C, C, lost=(B,))
    feed.silent = True

    assert due(feed, 3, {}) is None
