"""What a simulated run is made of besides its faults: sizes and times, drawn from its seed.

Tiny bounds reach in seconds what production reaches in weeks: compaction, snapshots, many chunks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

import raft.host
import shardkv.giving
import shardkv.handover
import shardkv.machine
from raft.config import KIB, MIB, RaftConfig
from raft.host import CompactionConfig
from shardkv.handover import SESSION_IDLE_SECONDS, SURVEY_SECONDS
from shardkv.limits import (
    CHANGE_ROWS_MAX,
    CHUNK_BYTES_MAX,
    COPIES_MAX,
    FREEZE_BYTES,
    VALUE_BYTES_MAX,
)

TIMES: Final = (
    (0.1, 0.5, 1.0), (0.05, 0.2, 0.5), (0.1, 0.4, 2.0), (0.5, 1.6, 2.0), (0.01, 0.04, 0.1)
)  # fmt: skip
"""Heartbeat, least and largest election time-out."""
TIMES_WEIGHTS: Final = (6, 6, 5, 2, 1)
SHORT_IDLE_SECONDS: Final = 4.0
SHORT_VALUE_BYTES: Final = 40
"""What lists reach within a run, and nothing else does."""

PIECE_BYTES: Final = 200
"""A small part of what a group holds after some seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Sizes in bytes, times in seconds; by default those of production."""

    raft: RaftConfig = field(default_factory=RaftConfig)
    compaction: CompactionConfig = field(
        default_factory=lambda: CompactionConfig(log_entries_max=200, keep_entries=50)
    )
    chunk_bytes: int = CHUNK_BYTES_MAX
    housekeeping_seconds: float = 0.5
    copies: int = COPIES_MAX
    """Shards that a group copies at once."""
    freeze_bytes: int = FREEZE_BYTES
    """With less left to copy a shard is frozen."""
    change_rows_max: int = CHANGE_ROWS_MAX
    """With more change rows a copy begins again."""
    session_idle_seconds: float = SESSION_IDLE_SECONDS
    """A session that is not used for so long is forgotten."""
    value_bytes_max: int = VALUE_BYTES_MAX
    """An append that would make a value longer is refused."""

    @classmethod
    def draw(cls, rng: Random) -> "Knobs":
        """Those of a seed; one seed in four has the defaults."""
        if rng.random() < 0.25:
            return cls()
        heartbeat, least, most = rng.choices(TIMES, TIMES_WEIGHTS)[0]
        return cls(
            raft=RaftConfig(
                heartbeat_seconds=heartbeat,
                election_seconds_min=least,
                election_seconds_max=most,
                append_bytes_max=rng.choice([1, 300, 4 * KIB, MIB]),
                inflight_messages_max=rng.choice([1, 4, 64]),
                cache_bytes_max=rng.choice([1000, 16 * MIB]),
                unapplied_bytes_max=rng.choice([1000, 16 * MIB]),
                snapshot_chunk_bytes_max=rng.choice([64, 2 * KIB, 256 * KIB]),
                snapshot_reply_seconds=rng.choice([0.5, 5.0]),
            ),
            compaction=CompactionConfig(
                log_entries_max=rng.choice([5, 20, 100, 1000]),
                keep_entries=rng.choice([0, 2, 50, 500]),
            ),
            chunk_bytes=rng.choice([64, 1000, CHUNK_BYTES_MAX]),
            housekeeping_seconds=rng.choice([0.1, 0.5]),
            copies=rng.choice([1, COPIES_MAX, 8]),
            session_idle_seconds=rng.choice([SHORT_IDLE_SECONDS, SESSION_IDLE_SECONDS]),
            freeze_bytes=rng.choice([1, 500, FREEZE_BYTES]),
            change_rows_max=rng.choice([2, 20, CHANGE_ROWS_MAX]),
            value_bytes_max=rng.choice([SHORT_VALUE_BYTES, *[VALUE_BYTES_MAX] * 3]),
        )

    def in_pieces(self) -> "Knobs":
        """The same, but for logs that keep hardly anything of what is durable, and snapshots of
        more than one piece."""
        piece = min(self.raft.snapshot_chunk_bytes_max, PIECE_BYTES)
        keep = min(self.compaction.keep_entries, 2)
        return replace(
            self,
            raft=replace(self.raft, snapshot_chunk_bytes_max=piece),
            compaction=replace(self.compaction, keep_entries=keep),
        )


@contextmanager
def turned(knobs: Knobs) -> Iterator[None]:
    """Those that are constants of modules are set from outside, for the time of a run."""
    places = (
        (vars(raft.host), "HOUSEKEEPING_SECONDS", knobs.housekeeping_seconds),
        (vars(shardkv.handover), "CHUNK_BYTES_MAX", knobs.chunk_bytes),
        (vars(shardkv.handover), "COPIES_MAX", knobs.copies),
        (vars(shardkv.handover), "CHANGE_ROWS_MAX", knobs.change_rows_max),
        (vars(shardkv.giving), "CHANGE_ROWS_MAX", knobs.change_rows_max),
        (vars(shardkv.giving), "FREEZE_BYTES", knobs.freeze_bytes),
        (vars(shardkv.machine), "VALUE_BYTES_MAX", knobs.value_bytes_max),
        (vars(shardkv.handover), "SESSION_IDLE_SECONDS", knobs.session_idle_seconds),
        (vars(shardkv.handover), "SURVEY_SECONDS", min(SURVEY_SECONDS, knobs.session_idle_seconds)),
    )
    before = [module[name] for module, name, _ in places]
    for module, name, value in places:
        module[name] = value
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            module[name] = value
