"""`shardkv batch`: several writes; those whose keys lie in one shard are one atomic batch."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from shardctrler.types import ShardId
from shardkv.cli.finding import Request, Whole, print_json, run, talks, text_fields
from shardkv.cli.reading import writes
from shardkv.cli.store import key_bytes, value_bytes
from shardkv.limits import INTEGER_MAX
from shardkv.text import quoted
from shardkv.writes import Append, BatchOperation, Delete, Put

if TYPE_CHECKING:
    from shardkv.clerk import Clerk
    from shardkv.errors import ShardKVError

TAG_HINT: Final = "keys with the same {tag} lie in one shard: {user:7}name, {user:7}mail"


class Part(NamedTuple):
    """The operations of one shard, and what became of them: all of them, or none."""

    shard: int
    operations: tuple[BatchOperation, ...]
    versions: tuple[int, ...] = ()  # one an operation, where they are done
    error: "ShardKVError | None" = None


@click.command(
    epilog="""\b
Examples:
  shardkv batch '{user:7}name' Ada '{user:7}mail' ada@example.org
  shardkv batch '{u}name' Ada --append '{u}log' 'named;' --delete '{u}draft'
  shardkv batch '{u}a' 90 '{u}b' 110 --if-version '{u}a' 3
  shardkv batch greeting hello farewell bye           # a batch a shard
  shardkv batch greeting hello farewell bye --atomic  # refused, if two
