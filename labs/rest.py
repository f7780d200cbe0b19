"""What a healed cluster must come to, and within which time (invariants L1 to L11, B1 to B4).

The clock starts at the healing. E is the largest election time-out in force, `LATE_SECONDS` what a
message may still be on its way.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

from labrpc.sim.loop import VirtualLoop
from labs.bounds import needless
from labs.canonical import state_hash
from labs.cluster import SimCluster, SimNode
from labs.healing import missing
from labs.history import Kind
from labs.observer import InvariantBroken
from labs.operator import Operator
from labs.workload import Workload
from raft.config import RaftConfig
from raft.host import WORTH, CompactionConfig
from raft.types import GroupId
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import ShardConfig, ShardId
from shardkv.limits import SESSIONS_MAX
from shardkv.phases import Phase

LEADER_E: Final = 20
ANSWER_E: Final = 25
CONVERGED_E: Final = 60
MIGRATED_E: Final = 100
CLEAN_E: Final = 150
QUIET_E: Final = 5
"""How long nothing goes wrong, and nobody may be elected (L7)."""
FLAP_E: Final = 20
FLAP_SETTLES_E: Final = 5
"""A leader among those who flap is lost once; then it counts."""
SPARE_MESSAGES: Final = 100
"""For what nobody asked for: sessions that expire, nodes that register, watches that end."""
AVAILABLE: Final = 0.99
LATE_SECONDS: Final = 5.0
"""The longest delay of a message that left before the healing; added to each bound."""
POLL_SECONDS: Final = 0.1
_AT_ONCE: Final = ("L1", "L2")


class Rest:
    """Looks on while a cluster comes to rest. Made when it has been healed.

    Args:
        election_seconds: E.
        spare_seconds: What each bound has besides but those of L1 and L2: a cluster that mends
            itself waits before it does.
    """

    def __init__(
        self,
        cluster: SimCluster,
        admin: ControllerClient,
        workload: Workload,
        *,
        election_seconds: float,
        clients: int,
        spare_seconds: float = 0.0,
    ) -> None:
        self._spare_seconds = spare_seconds
        self._cluster, self._admin, self._workload = cluster, admin, workload
        self._longest, self._clients = election_seconds, clients
        self._loop = asyncio.get_running_loop()
        self._healed = self._loop.time()
        self._gids = list(cluster.placement)
        for watcher in cluster.watchers.values():
            watcher.healed = True

    @property
    def answer_seconds(self) -> float:
        """How long a healed cluster may take for an answer."""
        return ANSWER_E * self._longest + LATE_SECONDS

    async def _within(
        self, invariant: str, times: int, what: str, holds: Callable[[], bool]
    ) -> None:
        """Wait until `holds`, at most `times` E after the healing."""
        spare = 0.0 if invariant in _AT_ONCE else self._spare_seconds
        until = self._healed + times * self._longest + LATE_SECONDS + spare
        while not holds():
            if self._loop.time() > until:
                raise InvariantBroken(
                    invariant,
                    f"{what} is not so {self._loop.time() - self._healed:.1f} s after healing "
                    f"({times} E are {times * self._longest:g} s):\n{picture(self._cluster)}",
                )
            await asyncio.sleep(POLL_SECONDS)

    async def come(self, compaction: CompactionConfig, raft: RaftConfig) -> float:
        """Returns the seconds it took."""
        cluster = self._cluster
        await self._within(
            "L1", LEADER_E, "a leader in every group", lambda: all(map(cluster.leader, self._gids))
        )
        until = self._healed + self.answer_seconds
        await asyncio.gather(*[self._read_all(client, until) for client in range(self._clients)])
        await self._converge()
        took = self._loop.time() - self._healed
        await self._within("L6", CLEAN_E, "no garbage", self._clean)
        worth = compaction.log_entries_max // WORTH  # less than that is not cut
        bound = max(compaction.log_entries_max, compaction.keep_entries + worth)
        await self._within(
            "B1", CLEAN_E, f"every log at {bound} entries or fewer", lambda: self._short(bound)
        )
        await self._within("B2", CLEAN_E, "everything committed", self._all_committed)
        await self._within("B7", CLEAN_E, "nothing needless on a disk", self._tidy)
        config = await self.newest()
        self._judge_rest(config, raft)
        return took

    async def _converge(self) -> None:
        cluster = self._cluster
        number = (await self.newest()).number
        await self._within("L4", MIGRATED_E, "at rest", lambda: cluster.quiet(number))
        if cluster.heal is not None:
            await self._within(
                "L13", CONVERGED_E, "every group whole", lambda: not missing(cluster)
            )
        await self._within(
            "L5", CONVERGED_E, "no change of members under way",
            lambda: all(map(cluster.settled, self._gids)),
        )  # fmt: skip
        await self._within(
            "L3", CONVERGED_E, "every replica at its leader's end",
            lambda: all(map(cluster.converged, self._gids)),
        )  # fmt: skip

    async def _read_all(self, client: int, until: float) -> None:
        """One client's share of the keys, one after the other (L2)."""
        for key in self._workload.keys[client :: self._clients]:
            left = max(until - self._loop.time(), 0.001)
            read = await self._workload.ask(client, Kind.GET, key, None, left)
            if not read.happened:
                raise InvariantBroken(
                    "L2", f"a healed cluster does not answer: {read}\n{picture(self._cluster)}"
                )

    async def newest(self) -> ShardConfig:
        try:
            return (await self._admin.newest(timeout=self.answer_seconds)).config
        except ShardCtrlerError as error:
            raise InvariantBroken(
                "L2", f"the controller does not answer: {error}\n{picture(self._cluster)}"
            ) from error

    def _clean(self) -> bool:
        cluster = self._cluster
        servers = [server for gid in cluster.gids for server in cluster.servers(gid)]
        return not any(server.machine.has_garbage for server in servers)  # type: ignore[attr-defined]

    def _tidy(self) -> bool:
        return not any(needless(node) for node in self._cluster.nodes.values() if node.running)

    def _short(self, entries_max: int) -> bool:
        logs = [replica.core.log for _, replica in self._cluster.replicas()]
        return all(log.last.index - log.start.last.index <= entries_max for log in logs)

    # At rest

    def _judge_rest(self, config: ShardConfig, raft: RaftConfig) -> None:
        cluster = self._cluster
        for gid in cluster.gids:
            for server in cluster.servers(gid):
                rows = server.replica.store.reader
                cluster.oracle.judge_rest(server.machine, rows, config)
                for number in range(cluster.nshards):
                    shard = ShardId(number)
                    if server.machine.record(shard).phase is Phase.SERVING:
                        sessions = sum(1 for _ in server.machine.survey(rows, shard))
                        if sessions > SESSIONS_MAX:
                            text = f"group {gid}: shard {shard} keeps {sessions} sessions"
                            raise InvariantBroken("B4", text)
        self._compare_states()

    def _all_committed(self) -> bool:
        """Nodes go on reporting themselves, so now and then something is on its way."""
        return not any(replica.core.uncommitted_bytes for _, replica in self._cluster.replicas())

    def _compare_states(self) -> None:
        """R6, for whole states: replicas that have applied as much hold the same rows."""
        known: dict[tuple[GroupId, int], tuple[bytes, SimNode]] = {}
        for node, replica in self._cluster.replicas():
            here = state_hash(replica)
            at = (replica.gid, int(replica.applied))
            there, other = known.setdefault(at, (here, node))
            if there != here:
                raise InvariantBroken(
                    "R6", f"group {at[0]}: {node.name} and {other.name} differ at {at[1]}"
                )

    # A while without faults, and those who come back

    def _elections(self) -> dict[GroupId, int]:
        return {gid: len(self._cluster.watchers[gid].leaders) for gid in self._gids}

    async def stay_quiet(self, raft: RaftConfig) -> None:
        """L7: nobody is elected while nothing goes wrong. B6: and there is little to say."""
        late = self._healed + LATE_SECONDS + self._longest - self._loop.time()
        await asyncio.sleep(max(late, 0.0))  # what was on its way, and what follows from it
        before = self._elections()
        watchers = self._cluster.watchers
        said = {gid: watchers[gid].messages for gid in self._gids}
        await asyncio.sleep(QUIET_E * self._longest)
        self._compare_elections("L7", before, 0, "nothing went wrong")
        beats = QUIET_E * self._longest / raft.heartbeat_seconds + 2
        for gid in self._gids:
            peers = len(self._cluster.voters(gid)) + len(self._cluster.learners.get(gid, ())) - 1
            now, most = watchers[gid].messages - said[gid], 4 * peers * beats + SPARE_MESSAGES
            if now > most:
                raise InvariantBroken(
                    "B6", f"group {gid} says {now} messages in {beats:.0f} beats to {peers} peers"
                )

    def _compare_elections(
        self, invariant: str, before: dict[GroupId, int], most: int, why: str
    ) -> None:
        for gid, now in self._elections().items():
            if now - before[gid] > most:
                raise InvariantBroken(
                    invariant,
                    f"group {gid}: {now - before[gid]} elections, and {why}\n"
                    f"{picture(self._cluster)}",
                )

    async def bear_flapping(self, outsiders: list[SimNode], rng: Random) -> None:
        """L8: those who come and go do not keep the core from serving."""
        cluster, workload, longest = self._cluster, self._workload, self._longest
        began = self._loop.time()
        until = began + (FLAP_SETTLES_E + FLAP_E) * longest
        flapping = [asyncio.ensure_future(self._flap(node, rng, until)) for node in outsiders]
        windows = [0, 0]
        await asyncio.sleep(FLAP_SETTLES_E * longest)

        async def ask(client: int) -> None:
            keys = workload.keys[client :: self._clients]
            while self._loop.time() < until:
                begins = self._loop.time()
                key = rng.choice(keys)
                read = await workload.ask(client, Kind.GET, key, None, longest)
                windows[0] += bool(read.happened)
                windows[1] += 1
                await asyncio.sleep(max(begins + longest - self._loop.time(), 0.001))

        await asyncio.gather(*[ask(client) for client in range(self._clients)])
        await asyncio.gather(*flapping)
        cluster.network.heal()
        cluster.observer.probe("outsiders flapped")
        if windows[0] < AVAILABLE * windows[1] - 1:
            raise InvariantBroken(
                "L8",
                f"{windows[0]} of {windows[1]} questions answered within E, while only "
                f"{[node.name for node in outsiders]} came and went\n{picture(cluster)}",
            )

    async def _flap(self, node: SimNode, rng: Random, until: float) -> None:
        others = [other.address for other in self._cluster.nodes.values()]
        network, longest = self._cluster.network, self._longest
        if not node.alive:
            await node.start()
        while self._loop.time() < until:
            for other in others:
                if other != node.address:
                    network.partition([node.address], [other])
            await asyncio.sleep(rng.uniform(0.1, 3.0) * longest)
            for other in others:
                if other != node.address:
                    network.mend(node.address, other)
                    network.mend(other, node.address)
            await asyncio.sleep(rng.uniform(0.1, 1.0) * longest)

    async def take_back(self, outsiders: list[SimNode], operator: Operator) -> None:
        """L9: a node that comes back costs one election a group at most, and catches up."""
        before = self._elections()
        self._healed = self._loop.time()
        operator.lost = set()
        for node in outsiders:
            if not node.alive:
                await node.start()
        self._cluster.observer.probe("outsiders came back")
        await self._converge()
        await asyncio.sleep(self._longest)
        names = [node.name for node in outsiders]
        self._compare_elections("L9", before, len(outsiders), f"only {names} came back")
        await self._within("L6", CLEAN_E, "no garbage", self._clean)
        self._compare_states()


