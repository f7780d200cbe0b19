"""The production process: one node's ports, databases and replicas, from start to stop.

The order of the start, so that whatever is wrong is said before more is touched:

1. the lock on the directory (exit status 4: no node there; 5: another process runs on it);
2. settings (2), and whose directory it is, by its promise, read only (4);
3. the ports (5). From here on `admin.status` answers "starting", everything else "later";
4. the databases, checked against the promise; each replica's log, link by link (4);
5. the replicas, then what runs above them.

The stop goes the other way round: leaderships are handed on, ports stop taking calls, replicas fall
silent, the last promise is written. A failed write or sync ends the process at once (4), wherever
it is: every group shares the handle, and after one the page cache lies.
"""

import asyncio
import gc
import logging
import os
import resource
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Final, TypeVar

from labrpc.errors import Refused
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.config import RaftConfig
from raft.courier import FrameCourier
from raft.disk.leveldb import EXIT_STATUS, end_process
from raft.disk.records import NodeIdentity
from raft.errors import DataUnusable
from raft.frames import FrameCodec
from raft.host import CompactionConfig, Host
from raft.membership import members
from raft.types import GroupId, NodeId
from shardctrler import protocol as ctrl
from shardctrler.types import NodeAddresses
from shardkv import __version__, admin, config, copies, logs, nodedir
from shardkv.admin import NodeStatus
from shardkv.admin_service import AdminService
from shardkv.aio import clerk_maker
from shardkv.assembly import Assembly
from shardkv.backup import protocol as backups
from shardkv.clerk import Clerk
from shardkv.config import ConfigError, NodeConfig, Settings
from shardkv.departing import Departing
from shardkv.disk_space import DiskSpace, give_up_ballast, make_ballast, space_of
from shardkv.healing import Healer
from shardkv.healing_beats import BEAT, HEALTH, Own
from shardkv.last_view import PAGE, VIEW
from shardkv.listing import LIST
from shardkv.load import LOAD, Meter, NodeLoad, node_load
from shardkv.node_tls import NodeTls, files_of
from shardkv.planner import HealPolicy
from shardkv.protocol import KV
from shardkv.reading import READ
from shardkv.typed import TypedService

if TYPE_CHECKING:
    from shardkv.http.front import FrontDoor
    from shardkv.span_export import Export
    from shardkv.tracing import Tracing

log = logging.getLogger(__name__)

T = TypeVar("T")

HAND_OVER_SECONDS: Final = 2.0
"""How long a stopping node waits for its leaderships to be taken over: a few milliseconds are
enough where another voter is up."""
HAND_OVER_LOOK_SECONDS: Final = 0.002
CLOSE_SECONDS: Final = 4.0
"""A stop that takes longer is cut off: nothing of it is needed to be safe."""
OPEN_FILES_WANTED: Final = 4096
OPEN_FILES_MIN: Final = 1024
"""Two databases of 256 files each, and connections of clients and peers."""
FREE_BYTES_MIN: Final = 64 * 1024 * 1024
"""What opening writes: the memory tables of both databases, as files."""
COLLECT_AFTER: Final = (20_000, 10, 10)
"""When the garbage collector looks: a node makes hundreds of tuples with each frame, and few things
that refer to each other in a ring; with Python's own 700 it cost a fifteenth of an idle node."""
LATER: Final = "UNAVAILABLE"

Beside = Callable[[], Awaitable[None]]


