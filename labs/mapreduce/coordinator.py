"""The coordinator: hands tasks out, and makes the first report of each the one that counts."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from labrpc.errors import Refused
from labrpc.grpc.transport import GrpcTransport
from labs.mapreduce import files
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
    decode_done,
    encode_work,
)
from labs.mapreduce.schedule import Phase, Schedule

LINGER_SECONDS: Final = 5.0
"""For so long a finished coordinator goes on to tell workers that the job is over. A worker that
comes later finds nobody, which says the same."""


class Coordinator:
    """One job in one directory; `done` says when every result is final.

    Args:
        inputs: One map task each; paths are from the directory.
    """

    def __init__(self, inputs: Sequence[str], directory: Path, schedule: Schedule) -> None:
        self.done = asyncio.Event()
        self._inputs, self._directory, self._schedule = list(inputs), directory, schedule
        self._end_if_finished()

    async def ask(self, body: bytes) -> bytes:
        """A worker is free."""
        return encode_work(self._next())

    def _next(self) -> Work:
        if self._schedule.finished:
            return Exit()
        assignment = self._schedule.assign(asyncio.get_running_loop().time())
        if assignment is None:
            return Wait()
        if assignment.phase is Phase.MAP:
            return MapWork(assignment, self._inputs[assignment.task])
        return ReduceWork(assignment, self._schedule.map_attempts)

    async def report(self, body: bytes) -> bytes:
        """A worker has ended an attempt."""
        try:
            ended = decode_done(body)
            counts = self._schedule.report(ended)
        except ValueError as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from error
        if counts and ended.phase is Phase.REDUCE:
            files.publish(self._directory, ended.task, ended.attempt)
        self._end_if_finished()
        return b""

    def _end_if_finished(self) -> None:
        if self._schedule.finished:
            self.done.set()


async def coordinate(
    inputs: Sequence[str],
    *,
    socket: Path,
    directory: Path,
    schedule: Schedule,
    linger_seconds: float = LINGER_SECONDS,
) -> None:
    """Serve a job at `socket` until its results are final, and a little longer.

    Raises:
        AddressInUse, CannotListen: the socket cannot be had.
        FileNotFoundError: an input is not there.
    """
    for name in inputs:
        (directory / name).stat()
    coordinator = Coordinator(inputs, directory, schedule)
    name = f"coordinator {os.getpid()}"
    transport = GrpcTransport(CLUSTER, name, address=address_of(socket))
    transport.serve(ASK, coordinator.ask)
    transport.serve(DONE, coordinator.report)
    await transport.start()
    try:
        await coordinator.done.wait()
        await asyncio.sleep(linger_seconds)
    finally:
        await transport.close()
