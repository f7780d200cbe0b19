"""Pages of keys: what a clerk asks a group for, and how a replica answers.

=========  ============================================================================
question   [format, gid, config number, stale, age_ms_max, prefix, values, rows_max,
           bytes_max, [[shard, after or nil, epoch, index], ...]]
answer     [format, status, config number, applied, [part, ...], [row, ...]]
part       [200, epoch, whether more follow] | [code, fact, ...] | [105 to 108, age_ms]
row        [key, version, value or nil]
=========  ============================================================================

A *page* is the least keys of all the shards asked for that begin with `prefix` and follow `after`,
in order; the replica merges them, so that as many rows travel as are wanted, however many shards
there are. Each shard has its *part* in it: all of its keys up to the page's last one, or, where no
more follow in it, to its end. The parts are read in one step of the loop, by a replica that may
answer just then, each from a shard that is served there just then (`shardkv/reading.py`): so each
part is a linearizable read of the range from `after` to the page's last key. A shard that moved is
refused and has no rows in the page; the clerk goes on with the same `after` at its owner.

An answer holds at most 1,000 rows and about 1 MiB (one row always has room), and looks at 4 MiB of
rows at most, so that keys of large values do not hold up the node's loop; a shard that was not
looked at for that is refused by REPLY_FULL.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace
from typing import Any, Final, NamedTuple, TypeAlias

from raft.disk.heads import Head, Range, heads
from raft.ports import Reader
from raft.types import GroupId
from shardctrler.types import ShardId
from shardkv.limits import (
    FRAME_OPERATIONS_MAX,
    KEY_BYTES_MAX,
    KIB,
    MIB,
    PAGE_BYTES_MAX,
    PAGE_ROWS_MAX,
    SLOTS,
    VALUE_BYTES_MAX,
)
from shardkv.protocol import FORMAT, BadFrame, Status, integer, octets, pack, unpack
from shardkv.reading import (
    AGE_MS_MAX,
    Refusal,
    ReplicaReads,
    Trouble,
    refusal_of,
    status_of,
    wire_refusal,
)
from shardkv.rows import DATA_KEY_BYTES, decode_row
from shardkv.rows import ROW_OVERHEAD_BYTES as VERSION_BYTES
from shardkv.server import GroupServer
from shardkv.tokens import NOTHING, Mark
from shardkv.types import Answer, Version

LIST: Final = "list"
"""The method."""
SCAN_BYTES_MAX: Final = 4 * MIB
ROW_OVERHEAD_BYTES: Final = 16
_QUESTION_BYTES_MAX: Final = FRAME_OPERATIONS_MAX * (KEY_BYTES_MAX + 64) + 64 * KIB
_GID_MAX: Final = 2**31 - 1
_PART: Final = 200
_SPARE_ROWS: Final = 2
"""Read of each shard beyond its fair share: most have no more among the least of all."""
_REPLY_FULL: Final = Refusal(Trouble.REPLY_FULL)


class Listed(NamedTuple):
    """A key, and what it held when its page was read; `value` is None where only keys are asked."""

    key: bytes
    version: Version
    value: bytes | None = None


class From(NamedTuple):
    """Where a page begins, and what its reader has seen of the shard."""

    shard: ShardId
    after: bytes | None
    mark: Mark


class Part(NamedTuple):
    """One shard's part in a page; `more`: keys with the prefix may follow the page's last one."""

    epoch: int
    more: bool


Parts: TypeAlias = tuple[Part | Answer | Refusal, ...]


class ListFrame(NamedTuple):
    """Pages wanted of one replica."""

    gid: GroupId
    config_number: int
    stale: bool
    age_ms_max: int
    prefix: bytes
    values: bool
    rows_max: int
    bytes_max: int
    starts: tuple[From, ...]


class ListReply(NamedTuple):
    """A part for each shard that was asked for, in their order, and the rows of all of them."""

    status: Status
    config_number: int = 0
    applied: int = 0
    parts: Parts = ()
    rows: tuple[Listed, ...] = ()


def encode_list(frame: ListFrame) -> bytes:
    *head, starts = frame
    return pack((FORMAT, *head, [(shard, after, *mark) for shard, after, mark in starts]))


def decode_list(body: bytes) -> ListFrame:
    """Raises:
    BadFrame: not such a question, or one past a limit, which the message names.
    """
    if len(body) > _QUESTION_BYTES_MAX:
        raise BadFrame(f"a question for pages is at most {_QUESTION_BYTES_MAX} bytes")
    gid, number, stale, age_ms_max, prefix, values, rows_max, bytes_max, starts = unpack(body, 9)
    if type(stale) is not bool or type(values) is not bool:
        raise BadFrame("stale and values are flags")
    if type(starts) is not list or not 1 <= len(starts) <= FRAME_OPERATIONS_MAX:
        raise BadFrame(f"pages of 1 to {FRAME_OPERATIONS_MAX} shards are asked for at once")
    return ListFrame(
        GroupId(integer(gid, "gid", most=_GID_MAX)),
        integer(number, "config number"),
        stale,
        integer(age_ms_max, "age", most=AGE_MS_MAX),
        octets(prefix, "prefix", most=KEY_BYTES_MAX),
        values,
        integer(rows_max, "rows_max", least=1),
        integer(bytes_max, "bytes_max", least=1),
        tuple([_start(row) for row in starts]),
    )


def _start(row: Any) -> From:
    if type(row) is not list or len(row) != 4:
        raise BadFrame("a page begins in a shard, after a key, with a mark")
    shard, after, epoch, index = row
    if after is not None:
        octets(after, "after", most=KEY_BYTES_MAX)
    mark = NOTHING  # as most lists have it, and a question holds one for each shard
    if not (type(epoch) is type(index) is int and epoch == index == 0):
        mark = Mark(integer(epoch, "epoch"), integer(index, "index"))
    return From(ShardId(integer(shard, "shard", most=SLOTS - 1)), after, mark)


def encode_list_reply(reply: ListReply) -> bytes:
    parts = [
        (_PART, *part) if isinstance(part, Part) else wire_refusal(part) for part in reply.parts
    ]
    return pack((FORMAT, reply.status, reply.config_number, reply.applied, parts, reply.rows))


def decode_list_reply(body: bytes) -> ListReply:
    """Raises:
    BadFrame: not such a reply.
    """
    status, config_number, applied, parts, rows = unpack(body, 5)
    if type(parts) is not list or len(parts) > FRAME_OPERATIONS_MAX:
        raise BadFrame("a reply holds a list of parts")
    if type(rows) is not list or len(rows) > PAGE_ROWS_MAX:
        raise BadFrame(f"a page holds at most {PAGE_ROWS_MAX} rows")
    reply = ListReply(
        status_of(status),
        integer(config_number, "config number"),
        integer(applied, "index"),
        tuple(_parts(parts)),
        tuple([_listed(row) for row in rows]),
    )
    if not rows and any(isinstance(part, Part) and part.more for part in reply.parts):
        raise BadFrame("more rows follow none")
    return reply


def _parts(rows: list[Any]) -> list[Part | Answer | Refusal]:
    """Most parts of a reply say the same: one is looked at if it differs from the one before."""
    found: list[Part | Answer | Refusal] = []
    last: Any = None
    for fields in rows:
        if not found or fields != last or type(fields[-1]) is not type(last[-1]):
            found.append(_part(fields))
            last = fields
        else:
            found.append(found[-1])
    return found


def _part(fields: Any) -> Part | Answer | Refusal:
    if type(fields) is not list or len(fields) != 3 or fields[0] != _PART:
        return refusal_of(fields)
    _, epoch, more = fields
    if type(more) is not bool:
        raise BadFrame("whether more follow is a flag")
    return Part(integer(epoch, "epoch"), more)


def _listed(row: Any) -> Listed:
    if type(row) is not list or len(row) != 3:
        raise BadFrame("a row is a key, a version and a value")
    key, version, value = row
    if value is not None:
        octets(value, "value", most=VALUE_BYTES_MAX)
    return Listed(
        octets(key, "key", most=KEY_BYTES_MAX), Version(integer(version, "version")), value
    )


# A replica


async def answer_list(server: GroupServer, frame: ListFrame) -> ListReply:
    """The pages that a question asks for, from this replica."""
    server.look_for(frame.config_number)
    machine = server.machine
    known = [start for start in frame.starts if start.shard < machine.nshards]
    if len(known) < len(frame.starts):
        raise BadFrame(f"this cluster has shards 0 to {machine.nshards - 1}")
    if server.holds:
        await server.holds.wait([start.shard for start in known])
    reads = ReplicaReads(server)
    marks = [(start.shard, start.mark) for start in known if start.mark.epoch]
    refusal = await reads.confirm(frame.stale, frame.age_ms_max, marks)
    applied = server.replica.applied
    if refusal is not None:
        return ListReply(Status.ANSWERED, machine.number, applied, (refusal,) * len(known))
    parts: list[Part | Answer | Refusal] = []
    spans: list[Range] = []
    places: list[int] = []  # of the spans, among the parts
    shards = [start.shard for start in frame.starts]
    found = machine.spans(shards, [start.after for start in frame.starts], frame.prefix)
    for (shard, _, mark), span in zip(frame.starts, found, strict=True):
        part: Part | Answer | Refusal = _REPLY_FULL
        if mark.epoch and not reads.covers(shard, mark):
            part = Refusal(Trouble.BEHIND, reads.age_ms)
        elif isinstance(span, Answer):
            part = span
        else:
            places.append(len(parts))
            spans.append(span)
        parts.append(part)
    rows_max, bytes_max = min(frame.rows_max, PAGE_ROWS_MAX), min(frame.bytes_max, PAGE_BYTES_MAX)
    least = Least(server.replica.store.reader, spans, rows_max, DATA_KEY_BYTES)
    rows = least.take(rows_max, bytes_max, frame.values)
    alike: dict[tuple[int, bool], Part] = {}
    for at, place in enumerate(places):
        if (more := least.more(at)) is not None:
            epoch = machine.record(shards[place]).taken
            said = alike.get((epoch, more))
            if said is None:
                said = alike[epoch, more] = Part(epoch, more)
            parts[place] = said
    return ListReply(Status.ANSWERED, machine.number, applied, tuple(parts), rows)


class Least:
    """The least keys of many spans of one state, in order: read and used in one step of the loop.

    A few rows of each span are read at once, and more of the few spans that turn out to have more
    among the least.

    Args:
        skip: So many bytes stand before the client's key in a row's.
    """

    def __init__(self, reader: Reader, spans: Sequence[Range], rows_max: int, skip: int) -> None:
        self._reader = reader
        self._spans = spans
        self._skip = skip
        self._scan = SCAN_BYTES_MAX  # what may be read yet
        self._share = _SPARE_ROWS - (-rows_max // max(len(spans), 1))
        self._rows: list[list[tuple[bytes, bytes]]] = []  # of each span, what is not taken, turned
        self._ended: list[bool] = []  # of each span: no more can be read
        self._heads: list[tuple[bytes, int]] = []
        for at, (rows, ended, _) in enumerate(self._read(spans)):
            if rows:
                self._heads.append((rows[0][0], at))
                rows.reverse()
            self._rows.append(rows)
            self._ended.append(ended)
        heapify(self._heads)

    def more(self, at: int) -> bool | None:
        """Whether rows of a span may follow those taken; None: it was not looked at."""
        if at >= len(self._rows):
            return None
        return bool(self._rows[at]) or not self._ended[at]

    def take(self, rows_max: int, bytes_max: int, values: bool) -> tuple[Listed, ...]:
        """The least rows, as many as fit, one at least if there are any. Once."""
        taken: list[Listed] = []
        room, heads_, all_rows = bytes_max, self._heads, self._rows
        while heads_ and len(taken) < rows_max:
            key, at = heads_[0]
            rows = all_rows[at]
            raw = rows[-1][1]
            room -= len(key) + ROW_OVERHEAD_BYTES + (len(raw) - VERSION_BYTES if values else 0)
            if taken and room < 0:
                break
            value, version = decode_row(key, raw)
            taken.append(Listed(key, version, value if values else None))
            rows.pop()
            if not rows and not self._ended[at]:
                if not self._read_on(at, key):
                    heappop(heads_)
                    break  # its next row may be the least
                rows = all_rows[at]
            if rows:
                heapreplace(heads_, (rows[-1][0], at))
            else:
                heappop(heads_)
        return tuple(taken)

    def _read_on(self, at: int, after: bytes) -> bool:
        """Read more of a span; whether enough may be read yet."""
        lo, hi = self._spans[at]
        found = self._read([(lo[: self._skip] + after + b"\0", hi)])
        for rows, ended, _ in found:
            rows.reverse()
            self._rows[at], self._ended[at] = rows, ended
        return bool(found)

    def _read(self, ranges: Sequence[Range]) -> list[Head]:
        found = heads(self._reader, ranges, self._share, self._scan, self._skip)
        self._scan -= sum([head.size for head in found])
        return found
