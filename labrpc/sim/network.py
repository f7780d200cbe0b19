"""A network of named processes in virtual time, with every fault that a network has.

Each ordered pair of processes is a *link* with its own stream of chance and its own `Faults`.
A hop takes 0.5 to 1.5 ms, so the clock moves whatever the processes do. The links carry calls
(request there, answer back) and the frames of channels, which arrive in the order sent for as long
as no reordering was asked for.

A process is a `SimTransport`. When it crashes, what was on its way *to* it is lost and those who
call it learn that the connection broke; what it had already sent arrives all the same, as from a
real one: that is the harder case for whoever promised something in it.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from labrpc.errors import AddressInUse, Refused, RpcError, Unknown, Unreachable
from labrpc.limits import BODY_BYTES_MAX, CHANNEL_QUEUED_BYTES_MAX, CLOSE_GRACE_SECONDS
from labrpc.sim.chance import Chance
from labrpc.transport import Address, CallHandler, FrameHandler

log = logging.getLogger(__name__)

BYTES_PER_SECOND: Final = 125_000_000
REDIAL_SECONDS: Final = 0.1
AT_ONCE_SECONDS_MAX: Final = 0.0005  # what takes less to put on the wire is on it at once
GARBAGE_BYTES_MAX: Final = 8
ENVELOPE_BYTES: Final = 32  # what a call or frame takes beside its body, about


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What a link does to what it carries. Probabilities are in [0, 1], times in seconds."""

    delay_seconds_min: float = 0.0005
    delay_seconds_max: float = 0.0015
    loss: float = 0.0
    """Of a frame, of a request, of an answer. Nobody is told."""
    duplication: float = 0.0
    """Of a frame. Calls are not duplicated: their callers repeat them."""
    reordering: float = 0.0
    """How many frames may be overtaken by later ones, by up to `reordering_seconds_max`."""
    reordering_seconds_max: float = 0.05
    long_delay: float = 0.0
    """How many messages take up to `long_delay_seconds_max` more; frames behind one wait."""
    long_delay_seconds_max: float = 2.0
    bytes_per_second: int = BYTES_PER_SECOND
    queue_bytes_max: int = CHANNEL_QUEUED_BYTES_MAX
    """What a channel holds that the wire has not taken yet; more frames are dropped."""
    truncation: float = 0.0
    """How many frames arrive without their end."""
    corruption: float = 0.0
    """How many frames arrive with a flipped bit, or with a few bytes of garbage."""

    def __post_init__(self) -> None:
        if not 0 < self.delay_seconds_min <= self.delay_seconds_max:
            raise ValueError(
                f"a hop of {self.delay_seconds_min} to {self.delay_seconds_max} s: without a "
                "delay the clock never moves, and the least must not pass the most"
            )
        if self.bytes_per_second <= 0:
            raise ValueError(f"a link of {self.bytes_per_second} bytes a second carries nothing")

    def with_(self, **changes: float) -> "Faults":
        """These faults, but for some."""
        return replace(self, **changes)  # type: ignore[arg-type]


HEALTHY: Final = Faults()


@dataclass(slots=True)
class Counts:
    """What the network carried since it was made; bytes are of bodies and frames."""

    calls: int = 0
    call_bytes: int = 0
    frames: int = 0
    frame_bytes: int = 0
    lost: int = 0
    calls_by_method: Counter[str] = field(default_factory=Counter)


class _Link:
    """One direction between two processes."""

    __slots__ = (
        "_least", "_long", "_loss", "_random", "_span", "cut", "faults", "own_faults", "rng",
        "spoils",
    )  # fmt: skip

    def __init__(self, rng: Random, faults: Faults) -> None:
        self.rng, self._random = rng, rng.random
        self.own_faults = False
        self.cut = False
        self.behave(faults)

    def behave(self, faults: Faults) -> None:
        """Do this to what comes from now on."""
        self.faults = faults
        self._least = faults.delay_seconds_min
        self._span = faults.delay_seconds_max - faults.delay_seconds_min
        self._long, self._loss = faults.long_delay, faults.loss
        self.spoils = bool(
            faults.truncation or faults.corruption or faults.reordering or faults.duplication
        )
        """Whether frames may come in otherwise than they were sent."""

    def loses(self) -> bool:
        """Whether the next message is lost; drawn also on a cut link, so that a cut moves no
        later draw."""
        return (self._loss > 0 and self._random() < self._loss) or self.cut

    def delay(self) -> float:
        seconds = self._least + self._span * self._random()
        if self._long > 0 and self._random() < self._long:
            seconds += self.rng.uniform(0, self.faults.long_delay_seconds_max)
        return seconds


