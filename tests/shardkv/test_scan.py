"""A list over all shards, against replicas that give as little as they like, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from labrpc.errors import Unreachable
from labrpc.sim.loop import run
from labrpc.transport import Address
from raft.types import GroupId, NodeId
from shardctrler.types import (
    ConfigNumber,
    Directory,
    GroupMember,
    GroupRecord,
    ShardConfig,
    ShardId,
    View,
)
from shardkv.consistency import reading
from shardkv.errors import TooStale, Unavailable
from shardkv.limits import PAGE_BYTES_MAX
from shardkv.listing import (
    Listed,
    ListFrame,
    ListReply,
    Part,
    decode_list,
    encode_list_reply,
)
from shardkv.lists import Lists
from shardkv.protocol import Status
from shardkv.reading import Refusal, Trouble
from shardkv.routing import SlotRouting
from shardkv.scan import Network, Pages, Scan, Way
from shardkv.types import Answer, Code, Version
from tests.support.stores import group_info

SHARDS = 12
GIDS = (GroupId(1), GroupId(2))
HOP = 0.001


class Store:
    """Two groups with half of the shards each; every member has all rows of its group.

    Attributes:
        rows_max: A page has no more.
        shards_max: Nor is it of more shards; of the others it has no room.
        refusals: What a member says instead.
        dead: Members that nobody reaches.
    """

    def __init__(self, rng: Random, count: int, value: bytes | None = None) -> None:
        self.rng = rng
        self.starts_max = SHARDS
        self.rows: dict[ShardId, list[Listed]] = {ShardId(s): [] for s in range(SHARDS)}
        self.all = [
            Listed(b"%06d" % key, Version(1), value)
            for key in sorted(rng.sample(range(10**6), count))
        ]
        for row in self.all:
            self.rows[ShardId(rng.randrange(SHARDS))].append(row)
        self.rows_max, self.shards_max = 1000, SHARDS
        self.refusals: dict[str, Refusal] = {}
        self.dead: set[str] = set()
        self.leader: Address | None = None
        self.asked: list[str] = []
        self.arriving: ShardId | None = None
        """On its way from the second group to the first, which has it by the configuration."""
        self.asked_for_it: list[GroupId] = []
        groups = {gid: group_info(gid) for gid in GIDS}
        shards = tuple(GIDS[shard % 2] for shard in range(SHARDS))
        records = {
            gid: GroupRecord(
                groups[gid].uuid,
                1,
                tuple(GroupMember(NodeId(f"{gid}{name}"), f"{gid}{name}") for name in "abc"),
            )
            for gid in GIDS
        }
        self.view = View(ShardConfig(ConfigNumber(1), shards, groups), Directory(1, records))

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        self.asked.append(to)
        await asyncio.sleep(HOP)
        if to in self.dead:
            raise Unreachable("no connection")
        return encode_list_reply(self._answer(to, decode_list(body)))

    def _answer(self, to: str, frame: ListFrame) -> ListReply:
        assert len(frame.starts) <= self.starts_max
        parts: list[Part | Answer | Refusal] = []
        found: list[tuple[Listed, int]] = []
        for at, start in enumerate(frame.starts):
            if start.shard == self.arriving:
                self.asked_for_it.append(frame.gid)
            if (
                start.shard == self.arriving
                and frame.gid == GIDS[0]
                and self.view.config.number < 2
            ):
                parts.append(Answer(Code.NOT_READY, (1, GIDS[1])))
            elif to in self.refusals:
                parts.append(self.refusals[to])
            elif at >= self.shards_max:
                parts.append(Refusal(Trouble.REPLY_FULL))
            else:
                parts.append(Part(1, False))
                rows = self.rows[start.shard]
                found += [(row, at) for row in rows if start.after is None or row.key > start.after]
        found.sort()
        most = min(frame.rows_max, self.rows_max)
        for _, at in found[most:]:
            parts[at] = Part(1, True)
        page = tuple(row for row, _ in found[:most])
        return ListReply(Status.ANSWERED, 1, 100, tuple(parts), page)

    async def _view(self, refresh: bool, stale: bool) -> View:
        return self.view

    @property
    def network(self) -> Network:
        def members(view: View, gid: GroupId) -> Sequence[Address]:
            return [Address(member.address) for member in view.directory.members(gid)]

        return Network(self, self.rng, self._view, members, lambda gid: self.leader)  # type: ignore[arg-type]

    def pages(
        self, consistency: str = "linearizable", max_age: float | None = None, timeout: float = 5.0
    ) -> Pages:
        return Pages(self.network, Way(b"", False, reading(consistency, max_age), None, timeout))

    async def list(self, pages: Pages, limit: int | None = None) -> list[Listed]:
        shards = [ShardId(shard) for shard in range(SHARDS)]
        return [row async for chunk in Scan(pages, shards, None, limit).chunks() for row in chunk]


def told(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    run(main())


@pytest.mark.parametrize("seed", range(10))
def test_each_row_comes_once_and_in_order_however_little_a_page_holds(seed: int) -> None:
    async def story() -> None:
        rng = Random(seed)
        store = Store(rng, rng.choice([0, 1, 30, 300]))
        store.rows_max, store.shards_max = rng.choice([1, 3, 40, 1000]), rng.choice([1, 3, SHARDS])
        limit = rng.choice([None, 1, 10, 1000])

        assert await store.list(store.pages(timeout=60.0), limit) == store.all[:limit]

    told(story)


def test_what_had_no_room_is_asked_for_at_once() -> None:
    async def story() -> None:
        store = Store(Random(1), 30)
        store.shards_max = 1
        began = asyncio.get_running_loop().time()

        await store.list(store.pages())

        assert asyncio.get_running_loop().time() - began < 2 * SHARDS * HOP

    told(story)


def test_spread_lists_go_round_the_members() -> None:
    async def story() -> None:
        store = Store(Random(2), 300)
        store.rows_max = 10
        await store.list(store.pages("spread"))
        assert len(set(store.asked)) == 6

    told(story)


def test_a_bound_that_nobody_keeps_is_told_with_the_youngest_age() -> None:
    async def story() -> None:
        store = Store(Random(3), 30)
        for member, age in zip("abc", (9000, 4000, 6000), strict=True):
            for gid in GIDS:
                store.refusals[f"{gid}{member}"] = Refusal(Trouble.TOO_OLD, age)
        began = asyncio.get_running_loop().time()
        with pytest.raises(TooStale, match="4"):
            await store.list(store.pages("stale", 1.0, timeout=3.0))
        assert asyncio.get_running_loop().time() - began <= 3.0, "no pause goes on beyond it"

    told(story)


def test_after_a_leader_that_is_gone_the_next_member_is_asked() -> None:
    async def story() -> None:
        store = Store(Random(4), 30)
        store.leader, store.dead = Address("1b"), {"1b", "2b"}
        assert await store.list(store.pages()) == store.all
        of_the_first = [member for member in store.asked if member != "1b"]
        assert store.asked.count("1b") <= 2 and "1c" in of_the_first

    told(story)


def test_without_anybody_a_list_ends_in_its_time() -> None:
    async def story() -> None:
        store = Store(Random(5), 30)
        store.dead = {f"{gid}{name}" for gid in GIDS for name in "abc"}
        with pytest.raises(Unavailable, match="can go on after its last key"):
            await store.list(store.pages(timeout=1.0))

    told(story)


def test_a_question_is_of_no_more_shards_than_a_frame_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shardkv.scan.FRAME_OPERATIONS_MAX", 2)

    async def story() -> None:
        store = Store(Random(6), 100)
        store.starts_max = 2
        assert await store.list(store.pages()) == store.all

    told(story)


def test_a_page_for_a_client_ends_where_its_bytes_do() -> None:
    async def story() -> None:
        store = Store(Random(7), 10, bytes(PAGE_BYTES_MAX // 3))
        lists = Lists(store.network, SlotRouting(SHARDS), 5.0)
        page = await lists.page(
            b"", after=None, token=None, limit=100, values=True, consistency="linearizable",
            max_age=None, session=None, timeout=None,
        )  # fmt: skip
        assert list(page.rows) == store.all[:2] and page.token is not None

    told(story)


def test_a_newer_configuration_ends_every_detour() -> None:
    async def story() -> None:
        store = Store(Random(8), 200)
        store.rows_max, store.arriving = 5, ShardId(0)
        pages, found = store.pages(), list[Listed]()
        async for chunk in Scan(pages, list(store.rows), None, None).chunks():
            found += chunk
            if store.view.config.number == 1:
                assert store.asked_for_it == [GIDS[0], GIDS[1]], "its source has it"
                newer = replace(store.view.config, number=ConfigNumber(2))
                store.view = View(newer, store.view.directory)
        assert found == store.all
        assert len(store.asked_for_it) > 2 and set(store.asked_for_it[2:]) == {GIDS[0]}

    told(story)
