"""Lab 2: a key/value store on one server that is never restarted, and locks on it.

Two servers and their clerks, one an edition; both keep their state as rows of the store's own form:

- 2024 (`KVServer`, `Clerk`): put, append and get, each done exactly once however often requests
  and answers are lost. A clerk opens a session of the production table (`raft/sessions.py`) with
  its first write and has one call open at a time, so that a new one acknowledges the last. An
  append answers with what was there before; that value is kept beside the session until its next
  write, and gets leave nothing behind.
- 2025 (`VersionedServer`, `VersionedClerk`): a put names the version that it replaces. That makes
  it harmless to repeat, and the server needs to know of no client; in turn a clerk whose first
  answer was lost cannot always tell whether its put was done (ErrMaybe). `Lock` lives with that.
"""

import asyncio
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, Final

import msgpack

from labrpc.sim.labnet import Handler, LabEnd, LabServer
from labs.kv import NO_KEY, Err, Read
from raft.disk.overlay import Overlay
from raft.sessions import Recorded, SessionTable, Verdict, digest
from shardkv.rows import decode_row, encode_row, row_version

GET, PUT, APPEND, OPEN = "KVServer.Get", "KVServer.Put", "KVServer.Append", "KVServer.Open"
DATA, SESSIONS, BEFORE = b"d", b"t", b"b"
SESSIONS_MAX: Final = 2**32 - 1
RETRY_SECONDS: Final = 0.1
"""Between two tries of a versioned clerk."""
LOCK_SECONDS_MAX: Final = 0.02
"""How long a lock's waiter sleeps at most before it looks again."""


class MemoryRows:
    """Rows in memory, for one server that is never restarted."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def range(
        self, lo: bytes, hi: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with `lo <= key < hi`, in key order (or backwards); looks at every row."""
        keys = sorted((key for key in self._rows if lo <= key < hi), reverse=reverse)
        return iter([(key, self._rows[key]) for key in keys])

    def commit(self, overlay: Overlay) -> None:
        for key, value in overlay.writes():
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value


# 2024


class KVServer:
    """The server of 2024. Its handlers run at once, one after the other."""

    def __init__(self) -> None:
        self._rows = MemoryRows()
        self._sessions = SessionTable(SESSIONS, window=1, sessions_max=SESSIONS_MAX)

    @property
    def server(self) -> LabServer:
        return LabServer({GET: self._get, OPEN: self._open, PUT: self._put, APPEND: self._append})

    def _get(self, body: bytes) -> bytes:
        return self._rows.get(DATA + body) or b""

    def _open(self, body: bytes) -> bytes:
        overlay = Overlay(self._rows)
        session = self._sessions.open(overlay)
        self._rows.commit(overlay)
        return _pack(session)

    def _put(self, body: bytes) -> bytes:
        self._write(body, append=False)
        return b""

    def _append(self, body: bytes) -> bytes:
        return self._write(body, append=True)

    def _write(self, body: bytes, *, append: bool) -> bytes:
        """Do it unless it is done, and answer; effect and record are one batch.

        A request that its clerk has acknowledged since (it was late) has no answer any more, and
        nobody waits for one.
        """
        session, seq, key, value = msgpack.unpackb(body)
        rows, sessions = Overlay(self._rows), self._sessions
        command = digest(b"append" if append else b"put", key, value)
        # The clerk waits for nothing but this one, so this is its floor, too.
        outcome = sessions.check(rows, session, seq, seq, command)
        before_key = BEFORE + session.to_bytes(8, "big")
        if outcome is Verdict.FRESH:
            before = rows.get(DATA + key) or b"" if append else b""
            rows.put(DATA + key, before + value)
            rows.delete(before_key)
            if append:
                rows.put(before_key, before)
            sessions.record(rows, session, seq, seq, command, b"")
            self._rows.commit(rows)
            return before
        assert isinstance(outcome, Recorded) or outcome is Verdict.STALE, outcome
        return rows.get(before_key) or b"" if isinstance(outcome, Recorded) else b""


