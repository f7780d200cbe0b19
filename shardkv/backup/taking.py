"""Takes a backup of a running cluster: finds a moment that fits together, and reads it out.

The cut. A hand-over moves a shard between two groups' logs, and their snapshots are not of one
instant. So a backup is taken only of states that all stand at one configuration n with every shard
settled; then each shard is served by exactly the group that n names (`rows.check_cut` has the
argument, and checks it on the rows). All states are opened first, within milliseconds, and looked
at; if they do not fit they are let go, and a little later opened again. Once they do fit, whatever
the cluster goes on to do changes nothing about them: moves may go on while they are read out.

What it is not: one instant over all groups. Each shard is as it was at a moment between the start
of the backup and the cut; everything that was acknowledged before the start is in it. Of two writes
to different shards during those milliseconds the later one may be in it without the earlier.

A replica that dies, or a node that starts again, ends its stream. The group is then opened anew at
another replica: that state is later, but still at n and settled, or else the whole cut is made
again. Every failure leaves nothing that could be taken for a backup (`files.py`).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from labrpc.errors import RpcError
from labrpc.transport import Address, Transport
from raft.types import EntryId, GroupId, Index, Term
from shardctrler.client import ControllerClient
from shardctrler.types import View
from shardkv import admin
from shardkv.admin import BadAdmin, ReplicaStatus
from shardkv.backup.protocol import CLOSE, NEXT, OPEN, Close, Next, Open, Opened
from shardkv.backup.rows import BackupDamaged, Contents, RowReader, check_cut
from shardkv.errors import ShardKVError
from shardkv.growth import Seen
from shardkv.handover import RateLimit
from shardkv.operating import Operator

CALL_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.1
CONTROLLER: Final = GroupId(0)


class BackupFailed(ShardKVError):
    """No backup was made, definitely; the text says what was in the way."""


class _TryAgain(Exception):
    """The cut does not hold; a later one may."""


class Sink(Protocol):
    """Where the chunks of groups go."""

    def begin(self, gid: GroupId) -> None:
        """What comes next is the group's, from its first chunk; what came before of it is void."""
        ...

    def add(self, gid: GroupId, chunk: bytes) -> None: ...

    def end(self, gid: GroupId) -> None:
        """The group is complete."""
        ...


class Source(NamedTuple):
    """A state that is held for us at a node."""

    gid: GroupId
    to: Address
    opened: Opened
    nodes: tuple[str, ...]  # that hold the group's voters


class Cut(NamedTuple):
    """What was read out."""

    number: int
    nshards: int
    sources: Mapping[GroupId, Source]
    contents: Mapping[GroupId, Contents]


