"""One run in which a group loses its majority for good (`bereft`), or all of itself (`extinct`).

Clients ask, shards move, other things go wrong, and then all replicas of a group but one are gone,
disks and all; the one that is left may have been cut off for a while, and be behind. Operators look
at the plan, and have the group go on from it (`ctl recover apply`); their commands die half-way,
and so does the survivor. Or nothing is left, and they give the group up (`ctl abandon`).

All invariants of Raft, of shards and of clients are watched, before and after, as in any other run;
what is lost is what the plan said (`labs/memory.py`), and without that what clients saw is
linearizable. The group that goes on grows again, and comes to rest like any other.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from labrpc.errors import RpcError
from labrpc.sim.chance import Chance
from labrpc.transport import Address
from labs.cluster import SimCluster
from labs.history import History, Kind
from labs.linearizability import judge_list, judge_register
from labs.memory import Memory
from labs.nemesis import Nemesis
from labs.observer import InvariantBroken, Observer
from labs.operator import Operator
from labs.outcome import Outcome, c1, outcome_of
from labs.pairs import judge_pair
from labs.rest import Rest, everything_ends
from labs.sim_node import SimNode
from labs.workload import Workload, WorkloadConfig
from raft.types import GroupId, GroupUuid
from shardctrler.client import ControllerClient
from shardctrler.errors import ShardCtrlerError
from shardctrler.types import View
from shardkv.admin import BadAdmin
from shardkv.errors import ShardKVError
from shardkv.planner import HealPolicy
from shardkv.recovering import Losses, Recoverer, RecoveryRefused

NSHARDS: Final = 12
GROUPS: Final = 3
BEREFT: Final = "bereft"
EXTINCT: Final = "extinct"
"""The kinds of fault that make a run one of these."""
FAULTS: Final = (
    "loss", "delay", "duplication", "reordering", "crash", "kill", "stutter", "slow-disk",
    "migration-crash", "changes", "transfer",
)  # fmt: skip
"""Kinds that may go on meanwhile. None that cuts off for long: a plan is of the moment, and what
others have decided and not yet done it does not know."""
CHANGES_SECONDS: Final = 0.8
"""The longest pause between two changes of an administrator: a survivor shall miss some."""
BEHIND_SECONDS: Final = 4.0
SETTLES_SECONDS: Final = 2.0
"""Operators look twice, so long one after the other, before they decide."""
STRIKES_SECONDS: Final = 0.3
"""So soon after a command began the survivor may die."""
COMMAND_SECONDS: Final = 20.0
RECOVERED_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BereftConfig:
    """How large a run is. Times in virtual seconds."""

    seconds: float = 8.0
    whole: bool = False
    """Whether nothing is left of the group."""
    faults: tuple[str, ...] = FAULTS
    """Which kinds there are besides; those of `FAULTS` count."""
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)


class _Watched(Recoverer):
    """An operator's way out, which tells the oracle what it is about to say is lost."""

    memory: Memory

    async def losses(self, client: ControllerClient, view: View, gid: int) -> Losses:
        lost = await super().losses(client, view, gid)
        self.memory.announced = dict.fromkeys(lost.lost)
        return lost


