"""`GET /kv?prefix=`: keys in their order, a page at a time or streamed.

A key or value that is not UTF-8 shows as `key_base64` or `value_base64`. A stream is one JSON
object a line; its last line says that it is whole (`{"end":true,...}`) or why it is not
(`{"problem":...}`), so a connection that was cut is never taken for the end.
"""

import json
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, Final

from shardctrler.errors import ShardCtrlerError
from shardkv.clerk import Clerk
from shardkv.errors import ShardKVError
from shardkv.http.keys import SESSION, Asked, ClerkSource
from shardkv.http.limits import LISTINGS_MAX
from shardkv.http.problems import Bad, Problem, internal, not_ready, problem_of, retry_after
from shardkv.http.replies import Reply, Streamed, json_reply
from shardkv.http.requests import (
    JSON,
    header,
    how_of,
    query_of,
    query_whole,
    text_of,
    wanted,
)
from shardkv.limits import INTEGER_MAX, PAGE_ROWS_MAX
from shardkv.listing import Listed

LINES: Final = "application/x-ndjson"
_PIECE_BYTES: Final = 16 * 1024
"""Lines are sent together when they are so long."""


class Listing:
    """The handler of `GET /kv`."""

    def __init__(self, clerk: ClerkSource) -> None:
        self._clerk_now = clerk
        self._streams = 0

    async def list_(self, asked: Asked) -> Reply | Streamed:
        query = query_of(
            asked.query,
            *("prefix", "after", "limit", "token", "values"),
            *("consistency", "max_age", "timeout"),
        )
        how = how_of(query)
        values = _truth(query.get("values", b"false"))
        form = wanted(asked.headers, JSON, LINES)
        if header(asked.headers, SESSION) is not None:
            raise Bad("a list takes no session over HTTP")
        prefix, after = query.get("prefix", b""), query.get("after")
        clerk = self._clerk()
        if form == LINES:
            if "token" in query:
                raise Bad("a stream takes after=KEY instead of a token")
            limit = query_whole(query, "limit", 0, 1, INTEGER_MAX) or None
            rows = clerk.list(
                prefix,
                after=after,
                limit=limit,
                values=values,
                consistency=how.consistency,
                max_age=how.max_age,
                timeout=how.timeout,
            )
            return await self._stream(rows)
        token = query.get("token")
        page = await clerk.list_page(
            prefix,
            after=after,
            token=None if token is None else text_of(token, "token"),
            limit=min(query_whole(query, "limit", PAGE_ROWS_MAX, 1, INTEGER_MAX), PAGE_ROWS_MAX),
            values=values,
            consistency=how.consistency,
            max_age=how.max_age,
            timeout=how.timeout,
        )
        return json_reply({"keys": [row_document(row) for row in page.rows], "token": page.token})

    async def _stream(self, rows: AsyncIterator[Listed]) -> Streamed:
        """The first row is awaited before the answer begins, so that what is wrong from the start
        has its own status."""
        if self._streams >= LISTINGS_MAX:
            raise Problem(429, "overloaded", f"{LISTINGS_MAX} lists are being sent", retry_after())
        self._streams += 1
        try:
            first = await anext(rows, None)
        except BaseException:
            self._streams -= 1
            raise
        return Streamed(LINES, self._lines(first, rows), self._ended)

    def _ended(self) -> None:
        self._streams -= 1

    async def _lines(
        self, first: Listed | None, rows: AsyncIterator[Listed]
    ) -> AsyncIterator[bytes]:
        count = 0
        gathered: list[bytes] = []
        size = 0
        try:
            row = first
            while row is not None:
                line = _line(row_document(row))
                gathered.append(line)
                count, size = count + 1, size + len(line)
                if size >= _PIECE_BYTES:
                    yield b"".join(gathered)
                    gathered, size = [], 0
                row = await anext(rows, None)
            gathered.append(_line({"end": True, "keys": count}))
        except (ShardKVError, ShardCtrlerError) as error:
            gathered.append(_line({"problem": json.loads(problem_of(error).body())}))
        except Problem as problem:
            gathered.append(_line({"problem": json.loads(problem.body())}))
        except Exception:
            gathered.append(_line({"problem": json.loads(internal().body())}))
            yield b"".join(gathered)
            raise
        yield b"".join(gathered)

    def _clerk(self) -> Clerk:
        clerk = self._clerk_now()
        if clerk is None:
            raise not_ready("the node is starting")
        return clerk


def row_document(row: Listed) -> dict[str, Any]:
    """One row of a list."""
    document: dict[str, Any] = {**_shown("key", row.key), "version": row.version}
    if row.value is not None:
        document |= _shown("value", row.value)
    return document


def _shown(name: str, data: bytes) -> dict[str, str]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data).decode()}


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _truth(raw: bytes) -> bool:
    if raw not in {b"true", b"false"}:
        raise Bad("values must be true or false")
    return raw == b"true"
