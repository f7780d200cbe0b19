"""What a leader has to do next, from what its state machine knows."""

from collections.abc import Sequence

import pytest

from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import Chunk, Freeze, Install, Restart
from shardkv.limits import RESTARTS_MAX
from shardkv.migration import Advance, Ask, Pull, Step, answers, install, owners_since
from shardkv.migration import todo as due
from shardkv.phases import Phase
from shardkv.rows import ROWS_DONE, ShardRecord, changes_cursor
from shardkv.types import NO_COPY, CopyId, Generation
from tests.support.stores import S0, S1, S2, A, B, C, Group, History, configures

N2 = ConfigNumber(2)
GENERATION = Generation(9)


def todo(
    number: ConfigNumber, unsettled: Sequence[tuple[ShardId, ShardRecord]], changes: int = 0
) -> tuple[Step, ...]:
    return due(number, unsettled, lambda shard: changes, 100)


def test_a_settled_group_looks_for_the_next_configuration() -> None:
    assert todo(ConfigNumber(0), ()) == (Advance(ConfigNumber(1)),)
    assert todo(N2, ()) == (Advance(ConfigNumber(3)),)


def test_each_shard_on_its_way_has_one_step_and_none_waits_for_another() -> None:
    arriving = ShardRecord(Phase.ARRIVING, N2, generation=GENERATION, peer=A)
    under_way = arriving._replace(copy_id=CopyId(7), cursor=b"dk")
    leaving = ShardRecord(Phase.LEAVING, N2, generation=GENERATION, peer=C, copy_id=CopyId(5))
    moving = leaving._replace(phase=Phase.MOVING)

    steps = todo(
        N2,
        (
            (S0, arriving),
            (S1, under_way),
            (S2, leaving),
            (ShardId(8), moving),
            (ShardId(9), under_way._replace(cursor=changes_cursor(3))),
        ),
    )

    assert steps == (
        Pull(S0, N2, A, NO_COPY, b""),
        Pull(S1, N2, A, CopyId(7), b"dk"),
        Ask(S2, N2, C),
        Pull(ShardId(9), N2, A, CopyId(7), changes_cursor(3)),
    )


def test_a_copy_that_cannot_follow_begins_again_and_at_last_freezes() -> None:
    """L4: however fast the shard is written, it comes to an end."""
    moving = ShardRecord(Phase.MOVING, N2, generation=GENERATION, peer=B, copy_id=CopyId(5))
    tired = moving._replace(restarts=RESTARTS_MAX)

    assert todo(N2, ((S0, moving),), changes=100) == ()
    (again,) = todo(N2, ((S0, moving),), changes=101)
    (last,) = todo(N2, ((S0, tired),), changes=101)
    # By type too: commands with equal fields are equal tuples.
    assert (type(again), again) == (Restart, (S0, N2, CopyId(5)))
    assert (type(last), last) == (Freeze, (S0, N2, CopyId(5)))


@pytest.mark.parametrize("phase", [Phase.ABSENT, Phase.SERVING, Phase.PARKED])
def test_a_settled_shard_among_the_unsettled_is_our_own_mistake(phase: Phase) -> None:
    with pytest.raises(AssertionError):
        todo(N2, ((S0, ShardRecord(phase, N2)),))


def test_the_machine_and_the_steps_agree() -> None:
    first, second = configures([A, A, B, B], [B, A, B, B])
    a, b = Group(A), Group(B)
    for group in (a, b):
        group.apply(first)
        assert todo(group.machine.number, group.machine.unsettled) == (Advance(N2),)
        group.apply(second)

    assert todo(N2, a.machine.unsettled) == ()
    first_pull = Pull(S0, N2, A, NO_COPY, b"")
    assert todo(N2, b.machine.unsettled) == (first_pull,)
    chunk = a.pull(S0, 2)
    assert install(first_pull, chunk, None) is None
    b.apply(chunk)
    (pull,) = todo(N2, b.machine.unsettled)
    assert pull == Pull(S0, N2, A, chunk.copy_id, ROWS_DONE)
    a.apply(Freeze(S0, N2, chunk.copy_id))
    assert todo(N2, a.machine.unsettled) == (Ask(S0, N2, B),)
    rest = a.pulled(S0, 2, ROWS_DONE)
    assert isinstance(pull, Pull) and rest == (None, 0, 0)
    last = install(pull, rest.chunk, rest.end)
    assert last == Install(S0, N2, chunk.copy_id, 0) == install(first_pull, chunk, 0)
    assert isinstance(last, Install)
    b.apply(last)
    assert todo(N2, b.machine.unsettled) == (Advance(ConfigNumber(3)),)


def test_a_chunk_answers_the_pull_that_asked_for_it() -> None:
    pull = Pull(S0, N2, A, CopyId(7), b"dk")
    chunk = Chunk(S0, N2, CopyId(7), b"dk", b"dz", ((b"dk", b"v"),))

    assert answers(pull, chunk)
    assert answers(pull._replace(copy_id=NO_COPY), chunk)
    begun_again = chunk._replace(copy_id=CopyId(8), cursor=b"")
    assert answers(pull, begun_again)
    for other in (
        begun_again._replace(copy_id=CopyId(6)),
        chunk._replace(shard=S1),
        chunk._replace(number=ConfigNumber(3)),
        chunk._replace(copy_id=CopyId(8)),
        chunk._replace(cursor=b"da"),
    ):
        assert not answers(pull, other)


@pytest.mark.parametrize(
    ("number", "owners"),
    [(1, (A, B, C)), (2, (B, A, C)), (4, (A, C)), (5, (C,)), (6, ())],
)
def test_owners_since_a_configuration_are_all_that_may_have_it(
    number: int, owners: tuple[GroupId, ...]
) -> None:
    history = History()
    for owner in (A, B, 0, A, C):
        history.then(owner, A, A, A)

    assert owners_since(S0, ConfigNumber(number), history.configs) == owners