class Node:
    """One running node.

    Args:
        directory: Made by `nodedir.create`, and locked.
        settings: Checked.
        identity: Whose directory it is.
        warnings: What is barely right in the settings, for `/health`.
    """

    def __init__(
        self,
        directory: Path,
        settings: NodeConfig,
        identity: NodeIdentity,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self._directory = directory
        self._warnings = warnings
        self._config = settings
        self._identity = identity
        self._rng = SystemRandom()
        self._boot = secrets.randbits(63)
        self._started = time.monotonic()
        self._state = "starting"
        self._tls = self._read_certificates(settings)
        self._clients = GrpcTransport(
            identity.cluster,
            settings.node,
            address=Address(settings.client),
            bind=Address(settings.bound(settings.client)),
            tls=self._tls.clients if self._tls is not None else None,
        )
        self._peers = GrpcTransport(
            identity.cluster,
            settings.node,
            address=Address(settings.peer),
            bind=Address(settings.bound(settings.peer)),
            tls=self._tls.peers if self._tls is not None else None,
        )
        self._databases: nodedir.Opened | None = None
        self._host: Host | None = None
        self._assembly: Assembly | None = None
        self._admin: AdminService | None = None
        self._clerk: Clerk | None = None
        self._healer: Healer | None = None
        self._departing: Departing | None = None
        self._remembered: list[str] = []
        self._space = DiskSpace(lambda: space_of(directory), settings.free_percent_min)
        self._front: FrontDoor | None = None
        self._tracing: Tracing | None = None
        self._export: Export | None = None

    def trace(self, tracing: "Tracing") -> None:
        """Send spans there. Before `start`."""
        self._tracing = tracing

    def _read_certificates(self, settings: NodeConfig) -> NodeTls | None:
        files = files_of(settings)
        if files is None:
            return None
        return NodeTls(
            files,
            ask_clients=settings.tls_client_auth,
            known=self._addresses_of,
            clock=time.monotonic,
        )

    def _addresses_of(self, node: str) -> list[str]:
        """Where a node is known to be: by the controller, and by the groups that have replicas
        here, which know their members before the controller is heard."""
        found = []
        view = self._assembly.feed.view if self._assembly is not None else None
        if view is not None and (there := view.directory.nodes.get(NodeId(node))) is not None:
            found += [address for address in there if address]
        for replica in self._host.replicas.values() if self._host is not None else ():
            for member in members(replica.core.membership).values():
                if member.node == node:
                    found.append(member.address)
        return found

    async def start(self) -> None:
        """Open the ports, then the data, then take part.

        Raises:
            CannotListen: a port is in use or cannot be had; no data was touched.
            DataUnusable: the data is damaged, cut, missing or another's.
        """
        self._answer_later()
        self._begin_tracing()
        self._clients.serve_kv(TypedService(lambda: self._clerk, self._full_status))
        await self._clients.start()
        await self._peers.start()
        await self._open_front_door()
        make_ballast(
            self._directory,
            self._config.ballast_bytes,
            space_of(self._directory),
            self._config.free_percent_min,
        )
        self._databases = await nodedir.open_databases(
            self._directory,
            self._identity,
            compression=self._config.compression,
            on_failure=_storage_failed,
        )
        self._host = self._make_host(self._databases)
        self._peers.listen(self._host.receive)
        self._assembly = Assembly(
            self._host,
            self._clients,
            addresses=NodeAddresses(self._config.client, self._config.peer, self._http),
            nshards=self._config.shards,
            endpoints=[Address(seed) for seed in self._seeds()],
            rng=self._rng,
            tracing=self._tracing,
        )
        self._admin = AdminService(self._facts, self._boot, self._host, self._assembly, self._rng)
        self._assembly.service.meter = Meter(time.perf_counter)
        self._assembly.roomy = lambda: self._space.roomy
        self._space.start()
        await self._assembly.open()
        self._admin.serve(self._clients)
        feed = self._assembly.feed
        feed.listen(self._remember_nodes)
        self._departing = Departing(self._host, feed, self._clients, self._assembly.retire)
        self._departing.start()
        self._healer = self._make_healer(self._host, self._assembly)
        self._healer.start()
        self._clerk = clerk_maker(self._tracing.provider if self._tracing is not None else None)(
            self._peers, self._assembly.client, rng=self._rng, cluster=self._identity.cluster
        )
        await self._clients.server.set_serving(True)
        await self._peers.server.set_serving(True)
        if self._front is not None:
            self._front.watch()
        self._state = "running"

    @property
    def _http(self) -> str:
        """Where it serves HTTP; "" for nowhere."""
        return "" if self._config.http == config.OFF else self._config.http

    def _begin_tracing(self) -> None:
        """Spans for a collector, if one is configured: what it takes is imported then.

        Raises:
            ConfigError: it is not installed.
        """
        if self._config.trace_endpoint != config.OFF and self._tracing is None:
            try:
                from shardkv.span_export import Export

                self._export = Export(
                    self._config.trace_endpoint,
                    self._config.trace_per_million,
                    self._config.node,
                )
            except ImportError as error:
                raise ConfigError(
                    f"trace_endpoint is set, and {error.name} is not installed: "
                    "pip install 'shardkv[otel]', or leave the setting out"
                ) from None
            self._tracing = self._export.tracing

    async def _open_front_door(self) -> None:
        """HTTP, if it is wanted: what it takes is imported then, and costs nothing otherwise."""
        if not self._http:
            return
        from shardkv.http.front import FrontConfig, FrontDoor
        from shardkv.http.inside import Parts

        parts = Parts(
            node=self._config.node,
            directory=self._directory,
            transport=self._clients,
            status=self._full_status,
            load=self._load,
            clerk=lambda: self._clerk,
            tracing=self._tracing,
            host=lambda: self._host,
            assembly=lambda: self._assembly,
            databases=lambda: self._databases,
            frames=lambda: self._peers.frames,
            roomy=lambda: self._space.roomy,
        )
        self._front = FrontDoor(
            FrontConfig.of(self._config),
            parts,
            clock=time.perf_counter,
            wall_clock=time.time,
            aside=aside,
            tls=self._tls.http() if self._tls is not None else None,
            warnings=lambda: (*self._warnings, *self._space.warnings),
        )
        await self._front.start()

    def _make_host(self, databases: nodedir.Opened) -> Host:
        settings = self._config
        codec = FrameCodec(self._identity.cluster, NodeId(settings.node), settings.peer)
        return Host(
            node=NodeId(settings.node),
            address=settings.peer,
            log_store=databases.log_store,
            data_disk=databases.data_disk,
            courier=FrameCourier(
                lambda address, bulk: self._peers.channel(Address(address), bulk=bulk),
                codec,
                raft_config(settings).heartbeat_seconds,
            ),
            codec=codec,
            config=raft_config(settings),
            rng=self._rng,
            boot=databases.log_store.boot,
            compaction=CompactionConfig(
                log_bytes_max=settings.raft_log_bytes_max,
                keep_entries=settings.raft_log_keep_entries,
            ),
        )

    def _make_healer(self, host: Host, assembly: Assembly) -> Healer:
        settings = self._config
        return Healer(
            host,
            self._clients,
            view=lambda: assembly.feed.view,
            own=lambda: Own(self._boot, running=self._state != "stopping", roomy=self._space.roomy),
            moving=lambda gid: bool(assembly.unsettled(GroupId(gid))),
            policy=HealPolicy(heal=settings.heal, grace_seconds=settings.heal_grace_seconds),
        )

    def _seeds(self) -> list[str]:
        """Whom to ask for the controller: the settings' nodes, those heard of in an earlier life,
        and this one."""
        heard_of = nodedir.remembered_endpoints(self._directory)
        return list(dict.fromkeys((*self._config.seeds, *heard_of, self._config.client)))

    def _remember_nodes(self) -> None:
        """Nodes come and go: keep on disk where they are, when that has changed."""
        view = self._assembly.feed.view if self._assembly is not None else None
        if view is not None:
            nodes = [found.client for found in view.directory.nodes.values() if found.client]
            if nodes and nodes != self._remembered:
                self._remembered = nodes
                nodedir.remember_endpoints(self._directory, nodes)

    def _answer_later(self) -> None:
        """Until the replicas run: how this node is, and for all else "not yet, not done"."""

        async def later(_: bytes) -> bytes:
            raise Refused(LATER, "the node is starting")

        async def status(_: bytes) -> bytes:
            return admin.encode(self._facts())

        async def load(_: bytes) -> bytes:
            return admin.encode(self._load())

        self._clients.serve(LOAD, load)

        methods = (
            KV, READ, LIST, VIEW, PAGE, copies.PULL, copies.SETTLED,
            ctrl.QUERY, ctrl.CHANGE, ctrl.WATCH, backups.OPEN, backups.NEXT, backups.CLOSE,
        )  # fmt: skip
        commands = (
            admin.CREATE_GROUP, admin.CREATE_REPLICA, admin.CHANGE_MEMBERS, admin.TRANSFER,
            admin.STANDING, BEAT, HEALTH,
        )  # fmt: skip
        for method in (*methods, *commands):
            self._clients.serve(method, later)
        self._clients.serve(admin.STATUS, status)

    def _facts(self) -> NodeStatus:
        view = self._assembly.feed.view if self._assembly is not None else None
        settings = self._config
        return NodeStatus(
            node=settings.node,
            cluster=self._identity.cluster,
            version=__version__,
            pid=os.getpid(),
            boot=self._boot,
            uptime_ms=int((time.monotonic() - self._started) * 1000),
            client=settings.client,
            peer=settings.peer,
            http=self._http,
            nshards=settings.shards,
            state=self._state,
            config_number=view.config.number if view is not None else 0,
            known=tuple(
                (str(node), addresses.client) for node, addresses in view.directory.nodes.items()
            )
            if view is not None
            else (),
            replicas=(),
        )

    def _load(self) -> NodeLoad:
        http = self._front.measures if self._front is not None else None
        service = self._assembly.service if self._assembly is not None else None
        return node_load(
            self._boot,
            service.meter if service is not None else None,
            service.operations if service is not None else 0,
            (http.total, http.errors) if http is not None else (0, 0),
            self._databases.log_disk.syncs if self._databases is not None else None,
        )

    def _full_status(self) -> NodeStatus:
        return self._admin.full_status() if self._admin is not None else self._facts()

    async def stop(self, *, hand_over: bool) -> None:
        """Stop in order; what is already durable stays so whatever is cut off here."""
        self._state = "stopping"  # `/readyz` says so from here on, and so does gRPC's health
        await self._clients.server.set_serving(False)
        if self._healer is not None:
            await self._healer.close()
        if self._host is not None and hand_over:
            await self._hand_over(self._host)
        await self._space.close()
        if self._front is not None:
            await self._front.close()
        if self._clerk is not None:
            await self._clerk.close()
        if self._departing is not None:
            await self._departing.close()
        if self._assembly is not None:
            await self._assembly.close()
        await asyncio.gather(self._clients.close(), self._peers.close())
        if self._host is not None:
            self._host.stop()
        if self._databases is not None:
            await self._databases.close()
        if self._export is not None:
            await self._export.close()

    async def _hand_over(self, host: Host) -> None:
        """Have every group led here led by somebody else, if there is anybody; ask again where
        the first heir did not make it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        led = [replica for replica in host.replicas.values() if replica.leads]
        wanted = [replica for replica in led if replica.core.best_successor() is not None]
        while loop.time() < began + HAND_OVER_SECONDS:
            await host.hand_over()
            if not any(replica.leads for replica in wanted):
                break
            await asyncio.sleep(HAND_OVER_LOOK_SECONDS)
        kept = [replica.gid for replica in wanted if replica.leads]
        seconds = f"{loop.time() - began:.3f}"
        log.info(
            "leaderships handed over",
            extra={"groups": len(wanted) - len(kept), "kept": kept, "seconds": seconds},
        )


async def aside(work: Callable[[], T]) -> T:
    """Do what takes long in a thread: the loop beats on."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def raft_config(settings: NodeConfig) -> RaftConfig:
    """The groups' part of a node's settings, in seconds."""
    return RaftConfig(
        heartbeat_seconds=settings.heartbeat_ms / 1000,
        election_seconds_min=settings.election_min_ms / 1000,
        election_seconds_max=settings.election_max_ms / 1000,
    )


def _storage_failed(error: BaseException) -> None:
    """Say it where an operator looks, then end: nothing may be written after a failed write."""
    log.critical("storage failed, the process ends with status %d: %s", EXIT_STATUS, error)
    end_process(error)


def run(
    directory: Path,
    *,
    flags: Mapping[str, str],
    file: Path | None = None,
    lifeline: int | None = None,
    beside: Beside | None = None,
) -> int:
    """Run the node of a directory until SIGINT or SIGTERM; returns the exit status.

    Args:
        flags: Settings given on the command line.
        file: Settings instead of the directory's `node.yaml`.
        lifeline: A pipe whose other end the parent holds: the node stops when it ends.
        beside: Run beside the node as soon as it runs.

    Raises:
        DataUnusable, DataInUse, ConfigError, CannotListen: it did not start.
    """
    lock = nodedir.NodeLock(directory)
    try:
        identity = nodedir.identity(directory)
        settings = config.load(
            flags=flags,
            environment=config.environment(),
            file=file if file is not None else directory / nodedir.SETTINGS_FILE,
        )
        check_identity(directory, settings.config, identity)
        check_resources(directory)
        _open_log(directory, settings)
        return _run_logged(directory, settings, identity, lifeline, beside)
    finally:
        lock.release()


def _run_logged(
    directory: Path,
    settings: Settings,
    identity: NodeIdentity,
    lifeline: int | None,
    beside: Beside | None,
) -> int:
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_live(directory, settings, identity, lifeline, beside))
    except BaseException as error:
        log.error("the node ends: %s: %s", type(error).__name__, error)
        raise


