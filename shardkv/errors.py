"""What can go wrong with a request to the store. Callers branch on policy, not on names.

ShardKVError
├── InvalidArgument        the request breaks a limit; it was never sent, or refused at the door
│   ├── KeyEmpty
│   ├── KeyTooLong
│   ├── ValueTooLong       also when an append would make it so: the old value is kept
│   ├── VersionOutOfRange
│   ├── BatchCount         a batch of no operations, or of too many
│   ├── BatchTooLong       the keys and values of a batch are too long together
│   ├── NotOneShard        the keys of a batch lie in several shards
│   └── BadCommand         bytes that are no command of this version
├── VersionMismatch        `if_version` was not the key's version: nothing was written
├── RequestNameReused      the client gave the name of another request to this one: not done
├── WrongGroup             another group serves the shard: refresh the configuration, ask again
├── ShardNotReady          the shard is on its way to this group: ask again, here or at its source
├── NotLeader              another replica of the group leads: ask there
├── Overloaded             no room: ask again after `retry_seconds`
├── DiskFull               the disks of the shard's group are below their watermark, the leader's or
│                          most voters': nothing was written; free some space, or add a node
├── Unavailable            nobody could take the request in time: it certainly was not done
├── TooStale               no replica's state is known to be as new as a stale read asks for
├── OutcomeUnknown         it was sent, and whether it was done cannot be known
├── SessionError           the shard will not take this request of this session
│   ├── SessionExpired     the shard forgot the session: whether an unanswered request was done
│   │                      cannot be known; a new session is needed for new ones
│   ├── SequenceStale      acknowledged before: its answer is gone
│   ├── SequenceReused     the sequence belonged to a different command
│   └── WindowFull         too many requests of one session in flight: wait for answers
├── StepRefused            a step of a configuration or copy that is not due (never a client's)
├── Closed                 the clerk or store was closed before: nothing was sent
└── StoreInUse             another process, or this one, has the embedded store's directory open

`retriable`: the same request may be sent again as it is and may then succeed; nothing was done, or
the session keeps it from being done twice. `config_is_stale`: learn the configuration first.
`operation`: of a batch, which of its operations it is about, from 0; nothing of the batch was done.
"""

from typing import Final

from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.limits import (
    BATCH_BYTES_MAX,
    BATCH_OPERATIONS_MAX,
    INTEGER_MAX,
    KEY_BYTES_MAX,
    KEY_BYTES_MIN,
    RETRY_SECONDS,
    VALUE_BYTES_MAX,
)
from shardkv.types import Answer, Code, Version


class ShardKVError(Exception):
    """Base of everything that the store raises on purpose."""

    retriable = False
    config_is_stale = False
    operation: int | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return (
            text if self.operation is None else f"operation {self.operation} of the batch: {text}"
        )


class InvalidArgument(ShardKVError):
    """The request breaks a limit, which the message names; nothing was done."""


class KeyEmpty(InvalidArgument):
    """A key has at least one byte."""

    def __init__(self) -> None:
        super().__init__(f"key must be {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, not 0")


class KeyTooLong(InvalidArgument):
    """The key is longer than a key may be."""

    def __init__(self, length: int) -> None:
        super().__init__(f"key must be {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, not {length}")
        self.length = length


class ValueTooLong(InvalidArgument):
    """The value is, or an append would make it, longer than a value may be."""

    def __init__(self, length: int) -> None:
        super().__init__(f"value must be at most {VALUE_BYTES_MAX} bytes, not {length}")
        self.length = length


class VersionOutOfRange(InvalidArgument):
    """`if_version` is no version that a key can have."""

    def __init__(self, version: int) -> None:
        super().__init__(f"if_version must be 0 (absent) to {INTEGER_MAX}, not {version}")
        self.version = version


class BatchCount(InvalidArgument):
    """A batch has at least one operation, and no more than fit into one answer."""

    def __init__(self, count: int) -> None:
        super().__init__(f"a batch must have 1 to {BATCH_OPERATIONS_MAX} operations, not {count}")
        self.count = count