class SimNetwork:
    """The wires between the processes of one simulation.

    Args:
        chance: Each link draws from a stream of its own of it.
        faults: What every link does that was not given faults of its own.
    """

    def __init__(self, chance: Chance, faults: Faults = HEALTHY) -> None:
        self.counts = Counts()
        self.on_mistake: Callable[[Address, str, Exception], None] | None = None
        """Told of a handler's own mistake: by whom, of which method; None: it is only logged."""
        self._chance = chance
        self._faults = faults
        self.archive: deque[tuple[Address, bytes]] | None = None
        """Frames that were sent, lost ones too, for `replay`; None: none are kept."""
        self._links: dict[tuple[Address, Address], _Link] = {}
        self._processes: dict[Address, SimTransport] = {}

    # Processes

    def transport(self, address: Address) -> "SimTransport":
        """Start a process at `address`.

        Raises:
            AddressInUse: one lives there.
        """
        if address in self._processes:
            raise AddressInUse(address)
        process = self._processes[address] = SimTransport(self, address)
        return process

    def crash(self, address: Address) -> None:
        """End the process at `address` at once, as a power cut does."""
        self._processes[address].crash()

    # Faults

    def set_faults(
        self, faults: Faults, source: Address | None = None, target: Address | None = None
    ) -> None:
        """Change what the links do: one (both ends given), or all that have none of their own."""
        if source is not None and target is not None:
            link = self.link(source, target)
            link.behave(faults)
            link.own_faults = True
            return
        if source is not None or target is not None:
            raise ValueError("name both ends of the link, or neither")
        self._faults = faults
        for link in self._links.values():
            if not link.own_faults:
                link.behave(faults)

    def cut(self, source: Address, target: Address) -> None:
        """Lose whatever is sent one way from now on; what is on its way arrives."""
        self.link(source, target).cut = True

    def mend(self, source: Address, target: Address) -> None:
        self.link(source, target).cut = False

    def partition(self, *sides: Iterable[Address]) -> None:
        """Cut both ways between every two sides; links within a side are left as they are."""
        groups = [list(side) for side in sides]
        for here, group in enumerate(groups):
            for there, other in enumerate(groups):
                if here != there:
                    for source in group:
                        for target in other:
                            self.cut(source, target)

    def isolate(self, address: Address, others: Iterable[Address]) -> None:
        """Cut one process off from `others`, both ways."""
        self.partition([address], [other for other in others if other != address])

    def heal(self) -> None:
        """Mend every cut and give every link the faults of the whole network."""
        for link in self._links.values():
            link.cut, link.own_faults = False, False
            link.behave(self._faults)

    def keep_frames(self, frames_max: int) -> None:
        """Keep the last frames from now on."""
        if self.archive is None:
            self.archive = deque(maxlen=frames_max)

    def replay(self, to: Address, frame: bytes) -> None:
        """Let a frame that was kept arrive again, at whatever process lives there now."""
        process = self._processes.get(to)
        if process is not None:
            loop = asyncio.get_running_loop()
            if process.frame_handler is not None:
                loop.call_soon(process.frame_handler, frame, context=process.context)

    # What the transports ask

    def link(self, source: Address, target: Address) -> _Link:
        link = self._links.get((source, target))
        if link is None:
            rng = self._chance.rng(f"network/{source}>{target}")
            link = self._links[source, target] = _Link(rng, self._faults)
        return link

    def process(self, address: Address) -> "SimTransport | None":
        return self._processes.get(address)

    def gone(self, process: "SimTransport") -> None:
        del self._processes[process.address]


