"""What a replica gives out of a shard that leaves: the next piece of its copy (pure).

Why the copy is right although the shard is written meanwhile. Let S be the state at the copy id.
Every row put or deleted since then is named by a change row, written in the batch that changed it.
Chunks may come from any replicas that have applied the copy id, each from its own moment:

- A row that never changed since S reads the same at every moment, and some chunk has it.
- Of a row that did change, let c be the last change row that names it. The chunk that covers c was
  made by a replica which has c, so the row was read as that last change left it, or is absent as it
  was left. No later chunk has the row: no change row after c names it. An earlier one may have had
  it older, or may have missed it; the later one wins, because chunks are staged in cursor order.
  So a change row need not be followed where the replica has a later one of the same row: that one
  is in the log, every replica numbers it alike, and it lies before any end.

So a destination that has staged everything up to the end that the freeze left holds what the
freeze left: data, sessions, their counter and floors (S3, S4).
"""

from typing import NamedTuple

from raft.ports import Reader
from shardctrler.types import ConfigNumber, ShardId
from shardkv.changes import ChangeLog
from shardkv.commands import Chunk
from shardkv.limits import CHUNK_CHANGES_MAX, CHUNK_ROW_OVERHEAD_BYTES
from shardkv.rows import COPY_END, ROWS_DONE, change_counter, change_key, changes_cursor, counter_at
from shardkv.types import CopyId


class Pulled(NamedTuple):
    """What a replica gives for a pull, and how far its copy goes."""

    chunk: Chunk | None  # ready for the destination's log; None: nothing follows the cursor yet
    end: int | None  # the shard is frozen, and this is how many change rows there are
    changes_left: int  # change rows after the chunk


class Source(NamedTuple):
    """A shard that leaves, as this replica has it."""

    shard: ShardId
    number: ConfigNumber
    copy_id: CopyId
    prefix: bytes  # of its rows
    changes: ChangeLog
    frozen: bool


def pull(rows: Reader, source: Source, cursor: bytes, bytes_max: int) -> Pulled:
    """What follows `cursor`, in about `bytes_max` bytes; one row is always given."""
    counter = counter_at(cursor)
    total = source.changes.count
    end = total if source.frozen else None
    if counter is not None and counter >= total:
        return Pulled(None, end, 0)
    if counter is None:
        found, next_cursor = _rows(rows, source.prefix, cursor, bytes_max)
        left = total
    else:
        found, reached = _changed_rows(rows, source, counter, bytes_max)
        next_cursor = changes_cursor(reached)
        left = total - reached
    chunk = Chunk(source.shard, source.number, source.copy_id, cursor, next_cursor, found)
    return Pulled(chunk, end, left)


def _rows(
    rows: Reader, prefix: bytes, cursor: bytes, bytes_left: int
) -> tuple[tuple[tuple[bytes, bytes | None], ...], bytes]:
    found: list[tuple[bytes, bytes | None]] = []
    skip = len(prefix)
    for key, row in rows.range(prefix + cursor, prefix + COPY_END):
        bytes_left -= len(key) - skip + len(row) + CHUNK_ROW_OVERHEAD_BYTES
        if bytes_left < 0 and found:
            return tuple(found), key[skip:]
        found.append((key[skip:], row))
    return tuple(found), ROWS_DONE


def _changed_rows(
    rows: Reader, source: Source, counter: int, bytes_left: int
) -> tuple[tuple[tuple[bytes, bytes | None], ...], int]:
    """Each row named from `counter` on, once, but for those named later again; and the change row
    after the last one looked at."""
    prefix, skip = source.changes.prefix, len(source.changes.prefix)
    found: dict[bytes, bytes | None] = {}
    reached = counter
    end = change_key(prefix, source.changes.count)
    for at, (change, key) in enumerate(rows.range(change_key(prefix, counter), end), counter):
        assert change_counter(change) == at, (change[skip:], at)
        if at - counter >= CHUNK_CHANGES_MAX:
            break
        if key not in found and not source.changes.is_superseded(key, at):
            row = rows.get(source.prefix + key)
            bytes_left -= len(key) + len(row or b"") + CHUNK_ROW_OVERHEAD_BYTES
            if bytes_left < 0 and found:
                break
            found[key] = row
        reached = at + 1
    return tuple(sorted(found.items())), reached
