"""Which of its two I/O engines gRPC core uses in this process: the older one, where it has both.

Core's newer engine ("event engine") reads and writes sockets in threads of its own. With asyncio a
message then passes from that thread to the one that asyncio's adapter waits in, and on to the
loop; the older engine does the work of the first two in one. Measured with grpcio 1.85.3 on two
cores, both ends alike: a call of 300 bytes and its answer 0.15 ms instead of 0.25, at 100 us of
processor time instead of 170; a put at one client 72 system calls at the leader instead of 96.

Core reads its choice once, when `grpc` is imported, so the environment is as it was right after.
Who has imported `grpc` before, or says `GRPC_EXPERIMENTS`, has chosen already. A version that
nobody here has tried is left alone: it may not have the older engine any more.
"""

import importlib
import os
import sys
from importlib import metadata
from typing import Final

VARIABLE: Final = "GRPC_EXPERIMENTS"
OLDER_ENGINE: Final = ",".join(
    f"-event_engine_{part}"
    for part in ("client", "listener", "for_all_other_endpoints", "callback_cq")
)
TRIED: Final = ((1, 75), (1, 85))
"""The first and the last minor version of grpcio that the choice was tried with."""


def choose() -> bool:
    """Import `grpc`, with the older engine if that is a choice; whether it was."""
    if "grpc" in sys.modules or VARIABLE in os.environ or not _is_tried(metadata.version("grpcio")):
        return False
    os.environ[VARIABLE] = OLDER_ENGINE
    try:
        importlib.import_module("grpc.aio")
    finally:
        del os.environ[VARIABLE]
    return True


def _is_tried(version: str) -> bool:
    major, minor = version.split(".")[:2]
    return TRIED[0] <= (int(major), int(minor)) <= TRIED[1]


chosen: Final = choose()
"""Whether this module chose the engine of this process."""
