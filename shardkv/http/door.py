"""The edge that every request passes: whom it was sent to, from where, and what went wrong.

Routes are dispatched here by the *raw* path, because a framework decodes and thereby changes keys;
only the document goes on to FastAPI. Whatever happens, a request gets one answer: an error of the
store is its problem document, a mistake of ours is a 500 that says nothing, with its traceback in
the node's log.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from shardctrler.errors import ShardCtrlerError
from shardkv.errors import ShardKVError
from shardkv.http.bodies import Body, Budget, ClientGone, Receive, Send
from shardkv.http.keys import Asked
from shardkv.http.measures import HttpMeasures
from shardkv.http.origin import SAFE_METHODS, check_host, check_same_origin
from shardkv.http.problems import Problem, internal, problem_of
from shardkv.http.replies import ALWAYS, AS_IT_IS, Reply, Streamed, problem_reply
from shardkv.http.requests import header
from shardkv.http.routes import Route
from shardkv.http.streams import send_head, send_streamed

if TYPE_CHECKING:
    from shardkv.tracing import Tracing

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TRACE: Final = b"traceparent"
GONE: Final = 499
"""The client left before its answer; only in our own numbers."""


PROBES: Final = (b"/livez", b"/readyz")
"""What is asked by who has no certificate, and tells no secret."""


class Door:
    """The ASGI application of a node.

    Args:
        hot: Dispatched by the beginning of the raw path.
        cold: Dispatched by the whole of it.
        inner: Gets everything else.
        host: The configured host; None: any `Host` is taken (the port is open to other machines
            anyway, under names that the node does not know).
        tracing: Where spans of requests go; None: nothing is traced.
    """

    def __init__(
        self,
        hot: tuple[Route, ...],
        cold: Mapping[bytes, Route],
        inner: App,
        measures: HttpMeasures,
        *,
        host: str | None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._hot = hot
        self._cold = cold
        self._inner = inner
        self._tracing = tracing
        self._measures = measures
        self._host = host
        self._budget = Budget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        raw: bytes = scope["raw_path"]
        route: Route | None
        for route in self._hot:
            if raw.startswith(route.path):
                rest = raw[len(route.path) :]
                break
        else:
            route, rest = self._cold.get(raw), b""
        kind = "other" if route is None else route.kinds.get(scope["method"], "other")
        begun = self._measures.began()
        status = GONE
        try:
            if route is None:
                status = await self._pass_on(scope, receive, send)
                kind = scope.get("shardkv.kind", kind)
            else:
                reply = await self._answer(route, rest, scope, receive)
                if isinstance(reply, Reply):
                    status = reply.status
                    await send_reply(reply, send)
                else:
                    status = 200
                    if scope["method"] == "HEAD":
                        await send_head(reply, send)
                    else:
                        await send_streamed(reply, receive, send)
        except ClientGone:
            log.debug("a client left before its answer")
        finally:
            self._measures.ended(kind, status, begun)

    async def _answer(
        self, route: Route, rest: bytes, scope: Scope, receive: Receive
    ) -> Reply | Streamed:
        body = Body(receive, scope["headers"], self._budget)
        try:
            self._check(scope)
            handler = route.handlers.get(scope["method"])
            if handler is None:
                return method_not_allowed(route.handlers)
            asked = Asked(
                scope["method"],
                rest,
                scope["query_string"],
                scope["headers"],
                body,
                (scope["client"] or ("",))[0],
            )
            if self._tracing is None:
                return await handler(asked)
            parent = header(asked.headers, TRACE) or b""
            with self._tracing.request(route.kinds[asked.method], parent.decode("latin-1")):
                return await handler(asked)
        except (Problem, ShardKVError, ShardCtrlerError) as error:
            return refusal(error)
        except ClientGone:
            raise
        except Exception:
            log.exception("a mistake in answering a request")
            return problem_reply(internal())
        finally:
            body.close()

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Let the inner application answer; a mistake in it is not shown."""
        status = GONE

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *missing(message)]
            await send(message)

        scope["shardkv.budget"] = self._budget
        try:
            self._check(scope)
            await self._inner(scope, receive, sending)
        except ClientGone:
            raise
        except Exception as error:
            reply = refusal(error)
            if status != GONE:
                raise  # the answer has begun: all that is left is to cut the connection
            status = reply.status
            await send_reply(reply, send)
        return status

    def _check(self, scope: Scope) -> None:
        headers = scope["headers"]
        if not scope.get("shardkv.certified", True) and scope["raw_path"] not in PROBES:
            raise Problem(
                403,
                "certificate-required",
                "this port takes requests only from who shows a certificate of its CA; without one "
                "it answers /livez and /readyz",
            )
        if self._host is not None:
            check_host(headers, self._host)
        if scope["method"] not in SAFE_METHODS or scope["raw_path"] == b"/set":
            check_same_origin(headers)


def refusal(error: Exception) -> Reply:
    """The answer that an error stands for."""
    if isinstance(error, Problem):
        return problem_reply(error)
    if isinstance(error, ShardKVError | ShardCtrlerError):
        return problem_reply(problem_of(error))
    log.error("a mistake in answering a request", exc_info=error)
    return problem_reply(internal())


def method_not_allowed(handlers: Iterable[str]) -> Reply:
    allowed = ", ".join(handlers)
    return problem_reply(
        Problem(
            405,
            "method-not-allowed",
            f"this path takes {allowed}",
            ((b"allow", allowed.encode()),),
        )
    )


def missing(message: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """What every answer has, where this one has it not."""
    there = [name.lower() for name, _ in message.get("headers", ())]
    return [(name, value) for name, value in ALWAYS if name not in there]


async def send_reply(reply: Reply, send: Send) -> None:
    """A whole answer, in two ASGI messages."""
    headers = [*reply.headers, *(AS_IT_IS if reply.kept else ALWAYS)]
    if reply.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
