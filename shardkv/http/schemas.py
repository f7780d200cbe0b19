"""The schemas of the OpenAPI document: what bodies and answers hold."""

from collections.abc import Mapping
from typing import Any, Final

Spec = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas/"
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
