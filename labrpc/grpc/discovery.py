"""Which cluster an address belongs to: asked before the first hello, which must name it."""

import grpc.aio

from labrpc.errors import Refused, Unreachable
from labrpc.grpc import kv_pb2 as kv
from labrpc.grpc import options
from labrpc.grpc.diagnosis import HANDSHAKE_SECONDS, diagnose, in_short
from labrpc.grpc.kv import KV_SERVICE
from labrpc.grpc.tls import Tls, dial
from labrpc.transport import Address


async def cluster_at(address: Address, *, timeout: float, tls: Tls | None = None) -> bytes:
    """The id of the cluster whose node listens for clients at `address`.

    Raises:
        Unreachable: nobody answered within `timeout` seconds. (As long again may be spent on why.)
        Refused: who answered is no node of ours, or not willing; or TLS keeps the two apart.
    """
    async with dial(address, tls, options.CLIENT) as connection:
        ask = connection.unary_unary(
            f"/{KV_SERVICE}/Status",
            request_serializer=kv.StatusRequest.SerializeToString,
            response_deserializer=kv.StatusReply.FromString,
        )
        try:
            reply: kv.StatusReply = await ask(kv.StatusRequest(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or "no answer"
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                patience = min(timeout, HANDSHAKE_SECONDS)
                if reason := await diagnose(address, tls, seconds=patience):
                    raise Refused("UNAUTHENTICATED", reason) from None
                why = in_short(code.name, details)
                raise Unreachable(f"{address} cannot be reached: {why}") from None
            raise Refused(code.name, details) from None
    return reply.cluster
