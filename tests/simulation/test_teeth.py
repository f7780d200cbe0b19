"""Known bugs, put into the parts: what a healed cluster must come to does not go unwatched."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from labrpc.sim.chance import Chance
from labrpc.sim.loop import Unhandled, VirtualLoop, run
from labs.cluster import SimCluster
from labs.history import Kind, Operation
from labs.knobs import Knobs
from labs.observer import InvariantBroken
from labs.rest import everything_ends
from labs.scenario import Played, ScenarioConfig, play
from labs.workload import WorkloadConfig
from raft.config import RaftConfig
from raft.courier import FrameCourier
from raft.disk.data_store import Capture
from raft.types import GroupId
from shardctrler import machine
from shardkv.clerk import Clerk
from shardkv.feed import ConfigFeed
from shardkv.once import Names, Once
from shardkv.writes import Append, Put
from tests.shardkv.test_handover_model import half_a_batch

SMALL = ScenarioConfig(seconds=4.0, topology="T1", faults=("changes", "loss"))


def until_broken(seeds: Sequence[int], config: ScenarioConfig) -> str:
    """The first invariant that one of these seeds breaks."""
    for seed in seeds:
        try:
            play(f"teeth/{seed}", config)
        except Played as error:
            return error.invariant
    return ""


def test_a_join_that_does_not_balance_breaks_s10(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_to_one(
        shards: Sequence[GroupId], groups: Sequence[GroupId], holders: Sequence[GroupId]
    ) -> tuple[GroupId, ...]:
        return (min(groups),) * len(shards) if groups else (GroupId(0),) * len(shards)

    monkeypatch.setattr(machine, "balance", all_to_one)

    assert until_broken(range(2), SMALL) == "S10"


def test_a_snapshot_that_lacks_a_row_breaks_r13(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful:
        def __init__(self, rows: object) -> None:
            self._rows = rows

        def range(self, lo: bytes, hi: bytes) -> Iterator[tuple[bytes, bytes]]:
            rows = list(self._rows.range(lo, hi))  # type: ignore[attr-defined]
            return iter(rows[:-1])

        def close(self) -> None:
            self._rows.close()  # type: ignore[attr-defined]

    def chunks(capture: Capture, bytes_max: int) -> Iterator[bytes]:
        capture._rows = Forgetful(capture._rows)  # type: ignore[assignment]
        return original(capture, bytes_max)

    original = Capture.chunks
    monkeypatch.setattr(Capture, "chunks", chunks)
    config = ScenarioConfig(seconds=6.0, topology="T1", faults=("members", "points"))

    assert until_broken(range(6), config) == "R13"


def test_answers_that_come_too_late_break_l7(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 350: answers that waited as long as the largest election time-out; once nobody wrote
    any more, leaders went and came in a healthy group."""

    def init(courier: FrameCourier, dial: Any, codec: Any, hold_seconds: float) -> None:
        original(courier, dial, codec, 0.1)

    original = FrameCourier.__init__
    monkeypatch.setattr(FrameCourier, "__init__", init)
    hasty = RaftConfig(heartbeat_seconds=0.01, election_seconds_min=0.04, election_seconds_max=0.1)
    config = ScenarioConfig(seconds=1.0, topology="T0", faults=(), knobs=Knobs(raft=hasty))

    assert until_broken(range(6), config) == "L7"


def test_half_a_batch_breaks_c10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is applied: the writes before the one that was refused have stayed."""
    half_a_batch(monkeypatch)

    assert until_broken(range(3), SMALL) == "C10"


def test_a_name_that_nobody_remembers_breaks_c3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes again under it has a session of his own, which knows nothing of the first."""
    monkeypatch.setattr(Names, "recall", lambda self, once, digest: None)

    assert until_broken(range(2), SMALL) == "C3"


def test_a_list_that_shows_half_a_batch_breaks_c10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write is right by itself, as a batch sent in pieces would have it; only who sees both
    halves at one moment can tell."""

    async def broken(
        clerk: Clerk, batch: Sequence[Any], *, once: Once | None, timeout: float
    ) -> list[int]:
        versions = []
        for one in batch:
            match one:
                case Put(key, value):
                    versions.append(await clerk.put(key, value, timeout=timeout))
                case Append(key, value):
                    versions.append(await clerk.append(key, value, timeout=timeout))
                case _:
                    await clerk.delete(one.key, timeout=timeout)
                    versions.append(0)
        return versions

    monkeypatch.setattr(Clerk, "batch", broken)
    busy = replace(
        SMALL, faults=(), workload=WorkloadConfig(pairs=1, batches=0.7, readers=4, named=0.0)
    )

    assert until_broken(range(4), busy) == "C10"


def test_a_read_that_lacks_the_other_half_of_what_was_told_breaks_c2() -> None:
    """One half was read after a batch; then nobody may be shown the other from before it."""

    async def main() -> None:
        cluster = SimCluster(Chance("teeth"), groups=1)
        oracle = cluster.oracle
        oracle.values_are_unique = True
        await cluster.start()
        clerk, admin = cluster.client()
        await admin.join([cluster.joining(cluster.gids[0])])
        left, right = b"{pair}left", b"{pair}right"
        await clerk.batch([Put(left, "1"), Put(right, "1")])
        await clerk.batch([Put(left, "2"), Put(right, "2")])

        def read(key: bytes, value: bytes, version: int) -> None:
            said = Operation(0, Kind.GET, key, value, 0.0, 1.0, version, True)
            oracle.ended(said, oracle.called(said), 10.0)

        read(right, b"1", 1)  # nobody was told of more
        read(left, b"2", 2)
        read(right, b"2", 2)
        assert not oracle.observer.broken
        read(right, b"1", 1)
        await clerk.close()
        await admin.close()
        oracle.observer.finish()

    with pytest.raises((Unhandled, InvariantBroken), match="C2: no such value stood since"):
        run(main())


def test_a_task_that_outlives_its_process_breaks_b8(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close(feed: ConfigFeed) -> None:
        return

    async def main() -> None:
        cluster = SimCluster(Chance("leak"), groups=1)
        await cluster.start()
        await everything_ends(cluster, 1.0)

    run(main())  # nothing is left of a cluster whose parts close

    monkeypatch.setattr(ConfigFeed, "close", close)
    with pytest.raises(InvariantBroken, match=r"B8: .*ConfigFeed"):
        run(main())


def test_a_node_that_is_paused_does_nothing_and_leads_nothing_for_long() -> None:
    """Its group has another leader within E and a little; it learns so when it goes on."""

    async def main() -> None:
        cluster = SimCluster(Chance("pause"), groups=1)
        await cluster.start()
        gid = cluster.gids[0]
        clerk, admin = cluster.client()
        await admin.join([cluster.joining(gid)])
        await clerk.put("key", "value")
        paused = cluster.leader(gid)
        assert paused is not None
        assert paused.host is not None
        said = paused.host.replicas[gid]
        paused.pause()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        applied = said.applied
        await clerk.put("key", "another", timeout=20.0)
        assert said.applied == applied, "nothing happens on a node that stands still"
        assert said.leads, "and it does not know"
        paused.resume()
        await asyncio.sleep(0.5)
        assert not said.leads
        assert await clerk.get("key") == b"another"
        await clerk.close()
        await admin.close()

    run(main())
