"""What a leader has to do next, from what its state machine knows."""

import pytest

from raft.types import GroupId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import Chunk, Install
from shardkv.migration import Advance, Ask, Pull, answers, owners_since, todo
from shardkv.phases import Phase
from shardkv.rows import ShardRecord
from shardkv.types import NO_COPY, CopyId, Generation
from tests.support.stores import S0, S1, S2, A, B, C, Group, History, configures

N2 = ConfigNumber(2)
GENERATION = Generation(9)


def test_a_settled_group_looks_for_the_next_configuration() -> None:
    assert todo(ConfigNumber(0), ()) == (Advance(ConfigNumber(1)),)
    assert todo(N2, ()) == (Advance(ConfigNumber(3)),)


def test_each_shard_on_its_way_has_one_step_and_none_waits_for_another() -> None:
    arriving = ShardRecord(Phase.ARRIVING, N2, generation=GENERATION, peer=A)
    under_way = arriving._replace(copy_id=CopyId(7), cursor=b"dk")
    leaving = ShardRecord(Phase.LEAVING, N2, generation=GENERATION, peer=C, copy_id=CopyId(5))

    steps = todo(
        N2,
        (
            (S0, arriving),
            (S1, under_way),
            (S2, leaving),
            (ShardId(9), under_way._replace(copied=True)),
        ),
    )

    assert steps == (
        Pull(S0, N2, A, NO_COPY, b""),
        Pull(S1, N2, A, CopyId(7), b"dk"),
        Ask(S2, N2, C),
        Install(ShardId(9), N2, CopyId(7)),
    )


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

    assert todo(N2, a.machine.unsettled) == (Ask(S0, N2, B),)
    assert todo(N2, b.machine.unsettled) == (Pull(S0, N2, A, NO_COPY, b""),)
    chunk = a.pull(S0, 2)
    b.apply(chunk)
    (install,) = todo(N2, b.machine.unsettled)
    assert install == Install(S0, N2, chunk.copy_id)
    assert isinstance(install, Install)
    b.apply(install)
    assert todo(N2, b.machine.unsettled) == (Advance(ConfigNumber(3)),)


def test_a_chunk_answers_the_pull_that_asked_for_it() -> None:
    pull = Pull(S0, N2, A, CopyId(7), b"dk")
    chunk = Chunk(S0, N2, CopyId(7), b"dk", b"dz", False, ((b"dk", b"v"),))

    assert answers(pull, chunk)
    assert answers(pull._replace(copy_id=NO_COPY), chunk)
    for other in (
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
