"""FastAPI behind the door: every route with its document, and those that are not hot.

The routes of single keys stand here too, for the document; the door answers them before FastAPI
sees them, from the raw path.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shardkv import __version__
from shardkv.http import spec
from shardkv.http.bodies import Body, ClientGone
from shardkv.http.door import GONE, Door, Route, method_not_allowed, refusal
from shardkv.http.keys import Asked, Keys
from shardkv.http.measures import HttpMeasures
from shardkv.http.problems import Problem
from shardkv.http.replies import Reply, Streamed, problem_reply
from shardkv.http.schemas import COMPONENTS
from shardkv.http.streams import StreamedResponse

DESCRIPTION: Final = """Any node serves any key. Errors are problem documents (RFC 9457).

A 503 was certainly not done and may be repeated; a 504 **may have been done**. There are no
users: see *operations* for who may connect."""


class Cold(NamedTuple):
    """A route that FastAPI dispatches."""

    method: str
    path: str
    kind: str
    tag: str
    summary: str
    handler: Callable[[Asked], Awaitable[Reply | Streamed]]
    spec: Mapping[str, Any]


class Documented(NamedTuple):
    """A route of the door, as the document shows it."""

    method: str
    path: str
    tag: str
    summary: str
    spec: Mapping[str, Any]


HOT: Final = (
    Documented("GET", "/kv/{key}", "keys", "Read a key.", spec.GET_KEY),
    Documented("PUT", "/kv/{key}", "keys", "Write a key.", spec.PUT_KEY),
    Documented("DELETE", "/kv/{key}", "keys", "Make a key absent.", spec.DELETE_KEY),
    Documented("POST", "/append/{key}", "keys", "Add to the end of a value.", spec.APPEND_KEY),
)


def hot_routes(keys: Keys) -> tuple[Route, ...]:
    """What the door dispatches."""
    return (
        Route(
            b"/kv/",
            {"GET": "get", "HEAD": "get", "PUT": "put", "DELETE": "delete"},
            {"GET": keys.get, "HEAD": keys.get, "PUT": keys.put, "DELETE": keys.delete},
        ),
        Route(b"/append/", {"POST": "append"}, {"POST": keys.append}),
    )


def key_routes(keys: Keys) -> tuple[Cold, ...]:
    """Batches; and keys in the query, as some clients know it."""
    return (
        Cold(
            "POST", "/batch", "batch", "keys",
            "Write several keys of one shard: all of them, or none.", keys.batch, spec.BATCH,
        ),
        Cold("GET", "/get", "get", "keys", "Read a key, as text.", keys.old_get, spec.OLD_GET),
        Cold("POST", "/set", "put", "keys", "Write a key.", keys.old_set, spec.OLD_SET),
        Cold(
            "GET", "/set", "put", "keys",
            "Write a key by a GET, where `http_get_writes` allows it.", keys.old_set, spec.OLD_SET,
        ),
    )  # fmt: skip


def make_door(
    keys: Keys, cold: tuple[Cold, ...], measures: HttpMeasures, *, host: str | None
) -> Door:
    """The node's ASGI application."""
    return Door(hot_routes(keys), make_app(cold), measures, host=host)


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
            _endpoint(route),
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


def _endpoint(route: Cold) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        scope = request.scope
        scope["shardkv.kind"] = route.kind
        body = Body(request.receive, scope["headers"], scope["shardkv.budget"])
        try:
            reply = await route.handler(
                Asked(
                    scope["method"],
                    b"",
                    scope["query_string"],
                    scope["headers"],
                    body,
                    (scope["client"] or ("",))[0],
                )
            )
        except ClientGone:
            return Response(status_code=GONE)  # nobody reads it
        except Exception as error:
            return response(refusal(error))
        finally:
            body.close()
        return StreamedResponse(reply) if isinstance(reply, Streamed) else response(reply)

    return endpoint


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
        return response(method_not_allowed(dict.fromkeys(allow.split(", "))))  # type: ignore[arg-type]
    if error.status_code == 404:
        return response(
            problem_reply(Problem(404, "no-such-path", "there is nothing at this path; see /docs"))
        )
    return response(problem_reply(Problem(error.status_code, "refused", str(error.detail))))
