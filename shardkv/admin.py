"""What an operator's tools and a node say to each other: the bodies of the `admin.*` calls.

msgpack arrays with a leading format byte, one element a field, in the order of the classes below.
The classes themselves are the table that reading checks each field's type and range against.
"""

import types
from collections.abc import Callable
from functools import cache, partial
from typing import (
    Any,
    Final,
    NamedTuple,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgpack

FORMAT: Final = 1
STATUS: Final = "admin.status"
CREATE_GROUP: Final = "admin.create_group"
CREATE_REPLICA: Final = "admin.create_replica"
CHANGE_MEMBERS: Final = "admin.change_members"
TRANSFER: Final = "admin.transfer"
STANDING: Final = "admin.standing"

INTEGER_MAX: Final = 2**63 - 1
TEXT_CHARACTERS_MAX: Final = 4096
ITEMS_MAX: Final = 16_384

T = TypeVar("T", bound=tuple[Any, ...])


class BadAdmin(Exception):
    """Bytes that are not the message they should be; the text names the field."""


class MemberStatus(NamedTuple):
    """A member of a group, as the replica that is asked knows the membership."""

    replica: int
    node: str
    address: str


class ShardStatus(NamedTuple):
    """A shard that a group holds, awaits or gives away."""

    shard: int
    phase: str
    other: int  # the group it comes from or goes to; 0 if none
    progress: str  # of a copy that arrives: "waiting", "rows" or "changes"; else ""
    bytes_left: int = 0  # about, of a copy that arrives; 0 where it is not pulled from
    bytes_per_second: int = 0


class ReplicaStatus(NamedTuple):
    """One replica of the node that is asked."""

    gid: int
    uuid: bytes
    replica: int
    role: str
    stopped: str  # why it fell silent; "" while it lives
    term: int
    leader: str  # the node that leads, as far as known
    commit: int
    applied: int
    last: int
    log_bytes: int
    voters: tuple[MemberStatus, ...]
    outgoing: tuple[MemberStatus, ...]  # not empty: a change of voters is under way
    learners: tuple[MemberStatus, ...]
    config_number: int  # of the configuration that a store group has applied; 0 if none
    shards: tuple[ShardStatus, ...]
    lost: tuple[MemberStatus, ...] = ()
    """Of a leader: members that lost what they had acknowledged in this term, and count no more."""
    promote: tuple[int, ...] = ()  # learners that become voters once they have caught up
    leaving: tuple[int, ...] = ()  # voters that leave in the same change
    membership_at: int = 0  # the index of the membership shown; past `commit` it may be undone
    next_id: int = 0  # the replica id that the next added member gets

    @property
    def leads(self) -> bool:
        return self.role == "leader" and not self.stopped


class NodeStatus(NamedTuple):
    """What a node says of itself; it asks nobody for it."""

    node: str
    cluster: bytes
    version: str
    pid: int
    boot: int  # drawn anew at each start of the process
    uptime_ms: int
    client: str
    peer: str
    http: str
    nshards: int
    state: str  # "starting", "running" or "stopping"
    config_number: int  # of the newest configuration that it has heard of
    known: tuple[tuple[str, str], ...]  # registered nodes: name, where each takes clients' calls
    replicas: tuple[ReplicaStatus, ...]

    def replica(self, gid: int) -> ReplicaStatus | None:
        """Its replica of a group, if it has one."""
        return next((replica for replica in self.replicas if replica.gid == gid), None)


class CreateGroup(NamedTuple):
    """Give birth to a group here: one voter, this node, and a uuid drawn now."""

    gid: int
    boot: int  # of the process that is meant; another life of the node refuses


class GroupCreated(NamedTuple):
    """The group's uuid, for ever."""

    uuid: bytes


class CreateReplica(NamedTuple):
    """Create a blank replica here, with the id that the group's log has given it."""

    gid: int
    uuid: bytes
    replica: int
    boot: int


class ChangeMembers(NamedTuple):
    """Take nodes into a group, as learners that become voters, and replicas out of it once they
    have. For the group's leader, which refuses what would leave too few alive."""

    gid: int
    uuid: bytes
    add: tuple[tuple[str, str], ...]  # node, peer address
    remove: tuple[int, ...] = ()


class MembersChanging(NamedTuple):
    """The change has begun. The replica ids of the added nodes, in their order."""

    replicas: tuple[int, ...]


class Transfer(NamedTuple):
    """Hand the leadership to another voter. For the group's leader."""

    gid: int
    uuid: bytes
    replica: int


class AskStanding(NamedTuple):
    """Is this replica still a member of its group, by what you know to be committed?"""

    gid: int
    uuid: bytes
    replica: int


class Standing(NamedTuple):
    """What is committed of a replica here: "member", "removed" (for ever), or "unknown"."""

    standing: str


class Done(NamedTuple):
    """It is done, and durable."""


class Nothing(NamedTuple):
    """A question without fields."""


def encode(message: tuple[Any, ...]) -> bytes:
    """One of the classes above, as bytes."""
    packed: bytes = msgpack.packb((FORMAT, message), use_bin_type=True)
    return packed


def decode(kind: type[T], data: bytes) -> T:
    """Read a message of a kind.

    Raises:
        BadAdmin: not msgpack, another format, or a field of another type or out of range.
    """
    try:
        outer = msgpack.unpackb(data, use_list=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadAdmin(f"{kind.__name__}: not msgpack: {type(error).__name__}") from error
    if not isinstance(outer, list) or len(outer) != 2 or outer[0] != FORMAT:
        raise BadAdmin(f"{kind.__name__}: not of format {FORMAT}")
    value: T = _reader(kind, kind.__name__)(outer[1])
    return value


Reader: TypeAlias = Callable[[Any], Any]
"""Gives the value that msgpack read, as the type it should be, or raises `BadAdmin`."""


@cache
def _reader(kind: Any, place: str) -> Reader:
    """Of an int, str, bytes, NamedTuple, or a tuple of those; errors name `place`.

    Made once a type and place: each second a node that heals reads what every other one says of all
    its groups, and to look at types and put names together anew took longer than all the rest.
    """
    if kind is int:
        return partial(_integer, place)
    if kind is str:
        return partial(_text, place)
    if kind is bytes:
        return partial(_octets, place)
    if isinstance(kind, types.GenericAlias) and get_origin(kind) is tuple:
        inner = get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return partial(_items, place, _reader(inner[0], f"{place}[]"))
        return partial(_fields, place, tuple, "items", [_reader(one, place) for one in inner])
    hints = get_type_hints(kind).items()
    readers = [_reader(type_, f"{place}.{name}") for name, type_ in hints]
    return partial(_fields, place, kind._make, "fields", readers)


def _integer(place: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= INTEGER_MAX:
        raise BadAdmin(f"{place} must be a whole number from 0 to 2^63 - 1")
    return value


def _text(place: str, value: Any) -> str:
    if type(value) is not str or len(value) > TEXT_CHARACTERS_MAX:
        raise BadAdmin(f"{place} must be a text of at most {TEXT_CHARACTERS_MAX} characters")
    return value


def _octets(place: str, value: Any) -> bytes:
    if type(value) is not bytes or len(value) > 64:
        raise BadAdmin(f"{place} must be at most 64 bytes")
    return value


def _items(place: str, read: Reader, value: Any) -> tuple[Any, ...]:
    if type(value) is not list or len(value) > ITEMS_MAX:
        raise BadAdmin(f"{place} must be an array")
    return tuple([read(item) for item in value])


def _fields(
    place: str, make: Callable[[list[Any]], Any], what: str, readers: list[Reader], value: Any
) -> Any:
    if type(value) is not list or len(value) > ITEMS_MAX:
        raise BadAdmin(f"{place} must be an array")
    if len(value) != len(readers):
        raise BadAdmin(f"{place} must have {len(readers)} {what}")
    return make([read(item) for read, item in zip(readers, value, strict=True)])
