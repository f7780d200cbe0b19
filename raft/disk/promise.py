"""The promise: a second witness of what this node must not forget.

LevelDB opens without a word after its log was cut or deleted, paranoid checks or not (measured). So
each node keeps one record beside it, in two slots written in turn in place: who the node is, each
group's term and vote, and the *write number* of the log database, a counter in every synced batch
that never falls (an index would not do: truncation rightly lowers it). A log found behind its
promise has lost what this node told others, and the node refuses to start.

The rules that keep a healthy node from ever looking guilty:

1. The record names only what a returned fsync of the log covers. It is written after it, never
   beside it: whatever instruction the power fails at, the log is at least as far as the promise.
2. The slot written is never the one that holds the newest valid record. A torn slot is what a power
   cut leaves in the middle of a write; the other one then speaks.
3. A message that shows a new term or vote waits for the record that names it. Entries do not wait:
   the record follows within `FOLLOWS_SECONDS`, and when the store is closed.
"""

import asyncio
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

import msgpack

from raft.disk.records import CLUSTER_BYTES, NUMBER_MAX, START_AGAIN, USE_NEWER, NodeIdentity
from raft.errors import DataUnusable
from raft.ports import Slot
from raft.types import GroupId, HardState, NodeId, ReplicaId, Term

FORMAT: Final = 1
FOLLOWS_SECONDS: Final = 0.1
"""How long the promise may lag behind synced entries."""

_HEAD: Final = Struct(">4sII")  # magic, length of the body, its checksum; the same in all formats
_MAGIC: Final = b"vow\n"
_VOW: Final = Struct(">4Q")  # gid, replica id, term, vote


class Vow(NamedTuple):
    """What one replica of this node told its group."""

    gid: GroupId
    replica: ReplicaId
    hard_state: HardState


class Promise(NamedTuple):
    """The record: what the log database must at least hold."""

    sequence: int  # of promises written, from 1
    identity: NodeIdentity
    write_number: int
    vows: tuple[Vow, ...]


def encode_promise(
    sequence: int, identity: NodeIdentity, write_number: int, vows: Iterable[bytes]
) -> bytes:
    """A promise for a slot; `vows` come encoded, each once changed."""
    fields = (sequence, *identity, write_number, b"".join(vows))
    body = bytes([FORMAT]) + msgpack.packb(fields)
    return _HEAD.pack(_MAGIC, len(body), crc32(body)) + body


def encode_vow(gid: GroupId, replica: ReplicaId, state: HardState) -> bytes:
    return _VOW.pack(gid, replica, *state)


