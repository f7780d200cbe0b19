"""Answers as values, and what store rows look like over HTTP. Pure."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from shardkv.http.problems import MEDIA_TYPE, Problem
from shardkv.http.requests import JSON, OCTETS
from shardkv.types import Row

Headers = tuple[tuple[bytes, bytes], ...]

_JSON_HEADERS: Final[Headers] = ((b"content-type", JSON.encode()),)
_OCTETS_HEADERS: Final[Headers] = ((b"content-type", OCTETS.encode()),)
_TEXT_HEADERS: Final[Headers] = ((b"content-type", b"text/plain; charset=utf-8"),)
_PROBLEM_HEADERS: Final[Headers] = ((b"content-type", MEDIA_TYPE.encode()),)

AS_IT_IS: Final[Headers] = ((b"x-content-type-options", b"nosniff"),)
ALWAYS: Final[Headers] = (*AS_IT_IS, (b"cache-control", b"no-store"))
"""Values are the users': no browser shall take one for a page, and no cache keep one."""

STORED: Final = "Key-value pair stored successfully"
APPENDED: Final = "Value appended successfully"
DELETED: Final = "Key-value pair deleted successfully"


class Streamed(NamedTuple):
    """An answer whose body comes piece by piece, and what to call once when it has ended."""

    media_type: str
    pieces: AsyncIterator[bytes]
    ended: Callable[[], None]


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    kept: bool = False  # its headers say how long it may be kept; else no cache keeps it


def problem_reply(problem: Problem) -> Reply:
    return Reply(problem.status, problem.body(), (*_PROBLEM_HEADERS, *problem.headers))


def json_reply(document: object, status: int = 200, headers: Headers = ()) -> Reply:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, body, (*_JSON_HEADERS, *headers))


def text_reply(body: bytes, headers: Headers = ()) -> Reply:
    return Reply(200, body, (*_TEXT_HEADERS, *headers))


def etag(version: int) -> Headers:
    """The key's version as a strong validator: no version comes twice."""
    return ((b"etag", b'"%d"' % version),)


def key_text(key: bytes) -> str:
    """The key as JSON can show it.

    Raises:
        Problem: it is not UTF-8.
    """
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise Problem(
            406, "key-not-text", f"the key is not UTF-8, which JSON needs: ask for {OCTETS}"
        ) from None


def row_reply(key: bytes, row: Row, form: str) -> Reply:
    """A key that was read.

    Raises:
        Problem: it is absent, or JSON cannot hold it.
    """
    if row.value is None:
        raise Problem(404, "key-not-found", "the key is absent")
    tag = etag(row.version)
    if form == OCTETS:
        return Reply(200, row.value, (*_OCTETS_HEADERS, *tag))
    name = key_text(key)
    try:
        value = row.value.decode()
    except UnicodeDecodeError:
        raise Problem(
            406, "value-not-text", f"the value is not UTF-8, which JSON needs: ask for {OCTETS}"
        ) from None
    return json_reply({"key": name, "value": value}, headers=tag)


def written_reply(key: bytes, form: str, version: int, message: str, value: bytes | None) -> Reply:
    """A write that is done.

    Args:
        value: What was written, shown as the seed's users know it; None: not shown.
    """
    tag = etag(version) if version else ()
    if form == OCTETS:
        return Reply(204, b"", tag)
    document = {"key": key_text(key)}
    if value is not None:
        document["value"] = value.decode()
    document["message"] = message
    return json_reply(document, headers=tag)
