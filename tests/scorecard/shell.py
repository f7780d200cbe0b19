"""Safeguards of reads, transfers, members, disks and frames, broken around one group."""

import types
from typing import Any

import pytest

import raft.disk.leveldb as leveldb
import raft.disk.log_store
from raft.core import Raft
from raft.disk.log_store import LogStore
from raft.disk.write_buffer import WriteBuffer
from raft.leader import Leader
from raft.replica import Replica
from raft.replication import Replication
from raft.types import EntryKind, HardState, ReplicaId
from tests.raft.test_safeguards import Safeguard
from tests.scorecard.trials import Row, chaos, tests

Patch = pytest.MonkeyPatch


def any_message_restarts_the_timer(patch: Patch) -> None:
    step = Raft.step

    def broken(self: Raft, message: Any, now: float) -> None:
        step(self, message, now)
        self._state.restart_election_timer(now)

    patch.setattr(Raft, "step", broken)


def no_empty_entry(patch: Patch) -> None:
    append = Leader.append

    def broken(self: Leader, kind: EntryKind, data: bytes) -> Any:
        return self._state.log.last if kind is EntryKind.EMPTY else append(self, kind, data)

    patch.setattr(Leader, "append", broken)


def begin_without_a_promise(patch: Patch) -> None:
    decode = raft.disk.log_store.decode_hard_state  # type: ignore[attr-defined]

    def broken(gid: Any, raw: bytes | None) -> HardState:
        return HardState() if raw is None else decode(gid, raw)

    patch.setattr(raft.disk.log_store, "decode_hard_state", broken)
    patch.setattr(raft.disk.log_store, "_check_vows", lambda *args: None)


def go_on(patch: Patch) -> None:
    """Whatever goes wrong in a replica is not the replica's end."""
    patch.setattr(Replica, "stop", lambda self, because: None)


def read_on_a_follower(patch: Patch) -> None:
    barrier = Replica.read_barrier

    def broken(self: Replica) -> Any:
        if self.leads:
            return barrier(self)
        future = self._loop.create_future()
        future.set_result(None)
        return future

    patch.setattr(Replica, "read_barrier", broken)


def a_transfer_outlives_its_term(patch: Patch) -> None:
    become, begin = Raft._become_follower, Leader.__init__

    def kept(self: Raft, *args: Any) -> None:
        led = self._leader
        if led is not None and led.transfer is not None:
            self._state.kept = led.transfer._replace(  # type: ignore[attr-defined]
                expires_at=float("inf")
            )
        become(self, *args)

    def restored(self: Leader, state: Any, now: float) -> None:
        begin(self, state, now)
        self.transfer = getattr(state, "kept", None)

    patch.setattr(Raft, "_become_follower", kept)
    patch.setattr(Leader, "__init__", restored)


def count_who_lost_what_it_promised(patch: Patch) -> None:
    take = Replication.take_heartbeat_reply

    def broken(self: Replication, progress: Any, reply: Any) -> None:
        take(self, progress, reply)
        progress.lost = False

    patch.setattr(Replication, "take_heartbeat_reply", broken)


def retry_a_failed_write(patch: Patch) -> None:
    patch.setattr(leveldb.LevelDB, "_fail", lambda self, error: None)


def leveldb_with(patch: Patch, **changed: Any) -> None:
    real = leveldb.plyvel.DB

    def opened(*args: Any, **options: Any) -> Any:
        return real(*args, **{**options, **changed})

    shim = types.SimpleNamespace(**{**vars(leveldb.plyvel), "DB": opened})
    patch.setattr(leveldb, "plyvel", shim)


def create_at_a_start(patch: Patch) -> None:
    def broken(path: Any, options: Any = leveldb.DATA_OPTIONS, **more: Any) -> Any:
        path.mkdir(exist_ok=True)
        trust = more.pop("trust_log")
        failed = more.pop("on_failure", leveldb.end_process)
        return leveldb.LevelDB._locked(path, options, failed, create=False, trust_log=trust)

    leveldb_with(patch, create_if_missing=True)
    patch.setattr(leveldb.LevelDB, "open", broken)


def values_unverified(patch: Patch) -> None:
    """Reads believe whatever bytes the tables hold."""
    real = leveldb.plyvel.DB

    class Unverified:
        def __init__(self, *args: Any, **options: Any) -> None:
            self._real = real(*args, **options)

        def __getattr__(self, name: str) -> Any:
            attribute = getattr(self._real, name)
            if name not in ("get", "iterator", "raw_iterator"):
                return attribute

            def call(*args: Any, **options: Any) -> Any:
                return attribute(*args, **{**options, "verify_checksums": False})

            return call

    shim = types.SimpleNamespace(**{**vars(leveldb.plyvel), "DB": Unverified})
    patch.setattr(leveldb, "plyvel", shim)


def forget_tombstones(patch: Patch) -> None:
    patch.setattr(LogStore, "tombstone", lambda self, gid: ReplicaId(0))


def told_in_pieces(patch: Patch) -> None:
    tell = leveldb.LevelDB._tell

    def broken(self: leveldb.LevelDB, batch: Any) -> None:
        for key in batch:
            tell(self, {key: batch[key]})

    patch.setattr(leveldb.LevelDB, "_tell", broken)


def ranges_of_what_leveldb_has(patch: Patch) -> None:
    patch.setattr(WriteBuffer, "written", lambda self, lo, hi: [])


def rows() -> list[Row]:
    case, disk = ("test",), "tests/raft/disk/"
    reads = Safeguard("D11", "", read_on_a_follower, ("R14",), knobs={"reads": 0.7})
    return [
        Row("A26", "no hard state means term 0", begin_without_a_promise, case,
            tests(disk + "test_log_store.py::test_a_damaged_record_is_refused_by_name")),
        Row("B28", "a failed write is not the end", retry_a_failed_write, case,
            tests(disk + "test_leveldb.py::test_a_failed_sync_is_the_end_of_the_handle")),
        Row("D11", "followers read from local state", read_on_a_follower, ("R14",), chaos(reads)),
        Row("D13", "a transfer outlives its term", a_transfer_outlives_its_term,
            ("R16", "L2"), chaos(Safeguard("D13", "", go_on, ()))),
        Row("G01", "a start may create a database", create_at_a_start, case,
            tests(disk + "test_leveldb.py::test_opening_creates_nothing")),
        Row("G03", "verify_checksums=False", values_unverified, case,
            tests(disk + "test_leveldb.py::test_a_damaged_table_is_found_when_it_is_read")),
        Row("H04", "the data database's own log is trusted",
            lambda p: p.setattr(leveldb, "_set_logs_aside", lambda path: None), case,
            tests(disk + "test_leveldb.py::test_logs_of_unsynced_rows_are_set_aside")),
        Row("K12", "LevelDB is told row by row of what gathered", told_in_pieces, case,
            tests(disk + "test_leveldb.py::test_a_crash_leaves_the_state_after_some_write")),
        Row("K13", "a range lacks what gathers", ranges_of_what_leveldb_has, case,
            tests(disk + "test_leveldb.py::test_rows_read_the_same_wherever_they_are")),
    ]  # fmt: skip
