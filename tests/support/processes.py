"""Real clusters of real processes: started, watched, hurt and always cleaned up.

Everything is waited for by looking again until a deadline, never by sleeping and hoping. A process
is ours if its command line names our directory; only those are ever sent a signal.
"""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar

from ruamel.yaml import YAML

from labrpc.grpc.transport import GrpcTransport
from shardkv.admin import NodeStatus, ReplicaStatus
from shardkv.operating import Operator
from tests.support.patience import Patience

ROOT = Path(__file__).parents[2]
SOON = 20.0
"""Seconds for what takes two on an idle machine: only a failure waits so long."""
PROGRAM = (sys.executable, "-m", "shardkv")
NODE_LINE = re.compile(r"(n\d+) client (\S+) pid (\d+)")
OBITUARY = re.compile(r"(n\d+) (.+); start it again with: (.+)")

T = TypeVar("T")
Seen = Mapping[str, NodeStatus | None]


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would reach into the programs that are tested."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SHARDKV_")}
    return kept | {"PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"} | more


def wait_for(
    condition: Callable[[], T], what: str, seconds: float = SOON, *, pause: float = 0.01
) -> T:
    """The first true answer; `what` is for the failure's text."""
    patience = Patience(seconds)
    while not (found := condition()):
        assert not patience.ended(), f"not within {seconds:g} s: {what}"
        time.sleep(pause)
    return found


def free_base_port(nodes: int, step: int = 10) -> int:
    """A base for so many nodes, below the ports that the system hands out."""
    rng = SystemRandom()
    for _ in range(200):
        base = rng.randrange(10_000, 31_000, 100)
        if all(_is_free(base + step * n + k) for n in range(nodes) for k in range(3)):
            return base
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_naming(directory: Path) -> list[int]:
    """Every process whose command line names something in the directory."""
    name = os.fsencode(directory)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if any(word == name or word.startswith(name + b"/") for word in words):
                found.append(int(entry.name))
    return found


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended and what it said."""

    status: int
    out: bytes
    err: str
    seconds: float


def run_program(
    *arguments: str | bytes, stdin: bytes = b"", seconds: float = 30, **env: str
) -> Ended:
    """Run `shardkv ARGUMENTS` to its end."""
    begun = time.monotonic()
    done = subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        timeout=seconds,
        cwd=ROOT,
        env=environment(**env),
        check=False,
    )
    ended = Ended(done.returncode, done.stdout, done.stderr.decode(), time.monotonic() - begun)
    assert "Traceback" not in ended.err, ended.err
    return ended


_WARM = """
import gc, json, os, sys
from shardkv.cli.main import COMMANDS, run
import shardkv.aio, shardkv.node, shardkv.launcher, shardkv.control
from shardkv.cli import ctl, importing, node, status, store, up
gc.collect(); gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if not pid:
        for number, name in enumerate(order["streams"]):
            mode = os.O_RDONLY if number == 0 else os.O_WRONLY
            os.dup2(os.open(name, mode), number)
        os.environ.update(order["env"])
        status = 70
        try:
            status = run(order["words"])
            sys.stdout.flush()
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Warm:
    """Runs command lines, one at a time, each in a process forked from one that has imported all.

    What runs is what `shardkv` runs; only a third of a second of imports is saved each time.

    Args:
        directory: Where the streams of what runs are.
        prefix: A command line that runs another one, somewhere.
    """

    def __init__(self, directory: Path, *, prefix: Sequence[str] = ()) -> None:
        self._streams = [directory / f"warm.{name}" for name in ("in", "out", "err")]
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _WARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
            text=True,
        )
        self._begun = 0.0

    def run(self, *words: str | bytes, stdin: bytes = b"", **env: str) -> Ended:
        """Run `shardkv WORDS` to its end."""
        self.begin(*words, stdin=stdin, **env)
        return self.end()

    def begin(self, *words: str | bytes, stdin: bytes = b"", **env: str) -> int:
        """Start `shardkv WORDS`; returns its process id. `end` must follow."""
        assert self._process.stdin is not None
        for stream, content in zip(self._streams, (stdin, b"", b""), strict=True):
            stream.write_bytes(content)
        order = {
            "words": [os.fsdecode(word) for word in words],
            "streams": [str(stream) for stream in self._streams],
            "env": env,
        }
        self._begun = time.monotonic()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def said(self) -> str:
        """What the one that runs has said on standard error so far."""
        return self._streams[2].read_text()

    def end(self) -> Ended:
        """Wait for the end."""
        status = int(self._answer())
        seconds = time.monotonic() - self._begun
        ended = Ended(status, self._streams[1].read_bytes(), self.said(), seconds)
        assert "Traceback" not in ended.err, ended.err
        return ended

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process that forks ended with {self._process.wait()}"
        return line

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(SOON)


