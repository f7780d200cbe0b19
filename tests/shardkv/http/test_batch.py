"""Batches over HTTP: all or nothing, and what a program is told of the one that was refused."""

import asyncio
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import JSON, OCTETS, Answer, HttpClient, World, with_world

MIB = 1024 * 1024


async def batch(http: HttpClient, *operations: Any, **headers: str) -> Answer:
    body = json.dumps({"operations": operations}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.ask("POST", "/batch", body, JSON | named)


def put(key: str, value: str, **more: Any) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": value, **more}


def append(key: str, value: str, **more: Any) -> dict[str, Any]:
    return {"op": "append", "key": key, "value": value, **more}


def delete(key: str, **more: Any) -> dict[str, Any]:
    return {"op": "delete", "key": key, **more}


def test_a_batch_is_done_in_order_and_answers_each_version(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        raw = b64encode(b"{u}\xff").decode()

        done = await batch(
            http,
            put("{u}name", "Ada", if_version=0),
            append("{u}log", "named;"),
            put("{u}name", "Ada L.", if_version=1),
            delete("{u}draft"),
            {"op": "put", "key_base64": raw, "value_base64": b64encode(b"\x00\xfe").decode()},
        )

        assert (done.status, done.json()) == (200, {"versions": [1, 1, 2, 0, 1]})
        assert done.headers["content-type"] == "application/json"
        assert (await http.get("/kv/{u}name")).json() == {"key": "{u}name", "value": "Ada L."}
        got = await http.get("/kv/{u}%ff", accept="application/octet-stream")
        assert (got.body, got.headers["etag"]) == (b"\x00\xfe", '"1"')

    with_world(tmp_path, story)


def test_a_refused_batch_names_its_operation_and_leaves_nothing(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        await batch(http, put("{u}a", "1"), put("{u}b", "1"))
        await http.put("/kv/{u}long", "v" * MIB)

        late = await batch(http, put("{u}a", "2"), delete("{u}b", if_version=7))
        assert (late.status, late.problem) == (412, "version-mismatch")
        assert late.json()["operation"] == 1
        assert late.json()["detail"] == "operation 1 of the batch: the key is at version 1"
        full = await batch(http, put("{u}a", "2"), put("{u}b", "2"), append("{u}long", "x"))
        assert (full.status, full.problem) == (413, "value-too-long")
        assert full.json()["operation"] == 2
        many = await batch(http, *[put(f"key {number}", "v") for number in range(100)])
        assert (many.status, many.problem) == (400, "not-one-shard")
        assert "Keys with the same {tag} are" in many.json()["detail"]
        assert many.json()["operation"] > 0

        for key in ("{u}a", "{u}b"):
            assert (await http.get(f"/get?key={key}")).body == b"1"
        assert (await http.get("/kv/key%200")).problem == "key-not-found"

    with_world(tmp_path, story)


BAD = {
    "nothing": ({"operations": []}, 400, None),
    "129": ({"operations": [delete("k")] * 129}, 400, None),
    "no list": ({"operations": {"op": "delete"}}, 400, None),
    "no operations": ({}, 400, None),
    "an unknown field": ({"operations": [delete("k")], "atomic": True}, 400, None),
    "no object": ({"operations": [delete("k"), 7]}, 400, 1),
    "no op": ({"operations": [{"key": "k", "value": "v"}]}, 400, 0),
    "no such op": ({"operations": [put("k", "v"), {"op": "incr", "key": "k"}]}, 400, 1),
    "an op that is a list": ({"operations": [{"op": ["put"], "key": "k"}]}, 400, 0),
    "no key": ({"operations": [{"op": "put", "value": "v"}]}, 400, 0),
    "two keys": ({"operations": [put("k", "v", key_base64="aw==")]}, 400, 0),
    "no value": ({"operations": [{"op": "put", "key": "k"}]}, 400, 0),
    "a delete with a value": ({"operations": [delete("k", value="v")]}, 400, 0),
    "a field too many": ({"operations": [delete("k", ttl=7)]}, 400, 0),
    "no base64": ({"operations": [{"op": "delete", "key_base64": "a"}]}, 400, 0),
    "base64 with dirt": ({"operations": [{"op": "delete", "key_base64": "aw=\n="}]}, 400, 0),
    "an empty key": ({"operations": [delete("k"), delete("")]}, 400, 1),
    "a key too long": ({"operations": [delete("k" * 4097)]}, 400, 0),
    "a value too long": ({"operations": [put("k", "v" * (MIB + 1))]}, 413, 0),
    "too long together": ({"operations": [put("k", "v" * (MIB // 2))] * 2}, 413, None),
    "a version of text": ({"operations": [delete("k", if_version="1")]}, 400, 0),
    "version -1": ({"operations": [delete("k", if_version=-1)]}, 400, 0),
    "a version too high": ({"operations": [delete("k", if_version=2**63)]}, 400, 0),
}


def test_what_breaks_a_rule_is_refused_by_its_operation(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        for case, (document, status, operation) in BAD.items():
            answer = await http.ask("POST", "/batch", json.dumps(document).encode(), JSON)
            assert answer.status == status, (case, answer)
            assert answer.problem and answer.json().get("operation") == operation, (case, answer)
        good = json.dumps({"operations": [delete("k")]}).encode()
        for headers, status in (
            ({}, 415),
            (OCTETS, 415),
            (JSON | {"if-match": '"1"'}, 400),
            (JSON | {"if-none-match": "*"}, 400),
            (JSON | {"accept": "text/html"}, 406),
            (JSON | {"idempotency-key": " "}, 400),
            (JSON | {"origin": "http://elsewhere.example"}, 403),
            (JSON, 200),
        ):
            answer = await http.ask("POST", "/batch", good, headers)
            assert answer.status == status, (headers, answer)
        assert (await http.ask("POST", "/batch", b" " * (7 * MIB), JSON)).status == 413
        assert (await http.ask("POST", "/batch?x=1", good, JSON)).status == 400
        assert (await http.ask("GET", "/batch")).status == 405

    with_world(tmp_path, story)


def test_a_named_batch_is_done_once_through_any_node_and_answers_as_then(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = (front.http for front in world.fronts)
        writes = [append("{u}a", "x"), append("{u}b", "x"), delete("{u}c")]

        for http in (first, second, first):
            answer = await batch(http, *writes, idempotency_key="order 4711")
            assert (answer.status, answer.json()) == (200, {"versions": [1, 1, 0]}), answer
        assert (await second.get("/get?key={u}a")).body == b"x"
        other = await batch(second, *writes[:2], idempotency_key="order 4711")
        assert (other.status, other.problem) == (409, "idempotency-key-reused")
        single = await second.ask(
            "POST", "/append/{u}a", b"x", OCTETS | {"idempotency-key": "order 4711"}
        )
        assert single.status == 204, "of one key: another request"

    with_world(tmp_path, story, fronts=2)


def test_a_session_sees_its_batch_everywhere(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = (front.http for front in world.fronts)
        for number in range(8):
            done = await batch(first, put("{u}a", str(number)), shardkv_session="new")
            token = done.headers["shardkv-session"]
            got = await second.get("/kv/{u}a?consistency=stale&max_age=60", shardkv_session=token)
            assert got.json()["value"] == str(number)

    with_world(tmp_path, story, fronts=2)


@pytest.mark.parametrize("asked", [503, 504])
def test_what_nobody_answers_was_not_done_or_is_unknown(tmp_path: Path, asked: int) -> None:
    async def story(world: World) -> None:
        http = world.http
        await batch(http, put("{u}a", "1"))
        for other in ("n2", "n3"):
            world.cluster.nodes[other].pause()
        if asked == 503:
            await asyncio.sleep(5)  # nobody leads any more
        lost = await http.ask(
            "POST",
            "/batch?timeout=1",
            json.dumps({"operations": [put("{u}a", "2"), put("{u}b", "2")]}).encode(),
            JSON,
        )
        assert lost.status in (503, 504), lost
        for other in ("n2", "n3"):
            world.cluster.nodes[other].resume()
        await asyncio.sleep(5)
        left, right = [(await http.get(f"/get?key={{u}}{name}")).status for name in "ab"]
        assert left == 200
        value = (await http.get("/get?key={u}a")).body
        assert (value, right) in ((b"1", 404), (b"2", 200)), "whole, or not at all"
        if lost.status == 503:
            assert value == b"1"

    with_world(tmp_path, story)
