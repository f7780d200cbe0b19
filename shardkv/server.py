"""A replica of a group of the store: answers clients, follows configurations, gives out copies.

A write is checked at the door and proposed as the bytes it came in; the state machine decides. A
read waits for one barrier that all reads of the moment share, and is served in the same loop turn
from rows that hold everything acknowledged before it came, with the shard's phase checked then
(`StoreMachine.get`). Only the leader takes clients' frames; any replica answers other groups'
questions about copies. What is about to come in here waits (`holding.py`), and writes that a copy
cannot keep up with wait too (`giving.py`); both at the door, and for a bounded time.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from labrpc.limits import BODY_BYTES_MAX
from raft.errors import NotLeader, OutcomeUnknown, Overloaded, RaftError, ReplicaStopped
from raft.ports import Rows
from raft.replica import Replica
from raft.rsm import ReplicatedStateMachine
from raft.types import Entry, GroupId
from shardctrler.types import ShardId
from shardkv import copies
from shardkv.commands import Asked, Batch, Mutation, Op
from shardkv.feed import ConfigFeed
from shardkv.giving import Giver
from shardkv.holding import Holds
from shardkv.limits import KIB, LATE_SECONDS, MIB, VALUE_BYTES_MAX
from shardkv.load import Meter
from shardkv.machine import StoreMachine
from shardkv.protocol import Frame, Get, Leader, Operation, Proposal, Reply, Result, Status, Trouble
from shardkv.routing import Routing
from shardkv.types import Answer, Code, Row

REPLY_BYTES_MAX: Final = 3 * MIB - 64 * KIB
"""Of the values in one reply; the one that passes it has room yet, so that with its envelope the
reply is no larger than a body may be."""
assert REPLY_BYTES_MAX + VALUE_BYTES_MAX + 64 * KIB <= BODY_BYTES_MAX


class GroupStateMachine(ReplicatedStateMachine):
    """The group's machine on this replica, and who wants to know when leadership changes."""

    def __init__(self, machine: StoreMachine) -> None:
        super().__init__(machine, late_seconds=LATE_SECONDS)
        self.on_change: Callable[[], None] | None = None
        self.meter: Meter | None = None

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        if self.meter is None:
            super().apply(entries, rows)
            return
        begun = self.meter.clock()
        super().apply(entries, rows)
        self.meter.apply.observe(self.meter.clock() - begun)

    def turned_away(self, commands: int) -> None:
        if self.meter is not None:
            self.meter.reject("group_late", commands)

    def leadership_changed(self, leads: bool) -> None:
        super().leadership_changed(leads)
        self.changed()

    def stopped(self) -> None:
        super().stopped()
        self.changed()

    def changed(self) -> None:
        """Something may be due that was not."""
        if self.on_change is not None:
            self.on_change()


