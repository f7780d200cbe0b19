"""How one group behaves: a frozen value, checked across its fields when it is made."""

from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Final

HEARTBEATS_PER_ELECTION_MIN: Final = 3
"""An election timeout below it is refused: two lost heartbeats would depose a leader."""
HEARTBEATS_PER_ELECTION_WISE: Final = 5
"""Below it is allowed, and warned about."""

KIB: Final = 1024
MIB: Final = 1024 * KIB


class Mode(Enum):
    """One switch with two positions; nothing in between has been thought through.

    PreVote and CheckQuorum need each other: either alone leaves a group without a leader for ever
    in some partial partitions (etcd#8243, #8501).
    """

    PRODUCTION = "production"  # PreVote, CheckQuorum, votes refused while a leader is heard
    LAB = "lab"  # none of these: plain Raft, as the lab tests expect


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Times in seconds, sizes in bytes.

    Raises:
        ValueError: a field is out of range, or two of them contradict each other; the message
            shows the values.
    """

    heartbeat_seconds: float = 0.1
    election_seconds_min: float = 0.5
    election_seconds_max: float = 1.0
    """Each wait for a leader is drawn anew from [min, max); max is the E of the documents: a
    leader without a quorum steps down, and a transfer is given up, after it."""
    append_bytes_max: int = MIB
    """One `AppendEntries` carries at most this many bytes of entries, or one entry."""
    inflight_messages_max: int = 64
    """Unacknowledged `AppendEntries` a follower; more waits for answers."""
    inflight_bytes_max: int = 8 * MIB
    uncommitted_bytes_max: int = 16 * MIB
    """Proposals beyond it are refused as overloaded; one alone is always taken."""
    unapplied_bytes_max: int = 16 * MIB
    """Committed entries handed out and not yet applied; more are held back in the log."""
    cache_bytes_max: int = 32 * MIB
    """Recent entries kept in memory, of all groups of a node together; what is not durable yet is
    kept in any case."""
    reads_waiting_max: int = 4096
    """Read requests that wait for a confirmation; more are refused at once."""
    snapshot_chunk_bytes_max: int = 256 * KIB
    """A snapshot travels in chunks of about this many bytes, each acknowledged by itself."""
    snapshot_reply_seconds: float = 5.0
    """How long a chunk waits for its acknowledgement before it is sent again."""
    mode: Mode = Mode.PRODUCTION
    empty_entry_at_start: bool = True
    """Whether a new leader appends an empty entry, without which nothing of an earlier term is
    committed until a client writes. False for the raft lab alone, whose tests count from 1."""

    def __post_init__(self) -> None:
        for name in ("heartbeat_seconds", "election_seconds_min", "election_seconds_max",
                     "snapshot_reply_seconds"):  # fmt: skip
            seconds = getattr(self, name)
            if not (isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name} must be a positive number of seconds, not {seconds!r}")
        for name in ("append_bytes_max", "inflight_messages_max", "inflight_bytes_max",
                     "uncommitted_bytes_max", "unapplied_bytes_max", "cache_bytes_max",
                     "reads_waiting_max", "snapshot_chunk_bytes_max"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if self.election_seconds_max <= self.election_seconds_min:
            raise ValueError(
                f"election_seconds_max ({self.election_seconds_max}) must be above "
                f"election_seconds_min ({self.election_seconds_min}): equal waits split votes"
            )
        if self.election_seconds_min < HEARTBEATS_PER_ELECTION_MIN * self.heartbeat_seconds:
            raise ValueError(
                f"election_seconds_min ({self.election_seconds_min}) must be at least "
                f"{HEARTBEATS_PER_ELECTION_MIN} x heartbeat_seconds ({self.heartbeat_seconds})"
            )

    @property
    def checks_quorum(self) -> bool:
        """Whether PreVote, CheckQuorum and the refusal of votes are in force."""
        return self.mode is Mode.PRODUCTION

    def warnings(self) -> tuple[str, ...]:
        """What is allowed and unwise, one sentence each."""
        if self.election_seconds_min < HEARTBEATS_PER_ELECTION_WISE * self.heartbeat_seconds:
            return (
                f"election_seconds_min ({self.election_seconds_min}) is below "
                f"{HEARTBEATS_PER_ELECTION_WISE} x heartbeat_seconds ({self.heartbeat_seconds}): "
                "a short stall may depose a healthy leader",
            )
        return ()
