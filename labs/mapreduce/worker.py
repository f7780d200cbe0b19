"""A worker: asks for work, does it, reports it, until the job is over."""

import asyncio
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from labrpc.errors import Unknown, Unreachable
from labrpc.grpc.transport import GrpcTransport
from labs.mapreduce import files
from labs.mapreduce.apps import App
from labs.mapreduce.files import Pair
from labs.mapreduce.protocol import (
    ASK,
    CLUSTER,
    DONE,
    Exit,
    MapWork,
    ReduceWork,
    Wait,
    Work,
    address_of,
    decode_work,
    encode_done,
)

CALL_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 0.1
"""Between two questions of a worker that has nothing to do."""


def run_map(app: App, work: MapWork, directory: Path) -> None:
    _, task, attempt = work.assignment
    contents = files.read_input(directory / work.file)
    files.write_pairs(directory, task, attempt, app.map(work.file, contents))


def run_reduce(app: App, work: ReduceWork, directory: Path) -> None:
    _, task, attempt = work.assignment
    pairs = files.read_pairs(directory, task, work.map_attempts)
    path = directory / files.reduced_name(task, attempt)
    files.write_output(path, reduce_pairs(app, pairs))


def reduce_pairs(app: App, pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Reduce each distinct key once, in the order of the keys; its values keep their order."""
    for key, own in groupby(sorted(pairs, key=itemgetter(0)), key=itemgetter(0)):
        yield Pair(key, app.reduce(key, [value for _, value in own]))


async def work_for(app: App, *, socket: Path, directory: Path) -> None:
    """Work until the coordinator says that the job is over, or is gone.

    The app runs in a thread, so that a long Map or Reduce leaves the connection alive.
    """
    transport = GrpcTransport(CLUSTER, f"worker {os.getpid()}")
    address = address_of(socket)
    try:
        while True:
            try:
                work = decode_work(await transport.call(address, ASK, b"", timeout=CALL_SECONDS))
                if isinstance(work, Exit):
                    return
                if isinstance(work, Wait):
                    await asyncio.sleep(WAIT_SECONDS)
                    continue
                await asyncio.to_thread(_do, app, work, directory)
                done = encode_done(work.assignment)
                await transport.call(address, DONE, done, timeout=CALL_SECONDS)
            except Unreachable:
                return  # it ends only when the job is over
            except Unknown:
                continue  # the next question finds out; a lost task is handed out again
    finally:
        await transport.close()


def _do(app: App, work: Work, directory: Path) -> None:
    match work:
        case MapWork():
            run_map(app, work, directory)
        case ReduceWork():
            run_reduce(app, work, directory)
