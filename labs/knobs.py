"""What a simulated run is made of besides its faults: sizes and times, drawn from its seed.

Tiny bounds reach in seconds what production reaches in weeks: compaction, snapshots, many chunks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import raft.host
import shardkv.handover
from raft.config import KIB, MIB, RaftConfig
from raft.host import CompactionConfig
from shardkv.limits import CHUNK_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """Sizes in bytes, times in seconds; by default those of production."""

    raft: RaftConfig = field(default_factory=RaftConfig)
    compaction: CompactionConfig = field(
        default_factory=lambda: CompactionConfig(log_entries_max=200, keep_entries=50)
    )
    chunk_bytes: int = CHUNK_BYTES_MAX
    housekeeping_seconds: float = 0.5

    @classmethod
    def draw(cls, rng: Random) -> "Knobs":
        """Those of a seed; one seed in four has the defaults."""
        if rng.random() < 0.25:
            return cls()
        heartbeat, least, most = rng.choice([(0.1, 0.5, 1.0), (0.05, 0.2, 0.5), (0.1, 0.4, 2.0)])
        return cls(
            raft=RaftConfig(
                heartbeat_seconds=heartbeat,
                election_seconds_min=least,
                election_seconds_max=most,
                append_bytes_max=rng.choice([300, 4 * KIB, MIB]),
                inflight_messages_max=rng.choice([1, 4, 64]),
                cache_bytes_max=rng.choice([1000, 16 * MIB]),
                unapplied_bytes_max=rng.choice([1000, 16 * MIB]),
                snapshot_chunk_bytes_max=rng.choice([100, 2 * KIB, 256 * KIB]),
                snapshot_reply_seconds=rng.choice([0.5, 5.0]),
            ),
            compaction=CompactionConfig(
                log_entries_max=rng.choice([5, 20, 100, 1000]), keep_entries=rng.choice([0, 2, 50])
            ),
            chunk_bytes=rng.choice([64, 1000, CHUNK_BYTES_MAX]),
            housekeeping_seconds=rng.choice([0.1, 0.5]),
        )


@contextmanager
def turned(knobs: Knobs) -> Iterator[None]:
    """Those that are constants of modules are set from outside, for the time of a run."""
    places = (
        (vars(raft.host), "HOUSEKEEPING_SECONDS", knobs.housekeeping_seconds),
        (vars(shardkv.handover), "CHUNK_BYTES_MAX", knobs.chunk_bytes),
    )
    before = [module[name] for module, name, _ in places]
    for module, name, value in places:
        module[name] = value
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            module[name] = value
