"""Placement, exhaustively for small cases: balanced, fewest moves, the same for any input order.

What is fewest is computed independently: every choice of which groups hold one shard more than
the others is tried, and a group can keep at most as many shards as it is to hold.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from random import Random

import pytest

from raft.types import GroupId
from shardctrler.rebalance import balance, move
from shardctrler.types import NO_GROUP, ShardId

Shards = tuple[GroupId, ...]


def gids(*numbers: int) -> list[GroupId]:
    return [GroupId(number) for number in numbers]


def fewest_moves(shards: Sequence[GroupId], groups: Sequence[GroupId]) -> int:
    """How many shards change their owner at least, by trying every balanced outcome's sizes."""
    if not groups:
        return sum(gid != NO_GROUP for gid in shards)
    each, more = divmod(len(shards), len(groups))
    held = Counter(shards)
    kept = (
        sum(min(held[gid], each + (gid in larger)) for gid in groups)
        for larger in combinations(groups, more)
    )
    return len(shards) - max(kept)


def check(before: Sequence[GroupId], groups: Sequence[GroupId]) -> Shards:
    """Balance, check everything that is promised, and return the outcome."""
    after = balance(before, groups)
    assert len(after) == len(before)
    if groups:
        held = Counter(after)
        assert set(held) <= set(groups), (before, groups, after)
        sizes = [held[gid] for gid in groups]
        assert max(sizes) - min(sizes) <= 1, (before, groups, after)
    else:
        assert set(after) <= {NO_GROUP}
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert moved == fewest_moves(before, groups), (before, groups, after)
    return after