class Taker:
    """Takes one backup.

    Args:
        endpoints: Node name -> client address of nodes known beforehand; the controller names more.
        rate: Bounds what is read, in bytes a second, over all groups.
        progress: Told a line now and then.
    """

    def __init__(
        self,
        transport: Transport,
        controller: ControllerClient,
        rate: RateLimit,
        progress: Callable[[str], None],
    ) -> None:
        self._transport = transport
        self._controller = controller
        self._rate = rate
        self._progress = progress
        self._told = ""
        self.bytes = 0  # read so far, of the attempt under way

    async def take(self, sink: Sink, *, settle_seconds: float) -> Cut:
        """Read a consistent cut of all groups out into `sink`.

        Args:
            settle_seconds: How long to wait for a moment that fits together, and for groups that
                have no leader. Reading out takes what it takes.

        Raises:
            BackupFailed: no such moment came, or nobody could give it out.
            ShardCtrlerError: the controller did not answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settle_seconds
        while True:
            reason = ""
            sources: dict[GroupId, Source] = {}
            try:
                view = await self._controller.newest()
                await self._open_all(view, sources)
                self._check_settled(view, sources)
                contents = await self._read_all(view, sources, sink)
                check_cut(contents)
                number = view.config.number
                return Cut(number, len(view.config.shards), sources, contents)
            except _TryAgain as again:
                reason = str(again)
            finally:
                await self._close_all(sources.values())
            if loop.time() >= deadline:
                raise BackupFailed(
                    f"no consistent moment within {settle_seconds:g} s: {reason}. Nothing was "
                    "written; try again when fewer shards move, or with a longer --wait"
                )
            if reason != self._told:
                self._told = reason
                self._progress(f"waits: {reason}")
            await asyncio.sleep(PAUSE_SECONDS)

    # The cut

    async def _open_all(self, view: View, sources: dict[GroupId, Source]) -> None:
        seen = await self._observe(view)
        for turn, gid in enumerate((CONTROLLER, *view.config.groups)):
            sources[gid] = await self._open(view, seen, gid, turn)

    async def _observe(self, view: View) -> Seen:
        addresses = {
            str(node): found.client for node, found in view.directory.nodes.items() if found.client
        }
        for gid in view.config.groups:
            for member in view.directory.members(gid):
                addresses.setdefault(str(member.node), member.address)
        self._addresses = addresses
        return await Operator(self._transport, addresses).observe()

    async def _open(
        self, view: View, seen: Seen, gid: GroupId, turn: int, bad: Sequence[Address] = ()
    ) -> Source:
        """Hold the state of one replica of a group; a follower's, if one can."""
        uuid = b"" if gid == CONTROLLER else view.config.groups[gid].uuid
        found = candidates(seen, gid, uuid, turn)
        last = "no replica of it answers"
        for node, nodes in found:
            to = Address(self._addresses[node])
            if to in bad:
                continue
            try:
                body = await self._transport.call(
                    to, OPEN, admin.encode(Open(gid, uuid)), timeout=CALL_SECONDS
                )
                return Source(gid, to, admin.decode(Opened, body), nodes)
            except (RpcError, BadAdmin) as error:
                last = f"{node}: {error}"
        raise _TryAgain(f"group {gid}: {last}")

    def _check_settled(self, view: View, sources: Mapping[GroupId, Source]) -> None:
        number = view.config.number
        for gid, source in sources.items():
            opened = source.opened
            if opened.number != number:
                raise _TryAgain(
                    f"group {gid} stands at configuration {opened.number}, not at {number}"
                )
            for shard, phase, other in opened.unsettled:
                raise _TryAgain(
                    f"shard {shard} of group {gid} is {phase}, the other end is group {other}"
                )

    # Reading out

    async def _read_all(
        self, view: View, sources: dict[GroupId, Source], sink: Sink
    ) -> dict[GroupId, Contents]:
        self.bytes = 0
        reading = [
            asyncio.get_running_loop().create_task(self._read(view, sources, gid, sink))
            for gid in sources
        ]
        try:
            return dict(zip(sources, await asyncio.gather(*reading), strict=True))
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def _read(
        self, view: View, sources: dict[GroupId, Source], gid: GroupId, sink: Sink
    ) -> Contents:
        """Read one group out, at another replica if the one that held it falls silent."""
        bad: list[Address] = []
        while True:
            source = sources[gid]
            try:
                contents = await self._stream(source, sink)
                self._progress(
                    f"group {gid}: {contents.rows} rows up to entry {source.opened.index}, from "
                    f"{source.opened.node}"
                )
                return contents
            except (RpcError, BackupDamaged) as error:
                bad.append(source.to)
                self._progress(f"group {gid}: {source.opened.node} failed: {error}")
            seen = await self._observe(view)
            other = await self._open(view, seen, gid, len(bad), bad)
            sources[gid] = other
            self._check_settled(view, {gid: other})

    async def _stream(self, source: Source, sink: Sink) -> Contents:
        gid, opened = source.gid, source.opened
        reader = RowReader(gid, EntryId(Index(opened.index), Term(opened.term)))
        sink.begin(gid)
        number = 0
        while not reader.complete:
            chunk = await self._chunk(source, number)
            await self._rate.take(len(chunk))
            reader.add(chunk)
            sink.add(gid, chunk)
            self.bytes += len(chunk)
            number += 1
        sink.end(gid)
        return reader.contents

    async def _chunk(self, source: Source, number: int) -> bytes:
        """Asked for twice, since an answer may be lost on its way; the node keeps the last one."""
        body = admin.encode(Next(source.opened.stream, number))
        try:
            return await self._transport.call(source.to, NEXT, body, timeout=CALL_SECONDS)
        except RpcError as error:
            if not error.retriable:
                raise
        return await self._transport.call(source.to, NEXT, body, timeout=CALL_SECONDS)

    async def _close_all(self, sources: Iterable[Source]) -> None:
        closes = []
        for source in sources:
            body = admin.encode(Close(source.opened.stream))
            closes.append(self._transport.call(source.to, CLOSE, body, timeout=CLOSE_SECONDS))
        await asyncio.gather(*closes, return_exceptions=True)  # what is not closed expires


def candidates(
    seen: Seen, gid: GroupId, uuid: bytes, turn: int
) -> list[tuple[str, tuple[str, ...]]]:
    """The nodes whose replica may give a group out, the best first, and the group's voters.

    Followers before the leader, which has enough to do; `turn` goes round among them, so that not
    one node gives out everything.
    """
    voting: list[tuple[str, ReplicaStatus]] = []
    for node in sorted(seen):
        status = seen[node]
        replica = status.replica(gid) if status is not None else None
        if (
            replica is not None
            and not replica.stopped
            and uuid in (b"", replica.uuid)
            and any(voter.node == node for voter in replica.voters)
        ):
            voting.append((node, replica))
    followers = [pair for pair in voting if not pair[1].leads]
    leaders = [pair for pair in voting if pair[1].leads]
    if followers:
        at = turn % len(followers)
        followers = followers[at:] + followers[:at]
    return [
        (node, tuple(voter.node for voter in replica.voters))
        for node, replica in (*followers, *leaders)
    ]
