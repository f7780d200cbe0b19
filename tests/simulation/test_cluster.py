"""A whole cluster under faults and changes of configuration, from seeds; and what it was made for.

Each seed is a run of some seconds of virtual time: a controller and three groups on six nodes, six
clients, crashes and power cuts, partitions, losses, slow disks, joins, leaves and moves. A failure
shows its seed and how to play it again.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import run
from labs.cluster import SimCluster
from labs.history import History, Kind
from labs.knobs import Knobs
from labs.linearizability import NotLinearizable, judge_list
from labs.nemesis import FAULTS
from labs.outcome import Outcome
from labs.scenario import Played, ScenarioConfig, drawn_faults, play
from labs.workload import Workload, WorkloadConfig
from raft.ports import Rows
from raft.types import GroupId
from shardkv.changes import NotingRows
from shardkv.commands import Install, Mutation
from shardkv.handover import Handover
from shardkv.held import HeldShard
from shardkv.machine import StoreMachine
from shardkv.migration import Ask
from shardkv.pending import Pending
from shardkv.phases import Phase
from shardkv.rows import COPY_END, SESSIONS
from shardkv.server import GroupServer, GroupStateMachine
from shardkv.types import Answer

ROOT = Path(__file__).parents[2]
SEEDS = range(1, 7)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_doubled_or_stale(seed: int) -> None:
    outcome, _ = play(seed, ScenarioConfig(seconds=8.0))

    assert outcome.acknowledged > 50, "a run in which nobody is answered shows nothing"
    assert outcome.checks > 1000, "a run that checked nothing shows nothing"


def test_every_kind_of_fault_strikes_in_some_seed() -> None:
    drawn = {fault for seed in range(1, 21) for fault in drawn_faults(seed)}

    assert drawn == {*FAULTS, "overload"}


@pytest.mark.parametrize("topology", ["T0", "T1", "T2", "T4"])
def test_a_seed_is_a_run(topology: str) -> None:
    """H2: the same seed, twice in one process, to the last digit."""
    config = ScenarioConfig(seconds=2.0, topology=topology)

    runs = [play("again", config) for _ in range(2)]

    (first, one), (second, other) = runs
    assert first == second
    assert list(map(str, one.operations)) == list(map(str, other.operations))


def cut_off_the_leader(seed: int) -> int:
    """Part a group's leader from the other nodes while every client still reaches it; four clients
    read one list all the time, two append to it. Returns how much was asked."""
    history = History()

    async def main() -> None:
        cluster = SimCluster(Chance(f"cut off/{seed}"), groups=1)
        await cluster.start()
        pairs = [cluster.client() for _ in range(6)]
        await pairs[0][1].join([cluster.joining(cluster.gids[0])])
        clerks = [clerk for clerk, _ in pairs]
        workload = Workload(clerks, Random(seed), WorkloadConfig(timeout=5.0), history)
        key = workload.lists[0]
        loop = asyncio.get_running_loop()
        for client in range(6):
            await workload.ask(client, Kind.GET, key, None)
        until = loop.time() + 3.0

        async def ask(client: int, kind: Kind) -> None:
            number = 0
            while loop.time() < until:
                number += 1
                value = b"%d.%d " % (client, number) if kind is Kind.APPEND else None
                await workload.ask(client, kind, key, value)
                await asyncio.sleep(0.003)

        leader = cluster.leader(cluster.gids[0])
        assert leader is not None
        others = [node.address for node in cluster.nodes.values()]
        cluster.network.isolate(leader.address, others)
        kinds = [Kind.GET] * 4 + [Kind.APPEND] * 2
        await asyncio.gather(*[ask(client, kind) for client, kind in enumerate(kinds)])
        cluster.network.heal()
        last = await workload.ask(0, Kind.GET, key, None, 10.0)
        judge_list(history.of(key), last.value)
        for clerk, controller in pairs:
            await clerk.close()
            await controller.close()

    run(main(), seed=seed)
    return len(history.operations)


CUT_OFF_SEEDS = range(2, 5)


@pytest.mark.parametrize("seed", CUT_OFF_SEEDS)
def test_a_leader_cut_off_from_its_group_answers_no_stale_read(seed: int) -> None:
    assert cut_off_the_leader(seed) > 1000


def test_a_seed_is_a_run_in_any_process(tmp_path: Path) -> None:
    """H2: trace and history to the last byte, whatever order sets of strings have there."""
    said = []
    for seed in ("1", "2"):
        trace, history = tmp_path / f"trace{seed}", tmp_path / f"history{seed}"
        flags = ["--seed", "11", "--seconds", "2", "--trace", str(trace)]
        flags += ["--history", str(history)]
        subprocess.run(
            [sys.executable, "-m", "labs", "simulate", *flags],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
        said.append((trace.read_bytes(), history.read_bytes()))

    assert said[0] == said[1]
    assert said[0][0].count(b"\n") > 1000
    assert said[0][1].count(b"\n") > 50
    assert str(ROOT).encode() not in said[0][0]


def test_a_campaign_tells_the_same_stories_with_any_number_of_processes() -> None:
    """H2: in one process or several, whatever order sets of strings have there."""
    said = []
    for jobs, seed in (("1", "1"), ("2", "2")):
        flags = ["--seeds", "1..4", "--seconds", "1", "--jobs", jobs]
        done = subprocess.run(
            [sys.executable, "-m", "labs", "simulate", *flags],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            text=True,
        )
        said.append([line for line in done.stdout.splitlines() if line.startswith("stories ")])

    assert said[0] == said[1]
    assert len(said[0]) == 1


# Known bugs, put in: the run must find them. Each is one that systems of this kind have had.


def plays(seeds: range, config: ScenarioConfig | None = None) -> Iterator[Outcome]:
    for seed in seeds:
        yield play(f"bug/{seed}", config)[0]


def test_a_clerk_that_repeats_under_a_new_number_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(pending: Pending) -> object:
        if pending.sent > 1 and pending.session is not None and pending.session.has_room:
            pending.seq = pending.session.take(pending.session.used)
        return original(pending)

    original = Pending.wire
    monkeypatch.setattr(Pending, "wire", forgetful)

    with pytest.raises(Played, match=r"C3: .* twice"):
        list(plays(range(10), ScenarioConfig(faults=("loss", "crash", "clients"))))


def test_reads_without_a_barrier_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(rsm: GroupStateMachine) -> None:
        return

    monkeypatch.setattr(GroupStateMachine, "read", at_once)

    with pytest.raises(NotLinearizable, match="against the clocks"):
        for seed in CUT_OFF_SEEDS:
            cut_off_the_leader(seed)


def test_a_source_that_drops_before_it_is_told_to_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S8. The copy is gone before it was taken, so the destination waits for ever."""

    async def hasty(handover: Handover, owner: GroupId, ask: Ask) -> bool:
        return True

    monkeypatch.setattr(Handover, "_is_in", hasty)

    with pytest.raises(Played, match=r"S8: .* drops shard"):
        list(plays(range(5), ScenarioConfig(seconds=6.0, faults=("changes", "loss"))))


