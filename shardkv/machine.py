"""The store's state machine: applies one group's log, command by command (pure).

`StoreMachine` decides in log order, on every replica alike, from nothing but the command and the
rows. A refusal is a value, never an exception; what cannot be judged (a command of a newer format,
a damaged row) raises, and the replica stops rather than guess.

The safety argument of a hand-over (invariants of shards S1 to S9), by configuration n that takes
shard s from group A to group B; `phases.py` has the table, `migration.py` the steps:

1. *Freeze.* A applies `Configure(n)`: s is LEAVING from this entry on, and no row of it changes
   any more. The entry's index is the copy id. A write that was let in before and is applied after
   is refused here, in `_mutate`, not at the door (S9).
2. *Copy.* `pull` gives out rows of a frozen shard only, so whatever replica of A answers, and
   whenever, the rows of copy (n, copy id) are the same: data, sessions, counter, floors (S3, S4).
   Each chunk is an entry of B's log and is staged only at the cursor where the last one ended; so
   late, repeated and overtaken chunks change nothing, and a new leader of B goes on.
3. *Install.* Only when the last chunk is staged: B serves from this entry on. A does not serve
   since step 1; so at every instant one group at most does (S1), and it holds what A froze.
4. *Drop.* A forgets the copy only after a later owner has said from applied state that (s, >= n)
   is in (`is_in`; S8). It names n; should A own s again by then, its record has a higher number,
   and the drop changes nothing.

A group takes configuration n + 1 only when no shard of n is on its way here or away (S5), and each
configuration in turn; each names the last owner of every shard, also of one that nobody owned for a
while (`ShardConfig.previous`). So the owners of s follow the history one by one (S2).

In memory, beside the rows, stand mirrors: each shard's record, the configuration, the highest
deleted versions. They follow from the rows alone (`reload`), and change as the rows do.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from raft.errors import StopReplica
from raft.ports import Reader, Rows, Write
from raft.sessions import Recorded, SessionTable, Verdict
from raft.types import GroupId, Index
from shardctrler.codec import BadConfig, decode_config
from shardctrler.types import NO_GROUP, ConfigNumber, ShardConfig, ShardId
from shardkv.commands import (
    Chunk,
    Configure,
    Drop,
    ExpireSessions,
    Install,
    Mutation,
    Op,
    OpenSession,
    decode,
    decode_answer,
    encode_answer,
)
from shardkv.errors import InvalidArgument
from shardkv.limits import (
    CHUNK_BYTES_MAX,
    CHUNK_ROW_OVERHEAD_BYTES,
    SESSION_WINDOW,
    SESSIONS_MAX,
    SLOTS,
    VALUE_BYTES_MAX,
)
from shardkv.phases import SETTLED, Event, Phase, advance
from shardkv.rows import (
    ABSENT_RECORD,
    CONFIG_KEY,
    COPIES,
    COPY_END,
    DATA,
    HIGHEST_DELETED,
    RECORDS,
    ROW_OVERHEAD_BYTES,
    SESSIONS,
    ShardRecord,
    after_copy,
    after_prefix,
    copy_of,
    decode_config_row,
    decode_record,
    decode_row,
    encode_config_row,
    encode_record,
    encode_row,
    encode_version,
    prefix_of,
    record_key,
    record_shard,
    row_version,
)
from shardkv.types import (
    ABSENT,
    DONE,
    NO_COPY,
    NO_GENERATION,
    Answer,
    Code,
    CopyId,
    Generation,
    Row,
)

_BAD_COMMAND: Final = Answer(Code.BAD_COMMAND)
_OUT_OF_STEP: Final = Answer(Code.OUT_OF_STEP)


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
    """

    def __init__(
        self,
        gid: GroupId,
        nshards: int,
        *,
        window: int = SESSION_WINDOW,
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        if gid == NO_GROUP:
            raise ValueError("gid 0 is the controller and owns no shards")
        if not 1 <= nshards <= SLOTS:
            raise ValueError(f"shards must be 1 to {SLOTS}, not {nshards}")
        self.gid = gid
        self.nshards = nshards
        self._window = window
        self._sessions_max = sessions_max
        self._clear()

    def _clear(self) -> None:
        self.config: ShardConfig | None = None
        self._shards = [self._shard(ShardId(s), ABSENT_RECORD) for s in range(self.nshards)]
        self._unsettled: dict[ShardId, None] = {}
        self._dead: dict[tuple[ShardId, Generation], None] = {}

    # Facts

    @property
    def number(self) -> ConfigNumber:
        """Of the configuration in force; 0 before the first."""
        return ConfigNumber(0) if self.config is None else self.config.number

    @property
    def facts(self) -> Facts:
        """Everything that the mirrors say, as a value; costs a pass over all shards."""
        return Facts(self.gid, self.config, tuple(shard.record for shard in self._shards))

    @property
    def unsettled(self) -> tuple[tuple[ShardId, ShardRecord], ...]:
        """The shards that are on their way here or away, by number: what is left to do."""
        return tuple((shard, self._shards[shard].record) for shard in sorted(self._unsettled))

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
        if held.record.phase is not Phase.SERVING:
            return self._elsewhere(held)
        row_key = held.data_prefix + key
        row = rows.get(row_key)
        return ABSENT if row is None else decode_row(row_key, row)

    def scan(
        self, rows: Reader, shard: ShardId, prefix: bytes, after: bytes | None
    ) -> Iterator[tuple[bytes, Row]] | Answer:
        """The shard's keys that begin with `prefix` and follow `after`, in order, with their rows;
        or why this group cannot say. To be used up before the next await, as `get`'s row is."""
        held = self._shards[shard]
        refusal = self.get(rows, shard, b"\0")  # what decides for a key decides for a range
        if isinstance(refusal, Answer):
            return refusal
        lo = prefix if after is None else max(prefix, after + b"\0")
        hi = held.prefix + after_prefix(DATA + prefix)
        return self._decoded(rows, held.data_prefix + lo, hi, len(held.data_prefix))

    @staticmethod
    def _decoded(rows: Reader, lo: bytes, hi: bytes, skip: int) -> Iterator[tuple[bytes, Row]]:
        if lo < hi:
            for key, row in rows.range(lo, hi):
                yield key[skip:], decode_row(key, row)

    def survey(self, rows: Reader, shard: ShardId) -> Iterator[tuple[int, int]]:
        """Each session of a shard served here, with the highest sequence that it has used.

        A session that shows the same figure after the expiry time was idle for it; the leader then
        proposes `ExpireSessions` with that figure. Nothing for a shard that is not served.
        """
        held = self._shards[shard]
        if held.record.phase is Phase.SERVING:
            yield from held.sessions.survey(rows)

    # Apply

    def apply(self, index: Index, command: bytes, rows: Rows) -> Answer:
        """Apply one command of the entry at `index`; `rows` show all that came before it.

        Raises:
            StopReplica: A command or configuration of a newer format.
            RowDamaged, SessionRowDamaged, IllegalTransition: a broken invariant; the replica stops.
        """
        try:
            decoded = decode(command)
        except InvalidArgument:
            return _BAD_COMMAND  # no leader of this version lets it in; all replicas agree on it
        if isinstance(decoded, Mutation):
            return self._mutate(decoded, rows)
        if isinstance(decoded, Configure):
            return self._configure(index, decoded, rows)
        if decoded.shard >= self.nshards:
            return _BAD_COMMAND
        held = self._shards[decoded.shard]
        match decoded:
            case OpenSession():
                return self._open_session(held, rows)
            case ExpireSessions():
                return self._expire_sessions(held, decoded, rows)
            case Chunk():
                return self._chunk(held, decoded, rows)
            case Install():
                return self._install(held, decoded, rows)
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
        if held.record.phase is not Phase.SERVING:
            return self._elsewhere(held)
        _, _, session, seq, floor, _, _, _ = command
        digest = command.digest
        outcome = held.sessions.check(rows, session, seq, floor, digest)
        if outcome is Verdict.FRESH:
            answer = self._write(held, command, rows)
            held.sessions.record(rows, session, seq, floor, digest, encode_answer(answer))
            return answer
        if type(outcome) is Recorded:
            held.sessions.acknowledge(rows, session, floor)
            return decode_answer(outcome.answer)
        assert isinstance(outcome, Verdict)
        return self._verdict(outcome)

    def _write(self, held: "_Shard", command: Mutation, rows: Rows) -> Answer:
        """Do it, or refuse it for good. Either answer is recorded."""
        key = held.data_prefix + command.key
        row = rows.get(key)
        version = 0 if row is None else row_version(key, row)
        if command.if_version is not None and command.if_version != version:
            return Answer(Code.VERSION_MISMATCH, (version,))
        op, value = command.op, command.value
        if op is Op.DELETE:
            if row is not None:
                if version > held.highest_deleted:
                    held.highest_deleted = version
                    rows.put(held.highest_key, encode_version(version))
                rows.delete(key)
            return Answer(Code.OK, (0,))
        if op is Op.APPEND and row is not None:
            length = len(row) - ROW_OVERHEAD_BYTES + len(value)
            if length > VALUE_BYTES_MAX:
                return Answer(Code.VALUE_TOO_LONG, (length,))
            value = row[ROW_OVERHEAD_BYTES:] + value
        # A key made anew starts above every version that was ever deleted here, so that a version
        # that some client read once is never another value's (`if_version` would be fooled).
        version = (version or held.highest_deleted) + 1
        rows.put(key, encode_row(version, value))
        return Answer(Code.OK, (version,))

    def _open_session(self, held: "_Shard", rows: Rows) -> Answer:
        if held.record.phase is not Phase.SERVING:
            return self._elsewhere(held)
        session = held.sessions.open(rows)
        if session is None:
            return Answer(Code.SESSIONS_FULL, (self._sessions_max,))
        return Answer(Code.OK, (session,))

    def _expire_sessions(self, held: "_Shard", command: ExpireSessions, rows: Rows) -> Answer:
        """Never on a frozen shard: its table is on its way elsewhere (S4)."""
        if held.record.phase is not Phase.SERVING:
            return self._elsewhere(held)
        dropped = 0
        for session, idle_since in command.idle:
            dropped += held.sessions.drop(rows, session, idle_since=idle_since)
        return Answer(Code.OK, (dropped,))

    def _elsewhere(self, held: "_Shard") -> Answer:
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
        """Take the next configuration; this entry freezes what leaves and begins what arrives."""
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
        for held, owner in zip(self._shards, config.shards, strict=True):
            self._assign(held, owner, config.previous[held.id], config.number, index, rows)
        self.config = config
        rows.put(CONFIG_KEY, encode_config_row(command.config))
        return DONE

    def _fits(self, config: ShardConfig) -> bool:
        """Whether `previous` says of each shard here, and of none else, that it was here last (S2).

        The controller sees to it. A configuration of another history, taken all the same, could
        make a shard anew beside the one that holds the data: so it is refused, and nothing moves.
        """
        return all(
            (held.record.phase is Phase.ABSENT) == (previous != self.gid)
            for held, previous in zip(self._shards, config.previous, strict=True)
        )

    def _assign(
        self,
        held: "_Shard",
        owner: GroupId,
        previous: GroupId,
        number: ConfigNumber,
        index: Index,
        rows: Rows,
    ) -> None:
        """What configuration `number` means for one shard here, O(1) whatever the shard holds.

        Every shard is settled before: ABSENT, SERVING or PARKED. `previous` is its last owner
        other than nobody, before this configuration.
        """
        record = held.record
        if record.phase is Phase.ABSENT:
            if owner != self.gid:
                return
            created = previous == NO_GROUP
            after = ShardRecord(
                advance(record.phase, Event.CREATED if created else Event.ASSIGNED),
                number=number,
                taken=number if created else record.taken,
                generation=Generation(index),
                peer=previous,
            )
        elif owner == self.gid:
            if record.phase is Phase.SERVING:
                return
            # Parked here, and nobody had it since: what lies here is the shard as it was frozen.
            phase = advance(record.phase, Event.RETURNED)
            after = record._replace(phase=phase, number=number, taken=number)
        elif owner == NO_GROUP:
            if record.phase is Phase.PARKED:
                return
            phase = advance(record.phase, Event.UNASSIGNED)
            after = record._replace(phase=phase, number=number)
        else:
            phase = advance(record.phase, Event.REASSIGNED)
            after = record._replace(phase=phase, number=number, peer=owner, copy_id=CopyId(index))
        self._become(held, after, rows)

    # Steps of a hand-over

    def pull(
        self,
        rows: Reader,
        shard: ShardId,
        number: ConfigNumber,
        cursor: bytes,
        bytes_max: int = CHUNK_BYTES_MAX,
    ) -> Chunk | Answer:
        """The rows from `cursor` on of a shard that leaves under configuration `number`.

        Any replica may answer, from its applied state, whatever its group itself waits for (L12):
        the rows of a shard in LEAVING are the same for ever. A shard that is merely PARKED is not
        given out: this replica may be behind, and its group may have had the shard again between
        the parking and `number`.

        Args:
            cursor: b"" at first, then the `next_cursor` of the chunk before.
            bytes_max: What the rows may take; one row is always given. At most `CHUNK_BYTES_MAX`.

        Returns:
            A chunk, ready for the destination's log; or OLD (a later configuration has decided),
            or OUT_OF_STEP (not frozen for `number`: not yet, or not here; ask again).
        """
        if not 0 <= shard < self.nshards:
            return _BAD_COMMAND
        held = self._shards[shard]
        record = held.record
        if number < record.number:
            return Answer(Code.OLD, (record.number,))
        if record.phase is not Phase.LEAVING or record.number != number:
            return _OUT_OF_STEP
        bytes_left = min(bytes_max, CHUNK_BYTES_MAX)
        chunk: list[tuple[bytes, bytes]] = []
        next_cursor = COPY_END
        skip = len(held.prefix)
        for key, row in rows.range(held.prefix + cursor, held.prefix + COPY_END):
            bytes_left -= len(key) - skip + len(row) + CHUNK_ROW_OVERHEAD_BYTES
            if bytes_left < 0 and chunk:
                next_cursor = key[skip:]
                break
            chunk.append((key[skip:], row))
        last = next_cursor == COPY_END
        return Chunk(shard, number, record.copy_id, cursor, next_cursor, last, tuple(chunk))

    def _chunk(self, held: "_Shard", command: Chunk, rows: Rows) -> Answer:
        """Stage a chunk if it is the very next one of the very copy that is being staged (S3)."""
        record = held.record
        if command.number < record.number:
            return Answer(Code.OLD, (record.number,))
        if command.number != record.number:
            return _OUT_OF_STEP
        if record.phase is Phase.SERVING and record.taken == record.number:
            return DONE  # repeated after the install
        if record.phase is not Phase.ARRIVING:
            return _OUT_OF_STEP
        if record.copy_id not in (NO_COPY, command.copy_id):
            return _OUT_OF_STEP
        if record.copied or command.cursor < record.cursor:
            return DONE  # repeated: these rows are staged
        if command.cursor != record.cursor:
            return _OUT_OF_STEP
        for key, row in command.rows:
            rows.put(held.prefix + key, row)
        staged = record._replace(
            copy_id=command.copy_id, cursor=command.next_cursor, copied=command.last
        )
        self._become(held, staged, rows)
        return DONE

    def _install(self, held: "_Shard", command: Install, rows: Rows) -> Answer:
        """Serve the staged copy: its generation becomes the live one, O(1)."""
        record = held.record
        if command.number < record.number:
            return Answer(Code.OLD, (record.number,))
        if command.number != record.number:
            return _OUT_OF_STEP
        if record.phase is Phase.SERVING and record.taken == record.number:
            return DONE
        if not record.copied or record.copy_id != command.copy_id:
            return _OUT_OF_STEP
        after = ShardRecord(
            advance(record.phase, Event.INSTALLED),
            number=record.number,
            taken=record.number,
            generation=record.generation,
        )
        self._become(held, after, rows)
        return DONE

    def _drop(self, held: "_Shard", command: Drop, rows: Rows) -> Answer:
        """Forget a frozen copy, O(1): the rows become garbage. Its proposer has asked (S8)."""
        record = held.record
        if command.number < record.number:
            return Answer(Code.OLD, (record.number,))
        if command.number != record.number:
            return _OUT_OF_STEP
        if record.phase is Phase.ABSENT:
            return DONE
        if record.phase is not Phase.LEAVING:
            return _OUT_OF_STEP
        after = ShardRecord(
            advance(record.phase, Event.CONFIRMED), number=record.number, taken=record.taken
        )
        self._dead[held.id, record.generation] = None
        self._become(held, after, rows)
        return DONE

    def _become(self, held: "_Shard", after: ShardRecord, rows: Rows) -> None:
        """The one place where a shard's record changes, row and mirror together."""
        before = held.record
        assert after.number >= before.number and after.taken >= before.taken, (before, after)
        rows.put(record_key(held.id), encode_record(after))
        if after.generation != before.generation:
            self._shards[held.id] = held = self._shard(held.id, after)
        else:
            held.record = after
        self._mirror(held, rows)

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
        for key, data in rows.range(*RECORDS):
            shard = record_shard(key)
            assert shard < self.nshards, (shard, self.nshards)
            held = self._shard(shard, decode_record(key, data))
            self._shards[shard] = held
            self._mirror(held, rows)
        self._dead = dict.fromkeys(self._find_dead(rows))

    def _mirror(self, held: "_Shard", rows: Reader) -> None:
        """Bring what is derived from a record in line with it. Checked again after a load."""
        record = held.record
        assert record.taken <= record.number, record
        assert (record.generation == NO_GENERATION) == (record.phase is Phase.ABSENT), record
        if record.phase in SETTLED:
            self._unsettled.pop(held.id, None)
        else:
            self._unsettled[held.id] = None
        held.highest_deleted = 0
        if record.phase is Phase.SERVING:
            row = rows.get(held.highest_key)
            if row is not None:
                held.highest_deleted = row_version(held.highest_key, row)

    def _shard(self, shard: ShardId, record: ShardRecord) -> "_Shard":
        prefix = prefix_of(shard, record.generation)
        sessions = SessionTable(
            prefix + SESSIONS, window=self._window, sessions_max=self._sessions_max
        )
        return _Shard(shard, record, prefix, sessions)

    # Garbage

    def garbage(self, rows: Reader, rows_max: int) -> list[Write]:
        """Deletes for at most `rows_max` rows of copies that no record names; [] if there is none.

        Each replica cleans up by itself, not through the log: no command ever reads these rows,
        and their generation never comes back. The deletes must be written before the next call.
        """
        deletes: list[Write] = []
        while self._dead and len(deletes) < rows_max:
            copy = next(iter(self._dead))
            assert copy[1] != self._shards[copy[0]].record.generation, copy
            for key, _ in rows.range(prefix_of(*copy), after_copy(*copy)):
                if len(deletes) == rows_max:
                    return deletes
                deletes.append((key, None))
            del self._dead[copy]
        return deletes

    def _find_dead(self, rows: Reader) -> Iterator[tuple[ShardId, Generation]]:
        """Copies that have rows and that no record names; one seek a copy, not a scan."""
        cursor, end = COPIES
        while (found := next(iter(rows.range(cursor, end)), None)) is not None:
            shard, generation = copy_of(found[0])
            if shard >= self.nshards or self._shards[shard].record.generation != generation:
                yield shard, generation
            cursor = after_copy(shard, generation)


class _Shard:
    """A shard's record, with what it takes to use it fast. The record is `_become`'s to change."""

    __slots__ = (
        "data_prefix",
        "highest_deleted",
        "highest_key",
        "id",
        "prefix",
        "record",
        "sessions",
    )

    def __init__(
        self, shard: ShardId, record: ShardRecord, prefix: bytes, sessions: SessionTable
    ) -> None:
        self.id = shard
        self.record = record
        self.prefix = prefix
        self.data_prefix = prefix + DATA
        self.highest_key = prefix + HIGHEST_DELETED
        self.highest_deleted = 0  # the row's figure while SERVING, else 0
        self.sessions = sessions
