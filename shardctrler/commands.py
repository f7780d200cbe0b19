"""What the controller's log says, and what it answers; and their bytes.

A command is a msgpack array `[format, kind, field, ...]`; every field's type and range is checked
when it is read, by the server that lets it in and again by each replica that applies it. A gid or
a shard out of range is read as it is: refusing it is the machine's answer, with a reason.
"""

from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack

from raft.errors import StopReplica
from raft.sessions import digest
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.codec import (
    BadConfig,
    decode_view,
    encode_view,
    fields,
    integer,
    members,
    members_fields,
    node_id,
    sequence,
    text,
    uuid,
)
from shardctrler.types import ConfigNumber, GroupMember, NodeAddresses, ShardId, View

FORMAT: Final = 1
COMMAND_BYTES_MAX: Final = 256 * 1024
_LOWEST: Final = -(2**63)
NO_UUID: Final = GroupUuid(b"")
NO_NUMBER: Final = -1  # on the wire: no configuration number is expected


class JoiningGroup(NamedTuple):
    """A group that wants to take part. Whoever asks for it has heard `uuid` from the group itself,
    so that a gid never comes to mean two groups."""

    gid: GroupId
    uuid: GroupUuid
    members: tuple[GroupMember, ...]
    version: int = 0  # of the membership that `members` shows


class Join(NamedTuple):
    """Let groups take part; shards move to them until all own equally many."""

    groups: tuple[JoiningGroup, ...]


class Leave(NamedTuple):
    """Let groups take part no more; their shards go to those that stay."""

    gids: tuple[GroupId, ...]


class Move(NamedTuple):
    """Give one shard to one group. To the group that owns it already: done, and nothing changes."""

    shard: ShardId
    gid: GroupId


class UpdateMembers(NamedTuple):
    """A group's members changed. Of two updates the higher version stays, whatever their order;
    the same version again is done."""

    gid: GroupId
    version: int
    members: tuple[GroupMember, ...]
    uuid: GroupUuid = NO_UUID
    """Of the group that says so; one that is not the gid's any more has no say."""


class Recover(NamedTuple):
    """A group lost its majority: from here on its gid means the group `uuid`, which is born from
    what one survivor holds. The one command, with `Abandon`, that changes what a gid means; never
    given but by an operator, explicitly."""

    gid: GroupId
    expected: GroupUuid  # what the gid means now; refused if it means another by then
    uuid: GroupUuid  # drawn for this; never used before
    member: GroupMember  # where it is born


class Abandon(NamedTuple):
    """A group is lost with all its replicas: it takes part no more, its gid means no group ever
    again, and its shards are made anew, empty, but for those that another group still holds."""

    gid: GroupId
    expected: GroupUuid
    kept: tuple[tuple[ShardId, GroupId], ...]
    """Shards that it owns, which are still whole at the group that was to give them to it."""
    lost: tuple[ShardId, ...]
    """Shards that other groups own, which were on their way there from it."""


class Adopt(NamedTuple):
    """The controller itself lost its majority, and goes on from a survivor that may have lacked
    entries: this is what they made, as nodes know it. Of the view's configuration the number is the
    next one after the survivor's newest, or that very one where none is lacking. Never given but
    by whoever recovers the controller's group."""

    view: View


class RegisterNode(NamedTuple):
    """Where a node listens now. Replaces what it said before."""

    node: NodeId
    addresses: NodeAddresses


class ForgetNode(NamedTuple):
    """A node is gone for good, and holds no member of any group that is known. If it lives after
    all it registers again."""

    node: NodeId


Change = Join | Leave | Move | UpdateMembers | RegisterNode | ForgetNode | Recover | Abandon | Adopt


class Request(NamedTuple):
    """A change, exactly once: `seq` counts from 1 in its session; below `floor` the client waits
    for no answer. With `expect`, only while the newest configuration has that number."""

    session: int
    seq: int
    floor: int
    change: Change
    expect: ConfigNumber | None = None

    @property
    def digest(self) -> bytes:
        """What tells this command from another under the same sequence number: 8 bytes, without
        session, sequence and floor."""
        return digest(_packed([_change_fields(self.change), _expect_field(self.expect)]))


class OpenSession(NamedTuple):
    """Open a session; the answer's fact is its number."""


