"""Batches: several writes to keys of one shard, all of them done or none (pure).

A batch is one command of its shard's log, with one sequence of one session. What must hold, and
why it does:

1. *All or nothing, in every state that anybody can see.* The machine does the writes on rows that
   nobody else sees (`StoreMachine._write_all`) and hands them on only when the last one is done;
   the first refusal (a version, an append past the limit) drops them all, and the mirror of the
   highest deleted version with them. What is handed on goes into the batch of its entry, with the
   session's answer, and is durable, snapshotted and replayed with it or not at all.
2. *Also while the shard moves.* Each row handed on has its change row in the same entry, and those
   who give out change rows see whole entries only. A copy under way may have one half, like
   anything in it, and is served by nobody before its `Install`, whose end lies after the other.
   A batch that is applied after the freeze touches nothing, its session neither (S9), and is
   fresh where the shard goes.
3. *In order.* A write sees those before it: two appends to one key build on each other, and an
   `if_version` is compared with the version that the batch itself has made by then.
4. *Once* (C3, C5). `SessionTable` knows a batch by one digest of all its writes. A recorded answer
   is small, and a batch answers a version for each operation: so these lie in a row beside the
   session's, written in the same batch, moved with the shard, and forgotten with the session. A
   repetition is answered from it: the same versions, wherever the shard is by then.
5. *Alike everywhere.* Rows are handed on in the order in which the writes first touched them.

Keys lie in one shard because the door says so (`GroupServer`): machines do not know the routing.

The row of a session's batches, under the prefix of the copy:

===========================  ======================================================================
`b` u64 session              format, then of each batch done: u64 seq, u16 count, u64 version, ...
===========================  ======================================================================

It loses what is below the floor when the next batch of the session is done; so it is never longer
than a session's window of batches.
"""

from struct import Struct
from typing import Final

from raft.ports import Reader, Rows
from shardkv.rows import RowDamaged

_KIND: Final = b"b"
_FORMAT: Final = 1
_FORMAT_BYTE: Final = bytes([_FORMAT])
_SESSION: Final = Struct(">Q")
_HEAD: Final = Struct(">QH")
_VERSION_BYTES: Final = 8


def remember(
    rows: Rows, prefix: bytes, session: int, seq: int, floor: int, versions: tuple[int, ...]
) -> None:
    """Write down what batch `seq` of a session is answered.

    Args:
        prefix: Of the shard's copy.
        floor: What lies below it may be forgotten; at most the session's own.
    """
    key = _key(prefix, session)
    kept = [record for at, record in _records(key, rows.get(key)) if at >= floor]
    kept.append(_HEAD.pack(seq, len(versions)) + Struct(f">{len(versions)}Q").pack(*versions))
    rows.put(key, _FORMAT_BYTE + b"".join(kept))


def recall(rows: Reader, prefix: bytes, session: int, seq: int) -> tuple[int, ...]:
    """What batch `seq` was answered, whose session has recorded that it was done."""
    key = _key(prefix, session)
    for at, record in _records(key, rows.get(key)):
        if at == seq:
            count = (len(record) - _HEAD.size) // _VERSION_BYTES
            return Struct(f">{count}Q").unpack_from(record, _HEAD.size)
    raise AssertionError(f"session {session} has done batch {seq}, whose versions are gone")


def forget(rows: Rows, prefix: bytes, session: int) -> None:
    """The session is gone, and what its batches were answered with it."""
    key = _key(prefix, session)
    if rows.get(key) is not None:
        rows.delete(key)


def _key(prefix: bytes, session: int) -> bytes:
    return prefix + _KIND + _SESSION.pack(session)


def _records(key: bytes, row: bytes | None) -> list[tuple[int, bytes]]:
    """Each batch's sequence and its record, in the order in which they were done."""
    if row is None:
        return []
    if row[:1] != _FORMAT_BYTE:
        raise RowDamaged(key, row)
    found = []
    at = len(_FORMAT_BYTE)
    while at < len(row):
        if at + _HEAD.size > len(row):
            raise RowDamaged(key, row)
        seq, count = _HEAD.unpack_from(row, at)
        end = at + _HEAD.size + count * _VERSION_BYTES
        if end > len(row):
            raise RowDamaged(key, row)
        found.append((seq, row[at:end]))
        at = end
    return found
