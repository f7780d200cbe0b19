"""One run, drawn from a seed: a cluster, what goes wrong in it, and whether it was right.

First things break while clients ask and an administrator changes things; safety is watched
throughout. Then a core of nodes is healed (in half of the runs a minority stays down for good), and
the cluster must come to rest within bounds. At the end the clients' history is judged.

- L1  every group has a leader within 20 E of healing (E: the largest election time-out).
- L2  every shard answers a fresh operation within 25 E.
- L3  every replica of the core has applied what its group's leader has within 60 E,
- L4  every migration has ended within 100 E,
- L5  and so has every change of members, within 60 E.
- S12 nothing is left of shards that a group does not own, within 150 E.
- C1  what clients saw is linearizable, key by key.
- C8  what was acknowledged is there, whatever lost its power.

Each seed draws which kinds of fault it has at all, so that runs differ in kind and not only in
order (swarm testing, Groce et al., ISSTA 2012).
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Final

from labrpc.sim.chance import Chance
from labrpc.sim.loop import VirtualLoop, run
from labs.bereft import BEREFT, EXTINCT, Bereft, BereftConfig
from labs.bounds import Bounds
from labs.cluster import SimCluster
from labs.healing import POLICY, SPARE_SECONDS, Administrators
from labs.history import History, Kind
from labs.knobs import Knobs, turned
from labs.linearizability import judge_list, judge_register
from labs.nemesis import (
    COSTLY,
    COSTLY_FAULTS,
    FAULTS,
    NAMED_FAULTS,
    RARE,
    RARE_FAULTS,
    Nemesis,
)
from labs.observer import InvariantBroken, Observer
from labs.operator import Operator
from labs.outcome import Outcome, c1, outcome_of
from labs.overload import Overload
from labs.pairs import judge_pair
from labs.points import Points
from labs.rest import Rest, everything_ends
from labs.swaps import swaps
from labs.topology import Topology, custom, drawn, topology
from labs.weaker_reads import WeakerReads
from labs.workload import Workload, WorkloadConfig
from raft.types import GroupId

SHORT_DEADLINE_SECONDS: Final = 0.4
DRIFT_MAX: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioConfig:
    """How large a run is. Times in virtual seconds."""

    seconds: float = 15.0
    topology: str | None = None
    """One of `labs.topology.WEIGHTS`; None: drawn from the seed."""
    nodes: int | None = None
    """Instead of a topology: so many nodes, and `groups` groups of three."""
    groups: int = 3
    nshards: int = 12
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    fault_pause_max: float = 1.5
    change_pause_max: float = 3.0
    faults: tuple[str, ...] | None = None
    """Which kinds there are; None: drawn from the seed."""
    also: tuple[str, ...] = ()
    """Kinds that there are besides."""
    knobs: Knobs | None = None
    """None: drawn from the seed."""

    def __post_init__(self) -> None:
        named = [kind for kind in NAMED_FAULTS if kind in (*(self.faults or ()), *self.also)]
        if len(named) > 1:
            raise ValueError(
                f"{' and '.join(named)} make runs of different kinds: name one of them"
            )


def drawn_faults(seed: int | str) -> tuple[str, ...]:
    """The kinds of fault that a seed has: each with probability 1/2, at least one."""
    rng = Chance(seed).rng("swarm")
    drawn = tuple(fault for fault in FAULTS if rng.random() < 0.5) or (rng.choice(FAULTS),)
    drawn += tuple(fault for fault in RARE_FAULTS if rng.random() < RARE)
    return drawn + tuple(fault for fault in COSTLY_FAULTS if rng.random() < COSTLY)


class Scenario:
    """One run. `play` it on a virtual loop.

    Args:
        observer: Sees everything; None: one without a sink.
    """

    def __init__(
        self, seed: int | str, config: ScenarioConfig, observer: Observer | None = None
    ) -> None:
        self.config = config
        self.history = History()
        self.observer = observer or Observer()
        self._chance = Chance(seed)
        self.faults = drawn_faults(seed) if config.faults is None else config.faults
        self.faults += tuple(kind for kind in config.also if kind not in self.faults)
        self.knobs = config.knobs or Knobs.draw(self._chance.rng("knobs"))
        if "newer-snapshot" in self.faults:
            self.knobs = self.knobs.in_pieces()
        self.topology = self._topology(config)
        self._ruined = "ruin" in self.faults
        self._heals = "death" in self.faults
        self._cluster = SimCluster(
            self._chance,
            nodes=self.topology.nodes,
            groups=len(self.topology.placement) - 1,
            placement=self.topology.placement,
            learners=self.topology.learners,
            nshards=self.topology.nshards,
            raft=self.knobs.raft,
            compaction=self.knobs.compaction,
            observer=self.observer,
            heal=POLICY if self._heals else None,
        )
        if self._heals:  # the controller's group may come to be anywhere
            self._cluster.controllers = [node.address for node in self._cluster.nodes.values()]
        self._cluster.oracle.values_are_unique = True
        self._cluster.may_be_ruined = self._ruined
        self._longest = self.knobs.raft.election_seconds_max
        if "drift" in self.faults:
            self._let_clocks_drift()
            self._longest *= 1 + DRIFT_MAX

    def _topology(self, config: ScenarioConfig) -> Topology:
        if config.nodes is not None:
            return custom(config.nodes, config.groups, config.nshards)
        rng = self._chance.rng("topology")
        return topology(config.topology or drawn(rng), rng)

    def _let_clocks_drift(self) -> None:
        """Each node's clock is fast or slow, for good."""
        loop, rng = asyncio.get_running_loop(), self._chance.rng("clocks")
        assert isinstance(loop, VirtualLoop)
        names = list(self._cluster.nodes)
        loop.skew({name: rng.uniform(1 - DRIFT_MAX, 1 + DRIFT_MAX) for name in names})

    async def play(self) -> Outcome:
        # What parts answer each other is watched below the points, which refuse without a reason.
        swapping = swaps() if "swaps" in self.faults else nullcontext()
        with turned(self.knobs), self._cluster.oracle.waits.watching(), swapping:
            self.points = Points(self._cluster, self._chance.rng("points"))
            self.points.on = False  # until the cluster stands
            with self.points.put_in() if "points" in self.faults else nullcontext():
                return await self._play()

    async def _play(self) -> Outcome:
        config, cluster, chance = self.config, self._cluster, self._chance
        self.observer.tell(f"faults {' '.join(self.faults)}")
        await cluster.start()
        pairs = [cluster.client() for _ in range(config.workload.clients)]
        clerks = [clerk for clerk, _ in pairs]
        _, admin = cluster.client()
        await admin.join([cluster.joining(gid) for gid in cluster.gids[:-1] or cluster.gids])
        workload = Workload(
            clerks,
            chance.rng("workload"),
            config.workload,
            self.history,
            cluster.oracle,
            deadline=self._deadline if "deadlines" in self.faults else None,
        )
        readers = [cluster.client() for _ in range(config.workload.readers)]
        weaker = WeakerReads(
            [clerk for clerk, _ in readers],
            chance.rng("weaker reads"),
            config.workload,
            self.history,
            cluster.oracle,
            first_client=len(pairs),
        )
        kind = Administrators if self._heals else Operator
        operator = kind(cluster, admin, list(self.faults), chance.rng("changes"))
        operators = [operator]
        if "two-admins" in self.faults:
            _, rival = cluster.client()
            operators.append(Operator(cluster, rival, ["changes"], chance.rng("rival")))
        nemesis = Nemesis(
            cluster,
            list(self.faults),
            chance.rng("faults"),
            pause_max=config.fault_pause_max,
            election_seconds=self._longest,
            acknowledged=lambda: sum(one.happened is True for one in self.history.operations),
        )
        bounds = Bounds(cluster)
        watching = asyncio.ensure_future(bounds.watch())
        self.points.on = True
        maintaining = asyncio.ensure_future(operator.maintain())
        asking = asyncio.gather(workload.run(), weaker.run())
        striking = asyncio.ensure_future(nemesis.strike(config.seconds))
        changing = [one.change(config.seconds, config.change_pause_max) for one in operators]
        await asyncio.gather(striking, *changing)
        workload.stop()
        weaker.stop()
        self.points.on = False
        core = self._core()
        operator.lost = set() if core is None else set(cluster.nodes) - core
        await nemesis.heal(core)
        await asking
        await operator.done()
        if self._ruined:
            return await self._end_ruined(workload, nemesis.crashes)
        rest = Rest(
            cluster, admin, workload,
            election_seconds=self._longest, clients=config.workload.clients,
            spare_seconds=SPARE_SECONDS if self._heals else 0.0,
        )  # fmt: skip
        rest_seconds = await rest.come(self.knobs.compaction, self.knobs.raft)
        await rest.stay_quiet(self.knobs.raft)
        if "overload" in self.faults:
            overload = Overload(
                cluster, self.history, chance.rng("overload"),
                first_client=len(pairs) + len(readers), election_seconds=self._longest,
            )  # fmt: skip
            await overload.bear(self.knobs.raft)
        if core is not None:
            outside = [n for n in cluster.nodes.values() if n.name not in core and not n.condemned]
            rng = chance.rng("outsiders")
            if outside and rng.random() < 0.5:
                await rest.bear_flapping(outside, rng)
            if outside:
                await rest.take_back(outside, operator)
        maintaining.cancel()
        watching.cancel()
        await self._judge(workload, rest)
        configs = (await rest.newest()).number
        for clerk, controller in pairs + readers:
            await clerk.close()
            await controller.close()
        outcome = self._outcome(rest_seconds, configs, nemesis.crashes)
        await everything_ends(cluster, self._longest)
        self.observer.finish()
        return outcome

    async def _end_ruined(self, workload: Workload, crashes: int) -> Outcome:
        """More was lost than the others hold. Nobody need answer any more; who does is right."""
        for key in workload.keys:
            await workload.ask(0, Kind.GET, key, None, SHORT_DEADLINE_SECONDS)
        operations = self.history.by_key()
        with c1():
            for key in workload.keys:
                if key in workload.lists and key in operations:
                    judge_list(operations[key], self._cluster.oracle.last_value(key))
                elif key in operations:
                    judge_register(operations[key])
            self._judge_pairs(workload)
        self.observer.finish()
        return self._outcome(0.0, 0, crashes)

    def _deadline(self, rng: Random) -> float:
        """Some clients lose patience soon."""
        usual = self.config.workload.timeout
        return rng.uniform(0.01, SHORT_DEADLINE_SECONDS) if rng.random() < 0.3 else usual

    def _core(self) -> set[str] | None:
        """Which nodes live on; None: all. Of each group a majority of whoever votes, and of what
        the clients' and groups' first question goes to."""
        rng, cluster = self._chance.rng("core"), self._cluster
        if rng.random() < 0.5:
            return None
        core = {name for name, node in cluster.nodes.items() if not node.condemned}
        if len(core) < len(cluster.nodes) and not all(map(cluster.settled, cluster.placement)):
            return None  # whoever comes for a condemned node is needed
        for victim in rng.sample(sorted(core), min(2, len(core))):
            rest = core - {victim}
            if all(has_majority(cluster, gid, rest) for gid in cluster.placement):
                core = rest
        return core

    # Whether it was right

    async def _judge(self, workload: Workload, rest: Rest) -> None:
        oracle, operations = self._cluster.oracle, self.history.by_key()
        with c1():
            for key in workload.keys:
                last = await workload.ask(0, Kind.GET, key, None, rest.answer_seconds)
                if not last.happened:
                    raise InvariantBroken("L2", f"a healed cluster does not answer: {last}")
                oracle.judge_last(last)
                seen = [*operations.get(key, ()), last]
                if key in workload.lists:
                    judge_list(seen, last.value)
                else:
                    judge_register(seen)
            self._judge_pairs(workload)
        oracle.judge_unknown(self.history.operations)
        self.observer.finish()

    def _outcome(self, rest_seconds: float, configs: int, crashes: int) -> Outcome:
        return outcome_of(
            self._cluster, self.history, self.faults, self.topology.name,
            rest_seconds=rest_seconds, configs=configs, crashes=crashes,
        )  # fmt: skip

    def _judge_pairs(self, workload: Workload) -> None:
        """C1 of two keys together: nobody saw half a batch."""
        for left, right, _ in workload.pairs:
            judge_pair(left, right, self.history.operations)


