"""YCSB's draws, against what its own generators are known to give."""

from collections import Counter
from random import Random

import pytest

from bench.ycsb import HASHED_ITEMS, HASHED_ZETA, WORKLOADS, Zipf, fnv


def test_the_constant_of_the_hashed_zipfian_is_a_zeta() -> None:
    """The sum over 10^10 items is too long to take; the integral behind the first terms is not."""
    terms = 100_000
    head = sum(i**-0.99 for i in range(1, terms + 1))
    tail = (HASHED_ITEMS**0.01 - terms**0.01) / 0.01

    assert head + tail == pytest.approx(HASHED_ZETA, rel=1e-6)


def test_small_numbers_are_drawn_more_often() -> None:
    items, draws = 1000, 200_000
    zipf, rng = Zipf.of(items), Random(1)

    found = Counter(zipf.draw(rng) for _ in range(draws))

    assert set(found) <= set(range(items))
    whole = sum(i**-0.99 for i in range(1, items + 1))
    for number in (0, 1):
        assert found[number] / draws == pytest.approx((number + 1) ** -0.99 / whole, rel=0.03)
    assert found[0] > found[1] > found[10] > found[100]


def test_names_are_hashed_as_fnv_1a_does() -> None:
    """Of eight zero bytes, known from the reference; the sign bit is dropped."""
    assert fnv(0) == 0xA8C7F832281A39C5 & 0x7FFFFFFFFFFFFFFF


def test_shares_are_shares() -> None:
    assert all(0 < sum(mix) <= 1 for mix in WORKLOADS.values())
