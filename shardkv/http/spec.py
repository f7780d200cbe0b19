"""What the OpenAPI document says of each route: parameters, bodies, answers.

The handlers read raw paths and headers themselves, so that nothing is decoded twice; hence their
document is written here, beside them, and the tests play it against the running thing.
"""

from collections.abc import Mapping
from typing import Any, Final

from shardkv.consistency import STALE_SECONDS_MAX, Consistency
from shardkv.http.limits import TIMEOUT_SECONDS_MAX, TIMEOUT_SECONDS_MIN
from shardkv.http.problems import MEDIA_TYPE, TITLES
from shardkv.http.requests import JSON, OCTETS
from shardkv.http.schemas import Spec, schema
from shardkv.limits import INTEGER_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX

TEXT: Final = "text/plain"


WHY: Final[Mapping[int, str]] = {
    400: "The request is wrong; nothing was done.",
    403: "Not allowed: by a setting, or from where it comes.",
    404: "The key is absent.",
    406: "The answer cannot be shown in a form that the client accepts.",
    408: "The body came too slowly.",
    409: "It conflicts with what was done before: with the request that had this "
    "`Idempotency-Key`, or with the configuration.",
    412: "The key has another version; nothing was done.",
    413: "The value is, or would become, too long; nothing was done.",
    414: "The key is too long; nothing was done.",
    415: "The body's type is not taken.",
    421: "The request was addressed to a name that is not this node's.",
    428: "An action needs its confirmation.",
    429: "Too much is under way; nothing was done. Again after `Retry-After`.",
    503: "Nobody could do it in time; nothing was done. Again after `Retry-After`.",
    507: "The disk that leads the key's group is full; nothing was written.",
    504: "No answer came in time: **it may have been done**, or may yet be.",
}


def problems(*statuses: int) -> Spec:
    """Answers that are problem documents."""
    return {
        str(status): {
            "description": f"{TITLES[status]}. {WHY[status]}",
            "content": {MEDIA_TYPE: {"schema": schema("Problem")}},
        }
        for status in statuses
    }


def parameter(place: str, name: str, description: str, value: Spec, **more: Any) -> Spec:
    return {"in": place, "name": name, "description": description, "schema": value, **more}


