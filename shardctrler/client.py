"""Who asks the controller: finds its leader among the endpoints, and asks until it knows.

A change is carried out at most once however often it is sent: the client opens a session, numbers
its changes in it, one at a time, and keeps a change's number through every repetition. A change
given up counts as acknowledged, since the next one's floor passes it: it may still be done by a
request on its way, until the next one is.
"""

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from typing import Final

from labrpc.errors import Refused, Unknown, Unreachable
from labrpc.transport import Address, Transport
from raft.types import GroupId, GroupUuid, NodeId
from shardctrler.codec import BadConfig, decode_view
from shardctrler.commands import (
    NO_UUID,
    Answer,
    Change,
    CloseSession,
    Code,
    ForgetNode,
    Join,
    JoiningGroup,
    Leave,
    Move,
    OpenSession,
    RegisterNode,
    Request,
    UpdateMembers,
    decode_answer,
    encode_command,
)
from shardctrler.errors import (
    ChangeRefused,
    NoSuchConfig,
    OutcomeUnknown,
    SessionRefused,
    ShardCtrlerError,
    Unavailable,
    error_of,
)
from shardctrler.protocol import (
    CHANGE,
    NEWEST,
    QUERY,
    WATCH,
    Query,
    Reply,
    Status,
    Watch,
    decode_reply,
    encode_query,
    encode_watch,
)
from shardctrler.types import (
    ConfigNumber,
    GroupMember,
    NodeAddresses,
    ShardConfig,
    ShardId,
    View,
)

log = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 10.0
"""A request's deadline where its caller names none."""
ATTEMPT_SECONDS: Final = 1.0
"""How long one replica is waited for before another is asked."""
WATCH_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0
PAUSE_SECONDS_MIN: Final = 0.02
PAUSE_SECONDS_MAX: Final = 1.0


