"""A clerk's sessions: under which number each of its writes travels.

A session belongs to one shard and is opened there by a logged command. A write keeps its number
(session, sequence) through every repetition, whoever answers it, until its answer is certain: that
is what makes repeating it safe (RIFL, SOSP'15). The shard takes a sequence only while it is less
than a window above the lowest one that the clerk still waits for; more writes in flight than that
take more sessions, and past `SESSIONS_A_SHARD_MAX` of those they wait their turn.
"""

from collections import deque
from typing import Final

from shardkv.limits import SESSION_WINDOW
from shardkv.pending import Pending
from shardkv.session import Session
from shardkv.types import SessionId

SESSIONS_A_SHARD_MAX: Final = 16
"""Sessions that one clerk keeps in one shard: 1,024 writes in flight there."""
IDLE_SECONDS_MAX: Final = 600.0
"""A session unused for so long may have been forgotten by its shard, so another one is opened.
Far less than what a shard takes for idle."""


class ShardSessions:
    """This clerk's sessions in one shard, and the writes that wait for a number."""

    __slots__ = ("_sessions", "_window", "opening", "trouble", "waiting")

    def __init__(self, window: int = SESSION_WINDOW) -> None:
        self._sessions: list[Session] = []
        self._window = window
        self.waiting: deque[Pending] = deque()
        self.opening: Pending | None = None  # an OpenSession of ours that is on its way
        self.trouble = ""  # why the shard opens none, for the error of a write that waits in vain

    def number(self, write: Pending, now: float) -> bool:
        """Give the write its session and sequence, for good; False if none has room."""
        for session in self._sessions:
            if session.has_room:
                if session.idle and now - session.used > IDLE_SECONDS_MAX:
                    self._sessions.remove(session)
                    return self.number(write, now)
                write.session = session
                write.seq = session.take(now)
                return True
        return False

    @property
    def wants_another(self) -> bool:
        """Whether to open one more session for the writes that wait."""
        return bool(
            self.waiting and self.opening is None and len(self._sessions) < SESSIONS_A_SHARD_MAX
        )

    def given_up(self) -> None:
        """A write that waited for a number has ended: a session that none waits for is not asked
        for any more. Each time that it is asked for costs the shard's group an entry and a row;
        clerks that go on with it when their callers have long gone keep a group down that had too
        much to do for a moment."""
        while self.waiting and self.waiting[0].future.done():
            self.waiting.popleft()
        if not self.waiting and self.opening is not None:
            self.opening.future.cancel()
            self.opening = None

    def opened(self, number: SessionId, now: float) -> None:
        self.trouble = ""
        self._sessions.append(Session(number, now, self._window))

    def release(self, write: Pending) -> None:
        """The write needs its number no more."""
        if write.session is not None:
            write.session.release(write.seq)

    def forget(self, session: Session) -> None:
        """The shard does not know the session any more."""
        if session in self._sessions:
            self._sessions.remove(session)
