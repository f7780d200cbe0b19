"""The controller's state machine: the history of configurations, and where everybody is (pure).

A change that is carried out makes exactly one configuration, numbered one higher, from the newest
one and nothing else; a page of the history never changes (invariant S6). A refusal is an answer
and changes nothing but the session that records it. Both are decided here, in log order, so two
administrators who act at once are put in an order, and each is told what became of its wish.

The rows:

===================  ====================================================
key                  value
===================  ====================================================
m                    format, newest number, directory version, shards
c, u64 number        a configuration
g, u64 gid           a `GroupRecord`, of those that left too
n, node              a `NodeAddresses`
s...                 the session table
===================  ====================================================
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from struct import Struct
from typing import Final

from raft.errors import StopReplica
from raft.ports import Reader, Rows, Write
from raft.sessions import Recorded, SessionTable, Verdict
from raft.types import GroupId, Index, NodeId
from shardctrler.codec import (
    BadConfig,
    decode_addresses,
    decode_config,
    decode_group,
    encode_addresses,
    encode_config,
    encode_group,
)
from shardctrler.commands import (
    NO_UUID,
    Abandon,
    Adopt,
    Answer,
    Change,
    CloseSession,
    Code,
    Command,
    ExpireSessions,
    ForgetNode,
    Join,
    Leave,
    Move,
    OpenSession,
    Recover,
    RegisterNode,
    Request,
    UpdateMembers,
    decode_answer,
    decode_command,
    encode_answer,
)
from shardctrler.rebalance import balance, move
from shardctrler.types import (
    NO_GROUP,
    RETIRED,
    Directory,
    GroupInfo,
    GroupRecord,
    NodeAddresses,
    ShardConfig,
    ShardId,
    View,
    first_config,
    successor,
)

GROUPS_MAX: Final = 256
"""Groups that may take part at once."""
SHARDS_MAX: Final = 16_384
SESSIONS_SKIPPED: Final = 2**32
"""Session numbers that are never given after a state was put back: more than can have been."""
VERSIONS_SKIPPED: Final = 2**20
"""The same of the directory's versions: whoever knows a later one believes no earlier one."""

_FORMAT: Final = 1
_META: Final = b"m"
_META_ROW: Final = Struct(">BQQI")
_SESSIONS: Final = b"s"
_NUMBER: Final = Struct(">Q")

_SESSION_CODES: Final = {
    Verdict.STALE: Code.SEQUENCE_STALE,
    Verdict.EXPIRED: Code.SESSION_EXPIRED,
    Verdict.REUSED: Code.SEQUENCE_REUSED,
    Verdict.OVER_WINDOW: Code.SEQUENCE_OVER_WINDOW,
}