class SimTransport:
    """One process's end of the network; satisfies `labrpc.transport.Transport`."""

    def __init__(self, network: SimNetwork, address: Address) -> None:
        self.network, self.address = network, address
        self.context = copy_context()
        """What comes in is the business of the process that listens, not of the one that sent."""
        self.alive = True
        self._handlers: dict[str, CallHandler] = {}
        self.frame_handler: FrameHandler | None = None
        """Takes what peers' channels bring; None: nobody listens."""
        self._channels: dict[tuple[Address, bool], SimChannel] = {}
        self._answering: dict[asyncio.Task[None], None] = {}
        self._asked: dict[_Call, None] = {}  # calls on their way to this process, or in it
        self._asking: dict[_Call, None] = {}  # calls of this process

    # The port

    async def call(self, to: Address, method: str, body: bytes, *, timeout: float) -> bytes:
        """Ask the process at `to`; see `Transport.call`."""
        if not self.alive:
            raise Unreachable(f"{self.address} is closed")
        if len(body) > BODY_BYTES_MAX:
            raise Refused(
                "INVALID_ARGUMENT", f"a body of {len(body)} bytes; at most {BODY_BYTES_MAX}"
            )
        if timeout <= 0:
            raise Unreachable(f"no time left to call {to}")
        counts = self.network.counts
        counts.calls += 1
        counts.calls_by_method[method] += 1
        counts.call_bytes += len(body)
        call = _Call(self, to, method, body)
        self._asking[call] = None
        call.send()
        expiry = call.loop.call_later(timeout, call.expire, timeout)
        try:
            return await call.answer
        finally:
            expiry.cancel()
            self._asking.pop(call, None)

    def channel(self, to: Address, *, bulk: bool = False) -> "SimChannel":
        """The channel to `to`; the same object for the same arguments."""
        channel = self._channels.get((to, bulk))
        if channel is None:
            channel = self._channels[to, bulk] = SimChannel(self, to)
        return channel

    def serve(self, method: str, handler: CallHandler) -> None:
        """Answer calls of `method` with `handler`."""
        self._handlers[method] = handler

    def listen(self, handler: FrameHandler) -> None:
        """Hand every frame that a peer's channel brings to `handler`."""
        self.frame_handler = handler

    async def close(self) -> None:
        """Stop serving, let running handlers end within the grace, drop the rest."""
        if not self.alive:
            return
        self._leave()
        if self._answering:
            try:
                async with asyncio.timeout(CLOSE_GRACE_SECONDS):
                    await asyncio.gather(*self._answering, return_exceptions=True)
            except TimeoutError:
                log.warning("%s: handlers were still running when it closed", self.address)
        self._break_connections()

    @property
    def channels(self) -> "list[SimChannel]":
        """Every channel of this process, in the order in which it asked for them."""
        return list(self._channels.values())

    # What the network does with its processes

    def crash(self) -> None:
        """End at once: running handlers are cancelled, queues and connections are gone."""
        if not self.alive:
            return
        self._leave()
        for task in self._answering:
            task.cancel()
        self._break_connections()

    def _leave(self) -> None:
        self.alive = False
        self.network.gone(self)

    def _break_connections(self) -> None:
        for channel in self._channels.values():
            channel.disconnected()
        for call in list(self._asked):
            call.broken()
        for call in list(self._asking):
            call.fail(Unknown(f"{self.address} is gone"))

    def asked(self, call: "_Call") -> None:
        """A request came in."""
        handler = self._handlers.get(call.method)
        if handler is None:
            call.respond(Refused("UNIMPLEMENTED", f"no such method: {call.method}"))
            return
        task = asyncio.get_running_loop().create_task(self._answer(call, handler))
        self._answering[task] = None
        task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._answering.pop(task, None)

    async def _answer(self, call: "_Call", handler: CallHandler) -> None:
        outcome: bytes | RpcError
        try:
            outcome = await handler(call.body)
            if len(outcome) > BODY_BYTES_MAX:
                raise ValueError(f"an answer of {len(outcome)} bytes")
        except Refused as error:
            outcome = error
        except Exception as error:  # the server's own mistake: logged there, told in a fixed text
            log.exception("%s: the handler of %s failed", self.address, call.method)
            if self.alive and self.network.on_mistake is not None:
                self.network.on_mistake(self.address, call.method, error)
            outcome = Refused("INTERNAL", "the server failed; see its log")
        call.respond(outcome)

    def expect(self, call: "_Call") -> None:
        self._asked[call] = None

    def settle(self, call: "_Call") -> None:
        self._asked.pop(call, None)


