"""Groups, a history and clients under random schedules, against a model and the shard invariants.

Three groups of two replicas each. The first replica applies each entry at once: its state is the
group's committed one, which the invariants are about. The second lags behind, and is asked and
leads like the first: a deposed leader, a donor that is behind. What is proposed goes into a bag,
from where it comes late, twice, and in any order. Replicas crash and load their mirrors anew. One
copy is put together from what both donors give at many moments, while clients write.
"""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest

from raft.disk.overlay import Overlay
from raft.ports import Reader, Rows
from raft.types import GroupId, Index
from shardctrler.types import ConfigNumber, ShardId
from shardkv import copying, steps
from shardkv.changes import ChangeLog, NotingRows
from shardkv.commands import (
    Batch,
    BatchWrite,
    Chunk,
    Command,
    Configure,
    Drop,
    ExpireSessions,
    Freeze,
    Install,
    Mutation,
    Op,
    OpenSession,
    Restart,
    encode,
)
from shardkv.held import HeldShard
from shardkv.limits import SESSION_WINDOW
from shardkv.machine import StoreMachine
from shardkv.migration import Advance, Ask, Pull, Step, answers, install, owners_since, todo
from shardkv.phases import SERVES, SETTLED, Phase
from shardkv.rows import (
    CHANGES,
    HIGHEST_DELETED,
    SESSIONS,
    ShardRecord,
    changes_cursor,
    counter_at,
    encode_record,
    prefix_of,
    record_key,
)
from shardkv.types import ABSENT, DONE, Answer, Code, Row, SessionId, Version
from tests.support.stores import A, B, C, Group, History, configure

NSHARDS = 4
GIDS = (A, B, C)
SHARDS = tuple(ShardId(shard) for shard in range(NSHARDS))
KEYS = (b"a", b"b", b"c")
CONFIGS_MAX = 30
CHANGES_MAX = 25
ELSEWHERE = (Code.WRONG_GROUP, Code.NOT_READY)


class Session:
    """What the model knows of a session: the rules of RIFL, in a dict."""

    def __init__(self) -> None:
        self.floor = 1
        self.answers: dict[int, Answer] = {}

    @property
    def last(self) -> int:
        return max(self.answers, default=self.floor - 1)

    def raise_floor(self, floor: int) -> None:
        self.floor = max(self.floor, floor)
        self.answers = {seq: a for seq, a in self.answers.items() if seq >= self.floor}


class Model:
    """One shard as clients see it, wherever it is."""

    def __init__(self) -> None:
        self.data: dict[bytes, Row] = {}
        self.highest_deleted = 0
        self.counter = 0
        self.sessions: dict[int, Session] = {}

    def open(self) -> Answer:
        self.counter += 1
        self.sessions[self.counter] = Session()
        return Answer(Code.OK, (self.counter,))

    def expire(self, command: ExpireSessions) -> Answer:
        idle = [
            s for s, last in command.idle if s in self.sessions and self.sessions[s].last == last
        ]
        for session in idle:
            del self.sessions[session]
        return Answer(Code.OK, (len(idle),))

    def mutate(self, command: Mutation | Batch) -> Answer:
        session = self.sessions.get(command.session)
        if session is None:
            return Answer(Code.SESSION_EXPIRED)
        floor = max(session.floor, command.floor)
        if command.seq < floor:
            return Answer(Code.SEQUENCE_STALE)
        if command.seq in session.answers:
            answer = session.answers[command.seq]
        elif command.seq >= floor + SESSION_WINDOW:
            return Answer(Code.SEQUENCE_OVER_WINDOW, (SESSION_WINDOW,))
        else:
            written = self._write_all if isinstance(command, Batch) else self._write
            answer = session.answers[command.seq] = written(command)  # type: ignore[operator]
        session.raise_floor(floor)
        return answer

    def _write_all(self, batch: Batch) -> Answer:
        """On a copy, which counts only if nothing is refused."""
        before = dict(self.data), self.highest_deleted
        versions: list[int] = []
        for at, write in enumerate(batch.writes):
            code, facts = self._write(write)
            if code is not Code.OK:
                self.data, self.highest_deleted = before
                return Answer(code, (*facts, at))
            versions += facts
        return Answer(Code.OK, tuple(versions))

    def _write(self, command: Mutation | BatchWrite) -> Answer:
        old = self.data.get(command.key, ABSENT)
        if command.if_version not in (None, old.version):
            return Answer(Code.VERSION_MISMATCH, (old.version,))
        if command.op is Op.DELETE:
            self.highest_deleted = max(self.highest_deleted, old.version)
            self.data.pop(command.key, None)
            return Answer(Code.OK, (0,))
        value = command.value
        if command.op is Op.APPEND:
            value = (old.value or b"") + value
        version = (old.version or self.highest_deleted) + 1
        self.data[command.key] = Row(value, Version(version))
        return Answer(Code.OK, (version,))


