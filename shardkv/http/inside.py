"""What the front door sees of a production node. Parts that are not open yet are None."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from labrpc.transport import Transport
from raft.histogram import Histogram
from raft.host import Host
from shardctrler.types import View
from shardkv.admin import NodeStatus
from shardkv.assembly import Assembly
from shardkv.clerk import Clerk
from shardkv.disk_space import space_of
from shardkv.http.actions import Means
from shardkv.http.events import Local
from shardkv.http.measures import HttpMeasures
from shardkv.http.metrics import Figures
from shardkv.http.watching import Surroundings
from shardkv.load import Meter, NodeLoad
from shardkv.nodedir import DATA_DATABASE, LOG_DATABASE, Opened

if TYPE_CHECKING:
    from shardkv.tracing import Tracing


class Parts(NamedTuple):
    """A node's parts, each asked for when it is needed."""

    node: str
    directory: Path
    transport: Transport
    status: Callable[[], NodeStatus]
    load: Callable[[], NodeLoad]
    clerk: Callable[[], Clerk | None]
    host: Callable[[], Host | None]
    assembly: Callable[[], Assembly | None]
    databases: Callable[[], Opened | None]
    tracing: "Tracing | None" = None
    frames: Callable[[], Mapping[str, int]] = dict
    """What became of frames to and from other nodes (`GrpcTransport.frames`)."""
    roomy: Callable[[], bool] = lambda: True
    """Whether the disk is above its watermark."""

    def means(self) -> Means | None:
        """By what operators' actions are carried out."""
        assembly = self.assembly()
        return None if assembly is None else Means(assembly.client, self.transport)

    def surroundings(self) -> Surroundings:
        """What watching the cluster needs."""
        return Surroundings(
            self.node, self.status, self.load, self._replicas, self._view, self.transport
        )

    def figures(
        self,
        http: HttpMeasures,
        connections: Callable[[], int],
        refused: Callable[[], Mapping[str, int]],
        watchers: Callable[[], int],
    ) -> Figures:
        """Where the numbers of `/metrics` are."""
        return Figures(
            status=self.status,
            http=http,
            connections=connections,
            refused=refused,
            watchers=watchers,
            meter=self._meter,
            in_flight=self._in_flight,
            copied_bytes=self._copied_bytes,
            given_bytes=self._given_bytes,
            proposals=self._proposals,
            syncs_waiting=self._syncs_waiting,
            host=self.host,
            frames=self.frames,
            syncs=self._syncs,
            directories={
                "log": self.directory / LOG_DATABASE,
                "data": self.directory / DATA_DATABASE,
            },
            roomy=self.roomy,
            free_bytes=lambda: space_of(self.directory).free,
        )

    def owed(self) -> list[int]:
        """Groups that count a replica of this node, by the controller, and it holds none: it lost
        its data, or the replica is about to be made, or the controller to hear that it went."""
        host, view = self.host(), self._view()
        if host is None or view is None:
            return []
        return [
            gid
            for gid, group in sorted(view.directory.groups.items())
            if gid not in host.replicas
            and any(member.node == self.node for member in group.members)
        ]

    def _replicas(self) -> Iterable[Local]:
        host = self.host()
        for gid, replica in sorted(host.replicas.items()) if host is not None else ():
            leader = replica.leader
            yield Local(
                gid,
                replica.core.term,
                "" if leader is None else str(leader.node),
                replica.stopped_because or "",
            )

    def _view(self) -> View | None:
        assembly = self.assembly()
        return None if assembly is None else assembly.feed.view

    def _meter(self) -> Meter | None:
        assembly = self.assembly()
        return None if assembly is None else assembly.service.meter

    def _in_flight(self) -> int:
        assembly = self.assembly()
        return 0 if assembly is None else assembly.service.operations

    def _copied_bytes(self) -> int:
        assembly = self.assembly()
        return 0 if assembly is None else assembly.copied_bytes

    def _given_bytes(self) -> int:
        assembly = self.assembly()
        return 0 if assembly is None else assembly.service.given_bytes

    def _proposals(self) -> dict[int, int]:
        assembly = self.assembly()
        if assembly is None:
            return {}
        return {gid: group.server.rsm.pending for gid, group in assembly.groups.items()}

    def _syncs_waiting(self) -> dict[str, int]:
        databases = self.databases()
        return {} if databases is None else {"log": databases.log_disk.waiting}

    def _syncs(self) -> dict[str, Histogram]:
        databases = self.databases()
        return {} if databases is None else {"log": databases.log_disk.syncs}
