"""The operations of a batch, as its caller writes them down.

    kv.batch([Put("{user:7}name", "Ada"), Append("{user:7}log", "named;"), Delete("{user:7}draft")])

A key is 1 to 4,096 bytes, a value up to 1 MiB; text counts as UTF-8. With `if_version` the whole
batch is done only if the key has this version when its turn comes; 0: only if it is absent.
"""

from typing import NamedTuple, TypeAlias


class Put(NamedTuple):
    """Write the key."""

    key: bytes | str
    value: bytes | str
    if_version: int | None = None


class Append(NamedTuple):
    """Add to the end of the key's value; absent counts as empty."""

    key: bytes | str
    value: bytes | str
    if_version: int | None = None


class Delete(NamedTuple):
    """Make the key absent; done too if it is absent already."""

    key: bytes | str
    if_version: int | None = None


BatchOperation: TypeAlias = Put | Append | Delete
