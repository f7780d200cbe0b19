"""A group's state machine with its rows, and short words for what tests say to it."""

from collections.abc import Sequence

from raft.disk.overlay import Overlay
from raft.types import GroupId, GroupUuid, Index
from shardctrler.codec import encode_config
from shardctrler.types import (
    ConfigNumber,
    GroupInfo,
    ShardConfig,
    ShardId,
    first_config,
    successor,
)
from shardkv.commands import Chunk, Command, Configure, Mutation, Op, OpenSession, encode
from shardkv.copying import Pulled
from shardkv.held import prefixes
from shardkv.machine import Facts, StoreMachine
from shardkv.rows import CHANGES, COPIES, prefix_of
from shardkv.types import Answer, Code, Generation, Row, SessionId, Version
from tests.support.memory_rows import MemoryRows

A, B, C = GroupId(1), GroupId(2), GroupId(3)
S0, S1, S2, S3 = (ShardId(s) for s in range(4))


class History:
    """Configurations one after the other, as the controller makes them; number 0 to begin with."""

    def __init__(self, nshards: int = 4) -> None:
        self.configs = [first_config(nshards)]

    def then(self, *owners: int, groups: Sequence[int] = ()) -> ShardConfig:
        """The next one, with one owner a shard; it lists the owners and `groups`."""
        gids = sorted({GroupId(gid) for gid in (*owners, *groups) if gid})
        listed = {gid: group_info(gid) for gid in gids}
        known = {gid: group_info(gid) for gid in (A, B, C)}
        shards = [GroupId(gid) for gid in owners]
        self.configs.append(successor(self.configs[-1], shards, listed, known))
        return self.configs[-1]


def group_info(gid: GroupId) -> GroupInfo:
    return GroupInfo(GroupUuid(bytes([gid]) * 16), ())


def configure(config: ShardConfig) -> Configure:
    return Configure(encode_config(config))


def configures(*rows: Sequence[int]) -> list[Configure]:
    """A history from its rows of owners, ready for groups' logs."""
    history = History(len(rows[0]))
    return [configure(history.then(*owners)) for owners in rows]


Mirrors = tuple[
    Facts, tuple[tuple[ShardId, object], ...], tuple[int, ...], tuple[tuple[bytes, bool, int], ...]
]


def mirrors(machine: StoreMachine) -> Mirrors:
    """All that a machine keeps in memory, bar its list of garbage."""
    shards = machine._shards
    return (
        machine.facts,
        machine.unsettled,
        tuple(shard.highest_deleted for shard in shards),
        tuple((shard.prefix, shard.serves, machine.changes(shard.id)) for shard in shards),
    )


class Group:
    """One replica of a group: commands in, answers out; each call is an entry of its log."""

    def __init__(self, gid: int, nshards: int = 4, **limits: int) -> None:
        self.gid = GroupId(gid)
        self._limits = limits
        self.rows = MemoryRows()
        self.machine = StoreMachine(self.gid, nshards, **limits)
        self.index = 0

    def entry(self, *commands: Command | bytes) -> list[Answer]:
        """Apply all commands as one entry, in one batch."""
        self.index += 1
        overlay = Overlay(self.rows)
        answers = [
            self.machine.apply(
                Index(self.index),
                command if isinstance(command, bytes) else encode(command),
                overlay,
            )
            for command in commands
        ]
        self.rows.write(overlay.writes())
        return answers

    def apply(self, command: Command | bytes) -> Answer:
        return self.entry(command)[0]

    def open(self, shard: ShardId = S0) -> SessionId:
        answer = self.apply(OpenSession(shard))
        assert answer.code is Code.OK, answer
        return SessionId(answer.facts[0])

    def get(self, key: bytes, shard: ShardId = S0) -> Row | Answer:
        return self.machine.get(self.rows, shard, key)

    def pull(self, shard: ShardId, number: int, cursor: bytes = b"", **limits: int) -> Chunk:
        """What follows a cursor; there must be something."""
        chunk = self.pulled(shard, number, cursor, **limits).chunk
        assert chunk is not None, (shard, number, cursor)
        return chunk

    def pulled(self, shard: ShardId, number: int, cursor: bytes = b"", **limits: int) -> Pulled:
        pulled = self.machine.pull(self.rows, shard, ConfigNumber(number), cursor, **limits)  # type: ignore[arg-type]
        assert isinstance(pulled, Pulled), pulled
        return pulled

    def copy(self, shard: ShardId) -> dict[bytes, bytes]:
        """The rows of the shard's copy here, staged or live, by their keys below its prefix."""
        prefix = prefix_of(shard, self.machine.record(shard).generation)
        return {key[len(prefix) :]: row for key, row in self.rows.range(prefix, prefix + b"\xff")}

    def copies(self) -> list[tuple[ShardId, Generation]]:
        """Which copies have rows, dead ones too."""
        found = dict.fromkeys((key[1:3], key[3:11]) for key, _ in self.rows.range(b"s", b"t"))
        return [
            (ShardId(int.from_bytes(s, "big")), Generation(int.from_bytes(g, "big")))
            for s, g in found
        ]

    def restart(self) -> None:
        """A crash, and a start from the rows: the mirrors must come out as they were."""
        before = self.machine
        self.machine = StoreMachine(self.gid, before.nshards, **self._limits)
        self.machine.reload(self.rows)
        assert mirrors(self.machine) == mirrors(before)
        named = [
            prefix
            for shard, record in enumerate(before.facts.records)
            for prefix in prefixes(ShardId(shard), record)
        ]
        there = dict.fromkeys(key[:11] for key, _ in self.rows.range(CHANGES[0], COPIES[1]))
        dead = [prefix for prefix in there if prefix[:1] in b"ms" and prefix not in named]
        assert list(self.machine._dead) == dead
        assert [prefix for prefix in sorted(before._dead) if prefix in dead] == dead


def put(
    session: int,
    seq: int,
    key: bytes,
    value: bytes,
    *,
    shard: ShardId = S0,
    floor: int = 1,
    if_version: int | None = None,
) -> Mutation:
    version = None if if_version is None else Version(if_version)
    return Mutation(Op.PUT, shard, SessionId(session), seq, floor, key, value, version)


def append(
    session: int, seq: int, key: bytes, value: bytes, *, shard: ShardId = S0, floor: int = 1
) -> Mutation:
    return Mutation(Op.APPEND, shard, SessionId(session), seq, floor, key, value)


def delete(session: int, seq: int, key: bytes, *, shard: ShardId = S0, floor: int = 1) -> Mutation:
    return Mutation(Op.DELETE, shard, SessionId(session), seq, floor, key)


def ok(*facts: int) -> Answer:
    return Answer(Code.OK, facts)


def row(value: bytes, version: int) -> Row:
    return Row(value, Version(version))
