"""The 2025 lab's controller, which moves shards between groups, and the clerk of the store.

The controller is a library, and its state lies in a versioned key/value server (`kvsrv`), under

- `config/<n>`: configuration n, put once at version 0. So of all controllers that want to make a
  configuration n one wins, and the history never changes.
- `current`: the number of the newest configuration whose moves are over. Each publication raises it
  by one from the one before, at the version read with that: a late one changes nothing.

A configuration n above `current` is *posted*: its moves are to be done, by whoever comes to it.
They may be done twice, by two controllers at once (`labs.shardgrp`), and are published after the
last. A controller that is told that a group has gone past n was deposed, and stops. So there is no
lock and no lease: what a controller does is right whenever it comes.
"""

import asyncio
import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping
from random import Random
from typing import Final, Protocol

from labrpc.sim.labnet import LabEnd
from labrpc.transport import Address
from labs.kv import Err, Read
from labs.shardcfg import FIRST_NUMBER, ShardConfig, key2shard
from labs.shardctrler import uuid_of
from labs.shardgrp import Change, Deposed, GroupClerk
from labs.transport import LabTransport
from raft.types import GroupId, NodeId
from shardctrler.codec import decode_config, encode_config
from shardctrler.types import (
    NO_GROUP,
    Directory,
    GroupInfo,
    GroupMember,
    ShardId,
    View,
    first_config,
    successor,
)
from shardctrler.types import ShardConfig as GroupsConfig
from shardkv.clerk import TIMEOUT_SECONDS_MAX
from shardkv.clerk import Clerk as StoreClerk
from shardkv.errors import OutcomeUnknown, VersionMismatch

log = logging.getLogger(__name__)

CURRENT: Final = "current"


class VersionedStore(Protocol):
    """Where controllers keep their state: the clerk of a `kvsrv`."""

    async def get(self, key: str) -> Read: ...

    async def put(self, key: str, value: str, version: int) -> Err: ...


class ShardCtrler:
    """A controller. There may be many at once, and any may end at any time.

    Args:
        store: Holds the configurations.
        ends: To any server of any group, by its name.
    """

    def __init__(self, store: VersionedStore, ends: Mapping[Address, LabEnd]) -> None:
        self._store, self._ends = store, ends
        self._history: dict[int, GroupsConfig] = {}
        self._groups: dict[tuple[GroupMember, ...], GroupClerk] = {}

    async def init_config(self, config: ShardConfig) -> None:
        """Store the very first configuration. Its group is there already, and owns everything."""
        assert config.num == FIRST_NUMBER, config
        nobody = first_config(len(config.shards))
        first = successor(nobody, config.shards, _infos(config), {})
        await self._post(first)
        await self._publish(first)

    async def init_controller(self) -> None:
        """Finish what an earlier controller began. To be called before a new one is used."""
        current = await self.current()
        while (posted := await self._posted(current.number + 1)) is not None:
            await self._carry_out(Change(current, posted))
            current = await self.current()

    async def change_config_to(self, new: ShardConfig) -> None:
        """Move shards until each is where `new` says, then make it the current configuration.

        Nothing happens if another controller has made that configuration, or the one that it would
        follow is not current. Returns early if another controller carries on.
        """
        current = await self.current()
        if new.num != current.number + 1:
            return
        change = change_to(current, new)
        if await self._post(change.config):
            await self._carry_out(change)

    async def query(self) -> ShardConfig:
        """The current configuration."""
        current = await self.current()
        groups = {
            gid: [member.address for member in group.members]
            for gid, group in current.groups.items()
        }
        return ShardConfig(current.number, current.shards, groups)

    async def current(self) -> GroupsConfig:
        """The current configuration, as groups take it."""
        number = await self._store.get(CURRENT)
        assert number.err is Err.OK, "init_config comes first"
        config = await self._posted(int(number.value))
        assert config is not None, f"{number} is published and not posted"
        return config

    # Posting and publishing

    async def _posted(self, number: int) -> GroupsConfig | None:
        config = self._history.get(number)
        if config is None:
            found = await self._store.get(f"config/{number}")
            if found.err is Err.NO_KEY:
                return None
            config = self._history[number] = decode_config(b64decode(found.value))
        return config

    async def _post(self, config: GroupsConfig) -> bool:
        """Whether this very configuration is the one of its number."""
        text = b64encode(encode_config(config)).decode()
        err = await self._store.put(f"config/{config.number}", text, 0)
        if err is Err.MAYBE:
            return (await self._store.get(f"config/{config.number}")).value == text
        return err is Err.OK

    async def _publish(self, config: GroupsConfig) -> None:
        """Make it current if the one before is; it counts as done if somebody else has."""
        before = config.number - 1
        read = await self._store.get(CURRENT)
        if (int(read.value) if read.err is Err.OK else 0) == before:
            await self._store.put(CURRENT, str(config.number), read.version)

    # Moving

    async def _carry_out(self, change: Change) -> None:
        """Do the moves of a posted configuration, all at once, and publish it."""
        loop = asyncio.get_running_loop()
        moves = [
            loop.create_task(self._move(ShardId(shard), change))
            for shard, owner in enumerate(change.config.shards)
            if owner != change.before.shards[shard]
        ]
        try:
            await asyncio.gather(*moves)
        except Deposed as deposed:
            log.info("%s", deposed)
            for move in moves:
                move.cancel()
            await asyncio.gather(*moves, return_exceptions=True)
        else:
            await self._publish(change.config)

    async def _move(self, shard: ShardId, change: Change) -> None:
        """Hand a shard to its new owner from who had it last. Raises: Deposed."""
        source, target = change.config.previous[shard], change.config.shards[shard]
        if NO_GROUP in (source, target) or source == target:
            # Parked where it is, or taken from there again, or made: the group only has to know.
            await self._group(source or target, change).freeze(shard, change)
            return
        copy = await self._group(source, change).freeze(shard, change)
        if copy is not None:  # else an earlier controller has come further
            await self._group(target, change).install(shard, change, copy)
            await self._group(source, change).delete(shard, change)

    def _group(self, gid: GroupId, change: Change) -> GroupClerk:
        info = change.config.group(gid)
        assert info is not None, (gid, change)
        clerk = self._groups.get(info.members)
        if clerk is None:
            names = [member.address for member in info.members]
            clerk = self._groups[info.members] = GroupClerk(self._ends, names)
        return clerk


