"""What coordinator and workers say to each other: msgpack lists in calls of the transport.

mr.ask   []                       -> ["map", task, attempt, file] | ["reduce", task, attempt,
                                     [attempt of each map task]] | ["wait"] | ["exit"]
mr.done  [phase, task, attempt]   -> []
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from labrpc.transport import Address
from labs.mapreduce.files import decode, encode
from labs.mapreduce.schedule import Assignment, Phase

CLUSTER: Final = b"a mapreduce lab."
"""Both ends of a connection say it: nobody else's calls are taken for a worker's."""
ASK, DONE = "mr.ask", "mr.done"
SOCKET: Final = "mr-socket"
"""The default, in the job's directory: so jobs side by side never meet."""


@dataclass(frozen=True, slots=True)
class MapWork:
    """Map `file`."""

    assignment: Assignment
    file: str


@dataclass(frozen=True, slots=True)
class ReduceWork:
    """Reduce what these attempts of the map tasks, from task 0 on, have written."""

    assignment: Assignment
    map_attempts: list[int]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is due; ask again soon. A worker that dies while it waits costs nothing."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The job is over, its results are final."""


Work = MapWork | ReduceWork | Wait | Exit


def address_of(socket: Path) -> Address:
    return Address(f"unix:{socket}")


def encode_work(work: Work) -> bytes:
    match work:
        case MapWork((phase, task, attempt), file):
            return _pack([phase.value, task, attempt, encode(file)])
        case ReduceWork((phase, task, attempt), map_attempts):
            return _pack([phase.value, task, attempt, map_attempts])
        case Wait():
            return _pack(["wait"])
        case Exit():
            return _pack(["exit"])


def decode_work(body: bytes) -> Work:
    """Raises ValueError for anything that `encode_work` does not make."""
    match _unpack(body):
        case ["map", int(task), int(attempt), bytes(file)]:
            return MapWork(Assignment(Phase.MAP, task, attempt), decode(file))
        case ["reduce", int(task), int(attempt), [*attempts]] if _ints(attempts):
            return ReduceWork(Assignment(Phase.REDUCE, task, attempt), attempts)
        case ["wait"]:
            return Wait()
        case ["exit"]:
            return Exit()
    raise ValueError(f"no work: {body[:100]!r}")


def encode_done(done: Assignment) -> bytes:
    return _pack([done.phase.value, done.task, done.attempt])


def decode_done(body: bytes) -> Assignment:
    """Raises ValueError for anything that `encode_done` does not make."""
    match _unpack(body):
        case [str(phase), int(task), int(attempt)]:
            return Assignment(Phase(phase), task, attempt)
    raise ValueError(f"no report: {body[:100]!r}")


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body)
    except (msgpack.UnpackException, ValueError) as error:
        raise ValueError(f"no msgpack: {body[:100]!r}") from error


def _ints(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)
