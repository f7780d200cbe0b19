"""Safeguards of sharding, sessions and hand-over, broken in the pure machines."""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

import shardctrler.rebalance
import shardkv.machine
from raft.disk.overlay import Overlay
from raft.sessions import SessionTable, _Session
from shardctrler.machine import ControllerMachine
from shardkv import copying, steps
from shardkv.clerk import Clerk
from shardkv.commands import Chunk
from shardkv.errors import VersionMismatch
from shardkv.handover import Handover
from shardkv.machine import StoreMachine
from shardkv.pending import Pending
from shardkv.phases import Phase
from shardkv.rows import SESSIONS, counter_at
from shardkv.types import NO_COPY, Answer, Code
from shardkv.writes import Append, Put
from tests.scorecard.trials import Row, cluster, first_of, model, tests
from tests.shardkv import test_handover_model as handover

Patch = pytest.MonkeyPatch


def sessions_stay_behind(patch: Patch) -> None:
    pull = copying.pull

    def broken(*args: Any) -> copying.Pulled:
        pulled = pull(*args)
        if pulled.chunk is None:
            return pulled
        kept = tuple(row for row in pulled.chunk.rows if not row[0].startswith(SESSIONS))
        return pulled._replace(chunk=pulled.chunk._replace(rows=kept))

    patch.setattr(copying, "pull", broken)


def _chunks(patch: Patch, changed: Callable[[Any, Any, Any], Any]) -> None:
    chunk = StoreMachine._chunk

    def broken(self: StoreMachine, held: Any, command: Chunk, rows: Any) -> Answer:
        return chunk(self, held, changed(held, command, rows), rows)

    patch.setattr(StoreMachine, "_chunk", broken)


def old_numbers(held: Any, command: Chunk, rows: Any) -> Chunk:
    return command._replace(number=max(command.number, held.record.number))


def any_copy_and_cursor(held: Any, command: Chunk, rows: Any) -> Chunk:
    record = held.record
    copy_id = command.copy_id if record.copy_id == NO_COPY else record.copy_id
    return command._replace(copy_id=copy_id, cursor=record.cursor)


def repeated_overwrites(held: Any, command: Chunk, rows: Any) -> Chunk:
    record = held.record
    if record.phase is Phase.SERVING and record.taken == record.number == command.number:
        for key, row in command.rows:
            if row is not None:
                rows.put(held.prefix + key, row)
    return command


def copy_before_the_freeze(patch: Patch) -> None:
    """What changed in the end is not copied: the last change rows are left out."""
    pull = copying.pull

    def broken(rows: Any, source: copying.Source, cursor: bytes, *args: Any) -> copying.Pulled:
        pulled = pull(rows, source, cursor, *args)
        if not source.frozen or pulled.chunk is None or counter_at(cursor) is None:
            return pulled
        return pulled._replace(chunk=pulled.chunk._replace(rows=()))

    patch.setattr(copying, "pull", broken)


def _writes_pass_in(patch: Patch, *phases: Phase) -> None:
    mutate = StoreMachine._mutate

    def broken(self: StoreMachine, command: Any, rows: Any) -> Answer:
        held = self._shards[command.shard]
        serves, held.serves = held.serves, held.serves or held.record.phase in phases
        try:
            return mutate(self, command, rows)
        finally:
            held.serves = serves

    patch.setattr(StoreMachine, "_mutate", broken)


def drop_without_asking(patch: Patch) -> None:
    async def broken(self: Handover, owner: Any, ask: Any) -> bool:
        return True

    patch.setattr(Handover, "_is_in", broken)


def skip_a_configuration(patch: Patch) -> None:
    configure = StoreMachine._configure

    def broken(self: StoreMachine, index: Any, command: Any, rows: Any) -> Answer:
        config = decode(command.config)
        held = self.config
        if held is not None and config.number > held.number + 1 and not self._unsettled:
            self.config = replace(held, number=config.number - 1)
        answer = configure(self, index, command, rows)
        if answer.code is not Code.OK:
            self.config = held
        return answer

    decode = shardkv.machine.decode_config
    patch.setattr(StoreMachine, "_configure", broken)


def an_order_of_its_own(patch: Patch) -> None:
    """What iterating a set comes to: another order on every replica."""
    chance = Random(1)

    def unsorted(items: Any) -> list[Any]:
        found = list(items)
        return chance.sample(found, len(found))

    patch.setattr(shardctrler.rebalance, "sorted", unsorted, raising=False)


