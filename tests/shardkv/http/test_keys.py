"""Single keys over HTTP, on a simulated cluster: what is asked, and to the letter what is said."""

import asyncio
import json
from pathlib import Path

from tests.support.http import JSON, OCTETS, HttpClient, World, with_world

VALUE_MAX = 1024 * 1024


def test_the_five_routes_of_the_readme(tmp_path: Path) -> None:
    """PUT, GET, DELETE, /status and /health with the bodies that their README shows."""

    async def story(world: World) -> None:
        http = world.http
        put = await http.put("/kv/mykey", "myvalue")
        assert (put.status, put.json()) == (
            200,
            {
                "key": "mykey",
                "value": "myvalue",
                "message": "Key-value pair stored successfully",
            },
        )
        got = await http.get("/kv/mykey")
        assert (got.status, got.json()) == (200, {"key": "mykey", "value": "myvalue"})
        assert got.headers["content-type"] == "application/json"
        gone = await http.ask("DELETE", "/kv/mykey")
        assert (gone.status, gone.json()) == (
            200,
            {"key": "mykey", "message": "Key-value pair deleted successfully"},
        )
        assert (await http.get("/kv/mykey")).problem == "key-not-found"
        assert (await http.ask("DELETE", "/kv/mykey")).status == 200
        status = (await http.get("/status")).json()
        assert (status["node"], status["ready"]) == ("n1", True)
        assert [group["gid"] for group in status["groups"]] == [0, 1, 2]
        health = await http.get("/health")
        assert (health.status, health.json()["status"]) == (200, "healthy")

    with_world(tmp_path, story)


KEYS = {
    "a slash is part of the key": ("a/b", b"a/b"),
    "however it is written": ("a%2Fb", b"a/b"),
    "decoded once": ("%252F", b"%2F"),
    "nothing is normalised": ("..%2f../x", b"../../x"),
    "slashes are kept": ("//a//", b"//a//"),
    "a line end": ("%0A", b"\n"),
    "a zero": ("%00", b"\x00"),
    "a plus is a plus": ("a+b", b"a+b"),
    "UTF-8": ("%c3%a9", b"\xc3\xa9"),
    "another normal form, another key": ("caf%65%cc%81", b"cafe\xcc\x81"),
    "no UTF-8": ("%ff%fe", b"\xff\xfe"),
    "the longest": ("x" * 4096, b"x" * 4096),
}


def test_a_key_is_the_raw_path_decoded_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        clerk = world.fronts[0].clerk
        assert clerk is not None
        for number, (case, (target, key)) in enumerate(KEYS.items()):
            value = b"%d" % number
            assert (await world.http.put(f"/kv/{target}", value)).status == 204, case
            assert await clerk.get(key) == value, case
            got = await world.http.get(f"/kv/{target}", accept="application/octet-stream")
            assert (got.status, got.body) == (200, value), case

    with_world(tmp_path, story)