class ControllerMachine:
    """The controller on one replica; a `raft.rsm.Machine`.

    `view` is a mirror of the newest rows and changes with them, in one step of the loop.

    Args:
        nshards: Fixed when the cluster is created; rows written for another number are refused.
        last_may_leave: Whether the last group may leave, which parks every shard. The labs want
            it; a store refuses it.
    """

    def __init__(
        self, nshards: int, *, last_may_leave: bool = False, groups_max: int = GROUPS_MAX
    ) -> None:
        if not 1 <= nshards <= SHARDS_MAX:
            raise ValueError(f"shards must be 1 to {SHARDS_MAX}, not {nshards}")
        self.nshards = nshards
        self.view = View(first_config(nshards), Directory())
        self.sessions = SessionTable(_SESSIONS)
        self.on_change: Callable[[], None] = _nobody_watches
        self._last_may_leave = last_may_leave
        self._groups_max = groups_max
        self._rows: Reader | None = None

    # Reading

    def config(self, number: int | None = None) -> ShardConfig:
        """A page of the history; the newest for None, a negative number or one beyond the newest
        (as in the labs: *Query(-1)*)."""
        newest = self.view.config
        if number is None or not 0 <= number < newest.number:
            return newest
        if number == 0:
            return first_config(self.nshards)
        row = self._rows.get(_config_key(number)) if self._rows is not None else None
        assert row is not None, f"configuration {number} of {newest.number} is not there"
        return decode_config(row)

    def garbage(self, rows: Reader, rows_max: int) -> Sequence[Write]:
        """The history is kept for ever: there is none."""
        return ()

    def reload(self, rows: Reader) -> None:
        self._rows = rows
        self.sessions.forget()
        meta = rows.get(_META)
        if meta is None:
            self.view = View(first_config(self.nshards), Directory())
        else:
            self.view = self._read_view(rows, meta)
        self.on_change()

    def survey_sessions(self) -> dict[int, int]:
        """Each session and the highest sequence that it has used."""
        return dict(self.sessions.survey(self._rows)) if self._rows is not None else {}

    def _read_view(self, rows: Reader, meta: bytes) -> View:
        if len(meta) != _META_ROW.size or meta[0] != _FORMAT:
            raise StopReplica(f"the controller's rows are of format {meta[:1].hex()}, not 01")
        _, number, version, nshards = _META_ROW.unpack(meta)
        if nshards != self.nshards:
            raise StopReplica(f"the controller's rows are for {nshards} shards, not {self.nshards}")
        row = rows.get(_config_key(number))
        config = first_config(nshards) if row is None else decode_config(row)
        assert config.number == number, (config.number, number)
        groups = {
            GroupId(_NUMBER.unpack(key[1:])[0]): decode_group(row)
            for key, row in rows.range(b"g", b"h")
        }
        nodes = {
            NodeId(key[1:].decode()): decode_addresses(row) for key, row in rows.range(b"n", b"o")
        }
        return View(config, Directory(version, groups, nodes))

    # Applying

    def apply(self, index: Index, command: bytes, rows: Rows) -> Answer:
        """Apply one command. Raises StopReplica for one of a newer format, and nothing else."""
        try:
            decoded = decode_command(command)
        except BadConfig:
            return Answer(Code.BAD_COMMAND)
        return self._apply(decoded, rows)

    def _apply(self, command: Command, rows: Rows) -> Answer:
        match command:
            case Request():
                return self._apply_once(command, rows)
            case OpenSession():
                session = self.sessions.open(rows)
                if session is None:
                    return Answer(Code.SESSIONS_FULL, (self.sessions.sessions_max,))
                return Answer(Code.OK, (session,))
            case CloseSession(session):
                self.sessions.drop(rows, session)
                return Answer(Code.OK)
            case ExpireSessions(idle):
                for session, last in idle:
                    self.sessions.drop(rows, session, idle_since=last)
                return Answer(Code.OK)

    def _apply_once(self, request: Request, rows: Rows) -> Answer:
        session, seq, floor, digest = request.session, request.seq, request.floor, request.digest
        outcome = self.sessions.check(rows, session, seq, floor, digest)
        if isinstance(outcome, Recorded):
            self.sessions.acknowledge(rows, session, floor)
            return decode_answer(outcome.answer)
        if outcome is not Verdict.FRESH:
            facts = (self.sessions.window,) if outcome is Verdict.OVER_WINDOW else ()
            return Answer(_SESSION_CODES[outcome], facts)
        answer = self._decide(request, rows)
        self.sessions.record(rows, session, seq, floor, digest, encode_answer(answer))
        return answer

    def _decide(self, request: Request, rows: Rows) -> Answer:
        newest = self.view.config.number
        if request.expect is not None and request.expect != newest:
            return Answer(Code.CONFIG_CHANGED, (newest,))
        decided = self._outcome(request.change)
        if isinstance(decided, Answer):
            return decided
        self._store(decided, rows)
        if isinstance(request.change, Adopt):
            self.sessions.skip(rows, SESSIONS_SKIPPED)
        return Answer(Code.OK, (decided.config.number,))

    # What a change makes of a view: a refusal, or the next view. These change nothing.

    def _outcome(self, change: Change) -> Answer | View:
        match change:
            case Join():
                return self._join(change)
            case Leave():
                return self._leave(change)
            case Move():
                return self._move(change)
            case UpdateMembers():
                return self._update_members(change)
            case Recover():
                return self._recover(change)
            case Abandon():
                return self._abandon(change)
            case Adopt(view):
                return self._adopt(view)
            case RegisterNode(node, addresses):
                directory = self.view.directory
                if directory.nodes.get(node) == addresses:
                    return self.view
                return self._with_directory(nodes={**directory.nodes, node: addresses})
            case ForgetNode(node):
                return self._forget_node(node)

    def _join(self, join: Join) -> Answer | View:
        config, directory = self.view
        gids = [group.gid for group in join.groups]
        if not gids or len(set(gids)) != len(gids):
            return Answer(Code.NOTHING_ASKED)
        if len(config.groups) + len(gids) > self._groups_max:
            return Answer(Code.TOO_MANY_GROUPS, (self._groups_max,))
        records = dict(directory.groups)
        gid_of = {record.uuid: gid for gid, record in records.items()}
        for gid, uuid, members, version in join.groups:
            if gid < 1:
                return Answer(Code.GROUP_ID_OUT_OF_RANGE, (gid,))
            if gid in config.groups:
                return Answer(Code.ALREADY_JOINED, (gid,))
            if not members:
                return Answer(Code.NO_MEMBERS, (gid,))
            known = records.get(gid)
            taken = gid_of.get(uuid, gid) != gid or (known is not None and known.uuid != uuid)
            if taken or uuid == RETIRED:
                return Answer(Code.UUID_DIFFERS, (gid,))
            gid_of[uuid] = gid
            if known is None or version >= known.version:
                records[gid] = GroupRecord(uuid, version, members)
        view = self._with_directory(groups=records)
        return _next_view(view, _balanced(config, [*config.groups, *gids]), [*config.groups, *gids])

    def _leave(self, leave: Leave) -> Answer | View:
        config = self.view.config
        if not leave.gids or len(set(leave.gids)) != len(leave.gids):
            return Answer(Code.NOTHING_ASKED)
        for gid in leave.gids:
            if gid not in config.groups:
                return Answer(Code.UNKNOWN_GROUP, (gid,))
        staying = [gid for gid in config.groups if gid not in leave.gids]
        if not staying and not self._last_may_leave:
            return Answer(Code.LAST_GROUP, (max(leave.gids),))
        return _next_view(self.view, _balanced(config, staying), staying)

    def _move(self, wish: Move) -> Answer | View:
        config = self.view.config
        if not 0 <= wish.shard < self.nshards:
            return Answer(Code.SHARD_OUT_OF_RANGE, (wish.shard, self.nshards - 1))
        if wish.gid not in config.groups:
            return Answer(Code.UNKNOWN_GROUP, (wish.gid,))
        if config.owner(wish.shard) == wish.gid:
            return self.view
        return _next_view(self.view, move(config.shards, wish.shard, wish.gid), list(config.groups))

    def _update_members(self, update: UpdateMembers) -> Answer | View:
        groups = self.view.directory.groups
        known = groups.get(update.gid)
        if known is None or known.uuid == RETIRED:
            return Answer(Code.UNKNOWN_GROUP, (update.gid,))
        if not update.members:
            return Answer(Code.NO_MEMBERS, (update.gid,))
        if update.uuid not in (NO_UUID, known.uuid):
            return Answer(Code.UUID_DIFFERS, (update.gid,))
        record = GroupRecord(known.uuid, update.version, update.members)
        if record == known:
            return self.view
        if update.version <= known.version:
            return Answer(Code.OLD_MEMBERSHIP, (update.gid, known.version))
        return self._with_directory(groups={**groups, update.gid: record})

    def _forget_node(self, node: NodeId) -> Answer | View:
        groups, nodes = self.view.directory.groups, self.view.directory.nodes
        for gid, record in groups.items():
            if any(member.node == node for member in record.members):
                return Answer(Code.NODE_IS_MEMBER, (gid,))
        if node not in nodes:
            return self.view
        return self._with_directory(nodes={n: at for n, at in nodes.items() if n != node})

    # When a majority is lost. "A gid means one uuid for ever" is what keeps two groups from serving
    # the same shards; these two commands break it, on purpose and in the open. Why that is safe as
    # far as it can be:
    #
    # - Each is a compare-and-set on the uuid that the gid means, in one log. Of two operators who
    #   recover a group from two survivors, one is refused, and nothing was born for it yet.
    # - Each makes a numbered configuration. Every group takes it in turn through its own log; the
    #   group `uuid` serves nothing before it has (`GroupServer`), so not before it has caught up
    #   with every move that was decided while its survivor was behind.
    # - A replica of the uuid before learns from the directory that its gid means another group,
    #   and falls silent (`Assembly`); its frames carry the old uuid, which no new replica takes.
    #
    # What stays the operator's word: that the others are gone. An old majority that is alive and
    # cut off from the controller serves until it hears.

    def _recover(self, wish: Recover) -> Answer | View:
        config, directory = self.view
        known = directory.groups.get(wish.gid)
        if known is None or known.uuid == RETIRED:
            return Answer(Code.UNKNOWN_GROUP, (wish.gid,))
        if known.uuid == wish.uuid:
            return self.view  # said again
        if known.uuid != wish.expected:
            return Answer(Code.UUID_CHANGED, (wish.gid,))
        if wish.uuid == RETIRED or any(
            record.uuid == wish.uuid for record in directory.groups.values()
        ):
            return Answer(Code.UUID_DIFFERS, (wish.gid,))
        # Version 0: what the old uuid said last may be of a later index than the survivor has.
        record = GroupRecord(wish.uuid, 0, (wish.member,))
        view = self._with_directory(groups={**directory.groups, wish.gid: record})
        return _next_view(view, config.shards, list(config.groups))

    def _abandon(self, wish: Abandon) -> Answer | View:
        config, directory = self.view
        known = directory.groups.get(wish.gid)
        if known is None or known.uuid == RETIRED:
            return Answer(Code.UNKNOWN_GROUP, (wish.gid,))
        if known.uuid != wish.expected:
            return Answer(Code.UUID_CHANGED, (wish.gid,))
        staying = [gid for gid in config.groups if gid != wish.gid]
        if not staying:
            return Answer(Code.LAST_GROUP, (wish.gid,))
        kept = dict(wish.kept)
        for shard in (*kept, *wish.lost):
            if shard >= self.nshards:
                return Answer(Code.SHARD_OUT_OF_RANGE, (shard, self.nshards - 1))
        for holder in kept.values():
            if holder == wish.gid or holder not in directory.groups:
                return Answer(Code.UNKNOWN_GROUP, (holder,))
        owners, lost = list(config.shards), set(wish.lost)
        for shard in config.shards_of(wish.gid):
            holder = kept.get(shard, NO_GROUP)
            owners[shard] = holder if holder in staying else NO_GROUP
            if holder == NO_GROUP:
                lost.add(shard)
        retired = GroupRecord(RETIRED, known.version, ())
        view = self._with_directory(groups={**directory.groups, wish.gid: retired})
        after = _next_view(view, balance(owners, staying), staying)
        previous = tuple(
            kept.get(ShardId(shard), NO_GROUP) if gid == wish.gid else gid
            for shard, gid in enumerate(after.config.previous)
        )
        gone = sorted({gid for gid in previous if gid != NO_GROUP and gid not in staying})
        return View(
            replace(
                after.config,
                previous=previous,
                departed={gid: _info(after.directory, gid) for gid in gone},
                abandoned=(wish.gid,),
                lost=tuple(sorted(lost)),
            ),
            after.directory,
        )

    # When the controller's own majority is lost. The survivor may lack configurations that groups
    # have taken, and that clients route by. A number that came again for another configuration
    # would part those who know the first from those who know the second, for ever; or, worse, give
    # a shard that is on its way to two groups. So what is known elsewhere is taken over before
    # anything new is decided, page by page; and what the lost entries may have given is not given
    # again: versions of the directory, numbers of sessions.

    def _adopt(self, known: View) -> Answer | View:
        config, directory = known
        newest, mine = self.view
        if len(config.shards) != self.nshards:
            return Answer(Code.BAD_COMMAND)
        if config.number == newest.number:
            if config != newest:
                return Answer(Code.HISTORY_DIFFERS, (config.number,))
            config = newest
        elif config.number != newest.number + 1:
            return Answer(Code.CONFIG_CHANGED, (newest.number,))
        elif not config.abandoned and config.previous != _holders(newest):
            return Answer(Code.HISTORY_DIFFERS, (config.number,))
        later, earlier = directory, mine
        if directory.version < mine.version:
            later, earlier = mine, directory
        named = {
            gid: GroupRecord(info.uuid, 0, info.members) for gid, info in config.groups.items()
        }
        groups = {**named, **earlier.groups, **later.groups}
        version = later.version + VERSIONS_SKIPPED
        return View(config, Directory(version, groups, later.nodes))

    def _with_directory(
        self,
        groups: Mapping[GroupId, GroupRecord] | None = None,
        nodes: Mapping[NodeId, NodeAddresses] | None = None,
    ) -> View:
        """The same configuration; the directory with other groups or other nodes."""
        config, directory = self.view
        groups = directory.groups if groups is None else groups
        nodes = directory.nodes if nodes is None else nodes
        return View(config, Directory(directory.version + 1, groups, nodes))

    def _store(self, view: View, rows: Rows) -> None:
        """Write what differs from the view so far, and make it the view."""
        config, directory = view
        before = self.view
        if view == before:
            return
        if config is not before.config:
            assert config.number == before.config.number + 1, (before.config, config)
            rows.put(_config_key(config.number), encode_config(config))
        for gid, record in directory.groups.items():
            if before.directory.groups.get(gid) != record:
                rows.put(b"g" + _NUMBER.pack(gid), encode_group(record))
        for node, addresses in directory.nodes.items():
            if before.directory.nodes.get(node) != addresses:
                rows.put(b"n" + node.encode(), encode_addresses(addresses))
        for node in before.directory.nodes:
            if node not in directory.nodes:
                rows.delete(b"n" + node.encode())
        rows.put(_META, _META_ROW.pack(_FORMAT, config.number, directory.version, self.nshards))
        self.view = view
        self.on_change()


