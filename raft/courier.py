"""What leaves one turn of the loop: one frame a peer node, with the messages of all groups.

A message costs 150 to 300 microseconds to send whatever its size, so everything that a turn has
to say to a node travels together, in frames of at most 1 MiB (or one message). Votes and heartbeats
are packed before appends, so that a burst of entries never delays them. Snapshots go by a bulk
channel, a connection of its own.

The answer to a heartbeat that no read waits for is in no hurry: it travels with the next frame to
that node, its own heartbeats mostly, or alone after one heartbeat's time. So two nodes that lead
groups of each other exchange one frame each way and heartbeat, not two. The time is far below
what a leader allows a majority to be silent (`RaftConfig`: at least three heartbeats).
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from raft.frames import FrameCodec
from raft.messages import AppendEntries, HeartbeatReply
from raft.parcel import Parcel
from raft.ports import Outbox
from raft.snapshot_stream import SnapshotChunk

FRAME_BYTES_MAX: Final = 1024 * 1024
MESSAGE_BYTES: Final = 64  # what a message without entries takes, about
ENTRY_BYTES: Final = 24  # what an entry takes beside its data, about
TIMER_SECONDS: Final = 0.001  # a loop's timer may ring early by its clock's resolution
BARE_MESSAGES_MAX: Final = FRAME_BYTES_MAX // MESSAGE_BYTES  # without entries, in one frame


class Courier(Protocol):
    """Takes parcels during a turn, hands them on at its end. The labs have one of their own."""

    def post(self, address: str, parcel: Parcel) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class FrameCourier:
    """The production courier: frames over channels.

    Args:
        dial: Gives the channel to an address; with True the bulk one.
        codec: Packs parcels into frames that name this node and its cluster.
        hold_seconds: How long an answer in no hurry waits for company: a heartbeat's time.
    """

    def __init__(
        self, dial: Callable[[str, bool], Outbox], codec: FrameCodec, hold_seconds: float = 0.1
    ) -> None:
        self._dial = dial
        self._codec = codec
        self._hold_seconds = hold_seconds
        self._held: dict[str, list[Parcel]] = {}  # in no hurry
        self._held_since: dict[str, float] = {}  # the first of them, in loop seconds
        self._held_timer: asyncio.TimerHandle | None = None
        self._urgent: dict[str, list[Parcel]] = {}
        self._entries: dict[str, list[Parcel]] = {}
        self.dropped = 0  # frames that a channel refused

    def post(self, address: str, parcel: Parcel) -> None:
        content = parcel.content
        if isinstance(content, HeartbeatReply) and not content.asked:
            self._hold(address, parcel)
        elif isinstance(content, SnapshotChunk):
            self._send(address, [parcel], bulk=True)
        elif isinstance(content, AppendEntries):
            self._entries.setdefault(address, []).append(parcel)
        else:
            self._urgent.setdefault(address, []).append(parcel)

    def _hold(self, address: str, parcel: Parcel) -> None:
        held = self._held.get(address)
        if held is not None:
            held.append(parcel)
            return
        loop = asyncio.get_running_loop()
        self._held[address], self._held_since[address] = [parcel], loop.time()
        if self._held_timer is None:
            self._held_timer = loop.call_later(self._hold_seconds, self._release)

    def _release(self) -> None:
        """Send what found no company, and only that: what came a moment ago has time yet."""
        self._held_timer = None
        loop = asyncio.get_running_loop()
        since_all, hold = self._held_since, self._hold_seconds
        late = loop.time() - hold + TIMER_SECONDS
        for address in [a for a, since in since_all.items() if since <= late]:
            self._urgent.setdefault(address, []).extend(self._take_held(address))
        if since_all:  # later than now by more than `TIMER_SECONDS`
            self._held_timer = loop.call_at(min(since_all.values()) + hold, self._release)
        self.flush()

    def _take_held(self, address: str) -> list[Parcel]:
        del self._held_since[address]
        return self._held.pop(address)

    def _forget_timer(self) -> None:
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None

    def close(self) -> None:
        """Send nothing more."""
        self._forget_timer()
        self._held.clear()
        self._held_since.clear()

    def flush(self) -> None:
        if not self._urgent and not self._entries:
            return
        urgent, self._urgent = self._urgent, {}
        entries, self._entries = self._entries, {}
        if self._held:
            for address in [a for a in self._held if a in urgent or a in entries]:
                urgent.setdefault(address, []).extend(self._take_held(address))
            if not self._held:
                self._forget_timer()  # all left with this node's own heartbeats, as nearly always
        for address, parcels in entries.items():
            urgent.setdefault(address, []).extend(parcels)
        for address, parcels in urgent.items():
            bare = address not in entries and len(parcels) <= BARE_MESSAGES_MAX
            if bare or len(parcels) == 1:
                self._send(address, parcels, bulk=False)
            else:
                self._send_all(address, parcels)

    def _send_all(self, address: str, parcels: list[Parcel]) -> None:
        batch: list[Parcel] = []
        size = 0
        for parcel in parcels:
            cost = _cost(parcel)
            if batch and size + cost > FRAME_BYTES_MAX:
                self._send(address, batch, bulk=False)
                batch, size = [], 0
            batch.append(parcel)
            size += cost
        self._send(address, batch, bulk=False)

    def _send(self, address: str, parcels: list[Parcel], *, bulk: bool) -> None:
        if not self._dial(address, bulk).send(self._codec.pack(parcels)):
            self.dropped += 1


def _cost(parcel: Parcel) -> int:
    content = parcel.content
    if isinstance(content, AppendEntries):
        return MESSAGE_BYTES + sum(len(entry.data) + ENTRY_BYTES for entry in content.entries)
    return MESSAGE_BYTES
