"""A leader whose own disk is the slow one gives the leadership up, and only then.

Reference: dissertation, section 10.2.1 (a leader may commit what its own disk does not have yet).
"""

from collections.abc import Iterable

import pytest

from raft.core import Raft
from raft.messages import AnyMessage, HeartbeatReply, TimeoutNow
from raft.own_disk import OwnDisk
from raft.types import Index, ReplicaId, Role
from tests.support.builders import NOW, PRODUCTION, ack, leader

E = PRODUCTION.election_seconds_max
START = NOW + 10


def test_the_oldest_waiting_entry_counts_although_the_disk_moves() -> None:
    disk = OwnDisk()

    waited = [
        disk.waited(Index(durable), Index(last), now)
        for durable, last, now in [
            (5, 5, 0.0),  # nothing waits
            (5, 6, 0.1),  # 6 is seen to wait
            (5, 9, 1.1),  # 7 to 9 too
            (6, 9, 2.1),  # 6 is there
            (8, 9, 3.1),  # 9 waits since it was seen, at 1.1
            (9, 9, 4.1),
        ]
    ]

    assert waited == pytest.approx([0.0, 0.0, 1.0, 1.0, 2.0, 0.0])


def test_what_was_truncated_waits_no_more() -> None:
    disk = OwnDisk()
    disk.waited(Index(0), Index(9), 0.0)

    assert disk.waited(Index(0), Index(4), 5.0) == 0.0


class Slow:
    """A leader whose saves do not end, with followers that answer as told."""

    def __init__(self) -> None:
        self.core: Raft = leader(1)
        self.said: list[AnyMessage] = []
        self.now = START

    def run(self, seconds: float, acking: Iterable[int]) -> None:
        """Let time pass; `acking` followers acknowledge all, the others answer heartbeats only."""
        acking = tuple(acking)
        until = self.now + seconds
        while self.now < until and self.core.role is Role.LEADER:
            self.now = max(self.core.deadline, self.now + 0.001)
            self.core.timeout(self.now)
            while ready := self.core.ready():  # its disk does nothing
                self.said += ready.early + ready.messages
            for follower, progress in list(self.core.progress.items()):
                if follower in acking:
                    last = self.core.log.last.index
                    self.core.step(ack(follower, self.core, last), self.now)
                elif self.core.role is Role.LEADER:
                    reply = HeartbeatReply(
                        follower, self.core.id, self.core.term, progress.token, progress.match
                    )
                    self.core.step(reply, self.now)

    @property
    def told(self) -> list[ReplicaId]:
        return [message.target for message in self.said if isinstance(message, TimeoutNow)]


def test_it_hands_over_to_a_voter_that_is_caught_up() -> None:
    slow = Slow()
    slow.core.propose(b"x")

    slow.run(2 * E - 0.05, acking=(2, 3))
    assert slow.told == [] and slow.core.slow_disk_at < 0, "patience: a long sync is no illness"
    slow.run(0.3, acking=(2, 3))

    assert slow.told == [2]
    assert slow.core.slow_disk_at == pytest.approx(slow.now, abs=0.2), "remembered for a while"


def test_it_steps_down_if_nobody_takes_over() -> None:
    slow = Slow()
    slow.core.propose(b"x")

    slow.run(3 * E + 0.3, acking=(2, 3))

    assert slow.core.role is Role.FOLLOWER
    assert slow.now - START < 3 * E + 0.3


def test_a_slow_disk_that_moves_is_found_too() -> None:
    """Each sync takes 1.5 E, a new one begins at once: no entry is durable within 2 E for long."""
    slow = Slow()
    for _ in range(4):
        slow.core.propose(b"x")
        saving = slow.core.log.last
        slow.run(0.75 * E, acking=(2, 3))
        slow.core.propose(b"y")
        slow.run(0.75 * E, acking=(2, 3))
        slow.core.propose(b"z")
        if slow.core.role is Role.LEADER and not slow.told:
            slow.core.persisted(Index(saving.index - 1), saving.term)

    assert slow.told[:1] == [2]


@pytest.mark.parametrize("acking", [(), (2,)], ids=["nobody", "one of two"])
def test_it_stays_where_the_others_are_no_further(acking: tuple[int, ...]) -> None:
    """All disks are slow, or no majority of the others has the entry: nothing would be gained."""
    slow = Slow()
    slow.core.propose(b"x")

    slow.run(5 * E, acking=acking)

    assert slow.core.role is Role.LEADER
    assert slow.told == []


def test_it_stays_while_nothing_waits() -> None:
    slow = Slow()

    slow.run(5 * E, acking=(2, 3))

    assert slow.core.role is Role.LEADER
    assert slow.told == []
