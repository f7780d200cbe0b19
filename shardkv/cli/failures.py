"""What a user is told when something goes wrong: one line on standard error, and an exit status.

    0 done
    1 the operation was refused, failed or found nothing: definitely
    2 usage or configuration
    3 no answer in time: the outcome is unknown (said in words), or the cluster is not available
    4 this node's data or identity is not usable
    5 already in use (a lock, a port)

Never a traceback: an error that nobody foresaw is named, with how to see the rest.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from labrpc.errors import CannotListen, Refused, RpcError, Unknown
from raft.errors import DataInUse, DataUnusable, StorageFailed
from shardctrler.errors import NoSuchConfig, ShardCtrlerError
from shardkv.config import ConfigError
from shardkv.errors import OutcomeUnknown, SessionExpired, ShardKVError, Unavailable
from shardkv.text import one_line, quoted, shown

MESSAGE_CHARACTERS_MAX: Final = 2000


class Exit(IntEnum):
    """Exit statuses; the module's text says when."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNKNOWN = 3
    UNUSABLE = 4
    IN_USE = 5


class Failure(Exception):
    """An end of a command that is no success.

    Args:
        status: The exit status.
        message: One line: what was wrong, the rule, what to do.
        code: A name for programs, in JSON mode.
        hint: What to do, where it is not part of the message.
    """

    def __init__(self, status: Exit, message: str, code: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.hint = status, code or status.name.lower(), hint


class Told(NamedTuple):
    """A failure as it is shown."""

    status: Exit
    code: str
    message: str
    hint: str


def told(error: BaseException) -> Told:
    """How an exception ends the command."""
    name = type(error).__name__
    match error:
        case Failure():
            return Told(error.status, error.code, str(error), error.hint)
        case ConfigError():
            return Told(Exit.USAGE, name, str(error), "")
        case OutcomeUnknown() | SessionExpired() | Unknown():
            return Told(Exit.UNKNOWN, name, f"outcome unknown: {error}", "read before repeating")
        case Unavailable() | RpcError() if not isinstance(error, Refused):
            hint = "is the cluster running? see `shardkv status`"
            return Told(Exit.UNKNOWN, name, f"unavailable: {error}", hint)
        case DataUnusable() | StorageFailed():
            return Told(Exit.UNUSABLE, name, str(error), "")
        case DataInUse():
            return Told(Exit.IN_USE, name, str(error), "")
        case CannotListen():
            return Told(Exit.IN_USE, name, str(error), "stop what listens there, or choose another")
        case NoSuchConfig():  # definite, although there may be one some day
            return Told(Exit.REFUSED, name, str(error), "")
        case ShardKVError() | ShardCtrlerError() | Refused():
            unavailable = getattr(error, "retriable", False)
            return Told(Exit.UNKNOWN if unavailable else Exit.REFUSED, name, str(error), "")
        case KeyboardInterrupt():
            return Told(Exit.UNKNOWN, "interrupted", "interrupted", "")
        case BrokenPipeError():
            return Told(Exit.REFUSED, name, "whoever read the output went away", "")
        case OSError():
            place = f"{shown(str(error.filename))}: " if error.filename else ""
            return Told(Exit.REFUSED, name, f"{place}{error.strerror or error}", "")
        case _:
            hint = "this is a mistake in shardkv; SHARDKV_TRACEBACK=1 shows where"
            return Told(Exit.REFUSED, name, f"{name}: {error}", hint)


def line(failure: Told, command: str) -> str:
    """The line on standard error."""
    text = one_line(failure.message, MESSAGE_CHARACTERS_MAX)
    return f"{command}: {text}" + (f" ({failure.hint})" if failure.hint else "")


def refused(message: str) -> Failure:
    """Refused or not found; definite."""
    return Failure(Exit.REFUSED, message)


def misused(message: str) -> Failure:
    """Wrong usage."""
    return Failure(Exit.USAGE, message)


def not_found(key: bytes) -> Failure:
    """A key that is absent."""
    return Failure(Exit.REFUSED, f"key {quoted(key)} not found", "NotFound")
