"""The invariants of shards and clients, watched in the canonical state.

The *canonical* state of a group is what the replica that applies an entry first makes of it; every
other one must make the same (R6). So each command is judged once, with the state before and after
it, and costs O(1), but for the freeze and the install of a shard, which are hashed whole.

- S1  at most one group serves a shard, also while it moves.
- S2  its owners follow one another: an install follows the freeze of the owner before, and numbers
      grow.
- S3  the rows at the install are those at the freeze.  S4  so are the sessions; no counter falls.
- S5  configurations are taken one by one, with nothing unsettled.  S6  each is the same everywhere.
- S7  a step that is late or out of place changes nothing.
- S8  a frozen copy is dropped only after a later owner has the shard.
- S9  a write takes effect only where its shard is served when it is applied.
- S10 a join or a leave balances with the fewest moves.  S11 a shard that stays is served on.
- C2  what a client is told fits the canonical order: a read shows a state that stood between its
      call and its answer, and none older than what any client had been told before the call.
- C3  no write takes effect twice.  C4  told "not done": it never is. Told "done": it is, once.
- C5  a repeated write gets its first answer.
- C7  every operation ends within its deadline and an election's time.
- C10 a batch does all of its writes, in their order, or none; and whoever was told of one of them
      is told of all.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from labrpc.sim.loop import true_clock
from labs.history import Kind, Operation
from labs.memory import Followed, Known, Memory, Recalled, State
from labs.observer import Observer
from labs.waits import Waits
from raft.ports import Reader, Rows
from raft.types import GroupId, Index, Term
from shardctrler.types import ShardConfig, ShardId
from shardkv.commands import (
    Abandoned,
    Batch,
    BatchWrite,
    Chunk,
    Command,
    Configure,
    Drop,
    Freeze,
    Install,
    Mutation,
    Op,
    OpenSession,
    PassTime,
    Renew,
    Restart,
    Step,
    decode,
)
from shardkv.machine import StoreMachine
from shardkv.once import Once
from shardkv.phases import SERVES, Phase
from shardkv.routing import SlotRouting
from shardkv.rows import CHANGES, DATA, SESSIONS, ShardRecord, decode_row, prefix_of
from shardkv.types import NO_GENERATION, Answer, Code, Generation

DEADLINE_TICK_SECONDS: Final = 0.1
COMMANDS_KEPT: Final = 1024
_REFUSED_HERE: Final = (Code.WRONG_GROUP, Code.NOT_READY)
_FORGOTTEN: Final = (
    Code.SEQUENCE_STALE, Code.SESSION_EXPIRED, Code.SEQUENCE_OVER_WINDOW, Code.SEQUENCE_REUSED
)  # fmt: skip
_FINAL: Final = (Code.OK, Code.VERSION_MISMATCH, Code.VALUE_TOO_LONG)


class _Frozen(NamedTuple):
    """A shard as a freeze left it."""

    gid: GroupId
    data: bytes
    sessions: bytes


class StoreInvariants:
    """Watches all groups of a store.

    Args:
        nshards: Of the cluster.
        observer: Told what is seen and what is broken.
        term_of: The term of a group's committed entry.
        grace: How late after its deadline an operation may end, in seconds.
    """

    def __init__(
        self,
        nshards: int,
        observer: Observer,
        term_of: Callable[[GroupId, Index], Term],
        *,
        grace: float = 1.0,
    ) -> None:
        self.hand_overs = 0
        self.effects: dict[tuple[bytes, bytes], int] = {}  # (key, value written) -> its state
        self.observer = observer
        self.values_are_unique = False
        """Whether no client ever writes one value twice to a key, so that a value names its write;
        without it C3 is watched by sessions alone, and what clients are told is not."""
        self.on_step: Callable[[str, GroupId], None] = _nobody
        self._term_of = term_of
        self._grace = grace + DEADLINE_TICK_SECONDS
        self.waits = Waits(observer)
        self._groups: dict[GroupId, Followed] = {}
        self._serving: list[GroupId | None] = [None] * nshards
        self._taken: list[list[tuple[int, GroupId]]] = [[] for _ in range(nshards)]
        self._at_rest: dict[ShardId, _Frozen] = {}  # as it was frozen last
        self._frozen: dict[tuple[ShardId, int, int], _Frozen] = {}  # by configuration and copy
        self._counters = [0] * nshards
        self._configs: dict[int, ShardConfig] = {}
        self._answers: dict[tuple[int, int, int], tuple[Answer, GroupId, Term, Index]] = {}
        self._by_name: dict[tuple[int, Once], tuple[Answer, GroupId, Index]] = {}
        self._keys: dict[bytes, Known] = {}
        self._undone: dict[tuple[bytes, bytes], None] = {}
        self._now = true_clock()
        recalled = Recalled(
            observer=observer, now=self._now, groups=self._groups, serving=self._serving,
            answers=self._answers, by_name=self._by_name, keys=self._keys, effects=self.effects,
        )  # fmt: skip
        self.memory = Memory(recalled, SlotRouting(nshards))

    @property
    def applied(self) -> dict[GroupId, Index]:
        return {gid: Index(group.at[0]) for gid, group in self._groups.items()}

    def states(self, key: bytes) -> Sequence[State]:
        """What the key was and is, in canonical order; the first is absent from the beginning."""
        return self._key(key).states

    def _key(self, key: bytes) -> Known:
        found = self._keys.get(key)
        if found is None:
            found = self._keys[key] = Known()
        return found

    def leaving(self) -> int:
        """How many shards nobody serves now."""
        return self._serving.count(None)

    # What a machine applies

    def apply(
        self,
        machine: "WatchedMachine",
        index: Index,
        at: int,
        command: bytes,
        rows: Rows,
        carry_out: Callable[[], Answer],
    ) -> Answer:
        """Let `machine` apply the command that is number `at` of its entry, and judge it."""
        group = self._groups.get(machine.gid)
        if group is None:
            group = self._groups[machine.gid] = Followed()
        if (index, at) <= group.at:
            answer = carry_out()
            if answer != group.answers[index, at]:
                self.observer.broke(
                    "R6",
                    f"group {machine.gid}: entry {index}/{at} is answered {answer} here, "
                    f"{group.answers[index, at]} elsewhere",
                )
            return answer
        decoded = machine._decode(command)
        if isinstance(decoded, (Mutation, Batch)):
            record = machine.record(decoded.shard)
            written = machine.row_keys(decoded.shard, _writes(decoded))
            stood = [rows.get(key) for key in written]
            answer = carry_out()
            stand = [rows.get(key) for key in written]
            group.at = (index, at)
            group.answers[index, at] = answer
            self._mutated(machine, index, decoded, record, answer, written, stood, stand)
            if type(decoded) is Batch:
                self.waits.moved_on(machine.gid, machine.number, machine.unsettled)
            return answer
        return self._apply_step(machine, group, (index, at), decoded, rows, carry_out)

    def _apply_step(
        self,
        machine: "WatchedMachine",
        group: Followed,
        place: tuple[Index, int],
        decoded: Command,
        rows: Rows,
        carry_out: Callable[[], Answer],
    ) -> Answer:
        """Of a command that is no client's write."""
        index, _ = place
        whole = isinstance(decoded, Configure | Abandoned)
        shards = machine.facts.records if whole else ()
        record = (
            None if isinstance(decoded, Configure | Abandoned) else machine.record(decoded.shard)
        )
        busy = bool(machine.unsettled) if isinstance(decoded, Configure) else False
        before, was_named = machine.number, machine.is_named
        answer = carry_out()
        if isinstance(decoded, Freeze | Install | Renew):
            # The judge reads more than the machine did. Where a row cannot be read the node ends
            # here, and whoever applies the entry next is the first.
            self._hashes(machine, decoded.shard, rows)
        group.at = place
        group.answers[place] = answer
        if isinstance(decoded, Configure):
            self._configured(machine, index, before, busy, shards, answer, rows)
            if machine.is_named and not was_named:
                self._named(machine, rows)
        elif isinstance(decoded, Abandoned):
            self._given_up(machine, shards, rows)
        elif isinstance(decoded, PassTime):  # the shard may have forgotten its old names
            for name in [name for name in self._by_name if name[0] == decoded.shard]:
                del self._by_name[name]
        elif isinstance(decoded, OpenSession):
            self._opened(machine, decoded, answer)
        elif isinstance(decoded, Chunk | Install | Freeze | Restart | Renew | Drop):
            assert record is not None
            self._stepped(machine, decoded, record, answer, rows)
        if not isinstance(decoded, OpenSession | Chunk):
            self.waits.moved_on(machine.gid, machine.number, machine.unsettled)
        return answer

    def _configured(
        self,
        machine: "WatchedMachine",
        index: Index,
        before: int,
        busy: bool,
        records: tuple[ShardRecord, ...],
        answer: Answer,
        rows: Reader,
    ) -> None:
        gid = machine.gid
        if machine.number == before:
            if machine.facts.records != records:
                self.observer.broke(
                    "S7", f"group {gid}: a configuration answered {answer} at {index} moved shards"
                )
            return
        config = machine.config
        assert config is not None
        if not (machine.number == before + 1 and not busy):
            self.observer.broke(
                "S5",
                f"group {gid} goes from configuration {before} to {machine.number}, "
                f"unsettled: {busy}",
            )
        known = self._configs.setdefault(config.number, config)
        if known != config:
            self.observer.broke("S6", f"configuration {config.number} is {known} and {config}")
        if known is config:
            self._look_at_history(config)
        if self._groups[gid].number + 3 <= max(self._configs):
            self.observer.probe("three configurations behind")
        self._groups[gid].number = config.number
        for number, record in enumerate(records):
            shard = ShardId(number)
            after = machine.record(shard)
            if after.phase is record.phase:
                continue
            if record.phase is Phase.SERVING and config.shards[shard] == gid:
                self.observer.broke(
                    "S11",
                    f"group {gid}: shard {shard} stays, and is {after.phase.name} by "
                    f"configuration {config}",
                )
            if (config.shards[shard] == gid) != (after.phase in (Phase.SERVING, Phase.ARRIVING)):
                self.observer.broke(
                    "S2",
                    f"group {gid}: shard {shard} is {after.phase.name} by configuration {config}",
                )
            if after.phase is Phase.MOVING:
                self.observer.tell(f"g{gid} moves shard={shard} config={machine.number}")
                self.on_step("moves", gid)
            elif record.phase is Phase.SERVING:
                self._freezes(machine, shard, rows)
            if after.phase is Phase.SERVING:
                self._takes(machine, shard, config.number, rows)
            elif after.phase is Phase.LEAVING:
                self._gives(machine, shard, record.phase, rows)

    def _named(self, machine: "WatchedMachine", rows: Reader) -> None:
        """A group that was recovered serves from here on what it serves: no later owner has any of
        it, and what it has is what its survivor had, or what others gave it since."""
        for number, record in enumerate(machine.facts.records):
            if record.phase in SERVES:
                self._takes(machine, ShardId(number), record.taken, rows)

    def _given_up(
        self, machine: "WatchedMachine", records: tuple[ShardRecord, ...], rows: Reader
    ) -> None:
        """Shards settle because the group at their other end is lost."""
        for number, record in enumerate(records):
            shard, after = ShardId(number), machine.record(ShardId(number))
            if record.phase in SERVES and after.phase not in SERVES:
                self._serves_no_more(machine.gid, shard)
            if after.phase is Phase.PARKED and record.phase is not Phase.PARKED:
                # Its counters are raised beyond what the lost group may have given.
                self._at_rest[shard] = self._hashes(machine, shard, rows)
            elif after.phase in SERVES and record.phase not in SERVES:
                self._takes(machine, shard, after.number, rows)

    def _look_at_history(self, config: ShardConfig) -> None:
        before = self._configs.get(config.number - 1)
        self.observer.tell(f"config {config.number} shards={list(config.shards)}")
        if before is None:
            return
        moves = {
            (one, other)
            for one, other in zip(before.shards, config.shards, strict=True)
            if one != other and one and other
        }
        if any((other, one) in moves for one, other in moves):
            self.observer.probe("mutual moves")
        if sorted(before.groups) != sorted(config.groups):
            self._look_at_balance(before, config)

    def _look_at_balance(self, before: ShardConfig, config: ShardConfig) -> None:
        """S10: a join or a leave balances, with as few moves as that takes. So does giving a group
        up; what another one still holds of its shards is that one's first."""
        loads = {gid: config.shards.count(gid) for gid in sorted(config.groups)}
        if not loads:
            return
        if max(loads.values()) - min(loads.values()) > 1:
            self.observer.broke("S10", f"configuration {config.number} spreads shards as {loads}")
        stood = [
            holder if owner in config.abandoned else owner
            for owner, holder in zip(before.shards, config.previous, strict=True)
        ]
        base, more = divmod(len(config.shards), len(loads))
        kept = sorted((stood.count(gid) for gid in loads), reverse=True)
        fewest = len(config.shards) - sum(
            min(count, base + (at < more)) for at, count in enumerate(kept)
        )
        moved = sum(a != b for a, b in zip(stood, config.shards, strict=True))
        if moved > fewest:
            self.observer.broke(
                "S10", f"configuration {config.number} moves {moved} shards, {fewest} would do"
            )

    def _hashes(self, machine: "WatchedMachine", shard: ShardId, rows: Reader) -> _Frozen:
        prefix = prefix_of(shard, machine.record(shard).generation)
        hashes = {True: blake2b(digest_size=8), False: blake2b(digest_size=8)}
        for key, row in rows.range(prefix, prefix + b"\xff"):
            kind = key[len(prefix) : len(prefix) + 1]
            hash_ = hashes[kind == SESSIONS]
            hash_.update(len(key).to_bytes(4, "big") + key[len(prefix) :])
            hash_.update(len(row).to_bytes(4, "big") + row)
        return _Frozen(machine.gid, hashes[False].digest(), hashes[True].digest())

    def _freezes(self, machine: "WatchedMachine", shard: ShardId, rows: Reader) -> None:
        self.observer.tell(f"g{machine.gid} freezes shard={shard} config={machine.number}")
        self.on_step("freezes", machine.gid)
        self._serves_no_more(machine.gid, shard)
        self._at_rest[shard] = self._hashes(machine, shard, rows)

    def _gives(self, machine: "WatchedMachine", shard: ShardId, was: Phase, rows: Reader) -> None:
        frozen = self._hashes(machine, shard, rows)
        if machine.is_named:  # else it is not given out before it is renewed
            self._frozen[shard, machine.number, machine.record(shard).copy_id] = frozen
        if frozen != self._at_rest[shard]:
            self.observer.broke(
                "S3", f"group {machine.gid}: shard {shard} changed while it was {was.name}"
            )

    def _serves_no_more(self, gid: GroupId, shard: ShardId) -> None:
        """Of a group that was recovered and is not named yet it was not said that it does."""
        if self._serving[shard] == gid:
            self._serving[shard] = None

    def _takes(self, machine: "WatchedMachine", shard: ShardId, number: int, rows: Reader) -> None:
        """The group serves the shard from here on; one that is not named yet, from then on."""
        gid, taken = machine.gid, self._taken[shard]
        if not machine.is_named:
            if not taken or number > taken[-1][0]:  # else somebody has it since: it is passed on
                taken.append((number, gid))
            return
        owner = self._serving[shard]
        if owner is not None:
            self.observer.broke("S1", f"groups {owner} and {gid} serve shard {shard} at once")
        self.memory.compare(machine, shard, rows)
        if taken and taken[-1] == (number, gid):  # it was recovered, and goes on
            self._serving[shard] = gid
            return
        if not (not taken or number > taken[-1][0]):
            self.observer.broke(
                "S2", f"group {gid} takes shard {shard} under {number} after {taken[-3:]}"
            )
        self.observer.tell(f"g{gid} serves shard={shard} config={number}")
        if len(taken) > 1 and taken[-2][1] == gid != taken[-1][1]:
            self.observer.probe("shard moved A to B to A")
        taken.append((number, gid))
        self._serving[shard] = gid
        self.hand_overs += 1

    def _stepped(
        self,
        machine: "WatchedMachine",
        step: Step,
        before: ShardRecord,
        answer: Answer,
        rows: Reader,
    ) -> None:
        gid, shard = machine.gid, step.shard
        after = machine.record(shard)
        if after == before:
            if isinstance(step, Chunk | Install | Drop):
                self.observer.probe(f"{type(step).__name__.lower()} repeated or late")
            return
        if not (answer.code is Code.OK and step.number == before.number == after.number):
            self.observer.broke(
                "S7",
                f"group {gid}: {type(step).__name__} of {step.number}, answered {answer}, makes of "
                f"{before} {after}",
            )
        if isinstance(step, Install):
            self.on_step("installs", gid)
            frozen = self._frozen.get((shard, step.number, step.copy_id))
            if not (frozen is not None and frozen.gid == before.peer):
                self.observer.broke(
                    "S2",
                    f"group {gid} installs shard {shard} of {step.number}; frozen was {frozen}",
                )
            here = self._hashes(machine, shard, rows)
            if frozen is not None:
                text = f"shard {shard} of {step.number}: group {frozen.gid} froze other"
                if here.data != frozen.data:
                    self.observer.broke("S3", f"{text} rows than {gid} installs")
                if here.sessions != frozen.sessions:
                    self.observer.broke("S4", f"{text} sessions than {gid} has")
            self._takes(machine, shard, step.number, rows)
            if step.end:
                self.observer.probe("shard moved while written")
        elif isinstance(step, Chunk):
            self.on_step("stages", gid)
            if after.generation != before.generation:
                self.observer.probe("staged copy begun again")
        elif isinstance(step, Freeze):
            self._freezes(machine, shard, rows)
            self._gives(machine, shard, before.phase, rows)
        elif isinstance(step, Renew):
            self.observer.probe("hand-over of a recovered group begun anew")
            if not step.arriving:
                self._serves_no_more(gid, shard)
                frozen = self._hashes(machine, shard, rows)
                self._frozen[shard, step.number, after.copy_id] = frozen
        elif isinstance(step, Restart):
            self.on_step("restarts", gid)
            self.observer.tell(f"g{gid} restarts shard={shard} copy={after.copy_id}")
            self.observer.probe("copy restarted")
        else:
            self.on_step("drops", gid)
            taken = self._taken[shard]
            if not (bool(taken) and taken[-1][0] >= step.number):
                self.observer.broke(
                    "S8",
                    f"group {gid} drops shard {shard} of {step.number}, taken was {taken}",
                )

    def _opened(self, machine: "WatchedMachine", opening: OpenSession, answer: Answer) -> None:
        if answer.code is Code.OK and machine.is_named:
            counter = self._counters[opening.shard]
            if not (answer.facts[0] > counter):
                self.observer.broke(
                    "S4",
                    f"group {machine.gid}: session {answer.facts[0]} of shard {opening.shard} is "
                    f"opened after {counter}",
                )
            self._counters[opening.shard] = answer.facts[0]

    def _mutated(
        self,
        machine: "WatchedMachine",
        index: Index,
        write: Mutation | Batch,
        record: ShardRecord,
        answer: Answer,
        keys: Sequence[bytes],
        before: Sequence[bytes | None],
        after: Sequence[bytes | None],
    ) -> None:
        """The rows at `keys`, one a write, were `before` and are `after`."""
        gid = machine.gid
        changed = before != after
        if not machine.is_named and record.phase in SERVES:
            # Its survivor's log holds what its majority had let in. Where another group has the
            # shard by now, nobody will see what it does here.
            if self._serving[write.shard] is not None:
                return
        elif record.phase not in SERVES or self._serving[write.shard] != gid:
            if not (answer.code in _REFUSED_HERE and not changed):
                self.observer.broke(
                    "S9",
                    f"group {gid}: {write} is answered {answer} at {index}, while shard "
                    f"{write.shard} is {record.phase.name} there",
                )
            self.observer.probe("op refused at apply")
            return
        if answer.code in _REFUSED_HERE:
            self.observer.broke(
                "S11", f"group {gid}: {write} is answered {answer} at {index}, and is served there"
            )
        request = (write.shard, write.session, write.seq)
        first = self._answers.get(request)
        if first is not None:
            if changed:
                self.observer.broke("C3", f"group {gid}: {write} takes effect again at {index}")
            if not (answer == first[0] or answer.code in _FORGOTTEN):
                self.observer.broke(
                    "C5",
                    f"group {gid}: {write} is answered {answer} at {index}, {first[0]} at first",
                )
            self._repeated(machine, index, answer, first)
            if isinstance(write, Batch):
                self.observer.probe("batch repeated")
            return
        if answer.code in _FINAL:
            self._answers[request] = (answer, gid, self._term_of(gid, index), index)
        if answer.code is Code.VALUE_TOO_LONG:
            batch = isinstance(write, Batch)
            self.observer.probe(f"{'batch' if batch else 'append'} refused at the value limit")
        if self._is_named_again(gid, index, write, answer, changed=changed):
            return
        if isinstance(write, Batch) and answer.code in _FINAL:
            self._batched(gid, index, write, answer, keys, before, after)
        elif changed and answer.code is not Code.OK:
            self.observer.broke(
                "C4", f"group {gid}: {write} is answered {answer}, and changed the row"
            )
        if changed and record.phase is Phase.MOVING:
            self.observer.probe("shard written while it moved")
        if answer.code is Code.OK and changed:
            made = [
                (one.key, self._effect(gid, index, one, key, row))
                for one, key, row in zip(_writes(write), keys, after, strict=True)
            ]
            if isinstance(write, Batch):
                for each, at in made:
                    self._keys[each].batched[at] = tuple(made)

    def _is_named_again(
        self, gid: GroupId, index: Index, write: Mutation | Batch, answer: Answer, *, changed: bool
    ) -> bool:
        """C3 and C5, of a request that a client behind clerks has named: whether another clerk has
        brought it before."""
        if write.once is None or answer.code not in _FINAL:
            return False
        name = (write.shard, write.once)
        known = self._by_name.get(name)
        if known is None:
            self._by_name[name] = (answer, gid, index)
            return False
        kind = "batch" if isinstance(write, Batch) else "write"
        self.observer.probe(f"named {kind} answered from the table")
        if changed:
            self.observer.broke("C3", f"group {gid}: {write} takes effect again at {index}")
        if answer != known[0]:
            self.observer.broke(
                "C5", f"group {gid}: {write} is answered {answer} at {index}, {known[0]} at first"
            )
        return True

    def _batched(
        self,
        gid: GroupId,
        index: Index,
        batch: Batch,
        answer: Answer,
        keys: Sequence[bytes],
        before: Sequence[bytes | None],
        after: Sequence[bytes | None],
    ) -> None:
        """C10, of a batch that is applied for the first time."""
        rows = zip(keys, before, strict=True)
        stood = {key: None if row is None else decode_row(key, row) for key, row in rows}
        values = {key: None if row is None else row.value for key, row in stood.items()}
        versions = {key: 0 if row is None else int(row.version) for key, row in stood.items()}
        if answer.code is Code.OK:
            for at, (one, key) in enumerate(zip(batch.writes, keys, strict=True)):
                old = values[key] or b""
                values[key] = None if one.op is Op.DELETE else one.value
                if one.op is Op.APPEND:
                    values[key] = old + one.value
                versions[key] = answer.facts[at]
            self.observer.probe("batch done")
        else:
            self.observer.probe("batch refused")
            if answer.facts[-1] > 0:
                self.observer.probe("batch refused in the middle")
        for key, row in zip(keys, after, strict=True):
            found = (None, 0) if row is None else tuple(decode_row(key, row))
            if found != (values[key], versions[key]):
                self.observer.broke(
                    "C10",
                    f"group {gid}: {batch} is answered {answer} at {index} and leaves {found} "
                    f"at {key!r}, where {(values[key], versions[key])} belongs",
                )

    def _repeated(
        self,
        machine: "WatchedMachine",
        index: Index,
        answer: Answer,
        first: tuple[Answer, GroupId, Term, Index],
    ) -> None:
        if answer != first[0]:
            return
        gid = machine.gid
        self.observer.probe("duplicate answered from the table")
        if gid != first[1]:
            self.observer.probe("duplicate answered after migration")
        elif self._term_of(gid, index) != first[2]:
            self.observer.probe("duplicate answered after leader change")
        if gid == first[1] and first[3] < machine.began_at:
            self.observer.probe("duplicate answered after a restart or snapshot")

    def _effect(
        self,
        gid: GroupId,
        index: Index,
        write: Mutation | BatchWrite,
        key: bytes,
        row: bytes | None,
    ) -> int:
        """A write is done, alone or in a batch, and the row is `row` now; returns the place of the
        state that it leads to. A batch leads each key to one state."""
        states = self._key(write.key).states
        now = self._now()
        state = State(None, 0, now) if row is None else State(*decode_row(key, row), now)
        if states[-1] != state:  # else the batch has led there by a write before this one
            states.append(state)
            self._keys[write.key].origins.append((gid, index))
            self._given(gid, index, write.key, state)
        at = len(states) - 1
        if write.op is Op.DELETE or not self.values_are_unique:
            return at
        named = (write.key, write.value)
        known = self.effects.setdefault(named, len(states) - 1)
        if known != len(states) - 1:
            self.observer.broke(
                "C3",
                f"group {gid}: {write.value!r} is written to {write.key!r} twice, the second "
                f"time at {index}",
            )
        if named in self._undone and not self.memory.may_be_done_after_all(gid, index):
            self.observer.broke(
                "C4",
                f"group {gid}: {write.value!r} for {write.key!r} was told not to be done, "
                f"and is, at {index}",
            )
        return at

    def _given(self, gid: GroupId, index: Index, key: bytes, state: State) -> None:
        """C11. What a survivor's log holds beyond what was committed was numbered as if it had
        been."""
        if not state.version or self.memory.may_be_done_after_all(gid, index):
            return
        value = self._keys[key].given.setdefault(state.version, state.value)
        if value != state.value:
            self.observer.broke(
                "C11",
                f"group {gid}: version {state.version} of {key!r} was {value!r:.80}, and is "
                f"{state.value!r:.80} at {index}",
            )

    # What clients are told

    def called(self, operation: Operation) -> int:
        """An operation begins; returns what it must be judged with."""
        return self._key(operation.key).told

    def ended(self, operation: Operation, told: int, deadline: float) -> None:
        """An operation has ended, one way or other."""
        now = self._now()
        self.observer.tell(f"op {operation}")
        if not (now <= deadline + self._grace):
            self.observer.broke(
                "C7", f"ended at {now:.3f}, its deadline was {deadline:.3f}: {operation}"
            )
        key = self._keys[operation.key]
        if operation.began <= key.cut[0]:  # what was known when it began may be lost
            told = min(told, key.cut[1])
            if self.memory.is_lost(operation):
                return
        if operation.kind is Kind.GET:
            if operation.happened:
                self._tell(key, self._state_read(operation, key, told))
        elif operation.value is not None:
            named = (operation.key, operation.value)
            at = self.effects.get(named, 0)
            if operation.happened:
                if not (at > 0 and key.states[at].since >= operation.began):
                    self.observer.broke("C4", f"told to be done, and is not: {operation}")
                self._tell(key, at)
            elif operation.happened is False:
                if at != 0:
                    self.observer.broke("C4", f"told not to be done, and is: {operation}")
                self._undone[named] = None

    def _tell(self, key: Known, at: int) -> None:
        """A client was told of state `at` of a key: so all clients are, from now on, and of all
        that the batches have made which led there (C10)."""
        newest, key.told = key.told, max(key.told, at)
        for told in range(newest + 1, at + 1):
            for other, its in key.batched.get(told, ()):
                self._tell(self._keys[other], its)

    def _state_read(self, read: Operation, key: Known, told: int) -> int:
        for at in range(len(key.states) - 1, told - 1, -1):
            state = key.states[at]
            if (state.value, state.version) == (read.value, read.version):
                return at
        self.observer.broke(
            "C2",
            f"no such value stood since the call, when the newest told was "
            f"{key.states[told].value!r:.80} v{key.states[told].version}: {read}",
        )
        return 0

    # The end

    def judge_unknown(self, operations: Iterable[Operation]) -> None:
        """Count what became of the operations whose outcome nobody was told."""
        for one in operations:
            if one.happened is None and one.value is not None and one.kind is not Kind.GET:
                did = (one.key, one.value) in self.effects
                self.observer.probe(f"unknown outcome that {'took effect' if did else 'did not'}")

    def last_value(self, key: bytes) -> bytes | None:
        """What the last canonical write of a key left."""
        return self._keys[key].states[-1].value

    def judge_last(self, read: Operation) -> None:
        """C8: what a last read shows is what the last write left, whatever went down since."""
        last = self._keys[read.key].states[-1]
        if (read.value, read.version) != (last.value, last.version):
            self.observer.broke(
                "C8", f"the last write left v{last.version} {last.value!r:.80}, and read is {read}"
            )

    def judge_rest(self, machine: StoreMachine, rows: Reader, config: ShardConfig) -> None:
        """S12: a replica at rest holds nothing of shards that are not its group's, and nothing of
        copies that are over."""
        change = next(iter(rows.range(*CHANGES)), None)
        if change is not None and not machine.unsettled:
            self.observer.broke(
                "S12", f"group {machine.gid} at rest keeps change row {change!r:.80}"
            )
        for number, record in enumerate(machine.facts.records):
            owns = config.shards[number] == machine.gid
            if not (
                (record.phase is Phase.SERVING) == owns
                and (record.phase in (Phase.SERVING, Phase.ABSENT) or not config.groups)
            ):
                self.observer.broke(
                    "S12", f"group {machine.gid} at rest: shard {number} is {record.phase.name}"
                )
            if not owns and record.phase is Phase.ABSENT:
                left = next(
                    iter(rows.range(prefix_of(ShardId(number), _FIRST), _end(number))), None
                )
                if left is not None:
                    self.observer.broke(
                        "S12",
                        f"group {machine.gid} at rest: of shard {number} is left {left!r:.80}",
                    )


