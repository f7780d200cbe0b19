"""A Raft that is wrong on purpose: its leader commits what it alone has.

    python -m labs run 3B --impl docs/examples/hasty_raft.py:HastyRaft

The tests say so: a leader that was cut off commits what the others will never hear of.
"""

from compact_raft import CompactRaft


class HastyRaft(CompactRaft):
    """As `CompactRaft`, without waiting for a majority."""

    def save(self, snapshot: bytes | None = None) -> None:
        super().save(snapshot)
        if self.role == "leader":
            self.commit_to(self.last)