class BatchTooLong(InvalidArgument):
    """The keys and values of a batch are longer together than a batch may be."""

    def __init__(self, length: int) -> None:
        super().__init__(
            f"the keys and values of a batch must be at most {BATCH_BYTES_MAX} bytes together, "
            f"not {length}"
        )
        self.length = length


class NotOneShard(InvalidArgument):
    """A batch is atomic because one shard does it whole; these keys lie in several. `operation`
    is the first whose key lies in another shard than that of the first one."""

    def __init__(self, operation: int, shard: ShardId, first: ShardId) -> None:
        super().__init__(
            f"its key is in shard {shard}, that of operation 0 in shard {first}; a batch is of one "
            "shard. Keys with the same {tag} are: {user:7}name, {user:7}mail"
        )
        self.operation, self.shard, self.first = operation, shard, first


class BadCommand(InvalidArgument):
    """Bytes that do not decode to a command of this version; the message says where."""


class VersionMismatch(ShardKVError):
    """The key has another version than `if_version`; nothing was written. 0 means absent."""

    def __init__(self, version: Version) -> None:
        super().__init__(
            f"the key is at version {version}" if version else "the key is absent (version 0)"
        )
        self.version = version


class RequestNameReused(ShardKVError):
    """The name that the client gave this request belongs to another one, of the last day; nothing
    was written."""

    def __init__(self) -> None:
        super().__init__("this request's name belonged to a different request of the last 24 hours")


class WrongGroup(ShardKVError):
    """Another group serves the shard: refresh the configuration, then ask again.

    A `config_number` below the one that the client knows means that this group is *behind*.
    """

    retriable = True
    config_is_stale = True

    def __init__(self, shard: ShardId, group: GroupId, config_number: ConfigNumber) -> None:
        super().__init__(f"group {group} does not serve shard {shard} in config {config_number}")
        self.shard, self.group, self.config_number = shard, group, config_number


class ShardNotReady(ShardKVError):
    """The shard is on its way to this group, from `source`: ask again shortly."""

    retriable = True

    def __init__(
        self, shard: ShardId, group: GroupId, config_number: ConfigNumber, source: GroupId
    ) -> None:
        super().__init__(
            f"shard {shard} is still on its way from group {source} to group {group}"
            f" in config {config_number}"
        )
        self.shard, self.group = shard, group
        self.config_number, self.source = config_number, source


class NotLeader(ShardKVError):
    """Only the group's leader can do this. `leader` is its address for clients, None if unknown."""

    retriable = True

    def __init__(self, group: GroupId, leader: str | None = None) -> None:
        super().__init__(f"not the leader of group {group}" + (f"; try {leader}" if leader else ""))
        self.group, self.leader = group, leader


class Overloaded(ShardKVError):
    """No room for the request; `what` names the limit. Nothing was done."""

    retriable = True

    def __init__(self, what: str, retry_seconds: float = RETRY_SECONDS) -> None:
        super().__init__(f"{what}; retry in {retry_seconds:g} s")
        self.what, self.retry_seconds = what, retry_seconds


class DiskFull(ShardKVError):
    """The node that leads the shard's group has less free on its disk than the watermark, and no
    other could take the lead; nothing was written. Reads and deletes go on."""

    def __init__(self, shard: ShardId, group: GroupId) -> None:
        super().__init__(
            f"no room on the disk of the node that leads group {group}, or on those of most of its "
            "voters (less than their free_percent_min is free): nothing was written; free some "
            "space there, delete keys, or add a node (`shardkv ctl explain` names the disks)"
        )
        self.shard, self.group = shard, group


class Unavailable(ShardKVError):
    """Nobody could take the request in time. It was certainly not done."""

    retriable = True


class TooStale(ShardKVError):
    """No replica of the key's group is known to be as new as `max_age` asks for: ask again, or
    with a wider bound. `age` is that of the youngest that answered, in seconds; None if none
    knows its own."""

    retriable = True

    def __init__(self, max_age: float, age: float | None) -> None:
        known = "no replica knows its age" if age is None else f"the youngest is {age:.1f} s old"
        super().__init__(
            f"no replica is known to be at most {max_age:g} s old: {known}, and no leader answers"
        )
        self.max_age, self.age = max_age, age


