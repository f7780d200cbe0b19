"""The procedures of docs/operations.md, tried as they are written.

A section that holds `<!-- tried: cluster ... -->` gets a cluster of its own, made by `shardkv up`
with these flags in a directory whose `data` it is. Then its ```console blocks are run in order:
each line that begins with `$ ` is a command for the shell, and what follows is what it prints, on
either stream, where `...` stands for anything within a line, and alone on a line for any lines.
What is not a command is done by a remark: `<!-- tried: lose n2 -->` (its machine and its disk).
A command that ends with `&` goes on. Ports are written as the defaults, and exchanged.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.processes import PROGRAM, ROOT, Cluster, environment

PAGE = ROOT / "docs" / "operations.md"
REMARK = re.compile(r"<!-- tried: (.+?) -->")
PORT = re.compile(r"127\.0\.0\.1:74(\d\d)")
COMMAND_SECONDS_MAX = 60.0


class Command(NamedTuple):
    """One line of a block, and what it prints."""

    line: str
    prints: tuple[str, ...]


class Act(NamedTuple):
    """Something that is no command."""

    words: tuple[str, ...]


Step = Command | Act


def sections() -> dict[str, list[Step]]:
    """The tried sections by their headings."""
    found: dict[str, list[Step]] = {}
    for section in re.split(r"(?m)^(?=## )", PAGE.read_text()):
        heading = section.partition("\n")[0].removeprefix("## ")
        steps = list(steps_of(section))
        if any(isinstance(step, Act) for step in steps):
            found[heading] = steps
    return found


def steps_of(section: str) -> Iterator[Step]:
    inside = False
    line, prints = "", list[str]()
    for text in section.splitlines():
        if text.startswith("```"):
            inside = text == "```console"
            if line:
                yield Command(line, tuple(prints))
                line, prints = "", []
        elif inside and text.startswith("$ "):
            if line:
                yield Command(line, tuple(prints))
            line, prints = text[2:], []
        elif inside:
            prints.append(text)
        elif remark := REMARK.search(text):
            yield Act(tuple(remark[1].split()))


def matches(prints: tuple[str, ...], said: list[str]) -> bool:
    """Whether what was said is what the page says."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\s*\n"
        for line in prints
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in said)) is not None


class Reader:
    """Follows a section's steps on a cluster."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster: Cluster | None = None
        self.background: list[subprocess.Popen[bytes]] = []
        self.bin = directory / "bin"
        self.bin.mkdir()
        program = self.bin / "shardkv"
        program.write_text(f'#!/bin/sh\nexec {PROGRAM[0]} -m shardkv "$@"\n')
        program.chmod(0o755)

    def follow(self, step: Step) -> None:
        match step:
            case Act(("cluster", *flags)):
                self.cluster = Cluster(self.directory)
                named = dict(flag.split("=") for flag in flags)
                words = [word for key, value in named.items() for word in (f"--{key}", value)]
                self.cluster.start(*words, "--base-port", str(self.cluster.base_port))
            case Act(("lose", name)):
                assert self.cluster is not None
                self.cluster.kill(name)
                place = self.cluster.nodes.pop(name).data
                place.rename(self.directory / f"{name}.lost")
            case Act(("up", "again")):
                assert self.cluster is not None
                assert self.cluster.interrupt() == 0
                self.cluster.start("--nodes", str(len(self.cluster.nodes)))
            case Act(words):
                raise AssertionError(f"no such remark: {words}")
            case Command(line, prints):
                self.run(self.exchanged(line), tuple(map(self.exchanged, prints)))

    def exchanged(self, text: str) -> str:
        assert self.cluster is not None
        base = self.cluster.base_port
        return PORT.sub(lambda port: f"127.0.0.1:{base + int(port[1])}", text)

    def run(self, line: str, prints: tuple[str, ...]) -> None:
        env = environment(
            PATH=f"{self.bin}:{os.environ['PATH']}", PYTHONPATH=str(ROOT), COLUMNS="160"
        )
        if line.endswith("&"):
            assert not prints, f"what a process in the background prints is not shown: {line}"
            words = ["/bin/sh", "-c", f"exec {line.rstrip('& ')}"]
            self.background.append(
                subprocess.Popen(
                    words,
                    cwd=self.directory,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            return
        deadline = time.monotonic() + COMMAND_SECONDS_MAX
        while True:  # a page may say "once it is up": then what it prints comes a little later
            done = subprocess.run(
                ["/bin/sh", "-c", line],
                cwd=self.directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_SECONDS_MAX,
                check=False,
                text=True,
            )
            said = done.stdout.splitlines()
            for process in self.background:
                process.poll()  # what has ended is no zombie for the page's shell
            if matches(prints, said):
                return
            patient = "no node" in done.stdout or "does not answer" in done.stdout
            assert patient and time.monotonic() < deadline, (
                f"$ {line}\nprinted\n{done.stdout}and the page says\n" + "\n".join(prints)
            )
            time.sleep(0.2)

    def close(self) -> None:
        for process in self.background:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        if self.cluster is not None:
            self.cluster.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("heading", list(sections()))
def test_a_procedure_is_what_the_page_says(heading: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for step in sections()[heading]:
            reader.follow(step)
    except BaseException:
        if reader.cluster is not None:
            sys.stderr.write(reader.cluster.logs() + "\n")
        raise
    finally:
        reader.close()


def test_the_pages_are_there() -> None:
    assert {"Replace a dead node", "Add and remove replicas", "Rolling restart"} <= set(sections())


@pytest.mark.parametrize(
    ("prints", "said", "same"),
    [
        (("a ... c",), ["a b c"], True),
        (("a ... c",), ["a b d"], False),
        (("...", "b"), ["x", "y", "b"], True),
        (("a", "..."), ["a"], True),
        (("a",), ["a", "b"], False),
        ((), [], True),
        ((), ["a"], False),
    ],
)
def test_what_is_printed_is_compared(prints: tuple[str, ...], said: list[str], same: bool) -> None:
    assert matches(prints, said) is same