async def everything_ends(cluster: SimCluster, election_seconds: float) -> None:
    """B8: when all processes have ended, nothing of them goes on."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    for node in cluster.nodes.values():
        node.kill()
    await asyncio.sleep(election_seconds + LATE_SECONDS)
    left = [task for task in loop.tasks() if task is not asyncio.current_task()]
    if left:
        names = ", ".join(task.get_name() for task in left[:5])
        raise InvariantBroken("B8", f"{len(left)} tasks outlive their processes: {names}")


def picture(cluster: SimCluster) -> str:
    """How the cluster stands, a line a replica."""
    lines = []
    for node in cluster.nodes.values():
        if node.host is None:
            why = "condemned" if node.condemned else "down"
            lines.append(f"{node.name}: {why} {node.refused}".rstrip())
            continue
        for gid, replica in node.host.replicas.items():
            core = replica.core
            lines.append(
                f"{node.name} g{gid}/{replica.id}: {core.role.value} term {core.term} "
                f"applied {replica.applied} commit {core.commit} "
                f"log {core.log.start.last.index}..{core.log.last.index} "
                f"voters {[f'{v.id}@{v.node}' for v in core.membership.voters]} "
                f"learners {[f'{v.id}@{v.node}' for v in core.membership.learners]}"
            )
        if node.assembly is not None:
            lines += [
                f"{node.name} g{gid}: config {group.server.machine.number} unsettled "
                f"{[(s, r.phase.name) for s, r in group.server.machine.unsettled]}"
                for gid, group in node.assembly.groups.items()
            ]
    return "\n".join(lines)
