"""What can go wrong with a request to the controller. Callers branch on policy, not on names.

ShardCtrlerError
├── ChangeRefused       the change is against the rules: nothing was changed, and repeating is vain
│   └── ConfigChanged   the configuration is no longer the expected one: look again, then decide
├── NoSuchConfig        the history is not that long yet
├── SessionRefused      the controller will not take this request of this session
├── Unavailable         nobody could take the request in time: it certainly was not done
└── OutcomeUnknown      it was sent, and whether it was done cannot be known
"""

from shardctrler.commands import Answer, Code
from shardctrler.types import ConfigNumber


class ShardCtrlerError(Exception):
    """Base of everything that the controller and its client raise on purpose."""

    retriable = False


class ChangeRefused(ShardCtrlerError):
    """The change is against the rules; nothing was changed. `code` says which rule."""

    def __init__(self, code: Code, facts: tuple[int, ...] = ()) -> None:
        super().__init__(_MESSAGES[code].format(*facts))
        self.code, self.facts = code, facts


class ConfigChanged(ChangeRefused):
    """Another change came first; `number` is the configuration's now."""

    def __init__(self, number: ConfigNumber) -> None:
        super().__init__(Code.CONFIG_CHANGED, (number,))
        self.number = number


class NoSuchConfig(ShardCtrlerError):
    """The history is not that long yet: `newest` is its last page's number."""

    retriable = True

    def __init__(self, number: ConfigNumber, newest: ConfigNumber) -> None:
        super().__init__(f"there is no configuration {number} yet; the newest is {newest}")
        self.number, self.newest = number, newest


class SessionRefused(ShardCtrlerError):
    """The session is forgotten, or the request's number is not one it takes: not done by this
    attempt. `code` says which."""

    def __init__(self, code: Code, facts: tuple[int, ...] = ()) -> None:
        super().__init__(_MESSAGES[code].format(*facts))
        self.code, self.facts = code, facts


class Unavailable(ShardCtrlerError):
    """Nobody could take the request in time. It was certainly not done."""

    retriable = True


class OutcomeUnknown(ShardCtrlerError):
    """The request was sent and its answer never came: it may have been done, or may yet be.

    Not retriable: the client has repeated it within its session for as long as it was allowed to.
    """


_MESSAGES = {
    Code.CONFIG_CHANGED: "the configuration is at {} now, not the expected one: look, then decide",
    Code.GROUP_ID_OUT_OF_RANGE: "a group's id must be 1 or more, not {}",
    Code.ALREADY_JOINED: "group {} takes part already",
    Code.UUID_DIFFERS: "group {} was, or is, another group than the one that now wants that id",
    Code.TOO_MANY_GROUPS: "at most {} groups may take part",
    Code.NO_MEMBERS: "group {} has no members",
    Code.UNKNOWN_GROUP: "group {} does not take part",
    Code.LAST_GROUP: "group {} is the last one: its shards would have nowhere to go",
    Code.SHARD_OUT_OF_RANGE: "shard {} does not exist: shards are 0 to {}",
    Code.NOTHING_ASKED: "the change names no group, or one twice",
    Code.OLD_MEMBERSHIP: "group {}'s membership is known up to version {}, which is newer",
    Code.UUID_CHANGED: "group {} means another group by now: look again, then decide",
    Code.NODE_IS_MEMBER: "the node holds a replica of group {}: replace it, or remove that first",
    Code.HISTORY_DIFFERS: "configuration {} is another one here, or does not follow the newest",
    Code.BAD_COMMAND: "not a command that this version knows",
    Code.SESSION_EXPIRED: "the session has expired; open a new one",
    Code.SEQUENCE_STALE: "the client has acknowledged this request; its answer is forgotten",
    Code.SEQUENCE_OVER_WINDOW: "a session has at most {} requests unacknowledged",
    Code.SEQUENCE_REUSED: "request id reused: the session has recorded another command under it",
    Code.SESSIONS_FULL: "the controller has {} sessions open, its limit",
}


def error_of(answer: Answer) -> ShardCtrlerError | None:
    """The error that an answer stands for; None if it is OK."""
    code, facts = answer
    if code is Code.OK:
        return None
    if code is Code.CONFIG_CHANGED:
        return ConfigChanged(ConfigNumber(facts[0]))
    if code >= Code.SESSION_EXPIRED:
        return SessionRefused(code, facts)
    return ChangeRefused(code, facts)
