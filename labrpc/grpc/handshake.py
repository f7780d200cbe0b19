"""Who speaks, and whether the two sides of a connection belong together."""

from dataclasses import dataclass
from typing import Final

from labrpc.grpc import wire_pb2 as wire

PROTOCOL_VERSION: Final = 1
"""Of `wire.proto` and of every body that crosses it: the newest that this program speaks."""
PROTOCOL_OLDEST: Final = 1
"""The oldest that it still speaks: one less once there are two, so that the nodes of a cluster can
be upgraded one after the other. Two processes are partners if there is a version that both speak;
the newer one then says only what the older one understands."""

# A stranger's words are quoted in logs and in the status text, which gRPC sends as a header.
_SHOWN_BYTES_MAX: Final = 32
_SHOWN_CHARACTERS_MAX: Final = 64


class Violation(Exception):
    """The other side does not keep to the protocol; the text is ours and may be sent to it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a process says of itself when it connects or is connected to."""

    cluster: bytes
    """16 bytes drawn at the cluster's birth; empty before it."""
    name: str
    """The node or client, for logs only."""

    def hello(self, target: str = "") -> wire.Hello:
        """The first words on every stream; `target` is the address dialled."""
        return wire.Hello(
            cluster=self.cluster,
            version=PROTOCOL_VERSION,
            sender=self.name,
            target=target,
            oldest=PROTOCOL_OLDEST,
        )

    def mismatch(self, hello: wire.Hello) -> str | None:
        """Say why the process that sent `hello` is no partner of this one; None: it is one."""
        sender = hello.sender[:_SHOWN_CHARACTERS_MAX]
        oldest = hello.oldest or hello.version
        if max(oldest, PROTOCOL_OLDEST) > min(hello.version, PROTOCOL_VERSION):
            return (
                f"protocol version mismatch: {sender!r} speaks {_versions(oldest, hello.version)}, "
                f"{self.name!r} speaks {_versions(PROTOCOL_OLDEST, PROTOCOL_VERSION)}"
            )
        if hello.cluster != self.cluster:
            return (
                f"cluster id mismatch: {sender!r} belongs to cluster "
                f"{_shown(hello.cluster)}, {self.name!r} to cluster {_shown(self.cluster)}"
            )
        return None


def _versions(oldest: int, newest: int) -> str:
    return f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"


def _shown(cluster: bytes) -> str:
    if not cluster:
        return "(none)"
    return cluster[:_SHOWN_BYTES_MAX].hex() + ("..." if len(cluster) > _SHOWN_BYTES_MAX else "")
