"""A node's part in a recovery, where the controller is slow to answer."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from labrpc.errors import Refused
from labrpc.sim.loop import run
from raft.host import Host
from raft.types import GroupId, GroupUuid
from shardctrler.errors import Unavailable
from shardctrler.types import Directory, GroupMember, GroupRecord, View, first_config
from shardkv import admin
from shardkv.recovery import REBIRTH, RETIRE, SUPERSEDED, Rebirth, Retire
from shardkv.recovery_service import RecoveryService

G1, BOOT = GroupId(1), 7
OLD, NEW = GroupUuid(b"o" * 16), GroupUuid(b"n" * 16)
DECIDED = View(
    first_config(4),
    Directory(2, {G1: GroupRecord(NEW, 0, (GroupMember("n1", "n1:1"),))}),  # type: ignore[arg-type]
)
COMMANDS = [
    pytest.param(RETIRE, Retire(1, BOOT, OLD, 2), id="delete what it holds"),
    pytest.param(REBIRTH, Rebirth(1, BOOT, OLD, 2, 9, 1, NEW), id="be born again"),
]


class Held:
    """A replica, as far as a recovery looks at it."""

    def __init__(self, uuid: GroupUuid, id: int) -> None:
        self.gid, self.id = G1, id
        self.record = SimpleNamespace(uuid=uuid)
        self.core = SimpleNamespace(leader=0, log=SimpleNamespace(last=(9, 1)))
        self.leads = self.installing = False
        self.stopped_because: str | None = None

    def stop(self, because: str) -> None:
        self.stopped_because = because


class World:
    """One node; the controller answers after a second, from the time on that it answers at all."""

    def __init__(self, answers_from: float = 0.0) -> None:
        self.host = SimpleNamespace(node="n1", replicas={G1: Held(OLD, 2)})
        self.feed = SimpleNamespace(view=None, listen=self._listen)
        self.done: list[str] = []
        self.news: Callable[[], None] = lambda: None
        self._handlers: dict[str, Callable[[bytes], Any]] = {}
        self._answers_from = answers_from
        self.service = RecoveryService(
            cast(Host, self.host), cast(Any, self), cast(Any, self), cast(Any, self.feed), BOOT
        )
        self.service.serve(cast(Any, self))

    def serve(self, method: str, handler: Callable[[bytes], Any]) -> None:
        self._handlers[method] = handler

    def _listen(self, listener: Callable[[], None]) -> None:
        self.news = listener

    async def newest(self, *, timeout: float) -> View:
        await asyncio.sleep(1.0)
        if asyncio.get_running_loop().time() < self._answers_from:
            raise Unavailable("nobody leads")
        return DECIDED

    async def retire(self, gid: GroupId) -> None:
        self.done.append(f"retired {self.host.replicas.pop(gid).id}")

    async def rebirth(self, gid: GroupId, uuid: GroupUuid) -> None:
        self.done.append(f"reborn {self.host.replicas[gid].id}")
        self.host.replicas[gid] = Held(uuid, 1003)

    async def told(self, method: str, command: tuple[object, ...]) -> bytes:
        answer: bytes = await self._handlers[method](admin.encode(command))
        return answer


@pytest.mark.parametrize(("method", "command"), COMMANDS)
def test_only_the_replica_that_was_meant_is_touched(
    method: str, command: tuple[object, ...]
) -> None:
    """While the controller is asked, the replica may go and another of the group come."""

    async def main() -> None:
        world = World()
        asked = asyncio.ensure_future(world.told(method, command))
        await asyncio.sleep(0.5)
        newcomer = world.host.replicas[G1] = Held(NEW, 5)

        with pytest.raises(Refused) as refused:
            await asked

        assert refused.value.code == "ABORTED"
        assert (world.done, newcomer.stopped_because) == ([], None)

        world = World()
        await world.told(method, command)
        assert world.done == ["retired 2" if method == RETIRE else "reborn 2"]

    run(main())


def test_the_controller_is_asked_until_it_says_whether_a_replica_is_superseded() -> None:
    """There may be no more news for a long time."""

    async def main() -> None:
        world = World(answers_from=20.0)
        world.feed.view = DECIDED
        world.news()
        await asyncio.sleep(10.0)
        assert world.host.replicas[G1].stopped_because is None

        await asyncio.sleep(20.0)

        assert world.host.replicas[G1].stopped_because == SUPERSEDED
        await world.service.close()

    run(main())
