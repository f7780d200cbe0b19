"""Seeds that found something once, kept to be played again: a line a seed, its flags, what it was.

    SEED [--faults A,B] [--also C] [--topology T] [--seconds S] [--clients N] # L1: what it found

Empty lines and lines that begin with `#` are passed over. What a seed does changes with every draw
that is put in before another; so a cause that matters has a test of its own as well.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import split
from typing import Final, NoReturn

from labs.scenario import ScenarioConfig

SEEDS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Kept:
    """One line."""

    seed: int
    config: ScenarioConfig
    found: str


class BadCorpus(ValueError):
    """A line that says nothing that can be played; the text says which."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadCorpus(message)


def read_corpus(path: Path, faults: Callable[[str], tuple[str, ...]]) -> list[Kept]:
    """The seeds of a file, in its order.

    Args:
        faults: Reads a list of kinds.

    Raises:
        BadCorpus: names the line.
    """
    parser = _Parser(add_help=False)
    parser.add_argument("seed", type=int)
    parser.add_argument("--faults", type=faults)
    parser.add_argument("--also", type=faults, default=())
    parser.add_argument("--topology")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--clients", type=int)
    kept = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words, _, found = line.partition(" # ")
        try:
            read = parser.parse_args(split(words))
            config = _config(read)
        except (BadCorpus, ValueError) as error:
            raise BadCorpus(f"{path.name}, line {number}: {error}") from None
        if not found.strip():
            raise BadCorpus(f"{path.name}, line {number}: say after ' # ' what it found")
        kept.append(Kept(read.seed, config, found.strip()))
    if len(kept) > SEEDS_MAX:
        raise BadCorpus(f"{path.name}: {len(kept)} seeds, {SEEDS_MAX} may be kept")
    return kept


def _config(read: Namespace) -> ScenarioConfig:
    usual = ScenarioConfig()
    clients = usual.workload.clients if read.clients is None else read.clients
    return replace(
        usual,
        faults=read.faults,
        also=read.also,
        topology=read.topology,
        seconds=usual.seconds if read.seconds is None else read.seconds,
        workload=replace(usual.workload, clients=clients),
    )
