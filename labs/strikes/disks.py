"""Faults of disks: slow, stalled, full, failing, torn; and damaged while nobody looks."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from labrpc.sim.disk import FLUSH_SECONDS, SYNC_SECONDS, DriveImage, Write
from labs.cluster import DATA, LOG, PROMISES, SimNode
from labs.strikes.arena import Arena, Strike
from labs.strikes.atlas import Atlas
from labs.strikes.elections import Elections
from raft.disk.data_store import PROGRESS, ROWS
from raft.disk.promise import decode_promise
from raft.disk.records import (
    BOOT_KEY,
    ENTRY,
    HARD_STATE,
    REPLICA,
    START,
    TAIL,
    WRITE_NUMBER_KEY,
    decode_number,
)
from raft.snapshot_stream import SnapshotChunk
from raft.types import GroupId

STALL_SECONDS: Final = (1.0, 30.0)
AT_A_SNAPSHOT: Final = 0.35
"""So many full disks are those of nodes that a snapshot comes to,"""
AT_A_VOTE: Final = 0.3
"""and so many those of nodes that are asked for a vote."""
SNAPSHOT_ROOM: Final = (150, 250, 400)
"""Bytes: for the record that a snapshot is being staged, and not for its rows."""
HALF_A_PROMISE: Final = "half a promise"
LOG_ROWS: Final = (ENTRY, HARD_STATE, REPLICA, START, TAIL)
DAMAGES: Final = (
    "log row flipped", "log wiped", "log rolled back",
    "data row unreadable", "data progress flipped", "data wiped", "data rolled back",
    "promise flipped", "promises flipped", "promises wiped",
)  # fmt: skip
"""What happens to a disk while its node is down. One flipped promise of two is repaired."""


class DiskStrikes:
    """See `strikes`."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self._rng, self._cluster = arena, arena.rng, arena.cluster
        self._atlas, self._elections = Atlas(arena.cluster), Elections(arena)
        self._traps: dict[str, tuple[str, int]] = {}
        for node in arena.cluster.nodes.values():
            node.drive.watch(self._watch(node))

    def strikes(self) -> dict[str, Strike]:
        """By kind."""
        return {
            "slow-disk": self._slow_disk,
            "stall": self._stall,
            "disk-fails": lambda: self._fails(lambda node: node.drive.fail_next()),
            "unreadable": lambda: self._fails(lambda node: node.drive.fail_next_read()),
            "full": self._full,
            "torn": self._torn,
            "damage": lambda: self._damage(spared=True),
            "ruin": lambda: self._damage(spared=False),
        }

    def openings(self) -> dict[str, Strike]:
        """Those that a run may begin with, by kind."""
        return {"full": self._full_at_a_vote}

    def heal(self) -> None:
        self._traps.clear()
        for node in self._cluster.nodes.values():
            node.drive.heal()
            node.drive.sync_seconds, node.drive.flush_seconds = SYNC_SECONDS, FLUSH_SECONDS

    async def _slow_disk(self) -> None:
        drive = self._arena.victim().drive
        drive.sync_seconds = self._rng.choice([0.005, 0.05, 0.3])
        drive.flush_seconds = self._rng.choice([0.001, 0.05, 0.5])
        await asyncio.sleep(self._arena.lasts())
        drive.sync_seconds, drive.flush_seconds = SYNC_SECONDS, FLUSH_SECONDS

    async def _stall(self) -> None:
        victim = self._arena.victim()
        if self._arena.leads_somewhere(victim):
            self._arena.probe("disk of a leader stalled")
        victim.drive.stall()
        await asyncio.sleep(self._rng.uniform(*STALL_SECONDS))
        victim.drive.heal()

    async def _fails(self, fail: Callable[[SimNode], None]) -> None:
        victim = self._arena.victim()
        lived, led = victim.alive, self._arena.leads_somewhere(victim)
        fail(victim)
        await asyncio.sleep(self._arena.lasts())
        victim.drive.heal()
        if lived and not victim.alive:
            self._arena.crashes += 1
            self._arena.probe(f"disk of a {'leader' if led else 'follower'} failed")
        await self._arena.up([victim])

    async def _full(self) -> None:
        """No room any more, where a snapshot comes, or a vote is asked for, or anywhere."""
        where = self._rng.random()
        if where < AT_A_SNAPSHOT:
            await self._stays_full(await self._awaits_a_snapshot())
        elif where < AT_A_SNAPSHOT + AT_A_VOTE:
            await self._full_at_a_vote()
        else:
            victim = self._arena.victim()
            victim.drive.room = 0
            await self._stays_full(victim)

    async def _full_at_a_vote(self) -> None:
        await self._stays_full(await self._is_asked_for_a_vote())

    async def _stays_full(self, victim: SimNode | None) -> None:
        """The process ends at the next write, and so does the next one at its start, until there is
        room again."""
        if victim is None:
            return
        await asyncio.sleep(self._arena.lasts())
        if not victim.alive:
            self._arena.crashes += 1
            self._arena.probe(f"disk full at {_what(*victim.drive.failed_on)}")
        await self._arena.up([victim])
        await asyncio.sleep(self._rng.uniform(0.0, 0.2))
        victim.drive.heal()
        await self._arena.up([victim])

    async def _is_asked_for_a_vote(self) -> SimNode | None:
        """A voter of a group whose leader hands over, its disk full from when the new one asks."""
        handing = self._elections.hand_over()
        if handing is None:
            return None
        victim = self._rng.choice([handing.leader, *handing.others])

        def is_full() -> None:
            victim.drive.room = 0

        asked = await self._elections.campaigns(handing.to, handing.gid, is_full)
        return victim if asked else None

    async def _awaits_a_snapshot(self) -> SimNode | None:
        """The node that the next snapshot is on its way to, its disk all but full; None: there was
        no snapshot for a while."""
        coming: asyncio.Future[SimNode] = asyncio.get_running_loop().create_future()
        room = self._rng.choice(SNAPSHOT_ROOM)
        watchers = self._cluster.watchers

        def comes(gid: GroupId, chunk: SnapshotChunk) -> None:
            for node in self._arena.nodes():
                replica = node.host.replicas.get(gid) if node.host is not None else None
                if replica is not None and replica.id == chunk.target and not coming.done():
                    node.drive.room = room
                    coming.set_result(node)

        for gid, watcher in watchers.items():
            watcher.probes.on_chunk = partial(comes, gid)
        try:
            async with asyncio.timeout(2 * self._arena.lasts()):
                return await coming
        except TimeoutError:
            return None
        finally:
            for watcher in watchers.values():
                watcher.probes.on_chunk = None

    async def _torn(self) -> None:
        """Cut the power the moment something has become durable, before it is acted on; or in the
        middle of the promise that a new term, a vote or a start makes."""
        victim = self._arena.victim()
        what = self._rng.choice([LOG, DATA, *PROMISES, *[HALF_A_PROMISE] * 3])
        self._traps[victim.name] = (what, self._rng.choice([1, 1, 2, 5]))
        await asyncio.sleep(self._arena.lasts())
        if what == HALF_A_PROMISE and victim.name in self._traps:
            self._traps[victim.name] = (what, 1)
            self._arena.end(victim)
            await self._arena.up([victim])
        self._traps.pop(victim.name, None)
        await self._arena.up([victim])

    def _watch(self, node: SimNode) -> Callable[[str, Any], None]:
        def watch(name: str, batch: list[Write]) -> None:
            trap = self._traps.get(node.name)
            if trap is None:
                return
            if trap[0] == HALF_A_PROMISE and name == LOG and _is_promised(batch):
                # The promise begins in this turn of the loop, and takes a sync.
                del self._traps[node.name]
                self._arena.crash_soon(node, node.drive.sync_seconds / 2)
            if trap[0] != name:
                return
            self._traps[node.name] = (name, trap[1] - 1)
            if trap[1] <= 1:
                del self._traps[node.name]
                self._arena.crash_soon(node)

        return watch

    # Damage

    async def _damage(self, *, spared: bool) -> None:
        """Harm what a node stores while it is down, and start it.

        It must refuse what it had promised to hold and lacks. Either way its machine is not
        trusted any more: it goes, and a new one comes under a name of its own.
        """
        arena = self._arena
        victim = self._rng.choice(arena.nodes())
        if spared and not self._atlas.may_lose(victim):
            return
        image = victim.drive.image()
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        if victim.condemned or (spared and not self._atlas.may_lose(victim)):
            return
        victim.condemned = spared
        arena.end(victim)
        what = self._rng.choice(DAMAGES)
        if not self._harm(victim, what, image):
            what = "nothing"
        self._cluster.observer.tell(f"{victim.name} is damaged: {what}")
        if what.startswith("data"):
            for watcher in self._cluster.watchers.values():
                watcher.data_lost(victim.name, victim.drive.durable(DATA))
        try:
            await victim.start()
            if victim.refused:
                arena.probe(f"damage refused: {what}")
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        finally:
            if spared:  # also when all is healed meanwhile: or nobody would ever come in its place
                arena.end(victim)
                await self._cluster.add_node()
        if not spared and not victim.alive:
            victim.condemned = len(arena.nodes()) > 1  # the last one is struck on, in vain

    def _harm(self, node: SimNode, what: str, before: DriveImage) -> bool:
        """Whether there was anything to harm."""
        drive, rng = node.drive, self._rng
        match what:
            case "log row flipped":
                rows = [key for key in sorted(drive.durable(LOG)) if key[:1] in LOG_ROWS]
                if rows:
                    drive.flip_bit(LOG, rng.choice(rows))
                return bool(rows)
            case "data row unreadable":
                rows = sorted(drive.durable(DATA))
                if rows:
                    drive.spoil(DATA, rng.choice(rows))
                return bool(rows)
            case "data progress flipped":
                rows = [key for key in sorted(drive.durable(DATA)) if key[:1] == PROGRESS]
                if rows:
                    drive.flip_bit(DATA, rng.choice(rows))
                return bool(rows)
            case "log wiped" | "data wiped":
                drive.wipe(LOG if what == "log wiped" else DATA)
            case "log rolled back":
                if not _noticed(node, before):
                    return False
                drive.roll_back(LOG, before)
            case "data rolled back":
                changed = drive.durable(DATA) != before.volumes.get(DATA, {})
                drive.roll_back(DATA, before)
                return changed
            case "promise flipped":
                return drive.flip_record(rng.choice(PROMISES))
            case "promises flipped":
                flipped = [drive.flip_record(name) for name in PROMISES]
                return all(flipped)
            case _:
                for name in PROMISES:
                    drive.wipe(name)
        return True