def foreseen(view: View, change: Change) -> Answer | View:
    """What the controller would make of a change if it were asked now: a refusal, or the next view.
    It decides by the view alone, so whoever has that can tell."""
    machine = ControllerMachine(len(view.config.shards))
    machine.view = view
    return machine._outcome(change)


def rehome(
    rows: Rows, groups: Mapping[GroupId, GroupInfo], nodes: Mapping[NodeId, NodeAddresses]
) -> ShardConfig | None:
    """Let the rows of a controller that was restored speak of the groups and nodes of today.

    Owners, numbers and the whole history stay, and one configuration is added in which nothing
    moves: it tells that the state was put back, and its number is one that no state before it had
    (see `shardkv/held.py`). A group that is not among `groups` had left before the backup: its gid
    keeps the uuid it had, nobody is a member, so that no group can join by it.

    Args:
        rows: The state as it was; written to.
        groups: The groups that were restored, each born anew under another uuid.
        nodes: Those of the new cluster; no other is known any more.

    Returns:
        The newest configuration, the one that is added; None if there was none.
    """
    meta = rows.get(_META)
    if meta is None:
        return None
    form, number, version, nshards = _META_ROW.unpack(meta)
    newest = None
    for key, row in list(rows.range(b"c", b"d")):
        config = decode_config(row)
        newest = replace(
            config,
            groups={gid: _reborn(gid, info, groups) for gid, info in config.groups.items()},
            departed={gid: _reborn(gid, info, groups) for gid, info in config.departed.items()},
        )
        rows.put(key, encode_config(newest))
    if newest is not None:
        newest = successor(
            newest, newest.shards, newest.groups, {**newest.groups, **newest.departed}
        )
        number = newest.number
        rows.put(_config_key(number), encode_config(newest))
    rows.put(_META, _META_ROW.pack(form, number, version + 1, nshards))
    for key, row in list(rows.range(b"g", b"h")):
        record, gid = decode_group(row), GroupId(_NUMBER.unpack(key[1:])[0])
        info = _reborn(gid, GroupInfo(record.uuid, ()), groups)
        rows.put(key, encode_group(GroupRecord(info.uuid, record.version, info.members)))
    for key, _ in list(rows.range(b"n", b"o")):
        rows.delete(key)
    for node, addresses in nodes.items():
        rows.put(b"n" + node.encode(), encode_addresses(addresses))
    SessionTable(_SESSIONS).skip(rows, SESSIONS_SKIPPED)
    return newest


def _reborn(gid: GroupId, info: GroupInfo, groups: Mapping[GroupId, GroupInfo]) -> GroupInfo:
    return groups.get(gid, GroupInfo(info.uuid, ()))


def _balanced(config: ShardConfig, groups: list[GroupId]) -> tuple[GroupId, ...]:
    """The shards of `config` over these groups; a parked one rather where its rows are."""
    return balance(config.shards, groups, _holders(config))


def _holders(config: ShardConfig) -> tuple[GroupId, ...]:
    return tuple(config.holder(ShardId(shard)) for shard in range(len(config.shards)))


def _next_view(view: View, shards: tuple[GroupId, ...], taking_part: list[GroupId]) -> View:
    """The configuration after `view`'s, with every group at the addresses known now."""
    config, directory = view
    known = {gid: _info(directory, gid) for gid in directory.groups}
    return View(
        successor(config, shards, {gid: known[gid] for gid in taking_part}, known), directory
    )


def _info(directory: Directory, gid: GroupId) -> GroupInfo:
    return GroupInfo(directory.groups[gid].uuid, directory.members(gid))


def _config_key(number: int) -> bytes:
    return b"c" + _NUMBER.pack(number)


def _nobody_watches() -> None:
    """A view may change without anybody waiting for it."""
