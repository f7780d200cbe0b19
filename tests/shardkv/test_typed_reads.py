"""The typed service's reads, sessions and lists, on an embedded store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from labrpc.errors import Refused
from labrpc.grpc import kv_pb2 as kv
from shardkv import aio
from shardkv.typed import TypedService

SECONDS = 5.0


def told(tmp_path: Path, story: Callable[[TypedService], Awaitable[None]]) -> None:
    async def main() -> None:
        async with aio.open(tmp_path / "store") as clerk:
            await story(TypedService(lambda: clerk, lambda: None))  # type: ignore[arg-type, return-value]

    asyncio.run(main())


def test_every_consistency_answers_and_a_session_goes_on(tmp_path: Path) -> None:
    async def story(service: TypedService) -> None:
        put = await service.put(kv.PutRequest(key=b"k", value=b"v", session=""), SECONDS)
        assert put.version == 1
        assert put.session
        for consistency in (kv.LINEARIZABLE, kv.SPREAD, kv.STALE):
            request = kv.GetRequest(key=b"k", consistency=consistency, session=put.session)
            got = await service.get(request, SECONDS)
            assert (got.found, got.value, got.version) == (True, b"v", 1)
            assert got.session
        plain = await service.get(kv.GetRequest(key=b"k"), SECONDS)
        assert plain.session == "", "who has no session is given none"

    told(tmp_path, story)


def test_lists_come_in_pages(tmp_path: Path) -> None:
    async def story(service: TypedService) -> None:
        keys = [b"key %d" % number for number in range(5)]
        for key in keys:
            await service.put(kv.PutRequest(key=key, value=key), SECONDS)

        first = await service.list(kv.ListRequest(prefix=b"key ", limit=3, values=True), SECONDS)
        assert [(row.key, row.value) for row in first.rows] == [(key, key) for key in keys[:3]]
        rest = await service.list(
            kv.ListRequest(prefix=b"key ", values=True, page_token=first.next_page_token), SECONDS
        )
        assert [row.key for row in rest.rows] == keys[3:]
        assert rest.next_page_token == ""
        after = await service.list(kv.ListRequest(after=b"key 3", limit=10**9), SECONDS)
        assert [row.key for row in after.rows] == keys[4:]
        assert not after.rows[0].HasField("value"), "keys alone were asked for"

    told(tmp_path, story)


def operation(key: bytes, **write: Any) -> kv.BatchOperation:
    return kv.BatchOperation(key=key, **write)


def test_a_batch_is_done_whole_in_a_session_or_refused_by_its_operation(tmp_path: Path) -> None:
    async def story(service: TypedService) -> None:
        asked = [
            operation(b"{t}a", put=b"1", if_version=0),
            operation(b"{t}b", append=b"2"),
            operation(b"{t}a", append=b"3", if_version=1),
            operation(b"{t}c", delete=True),
            operation(b"{t}d", put=b""),
        ]
        done = await service.batch(kv.BatchRequest(operations=asked, session=""), SECONDS)
        assert list(done.versions) == [1, 1, 2, 0, 1]
        got = await service.get(
            kv.GetRequest(key=b"{t}a", session=done.session, consistency=kv.STALE), SECONDS
        )
        assert (got.value, got.version) == (b"13", 2)
        refused = [operation(b"{t}b", put=b"9"), operation(b"{t}a", put=b"9", if_version=1)]
        with pytest.raises(Refused, match="operation 1 of the batch: the key is at") as caught:
            await service.batch(kv.BatchRequest(operations=refused), SECONDS)
        assert caught.value.code == "FAILED_PRECONDITION"
        scattered = [operation(b"%d" % number, put=b"v") for number in range(64)]
        with pytest.raises(Refused, match=r"a batch is of one shard.*\{tag\}") as caught:
            await service.batch(kv.BatchRequest(operations=scattered), SECONDS)
        assert caught.value.code == "FAILED_PRECONDITION"
        assert (await service.get(kv.GetRequest(key=b"{t}b"), SECONDS)).value == b"2"

    told(tmp_path, story)


def test_a_named_write_that_comes_again_is_done_once(tmp_path: Path) -> None:
    """What a client in another language does after DEADLINE_EXCEEDED."""

    async def story(service: TypedService) -> None:
        paid = kv.AppendRequest(key=b"log", value=b"paid ", request_id="order-4711")
        for _ in range(3):
            assert (await service.append(paid, SECONDS)).version == 1
        other = kv.AppendRequest(key=b"log", value=b"again ", request_id="order-4711")
        with pytest.raises(Refused, match="a different request") as caught:
            await service.append(other, SECONDS)
        assert caught.value.code == "FAILED_PRECONDITION"
        elsewhere = kv.AppendRequest(key=b"{log}2", value=b"paid ", request_id="order-4711")
        assert (await service.append(elsewhere, SECONDS)).version == 1
        created = kv.PutRequest(key=b"lock", value=b"mine", if_version=0, request_id="c")
        batch = kv.BatchRequest(operations=[operation(b"n", append=b"1")], request_id="b")
        for _ in range(2):
            assert (await service.put(created, SECONDS)).version == 1
            assert list((await service.batch(batch, SECONDS)).versions) == [1]
        gone = kv.DeleteRequest(key=b"lock", if_version=1, request_id="d")
        for _ in range(2):
            await service.delete(gone, SECONDS)
        with pytest.raises(Refused, match="version") as caught:
            await service.delete(kv.DeleteRequest(key=b"log", if_version=9), SECONDS)
        assert caught.value.code == "FAILED_PRECONDITION"
        assert (await service.get(kv.GetRequest(key=b"log"), SECONDS)).value == b"paid "

    told(tmp_path, story)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (kv.GetRequest(key=b"k", consistency=7), "consistency 7"),  # type: ignore[arg-type]
        (kv.GetRequest(key=b"k", max_age_seconds=1.0), "not stale"),
        (kv.GetRequest(key=b"k", consistency=kv.STALE, max_age_seconds=-1.0), "max_age must be"),
        (kv.GetRequest(key=b"k", consistency=kv.STALE, max_age_seconds=float("nan")), "max_age"),
        (kv.GetRequest(key=b"k", session="edited"), "cut or edited"),
        (kv.PutRequest(key=b"k", value=b"v", session="edited"), "cut or edited"),
        (kv.PutRequest(key=b"k", value=b"v", request_id=""), "request_id must be 1 to 255 bytes"),
        (kv.AppendRequest(key=b"k", value=b"v", request_id="é" * 128), "not 256"),
        (kv.BatchRequest(), "1 to 128 operations, not 0"),
        (kv.BatchRequest(operations=[operation(b"k", put=b"")] * 129), "not 129"),
        (kv.BatchRequest(operations=[operation(b"k", put=b"v" * 2**19)] * 2), "1048576 bytes"),
        (kv.BatchRequest(operations=[operation(b"k")]), "operation 0 of the batch: it must be"),
        (kv.BatchRequest(operations=[operation(b"k", delete=False)]), "a delete that is true"),
        (kv.BatchRequest(operations=[operation(b"", put=b"")]), "operation 0 .* 1 to 4096"),
        (kv.BatchRequest(operations=[operation(b"k", put=b"", if_version=2**63)]), "if_version"),
        (kv.ListRequest(limit=0), "from 1 on"),
        (kv.ListRequest(page_token="edited"), "cut or edited"),
        (kv.ListRequest(prefix=b"p" * 4097), "prefix must be at most"),
        (kv.ListRequest(after=b"p" * 4097), "after must be at most"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_a_rule_is_an_invalid_argument(tmp_path: Path, request_: Any, why: str) -> None:
    async def story(service: TypedService) -> None:
        name = type(request_).__name__.removesuffix("Request").lower()
        with pytest.raises(Refused, match=why) as caught:
            await getattr(service, name)(request_, SECONDS)
        assert caught.value.code == "INVALID_ARGUMENT"

    told(tmp_path, story)
