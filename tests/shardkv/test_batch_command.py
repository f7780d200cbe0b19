"""`shardkv batch`: which writes are one, and what is said of each shard's."""

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, TypeVar

import click
import pytest

from labrpc.sim.loop import run
from shardkv.clerk import Clerk
from shardkv.cli import batching
from shardkv.cli.batching import Part
from shardkv.cli.failures import Exit, Failure
from shardkv.errors import BatchCount, NotOneShard, OutcomeUnknown, ShardKVError, VersionMismatch
from shardkv.types import Version
from shardkv.writes import Append, BatchOperation, Delete, Put
from tests.support.fake_store import FakeStore, Fate

T = TypeVar("T")


def carried_out(
    operations: Sequence[BatchOperation],
    *,
    before: Callable[[FakeStore, Clerk], Awaitable[object]] | None = None,
    atomic: bool = False,
) -> tuple[Part, ...]:
    async def main() -> tuple[Part, ...]:
        store = FakeStore()
        clerk = Clerk(store, store, rng=Random("batch"))  # type: ignore[arg-type]
        try:
            if before is not None:
                await before(store, clerk)
            return await batching._carry_out(clerk, operations, atomic=atomic)
        finally:
            await clerk.close()

    return run(main())


def operations(*pairs: str, **options: Any) -> list[BatchOperation]:
    return batching._operations(
        pairs, options.get("append", ()), options.get("delete", ()), options.get("if_version", {})
    )


def test_pairs_then_appends_then_deletes_each_with_its_condition() -> None:
    found = operations(
        "a", "1", "b", "2", append=[("c", "3")], delete=["d"], if_version={"b": 4, "d": 0}
    )

    assert found == [Put(b"a", b"1"), Put(b"b", b"2", 4), Append(b"c", b"3"), Delete(b"d", 0)]


@pytest.mark.parametrize(
    ("pairs", "options", "says"),
    [
        (("a", "1", "b"), {}, "the last key, 'b', has no value"),
        ((), {}, "nothing to do"),
        (("a", "1"), {"if_version": {"b": 1}}, "--if-version 'b' is about no key written"),
        (("a", "-", "b", "-"), {}, "standard input can be one value only"),
    ],
)
def test_what_makes_no_batch_is_wrong_usage(
    pairs: tuple[str, ...], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(click.UsageError, match=says):
        operations(*pairs, **options)


def test_keys_of_one_shard_are_one_batch() -> None:
    parts = carried_out(operations("{u}a", "1", "{u}b", "2", delete=["{u}c"]))

    (part,) = parts
    assert part.versions == (1, 1, 0)
    said = batching._as_text(parts)
    assert said.splitlines()[0].endswith(": 3 operations, done as one")
    assert "not atomic" not in said
    assert "put '{u}b'  version 1" in said
    document = batching._as_json(parts)
    assert (document["atomic"], document["done"]) == (True, True)
    assert document["shards"][0]["operations"][2] == {"op": "delete", "key": "{u}c", "version": 0}


def test_keys_of_several_shards_are_done_shard_by_shard_and_it_is_said_which_failed() -> None:
    async def before(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put("{u}a", "old")

    asked = operations("{u}a", "1", "{u}b", "2", "k", "3", if_version={"{u}b": 7})

    parts = carried_out(asked, before=before)

    refused, done = parts
    assert isinstance(refused.error, VersionMismatch)
    assert done.versions == (1,)
    said = batching._as_text(parts).splitlines()
    assert said[0].startswith("not atomic as a whole: the keys lie in 2 shards (keys with the same")
    assert said[1].endswith("2 operations, none of it done: '{u}b': the key is absent (version 0)")
    assert "  put '{u}a'" in said, "without a version"
    assert said[-2].endswith("1 operation, done as one")
    document = batching._as_json(parts)
    assert (document["atomic"], document["done"]) == (False, False)
    assert [shard["done"] for shard in document["shards"]] == [False, True]
    with pytest.raises(
        Failure, match=r"of 2 shards 1 are done and stay so, 1 failed: '\{u\}b'"
    ) as end:
        batching._judge(parts)
    assert (end.value.status, end.value.code) == (Exit.REFUSED, "VersionMismatch")


def test_whatever_was_asked_to_be_atomic_is_refused_before_anything_is_done() -> None:
    with pytest.raises(NotOneShard, match="operation 1 of the batch"):
        carried_out(operations("{u}a", "1", "k", "2"), atomic=True)


def test_what_nobody_knows_weighs_most_and_ends_with_3() -> None:
    async def before(store: FakeStore, clerk: Clerk) -> None:
        await clerk.put("{u}a", "")
        clerk._timeout = 0.5
        store.fates.extend([Fate.REQUEST_LOST])

    parts = carried_out(operations("{u}a", "1", "{u}b", "2"), before=before)

    assert isinstance(parts[0].error, OutcomeUnknown)
    assert "2 operations, outcome unknown, all of it or none" in batching._as_text(parts)
    assert batching._as_json(parts)["shards"][0]["done"] is None
    with pytest.raises(Failure) as end:
        batching._judge(parts)
    assert end.value.status == Exit.UNKNOWN

    some: list[Part] = []
    errors: list[ShardKVError] = [VersionMismatch(Version(1)), OutcomeUnknown("lost")]
    for error in errors:
        some.append(Part(1, (Put(b"k", b"v"),), error=error))
    with pytest.raises(Failure, match="of 2 shards 0 are done") as end:
        batching._judge(some)
    assert (end.value.status, end.value.code) == (Exit.UNKNOWN, "OutcomeUnknown")


def test_more_than_fit_into_one_batch_of_a_shard_are_refused_and_not_split() -> None:
    asked = operations(*[word for at in range(129) for word in (f"{{u}}{at}", "v")])

    (part,) = carried_out(asked)

    assert isinstance(part.error, BatchCount)
    many = operations(*[word for at in range(200) for word in (f"key {at}", "v")])
    assert all(part.versions for part in carried_out(many)), "but no shard has so many"