def test_an_answer_that_calls_an_unknown_write_undone_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C4: definite errors tell the truth."""
    monkeypatch.setattr(Pending, "unknown", property(lambda pending: False))

    with pytest.raises(Played, match=r"C4: .* not to be done, and is"):
        list(plays(range(10), ScenarioConfig(faults=("loss", "isolate", "deadlines"))))


def test_a_frozen_shard_that_still_takes_writes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def served(machine: StoreMachine, write: Mutation, rows: Rows) -> Answer:
        held = machine._shards[write.shard]
        serves = held.serves
        held.serves = serves or held.record.phase is Phase.LEAVING
        try:
            return original(machine, write, rows)
        finally:
            held.serves = serves

    original = StoreMachine._mutate
    monkeypatch.setattr(StoreMachine, "_mutate", served)
    monkeypatch.setattr(GroupServer, "_at_the_door", lambda server, operation, roomy: None)

    config = ScenarioConfig(seconds=6.0, topology="T1", faults=("changes", "loss", "isolate"))

    with pytest.raises(Played, match=r"S9: group \d: Mutation"):
        list(plays(range(24), config))


def test_a_shard_that_comes_without_its_sessions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(machine: StoreMachine, held: HeldShard, install: Install, rows: Rows) -> Answer:
        answer = original(machine, held, install, rows)
        prefix = machine._shards[install.shard].prefix + SESSIONS
        for key, _ in list(rows.range(prefix, prefix + COPY_END)):
            rows.delete(key)
        return answer

    original = StoreMachine._install
    monkeypatch.setattr(StoreMachine, "_install", forgetful)

    with pytest.raises(Played, match=r"S4: shard \d+ of \d+: group \d froze other sessions"):
        list(plays(range(8), ScenarioConfig(seconds=6.0, faults=("changes",))))


def test_a_delete_without_its_change_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """H01: the row stays at the destination, which had copied it before."""
    monkeypatch.setattr(NotingRows, "delete", lambda self, key: self._rows.delete(key))
    config = ScenarioConfig(
        seconds=6.0, faults=("changes",), knobs=Knobs(chunk_bytes=64), change_pause_max=0.3
    )

    with pytest.raises(Played, match=r"S[34]: shard \d+ of \d+: group \d froze other"):
        list(plays(range(12), config))


# What a healthy cluster must do


def healthy(seconds_of_load: float = 2.0) -> tuple[History, float]:
    """Clients ask two groups; a third joins. Their history, and what its shards took to move."""
    history = History()

    async def main() -> float:
        cluster = SimCluster(Chance("healthy"))
        await cluster.start()
        pairs = [cluster.client() for _ in range(6)]
        _, admin = pairs[0]
        await admin.join([cluster.joining(gid) for gid in cluster.gids[:2]])
        config = WorkloadConfig(pairs=0)
        workload = Workload([clerk for clerk, _ in pairs], Random(1), config, history)
        asking = asyncio.ensure_future(workload.run())
        await asyncio.sleep(seconds_of_load)
        number = await admin.join([cluster.joining(cluster.gids[2])])
        joined = asyncio.get_running_loop().time()
        while not cluster.quiet(number):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        settled = asyncio.get_running_loop().time() - joined
        await asyncio.sleep(seconds_of_load)
        workload.stop()
        await asking
        for clerk, controller in pairs:
            await clerk.close()
            await controller.close()
        return settled

    return history, run(main(), seed="healthy")


def test_a_group_that_joins_serves_its_shards_within_a_second() -> None:
    history, settled = healthy()

    assert settled < 1.0
    slowest = max(operation.ended - operation.began for operation in history.operations)
    assert slowest < 1.0, "an operation on a shard that moves waits for the move, and no longer"
    assert all(operation.happened for operation in history.operations)


def test_shards_that_do_not_move_are_served_throughout() -> None:
    """S11. The first two groups keep most of their shards; no operation there notices."""
    history, _ = healthy()

    in_a_hop_or_two = sum(op.ended - op.began < 0.02 for op in history.operations)
    assert in_a_hop_or_two > 0.95 * len(history.operations)


def test_an_idle_cluster_only_beats() -> None:
    """L6: no question is repeated for ever by a cluster with nothing to do."""

    async def main() -> tuple[int, int]:
        cluster = SimCluster(Chance("idle"))
        await cluster.start()
        clerk, admin = cluster.client()
        number = await admin.join([cluster.joining(gid) for gid in cluster.gids])
        await clerk.put("key", "value")
        while not cluster.quiet(number):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.1)
        await asyncio.sleep(5.0)
        before = cluster.network.counts.calls
        await asyncio.sleep(60.0)
        after = cluster.network.counts.calls
        await clerk.close()
        await admin.close()
        return before, after

    before, after = run(main())

    assert after - before <= 6 * 35, "a watch of each node every two seconds, and little else"
