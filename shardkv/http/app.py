"""FastAPI behind the door: it makes the OpenAPI document of all routes, and shows it.

Its import costs a node 20 MB and half a second; so it is loaded when the document is first asked
for, and the door answers everything else before FastAPI sees it, from the raw path.
"""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shardkv import __version__
from shardkv.http.door import method_not_allowed
from shardkv.http.problems import Problem, no_such_path
from shardkv.http.replies import Reply, problem_reply
from shardkv.http.routes import HOT, Cold
from shardkv.http.schemas import COMPONENTS

DESCRIPTION: Final = """Any node serves any key. Errors are problem documents (RFC 9457).

A 503 was certainly not done and may be repeated; a 504 **may have been done**. There are no
users: see *operations* for who may connect."""


def make_app(cold: tuple[Cold, ...]) -> FastAPI:
    """FastAPI with all routes and the document; `/openapi.json` and `/docs`."""
    app = FastAPI(
        title="shardkv",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    for hot in HOT:
        app.add_api_route(
            hot.path,
            _answered_by_the_door,
            methods=[hot.method],
            tags=[hot.tag],
            summary=hot.summary,
            operation_id=f"{hot.method.lower()}_key_{hot.path.split('/')[1]}",
            openapi_extra=dict(hot.spec),
            response_class=Response,
        )
    for route in cold:
        app.add_api_route(
            route.path,
            _answered_by_the_door,
            methods=[route.method],
            tags=[route.tag],
            summary=route.summary,
            operation_id=f"{route.method.lower()}{route.path.replace('/', '_')}",
            openapi_extra=dict(route.spec),
            response_class=Response,
        )

    async def openapi(_: Request) -> Response:
        return JSONResponse(document_of(app))

    async def docs(_: Request) -> Response:
        from shardkv.http.docs_page import page

        return HTMLResponse(
            page(document_of(app)), headers={"content-security-policy": DOCS_POLICY}
        )

    app.add_route("/openapi.json", openapi, include_in_schema=False)
    app.add_route("/docs", docs, include_in_schema=False)
    app.add_exception_handler(HTTPException, _http_problem)
    return app


DOCS_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def document_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made when it is first asked for: FastAPI's, with our answers instead
    of its guesses."""
    document: dict[str, Any] | None = getattr(app.state, "document", None)
    if document is None:
        document = app.state.document = _document(app)
    return document


def _document(app: FastAPI) -> dict[str, Any]:
    document = app.openapi()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas.update(COMPONENTS)
    written = {(hot.path, hot.method): hot.spec for hot in HOT}
    for route in app.routes:
        extra = getattr(route, "openapi_extra", None)
        if extra is not None:
            for method in route.methods:  # type: ignore[attr-defined]
                written[route.path, method] = extra  # type: ignore[attr-defined]
    for (path, method), extra in written.items():
        document["paths"][path][method.lower()]["responses"] = dict(extra["responses"])
    return document


async def _answered_by_the_door(request: Request) -> Response:
    raise AssertionError(f"{request.url.path} is the door's")


def response(reply: Reply) -> Response:
    """A reply as Starlette sends it."""
    answer = Response(reply.body, status_code=reply.status)
    length = [(b"content-length", b"%d" % len(reply.body))]
    answer.raw_headers = [*reply.headers, *([] if reply.status in (204, 304) else length)]
    return answer


async def _http_problem(_: Request, error: Exception) -> Response:
    """What Starlette's router refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return response(method_not_allowed(dict.fromkeys(allow.split(", "))))
    if error.status_code == 404:
        return response(problem_reply(no_such_path()))
    return response(problem_reply(Problem(error.status_code, "refused", str(error.detail))))
