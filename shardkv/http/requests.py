"""What came over the wire, into values. Pure: no socket, no clock, no store.

A key is the raw path after the route's prefix, percent-decoded once, to bytes: `/kv/a%2Fb` and
`/kv/a/b` are the key `a/b`, `%252F` is the key `%2F`, nothing is normalised. Everything unknown is
refused: a query name, a JSON field, a second value of the same name.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from shardkv.commands import check_key
from shardkv.consistency import Consistency, reading
from shardkv.errors import InvalidArgument
from shardkv.http.limits import (
    TIMEOUT_SECONDS_DEFAULT,
    TIMEOUT_SECONDS_MAX,
    TIMEOUT_SECONDS_MIN,
    URL_BYTES_MAX,
)
from shardkv.http.problems import Bad, Problem, problem_of
from shardkv.limits import INTEGER_MAX
from shardkv.text import quoted

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"

_HEX: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_ETAG: Final = re.compile(rb'"(0|[1-9][0-9]{0,18})"')
_TIMEOUT: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,6})?", re.ASCII)
_WHOLE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)

Headers = Iterable[tuple[bytes, bytes]]


class How(NamedTuple):
    """How a read is asked for."""

    consistency: Consistency = Consistency.LINEARIZABLE
    max_age: float | None = None  # seconds; of a stale read
    timeout: float = TIMEOUT_SECONDS_DEFAULT


class Condition(NamedTuple):
    """When a write is to be done.

    `if_version` None: always; 0: only if the key is absent. `never`: `If-Match` names no version
    that a key can have, such as a weak one, so it never matches (RFC 9110, section 13.1.1).
    """

    if_version: int | None = None
    never: bool = False


def percent_decoded(raw: bytes, what: str = "the path") -> bytes:
    """Decoded once. Raises Bad for a `%` that two hex digits do not follow."""
    if b"%" not in raw:
        return raw

    def byte(match: re.Match[bytes]) -> bytes:
        digits = match[1]
        if digits is None:
            raise Bad(f"{what} has a % that two hexadecimal digits do not follow; write %25")
        return bytes.fromhex(digits.decode())

    return _HEX.sub(byte, raw)


def key_of(raw: bytes) -> bytes:
    """A key from the raw path after its prefix.

    Raises:
        Problem: it is empty or too long.
    """
    key = percent_decoded(raw)
    try:
        check_key(key)
    except InvalidArgument as error:
        raise problem_of(error) from None
    return key


def query_of(raw: bytes, *known: str) -> dict[str, bytes]:
    """The query's names and values; `+` is a space.

    Raises:
        Bad: a name that is not known here, or one twice.
    """
    if not raw:
        return {}
    if len(raw) > URL_BYTES_MAX:
        raise Problem(414, "url-too-long", f"a URL is at most {URL_BYTES_MAX} bytes")
    found: dict[str, bytes] = {}
    for part in raw.split(b"&"):
        if not part:
            continue
        left, _, right = part.replace(b"+", b" ").partition(b"=")
        name = percent_decoded(left, "the query").decode("utf-8", "replace")
        if name not in known:
            names = ", ".join(known) or "nothing"
            raise Bad(f"unknown query parameter {quoted(name)}; here it may be: {names}")
        if name in found:
            raise Bad(f"query parameter {quoted(name)} is given twice")
        found[name] = percent_decoded(right, f"query parameter {name}")
    return found


def text_of(value: bytes, what: str) -> str:
    """Text from UTF-8; raises Bad."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Bad(f"{what} is not valid UTF-8") from None


def timeout_of(query: Mapping[str, bytes]) -> float:
    """Seconds from `timeout`."""
    raw = query.get("timeout")
    if raw is None:
        return TIMEOUT_SECONDS_DEFAULT
    seconds = _seconds(raw, "timeout")
    if not TIMEOUT_SECONDS_MIN <= seconds <= TIMEOUT_SECONDS_MAX:
        raise Bad(f"timeout must be {TIMEOUT_SECONDS_MIN:g} to {TIMEOUT_SECONDS_MAX:g} seconds")
    return seconds


def _seconds(raw: bytes, what: str) -> float:
    text = raw.decode("utf-8", "replace")
    if not _TIMEOUT.fullmatch(text):
        raise Bad(f"{what} must be a number of seconds such as 2 or 0.5, not {quoted(text)}")
    return float(text)


def how_of(query: Mapping[str, bytes]) -> How:
    """`consistency`, `max_age` and `timeout` of a read."""
    if not query:
        return _PLAIN
    timeout = timeout_of(query)
    age = query.get("max_age")
    max_age = None if age is None else _seconds(age, "max_age")
    name = text_of(query.get("consistency", b"linearizable"), "consistency")
    try:
        chosen = reading(name, max_age)
    except InvalidArgument as error:
        raise Bad(str(error)) from None
    return How(chosen.consistency, max_age, timeout)


_PLAIN: Final = How()


def header(headers: Headers, name: bytes) -> bytes | None:
    """A header's value; None when it is absent.

    Raises:
        Bad: it is there twice: whoever is in between may have read the other one.
    """
    found: bytes | None = None
    for each, value in headers:
        if each == name:
            if found is not None:
                raise Bad(f"header {name.decode()} is given twice")
            found = value
    return found


