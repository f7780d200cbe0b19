"""Every bound of the store, named once: the client checks them, the server checks them again.

Each error that a limit causes names the limit. Sizes are bytes, times seconds. Raft's bounds are in
`raft/config.py` and `raft/host.py`, those of connections in `labrpc/limits.py`.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Keys and values
KEY_BYTES_MIN: Final = 1
KEY_BYTES_MAX: Final = 4 * KIB
VALUE_BYTES_MAX: Final = 1 * MIB
"""Of a value put, and of what an append leaves behind."""
INTEGER_MAX: Final = 2**63 - 1
"""Of versions, sequences, session and configuration numbers: what other languages can hold."""

# Frames and batches of clients
FRAME_BYTES_MAX: Final = 2 * MIB
FRAME_OPERATIONS_MAX: Final = 1024
"""A frame closes at whichever bound comes first, but always carries at least one operation."""
BATCH_OPERATIONS_MAX: Final = 128
"""Of one atomic batch, and so of the versions that its answer holds."""
BATCH_BYTES_MAX: Final = 1 * MIB
"""Of all keys and values of one atomic batch together: it is one command of one log entry."""
PAGE_ROWS_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 1 * MIB

# In flight; past these a request is refused with a hint when to retry
NODE_OPERATIONS_MAX: Final = 8192
RETRY_SECONDS: Final = 0.1
"""The hint: how long a client that was refused for want of room waits before it asks again."""
LATE_SECONDS: Final = 1.0
"""A group takes no commands while one has waited for so long to be applied. A clerk waits about as
long for its frame; what it asked for before that is done for nobody."""

# Sessions: what a shard remembers to answer each request exactly once
SESSION_WINDOW: Final = 64
"""Sequences from the floor on that a session may have in use; the clerk opens more sessions."""
SESSIONS_MAX: Final = 4096
"""Open sessions of one shard; past it none is opened until some have expired."""
ANSWER_BYTES_MAX: Final = 64
"""A recorded answer: a code and small numbers, never a value."""
EXPIRE_SESSIONS_MAX: Final = 1024
"""Sessions that one expiry command may name."""

# Placement
SHARDS_DEFAULT: Final = 64
SLOTS: Final = 16384
"""Hash slots, as in Redis Cluster; so many shards at most."""

# Copies of shards
CHUNK_BYTES_MAX: Final = 256 * KIB
"""Rows of one chunk; a single larger row is a chunk of its own."""
CHUNK_ROW_OVERHEAD_BYTES: Final = 16
"""What a row costs in a chunk besides its key and value, rounded up."""
COPIES_MAX: Final = 4
"""Shards that one group pulls at a time, one chunk in flight each."""
COPY_BYTES_PER_SECOND: Final = 32 * MIB
"""Of all copies that arrive at one node."""
CHUNK_CHANGES_MAX: Final = 4_096
"""Change rows that one chunk covers: many may name one row. To look at so many takes a few
milliseconds, in which nobody is answered."""
FREEZE_BYTES: Final = 64 * KIB
"""With less than this left to copy the source freezes the shard."""
CHANGE_ROWS_MAX: Final = 4_000_000
"""Of one copy, some 60 bytes each; past it the copy begins again. So many are written in a quarter
of an hour by 2,000 writes a second, while some gigabytes are copied."""
RESTARTS_MAX: Final = 3
"""Times that a copy begins again; past them the shard is frozen, however much is left."""
ROUNDS_UNTIL_SLOWER: Final = 3
"""Pulls of change rows in a row during which more than half as many were written as copied; then
writers are slowed."""
ROUNDS_IN_VAIN_MAX: Final = 24
"""So many such pulls, and the shard is frozen, however much is left."""
SLOWED_BYTES_PER_SECOND: Final = 4 * MIB
"""What a shard's writers may write when they are slowed for the first time; then half of it."""
WRITE_OVERHEAD_BYTES: Final = 256
"""What a write costs besides its command: its session's row is copied again, too."""
HOLD_SECONDS: Final = 0.2
"""From the freeze to the install a shard's requests are held so long before they are refused."""
