"""Reads the chunks of a group's snapshot: every byte checked, and what the rows say of the group.

The chunks are those that a follower gets (`raft/disk/data_store.py`): each with a checksum, the
last with the number of rows and a digest of all. So a file that lacks one, has one twice or one of
another snapshot is found out here, beside its hash in the manifest.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from raft.disk.data_store import Staging
from raft.errors import BadChunk
from raft.ports import Disk, Write
from raft.types import EntryId, GroupId, SnapshotMeta
from shardctrler.codec import BadConfig, decode_config
from shardctrler.types import ConfigNumber, ShardConfig, ShardId
from shardkv.errors import ShardKVError
from shardkv.phases import Phase
from shardkv.rows import (
    CONFIG_KEY,
    COPIES,
    DATA,
    RECORDS,
    SESSIONS,
    RowDamaged,
    copy_of,
    decode_config_row,
    decode_record,
    prefix_of,
    record_shard,
)
from shardkv.types import Generation

_PREFIX_BYTES: Final = len(prefix_of(ShardId(0), Generation(0)))
_CONTROLLER_CONFIGS: Final = (b"c", b"d")
_SESSION_KEY_BYTES: Final = 8


class BackupDamaged(ShardKVError):
    """A backup, or a chunk on its way into one, is not what it says it is."""


class Contents(NamedTuple):
    """What the rows of one group say."""

    rows: int
    config: ShardConfig | None  # the one in force; the controller: the newest
    phases: tuple[tuple[ShardId, Phase], ...]  # of the shards that are not ABSENT
    keys: int  # of clients
    sessions: int


class RowReader:
    """Takes the chunks of one snapshot in order; `contents` once `complete`.

    Args:
        last: The entry that the snapshot ends at; every chunk must name it.
    """

    def __init__(self, gid: GroupId, last: EntryId) -> None:
        self.gid = gid
        self._last_chunk = Staging(
            SnapshotMeta(last), 0, b"", cast(Disk, self), _never, lambda _: None
        )
        self._rows = self._keys = self._sessions = 0
        self._config: ShardConfig | None = None
        self._phases: list[tuple[ShardId, Phase]] = []
        self._live: dict[ShardId, Generation] = {}

    @property
    def complete(self) -> bool:
        """Whether the last chunk was taken, and all fit together."""
        return self._last_chunk.complete

    @property
    def contents(self) -> Contents:
        assert self.complete, "a snapshot is looked at when all of it is there"
        return Contents(self._rows, self._config, tuple(self._phases), self._keys, self._sessions)

    def add(self, chunk: bytes) -> None:
        """Take the next chunk.

        Raises:
            BackupDamaged: it is damaged, of another snapshot, or not the next one.
        """
        try:
            self._last_chunk.add(chunk)
        except (BadChunk, BadConfig, RowDamaged) as error:
            raise BackupDamaged(f"group {self.gid}: {error}") from error

    def write(self, batch: Sequence[Write]) -> None:
        """What `Staging` calls with the rows of a chunk, once it has checked them."""
        for key, row in batch:
            assert row is not None
            self._rows += 1
            if self.gid:
                self._store_row(key, row)
            elif _CONTROLLER_CONFIGS[0] <= key < _CONTROLLER_CONFIGS[1]:
                self._config = decode_config(row)  # ascending: the newest comes last
            elif key[:1] == b"s" and len(key) == 1 + _SESSION_KEY_BYTES:
                self._sessions += any(key[1:])

    def _store_row(self, key: bytes, row: bytes) -> None:
        if key == CONFIG_KEY:
            self._config = decode_config(decode_config_row(row))
        elif RECORDS[0] <= key < RECORDS[1]:
            record = decode_record(key, row)
            if record.phase is not Phase.ABSENT:
                self._phases.append((record_shard(key), record.phase))
                self._live[record_shard(key)] = record.generation
        elif COPIES[0] <= key < COPIES[1]:
            shard, generation = copy_of(key)
            if self._live.get(shard) != generation:
                return  # garbage that is on its way out
            kind, rest = key[_PREFIX_BYTES : _PREFIX_BYTES + 1], key[_PREFIX_BYTES + 1 :]
            self._keys += kind == DATA
            self._sessions += kind == SESSIONS and any(rest)


def check_cut(contents: dict[GroupId, Contents]) -> None:
    """Refuse groups whose states do not make one cluster: every shard served by exactly one group.

    All groups stand at one configuration with every shard settled. Then the shards that a group
    serves are those that this configuration gives it, no more (`LEAVING` would not be settled) and
    no fewer (`ARRIVING` would not be); and a configuration gives a shard to one group. Both are
    checked here on the rows themselves, whatever the replicas said of them.

    Raises:
        BackupDamaged: names the group and what does not fit.
    """
    newest = contents[GroupId(0)].config
    if newest is None:
        if len(contents) > 1:
            raise BackupDamaged("groups without a configuration that names them")
        return
    if tuple(sorted(contents)) != (GroupId(0), *newest.groups):
        raise BackupDamaged(
            f"configuration {newest.number} names groups {list(newest.groups)}, and there are "
            f"{sorted(set(contents) - {0})}"
        )
    for gid in newest.groups:
        found = contents[gid]
        number = ConfigNumber(0) if found.config is None else found.config.number
        if number != newest.number:
            raise BackupDamaged(
                f"group {gid} stands at configuration {number}, the controller at {newest.number}"
            )
        owned = tuple((shard, Phase.SERVING) for shard in newest.shards_of(gid))
        if found.phases != owned:
            raise BackupDamaged(
                f"group {gid} serves other shards than configuration {newest.number} gives it"
            )
    parked = newest.shards_of(GroupId(0))
    if parked:
        raise BackupDamaged(f"shards {list(parked)} belong to no group")


async def _never(_: Staging) -> None:
    raise AssertionError("a snapshot that is only read is not installed")
