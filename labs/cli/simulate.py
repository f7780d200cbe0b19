"""`labs simulate`: a cluster under faults, from a seed, or a campaign of seeds.

A failure prints its seed, the commit, the broken invariant with the values that broke it, the last
events and the command that plays it again; then it is shrunk to fewer kinds of fault, fewer clients
and less time, for as long as the same invariant breaks.
"""

import argparse
import gc
import hashlib
import logging
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, TextIO

from labs.corpus import BadCorpus, read_corpus
from labs.history import History
from labs.nemesis import COSTLY_FAULTS, FAULTS, NAMED_FAULTS, RARE_FAULTS
from labs.observer import NAMED_PROBES, OFTEN_PROBES, REQUIRED_PROBES, missing
from labs.outcome import Outcome
from labs.scenario import Played, ScenarioConfig, drawn_faults, play
from labs.topology import GROUPS_MAX, NODES_MAX, WEIGHTS

ROOT: Final = Path(__file__).parents[2]
PROBED_SEEDS_MIN: Final = 400
"""A campaign of so many runs must visit every required probe."""
OFTEN_SEEDS_MIN: Final = 60
"""A campaign of so many runs must visit those that are often visited."""
NAMED_SEEDS_MIN: Final = 25
"""A campaign of so many runs of one of the `NAMED_FAULTS` must visit that one's."""
AGAIN_EVERY: Final = 20
"""Of a campaign every so many-th seed is played twice, and must tell the same story (H2)."""
SHRINK_SECONDS: Final = 60.0
NODES_USUAL: Final = 6
KINDS: Final = (*FAULTS, *RARE_FAULTS, *COSTLY_FAULTS, *NAMED_FAULTS)
FRESH_SEEDS_MAX: Final = 100_000
SEED_SPACE: Final = 2**32


@dataclass(frozen=True, slots=True)
class Result:
    """One run, in a form that travels between processes."""

    seed: int
    outcome: Outcome | None
    failure: str
    """Empty if it was right."""
    invariant: str
    last: tuple[str, ...]
    cpu_seconds: float


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    usual = ScenarioConfig()
    verb.add_argument("--seed", help="a run's seed (1 if nothing else is said)")
    verb.add_argument("--seeds", metavar="A..B", type=_seeds, help="a campaign, both included")
    verb.add_argument(
        "--fresh", action="store_true", help="a campaign of seeds drawn from the commit's hash"
    )
    verb.add_argument(
        "--corpus", type=Path, metavar="FILE", help="a campaign of seeds that were kept"
    )
    verb.add_argument(
        "--budget", type=float, metavar="SECONDS", help="begin no run after so many real seconds"
    )
    verb.add_argument("--jobs", type=int, default=1, help="so many processes")
    verb.add_argument("--seconds", type=float, help=f"simulated, of faults ({usual.seconds:g})")
    verb.add_argument("--minutes", type=float, help="the same in minutes")
    verb.add_argument(
        "--topology", choices=list(WEIGHTS), help="T0 small to T4 (labs/topology.py); else drawn"
    )
    verb.add_argument(
        "--nodes", type=_count(NODES_MAX), help="so many nodes, instead of a topology"
    )
    verb.add_argument(
        "--groups", type=_count(GROUPS_MAX), help=f"beside the controller ({usual.groups})"
    )
    verb.add_argument("--clients", type=int, default=usual.workload.clients)
    verb.add_argument(
        "--faults",
        type=_faults,
        metavar="A,B",
        help=f"kinds, or none: {', '.join(KINDS)}",
    )
    verb.add_argument(
        "--also",
        type=_faults,
        default=(),
        metavar="A,B",
        help="kinds besides those of the seed. Of these at most one, since each makes a run of its "
        "own kind: death (nodes are gone for good, the cluster mends itself), bereft (a group has "
        "no majority any more, and goes on from what is left: ctl recover), extinct (nothing is "
        "left of a group, and it is given up: ctl abandon)",
    )
    verb.add_argument("--trace", type=Path, metavar="FILE", help="one line of text an event")
    verb.add_argument("--history", type=Path, metavar="FILE", help="one line of JSON an operation")
    verb.add_argument(
        "--shrink-seconds", type=float, default=SHRINK_SECONDS, help="real; 0: do not shrink"
    )


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError("two numbers, as 1..200")
    return range(int(first), int(last) + 1)


