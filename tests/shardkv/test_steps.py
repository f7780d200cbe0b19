"""What steps make of a shard's record where only a late message or a rare history gets to."""

import pytest

from raft.types import GroupId, Index
from shardctrler.types import ConfigNumber, ShardId
from shardkv import steps
from shardkv.commands import Restart
from shardkv.phases import Phase
from shardkv.rows import ShardRecord
from shardkv.types import NO_COPY, CopyId, Generation

G1, G2 = GroupId(1), GroupId(2)
MOVING = ShardRecord(
    Phase.MOVING, ConfigNumber(4), ConfigNumber(2), Generation(9), G2, CopyId(17), restarts=1
)
FROZEN = MOVING._replace(phase=Phase.LEAVING)


def test_a_restart_begins_another_copy() -> None:
    after = steps.restart(MOVING, Restart(ShardId(3), ConfigNumber(4), CopyId(17)), Index(30))

    assert after == MOVING._replace(copy_id=CopyId(30), restarts=2)


@pytest.mark.parametrize(
    ("record", "copy_id"),
    [
        pytest.param(FROZEN, 17, id="late: the copy is frozen, and its end is told"),
        pytest.param(MOVING, 16, id="of the copy before"),
        pytest.param(MOVING._replace(copy_id=CopyId(30)), 30, id="twice in one entry"),
    ],
)
def test_a_restart_out_of_place_changes_nothing(record: ShardRecord, copy_id: int) -> None:
    """A frozen copy that began again would be open to writes that its destination never gets, and
    a step that no phase allows would stop every replica of the group."""
    step = Restart(ShardId(3), ConfigNumber(4), CopyId(copy_id))

    assert steps.restart(record, step, Index(30)) == steps.OUT_OF_STEP


@pytest.mark.parametrize(
    ("previous", "lost", "phase"),
    [
        pytest.param(G1, False, Phase.SERVING, id="nobody had it since: it stays"),
        pytest.param(G1, True, Phase.ABSENT, id="others may have had it in between"),
        pytest.param(G2, False, Phase.ABSENT, id="the history gave it on"),
    ],
)
def test_what_was_to_go_to_a_lost_group_stays_only_where_nobody_can_have_had_it_since(
    previous: GroupId, lost: bool, phase: Phase
) -> None:
    """A configuration between may name another owner, who then serves it too (S1)."""
    after = steps.abandon(MOVING, G1, previous, lost, ConfigNumber(9), Index(40))

    assert after.phase is phase
    assert after.copy_id == NO_COPY
    assert (after.generation == MOVING.generation) == (phase is Phase.SERVING)
