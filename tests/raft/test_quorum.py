"""The only place where voters are counted, against definitions rather than examples."""

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.quorum import Electorate, Verdict, committed_index, tally
from raft.types import ReplicaId
from tests.support.builders import membership


@pytest.mark.parametrize(
    ("acked", "committed"),
    [
        pytest.param([7], 7, id="one voter is a majority"),
        pytest.param([9, 7], 7, id="two voters both count"),
        pytest.param([9, 7, 5], 7, id="two of three"),
        pytest.param([9, 7, 0, 0], 0, id="half of four is no majority"),
        pytest.param([9, 7, 6, 0, 0], 6, id="three of five"),
    ],
)
def test_majority_commits(acked: list[int], committed: int) -> None:
    assert committed_index(acked) == committed


@given(st.lists(st.integers(0, 12), min_size=1, max_size=9))
def test_committed_index_is_the_highest_that_a_strict_majority_holds(acked: list[int]) -> None:
    """For one to nine voters: safeguards A11 (n // 2) and B02 (the highest match) break this."""
    holders = [sum(a >= index for a in acked) for index in range(14)]

    expected = max(index for index in range(14) if 2 * holders[index] > len(acked))

    assert committed_index(acked) == expected


@pytest.mark.parametrize("size", range(1, 8))
def test_tally_is_won_or_lost_only_when_no_later_vote_could_change_it(size: int) -> None:
    """Every combination of yes, no and silence of every electorate of up to seven."""
    voters = [ReplicaId(n) for n in range(1, size + 1)]
    for answers in product((True, False, None), repeat=size):
        votes = {v: a for v, a in zip(voters, answers, strict=True) if a is not None}
        yes, silent = answers.count(True), answers.count(None)

        verdict = tally(voters, votes)

        if 2 * yes > size:
            assert verdict is Verdict.WON
        elif 2 * (yes + silent) <= size:
            assert verdict is Verdict.LOST
        else:
            assert verdict is Verdict.PENDING


def test_votes_of_others_do_not_count() -> None:
    """Learners and strangers may answer; they are not voters (octo-im#43)."""
    votes = {ReplicaId(n): True for n in (3, 4, 5, 6)}

    assert tally([ReplicaId(1), ReplicaId(2), ReplicaId(3)], votes) is Verdict.PENDING


def test_any_two_majorities_share_a_voter() -> None:
    """What every safety argument of Raft rests on, enumerated up to seven voters."""
    for size in range(1, 8):
        voters = range(1, size + 1)
        majorities = [
            set(some)
            for count in range(size + 1)
            for some in combinations(voters, count)
            if tally(map(ReplicaId, voters), {ReplicaId(v): True for v in some}) is Verdict.WON
        ]
        assert all(a & b for a in majorities for b in majorities)


def test_joint_decisions_need_both_majorities_each_counted_by_itself() -> None:
    """Raft (extended), section 6. Of {1,2,3} and {3,4,5}, the old majority 1,2,3 is a majority of
    the union too: a single counter would let it decide alone (safeguard E05, async-raft#62)."""
    joint = Electorate.of(membership(3, 4, 5, outgoing=(1, 2, 3)))
    old = {ReplicaId(n): True for n in (1, 2, 3)}

    assert joint.tally(old) is Verdict.PENDING
    assert joint.tally({**old, ReplicaId(4): True}) is Verdict.WON
    assert joint.tally({ReplicaId(4): False, ReplicaId(5): False}) is Verdict.LOST
    acked = {1: 9, 2: 9, 3: 9, 4: 4, 5: 2}
    assert joint.committed(lambda replica: acked[replica]) == 4


def test_nobody_decides_without_voters() -> None:
    """A blank replica knows no members yet: it must not elect itself by a vacuous majority."""
    nobody = Electorate(())

    assert nobody.tally({ReplicaId(1): True}) is Verdict.LOST
    assert nobody.committed(lambda _: 9) == 0
    assert not nobody.agrees(lambda _: True)


@given(
    st.sets(st.integers(1, 9), min_size=1, max_size=5),
    st.sets(st.integers(1, 9), min_size=1, max_size=5),
    st.sets(st.integers(1, 9)),
    st.sets(st.integers(1, 9)),
)
def test_joint_and_settled_quorums_intersect(
    old: set[int], new: set[int], some: set[int], others: set[int]
) -> None:
    """Invariant R11: a quorum of the joint electorate meets each quorum before and after it."""
    joint = Electorate.of(membership(*sorted(new), outgoing=sorted(old)))
    before, after = Electorate.of(membership(*sorted(old))), Electorate.of(membership(*sorted(new)))

    if joint.agrees(lambda replica: replica in some):
        for settled in (before, after):
            if settled.agrees(lambda replica: replica in others):
                assert some & others