class Bereft:
    """One run. `play` it on a virtual loop."""

    def __init__(self, seed: int | str, config: BereftConfig, observer: Observer) -> None:
        self._config, self.observer = config, observer
        self._chance = Chance(seed)
        self._rng = self._chance.rng("bereft")
        self.faults = tuple(kind for kind in FAULTS if kind in config.faults)
        self._whole = config.whole
        nodes = 3 * (GROUPS + 1)
        names = [f"n{number + 1}" for number in range(nodes)]
        self._cluster = SimCluster(
            self._chance,
            nodes=nodes,
            groups=GROUPS,
            placement={GroupId(gid): names[3 * gid : 3 * gid + 3] for gid in range(GROUPS + 1)},
            nshards=NSHARDS,
            observer=observer,
            heal=HealPolicy(heal=False, uneven_seconds=1e9),
        )
        self._cluster.oracle.values_are_unique = True
        self._longest = self._cluster.raft.election_seconds_max
        self._gid = self._rng.choice(self._cluster.gids)
        self.history = History()

    async def play(self) -> Outcome:
        """
        Raises:
            InvariantBroken: something was wrong.
        """
        with self._cluster.oracle.waits.watching():
            return await self._play()

    async def _play(self) -> Outcome:
        config, cluster, chance = self._config, self._cluster, self._chance
        self.observer.tell(f"faults {' '.join(self.faults)}")
        await cluster.start()
        pairs = [cluster.client() for _ in range(config.workload.clients)]
        _, admin = cluster.client()
        await admin.join([cluster.joining(gid) for gid in cluster.gids])
        clerks = [clerk for clerk, _ in pairs]
        workload = Workload(
            clerks, chance.rng("workload"), config.workload, self.history, cluster.oracle
        )
        operator = Operator(cluster, admin, [*self.faults, "changes"], chance.rng("changes"))
        nemesis = Nemesis(
            cluster, list(self.faults), chance.rng("faults"), pause_max=1.5,
            election_seconds=self._longest, acknowledged=lambda: 1,
        )  # fmt: skip
        asking = asyncio.ensure_future(workload.run())
        striking = asyncio.ensure_future(nemesis.strike(config.seconds))
        changing = asyncio.ensure_future(operator.change(config.seconds, CHANGES_SECONDS))
        recovering = asyncio.ensure_future(self._lose_and_recover(admin))
        await asyncio.gather(striking, changing)
        await nemesis.heal()  # whoever was struck down meanwhile is needed
        await recovering
        workload.stop()
        await asking
        rest = Rest(
            cluster, admin, workload,
            election_seconds=self._longest, clients=config.workload.clients,
        )  # fmt: skip
        rest_seconds = await rest.come(cluster.compaction, cluster.raft)
        await rest.stay_quiet(cluster.raft)
        await self._judge(workload, rest)
        configs = (await rest.newest()).number
        for clerk, controller in pairs:
            await clerk.close()
            await controller.close()
        outcome = outcome_of(
            cluster, self.history, (*self.faults, EXTINCT if self._whole else BEREFT), "custom",
            rest_seconds=rest_seconds, configs=configs, crashes=nemesis.crashes,
        )  # fmt: skip
        await everything_ends(cluster, self._longest)
        self.observer.finish()
        return outcome

    # The loss

    async def _lose_and_recover(self, admin: ControllerClient) -> None:
        await asyncio.sleep(self._rng.uniform(0.2, 0.6) * self._config.seconds)
        await self._lose()
        if self._whole:
            await self._give_up(admin)
        else:
            await self._go_on(admin)
        await asyncio.sleep(STRIKES_SECONDS)
        await self._revive()

    async def _lose(self) -> None:
        """All replicas but one, which may have been cut off for a while; or that one too."""
        cluster, gid, rng = self._cluster, self._gid, self._rng
        held = [cluster.nodes[name] for name in cluster.placement[gid]]
        leader = cluster.leader(gid)
        survivor = leader if leader is not None and rng.random() < 0.15 else rng.choice(held)
        others = [node for node in cluster.nodes.values() if node is not survivor]
        if survivor is not leader and rng.random() < 0.85:
            for node in others:
                cluster.network.partition([survivor.address], [node.address])
            await asyncio.sleep(rng.uniform(0.0, BEHIND_SECONDS))
        cluster.watchers[gid].superseded = True
        for node in held:
            if node is not survivor or self._whole:
                self._destroy(node)
        for node in others:
            cluster.network.mend(survivor.address, node.address)
            cluster.network.mend(node.address, survivor.address)
        if self._whole:
            cluster.oracle.memory.gone(gid)

    def _destroy(self, node: SimNode) -> None:
        node.crash()
        node.lose_disk()
        node.condemned = True

    # The ways out

    def _recoverer(self, name: str) -> _Watched:
        """An operator's process."""
        cluster = self._cluster
        nodes = {name: str(node.address) for name, node in cluster.nodes.items()}
        made = _Watched(
            cluster.network.transport(Address(name)), nodes, self._chance.rng(name), self._tell
        )
        made.memory = cluster.oracle.memory
        return made

    def _tell(self, line: str) -> None:
        self.observer.tell(f"operator: {line}")

    async def _go_on(self, admin: ControllerClient) -> None:
        cluster, gid, rng = self._cluster, self._gid, self._rng
        before, number = cluster.uuids[gid], 0
        ends = asyncio.get_running_loop().time() + RECOVERED_SECONDS
        while True:
            number += 1
            recoverer = self._recoverer(f"recoverer{number}")
            patience = rng.uniform(0.0, 0.3) if rng.random() < 0.3 else COMMAND_SECONDS
            try:
                if cluster.uuids[gid] == before:
                    await self._look(recoverer, admin, before)
                if rng.random() < 0.3:
                    asyncio.get_running_loop().call_later(
                        rng.uniform(0.0, STRIKES_SECONDS), self._strike
                    )
                now = asyncio.get_running_loop().time()
                async with asyncio.timeout(patience):
                    await recoverer.apply(admin, gid, deadline=now + COMMAND_SECONDS)
                break
            except TimeoutError:
                self.observer.probe("recovery died half-way")
            except (ShardKVError, ShardCtrlerError, RpcError, BadAdmin) as error:
                self._tell(f"{type(error).__name__}: {error}")
                if cluster.uuids[gid] != before and isinstance(error, RecoveryRefused):
                    break  # it lives: it had been born when the command died
            await self._revive()
            self._not_for_ever(ends)
        self.observer.probe("group went on from a survivor")
        await self._grow(ends)

    async def _look(self, recoverer: _Watched, admin: ControllerClient, before: GroupUuid) -> None:
        """Read the plan until it says the same twice, with nothing left open; or until the group is
        another than `before`: a command that died had it born all the same."""
        cluster, gid = self._cluster, self._gid
        said: Any = None
        ends = asyncio.get_running_loop().time() + RECOVERED_SECONDS
        while True:
            view = await admin.newest(timeout=5.0)
            found = await recoverer.plan(gid, view.directory.groups[gid])
            fates = await recoverer.forgotten(admin, view, found)
            if fates is not None and not fates.unsure and fates == said:
                break
            said = fates
            await self._revive()
            await asyncio.sleep(SETTLES_SECONDS)
            if cluster.uuids[gid] != before:
                return
            self._not_for_ever(ends)
        cluster.oracle.memory.announced = dict.fromkeys(one.shard for one in fates.anew)
        if fates.stands_at < fates.newest:
            self.observer.probe("survivor was configurations behind")

    def _strike(self) -> None:
        """The survivor dies while it is born again."""
        for name in self._cluster.placement[self._gid]:
            self._cluster.nodes[name].crash()

    async def _revive(self) -> None:
        for node in list(self._cluster.nodes.values()):
            if not node.alive and not node.condemned:
                await node.start()

    async def _grow(self, ends: float) -> None:
        """Two new nodes take the places of those that are lost."""
        cluster, gid = self._cluster, self._gid
        survivors = [n for n in cluster.placement[gid] if not cluster.nodes[n].condemned]
        new = [str((await cluster.add_node()).name) for _ in range(2)]
        for number in range(1000):
            await self._revive()
            recoverer = self._recoverer(f"grower{number}")
            now = asyncio.get_running_loop().time()
            try:
                await recoverer.grow(gid, [*survivors, *new], deadline=now + COMMAND_SECONDS)
            except (ShardKVError, ShardCtrlerError, RpcError, BadAdmin) as error:
                self._tell(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.5)
            else:
                return
            self._not_for_ever(ends)

    async def _give_up(self, admin: ControllerClient) -> None:
        gid, number = self._gid, 0
        ends = asyncio.get_running_loop().time() + RECOVERED_SECONDS
        while True:
            number += 1
            now = asyncio.get_running_loop().time()
            try:
                await self._recoverer(f"recoverer{number}").abandon(
                    admin, gid, deadline=now + COMMAND_SECONDS, although_held=True
                )
                break
            except (ShardKVError, ShardCtrlerError, RpcError, BadAdmin) as error:
                self._tell(f"{type(error).__name__}: {error}")
                if "knows no group" in str(error):
                    break  # it is given up, and those who waited for it are on their way
                if "the last one" in str(error):
                    await self._let_another_join(admin)
            await asyncio.sleep(0.5)
            self._not_for_ever(ends)
        del self._cluster.placement[gid]
        self.observer.probe("group given up")

    async def _let_another_join(self, admin: ControllerClient) -> None:
        """All the others have left: somebody must take the shards."""
        other = next(gid for gid in self._cluster.gids if gid != self._gid)
        try:
            await admin.join([self._cluster.joining(other)], timeout=5.0)
        except ShardCtrlerError as error:
            self._tell(f"{type(error).__name__}: {error}")

    def _not_for_ever(self, ends: float) -> None:
        if asyncio.get_running_loop().time() > ends:
            raise InvariantBroken("L4", f"group {self._gid} is not recovered in time")

    # Whether it was right

    async def _judge(self, workload: Workload, rest: Rest) -> None:
        oracle = self._cluster.oracle
        operations = oracle.memory.left(self.history.operations)
        with c1():
            for key in workload.keys:
                last = await workload.ask(0, Kind.GET, key, None, rest.answer_seconds)
                if not last.happened:
                    raise InvariantBroken("L2", f"a healed cluster does not answer: {last}")
                oracle.judge_last(last)
                seen = [*[one for one in operations if one.key == key], last]
                if key in workload.lists:
                    judge_list(seen, last.value)
                else:
                    judge_register(seen)
            for left, right, _ in workload.pairs:
                judge_pair(left, right, operations)
        self.observer.finish()
