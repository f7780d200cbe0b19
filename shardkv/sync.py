"""The store without asyncio: a blocking face on the clerk, usable from any thread.

    with shardkv.open("./store") as kv:
        kv.put("greeting", "hello")

A thread of its own runs the event loop; each call hands a coroutine over and waits. An exception
in the waiting thread, Ctrl-C above all, cancels the operation there and leaves the store usable. A
write cut off that way may have been done.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from shardctrler.types import ShardId
from shardkv import aio
from shardkv.clerk import TIMEOUT_SECONDS
from shardkv.consistency import Consistency
from shardkv.errors import Closed
from shardkv.limits import PAGE_ROWS_MAX
from shardkv.listing import Listed
from shardkv.lists import ListPage
from shardkv.once import Once
from shardkv.tokens import ReadSession
from shardkv.types import Row, Version
from shardkv.writes import BatchOperation

if TYPE_CHECKING:
    from shardkv.tls import TlsFiles

T = TypeVar("T")

CLOSE_SECONDS: Final = 10.0
"""How long `close` waits for the loop's thread to end."""
ROWS_AT_ONCE: Final = 256
"""Of a list, each time that the loop's thread is asked."""


class AsyncStore(Protocol):
    """What the clerk offers (`shardkv.clerk.Clerk`)."""

    async def get(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> bytes | None: ...

    async def get_row(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> Row: ...

    def session(self, token: str | None = None) -> ReadSession: ...

    async def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        if_version: int | None = None,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Version: ...

    async def append(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Version: ...

    async def delete(
        self,
        key: bytes | str,
        *,
        if_version: int | None = None,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> None: ...

    async def batch(
        self,
        operations: Iterable[BatchOperation],
        *,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Sequence[Version]: ...

    async def shards_of(
        self, keys: Iterable[bytes | str], *, timeout: float | None = None
    ) -> Sequence[ShardId]: ...

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
    ) -> ListPage: ...

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
    ) -> AsyncIterator[Listed]: ...


class Store:
    """A store that is open. Close it, or use it in a `with` statement."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[AsyncStore]]) -> None:
        """Start the loop's thread and open the store in it; raises what opening raises."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="shardkv", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._manager = self._wait(_call(opening))
            self._store = self._wait(self._manager.__aenter__())
        except BaseException:
            self._end_loop()
            raise

    def get(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> bytes | None:
        """The key's value; None when it is absent. Linearizable, unless asked otherwise: see
        `Clerk.get`."""
        return self._ask(
            self._store.get(
                key, consistency=consistency, max_age=max_age, session=session, timeout=timeout
            )
        )

    def get_row(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | str = Consistency.LINEARIZABLE,
        max_age: float | None = None,
        session: ReadSession | None = None,
        timeout: float | None = None,
    ) -> Row:
        """The key's value and version; (None, 0) when it is absent."""
        return self._ask(
            self._store.get_row(
                key, consistency=consistency, max_age=max_age, session=session, timeout=timeout
            )
        )

    def session(self, token: str | None = None) -> ReadSession:
        """A session whose reads, on whatever replica, show what its calls have seen before them;
        see `Clerk.session`."""
        return self._store.session(token)

    def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        if_version: int | None = None,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Version:
        """Write the key; returns its new version. See `Clerk.put` for the errors, and for `once`,
        which makes a write that may have been done safe to repeat."""
        return self._ask(
            self._store.put(
                key, value, if_version=if_version, session=session, once=once, timeout=timeout
            )
        )

    def append(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Version:
        """Add to the end of the key's value; returns the new version."""
        return self._ask(
            self._store.append(key, value, session=session, once=once, timeout=timeout)
        )

    def delete(
        self,
        key: bytes | str,
        *,
        if_version: int | None = None,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> None:
        """Make the key absent; done too if it is absent already, unless `if_version` is given."""
        self._ask(
            self._store.delete(
                key, if_version=if_version, session=session, once=once, timeout=timeout
            )
        )

    def batch(
        self,
        operations: Iterable[BatchOperation],
        *,
        session: ReadSession | None = None,
        once: Once | str | bytes | None = None,
        timeout: float | None = None,
    ) -> Sequence[Version]:
        """Do all of the operations, or none; returns the new version of each one's key. The keys
        must lie in one shard; see `Clerk.batch`."""
        return self._ask(self._store.batch(operations, session=session, once=once, timeout=timeout))

    def shards_of(
        self, keys: Iterable[bytes | str], *, timeout: float | None = None
    ) -> Sequence[ShardId]:
        """The shard of each key; keys of one shard can be written by one `batch`."""
        return self._ask(self._store.shards_of(keys, timeout=timeout))

    def list_page(
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
        """Keys that begin with `prefix`, a page at a time; see `Clerk.list_page`."""
        return self._ask(
            self._store.list_page(
                prefix,
                after=after,
                token=token,
                limit=limit,
                values=values,
                consistency=consistency,
                max_age=max_age,
                session=session,
                timeout=timeout,
            )
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
    ) -> Iterator[Listed]:
        """Keys that begin with `prefix`, in order over all shards; see `Clerk.list`."""
        if self._closed:
            raise Closed()
        rows = self._store.list(
            prefix,
            after=after,
            limit=limit,
            values=values,
            consistency=consistency,
            max_age=max_age,
            session=session,
            timeout=timeout,
        )
        while batch := self._ask(_some(rows)):
            yield from batch

    def close(self) -> None:
        """Give up what is pending and close the store; the second time does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._wait(self._manager.__aexit__(None, None, None))
        finally:
            self._end_loop()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, operation: Coroutine[Any, Any, T]) -> T:
        # In one with the look whether it is closed: what is handed to a loop that has ended is
        # never done, and its caller would wait for ever.
        with self._lock:
            if self._closed:
                operation.close()
                raise Closed()
            future = self._hand_over(operation)
        return self._result(future)

    def _wait(self, work: Awaitable[T]) -> T:
        return self._result(self._hand_over(work))

    def _hand_over(self, work: Awaitable[T]) -> "concurrent.futures.Future[T]":
        assert threading.current_thread() is not self._thread, "the loop must not wait for itself"
        return asyncio.run_coroutine_threadsafe(_coroutine(work), self._loop)

    def _result(self, future: "concurrent.futures.Future[T]") -> T:
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed() from None
        except BaseException:
            future.cancel()  # Ctrl-C here: the operation is given up there
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end_loop(self) -> None:
        """Cancel what is left on the loop, and let its thread end."""

        async def cancel_the_rest() -> None:
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        try:
            asyncio.run_coroutine_threadsafe(cancel_the_rest(), self._loop).result(CLOSE_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS)
            if not self._thread.is_alive():
                self._loop.close()


async def _some(rows: AsyncIterator[T]) -> Sequence[T]:
    """The next few; none at the end."""
    some = []
    async for row in rows:
        some.append(row)
        if len(some) == ROWS_AT_ONCE:
            break
    return some


async def _call(opening: Callable[[], T]) -> T:
    return opening()


async def _coroutine(work: Awaitable[T]) -> T:
    return await work


def open(
    path: str | PathLike[str], *, shards: int | None = None, timeout: float = TIMEOUT_SECONDS
) -> Store:
    """The whole store inside this process, on one directory, which is made when it is missing.

    Args:
        path: The store's directory.
        shards: How many shards a new store has; 64 where not given.
        timeout: Seconds that an operation may take where its caller names none.

    Raises:
        StoreInUse: it is open already, in this process or another one.
        DataUnusable: something else is there, or the data is damaged; nothing was changed.
        InvalidArgument: the number of shards is out of range, or not the store's.
    """
    return Store(lambda: aio.open(path, shards=shards, timeout=timeout))


def connect(
    endpoints: str | Sequence[str],
    *,
    timeout: float = TIMEOUT_SECONDS,
    tls: "TlsFiles | None" = None,
) -> Store:
    """A client of a running cluster.

    Args:
        endpoints: Addresses of some of its nodes for clients, `host:port`, in a text with commas
            between or as a sequence; the other nodes are learned from them.
        timeout: Seconds that an operation may take where its caller names none.
        tls: Certificates, see `aio.connect`.

    Raises:
        InvalidArgument: no address.
        Unavailable: no node answered in time.
    """
    return Store(lambda: aio.connect(endpoints, timeout=timeout, tls=tls))