class GroupServer:
    """One group's replica on this node.

    Args:
        replica: Runs `rsm`; attached here.
        routing: Key to shard, the same as every clerk's.
    """

    def __init__(
        self,
        replica: Replica,
        rsm: GroupStateMachine,
        machine: StoreMachine,
        feed: ConfigFeed,
        routing: Routing,
    ) -> None:
        self.replica = replica
        self.rsm = rsm
        self.machine = machine
        self.holds = Holds()
        self.slowed = 0
        """Frames of clients that had to wait because a copy did not get on."""
        self.roomy: Callable[[], bool] = _always
        """Whether this node's disk, and those of a majority of the group's voters, have room for
        what clients write; deletes are taken anyway."""
        self._feed = feed
        self._routing = routing
        self._giver = Giver(replica, rsm, machine, rsm.changed)

    @property
    def routing(self) -> Routing:
        """Key to shard."""
        return self._routing

    def look_for(self, config_number: int) -> None:
        """Somebody has heard of this configuration: look for it, if it is news."""
        if config_number > self.machine.number:
            self._feed.look()

    @property
    def gid(self) -> GroupId:
        return self.machine.gid

    # Clients

    async def answer(self, frame: Frame) -> Reply:
        """Do what a client's frame asks for. What was proposed runs its course whatever becomes
        of the caller."""
        if self.holds:
            await self.holds.wait(map(self._shard_of, frame.operations))
        if not self.rsm.leads:
            return Reply(Status.NOT_LEADER, self.machine.number, self.leader())
        self.look_for(frame.config_number)
        roomy = self.roomy()
        results: list[Result | None] = [self._at_the_door(op, roomy) for op in frame.operations]
        reads: list[int] = []
        writes: list[int] = []
        commands: list[bytes] = []
        for at, operation in enumerate(frame.operations):
            if isinstance(operation, Get):
                reads.append(at)
            elif results[at] is None:
                writes.append(at)
                commands.append(operation.data)
        if commands and self.machine.unsettled_count:
            await self._slow_down([frame.operations[at] for at in writes])
        proposed = self.rsm.submit_frame(commands)
        if reads:
            await self._read(frame.operations, reads, results)
        for at, outcome in zip(writes, await proposed, strict=True):
            results[at] = _result(outcome)
        answered = tuple([result for result in results if result is not None])
        assert len(answered) == len(frame.operations), "every operation has its result"
        reply = Reply(Status.ANSWERED, self.machine.number, self.leader(), answered)
        if frame.marks:
            epochs = tuple([self._epoch(operation) for operation in frame.operations])
            reply = reply._replace(applied=self.replica.applied, epochs=epochs)
        return reply

    def _epoch(self, operation: Operation) -> int:
        """Of the operation's shard, as this replica has it now (`shardkv/tokens.py`)."""
        if isinstance(operation, Get):
            return self.machine.record(self._routing(operation.key)).taken
        shard = operation.command.shard
        return self.machine.record(shard).taken if shard < self.machine.nshards else 0

    def leader(self) -> Leader | None:
        """Where to ask, as far as this replica knows."""
        member = self.replica.leader
        if member is None:
            return None
        return Leader(member.node, self._feed.address(self.gid, member.node))

    def _at_the_door(self, operation: Operation, roomy: bool) -> Result | None:
        """Why a write need not be proposed: the shard is not served here now. None: propose it.

        Only to save log space: the machine decides again when the command is applied (S9).
        """
        if isinstance(operation, Get):
            return None
        command = operation.command
        if isinstance(command, Mutation) and self._routing(command.key) != command.shard:
            return Answer(Code.BAD_COMMAND)
        if isinstance(command, Batch) and not self._is_of_one_shard(command):
            return Answer(Code.BAD_COMMAND)
        if command.shard >= self.machine.nshards:
            return Answer(Code.BAD_COMMAND)
        refusal = self.machine.refusal(command.shard)
        if refusal is not None:
            return refusal
        return None if roomy or _makes_room(command) else Trouble.NO_ROOM

    def _is_of_one_shard(self, batch: Batch) -> bool:
        """Whether the shard that a batch names is that of all its keys."""
        return all(self._routing(write.key) == batch.shard for write in batch.writes)

    def _shard_of(self, operation: Operation) -> ShardId:
        if isinstance(operation, Get):
            return self._routing(operation.key)
        return operation.command.shard

    async def _slow_down(self, writes: Sequence[Operation]) -> None:
        """Hold back writes to shards whose copies do not get on."""
        sizes = [
            (write.command.shard, len(write.data))
            for write in writes
            if isinstance(write, Proposal)
        ]
        delay = self._giver.delay(sizes)
        if delay:
            self.slowed += 1
            await asyncio.sleep(delay)

    async def _read(
        self, operations: Sequence[Operation], reads: Sequence[int], results: list[Result | None]
    ) -> None:
        try:
            await self.rsm.read()
        except RaftError:  # nobody confirmed that this replica still leads: ask whoever does
            for at in reads:
                results[at] = Trouble.NOT_LEADER
            return
        rows = self.replica.store.reader
        room = REPLY_BYTES_MAX
        for at in reads:
            operation = operations[at]
            assert isinstance(operation, Get)
            if room <= 0:
                results[at] = Trouble.REPLY_FULL
                continue
            result = self.machine.get(rows, self._routing(operation.key), operation.key)
            if isinstance(result, Row) and result.value is not None:
                room -= len(result.value)
            results[at] = result

    # Other groups

    async def pull(self, request: copies.PullRequest) -> copies.PullReply:
        """The next chunk of a copy, from applied state; or why there is none yet."""
        if self.rsm.stopped_because is not None or request.shard >= self.machine.nshards:
            return copies.PullReply(code=Code.BAD_COMMAND)
        if request.number > self.machine.number:
            self._feed.look()  # this group has to give the shard away first
        return await self._giver.pull(request, self._leader_address())

    def settled(self, request: copies.SettledRequest) -> copies.SettledReply:
        """Whether this group has taken a shard over, by what is applied here."""
        if request.number > self.machine.number:
            self._feed.look()
        # A replica that was silenced has taken what its group may have forgotten since.
        silent = self.rsm.stopped_because is not None
        settled = not silent and self.machine.is_in(request.shard, request.number)
        return copies.SettledReply(settled, self.machine.number, self._leader_address())

    def _leader_address(self) -> str:
        leader = self.leader()
        return "" if leader is None else leader.address


def _result(outcome: object) -> Result:
    """What a client hears of one command's outcome (`ReplicatedStateMachine.submit_frame`)."""
    if isinstance(outcome, Answer):
        return outcome
    if isinstance(outcome, Overloaded):
        return Trouble.BUSY
    if isinstance(outcome, NotLeader | ReplicaStopped):
        return Trouble.NOT_LEADER  # certainly not applied
    assert isinstance(outcome, OutcomeUnknown), outcome
    return Trouble.UNKNOWN


def _makes_room(command: Asked) -> bool:
    """Whether it goes to a full disk too: what makes room, or costs none."""
    if isinstance(command, Batch):
        return all(write.op is Op.DELETE for write in command.writes)
    return not (isinstance(command, Mutation) and command.op is not Op.DELETE)


def _always() -> bool:
    """Where nobody looks at the disk there is room."""
    return True