class CloseSession(NamedTuple):
    """The client will not come back with this session."""

    session: int


class ExpireSessions(NamedTuple):
    """Forget sessions that were idle for long; each is named with the highest sequence that it had
    used when it was found idle: one used since then stays."""

    idle: tuple[tuple[int, int], ...]


Command = Request | OpenSession | CloseSession | ExpireSessions


class Code(IntEnum):
    """What kind of answer. Recorded in sessions and sent to clients: a number keeps its meaning.
    Beside each: what the answer's `facts` hold."""

    OK = 0  # (newest configuration's number) | (the session opened): done, now or before
    # Refusals. Final, and recorded in the session like any other answer.
    CONFIG_CHANGED = 1  # (newest configuration's number): another one was expected
    GROUP_ID_OUT_OF_RANGE = 2  # (gid)
    ALREADY_JOINED = 3  # (gid)
    UUID_DIFFERS = 4  # (gid): it was another group's, or another gid has the uuid
    TOO_MANY_GROUPS = 5  # (limit)
    NO_MEMBERS = 6  # (gid)
    UNKNOWN_GROUP = 7  # (gid)
    LAST_GROUP = 8  # (gid)
    SHARD_OUT_OF_RANGE = 9  # (shard, highest shard)
    NOTHING_ASKED = 10  # (): an empty list, or a gid twice
    OLD_MEMBERSHIP = 11  # (gid, version known)
    BAD_COMMAND = 12  # (): not a command that a leader should have let in
    UUID_CHANGED = 13  # (gid): it means another group by now
    NODE_IS_MEMBER = 14  # (gid): of that group, by what is known
    HISTORY_DIFFERS = 15  # (configuration's number): it is another one, or does not follow
    # The session knows better. Never recorded.
    SESSION_EXPIRED = 20  # ()
    SEQUENCE_STALE = 21  # ()
    SEQUENCE_OVER_WINDOW = 22  # (window)
    SEQUENCE_REUSED = 23  # ()
    SESSIONS_FULL = 24  # (limit)


class Answer(NamedTuple):
    """What the controller says to one command: a code and a few whole numbers."""

    code: Code
    facts: tuple[int, ...] = ()


def encode_answer(answer: Answer) -> bytes:
    """At most 64 bytes: sessions record it."""
    return _packed([int(answer.code), list(answer.facts)])


def decode_answer(data: bytes) -> Answer:
    """Raises: BadConfig."""
    code, facts = fields(data, 2)
    try:
        known = Code(integer(code))
    except ValueError as error:
        raise BadConfig(f"no answer code {code!r:.32}") from error
    return Answer(known, tuple(integer(fact, _LOWEST) for fact in sequence(facts)))


class _Kind(IntEnum):
    """The numbers are stored."""

    REQUEST = 1
    OPEN_SESSION = 2
    CLOSE_SESSION = 3
    EXPIRE_SESSIONS = 4
    JOIN = 10
    LEAVE = 11
    MOVE = 12
    UPDATE_MEMBERS = 13
    REGISTER_NODE = 14
    RECOVER = 15
    ABANDON = 16
    FORGET_NODE = 17
    ADOPT = 18


def encode_command(command: Command) -> bytes:
    match command:
        case Request(session, seq, floor, change, expect):
            body = [session, seq, floor, _change_fields(change), _expect_field(expect)]
            return _packed([_Kind.REQUEST, body])
        case OpenSession():
            return _packed([_Kind.OPEN_SESSION, []])
        case CloseSession(session):
            return _packed([_Kind.CLOSE_SESSION, [session]])
        case ExpireSessions(idle):
            return _packed([_Kind.EXPIRE_SESSIONS, [list(pair) for pair in idle]])


def decode_command(data: bytes) -> Command:
    """Read a command.

    Raises:
        StopReplica: of a newer format; a replica that guessed would differ from the others.
        BadConfig: not a command.
    """
    if len(data) > 1 and data[0] == 0x93 and FORMAT < data[1] < 0x80:
        raise StopReplica(f"command of format {data[1]}; this is format {FORMAT}")
    kind, body = fields(data, 2)
    match kind:
        case _Kind.REQUEST:
            session, seq, floor, change, expect = sequence(body, 5)
            number = integer(expect, NO_NUMBER)
            return Request(
                integer(session),
                integer(seq),
                integer(floor),
                _change(sequence(change, 2)),
                None if number == NO_NUMBER else ConfigNumber(number),
            )
        case _Kind.OPEN_SESSION:
            return OpenSession()
        case _Kind.CLOSE_SESSION:
            return CloseSession(integer(sequence(body, 1)[0]))
        case _Kind.EXPIRE_SESSIONS:
            pairs = (sequence(pair, 2) for pair in sequence(body))
            return ExpireSessions(tuple((integer(session), integer(seq)) for session, seq in pairs))
        case _:
            raise BadConfig(f"no command of kind {kind!r:.32}")


