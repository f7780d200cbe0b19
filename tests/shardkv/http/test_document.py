"""The OpenAPI document, the page made from it, and `docs/http.md`, which must be fresh."""

from pathlib import Path
from typing import Any

from shardkv.http.docs_page import page
from shardkv.http.reference import reference
from tests.support.http import World, with_world

ROOT = Path(__file__).parents[3]


def test_docs_http_md_is_fresh() -> None:
    """`make http-docs` writes it."""
    assert (ROOT / "docs/http.md").read_text() == reference()


def test_the_document_has_every_route_and_only_what_it_defines(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        document = (await world.http.get("/openapi.json")).json()
        routes = [
            f"{method.upper()} {path}" for path, ms in document["paths"].items() for method in ms
        ]
        assert {"GET /kv/{key}", "PUT /kv/{key}", "GET /events", "POST /cluster/leave"} <= set(
            routes
        )
        defined = document["components"]["schemas"]
        for name in references(document):
            assert name.removeprefix("#/components/schemas/") in defined, name
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                assert "422" not in operation["responses"], (path, method)
                assert operation["summary"] and operation["operationId"]
        shown = await world.http.get("/docs")
        assert shown.headers["content-security-policy"].startswith("default-src 'none'")
        assert b"http://" not in shown.body and b"https://" not in shown.body, "nothing from afar"

    with_world(tmp_path, story)


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in references(item)]
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    return []


def test_the_page_shows_text_as_text() -> None:
    document = {
        "info": {"title": "<b>", "version": "1", "description": "`a<b>`"},
        "paths": {"/<script>": {"get": {"summary": "<i>", "responses": {}}}},
    }

    shown = page(document)

    assert "<script>" not in shown and "<i>" not in shown and "<b>" not in shown
    assert "<code>a&lt;b&gt;</code>" in shown


def test_only_the_document_costs_what_makes_it(tmp_path: Path) -> None:
    """Whoever tries paths gets 404 from the door itself."""

    async def story(world: World) -> None:
        for path in ("/nothing", "/kvx", "/docs/", "/openapi.json.bak", "/append"):
            assert (await world.http.get(path)).problem == "no-such-path", path
        assert world.fronts[0].front.documents_made is False
        assert (await world.http.get("/openapi.json")).status == 200
        assert world.fronts[0].front.documents_made is True
        refused = await world.http.ask("POST", "/openapi.json")
        assert (refused.status, refused.problem) == (405, "method-not-allowed")

    with_world(tmp_path, story)
