"""A program on a terminal of its own: what it draws, and how it leaves it."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

from tests.support.processes import PROGRAM, environment

SECONDS: Final = 30.0


class Terminal:
    """`shardkv ARGUMENTS` on a terminal of so many columns and lines."""

    def __init__(self, arguments: Sequence[str], *, columns: int, lines: int) -> None:
        self.output = b""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._slave = slave
        self._process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(TERM="xterm-256color"),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    @property
    def modes(self) -> list[Any]:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self._slave)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def kill(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_for(self, drawn: bytes) -> None:
        """Until the program has drawn something."""
        until = time.monotonic() + SECONDS
        while drawn not in self.output:
            assert time.monotonic() < until, (drawn, self.output)
            assert self._process.poll() is None, self.output
            self._read(0.1)

    def ends(self) -> int:
        """The program's exit status; what it still wrote is in `output`."""
        until = time.monotonic() + SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < until, self.output
            self._read(0.05)
        while self._read(0.05):
            pass
        return self._process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        self.output += os.read(self._master, 65536)
        return True

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._slave)
        os.close(self._master)
