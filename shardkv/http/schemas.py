"""The schemas of the OpenAPI document: what bodies and answers hold."""

from collections.abc import Mapping
from typing import Any, Final

from shardkv.limits import BATCH_OPERATIONS_MAX, INTEGER_MAX, KEY_BYTES_MAX

Spec = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas/"
_BASE64: Final[Spec] = {"type": "string", "contentEncoding": "base64"}
_OPEN: Final[Spec] = {"type": "object", "additionalProperties": True}


def schema(name: str) -> Spec:
    return {"$ref": _SCHEMAS + name}


def text_fields(*names: str) -> Spec:
    """An object of exactly these strings."""
    return {
        "type": "object",
        "required": list(names),
        "properties": {name: {"type": "string"} for name in names},
        "additionalProperties": False,
    }


PROBLEM: Final[Spec] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "stable, for programs"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what, which limit, what to do"},
        "operation": {"type": "integer", "description": "which one of a batch, from 0"},
    },
}
COMPONENTS: Final[Mapping[str, Spec]] = {
    "Problem": PROBLEM,
    "PutRequest": text_fields("value"),
    "Pair": text_fields("key", "value"),
    "PutAnswer": {
        **text_fields("key", "value", "message"),
        "required": ["key", "message"],
    },
    "KeyAnswer": text_fields("key", "message"),
    "BatchRequest": {
        "type": "object",
        "required": ["operations"],
        "properties": {
            "operations": {
                "type": "array",
                "minItems": 1,
                "maxItems": BATCH_OPERATIONS_MAX,
                "items": schema("BatchOperation"),
                "description": "done in this order, each sees those before it; all keys lie in "
                "one shard, as keys with the same `{tag}` do; 1 MiB of keys and values together",
            }
        },
        "additionalProperties": False,
    },
    "BatchOperation": {
        "type": "object",
        "required": ["op"],
        "properties": {
            "op": {"enum": ["put", "append", "delete"]},
            "key": {"type": "string", "minLength": 1, "maxLength": KEY_BYTES_MAX},
            "key_base64": {**_BASE64, "description": "instead of `key`: bytes that are not text"},
            "value": {"type": "string", "description": "of a put or an append"},
            "value_base64": {**_BASE64, "description": "instead of `value`"},
            "if_version": {
                "type": "integer",
                "minimum": 0,
                "maximum": INTEGER_MAX,
                "description": "the whole batch is done only if the key has this version when its "
                "turn comes; 0: only if it is absent",
            },
        },
        "additionalProperties": False,
    },
    "BatchAnswer": {
        "type": "object",
        "required": ["versions"],
        "properties": {"versions": {"type": "array", "items": {"type": "integer"}}},
        "additionalProperties": False,
    },
    "Keys": {
        "type": "object",
        "required": ["keys", "token"],
        "properties": {
            "keys": {"type": "array", "items": schema("ListedKey")},
            "token": {"type": ["string", "null"], "description": "asks for what follows"},
        },
        "additionalProperties": False,
    },
    "ListedKey": {
        "type": "object",
        "required": ["version"],
        "properties": {
            "key": {"type": "string"},
            "key_base64": {"type": "string", "description": "of a key that is not UTF-8"},
            "version": {"type": "integer"},
            "value": {"type": "string"},
            "value_base64": {"type": "string", "description": "of a value that is not UTF-8"},
        },
        "additionalProperties": False,
    },
    "Done": {
        "type": "object",
        "properties": {
            "config": {"type": "integer", "description": "the configuration that this made"},
            "gid": {"type": "integer"},
            "leader": {"type": "string"},
        },
        "additionalProperties": False,
    },
    "Event": {
        "type": "object",
        "required": ["number", "at", "kind", "text"],
        "properties": {
            "number": {"type": "integer", "description": "counts up in one life of the node"},
            "at": {"type": "string", "format": "date-time", "description": "when it was noticed"},
            "kind": {
                "enum": ["leader", "leaderless", "config", "shard", "node", "members", "replica"]
            },
            "text": {"type": "string", "description": "for people"},
        },
        "additionalProperties": True,
    },
    "Cluster": {
        "type": "object",
        "required": ["number", "at", "by", "config", "nodes", "groups", "shards", "rates"],
        "properties": {
            "number": {"type": "integer"},
            "at": {"type": "string", "format": "date-time"},
            "by": {"type": "string", "description": "the node that looked"},
            "config": _OPEN,
            "nodes": {"type": "array", "items": _OPEN},
            "groups": {"type": "array", "items": _OPEN},
            "shards": {"type": "array", "items": _OPEN},
            "rates": _OPEN,
        },
        "additionalProperties": False,
    },
    "Health": {
        "type": "object",
        "required": ["status", "node", "reasons", "warnings"],
        "properties": {
            "status": {"enum": ["healthy", "unhealthy"]},
            "node": {"type": "string"},
            "reasons": {"type": "array", "items": {"type": "string"}},
            "warnings": {"type": "array", "items": {"type": "string"}},
        },
        "additionalProperties": False,
    },
    "Status": {
        "type": "object",
        "required": ["node", "cluster", "version", "state", "ready", "config", "groups"],
        "properties": {
            "node": {"type": "string"},
            "cluster": {"type": "string"},
            "version": {"type": "string"},
            "state": {"enum": ["starting", "running", "stopping"]},
            "ready": {"type": "boolean"},
            "config": {"type": "integer"},
            "groups": {"type": "array", "items": _OPEN},
        },
        "additionalProperties": True,
    },
}