def decode_promise(raw: bytes) -> Promise | None:
    """The promise in a slot, None if the slot is empty, torn or damaged.

    What an older, longer record left behind the new one is no part of it.

    Raises:
        DataUnusable: the slot is whole, and of a newer format.
    """
    if len(raw) < _HEAD.size:
        return None
    magic, length, checksum = _HEAD.unpack_from(raw)
    body = raw[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or len(body) != length or length < 1 or crc32(body) != checksum:
        return None
    if body[0] != FORMAT:
        raise DataUnusable(
            f"promise: it has format {body[0]}, this version reads format {FORMAT}. {USE_NEWER}"
        )
    try:
        sequence, cluster, node, write_number, vows = msgpack.unpackb(body[1:])
    except (ValueError, msgpack.UnpackException):
        return None
    types = (type(sequence), type(cluster), type(node), type(write_number), type(vows))
    if types != (int, bytes, str, int, bytes) or len(cluster) != CLUSTER_BYTES:
        return None
    if len(vows) % _VOW.size or not (
        0 < sequence <= NUMBER_MAX and 0 <= write_number <= NUMBER_MAX
    ):
        return None
    return Promise(
        sequence,
        NodeIdentity(cluster, NodeId(node)),
        write_number,
        tuple(
            Vow(GroupId(gid), ReplicaId(replica), HardState(Term(term), ReplicaId(vote)))
            for gid, replica, term, vote in _VOW.iter_unpack(vows)
        ),
    )


class Found(NamedTuple):
    """What the two slots hold: the newer promise and the slot it lies in; None if neither."""

    promise: Promise | None
    slot: int
    whole: int  # how many of the two slots hold a valid promise
    damaged: int  # how many hold something else

    @property
    def written(self) -> bool:
        """Whether either slot was ever written."""
        return self.whole + self.damaged > 0


def find_promise(slots: Sequence[Slot]) -> Found:
    """Read both slots and choose the newer valid promise."""
    raws = [slot.read() for slot in slots]
    best, at, whole = None, 1, 0
    for number, raw in enumerate(raws):
        promise = decode_promise(raw)
        if promise is not None:
            whole += 1
            if best is None or promise.sequence > best.sequence:
                best, at = promise, number
    return Found(best, at, whole, sum(1 for raw in raws if raw) - whole)


def no_promise() -> DataUnusable:
    return DataUnusable(
        f"promise: both slots are damaged or gone, so nothing says what this node promised. "
        f"{START_AGAIN}"
    )


class PromiseKeeper:
    """Writes the promise as the log moves on, one slot write at a time.

    `ticket`s number the promises: the one a replica's term and vote is first named in is what its
    messages wait for.

    Args:
        slots: The two slots, written in turn.
        found: What they hold; a new promise goes to the other slot.
        write_number: The log's, as far as it is durable.
    """

    def __init__(
        self, slots: tuple[Slot, Slot], identity: NodeIdentity, found: Found, write_number: int
    ) -> None:
        self._slots, self._identity = slots, identity
        self._slot = found.slot
        self._sequence = found.promise.sequence if found.promise is not None else 0  # begun
        self._written = self._sequence  # and of those, written
        self._named = 0  # the write number in the last promise begun
        self._covered = 0  # and in the last one written
        self._durable = write_number
        self._vows: dict[GroupId, bytes] = {}
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._writing: asyncio.Future[None] | None = None
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._again = False

    @property
    def written(self) -> int:
        """The ticket of the last promise that is on disk."""
        return self._written

    def synced(self, write_number: int) -> None:
        """The log is durable up to `write_number`; say so within `FOLLOWS_SECONDS`."""
        self._durable = write_number
        if self._later is None and self._soon is None and not self._again:
            loop = asyncio.get_running_loop()
            self._later = loop.call_later(FOLLOWS_SECONDS, self._begin)

    def vow(self, gid: GroupId, replica: ReplicaId, state: HardState) -> int:
        """Name a durable term and vote in the next promise; return its ticket."""
        self._vows[gid] = encode_vow(gid, replica, state)
        return self._next()

    def forget(self, gid: GroupId) -> int:
        """Name a replica no more: its removal is durable in the log."""
        self._vows.pop(gid, None)
        return self._next()

    def restore(self, vows: Iterable[Vow]) -> None:
        """Take over what the log holds at the start; it is named in every promise from here on."""
        for vow in vows:
            self._vows[vow.gid] = encode_vow(*vow)

    def when(self, ticket: int, done: "asyncio.Future[None]") -> None:
        """Resolve `done` once the promise `ticket` is on disk; in call order."""
        if ticket <= self._written:
            _resolve(done)
        else:
            self._waiting.append((ticket, done))

    async def write_now(self) -> None:
        """Return once a promise with everything said so far is on disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when(self._next(), done)
        await done

    async def close(self) -> None:
        """Write what is not yet said, and no more after that."""
        under_way = self._writing is not None or self._soon is not None
        if under_way or self._covered < self._durable:
            await self.write_now()
        self.abandon()

    def abandon(self) -> None:
        """Stop without another write, as a crash would."""
        for timer in (self._soon, self._later):
            if timer is not None:
                timer.cancel()

    def _next(self) -> int:
        """The ticket of the next promise to begin, which will not be long."""
        if self._writing is not None:
            self._again = True
        elif self._soon is None:
            # After the other callbacks of this turn: replicas that voted together wait together.
            self._soon = asyncio.get_running_loop().call_soon(self._begin)
        return self._sequence + 1

    def _begin(self) -> None:
        if self._writing is not None:  # the timer's call: that promise was begun without it
            self._later, self._again = None, True
            return
        self.abandon()
        self._soon, self._later, self._again = None, None, False
        self._sequence += 1
        self._slot = 1 - self._slot
        self._named = self._durable
        record = encode_promise(self._sequence, self._identity, self._named, self._vows.values())
        self._writing = self._slots[self._slot].write(record)
        self._writing.add_done_callback(self._done)

    def _done(self, writing: "asyncio.Future[None]") -> None:
        self._writing = None
        error = writing.exception()
        if error is None:
            self._written, self._covered = self._sequence, self._named
        waiting, self._waiting = self._waiting, []
        for ticket, done in waiting:
            if error is not None:
                if not done.done():
                    done.set_exception(error)
            elif ticket <= self._written:
                _resolve(done)
            else:
                self._waiting.append((ticket, done))
        if self._again and error is None:
            self._begin()


def _resolve(done: "asyncio.Future[None]") -> None:
    if not done.done():  # its waiter may have given up
        done.set_result(None)
