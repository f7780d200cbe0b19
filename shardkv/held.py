"""A shard as a group's machine holds it: its record, and what makes commands on it fast.

What stands here beside the record follows from the rows alone, and is brought in line with them
whenever the record changes or the rows are loaded anew (`refresh`).

A key never has one version with two values, or `if_version` would be fooled by a version that was
read before. While nothing is lost this takes two things: each write gives one more than the key
has, and a key made anew begins above the highest version that was ever deleted in its shard. Where
acknowledged writes are lost - a group goes on from a survivor, a shard stays with whoever was
giving it to a lost group, a backup is put back - somebody may hold a version that the rows do not
know of. So versions come in *epochs*, and each such event begins one, under the number of the
configuration that tells of it: every write from there on, to keys that are there as well, gets a
version above all that came before. It costs no row: the highest deleted version is raised to the
epoch's begin, and says from then on which epoch it is. (What a survivor's log held and was never
committed is counted as it stands there; its entries were numbered by the group that it was.)

Nobody answers clients about a shard before he has come to the configuration that its epoch is of.
A group may be far behind the one that gives another up, and make a shard anew that it waits for;
if the history leads that shard once more to the lost group, what was written to it in between would
be acknowledged, and be dropped there. The epoch travels with the rows, so whoever takes the shard
over from there waits as well.
"""

from collections.abc import Collection, Iterator
from typing import Final

from raft.ports import Reader
from raft.sessions import SessionTable
from shardctrler.types import ConfigNumber, ShardId
from shardkv.changes import ChangeLog, count_changes
from shardkv.phases import SERVES, Phase
from shardkv.rows import (
    CHANGES,
    COPIES,
    DATA,
    HIGHEST_DELETED,
    ShardRecord,
    changes_prefix,
    copy_of,
    end_of_copy,
    prefix_of,
    row_version,
)
from shardkv.steps import RECOVERED_BEGINS
from shardkv.types import NO_GENERATION, CopyId, Generation

GIVEN_OUT: Final = (Phase.MOVING, Phase.LEAVING)
"""A shard in one of these has change rows."""
EPOCH: Final = RECOVERED_BEGINS // 2
"""Versions of an epoch, more than one key is ever given. Of the two that a configuration has, the
second is for the backup that is put back with it: what was backed up may have gone on, and have
been recovered by a configuration of the same number."""


class HeldShard:
    """A shard's record, which is the machine's to change, with what makes it fast to use."""

    __slots__ = (
        "changes",
        "data_prefix",
        "epoch_begins",
        "epoch_number",
        "highest_deleted",
        "highest_key",
        "id",
        "prefix",
        "record",
        "serves",
        "sessions",
    )

    def __init__(self, shard: ShardId, record: ShardRecord, sessions: SessionTable) -> None:
        self.id = shard
        self.record = record
        self.prefix = prefix_of(shard, record.generation)
        self.data_prefix = self.prefix + DATA
        self.highest_key = self.prefix + HIGHEST_DELETED
        self.highest_deleted = 0  # the row's figure while it serves, else 0
        self.epoch_begins = 0  # every version that is given is above it
        self.epoch_number = ConfigNumber(0)  # of the configuration that its epoch is of
        self.serves = False  # whether it answers clients: the one question of the hot path
        self.changes: ChangeLog | None = None  # while it is on its way from here
        self.sessions = sessions

    def begin_copy(self) -> None:
        """The record's copy id is new, so there are no change rows of it. Nobody looks: to look for
        the last one walks over what is left of those of older copies."""
        prefix = changes_prefix(self.id, self.record.copy_id)
        self.changes = ChangeLog(prefix, len(self.prefix))

    def stored_highest(self, rows: Reader) -> int:
        """The row's figure."""
        row = rows.get(self.highest_key)
        return 0 if row is None else row_version(self.highest_key, row)

    def know_highest(self, version: int) -> None:
        """The highest deleted version is `version`."""
        self.highest_deleted = version
        self.epoch_begins = version - version % EPOCH

    def come_to(self, number: ConfigNumber) -> None:
        """The group is at configuration `number`."""
        self.serves = self.record.phase in SERVES and number >= self.epoch_number

    def refresh(self, rows: Reader, number: ConfigNumber) -> None:
        """Bring what is derived in line with the record, in a group at configuration `number`."""
        record = self.record
        assert record.taken <= record.number, record
        assert (record.generation == NO_GENERATION) == (record.phase is Phase.ABSENT), record
        self.know_highest(self.stored_highest(rows) if record.phase in SERVES else 0)
        self.epoch_number = ConfigNumber(self.highest_deleted // RECOVERED_BEGINS)
        self.come_to(number)
        if record.phase not in GIVEN_OUT:
            self.changes = None
            return
        prefix = changes_prefix(self.id, record.copy_id)
        if self.changes is None or self.changes.prefix != prefix:
            count = count_changes(rows, prefix)
            self.changes = ChangeLog(prefix, len(self.prefix), count)


def prefixes(shard: ShardId, record: ShardRecord) -> tuple[bytes, ...]:
    """What the keys of the rows begin with that a record keeps alive."""
    rows = () if record.generation == NO_GENERATION else (prefix_of(shard, record.generation),)
    changes = (changes_prefix(shard, record.copy_id),) if record.phase in GIVEN_OUT else ()
    return rows + changes


def find_dead(rows: Reader, alive: Collection[bytes]) -> Iterator[bytes]:
    """Prefixes that have rows and are not `alive`; one seek each, not a scan."""
    for cursor, end in (CHANGES, COPIES):
        while (found := next(iter(rows.range(cursor, end)), None)) is not None:
            shard, number = copy_of(found[0])
            if found[0] < CHANGES[1]:
                prefix = changes_prefix(shard, CopyId(number))
            else:
                prefix = prefix_of(shard, Generation(number))
            if prefix not in alive:
                yield prefix
            cursor = end_of_copy(prefix)
