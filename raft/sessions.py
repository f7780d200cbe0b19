"""Exactly once: what clients asked in their sessions and were answered, as rows of a machine.

RIFL (SOSP'15), made safe against forgetting. A session is opened by a logged command, which draws
the next value of a counter that lies beside the sessions and travels with them; so a number is
given once, for ever, and a client never chooses one. In a session the client numbers its commands
from 1 (`seq`) and says with each one which number it still waits for (`floor`, RIFL's
*firstIncomplete*; a command that it gave up counts as answered).

Why a command takes effect at most once:

- Between its first application and the moment its floor passes, its answer lies here, written in
  the same batch as its effect: `check` says `Recorded`.
- Once the floor has passed it, `check` says `STALE`: the floor never falls.
- Once the session is dropped, `check` says `EXPIRED`: no number below the counter comes back, and
  the counter never falls.
- A table that moves to another group moves as rows, all of them, and replaces what lay there.

The rows, under a prefix that the caller gives (big-endian; a leading format byte in each):

=====================  =====================================================================
key                    value
=====================  =====================================================================
prefix, u64 0          format, u64 counter: the highest session number given, u32 rows alive
prefix, u64 session    format, u64 floor, then an answer after the other in the order applied:
                       u64 seq, u8 length, 8-byte digest of the command, answer
=====================  =====================================================================

One row a session, not one an answer: the row is as long as the client's pipeline is deep, and so
is the entry in which those commands arrive, so that one put serves them all.
"""

from collections.abc import Iterator
from enum import Enum
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import Final, NamedTuple

from raft.errors import StopReplica
from raft.ports import Reader, Rows

ANSWER_BYTES_MAX: Final = 64
DIGEST_BYTES: Final = 8
WINDOW: Final = 64
"""How many commands of one session may be unacknowledged at once, by default."""
SESSIONS_MAX: Final = 10_000
"""How many sessions a table keeps; more are refused until old ones are dropped."""

_FORMAT: Final = 1
_COUNTER: Final = Struct(">BQI")
_FLOOR: Final = Struct(">BQ")
_RECORD: Final = Struct(">QB8s")
_NUMBER: Final = Struct(">Q")
_CACHED_MAX: Final = 1_024
"""Sessions of one table that are kept decoded, some 300 bytes each."""


class Verdict(Enum):
    """What `check` says of a command that has no recorded answer."""

    FRESH = "fresh"  # never applied, and allowed: apply it, then `record` its answer
    STALE = "stale"  # below the floor: the client has said it no longer waits for this answer
    EXPIRED = "expired"  # the session was dropped, or never opened: refused for ever
    OVER_WINDOW = "over window"  # too far above the floor; may be asked again later
    REUSED = "reused"  # this number was used for another command: the client's mistake


_FRESH: Final = Verdict.FRESH  # to look it up in the enum takes 60 ns


class Recorded(NamedTuple):
    """The command was applied before: this is what it was answered, refusals included."""

    answer: bytes


Outcome = Verdict | Recorded


class SessionRowDamaged(StopReplica):
    """A row of a session table does not read as this version writes it."""

    def __init__(self, key: bytes, row: bytes) -> None:
        super().__init__(f"session row {key.hex()} of {len(row)} bytes begins {row[:16].hex()}")
        self.key, self.row = key, row


def digest(*parts: bytes) -> bytes:
    """What a command is known by, in `DIGEST_BYTES`: two commands of equal parts are the same.

    Each part is preceded by its length, so that ("ab", "c") and ("a", "bc") differ.
    """
    if len(parts) == 1:
        return blake2b(parts[0], digest_size=DIGEST_BYTES).digest()
    hash_ = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        hash_.update(_NUMBER.pack(len(part)))
        hash_.update(part)
    return hash_.digest()