def condition_of(headers: Headers) -> Condition:
    """`If-Match: "VERSION"` and `If-None-Match: *` of a write.

    Raises:
        Bad: another form, or both.
    """
    match, none_match = header(headers, b"if-match"), header(headers, b"if-none-match")
    if match is None and none_match is None:
        return _ALWAYS
    if match is not None and none_match is not None:
        raise Bad("If-Match and If-None-Match exclude each other")
    if none_match is not None:
        if none_match.strip() != b"*":
            raise Bad("a write takes If-None-Match: * only, which writes if the key is absent")
        return Condition(0)
    assert match is not None
    tag = match.strip()
    if tag.startswith(b"W/"):
        return Condition(never=True)
    found = _ETAG.fullmatch(tag)
    if found is None:
        raise Bad('If-Match must be one version as ETag gave it, such as "3"')
    version = int(found[1])
    if version == 0 or version > INTEGER_MAX:
        return Condition(never=True)
    return Condition(version)


_ALWAYS: Final = Condition()


def is_known(headers: Headers, version: int) -> bool:
    """Whether `If-None-Match` of a read names this version (weakly compared), or is `*`."""
    value = header(headers, b"if-none-match")
    if value is None:
        return False
    tags = [tag.strip().removeprefix(b"W/") for tag in value.split(b",")]
    return b"*" in tags or b'"%d"' % version in tags


def media_type(headers: Headers) -> str:
    """The body's media type in small letters, without parameters; "" when there is none.

    Raises:
        Problem: the body is compressed, or in another charset than UTF-8.
    """
    encoding = header(headers, b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"identity", b""}:
        raise Problem(415, "unsupported-encoding", "a body must not be compressed")
    value = header(headers, b"content-type")
    if value is None:
        return ""
    name, _, rest = value.decode("latin-1").partition(";")
    charset = rest.lower().replace(" ", "").replace('"', "")
    if "charset=" in charset and "charset=utf-8" not in charset:
        raise Problem(415, "unsupported-charset", "text must be UTF-8")
    return name.strip().lower()


def wanted(headers: Headers, *offered: str) -> str:
    """Which of the offered media types the client likes best; the first where it does not say.

    Raises:
        Problem: none of them.
    """
    value = header(headers, b"accept")
    if value is None or value == b"*/*":
        return offered[0]
    best, best_quality = "", 0.0
    ranges = [_range(part) for part in value.decode("latin-1").lower().split(",") if part.strip()]
    for offer in offered:
        kinds = (offer, offer.split("/")[0] + "/*", "*/*")
        quality = next((q for kind in kinds for name, q in ranges if name == kind), 0.0)
        if quality > best_quality:
            best, best_quality = offer, quality
    if not best:
        raise Problem(406, "not-acceptable", f"the answer can be {' or '.join(offered)}")
    return best


def _range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                quality = 0.0
    return name, quality if quality == quality else 0.0  # no NaN


def json_of(body: bytes, fields: Mapping[str, Callable[[object, str], Any]]) -> dict[str, Any]:
    """A JSON object's fields, each read by its function; absent ones are absent.

    Raises:
        Bad: no JSON, no object, a field that is unknown or there twice, or one of another type.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Bad("the JSON body has a field twice")
        return found

    def no_constant(name: str) -> None:
        raise Bad(f"{name} is no JSON")

    try:
        document = json.loads(
            body.decode(), object_pairs_hook=once, parse_constant=no_constant, parse_float=str
        )
    except UnicodeDecodeError:
        raise Bad("the JSON body is not valid UTF-8") from None
    except (ValueError, RecursionError) as error:
        place = f": {error}" if isinstance(error, json.JSONDecodeError) else ""
        raise Bad(f"the body is no JSON{place}") from None
    if type(document) is not dict:
        raise Bad("the JSON body must be an object")
    return json_fields(document, fields)


def json_fields(
    document: Mapping[str, object], fields: Mapping[str, Callable[[object, str], Any]]
) -> dict[str, Any]:
    """An object's fields, each read by its function; raises Bad for one that is unknown."""
    for name in document:
        if name not in fields:
            known = ", ".join(fields)
            raise Bad(f"unknown field {quoted(name)} in the JSON body; it may have: {known}")
    return {name: fields[name](value, name) for name, value in document.items()}


def json_text(value: object, what: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate is none."""
    if type(value) is not str:
        raise Bad(f"field {quoted(what)} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Bad(f"field {quoted(what)} is not valid Unicode: it has a lone surrogate") from None
    return value


def json_whole(value: object, what: str) -> int:
    """A whole number from 0 to 2^63 - 1."""
    if type(value) is not int or not 0 <= value <= INTEGER_MAX:
        raise Bad(f"field {quoted(what)} must be a whole number from 0 to 2^63 - 1")
    return value


def put_value(body: bytes) -> bytes:
    """The value of `{"value": TEXT}`."""
    fields = json_of(body, {"value": json_text})
    if "value" not in fields:
        raise Bad('the JSON body must have the field "value"')
    value: str = fields["value"]
    return value.encode()


def query_whole(query: Mapping[str, bytes], name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query."""
    raw = query.get(name)
    if raw is None:
        return default
    text = raw.decode("utf-8", "replace")
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise Bad(f"{name} must be a whole number from {least} to {most}, not {quoted(text)}")
    return int(text)
