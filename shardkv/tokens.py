"""What a client has seen, so that a replica that is behind does not show it less.

A `ReadSession` gathers a *mark* for each shard that it wrote to or read from: the shard's *epoch*
and an index. A replica may serve a read of that session only if its state of the shard is at the
mark or beyond it. So within one session, key by key: a read shows the session's own writes
(read-your-writes), no read shows less than one before it (monotonic reads), and a write takes its
place after everything that the session had read or written (writes-follow-reads, monotonic writes:
it goes through the log of the shard's owner, where all that was shown is committed already).

The epoch of a shard is the number of the configuration under which its owner took it over
(`ShardRecord.taken`); the index is what the answering replica had applied. A replica at (e', i')
covers a mark (e, i)

- if e' = e and i' >= i: one configuration gives a shard to one group, so both are states of one
  log, the second not before the first;
- if e' > e: the shard has moved, or was parked and came back. Owners follow the configurations one
  by one (S2), and each takes over the frozen state of the one before (S3), frozen by an entry
  behind everything that was done there under e. So whatever the index: *at least the install* is
  at least everything of e;
- never if e' < e: that replica has not heard yet that its shard was moved away and came back.

So a token survives the shard's moves, and an epoch is compared as a whole number. Marks are of
shards: a session promises nothing about the order of two shards. The text of a token says which
cluster it is of and carries a digest, so that a token that was cut, edited or mixed up is refused
rather than believed; it is no secret and no proof of anything.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgpack

from shardctrler.types import ShardId
from shardkv.errors import InvalidArgument
from shardkv.limits import INTEGER_MAX, SLOTS

TOKEN_CHARACTERS_MAX: Final = 1024 * 1024
"""Enough for a mark of every shard that a cluster may have."""

_FORMAT: Final = 1
_DIGEST_BYTES: Final = 8


class Mark(NamedTuple):
    """A state of a shard, or one behind it. Marks of one shard are in the order of its states."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls

    def is_covered_by(self, epoch: int, applied: int) -> bool:
        """Whether a replica that holds the shard under `epoch`, with everything up to `applied`,
        shows this state or a later one; see the module's text."""
        return epoch > self.epoch or (epoch == self.epoch and applied >= self.index)


NOTHING: Final = Mark(0, 0)
"""Covered by every replica."""


class ReadSession:
    """Hand it to each call that belongs together: `kv.put(..., session=s)`, `kv.get(...)` too.

    `str(session)` is a token that another process, or a later one, goes on from:
    `kv.session(token)`. Calls of one session that are under way at once have no order.

    Args:
        cluster: Of the store that it belongs to; b"" where there is none.
        token: Where to go on; None: from nothing.

    Raises:
        InvalidArgument: the token is of another cluster, or none that was given out.
    """

    __slots__ = ("_cluster", "_marks")

    def __init__(self, cluster: bytes = b"", token: str | None = None) -> None:
        self._cluster = cluster
        self._marks: dict[ShardId, Mark] = {} if token is None else _decode(token, cluster)

    def mark(self, shard: ShardId) -> Mark:
        """What of this shard the session has seen."""
        return self._marks.get(shard, NOTHING)

    def note(self, shard: ShardId, epoch: int, index: int) -> None:
        """The session was shown a state of the shard, or made one. It never goes back."""
        mark = Mark(epoch, index)
        if mark > self.mark(shard):
            self._marks[shard] = mark

    @property
    def token(self) -> str:
        """What was seen so far, as text of letters, digits, `-` and `_`."""
        marks = sorted(dict(self._marks).items())
        body = msgpack.packb((_FORMAT, self._cluster, [(s, *mark) for s, mark in marks]))
        return seal(body)

    def __str__(self) -> str:
        return self.token


def _decode(token: str, cluster: bytes) -> dict[ShardId, Mark]:
    fields = unseal(token, "session token")
    if len(fields) != 3 or fields[0] != _FORMAT or type(fields[2]) is not list:
        raise InvalidArgument("this session token is of another version")
    if fields[1] != cluster:
        raise InvalidArgument("this session token is of another cluster")
    marks: dict[ShardId, Mark] = {}
    for row in fields[2]:
        if not _is_mark(row):
            raise InvalidArgument("this session token is of another version")
        marks[ShardId(row[0])] = Mark(row[1], row[2])
    return marks


def _is_mark(row: Any) -> bool:
    return (
        type(row) is list
        and len(row) == 3
        and all(type(number) is int and 0 <= number <= INTEGER_MAX for number in row)
        and row[0] < SLOTS
    )


# Opaque texts


def seal(body: bytes) -> str:
    """Bytes as a text that `unseal` knows again."""
    return urlsafe_b64encode(_digest(body) + body).rstrip(b"=").decode("ascii")


def unseal(text: object, what: str) -> list[Any]:
    """The fields of a sealed msgpack array.

    Raises:
        InvalidArgument: it was cut, edited, or never sealed; the message names `what`.
    """
    if type(text) is not str or not text.isascii() or len(text) > TOKEN_CHARACTERS_MAX:
        raise InvalidArgument(f"{what} must be a text that this store has given out")
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (NotBase64, ValueError):
        data = b""
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if not body or digest != _digest(body) or seal(body) != text:
        raise InvalidArgument(f"this {what} was cut or edited; begin without one")
    try:
        fields = msgpack.unpackb(body, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException):
        fields = None
    if type(fields) is not list:
        raise InvalidArgument(f"this {what} is of another version")
    return fields


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES, person=b"shardkv token").digest()