class Clerk:
    """A client of 2024. One call at a time; it asks until it is answered.

    Args:
        end: The way to the server.
    """

    __slots__ = ("_end", "_seq", "_session")

    def __init__(self, end: LabEnd) -> None:
        self._end = end
        self._session = self._seq = 0

    async def get(self, key: str) -> str:
        """The key's value, "" when it is absent."""
        return (await self._ask(GET, key.encode())).decode()

    async def put(self, key: str, value: str) -> None:
        await self._write(PUT, key, value)

    async def append(self, key: str, value: str) -> str:
        """Add to the key's value; returns what it was before."""
        return (await self._write(APPEND, key, value)).decode()

    async def close(self) -> None:
        """Nothing to give up: a call ends only with its answer."""

    async def _write(self, method: str, key: str, value: str) -> bytes:
        if not self._session:
            self._session = msgpack.unpackb(await self._ask(OPEN, b""))
        self._seq += 1
        body = _pack((self._session, self._seq, key.encode(), value.encode()))
        return await self._ask(method, body)

    async def _ask(self, method: str, body: bytes) -> bytes:
        while (answer := await self._end.call(method, body)) is None:
            pass  # the network took its time to fail
        return answer


# 2025


class VersionedServer:
    """The server of 2025. It knows keys and versions, and of no client."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}

    @property
    def server(self) -> LabServer:
        handlers: Mapping[str, Handler] = {GET: self._get, PUT: self._put}
        return LabServer(handlers)

    def _get(self, body: bytes) -> bytes:
        row = self._rows.get(body)
        return _pack(None if row is None else decode_row(body, row))

    def _put(self, body: bytes) -> bytes:
        key, value, version = msgpack.unpackb(body)
        row = self._rows.get(key)
        now = 0 if row is None else row_version(key, row)
        if version != now:
            return _pack((Err.VERSION if now else Err.NO_KEY).value)
        self._rows[key] = encode_row(version + 1, value)
        return _pack(Err.OK.value)


class VersionedClerk:
    """A client of 2025. One call at a time; it asks until it is answered.

    Args:
        end: The way to the server.
    """

    __slots__ = ("_end",)

    def __init__(self, end: LabEnd) -> None:
        self._end = end

    async def get(self, key: str) -> Read:
        answer, _ = await self._ask(GET, key.encode())
        row = msgpack.unpackb(answer)
        return NO_KEY if row is None else Read(row[0].decode(), row[1], Err.OK)

    async def put(self, key: str, value: str, version: int) -> Err:
        """Write the key if `version` is its version, 0 for one that is absent.

        The first answer decides. But ErrVersion to a repetition may be about our own first try,
        which was done and whose answer was lost: MAYBE.
        """
        body = _pack((key.encode(), value.encode(), version))
        answer, repeated = await self._ask(PUT, body)
        err = Err(msgpack.unpackb(answer))
        return Err.MAYBE if err is Err.VERSION and repeated else err

    async def close(self) -> None:
        """Nothing to give up: a call ends only with its answer."""

    async def _ask(self, method: str, body: bytes) -> tuple[bytes, bool]:
        """The first answer that comes back, and whether it is to a repetition."""
        repeated = False
        while True:
            answer = await self._end.call(method, body)
            if answer is not None:
                return answer, repeated
            repeated = True
            await asyncio.sleep(RETRY_SECONDS)


class Lock:
    """A lock that clerks share by its name. It holds whoever's id is the key's value, nobody at "".

    An id is one handle's alone. So after a put of unknown outcome a look at the key tells whether
    it was ours: nobody else writes our id, and nobody else takes it away.

    Args:
        rng: Draws the handle's id.
    """

    def __init__(self, clerk: VersionedClerk, name: str, rng: Random) -> None:
        self._clerk, self._name, self._rng = clerk, name, rng
        self._id = f"{rng.getrandbits(64):016x}"
        self._held = False

    async def acquire(self) -> None:
        """Return when the lock is ours."""
        assert not self._held, "the handle holds the lock already"
        while True:
            read = await self._clerk.get(self._name)
            if read.value == self._id:  # a put that may have been done was
                break
            if read.value == "":
                if await self._clerk.put(self._name, self._id, read.version) is Err.OK:
                    break
            else:
                await asyncio.sleep(self._rng.uniform(0, LOCK_SECONDS_MAX))
        self._held = True

    async def release(self) -> None:
        """Return when it is free, or another's."""
        assert self._held, "the handle does not hold the lock"
        while (read := await self._clerk.get(self._name)).value == self._id:
            if await self._clerk.put(self._name, "", read.version) is Err.OK:
                break
        self._held = False


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
