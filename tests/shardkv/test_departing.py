"""Whoever lets go of removed replicas lets go of no other."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from labrpc.sim.loop import run
from raft.host import Host
from raft.types import NOBODY, GroupId
from shardctrler.types import NodeAddresses
from shardkv import admin
from shardkv.admin import AskStanding, Standing
from shardkv.departing import ALONE_SECONDS, ASK_SECONDS, Departing

G1 = GroupId(1)
OTHERS_ANSWER_AFTER = ASK_SECONDS / 2


def replica(id: int) -> Any:
    core = SimpleNamespace(removed=False, leader=NOBODY)
    record = SimpleNamespace(uuid=b"u" * 16)
    return SimpleNamespace(id=id, core=core, record=record, stopped_because=None)


class Others:
    """Nodes that say of replica 2 that it was removed, some time after they were asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def call(self, to: str, method: str, body: bytes, *, timeout: float) -> bytes:
        question = admin.decode(AskStanding, body)
        self.asked.append(question.replica)
        await asyncio.sleep(OTHERS_ANSWER_AFTER)
        return admin.encode(Standing("removed" if question.replica == 2 else "member"))


def test_a_replica_that_came_while_its_predecessor_was_asked_about_stays() -> None:
    """A node may make room for a new replica of a group in the very second in which the others say
    of the old one that it was removed. What is deleted is that one, and not whoever is there."""

    async def story(exchanged: bool) -> list[GroupId]:
        host = SimpleNamespace(node="n1", replicas={G1: replica(2)})
        nodes = {"n2": NodeAddresses("n2:1", "n2:2")}
        feed = SimpleNamespace(view=SimpleNamespace(directory=SimpleNamespace(nodes=nodes)))
        others, retired = Others(), list[GroupId]()

        async def retire(gid: GroupId) -> None:
            retired.append(gid)
            del host.replicas[gid]

        departing = Departing(cast(Host, host), cast(Any, feed), cast(Any, others), retire)
        departing.start()
        while not others.asked:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.1)
        if exchanged:
            host.replicas[G1] = replica(7)
        await asyncio.sleep(ALONE_SECONDS * 3)
        await departing.close()
        assert others.asked[0] == 2
        return retired

    assert run(story(exchanged=False)) == [G1]
    assert run(story(exchanged=True)) == []
