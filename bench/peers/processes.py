"""Child processes of a peer: started, waited for until they listen, killed at the end."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

STARTED_SECONDS_MAX: Final = 30.0


@contextlib.contextmanager
def running(
    commands: Sequence[Sequence[str]], ports: Sequence[int], logs: Path
) -> Iterator[list[int]]:
    """Run each command until the block ends; entered once every port of 127.0.0.1 answers.

    Gives their process ids, in order.

    Raises:
        RuntimeError: one of them ended, or did not listen in time; its log's end is in the text.
    """
    children: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        for number, command in enumerate(commands):
            log = stack.enter_context((logs / f"{number}.log").open("wb"))
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            children.append(child)
            stack.callback(_end, child)
        until = time.monotonic() + STARTED_SECONDS_MAX
        for port in ports:
            while not _listens(port):
                ended = [n for n, child in enumerate(children) if child.poll() is not None]
                if ended or time.monotonic() > until:
                    number = ended[0] if ended else 0
                    tail = (logs / f"{number}.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{commands[number][0]} did not start:\n{tail}")
                time.sleep(0.05)
        yield [child.pid for child in children]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