KEY: Final = parameter(
    "path",
    "key",
    f"the rest of the raw path, percent-decoded once: 1 to {KEY_BYTES_MAX} bytes, `/` and all",
    {"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX},
    required=True,
)
TIMEOUT: Final = parameter(
    "query",
    "timeout",
    "seconds that it may take; 10 where not given",
    {"type": "number", "minimum": TIMEOUT_SECONDS_MIN, "maximum": TIMEOUT_SECONDS_MAX},
)
CONSISTENCY: Final = parameter(
    "query",
    "consistency",
    "`linearizable`: all that was acknowledged before; `spread`: the same, from any replica; "
    "`stale`: from any replica by itself, at most `max_age` old",
    {"type": "string", "enum": [one.value for one in Consistency]},
)
MAX_AGE: Final = parameter(
    "query",
    "max_age",
    "seconds; how old a stale answer may be, 10 where not given",
    {"type": "number", "minimum": 0, "maximum": STALE_SECONDS_MAX},
)
SESSION: Final = parameter(
    "header",
    "Shardkv-Session",
    "`new`, or the token of an earlier answer: reads show at least what the session has seen",
    {"type": "string"},
)
IF_MATCH: Final = parameter(
    "header", "If-Match", 'do it only at this version: `"3"`', {"type": "string"}
)
IF_NONE_MATCH: Final = parameter(
    "header", "If-None-Match", "`*`: write only if the key is absent", {"type": "string"}
)
KNOWN: Final = parameter(
    "header", "If-None-Match", "versions that the client has: 304 if one is it", {"type": "string"}
)

IDEMPOTENCY_KEY: Final = parameter(
    "header",
    "Idempotency-Key",
    "a name for this request: sent again within 24 hours, through any node, it is not done again",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
)

ETAG: Final[Spec] = {"ETag": {"description": "the key's version", "schema": {"type": "string"}}}
_BYTES: Final[Spec] = {"schema": {"type": "string", "format": "binary"}}


def value_body() -> Spec:
    return {
        "required": True,
        "content": {
            JSON: {"schema": schema("PutRequest")},
            OCTETS: {
                "schema": {"type": "string", "format": "binary", "maxLength": VALUE_BYTES_MAX}
            },
        },
    }


def done(name: str, description: str, *, raw: str = "204") -> Spec:
    """200 with a JSON document, or 204 (raw: 200) for octets."""
    answers: Spec = {
        "200": {
            "description": description,
            "headers": ETAG,
            "content": {JSON: {"schema": schema(name)}},
        }
    }
    if raw == "200":
        answers["200"]["content"][OCTETS] = _BYTES
    else:
        answers["204"] = {"description": f"{description} Asked for as octets.", "headers": ETAG}
    return answers


def plain(description: str) -> Spec:
    return {
        "200": {
            "description": description,
            "headers": ETAG,
            "content": {TEXT: {"schema": {"type": "string"}}},
        }
    }


def document(name: str, description: str, status: int = 200) -> Spec:
    return {
        str(status): {
            "description": description,
            "content": {JSON: {"schema": schema(name)}},
        }
    }


_READ: Final = (400, 404, 406, 414, 421, 429, 503)
_WRITE: Final = (400, 403, 406, 408, 412, 413, 414, 415, 421, 429, 503, 504, 507)

GET_KEY: Final[Spec] = {
    "parameters": [KEY, CONSISTENCY, MAX_AGE, TIMEOUT, SESSION, KNOWN],
    "responses": {
        **done("Pair", "The key's value.", raw="200"),
        "304": {"description": "The client has this version."},
        **problems(*_READ),
    },
}


def leading_on(responses: Spec) -> Spec:
    """The answers of a write, with what a client may do next with the key and the version."""
    key = {"key": "$request.path.key"}
    at_version = {**key, "header.If-Match": "$response.header.ETag"}
    links = {
        "read": {"operationId": "get_key_kv", "parameters": key},
        "append": {"operationId": "post_key_append", "parameters": key},
        "writeAtThisVersion": {"operationId": "put_key_kv", "parameters": at_version},
        "deleteAtThisVersion": {"operationId": "delete_key_kv", "parameters": at_version},
    }
    return {status: {**answer, "links": links} for status, answer in responses.items()}


PUT_KEY: Final[Spec] = {
    "parameters": [KEY, TIMEOUT, SESSION, IF_MATCH, IF_NONE_MATCH, IDEMPOTENCY_KEY],
    "requestBody": value_body(),
    "responses": {**leading_on(done("PutAnswer", "Written.")), **problems(*_WRITE, 409)},
}
APPEND_KEY: Final[Spec] = {
    "parameters": [KEY, TIMEOUT, SESSION, IDEMPOTENCY_KEY],
    "requestBody": value_body(),
    "responses": {**leading_on(done("KeyAnswer", "Appended.")), **problems(*_WRITE, 409)},
}
DELETE_KEY: Final[Spec] = {
    "parameters": [KEY, TIMEOUT, SESSION, IF_MATCH, IDEMPOTENCY_KEY],
    "responses": {
        **done("KeyAnswer", "The key is absent now."),
        **problems(400, 403, 406, 409, 412, 414, 421, 429, 503, 504),
    },
}
BATCH: Final[Spec] = {
    "parameters": [TIMEOUT, SESSION, IDEMPOTENCY_KEY],
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": schema("BatchRequest"),
                "example": {
                    "operations": [
                        {"op": "put", "key": "{user:7}name", "value": "Ada", "if_version": 0},
                        {"op": "append", "key": "{user:7}log", "value": "named;"},
                        {"op": "delete", "key": "{user:7}draft"},
                    ]
                },
            }
        },
    },
    "responses": {
        **document(
            "BatchAnswer",
            "All of it is done: the new version of each operation's key, in order; 0 of a delete.",
        ),
        **problems(400, 403, 406, 408, 409, 412, 413, 415, 421, 429, 503, 504, 507),
    },
}
_QUERY_KEY: Final = {**KEY, "in": "query", "description": "the key"}
OLD_GET: Final[Spec] = {
    "parameters": [_QUERY_KEY, CONSISTENCY, MAX_AGE, TIMEOUT],
    "responses": {**plain("The key's value."), **problems(*_READ)},
}
OLD_SET: Final[Spec] = {
    "parameters": [
        _QUERY_KEY,
        parameter("query", "value", "the value", {"type": "string"}, required=True),
        TIMEOUT,
    ],
    "responses": {
        **plain("Written: `OK`."),
        **problems(400, 403, 413, 414, 421, 429, 503, 504, 507),
    },
}