class ControllerClient:
    """A client of the controller. `close` it, so that its session need not expire.

    Every method raises `Unavailable` when nobody could answer in time. The changes raise besides:
    `ChangeRefused` (`ConfigChanged` if `expect` was given and is past), `OutcomeUnknown`.

    The controller's replicas may move. Every node either has one or names one that may, so each
    view that comes in adds the nodes registered in it to those that are asked.

    Args:
        endpoints: Where replicas of the controller, or nodes, answer clients; at least one.
        rng: Draws where to begin and how long to pause.
    """

    def __init__(
        self,
        transport: Transport,
        endpoints: Sequence[Address],
        rng: Random,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        if not endpoints:
            raise ValueError("the controller has at least one endpoint")
        self._transport = transport
        self._seeds = tuple(endpoints)
        self._endpoints = list(endpoints)
        self._rng = rng
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._next = rng.randrange(len(self._endpoints))
        self._leader: Address | None = None  # who answered last, or was named by who did not
        self._watched: tuple[bytes, View] | None = None  # the last answer to a watch
        self._session = 0  # 0: none is open
        self._seq = 0
        self._one_change_at_a_time = asyncio.Lock()

    @property
    def leader(self) -> Address | None:
        """Who answered last, or was named by who did not; None if nobody is known to lead."""
        return self._leader

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """Whom this client may ask: those it was given, and every node it has learnt of."""
        return tuple(self._endpoints)

    async def close(self) -> None:
        """Give the session back, if that is quickly done; it expires otherwise."""
        session, self._session = self._session, 0
        if not session:
            return
        try:
            await self._ask(
                CHANGE, encode_command(CloseSession(session)), self._deadline(CLOSE_SECONDS)
            )
        except ShardCtrlerError as error:
            log.debug("session %d is left to expire: %s", session, error)

    # Reading

    async def newest(self, *, timeout: float | None = None) -> View:
        """The newest configuration and where everybody is now, linearizably."""
        return await self._view(NEWEST, timeout)

    async def query(
        self, number: int | None = None, *, timeout: float | None = None
    ) -> ShardConfig:
        """A configuration, linearizably: the newest one for None, a negative number, or one
        beyond the newest."""
        asked = NEWEST if number is None or number < 0 else number
        return (await self._view(asked, timeout)).config

    async def config(self, number: ConfigNumber, *, timeout: float | None = None) -> ShardConfig:
        """Exactly this configuration of the history.

        Raises:
            NoSuchConfig: the newest one has a lower number.
        """
        config = (await self._view(number, timeout)).config
        if config.number != number:
            raise NoSuchConfig(number, config.number)
        return config

    async def watch(self, seen: View, *, seconds: float = WATCH_SECONDS) -> View:
        """What is newer than `seen`, as soon as the leader knows it; after `seconds` what there
        is. Not linearizable: what was changed a moment ago may come with the next watch."""
        watch = Watch(seen.config.number, seen.directory.version, int(seconds * 1000))
        deadline = self._deadline(seconds + self._timeout_seconds)
        attempt = seconds + ATTEMPT_SECONDS
        payload = await self._ask(WATCH, encode_watch(watch), deadline, attempt)
        if self._watched is not None and payload == self._watched[0]:
            return self._watched[1]  # equal views have equal bytes: no news, as nearly always
        view = self._learnt(_decoded_view(payload))
        self._watched = (payload, view)
        return view

    # Changing

    async def join(
        self,
        groups: Sequence[JoiningGroup],
        *,
        expect: ConfigNumber | None = None,
        timeout: float | None = None,
    ) -> ConfigNumber:
        """Let groups take part, each of which has answered with the uuid that is given here.

        Returns:
            The number of the configuration that this made.
        """
        return await self.change(Join(tuple(groups)), expect=expect, timeout=timeout)

    async def leave(
        self,
        gids: Sequence[GroupId],
        *,
        expect: ConfigNumber | None = None,
        timeout: float | None = None,
    ) -> ConfigNumber:
        """Let groups take part no more. A group that is down can leave; its shards arrive at their
        new owners once it is back."""
        return await self.change(Leave(tuple(gids)), expect=expect, timeout=timeout)

    async def move(
        self,
        shard: ShardId,
        gid: GroupId,
        *,
        expect: ConfigNumber | None = None,
        timeout: float | None = None,
    ) -> ConfigNumber:
        """Give one shard to one group; the next join or leave may undo it. To the owner that it
        has: done, and the configuration stays as it is."""
        return await self.change(Move(shard, gid), expect=expect, timeout=timeout)

    async def update_members(
        self,
        gid: GroupId,
        version: int,
        members: Sequence[GroupMember],
        *,
        uuid: GroupUuid = NO_UUID,
        timeout: float | None = None,
    ) -> None:
        """Tell who a group's members are now; `version` grows with every change of them.

        Args:
            uuid: Of the group that says so: refused if the gid means another one by now.
        """
        await self.change(UpdateMembers(gid, version, tuple(members), uuid), timeout=timeout)

    async def register_node(
        self, node: NodeId, addresses: NodeAddresses, *, timeout: float | None = None
    ) -> None:
        """Tell where a node listens now."""
        await self.change(RegisterNode(node, addresses), timeout=timeout)

    async def forget_node(self, node: NodeId, *, timeout: float | None = None) -> None:
        """A node is gone for good; refused while a group that is known has a member there."""
        await self.change(ForgetNode(node), timeout=timeout)

    async def change(
        self,
        change: Change,
        *,
        expect: ConfigNumber | None = None,
        timeout: float | None = None,
    ) -> ConfigNumber:
        """Carry out a change exactly once; returns the newest configuration's number after it."""
        deadline = self._deadline(timeout)
        try:
            async with asyncio.timeout_at(deadline):
                await self._one_change_at_a_time.acquire()
        except TimeoutError:
            raise Unavailable("an earlier change of this client is still under way") from None
        try:
            return await self._change_once(change, expect, deadline)
        finally:
            self._one_change_at_a_time.release()

    async def _change_once(
        self, change: Change, expect: ConfigNumber | None, deadline: float
    ) -> ConfigNumber:
        while True:
            if not self._session:
                self._session, self._seq = await self._open_session(deadline), 0
            self._seq += 1
            request = Request(self._session, self._seq, self._seq, change, expect)
            attempts = _Attempts()
            payload = await self._ask(CHANGE, encode_command(request), deadline, attempts=attempts)
            answer = _decoded_answer(payload)
            error = error_of(answer)
            if error is None:
                return ConfigNumber(answer.facts[0])
            if not isinstance(error, SessionRefused):
                raise error
            self._session = 0
            if attempts.may_be_done:
                raise OutcomeUnknown(f"an attempt had no answer, and now {error}") from error
            if answer.code is not Code.SESSION_EXPIRED:
                raise error

    async def _open_session(self, deadline: float) -> int:
        """A lost answer leaves a session that nobody uses, until it expires."""
        payload = await self._ask(CHANGE, encode_command(OpenSession()), deadline)
        answer = _decoded_answer(payload)
        error = error_of(answer)
        if error is not None:
            raise Unavailable(str(error)) from error
        return answer.facts[0]

    # Asking

    async def _view(self, number: int, timeout: float | None) -> View:
        payload = await self._ask(QUERY, encode_query(Query(number)), self._deadline(timeout))
        return self._learnt(_decoded_view(payload))

    def _learnt(self, view: View) -> View:
        """Ask the nodes of this view too from here on."""
        nodes = view.directory.nodes.values()
        known = [Address(node.client) for node in nodes if node.client]
        endpoints = list(dict.fromkeys((*self._seeds, *known)))
        if endpoints != self._endpoints:
            self._endpoints = endpoints
            self._next %= len(endpoints)
        return view

    async def _ask(
        self,
        method: str,
        body: bytes,
        deadline: float,
        attempt_seconds: float = ATTEMPT_SECONDS,
        attempts: "_Attempts | None" = None,
    ) -> bytes:
        """Ask one replica after the other, the presumed leader first, until one has the answer."""
        if attempts is None:
            attempts = _Attempts()
        while True:
            left = deadline - self._loop.time()
            if left <= 0:
                if attempts.may_be_done and method == CHANGE:
                    raise OutcomeUnknown(f"no answer in time; last: {attempts.last}")
                raise Unavailable(f"no controller replica answered; last: {attempts.last}")
            to = self._leader or self._endpoints[self._next]
            reply = await self._attempt(to, method, body, min(left, attempt_seconds), attempts)
            if reply is not None and reply.status is Status.OK:
                self._leader = to
                return reply.payload
            self._look_elsewhere(to, reply, attempts)
            if attempts.fruitless >= len(self._endpoints):
                await asyncio.sleep(min(attempts.pause(self._rng), max(left, 0)))

    async def _attempt(
        self, to: Address, method: str, body: bytes, seconds: float, attempts: "_Attempts"
    ) -> Reply | None:
        """One replica's reply; None if there is none."""
        try:
            reply = decode_reply(await self._transport.call(to, method, body, timeout=seconds))
        except Unreachable as error:
            attempts.last = f"{to}: {error}"
            return None
        except Unknown as error:
            attempts.may_be_done = True
            attempts.last = f"{to}: {error}"
            return None
        except Refused as error:
            if error.code == "INVALID_ARGUMENT":
                raise ChangeRefused(Code.BAD_COMMAND) from error
            # An error inside the server may have come after the proposal.
            attempts.may_be_done |= error.code == "INTERNAL"
            attempts.last = f"{to}: {error}"
            return None
        except BadConfig as error:
            attempts.may_be_done = True
            attempts.last = f"{to}: not a reply: {error}"
            return None
        attempts.may_be_done |= reply.status is Status.UNKNOWN
        attempts.last = f"{to}: {reply.status.name}"
        return reply

    def _look_elsewhere(self, asked: Address, reply: Reply | None, attempts: "_Attempts") -> None:
        """Follow a hint once; otherwise go round."""
        attempts.fruitless += 1
        hint = Address("")
        if reply is not None and reply.status is Status.NOT_LEADER:
            hint = Address(reply.payload.decode(errors="replace"))
        if hint and hint != asked and hint not in attempts.hints:
            attempts.hints.append(hint)
            self._leader = hint
            return
        attempts.hints.clear()
        if self._leader is None or self._leader == self._endpoints[self._next]:
            self._next = (self._next + 1) % len(self._endpoints)
        self._leader = None

    def _deadline(self, timeout: float | None) -> float:
        return self._loop.time() + (self._timeout_seconds if timeout is None else timeout)


class _Attempts:
    """What the attempts of one request have shown so far."""

    def __init__(self) -> None:
        self.may_be_done = False  # one of them was handed over and had no definite answer
        self.fruitless = 0
        self.hints: list[Address] = []  # followed since the last time that none was
        self.last = "nothing was tried"

    def pause(self, rng: Random) -> float:
        """Full jitter under a bound that doubles, so that clients do not come back together."""
        doublings = min(self.fruitless, 16)
        return rng.uniform(0, min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * 2**doublings))


def _decoded_view(payload: bytes) -> View:
    try:
        return decode_view(payload)
    except BadConfig as error:
        raise Unavailable(f"the controller's answer cannot be read: {error}") from error


def _decoded_answer(payload: bytes) -> Answer:
    try:
        return decode_answer(payload)
    except BadConfig as error:
        raise OutcomeUnknown(f"the controller's answer cannot be read: {error}") from error
