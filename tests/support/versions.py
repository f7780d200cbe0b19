"""A node of another version: `python -m tests.support.versions NEWEST OLDEST shardkv's words ...`.

There is one version so far. This program is that one, but says that it speaks others: what those
before it and after it will say.
"""

import sys

from labrpc.grpc import handshake
from shardkv.cli import main

PROGRAM = (sys.executable, "-m", "tests.support.versions")


def program(newest: int, oldest: int) -> tuple[str, ...]:
    """The command of a node that speaks these versions of the protocol."""
    return (*PROGRAM, str(newest), str(oldest))


if __name__ == "__main__":
    _, newest, oldest, *words = sys.argv
    vars(handshake).update(PROTOCOL_VERSION=int(newest), PROTOCOL_OLDEST=int(oldest))
    sys.argv = ["shardkv", *words]
    main()
