"""The store's state machine: applies one group's log, command by command (pure).

`StoreMachine` decides in log order, on every replica alike, from nothing but the command and the
rows. A refusal is a value, never an exception; what cannot be judged (a command of a newer format,
a damaged row) raises, and the replica stops rather than guess.

The safety argument of a hand-over (invariants of shards S1 to S9), by configuration n that takes
shard s from group A to group B; `phases.py` has the table, `steps.py` what each step needs,
`copying.py` why a copy is right, `migration.py` who does what when:

1. *Configure.* A applies `Configure(n)`: s is MOVING. It is served as before, and each row of it
   that a command puts or deletes has a change row in the same batch (`changes.py`). The entry's
   index is the copy id.
2. *Copy.* Any replica of A that has applied the copy id gives out rows, then what the change rows
   name. Each chunk is an entry of B's log and is staged only at the cursor where the last one
   ended, of the same copy; so late, repeated and overtaken chunks change nothing, all replicas of B
   stage the same, and a new leader of B goes on. `Restart` begins a copy again under a new id; B
   then stages that from its beginning, under a generation of its own.
3. *Freeze.* A applies `Freeze(n, copy id)`: s is LEAVING from this entry on, and no row of it
   changes any more. A write that was let in before and is applied after is refused here, in
   `_mutate`, not at the door (S9). The number of change rows is the copy's *end*, the same on every
   replica; and only one that has applied the freeze tells it.
4. *Install.* `Install(n, copy id, end)` counts only where B's cursor is that end: so B holds what A
   froze, data, sessions, counter, floors (S3, S4), and serves from this entry on. A does not serve
   since step 3; so at every instant one group at most does (S1).
5. *Drop.* A forgets the copy only after a later owner has said from applied state that (s, >= n)
   is in (`is_in`; S8). It names n; should A own s again by then, its record has a higher number,
   and the drop changes nothing.

A shard that nobody owned for a while is frozen where it lies (PARKED); it goes to LEAVING at once,
and its end is 0. A hand-over that freezes first, as the labs' controller drives it, is these steps
with the freeze right after the configuration.

A group takes configuration n + 1 only when no shard of n is on its way here or away (S5), and each
configuration in turn; each names the last owner of every shard, also of one that nobody owned for a
while (`ShardConfig.previous`). So the owners of s follow the history one by one (S2).

In memory, beside the rows, stand mirrors: each shard's record, the configuration, the highest
deleted versions. They follow from the rows alone (`reload`), and change as the rows do.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from raft.disk.heads import Range
from raft.disk.overlay import Overlay
from raft.errors import StopReplica
from raft.ports import Reader, Rows, Write
from raft.sessions import Recorded, SessionTable, Verdict
from raft.types import GroupId, GroupUuid, Index
from shardctrler.codec import BadConfig, decode_config
from shardctrler.machine import SESSIONS_SKIPPED
from shardctrler.types import NO_GROUP, ConfigNumber, ShardConfig, ShardId
from shardkv import batches, copying, steps
from shardkv.commands import (
    Abandoned,
    Batch,
    BatchWrite,
    Chunk,
    Configure,
    Drop,
    ExpireSessions,
    Freeze,
    Install,
    Mutation,
    Op,
    OpenSession,
    PassTime,
    Renew,
    Restart,
    decode,
    decode_answer,
    encode_answer,
    encode_long_answer,
)
from shardkv.errors import InvalidArgument
from shardkv.held import HeldShard, find_dead, prefixes
from shardkv.limits import (
    CHUNK_BYTES_MAX,
    SESSION_WINDOW,
    SESSIONS_MAX,
    SLOTS,
    VALUE_BYTES_MAX,
)
from shardkv.once import NAMES_MAX, Life, Names, Once, life, old_names
from shardkv.phases import SETTLED, Phase
from shardkv.rows import (
    ABSENT_RECORD,
    CONFIG_KEY,
    DATA,
    RECORDS,
    ROW_OVERHEAD_BYTES,
    SESSIONS,
    ShardRecord,
    after_prefix,
    copy_of,
    decode_config_row,
    decode_record,
    decode_row,
    encode_config_row,
    encode_record,
    encode_row,
    encode_version,
    end_of_copy,
    prefix_of,
    record_key,
    record_shard,
    row_version,
)
from shardkv.types import (
    ABSENT,
    DONE,
    NO_COPY,
    Answer,
    Code,
    CopyId,
    Row,
    Version,
)

_BAD_COMMAND: Final = Answer(Code.BAD_COMMAND)
# What every write asks for: to look a member up in its enum takes 60 ns.
_FRESH: Final = Verdict.FRESH
_OK: Final = Code.OK
_NAMES_FULL: Final = Code.NAMES_FULL
_DELETE: Final = Op.DELETE
_APPEND: Final = Op.APPEND


class Facts(NamedTuple):
    """What a group knows of configurations and shards: for status, oracles and tests."""

    gid: GroupId
    config: ShardConfig | None  # None before the first
    records: tuple[ShardRecord, ...]  # one a shard


class StoreMachine:
    """One group's shards, as its log makes them.

    Args:
        gid: The group's number, from 1.
        nshards: How many shards the cluster has, in [1, 16384]; fixed when it is created.
        window: How many requests of one session may be unacknowledged.
        sessions_max: How many sessions a shard keeps.
        names_max: How many named requests a shard knows.
    """

    def __init__(
        self,
        gid: GroupId,
        nshards: int,
        *,
        window: int = SESSION_WINDOW,
        sessions_max: int = SESSIONS_MAX,
        names_max: int = NAMES_MAX,
    ) -> None:
        if gid == NO_GROUP:
            raise ValueError("gid 0 is the controller and owns no shards")
        if not 1 <= nshards <= SLOTS:
            raise ValueError(f"shards must be 1 to {SLOTS}, not {nshards}")
        self.gid = gid
        self.nshards = nshards
        self._window = window
        self._sessions_max = sessions_max
        self._names_max = names_max
        self._uuid: GroupUuid | None = None
        self._clear()

    _decode = staticmethod(decode)
    """The simulator, where all replicas of a group are in one process, reads each command once."""

    @property
    def uuid(self) -> GroupUuid | None:
        """Of the group that this is the machine of; None where none was said."""
        return self._uuid

    def be(self, uuid: GroupUuid) -> None:
        """Be the machine of the group with this uuid: it lets clients in only while its
        configuration names it so.

        A group that was recovered under another uuid (`shardctrler.commands.Recover`) may have
        forgotten the newest moves; it serves again only once it has come to the configuration that
        names it, and so has taken every move before it. Asked at the door and for reads, and not
        when a write is applied: what the survivor's log holds was let in by the group it was, and
        must be applied; nothing else is in the log before the door opens. Where no uuid is said,
        any will do.
        """
        self._uuid = uuid
        self._note_name()

    def _clear(self) -> None:
        self.config: ShardConfig | None = None
        self.is_named = True  # whether the configuration knows this group by its uuid
        self._shards = [self._shard(ShardId(s), ABSENT_RECORD) for s in range(self.nshards)]
        self._unsettled: dict[ShardId, None] = {}
        # What the keys of garbage begin with, and from where on there is some left: a reader that
        # began at the front each time would walk over everything that is deleted already.
        self._dead: dict[bytes, bytes] = {}
        self._index = Index(0)  # of the entry that is applied

    # Facts

    @property
    def number(self) -> ConfigNumber:
        """Of the configuration in force; 0 before the first."""
        return ConfigNumber(0) if self.config is None else self.config.number

    def _note_name(self) -> None:
        """One that has left is named as long as shards are to come from it."""
        info = None if self.config is None else self.config.group(self.gid)
        self.is_named = self._uuid is None or info is None or info.uuid == self._uuid

    @property
    def facts(self) -> Facts:
        """Everything that the mirrors say, as a value; costs a pass over all shards."""
        return Facts(self.gid, self.config, tuple(shard.record for shard in self._shards))

    @property
    def unsettled(self) -> tuple[tuple[ShardId, ShardRecord], ...]:
        """The shards that are on their way here or away, by number: what is left to do."""
        return tuple((shard, self._shards[shard].record) for shard in sorted(self._unsettled))

    @property
    def unsettled_count(self) -> int:
        return len(self._unsettled)

    def refusal(self, shard: ShardId) -> Answer | None:
        """Why this group does not answer clients about a shard now; None: it does."""
        held = self._shards[shard]
        return None if self._answers_about(held) else self._elsewhere(held)

    def _answers_about(self, held: HeldShard) -> bool:
        """Whether clients are answered about a shard here; see `be` for the second half."""
        return held.serves and self.is_named

    def record(self, shard: ShardId) -> ShardRecord:
        return self._shards[shard].record

    def is_in(self, shard: ShardId, number: ConfigNumber) -> bool:
        """Whether this group has taken over `shard` under configuration `number` or a later one.

        True means that the frozen copy which a former owner keeps for `number` is of no use any
        more (S8). It stays true when the shard has moved on from here. Ask applied state only:
        what is applied is committed.
        """
        return 0 <= shard < self.nshards and self._shards[shard].record.taken >= number > 0

    # Reads: the caller has made sure that what is applied here is new enough

    def get(self, rows: Reader, shard: ShardId, key: bytes) -> Row | Answer:
        """The key's value and version (`ABSENT` if it has none), or why this group cannot say.

        The phase is checked when the row is read: a read that was let in before the freeze and is
        served after it must not see a state that another group may have overtaken (S1).
        """
        held = self._shards[shard]
        if not self._answers_about(held):
            return self._elsewhere(held)
        row_key = held.data_prefix + key
        row = rows.get(row_key)
        return ABSENT if row is None else decode_row(row_key, row)

    def spans(
        self, shards: Sequence[ShardId], afters: Sequence[bytes | None], prefix: bytes
    ) -> list[Range | Answer]:
        """Where the rows of each shard lie whose keys begin with `prefix` and follow what `afters`
        says of it; or why this group cannot say. To be read before the next await, as `get`'s row
        is. The client's key follows the first `DATA_KEY_BYTES` of a row's.
        """
        end = after_prefix(DATA + prefix)
        found: list[Range | Answer] = []
        last, begin = None, prefix
        for shard, after in zip(shards, afters, strict=True):
            if after != last:  # seldom: a list begins everywhere after one key
                last, begin = after, prefix if after is None else max(prefix, after + b"\0")
            held = self._shards[shard]
            if not self._answers_about(held):
                found.append(self._elsewhere(held))
                continue
            lo, hi = held.data_prefix + begin, held.prefix + end
            found.append((lo, hi if lo < hi else lo))
        return found

    def survey(self, rows: Reader, shard: ShardId, after: int = 0) -> Iterator[tuple[int, int]]:
        """Each session of a shard served here, from the one after `after` on, with the highest
        sequence that it has used.

        A session that shows the same figure after the expiry time was idle for it; the leader then
        proposes `ExpireSessions` with that figure. Nothing for a shard that is not served.
        """
        held = self._shards[shard]
        if self._answers_about(held):
            yield from held.sessions.survey(rows, after)

    def names(self, rows: Reader, shard: ShardId) -> Life | None:
        """How old a shard served here is, and how many named requests it knows; else None."""
        held = self._shards[shard]
        return life(rows, held.prefix) if self._answers_about(held) else None

    def has_old_names(self, rows: Reader, shard: ShardId, age: int) -> bool:
        """Whether a shard of this age that is served here knows names which it may forget."""
        prefix = self._shards[shard].prefix
        return next(old_names(rows, prefix, age), None) is not None

    # Apply

    def apply(self, index: Index, command: bytes, rows: Rows) -> Answer:
        """Apply one command of the entry at `index`; `rows` show all that came before it.

        Raises:
            StopReplica: A command or configuration of a newer format.
            RowDamaged, SessionRowDamaged, IllegalTransition: a broken invariant; the replica stops.
        """
        try:
            decoded = self._decode(command)
        except InvalidArgument:
            return _BAD_COMMAND  # no leader of this version lets it in; all replicas agree on it
        self._index = index
        if isinstance(decoded, Mutation):
            return self._mutate(decoded, rows)
        if isinstance(decoded, Configure):
            return self._configure(index, decoded, rows)
        if isinstance(decoded, Abandoned):
            return self._abandon(index, decoded, rows)
        if decoded.shard >= self.nshards:
            return _BAD_COMMAND
        held = self._shards[decoded.shard]
        match decoded:
            case Batch():
                return self._mutate_all(held, decoded, rows)
            case OpenSession():
                return self._open_session(held, rows)
            case ExpireSessions():
                return self._expire_sessions(held, decoded, rows)
            case PassTime():
                return self._pass_time(held, decoded, rows)
            case Chunk():
                return self._chunk(held, decoded, rows)
            case Install():
                return self._install(held, decoded, rows)
            case Freeze():
                return self._freeze(held, decoded, rows)
            case Restart():
                return self._restart(held, decoded, rows)
            case Renew():
                return self._renew(held, decoded, rows)
            case Drop():
                return self._drop(held, decoded, rows)

    # Commands of clients

    def _mutate(self, command: Mutation, rows: Rows) -> Answer:
        """Once, whatever happens (C3): a number that was answered before gets that answer (C5).

        A shard that is not served here touches neither rows nor session: the same request is
        still fresh where the shard is, because the session goes there too.
        """
        if command.shard >= self.nshards:
            return _BAD_COMMAND
        held = self._shards[command.shard]
        if not held.serves:
            return self._elsewhere(held)
        if held.changes is not None:
            rows = held.changes.noting(rows, self._index)
        op, _, session, seq, floor, key, value, if_version, once = command
        digest = command.digest
        outcome = held.sessions.check(rows, session, seq, floor, digest)
        if outcome is _FRESH:
            answer = (
                self._write(held, op, key, value, if_version, rows)
                if once is None
                else self._write_once(held, command, digest, once, rows)
            )
            if answer.code is _NAMES_FULL:
                return answer  # as of a full table: the session knows nothing of it
            held.sessions.record(rows, session, seq, floor, digest, encode_answer(answer))
            return answer
        if type(outcome) is Recorded:
            held.sessions.acknowledge(rows, session, floor)
            return decode_answer(outcome.answer)
        assert isinstance(outcome, Verdict)
        return self._verdict(outcome)

    def _write_once(
        self, held: HeldShard, command: Mutation | Batch, digest: bytes, once: Once, rows: Rows
    ) -> Answer:
        """Do it, unless the request of this name was answered before (`once.py`)."""
        names = Names(rows, held.prefix, self._names_max)
        known = names.recall(once, digest)
        if type(known) is bytes:
            return decode_answer(known)
        if known is not None:
            return Answer(Code.NAME_REUSED)
        if not names.make_room():
            return Answer(Code.NAMES_FULL, (self._names_max,))
        if isinstance(command, Batch):
            answer = self._write_all(held, command.writes, rows)
        else:
            op, key, value = command.op, command.key, command.value
            answer = self._write(held, op, key, value, command.if_version, rows)
        names.remember(once, digest, encode_long_answer(answer))
        return answer

    def _mutate_all(self, held: HeldShard, batch: Batch, rows: Rows) -> Answer:
        """As `_mutate`, all writes of a batch or none (`batches.py`)."""
        if not held.serves:
            return self._elsewhere(held)
        rows = self._noting(held, rows)
        _, session, seq, floor, _, once = batch
        digest = batch.digest
        outcome = held.sessions.check(rows, session, seq, floor, digest)
        if outcome is Verdict.FRESH:
            answer = (
                self._write_all(held, batch.writes, rows)
                if once is None
                else self._write_once(held, batch, digest, once, rows)
            )
            if answer.code is Code.NAMES_FULL:
                return answer
            recorded = answer
            if answer.code is Code.OK:
                batches.remember(rows, held.prefix, session, seq, floor, answer.facts)
                recorded = DONE
            held.sessions.record(rows, session, seq, floor, digest, encode_answer(recorded))
            return answer
        if isinstance(outcome, Verdict):
            return self._verdict(outcome)
        held.sessions.acknowledge(rows, session, floor)
        answer = decode_answer(outcome.answer)
        if answer.code is Code.OK:
            answer = Answer(Code.OK, batches.recall(rows, held.prefix, session, seq))
        return answer

    def _write_all(self, held: HeldShard, writes: tuple[BatchWrite, ...], rows: Rows) -> Answer:
        """Do them in order, on rows of their own that `rows` get when all are done; a refusal says
        which was refused, and leaves nothing behind."""
        unseen = Overlay(rows)
        highest_deleted = held.highest_deleted
        versions: list[int] = []
        for at, write in enumerate(writes):
            code, facts = self._write(held, *write, unseen)
            if code is not _OK:
                held.know_highest(highest_deleted)
                return Answer(code, (*facts, at))
            versions += facts
        for key, row in unseen.writes():
            if row is None:
                rows.delete(key)
            else:
                rows.put(key, row)
        return Answer(Code.OK, tuple(versions))

    def _write(
        self,
        held: HeldShard,
        op: Op,
        key: bytes,
        value: bytes,
        if_version: Version | None,
        rows: Rows,
    ) -> Answer:
        """Do it, or refuse it for good. Either answer is recorded."""
        key = held.data_prefix + key
        row = rows.get(key)
        version = 0 if row is None else row_version(key, row)
        if if_version is not None and if_version != version:
            return Answer(Code.VERSION_MISMATCH, (version,))
        if op is _DELETE:
            if row is not None:
                if version > held.highest_deleted:
                    held.know_highest(version)
                    rows.put(held.highest_key, encode_version(version))
                rows.delete(key)
            return Answer(_OK, (0,))
        if op is _APPEND and row is not None:
            length = len(row) - ROW_OVERHEAD_BYTES + len(value)
            if length > VALUE_BYTES_MAX:
                return Answer(Code.VALUE_TOO_LONG, (length,))
            value = row[ROW_OVERHEAD_BYTES:] + value
        # A version that some client read once is never another value's (`held.py`).
        version = version or held.highest_deleted
        if version < held.epoch_begins:
            version = held.epoch_begins
        version += 1
        rows.put(key, encode_row(version, value))
        return Answer(_OK, (version,))

    def _open_session(self, held: HeldShard, rows: Rows) -> Answer:
        if not held.serves:
            return self._elsewhere(held)
        session = held.sessions.open(self._noting(held, rows))
        if session is None:
            return Answer(Code.SESSIONS_FULL, (self._sessions_max,))
        return Answer(Code.OK, (session,))

    def _expire_sessions(self, held: HeldShard, command: ExpireSessions, rows: Rows) -> Answer:
        """Never on a frozen shard: its table is on its way elsewhere (S4)."""
        if not held.serves:
            return self._elsewhere(held)
        rows = self._noting(held, rows)
        dropped = 0
        for session, idle_since in command.idle:
            if held.sessions.drop(rows, session, idle_since=idle_since):
                batches.forget(rows, held.prefix, session)
                dropped += 1
        return Answer(Code.OK, (dropped,))

    def _pass_time(self, held: HeldShard, command: PassTime, rows: Rows) -> Answer:
        """Never on a frozen shard, as above."""
        if not held.serves:
            return self._elsewhere(held)
        Names(self._noting(held, rows), held.prefix).pass_time(command.ms)
        return DONE

    def _noting(self, held: HeldShard, rows: Rows) -> Rows:
        """`rows`, with what changes in a shard that is being copied noted (safeguard H01)."""
        return rows if held.changes is None else held.changes.noting(rows, self._index)

    def _elsewhere(self, held: HeldShard) -> Answer:
        if held.record.phase is Phase.ARRIVING:
            return Answer(Code.NOT_READY, (self.number, held.record.peer))
        return Answer(Code.WRONG_GROUP, (self.number,))

    def _verdict(self, verdict: Verdict) -> Answer:
        match verdict:
            case Verdict.STALE:
                return Answer(Code.SEQUENCE_STALE)
            case Verdict.EXPIRED:
                return Answer(Code.SESSION_EXPIRED)
            case Verdict.OVER_WINDOW:
                return Answer(Code.SEQUENCE_OVER_WINDOW, (self._window,))
            case Verdict.REUSED:
                return Answer(Code.SEQUENCE_REUSED)
            case Verdict.FRESH:
                raise AssertionError("a fresh command is applied")

    # Configurations

    def _configure(self, index: Index, command: Configure, rows: Rows) -> Answer:
        """Take the next configuration; from this entry on what leaves and arrives is on its way."""
        try:
            config = decode_config(command.config)
        except BadConfig as error:
            # The leader that proposed it could read it: so it is of a newer version than this one.
            raise StopReplica(f"configuration in entry {index}: {error}") from error
        if len(config.shards) != self.nshards:
            return _BAD_COMMAND
        if config.number <= self.number:  # S7: repeated is done, older changes nothing
            return DONE if config.number == self.number else Answer(Code.OLD, (self.number,))
        if config.number != self.number + 1:
            return Answer(Code.NOT_NEXT, (self.number,))
        if self._unsettled:
            return Answer(Code.UNSETTLED, (self.number,))

        if not self._fits(config):
            return _BAD_COMMAND
        if self._is_renamed_by(config):
            self._skip_what_is_lost(config.number, rows)
        for shard, owner in enumerate(config.shards):
            held, previous = self._shards[shard], config.previous[shard]
            record = held.record
            if record.number > config.number:
                continue  # it is as a later one has it (`steps.abandon`)
            after = steps.assign(record, self.gid, owner, previous, config.number, index)
            if after is not record:
                held = self._become(held, after, rows)
                if previous == NO_GROUP and shard in config.lost:
                    self._begin_after(held, config.number, rows)
        self.config = config
        self._note_name()
        for held in self._shards:
            held.come_to(config.number)
        rows.put(CONFIG_KEY, encode_config_row(command.config))
        return DONE

    def _abandon(self, index: Index, command: Abandoned, rows: Rows) -> Answer:
        """Wait no more for groups that a later configuration gives up for lost."""
        try:
            config = decode_config(command.config)
        except BadConfig as error:
            raise StopReplica(f"configuration in entry {index}: {error}") from error
        if len(config.shards) != self.nshards:
            return _BAD_COMMAND
        if config.number <= self.number:
            return DONE
        for shard, record in self.unsettled:
            arrives = record.phase is Phase.ARRIVING
            if record.peer not in config.abandoned or arrives != command.arriving:
                continue
            previous, lost = config.previous[shard], shard in config.lost
            after = steps.abandon(record, self.gid, previous, lost, config.number, index)
            held = self._become(self._shards[shard], after, rows)
            if arrives:
                self._begin_after(held, config.number, rows)
            elif after.phase is Phase.PARKED:  # it was frozen: the lost group may have served it
                self._go_beyond(held, config.number, rows)
        return DONE

    def _is_renamed_by(self, config: ShardConfig) -> bool:
        """Whether `config` knows this group by another uuid than the one before did."""
        before = None if self.config is None else self.config.groups.get(self.gid)
        after = config.groups.get(self.gid)
        return before is not None and after is not None and before.uuid != after.uuid

    def _skip_what_is_lost(self, number: ConfigNumber, rows: Rows) -> None:
        """Entries are lost that may have opened sessions and given versions: none comes again.
        Every shard is settled here, so nothing is being copied."""
        for held in self._shards:
            if held.record.phase is not Phase.ABSENT:
                self._go_beyond(held, number, rows)

    def _go_beyond(self, held: HeldShard, number: ConfigNumber, rows: Rows) -> None:
        """Of a shard whose rows are here: give no session number and no version that a lost entry
        may have given, by what configuration `number` tells."""
        held.sessions.skip(rows, SESSIONS_SKIPPED)
        begins = max(number * steps.RECOVERED_BEGINS, held.stored_highest(rows))
        rows.put(held.highest_key, encode_version(begins))
        self._mirror(held, rows)

    def _begin_after(self, held: HeldShard, number: ConfigNumber, rows: Rows) -> None:
        """A shard whose rows are lost begins anew: with session numbers and versions that it cannot
        have given before, so that nobody who remembers one is taken for another (C3, S4). It may do
        so several times on the way to configuration `number`: before that nobody is let in."""
        beyond = number * steps.RECOVERED_BEGINS
        held.sessions.skip(rows, beyond)
        rows.put(held.highest_key, encode_version(beyond))
        self._mirror(held, rows)

    def _fits(self, config: ShardConfig) -> bool:
        """Whether `previous` says of each shard here, and of none else, that it was here last (S2).

        The controller sees to it. A configuration of another history, taken all the same, could
        make a shard anew beside the one that holds the data: so it is refused, and nothing moves.
        """
        return all(
            (held.record.phase is Phase.ABSENT) == (previous != self.gid)
            or held.record.number > config.number
            for held, previous in zip(self._shards, config.previous, strict=True)
        )

    # Steps of a hand-over

    def pull(
        self,
        rows: Reader,
        shard: ShardId,
        number: ConfigNumber,
        cursor: bytes,
        bytes_max: int = CHUNK_BYTES_MAX,
        copy_id: CopyId = NO_COPY,
    ) -> copying.Pulled | Answer:
        """What follows `cursor` of a shard that leaves under configuration `number`.

        Any replica may answer, from its applied state, whatever its group itself waits for (L12).
        A shard that is merely PARKED is not given out: this replica may be behind, and its group
        may have had the shard again between the parking and `number`.

        Args:
            cursor: b"" at first, then the `next_cursor` of the chunk before.
            bytes_max: What the rows may take; one row is always given. At most `CHUNK_BYTES_MAX`.
            copy_id: Of the copy that `cursor` is of; an older one than the present is begun anew.

        Returns:
            What there is; or OLD (it was dropped, for the target or a later owner had it), or
            OUT_OF_STEP (not on its way for `number`, or of a copy yet to come: this replica is
            behind; ask again).
        """
        if not 0 <= shard < self.nshards:
            return _BAD_COMMAND
        held = self._shards[shard]
        record = held.record
        dropped = record.phase is Phase.ABSENT and record.number == number > 0
        if number < record.number or dropped:
            return Answer(Code.OLD, (record.number,))
        if record.phase not in (Phase.MOVING, Phase.LEAVING) or record.number != number:
            return steps.OUT_OF_STEP
        if copy_id > record.copy_id:
            return steps.OUT_OF_STEP
        if not self.is_named and record.copy_id < steps.RECOVERED_BEGINS:
            # Of a group that was recovered and has not renewed it (`steps.renew`): who has staged
            # what this group forgot would put two copies together, and go on with its sessions.
            return steps.OUT_OF_STEP
        if copy_id not in (NO_COPY, record.copy_id):
            cursor = b""
        assert held.changes is not None, record
        frozen = record.phase is Phase.LEAVING
        source = copying.Source(shard, number, record.copy_id, held.prefix, held.changes, frozen)
        return copying.pull(rows, source, cursor, min(bytes_max, CHUNK_BYTES_MAX))

    def extent(self, shard: ShardId) -> tuple[bytes, bytes]:
        """The range `[lo, hi)` of the keys of a shard's rows here."""
        prefix = self._shards[shard].prefix
        return prefix, end_of_copy(prefix)

    def changes(self, shard: ShardId) -> int:
        """How many change rows a shard on its way from here has; 0 for any other."""
        changes = self._shards[shard].changes
        return 0 if changes is None else changes.count

    def _chunk(self, held: HeldShard, command: Chunk, rows: Rows) -> Answer:
        """Stage a chunk if it is the very next one of the very copy that is being staged (S3)."""
        after = steps.fence(held.record, command) or steps.stage(held.record, command, self._index)
        if isinstance(after, Answer):
            return after
        held = self._become(held, after, rows)
        for key, row in command.rows:
            if row is None:
                rows.delete(held.prefix + key)
            else:
                rows.put(held.prefix + key, row)
        return DONE

    def _install(self, held: HeldShard, command: Install, rows: Rows) -> Answer:
        after = steps.fence(held.record, command) or steps.install(held.record, command)
        return self._step(held, after, rows)

    def _freeze(self, held: HeldShard, command: Freeze, rows: Rows) -> Answer:
        after = steps.fence(held.record, command) or steps.freeze(held.record, command)
        return self._step(held, after, rows)

    def _restart(self, held: HeldShard, command: Restart, rows: Rows) -> Answer:
        after = steps.fence(held.record, command)
        return self._step(held, after or steps.restart(held.record, command, self._index), rows)

    def _renew(self, held: HeldShard, command: Renew, rows: Rows) -> Answer:
        """Sessions that lost entries opened are skipped, and versions that they gave, as where the
        group is named (`_configure`): the shard may be elsewhere by then."""
        before = held.record
        after = steps.fence(before, command) or steps.renew(before, command, self._index)
        if isinstance(after, Answer):
            return after
        held = self._become(held, after, rows)
        if command.arriving:
            self._begin_after(held, command.named, rows)
        else:
            self._go_beyond(held, command.named, rows)
        return DONE

    def _drop(self, held: HeldShard, command: Drop, rows: Rows) -> Answer:
        after = steps.fence(held.record, command) or steps.drop(held.record, command)
        return self._step(held, after, rows)

    def _step(self, held: HeldShard, after: steps.Outcome, rows: Rows) -> Answer:
        if isinstance(after, Answer):
            return after
        self._become(held, after, rows)
        return DONE

    def _become(self, held: HeldShard, after: ShardRecord, rows: Rows) -> HeldShard:
        """The one place where a shard's record changes, row and mirror together; what is of no use
        from here on becomes garbage. Returns the shard, which is another object in a new copy."""
        before = held.record
        assert after.number >= before.number and after.taken >= before.taken, (before, after)
        rows.put(record_key(held.id), encode_record(after))
        for prefix in prefixes(held.id, before):
            if prefix not in prefixes(held.id, after):
                self._dead[prefix] = prefix
        if after.generation != before.generation:
            self._shards[held.id] = held = self._shard(held.id, after)
        else:
            held.record = after
        if after.copy_id != before.copy_id:
            held.begin_copy()
        self._mirror(held, rows)
        return held

    # Mirrors

    def reload(self, rows: Reader) -> None:
        """Forget all mirrors and read them from `rows`: after a start or an installed snapshot.

        Raises:
            RowDamaged: A row of another format, or of no shape that this version writes.
        """
        self._clear()
        data = rows.get(CONFIG_KEY)
        if data is not None:
            self.config = decode_config(decode_config_row(data))
            assert len(self.config.shards) == self.nshards, (self.config, self.nshards)
            self._note_name()
        for key, data in rows.range(*RECORDS):
            shard = record_shard(key)
            assert shard < self.nshards, (shard, self.nshards)
            held = self._shard(shard, decode_record(key, data))
            self._shards[shard] = held
            self._mirror(held, rows)
        alive = [prefix for held in self._shards for prefix in prefixes(held.id, held.record)]
        self._dead = {prefix: prefix for prefix in find_dead(rows, dict.fromkeys(alive))}

    def _mirror(self, held: HeldShard, rows: Reader) -> None:
        """Bring what is derived from a record in line with it. Checked again after a load."""
        held.refresh(rows, self.number)
        if held.record.phase in SETTLED:
            self._unsettled.pop(held.id, None)
        else:
            self._unsettled[held.id] = None

    def _shard(self, shard: ShardId, record: ShardRecord) -> HeldShard:
        sessions = SessionTable(
            prefix_of(shard, record.generation) + SESSIONS,
            window=self._window,
            sessions_max=self._sessions_max,
        )
        return HeldShard(shard, record, sessions)

    # Garbage

    def garbage(self, rows: Reader, rows_max: int) -> list[Write]:
        """Deletes for at most `rows_max` rows of copies that no record names; [] if there is none.

        Each replica cleans up by itself, not through the log: no command ever reads these rows,
        and their generation never comes back. The deletes must be written before the next call.
        """
        deletes: list[Write] = []
        while self._dead and len(deletes) < rows_max:
            prefix = next(iter(self._dead))
            held = self._shards[copy_of(prefix)[0]]
            assert prefix not in prefixes(held.id, held.record), held.record
            for key, _ in rows.range(self._dead[prefix], end_of_copy(prefix)):
                if len(deletes) == rows_max:
                    self._dead[prefix] = key
                    return deletes
                deletes.append((key, None))
            del self._dead[prefix]
        return deletes