def _change_fields(change: Change) -> list[Any]:
    match change:
        case Join(groups):
            rows = [[g.gid, g.uuid, members_fields(g.members), g.version] for g in groups]
            return [_Kind.JOIN, rows]
        case Leave(gids):
            return [_Kind.LEAVE, list(gids)]
        case Move(shard, gid):
            return [_Kind.MOVE, [shard, gid]]
        case UpdateMembers(gid, version, them, of):
            more = [of] if of else []
            return [_Kind.UPDATE_MEMBERS, [gid, version, members_fields(them), *more]]
        case Recover(gid, expected, new, member):
            return [_Kind.RECOVER, [gid, expected, new, members_fields((member,))]]
        case Abandon(gid, expected, kept, lost):
            pairs = [list(pair) for pair in kept]
            return [_Kind.ABANDON, [gid, expected, pairs, list(lost)]]
        case Adopt(view):
            return [_Kind.ADOPT, [encode_view(view)]]
        case ForgetNode(node):
            return [_Kind.FORGET_NODE, [node]]
        case RegisterNode(node, addresses):
            return [_Kind.REGISTER_NODE, [node, *addresses]]


def _change(kind_and_body: list[Any]) -> Change:
    kind, body = kind_and_body
    match kind:
        case _Kind.JOIN:
            return Join(tuple(_joining(sequence(row, 4)) for row in sequence(body)))
        case _Kind.LEAVE:
            return Leave(tuple(_gid(gid) for gid in sequence(body)))
        case _Kind.MOVE:
            shard, gid = sequence(body, 2)
            return Move(ShardId(integer(shard, _LOWEST)), _gid(gid))
        case _Kind.UPDATE_MEMBERS:
            gid, version, them, *of = sequence(body)
            if len(of) > 1:
                raise BadConfig("not the fields of an update of members")
            return UpdateMembers(
                _gid(gid), integer(version), members(them), uuid(of[0]) if of else NO_UUID
            )
        case _Kind.RECOVER:
            gid, expected, new, them = sequence(body, 4)
            (member,) = members(sequence(them, 1))
            return Recover(_gid(gid), uuid(expected), uuid(new), member)
        case _Kind.ABANDON:
            gid, expected, kept, lost = sequence(body, 4)
            pairs = (sequence(pair, 2) for pair in sequence(kept))
            return Abandon(
                _gid(gid),
                uuid(expected),
                tuple((ShardId(integer(shard)), _gid(holder)) for shard, holder in pairs),
                tuple(ShardId(integer(shard)) for shard in sequence(lost)),
            )
        case _Kind.REGISTER_NODE:
            node, client, peer, http = sequence(body, 4)
            return RegisterNode(node_id(node), NodeAddresses(text(client), text(peer), text(http)))
        case _Kind.ADOPT:
            (view,) = sequence(body, 1)
            if type(view) is not bytes:
                raise BadConfig("a view is bytes")
            return Adopt(decode_view(view))
        case _Kind.FORGET_NODE:
            return ForgetNode(node_id(sequence(body, 1)[0]))
        case _:
            raise BadConfig(f"no change of kind {kind!r:.32}")


def _joining(row: list[Any]) -> JoiningGroup:
    gid, group_uuid, them, version = row
    return JoiningGroup(_gid(gid), uuid(group_uuid), members(them), integer(version))


def _gid(value: object) -> GroupId:
    return GroupId(integer(value, _LOWEST))


def _expect_field(expect: ConfigNumber | None) -> int:
    return NO_NUMBER if expect is None else expect


def _packed(values: list[Any]) -> bytes:
    packed = msgpack.packb([FORMAT, *values])
    assert isinstance(packed, bytes)
    return packed
