"""`shardkv up`: a cluster of real node processes on this machine.

It is a loop that reads what is there and does the next missing step, under a lock on the
directory; so running it again finishes what a crash left:

1. no cluster there: write `founding.yaml` (the whole wish, with the cluster id drawn), make the
   nodes' directories, then rename it to `cluster.yaml`: from then on the directories must be there;
2. start a process a node, but where one runs already (`shardkv node`, by hand): that one is left to
   whoever started it, and only started again if it ends before all is ready;
3. give birth to the controller and the groups, and let them grow (`shardkv.growth`);
4. let the founding groups join, all in one configuration, and note that in `founded`. From then
   on the controller's configuration and the groups' own logs are the truth about who holds what,
   and the file only says how the cluster was founded: a node that was replaced since is not made a
   member again by step 3.

Nodes get the reading end of a pipe whose writing end only this process holds: when it ends,
by kill -9 too, they see the end of the pipe and stop.
"""

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO, Final

from labrpc.errors import AddressInUse, RpcError
from labrpc.grpc.transport import GrpcTransport
from raft.errors import DataInUse, DataUnusable
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardkv import clusterfile, config, nodedir, tls
from shardkv.clusterfile import ClusterFile, NodePlace
from shardkv.config import ConfigError
from shardkv.control import endpoints_of, groups_complete, join_founders
from shardkv.errors import ShardKVError, Unavailable
from shardkv.growth import CONTROLLER_GID, Wish, spread
from shardkv.operating import Operator
from shardkv.text import quoted

log = logging.getLogger(__name__)

FOUNDING: Final = "founding.yaml"
FOUNDED: Final = "founded"
LOCK: Final = "up.lock"
NODES_DEFAULT, GROUPS_DEFAULT, REPLICAS_DEFAULT, SHARDS_DEFAULT = 3, 2, 3, 64
BASE_PORT_DEFAULT: Final = 7400
PORT_STEP: Final = 10
NODES_MAX: Final = 64
GROUPS_MAX: Final = 256
REPLICAS_MAX: Final = 9
START_SECONDS: Final = 60.0
"""From the start of the processes until every group has all its voters, and every node knows."""
RESTORED_SECONDS: Final = 1800.0
"""What the groups of a restored cluster get to be copied to all their nodes in."""
STOP_SECONDS: Final = 10.0
"""What a node gets to stop in before it is killed."""
HOST: Final = "127.0.0.1"
OWN_VARIABLES: Final = ("node", "client", "peer", "http", "seeds", "shards")
"""Keys that differ from node to node, or belong to the cluster: the environment has no say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `up` was asked for; None where no flag was given."""

    data: Path
    nodes: int | None = None
    groups: int | None = None
    replicas: int | None = None
    shards: int | None = None
    base_port: int | None = None


def founding(plan: Plan, cluster: str) -> ClusterFile:
    """The cluster that an empty directory gets. Pure.

    Raises:
        ConfigError: the flags do not fit together.
    """
    nodes = NODES_DEFAULT if plan.nodes is None else plan.nodes
    replicas = min(REPLICAS_DEFAULT, nodes) if plan.replicas is None else plan.replicas
    base_port = BASE_PORT_DEFAULT if plan.base_port is None else plan.base_port
    if replicas > nodes:
        raise ConfigError(f"--replicas {replicas} needs as many nodes, there are {nodes}")
    if base_port + PORT_STEP * (nodes - 1) + 2 > 65535:
        raise ConfigError(f"--base-port {base_port} leaves no room for {nodes} nodes below 65536")
    names = [f"n{number}" for number in range(1, nodes + 1)]
    wishes = spread(names, GROUPS_DEFAULT if plan.groups is None else plan.groups, replicas)
    places = {}
    for number, name in enumerate(names):
        port = base_port + PORT_STEP * number
        directory = plan.data / name
        places[name] = NodePlace(
            client=f"{HOST}:{port}",
            peer=f"{HOST}:{port + 1}",
            http=f"{HOST}:{port + 2}",
            data=str(directory),
            log=str(directory / nodedir.LOG_FILE),
        )
    return ClusterFile(
        cluster=cluster,
        shards=SHARDS_DEFAULT if plan.shards is None else plan.shards,
        nodes=places,
        controller=wishes[0].nodes,
        groups={wish.gid: wish.nodes for wish in wishes[1:]},
    )