def hold_requests(patch: Patch) -> None:
    pull = StoreMachine.pull

    def broken(self: StoreMachine, *args: Any, **limits: Any) -> Any:
        busy = any(record.phase is Phase.ARRIVING for _, record in self.unsettled)
        return Answer(Code.OUT_OF_STEP) if busy else pull(self, *args, **limits)

    patch.setattr(StoreMachine, "pull", broken)


def change_rows_for_ever(patch: Patch) -> None:
    """No bound, so a copy of a shard that is written fast never begins again, nor ends."""
    patch.setattr(handover, "CHANGES_MAX", 10**9)
    patch.setattr(steps, "freeze", lambda record, step: steps.OUT_OF_STEP)


def staging_kept_by_a_restart(patch: Patch) -> None:
    handover.a_restart_into_the_same_generation(patch)


def a_source_that_serves_what_is_frozen(patch: Patch) -> None:
    handover.writes_after_the_freeze(patch)


def a_new_number_for_a_repetition(patch: Patch) -> None:
    wire = Pending.wire

    def broken(pending: Pending) -> object:
        if pending.sent > 1 and pending.session is not None and pending.session.has_room:
            pending.seq = pending.session.take(pending.session.used)
        return wire(pending)

    patch.setattr(Pending, "wire", broken)


def ignore_what_is_expected(patch: Patch) -> None:
    decide = ControllerMachine._decide
    patch.setattr(
        ControllerMachine, "_decide", lambda s, r, rows: decide(s, r._replace(expect=None), rows)
    )


def versions_by(patch: Patch, figure: Callable[[StoreMachine], int]) -> None:
    write = StoreMachine._write

    def broken(
        self: StoreMachine, held: Any, op: Any, key: bytes, value: bytes, *rest: Any
    ) -> Answer:
        return write(self, held, op, key, value and value + b"%d" % figure(self), *rest)

    patch.setattr(StoreMachine, "_write", broken)


def ticking() -> Callable[[StoreMachine], int]:
    """A clock: no two looks at it are alike."""
    looks = iter(range(10**9))
    return lambda machine: next(looks)


def the_floor_falls(patch: Patch) -> None:
    raise_floor = _Session.raise_floor

    def broken(self: Any, floor: int) -> None:
        raise_floor(self, floor)
        self.floor = floor

    patch.setattr(_Session, "raise_floor", broken)


def forget_refusals(patch: Patch) -> None:
    record = SessionTable.record

    def broken(self: SessionTable, rows: Any, s: int, q: int, f: int, d: bytes, a: bytes) -> None:
        if shardkv.machine.decode_answer(a).code is Code.OK:
            record(self, rows, s, q, f, d, a)

    patch.setattr(SessionTable, "record", broken)


def read_below_the_entry(patch: Patch) -> None:
    patch.setattr(Overlay, "get", lambda self, key: self._base.get(key))


def versions_begin_again(patch: Patch) -> None:
    write = StoreMachine._write

    def broken(self: StoreMachine, held: Any, *rest: Any) -> Answer:
        held.highest_deleted = 0
        return write(self, held, *rest)

    patch.setattr(StoreMachine, "_write", broken)


def batches_write_by_write(patch: Patch) -> None:
    """The clerk sends each operation of a batch alone: every one of them is right by itself."""

    async def broken(self: Clerk, operations: Any, **how: Any) -> list[Any]:
        done: list[Any] = []
        for at, one in enumerate(operations):
            try:
                done.append(await _alone(self, one, how["timeout"]))
            except VersionMismatch as error:
                error.operation = at
                raise
        return done

    patch.setattr(Clerk, "batch", broken)


async def _alone(clerk: Clerk, operation: Any, timeout: float) -> Any:
    match operation:
        case Put(key, value, if_version):
            return await clerk.put(key, value, if_version=if_version, timeout=timeout)
        case Append(key, value):
            return await clerk.append(key, value, timeout=timeout)
        case _:
            await clerk.delete(operation.key, timeout=timeout)
            return 0


ONCE = ("C1", "C3", "C5")
COPY = ("S3", "S4")


