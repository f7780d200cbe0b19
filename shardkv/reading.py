"""Reads that any replica may answer: what is said, and when a replica may say it.

=========  ===========================================================================
question   [format, gid, config number, stale, age_ms_max, [[key, epoch, index], ...]]
answer     [format, status, config number, applied, [result, ...]]
result     [200, version, value or nil, epoch] | [code, fact, ...] | [105 to 108, age_ms]
=========  ===========================================================================

`epoch` and `index` are a session's mark of the key's shard (`shardkv/tokens.py`), 0 and 0 without a
session; the answer's `applied` and a result's `epoch` are the mark of what was shown.

Why an answer is right. *Linearizable*: the replica waits for one barrier that all questions of the
moment share; after it, what is applied here holds everything acknowledged before any of them came
(`raft/reads.py`). *Stale*: what is applied here was complete at most `age_ms_max` before the row is
looked at, by this replica's own clock (`raft/freshness.py`), and so at most that long before the
question came; where it is older, the replica goes through the barrier instead, and refuses if
nobody confirms one. *Session*: the shard's state here covers the mark. All of it, and the shard's
phase (`StoreMachine.get`), is looked at in the step of the loop that reads the row: a shard that
was given away meanwhile is refused there, whoever asked and however the wait began (S1).
"""

import asyncio
from collections.abc import Sequence
from enum import IntEnum
from math import isfinite
from typing import Any, Final, NamedTuple, TypeAlias

from raft.errors import RaftError
from raft.types import GroupId
from shardctrler.types import ShardId
from shardkv import commands
from shardkv.consistency import STALE_SECONDS_MAX
from shardkv.errors import InvalidArgument
from shardkv.limits import FRAME_BYTES_MAX, FRAME_OPERATIONS_MAX, VALUE_BYTES_MAX
from shardkv.protocol import (
    FORMAT,
    BadFrame,
    Status,
    integer,
    pack,
    unpack,
)
from shardkv.server import REPLY_BYTES_MAX, GroupServer
from shardkv.tokens import Mark
from shardkv.types import Answer, Code, Row, Version

READ: Final = "read"
"""The method."""
WAIT_SECONDS: Final = 1.5
"""How long a replica waits for a barrier: its clerk asks another one soon after."""
AGE_MS_MAX: Final = int(STALE_SECONDS_MAX * 1000)
UNKNOWN_AGE_MS: Final = 2**53
"""The age of a replica that has not heard from a leader in this life."""

_GID_MAX: Final = 2**31 - 1
_ROW: Final = 200


class Trouble(IntEnum):
    """Why a replica gave no answer to a question; another one may."""

    UNCONFIRMED = 105  # no leader confirmed in time that this replica holds enough
    TOO_OLD = 106  # and what it holds is older than the bound
    BEHIND = 107  # it does not hold what the session has seen
    REPLY_FULL = 108  # the value has no room in this reply: ask again at once


class Refusal(NamedTuple):
    """A trouble, and how old the replica's state may be, in milliseconds."""

    trouble: Trouble
    age_ms: int = UNKNOWN_AGE_MS


class Served(NamedTuple):
    """A row, and the epoch of its shard."""

    row: Row
    epoch: int


class Question(NamedTuple):
    """A key, and what its reader has seen of the shard."""

    key: bytes
    mark: Mark


Result: TypeAlias = Served | Answer | Refusal


class ReadFrame(NamedTuple):
    """Questions to one replica, all of one kind."""

    gid: GroupId
    config_number: int
    stale: bool
    age_ms_max: int
    questions: tuple[Question, ...]


class ReadReply(NamedTuple):
    """`status` as of any frame; `applied` is the index that the answering replica had reached."""

    status: Status
    config_number: int = 0
    applied: int = 0
    results: tuple[Result, ...] = ()


def encode_read(frame: ReadFrame) -> bytes:
    rows = [(key, mark.epoch, mark.index) for key, mark in frame.questions]
    return pack((FORMAT, frame.gid, frame.config_number, frame.stale, frame.age_ms_max, rows))


def decode_read(body: bytes) -> ReadFrame:
    """Raises:
    BadFrame: not such a frame, or one past a limit, which the message names.
    """
    if len(body) > FRAME_BYTES_MAX:
        raise BadFrame(f"a frame is at most {FRAME_BYTES_MAX} bytes, not {len(body)}")
    gid, config_number, stale, age_ms_max, rows = unpack(body, 5)
    if type(stale) is not bool:
        raise BadFrame("stale is a flag")
    if type(rows) is not list or not 1 <= len(rows) <= FRAME_OPERATIONS_MAX:
        raise BadFrame(f"a frame holds 1 to {FRAME_OPERATIONS_MAX} operations")
    return ReadFrame(
        GroupId(integer(gid, "gid", most=_GID_MAX)),
        integer(config_number, "config number"),
        stale,
        integer(age_ms_max, "age", most=AGE_MS_MAX),
        tuple([_question(row) for row in rows]),
    )


def _question(row: Any) -> Question:
    if type(row) is not list or len(row) != 3 or type(row[0]) is not bytes:
        raise BadFrame("a question is a key, an epoch and an index")
    try:
        commands.check_key(row[0])
    except InvalidArgument as error:
        raise BadFrame(str(error)) from None
    return Question(row[0], Mark(integer(row[1], "epoch"), integer(row[2], "index")))


def encode_read_reply(reply: ReadReply) -> bytes:
    results = [_wire(result) for result in reply.results]
    return pack((FORMAT, reply.status, reply.config_number, reply.applied, results))


