"""What a clerk offers of lists: an iterator over keys, and pages with opaque tokens."""

from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgpack

from shardctrler.types import ShardId
from shardkv.consistency import Consistency, reading
from shardkv.errors import InvalidArgument
from shardkv.limits import KEY_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ROWS_MAX
from shardkv.listing import Listed
from shardkv.routing import Routing, SlotRouting
from shardkv.scan import Network, Pages, Scan, Way, pinned_shard
from shardkv.tokens import ReadSession, seal, unseal

_FORMAT: Final = 1


class ListPage(NamedTuple):
    """Rows in the order of their keys; `token` asks for what follows, None: nothing does."""

    rows: tuple[Listed, ...]
    token: str | None


class Lists:
    """Lists over all shards. `shardkv/scan.py` says what they promise.

    Args:
        network: How groups are asked.
        routing: Key to shard; None: the store's own.
        timeout: Seconds that a page may take where its caller names none.
    """

    def __init__(self, network: Network, routing: Routing | None, timeout: float) -> None:
        self._network = network
        self._routing = routing
        self._timeout = timeout

    async def rows(
        self,
        prefix: bytes,
        *,
        after: bytes | None,
        limit: int | None,
        values: bool,
        consistency: Consistency | str,
        max_age: float | None,
        session: ReadSession | None,
        timeout: float | None,
    ) -> AsyncIterator[Listed]:
        """See `Clerk.list`."""
        _check_prefix(prefix)
        if after is not None and len(after) > KEY_BYTES_MAX:
            raise InvalidArgument(f"after must be at most {KEY_BYTES_MAX} bytes, not {len(after)}")
        if limit is not None:
            _check_limit(limit)
        seconds = self._timeout if timeout is None else timeout
        if not seconds > 0:
            raise InvalidArgument(f"timeout must be a number of seconds above 0, not {seconds}")
        how = reading(consistency, max_age)
        pages = Pages(self._network, Way(prefix, values, how, session, seconds))
        nshards = await pages.shards()
        pinned = pinned_shard(self._routing or SlotRouting(nshards), prefix)
        shards = [ShardId(s) for s in range(nshards)] if pinned is None else [pinned]
        async for chunk in Scan(pages, shards, after, limit).chunks():
            for row in chunk:
                yield row

    async def page(
        self,
        prefix: bytes,
        *,
        after: bytes | None,
        token: str | None,
        limit: int,
        values: bool,
        consistency: Consistency | str,
        max_age: float | None,
        session: ReadSession | None,
        timeout: float | None,
    ) -> ListPage:
        """See `Clerk.list_page`."""
        _check_limit(limit)
        if token is not None:
            if after is not None:
                raise InvalidArgument("give a token or a key to go on after, not both")
            after = _after(token, prefix, values)
        most = min(limit, PAGE_ROWS_MAX)
        rows: list[Listed] = []
        size = 0
        found = self.rows(
            prefix,
            after=after,
            limit=most + 1,  # one more: whether anything follows
            values=values,
            consistency=consistency,
            max_age=max_age,
            session=session,
            timeout=timeout,
        )
        more = False
        async for row in found:
            size += len(row.key) + len(row.value or b"")
            if rows and (len(rows) == most or size > PAGE_BYTES_MAX):
                more = True
                break
            rows.append(row)
        return ListPage(tuple(rows), _token(prefix, values, rows[-1].key) if more else None)


def _check_prefix(prefix: bytes) -> None:
    if len(prefix) > KEY_BYTES_MAX:
        raise InvalidArgument(f"prefix must be at most {KEY_BYTES_MAX} bytes, not {len(prefix)}")


def _check_limit(limit: object) -> None:
    if type(limit) is not int or limit < 1:
        raise InvalidArgument(f"limit must be a whole number from 1 on, not {limit!r:.40}")


def _token(prefix: bytes, values: bool, after: bytes) -> str:
    packed: bytes = msgpack.packb((_FORMAT, prefix, values, after))
    return seal(packed)


def _after(token: str, prefix: bytes, values: bool) -> bytes:
    """Where a token's list goes on; it must be the same list."""
    fields = unseal(token, "page token")
    if len(fields) != 4 or fields[0] != _FORMAT or type(fields[3]) is not bytes:
        raise InvalidArgument("this page token is of another version")
    if fields[1] != prefix or fields[2] is not values:
        raise InvalidArgument("this page token is of another list; begin without one")
    after: bytes = fields[3]
    return after
