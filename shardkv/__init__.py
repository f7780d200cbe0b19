"""A sharded, replicated key/value store: linearizable, each write exactly once.

    with shardkv.open("./store") as kv:              # inside this process
    with shardkv.connect("host:7400") as kv:         # a client of a cluster

`shardkv.aio` has the same for asyncio.
"""

from raft.errors import DataUnusable
from shardkv import aio
from shardkv.errors import (
    Closed,
    InvalidArgument,
    OutcomeUnknown,
    Overloaded,
    ShardKVError,
    StoreInUse,
    TooStale,
    Unavailable,
    ValueTooLong,
    VersionMismatch,
)
from shardkv.listing import Listed
from shardkv.sync import Store, connect, open
from shardkv.tokens import ReadSession
from shardkv.types import Row

__version__ = "0.1.0"
__all__ = [
    "open",
    "connect",
    "aio",
    "Store",
    "Row",
    "Listed",
    "ReadSession",
    "ShardKVError",
    "InvalidArgument",
    "ValueTooLong",
    "VersionMismatch",
    "TooStale",
    "Unavailable",
    "Overloaded",
    "OutcomeUnknown",
    "Closed",
    "StoreInUse",
    "DataUnusable",
    "__version__",
]