def splits(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `total` as an ordered sum of `parts` numbers from 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in splits(total - first, parts - 1):
            yield (first, *rest)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("nshards", range(1, 17))
def test_whatever_the_groups_hold_the_outcome_is_balanced_by_fewest_moves(
    nshards: int, groups: int
) -> None:
    """Every distribution of up to 16 shards over up to 5 groups and nobody.

    This covers whatever a sequence of joins, leaves and moves can lead to: how many shards move
    depends only on how many each group holds, not on which.
    """
    taking_part = gids(*range(1, groups + 1))
    for held in splits(nshards, groups + 1):
        before = [GroupId(gid) for gid, size in enumerate(held) for _ in range(size)]
        check(before, taking_part)


def reachable(nshards: int, groups: int, changes: int) -> dict[tuple[Shards, frozenset[int]], int]:
    """Every state that up to so many single joins and leaves lead to from the empty one, with each
    step checked on the way; each state with the number of changes that it takes."""
    start = ((NO_GROUP,) * nshards, frozenset[int]())
    seen = {start: 0}
    newest = [start]
    for depth in range(1, changes + 1):
        frontier, newest = newest, []
        for shards, present in frontier:
            for gid in range(1, groups + 1):
                then = present ^ {gid}
                state = (check(shards, gids(*sorted(then))), then)
                if state not in seen:
                    seen[state] = depth
                    newest.append(state)
    return seen


@pytest.mark.parametrize(
    ("nshards", "groups", "changes", "states"),
    [
        pytest.param(4, 5, 99, 606, id="all sequences of any length: 4 shards, 5 groups"),
        pytest.param(6, 5, 99, 6254, id="all sequences of any length: 6 shards, 5 groups"),
        pytest.param(8, 4, 99, 2703, id="all sequences of any length: 8 shards, 4 groups"),
        pytest.param(16, 3, 99, 2264, id="all sequences of any length: 16 shards, 3 groups"),
        pytest.param(16, 5, 7, None, id="all sequences of 7 changes: 16 shards, 5 groups"),
    ],
)
def test_every_sequence_of_joins_and_leaves_stays_balanced_by_fewest_moves(
    nshards: int, groups: int, changes: int, states: int | None
) -> None:
    seen = reachable(nshards, groups, changes)

    if states is not None:
        assert len(seen) == states
        assert max(seen.values()) < changes, "nothing new is reached by more changes"


@pytest.mark.parametrize("nshards", [5, 12, 16])
def test_several_at_once_are_balanced_by_fewest_moves_too(nshards: int) -> None:
    """From every state of 5 groups within 4 changes to every other set of groups."""
    for shards, _ in reachable(nshards, 5, 4):
        for size in range(6):
            for then in combinations(gids(1, 2, 3, 4, 5), size):
                check(shards, then)


def test_the_order_of_the_groups_changes_nothing() -> None:
    """Scorecard F18. All orders, for every state of 5 groups within 3 changes; a set too, whose
    order differs from process to process for texts and from insertion order for numbers."""
    for shards, present in reachable(16, 5, 3):
        then = gids(*sorted(present | {4, 5}))
        expected = balance(shards, then)
        orders: list[Iterable[GroupId]] = [*permutations(then), set(then), then + then]
        assert {balance(shards, order) for order in orders} == {expected}


def test_outcomes_known_from_the_labs() -> None:
    """MIT 6.5840 (2025), package shardcfg: its placement rule, step by step."""
    shards: Shards = (NO_GROUP,) * 12
    steps: list[tuple[list[int], str]] = [
        ([1], "111111111111"),
        ([1, 2], "222222111111"),
        ([1, 2, 3], "332222331111"),
        ([1, 2, 3, 4], "434222334111"),
        ([1, 2, 3, 4, 5], "434522334511"),
        ([2, 3, 4, 5], "434522334525"),
        ([2, 4, 5], "424522454525"),
    ]
    for groups, expected in steps:
        shards = balance(shards, gids(*groups))
        assert "".join(map(str, shards)) == expected


def test_a_move_changes_one_shard_and_the_next_join_balances_again() -> None:
    shards = balance((NO_GROUP,) * 6, gids(1, 2))
    assert shards == (1, 2, 1, 2, 1, 2)

    for shard in (1, 3, 5):
        shards = move(shards, ShardId(shard), GroupId(1))

    assert shards == (1,) * 6
    after = check(shards, gids(1, 2, 3))
    assert Counter(after) == {1: 2, 2: 2, 3: 2}


def test_a_moved_shard_stays_where_it_is_while_balance_allows() -> None:
    shards = move((GroupId(1), GroupId(1), GroupId(2)), ShardId(0), GroupId(2))

    assert check(shards, gids(1, 2)) == (2, 1, 2)


@pytest.mark.parametrize("groups", [1, 10, 15, 64])
def test_more_groups_than_shards_is_defined(groups: int) -> None:
    """One group holds all; of more groups than shards, as many as there are shards hold one."""
    after = balance((NO_GROUP,) * 10, gids(*range(100, 100 + groups)))

    held = sorted(Counter(after).values())
    assert held == ([10] if groups == 1 else [1] * 10)


def test_many_shards_and_groups_take_less_than_a_second() -> None:
    """1,024 shards over 64 groups, after a random history of moves."""
    rng = Random("rebalance")
    shards = [GroupId(rng.choice([1, 2, 3, 70])) for _ in range(1024)]
    groups = gids(*range(1, 65))

    after = balance(shards, groups)

    held = Counter(after)
    assert set(held.values()) == {16}
    moved = sum(old != new for old, new in zip(shards, after, strict=True))
    assert moved == 1024 - 3 * 16


@pytest.mark.parametrize("seed", range(300))
def test_a_parked_shard_goes_back_to_its_holder_where_that_costs_no_balance(seed: int) -> None:
    """Balanced and with the fewest moves as ever; and of parked shards each group with rows of
    them gets as many back as its share leaves room for."""
    rng = Random(seed)
    groups = gids(*rng.sample(range(1, 6), rng.randint(1, 5)))
    everybody = gids(*range(1, 6))
    holders = [rng.choice(everybody) for _ in range(rng.randint(1, 24))]
    shards = [rng.choice([NO_GROUP, holder]) for holder in holders]

    after = balance(shards, groups, holders)

    held = Counter(after)
    sizes = [held[gid] for gid in groups]
    assert max(sizes) - min(sizes) <= 1
    moved = sum(old != new for old, new in zip(shards, after, strict=True))
    assert moved == fewest_moves(shards, groups)
    for gid in groups:
        own = sum(owner == gid for owner in shards)
        parked = sum(o == NO_GROUP and h == gid for o, h in zip(shards, holders, strict=True))
        back = sum(
            o == NO_GROUP and h == n == gid for o, h, n in zip(shards, holders, after, strict=True)
        )
        share = len(shards) // len(groups)
        assert back >= min(parked, max(0, share - own))


def test_all_that_was_parked_goes_home_when_its_groups_come_back() -> None:
    """The last group left and every shard was parked; the groups join again: nothing moves."""
    before = balance((NO_GROUP,) * 12, gids(1, 2, 3))

    assert balance((NO_GROUP,) * 12, gids(1, 2, 3), before) == before
