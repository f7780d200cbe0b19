"""The body of `POST /batch`: a JSON list of writes, into operations of a batch. Pure.

    {"operations": [{"op": "put", "key": "{user:7}name", "value": "Ada", "if_version": 3},
                    {"op": "append", "key": "{user:7}log", "value": "named;"},
                    {"op": "delete", "key_base64": "e3VzZXI6N30A"}]}

Whatever is not text comes as `key_base64` and `value_base64`, as lists show it. What is wrong with
one operation names it, by its place from 0.
"""

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, Final

from shardkv.http.problems import Bad
from shardkv.http.requests import json_fields, json_of, json_text, json_whole
from shardkv.limits import BATCH_OPERATIONS_MAX
from shardkv.text import quoted
from shardkv.writes import Append, BatchOperation, Delete, Put


def operations_of(body: bytes) -> tuple[BatchOperation, ...]:
    """The operations; their own limits are the clerk's to check.

    Raises:
        Bad: the body is something else; `operation` says which one it is about.
    """
    fields = json_of(body, {"operations": _operations})
    if "operations" not in fields:
        raise Bad('the JSON body must have the field "operations"')
    operations: tuple[BatchOperation, ...] = fields["operations"]
    return operations


def _operations(value: object, what: str) -> tuple[BatchOperation, ...]:
    if type(value) is not list or not 1 <= len(value) <= BATCH_OPERATIONS_MAX:
        raise Bad(f"field {quoted(what)} must be a list of 1 to {BATCH_OPERATIONS_MAX} operations")
    return tuple([_operation(at, one) for at, one in enumerate(value)])


def _operation(at: int, value: object) -> BatchOperation:
    try:
        if type(value) is not dict:
            raise Bad("it must be an object")
        given = json_fields(value, _FIELDS)
        op, if_version = given.get("op"), given.get("if_version")
        key = _either(given, "key")
        if op == "delete":
            if "value" in given or "value_base64" in given:
                raise Bad("a delete has no value")
            return Delete(key, if_version)
        if op not in _WRITES:
            raise Bad('field "op" must be "put", "append" or "delete"')
        return _WRITES[op](key, _either(given, "value"), if_version)
    except Bad as error:
        raise Bad(f"operation {at} of the batch: {error.detail}", operation=at) from None


def _either(given: Mapping[str, Any], name: str) -> bytes:
    """Bytes, from text or from base64: one of both is there."""
    both = f"{name}_base64"
    if (name in given) == (both in given):
        raise Bad(f'it must have either "{name}" or "{both}"')
    data: bytes = given[name] if name in given else given[both]
    return data


def _text(value: object, what: str) -> bytes:
    return json_text(value, what).encode()


def _base64(value: object, what: str) -> bytes:
    try:
        return b64decode(json_text(value, what), validate=True)
    except (binascii.Error, ValueError):
        raise Bad(f"field {quoted(what)} is no base64") from None


_FIELDS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "op": json_text,
    "key": _text,
    "key_base64": _base64,
    "value": _text,
    "value_base64": _base64,
    "if_version": json_whole,
}
_WRITES: Final[Mapping[Any, type[Put] | type[Append]]] = {"put": Put, "append": Append}
