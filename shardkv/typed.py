"""The typed service of `kv.proto` on a node: one plain call an operation, for any language.

The node is a clerk on the caller's behalf. A caller that repeats a call after DEADLINE_EXCEEDED
asks for a second operation; with `if_version` that is safe.
"""

from collections.abc import Callable
from typing import NoReturn

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.grpc import kv_pb2 as kv
from shardkv.admin import NodeStatus
from shardkv.clerk import Clerk
from shardkv.errors import (
    DiskFull,
    InvalidArgument,
    OutcomeUnknown,
    Overloaded,
    ShardKVError,
    Unavailable,
    VersionMismatch,
)


class TypedService:
    """Carries out what the typed calls ask for; a `labrpc.grpc.kv.KvHandler`.

    Args:
        clerk: Gives the node's clerk; None while the node is starting.
        status: The node's status, with its replicas.
    """

    def __init__(self, clerk: Callable[[], Clerk | None], status: Callable[[], NodeStatus]) -> None:
        self._clerk_now = clerk
        self._status = status

    async def get(self, request: kv.GetRequest, timeout: float) -> kv.GetReply:
        try:
            row = await self._clerk.get_row(request.key, timeout=timeout)
        except ShardKVError as error:
            _translate(error)
        return kv.GetReply(found=row.value is not None, value=row.value or b"", version=row.version)

    async def put(self, request: kv.PutRequest, timeout: float) -> kv.PutReply:
        if_version = request.if_version if request.HasField("if_version") else None
        try:
            version = await self._clerk.put(
                request.key, request.value, if_version=if_version, timeout=timeout
            )
        except ShardKVError as error:
            _translate(error)
        return kv.PutReply(version=version)

    async def append(self, request: kv.AppendRequest, timeout: float) -> kv.AppendReply:
        try:
            version = await self._clerk.append(request.key, request.value, timeout=timeout)
        except ShardKVError as error:
            _translate(error)
        return kv.AppendReply(version=version)

    async def delete(self, request: kv.DeleteRequest, timeout: float) -> kv.DeleteReply:
        try:
            await self._clerk.delete(request.key, timeout=timeout)
        except ShardKVError as error:
            _translate(error)
        return kv.DeleteReply()

    async def status(self, request: kv.StatusRequest, timeout: float) -> kv.StatusReply:
        status = self._status()
        return kv.StatusReply(
            node=status.node,
            cluster=status.cluster,
            config_number=status.config_number,
            groups=[
                kv.GroupStatus(
                    gid=replica.gid,
                    role="stopped" if replica.stopped else replica.role,
                    leader=replica.leader,
                    term=replica.term,
                    commit=replica.commit,
                    applied=replica.applied,
                )
                for replica in status.replicas
            ],
        )

    @property
    def _clerk(self) -> Clerk:
        clerk = self._clerk_now()
        if clerk is None:
            raise Unreachable("the node is starting")
        return clerk


def _translate(error: ShardKVError) -> NoReturn:
    """The store's errors as the transport's, which carry gRPC's codes."""
    match error:
        case InvalidArgument():
            raise Refused("INVALID_ARGUMENT", str(error)) from error
        case VersionMismatch():
            raise Refused("FAILED_PRECONDITION", str(error)) from error
        case Overloaded() | DiskFull():
            raise Refused("RESOURCE_EXHAUSTED", str(error)) from error
        case OutcomeUnknown():
            raise Unknown(str(error)) from error
        case Unavailable():
            raise Unreachable(str(error)) from error
        case _:
            code = "UNAVAILABLE" if error.retriable else "FAILED_PRECONDITION"
            raise Refused(code, str(error)) from error
