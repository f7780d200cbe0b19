"""Single keys: `/kv/{key}` and `/append/{key}`, and the older `/get` and `/set`; and batches.

Each handler parses, asks the clerk once, and says what became of it; whatever is wrong with a
request is found before anything is done.
"""

import re
from typing import Final, NamedTuple, Protocol

from shardkv.clerk import Clerk
from shardkv.commands import check_key
from shardkv.http.batching import operations_of
from shardkv.http.bodies import Body
from shardkv.http.limits import BATCH_BODY_BYTES_MAX, JSON_BODY_BYTES_MAX, RAW_BODY_BYTES_MAX
from shardkv.http.problems import Bad, Problem, not_ready
from shardkv.http.replies import (
    APPENDED,
    DELETED,
    STORED,
    Headers,
    Reply,
    etag,
    json_reply,
    key_text,
    row_reply,
    text_reply,
    written_reply,
)
from shardkv.http.requests import (
    JSON,
    OCTETS,
    Condition,
    condition_of,
    header,
    how_of,
    is_known,
    key_of,
    media_type,
    put_value,
    query_of,
    text_of,
    timeout_of,
    wanted,
)
from shardkv.once import NAME_BYTES_MAX, Once
from shardkv.tokens import ReadSession

IDEMPOTENCY: Final = b"idempotency-key"
_NAME: Final = re.compile(rb"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
SESSION: Final = b"shardkv-session"
"""`new`, or an earlier answer's token: reads show at least what the session has seen."""


class Asked(NamedTuple):
    """One request, as the door hands it on."""

    method: str
    rest: bytes  # of the raw path, after the route's prefix
    query: bytes
    headers: Headers  # names in small letters
    body: Body
    client: str  # the peer's address


class ClerkSource(Protocol):
    """The node's clerk; None while the node is starting."""

    def __call__(self) -> Clerk | None: ...


class Keys:
    """The handlers of single keys.

    Args:
        clerk: Of this node: any node serves any key.
        get_writes: Whether `GET /set` may write (setting `http_get_writes`).
    """

    def __init__(self, clerk: ClerkSource, *, get_writes: bool) -> None:
        self._clerk_now = clerk
        self._get_writes = get_writes

    async def get(self, asked: Asked) -> Reply:
        """`GET /kv/{key}`."""
        key = key_of(asked.rest)
        how = how_of(query_of(asked.query, "consistency", "max_age", "timeout"))
        form = wanted(asked.headers, JSON, OCTETS)
        clerk = self._clerk()
        session = _session(clerk, asked.headers)
        row = await clerk.get_row(
            key,
            consistency=how.consistency,
            max_age=how.max_age,
            session=session,
            timeout=how.timeout,
        )
        if row.value is not None and is_known(asked.headers, row.version):
            return _marked(Reply(304, b"", etag(row.version)), session)
        return _marked(row_reply(key, row, form), session)

    async def put(self, asked: Asked) -> Reply:
        """`PUT /kv/{key}`: JSON `{"value": TEXT}`, or raw bytes."""
        key, timeout, condition = _write_of(asked)
        once = self._once(asked.headers)
        value, sent = await _value(asked)
        form = _write_form(asked.headers, sent)
        if form == JSON:
            key_text(key)
        clerk = self._clerk()
        session = _session(clerk, asked.headers)
        version = await clerk.put(
            key, value, if_version=condition.if_version, session=session, once=once, timeout=timeout
        )
        shown = value if sent == JSON else None
        return _marked(written_reply(key, form, version, STORED, shown), session)

    async def append(self, asked: Asked) -> Reply:
        """`POST /append/{key}`: the body goes to the end of the value."""
        key, timeout, condition = _write_of(asked)
        once = self._once(asked.headers)
        if condition.if_version is not None:
            raise Bad("an append takes no condition")
        value, sent = await _value(asked)
        form = _write_form(asked.headers, sent)
        if form == JSON:
            key_text(key)
        clerk = self._clerk()
        session = _session(clerk, asked.headers)
        version = await clerk.append(key, value, session=session, once=once, timeout=timeout)
        return _marked(written_reply(key, form, version, APPENDED, None), session)

    async def delete(self, asked: Asked) -> Reply:
        """`DELETE /kv/{key}`; done too if it is absent already, unless `If-Match` is there."""
        key, timeout, condition = _write_of(asked)
        once = self._once(asked.headers)
        if condition.if_version == 0:
            raise Bad("a delete takes If-Match only")
        form = wanted(asked.headers, JSON, OCTETS)
        if form == JSON:
            key_text(key)
        clerk = self._clerk()
        session = _session(clerk, asked.headers)
        await clerk.delete(
            key, if_version=condition.if_version, session=session, once=once, timeout=timeout
        )
        return _marked(written_reply(key, form, 0, DELETED, None), session)

    async def batch(self, asked: Asked) -> Reply:
        """`POST /batch`: writes to keys of one shard, all done or none (`batching.py`)."""
        timeout = timeout_of(query_of(asked.query, "timeout"))
        if condition_of(asked.headers) != Condition():
            raise Bad("a batch takes its conditions as if_version of its operations")
        once = self._once(asked.headers)
        wanted(asked.headers, JSON)
        if media_type(asked.headers) != JSON:
            raise Problem(415, "unsupported-media-type", f"a batch comes as {JSON}")
        operations = operations_of(await asked.body.read(BATCH_BODY_BYTES_MAX))
        clerk = self._clerk()
        session = _session(clerk, asked.headers)
        versions = await clerk.batch(operations, session=session, once=once, timeout=timeout)
        return _marked(json_reply({"versions": versions}), session)

    async def old_get(self, asked: Asked) -> Reply:
        """`GET /get?key=`: the value, as text."""
        query = query_of(asked.query, "key", "consistency", "max_age", "timeout")
        key, how = _query_key(query), how_of(query)
        row = await self._clerk().get_row(
            key, consistency=how.consistency, max_age=how.max_age, timeout=how.timeout
        )
        if row.value is None:
            raise Problem(404, "key-not-found", "the key is absent")
        text_or_406(row.value)
        return text_reply(row.value, etag(row.version))

    async def old_set(self, asked: Asked) -> Reply:
        """`GET /set?key=&value=` where the configuration allows it, `POST /set?key=&value=`."""
        if asked.method != "POST" and not self._get_writes:
            raise Problem(
                403,
                "get-does-not-write",
                "a GET does not write here: use POST, or set http_get_writes: true",
            )
        query = query_of(asked.query, "key", "value", "timeout")
        key, timeout = _query_key(query), timeout_of(query)
        value = query.get("value")
        if value is None:
            raise Bad("the query parameter value is missing")
        version = await self._clerk().put(key, value, timeout=timeout)
        return text_reply(b"OK\n", etag(version))

    @staticmethod
    def _once(headers: Headers) -> Once | None:
        """By what a request that comes again is recognised."""
        name = header(headers, IDEMPOTENCY)
        if name is None:
            return None
        if not _NAME.fullmatch(name):
            raise Bad(f"Idempotency-Key must be 1 to {NAME_BYTES_MAX} printable ASCII characters")
        return Once.named(name)

    def _clerk(self) -> Clerk:
        clerk = self._clerk_now()
        if clerk is None:
            raise not_ready("the node is starting")
        return clerk


def _write_of(asked: Asked) -> tuple[bytes, float, Condition]:
    key = key_of(asked.rest)
    timeout = timeout_of(query_of(asked.query, "timeout")) if asked.query else timeout_of({})
    condition = condition_of(asked.headers)
    if condition.never:
        raise Problem(412, "version-mismatch", "If-Match names no version that this key can have")
    return key, timeout, condition


async def _value(asked: Asked) -> tuple[bytes, str]:
    """The value, and the media type that it came as."""
    kind = media_type(asked.headers)
    if kind == OCTETS:
        return await asked.body.read(RAW_BODY_BYTES_MAX), kind
    if kind == JSON:
        return put_value(await asked.body.read(JSON_BODY_BYTES_MAX)), kind
    raise Problem(415, "unsupported-media-type", f"a value comes as {JSON} or {OCTETS}")


def _write_form(headers: Headers, sent: str) -> str:
    """What a write is answered with: what it came as, unless the client says otherwise."""
    other = OCTETS if sent == JSON else JSON
    return wanted(headers, sent, other)


def _query_key(query: dict[str, bytes]) -> bytes:
    key = query.get("key")
    if key is None:
        raise Bad("the query parameter key is missing")
    check_key(key)
    return key


def text_or_406(value: bytes) -> None:
    """Refuse to show as text what is none."""
    try:
        value.decode()
    except UnicodeDecodeError:
        raise Problem(
            406, "value-not-text", f"the value is not UTF-8: ask /kv/ for it as {OCTETS}"
        ) from None


def _session(clerk: Clerk, headers: Headers) -> ReadSession | None:
    token = header(headers, SESSION)
    if token is None:
        return None
    return clerk.session(None if token == b"new" else text_of(token, "the session's token"))


def _marked(reply: Reply, session: ReadSession | None) -> Reply:
    if session is None:
        return reply
    return reply._replace(headers=(*reply.headers, (SESSION, str(session).encode())))