def check_against(plan: Plan, found: ClusterFile) -> None:
    """Refuse flags that contradict the cluster that is there.

    Raises:
        ConfigError: names the flag, what it says and what is there.
    """
    first = next(iter(found.nodes.values()))
    there = {
        "--nodes": (plan.nodes, len(found.nodes)),
        "--groups": (plan.groups, len(found.groups)),
        "--replicas": (plan.replicas, len(found.controller)),
        "--shards": (plan.shards, found.shards),
        "--base-port": (plan.base_port, int(first.client.rpartition(":")[2])),
    }
    for flag, (asked, is_there) in there.items():
        if asked is not None and asked != is_there:
            raise ConfigError(
                f"{flag} {asked} contradicts the cluster in {plan.data}, founded with {is_there}: "
                "leave the flag out to resume it, or give another --data"
            )


def wishes_of(file: ClusterFile) -> tuple[Wish, ...]:
    """The controller and the founding groups."""
    groups = [Wish(gid, nodes) for gid, nodes in file.groups.items()]
    return (Wish(CONTROLLER_GID, file.controller), *groups)


class DirectoryLock:
    """Held while `up` runs on a directory; the system lets go of it when the process ends."""

    def __init__(self, directory: Path) -> None:
        self._file: IO[str] = (directory / LOCK).open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise
            raise DataInUse(f"{directory} is in use: another `shardkv up` runs on it") from error

    def release(self) -> None:
        self._file.close()


def prepare(plan: Plan) -> ClusterFile:
    """The cluster of the directory: the one that is there, or a new one with all directories made.

    Raises:
        ConfigError, DataUnusable, AddressInUse, DataInUse: nothing was changed.
    """
    existing = plan.data / clusterfile.NAME
    unfinished = plan.data / FOUNDING
    if existing.exists():
        found = clusterfile.read(existing)
        check_against(plan, found)
        for name in found.nodes:
            if not nodedir.exists(plan.data / name):
                raise DataUnusable(
                    f"{plan.data / name}: the data of node {name} is gone: a node never comes back "
                    f"empty. Put it back; or take {name} out of the `nodes:` in {existing}, start "
                    f"again, and replace it (`shardkv init --join`, `shardkv ctl replace {name}`)"
                )
            check_owner(plan.data / name, name, found.cluster)
        check_ports(found)
        return found
    if unfinished.exists():
        wish = clusterfile.read(unfinished)
        check_against(plan, wish)
        check_ports(wish)
    else:
        wish = founding(plan, secrets.token_hex(16))
        foreign = sorted(
            p.name for p in plan.data.iterdir() if p.name not in (LOCK, f"{FOUNDING}.new")
        )
        if foreign:
            raise DataUnusable(
                f"{plan.data}: not empty ({quoted(foreign[0])} is there) and no cluster: give "
                "--data an empty or new directory"
            )
        check_ports(wish)
        clusterfile.replace_file(unfinished, wish.render())
    for name, place in wish.nodes.items():
        make_node(plan.data / name, name, place, wish)
    unfinished.rename(existing)
    clusterfile.sync_directory(plan.data)
    return wish


def check_owner(directory: Path, name: str, cluster: str) -> None:
    """Refuse a directory that another node, or a node of another cluster, left there.

    Raises:
        DataUnusable: names whose it is.
    """
    owner = nodedir.identity(directory)
    if (owner.node, owner.cluster.hex()) != (name, cluster):
        raise DataUnusable(
            f"{directory}: belongs to node {owner.node} of cluster {owner.cluster.hex()}, not to "
            f"node {name} of cluster {cluster}: put the right directory there; nothing was changed"
        )


def make_node(directory: Path, name: str, place: NodePlace, wish: ClusterFile) -> None:
    """Make a node's directory, unless it is made."""
    if nodedir.exists(directory):
        return
    nodedir.create(
        directory,
        cluster=bytes.fromhex(wish.cluster),
        settings={
            "node": name,
            "client": place.client,
            "peer": place.peer,
            "http": place.http,
            "seeds": wish.endpoints,
            "shards": wish.shards,
        },
    )


def check_ports(file: ClusterFile) -> None:
    """Find a port that is in use before anything is touched; a node that runs has its own.

    Raises:
        AddressInUse: names it.
        DataInUse: a node is just being started.
    """
    for place in file.nodes.values():
        if nodedir.runner(Path(place.data)) is not None:
            continue
        for address in (place.client, place.peer):
            host, _, port = address.rpartition(":")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, int(port)))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    raise AddressInUse(address) from error


