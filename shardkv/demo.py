"""`make demo`: a story that a store must survive, told on real processes with real files.

Six node processes, a controller of three, two groups of three. Every source file of the running
Python's standard library is written, pass after pass, while clerks append to one counter log and
probes read from every shard. Meanwhile a leader is killed and comes back, a third group joins, the
first leaves, everything is killed at once and starts again. At the end every byte is compared.

What is checked: each file holds its bytes, and its version says that each acknowledged write was
done once; the counter log holds each acknowledged append exactly once, in its clerk's order.
"""

import asyncio
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from labrpc.grpc.transport import GrpcTransport
from shardkv import aio, clusterfile, config, tls
from shardkv.clerk import Clerk
from shardkv.clusterfile import ClusterFile
from shardkv.errors import OutcomeUnknown, ShardKVError
from shardkv.growth import Seen, leader_of
from shardkv.limits import VALUE_BYTES_MAX
from shardkv.node import loop_factory
from shardkv.operating import Operator
from shardkv.routing import SlotRouting
from shardkv.types import Row

NODES: Final = 6
SHARDS: Final = 64
WRITERS: Final = 48
"""Files on their way at a time."""
APPENDERS: Final = 4
APPEND_PAUSE_SECONDS: Final = 0.05
PROBE_PAUSE_SECONDS: Final = 0.05
OPERATION_SECONDS: Final = 60.0
"""The deadline of each operation: longer than everything that is done to the cluster."""
READY_SECONDS: Final = 60.0
STEP_SECONDS: Final = 60.0
"""What each step of the story may take before it has failed."""
POLL_SECONDS: Final = 0.05
COUNTER: Final = b"counter.log"
FILES: Final = b"lib/"


class DemoFailed(Exception):
    """The store lost, doubled or mixed up something, or did not come back."""


@dataclass(slots=True)
class Files:
    """What was written of the files."""

    contents: dict[bytes, bytes]
    acknowledged: Counter[bytes] = field(default_factory=Counter)
    unknown: Counter[bytes] = field(default_factory=Counter)
    passes: int = 0


@dataclass(slots=True)
class Probes:
    """How long each probe of a shard took: (shard, begun, ended), in loop seconds."""

    done: list[tuple[int, float, float]] = field(default_factory=list)

    def longest(self, since: float, shards: frozenset[int] | None = None) -> float:
        """The longest that a read of these shards took that was under way after `since`."""
        took = [
            ended - max(begun, since)
            for shard, begun, ended in self.done
            if ended > since and (shards is None or shard in shards)
        ]
        return max(took, default=0.0)


