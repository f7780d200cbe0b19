"""The MapReduce lab's seven tests, on real processes. Each is the official one of its name.

What a test does is a script below; most of its time is sleep, that of the apps. So the scripts of
all chosen tests run beside each other, each on a job of its own, the longest first, and a test
awaits its own and checks what came of it.
"""

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import Any, Final, NamedTuple

import pytest

from labs.mapreduce import texts
from labs.mapreduce.apps import APPS
from labs.mapreduce.sequential import run_sequentially
from tests.support.mapreduce import Job, sorted_lines, until

pytestmark = pytest.mark.xdist_group("processes")

CRASH_LIMIT_SECONDS: Final = 120.0
CRASH_SEED: Final = os.environ.get("LAB_SEED", "285")
"""Of what the crashing workers draw: one that gets crashes and delays done in half a minute."""
SIDE_BY_SIDE: Final = 3


class Merged(NamedTuple):
    """What a job put out, and what the sequential program does."""

    result: list[bytes]
    truth: list[bytes]


def truth(app: str, job: Job, inputs: list[str]) -> list[bytes]:
    aside = job.directory.with_name(f"{job.directory.name}-truth")
    aside.mkdir()
    path = run_sequentially(APPS[app](aside, Random("unused")), inputs, aside)
    return sorted_lines(path.read_bytes())


def wc(job: Job, inputs: list[str]) -> Merged:
    """3 workers; the results are compared at once when the coordinator has ended."""
    coordinator = job.start_coordinator()
    workers = [job.start_worker("wc") for _ in range(3)]
    job.wait(coordinator)
    merged = job.merged()
    for worker in workers:
        job.wait(worker)
    return Merged(merged, truth("wc", job, inputs))


def indexer(job: Job, inputs: list[str]) -> Merged:
    """2 workers; the results are compared at once when the second worker has ended."""
    coordinator = job.start_coordinator()
    background, foreground = (job.start_worker("indexer") for _ in range(2))
    job.wait(foreground)
    merged = job.merged()
    job.wait(background)
    job.wait(coordinator)
    return Merged(merged, truth("indexer", job, inputs))


def two_workers(app: str) -> Callable[[Job, list[str]], list[bytes]]:
    def script(job: Job, inputs: list[str]) -> list[bytes]:
        processes = [job.start_coordinator(), *(job.start_worker(app) for _ in range(2))]
        for process in processes:
            job.wait(process)
        return job.merged()

    return script


def job_count(job: Job, inputs: list[str]) -> list[bytes]:
    """4 workers; the last two come when the second has ended, which is when the job is over."""
    processes = [job.start_coordinator()]
    for _ in range(2):
        background, foreground = (job.start_worker("jobcount") for _ in range(2))
        processes.append(background)
        job.wait(foreground)
    for process in processes:
        job.wait(process)
    return job.merged()


class Snapshots(NamedTuple):
    """The results when the first process had ended, and when all had."""

    first: list[bytes]
    last: list[bytes]


def early_exit(job: Job, inputs: list[str]) -> Snapshots:
    processes = [job.start_coordinator(), *(job.start_worker("early_exit") for _ in range(3))]
    until(lambda: any(process.poll() is not None for process in processes))
    first = job.merged()
    for process in processes:
        job.wait(process)
    return Snapshots(first, job.merged())


class Crashed(NamedTuple):
    merged: Merged
    crashes: int


def crash(job: Job, inputs: list[str]) -> Crashed:
    """A worker alone, and three shells, each of which starts a worker when its last has crashed,
    until all is over. (The original's shells rest for a second in between.)"""
    coordinator = job.start_coordinator()
    job.start_worker("crash", seed=f"{CRASH_SEED}/0")
    numbers = iter(range(1, 1000))
    ends: list[int] = []

    def shell() -> None:
        while job.socket.exists() and coordinator.poll() is None:
            worker: subprocess.Popen[bytes] = job.start_worker(
                "crash", seed=f"{CRASH_SEED}/{next(numbers)}"
            )
            ends.append(worker.wait(CRASH_LIMIT_SECONDS))

    shells = [threading.Thread(target=shell) for _ in range(3)]
    for thread in shells:
        thread.start()
    try:
        job.wait(coordinator, CRASH_LIMIT_SECONDS)
    finally:
        job.close()
        for thread in shells:
            thread.join()
    return Crashed(Merged(job.merged(), truth("nocrash", job, inputs)), ends.count(1))


SCRIPTS: Final[dict[str, Callable[[Job, list[str]], Any]]] = {
    "test_crash": crash,
    "test_job_count": job_count,
    "test_reduce_parallelism": two_workers("rtiming"),
    "test_map_parallelism": two_workers("mtiming"),
    "test_early_exit": early_exit,
    "test_wc": wc,
    "test_indexer": indexer,
}
"""The longest first."""


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[Any]"]]:
    """The scripts of the tests that were chosen of this module."""
    base = tmp_path_factory.mktemp("mr")
    inputs = [f"../{name}" for name in texts.write_texts(base)]
    chosen = {item.name for item in request.session.items if item.path == request.path}
    jobs = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        futures = {}
        for name, script in SCRIPTS.items():
            if name in chosen:
                (base / name).mkdir()
                jobs.append(Job(base / name, inputs))
                futures[name] = pool.submit(script, jobs[-1], inputs)
        yield futures
        pool.shutdown(wait=False, cancel_futures=True)
        for job in jobs:
            job.close()  # ends what a failed script left


@pytest.fixture
def outcome(request: pytest.FixtureRequest, running: dict[str, "Future[Any]"]) -> Any:
    """What came of this test's script."""
    return running[request.node.name].result()


def test_wc(outcome: Merged) -> None:
    """Word count, the whole output in every byte."""
    assert len(outcome.truth) > 1_000
    assert outcome.result == outcome.truth


def test_indexer(outcome: Merged) -> None:
    assert len(outcome.truth) > 1_000
    assert outcome.result == outcome.truth


def test_map_parallelism(outcome: list[bytes]) -> None:
    """Both workers have mapped, and at some time both did at once."""
    assert len([line for line in outcome if line.startswith(b"times-")]) == 2
    assert [line for line in outcome if re.match(rb"parallel.* 2", line)] != []


def test_reduce_parallelism(outcome: list[bytes]) -> None:
    """Two keys or more were reduced while another was."""
    assert len([line for line in outcome if re.match(rb"[a-z] 2", line)]) >= 2


def test_job_count(outcome: list[bytes]) -> None:
    """Eight maps were run for eight inputs: none twice, though each takes 2 to 5 s."""
    assert outcome == [b"a 8"]


def test_early_exit(outcome: Snapshots) -> None:
    """When the first process ends, every result is there and final."""
    assert len(outcome.first) == len(texts.NAMES)
    assert outcome.first == outcome.last


@pytest.mark.timeout(CRASH_LIMIT_SECONDS + 30)
def test_crash(outcome: Crashed) -> None:
    """Workers crash and dawdle in Map and Reduce; the result is right nevertheless."""
    assert outcome.crashes > 0, "no worker has crashed: try another seed"
    assert len(outcome.merged.truth) == 4
    assert outcome.merged.result == outcome.merged.truth
