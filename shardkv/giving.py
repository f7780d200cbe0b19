"""The source's side of a copy that is under way: who may freeze the shard, and when writers wait.

The destination asks for the freeze when it has come to the change rows. The source's leader grants
it when less than `FREEZE_BYTES` are left, so that what happens while nobody serves takes a fixed
time, however large the shard is. Where the rest does not shrink it slows the shard's writers: each
has to pay for the bytes it writes, at a rate that halves, and waits at the door for it, never in
the state machine. After so many rounds in vain that nobody can say it was not tried, it freezes
what is there (L4).

All of this is memory of one leader. A new one begins anew: that costs rounds, and nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from raft.errors import RaftError
from raft.ports import Measured
from raft.replica import Replica
from raft.rsm import ReplicatedStateMachine
from shardctrler.types import ShardId
from shardkv.commands import Freeze, encode
from shardkv.copies import PullReply, PullRequest
from shardkv.limits import (
    CHANGE_ROWS_MAX,
    CHUNK_BYTES_MAX,
    FREEZE_BYTES,
    HOLD_SECONDS,
    ROUNDS_IN_VAIN_MAX,
    ROUNDS_UNTIL_SLOWER,
    SLOWED_BYTES_PER_SECOND,
    WRITE_OVERHEAD_BYTES,
)
from shardkv.machine import StoreMachine
from shardkv.phases import Phase
from shardkv.rows import counter_at
from shardkv.types import Answer, Code, CopyId

log = logging.getLogger(__name__)


class Pace:
    """How one copy gets on.

    It does while at most half as many change rows are written as are copied meanwhile: then what is
    left, however much that is, takes at most twice as long as if nobody wrote. Every other round
    was in vain. So a large shard takes many rounds and no harm, and still the copy ends (L4): the
    rounds that get on are bounded by the change rows, the others by `ROUNDS_IN_VAIN_MAX`.

    `level` counts how often the writers were slowed down: each time to half of what they had.
    """

    def __init__(self) -> None:
        self.level = 0
        self._last: tuple[int, int] | None = None
        self._in_vain = 0  # in a row
        self._in_vain_ever = 0
        self._paid_until = 0.0  # loop seconds

    def round(self, counter: int, total: int) -> None:
        """The destination comes for the change row at `counter`, and there are `total`."""
        last, self._last = self._last, (counter, total)
        if last is None or 2 * (total - last[1]) <= counter - last[0] > 0:
            self._in_vain = 0
            return
        self._in_vain += 1
        self._in_vain_ever += 1
        if self._in_vain >= ROUNDS_UNTIL_SLOWER:
            self._in_vain = 0
            self.level += 1

    @property
    def is_vain(self) -> bool:
        """Nothing helps: freeze what there is."""
        return self._in_vain_ever >= ROUNDS_IN_VAIN_MAX

    def pay(self, size: int, restarts: int, now: float) -> float:
        """How long a write of `size` bytes has to wait, at most `HOLD_SECONDS`."""
        level = self.level + restarts
        if not level:
            return 0.0
        rate = SLOWED_BYTES_PER_SECOND / 2 ** (level - 1)
        self._paid_until = max(self._paid_until, now) + size / rate
        return min(self._paid_until - now, HOLD_SECONDS)


class Giver:
    """Gives out the shards that leave one group, from this replica.

    Args:
        due: Called when there is something to do for who leads: a shard was frozen, or has too many
            change rows.
    """

    def __init__(
        self,
        replica: Replica,
        rsm: ReplicatedStateMachine,
        machine: StoreMachine,
        due: Callable[[], None],
    ) -> None:
        self._replica = replica
        self._rsm = rsm
        self._machine = machine
        self._due = due
        self._paces: dict[tuple[ShardId, CopyId], Pace] = {}
        self._loop = asyncio.get_running_loop()

    async def pull(self, request: PullRequest, leader: str) -> PullReply:
        """What follows a cursor, from applied state; or why there is nothing."""
        if request.freeze and self._rsm.leads:
            await self._freeze(request)
            if self._rsm.stopped_because is not None:
                # Perhaps in the middle of that entry: then the shard counts as frozen here, and
                # rows that belong to it were never stored.
                return PullReply(code=Code.BAD_COMMAND)
        pulled = self._machine.pull(
            self._replica.store.reader,
            request.shard,
            request.number,
            request.cursor,
            request.bytes_max,
            request.copy_id,
        )
        if self._machine.changes(request.shard) > CHANGE_ROWS_MAX:
            self._due()
        if isinstance(pulled, Answer):
            return PullReply(code=pulled.code, leader=leader)
        chunk, end, left = pulled
        rows = self._replica.store.reader
        size = rows.size(*self._machine.extent(request.shard)) if isinstance(rows, Measured) else 0
        return PullReply(chunk, end=end, changes_left=left, shard_bytes=size, leader=leader)

    async def _freeze(self, request: PullRequest) -> None:
        """Freeze the shard if little is left of its copy, or if nothing else helps."""
        machine, shard, copy_id = self._machine, request.shard, request.copy_id
        record = machine.record(shard)
        counter = counter_at(request.cursor)
        wanted = (Phase.MOVING, request.number, copy_id)
        if counter is None or (record.phase, record.number, record.copy_id) != wanted:
            return
        pace = self._pace(shard, copy_id)
        pace.round(counter, machine.changes(shard))
        rows = self._replica.store.reader
        # Where the rest does not shrink below the bound, one that fits in one chunk will do: the
        # freeze then takes one call and one commit all the same, and waiting only slows writers.
        enough = CHUNK_BYTES_MAX if pace.level else FREEZE_BYTES
        rest = machine.pull(rows, shard, request.number, request.cursor, enough, copy_id)
        if isinstance(rest, Answer) or (rest.changes_left and not pace.is_vain):
            return
        try:
            await self._rsm.submit(encode(Freeze(shard, request.number, copy_id)))
        except RaftError as error:  # whoever leads is asked again
            log.debug("group %d: shard %d is not frozen: %s", machine.gid, shard, error)
        self._due()

    def _pace(self, shard: ShardId, copy_id: CopyId) -> Pace:
        pace = self._paces.get((shard, copy_id))
        if pace is None:
            for other in [key for key in self._paces if key[0] == shard]:
                del self._paces[other]
            pace = self._paces[shard, copy_id] = Pace()
        return pace

    def delay(self, writes: Iterable[tuple[ShardId, int]]) -> float:
        """How long writes have to wait because their shards' copies do not get on, in seconds.

        Args:
            writes: Of each one the shard, and its bytes.
        """
        longest, now = 0.0, self._loop.time()
        for shard, size in writes:
            record = self._machine.record(shard)
            if record.phase is Phase.MOVING:
                pace = self._pace(shard, record.copy_id)
                cost = size + WRITE_OVERHEAD_BYTES
                longest = max(longest, pace.pay(cost, record.restarts, now))
        return longest
