"""What who takes a backup and a replica say to each other: the bodies of the `backup.*` calls.

`Open` -> `Opened`: the replica's state as it stands at that moment is held for a while, under the
number of a stream. `Next` -> the bytes of a chunk, as `raft/disk/data_store.py` makes them for a
follower. `Close` -> `Closed`. Questions change nothing, and may be repeated.
"""

from typing import Final, NamedTuple

OPEN: Final = "backup.open"
NEXT: Final = "backup.next"
CLOSE: Final = "backup.close"

CHUNK_BYTES_MAX: Final = 128 * 1024
"""Of the rows in a chunk; one row is always given. Reading one keeps a node from its clients for
a millisecond or so."""


class Open(NamedTuple):
    """Hold the state of this node's replica of a group, after everything acknowledged so far."""

    gid: int
    uuid: bytes  # of the group that is meant; b"": whichever this node has (the controller)


class Unsettled(NamedTuple):
    """A shard that is on its way here or away."""

    shard: int
    phase: str
    other: int  # the group it comes from or goes to


class Opened(NamedTuple):
    """A state is held."""

    stream: int
    node: str
    uuid: bytes
    index: int  # type: ignore[assignment]  # the last entry whose effects it holds
    term: int  # of that entry
    newest_term: int  # the highest that the replica has seen; `term` or above
    number: int  # of the configuration in force (the controller: of the newest)
    unsettled: tuple[Unsettled, ...]


class Next(NamedTuple):
    """The chunk with this number, from 0: the one given last, or the one after it."""

    stream: int
    number: int


class Close(NamedTuple):
    """The state is needed no longer."""

    stream: int


class Closed(NamedTuple):
    """It is held no longer."""
