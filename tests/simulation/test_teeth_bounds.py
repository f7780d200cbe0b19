"""Known bugs, put into the parts: what is promised of time, of bounds and of service is watched."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import raft.host
from labrpc.sim.loop import Unhandled, run
from labs.knobs import Knobs
from labs.observer import InvariantBroken, Observer
from labs.scenario import Played, ScenarioConfig, play
from labs.waits import Wait, Waits
from raft.config import RaftConfig
from raft.core import Raft
from raft.disk.data_store import ReplicaData
from raft.disk.log_store import LogStore
from raft.entry_memory import EntryMemory
from raft.host import CompactionConfig, Host
from raft.leader import Leader
from raft.progress import Progress
from raft.replication import Replication
from raft.snapshot_stream import SnapshotChunk, SnapshotReceiver
from raft.types import GroupId, Index, ReplicaId
from shardctrler.types import ConfigNumber, ShardId
from shardkv.commands import Mutation, decode
from shardkv.copies import PullReply, PullRequest
from shardkv.machine import StoreMachine
from shardkv.phases import Phase
from shardkv.protocol import Frame, Reply
from shardkv.rows import ShardRecord
from shardkv.server import GroupServer
from shardkv.types import Answer, Code

Patch = pytest.MonkeyPatch

SEEDS = 5

SHORT_LOGS = Knobs(compaction=CompactionConfig(log_entries_max=5, keep_entries=0))
SMALL_WINDOWS = Knobs(
    raft=RaftConfig(append_bytes_max=1, inflight_messages_max=1, cache_bytes_max=1000)
)


def small(*faults: str, knobs: Knobs | None = None, topology: str = "T1") -> ScenarioConfig:
    return ScenarioConfig(seconds=5.0, topology=topology, faults=faults, knobs=knobs)


# What is taken away


def the_last_chunk_is_never_taken(patch: Patch) -> None:
    take = SnapshotReceiver.take

    def broken(self: SnapshotReceiver, chunk: SnapshotChunk) -> int:
        return -1 if chunk.done else take(self, chunk)

    patch.setattr(SnapshotReceiver, "take", broken)


def logs_are_never_cut(patch: Patch) -> None:
    patch.setattr(Host, "_log_is_long", lambda self, replica: False)


def what_is_committed_still_counts_as_waiting(patch: Patch) -> None:
    def broken(self: Leader) -> None:
        if self.replication.advance_commit():
            self._advance_membership()

    patch.setattr(Leader, "_advance_commit", broken)


def no_window_is_looked_at(patch: Patch) -> None:
    stream = Replication._stream

    def broken(self: Replication, progress: Progress) -> None:
        state = self._state
        usual, wide = state.config, replace(state.config, inflight_messages_max=10**6)
        state.config = wide
        try:
            stream(self, progress)
        finally:
            state.config = usual

    patch.setattr(Replication, "_stream", broken)


def the_cache_of_the_log_grows(patch: Patch) -> None:
    patch.setattr(EntryMemory, "make_room", lambda self: None)


def rows_of_replaced_states_stay(patch: Patch) -> None:
    patch.setattr(ReplicaData, "collect_garbage", lambda self, rows_max: None)


def logs_of_idle_groups_are_not_swept(patch: Patch) -> None:
    patch.setattr(LogStore, "sweep", lambda self, rows_max: False)


def rows_of_dropped_replicas_stay(patch: Patch) -> None:
    patch.setattr(raft.host, "sweep_orphans", lambda disk, held, rows_max: False)


def shards_that_stay_are_refused_while_others_move(patch: Patch) -> None:
    apply = StoreMachine.apply

    def broken(self: StoreMachine, index: Index, command: bytes, rows: Any) -> Answer:
        if self.unsettled and isinstance(decode(command), Mutation):
            return Answer(Code.WRONG_GROUP, (self.number,))
        return apply(self, index, command, rows)

    patch.setattr(StoreMachine, "apply", broken)


def one_hand_over_at_a_time(patch: Patch) -> None:
    """Like safeguard F21: a group that has more than one shard to see to gives none."""
    pull = GroupServer.pull

    async def broken(self: GroupServer, request: PullRequest) -> PullReply:
        if self.machine.unsettled_count > 1:
            return PullReply(code=Code.OUT_OF_STEP)
        return await pull(self, request)

    patch.setattr(GroupServer, "pull", broken)


def whoever_has_given_up_is_still_worked_for(patch: Patch) -> None:
    """One frame after the other, in a line without an end: behind those of whoever has gone."""
    answer = GroupServer.answer
    free_at: dict[GroupServer, float] = {}

    async def broken(self: GroupServer, frame: Frame) -> Reply:
        now = asyncio.get_running_loop().time()
        free_at[self] = max(free_at.get(self, 0.0), now) + 0.25
        await asyncio.sleep(free_at[self] - now)
        return await answer(self, frame)

    patch.setattr(GroupServer, "answer", broken)


@pytest.mark.parametrize(
    ("breaks", "config", "invariants"),
    [
        (logs_are_never_cut, small(knobs=SHORT_LOGS), ("B1",)),
        (what_is_committed_still_counts_as_waiting, small(), ("B2",)),
        (no_window_is_looked_at, small("loss", knobs=SMALL_WINDOWS), ("B3",)),
        (the_cache_of_the_log_grows, small(knobs=SMALL_WINDOWS), ("B5",)),
        (rows_of_replaced_states_stay, small("isolate", "crash", knobs=SHORT_LOGS), ("B7",)),
        (rows_of_dropped_replicas_stay, small("members"), ("B7",)),
        (logs_of_idle_groups_are_not_swept, small("members", knobs=SHORT_LOGS), ("B7",)),
        (
            whoever_has_given_up_is_still_worked_for,
            replace(small("overload"), seconds=1.0),
            ("L10",),
        ),
        (the_last_chunk_is_never_taken, small("isolate", "crash", knobs=SHORT_LOGS), ("L11",)),
        (one_hand_over_at_a_time, small("changes"), ("L12",)),
        (shards_that_stay_are_refused_while_others_move, small("changes"), ("S11",)),
    ],
)
def test_what_is_broken_breaks_its_invariant(
    breaks: Callable[[Patch], None],
    config: ScenarioConfig,
    invariants: tuple[str, ...],
    monkeypatch: Patch,
) -> None:
    """The first of a few runs that fails must name it; nearly always that is the first one."""
    breaks(monkeypatch)

    for number in range(SEEDS):
        try:
            play(f"teeth/{number}", config)
        except Played as failed:
            assert failed.invariant in invariants
            return
    pytest.fail(f"{SEEDS} runs without it, and nothing noticed")


def test_nodes_that_come_and_go_break_l8_without_prevote(monkeypatch: Patch) -> None:
    """Each time a node is heard again it deposes the leader with the terms that it has counted."""
    monkeypatch.setattr(RaftConfig, "checks_quorum", property(lambda self: False))

    with pytest.raises(Played, match=r"only .* came and went") as failed:
        play("teeth/9", ScenarioConfig(seconds=1.0, topology="T0", faults=("loss",)))

    assert failed.value.invariant == "L8"


def test_a_node_that_comes_back_and_does_not_believe_its_leader_breaks_l9(
    monkeypatch: Patch,
) -> None:
    """In its first moments it takes every sign of life of its leader for a call to campaign; and
    without PreVote it deposes whoever leads."""
    hear = Raft._hear
    born: dict[Raft, float] = {}

    def broken(self: Raft, leader: ReplicaId, now: float) -> None:
        young = now - born.setdefault(self, now) < 4 * self.config.election_seconds_max
        hear(self, leader, now)
        if young:
            self._state.election_at = now

    monkeypatch.setattr(Raft, "_hear", broken)
    monkeypatch.setattr(RaftConfig, "checks_quorum", property(lambda self: False))

    with pytest.raises(Played, match=r"elections, and only .* came back") as failed:
        play("teeth/L9/4", ScenarioConfig(seconds=1.0, topology="T0", faults=("loss",)))

    assert failed.value.invariant == "L9"


def test_a_handler_that_fails_breaks_h1(monkeypatch: Patch) -> None:
    """Whoever asks hears that the server failed and asks again; so nothing else would show it."""

    async def broken(self: GroupServer, request: PullRequest) -> PullReply:
        raise TypeError("a mistake")

    monkeypatch.setattr(GroupServer, "pull", broken)

    with pytest.raises(Played, match=r"the handler of shard\.pull failed: TypeError") as failed:
        play("teeth/0", small("changes"))

    assert failed.value.invariant == "H1"


def test_a_circle_of_waits_is_found_wherever_it_begins() -> None:
    """1 waits for 2, 2 for 3, and 3 for 2: 2 and 3 wait in a circle, 1 only behind it."""

    async def main() -> Waits:
        waits = Waits(Observer())
        for gid, number, peer in ((1, 9, 2), (2, 5, 3), (3, 4, 2)):
            record = ShardRecord(Phase.ARRIVING, ConfigNumber(9), peer=GroupId(peer))
            waits._numbers[GroupId(gid)] = ConfigNumber(number)
            waits._waits[GroupId(gid)] = (
                Wait(ShardId(0), record.number, record.phase, record.peer),
            )
        return waits

    waits = run(main())

    assert waits.waits_for(GroupId(1)) == [2]
    assert waits.circle(GroupId(1)) == []
    assert waits.circle(GroupId(2)) == [2, 3]
    assert waits.circle(GroupId(3)) == [3, 2]


def test_a_shard_that_waits_for_its_own_group_is_told() -> None:
    async def main() -> None:
        observer = Observer()
        record = ShardRecord(Phase.ARRIVING, ConfigNumber(2), peer=GroupId(7))
        Waits(observer).moved_on(GroupId(7), ConfigNumber(2), ((ShardId(1), record),))
        observer.finish()

    with pytest.raises((Unhandled, InvariantBroken), match="L12: group 7 waits for nobody"):
        run(main())
