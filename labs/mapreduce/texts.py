"""Eight books of nobody's: inputs of the project's own making, drawn from a seed.

As the course's books they mix upper and lower case, have letters beyond ASCII, hyphens, digits and
blank lines, and a few words make up most of the text. Two of the names are those that the
`early_exit` app looks for.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final

NAMES: Final = tuple(
    f"pg-{title}.txt"
    for title in (
        "being_seeded",
        "dorian_draw",
        "frankensum",
        "grimm_bits",
        "hashleberry_finn",
        "metamorphism",
        "sherlock_threads",
        "tom_sawtooth",
    )
)
SEED: Final = "mapreduce"
WORDS: Final = 20_000
"""Of a book; about 130 kB."""

_VOCABULARY: Final = 4_000
_SYLLABLES: Final = (
    *("ba", "co", "de", "fi", "gu", "ha", "jo", "ke", "li", "mu", "na", "po", "re", "si", "tu"),
    *("the", "and", "ing", "er", "on", "ly", "é", "ö", "ñ", "ßa", "æ", "жи", "λο", "中"),
)
_ENDS: Final = (" ", " ", " ", " ", " ", ", ", ". ", "-", "'s ", "\n", "; 42 ", ".\n\n")


def write_texts(directory: Path, seed: str = SEED, words: int = WORDS) -> list[str]:
    """Write the eight; returns their names in order. One seed makes the same bytes everywhere."""
    for name in NAMES:
        text = make_text(Random(f"{seed}/{name}"), words)
        (directory / name).write_bytes(text.encode())
    return list(NAMES)


def make_text(rng: Random, words: int) -> str:
    """A text of so many words, of which some come very often (as 1/rank)."""
    vocabulary = _vocabulary(rng)
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))
    drawn = rng.choices(vocabulary, cum_weights=weights, k=words)
    ends = rng.choices(_ENDS, k=words)
    return "".join(word + end for word, end in zip(drawn, ends, strict=True))


def _vocabulary(rng: Random) -> Sequence[str]:
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        word = "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4)))
        words[rng.choice((word, word, word, word.title(), word.upper()))] = None
    return list(words)