def _count(most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not (text.isdigit() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"a number from 1 to {most}, not {text!r:.40}")
        return int(text)

    return count


def _faults(text: str) -> tuple[str, ...]:
    kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip() not in ("", "none"))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(
            f"no such kind: {unknown[0]}; there are {', '.join(KINDS)}"
        )
    return kinds


def simulate(arguments: argparse.Namespace) -> int:
    """Returns 0 if every run was right, and every required probe was visited."""
    logging.getLogger().addHandler(logging.NullHandler())  # what faults make the parts say
    try:
        config = _config(arguments)
    except ValueError as error:
        sys.stderr.write(f"labs simulate: {error}\n")
        return 2
    runs: Iterable[tuple[int, ScenarioConfig]] = ()
    if arguments.corpus is not None:
        try:
            runs = [(kept.seed, kept.config) for kept in read_corpus(arguments.corpus, _faults)]
        except (OSError, BadCorpus) as error:
            sys.stderr.write(f"labs simulate: {error}\n")
            return 2
    seeds: Iterable[int] = () if arguments.seeds is None else arguments.seeds
    if arguments.fresh:
        base = int(hashlib.sha256(commit().encode()).hexdigest(), 16) % SEED_SPACE
        seeds = range(base, base + FRESH_SEEDS_MAX)
    if arguments.corpus is None and arguments.seeds is None and not arguments.fresh:
        return _one(_seed(arguments.seed), config, arguments)
    return _Campaign(chain(runs, ((seed, config) for seed in seeds)), config, arguments).run()


def _config(arguments: argparse.Namespace) -> ScenarioConfig:
    usual = ScenarioConfig()
    seconds = usual.seconds if arguments.seconds is None else arguments.seconds
    if arguments.minutes is not None:
        seconds = 60 * arguments.minutes
    return replace(
        usual,
        seconds=seconds,
        topology=arguments.topology,
        nodes=NODES_USUAL if arguments.groups and not arguments.nodes else arguments.nodes,
        groups=arguments.groups or usual.groups,
        workload=replace(usual.workload, clients=arguments.clients),
        faults=arguments.faults,
        also=arguments.also,
    )


def _seed(text: str | None) -> int | str:
    if text is None:
        return 1
    return int(text) if text.isdigit() else text


