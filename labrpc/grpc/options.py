"""gRPC's settings, each for a reason. Their names and defaults are those of gRPC core."""

from typing import Final

from labrpc.limits import (
    HANDSHAKE_SECONDS,
    KEEPALIVE_ANSWER_SECONDS,
    KEEPALIVE_SECONDS,
    MESSAGE_BYTES_MAX,
    RECONNECT_CONNECT_MILLISECONDS,
    RECONNECT_INITIAL_MILLISECONDS,
    RECONNECT_MAX_MILLISECONDS,
    STREAMS_A_CONNECTION_MAX,
    PortLimits,
)

Options = tuple[tuple[str, int], ...]

_BOTH: Final[Options] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_ANSWER_SECONDS * 1000)),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # a silent peer stays connected
)

CLIENT: Final[Options] = (
    *_BOTH,
    # By default a peer that was down for 90 s is tried again only after 16 s.
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_INITIAL_MILLISECONDS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_CONNECT_MILLISECONDS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MILLISECONDS),
    # A connection of its own: bulk never shares one, and closing it closes it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # http_proxy in the environment is not meant for peers
    # A name is looked up again so soon, by default after 30 s: who moved is found where it is now.
    ("grpc.dns_min_time_between_resolutions_ms", RECONNECT_MAX_MILLISECONDS),
    ("grpc.enable_retries", 0),  # only the caller knows what may be repeated
)


def server(limits: PortLimits) -> Options:
    """The settings of a listening port."""
    return (
        *_BOTH,
        # By default a second server binds the same port, and takes half of its connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", limits.connections_max),
        ("grpc.max_concurrent_streams", STREAMS_A_CONNECTION_MAX),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
        # Clients ask for signs of life twice as seldom as would be too often.
        ("grpc.http2.min_ping_interval_without_data_ms", int(KEEPALIVE_SECONDS * 500)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(KEEPALIVE_SECONDS * 500)),
    )