class SessionTable:
    """The sessions of one shard (or of a machine that counts as one), under one prefix of rows.

    Everything it knows is in the rows that each call is given. To save time it keeps the decoded
    form of what it has read and written, a mirror: nobody but the table itself may change its rows
    while it is in use, and what it wrote must not be thrown away (a replica whose apply fails stops
    for good). Where rows came by another way, a snapshot or a moved shard, there is a new table, or
    `forget`.

    Numbers (session, seq, floor) are in [0, 2**64); the caller's codec sees to it.
    """

    def __init__(
        self, prefix: bytes, *, window: int = WINDOW, sessions_max: int = SESSIONS_MAX
    ) -> None:
        assert window >= 1 and sessions_max >= 1, (window, sessions_max)
        self.prefix = prefix
        self.window = window
        self.sessions_max = sessions_max
        self._cached: dict[int, _Session] = {}  # by number, the longest known first

    def forget(self) -> None:
        """The rows are others now: read them anew."""
        self._cached.clear()

    def open(self, rows: Rows) -> int | None:
        """Open a session and return its number, from 1; None while the table is full.

        A full table is changed in nothing: the counter moves only with a session.
        """
        counter, alive = self._counter(rows)
        if alive >= self.sessions_max:
            return None
        number = counter + 1
        rows.put(self._key(0), _COUNTER.pack(_FORMAT, number, alive + 1))
        rows.put(self._key(number), _FLOOR.pack(_FORMAT, 1))
        return number

    def skip(self, rows: Rows, numbers: int) -> None:
        """Never give the next `numbers` session numbers: somebody may hold one of them.

        For a state that was put back to an earlier one. Sessions that were opened since are not in
        it; a client that comes back with one is told that it expired, and never meets the session
        of another client under the same number.
        """
        counter, alive = self._counter(rows)
        rows.put(self._key(0), _COUNTER.pack(_FORMAT, counter + numbers, alive))

    def check(self, rows: Reader, session: int, seq: int, floor: int, digest: bytes) -> Outcome:
        """What to do with command `seq` of `session`; changes nothing.

        Args:
            floor: The lowest seq that the client still waits for. One above `seq` makes this
                very command stale: its client has said so.
            digest: Of the command, `DIGEST_BYTES` long.
        """
        state = self._cached.get(session) or self._load(rows, session)
        if state is None:
            return Verdict.EXPIRED
        if floor < state.floor:
            floor = state.floor
        if seq < floor:
            return Verdict.STALE
        record = state.answers.get(seq)
        if record is not None:
            if record[9:17] != digest:
                return Verdict.REUSED
            return Recorded(record[17:])
        if seq >= floor + self.window:
            return Verdict.OVER_WINDOW
        return _FRESH

    def record(
        self, rows: Rows, session: int, seq: int, floor: int, digest: bytes, answer: bytes
    ) -> None:
        """Write down the final answer of a command that `check` called fresh on these very rows.

        Belongs in the same batch as the command's effect. Answers that are not final (the shard is
        elsewhere, or not there yet) are never recorded: the command is still fresh where it lives.
        """
        state = self._cached.get(session) or self._load(rows, session)
        assert state is not None, session
        state.raise_floor(floor)
        answers = state.answers
        assert (
            state.floor <= seq < state.floor + self.window
            and seq not in answers
            and len(digest) == DIGEST_BYTES
            and len(answer) <= ANSWER_BYTES_MAX
        ), (session, seq, floor, state.floor, digest, answer)
        answers[seq] = _RECORD.pack(seq, len(answer), digest) + answer
        rows.put(state.key, state.encode())

    def acknowledge(self, rows: Rows, session: int, floor: int) -> None:
        """Raise the session's floor to `floor` if it is below; forget the answers that it passes.

        For a repeated command, whose floor may be news although its answer is not.
        """
        state = self._load(rows, session)
        if state is not None and floor > state.floor:
            state.raise_floor(floor)
            rows.put(state.key, state.encode())

    def drop(self, rows: Rows, session: int, *, idle_since: int | None = None) -> bool:
        """Forget a session for ever; False if there is no such one, or if it was used meanwhile.

        Only a logged command may call this, or replicas would differ; and never on a frozen shard,
        whose table is on its way elsewhere.

        Args:
            idle_since: What `survey` said of the session when it was found idle. None drops it
                whatever it did: its own client closes it.
        """
        state = self._load(rows, session)
        if state is None or (idle_since is not None and state.last != idle_since):
            return False
        counter, alive = self._counter(rows)
        rows.delete(self._key(session))
        rows.put(self._key(0), _COUNTER.pack(_FORMAT, counter, alive - 1))
        self._cached.pop(session, None)
        return True

    def survey(self, rows: Reader, after: int = 0) -> Iterator[tuple[int, int]]:
        """Each session above `after` and the highest seq it has used, in order. One that shows the
        same figure after the expiry time has been idle for it; the leader then proposes to drop it,
        figure and all.

        No row is looked for behind the last session: to find that there is none may be to walk over
        all that was ever deleted behind it.
        """
        found = rows.range(self._key(after + 1), self._key(2**64 - 1))
        for key, row in islice(found, self.count(rows)):
            yield _NUMBER.unpack(key[len(self.prefix) :])[0], _decode(key, row).last

    def count(self, rows: Reader) -> int:
        """How many sessions there are."""
        return self._counter(rows)[1]

    def _key(self, session: int) -> bytes:
        return self.prefix + _NUMBER.pack(session)

    def _counter(self, rows: Reader) -> tuple[int, int]:
        key = self._key(0)
        row = rows.get(key)
        if row is None:
            return 0, 0
        if len(row) != _COUNTER.size or row[0] != _FORMAT:
            raise SessionRowDamaged(key, row)
        _, counter, alive = _COUNTER.unpack(row)
        return counter, alive

    def _load(self, rows: Reader, session: int) -> "_Session | None":
        state = self._cached.get(session)
        if state is not None:
            return state
        key = self._key(session)
        row = rows.get(key) if session else None  # row 0 is the counter's
        if row is None:
            return None
        state = _decode(key, row)
        if len(self._cached) >= _CACHED_MAX:
            del self._cached[next(iter(self._cached))]
        self._cached[session] = state
        return state


