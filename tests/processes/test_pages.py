"""The procedures of the operator's and the reader's pages, tried as they are written.

A section that holds `<!-- tried: cluster ... -->` gets a cluster of its own, made by `shardkv up`
with these flags (`SHARDKV_...`: a setting of every node; `needs`: a program without which it is
skipped) in a directory whose `data` it is; one that holds `<!-- tried: goes on -->` is played after
the section before it, on the same cluster.
Then the ```console blocks are run in order: each line that begins with `$ ` is a command for the
shell, a line that ends with a backslash goes on in the next, and what follows is what it prints, on
either stream, where `...` stands for anything within a line, and alone on a line for any lines. A
```python block is a program, which must end well. What is not a command is done by a remark:

- `<!-- tried: directory needs=... -->`: in place of a cluster; the section starts one itself.
- `<!-- tried: lose n2 -->`: its machine and its disk.
- `<!-- tried: soon -->`: what the next command prints comes in a while; it is asked again.

A command that ends with `&` goes on. Ports are written as the defaults, and exchanged.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.processes import PROGRAM, ROOT, Cluster, environment

PAGES = ("operations.md", "reads.md")
PORT = re.compile(r"(127\.0\.0\.1:|localhost:|--base-port )74(\d\d)")
COMMAND_SECONDS_MAX = 60.0


class Command(NamedTuple):
    """One line of a block, and what it prints."""

    line: str
    prints: tuple[str, ...]


class Act(NamedTuple):
    """Something that is no command."""

    words: tuple[str, ...]


class Program(NamedTuple):
    """A program in Python."""

    text: str


Step = Command | Act | Program
GOES_ON = Act(("goes", "on"))


def sections() -> dict[str, list[Step]]:
    """What is played on a cluster of its own, by the heading with which that begins."""
    found: dict[str, list[Step]] = {}
    for page in PAGES:
        heading = ""
        for section in re.split(r"(?m)^(?=## )", (ROOT / "docs" / page).read_text()):
            steps = list(steps_of(section))
            if GOES_ON in steps:
                found[heading] += steps
            elif any(isinstance(step, Act) for step in steps):
                heading = section.partition("\n")[0].lstrip("# ")
                found[heading] = steps
    return found


def steps_of(section: str) -> Iterator[Step]:
    for block in re.finditer(r"(?ms)^```(\w*)\n(.*?)^```$|<!-- tried: (.+?) -->", section):
        language, text, remark = block.groups()
        if remark:
            yield Act(tuple(remark.split()))
        elif language == "console":
            yield from commands_of(text)
        elif language == "python":
            yield Program(text)


def commands_of(block: str) -> Iterator[Command]:
    """The commands of a block, each with the lines that follow it."""
    for told in re.split(r"(?m)^\$ ", block)[1:]:
        line, *prints = told.replace("\\\n", "").splitlines()
        yield Command(line, tuple(prints))


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
        self.patient = False
        self.background: list[subprocess.Popen[bytes]] = []
        self.bin = directory / "bin"
        self.bin.mkdir()
        program = self.bin / "shardkv"
        program.write_text(f'#!/bin/sh\nexec {PROGRAM[0]} -m shardkv "$@"\n')
        program.chmod(0o755)

    def follow(self, step: Step) -> None:
        match step:
            case Act(("cluster", *flags)):
                named = dict(flag.split("=") for flag in flags)
                self.need(named.pop("needs", "sh"))
                settings = {key: named.pop(key) for key in list(named) if key.isupper()}
                self.cluster = Cluster(self.directory, settings=settings)
                words = [word for key, value in named.items() for word in (f"--{key}", value)]
                self.cluster.start(*words, "--base-port", str(self.cluster.base_port))
            case Act(("directory", flag)):
                self.need(flag.removeprefix("needs="))
                self.cluster = Cluster(self.directory)
            case Act(("lose", name)):
                assert self.cluster is not None
                self.cluster.kill(name)
                place = self.cluster.nodes.pop(name).data
                place.rename(self.directory / f"{name}.lost")
            case Act(("soon",)):
                self.patient = True
            case Act(("goes", "on")):
                assert self.cluster is not None
            case Act(words):
                raise AssertionError(f"no such remark: {words}")
            case Command(line, prints):
                self.run(self.exchanged(line), tuple(map(self.exchanged, prints)))
                self.patient = False
            case Program(text):
                self.play(self.exchanged(text))

    def need(self, program: str) -> None:
        """A program without which the section cannot be played."""
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not here")

    def exchanged(self, text: str) -> str:
        assert self.cluster is not None
        base = self.cluster.base_port
        return PORT.sub(lambda port: f"{port[1]}{base + int(port[2])}", text)

    def play(self, text: str) -> None:
        """A program."""
        done = subprocess.run(
            [PROGRAM[0], "-c", text],
            cwd=self.directory,
            env=environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
            text=True,
        )
        assert done.returncode == 0, f"{text}\nended with\n{done.stdout}{done.stderr}"

    def run(self, line: str, prints: tuple[str, ...]) -> None:
        path = f"{self.bin}:{os.environ['PATH']}"
        env = environment(PATH=path, PYTHONPATH=str(ROOT), COLUMNS="160")
        env |= self.cluster.settings if self.cluster is not None else {}
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
            early = "no node" in done.stdout or "does not answer" in done.stdout
            assert (early or self.patient) and time.monotonic() < deadline, (
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
        if reader.cluster is not None and reader.cluster.nodes:
            sys.stderr.write(reader.cluster.logs() + "\n")
        raise
    finally:
        reader.close()


def test_the_pages_are_there() -> None:
    """Each with what its commands print; one that goes on belongs to the one before."""
    played = sections()

    assert {"Replace a dead node", "Add and remove replicas", "Rolling restart"} <= set(played)
    assert {"What the cluster mends by itself", "Which read to use"} <= set(played)
    assert all(any(isinstance(step, Command) for step in steps) for steps in played.values())


def test_a_page_is_read_as_it_is_written() -> None:
    page = """## A
<!-- tried: cluster nodes=3 -->
```console
$ one \\
    two
1

$ three &
```
```python
print()
```
```
$ not tried
```
<!-- tried: soon -->
"""

    assert list(steps_of(page)) == [
        Act(("cluster", "nodes=3")),
        Command("one     two", ("1", "")),
        Command("three &", ()),
        Program("print()\n"),
        Act(("soon",)),
    ]


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
