"""Bounds of the HTTP interface: past each one a request is refused or its connection closed.

Sizes are bytes, times seconds. The store's own bounds are in `shardkv/limits.py`.
"""

from typing import Final

from shardkv.limits import BATCH_BYTES_MAX, KEY_BYTES_MAX, KIB, MIB, VALUE_BYTES_MAX

URL_BYTES_MAX: Final = 3 * KEY_BYTES_MAX + 4 * KIB
"""The longest key with every byte percent-encoded, and room for a query."""
HEADERS_BYTES_MAX: Final = 16 * KIB
HEADERS_MAX: Final = 100
RAW_BODY_BYTES_MAX: Final = VALUE_BYTES_MAX
JSON_BODY_BYTES_MAX: Final = 6 * VALUE_BYTES_MAX + 4 * KIB
r"""JSON may write each byte of a value as `\u0000`."""
BATCH_BODY_BYTES_MAX: Final = 6 * BATCH_BYTES_MAX + 64 * KIB
ACTION_BODY_BYTES_MAX: Final = 64 * KIB
BODIES_BYTES_MAX: Final = 64 * MIB
"""Of all bodies that a node is reading at a time; past it: 503."""

HEADERS_SECONDS: Final = 10.0
"""From a connection's opening, or a request's first byte, until its headers are complete."""
BODY_SECONDS: Final = 10.0
"""From the headers to the body's end: at least 100 kB/s."""
SEND_SECONDS: Final = 10.0
"""How long a client may not read while the node wants to send."""
KEEP_ALIVE_SECONDS: Final = 75
"""An idle connection is closed after so long; longer than what load balancers keep theirs."""
STOP_SECONDS: Final = 1.0
"""A stopping node gives requests under way so long."""

CONNECTIONS_MAX: Final = 1024
STREAMS_MAX: Final = 64
"""Readers of `/events` at a time."""
LISTINGS_MAX: Final = 16
"""Listings that are being sent at a time."""

TIMEOUT_SECONDS_DEFAULT: Final = 10.0
TIMEOUT_SECONDS_MAX: Final = 60.0
TIMEOUT_SECONDS_MIN: Final = 0.001
ACTION_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1
"""What `Retry-After` says, in whole seconds: it knows no fractions."""