_WHOLE: Final[Spec] = {"type": "integer", "minimum": 0}
_GID: Final[Spec] = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_NAMES: Final[Spec] = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 9}
_EXPECT: Final[Spec] = {
    **_WHOLE,
    "description": "the configuration that was looked at: if it is past, nothing is done",
}

LIST: Final[Spec] = {
    "parameters": [
        parameter("query", "prefix", "what the keys begin with", {"type": "string"}),
        parameter("query", "after", "begin after this key", {"type": "string", "minLength": 1}),
        parameter(
            "query",
            "limit",
            "keys at most; a page has at most 1,000",
            {"type": "integer", "minimum": 1, "maximum": INTEGER_MAX},
        ),
        parameter("query", "token", "of the page before", {"type": "string", "minLength": 1}),
        parameter("query", "values", "whether values are shown", {"type": "boolean"}),
        CONSISTENCY,
        MAX_AGE,
        TIMEOUT,
    ],
    "responses": {
        "200": {
            "description": "A page of keys in their order, or all of them, one a line; then the "
            'last line is `{"end":true,...}`, or `{"problem":...}` if it could not be finished.',
            "content": {
                JSON: {"schema": schema("Keys")},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        **problems(400, 406, 421, 429, 503),
    },
}
EVENTS: Final[Spec] = {
    "parameters": [
        parameter(
            "header",
            "Last-Event-ID",
            "the number of the last `log` event that the client has; browsers send it themselves",
            {"type": "string", "pattern": "^(0|[1-9][0-9]{0,14})$"},
        ),
    ],
    "responses": {
        "200": {
            "description": "Server-sent events for as long as the client stays: `cluster` (a "
            "Cluster document, each second) and `log` (an Event document, as things happen; those "
            "of the recent past first).",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(400, 421, 429, 503),
    },
}


def action_spec(action: str) -> Spec:
    """What is said of `/cluster/ACTION`."""
    bodies = {
        "join": ({"groups": {"type": "object", "minProperties": 1, "maxProperties": 64,
                             "additionalProperties": _NAMES,
                             "propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"}},
                  "expect": _EXPECT}, ["groups"]),
        "leave": ({"gids": {"type": "array", "items": _GID, "minItems": 1, "maxItems": 64,
                            "uniqueItems": True},
                   "expect": _EXPECT}, ["gids"]),
        "move": ({"shard": _WHOLE, "gid": _GID, "expect": _EXPECT}, ["shard", "gid"]),
        "transfer": ({"gid": _WHOLE, "node": {"type": "string"}}, ["gid", "node"]),
    }  # fmt: skip
    properties, required = bodies[action]
    return {
        "parameters": [
            parameter(
                "header",
                "Shardkv-Confirm",
                f"`{action}`: that it is meant",
                {"type": "string", "const": action},
                required=True,
            )
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {
                        "type": "object",
                        "properties": properties,
                        "required": required,
                        "additionalProperties": False,
                    }
                }
            },
        },
        "responses": {
            **document("Done", "It is done."),
            **problems(400, 403, 408, 409, 413, 415, 421, 428, 503, 504),
        },
    }
