"""Configurations as a node learns them: one watch on the controller for all of its groups.

The watch is a long poll: the controller answers when there is news, or after a while. When it
fails the node asks with full jitter until it gets through again. A group that is asked about a
number it does not know calls `look`, and the question is put at once.
"""

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from labrpc.transport import Address
from raft.chores import begin_chore
from raft.types import GroupId, NodeId
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import ConfigNumber, ShardConfig, View
from shardkv.backoff import Backoff

log = logging.getLogger(__name__)

CONFIGS_MAX: Final = 256
"""Past configurations that are kept, so that a group which lags asks for each only once."""
WATCH_SECONDS: Final = 2.0
"""How long one watch is held. News whose answer was lost on the way comes with the next watch."""
_AT_ONCE_SECONDS: Final = 0.1


class Controller(Protocol):
    """The shard controller, as a client of it sees it. A `ShardCtrlerError` means "later"."""

    async def newest(self) -> View:
        """The newest configuration and where everybody is now, linearizably."""
        ...

    async def config(self, number: ConfigNumber) -> ShardConfig:
        """One configuration of the history."""
        ...

    async def watch(self, seen: View, *, seconds: float) -> View:
        """Something newer than `seen`, as soon as there is; after `seconds` what there is."""
        ...


class ConfigFeed:
    """What this node knows of configurations. `start` it; it asks until `close`."""

    def __init__(self, controller: Controller, rng: Random) -> None:
        self.view: View | None = None
        self._controller = controller
        self._backoff = Backoff(rng)
        self._configs: dict[ConfigNumber, ShardConfig] = {}
        self._listeners: list[Callable[[], None]] = []
        self._following: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def number(self) -> ConfigNumber:
        """Of the newest configuration known here; 0 before the first answer."""
        return ConfigNumber(0) if self.view is None else self.view.config.number

    def start(self) -> None:
        self._following = begin_chore(self._follow(), "this node follows no configurations")

    async def close(self) -> None:
        tasks = [task for task in (self._following, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at each news."""
        self._listeners.append(listener)

    def look(self) -> None:
        """Ask at once: somebody knows a configuration that this node does not."""
        if self._looking is None or self._looking.done():
            self._looking = begin_chore(self._look(), "the newest configuration was not asked for")

    async def config(self, number: ConfigNumber) -> ShardConfig | None:
        """One configuration of the history; None while the controller does not answer."""
        known = self._configs.get(number)
        if known is None:
            try:
                known = await self._controller.config(number)
            except ShardCtrlerError as error:
                log.debug("configuration %d: %s", number, error)
                return None
            assert known.number == number, (known.number, number)
            self._remember(known)
        return known

    def kept(self, number: ConfigNumber) -> ShardConfig | None:
        """One configuration of the history, if it is kept here: nobody is asked."""
        return self._configs.get(number)

    def members(self, gid: GroupId) -> tuple[Address, ...]:
        """Where a group's members take calls, as far as is known now; () if nothing is."""
        if self.view is None:
            return ()
        members = self.view.directory.members(gid)
        if not members and (group := self.view.config.group(gid)) is not None:
            members = group.members
        return tuple(Address(member.address) for member in members)

    def address(self, gid: GroupId, node: NodeId) -> str:
        """Where one member takes calls; "" if that is not known."""
        if self.view is None:
            return ""
        members = self.view.directory.members(gid)
        if not members and (group := self.view.config.group(gid)) is not None:
            members = group.members
        return next((member.address for member in members if member.node == node), "")

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            try:
                seen = self.view
                if seen is None:
                    view = await self._controller.newest()
                else:
                    view = await self._controller.watch(seen, seconds=WATCH_SECONDS)
            except ShardCtrlerError as error:  # ask again
                log.debug("the controller does not answer: %s", error)
                await asyncio.sleep(self._backoff.next())
            else:
                if self._adopt(view) or loop.time() - asked > _AT_ONCE_SECONDS:
                    self._backoff.reset()
                else:  # an overloaded controller does not hold watches: poll
                    await asyncio.sleep(self._backoff.next())

    async def _look(self) -> None:
        try:
            self._adopt(await self._controller.newest())
        except ShardCtrlerError as error:  # who asked will ask again
            log.debug("the controller does not answer: %s", error)

    def _adopt(self, view: View) -> bool:
        """Whether it is news."""
        before = self.view
        if before is not None and (
            view.config.number < before.config.number
            or view.directory.version < before.directory.version
            or view == before
        ):
            return False  # overtaken on its way, or known
        self.view = view
        self._remember(view.config)
        for listener in list(self._listeners):
            listener()
        return True

    def _remember(self, config: ShardConfig) -> None:
        self._configs[config.number] = config
        while len(self._configs) > CONFIGS_MAX:
            del self._configs[next(iter(self._configs))]