def change_to(current: GroupsConfig, new: ShardConfig) -> Change:
    """The step from the current configuration to the lab's next one, as groups take it."""
    groups = _infos(new)
    known = {**current.departed, **current.groups, **groups}
    return Change(current, successor(current, new.shards, groups, known))


def _infos(config: ShardConfig) -> dict[GroupId, GroupInfo]:
    return {
        gid: GroupInfo(uuid_of(gid), tuple(GroupMember(NodeId(name), name) for name in names))
        for gid, names in config.groups.items()
    }


class _CurrentOnly:
    """The controller as the production clerk asks it."""

    def __init__(self, ctrler: ShardCtrler) -> None:
        self._ctrler = ctrler

    async def newest(self) -> View:
        return View(await self._ctrler.current(), Directory())


class Clerk:
    """A client of the whole store: the production clerk, which asks until it knows.

    Args:
        ends: To any server of any group, by its name.
        ctrler: Knows which group has a shard.
    """

    def __init__(self, ends: Mapping[Address, LabEnd], ctrler: ShardCtrler, rng: Random) -> None:
        self._clerk = StoreClerk(
            LabTransport(ends),
            _CurrentOnly(ctrler),
            rng=rng,
            routing=key2shard,
            timeout=TIMEOUT_SECONDS_MAX,
        )

    async def get(self, key: str) -> Read:
        value, version = await self._clerk.get_row(key)
        if value is None:
            return Read("", 0, Err.NO_KEY)
        return Read(value.decode(), version, Err.OK)

    async def put(self, key: str, value: str, version: int) -> Err:
        """Write the key if `version` is its version, 0 for one that is absent.

        Never ErrMaybe because an answer was lost: the clerk's session, which moves with the shard,
        tells it what became of the put. Only a session that the shard forgot leaves it open.
        """
        try:
            await self._clerk.put(key, value, if_version=version)
        except VersionMismatch as mismatch:
            return Err.VERSION if mismatch.version else Err.NO_KEY
        except OutcomeUnknown:
            return Err.MAYBE
        return Err.OK

    async def close(self) -> None:
        """Give up what is under way."""
        await self._clerk.close()
