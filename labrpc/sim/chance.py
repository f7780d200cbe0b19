"""Chance, handed out in named streams, so that a run is a number."""

from random import Random

Seed = int | str


class Chance:
    """Every source of chance in one run.

    Args:
        seed: With the code, it determines the run.
    """

    def __init__(self, seed: Seed) -> None:
        self.seed = seed

    def rng(self, stream: str) -> Random:
        """A stream of chance of its own: one draw more for "disk" moves nothing in "network".

        The same stream twice starts from its beginning twice.
        """
        return Random(f"{self.seed}/{stream}")  # a str seeds alike in every process
