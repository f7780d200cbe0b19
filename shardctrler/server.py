"""A replica of the controller, as its clients see it: the `ctrl.*` calls on a transport.

Queries are linearizable: answered from applied state after a read barrier. Changes go through the
log. A watch is a long poll that only the leader holds: a leader that lost its majority finds that
out and steps down, and its watchers ask elsewhere, so nobody waits for ever beside the news.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from labrpc.errors import Refused
from labrpc.transport import Transport
from raft.chores import begin_chore
from raft.errors import (
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    ReplicaStopped,
    StopReplica,
    Unavailable,
)
from raft.rsm import ReplicatedStateMachine
from raft.types import Member
from shardctrler.codec import BadConfig, encode_view
from shardctrler.commands import (
    COMMAND_BYTES_MAX,
    Answer,
    ExpireSessions,
    decode_command,
    encode_answer,
    encode_command,
)
from shardctrler.machine import ControllerMachine
from shardctrler.protocol import (
    CHANGE,
    QUERY,
    WATCH,
    Reply,
    Status,
    decode_query,
    decode_watch,
    encode_reply,
)
from shardctrler.types import View

log = logging.getLogger(__name__)

HANDLER_SECONDS: Final = 10.0
"""How long a query or a change is worked on; its client has asked elsewhere long before."""
LOOK_SECONDS: Final = 0.5
"""How often a held watch looks whether this replica still leads."""
WATCHES_MAX: Final = 1_024
"""Watches held at once; one more is answered at once, and its client polls."""
SESSION_IDLE_SECONDS: Final = 3_600.0
"""A session that was not used for so long, or up to twice as long, is forgotten."""
EXPIRE_SESSIONS_MAX: Final = 1_024


class ControllerServer:
    """Answers clients for one replica; `start` it once the replica runs.

    Args:
        rsm: The replica's state machine layer, over a `ControllerMachine`.
        client_address: Where a member of the controller's own group answers clients; by default
            what its node registered, and nothing if it did not.
    """

    def __init__(
        self,
        rsm: ReplicatedStateMachine,
        transport: Transport,
        *,
        client_address: Callable[[Member], str] | None = None,
        session_idle_seconds: float = SESSION_IDLE_SECONDS,
    ) -> None:
        assert isinstance(rsm.machine, ControllerMachine), rsm.machine
        self._rsm = rsm
        self._machine = rsm.machine
        self._transport = transport
        self._client_address = client_address or self._registered_address
        self._session_idle_seconds = session_idle_seconds
        self._loop = asyncio.get_running_loop()
        self._watches: dict[asyncio.Future[None], None] = {}  # an ordered set
        self._last_told: tuple[View, bytes] | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        self._machine.on_change = self._wake_watches
        self._transport.serve(QUERY, self._query)
        self._transport.serve(CHANGE, self._change)
        self._transport.serve(WATCH, self._watch)
        self._expiry = begin_chore(self._expire_idle_sessions(), "sessions that nobody uses stay")

    async def close(self) -> None:
        """Let every watch go and stop expiring sessions. The transport is its owner's to close."""
        self._closed = True
        self._wake_watches()
        if self._expiry is not None:
            self._expiry.cancel()
            await asyncio.gather(self._expiry, return_exceptions=True)

    # The calls

    async def _query(self, body: bytes) -> bytes:
        try:
            query = decode_query(body)
        except BadConfig as error:
            raise Refused("INVALID_ARGUMENT", f"not a query: {error}") from error
        try:
            async with asyncio.timeout(HANDLER_SECONDS):
                await self._rsm.read()
        except (RaftError, TimeoutError) as error:
            return encode_reply(self._refusal(error))
        view = View(self._machine.config(query.number), self._machine.view.directory)
        return encode_reply(Reply(Status.OK, encode_view(view)))

    async def _change(self, body: bytes) -> bytes:
        if len(body) > COMMAND_BYTES_MAX:
            raise Refused("INVALID_ARGUMENT", f"a command has at most {COMMAND_BYTES_MAX} bytes")
        try:
            decode_command(body)
        except (BadConfig, StopReplica) as error:
            raise Refused("INVALID_ARGUMENT", f"not a command: {error}") from error
        try:
            async with asyncio.timeout(HANDLER_SECONDS):
                answer = await self._rsm.submit(body)
        except TimeoutError:
            return encode_reply(Reply(Status.UNKNOWN))
        except RaftError as error:
            return encode_reply(self._refusal(error))
        assert isinstance(answer, Answer), answer
        return encode_reply(Reply(Status.OK, encode_answer(answer)))

    async def _watch(self, body: bytes) -> bytes:
        try:
            watch = decode_watch(body)
        except BadConfig as error:
            raise Refused("INVALID_ARGUMENT", f"not a watch: {error}") from error
        deadline = self._loop.time() + watch.wait_ms / 1000
        while True:
            if self._closed or not self._rsm.leads:
                return encode_reply(self._refusal(NotLeader(self._rsm.replica.leader)))
            view = self._machine.view
            news = (
                view.config.number > watch.number
                or view.directory.version > watch.directory_version
            )
            left = deadline - self._loop.time()
            if news or left <= 0 or len(self._watches) >= WATCHES_MAX:
                return self._told(view)
            await self._news(min(left, LOOK_SECONDS))

    def _told(self, view: View) -> bytes:
        """The reply to watches. Each node asks every two seconds, and mostly there is no news."""
        if self._last_told is None or self._last_told[0] is not view:
            self._last_told = (view, encode_reply(Reply(Status.OK, encode_view(view))))
        return self._last_told[1]

    async def _news(self, seconds: float) -> None:
        """Return at the next change of the view, or after so long."""
        woken: asyncio.Future[None] = self._loop.create_future()
        self._watches[woken] = None
        timer = self._loop.call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()
            self._watches.pop(woken, None)

    def _wake_watches(self) -> None:
        watches, self._watches = self._watches, {}
        for woken in watches:
            _wake(woken)

    def _refusal(self, error: Exception) -> Reply:
        match error:
            case NotLeader():
                leader = error.leader or self._rsm.replica.leader
                address = self._client_address(leader) if leader is not None else ""
                return Reply(Status.NOT_LEADER, address.encode())
            case Unavailable() | Overloaded() | ReplicaStopped() | TimeoutError():
                return Reply(Status.UNAVAILABLE)
            case OutcomeUnknown():
                return Reply(Status.UNKNOWN)
            case _:
                raise error

    def _registered_address(self, member: Member) -> str:
        addresses = self._machine.view.directory.nodes.get(member.node)
        return addresses.client if addresses is not None else ""

    # Sessions

    async def _expire_idle_sessions(self) -> None:
        """Propose to forget the sessions that show no use from one look to the next."""
        before: dict[int, int] = {}
        while True:
            await asyncio.sleep(self._session_idle_seconds)
            if not self._rsm.leads:
                before = {}
                continue
            now = self._machine.survey_sessions()
            idle = tuple(pair for pair in now.items() if before.get(pair[0]) == pair[1])
            before = now
            if not idle:
                continue
            try:
                command = ExpireSessions(idle[:EXPIRE_SESSIONS_MAX])
                await self._rsm.submit(encode_command(command))
            except RaftError as error:  # the next look finds them again
                log.info("sessions not expired: %s", error)


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)
