"""What a client and a controller replica say to each other: the bodies of the `ctrl.*` calls.

The answer to every call is `[format, status, payload]`. Of a status other than OK the client learns
whether its request may have been done, and where to ask next.
"""

from enum import IntEnum
from typing import Final, NamedTuple

import msgpack

from shardctrler.codec import BadConfig, fields, integer
from shardctrler.types import ConfigNumber

QUERY: Final = "ctrl.query"
"""A page of the history, linearizably: `Query` -> a view."""
WATCH: Final = "ctrl.watch"
"""The newest view once it is newer than the one known, or after a while: `Watch` -> a view."""
CHANGE: Final = "ctrl.change"
"""A command of `commands.py`, by its own encoding -> an answer."""

FORMAT: Final = 1
NEWEST: Final = -1
WAIT_SECONDS_MAX: Final = 30.0


class Query(NamedTuple):
    """`NEWEST`, or a number; one beyond the newest asks for the newest."""

    number: int


class Watch(NamedTuple):
    """What the client knows, and how long it would wait for more."""

    number: ConfigNumber
    directory_version: int
    wait_ms: int


class Status(IntEnum):
    """What became of a request. Beside each: the payload."""

    OK = 0  # what was asked for
    NOT_LEADER = 1  # the leader's address for clients, b"" if unknown. Nothing was done
    UNAVAILABLE = 2  # b"". Nothing was done; nobody may be able to right now
    UNKNOWN = 3  # b"". It was proposed, and may be done or not


class Reply(NamedTuple):
    status: Status
    payload: bytes = b""


def encode_query(query: Query) -> bytes:
    return _packed(FORMAT, query.number)


def decode_query(data: bytes) -> Query:
    """Raises: BadConfig."""
    return Query(integer(fields(data, 1)[0], NEWEST))


def encode_watch(watch: Watch) -> bytes:
    return _packed(FORMAT, *watch)


def decode_watch(data: bytes) -> Watch:
    """Raises: BadConfig."""
    number, version, wait_ms = fields(data, 3)
    wait_ms_max = int(WAIT_SECONDS_MAX * 1000)
    return Watch(ConfigNumber(integer(number)), integer(version), integer(wait_ms, 0, wait_ms_max))


def encode_reply(reply: Reply) -> bytes:
    return _packed(FORMAT, int(reply.status), reply.payload)


def decode_reply(data: bytes) -> Reply:
    """Raises: BadConfig."""
    status, payload = fields(data, 2)
    if not isinstance(payload, bytes):
        raise BadConfig("a reply's payload is not bytes")
    return Reply(Status(integer(status, 0, max(Status))), payload)


def _packed(*values: object) -> bytes:
    packed = msgpack.packb(list(values))
    assert isinstance(packed, bytes)
    return packed