def has_majority(cluster: SimCluster, gid: GroupId, core: set[str]) -> bool:
    """Whether a group can decide with only `core`, by each membership that a replica may hold."""
    return all(
        2 * sum(m.node in core and m.id not in cluster.watchers[gid].lost for m in voters)
        > len(voters)
        for membership in cluster.watchers[gid].memberships()
        for voters in (membership.voters, membership.outgoing)
        if voters
    )


def broken_invariant(error: BaseException) -> str:
    """The id of the invariant that an error of a run is about; H1 if it is about none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InvariantBroken):
            return cause.invariant
        cause = cause.__cause__
    return "H1"


class Played(AssertionError):
    """A run that was wrong: what is needed to tell of it."""

    def __init__(self, error: BaseException, run: Scenario | Bereft) -> None:
        self.invariant = broken_invariant(error)
        told = error.__cause__ if isinstance(error.__cause__, InvariantBroken) else error
        text = str(told) or repr(told)
        self.text = text if self.invariant in text else f"{self.invariant}: {text}"
        self.last = list(run.observer.last)
        self.history = run.history
        super().__init__(self.text)


def _run_of(seed: int | str, config: ScenarioConfig, observer: Observer) -> Scenario | Bereft:
    faults = drawn_faults(seed) if config.faults is None else config.faults
    kinds = (*faults, *config.also)
    if BEREFT not in kinds and EXTINCT not in kinds:
        return Scenario(seed, config, observer)
    bereft = BereftConfig(
        seconds=config.seconds, whole=EXTINCT in kinds, faults=kinds, workload=config.workload
    )
    return Bereft(seed, bereft, observer)


def play(
    seed: int | str,
    config: ScenarioConfig | None = None,
    *,
    sink: Callable[[str], None] | None = None,
) -> tuple[Outcome, History]:
    """Play one run to its end.

    Args:
        sink: Takes the trace, line by line.

    Raises:
        Played: something was wrong; the notes name the seed and how to play it again.
    """
    runs: list[Scenario | Bereft] = []
    loops: list[VirtualLoop] = []

    async def main() -> Outcome:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loops.append(loop)
        observer = Observer(sink, wire=sink is not None)
        runs.append(_run_of(seed, config or ScenarioConfig(), observer))
        outcome = await runs[0].play()
        outcome.seconds = loop.time()
        return outcome

    try:
        outcome = run(main(), seed=seed)
    except Exception as error:
        if not runs:
            raise
        played = Played(error, runs[0])
        played.add_note(f"again: python -m labs simulate --seed {seed}")
        raise played from error
    outcome.events = loops[0].events
    return outcome, runs[0].history