def test_what_json_cannot_hold_is_406_and_nothing_is_done(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        await http.put("/kv/raw", b"\xff\x00")
        assert (await http.get("/kv/raw")).problem == "value-not-text"
        raw = await http.get("/kv/raw", accept="application/octet-stream")
        assert (raw.body, raw.headers["x-content-type-options"]) == (b"\xff\x00", "nosniff")
        refused = await http.put("/kv/%ff", "text")
        assert refused.problem == "key-not-text"
        assert (await http.get("/kv/%ff", accept="application/octet-stream")).status == 404
        assert (await http.get("/kv/raw", accept="text/html")).problem == "not-acceptable"
        both = "text/html, application/octet-stream;q=0.5, application/json;q=0.2"
        assert (await http.get("/kv/raw", accept=both)).body == b"\xff\x00"
        assert (await http.get("/get?key=raw")).problem == "value-not-text"

    with_world(tmp_path, story)


def test_versions_are_etags(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        created = await http.put("/kv/k", "1", if_none_match="*")
        assert (created.status, created.headers["etag"]) == (200, '"1"')
        assert (await http.put("/kv/k", "2", if_none_match="*")).problem == "version-mismatch"
        second = await http.put("/kv/k", "2", if_match='"1"')
        assert (second.status, second.headers["etag"]) == (200, '"2"')
        assert (await http.put("/kv/k", "3", if_match='"1"')).status == 412
        assert (await http.put("/kv/k", "3", if_match='W/"2"')).status == 412, "weak never matches"
        assert (await http.put("/kv/k", "3", if_match='"0"')).status == 412
        known = await http.get("/kv/k", if_none_match='"1", W/"2"')
        assert (known.status, known.body, known.headers["etag"]) == (304, b"", '"2"')
        assert (await http.get("/kv/k", if_none_match='"1"')).json()["value"] == "2"
        stale = await http.ask("DELETE", "/kv/k", headers={"if-match": '"1"'})
        assert stale.problem == "version-mismatch"
        assert (await http.ask("DELETE", "/kv/k", headers={"if-match": '"2"'})).status == 200
        for wrong in ("2", '"2', '"-1"', '"99999999999999999999"', "*"):
            assert (await http.put("/kv/k", "3", if_match=wrong)).problem == "bad-request", wrong

    with_world(tmp_path, story)


def test_appends_and_the_older_routes(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        assert (await http.ask("POST", "/append/log", b"one ", OCTETS)).status == 204
        added = await http.ask("POST", "/append/log", b'{"value":"two"}', JSON)
        assert added.json() == {"key": "log", "message": "Value appended successfully"}
        got = await http.get("/get?key=log")
        assert (got.body, got.headers["content-type"]) == (b"one two", "text/plain; charset=utf-8")
        assert (await http.ask("POST", "/set?key=my+key&value=a%26b")).status == 200
        assert (await http.get("/get?key=my%20key")).body == b"a&b"
        refused = await http.get("/set?key=k&value=v")
        assert (refused.status, refused.problem) == (403, "get-does-not-write")
        assert (await http.get("/get?key=k")).status == 404
        large = await http.put("/kv/large", bytes(VALUE_MAX))
        assert large.status == 204
        over = await http.ask("POST", "/append/large", b"x", OCTETS)
        assert over.problem == "value-too-long"

    with_world(tmp_path, story)


def test_get_writes_where_the_configuration_allows_it_and_no_foreign_page_can(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        http = world.http
        assert (await http.get("/set?key=k&value=v")).body == b"OK\n"
        foreign = await http.get("/set?key=k&value=w", sec_fetch_site="cross-site")
        assert foreign.problem == "cross-origin"
        assert (await http.get("/get?key=k")).body == b"v"

    with_world(tmp_path, story, get_writes=True)


def test_any_node_serves_any_key_and_a_session_sees_its_writes_everywhere(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = (front.http for front in world.fronts)
        for number in range(8):
            put = await first.put(f"/kv/key{number}", str(number), shardkv_session="new")
            token = put.headers["shardkv-session"]
            got = await second.get(
                f"/kv/key{number}?consistency=stale&max_age=5", shardkv_session=token
            )
            assert got.json()["value"] == str(number)
            assert got.headers["shardkv-session"]
            spread = await second.get(f"/kv/key{number}?consistency=spread")
            assert spread.json()["value"] == str(number)
        bad = await second.get("/kv/key1", shardkv_session="edited")
        assert bad.problem == "bad-request"

    with_world(tmp_path, story, fronts=2)


BAD = {
    "an empty name": ("PUT", "/kv/a", OCTETS | {"idempotency-key": " "}, b"x", 400),
    "a name too long": ("PUT", "/kv/a", OCTETS | {"idempotency-key": "n" * 256}, b"x", 400),
    "an empty key": ("GET", "/kv/", {}, b"", 400),
    "a key too long": ("GET", "/kv/" + "k" * 4097, {}, b"", 414),
    "half an escape": ("GET", "/kv/a%2", {}, b"", 400),
    "no escape": ("GET", "/kv/a%zz", {}, b"", 400),
    "no such consistency": ("GET", "/kv/a?consistency=eventual", {}, b"", 400),
    "a bound that means nothing": ("GET", "/kv/a?max_age=1", {}, b"", 400),
    "no time": ("GET", "/kv/a?timeout=0", {}, b"", 400),
    "no number": ("GET", "/kv/a?timeout=nan", {}, b"", 400),
    "another form of number": ("GET", "/kv/a?timeout=1e3", {}, b"", 400),
    "an unknown parameter": ("GET", "/kv/a?x=1", {}, b"", 400),
    "one twice": ("GET", "/kv/a?timeout=1&timeout=2", {}, b"", 400),
    "no content type": ("PUT", "/kv/a", {}, b"x", 415),
    "another one": ("PUT", "/kv/a", {"content-type": "text/plain"}, b"x", 415),
    "compressed": ("PUT", "/kv/a", OCTETS | {"content-encoding": "gzip"}, b"x", 415),
    "another charset": (
        "PUT",
        "/kv/a",
        {"content-type": "application/json; charset=latin-1"},
        b"{}",
        415,
    ),
    "no body": ("PUT", "/kv/a", JSON, b"", 400),
    "half a body": ("PUT", "/kv/a", JSON, b'{"value":"v"', 400),
    "no object": ("PUT", "/kv/a", JSON, b'"v"', 400),
    "no string": ("PUT", "/kv/a", JSON, b'{"value":1}', 400),
    "no value": ("PUT", "/kv/a", JSON, b"{}", 400),
    "an unknown field": ("PUT", "/kv/a", JSON, b'{"value":"v","x":1}', 400),
    "a field twice": ("PUT", "/kv/a", JSON, b'{"value":"v","value":"w"}', 400),
    "no JSON number": ("PUT", "/kv/a", JSON, b'{"value":NaN}', 400),
    "a lone surrogate": ("PUT", "/kv/a", JSON, b'{"value":"\\ud800"}', 400),
    "broken UTF-8": ("PUT", "/kv/a", JSON, b'{"value":"\xff"}', 400),
    "very deep": ("PUT", "/kv/a", JSON, b"[" * 100_000, 400),
    "two conditions": (
        "PUT",
        "/kv/a",
        OCTETS | {"if-match": '"1"', "if-none-match": "*"},
        b"x",
        400,
    ),
    "no star": ("PUT", "/kv/a", OCTETS | {"if-none-match": '"1"'}, b"x", 400),
    "on append": ("POST", "/append/a", OCTETS | {"if-match": '"1"'}, b"x", 400),
    "a value too long": ("PUT", "/kv/a", OCTETS, bytes(VALUE_MAX + 1), 413),
    "as announced": ("PUT", "/kv/a", OCTETS | {"content-length": str(VALUE_MAX + 1)}, b"x", 413),
    "another method": ("PATCH", "/kv/a", {}, b"", 405),
    "TRACE": ("TRACE", "/kv/a", {}, b"", 405),
    "of FastAPI's": ("DELETE", "/status", {}, b"", 405),
    "no such path": ("GET", "/nothing", {}, b"", 404),
    "no file": ("GET", "/../../etc/passwd", {}, b"", 404),
    "status takes nothing": ("GET", "/status?x=1", {}, b"", 400),
    "no key": ("GET", "/get", {}, b"", 400),
    "no value to set": ("POST", "/set?key=k", {}, b"", 400),
    "another's name": ("GET", "/kv/a", {"host": "evil.example"}, b"", 421),
    "another page": ("PUT", "/kv/a", OCTETS | {"origin": "http://evil.example"}, b"x", 403),
    "a page without name": ("POST", "/append/a", OCTETS | {"origin": "null"}, b"x", 403),
    "a sibling": ("PUT", "/kv/a", OCTETS | {"sec-fetch-site": "same-site"}, b"x", 403),
}


def test_a_bad_request_is_refused_with_its_status_and_nothing_is_done(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for case, (method, target, headers, body, status) in BAD.items():
            answer = await world.http.ask(method, target, body, headers)
            assert answer.status == status, (case, answer)
            assert answer.problem != "internal-error", case
            assert (status == 405) == ("allow" in answer.headers), case
            assert (await world.http.get("/kv/a")).status == 404, f"{case}: something was written"

    with_world(tmp_path, story)


def test_a_body_is_cut_off_while_it_streams_and_when_it_is_slow(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        piece = bytes(256 * 1024)
        long = await http.ask("PUT", "/kv/a", [piece] * 1000, OCTETS)
        assert (long.problem, long.headers["connection"]) == ("body-too-long", "close")
        fits = await http.ask("PUT", "/kv/b", [piece] * 4, OCTETS)
        assert fits.status == 204
        slow = await http.ask("PUT", "/kv/a", [b"x"] * 100, OCTETS, pieces_seconds=1.0)
        assert (slow.status, slow.problem) == (408, "body-too-slow")
        assert world.fronts[0].front.door._budget._left == 64 * 1024 * 1024, "all given back"

    with_world(tmp_path, story)


def test_without_a_majority_the_answer_is_503_or_504_in_time(tmp_path: Path) -> None:
    """503 says that nothing was done; a write that left may have been done: 504, never 503."""

    async def story(world: World) -> None:
        http = world.http
        await http.put("/kv/a", "1")
        for name in ("n2", "n3"):
            world.cluster.nodes[name].crash()
        read = await http.get("/kv/a?timeout=2")
        assert (read.problem, read.headers["retry-after"]) == ("unavailable", "1")
        write = await http.put("/kv/a?timeout=2", "2")
        assert (write.status, write.problem) in [(503, "unavailable"), (504, "outcome-unknown")]
        ready = await http.get("/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "unhealthy")
        assert (await http.get("/livez")).status == 200

    with_world(tmp_path, story)


def test_a_starting_node_says_so(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        front = world.fronts[0]
        assert front.clerk is not None
        clerk, front.clerk, front.state = front.clerk, None, "starting"
        for target in ("/kv/a", "/get?key=a", "/kv"):
            assert (await world.http.get(target)).problem == "unavailable"
        health = await world.http.get("/health")
        assert (health.status, health.json()["reasons"]) == (503, ["the node is starting"])
        assert (await world.http.get("/livez")).status == 200
        front.clerk = clerk

    with_world(tmp_path, story)


def test_a_mistake_of_ours_is_a_500_that_says_nothing(tmp_path: Path) -> None:
    class Broken:
        async def get_row(self, *_: object, **__: object) -> None:
            raise RuntimeError("secret /etc/path and 0xdeadbeef")

        async def close(self) -> None:
            pass

    async def story(world: World) -> None:
        front = world.fronts[0]
        assert front.clerk is not None
        clerk, front.clerk = front.clerk, Broken()  # type: ignore[assignment]
        for target in ("/kv/a", "/get?key=a"):
            answer = await world.http.get(target)
            assert (answer.status, answer.problem) == (500, "internal-error")
            assert b"secret" not in answer.body and b"Traceback" not in answer.body
        front.clerk = clerk

    with_world(tmp_path, story)


def test_lists_are_pages_or_lines(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        for number in range(7):
            await http.put(f"/kv/item/{number}", f"v{number}")
        await http.put("/kv/item/%ff", b"\xfe")
        page = (await http.get("/kv?prefix=item/&limit=5")).json()
        assert [row["key"] for row in page["keys"]] == [f"item/{n}" for n in range(5)]
        rest = (await http.get(f"/kv?prefix=item/&limit=5&token={page['token']}")).json()
        assert [row.get("key") for row in rest["keys"]] == ["item/5", "item/6", None]
        assert (rest["keys"][2]["key_base64"], rest["token"]) == ("aXRlbS//", None)
        lines = await http.get("/kv?prefix=item/&values=true", accept="application/x-ndjson")
        rows = [json.loads(line) for line in lines.body.splitlines()]
        assert rows[0] == {"key": "item/0", "version": 1, "value": "v0"}
        assert rows[-2]["value_base64"] == "/g=="
        assert rows[-1] == {"end": True, "keys": 8}
        assert (await http.get(f"/kv?prefix=item/&limit={10**9}")).status == 200, "a page of 1,000"
        for wrong in (
            "limit=0",
            "limit=-1",
            f"limit={2**63}",
            "values=1",
            "token=x",
            "after=a&token=x",
        ):
            assert (await http.get(f"/kv?{wrong}")).problem == "bad-request", wrong

    with_world(tmp_path, story)


def test_a_list_that_cannot_be_finished_says_so_in_its_last_line(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        for name in ("n2", "n3"):
            world.cluster.nodes[name].crash()
        answer = await http.get("/kv?timeout=1", accept="application/x-ndjson")
        assert answer.problem == "unavailable", "nothing was sent yet: it has its own status"

    with_world(tmp_path, story)


def test_who_is_not_on_this_machine_is_served_keys(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        other = HttpClient(world.fronts[0].front.door, peer="10.1.2.3")
        assert (await other.put("/kv/k", "v")).status == 200

    with_world(tmp_path, story)


def test_a_named_request_is_done_once_through_whatever_node(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first, second = (front.http for front in world.fronts)
        name = OCTETS | {"idempotency-key": "order-4711"}
        answers = [
            await http.ask("POST", "/append/log", b"paid ", name) for http in (first, second, first)
        ]
        assert [(a.status, a.headers["etag"]) for a in answers] == [(204, '"1"')] * 3
        assert (await second.get("/get?key=log")).body == b"paid "
        other = await second.ask("POST", "/append/log", b"again ", name)
        assert (other.status, other.problem) == (409, "idempotency-key-reused")
        elsewhere = await second.ask("POST", "/append/another", b"paid ", name)
        assert elsewhere.status == 204, "another key, another request"
        of_a_tag = [
            await first.ask("POST", f"/append/%7Bt%7D{key}", b"paid ", name) for key in "ab"
        ]
        assert [a.status for a in of_a_tag] == [204, 204], "in the same shard too"
        created = {"idempotency-key": "c", "if-none-match": "*"}
        for http in (first, second):
            assert (await http.put("/kv/lock", "mine", **created)).headers["etag"] == '"1"'
        await first.ask("DELETE", "/kv/lock")
        assert (await second.put("/kv/lock", "mine", **created)).status == 200
        assert (await first.get("/kv/lock")).status == 404, "answered, and not done again"

    with_world(tmp_path, story, fronts=2)


def test_a_named_request_whose_answer_was_lost_may_come_again(tmp_path: Path) -> None:
    """A 504, while most of the cluster is away: the client asks again, and it was done once."""

    async def story(world: World) -> None:
        http = world.http
        leaders = [world.cluster.leader(gid) for gid in world.cluster.gids]
        name = OCTETS | {"idempotency-key": "n"}
        for other in ("n2", "n3"):
            world.cluster.nodes[other].pause()
        lost = await http.ask("POST", "/append/log?timeout=1", b"once", name)
        assert lost.status in (503, 504), lost
        for other in ("n2", "n3"):
            world.cluster.nodes[other].resume()
        again = await http.ask("POST", "/append/log", b"once", name)
        assert again.status == 204, (again, leaders)
        await asyncio.sleep(5)
        assert (await http.get("/get?key=log")).body == b"once"

    with_world(tmp_path, story)
