"""The files of a job, all in its one directory, and who writes which.

    mr-<map>-<reduce>.<attempt>   pairs of one map attempt for one reduce task, a JSON list a line
    mr-reduced-<reduce>.<attempt> what one reduce attempt has put out
    mr-out-<reduce>               the result; the coordinator's rename of the attempt that counts

A name with an attempt in it has one writer, and nobody reads it before that attempt was reported
done *and* counted. So a worker that crashes leaves nothing that is read, and one that comes late
changes nothing that was read: neither a partial file nor a mixture of two attempts is ever seen.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

REDUCES: Final = 10
"""Reduce tasks of a job."""

_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193


class Pair(NamedTuple):
    """What a Map makes and a Reduce gathers."""

    key: str
    value: str


def ihash(key: str) -> int:
    """31 bits of 32-bit FNV-1a over the key's bytes: the same in every process."""
    digest = _FNV_OFFSET
    for byte in encode(key):
        digest = (digest ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return digest & 0x7FFFFFFF


def decode(data: bytes) -> str:
    """UTF-8 as text; any other byte survives as a lone surrogate, as in Python's file names."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that `decode` made `text` of."""
    return text.encode("utf-8", "surrogateescape")


def read_input(path: Path) -> str:
    return decode(path.read_bytes())


def pairs_name(map_task: int, attempt: int, reduce_task: int) -> str:
    return f"mr-{map_task}-{reduce_task}.{attempt}"


def reduced_name(reduce_task: int, attempt: int) -> str:
    return f"mr-reduced-{reduce_task}.{attempt}"


def out_name(reduce_task: int) -> str:
    return f"mr-out-{reduce_task}"


def write_pairs(
    directory: Path, map_task: int, attempt: int, pairs: Iterable[Pair], reduces: int = REDUCES
) -> None:
    """Write one file for each reduce task, also when it has no pairs."""
    lines: list[list[str]] = [[] for _ in range(reduces)]
    places: dict[str, list[str]] = {}  # a key's hash is worked out once
    for key, value in pairs:
        place = places.get(key)
        if place is None:
            place = places[key] = lines[ihash(key) % reduces]
        place.append(json.dumps((key, value)))
    for reduce_task, own in enumerate(lines):
        path = directory / pairs_name(map_task, attempt, reduce_task)
        path.write_text("".join(line + "\n" for line in own), encoding="ascii")


def read_pairs(directory: Path, reduce_task: int, attempts: Sequence[int]) -> list[Pair]:
    """All pairs for one reduce task: of each map task (from 0) the attempt that counts."""
    pairs: list[Pair] = []
    for map_task, attempt in enumerate(attempts):
        text = (directory / pairs_name(map_task, attempt, reduce_task)).read_text(encoding="ascii")
        pairs.extend(Pair(*json.loads(line)) for line in text.splitlines())
    return pairs


def write_output(path: Path, lines: Iterable[Pair]) -> None:
    """Key, space, value, newline: the form of every result."""
    path.write_bytes(b"".join(encode(f"{key} {value}\n") for key, value in lines))


def publish(directory: Path, reduce_task: int, attempt: int) -> None:
    """Make an attempt's output the result, in one step."""
    source, target = reduced_name(reduce_task, attempt), out_name(reduce_task)
    (directory / source).replace(directory / target)
