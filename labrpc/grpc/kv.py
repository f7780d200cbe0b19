"""The typed unary service of `kv.proto`: clients in other languages, one operation a call.

This layer knows the messages and not their meaning; whoever serves hands in a `KvHandler`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError, Message

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.grpc import kv_pb2 as kv
from labrpc.grpc.work import Share, Stopping, Work, internal_error
from labrpc.limits import UNARY_SECONDS_MAX

KV_SERVICE = kv.DESCRIPTOR.services_by_name["Kv"].full_name

Context = grpc.aio.ServicerContext[bytes, bytes]
Request = TypeVar("Request", bound=Message)


class KvHandler(Protocol):
    """Carries the operations out, each within `timeout` seconds.

    Each may raise `Refused` (its code and text reach the client), `Unreachable` (UNAVAILABLE:
    nothing happened) or `Unknown` (DEADLINE_EXCEEDED: it may have). Any other exception becomes
    INTERNAL with a fixed text.
    """

    async def get(self, request: kv.GetRequest, timeout: float) -> kv.GetReply: ...

    async def put(self, request: kv.PutRequest, timeout: float) -> kv.PutReply: ...

    async def append(self, request: kv.AppendRequest, timeout: float) -> kv.AppendReply: ...

    async def delete(self, request: kv.DeleteRequest, timeout: float) -> kv.DeleteReply: ...

    async def batch(self, request: kv.BatchRequest, timeout: float) -> kv.BatchReply: ...

    async def list(self, request: kv.ListRequest, timeout: float) -> kv.ListReply: ...

    async def status(self, request: kv.StatusRequest, timeout: float) -> kv.StatusReply: ...


def kv_service(handler: KvHandler, work: Work) -> grpc.GenericRpcHandler:
    """The service, for a grpc server whose operations in flight are counted by `work`."""

    def method(
        decode: Callable[[bytes], Request],
        carry_out: Callable[[Request, float], Awaitable[Message]],
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":  # generic in its stub only
        async def answer(raw: bytes, context: Context) -> bytes:
            try:
                request = decode(raw)
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is broken")
            share = Share()  # gRPC bounds the streams of a connection, and each is one operation
            try:
                work.admit(share, len(raw))
            except Stopping as stopping:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(stopping))
            except Refused as refusal:
                await context.abort(grpc.StatusCode[refusal.code], refusal.message)
            outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            timeout = min(context.time_remaining() or UNARY_SECONDS_MAX, UNARY_SECONDS_MAX)

            async def job() -> None:
                """In a task of its own, which goes on when the client goes away."""
                try:
                    reply = await carry_out(request, timeout)
                    _settle(outcome, reply.SerializeToString())
                except Exception as error:
                    _settle(outcome, error)
                finally:
                    work.release(share, len(raw))
                    outcome.cancel()  # nothing, if it is settled

            work.start(job())
            try:
                async with asyncio.timeout(timeout):
                    return await outcome
            except TimeoutError:
                code, text = grpc.StatusCode.DEADLINE_EXCEEDED, "outcome unknown: no answer in time"
            except Refused as refusal:
                code, text = _status(refusal.code), refusal.message
            except Unreachable as error:
                code, text = grpc.StatusCode.UNAVAILABLE, str(error)
            except Unknown as error:
                code, text = grpc.StatusCode.DEADLINE_EXCEEDED, f"outcome unknown: {error}"
            except Exception as error:
                code, text = grpc.StatusCode.INTERNAL, internal_error(KV_SERVICE, error).message
            return await context.abort(code, text)

        return grpc.unary_unary_rpc_method_handler(answer)

    return grpc.method_handlers_generic_handler(
        KV_SERVICE,
        {
            "Get": method(kv.GetRequest.FromString, handler.get),
            "Put": method(kv.PutRequest.FromString, handler.put),
            "Append": method(kv.AppendRequest.FromString, handler.append),
            "Delete": method(kv.DeleteRequest.FromString, handler.delete),
            "Batch": method(kv.BatchRequest.FromString, handler.batch),
            "List": method(kv.ListRequest.FromString, handler.list),
            "Status": method(kv.StatusRequest.FromString, handler.status),
        },
    )


def _settle(outcome: asyncio.Future[bytes], result: bytes | Exception) -> None:
    if outcome.done():
        return  # the client is gone
    if isinstance(result, Exception):
        outcome.set_exception(result)
    else:
        outcome.set_result(result)


def _status(code: str) -> grpc.StatusCode:
    return getattr(grpc.StatusCode, code, grpc.StatusCode.UNKNOWN)
