"""Every route of a node: what it is called, its handler, and what the document says of it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from shardkv.http import spec
from shardkv.http.keys import Asked, Keys
from shardkv.http.replies import Reply, Streamed


class Route(NamedTuple):
    """Handlers of one path, or of all that begin so, by method."""

    path: bytes
    kinds: Mapping[str, str]  # method -> what it is called in metrics
    handlers: Mapping[str, Callable[[Asked], Awaitable[Reply | Streamed]]]


class Cold(NamedTuple):
    """A route of one path."""

    method: str
    path: str
    kind: str
    tag: str
    summary: str
    handler: Callable[[Asked], Awaitable[Reply | Streamed]]
    spec: Mapping[str, Any]


class Documented(NamedTuple):
    """A route whose path ends in a key, as the document shows it."""

    method: str
    path: str
    tag: str
    summary: str
    spec: Mapping[str, Any]


HOT: Final = (
    Documented("GET", "/kv/{key}", "keys", "Read a key.", spec.GET_KEY),
    Documented("PUT", "/kv/{key}", "keys", "Write a key.", spec.PUT_KEY),
    Documented("DELETE", "/kv/{key}", "keys", "Make a key absent.", spec.DELETE_KEY),
    Documented("POST", "/append/{key}", "keys", "Add to the end of a value.", spec.APPEND_KEY),
)


def hot_routes(keys: Keys) -> tuple[Route, ...]:
    """What the door dispatches by the path's beginning."""
    return (
        Route(
            b"/kv/",
            {"GET": "get", "HEAD": "get", "PUT": "put", "DELETE": "delete"},
            {"GET": keys.get, "HEAD": keys.get, "PUT": keys.put, "DELETE": keys.delete},
        ),
        Route(b"/append/", {"POST": "append"}, {"POST": keys.append}),
    )


def key_routes(keys: Keys) -> tuple[Cold, ...]:
    """Batches; and keys in the query, as some clients know it."""
    return (
        Cold(
            "POST", "/batch", "batch", "keys",
            "Write several keys of one shard: all of them, or none.", keys.batch, spec.BATCH,
        ),
        Cold("GET", "/get", "get", "keys", "Read a key, as text.", keys.old_get, spec.OLD_GET),
        Cold("POST", "/set", "put", "keys", "Write a key.", keys.old_set, spec.OLD_SET),
        Cold(
            "GET", "/set", "put", "keys",
            "Write a key by a GET, where `http_get_writes` allows it.", keys.old_set, spec.OLD_SET,
        ),
    )  # fmt: skip


def by_path(cold: tuple[Cold, ...]) -> dict[bytes, Route]:
    """What the door dispatches by the whole path. A GET that is not a stream answers HEAD, too."""
    found: dict[bytes, Route] = {}
    for route in cold:
        path = route.path.encode()
        known = found.setdefault(path, Route(path, {}, {}))
        methods = [route.method, *(["HEAD"] if route.method == "GET" else [])]
        found[path] = known._replace(
            kinds={**known.kinds, **dict.fromkeys(methods, route.kind)},
            handlers={**known.handlers, **dict.fromkeys(methods, route.handler)},
        )
    return found
