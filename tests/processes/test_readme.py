"""README.md, followed to the letter as a newcomer does: every command, every block of code.

Ports and `/usr/share/doc` are exchanged for ours, and what draws on a terminal is asked for one
picture; all else runs as it stands there. A command that is added to the README needs a line here
that says what must come of it. What the README promises besides is held by the tests that
`tests/test_promises.py` names.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs.cli.official import OFFICIAL
from shardkv.config import TABLE
from tests.support.processes import PROGRAM, ROOT, SOON, Cluster, environment, wait_for

COMMAND_SECONDS_MAX = 60.0

Outcome = tuple[int, str]
"""Exit status, and a pattern that is found in what was printed, on either stream."""

TOUR: dict[str, Outcome] = {
    "shardkv put greeting hello": (0, r"^version 1$"),
    "shardkv append greeting ' world'": (0, r"^version 2$"),
    "shardkv get greeting": (0, r"^hello world$"),
    "shardkv put greeting bye --if-version 1": (1, "the key is at version 2"),
    "shardkv batch '{u}name' Ada '{u}mail' a@b.c": (0, "2 operations, done as one"),
    "shardkv import /usr/share/doc --prefix doc/": (0, r"^\d+ files, \d+ bytes"),
    "shardkv status": (0, r"3 alive, 0 suspect, 0 dead .*64 of 64 shards served"),
    "shardkv top": (0, r"nodes 3/3 alive"),
    "kill -9 PID": (0, ""),
    "shardkv node --data ./data/n2 &": (0, ""),
    "shardkv ctl join 3=n1,n2,n3": (0, r"^config 2$"),
    "shardkv ctl leave 1": (0, r"^config 3$"),
    "shardkv ctl query": (0, r"^config 3: 64 shards, 2 groups$"),
    'eval "$(_SHARDKV_COMPLETE=bash_source shardkv)"': (0, ""),
}
HTTP: dict[str, Outcome] = {
    "curl -X PUT localhost:7402/kv/greeting -H 'Content-Type: application/json' "
    """-d '{"value": "hello"}'""": (0, "stored"),
    "curl localhost:7412/kv/greeting": (0, re.escape('{"key":"greeting","value":"hello"}')),
    "curl 'localhost:7402/kv?prefix=doc/'": (0, r'\{"keys":\[\{"key":"doc/'),
}
FOR_LONG: dict[str, Outcome] = {
    "shardkv ctl replace n2 n7 --dry-run": (0, "n7"),
    "shardkv ctl plan": (0, ""),
    "shardkv ctl explain s12": (0, r"^shard 12: serving$"),
    "shardkv backup ./backup-1": (0, r"^backup backup-1: cluster "),
    "shardkv ctl recover plan 1": (0, "^group 1: a majority lives"),
    "shardkv bench --clients 100": (0, r"100 in flight +[\d,]+/s"),
}

LABS: dict[str, Outcome] = {
    "python -m labs list": (0, r"^both +3B +3 raft +TestBasicAgree3B|^2024 +3B +3 raft +TestBasic"),
    "python -m labs run 3A": (0, r"^6 passed, 0 failed"),
    "python -m labs run 3A --impl docs/examples/compact_raft.py:CompactRaft": (
        0, r"^6 passed, 0 failed"
    ),
    "python -m labs simulate --seed 4711": (0, r"^seed 4711: right\."),
}  # fmt: skip


def section(heading: str) -> str:
    """The text below a heading of the README."""
    text = (ROOT / "README.md").read_text()
    return re.split(r"(?m)^## ", text.split(f"\n## {heading}\n", 1)[1])[0]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each line of the indented blocks: the command, and the remark behind it."""
    shell = re.sub(r"(?ms)^```.*?^```$", "", text)
    for line in re.findall(r"(?m)^    (\S.*)$", shell):
        command, _, remark = line.partition("  # ") if "  # " in line else (line, "", "")
        if not command.startswith("#"):
            yield command.rstrip(), remark.strip()


class Newcomer:
    """Somebody at a shell, in the directory that has `./data`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = Cluster(directory, groups=2, shards=64)
        programs = directory / "bin"
        programs.mkdir()
        for name, words in {"shardkv": PROGRAM, "python": PROGRAM[:1]}.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
            program.chmod(0o755)
        self.environment = environment(
            PATH=f"{programs}:{os.environ['PATH']}", PYTHONPATH=str(ROOT), COLUMNS="160"
        )

    def exchanged(self, text: str) -> str:
        """A command with our ports, our files and the number of n2's process."""
        base = self.cluster.base_port
        text = re.sub(r"\b74(\d\d)\b", lambda port: str(base + int(port[1])), text)
        text = text.replace("/usr/share/doc", str(ROOT / "docs"))
        text = text.replace("PID", str(self.cluster.nodes["n2"].pid))
        return f"{text} --once" if text == "shardkv top" else text

    def types(self, line: str, expected: Outcome, *, where: Path | None = None) -> None:
        """Type a command, and see that it ends as expected."""
        done = subprocess.run(
            ["/bin/bash", "-c", self.exchanged(line)],
            cwd=where or self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
            text=True,
        )
        status, pattern = expected
        assert done.returncode == status, f"$ {line}\n{done.stdout}"
        assert re.search(pattern, done.stdout, re.MULTILINE), f"$ {line}\n{done.stdout}"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    person = Newcomer(tmp_path_factory.mktemp("readme"))
    try:
        person.cluster.start("--base-port", str(person.cluster.base_port))
        yield person
    except BaseException:
        sys.stderr.write(person.cluster.logs() + "\n")
        raise
    finally:
        person.cluster.close()


