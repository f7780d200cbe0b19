"""The clerk: a client of the whole store, on the running loop.

What becomes of an operation, and how it ends, is `shardkv/operations.py`'s; which read to use says
`shardkv/consistency.py`.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from shardctrler.types import ShardId
from shardkv.commands import (
    BatchWrite,
    Op,
    check_batch,
    check_if_version,
    check_key,
    check_value,
)
from shardkv.consistency import Consistency, reading
from shardkv.errors import InvalidArgument, ShardKVError
from shardkv.limits import INTEGER_MAX, PAGE_ROWS_MAX
from shardkv.listing import Listed
from shardkv.lists import ListPage
from shardkv.once import NAME_BYTES_MAX, Once
from shardkv.operations import TIMEOUT_SECONDS, TIMEOUT_SECONDS_MAX, Controller, Operations
from shardkv.pending import BatchPending, Pending
from shardkv.read_link import ReadPending
from shardkv.tokens import ReadSession
from shardkv.types import Row, Version
from shardkv.writes import Append, BatchOperation, Delete, Put

__all__ = ["TIMEOUT_SECONDS", "TIMEOUT_SECONDS_MAX", "Clerk", "Controller"]


_PUT: Final = Op.PUT  # to look it up in the enum takes 60 ns


class Clerk(Operations):
    """A client of the store, on the running loop. Safe for any number of concurrent operations."""

    # What a user asks

    async def get(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> bytes | None:
        """The key's value; None when it is absent. Linearizable, unless asked otherwise.

        Args:
            consistency: "linearizable", "spread" or "stale"; see `shardkv/consistency.py`.
            max_age: Of a stale read: everything acknowledged so many seconds before the call is in
                the answer; 10 where not given.
            session: The answer shows at least what this session has seen, and adds to it.

        Raises:
            InvalidArgument: The key breaks a limit, or there is no such consistency.
            TooStale: No replica is known to be as new as a stale read asks for.
            Unavailable: No answer in time.
        """
        row = await self.get_row(
            key, consistency=consistency, max_age=max_age, session=session, timeout=timeout
        )
        return row.value

    async def get_row(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> Row:
        """The key's value and version; `ABSENT` (None, 0) when it is absent. As `get`."""
        how = reading(consistency, max_age)
        future = self._loop.create_future()
        if how.consistency is Consistency.LINEARIZABLE:
            pending = Pending(future, _key(key))
            pending.marks = session
        else:
            pending = ReadPending(future, _key(key), how, session)
        row: Row = await self._run(pending, timeout)
        return row

    def session(self, token: str | None = None) -> ReadSession:
        """A session whose reads, on whatever replica, show what its calls have seen before them.

        Args:
            token: `str(session)` of an earlier one, to go on from; None: from nothing.

        Raises:
            InvalidArgument: The token was cut or edited, or is another cluster's.
        """
        return ReadSession(self._cluster, token)

    async def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        if_version: int | None = None,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Version:
        """Write the key, and return its new version.

        Args:
            if_version: Write only if this is the key's version; 0: only if it is absent.
            session: Later reads of this session show the write.
            once: Names the request, in 1 to 255 bytes: of all with this name and key, in one day,
                one is done, and each gets its answer, whatever clerk they come by. So a write whose
                outcome is unknown may be repeated, also by another process.

        Raises:
            InvalidArgument: The key, value or version breaks a limit; nothing was done.
            VersionMismatch: The key has another version; nothing was done.
            Unavailable: Nobody took the write in time; it was not done.
            RequestNameReused: `once` named another request.
            OutcomeUnknown: It was sent and no answer came in time.
        """
        version = None
        if if_version is not None:
            check_if_version(_whole(if_version))
            version = Version(if_version)
        return await self._write(_PUT, key, value, version, session, once, timeout)

    async def append(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Version:
        """Add to the end of the key's value (absent counts as empty); returns the new version.

        Raises:
            ValueTooLong: The value would grow past its limit; the old one is kept.
            And what `put` raises.
        """
        return await self._write(Op.APPEND, key, value, None, session, once, timeout)

    async def delete(
        self,
        key: bytes | str,
        *,
        if_version: int | None = None,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> None:
        """Make the key absent; done too if it is absent already. Raises what `put` raises.

        Args:
            if_version: Delete only if this is the key's version.
        """
        check_if_version(_whole(if_version))
        version = None if if_version is None else Version(if_version)
        await self._write(Op.DELETE, key, b"", version, session, once, timeout)

    async def batch(
        self,
        operations: Iterable[BatchOperation],
        *,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Sequence[Version]:
        """Do all of the operations, or none: 1 to 128 of them, 1 MiB of keys and values together.

        All keys must lie in one shard; keys with the same `{tag}` do. The operations are done in
        their order, as one: each sees those before it, nobody ever sees some of them without the
        others, and the batch is repeated, answered and given up like one write.

        Args:
            operations: `Put`, `Append` and `Delete` (`shardkv/writes.py`).
            session: Later reads of this session show the batch.
            once: Names the request, as in `put`; of all batches with this name in its shard one is
                done.

        Returns:
            The new version of each operation's key, in order; 0 for a delete.

        Raises:
            InvalidArgument: A limit is broken, or the keys are not of one shard (`NotOneShard`).
            VersionMismatch, ValueTooLong: So is one operation refused; `error.operation` says
                which, from 0. Nothing of the batch was done.
            And what `put` raises.
        """
        writes = tuple([_batch_write(at, each) for at, each in enumerate(operations)])
        check_batch(writes)
        pending = BatchPending(self._loop.create_future(), writes, _named(once))
        pending.marks = session
        versions: Sequence[Version] = await self._run(pending, timeout)
        return versions

    async def shards_of(
        self, keys: Iterable[bytes | str], *, timeout: float | None = None
    ) -> Sequence[ShardId]:
        """The shard of each key, for ever; keys of one shard can be written by one `batch`.

        Raises:
            InvalidArgument: A key breaks a limit.
            Unavailable: No configuration in time, which says how many shards there are.
        """
        named = [_key(key) for key in keys]
        routing = await self._known_routing(timeout)
        return [routing(key) for key in named]

    async def list_page(
        self,
        prefix: bytes | str = b"",
        *,
        after: bytes | str | None = None,
        token: str | None = None,
        limit: int = PAGE_ROWS_MAX,
        values: bool = False,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> ListPage:
        """Keys that begin with `prefix`, at most 1,000 of them or about 1 MiB, in order.

        Args:
            token: Of the page before; it must be of the same prefix and `values`.
            limit: How many keys at most, from 1; above 1,000 it counts as 1,000.

        Raises:
            InvalidArgument: The token was cut or edited, or is of another list. And as `list`.
        """
        return await self._lists.page(
            _octets(prefix, "prefix"),
            after=None if after is None else _octets(after, "after"),
            token=token,
            limit=limit,
            values=values,
            consistency=consistency,
            max_age=max_age,
            session=session,
            timeout=timeout,
        )

    def list(
        self,
        prefix: bytes | str = b"",
        *,
        after: bytes | str | None = None,
        limit: int | None = None,
        values: bool = False,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Listed]:
        """Keys that begin with `prefix`, in the order of their bytes over all shards.

        `async for row in kv.list("user/"): ...`. What is held at once is bounded, however many
        there are. A key that is present throughout is in it, none comes twice; but the whole is
        no snapshot: each part shows the moment at which it was read.

        Args:
            after: Only keys above this one: where an earlier list stopped.
            limit: So many keys at most; None: all.
            values: With their values; else `value` is None.
            timeout: Seconds that each page may take.

        Raises:
            InvalidArgument: A limit is broken, or there is no such consistency.
            TooStale, Unavailable: The next page did not come; go on after the last key.
        """
        return self._lists.rows(
            _octets(prefix, "prefix"),
            after=None if after is None else _octets(after, "after"),
            limit=limit,
            values=values,
            consistency=consistency,
            max_age=max_age,
            session=session,
            timeout=timeout,
        )

    async def _write(
        self,
        op: Op,
        key: bytes | str,
        value: bytes | str,
        if_version: Version | None,
        session: ReadSession | None,
        once: Once | str | bytes | None,
        timeout: float | None,
    ) -> Version:
        future, data = self._loop.create_future(), _key(key)
        named = _named(once)
        name = None if named is None else named.for_key(data)
        pending = Pending(future, data, op, _value(value), if_version, name)
        pending.marks = session
        version: Version = await self._run(pending, timeout)
        return version


def _batch_write(at: int, operation: BatchOperation) -> BatchWrite:
    """Operation `at` of a batch, its key and value as bytes."""
    try:
        match operation:
            case Put(key, value, if_version):
                op = Op.PUT
            case Append(key, value, if_version):
                op = Op.APPEND
            case Delete(key, if_version):
                op, value = Op.DELETE, b""
            case _:
                raise InvalidArgument(
                    f"must be a Put, an Append or a Delete, not {type(operation).__name__}"
                )
        version = _whole(if_version)
        return BatchWrite(
            op,
            _octets(key, "key"),
            _octets(value, "value"),
            None if version is None else Version(version),
        )
    except ShardKVError as error:
        error.operation = at
        raise


def _key(key: bytes | str) -> bytes:
    data = _octets(key, "key")
    check_key(data)
    return data


def _value(value: bytes | str) -> bytes:
    data = _octets(value, "value")
    check_value(data)
    return data


def _named(once: Once | str | bytes | None) -> Once | None:
    """A request's name as it travels."""
    if once is None or isinstance(once, Once):
        return once
    name = _octets(once, "once")
    if not 1 <= len(name) <= NAME_BYTES_MAX:
        raise InvalidArgument(f"once must be 1 to {NAME_BYTES_MAX} bytes, not {len(name)}")
    return Once.named(name)


def _octets(value: object, what: str) -> bytes:
    """Bytes as they are; text as UTF-8."""
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{what} is text that is not valid Unicode") from None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise InvalidArgument(f"{what} must be bytes or str, not {type(value).__name__}")


def _whole(version: object) -> int | None:
    if version is None or type(version) is int:
        return version
    raise InvalidArgument(
        f"if_version must be a whole number in 0 to {INTEGER_MAX}, not {type(version).__name__}"
    )
