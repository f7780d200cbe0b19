"""`shardkv auto`: one process a node, which founds its cluster with the others or joins it.

What a container runs. It needs a name, an address, the seeds and one directory that it may write;
all else is as for `shardkv node`, which it becomes. `shardkv.forming` says what is done, and why it
is safe; here it is done. While a node is blank it holds its ports and says so: over gRPC that it is
of no cluster, over HTTP that it is alive and not ready.
"""

import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from labrpc.errors import RpcError
from labrpc.grpc.addresses import probe
from labrpc.grpc.discovery import cluster_at
from labrpc.grpc.tls import Tls
from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.errors import DataInUse
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardkv import __version__, admin, config, logs, nodedir
from shardkv.admin import NodeStatus, Nothing
from shardkv.config import ConfigError, NodeConfig, Settings, host_of, variable
from shardkv.control import endpoints_of, join_founders
from shardkv.errors import ShardKVError
from shardkv.forming import Adopt, Answers, Conflict, Found, Said, next_for_blank, next_for_founder
from shardkv.growth import Wait
from shardkv.node import loop_factory
from shardkv.node import run as run_node
from shardkv.node_tls import NodeTls, files_of
from shardkv.operating import Operator
from shardkv.typed import TypedService

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.5
TELL_SECONDS: Final = 30.0
"""What is waited for is told when it changes, and again so often."""
GROW_SECONDS: Final = 60.0
CONTROLLER_SECONDS: Final = 2.0
LOCK_SUFFIX: Final = ".lock"
PORT_OF_PEER, PORT_OF_HTTP = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """What the cluster is founded with, should it be founded now."""

    groups: int
    replicas: int


def run(directory: Path, *, flags: Mapping[str, str], founding: Founding) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit status.

    Args:
        directory: The node's; made when it is not there. What is above it must be writable then.
        flags: Settings given on the command line.

    Raises:
        ConfigError, DataUnusable, DataInUse, CannotListen: as `shardkv node`.
    """
    given = completed(flags, config.environment())
    settings = config.load(flags=given, environment=config.environment())
    if not settings.config.seeds:
        raise ConfigError(
            f"seeds must name the clients' addresses of the nodes that the cluster is founded "
            f"with, in one order for all nodes; see {variable('seeds')}"
        )
    lock = _lock(directory)
    try:
        if not nodedir.exists(directory):
            logs.to_stream(level=settings.config.log_level, form=settings.config.log_format)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                if not runner.run(_Blank(directory, settings).until_made()):
                    return 0
        given["shards"] = _shards(directory, given)
        leads = settings.config.client == settings.config.seeds[0]
        beside = _Founder(settings.config, directory, founding).work if leads else None
        return run_node(directory, flags=given, beside=beside)
    finally:
        os.close(lock)


def completed(flags: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The flags, with the peer's and the HTTP address beside the client's where none is given, as
    `init` has it: port + 1 and + 2. Pure.

    Raises:
        ConfigError: there is no address for clients, or one that is none.
    """
    given = dict(flags)
    client = given.get("client", environment.get(variable("client")))
    if client is None:
        raise ConfigError(
            f"{variable('client')} (or --client) is needed: HOST:PORT, as other nodes and clients "
            "reach this one"
        )
    try:
        config.address(client)
    except ValueError as error:
        raise ConfigError(f"client: {error}") from error
    host, port = client.rpartition(":")[0], int(client.rpartition(":")[2])
    for key, beside in (("peer", PORT_OF_PEER), ("http", PORT_OF_HTTP)):
        if key not in given and variable(key) not in environment:
            given[key] = f"{host}:{port + beside}"
    return given


