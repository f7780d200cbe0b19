"""The seeds that found something, played again, and the file that keeps them."""

from pathlib import Path

import pytest

from labs.cli.simulate import _faults, run_seed
from labs.corpus import SEEDS_MAX, BadCorpus, Kept, read_corpus
from labs.scenario import ScenarioConfig

CORPUS = Path(__file__).with_name("corpus.txt")
KEPT = read_corpus(CORPUS, _faults)


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: f"{kept.seed}-{kept.found[:24]}")
def test_what_was_found_once_stays_mended(kept: Kept) -> None:
    result = run_seed(kept.seed, kept.config)

    assert not result.failure, f"it once found: {kept.found}\nnow: {result.failure}"


def test_a_line_holds_a_seed_its_flags_and_what_it_found(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("# a remark\n\n7 --faults loss,crash --topology T4 --seconds 2 # L1: why\n")

    (kept,) = read_corpus(file, _faults)

    wanted = ScenarioConfig(seconds=2.0, topology="T4", faults=("loss", "crash"))
    assert kept == Kept(7, wanted, "L1: why")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("seven # L1", "line 1: argument seed"),
        ("7 --faults gremlins # L1", "no such kind: gremlins"),
        ("7 --colour red # L1", "unrecognized arguments: --colour red"),
        ("7", "say after ' # ' what it found"),
        ("\n".join(["7 # L1"] * (SEEDS_MAX + 1)), "200 may be kept"),
    ],
)
def test_a_line_that_cannot_be_played_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text(line + "\n")

    with pytest.raises(BadCorpus, match=r"corpus\.txt") as refused:
        read_corpus(file, _faults)

    assert says in str(refused.value)
