"""The key/value suites have teeth: each safeguard is broken once, and one of their tests fails."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from labrpc.sim.loop import SimulationError
from labs import kvsrv
from labs.compaction import NEVER
from labs.harness.edition import TEST_SECONDS_MAX, Edition, LabFailure, run_lab
from labs.harness.kv_cluster import KvCluster
from labs.harness.kv_tests import (
    Trouble,
    check_puts,
    many_strings,
    many_versioned,
    spawn_putters,
    strings_one_partition,
)
from labs.harness.kvsrv_cluster import KvsrvCluster
from labs.harness.kvsrv_cluster import many_strings as many_on_one_server
from labs.kv import Err
from labs.linearizability import NotLinearizable
from raft.disk.data_store import Capture
from raft.disk.overlay import Overlay
from raft.errors import RaftError
from raft.replica import Replica
from raft.rsm import ReplicatedStateMachine
from raft.sessions import SessionTable, Verdict
from shardkv.errors import ShardKVError
from shardkv.machine import StoreMachine

Patch = pytest.MonkeyPatch
Scenario = Callable[[KvCluster], Awaitable[None]]
MAXRAFTSTATE = 1000
SEEDS = 4
FAILURES = (
    LabFailure, NotLinearizable, SimulationError, TimeoutError, AssertionError, RaftError,
    ShardKVError,
)  # fmt: skip


def do_again_what_is_repeated(patch: Patch) -> None:
    patch.setattr(SessionTable, "check", lambda *_: Verdict.FRESH)
    patch.setattr(SessionTable, "record", lambda *_: None)


def read_without_asking_anybody(patch: Patch) -> None:
    async def at_once(self: ReplicatedStateMachine) -> None:
        """What is here may be old."""

    patch.setattr(ReplicatedStateMachine, "read", at_once)


def leave_sessions_out_of_snapshots(patch: Patch) -> None:
    chunks = Capture.chunks

    def without_sessions(self: Capture, bytes_max: int) -> Iterator[bytes]:
        inner = self._rows

        class Rows:
            def range(self, lo: bytes, hi: bytes) -> Iterator[tuple[bytes, bytes]]:
                rows = inner.range(lo, hi)
                return ((k, v) for k, v in rows if b"t\0\0\0\0\0\0\0" not in k[-9:])

            def close(self) -> None:
                inner.close()

        self._rows = Rows()  # type: ignore[assignment]
        return chunks(self, bytes_max)

    patch.setattr(Capture, "chunks", without_sessions)


def put_at_any_version(patch: Patch) -> None:
    write = StoreMachine._write

    def careless(self: StoreMachine, held: Any, *rest: Any) -> Any:
        op, key, value, _, rows = rest
        return write(self, held, op, key, value, None, rows)

    patch.setattr(StoreMachine, "_write", careless)


def forget_what_the_entry_has_written(patch: Patch) -> None:
    patch.setattr(Overlay, "get", lambda self, key: self._base.get(key))


def never_cut_a_log(patch: Patch) -> None:
    patch.setattr(Replica, "compact", lambda *_: None)


def answer_before_the_commit(patch: Patch) -> None:
    """A leader applies to a copy of its rows what is only proposed, and says that it is done."""
    submit = ReplicatedStateMachine.submit_frame

    def hasty(
        self: ReplicatedStateMachine, commands: Sequence[bytes]
    ) -> "asyncio.Future[list[object]]":
        replica: Any = self.replica
        if not commands or self._placed:
            return submit(self, commands)
        rows = Overlay(replica.store.reader)
        outcomes = [self.machine.apply(replica.applied + 1, one, rows) for one in commands]
        submit(self, commands)
        done: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        done.set_result(outcomes)
        return done

    patch.setattr(ReplicatedStateMachine, "submit_frame", hasty)


ALL_AT_ONCE = Trouble(clients=5, crash=True, partitions=True)


@pytest.mark.parametrize(
    ("sabotage", "edition", "scenario", "maxraftstate"),
    [
        pytest.param(
            do_again_what_is_repeated, Edition.E2024,
            partial(many_strings, trouble=Trouble(clients=5)), NEVER,
            id="repeated requests are done again",
        ),
        pytest.param(
            read_without_asking_anybody, Edition.E2024, strings_one_partition, NEVER,
            id="reads that ask nobody",
        ),
        pytest.param(
            leave_sessions_out_of_snapshots, Edition.E2024,
            partial(many_strings, trouble=ALL_AT_ONCE), MAXRAFTSTATE,
            id="snapshots without sessions",
        ),
        pytest.param(
            put_at_any_version, Edition.E2025,
            partial(many_versioned, trouble=Trouble(clients=5)), NEVER,
            id="puts that look at no version",
        ),
        pytest.param(
            forget_what_the_entry_has_written, Edition.E2025,
            partial(many_versioned, trouble=Trouble(clients=5)), NEVER,
            id="commands of one entry do not see each other",
        ),
        pytest.param(
            never_cut_a_log, Edition.E2024,
            partial(many_strings, trouble=Trouble(clients=5)), MAXRAFTSTATE,
            id="logs that grow for ever",
        ),
        pytest.param(
            answer_before_the_commit, Edition.E2024, strings_one_partition, NEVER,
            id="answers before the commit",
        ),
    ],
)  # fmt: skip
def test_a_broken_safeguard_is_caught(
    sabotage: Callable[[Patch], None],
    edition: Edition,
    scenario: Scenario,
    maxraftstate: int,
    monkeypatch: Patch,
) -> None:
    sabotage(monkeypatch)

    def play(seed: str) -> None:
        async def main() -> None:
            cluster = KvCluster(
                5,
                seed=seed,
                edition=edition,
                reliable=False,
                maxraftstate=maxraftstate,
            )
            async with asyncio.timeout(TEST_SECONDS_MAX), cluster:
                await scenario(cluster)

        run_lab(main(), seed=seed, test="a mutant")

    assert is_caught(play)


def is_caught(play: Callable[[str], None]) -> bool:
    for seed in range(SEEDS):
        try:
            play(f"teeth/{seed}")
        except FAILURES:
            return True
    return False


def take_no_answer_for_a_refusal(patch: Patch) -> None:
    ask = kvsrv.VersionedClerk._ask

    async def sure(self: kvsrv.VersionedClerk, method: str, body: bytes) -> tuple[bytes, bool]:
        answer, _ = await ask(self, method, body)
        return answer, False

    patch.setattr(kvsrv.VersionedClerk, "_ask", sure)


def take_maybe_for_done(patch: Patch) -> None:
    put = kvsrv.VersionedClerk.put

    async def sanguine(self: kvsrv.VersionedClerk, key: str, value: str, version: int) -> Err:
        err = await put(self, key, value, version)
        return Err.OK if err is Err.MAYBE else err

    patch.setattr(kvsrv.VersionedClerk, "put", sanguine)


async def puts_of_many(cluster: KvsrvCluster) -> None:
    """What the concurrent test asks, on a bad network."""
    puts = await spawn_putters(cluster.versioned, cluster.delete, 10, ["k"], cluster.rng, 3.0)
    await check_puts(cluster.versioned(), "k", puts, reliable=False)


@pytest.mark.parametrize(
    ("sabotage", "edition", "scenario"),
    [
        pytest.param(
            do_again_what_is_repeated, Edition.E2024, partial(many_on_one_server, clients=5),
            id="repeated requests are done again",
        ),
        pytest.param(
            take_no_answer_for_a_refusal, Edition.E2025, puts_of_many, id="no doubt about a repeat",
        ),
        pytest.param(take_maybe_for_done, Edition.E2025, puts_of_many, id="maybe taken for done"),
    ],
)  # fmt: skip
def test_a_broken_server_or_clerk_is_caught(
    sabotage: Callable[[Patch], None],
    edition: Edition,
    scenario: Callable[[KvsrvCluster], Awaitable[None]],
    monkeypatch: Patch,
) -> None:
    sabotage(monkeypatch)

    def play(seed: str) -> None:
        async def main() -> None:
            async with KvsrvCluster(seed=seed, edition=edition, reliable=False) as cluster:
                await scenario(cluster)

        run_lab(main(), seed=seed, test="a mutant")

    assert is_caught(play)