def test_make_has_the_two_commands() -> None:
    words = [command.split() for command, _ in commands(section("Two commands"))]

    assert words == [["make", "demo"], ["make", "test"]]
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert not [line for line in lines if "$(MAKE)" in line], "a dry run carries such lines out"
    for command in words:
        subprocess.run(
            [*command, "--dry-run"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=SOON
        )


@pytest.mark.timeout(240)
def test_the_tour(newcomer: Newcomer) -> None:
    lines = [row for row in commands(section("A tour in twenty lines")) if "curl" not in row[0]]
    assert [line for line, _ in lines[:2]] == ["make", "shardkv up --data ./data"]

    cluster = newcomer.cluster
    for line, remark in lines[2:]:
        if line == "shardkv node --data ./data/n2 &":
            assert cluster.obituary("n2")[1][:3] == line.split()[:3], "what `up` says"
            cluster.restart("n2")
            continue
        newcomer.types(line, TOUR[line])
        if remark.startswith(("version ", "hello ")):
            assert re.search(TOUR[line][1], remark), "the remark is what is printed"
    assert cluster.interrupt() == 0
    cluster.start("--base-port", str(cluster.base_port))  # n2 runs in the other terminal
    newcomer.types("shardkv get greeting", TOUR["shardkv get greeting"])


def test_the_python(newcomer: Newcomer) -> None:
    (program,) = re.findall(r"(?ms)^```python\n(.*?)^```", section("A tour in twenty lines"))

    done = subprocess.run(
        ["python", "-c", newcomer.exchanged(program)],
        cwd=newcomer.directory,
        env=newcomer.environment,
        capture_output=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"b'a line\\n'\n", b"")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_http(newcomer: Newcomer) -> None:
    subprocess.run(
        [*PROGRAM, "put", "doc/a", "1", "--endpoints", newcomer.cluster.endpoints[0]],
        check=True, stdout=subprocess.DEVNULL, env=environment(), cwd=ROOT,
    )  # fmt: skip
    lines = [line for line, _ in commands(section("A tour in twenty lines")) if "curl" in line]

    for line in lines:
        newcomer.types(line.replace("curl ", "curl -sS ", 1), HTTP[line])
    assert len(lines) == len(HTTP)


@pytest.mark.timeout(240)
def test_run_it_for_long(newcomer: Newcomer) -> None:
    """n7 is a node that has joined, as the page on replacing one has it."""
    cluster = newcomer.cluster
    newcomer.types(
        "shardkv init --data ./data/n7 --node n7 --client 127.0.0.1:7450 "
        f"--join {cluster.endpoints[0]}",
        (0, ""),
    )
    n7 = cluster.start_node(cluster.data / "n7")
    wait_for(lambda: b"n7" in cluster.cli("status").out, "n7 to be known")

    lines = [line for line, _ in commands(section("Run it for long"))]
    for line in lines:
        newcomer.types(line, FOR_LONG[line])

    assert len(lines) == len(FOR_LONG)
    n7.send_signal(signal.SIGTERM)
    assert n7.wait(SOON) == 0


@pytest.mark.timeout(240)
def test_the_labs(newcomer: Newcomer) -> None:
    lines = [line for line, _ in commands(section("The labs"))]
    for line in lines:
        newcomer.types(line, LABS[line], where=ROOT)

    assert len(lines) == len(LABS)
    tests = {(official.edition, official.lab, official.name) for official in OFFICIAL}
    assert f"the {len(tests)} tests" in section("The labs")


def test_run_it_elsewhere_names_what_is_there() -> None:
    """What they do is tried by `tests/deploy` and `tests/processes/test_auto.py`."""
    compose, helm, auto = (line.split() for line, _ in commands(section("Run it elsewhere")))

    assert (ROOT / compose[compose.index("--file") + 1]).is_file()
    assert (ROOT / helm[helm.index("shardkv") + 1] / "Chart.yaml").is_file()
    given = dict(word.split("=", 1) for word in auto if word.startswith("SHARDKV_"))
    assert auto[len(given) :] == ["shardkv", "auto", "--data", "/var/lib/kv/node"]
    assert {name.removeprefix("SHARDKV_").lower() for name in given} <= TABLE.keys()


def test_every_command_of_the_tour_is_tried() -> None:
    """A row of the tables that the README has lost is tried for nobody."""
    lines = {line for line, _ in commands(section("A tour in twenty lines"))}

    assert {*TOUR, *HTTP} == lines - {"make", "shardkv up --data ./data"}