def commit() -> str:
    """The commit that is checked out; `unknown` outside a checkout."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607 - whichever is first
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


# One seed


def _one(seed: int | str, config: ScenarioConfig, arguments: argparse.Namespace) -> int:
    began = time.process_time()
    failed: Played | None = None
    outcome: Outcome | None = None
    with _lines(arguments.trace) as trace:
        sink = None if trace is None else partial(_write_line, trace)
        try:
            outcome, history = play(seed, config, sink=sink)
        except Played as error:
            failed, history = error, error.history
    _write_history(arguments.history, history)
    took = time.process_time() - began
    if failed is not None:
        _tell_failure(seed, config, failed.text, failed.last)
        _shrink(seed, config, failed.invariant, arguments.shrink_seconds)
        return 1
    assert outcome is not None
    _say(
        f"seed {seed}: right. {outcome.acknowledged} acknowledged, {outcome.unknown} unknown, "
        f"{outcome.refused} refused, {outcome.hand_overs} hand-overs, {outcome.configs} "
        f"configurations, {outcome.crashes} crashes; at rest {outcome.rest_seconds:.1f} s after "
        f"healing"
    )
    _say(f"  {outcome.topology}, faults: {', '.join(outcome.faults) or 'none'}")
    _say(f"  probes: {_probes(outcome.probes)}")
    _say(
        f"  story {outcome.story_hash}; {outcome.seconds:.1f} simulated s, "
        f"{outcome.events} events, {took:.1f} s of one core: {outcome.seconds / took:.0f} x"
    )
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _write_line(file: TextIO, line: str) -> None:
    file.write(line + "\n")


@contextmanager
def _lines(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with path.open("w", encoding="utf-8") as file:
        yield file


def _write_history(path: Path | None, history: History) -> None:
    if path is not None:
        with path.open("w", encoding="utf-8") as file:
            for operation in history.operations:
                _write_line(file, operation.line())


def _probes(probes: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(probes.items())) or "none"


# Failures


def _command(seed: int | str, config: ScenarioConfig, *, faults: bool = True) -> str:
    usual = ScenarioConfig()
    words = ["python -m labs simulate", f"--seed {seed}"]
    if config.seconds != usual.seconds:
        words.append(f"--seconds {config.seconds:g}")
    if config.topology is not None:
        words.append(f"--topology {config.topology}")
    if config.nodes is not None:
        words.append(f"--nodes {config.nodes}")
    if config.groups != usual.groups:
        words.append(f"--groups {config.groups}")
    if config.workload.clients != usual.workload.clients:
        words.append(f"--clients {config.workload.clients}")
    if config.faults is not None and faults:
        words.append(f"--faults {','.join(config.faults) or 'none'}")
    if config.also:
        words.append(f"--also {','.join(config.also)}")
    return " ".join(words)


def _tell_failure(
    seed: int | str, config: ScenarioConfig, text: str, last: list[str] | tuple[str, ...]
) -> None:
    faults = drawn_faults(seed) if config.faults is None else config.faults
    _say(f"seed {seed}: BROKEN {text}")
    _say(f"  commit {commit()}, faults: {', '.join(faults) or 'none'}")
    _say("  the last events:")
    for line in last:
        _say(f"    {line[:300]}")
    _say(f"  again: {_command(seed, config)}")


def _shrink(seed: int | str, config: ScenarioConfig, invariant: str, budget: float) -> None:
    """Look for a smaller run in which the same invariant breaks, as long as there is time."""
    until = time.perf_counter() + budget
    faults = drawn_faults(seed) if config.faults is None else config.faults
    smallest, tries = replace(config, faults=faults), 0
    while time.perf_counter() < until:
        for candidate in _smaller(smallest):
            if time.perf_counter() >= until:
                break
            tries += 1
            result = run_seed(seed, candidate)  # type: ignore[arg-type]
            if result.invariant == invariant:
                smallest = candidate
                break
        else:
            break
    if tries:
        _say(f"  shrunk, in {tries} tries: {_command(seed, smallest)}")


def _smaller(config: ScenarioConfig) -> Iterator[ScenarioConfig]:
    """Runs that are smaller in one way each, the boldest first."""
    if config.topology is None and config.nodes is None and not config.also:
        yield replace(config, topology="T0")
    if config.seconds > 2:
        yield replace(config, seconds=round(config.seconds / 2, 1))
    faults = config.faults or ()
    half = len(faults) // 2
    if half > 1:
        yield replace(config, faults=faults[:half])
        yield replace(config, faults=faults[half:])
    for fault in faults:
        yield replace(config, faults=tuple(other for other in faults if other != fault))
    clients = config.workload.clients
    if clients > 1:
        yield replace(config, workload=replace(config.workload, clients=clients // 2))
    if config.seconds > 2:
        yield replace(config, seconds=round(config.seconds * 0.8, 1))


# Campaigns


def run_seed(seed: int, config: ScenarioConfig) -> Result:
    """Play one seed, in whatever process."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what faults make the parts say
    try:
        return _run_quietly(seed, config)
    finally:
        logging.disable(disabled)
        # A run's parts point at each other, and the loop of the next one looks only at what it made
        # itself (`labrpc/sim/loop.py`): a campaign would keep every run that it ever played.
        gc.collect()


def _run_quietly(seed: int, config: ScenarioConfig) -> Result:
    began = time.process_time()
    try:
        outcome, _ = play(seed, config)
    except Played as error:
        took = time.process_time() - began
        return Result(seed, None, error.text, error.invariant, tuple(error.last), took)
    took = time.process_time() - began
    if seed % AGAIN_EVERY == 0:
        told = _told(seed, config)
        if told != outcome.story_hash:
            text = f"H2: two runs tell {outcome.story_hash} and {told}"
            return Result(seed, None, text, "H2", (), took)
    return Result(seed, outcome, "", "", (), took)


def _told(seed: int, config: ScenarioConfig) -> str:
    """What a run tells: its story's hash, or how it ended."""
    try:
        return play(seed, config)[0].story_hash
    except Played as error:
        return error.text