def check_identity(directory: Path, settings: NodeConfig, identity: NodeIdentity) -> None:
    """Refuse a directory of another node than the settings speak of.

    Raises:
        DataUnusable: names both.
    """
    if settings.node != identity.node:
        raise DataUnusable(
            f"{directory}: belongs to node {identity.node} of cluster {identity.cluster.hex()}, "
            f"and the settings say {settings.node}"
        )


def check_resources(directory: Path) -> None:
    """Refuse to start where the node would fall over a little later.

    Raises:
        ConfigError: too few files may be open.
        DataUnusable: the disk is all but full.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES_WANTED:
        soft = min(OPEN_FILES_WANTED, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < OPEN_FILES_MIN:
        raise ConfigError(
            f"this process may open {soft} files, and a node needs {OPEN_FILES_MIN}: "
            f"`ulimit -n {OPEN_FILES_WANTED}` before it is started"
        )
    free = shutil.disk_usage(directory).free
    if free < FREE_BYTES_MIN and (given := give_up_ballast(directory)):
        log.warning("the disk is full: the ballast of %d bytes was given up", given)
        free = shutil.disk_usage(directory).free
    if free < FREE_BYTES_MIN:
        raise DataUnusable(
            f"{directory}: {free} bytes are free, and a node needs {FREE_BYTES_MIN} to open its "
            "databases; nothing was changed. Free some space, and start it again"
        )


def _open_log(directory: Path, settings: Settings) -> None:
    chosen = settings.config
    try:
        if chosen.log_to == "stderr":
            logs.to_stream(level=chosen.log_level, form=chosen.log_format)
        else:
            logs.to_file(
                directory / nodedir.LOG_FILE,
                level=chosen.log_level,
                form=chosen.log_format,
                bytes_max=chosen.log_bytes_max,
                files=chosen.log_files,
            )
    except OSError as error:
        raise ConfigError(f"{directory / nodedir.LOG_FILE}: {error.strerror}") from error
    given = {key: origin for key, origin in settings.origins.items() if origin != "default"}
    won = ", ".join(f"{key} from {origin}" for key, origin in given.items())
    log.info("starting, settings: %s; all else by default", won, extra={"version": __version__})
    for warning in settings.warnings:
        log.warning("%s", warning)


async def _live(
    directory: Path,
    settings: Settings,
    identity: NodeIdentity,
    lifeline: int | None,
    beside: Beside | None,
) -> int:
    """From the start to the stop, whatever asks for it."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[str] = loop.create_future()

    def stop(why: str) -> None:
        if stopping.done():
            log.warning("stopped at once", extra={"by": why})
            os._exit(0)  # the second request; what is durable is durable
        stopping.set_result(why)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    if lifeline is not None:
        _watch(loop, lifeline, stop)
    node = Node(directory, settings.config, identity, settings.warnings)
    try:
        await _unless(stopping, node.start())
        if not stopping.done():
            log.info("running", extra={"client": settings.config.client})
            gc.collect()
            gc.freeze()  # what lives as long as the process is not walked again and again
            gc.set_threshold(*COLLECT_AFTER)
            async with _beside(beside):
                await stopping
            log.info("stopping", extra={"by": stopping.result()})
    except BaseException:
        await asyncio.wait_for(node.stop(hand_over=False), CLOSE_SECONDS)
        raise
    try:
        by_operator = stopping.result() == signal.SIGTERM.name
        await asyncio.wait_for(node.stop(hand_over=by_operator), CLOSE_SECONDS)
    except TimeoutError:
        log.warning("the stop took longer than %g s and was cut off", CLOSE_SECONDS)
        os._exit(0)
    log.info("stopped")
    return 0


@asynccontextmanager
async def _beside(work: Beside | None) -> AsyncIterator[None]:
    """Run `work` as long as the block lasts. Its failure is told, and stops nothing."""
    if work is None:
        yield
        return

    async def told() -> None:
        try:
            await work()
        except Exception:
            log.exception("what was to be done beside the node failed")

    task = asyncio.create_task(told())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _unless(stopping: "asyncio.Future[str]", work: Awaitable[None]) -> None:
    """Await `work`, or give it up when the process shall stop."""
    task = asyncio.ensure_future(work)
    stopping.add_done_callback(lambda _: task.cancel())
    try:
        await task
    except asyncio.CancelledError:
        if not stopping.done():
            raise


def _watch(loop: asyncio.AbstractEventLoop, lifeline: int, stop: Callable[[str], None]) -> None:
    """Stop when the parent's end of the pipe is closed: by its end, whatever ended it."""

    def readable() -> None:
        if not os.read(lifeline, 1):
            loop.remove_reader(lifeline)
            stop("the end of the parent")

    os.set_blocking(lifeline, False)
    loop.add_reader(lifeline, readable)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed: about twice as many messages a second."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
