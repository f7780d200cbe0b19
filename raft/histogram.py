"""How many took how long, in plain numbers: cheap enough for every batch, read by who looks."""

from bisect import bisect_left
from typing import Final

BOUNDS_US: Final = (
    50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 25_000, 50_000, 100_000,
    250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
)  # fmt: skip
"""Upper bounds of the buckets, in microseconds; one more bucket takes what is longer."""


class Histogram:
    """An observation is one search and two additions."""

    __slots__ = ("buckets", "total_us")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_US) + 1)
        self.total_us = 0

    def observe(self, seconds: float, times: int = 1) -> None:
        """`times` things took `seconds` each."""
        micros = int(seconds * 1_000_000)
        self.buckets[bisect_left(BOUNDS_US, micros)] += times
        self.total_us += micros * times

    @property
    def count(self) -> int:
        return sum(self.buckets)
