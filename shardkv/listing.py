"""Pages of keys: what a clerk asks a group for, and how a replica answers.

=========  ============================================================================
question   [format, gid, config number, stale, age_ms_max, prefix, values, rows_max,
           bytes_max, [[shard, after or nil, epoch, index], ...]]
answer     [format, status, config number, applied, [page, ...]]
page       [200, epoch, whether more follow, [[key, version, value or nil], ...]] |
           [code, fact, ...] | [105 to 108, age_ms]
=========  ============================================================================

A page is one shard's keys that begin with `prefix` and follow `after`, in order. It is read in one
step of the loop, by a replica that may answer just then, from a shard that is served there just
then (`shardkv/reading.py`): so each page is a linearizable read of the range from `after` to its
last key. A shard that moved is refused, and the clerk goes on with the same `after` at its owner.

An answer holds at most 1,000 rows and about 1 MiB over all its pages (one row always has room), and
looks at 4 MiB of rows at most, so that keys of large values do not hold up the node's loop.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

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
from shardkv.server import GroupServer
from shardkv.tokens import Mark
from shardkv.types import Answer, Row, Version

LIST: Final = "list"
"""The method."""
SCAN_BYTES_MAX: Final = 4 * MIB
ROW_OVERHEAD_BYTES: Final = 16
_QUESTION_BYTES_MAX: Final = FRAME_OPERATIONS_MAX * (KEY_BYTES_MAX + 64) + 64 * KIB
_GID_MAX: Final = 2**31 - 1
_PAGE: Final = 200


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


class Rows(NamedTuple):
    """A page; `more` says whether keys with the prefix may follow its last one."""

    epoch: int
    more: bool
    rows: tuple[Listed, ...]


Page: TypeAlias = Rows | Answer | Refusal


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
    status: Status
    config_number: int = 0
    applied: int = 0
    pages: tuple[Page, ...] = ()


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
    mark = Mark(integer(epoch, "epoch"), integer(index, "index"))
    return From(ShardId(integer(shard, "shard", most=SLOTS - 1)), after, mark)


def encode_list_reply(reply: ListReply) -> bytes:
    pages = [
        (_PAGE, *page) if isinstance(page, Rows) else wire_refusal(page) for page in reply.pages
    ]
    return pack((FORMAT, reply.status, reply.config_number, reply.applied, pages))


def decode_list_reply(body: bytes) -> ListReply:
    """Raises:
    BadFrame: not such a reply.
    """
    status, config_number, applied, pages = unpack(body, 4)
    if type(pages) is not list or len(pages) > FRAME_OPERATIONS_MAX:
        raise BadFrame("a reply holds a list of pages")
    return ListReply(
        status_of(status),
        integer(config_number, "config number"),
        integer(applied, "index"),
        tuple([_page(page) for page in pages]),
    )


def _page(fields: Any) -> Page:
    if type(fields) is not list or len(fields) != 4 or fields[0] != _PAGE:
        return refusal_of(fields)
    _, epoch, more, rows = fields
    if type(more) is not bool or type(rows) is not list or len(rows) > PAGE_ROWS_MAX:
        raise BadFrame(f"a page holds at most {PAGE_ROWS_MAX} rows")
    return Rows(integer(epoch, "epoch"), more, tuple([_listed(row) for row in rows]))


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
    room = _Room(min(frame.rows_max, PAGE_ROWS_MAX), min(frame.bytes_max, PAGE_BYTES_MAX))
    pages: list[Page] = []
    for at, start in enumerate(frame.starts):
        if start.mark.epoch and not reads.covers(start.shard, start.mark):
            pages.append(Refusal(Trouble.BEHIND, reads.age_ms))
        elif room.is_full:
            pages.append(Refusal(Trouble.REPLY_FULL))
        else:
            rows = server.replica.store.reader
            found = machine.scan(rows, start.shard, frame.prefix, start.after)
            if isinstance(found, Answer):
                pages.append(found)
                continue
            listed, more = room.take(found, frame.values, len(frame.starts) - at)
            pages.append(Rows(machine.record(start.shard).taken, more, listed))
    return ListReply(Status.ANSWERED, machine.number, applied, tuple(pages))


class _Room:
    """What is left of an answer. Each page gets an equal share of what the ones before left."""

    def __init__(self, rows: int, bytes_: int) -> None:
        self._rows, self._bytes, self._scan = rows, bytes_, SCAN_BYTES_MAX

    @property
    def is_full(self) -> bool:
        return self._rows <= 0 or self._bytes <= 0 or self._scan <= 0

    def take(
        self, found: Iterator[tuple[bytes, Row]], values: bool, pages: int
    ) -> tuple[tuple[Listed, ...], bool]:
        """The rows that fit, one at least; and whether more may follow."""
        rows, bytes_, scan = (-(-left // pages) for left in (self._rows, self._bytes, self._scan))
        taken: list[Listed] = []
        more = False
        for key, row in found:
            assert row.value is not None, "a row that is stored has a value"
            size = len(key) + ROW_OVERHEAD_BYTES + (len(row.value) if values else 0)
            if taken and (rows < 1 or bytes_ < size or scan < len(row.value)):
                more = True
                break
            taken.append(Listed(key, row.version, row.value if values else None))
            rows, bytes_, scan = rows - 1, bytes_ - size, scan - len(row.value)
            self._rows -= 1
            self._bytes -= size
            self._scan -= len(row.value)
        return tuple(taken), more