def source_files() -> dict[bytes, bytes]:
    """Every source file of the running Python's standard library: relative path and bytes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not {"site-packages", "dist-packages"} & set(parts) and path.is_file():
            data = path.read_bytes()
            if len(data) <= VALUE_BYTES_MAX:
                found[FILES + os.fsencode("/".join(parts))] = data
    return found


class Cluster:
    """The processes of the story: `shardkv up`, and nodes that are started again by hand."""

    def __init__(self, directory: Path, base_port: int) -> None:
        self.directory = directory
        self._base_port = base_port
        self._up: asyncio.subprocess.Process | None = None
        self._nodes: dict[str, int] = {}  # name -> pid
        self._restarted: list[asyncio.subprocess.Process] = []
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run `shardkv up` until it is ready."""
        self._up = await _shardkv(
            "up", "--data", str(self.directory), "--nodes", str(NODES), "--groups", "2",
            "--replicas", "3", "--shards", str(SHARDS), "--base-port", str(self._base_port),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._up.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            while line := (await self._up.stdout.readline()).decode().strip():
                if line == "ready":
                    self._reader = asyncio.create_task(_drain(self._up.stdout))
                    return
                name, *_, pid = line.split()
                if name != "page":
                    self._nodes[name] = int(pid)
        raise DemoFailed("`shardkv up` did not get ready")

    @property
    def file(self) -> ClusterFile:
        return clusterfile.read(self.directory / clusterfile.NAME)

    def kill(self, node: str) -> None:
        """kill -9 one node."""
        os.kill(self._nodes[node], signal.SIGKILL)

    async def restart(self, node: str) -> None:
        """The command that `up` printed."""
        process = await _shardkv("node", "--data", str(self.directory / node))
        self._restarted.append(process)
        self._nodes[node] = process.pid

    async def kill_all(self) -> None:
        """kill -9 every process at once; nothing, if none runs."""
        if self._up is None:
            return
        for pid in (*self._nodes.values(), self._up.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._gone()

    async def stop(self) -> int:
        """Ctrl-C; returns `up`'s exit status."""
        if self._up is None:
            return 0
        for process in (*self._restarted, self._up):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        return await self._gone()

    async def _gone(self) -> int:
        assert self._up is not None
        for process in self._restarted:
            await process.wait()
        status = await self._up.wait()
        if self._reader is not None:
            await self._reader
        self._restarted, self._nodes, self._up = [], {}, None
        return status


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


async def _shardkv(*arguments: str, stdout: int | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shardkv", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=stdout, start_new_session=True,
    )  # fmt: skip


class Load:
    """What clients do throughout the story. The last clerk only reads."""

    def __init__(self, clerks: list[Clerk], files: Files) -> None:
        self._clerks = clerks
        self.files = files
        self.appended = [0] * APPENDERS  # lines of each clerk: acknowledged, or unknown
        self.appends_unknown: set[tuple[int, int]] = set()
        self.probes = Probes()
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._began = self._loop.time()
        self._ended = 0.0

    @property
    def operations(self) -> int:
        """Acknowledged writes so far."""
        return self.files.acknowledged.total() + sum(self.appended) - len(self.appends_unknown)

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return (self._ended or self._loop.time()) - self._began

    def start(self) -> None:
        work = [self._passes(), *(self._append(number) for number in range(APPENDERS))]
        work += [self._probe(shard, key) for shard, key in a_key_of_each_shard().items()]
        self._tasks = [asyncio.create_task(one) for one in work]

    async def stop(self) -> None:
        """Finish what is under way; raises what a task raised."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        self._ended = self._loop.time()

    async def abort(self) -> None:
        """End without looking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what a task has raised."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _passes(self) -> None:
        """Write all files, again and again; many at a time, and a pass before the next."""
        while not self._stopping:
            waiting = iter(self.files.contents.items())
            await asyncio.gather(*(self._write(waiting) for _ in range(WRITERS)))
            self.files.passes += 1

    async def _write(self, waiting: Iterator[tuple[bytes, bytes]]) -> None:
        for key, data in waiting:  # one iterator: each file goes to one writer
            try:
                await self._clerks[0].put(key, data)
            except OutcomeUnknown:
                self.files.unknown[key] += 1
            else:
                self.files.acknowledged[key] += 1
            if self._stopping and self.files.passes:
                return

    async def _append(self, number: int) -> None:
        """One line after the other, each awaited: so a clerk's order is the log's."""
        while not self._stopping:
            line = self.appended[number] + 1
            try:
                await self._clerks[number].append(COUNTER, b"%d %d\n" % (number, line))
            except OutcomeUnknown:
                self.appends_unknown.add((number, line))
            self.appended[number] = line
            await asyncio.sleep(APPEND_PAUSE_SECONDS)

    async def _probe(self, shard: int, key: bytes) -> None:
        while not self._stopping:
            begun = self._loop.time()
            await self._clerks[-1].get(key)
            self.probes.done.append((shard, begun, self._loop.time()))
            await asyncio.sleep(PROBE_PAUSE_SECONDS)


def a_key_of_each_shard() -> dict[int, bytes]:
    """Shard -> a key that lies in it."""
    routing, keys, number = SlotRouting(SHARDS), dict[int, bytes](), 0
    while len(keys) < SHARDS:
        key = b"probe/%d" % number
        keys.setdefault(routing(key), key)
        number += 1
    return keys


class Story:
    """The story, step by step; `say` gets a line for each."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._say = say
        self._began = time.monotonic()

    async def run(self) -> None:
        """Tell it to the end.

        Raises:
            DemoFailed, ShardKVError: something was not so.
        """
        contents = source_files()
        size = sum(map(len, contents.values()))
        self._tell(f"{len(contents):,} source files of Python's library, {size:,} bytes")
        await self._cluster.start()
        self._tell(f"ready: {NODES} nodes, a controller of 3, 2 groups of 3, {SHARDS} shards")
        file = self._cluster.file
        files = tls.of_environment(config.environment())
        async with AsyncExitStack() as stack:
            clerks = [
                await stack.enter_async_context(
                    aio.connect(file.endpoints, timeout=OPERATION_SECONDS, tls=files)
                )
                for _ in range(APPENDERS + 1)
            ]
            secured = files.dialling() if files is not None else None
            transport = GrpcTransport(bytes.fromhex(file.cluster), "demo", tls=secured)
            stack.push_async_callback(transport.close)
            operator = Operator(transport, {n: place.client for n, place in file.nodes.items()})
            load = Load(clerks, Files(contents))
            load.start()
            try:
                outage, unavailable = await self._suffer(operator, load)
                await load.stop()
            finally:
                await load.abort()
            appends = await self._verify(clerks[0], load)
        rate = load.operations / load.seconds
        written = sum(len(contents[key]) * n for key, n in load.files.acknowledged.items())
        self._say("")
        figures = {
            "files": f"{len(contents):,}, {size:,} bytes",
            "written": f"{load.files.passes} passes, {written:,} bytes",
            "operations": f"{load.operations:,} writes, {rate:,.0f} per second",
            "without service": f"{outage:.2f} s after the kill of a leader",
            "unavailable": f"{unavailable:.2f} s, the longest of any shard during the moves",
        }
        for name, figure in figures.items():
            self._say(f"{name:<16} {figure}")
        self._say(
            f"verified {len(contents):,} files, {appends:,} appends: nothing lost, nothing doubled"
        )

    async def _suffer(self, operator: Operator, load: Load) -> tuple[float, float]:
        """Everything that is done to the cluster.

        Returns:
            Seconds without service after the kill, and the longest that a shard was unavailable
            during the moves.
        """
        await self._passes_more(load)
        self._tell(f"the first pass is in, {load.operations / load.seconds:,.0f} writes per second")
        outage = await self._kill_a_leader(operator, load)
        began = asyncio.get_running_loop().time()
        await self._ctl("join", "3=n1,n3,n5")
        await self._settled(operator, load, 2)
        self._tell("group 3 has joined, and a third of the shards have moved to it")
        await self._ctl("leave", "1")
        await self._settled(operator, load, 3)
        unavailable = load.probes.longest(began)
        self._tell("group 1 has left, and holds nothing")
        await self._passes_more(load)
        await self._cluster.kill_all()
        self._tell("kill -9 of every process at once")
        await self._cluster.start()
        self._tell("started again, and ready")
        await self._passes_more(load)
        return outage, unavailable

    async def _kill_a_leader(self, operator: Operator, load: Load) -> float:
        """Kill the node that leads group 1, go on, start it again; seconds without service."""
        found = leader_of(1, await operator.observe())
        if found is None:
            raise DemoFailed("group 1 has no leader")
        node, group = found
        shards = frozenset(shard.shard for shard in group.shards if shard.phase == "serving")
        killed = asyncio.get_running_loop().time()
        self._cluster.kill(node)
        self._tell(f"kill -9 of {node}, which leads group 1")

        async def served() -> bool:
            return shards <= {shard for shard, begun, _ in load.probes.done if begun > killed}

        await self._until("service after the kill", served, load)
        outage = load.probes.longest(killed, shards)
        self._tell(f"all its shards are served again, after {outage:.2f} s")
        await self._passes_more(load)
        await self._cluster.restart(node)

        async def is_back() -> bool:
            return has_caught_up(node, await operator.observe())

        await self._until(f"{node} to come back", is_back, load)
        self._tell(f"{node} is started again, and has caught up")
        return outage

    async def _verify(self, clerk: Clerk, load: Load) -> int:
        """Compare everything; returns the number of appends."""
        waiting = iter(load.files.contents.items())
        await asyncio.gather(*(check_files(clerk, load.files, waiting) for _ in range(WRITERS)))
        log = await clerk.get(COUNTER) or b""
        return check_counter(log, load.appended, load.appends_unknown)

    async def _ctl(self, *arguments: str) -> None:
        """An operator's command, as an operator gives it."""
        self._tell(f"shardkv ctl {' '.join(arguments)}")
        endpoints = ",".join(self._cluster.file.endpoints)
        process = await _shardkv("ctl", *arguments, "--endpoints", endpoints, "--timeout", "30",
                                 stdout=asyncio.subprocess.DEVNULL)  # fmt: skip
        if await process.wait() != 0:
            raise DemoFailed(f"`shardkv ctl {' '.join(arguments)}` failed")

    async def _settled(self, operator: Operator, load: Load, config: int) -> None:
        async def settled() -> bool:
            return has_settled(config, await operator.observe())

        await self._until(f"configuration {config} to settle", settled, load)

    async def _passes_more(self, load: Load) -> None:
        """Until the files have been written once more."""
        before = load.files.passes

        async def done() -> bool:
            return load.files.passes > before

        await self._until("another pass", done, load)

    async def _until(self, what: str, done: Callable[[], Awaitable[bool]], load: Load) -> None:
        deadline = time.monotonic() + STEP_SECONDS
        while not await done():
            load.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {STEP_SECONDS:g} s for {what}")
            await asyncio.sleep(POLL_SECONDS)

    def _tell(self, line: str) -> None:
        self._say(f"[{time.monotonic() - self._began:5.1f} s] {line}")


def has_caught_up(node: str, seen: Seen) -> bool:
    """Whether a node's replicas have applied all that their leaders had committed."""
    status = seen[node]
    if status is None or not status.replicas:
        return False
    for replica in status.replicas:
        found = leader_of(replica.gid, seen)
        if found is None or replica.stopped or replica.applied < found[1].commit - 100:
            return False
    return True


def has_settled(config: int, seen: Seen) -> bool:
    """Whether every group has taken a configuration and serves all that it holds, and together
    they serve every shard."""
    gids = {replica.gid for status in seen.values() if status for replica in status.replicas}
    serving = 0
    for gid in gids - {0}:
        found = leader_of(gid, seen)
        if found is None or found[1].config_number < config:
            return False
        phases = [shard.phase for shard in found[1].shards]
        if phases.count("serving") != len(phases):
            return False
        serving += len(phases)
    return serving == SHARDS


class Reads(Protocol):
    """What checking needs of the store."""

    async def get_row(self, key: bytes) -> Row: ...


async def check_files(clerk: Reads, files: Files, waiting: Iterator[tuple[bytes, bytes]]) -> None:
    """Each file holds its bytes, and was written as often as was acknowledged.

    Raises:
        DemoFailed: names the file.
    """
    for key, data in waiting:
        row = await clerk.get_row(key)
        if row.value != data:
            raise DemoFailed(f"{os.fsdecode(key)} does not hold the bytes that were written")
        least = files.acknowledged[key]
        if not least <= row.version <= least + files.unknown[key]:
            raise DemoFailed(
                f"{os.fsdecode(key)} was written {row.version} times, acknowledged were {least}"
            )


def check_counter(log: bytes, appended: list[int], unknown: set[tuple[int, int]]) -> int:
    """Each clerk's lines stand there once, in its order; those of unknown outcome at most once.

    Returns:
        How many lines there are.

    Raises:
        DemoFailed: names the first line that is not so.
    """
    lines = [tuple(map(int, line.split())) for line in log.splitlines()]
    for number, last in enumerate(appended):
        there = [line for clerk, line in lines if clerk == number]
        expected = [n for n in range(1, last + 1) if n in there or (number, n) not in unknown]
        if there != expected:
            at = next(
                (i for i, (a, b) in enumerate(zip(there, expected, strict=False)) if a != b),
                min(len(there), len(expected)),
            )
            raise DemoFailed(
                f"clerk {number}: append {at + 1} of the counter log is "
                f"{there[at] if at < len(there) else 'missing'}, not "
                f"{expected[at] if at < len(expected) else 'absent'}"
            )
    return len(lines)


def run(*, base_port: int, keep: Path | None, say: Callable[[str], None]) -> int:
    """Tell the story; returns the exit status, 0 only if everything was so."""
    directory = (keep or Path(tempfile.mkdtemp(prefix="shardkv-demo-"))).absolute()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        status = runner.run(_run(directory, base_port, say))
    if status != 0 or keep is not None:
        say(f"data and logs stay in {directory}")
    else:
        shutil.rmtree(directory)
    return status


async def _run(directory: Path, base_port: int, say: Callable[[str], None]) -> int:
    cluster = Cluster(directory, base_port)
    try:
        await Story(cluster, say).run()
        status = await cluster.stop()
        if status != 0:
            raise DemoFailed(f"`shardkv up` ended with status {status}")
    except (DemoFailed, ShardKVError) as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        await cluster.kill_all()
    return 0