class Proposal(NamedTuple):
    gid: GroupId
    command: Command


class Replicas:
    """A group: its log, a replica that applies it at once, and one that does when it likes."""

    def __init__(self, gid: GroupId) -> None:
        self.gid = gid
        self.log: list[tuple[Command, ...]] = []
        self.committed = Group(gid, NSHARDS)
        self.lagging = Group(gid, NSHARDS)

    def catch_up(self, entries: int) -> None:
        for commands in self.log[self.lagging.index : self.lagging.index + entries]:
            self.lagging.entry(*commands)


class World:
    def __init__(self, seed: str) -> None:
        self.rng = Random(seed)
        self.history = History(NSHARDS)
        self.groups = {gid: Replicas(gid) for gid in GIDS}
        self.models = {shard: Model() for shard in SHARDS}
        self.bag: list[Proposal] = []
        self.done: list[Proposal] = []  # what was committed, to come again
        self.frozen: dict[ShardId, dict[bytes, bytes]] = {}
        self.takers: dict[ShardId, list[tuple[int, GroupId]]] = {shard: [] for shard in SHARDS}
        self.seqs: dict[tuple[ShardId, int], int] = {}  # the highest used by the clients
        self.floors: dict[tuple[ShardId, int], int] = {}
        self.homes: dict[tuple[ShardId, int, int], GroupId] = {}  # who answered last
        self.seen: dict[str, int] = {}

    # What may happen

    def new_config(self) -> None:
        if len(self.history.configs) <= CONFIGS_MAX:
            owners = list(self.history.configs[-1].shards)
            for _ in range(self.rng.randint(1, NSHARDS)):
                owners[self.rng.randrange(NSHARDS)] = self.rng.choice((*GIDS, *GIDS, GroupId(0)))
            self.history.then(*owners)

    def lead(self) -> None:
        """A replica that takes itself for the leader does some of what it finds due."""
        group = self.groups[self.rng.choice(GIDS)]
        replica = self.replica(group.gid)
        for step in self.due(replica):
            if self.rng.random() < 0.7:
                commands = self.carry_out(step)
                self.bag += [Proposal(group.gid, command) for command in commands]
                for command in commands:
                    if isinstance(command, Chunk) and self.rng.random() < 0.3:
                        self.pull_ahead(group.gid, replica, command)

    def due(self, replica: Group) -> tuple[Step, ...]:
        machine = replica.machine
        return todo(machine.number, machine.unsettled, machine.changes, CHANGES_MAX)

    def pull_ahead(self, gid: GroupId, replica: Group, chunk: Chunk) -> None:
        """Somebody asks for what follows a chunk that is not staged yet."""
        peer = replica.machine.record(chunk.shard).peer
        if peer:
            ahead = Pull(chunk.shard, chunk.number, peer, chunk.copy_id, chunk.next_cursor)
            self.bag += [Proposal(gid, command) for command in self.carry_out(ahead)]

    def rush(self) -> None:
        """Somebody proposes a step without looking whether it is due."""
        rng, gid = self.rng, self.rng.choice(GIDS)
        for shard, record in self.replica(gid).machine.unsettled:
            copy = (shard, record.number, record.copy_id)
            if record.copy_id and record.phase is Phase.ARRIVING:
                self.bag.append(Proposal(record.peer, Freeze(*copy)))
            elif record.phase is Phase.MOVING:
                kind = rng.choice((Restart, Restart, Freeze))
                self.bag.append(Proposal(gid, kind(*copy)))
        number = self.replica(gid).machine.number + rng.randint(1, 2)
        if number < len(self.history.configs):
            self.bag.append(Proposal(gid, configure(self.history.configs[number])))

    def carry_out(self, step: Step) -> list[Command]:
        """What a step proposes in its own group; a wish to freeze goes to the source's."""
        match step:
            case Advance(number):
                late = number >= len(self.history.configs)
                return [] if late else [configure(self.history.configs[number])]
            case Pull():
                return self.pull(step)
            case Ask(shard, number, _):
                asked = self.rng.choice(owners_since(shard, number, self.history.configs))
                taken = self.replica(asked).machine.is_in(shard, number)
                return [Drop(shard, number)] if taken else []
            case Freeze() | Restart():
                return [step]

    def pull(self, step: Pull) -> list[Command]:
        shard, number, source, copy_id, cursor = step
        donor = self.replica(source)
        near = counter_at(cursor) is not None
        if near and donor.machine.record(shard).phase is Phase.MOVING and self.rng.random() < 0.3:
            self.bag.append(Proposal(source, Freeze(shard, number, copy_id)))
        limit = self.rng.choice((1, 40, 200, 10_000))
        pulled = donor.machine.pull(donor.rows, shard, number, cursor, limit, copy_id)
        if isinstance(pulled, Answer):
            return []
        chunk = pulled.chunk
        if chunk is not None and not answers(step, chunk):
            return []
        last = install(step, chunk, pulled.end)
        return [command for command in (chunk, last) if command is not None]

    def ask(self) -> None:
        """A client sends something new to a group that may have the shard."""
        shard = self.rng.choice(SHARDS)
        model = self.models[shard]
        gid = self.rng.choice(GIDS)
        if self.rng.random() < 0.8:  # it knows; or it has heard of a configuration to come
            serving = [g for g in GIDS if self.phase(g, shard) in SERVES]
            gid = serving[0] if serving else self.history.configs[-1].shards[shard] or gid
        if model.counter == 0 or self.rng.random() < 0.02:
            self.bag.append(Proposal(gid, OpenSession(shard)))
            return
        session = self.rng.randint(max(1, model.counter - 1), model.counter)
        if self.rng.random() < 0.01:
            last = model.sessions[session].last if session in model.sessions else 0
            self.bag.append(Proposal(gid, ExpireSessions(shard, ((SessionId(session), last),))))
            return
        at = (shard, session)
        seq = self.seqs[at] = self.seqs.get(at, 0) + 1
        if self.rng.random() < 0.3:
            self.floors[at] = max(self.floors.get(at, 1), seq - self.rng.randint(0, 6))
        floor = self.floors.get(at, 1)
        value = b"%d.%d;" % (session, seq)
        command: Mutation | Batch
        if self.rng.random() < 0.25:
            writes = tuple(self.write(value) for _ in range(self.rng.randint(1, 3)))
            command = Batch(shard, SessionId(session), seq, floor, writes)
        else:
            op, key, data, version = self.write(value)
            command = Mutation(op, shard, SessionId(session), seq, floor, key, data, version)
        self.bag.append(Proposal(gid, command))

    def write(self, value: bytes) -> BatchWrite:
        op = self.rng.choice((Op.PUT, Op.PUT, Op.APPEND, Op.APPEND, Op.DELETE))
        version = Version(self.rng.randint(0, 4)) if self.rng.random() < 0.2 else None
        return BatchWrite(op, self.rng.choice(KEYS), b"" if op is Op.DELETE else value, version)

    def repeat(self) -> None:
        """What was committed before comes again: a client's at any group, a step at its own."""
        if self.done:
            gid, command = self.rng.choice(self.done[-100:])
            if isinstance(command, Mutation | Batch):
                serving = [g for g in GIDS if self.phase(g, command.shard) in SERVES]
                gid = self.rng.choice((*serving, *serving, *serving, *GIDS))
            self.bag.append(Proposal(gid, command))

    def deliver(self) -> None:
        """Some of the bag is committed: one to three commands of one group in one entry."""
        if not self.bag:
            return
        gid = self.rng.choice(self.bag).gid
        mine = [proposal for proposal in self.bag if proposal.gid == gid]
        chosen = self.rng.sample(mine, min(len(mine), self.rng.randint(1, 3)))
        for proposal in chosen:
            if self.rng.random() < 0.8:
                self.bag.remove(proposal)
            if self.rng.random() < 0.3:
                self.done.append(proposal)
        self.commit(gid, tuple(proposal.command for proposal in chosen))

    def catch_up(self) -> None:
        self.groups[self.rng.choice(GIDS)].catch_up(self.rng.randint(1, 10))

    def restart(self) -> None:
        self.replica(self.rng.choice(GIDS)).restart()

    def clean(self) -> None:
        replica = self.replica(self.rng.choice(GIDS))
        replica.rows.write(replica.machine.garbage(replica.rows, self.rng.randint(1, 5)))

    def replica(self, gid: GroupId) -> Group:
        group = self.groups[gid]
        return self.rng.choice((group.committed, group.lagging))

    # What must hold

    def commit(self, gid: GroupId, commands: tuple[Command, ...]) -> None:
        group = self.groups[gid]
        group.log.append(commands)
        replica = group.committed
        replica.index += 1
        overlay = Overlay(replica.rows)
        for command in commands:
            self.check(replica, command, overlay)
        replica.rows.write(overlay.writes())

    def check(self, replica: Group, command: Command, overlay: Overlay) -> None:
        machine = replica.machine
        before, number = machine.facts.records, machine.number
        writes = dict(overlay.writes())

        answer = machine.apply(Index(replica.index), encode(command), overlay)

        changed = dict(overlay.writes()) != writes
        records = machine.facts.records
        for shard in SHARDS:
            if records[shard] != before[shard]:
                self.check_record(replica, shard, before[shard], overlay)
            serving = [g for g in GIDS if self.phase(g, shard) in SERVES]
            assert len(serving) <= 1, ("S1", shard, serving)
        if machine.number != number:
            assert isinstance(command, Configure)
            assert machine.number == number + 1, ("S5", number, machine.number)
            assert all(record.phase in SETTLED for record in before), ("S5", before)
        match command:
            case Mutation() | Batch() | OpenSession() | ExpireSessions():
                model = self.models[command.shard]
                if before[command.shard].phase not in SERVES:
                    assert answer.code in ELSEWHERE and not changed, ("S9", command, answer)
                    self.saw("refused elsewhere")
                elif isinstance(command, Mutation | Batch):
                    if changed and before[command.shard].phase is Phase.MOVING:
                        self.saw("written while it moved")
                    session = model.sessions.get(command.session)
                    if session is not None and command.seq in session.answers:
                        self.saw("answered from the table")
                        if self.homes[command.shard, command.session, command.seq] != replica.gid:
                            self.saw("answered from the table of a former owner")
                    self.homes[command.shard, command.session, command.seq] = replica.gid
                    assert answer == model.mutate(command), ("C3, C5", command)
                    named = "BATCH" if isinstance(command, Batch) else command.op.name
                    self.saw(f"{named} {answer.code.name}")
                elif isinstance(command, OpenSession):
                    assert answer == model.open()
                else:
                    assert answer == model.expire(command)
            case _:
                if answer != DONE:
                    assert not changed, ("S7", command, answer)
                self.saw(f"{type(command).__name__} {answer.code.name} {changed}")
                if isinstance(command, Install) and changed and command.end:
                    self.saw("installed with changes")
                if isinstance(command, Chunk) and changed:
                    if any(value is None for _, value in command.rows):
                        self.saw("staged row deleted")
                    if before[command.shard].copy_id not in (0, command.copy_id):
                        self.saw("staging begun again")

    def check_record(
        self, replica: Group, shard: ShardId, before: ShardRecord, overlay: Overlay
    ) -> None:
        record = replica.machine.record(shard)
        prefix = prefix_of(shard, record.generation)
        rows = {k[len(prefix) :]: v for k, v in overlay.range(prefix, prefix + b"\xff")}
        if before.phase in SERVES and record.phase not in SERVES:
            self.frozen[shard] = rows
        if record.phase is Phase.SERVING:
            assert rows == self.frozen.get(shard, {}), ("S3, S4", shard)
            self.takers[shard].append((record.taken, replica.gid))
            due = self.owners(shard)[: len(self.takers[shard])]
            assert self.takers[shard] == due, ("S2", shard)
            self.saw(f"{before.phase.name} to SERVING")
        if before.phase is Phase.LEAVING:
            groups = self.groups.values()
            taken = any(g.committed.machine.is_in(shard, record.number) for g in groups)
            assert taken, ("S8", shard, record)

    def owners(self, shard: ShardId) -> list[tuple[int, GroupId]]:
        """Who takes the shard over, and under which configuration, as the history has it."""
        owners = [config.shards[shard] for config in self.history.configs]
        return [
            (number, owner)
            for number, owner in enumerate(owners)
            if owner and owner != owners[number - 1]
        ]

    def phase(self, gid: GroupId, shard: ShardId) -> Phase:
        return self.groups[gid].committed.machine.record(shard).phase

    def saw(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    # How it ends

    def settle(self) -> None:
        """No more configurations and faults: every group gets everything done (L4, L12)."""
        while self.bag:
            self.deliver()
        newest = ConfigNumber(len(self.history.configs) - 1)
        for _ in range(400):
            machines = [group.committed.machine for group in self.groups.values()]
            if all(m.number == newest and not m.unsettled for m in machines):
                return
            for group in self.groups.values():
                group.catch_up(len(group.log))
                for step in self.due(group.committed):
                    for command in self.carry_out(step):
                        self.commit(group.gid, (command,))
                while self.bag:  # wishes to freeze
                    self.deliver()
        raise AssertionError("the hand-overs do not end")

    def check_end(self) -> None:
        for group in self.groups.values():
            group.catch_up(len(group.log))
            for replica in (group.committed, group.lagging):
                while deletes := replica.machine.garbage(replica.rows, 7):
                    replica.rows.write(deletes)
                named = [
                    (shard, record.generation)
                    for shard, record in enumerate(replica.machine.facts.records)
                    if record.phase in (Phase.SERVING, Phase.PARKED)
                ]
                assert all(copy in named for copy in replica.copies()), ("S12", replica.gid)
                assert not list(replica.rows.range(*CHANGES)), ("S12", replica.gid)
                replica.restart()
            assert group.committed.rows.map == group.lagging.rows.map, "R6"
        for shard in SHARDS:
            owner = self.history.configs[-1].shards[shard]
            if owner:
                got = {key: self.groups[owner].committed.get(key, shard) for key in KEYS}
                assert got == {key: self.models[shard].data.get(key, ABSENT) for key in KEYS}


def run(seed: str, events: int = 2000) -> World:
    world = World(seed)
    happenings: list[Callable[[], None]] = [
        *[world.ask] * 30,
        *[world.deliver] * 45,
        *[world.lead] * 25,
        *[world.repeat] * 12,
        *[world.catch_up] * 10,
        *[world.new_config] * 1,
        *[world.rush] * 2,
        *[world.restart] * 3,
        *[world.clean] * 4,
    ]
    for _ in range(events):
        world.rng.choice(happenings)()
    world.settle()
    world.check_end()
    return world


@pytest.mark.parametrize("seed", range(40))
def test_shards_move_under_random_schedules(seed: int) -> None:
    """S1 to S5, S7 to S9, S12, C3, C5, and mirrors equal to the rows after every crash."""
    run(f"hand-over {seed}")


# Shortcuts that somebody might take: each is seen to be wrong, and where


def no_change_row(patch: pytest.MonkeyPatch, skipped: Callable[[bytes, int], bool]) -> None:
    note = ChangeLog.note

    def broken(self: ChangeLog, key: bytes, rows: Rows) -> None:
        if not skipped(key, self._skip):
            note(self, key, rows)

    patch.setattr(ChangeLog, "note", broken)


def no_change_row_for_a_delete(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NotingRows, "delete", lambda self, key: self._rows.delete(key))


def no_change_row_for_a_session(patch: pytest.MonkeyPatch) -> None:
    no_change_row(patch, lambda key, skip: key[skip : skip + 1] == SESSIONS)


def no_change_row_for_the_versions_of_batches(patch: pytest.MonkeyPatch) -> None:
    no_change_row(patch, lambda key, skip: key[skip : skip + 1] == b"b")


def half_a_batch(patch: pytest.MonkeyPatch) -> None:
    """Its writes are done one by one, until one is refused."""

    def broken(self: StoreMachine, held: Any, writes: tuple[BatchWrite, ...], rows: Rows) -> Answer:
        versions: list[int] = []
        for at, write in enumerate(writes):
            code, facts = self._write(held, *write, rows)
            if code is not Code.OK:
                return Answer(code, (*facts, at))
            versions += facts
        return Answer(Code.OK, tuple(versions))

    patch.setattr(StoreMachine, "_write_all", broken)


def no_change_row_for_the_highest_deleted(patch: pytest.MonkeyPatch) -> None:
    no_change_row(patch, lambda key, skip: key[skip:] == HIGHEST_DELETED)


def noted_once_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Not once an entry."""

    def broken(self: ChangeLog, rows: Rows, index: Index) -> NotingRows:
        return NotingRows(rows, self)

    patch.setattr(ChangeLog, "noting", broken)


def an_install_at_any_cursor(patch: pytest.MonkeyPatch) -> None:
    whole = steps.install

    def broken(record: ShardRecord, step: Install) -> steps.Outcome:
        return whole(record._replace(cursor=changes_cursor(step.end)), step)

    patch.setattr(steps, "install", broken)


def an_install_before_the_freeze(patch: pytest.MonkeyPatch) -> None:
    """The end is told of a shard that is not frozen."""
    pull = copying.pull

    def broken(rows: Reader, source: copying.Source, *args: Any) -> copying.Pulled:
        return pull(rows, source._replace(frozen=True), *args)

    patch.setattr(copying, "pull", broken)


def a_freeze_in_memory(patch: pytest.MonkeyPatch) -> None:
    become = StoreMachine._become

    def broken(self: StoreMachine, held: Any, after: ShardRecord, rows: Rows) -> Any:
        before = held.record
        held = become(self, held, after, rows)
        if after.phase is Phase.LEAVING:
            rows.put(record_key(held.id), encode_record(before))
        return held

    patch.setattr(StoreMachine, "_become", broken)


def a_chunk_of_any_copy(patch: pytest.MonkeyPatch) -> None:
    stage = steps.stage

    def broken(record: ShardRecord, chunk: Chunk, index: Index) -> steps.Outcome:
        return stage(record, chunk._replace(copy_id=record.copy_id or chunk.copy_id), index)

    patch.setattr(steps, "stage", broken)


def a_chunk_at_any_cursor(patch: pytest.MonkeyPatch) -> None:
    stage = steps.stage

    def broken(record: ShardRecord, chunk: Chunk, index: Index) -> steps.Outcome:
        return stage(record, chunk._replace(cursor=record.cursor), index)

    patch.setattr(steps, "stage", broken)


def a_restart_into_the_same_generation(patch: pytest.MonkeyPatch) -> None:
    stage = steps.stage

    def broken(record: ShardRecord, chunk: Chunk, index: Index) -> steps.Outcome:
        after = stage(record, chunk, index)
        if isinstance(after, ShardRecord):
            return after._replace(generation=record.generation)
        return after

    patch.setattr(steps, "stage", broken)


def a_restart_under_the_same_copy_id(patch: pytest.MonkeyPatch) -> None:
    restart = steps.restart

    def broken(record: ShardRecord, step: Restart, index: Index) -> steps.Outcome:
        after = restart(record, step, index)
        return after._replace(copy_id=record.copy_id) if isinstance(after, ShardRecord) else after

    patch.setattr(steps, "restart", broken)


def change_rows_lost_by_a_restart(patch: pytest.MonkeyPatch) -> None:
    """The old change rows are garbage at once, and the copy id stays."""
    a_restart_under_the_same_copy_id(patch)
    refresh = HeldShard.refresh

    def broken(self: HeldShard, rows: Reader, number: ConfigNumber) -> None:
        if self.changes is not None:
            self.changes.count = 0
        refresh(self, rows, number)

    patch.setattr(HeldShard, "refresh", broken)


def writes_after_the_freeze(patch: pytest.MonkeyPatch) -> None:
    come_to = HeldShard.come_to

    def broken(self: HeldShard, number: ConfigNumber) -> None:
        come_to(self, number)
        self.serves = self.serves or self.record.phase is Phase.LEAVING

    patch.setattr(HeldShard, "come_to", broken)


def a_copy_without_end(patch: pytest.MonkeyPatch) -> None:
    """Nobody ever grants the wish to freeze."""
    patch.setattr(steps, "freeze", lambda record, step: steps.OUT_OF_STEP)


SHORTCUTS = [
    (no_change_row_for_a_delete, "S3"),
    (no_change_row_for_a_session, "S3"),
    (no_change_row_for_the_versions_of_batches, "S3"),
    (half_a_batch, ""),
    (no_change_row_for_the_highest_deleted, "S3"),
    (noted_once_for_ever, "S3"),
    (an_install_at_any_cursor, "S3"),
    (an_install_before_the_freeze, "S3"),
    (a_freeze_in_memory, ""),
    (a_chunk_of_any_copy, "do not end"),
    (a_chunk_at_any_cursor, ""),
    (a_restart_into_the_same_generation, ""),
    (change_rows_lost_by_a_restart, ""),
    (writes_after_the_freeze, "S9"),
    (a_copy_without_end, "do not end"),
]


def _name(one: object) -> str:
    return getattr(one, "__name__", "").replace("_", " ")


@pytest.mark.parametrize(("shortcut", "invariant"), SHORTCUTS, ids=_name)
def test_each_shortcut_is_seen(
    shortcut: Callable[[pytest.MonkeyPatch], None],
    invariant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shortcut(monkeypatch)

    with pytest.raises(AssertionError) as caught:
        for seed in range(40):
            run(f"shortcut {seed}")
    assert invariant in str(caught.value)


def test_the_schedules_visit_what_they_are_there_for() -> None:
    """A model that never sees the hard states proves nothing."""
    seen: dict[str, int] = {}
    for seed in range(40):
        for what, times in run(f"probes {seed}").seen.items():
            seen[what] = seen.get(what, 0) + times

    for what in (
        "refused elsewhere",
        "answered from the table",
        "answered from the table of a former owner",
        "PUT OK",
        "PUT VERSION_MISMATCH",
        "APPEND OK",
        "DELETE OK",
        "BATCH OK",
        "BATCH VERSION_MISMATCH",
        "BATCH SEQUENCE_STALE",
        "PUT SESSION_EXPIRED",
        "PUT SEQUENCE_STALE",
        "ABSENT to SERVING",
        "ARRIVING to SERVING",
        "PARKED to SERVING",
        "Configure OK True",
        "Configure OK False",
        "Configure OLD False",
        "Configure UNSETTLED False",
        "Configure NOT_NEXT False",
        "written while it moved",
        "installed with changes",
        "staged row deleted",
        "staging begun again",
        "Freeze OK True",
        "Freeze OK False",
        "Freeze OLD False",
        "Freeze OUT_OF_STEP False",
        "Restart OK True",
        "Restart OLD False",
        "Restart OUT_OF_STEP False",
        "Chunk OK True",
        "Chunk OK False",
        "Chunk OLD False",
        "Chunk OUT_OF_STEP False",
        "Install OK True",
        "Install OK False",
        "Install OLD False",
        "Install OUT_OF_STEP False",
        "Drop OK True",
        "Drop OK False",
        "Drop OLD False",
    ):
        assert seen.get(what, 0) >= 3, (what, seen)
