"""Whom a leader asks before it drops a shard that it gave away; it asks on until somebody says that
the shard is in, whatever becomes of those whom it asked first."""

import asyncio
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
    View,
)
from shardkv.commands import Freeze
from shardkv.copies import SETTLED, SettledReply, decode_settled, encode_settled_reply
from shardkv.feed import ConfigFeed
from shardkv.handover import Handover, RateLimit
from shardkv.holding import Holds
from shardkv.phases import Phase
from tests.support.stores import S0, A, B, C, Group, History, configure, group_info

N2 = ConfigNumber(2)
DEAD = None


class Giver:
    """Group A, led here: it has frozen shard 0, which belongs to B, and then to `later`.

    Args:
        answers: What each member of the other groups says when it is asked, `DEAD` if nothing.
    """

    def __init__(self, answers: dict[str, SettledReply | None], *later: GroupId) -> None:
        self.group = Group(A)
        history = History()
        for owner in (A, B, *later):
            history.then(owner, A, A, A)
        self.configs = history.configs
        for config in self.configs[1:3]:
            self.group.apply(configure(config))
        copy_id = self.group.machine.record(S0).copy_id
        self.group.apply(Freeze(S0, N2, copy_id))
        assert self.group.machine.record(S0).phase is Phase.LEAVING
        self.answers = answers
        self.asked: list[str] = []
        self.machine, self.gid = self.group.machine, A
        self.holds = Holds()
        self.rsm = self
        self.leads = True
        self.on_change: object = None

    @property
    def is_dropped(self) -> bool:
        return self.machine.record(S0).phase is Phase.ABSENT

    async def submit(self, command: bytes) -> object:
        return self.group.apply(command)

    # The controller

    async def newest(self) -> View:
        records = {
            GroupId(gid): GroupRecord(group_info(gid).uuid, 1, members)
            for gid in (A, B, C)
            if (members := self._members(gid))
        }
        return View(self.configs[-1], Directory(1, records))

    def _members(self, gid: int) -> tuple[GroupMember, ...]:
        """Those whose names begin with the group's number."""
        names = [name for name in self.answers if name.startswith(str(gid))]
        return tuple(GroupMember(NodeId(f"n-{name}"), name) for name in names)

    async def config(self, number: ConfigNumber) -> ShardConfig:
        return self.configs[number]

    async def watch(self, seen: View, *, seconds: float) -> View:
        await asyncio.sleep(seconds)
        return seen

    # The transport

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        assert method == SETTLED and decode_settled(body)[1:] == (S0, N2)
        self.asked.append(to)
        await asyncio.sleep(0.001)
        answer = self.answers[to]
        if answer is None:
            raise Unreachable("no connection")
        return encode_settled_reply(answer)

    async def live(self) -> None:
        """Lead until the shard is dropped, or for 10 s."""
        feed = ConfigFeed(self, Random(1))
        feed.start()
        handover = Handover(self, feed, self, Random(2), RateLimit())  # type: ignore[arg-type]
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if self.is_dropped:
                break
        await handover.close()
        await feed.close()


IN, NOT_IN = SettledReply(True, 3), SettledReply(False, 1)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param({"2a": NOT_IN, "2b": NOT_IN}, id="members that are behind and know no leader"),
        pytest.param({"2a": DEAD, "2b": DEAD}, id="members that are gone"),
        pytest.param(
            {"2a": NOT_IN._replace(leader="2b"), "2b": DEAD}, id="one that names a dead leader"
        ),
    ],
)
def test_each_member_of_the_next_owner_gets_its_turn(first: dict[str, SettledReply | None]) -> None:
    giver = Giver({**first, "2c": IN})

    run(giver.live())

    assert giver.is_dropped, giver.asked
    assert giver.asked[:2] == ["2a", "2b"], "in turn, or where the first one says"


def test_the_leader_that_is_named_is_asked_next() -> None:
    giver = Giver({"2a": NOT_IN._replace(leader="2c"), "2b": NOT_IN, "2c": IN})

    run(giver.live())

    assert giver.is_dropped and giver.asked == ["2a", "2c"]


def test_of_a_group_that_was_switched_off_the_next_owner_is_asked() -> None:
    """B had the shard, handed it on to C, and is no more: C says that it is in."""
    giver = Giver({"3a": IN}, C)

    run(giver.live())

    assert giver.is_dropped and giver.asked == ["3a"]


def test_nothing_is_dropped_that_nobody_has() -> None:
    giver = Giver({"2a": NOT_IN, "3a": NOT_IN}, C)

    run(giver.live())

    assert not giver.is_dropped
    assert {"2a", "3a"} == set(giver.asked)
