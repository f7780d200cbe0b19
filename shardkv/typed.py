"""The typed service of `kv.proto` on a node: plain calls, for any language.

The node is a clerk on the caller's behalf. A caller that repeats a write after DEADLINE_EXCEEDED
asks for a second one, unless both have the same `request_id` (`shardkv/once.py`).
"""

from collections.abc import Callable
from typing import Final, NoReturn, TypedDict

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.grpc import kv_pb2 as kv
from shardkv.admin import NodeStatus
from shardkv.clerk import Clerk
from shardkv.consistency import Consistency
from shardkv.errors import (
    DiskFull,
    InvalidArgument,
    NamesFull,
    NotOneShard,
    OutcomeUnknown,
    Overloaded,
    ShardKVError,
    Unavailable,
    VersionMismatch,
)
from shardkv.limits import PAGE_ROWS_MAX
from shardkv.once import NAME_BYTES_MAX, Once
from shardkv.tokens import ReadSession
from shardkv.writes import Append, BatchOperation, Delete, Put


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
            session = self._session(request)
            row = await self._clerk.get_row(
                request.key, session=session, timeout=timeout, **_reading(request)
            )
        except ShardKVError as error:
            _translate(error)
        return kv.GetReply(
            found=row.value is not None,
            value=row.value or b"",
            version=row.version,
            session=_token(session),
        )

    async def put(self, request: kv.PutRequest, timeout: float) -> kv.PutReply:
        if_version = request.if_version if request.HasField("if_version") else None
        try:
            session = self._session(request)
            version = await self._clerk.put(
                request.key,
                request.value,
                if_version=if_version,
                session=session,
                once=_once(request),
                timeout=timeout,
            )
        except ShardKVError as error:
            _translate(error)
        return kv.PutReply(version=version, session=_token(session))

    async def append(self, request: kv.AppendRequest, timeout: float) -> kv.AppendReply:
        try:
            session = self._session(request)
            version = await self._clerk.append(
                request.key, request.value, session=session, once=_once(request), timeout=timeout
            )
        except ShardKVError as error:
            _translate(error)
        return kv.AppendReply(version=version, session=_token(session))

    async def delete(self, request: kv.DeleteRequest, timeout: float) -> kv.DeleteReply:
        if_version = request.if_version if request.HasField("if_version") else None
        try:
            session = self._session(request)
            await self._clerk.delete(
                request.key,
                if_version=if_version,
                session=session,
                once=_once(request),
                timeout=timeout,
            )
        except ShardKVError as error:
            _translate(error)
        return kv.DeleteReply(session=_token(session))

    async def batch(self, request: kv.BatchRequest, timeout: float) -> kv.BatchReply:
        try:
            session = self._session(request)
            operations = [_operation(at, one) for at, one in enumerate(request.operations)]
            versions = await self._clerk.batch(
                operations, session=session, once=_once(request), timeout=timeout
            )
        except ShardKVError as error:
            _translate(error)
        return kv.BatchReply(versions=versions, session=_token(session))

    async def list(self, request: kv.ListRequest, timeout: float) -> kv.ListReply:
        try:
            session = self._session(request)
            page = await self._clerk.list_page(
                request.prefix,
                after=request.after if request.HasField("after") else None,
                token=request.page_token or None,
                limit=request.limit if request.HasField("limit") else PAGE_ROWS_MAX,
                values=request.values,
                session=session,
                timeout=timeout,
                **_reading(request),
            )
        except ShardKVError as error:
            _translate(error)
        rows = [kv.ListedRow(key=r.key, version=r.version, value=r.value) for r in page.rows]
        return kv.ListReply(rows=rows, next_page_token=page.token or "", session=_token(session))

    def _session(self, request: "_InSession") -> ReadSession | None:
        """The session that a call goes on with; one that begins has an empty token."""
        if not request.HasField("session"):
            return None
        return self._clerk.session(request.session or None)

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


_InSession = (
    kv.GetRequest
    | kv.PutRequest
    | kv.AppendRequest
    | kv.DeleteRequest
    | kv.BatchRequest
    | kv.ListRequest
)
_CONSISTENCIES: Final = {
    kv.LINEARIZABLE: Consistency.LINEARIZABLE,
    kv.SPREAD: Consistency.SPREAD,
    kv.STALE: Consistency.STALE,
}


class _Reading(TypedDict):
    consistency: Consistency
    max_age: float | None


def _reading(request: kv.GetRequest | kv.ListRequest) -> _Reading:
    """Raises InvalidArgument for a consistency that this version does not know."""
    consistency = _CONSISTENCIES.get(request.consistency)
    if consistency is None:
        raise InvalidArgument(f"consistency {int(request.consistency)} is not known here")
    max_age = request.max_age_seconds if request.HasField("max_age_seconds") else None
    return _Reading(consistency=consistency, max_age=max_age)


def _operation(at: int, said: kv.BatchOperation) -> BatchOperation:
    """Raises InvalidArgument for an operation that this version does not know, or that is none."""
    if_version = said.if_version if said.HasField("if_version") else None
    match said.WhichOneof("write"):
        case "put":
            return Put(said.key, said.put, if_version)
        case "append":
            return Append(said.key, said.append, if_version)
        case "delete" if said.delete:
            return Delete(said.key, if_version)
    error = InvalidArgument("it must be a put, an append, or a delete that is true")
    error.operation = at
    raise error


def _once(
    request: kv.PutRequest | kv.AppendRequest | kv.DeleteRequest | kv.BatchRequest,
) -> Once | None:
    """Raises InvalidArgument."""
    if not request.HasField("request_id"):
        return None
    name = request.request_id.encode()
    if not 1 <= len(name) <= NAME_BYTES_MAX:
        raise InvalidArgument(f"request_id must be 1 to {NAME_BYTES_MAX} bytes, not {len(name)}")
    return Once.named(name)


def _token(session: ReadSession | None) -> str:
    return "" if session is None else session.token


def _translate(error: ShardKVError) -> NoReturn:
    """The store's errors as the transport's, which carry gRPC's codes."""
    match error:
        case NotOneShard():  # another number of shards might hold them in one
            raise Refused("FAILED_PRECONDITION", str(error)) from error
        case InvalidArgument():
            raise Refused("INVALID_ARGUMENT", str(error)) from error
        case VersionMismatch():
            raise Refused("FAILED_PRECONDITION", str(error)) from error
        case Overloaded() | DiskFull() | NamesFull():
            raise Refused("RESOURCE_EXHAUSTED", str(error)) from error
        case OutcomeUnknown():
            raise Unknown(str(error)) from error
        case Unavailable():
            raise Unreachable(str(error)) from error
        case _:
            code = "UNAVAILABLE" if error.retriable else "FAILED_PRECONDITION"
            raise Refused(code, str(error)) from error
