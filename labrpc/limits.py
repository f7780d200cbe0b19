"""Bounds of the wire, all in one place: sizes in bytes, times in seconds unless a name says more.

What a bound protects stands beside it. A bound that is met is refused or dropped by name, never
by running out of memory.
"""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024

BODY_BYTES_MAX: Final = 4 * MIB
"""The largest body of a call (either way) and the largest frame of a channel."""

MESSAGE_BYTES_MAX: Final = BODY_BYTES_MAX + 64 * 1024
"""The largest gRPC message: one body of the largest size with its envelope."""

PACK_BYTES_MAX: Final = MIB
"""Envelopes and frames that gathered share one message up to this size, or one alone."""

PACK_ITEMS_MAX: Final = 1024
"""Envelopes or frames of one message: a few bytes can claim a million empty ones."""

METHOD_BYTES_MAX: Final = 256
"""The longest name of a method, in UTF-8."""

CHANNEL_QUEUED_BYTES_MAX: Final = 16 * MIB
"""What may wait in one channel; a frame that does not fit is dropped."""

CONNECTIONS_MAX: Final = 1024
"""Connections that one port accepts."""

STREAMS_A_CONNECTION_MAX: Final = 128
"""Concurrent gRPC streams of one connection; our own transport needs two."""

CONNECTION_OPERATIONS_MAX: Final = 1024
"""Calls of one connection that may be in flight."""

CONNECTION_BYTES_MAX: Final = 16 * MIB
"""Bytes of the bodies of one connection's calls in flight."""

NODE_OPERATIONS_MAX: Final = 8192
"""Calls in flight at one port, over all its connections."""

RECONNECT_INITIAL_MILLISECONDS: Final = 100
RECONNECT_CONNECT_MILLISECONDS: Final = 200
"""The least time that one attempt to connect gets, handshake included."""
RECONNECT_MAX_MILLISECONDS: Final = 1000

KEEPALIVE_SECONDS: Final = 10.0
"""A connection with no traffic for so long is asked for a sign of life."""

KEEPALIVE_ANSWER_SECONDS: Final = 3.0
"""And is given up when none comes for so long."""

HANDSHAKE_SECONDS: Final = 5.0
"""A stranger that has not said a whole hello by then is dropped."""

DIAL_SECONDS: Final = 1.0
"""A channel that is not connected by then drops what was queued, and what is sent until it is."""

UNUSED_SECONDS: Final = 60.0
"""An address that is not connected, and was not spoken to for so long, is dialled no more."""

UNARY_SECONDS_MAX: Final = 30.0
"""The deadline of a typed call whose client has set none, or a later one."""

CLOSE_GRACE_SECONDS: Final = 2.0
"""What running handlers get to end in when a port closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLimits:
    """What one listening port lets in. Peers and clients have a port each, and so limits each."""

    connections_max: int = CONNECTIONS_MAX
    connection_operations_max: int = CONNECTION_OPERATIONS_MAX
    connection_bytes_max: int = CONNECTION_BYTES_MAX
    node_operations_max: int = NODE_OPERATIONS_MAX

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, it is {value}")