class NodeProcess(ABC):
    """A node's process, whoever started it."""

    def __init__(self, name: str, place: NodePlace) -> None:
        self.name, self.place = name, place
        self.command = ["shardkv", "node", "--data", place.data]
        self.told = False

    @abstractmethod
    def end(self) -> str:
        """How it ended; "" while it runs."""

    def obituary(self) -> str:
        """What became of it, and the command that starts it again."""
        return f"{self.name} {self.end()}; start it again with: {shlex.join(self.command)}"


class FoundProcess(NodeProcess):
    """One that ran before `up` did, and is left to whoever started it."""

    def __init__(self, name: str, place: NodePlace, pid: int) -> None:
        """
        Raises:
            ProcessLookupError: it has ended meanwhile.
        """
        super().__init__(name, place)
        self._handle = os.pidfd_open(pid)

    def end(self) -> str:
        return "ended" if select.select([self._handle], [], [], 0)[0] else ""

    def close(self) -> None:
        os.close(self._handle)


class OwnProcess(NodeProcess):
    """One that `up` started, and that ends with it."""

    def __init__(self, name: str, place: NodePlace, lifeline: int) -> None:
        super().__init__(name, place)
        inherited = {
            key: value
            for key, value in config.environment().items()
            if key not in {config.variable(own) for own in OWN_VARIABLES}
        }
        self.process = subprocess.Popen(  # noqa: S603  (our own program, no shell)
            [sys.executable, "-m", "shardkv", *self.command[1:], "--lifeline", str(lifeline)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(lifeline,),
            start_new_session=True,  # Ctrl-C on the terminal is for `up`, which stops its nodes
            env=inherited,
        )

    @property
    def status(self) -> int | None:
        """The exit status (negative: the signal that killed it); None while it runs."""
        return self.process.poll()

    def end(self) -> str:
        status = self.status
        if status is None:
            return ""
        return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


class Launcher:
    """Runs the node processes of one cluster until it is told to stop.

    Args:
        say: Told each line for standard output.
        warn: Told each line for standard error.
    """

    def __init__(
        self, file: ClusterFile, *, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self._file = file
        self._say, self._warn = say, warn
        self._reading, self._lifeline = os.pipe()
        self._processes: dict[str, NodeProcess] = {}
        self._stopping = asyncio.Event()
        self._signals = 0

    async def run(self) -> int:
        """Start the nodes, found what is missing, stay until a signal; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        watch: asyncio.Task[None] | None = None
        status = 0
        try:
            for name, place in self._file.nodes.items():
                self._processes[name] = self._found(name, place) or self._started(name, place)
            status = await self._until_ready()
            if status == 0 and not self._stopping.is_set():
                first = next(iter(self._file.nodes.values()))
                scheme = "http" if tls.of_environment(config.environment()) is None else "https"
                self._say(f"page {scheme}://{first.http}/")
                self._say("ready")
                watch = loop.create_task(self._watch())
                await self._stopping.wait()
        finally:
            if watch is not None:
                watch.cancel()
            killed = await self._stop_all()
            for process in self._processes.values():
                if isinstance(process, FoundProcess):
                    process.close()
            os.close(self._lifeline)
            os.close(self._reading)
        return status or (1 if killed and self._signals < 2 else 0)

    def _started(self, name: str, place: NodePlace) -> OwnProcess:
        return OwnProcess(name, place, self._reading)

    def _found(self, name: str, place: NodePlace) -> FoundProcess | None:
        """The process that runs on the node's directory already."""
        pid = nodedir.runner(Path(place.data))
        if pid is None:
            return None
        try:
            found = FoundProcess(name, place, pid)
        except ProcessLookupError:
            return None
        self._warn(f"{name} runs already, process {pid}: it is not stopped with the others")
        return found

    @property
    def _own(self) -> list[OwnProcess]:
        return [node for node in self._processes.values() if isinstance(node, OwnProcess)]

    def _on_signal(self) -> None:
        self._signals += 1
        self._stopping.set()
        if self._signals > 1:
            self._kill_all()

    async def _until_ready(self) -> int:
        """Bring the cluster to where every node can serve; the status if it failed."""
        files = tls.of_environment(config.environment())
        secured = files.dialling() if files is not None else None
        transport = GrpcTransport(bytes.fromhex(self._file.cluster), "up", tls=secured)
        work = asyncio.create_task(self._establish(transport))
        stopped = asyncio.create_task(self._stopping.wait())
        died = asyncio.create_task(self._first_death())
        try:
            await asyncio.wait([work, stopped, died], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return 0
            if died.done():
                return self._explain_death(died.result())
            return 0
        except (ShardKVError, ShardCtrlerError, RpcError) as error:
            self._warn(f"not ready: {error}")
            return 3
        finally:
            for task in (work, stopped, died):
                task.cancel()
            await asyncio.gather(work, stopped, died, return_exceptions=True)
            await transport.close()

    async def _establish(self, transport: GrpcTransport) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        nodes = {name: place.client for name, place in self._file.nodes.items()}
        operator = Operator(transport, nodes)
        await self._introduce(operator, deadline)
        controller, *founders = wishes_of(self._file)
        directory = Path(next(iter(self._file.nodes.values())).data).parent
        founded = directory / FOUNDED
        if not founded.exists():
            await operator.grow([controller], deadline=deadline)
        client = ControllerClient(
            transport, endpoints_of(self._file.endpoints), Random(secrets.randbits(64))
        )
        try:
            if not founded.exists():
                await self._grow_restored(operator, founders)
                await join_founders(client, operator, founders, deadline=deadline)
                clusterfile.replace_file(founded, "Step 4 of `shardkv up` is done.\n")
            await groups_complete(client, operator, deadline=deadline)
        finally:
            await client.close()

    async def _grow_restored(self, operator: Operator, founders: list[Wish]) -> None:
        """Give the groups of a restored cluster all their voters: a restore leaves each with one.

        Cut off anywhere, the next `up` goes on: the mark goes when all is done.
        """
        mark = Path(next(iter(self._file.nodes.values())).data).parent / clusterfile.GROWING
        if not mark.exists():
            return
        deadline = asyncio.get_running_loop().time() + RESTORED_SECONDS
        await operator.grow(founders, deadline=deadline, progress=self._warn)
        mark.unlink()
        clusterfile.sync_directory(mark.parent)

    async def _introduce(self, operator: Operator, deadline: float) -> None:
        """Print a line a node, in order, each as soon as it answers."""
        waiting = list(self._processes.values())
        while waiting:
            seen = await operator.observe()
            while waiting and (status := seen[waiting[0].name]) is not None:
                node = waiting.pop(0)
                self._say(f"{node.name} client {node.place.client} pid {status.pid}")
            if waiting and asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"{waiting[0].name} does not answer; see {waiting[0].place.log}")
            if waiting:
                await asyncio.sleep(0.05)

    async def _first_death(self) -> OwnProcess:
        """The first of ours that ends. One that was found and ends is started by us: it was on its
        way out, as those are whose `up` was killed."""
        while True:
            for name, process in self._processes.items():
                if not process.end():
                    continue
                if isinstance(process, OwnProcess):
                    return process
                self._processes[name] = self._started(name, process.place)
                if isinstance(process, FoundProcess):
                    process.close()
            await asyncio.sleep(0.05)

    def _explain_death(self, process: OwnProcess) -> int:
        self._warn(f"{process.obituary()}; its log: {process.place.log}")
        status = process.status or 0
        return status if status > 0 else 1

    async def _watch(self) -> None:
        """Say when a node ends, and what would start it again; start nothing."""
        while True:
            for process in self._processes.values():
                if process.end() and not process.told:
                    process.told = True
                    self._warn(process.obituary())
            await asyncio.sleep(0.2)

    async def _stop_all(self) -> bool:
        """Take every node down that is ours; returns whether one had to be killed.

        SIGINT: stop without handing leadership on, since everybody goes.
        """
        running = [node for node in self._own if not node.end()]
        for node in running:
            with suppress(ProcessLookupError):
                node.process.send_signal(signal.SIGINT)
        deadline = asyncio.get_running_loop().time() + STOP_SECONDS
        while any(not node.end() for node in running):
            if asyncio.get_running_loop().time() > deadline:
                self._kill_all()
                return True
            await asyncio.sleep(0.02)
        return False

    def _kill_all(self) -> None:
        for node in self._own:
            if not node.end():
                node.process.kill()
                node.process.wait()


def up(plan: Plan, *, say: Callable[[str], None], warn: Callable[[str], None]) -> int:
    """Run a cluster until SIGINT or SIGTERM; returns the exit status.

    Raises:
        ConfigError, DataUnusable, AddressInUse, DataInUse: nothing was started.
    """
    if not (plan.data / clusterfile.NAME).exists():
        founding(plan, cluster="")  # refused before anything is made
    try:
        plan.data.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(plan.data)
    except OSError as error:
        raise ConfigError(f"--data {plan.data} cannot be used: {error.strerror}") from error
    try:
        file = prepare(plan)
        return asyncio.run(_run(file, say, warn))
    finally:
        lock.release()


async def _run(file: ClusterFile, say: Callable[[str], None], warn: Callable[[str], None]) -> int:
    return await Launcher(file, say=say, warn=warn).run()