def _lock(directory: Path) -> int:
    """Held while this process lives: two on one directory would both make it."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        path = directory.with_name(directory.name + LOCK_SUFFIX)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{directory.parent}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise DataInUse(f"{directory}: in use by another process") from error
    return handle


def _shards(directory: Path, given: Mapping[str, str]) -> str:
    """How many the cluster has: fixed when the directory was made, whatever is wished for now."""
    made = config.read_file(directory / nodedir.SETTINGS_FILE)["shards"].text
    wished = given.get("shards", config.environment().get(variable("shards")))
    if wished is not None and wished != made:
        raise ConfigError(
            f"shards {wished} contradicts {directory}, which was made with {made}: the number is "
            "fixed when a cluster is founded"
        )
    return str(made)


class _Blank:
    """A node that has no directory yet."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings
        self._config = settings.config
        self._boot = secrets.randbits(63)
        self._waits_for = "starting"
        self._told_at = float("-inf")
        files = files_of(self._config)
        self._guard = files and NodeTls(
            files,
            ask_clients=self._config.tls_client_auth,
            known=lambda _: (),
            clock=time.monotonic,
        )

    @property
    def _tls(self) -> Tls | None:
        return self._guard.clients if self._guard is not None else None

    async def until_made(self) -> bool:
        """Wait for a cluster, or found one; False: a signal came first."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        for warning in self._settings.warnings:
            log.warning("%s", warning)
        log.info("no data yet", extra={"version": __version__, "node": self._config.node})
        work = asyncio.ensure_future(self._work())
        stop = asyncio.ensure_future(stopped.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return True
            return False
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)

    async def _work(self) -> None:
        settings = self._config
        transport = GrpcTransport(
            b"",
            settings.node,
            address=Address(settings.client),
            bind=Address(settings.bound(settings.client)),
            tls=self._tls,
        )

        async def status(_: bytes) -> bytes:
            return admin.encode(self._status())

        transport.serve(admin.STATUS, status)
        transport.serve_kv(TypedService(lambda: None, self._status))
        close_http = await self._open_http()
        try:
            await transport.start()
            made = await self._decide(transport)
        finally:
            await close_http()
            await transport.close()
        await asyncio.get_running_loop().run_in_executor(None, made)

    def _status(self) -> NodeStatus:
        settings = self._config
        return NodeStatus(
            node=settings.node, cluster=b"", version=__version__, pid=os.getpid(), boot=self._boot,
            uptime_ms=0, client=settings.client, peer=settings.peer,
            http="" if settings.http == config.OFF else settings.http, nshards=settings.shards,
            state="starting", config_number=0, known=(), replicas=(),
        )  # fmt: skip

    async def _open_http(self) -> Callable[[], Awaitable[None]]:
        settings = self._config
        if settings.http == config.OFF:
            return _nothing
        from shardkv.http.wire import HttpServer

        server = HttpServer(self._answer, time.time)
        bound = settings.bound(settings.http)
        tls = self._guard.http() if self._guard is not None else None
        await probe(Address(bound))
        await server.start(host_of(bound), int(bound.rpartition(":")[2]), tls)
        return server.close

    async def _answer(
        self,
        scope: Mapping[str, object],
        _receive: object,
        send: Callable[[Mapping[str, object]], Awaitable[None]],
    ) -> None:
        """Alive, and not ready: whatever is asked for."""
        alive = scope.get("path") == "/livez"
        document = {
            "status": "unhealthy",
            "node": self._config.node,
            "reasons": [self._waits_for],
            "warnings": list(self._settings.warnings),
        }
        body = b"alive\n" if alive else json.dumps(document).encode()
        kind = b"text/plain; charset=utf-8" if alive else b"application/json"
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        status = 200 if alive else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # Deciding

    async def _decide(self, transport: GrpcTransport) -> Callable[[], None]:
        """Look until it is clear which cluster's directory is to be made; returns what makes it."""
        settings = self._config
        while True:
            answers = await self._ask_seeds(transport)
            step = next_for_blank(settings.client, self._boot, settings.seeds, answers)
            match step:
                case Found():
                    cluster = secrets.token_bytes(16)
                    log.info("all seeds are blank: a cluster is founded")
                    return lambda: self._make(cluster, settings.shards)
                case Adopt(cluster, address):
                    status = await self._status_of(cluster, address)
                    if status is not None:
                        await self._refuse_twins(cluster, status)
                        shards = status.nshards
                        log.info("a cluster is there", extra={"at": address})
                        return lambda: self._make(cluster, shards)
                case Conflict(reason):
                    raise ConfigError(reason)
                case Wait(reason):
                    self._wait(reason)
            await asyncio.sleep(LOOK_SECONDS)

    def _wait(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if reason != self._waits_for or now - self._told_at > TELL_SECONDS:
            log.info("%s", reason)
            self._waits_for, self._told_at = reason, now

    def _make(self, cluster: bytes, shards: int) -> None:
        settings = self._config
        nodedir.create(
            self._directory,
            cluster=cluster,
            settings={
                "node": settings.node,
                "client": settings.client,
                "peer": settings.peer,
                "http": settings.http,
                "seeds": settings.seeds,
                "shards": shards,
            },
        )

    async def _ask_seeds(self, transport: GrpcTransport) -> Answers:
        seeds = self._config.seeds
        found = await asyncio.gather(*(self._ask(transport, address) for address in seeds))
        return dict(zip(seeds, found, strict=True))

    async def _ask(self, transport: GrpcTransport, address: str) -> Said | None:
        try:
            cluster = await cluster_at(Address(address), timeout=ASK_SECONDS, tls=self._tls)
            if cluster:
                return Said(cluster)
            body = await transport.call(
                Address(address), admin.STATUS, admin.encode(Nothing()), timeout=ASK_SECONDS
            )
            return Said(b"", admin.decode(NodeStatus, body).boot)
        except (RpcError, admin.BadAdmin) as error:
            log.debug("%s does not answer: %s", address, error)
            return None

    async def _status_of(self, cluster: bytes, address: str) -> NodeStatus | None:
        transport = GrpcTransport(cluster, self._config.node, tls=self._tls)
        try:
            body = await transport.call(
                Address(address), admin.STATUS, admin.encode(Nothing()), timeout=ASK_SECONDS
            )
            return admin.decode(NodeStatus, body)
        except (RpcError, admin.BadAdmin) as error:
            self._wait(f"{address} does not say how its cluster is: {error}")
            return None
        finally:
            await transport.close()

    async def _refuse_twins(self, cluster: bytes, status: NodeStatus) -> None:
        """Refuse a name that another node has, which runs: two of one name would be taken for each
        other."""
        where = dict(status.known).get(self._config.node)
        if where is None or where == self._config.client:
            return
        if await self._status_of(cluster, where) is not None:
            raise ConfigError(
                f"node {self._config.node} runs already, at {where}: give this one another name"
            )


async def _nothing() -> None:
    pass


class _Founder:
    """The first seed, once it runs: births, growth and configuration 1, if they are not done."""

    def __init__(self, settings: NodeConfig, directory: Path, founding: Founding) -> None:
        self._settings, self._directory, self._founding = settings, directory, founding

    async def work(self) -> None:
        """Go on until the cluster is founded."""
        files = files_of(self._settings)
        tls = files.dialling(time.monotonic) if files is not None else None
        cluster = nodedir.identity(self._directory).cluster
        transport = GrpcTransport(cluster, self._settings.node, tls=tls)
        seeds = self._settings.seeds
        client = ControllerClient(
            transport,
            endpoints_of(seeds),
            Random(secrets.randbits(64)),
            timeout_seconds=CONTROLLER_SECONDS,
        )
        try:
            told = ""
            while not await self._is_founded(client):
                reason = await self._found(client, transport)
                if reason and reason != told:
                    told = reason
                    log.info("founding: %s", reason)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await client.close()
            await transport.close()

    async def _is_founded(self, client: ControllerClient) -> bool:
        try:
            view = await client.newest(timeout=CONTROLLER_SECONDS)
        except ShardCtrlerError as error:
            log.debug("no controller yet: %s", error)
            return False
        return view.config.number > 0

    async def _found(self, client: ControllerClient, transport: GrpcTransport) -> str:
        """One go at it; returns what it waits for."""
        seeds = self._settings.seeds
        seen = await Operator(transport, {address: address for address in seeds}).observe()
        step = next_for_founder(
            seeds, seen, groups=self._founding.groups, replicas=self._founding.replicas
        )
        if isinstance(step, Wait):
            return step.reason
        if isinstance(step, Conflict):
            return step.reason
        names = {status.node: address for address, status in seen.items() if status is not None}
        operator = Operator(transport, names)
        deadline = asyncio.get_running_loop().time() + GROW_SECONDS
        controller, *founders = step
        try:
            await operator.grow([controller], deadline=deadline)
            await join_founders(client, operator, founders, deadline=deadline)
        except (ShardKVError, ShardCtrlerError, RpcError) as error:
            return str(error)
        log.info("the cluster is founded", extra={"groups": len(founders), "nodes": len(names)})
        return ""