def _noticed(node: SimNode, before: DriveImage) -> bool:
    """Whether the promise names a write that an old log lacks. It follows the log within a moment
    (`FOLLOWS_SECONDS`); what is lost of that moment shows only to a leader that was told."""
    promises = [decode_promise(node.drive.record(name)) for name in PROMISES]
    promised = max((p.write_number for p in promises if p is not None), default=0)
    raw = before.volumes.get(LOG, {}).get(WRITE_NUMBER_KEY)
    return raw is not None and decode_number("an old log", WRITE_NUMBER_KEY, raw) < promised


def _is_promised(batch: list[Write]) -> bool:
    """Whether a promise follows these rows of the log at once: a term, a vote, a start."""
    return any(key[:1] == HARD_STATE or key == BOOT_KEY for key, _ in batch)


def _what(name: str, batch: Any) -> str:
    """What a write that failed was of."""
    kinds = {key[:1] for key, _ in batch}
    if name == LOG:
        if HARD_STATE in kinds:
            return "a vote or term"
        return "an entry" if ENTRY in kinds else "the log"
    if name != DATA:
        return "a promise"
    # What is applied says how far in the same batch; rows that are staged do not.
    return (
        "a snapshot"
        if kinds == {ROWS} and all(row is not None for _, row in batch)
        else "the state"
    )
