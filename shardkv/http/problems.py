"""What is answered when a request is not done: RFC 9457 problem documents, and from which errors.

`type` is `/problems/` and a short stable name, by which programs tell problems apart; `detail` says
what was wrong, the limit, and what to do. Nothing here shows more than the store's own messages,
and a mistake of ours shows nothing at all.
"""

import json
from typing import Final

from shardctrler.errors import (
    ChangeRefused,
    ConfigChanged,
    ShardCtrlerError,
)
from shardctrler.errors import OutcomeUnknown as ChangeUnknown
from shardkv.errors import (
    BatchTooLong,
    DiskFull,
    InvalidArgument,
    KeyTooLong,
    NamesFull,
    NotOneShard,
    OutcomeUnknown,
    Overloaded,
    RequestNameReused,
    SequenceReused,
    ShardKVError,
    ValueTooLong,
    VersionMismatch,
    WindowFull,
)
from shardkv.http.limits import RETRY_SECONDS

MEDIA_TYPE: Final = "application/problem+json"
NAMES_SECONDS: Final = 60.0
"""Names go by the minute, a day after they came."""
DETAIL_CHARACTERS_MAX: Final = 400

TITLES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    428: "Precondition Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}


class Problem(Exception):
    """A request that is refused or failed, as its caller shall hear of it.

    Args:
        status: Of HTTP.
        name: Stable, for programs: `key-not-found`.
        detail: For people: what, which limit, what to do.
        headers: Besides the usual ones.
        operation: Of a batch: which one it is about, from 0.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        operation: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.name, self.headers = status, name, headers
        self.operation = operation
        self.detail = detail[:DETAIL_CHARACTERS_MAX]

    def body(self) -> bytes:
        """The document's bytes."""
        fields: dict[str, object] = {
            "type": f"/problems/{self.name}",
            "title": TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
        }
        if self.operation is not None:
            fields["operation"] = self.operation
        return json.dumps(fields).encode()


class Bad(Problem):
    """The request itself is wrong: 400."""

    def __init__(
        self, detail: str, name: str = "bad-request", *, operation: int | None = None
    ) -> None:
        super().__init__(400, name, detail, operation=operation)


def retry_after(seconds: float = RETRY_SECONDS) -> tuple[tuple[bytes, bytes], ...]:
    """The header, in whole seconds, at least one."""
    return ((b"retry-after", b"%d" % max(1, round(seconds))),)


def not_ready(detail: str) -> Problem:
    """The node cannot serve now; nothing was done."""
    return Problem(503, "unavailable", detail, retry_after())


def problem_of(error: ShardKVError | ShardCtrlerError) -> Problem:
    """An error of the store or its controller, as a problem.

    `OutcomeUnknown` is 504 and never 503: software repeats a 503 by itself, and this must not be.
    """
    problem = _problem_of(error)
    if isinstance(error, ShardKVError):
        problem.operation = error.operation
    return problem


def _problem_of(error: ShardKVError | ShardCtrlerError) -> Problem:
    text = str(error)
    match error:
        case ValueTooLong():
            return Problem(413, "value-too-long", text)
        case BatchTooLong():
            return Problem(413, "batch-too-long", text)
        case NotOneShard():
            return Problem(400, "not-one-shard", text)
        case KeyTooLong() if error.operation is None:
            return Problem(414, "key-too-long", text)
        case InvalidArgument():
            return Problem(400, "bad-request", text)
        case VersionMismatch():
            return Problem(412, "version-mismatch", text)
        case DiskFull():
            return Problem(507, "disk-full", text)
        case Overloaded():
            return Problem(429, "overloaded", text, retry_after(error.retry_seconds))
        case NamesFull():
            return Problem(429, "too-many-idempotency-keys", text, retry_after(NAMES_SECONDS))
        case WindowFull():
            return Problem(429, "overloaded", text, retry_after())
        case RequestNameReused():
            return Problem(409, "idempotency-key-reused", text)
        case SequenceReused():
            return Problem(409, "request-id-reused", text)
        case OutcomeUnknown() | ChangeUnknown():
            return Problem(504, "outcome-unknown", f"{text}; look before you repeat it")
        case ConfigChanged():
            return Problem(409, "configuration-changed", text)
        case ChangeRefused():
            return Problem(409, "change-refused", text)
        case _:
            return Problem(503, "unavailable", text, retry_after())


def no_such_path() -> Problem:
    return Problem(404, "no-such-path", "there is nothing at this path; see /docs")


def internal() -> Problem:
    """A mistake of ours: the log has it, the caller learns that it is one."""
    return Problem(
        500, "internal-error", "the node made a mistake; its log says more. A write may be done"
    )
