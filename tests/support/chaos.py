"""One group under a nemesis: real hosts on the simulated network and disk, all drawn from a seed.

A run draws its knobs and a subset of the faults (so that most runs omit many), grows a group, lets
clients and an operator work while the nemesis does its worst, then heals and demands that the
members agree. `Oracle` watches every step.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import raft.host
from labrpc.sim.disk import DiskFailed
from labrpc.sim.loop import run
from labrpc.sim.network import HEALTHY, Faults
from raft.config import KIB, MIB, Mode, RaftConfig
from raft.courier import Courier
from raft.disk.log_store import ReplicaRefused
from raft.disk.records import ReplicaRecord
from raft.errors import (
    MembershipRefused,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    ReplicaStopped,
    TransferRefused,
)
from raft.host import CompactionConfig, Host
from raft.membership import in_change, members
from raft.parcel import Parcel
from raft.ports import Reader, Rows
from raft.replica import Replica
from raft.rsm import ReplicatedStateMachine
from raft.types import Entry, GroupId, NodeId
from tests.support.hosts import GID, UUID, Ledger, Node, World
from tests.support.oracle import Oracle

LATE_SECONDS: Final = 4.0  # the longest delay of a message, there and back
FAULTS: Final = (
    "loss", "duplication", "reordering", "long_delay", "partition", "isolate", "one way", "partial",
    "crash", "kill", "crash all", "trap", "disk fails", "slow disk", "transfer", "members",
    "compact",
)  # fmt: skip
TRAPS: Final = (
    "log", "data", "promise", "AppendReply", "VoteReply", "RequestVote", "AppendEntries",
    "SnapshotChunk", "ChunkReply", "TimeoutNow",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """What a run is made of. `faults` are the kinds that may strike."""

    size: int
    faults: tuple[str, ...]
    config: RaftConfig
    compaction: CompactionConfig
    seconds: float = 4.0
    pause_seconds_max: float = 0.4
    clients: int = 3
    reads: float = 0.25  # which part of what clients do

    @classmethod
    def draw(cls, rng: Random) -> "Knobs":
        faults = tuple(fault for fault in FAULTS if rng.random() < 0.5)
        heartbeat, least, most = rng.choice([(0.1, 0.5, 1.0), (0.02, 0.08, 0.2)])
        config = RaftConfig(
            heartbeat_seconds=heartbeat,
            election_seconds_min=least,
            election_seconds_max=most,
            mode=rng.choice([Mode.PRODUCTION, Mode.PRODUCTION, Mode.PRODUCTION, Mode.LAB]),
            append_bytes_max=rng.choice([200, 1000, MIB]),
            inflight_messages_max=rng.choice([1, 4, 64]),
            cache_bytes_max=rng.choice([300, 3000, 16 * MIB]),
            unapplied_bytes_max=rng.choice([500, 16 * MIB]),
            snapshot_chunk_bytes_max=rng.choice([60, 600, 256 * KIB]),
            snapshot_reply_seconds=rng.choice([0.2, 1.0]),
        )
        compaction = CompactionConfig(
            log_entries_max=rng.choice([3, 20, 10_000]), keep_entries=rng.choice([0, 1, 8])
        )
        return cls(
            size=rng.choice([3, 3, 5]),
            faults=faults,
            config=config,
            compaction=compaction,
            pause_seconds_max=rng.choice([0.1, 0.4, 0.8]),
        )


class WatchedMachine(ReplicatedStateMachine):
    """Tells the oracle what is applied and what was installed."""

    def __init__(self, node: "ChaosNode") -> None:
        super().__init__(Ledger())
        self.node = node

    def apply(self, entries: Sequence[Entry], rows: Rows) -> None:
        self.node.oracle.applying(self.node.name, entries)
        super().apply(entries, rows)

    def reload(self, rows: Reader) -> None:
        super().reload(rows)
        host = self.node.host
        if host is not None and GID in host.replicas and host.replicas[GID]._machine is self:
            self.node.oracle.probes["installed"] += 1
            self.node.oracle.state_is_canonical(self.node.name, host.replicas[GID])


class WatchedCourier:
    """Shows the oracle each message as it leaves, and the cores at the end of each turn."""

    def __init__(self, node: "ChaosNode", host: Host, inner: Courier) -> None:
        self._node, self._host, self._inner = node, host, inner

    def post(self, address: str, parcel: Parcel) -> None:
        node = self._node
        replica = self._host.replicas.get(GID)
        if replica is not None:
            node.oracle.sent(node.name, replica, node.boot, parcel.content)
        self._inner.post(address, parcel)
        node.spring(type(parcel.content).__name__)

    def flush(self) -> None:
        node = self._node
        replica = self._host.replicas.get(GID)
        if replica is not None:
            node.oracle.turned(node.name, replica, asyncio.get_running_loop().time())
        self._inner.flush()

    def close(self) -> None:
        self._inner.close()


class ChaosNode(Node):
    """A node that may lose its power between any two callbacks, also while it starts."""

    def __init__(self, name: str, world: "ChaosWorld") -> None:
        super().__init__(name, world)
        self.chaos = world
        self.oracle = world.oracle
        self.oracle.watch(name, self.drive, GID)
        self.drive.on_failure = lambda error: self.power_cut()
        self.drive.watch(lambda disk, _: self.spring(disk.partition(".")[0]))
        self.starting: asyncio.Task[Host] | None = None
        self.trap: tuple[str, int] | None = None
        self.made = False

    @property
    def boot(self) -> int:
        return self._boot

    @property
    def up(self) -> bool:
        return self.host is not None and self.starting is None

    @property
    def has_replica(self) -> bool:
        return self.host is not None and GID in self.host.replicas

    def power_up(self) -> None:
        if self.host is None and self.starting is None:
            self.starting = self.world_task(self.start(create=not self.made))
            self.starting.add_done_callback(self._started)

    def world_task(self, work: Coroutine[Any, Any, Host]) -> "asyncio.Task[Host]":
        return asyncio.get_running_loop().create_task(work)

    def _started(self, task: "asyncio.Task[Host]") -> None:
        if task is self.starting:
            self.starting = None
            if task.cancelled():
                return
            if isinstance(error := task.exception(), DiskFailed):
                self.power_cut()
            elif error is not None:
                self.oracle.must(False, "start", f"{self.name}: {error!r}")
            else:
                self.made = True

    async def start_replica(self, gid: GroupId) -> Replica:
        host = self.host
        assert host is not None
        if not isinstance(host._courier, WatchedCourier):
            host._courier = WatchedCourier(self, host, host._courier)
        machine = WatchedMachine(self)
        replica = await host.start_replica(gid, machine)
        machine.attach(replica)
        self.machine = machine
        self.oracle.started(self.name, replica, self.boot)
        return replica

    def power_cut(self, *, gentle: bool = False) -> None:
        """End the node at once; `gentle`: what was handed to the disk lands."""
        self.trap = None
        if self.starting is not None:
            starting, self.starting = self.starting, None
            starting.cancel()
        if self.host is not None:
            self.host.stop("crashed")
            self.host = None
        if self.world.network.process(self.address) is not None:
            self.world.network.crash(self.address)
        if gentle:
            self.drive.end_process()
        else:
            self.drive.crash()

    def spring(self, event: str) -> None:
        """Something that a trap may wait for happens: the power goes before anything else does."""
        if self.trap is None or self.trap[0] != event:
            return
        kind, countdown = self.trap
        self.trap = (kind, countdown - 1)
        if countdown <= 1:
            self.trap = None
            self.oracle.probes[f"trapped at {kind}"] += 1
            asyncio.get_running_loop().call_soon(self.power_cut)


class ChaosWorld(World):
    """A group, its clients, its operator and its nemesis."""

    nodes: dict[str, ChaosNode]  # type: ignore[assignment]

    def __init__(self, seed: int, knobs: Knobs) -> None:
        super().__init__(seed, config=knobs.config, compaction=knobs.compaction)
        self.seed, self.knobs = seed, knobs
        self.oracle = Oracle()
        self.rng = self.chance.rng("nemesis")
        self.striking = True
        self._loop = asyncio.get_running_loop()
        self._incarnation = 0

    def make_node(self, name: str) -> ChaosNode:
        return ChaosNode(name, self)

    @property
    def all(self) -> list[ChaosNode]:
        return list(self.nodes.values())

    def leading(self) -> ChaosNode | None:
        leaders = [n for n in self.all if n.has_replica and n.replica.leads]
        return max(leaders, key=lambda n: n.replica.core.term) if leaders else None

    async def grow(self) -> None:
        await self.found("n1")
        for number in range(2, self.knobs.size + 1):
            await self.until(self._is_settled)
            await self.join(f"n{number}")
        for node in self.all:
            node.made = True

    def _is_settled(self) -> bool:
        leader = self.leading()
        if leader is None:
            return False
        core = leader.replica.core
        return core.log.membership_index <= core.commit and not in_change(core.membership)

    # Clients

    async def client(self, number: int) -> None:
        """Submits commands that nobody else does, and reads; follows hints as a clerk does."""
        rng = self.chance.rng(f"client/{number}")
        count = 0
        node: ChaosNode | None = None
        while self.striking:
            await asyncio.sleep(rng.uniform(0.002, 0.06))
            if node is None or not node.has_replica:
                node = rng.choice(self.all)
            if not node.has_replica:
                node = None
            elif rng.random() < self.knobs.reads:
                await self.read(node)
                node = rng.choice(self.all)
            else:
                count += 1
                size = rng.choice([0, 0, 40, 200])
                command = b"%d/%d " % (number, count) + bytes(size)
                try:
                    await self.submit(node, command)
                except NotLeader as error:
                    node = self.nodes.get(error.leader.node) if error.leader else None
                except (RaftError, TimeoutError):
                    node = None

    async def submit(self, node: ChaosNode, command: bytes, seconds: float = 1.5) -> None:
        oracle = self.oracle
        try:
            async with asyncio.timeout(seconds):
                position = await node.rsm.submit(command)
        except (NotLeader, Overloaded, ReplicaStopped) as error:
            oracle.refused[command] = str(error)
            raise
        except (OutcomeUnknown, TimeoutError):
            oracle.unknown[command] = None
            raise
        assert isinstance(position, int)
        oracle.answered(command, position)

    async def read(self, node: ChaosNode) -> None:
        acknowledged = max(self.oracle.acknowledged.values(), default=0)
        machine, name = node.rsm, node.name
        try:
            async with asyncio.timeout(1.5):
                await machine.read()
        except (RaftError, TimeoutError):
            return
        assert isinstance(machine.machine, Ledger)
        self.oracle.is_fresh(name, machine.machine.count, acknowledged)

    # The operator

    async def operator(self) -> None:
        """Makes the replicas that the log asks for, drops those that it has let go."""
        while True:
            await asyncio.sleep(0.1)
            membership = self.oracle.membership[1]
            for node in self.all:
                if not node.up or node.host is None:
                    continue
                held = [record for record in node.host.records() if record.gid == GID]
                wanted = [m for m in members(membership).values() if m.node == node.name]
                try:
                    async with asyncio.timeout(0.5):
                        if held and self._is_gone(held[0]):
                            self.oracle.probes["dropped"] += 1
                            await node.host.drop_replica(GID)
                        elif held and GID not in node.host.replicas:
                            await node.start_replica(GID)  # made, and not started: a slow disk
                        elif held:
                            continue
                        elif wanted:
                            await self._create(node, node.host, wanted[-1].id)
                except (TimeoutError, ReplicaRefused):
                    continue

    def _is_gone(self, record: ReplicaRecord) -> bool:
        membership = self.oracle.membership[1]
        return record.replica < membership.next_id and record.replica not in members(membership)

    async def _create(self, node: ChaosNode, host: Host, replica: Any) -> None:
        self._incarnation += 1
        record = ReplicaRecord(GID, UUID, replica, 1000 + self._incarnation)
        await host.create_replica(record)
        if node.host is host:
            self.oracle.probes["created"] += 1
            await node.start_replica(GID)

    # The nemesis

    async def nemesis(self) -> None:
        rng, knobs = self.rng, self.knobs
        strikes: dict[str, Callable[[], None]] = {
            "loss": self._bad_links, "duplication": self._bad_links,
            "reordering": self._bad_links, "long_delay": self._bad_links,
            "partition": self._partition, "isolate": self._isolate, "one way": self._one_way,
            "partial": self._partial, "crash": self._crash, "kill": self._kill,
            "crash all": self._crash_all, "trap": self._trap,
            "disk fails": self._disk_fails, "slow disk": self._slow_disk,
            "transfer": self._transfer, "members": self._members, "compact": self._compact,
        }  # fmt: skip
        until = self._loop.time() + knobs.seconds
        while knobs.faults and self._loop.time() < until:
            await asyncio.sleep(rng.uniform(0.01, knobs.pause_seconds_max))
            fault = rng.choice(knobs.faults)
            strikes[fault]()
            if rng.random() < 0.3:
                self.network.heal()
            for node in self.all:
                if rng.random() < 0.5:
                    node.power_up()
            self.oracle.check()
        if not knobs.faults:
            await asyncio.sleep(knobs.seconds)

    def _victim(self) -> ChaosNode:
        leader = self.leading()
        return (
            leader if leader is not None and self.rng.random() < 0.4 else self.rng.choice(self.all)
        )

    def _bad_links(self) -> None:
        rng, on = self.rng, self.knobs.faults
        if rng.random() < 0.3:
            self.network.set_faults(HEALTHY)
            return
        faults = Faults(
            loss=rng.choice([0.02, 0.2]) if "loss" in on else 0.0,
            duplication=rng.choice([0.05, 0.5]) if "duplication" in on else 0.0,
            reordering=rng.choice([0.05, 0.5]) if "reordering" in on else 0.0,
            reordering_seconds_max=rng.choice([0.01, 0.5]),
            long_delay=rng.choice([0.005, 0.05]) if "long_delay" in on else 0.0,
            long_delay_seconds_max=rng.choice([0.2, 2.0]),
        )
        self.network.set_faults(faults)

    def _partition(self) -> None:
        names = [n.address for n in self.all]
        self.rng.shuffle(names)
        at = self.rng.randint(1, max(1, len(names) - 1))
        self.network.partition(names[:at], names[at:])

    def _isolate(self) -> None:
        self.network.isolate(self._victim().address, [n.address for n in self.all])

    def _one_way(self) -> None:
        victim, inwards = self._victim(), self.rng.random() < 0.5
        for other in self.all:
            if other is not victim and self.rng.random() < 0.8:
                ends = (victim.address, other.address)
                self.network.cut(*(reversed(ends) if inwards else ends))

    def _partial(self) -> None:
        one, other = self._victim().address, self.rng.choice(self.all).address
        if one != other:
            self.network.partition([one], [other])

    def _crash(self) -> None:
        self._victim().power_cut()

    def _kill(self) -> None:
        self._victim().power_cut(gentle=True)

    def _crash_all(self) -> None:
        if self.rng.random() < 0.3:
            for node in self.all:
                node.power_cut()
            for node in self.all:
                if self.rng.random() < 0.7:
                    node.power_up()

    def _trap(self) -> None:
        self._victim().trap = (self.rng.choice(TRAPS), self.rng.choice([1, 1, 2, 5]))

    def _disk_fails(self) -> None:
        """A write or an fsync fails, which ends the process."""
        self._victim().drive.fail_next()

    def _slow_disk(self) -> None:
        rng, drive = self.rng, self._victim().drive
        drive.sync_seconds = rng.choice([0.0002, 0.02, 0.3])
        drive.flush_seconds = rng.choice([0.001, 0.05, 0.5])

    def _transfer(self) -> None:
        leader = self.leading()
        if leader is not None:
            voters = leader.replica.core.membership.voters
            try:
                leader.replica.transfer(self.rng.choice(voters).id)
            except (TransferRefused, NotLeader):
                return
            self.oracle.probes["transfers"] += 1

    def _members(self) -> None:
        rng, leader = self.rng, self.leading()
        if leader is None:
            return
        membership = leader.replica.core.membership
        many = rng.choice([1, 1, 2])
        here = {m.node for m in members(membership).values()}
        spare = [n for n in self.all if NodeId(n.name) not in here]
        while len(spare) < many and len(self.nodes) < self.knobs.size + 2:
            name = f"n{len(self.nodes) + 1}"
            node = self.nodes[name] = self.make_node(name)
            node.power_up()
            spare.append(node)
        add = [(NodeId(n.name), n.address) for n in spare[:many]] if rng.random() < 0.7 else []
        known = [m.id for m in (*membership.voters, *membership.learners)]
        remove = rng.sample(known, min(many, len(known))) if rng.random() < 0.6 else []
        try:
            leader.replica.change_members(add=add, remove=remove)
        except (MembershipRefused, NotLeader):
            return
        self.oracle.probes["changes of members"] += 1

    def _compact(self) -> None:
        node = self._victim()
        if node.host is not None:
            task = self._loop.create_task(node.host.compact())
            self._loop.call_later(3, task.cancel)

    # The whole run

    def heal(self) -> None:
        self.network.set_faults(HEALTHY)
        self.network.heal()
        for node in self.all:
            node.trap = None
            node.drive._fail_next = False
            node.drive.sync_seconds, node.drive.flush_seconds = 0.0002, 0.001
            node.power_up()

    async def live(self) -> Oracle:
        """Grow, suffer, heal, converge."""
        await self.grow()
        operator = self._loop.create_task(self.operator())
        clients = [self._loop.create_task(self.client(n)) for n in range(self.knobs.clients)]
        await self.nemesis()
        self.striking = False
        self.heal()
        await asyncio.gather(*clients)
        await self.converge()
        operator.cancel()
        self.oracle.check()
        self.oracle.conclude()
        self.oracle.check()
        return self.oracle

    async def converge(self) -> None:
        """A command goes through within 25 E of healing, every member agrees within 60 E, beside
        what is still on its way: messages that are late and changes of members under way."""
        healed, longest = self._loop.time(), self.knobs.config.election_seconds_max
        until = healed + 25 * longest + LATE_SECONDS
        attempt = 0
        while True:
            assert self._loop.time() < until, "L2: no command went through after healing"
            self.look_for_silent()
            self.oracle.check()
            leader = self.leading()
            attempt += 1
            try:
                if leader is not None:
                    await self.submit(leader, b"last/%d" % attempt)
                    break
            except (RaftError, TimeoutError):
                pass
            await asyncio.sleep(0.05)
        self.oracle.note("seconds to a command", self._loop.time() - healed)
        until = healed + 60 * longest + LATE_SECONDS
        while not self._agrees():
            assert self._loop.time() < until, f"L3: no agreement after healing: {self._picture()}"
            self.look_for_silent()
            self.oracle.check()
            await asyncio.sleep(0.05)
        self.oracle.note("seconds to agreement", self._loop.time() - healed)
        for node in self.all:
            if node.has_replica and node.replica.id in members(self.oracle.membership[1]):
                self.oracle.state_is_canonical(node.name, node.replica)
                await self.read(node)

    def look_for_silent(self) -> None:
        for node in self.all:
            if node.has_replica:
                because = node.replica.stopped_because
                self.oracle.must(because is None, "silent", f"{node.name}: {because}")
            if node.host is not None and node.host._housekeeper.done():
                self.oracle.must(False, "silent", f"{node.name}: the housekeeper is gone")

    def _agrees(self) -> bool:
        leader = self.leading()
        if leader is None or in_change(leader.replica.core.membership):
            return False
        nodes = {node.name: node for node in self.all}
        applied = leader.replica.applied
        if applied != leader.replica.core.log.last.index:
            return False
        for member in members(leader.replica.core.membership).values():
            node = nodes[member.node]
            if not node.has_replica or node.replica.id != member.id:
                return False
            if node.replica.applied != applied or node.replica._tasks:
                return False
        return True

    def _picture(self) -> str:
        lines = []
        for node in self.all:
            if node.has_replica:
                core = node.replica.core
                lines.append(
                    f"{node.name}: {core.role.value} term {core.term} "
                    f"applied {node.replica.applied} commit {core.commit} "
                    f"log {core.log.start.last}..{core.log.last} "
                    f"installing {core._state.installing} progress "
                    f"{[(p.id, p.match, p.next, p.sending.value) for p in core.progress.values()]}"
                )
            else:
                lines.append(f"{node.name}: up={node.up}, no replica")
        return "\n".join([str(self.oracle.membership), *lines])


def live(seed: int, knobs: Knobs | None = None) -> Oracle:
    """One run, in virtual time."""
    drawn = knobs or Knobs.draw(Random(f"knobs/{seed}"))

    async def main() -> Oracle:
        world = ChaosWorld(seed, drawn)
        try:
            return await world.live()
        except BaseException as error:
            error.add_note(f"seed {seed}, {drawn}")
            world.look_for_silent()
            world.oracle.check()  # what was seen first says more than what came of it
            raise

    housekeeping = raft.host.HOUSEKEEPING_SECONDS
    raft.host.HOUSEKEEPING_SECONDS = 0.1  # type: ignore[misc]
    try:
        return run(main(), seed=seed)
    finally:
        raft.host.HOUSEKEEPING_SECONDS = housekeeping  # type: ignore[misc]


__all__ = ["ChaosWorld", "Knobs", "live", "replace"]
