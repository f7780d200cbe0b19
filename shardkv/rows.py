"""The rows of a group's state machine: what their keys and values look like.

========================================  =========================================================
key (below group and install)             value
========================================  =========================================================
`c`                                       format, the encoded configuration
`r` u16 shard                             the shard's record: phase, numbers, where its copy stands
`s` u16 shard, u64 generation, `b` ...    what sessions' batches were answered (`batches.py`)
`s` u16 shard, u64 generation, `d` key    a client's row: format, u64 version, the value
`s` u16 shard, u64 generation, `h`        format, u64: the highest version of any deleted key, or
                                          that any lost entry may have given (`held.py`)
`s` u16 shard, u64 generation, `t` ...    the session table (`raft/sessions.py`)
`s` u16 shard, u64 generation, `i`, `j`   names that clients gave their requests (`once.py`)
`m` u16 shard, u64 copy id, u64 counter   a *change row*: the key, below the prefix of the copy, of
                                          a row put or deleted since the copy began
========================================  =========================================================

Everything of one copy of a shard lies under one prefix, so it is moved as rows, data, sessions,
counter and floors alike, and it comes and goes by a change of its record alone. Numbers are
big-endian, so keys are in the order of their numbers. Client keys come last and are kept exactly:
whatever bytes they are, they reach no other row.

Why late clean-up and late chunks touch nothing alive (invariant S8): the *generation* is the index
of the entry that began this copy here. An index is applied once and only one copy of a shard
begins at it, so no two copies of a shard in one group ever have one prefix. The *copy id*, under
which change rows lie, is the index of the entry that began the giving out, and is unique likewise.

A *cursor* says how far a copy has come, and ascends: the key, below the prefix, of the next row;
then `changes_cursor(counter)`, the next change row. It is above every key.
"""

from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.phases import Phase
from shardkv.types import NO_COPY, NO_GENERATION, CopyId, Generation, Row, Version

CONFIG_KEY: Final = b"c"
RECORDS: Final = (b"r", b"s")
"""The range `[lo, hi)` of the keys of all records."""
COPIES: Final = (b"s", b"t")
"""The range `[lo, hi)` of the keys of all copies, dead ones too."""
CHANGES: Final = (b"m", b"n")
"""The range `[lo, hi)` of the keys of all change rows, dead ones too."""

DATA: Final = b"d"
HIGHEST_DELETED: Final = b"h"
SESSIONS: Final = b"t"
COPY_END: Final = b"\xff"
"""Above every key under a copy's prefix."""

_FORMAT: Final = 1
_RECORD_FORMAT: Final = 2
_RECORD_KEY: Final = Struct(">cH")
_PREFIX: Final = Struct(">cHQ")
_COUNTER: Final = Struct(">Q")
_VERSION: Final = Struct(">BQ")
_PREFIX_END: Final = COPY_END * (_COUNTER.size + 1)
_FORMAT_BYTE: Final = bytes([_FORMAT])
ROW_OVERHEAD_BYTES: Final = _VERSION.size
DATA_KEY_BYTES: Final = _PREFIX.size + len(DATA)
"""What stands before the client's key in a data row's."""


class RowDamaged(Exception):
    """A row does not read as this version writes it: the replica must stop."""

    def __init__(self, key: bytes, row: bytes) -> None:
        super().__init__(f"row {key[:64].hex()} of {len(row)} bytes begins {row[:16].hex()}")
        self.key = key


class ShardRecord(NamedTuple):
    """What a group knows of a shard, as a row and as its mirror in memory.

    `number` is the highest configuration that has moved the shard here: a step of an older one
    changes nothing (invariant S7). Invariants: `taken <= number`; a shard that is not settled has
    `number` equal to the group's configuration, since the next waits for it.
    """

    phase: Phase = Phase.ABSENT
    number: ConfigNumber = ConfigNumber(0)
    taken: ConfigNumber = ConfigNumber(0)
    """The highest configuration under which the shard was taken over here; it never falls, so it
    still answers a source's question (is (shard, >= n) in?) after the shard has moved on."""
    generation: Generation = NO_GENERATION
    """Under which the rows lie, live or staged; NO_GENERATION exactly when ABSENT."""
    peer: GroupId = GroupId(0)
    """ARRIVING: the source. MOVING, LEAVING: the owner of `number`. Otherwise 0."""
    copy_id: CopyId = NO_COPY
    """MOVING, LEAVING: of the copy given out. ARRIVING: of the one staged; NO_COPY before any."""
    cursor: bytes = b""
    """ARRIVING: what to stage next."""
    restarts: int = 0
    """MOVING: how often the copy began again."""


ABSENT_RECORD: Final = ShardRecord()


def record_key(shard: ShardId) -> bytes:
    return _RECORD_KEY.pack(b"r", shard)


