"""A sharded, replicated key/value store: linearizable, each write exactly once.

    with shardkv.open("./store") as kv:              # inside this process
    with shardkv.connect("host:7400") as kv:         # a client of a cluster

    kv.put("greeting", "hello")
    kv.batch([Put("{user:7}name", "Ada"), Delete("{user:7}draft")])  # both or neither

`shardkv.aio` has the same for asyncio.
"""

from raft.errors import DataUnusable
from shardkv import aio
from shardkv.errors import (
    Closed,
    InvalidArgument,
    NotOneShard,
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
from shardkv.writes import Append, Delete, Put

__version__ = "0.1.0"
__all__ = [
    "open",
    "connect",
    "aio",
    "Store",
    "Put",
    "Append",
    "Delete",
    "Row",
    "Listed",
    "ReadSession",
    "ShardKVError",
    "InvalidArgument",
    "NotOneShard",
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