class _Session:
    """A session's row, decoded. `answers` holds encoded records by seq, in the order applied."""

    __slots__ = ("answers", "floor", "key")

    def __init__(self, key: bytes, floor: int, answers: dict[int, bytes]) -> None:
        self.key = key  # of the row
        self.floor = floor  # never falls
        self.answers = answers  # invariant: floor <= seq < floor + window

    @property
    def last(self) -> int:
        """The highest seq used: every seq below the floor was, or was given up."""
        return max(self.answers, default=self.floor - 1)

    def raise_floor(self, floor: int) -> None:
        if floor <= self.floor:
            return
        if floor - self.floor <= len(self.answers):
            for seq in range(self.floor, floor):
                self.answers.pop(seq, None)
        else:
            self.answers = {seq: answer for seq, answer in self.answers.items() if seq >= floor}
        self.floor = floor

    def encode(self) -> bytes:
        return _FLOOR.pack(_FORMAT, self.floor) + b"".join(self.answers.values())


def _decode(key: bytes, row: bytes) -> _Session:
    if len(row) < _FLOOR.size or row[0] != _FORMAT:
        raise SessionRowDamaged(key, row)
    floor: int = _FLOOR.unpack_from(row)[1]
    answers: dict[int, bytes] = {}
    at = _FLOOR.size
    while at < len(row):
        end = at + _RECORD.size
        if end > len(row):
            raise SessionRowDamaged(key, row)
        seq, length, _ = _RECORD.unpack_from(row, at)
        end += length
        if end > len(row) or seq < floor or seq in answers:
            raise SessionRowDamaged(key, row)
        answers[seq] = row[at:end]
        at = end
    return _Session(key, floor, answers)