def _run(run: tuple[int, ScenarioConfig]) -> Result:
    return run_seed(*run)


class _Campaign:
    """Many seeds, and what they came to."""

    def __init__(
        self,
        runs: Iterable[tuple[int, ScenarioConfig]],
        config: ScenarioConfig,
        arguments: argparse.Namespace,
    ) -> None:
        self._runs, self._config, self._arguments = runs, config, arguments
        self._configs: dict[int, ScenarioConfig] = {}
        self._probes: Counter[str] = Counter()
        self._done = 0
        self._events = 0
        self._simulated = 0.0
        self._cpu = 0.0
        self._failed: list[Result] = []
        self._stories: dict[int, str] = {}

    def run(self) -> int:
        began = time.perf_counter()
        _say(f"commit {commit()}")
        for result in self._results(began):
            self._take(result)
        took = time.perf_counter() - began
        self._tell(took)
        return 1 if self._failed or self._lacks() else 0

    def _results(self, began: float) -> Iterator[Result]:
        budget = self._arguments.budget
        if self._arguments.jobs == 1:
            for run in self._noted():
                if budget is not None and time.perf_counter() - began > budget:
                    return
                yield _run(run)
            return
        with multiprocessing.get_context("spawn").Pool(self._arguments.jobs) as pool:
            for result in pool.imap(_run, self._noted()):
                yield result
                if budget is not None and time.perf_counter() - began > budget:
                    return

    def _noted(self) -> Iterator[tuple[int, ScenarioConfig]]:
        for seed, config in self._runs:
            self._configs[seed] = config
            yield seed, config

    def _take(self, result: Result) -> None:
        self._done += 1
        self._cpu += result.cpu_seconds
        if result.outcome is None:
            self._failed.append(result)
            _tell_failure(result.seed, self._configs[result.seed], result.failure, result.last)
            return
        self._events += result.outcome.events
        self._simulated += result.outcome.seconds
        self._stories[result.seed] = result.outcome.story_hash
        self._probes.update(result.outcome.probes)

    def _lacks(self) -> list[str]:
        """What was not visited, and must be by so many runs. Nothing where flags narrow what a run
        may come to, and nothing of fresh seeds: what those visit is luck, and what they find is
        not."""
        config = self._config
        if config.faults is not None or config.topology is not None or self._arguments.fresh:
            return []
        return missing(self._probes, self._required())

    def _required(self) -> tuple[str, ...]:
        """By rates seen over hundreds of seeds: each is missed by chance once in thousands of
        campaigns of such a length."""
        for kind in NAMED_FAULTS:
            if kind in self._config.also:
                return NAMED_PROBES[kind] if self._done >= NAMED_SEEDS_MIN else ()
        if self._done < OFTEN_SEEDS_MIN:
            return ()
        return REQUIRED_PROBES if self._done >= PROBED_SEEDS_MIN else OFTEN_PROBES

    def _tell(self, took: float) -> None:
        _say(f"probes: {_probes(self._probes)}")
        if (unvisited := missing(self._probes)) and not self._config.also:
            _say(f"never visited, of {len(REQUIRED_PROBES)}: {', '.join(unvisited)}")
        if lacks := self._lacks():
            _say(f"so many seeds must visit these: {', '.join(lacks)}")
        cpu = max(self._cpu, 1e-9)
        _say(
            f"{self._done} seeds in {took:.1f} s: {self._done / took:.2f} seeds/s, "
            f"{self._events / cpu:.0f} events/s and core, {self._simulated / 60:.1f} simulated "
            f"minutes, {self._simulated / cpu:.0f} simulated s per s and core"
        )
        told = " ".join(f"{seed}:{self._stories[seed]}" for seed in sorted(self._stories))
        _say(f"stories {hashlib.sha256(told.encode()).hexdigest()[:16]}")  # H2: of any --jobs
        for result in self._failed[:1]:
            config = self._configs[result.seed]
            _shrink(result.seed, config, result.invariant, self._arguments.shrink_seconds)
        verdict = f"{len(self._failed)} FAILED" if self._failed else "all right"
        _say(f"{verdict}{', but probes were not visited' if self._lacks() else ''}")
