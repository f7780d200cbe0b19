"""Whom a clerk asks about a shard on its way: each answer leads on, and none in a hot circle."""

import pytest

from shardctrler.types import ShardConfig
from shardkv.detours import HOPS_MAX, Detours, Next
from tests.support.stores import S0, S1, A, B, C, History


def config(*owners: int) -> ShardConfig:
    """The last of a history in which shard 0 had these owners; the others are C's."""
    history = History()
    for owner in owners:
        history.then(owner, C, C, C)
    return history.configs[-1]


def test_without_news_the_owner_is_asked() -> None:
    detours = Detours()

    assert detours.group(config(A, B), S0) == B
    assert detours.group(config(A, B), S1) == C
    assert detours.group(config(A, 0), S0) == 0


def test_an_arriving_shard_is_asked_for_at_its_source_until_that_one_has_frozen_it() -> None:
    detours, now = Detours(), config(A, B)

    assert detours.not_ready(now, S0, B, 2, A) is Next.GO
    assert detours.group(now, S0) == A
    assert detours.not_ready(now, S0, B, 2, A) is Next.GO  # one that was on its way to B
    detours.answered(S0)
    assert detours.group(now, S0) == A
    assert detours.group(now, S1) == C

    assert detours.wrong_group(now, S0, A, 2) is Next.GO
    assert detours.group(now, S0) == B


def test_two_that_name_each_other_are_not_asked_in_a_hot_circle() -> None:
    """From the freeze to the install, where the destination forgot that it asked for the freeze."""
    detours, now = Detours(), config(A, B)
    turns = []
    for _ in range(6):
        turns.append(detours.not_ready(now, S0, B, 2, A))
        turns.append(detours.wrong_group(now, S0, A, 2))

    assert turns.count(Next.PAUSE) == len(turns) // (HOPS_MAX + 1)
    assert Next.PAUSE in turns[: HOPS_MAX + 1]


def test_a_newer_configuration_is_learned_first() -> None:
    detours, now = Detours(), config(A, B)

    assert detours.wrong_group(now, S0, B, 3) is Next.REFRESH
    assert detours.not_ready(now, S0, B, 3, A) is Next.REFRESH
    assert detours.group(now, S0) == B


def test_an_owner_that_is_behind_may_leave_the_shard_with_the_one_before() -> None:
    detours, now = Detours(), config(A, B)

    assert detours.wrong_group(now, S0, B, 1) is Next.GO
    assert detours.group(now, S0) == A
    assert detours.wrong_group(now, S0, A, 1) is Next.GO  # nor has that one it: the owner again
    assert detours.group(now, S0) == B
    assert detours.wrong_group(now, S0, B, 1) is Next.PAUSE


@pytest.mark.parametrize("number", [1, 2])
def test_an_owner_that_does_not_know_is_asked_again(number: int) -> None:
    """It was its own predecessor, or it has the very configuration."""
    detours = Detours()
    now = config(B, B) if number == 1 else config(A, B)

    assert detours.wrong_group(now, S0, B, number) is Next.PAUSE
    assert detours.group(now, S0) == B


def test_an_answer_to_what_was_asked_before_the_turn_only_leads_there() -> None:
    detours, now = Detours(), config(A, B)
    detours.not_ready(now, S0, B, 2, A)

    assert detours.wrong_group(now, S0, B, 1) is Next.GO
    assert detours.group(now, S0) == A


def test_with_a_new_configuration_its_owners_are_asked() -> None:
    detours = Detours()
    detours.not_ready(config(A, B), S0, B, 2, A)

    detours.clear()

    assert detours.group(config(A, B, C), S0) == C


def test_a_chain_of_quick_configurations_is_followed_back() -> None:
    """The clerk knows that C owns it; C is behind, B waits for A, and A serves."""
    detours, now = Detours(), config(A, B, C)

    assert detours.wrong_group(now, S0, C, 1) is Next.GO
    assert detours.group(now, S0) == B
    assert detours.not_ready(now, S0, B, 2, A) is Next.GO
    assert detours.group(now, S0) == A


def test_a_group_that_is_no_more_is_forgotten_for_the_owner() -> None:
    detours, now = Detours(), config(A, B)
    detours.not_ready(now, S0, B, 2, A)

    detours.forget(S0)

    assert detours.group(now, S0) == B


def test_a_group_that_names_itself_is_not_believed() -> None:
    assert Detours().not_ready(config(A, B), S0, B, 2, B) is Next.PAUSE
