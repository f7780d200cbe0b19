"""The lab's eight applications, and how another is named: `module:Class` or `path.py:Class`.

An app is made once a worker, with the job's directory and chance of its own. It runs in the
worker's process and may block, sleep and end it: three of them look at the other workers by their
process ids, one ends its own on purpose.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count, groupby
from pathlib import Path
from random import Random
from typing import Final, Protocol, cast

from labs.loading import load
from labs.mapreduce.files import Pair, encode

CRASHES_IN_1000: Final = 330
DELAYS_IN_1000: Final = 330
DELAY_SECONDS_MAX: Final = 10.0


class App(Protocol):
    def map(self, file: str, contents: str) -> Iterable[Pair]:
        """The pairs of one input."""
        ...

    def reduce(self, key: str, values: list[str]) -> str:
        """What all values of one key amount to."""
        ...


MakeApp = Callable[[Path, Random], App]


class _Base:
    def __init__(self, directory: Path, rng: Random) -> None:
        self.directory, self.rng = directory, rng


class WordCount(_Base):
    """How often each word occurs."""

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        return [Pair(word, "1") for word in words(contents)]

    def reduce(self, key: str, values: list[str]) -> str:
        return str(len(values))


class Indexer(_Base):
    """In which files each word occurs."""

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        return [Pair(word, file) for word in dict.fromkeys(words(contents))]

    def reduce(self, key: str, values: list[str]) -> str:
        return f"{len(values)} {','.join(sorted(values))}"


class MapTiming(_Base):
    """How many workers map at the same time."""

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        began, own = time.time(), os.getpid()
        together = parallel(self.directory, "map")
        return [Pair(f"times-{own}", f"{began:.1f}"), Pair(f"parallel-{own}", str(together))]

    def reduce(self, key: str, values: list[str]) -> str:
        return " ".join(sorted(values))


class ReduceTiming(_Base):
    """How many workers reduce at the same time."""

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        return [Pair(key, "1") for key in "abcdefghij"]

    def reduce(self, key: str, values: list[str]) -> str:
        return str(parallel(self.directory, "reduce"))


class JobCount(_Base):
    """How many times a Map was run, by the files that each leaves."""

    PREFIX: Final = "mr-worker-jobcount"

    def __init__(self, directory: Path, rng: Random) -> None:
        super().__init__(directory, rng)
        self._calls = count()

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        name = f"{self.PREFIX}-{os.getpid()}-{next(self._calls)}"
        (self.directory / name).write_text("x", encoding="ascii")
        time.sleep((2000 + self.rng.randrange(3000)) / 1000)
        return [Pair("a", "x")]

    def reduce(self, key: str, values: list[str]) -> str:
        return str(sum(path.name.startswith(self.PREFIX) for path in self.directory.iterdir()))


class EarlyExit(_Base):
    """Two reduces take long: nobody may exit meanwhile."""

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        return [Pair(file, "1")]

    def reduce(self, key: str, values: list[str]) -> str:
        if "sherlock" in key or "tom" in key:
            time.sleep(3.0)
        return str(len(values))


class NoCrash(_Base):
    """What `Crash` amounts to, without a fault."""

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        return [
            Pair("a", file),
            Pair("b", str(len(encode(file)))),
            Pair("c", str(len(encode(contents)))),
            Pair("d", "xyzzy"),
        ]

    def reduce(self, key: str, values: list[str]) -> str:
        return " ".join(sorted(values))


class Crash(NoCrash):
    """One call in three ends the process, one in three takes up to ten seconds."""

    def map(self, file: str, contents: str) -> Iterable[Pair]:
        self._maybe_crash()
        return super().map(file, contents)

    def reduce(self, key: str, values: list[str]) -> str:
        self._maybe_crash()
        return super().reduce(key, values)

    def _maybe_crash(self) -> None:
        drawn = self.rng.randrange(1000)
        if drawn < CRASHES_IN_1000:
            os._exit(1)  # from this thread, and nothing is tidied up
        elif drawn < CRASHES_IN_1000 + DELAYS_IN_1000:
            time.sleep(self.rng.uniform(0, DELAY_SECONDS_MAX))


APPS: Final[Mapping[str, MakeApp]] = {
    "wc": WordCount,
    "indexer": Indexer,
    "mtiming": MapTiming,
    "rtiming": ReduceTiming,
    "jobcount": JobCount,
    "early_exit": EarlyExit,
    "crash": Crash,
    "nocrash": NoCrash,
}


def load_app(name: str) -> MakeApp:
    """One of `APPS`, or another by `module:Class` or `path.py:Class`.

    Raises:
        LookupError: there is none of that name.
    """
    if name in APPS:
        return APPS[name]
    if ":" not in name:
        raise LookupError(f"no app {name!r}; there are {', '.join(APPS)}, or name a module:Class")
    return cast(MakeApp, load(name))


def words(contents: str) -> list[str]:
    """The longest runs of letters, of any alphabet, in order."""
    return ["".join(run) for letters, run in groupby(contents, str.isalpha) if letters]


def parallel(directory: Path, phase: str) -> int:
    """How many live processes are in `phase` now; takes a second, in which others see this one."""
    prefix = f"mr-worker-{phase}-"
    own = directory / f"{prefix}{os.getpid()}"
    own.write_text("x", encoding="ascii")
    try:
        pids = [path.name.removeprefix(prefix) for path in directory.glob(f"{prefix}*")]
        together = sum(_lives(int(pid)) for pid in pids)
        time.sleep(1.0)
    finally:
        own.unlink()
    return together


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it is another user's
    return True