class OutcomeUnknown(ShardKVError):
    """The request was sent and its answer never came: it may have been done, or may yet be.

    Not retriable: the clerk has repeated it within its session for as long as it was allowed to,
    and a repetition under a new number could be done a second time.
    """


class SessionError(ShardKVError):
    """The shard's session table refuses the request; it was not done by this attempt."""


class SessionExpired(SessionError):
    """The shard forgot the session; an earlier attempt of the request may have been done."""

    def __init__(self) -> None:
        super().__init__("the session has expired; open a new one")


class SequenceStale(SessionError):
    """The client said before that it no longer waits for this request."""

    def __init__(self) -> None:
        super().__init__("the client has acknowledged this request; its answer is forgotten")


class SequenceReused(SessionError):
    """The client gave the number of one request to another."""

    def __init__(self) -> None:
        super().__init__("request id reused: the session has recorded another command under it")


class NamesFull(ShardKVError):
    """The shard knows its fill of named requests, each for a day: this one was not done. Come again
    later, or without a name."""

    retriable = True

    def __init__(self, names: int) -> None:
        super().__init__(
            f"the key's shard knows {names} named requests, its limit, each for a day: come again "
            "later, or without a name"
        )
        self.names = names


class WindowFull(SessionError):
    """Too many requests of one session are unacknowledged: wait, or open another session."""

    retriable = True

    def __init__(self, window: int) -> None:
        super().__init__(f"a session has at most {window} requests unacknowledged")
        self.window = window


class StepRefused(ShardKVError):
    """A configuration or a step of a copy does not fit the group's state; nothing was changed."""

    def __init__(self, code: Code, facts: tuple[int, ...]) -> None:
        super().__init__(f"step refused: {code.name} {facts}")
        self.code, self.facts = code, facts


class Closed(ShardKVError):
    """The clerk, or the store it belongs to, was closed; nothing was sent."""

    def __init__(self) -> None:
        super().__init__("the store is closed")


class StoreInUse(ShardKVError):
    """The directory is open already, in another process or in this one; nothing was touched."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is in use: a store is opened by one process, once at a time")
        self.path = path


OF_AN_OPERATION: Final = (Code.VERSION_MISMATCH, Code.VALUE_TOO_LONG)
"""Refusals that in a batch name the operation, too."""


def error_of(answer: Answer, *, shard: ShardId, group: GroupId) -> ShardKVError | None:
    """The error that an answer of `group` about `shard` stands for; None if it is OK.

    `types.Code` says what the facts of each code are.
    """
    code, facts = answer
    if code in OF_AN_OPERATION and len(facts) > 1:
        alone = error_of(Answer(code, facts[:1]), shard=shard, group=group)
        assert alone is not None
        alone.operation = facts[1]
        return alone
    match code:
        case Code.OK:
            return None
        case Code.VERSION_MISMATCH:
            return VersionMismatch(Version(facts[0]))
        case Code.VALUE_TOO_LONG:
            return ValueTooLong(facts[0])
        case Code.NAME_REUSED:
            return RequestNameReused()
        case Code.NAMES_FULL:
            return NamesFull(facts[0])
        case Code.SESSION_EXPIRED:
            return SessionExpired()
        case Code.SEQUENCE_STALE:
            return SequenceStale()
        case Code.SEQUENCE_OVER_WINDOW:
            return WindowFull(facts[0])
        case Code.SEQUENCE_REUSED:
            return SequenceReused()
        case Code.SESSIONS_FULL:
            return Overloaded(
                f"shard {shard} has {facts[0]} sessions open, its limit: those unused for two "
                "minutes are closed"
            )
        case Code.WRONG_GROUP:
            return WrongGroup(shard, group, ConfigNumber(facts[0]))
        case Code.NOT_READY:
            return ShardNotReady(shard, group, ConfigNumber(facts[0]), GroupId(facts[1]))
        case Code.BAD_COMMAND:
            return BadCommand(f"group {group} does not know the command")
        case Code.OLD | Code.NOT_NEXT | Code.UNSETTLED | Code.OUT_OF_STEP:
            return StepRefused(code, facts)
