"""The web page's files: how they are answered, and that they are shipped whole."""

import re
from gzip import decompress
from pathlib import Path

import pytest

from shardkv.http.page import INDEX, POLICY, STATIC, Page, shipped
from shardkv.http.problems import Problem
from shardkv.http.replies import Reply
from tests.support.http import World, with_world

FILES = {"index.html": b"<!doctype html>", "assets/app-1a2b.js": b"go()" * 100}


def found(reply: Reply) -> tuple[int, bytes, dict[str, str]]:
    return reply.status, reply.body, {k.decode(): v.decode() for k, v in reply.headers}


def test_the_page_is_asked_for_again_each_time_and_its_files_are_kept_for_ever() -> None:
    page = Page(lambda: FILES)

    status, body, headers = found(page.reply(INDEX, ()))
    _, _, script = found(page.reply("assets/app-1a2b.js", ()))

    assert (status, body) == (200, FILES["index.html"])
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["content-security-policy"] == POLICY
    assert script["content-type"] == "text/javascript; charset=utf-8"
    assert script["cache-control"] == "public, max-age=31536000, immutable"
    status, body, again = found(page.reply(INDEX, ((b"if-none-match", headers["etag"].encode()),)))
    assert (status, body, again["etag"]) == (304, b"", headers["etag"])
    assert found(page.reply(INDEX, ((b"if-none-match", b'"other"'),)))[0] == 200


def test_a_browser_that_takes_gzip_gets_it() -> None:
    status, body, headers = found(
        Page(lambda: FILES).reply("assets/app-1a2b.js", ((b"accept-encoding", b"gzip, br"),))
    )

    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert decompress(body) == FILES["assets/app-1a2b.js"]
    assert len(body) < 100 and headers["vary"] == "accept-encoding"


def test_nothing_else_is_there() -> None:
    page = Page(lambda: FILES)

    for name in ("assets/", "assets/../page.py", "/index.html", "assets/app-9.js", ""):
        with pytest.raises(Problem, match="nothing at this path"):
            page.reply(name, ())


def test_the_files_are_read_when_the_page_is_first_asked_for() -> None:
    reads = 0

    def files() -> dict[str, bytes]:
        nonlocal reads
        reads += 1
        return FILES

    page = Page(files)
    assert reads == 0
    page.reply(INDEX, ())
    page.reply(INDEX, ())

    assert reads == 1


def test_the_shipped_page_is_whole_and_needs_nothing_from_afar() -> None:
    """What the page names is there, what is there is named, and no script stands in it."""
    files = shipped()
    index = files[INDEX].decode()
    sources = re.findall(r'(?:src|href)="/?([^"]+)"', index)

    assert {name for name in files if name.endswith((".js", ".css"))} >= {
        name for name in sources if name.startswith("assets/")
    }
    assert all(name in files for name in sources), sources
    assert not re.search(r"<script(?![^>]* src=)|<style|style=|https?://| on\w+=", index)
    assert {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.*")} == set(files)


def test_a_node_answers_with_the_page(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        http = world.http
        shown = await http.get("/", accept_encoding="identity")
        assert (shown.status, shown.body) == (200, shipped()[INDEX])
        assert shown.headers["x-content-type-options"] == "nosniff"
        for name in shipped():
            if name.startswith("assets/"):
                kept = await http.get(f"/{name}")
                assert "immutable" in kept.headers["cache-control"], name
                assert "no-store" not in kept.headers["cache-control"], name
        head = await http.ask("HEAD", "/")
        assert (head.status, head.headers["etag"]) == (200, shown.headers["etag"])
        assert (await http.get("/assets/nothing.js")).problem == "no-such-path"
        assert (await http.ask("POST", "/", b"")).problem == "method-not-allowed"
        assert (await http.get("/", host="evil.example")).problem == "wrong-host"

    with_world(tmp_path, story)