"""
)
@click.argument("pairs", nargs=-1, metavar="[KEY VALUE]...", type=click.UNPROCESSED)
@click.option(
    "--append", "appends", nargs=2, multiple=True, metavar="KEY VALUE",
    type=click.UNPROCESSED, help="Add VALUE to the end of KEY's, after the writes before.",
)  # fmt: skip
@click.option(
    "--delete", "deletes", multiple=True, metavar="KEY",
    type=click.UNPROCESSED, help="Make KEY absent, after all writes.",
)  # fmt: skip
@click.option(
    "--if-version", "conditions", nargs=2, multiple=True, metavar="KEY N",
    type=(str, Whole(0, INTEGER_MAX)),
    help="Do KEY's shard's operations only if KEY is at version N; 0: only if it is absent.",
)  # fmt: skip
@click.option("--atomic", is_flag=True, help="Refuse keys that lie in several shards.")
@writes
@talks
def batch(
    request: Request,
    pairs: tuple[str, ...],
    appends: tuple[tuple[str, str], ...],
    deletes: tuple[str, ...],
    conditions: tuple[tuple[str, int], ...],
    atomic: bool,
) -> None:
    """Write each VALUE under the KEY before it: all of them or none, if the keys lie in one shard.

    Keys with the same {tag} lie in one shard. Keys of several shards are done shard by shard, each
    shard's together or not at all, and what was done stays done whatever becomes of the others: the
    output says which. At most 128 operations and 1 MiB of keys and values a shard. `-` reads one
    value from standard input.

    Exit status 1 if a shard refused its part, 3 if what became of one is unknown.
    """
    operations = _operations(pairs, appends, deletes, dict(conditions))

    async def work() -> tuple[Part, ...]:
        async with request.store() as store:
            return await _carry_out(store, operations, atomic=atomic)

    parts = run(work(), write=True)
    if request.as_json:
        print_json(_as_json(parts))
    else:
        sys.stdout.write(_as_text(parts))
    _judge(parts)


def _operations(
    pairs: Sequence[str],
    appends: Sequence[tuple[str, str]],
    deletes: Sequence[str],
    conditions: dict[str, int],
) -> list[BatchOperation]:
    """In their order: puts, appends, deletes. A key's condition goes with its first operation."""
    if len(pairs) % 2:
        raise click.UsageError(f"the last key, {quoted(pairs[-1])}, has no value")
    values = [*pairs[1::2], *(value for _, value in appends)]
    if values.count("-") > 1:
        raise click.UsageError("standard input can be one value only")
    left = dict(conditions)
    found: list[BatchOperation] = [
        Put(key_bytes(key), value_bytes(value), left.pop(key, None))
        for key, value in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    found += [
        Append(key_bytes(key), value_bytes(value), left.pop(key, None)) for key, value in appends
    ]
    found += [Delete(key_bytes(key), left.pop(key, None)) for key in deletes]
    if not found:
        raise click.UsageError("nothing to do: give KEY VALUE pairs, --append or --delete")
    if left:
        raise click.UsageError(f"--if-version {quoted(next(iter(left)))} is about no key written")
    return found


async def _carry_out(
    store: "Clerk", operations: Sequence[BatchOperation], *, atomic: bool
) -> tuple[Part, ...]:
    """A batch a shard, one after the other, in the order of their first keys."""
    from shardkv.errors import NotOneShard, ShardKVError

    shards: Sequence[int] = await store.shards_of([one.key for one in operations])
    by_shard: dict[int, list[BatchOperation]] = {}
    for shard, one in zip(shards, operations, strict=True):
        by_shard.setdefault(shard, []).append(one)
    if atomic and len(by_shard) > 1:
        at = next(at for at, shard in enumerate(shards) if shard != shards[0])
        raise NotOneShard(at, ShardId(shards[at]), ShardId(shards[0]))
    parts: list[Part] = []
    for shard, mine in by_shard.items():
        part = Part(shard, tuple(mine))
        try:
            parts.append(part._replace(versions=tuple(await store.batch(mine))))
        except ShardKVError as error:
            parts.append(part._replace(error=error))
    return tuple(parts)


def _as_text(parts: Sequence[Part]) -> str:
    """What became of each shard's operations, for people."""
    lines = []
    if len(parts) > 1:
        lines.append(f"not atomic as a whole: the keys lie in {len(parts)} shards ({TAG_HINT})")
    for part in parts:
        count = len(part.operations)
        many = f"{count} operation" + ("s" if count > 1 else "")
        if part.error is None:
            lines.append(f"shard {part.shard}: {many}, done as one")
        else:
            lines.append(f"shard {part.shard}: {many}, {_fate(part.error)}: {_why(part)}")
        lines += [f"  {_words(*each)}" for each in _told(part)]
    return "".join(f"{line}\n" for line in lines)


def _told(part: Part) -> list[tuple[str, BatchOperation, int | None]]:
    """Each operation by its kind, and the version that its key has after it."""
    versions = part.versions or (None,) * len(part.operations)
    return [
        (type(one).__name__.lower(), one, version)
        for one, version in zip(part.operations, versions, strict=True)
    ]


def _words(kind: str, operation: BatchOperation, version: int | None) -> str:
    after = f"  version {version}" if version else ""
    return f"{kind} {quoted(operation.key)}{after}"


def _why(part: Part) -> str:
    """A part's error, by the key that it is about."""
    assert part.error is not None
    if part.error.operation is None:
        return str(part.error)
    key = part.operations[part.error.operation].key
    return f"{quoted(key)}: {Exception.__str__(part.error)}"


def _fate(error: "ShardKVError") -> str:
    return "outcome unknown, all of it or none" if _is_unknown(error) else "none of it done"


def _is_unknown(error: "ShardKVError") -> bool:
    from shardkv.errors import OutcomeUnknown, SessionExpired

    return isinstance(error, OutcomeUnknown | SessionExpired)


def _as_json(parts: Sequence[Part]) -> dict[str, Any]:
    """The same, for programs. `done` is null where nobody knows."""
    return {
        "atomic": len(parts) == 1,
        "done": all(part.error is None for part in parts),
        "shards": [
            {
                "shard": part.shard,
                "done": None if part.error and _is_unknown(part.error) else part.error is None,
                "error": None if part.error is None else _why(part),
                "code": None if part.error is None else type(part.error).__name__,
                "operations": [
                    {"op": kind, **text_fields("key", _octets(one)), "version": version}
                    for kind, one, version in _told(part)
                ],
            }
            for part in parts
        ],
    }


def _octets(operation: BatchOperation) -> bytes:
    assert isinstance(operation.key, bytes), "arguments are bytes by now"
    return operation.key


def _judge(parts: Sequence[Part]) -> None:
    """End as the failures ask for: what nobody knows weighs most."""
    from shardkv.cli.failures import Exit, Failure, told

    failed = [part for part in parts if part.error is not None]
    if not failed:
        return
    ends = [(told(part.error), part) for part in failed if part.error is not None]
    end, part = max(ends, key=lambda one: one[0].status is Exit.UNKNOWN)
    message = end.message if part.error is None or part.error.operation is None else _why(part)
    if len(parts) > 1:
        message = (
            f"of {len(parts)} shards {len(parts) - len(failed)} are done and stay so, "
            f"{len(failed)} failed: {message}"
        )
    raise Failure(end.status, message, end.code, end.hint)