def record_shard(key: bytes) -> ShardId:
    """The shard that a key within `RECORDS` is of."""
    if len(key) != _RECORD_KEY.size:
        raise RowDamaged(key, b"")
    return ShardId(_RECORD_KEY.unpack(key)[1])


def encode_record(record: ShardRecord) -> bytes:
    data: bytes = msgpack.packb((_RECORD_FORMAT, *record))
    return data


def decode_record(key: bytes, row: bytes) -> ShardRecord:
    """Raises RowDamaged."""
    fields = _fields(key, row, len(ShardRecord._fields))
    phase, number, taken, generation, peer, copy_id, cursor, restarts = fields
    numbers = (phase, number, taken, generation, peer, copy_id, restarts)
    if (
        any(type(n) is not int or n < 0 for n in numbers)
        or phase not in Phase._value2member_map_
        or type(cursor) is not bytes
    ):
        raise RowDamaged(key, row)
    return ShardRecord(Phase(phase), *fields[1:])


def prefix_of(shard: ShardId, generation: Generation) -> bytes:
    """What the key of every row of this copy begins with."""
    return _PREFIX.pack(b"s", shard, generation)


def changes_prefix(shard: ShardId, copy_id: CopyId) -> bytes:
    """What the key of every change row of this copy begins with."""
    return _PREFIX.pack(b"m", shard, copy_id)


def change_key(prefix: bytes, counter: int) -> bytes:
    """The key of a change row below its `changes_prefix`; counters are from 0."""
    return prefix + _COUNTER.pack(counter)


def change_counter(key: bytes) -> int:
    """The counter of a change row's key."""
    if len(key) != _PREFIX.size + _COUNTER.size:
        raise RowDamaged(key, b"")
    counter: int = _COUNTER.unpack_from(key, _PREFIX.size)[0]
    return counter


def changes_cursor(counter: int) -> bytes:
    """The cursor of a copy whose rows are done, at a change row."""
    return COPY_END + _COUNTER.pack(counter)


ROWS_DONE: Final = changes_cursor(0)


def counter_at(cursor: bytes) -> int | None:
    """Which change row a cursor stands at; None: it is still among the rows.

    Raises:
        ValueError: It is no cursor.
    """
    if not cursor.startswith(COPY_END):
        return None
    if len(cursor) != len(ROWS_DONE):
        raise ValueError(f"no cursor: {cursor[:16].hex()}")
    counter: int = _COUNTER.unpack_from(cursor, len(COPY_END))[0]
    return counter


def copy_of(key: bytes) -> tuple[ShardId, Generation]:
    """Which copy a key within `COPIES` belongs to; within `CHANGES`: its shard and copy id."""
    if len(key) < _PREFIX.size:
        raise RowDamaged(key, b"")
    _, shard, generation = _PREFIX.unpack_from(key)
    return ShardId(shard), Generation(generation)


def end_of_copy(prefix: bytes) -> bytes:
    """Above every row of one copy, and above its change rows, by what their keys begin with."""
    return prefix + _PREFIX_END


def after_prefix(prefix: bytes) -> bytes:
    """The least key above every key that begins with `prefix`, which has a byte below 0xff."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1])


def encode_row(version: int, value: bytes) -> bytes:
    return _VERSION.pack(_FORMAT, version) + value


def decode_row(key: bytes, row: bytes) -> Row:
    """Raises RowDamaged."""
    if len(row) < ROW_OVERHEAD_BYTES or row[0] != _FORMAT:
        raise RowDamaged(key, row)
    return Row(row[ROW_OVERHEAD_BYTES:], Version(_VERSION.unpack_from(row)[1]))


def row_version(key: bytes, row: bytes) -> int:
    """The version alone, without a copy of the value. Raises RowDamaged."""
    if len(row) < ROW_OVERHEAD_BYTES or row[0] != _FORMAT:
        raise RowDamaged(key, row)
    version: int = _VERSION.unpack_from(row)[1]
    return version


def encode_version(version: int) -> bytes:
    return _VERSION.pack(_FORMAT, version)


def encode_config_row(config: bytes) -> bytes:
    return _FORMAT_BYTE + config


def decode_config_row(row: bytes) -> bytes:
    """The encoded configuration. Raises RowDamaged."""
    if row[:1] != _FORMAT_BYTE:
        raise RowDamaged(CONFIG_KEY, row)
    return row[1:]


def _fields(key: bytes, row: bytes, count: int) -> list[Any]:
    try:
        fields = msgpack.unpackb(row)
    except (ValueError, msgpack.UnpackException) as error:
        raise RowDamaged(key, row) from error
    if type(fields) is not list or len(fields) != 1 + count or fields[0] != _RECORD_FORMAT:
        raise RowDamaged(key, row)
    return fields[1:]