_FIRST: Final = NO_GENERATION


def _end(shard: int) -> bytes:
    return prefix_of(ShardId(shard), Generation(2**64 - 1)) + b"\xff"


def _nobody(step: str, gid: GroupId) -> None:
    """Nobody waits for a step of a hand-over."""


class WatchedMachine(StoreMachine):
    """A group's machine whose every command is judged."""

    watcher: StoreInvariants
    began_at: Index = Index(0)
    """The first entry applied since the rows were loaded, or came in a snapshot."""
    _entry: Index = Index(0)
    _at = 0
    _decode = staticmethod(lru_cache(maxsize=COMMANDS_KEPT)(decode))

    def apply(self, index: Index, command: bytes, rows: Rows) -> Answer:
        self.began_at = self.began_at or index
        self._at = self._at + 1 if index == self._entry else 0
        self._entry = index
        carry_out = super().apply
        return self.watcher.apply(
            self, index, self._at, command, rows, lambda: carry_out(index, command, rows)
        )

    def reload(self, rows: Reader) -> None:
        self._entry = self.began_at = Index(0)
        super().reload(rows)

    @property
    def has_garbage(self) -> bool:
        return bool(self._dead)

    def row_keys(
        self, shard: ShardId, writes: Sequence[Mutation | BatchWrite]
    ) -> tuple[bytes, ...]:
        """Of the rows that writes to a shard are about, one a write."""
        prefix = prefix_of(shard, self.record(shard).generation) + DATA
        return tuple([prefix + write.key for write in writes])


def _writes(command: Mutation | Batch) -> Sequence[Mutation | BatchWrite]:
    return command.writes if isinstance(command, Batch) else (command,)