class _Call:
    """One request and its answer on their way."""

    def __init__(self, caller: SimTransport, to: Address, method: str, body: bytes) -> None:
        self.caller, self.to, self.method, self.body = caller, to, method, body
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bytes] = self.loop.create_future()
        self.certainly_unsent = False
        """The request was lost, and its caller could tell: there was no connection for it."""
        self._server: SimTransport | None = None

    def send(self) -> None:
        network = self.caller.network
        link = network.link(self.caller.address, self.to)
        delay = _carry(link, len(self.body))
        if link.loses():
            network.counts.lost += 1
            self.certainly_unsent = link.rng.random() < 0.5
            return
        server = network.process(self.to)
        if server is None:
            # The peer's machine says that nobody listens; that news may be lost as well.
            back = network.link(self.to, self.caller.address)
            delay += back.delay()
            if not back.loses():
                reason = f"nobody listens at {self.to}"
                error = Unreachable(reason)
                self.loop.call_later(delay, self.fail, error, context=self.caller.context)
            return
        self._server = server
        server.expect(self)
        self.loop.call_later(delay, self._arrive, context=server.context)

    def _arrive(self) -> None:
        assert self._server is not None
        if self._server.alive:
            self._server.asked(self)

    def respond(self, outcome: bytes | RpcError) -> None:
        """Carry the answer back."""
        assert self._server is not None
        self._server.settle(self)
        link = self.caller.network.link(self.to, self.caller.address)
        size = len(outcome) if isinstance(outcome, bytes) else 0
        delay = _carry(link, size)
        if link.loses():
            self.caller.network.counts.lost += 1
        else:
            self.caller.network.counts.call_bytes += size
            self.loop.call_later(delay, self._deliver, outcome, context=self.caller.context)

    def broken(self) -> None:
        """The server is gone: its machine resets the connection, if that can still be heard."""
        assert self._server is not None
        self._server.settle(self)
        back = self.caller.network.link(self.to, self.caller.address)
        delay = back.delay()
        if not back.loses():
            error = Unknown(f"the connection to {self.to} broke")
            self.loop.call_later(delay, self.fail, error, context=self.caller.context)

    def fail(self, error: RpcError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def expire(self, timeout: float) -> None:
        """The caller waits no longer."""
        if self.certainly_unsent:
            self.fail(Unreachable(f"no connection to {self.to} within {timeout} s"))
        else:
            self.fail(Unknown(f"no answer of {self.to} to {self.method} within {timeout} s"))

    def _deliver(self, outcome: bytes | RpcError) -> None:
        if isinstance(outcome, RpcError):
            self.fail(outcome)
        elif not self.answer.done() and self.caller.alive:
            self.answer.set_result(outcome)


class SimChannel:
    """One way to one peer; satisfies `labrpc.transport.Channel`."""

    def __init__(self, source: SimTransport, to: Address) -> None:
        self._source, self._to = source, to
        self._loop = asyncio.get_running_loop()
        self._link = source.network.link(source.address, to)
        self._queued_bytes = 0
        self._free_at = 0.0  # when the wire has taken what is queued
        self._last_arrival = 0.0
        self._refuses_until = 0.0  # nobody listened there: the next attempt to dial
        self._life = 0  # counts the connections, so that frames of a broken one are known
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def queued_bytes(self) -> int:
        """Bytes accepted and not yet on the wire."""
        return self._queued_bytes

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False if it was dropped."""
        now = self._loop.time()
        source, faults = self._source, self._link.faults
        size, queued = len(frame), self._queued_bytes
        if (
            not source.alive
            or now < self._refuses_until
            or size > BODY_BYTES_MAX
            or (queued and queued + size > faults.queue_bytes_max)
        ):
            return False
        network = source.network
        counts = network.counts
        counts.frames += 1
        counts.frame_bytes += size
        seconds = (size + ENVELOPE_BYTES) / faults.bytes_per_second
        free_at = self._free_at
        self._free_at = (free_at if free_at > now else now) + seconds
        target = network.process(self._to)
        if not queued and seconds < AT_ONCE_SECONDS_MAX:
            # Nothing is before it: no timer for the common case. (Nobody waits for room, either.)
            self._depart(frame, target, self._free_at)
        else:
            self._queued_bytes += size
            self._loop.call_at(self._free_at, self._left, frame, target, self._free_at, self._life)
        return True

    async def drained(self) -> None:
        """Return once `queued_bytes` is below half of its bound, or the connection is lost."""
        while self._source.alive and self._queued_bytes * 2 >= CHANNEL_QUEUED_BYTES_MAX:
            future: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(future)
            await future

    def disconnected(self) -> None:
        """The connection broke: what was queued is lost, and who waits is woken."""
        self._life += 1
        self._queued_bytes = 0
        self._free_at = 0.0
        self._wake()

    def _left(self, frame: bytes, target: SimTransport | None, departs: float, life: int) -> None:
        if life == self._life:
            self._leave(len(frame))
            self._depart(frame, target, departs)

    def _leave(self, size: int) -> None:
        self._queued_bytes -= size
        if self._waiting and self._queued_bytes * 2 < CHANNEL_QUEUED_BYTES_MAX:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _depart(self, frame: bytes, target: SimTransport | None, departs: float) -> None:
        """Put a frame on the wire to the process that lived at its target when it was sent."""
        link = self._link
        arrives = departs + link.delay()
        network = self._source.network
        if network.archive is not None:
            network.archive.append((self._to, frame))
        if link.loses():
            network.counts.lost += 1
            return
        if link.spoils:
            self._spoil(frame, target, arrives)
            return
        if arrives < self._last_arrival:
            arrives = self._last_arrival
        else:
            self._last_arrival = arrives
        context = None if target is None else target.context
        self._loop.call_at(arrives, self._arrive, frame, target, context=context)

    def _spoil(self, frame: bytes, target: SimTransport | None, arrives: float) -> None:
        """Do to a frame what its link does beside delaying it."""
        link = self._link
        faults, rng = link.faults, link.rng
        if faults.truncation > 0 and rng.random() < faults.truncation:
            frame = frame[: rng.randrange(len(frame))]
        if faults.corruption > 0 and rng.random() < faults.corruption:
            frame = _corrupted(frame, rng)
        context = None if target is None else target.context
        if faults.reordering > 0 and rng.random() < faults.reordering:
            # This one is held up, and those behind it do not wait.
            held_up = arrives + rng.uniform(0, faults.reordering_seconds_max)
            self._loop.call_at(held_up, self._arrive, frame, target, context=context)
        else:
            arrives = self._last_arrival = max(arrives, self._last_arrival)
            self._loop.call_at(arrives, self._arrive, frame, target, context=context)
        if faults.duplication > 0 and rng.random() < faults.duplication:
            again = arrives + rng.uniform(0, faults.reordering_seconds_max)
            self._loop.call_at(again, self._arrive, frame, target, context=context)

    def _arrive(self, frame: bytes, target: SimTransport | None) -> None:
        if target is not None and target.alive:
            if (handler := target.frame_handler) is not None:
                handler(frame)
            return
        # Nobody, or another than the frame was sent to: the connection is reset.
        self._source.network.counts.lost += 1
        if self._source.network.process(self._to) is None:
            self._loop.call_soon(self._refused, context=self._source.context)

    def _refused(self) -> None:
        self._refuses_until = self._loop.time() + REDIAL_SECONDS
        self.disconnected()


def _corrupted(frame: bytes, rng: Random) -> bytes:
    """The frame with one bit flipped, or with a few bytes of it replaced by others."""
    damaged = bytearray(frame)
    if not damaged:
        return frame
    at = rng.randrange(len(damaged))
    if rng.random() < 0.5:
        damaged[at] ^= 1 << rng.randrange(8)
    else:
        for place in range(at, min(at + rng.randint(1, GARBAGE_BYTES_MAX), len(damaged))):
            damaged[place] ^= rng.randrange(1, 256)
    return bytes(damaged)


def _carry(link: _Link, size: int) -> float:
    return link.delay() + (size + ENVELOPE_BYTES) / link.faults.bytes_per_second