def rows() -> list[Row]:
    case = ("test",)
    return [
        Row("F01", "sessions stay behind", sessions_stay_behind, COPY, model()),
        Row("F03", "a chunk of an older configuration is taken",
            lambda p: _chunks(p, old_numbers), (*COPY, "S7", "L4", "test"),
            first_of(model(20), tests(
                "tests/shardkv/test_handover.py::"
                "test_a_shard_that_comes_back_is_a_new_copy_that_late_steps_do_not_touch"))),
        Row("F04", "a repeated chunk overwrites", lambda p: _chunks(p, repeated_overwrites),
            (*ONCE, "S7", "S3"), model()),
        Row("F05", "the freeze lies in memory alone", handover.a_freeze_in_memory,
            ("S1", "S3", "R13"), model()),
        Row("F06", "the last rows are copied before the freeze", copy_before_the_freeze,
            (*COPY, "C1"), model()),
        Row("F08", "served before the install", lambda p: _writes_pass_in(p, Phase.ARRIVING),
            ("S1", "S9"), model()),
        Row("F09", "ownership is not checked at apply",
            lambda p: _writes_pass_in(p, Phase.LEAVING, Phase.PARKED), ("S9",), model()),
        Row("F10", "dropped before it was taken",
            drop_without_asking, ("S8",), cluster("changes", "loss")),
        Row("F13", "from configuration n to n + 2", skip_a_configuration, ("S5", "S2"), model()),
        Row("F18", "placement follows the order of a set", an_order_of_its_own, case,
            tests("tests/shardctrler/test_rebalance.py::"
                  "test_the_order_of_the_groups_changes_nothing")),
        Row("F21", "requests wait for the own pulls", hold_requests, ("L4", "L12"), model(200)),
        Row("F27", "a repetition has a new number", a_new_number_for_a_repetition, ("C3", "C4"),
            cluster("loss", "crash", "clients")),
        Row("G07", "apply asks for a hash of this process",
            lambda p: versions_by(p, id), ("R6", *COPY, "C1"), model()),
        Row("G08", "apply looks at a clock", lambda p: versions_by(p, ticking()),
            ("R6", *COPY, "C1"), model()),
        Row("H01", "no change row for a delete while a shard moves",
            handover.no_change_row_for_a_delete, (*COPY, "C1"), model()),
        Row("H01b", "no change row for a session", handover.no_change_row_for_a_session,
            (*COPY, "C1"), model()),
        Row("H01c", "a row has one change row for ever", handover.noted_once_for_ever,
            (*COPY, "C1"), model()),
        Row("H02b", "a chunk of any copy", handover.a_chunk_of_any_copy, (*COPY, "L4"), model()),
        Row("H13", "an end is told before the freeze", handover.an_install_before_the_freeze,
            ("S1", *COPY), model()),
        Row("H14", "an install does not compare the end", handover.an_install_at_any_cursor,
            COPY, model()),
        Row("H15", "a restarted copy is staged over the first one", staging_kept_by_a_restart,
            (*COPY, "S12", "silent"), model()),
        Row("H16", "a frozen shard is served", a_source_that_serves_what_is_frozen, ("S9", "S1"),
            model()),
        Row("H17", "change rows are not bounded, and the freeze not forced", change_rows_for_ever,
            ("L4",), model()),
        Row("H02", "a chunk of any copy and cursor", lambda p: _chunks(p, any_copy_and_cursor),
            (*COPY, "L4"), model()),
        Row("H03", "a generation is used twice",
            lambda p: p.setattr(steps, "Generation", lambda index: 1),
            ("S3", "S4", "S8", "S12", "R13", "silent"), model()),
        Row("H06", "the floor of a session falls", the_floor_falls, (*ONCE, "silent"), model()),
        Row("H06b", "a refusal is not recorded", forget_refusals, ONCE, model()),
        Row("H07", "a command reads the state before its entry", read_below_the_entry,
            (*ONCE, *COPY, "silent"), model()),
        Row("H08", "versions begin again after a delete", versions_begin_again, ONCE, model()),
        Row("K09", "a batch that is refused leaves what came before", handover.half_a_batch,
            ("C10",), cluster("loss", "changes")),
        Row("K10", "a batch is sent write by write", batches_write_by_write, ("C10", "C2", "C4"),
            cluster("loss", "changes")),
        Row("K11", "the versions that batches were answered stay behind",
            handover.no_change_row_for_the_versions_of_batches, (*COPY, "silent"), model()),
    ]  # fmt: skip