def decode_read_reply(body: bytes) -> ReadReply:
    """Raises:
    BadFrame: not such a reply.
    """
    status, config_number, applied, rows = unpack(body, 4)
    if type(rows) is not list or len(rows) > FRAME_OPERATIONS_MAX:
        raise BadFrame("a reply holds a list of results")
    return ReadReply(
        status_of(status),
        integer(config_number, "config number"),
        integer(applied, "index"),
        tuple([_result(row) for row in rows]),
    )


def _wire(result: Result) -> tuple[object, ...]:
    if isinstance(result, Served):
        return (_ROW, result.row.version, result.row.value, result.epoch)
    return wire_refusal(result)


def _result(row: Any) -> Result:
    if type(row) is list and len(row) == 4 and row[0] == _ROW:
        value = row[2]
        if value is not None and (type(value) is not bytes or len(value) > VALUE_BYTES_MAX):
            raise BadFrame(f"a value is at most {VALUE_BYTES_MAX} bytes")
        return Served(Row(value, Version(integer(row[1], "version"))), integer(row[3], "epoch"))
    return refusal_of(row)


# What lists and reads have in common (`shardkv/listing.py`)

_STATUSES: Final = tuple(Status)
_CODES: Final = {int(code): code for code in Code}
_TROUBLES: Final = {int(trouble): trouble for trouble in Trouble}


def status_of(value: object) -> Status:
    """Raises BadFrame."""
    return _STATUSES[integer(value, "status", most=len(_STATUSES) - 1)]


def wire_refusal(result: Answer | Refusal) -> tuple[object, ...]:
    if isinstance(result, Refusal):
        return (result.trouble, result.age_ms)
    return (result.code, *result.facts)


def refusal_of(row: Any) -> Answer | Refusal:
    """Raises BadFrame."""
    if type(row) is not list or not 1 <= len(row) <= 5:
        raise BadFrame("a result is an array that begins with its code")
    number, *facts = [integer(field, "a field of a result") for field in row]
    trouble = _TROUBLES.get(number)
    if trouble is not None and len(facts) == 1:
        return Refusal(trouble, facts[0])
    code = _CODES.get(number)
    if code is None:
        raise BadFrame(f"no result of code {number} has {len(facts)} fields")
    return Answer(code, tuple(facts))


# A replica


class ReplicaReads:
    """Questions to one replica of a group, leader or not."""

    def __init__(self, server: GroupServer) -> None:
        self._server = server

    @property
    def age_ms(self) -> int:
        """How old the state here may be."""
        age = self._server.replica.age
        return min(int(age * 1000), UNKNOWN_AGE_MS) if isfinite(age) else UNKNOWN_AGE_MS

    async def confirm(
        self, stale: bool, age_ms_max: int, marks: Sequence[tuple[ShardId, Mark]]
    ) -> Refusal | None:
        """Wait until this replica may answer; why it may not, or None.

        What it returns holds until the next await of its caller, and no longer.
        """
        rsm = self._server.rsm
        if rsm.stopped_because is not None:
            return Refusal(Trouble.UNCONFIRMED)
        if stale and self.age_ms <= age_ms_max and self._covers_all(marks):
            return None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await rsm.read()
        except (RaftError, TimeoutError):  # nobody confirmed how far this replica has to be
            if rsm.stopped_because is not None:  # meanwhile, perhaps in the middle of an entry
                return Refusal(Trouble.UNCONFIRMED)
            if not stale:
                return Refusal(Trouble.UNCONFIRMED, self.age_ms)
            if self.age_ms > age_ms_max:
                return Refusal(Trouble.TOO_OLD, self.age_ms)
        # Of what still is not covered each question is told by itself.
        return None

    def covers(self, shard: ShardId, mark: Mark) -> bool:
        """Whether the state of the shard here is at the mark or beyond it."""
        epoch = self._server.machine.record(shard).taken
        return mark.is_covered_by(epoch, self._server.replica.applied)

    def _covers_all(self, marks: Sequence[tuple[ShardId, Mark]]) -> bool:
        return all(self.covers(shard, mark) for shard, mark in marks)

    async def answer(self, frame: ReadFrame) -> ReadReply:
        """Answer a frame of questions."""
        server = self._server
        server.look_for(frame.config_number)
        routing = server.routing
        shards = [routing(question.key) for question in frame.questions]
        if server.holds:
            await server.holds.wait(shards)
        marks = [
            (shard, question.mark)
            for shard, question in zip(shards, frame.questions, strict=True)
            if question.mark.epoch
        ]
        refusal = await self.confirm(frame.stale, frame.age_ms_max, marks)
        machine, applied = server.machine, server.replica.applied
        if refusal is not None:
            results: list[Result] = [refusal] * len(shards)
            return ReadReply(Status.ANSWERED, machine.number, applied, tuple(results))
        results = []
        rows, room = server.replica.store.reader, REPLY_BYTES_MAX
        for shard, (key, mark) in zip(shards, frame.questions, strict=True):
            if room <= 0:
                results.append(Refusal(Trouble.REPLY_FULL))
                continue
            found = machine.get(rows, shard, key)
            if isinstance(found, Answer):
                results.append(found)
            elif mark.epoch and not self.covers(shard, mark):
                results.append(Refusal(Trouble.BEHIND, self.age_ms))
            else:
                room -= 0 if found.value is None else len(found.value)
                results.append(Served(found, machine.record(shard).taken))
        return ReadReply(Status.ANSWERED, machine.number, applied, tuple(results))
