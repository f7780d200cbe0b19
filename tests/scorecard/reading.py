"""Safeguards of reads that any replica may answer, of sessions and of lists, broken."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from labs.scenario import ScenarioConfig
from labs.scenario import play as play_cluster
from labs.workload import WorkloadConfig
from raft.freshness import Freshness
from raft.host import Host
from raft.messages import HeartbeatReply
from raft.reads import ForwardedReads
from raft.replica import Replica
from shardkv.machine import StoreMachine
from shardkv.reading import ReplicaReads
from shardkv.rows import after_prefix, prefix_of
from shardkv.scan import Scan
from tests.scorecard.trials import Row, Trial, _quietly, tests

Patch = pytest.MonkeyPatch
FAULTS = ("loss", "partition", "crash", "changes")


def readers(*faults: str, seeds: int = 12) -> Callable[[], Iterator[Trial]]:
    """Seeds of the whole product, with more clients that read than clients that write."""

    def trials() -> Iterator[Trial]:
        for seed in range(seeds):
            workload = WorkloadConfig(clients=3, readers=8, lists=4, registers=4, pause_max=0.1)
            config = ScenarioConfig(seconds=8.0, faults=faults or FAULTS, workload=workload)
            yield Trial(
                f"cluster of readers, seed {seed}", partial(_quietly, play_cluster, seed, config)
            )

    return trials


def followers_do_not_ask(patch: Patch) -> None:
    barrier = Replica.read_barrier

    def broken(self: Replica) -> Any:
        if self.leads:
            return barrier(self)
        future = self._loop.create_future()
        future.set_result(None)
        return future

    patch.setattr(Replica, "read_barrier", broken)


def followers_do_not_wait(patch: Patch) -> None:
    confirmed = Replica._read_confirmed

    def broken(self: Replica, read: Any) -> None:
        confirmed(self, read if self.leads or not read.index else read._replace(index=1))

    patch.setattr(Replica, "_read_confirmed", broken)


def an_answer_commits_all_that_is_here(patch: Patch) -> None:
    answered = ForwardedReads.answered

    def broken(self: ForwardedReads, reply: Any) -> None:
        state = self._state
        asked = reply.context in self._asked
        answered(self, reply)
        if asked and state.installing is None:
            state.commit_to(min(reply.index, state.log.last.index))

    patch.setattr(ForwardedReads, "answered", broken)


def always_young(patch: Patch) -> None:
    patch.setattr(Freshness, "age", lambda self, now: 0.0)


def an_answer_counts_before_it_is_applied(patch: Patch) -> None:
    answered = Freshness.answered

    def broken(self: Freshness, read: Any, applied: Any) -> None:
        answered(self, read, max(applied, read.index))

    patch.setattr(Freshness, "answered", broken)


def marks_are_ignored(patch: Patch) -> None:
    patch.setattr(ReplicaReads, "covers", lambda self, shard, mark: True)


def marks_are_indexes_alone(patch: Patch) -> None:
    """As if every group counted in one log."""

    def broken(self: ReplicaReads, shard: Any, mark: Any) -> bool:
        applied: bool = self._server.replica.applied >= mark.index
        return applied

    patch.setattr(ReplicaReads, "covers", broken)


def pages_of_whatever_is_here(patch: Patch) -> None:
    """The phase is not looked at."""

    def broken(self: StoreMachine, rows: Any, shard: Any, prefix: bytes, after: Any) -> Any:
        held = self._shards[shard]
        lo = prefix if after is None else max(prefix, after + b"\0")
        begin = prefix_of(shard, held.record.generation)
        hi = begin + after_prefix(b"d" + prefix)
        return self._decoded(rows, held.data_prefix + lo, hi, len(held.data_prefix))

    patch.setattr(StoreMachine, "scan", broken)


def pages_are_the_ends(patch: Patch) -> None:
    """What a page left out is not asked for."""
    fetch = Scan._fetch

    async def broken(self: Scan, rows_max: int | None) -> None:
        await fetch(self, rows_max)
        for run in self._runs.values():
            run.open = ()

    patch.setattr(Scan, "_fetch", broken)


def answers_confirm_every_group(patch: Patch) -> None:
    deliver = Host.deliver

    def broken(self: Host, parcel: Any, address: str) -> None:
        deliver(self, parcel, address)
        if not isinstance(parcel.content, HeartbeatReply):
            return
        for gid, replica in self.replicas.items():
            led = replica.core._leader
            if gid == parcel.gid or not replica.leads or led is None:
                continue
            for member in replica.core.membership.voters:
                if member.address == address:
                    answer = HeartbeatReply(
                        member.id,
                        replica.id,
                        replica.core.term,
                        led.replication.round,
                        replica.core.log.last.index,
                    )
                    replica.take(answer, address)

    patch.setattr(Host, "deliver", broken)


def rows() -> list[Row]:
    stories = "tests/simulation/test_weaker_reads.py::"
    reads = ("R14", "C1", "C2", "C6", "C9")
    return [
        Row("J01", "a follower answers without asking its leader", followers_do_not_ask, reads,
            readers()),
        Row("J02", "a follower answers before it has applied what it must", followers_do_not_wait,
            reads, readers()),
        Row("J03", "a leader's answer commits whatever lies in the follower's log",
            an_answer_commits_all_that_is_here, ("test",),
            tests("tests/raft/test_paper_reads.py::"
                  "test_what_another_leader_left_in_the_log_is_not_committed_by_an_answer")),
        Row("J04", "the bound of stale reads is ignored", always_young, ("C6",), readers()),
        Row("J05", "an answer makes young before it is applied",
            an_answer_counts_before_it_is_applied, ("test", "C6"),
            tests("tests/raft/test_freshness.py::"
                  "test_an_answer_counts_once_its_index_is_applied")),
        Row("J06", "a session's marks are ignored", marks_are_ignored, ("C6",), readers()),
        Row("J07", "a session's marks are indexes without an epoch", marks_are_indexes_alone,
            ("test", "C6"), tests("tests/shardkv/test_reading.py::"
                                  "test_a_replica_of_an_older_epoch_covers_nothing")),
        Row("J08", "a page of a shard that is not served", pages_of_whatever_is_here,
            ("C9",), readers()),
        Row("J09", "a list ends with the first page of each shard", pages_are_the_ends, ("test",),
            tests(stories + "test_a_page_is_a_thousand_rows_or_a_mebibyte")),
        Row("H11", "an answer to a heartbeat confirms every group of its sender",
            answers_confirm_every_group, ("test", "R14"),
            tests(stories + "test_an_answer_about_one_group_confirms_no_other")),
    ]  # fmt: skip