@dataclass(slots=True)
class Node:
    """A node of the cluster; `process` is set once the test itself started it again."""

    name: str
    client: str
    peer: str
    data: Path
    pid: int
    process: subprocess.Popen[bytes] | None = None


class Cluster:
    """One `shardkv up` and its nodes, in a directory.

    Args:
        directory: Empty, or one that a cluster was started in before.
        data: Where the cluster lives, inside the directory.
        settings: `SHARDKV_...` for every node's environment.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        groups: int = 1,
        replicas: int = 3,
        shards: int = 8,
        data: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.data = data or directory / "data"
        # A large ballast is copied with each directory that a test copies; one of them wants it.
        self.settings = {"SHARDKV_BALLAST_BYTES": "65536"} | dict(settings or {})
        self.nodes: dict[str, Node] = {}
        self.base_port = free_base_port(nodes + 3)
        self.flags = [
            *("--nodes", str(nodes), "--groups", str(groups), "--replicas", str(replicas)),
            *("--shards", str(shards), "--base-port", str(self.base_port)),
        ]
        self._runs = 0
        self._warm: Warm | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self._up: subprocess.Popen[bytes] | None = None

    # Starting

    def start(self, *flags: str) -> None:
        """Run `shardkv up` until it says `ready`."""
        self.begin(*flags)
        self.wait_ready()

    def begin(self, *flags: str) -> None:
        """Run `shardkv up`; its lines come later."""
        assert self._up is None or self._up.poll() is not None, "it runs already"
        self._runs += 1
        self._out = self.directory / f"up.{self._runs}.out"
        self._err = self.directory / f"up.{self._runs}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._up = subprocess.Popen(
                [*PROGRAM, "up", "--data", str(self.data), *(flags or self.flags)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env=environment(PYTHONPATH=str(ROOT), **self.settings),
            )

    def wait_ready(self) -> None:
        """Until `up` has printed its last line, and read what it printed."""
        up = self.up
        wait_for(
            lambda: "ready" in self.lines() or up.poll() is not None,
            "ready",
        )
        assert up.poll() is None, f"up ended with {up.poll()}: {self.complaints()}"
        listed = YAML(typ="safe").load((self.data / "cluster.yaml").read_text())
        self.endpoints: list[str] = listed["endpoints"]
        self.cluster = bytes.fromhex(listed["cluster"])
        *nodes, page = self.lines()[:-1]
        first = next(iter(listed["nodes"].values()))
        assert page in (f"page {way}://{first['http']}/" for way in ("http", "https")), page
        for line in nodes:
            match = NODE_LINE.fullmatch(line)
            assert match, f"an unexpected line: {line!r}"
            name, client, pid = match.groups()
            place = listed["nodes"][name]
            assert place["client"] == client
            self.nodes[name] = Node(name, client, place["peer"], Path(place["data"]), int(pid))

    @property
    def up(self) -> subprocess.Popen[bytes]:
        assert self._up is not None
        return self._up

    def lines(self) -> list[str]:
        """What `up` has printed."""
        return self._out.read_text().splitlines()

    def complaints(self) -> str:
        """What `up` has printed on standard error."""
        return self._err.read_text()

    # Hurting

    def kill(self, name: str) -> None:
        """kill -9."""
        self.send(name, signal.SIGKILL)
        self.wait_ended(name)

    def pause(self, name: str) -> None:
        self.send(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.send(name, signal.SIGCONT)

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.nodes[name].pid, number)

    def wait_ended(self, name: str, seconds: float = SOON) -> None:
        """Until the node's process is gone (or a zombie that its parent has not looked at)."""
        wait_for(lambda: not self.runs(name), f"the end of {name}", seconds)

    def runs(self, name: str) -> bool:
        node = self.nodes[name]
        if node.process is not None:
            return node.process.poll() is None
        return is_running(node.pid)

    def crash(self) -> None:
        """kill -9 of everything at once: `up` and all nodes."""
        for node in self.nodes.values():
            if self.runs(node.name):
                os.kill(node.pid, signal.SIGKILL)
        self.up.kill()
        self.up.wait()
        for name in self.nodes:
            self.wait_ended(name)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask `up` to take everything down; returns its exit status."""
        self.up.send_signal(number)
        return self.up.wait(SOON)

    # Single nodes

    def obituary(self, name: str) -> tuple[str, list[str]]:
        """What `up` says of a node that ended: how, and the words of the command to restart it."""

        def said() -> tuple[str, list[str]] | None:
            for line in reversed(self.complaints().splitlines()):
                match = OBITUARY.search(line)
                if match and match[1] == name:
                    return match[2], shlex.split(match[3])
            return None

        return wait_for(said, f"a word of up about the end of {name}")

    def restart(
        self, name: str, *, wait: bool = True, program: Sequence[str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a node again by the command that `up` printed, or as another `program`."""
        node = self.nodes[name]
        assert not self.runs(name)
        if node.process is None:
            words = self.obituary(name)[1]
            assert words == ["shardkv", "node", "--data", str(node.data)]
        process = self.start_node(node.data, program=program or PROGRAM)
        node.process, node.pid = process, process.pid
        if wait:
            wait_for(
                lambda: listens(node.client) or process.poll() is not None, f"{name} listening"
            )
            assert process.poll() is None, f"{name} ended with {process.poll()}"
        return process

    def start_node(
        self,
        data: Path,
        *flags: str,
        prefix: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
    ) -> subprocess.Popen[bytes]:
        """`shardkv node --data DATA`, with what it says on standard error in a file."""
        with (self.directory / f"{data.name}.err").open("ab") as err:
            process = subprocess.Popen(
                [*prefix, *program, "node", "--data", str(data), *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                cwd=ROOT,
                env=environment(**self.settings),
            )
        self._started.append(process)
        return process

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """A node that a test has started by itself; `close` waits for it too."""
        self._started.append(process)

    def cli(self, *words: str | bytes, stdin: bytes = b"") -> Ended:
        """A command line against this cluster, one at a time."""
        if self._warm is None:
            self._warm = Warm(self.directory)
        return self._warm.run(*words, stdin=stdin, SHARDKV_ENDPOINTS=",".join(self.endpoints))

    # Ending

    def close(self) -> None:
        """End every process that names our directory."""
        deadline = time.monotonic() + SOON
        if self._warm is not None:
            self._warm.close()
        if self._up is not None and self._up.poll() is None:
            self._up.kill()
            self._up.wait()
        while pids := [pid for pid in processes_naming(self.directory) if is_running(pid)]:
            assert time.monotonic() < deadline, f"these do not end: {pids}"
            for pid in pids:
                for number in (signal.SIGKILL, signal.SIGCONT):
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        break
            time.sleep(0.01)
        for process in self._started:  # also those that a restart replaced
            process.wait()

    def logs(self) -> str:
        """The end of every node's log, for a failure's text."""
        tails = []
        for name, node in self.nodes.items():
            log = node.data / "node.log"
            lines = log.read_text().splitlines()[-25:] if log.exists() else ["no log"]
            tails += [f"--- {name} ---", *lines]
        return "\n".join([*tails, "--- up ---", self.complaints()])

    # Looking

    @asynccontextmanager
    async def eyes(self) -> AsyncIterator["Eyes"]:
        """To look at the cluster through the status of its nodes."""
        transport = GrpcTransport(self.cluster, "test")
        try:
            yield Eyes(Operator(transport, {n.name: n.client for n in self.nodes.values()}))
        finally:
            await transport.close()


def listens(address: str) -> bool:
    """Whether somebody takes connections there."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((host, int(port))) == 0


class Eyes:
    """Looks at a cluster until something is so."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    async def until(self, condition: Callable[[Seen], T], what: str, seconds: float = SOON) -> T:
        """The first true answer about what the nodes say."""
        patience = Patience(seconds)
        while True:
            seen = await self._operator.observe()
            if found := condition(seen):
                return found
            assert not patience.ended(), f"not within {seconds:g} s: {what}\n{shown(seen)}"
            await asyncio.sleep(0.02)

    async def leader(self, gid: int, *, other_than: str = "") -> str:
        """The node that leads a group, once there is one."""
        return await self.until(
            lambda seen: leader_in(seen, gid, other_than), f"a leader of group {gid}"
        )

    async def whole(self, seconds: float = SOON) -> None:
        """Once every node answers, every group leads, and every replica has applied all."""
        await self.until(is_whole, "the cluster whole and caught up", seconds)


def leader_in(seen: Seen, gid: int, other_than: str = "") -> str:
    """Who leads; of several that think so, the one of the latest term. "" if nobody."""
    leaders = [
        (replica.term, name)
        for name, replica in replicas_in(seen, gid)
        if replica.leads and name != other_than
    ]
    return max(leaders, default=(0, ""))[1]


def replicas_in(seen: Seen, gid: int) -> Iterator[tuple[str, ReplicaStatus]]:
    """Every replica of a group, with its node."""
    for name, status in seen.items():
        if status is not None and (replica := status.replica(gid)) is not None:
            yield name, replica


def is_whole(seen: Seen) -> bool:
    """Whether every node answers, every group leads and all replicas have applied all."""
    if any(status is None or status.state != "running" for status in seen.values()):
        return False
    gids = {replica.gid for status in seen.values() if status for replica in status.replicas}
    for gid in gids:
        leader = leader_in(seen, gid)
        if not leader:
            return False
        replicas = dict(replicas_in(seen, gid))
        commit = replicas[leader].commit
        if replicas.keys() != {member.node for member in replicas[leader].voters}:
            return False
        if any(replica.applied < commit or replica.stopped for replica in replicas.values()):
            return False
    return True


def shown(seen: Seen) -> str:
    """What the nodes say, in a few lines."""
    lines = []
    for name, status in seen.items():
        if status is None:
            lines.append(f"{name} silent")
            continue
        replicas = ", ".join(
            f"{r.gid}: {r.role} t{r.term} c{r.commit} a{r.applied}{r.stopped and ' STOPPED'}"
            for r in status.replicas
        )
        lines.append(f"{name} {status.state} config {status.config_number} [{replicas}]")
    return "\n".join(lines)


def run(scenario: Coroutine[Any, Any, T], seconds: float = 90) -> T:
    """Run a scenario on a loop of its own."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await scenario

    return asyncio.run(bounded())


@contextmanager
def running(directory: Path, **shape: Any) -> Iterator[Cluster]:
    """A cluster that is ready, ended with all its processes whatever happens."""
    cluster = Cluster(directory, **shape)
    try:
        cluster.start()
        yield cluster
    except BaseException:
        sys.stderr.write(cluster.logs() + "\n")
        raise
    finally:
        cluster.close()
