"""`shardkv`, whose connections to other nodes go through proxies: a program for tests.

`TEST_DIAL` maps addresses to those that are dialled in their place, as JSON. Nothing else differs:
members, configurations and the node's own ports are what they are without it.
"""

import json
import os
from typing import Any

from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from shardkv.cli import main

VARIABLE = "TEST_DIAL"


def install(places: dict[str, str]) -> None:
    """Let this process dial elsewhere."""
    connection = GrpcTransport._connection

    def mapped(self: GrpcTransport, to: Address, **more: Any) -> Any:
        return connection(self, Address(places.get(to, to)), **more)

    GrpcTransport._connection = mapped  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    install(json.loads(os.environ[VARIABLE]))
    main()
