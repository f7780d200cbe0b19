"""`put`, `get`, `append` and `delete`: one operation each."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from shardkv.cli.finding import Request, Whole, print_json, run, talks, text_fields
from shardkv.cli.reading import Reading, reads, writes
from shardkv.limits import INTEGER_MAX, VALUE_BYTES_MAX

if TYPE_CHECKING:
    from shardkv.clerk import Clerk

T = TypeVar("T")

_named = click.option(
    "--request-id",
    type=click.UNPROCESSED,
    metavar="NAME",
    help="Of all writes of KEY by this name, in a day, one is done: the command may be repeated.",
)


@click.command(
    epilog="""\b
Examples:
  shardkv put greeting hello
  shardkv put image - < picture.png
  shardkv put config "$new" --if-version 3
  shardkv put -- -key -value
"""
)
@click.argument("key", type=click.UNPROCESSED)
@click.argument("value", type=click.UNPROCESSED)
@click.option(
    "--if-version",
    type=Whole(0, INTEGER_MAX),
    metavar="N",
    help="Write only if the key is at this version; 0: only if it is absent.",
)
@_named
@writes
@talks
def put(
    request: Request, key: str, value: str, if_version: int | None, request_id: str | None
) -> None:
    """Write VALUE under KEY; `-` reads the value from standard input.

    Prints the key's new version. An empty value is a value; it is not the same as no value.
    """
    data = value_bytes(value)

    async def work() -> int:
        return await _with_store(
            request,
            lambda kv: kv.put(
                key_bytes(key), data, if_version=if_version, once=_name_bytes(request_id)
            ),
        )

    _print_version(request, run(work(), write=True))


@click.command(
    epilog="""\b
Examples:
  shardkv append log 'one more line'
  date | shardkv append log -
  shardkv append log 'paid;' --request-id order-4711
"""
)
@click.argument("key", type=click.UNPROCESSED)
@click.argument("value", type=click.UNPROCESSED)
@_named
@writes
@talks
def append(request: Request, key: str, value: str, request_id: str | None) -> None:
    """Add VALUE to the end of KEY's value; an absent key counts as empty.

    Prints the key's new version. `-` reads the value from standard input.
    """
    data = value_bytes(value)

    async def work() -> int:
        return await _with_store(
            request, lambda kv: kv.append(key_bytes(key), data, once=_name_bytes(request_id))
        )

    _print_version(request, run(work(), write=True))


@click.command(
    epilog="""\b
Examples:
  shardkv get greeting
  shardkv get image > picture.png
  shardkv get greeting --json
  shardkv get greeting --consistency stale --max-age 2
  shardkv get greeting --consistency quorum
"""
)
@click.argument("key", type=click.UNPROCESSED)
@reads
@talks
def get(request: Request, key: str, how: Reading) -> None:
    """Write KEY's value to standard output, exactly its bytes.

    On a terminal a newline follows. An absent key: exit status 1. A stale read that no replica
    is new enough for: exit status 3.
    """
    from shardkv.cli.failures import not_found
    from shardkv.types import Row

    async def work() -> Row:
        return await _with_store(request, lambda kv: kv.get_row(key_bytes(key), **how))

    row = run(work())
    if row.value is None:
        raise not_found(key_bytes(key))
    if request.as_json:
        fields = text_fields("key", key_bytes(key)) | text_fields("value", row.value)
        print_json({**fields, "version": row.version})
        return
    sys.stdout.buffer.write(row.value)
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


@click.command(epilog="Example: shardkv delete greeting")
@click.argument("key", type=click.UNPROCESSED)
@click.option(
    "--if-version",
    type=Whole(0, INTEGER_MAX),
    metavar="N",
    help="Delete only if the key is at this version.",
)
@_named
@writes
@talks
def delete(request: Request, key: str, if_version: int | None, request_id: str | None) -> None:
    """Make KEY absent; done as well if it is absent already, unless a version is asked for."""

    async def work() -> None:
        await _with_store(
            request,
            lambda kv: kv.delete(
                key_bytes(key), if_version=if_version, once=_name_bytes(request_id)
            ),
        )

    run(work(), write=True)
    if request.as_json:
        print_json({"deleted": True})


def _name_bytes(name: str | None) -> bytes | None:
    return None if name is None else key_bytes(name)


async def _with_store(request: Request, act: Callable[["Clerk"], Awaitable[T]]) -> T:
    """Connect, act once, and disconnect, all within the request's time."""

    async with request.store() as store:
        return await act(store)


def key_bytes(text: str) -> bytes:
    """The very bytes of the argument, whether they are UTF-8 or not (PEP 383)."""
    return os.fsencode(text)


def value_bytes(text: str) -> bytes:
    from shardkv.errors import ValueTooLong

    if text != "-":
        return os.fsencode(text)
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise ValueTooLong(len(data))
    return data


def _print_version(request: Request, version: int) -> None:
    if request.as_json:
        print_json({"version": version})
    else:
        sys.stdout.write(f"version {version}\n")
