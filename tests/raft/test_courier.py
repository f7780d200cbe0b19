"""What leaves a turn of the loop: few frames, the urgent first, the unhurried with company."""

import asyncio

from labrpc.sim.loop import run
from raft.courier import BARE_MESSAGES_MAX, FRAME_BYTES_MAX, FrameCourier
from raft.frames import FrameCodec
from raft.messages import AnyMessage, AppendEntries, Heartbeat, HeartbeatReply
from raft.parcel import Parcel
from raft.types import (
    ZERO,
    Entry,
    EntryKind,
    GroupId,
    GroupUuid,
    Index,
    NodeId,
    ReplicaId,
    Term,
)

N1, N2, T1 = ReplicaId(1), ReplicaId(2), Term(1)
BEAT = Heartbeat(N1, N2, T1)
HURRIED = HeartbeatReply(N1, N2, T1, token=3, asked=True)
UNHURRIED = HeartbeatReply(N1, N2, T1, token=3)


class Wire:
    """Channels to everywhere that remember each frame, unpacked."""

    def __init__(self) -> None:
        self.codec = FrameCodec(b"c" * 16, NodeId("n1"), "here")
        self.frames: list[tuple[str, bool, list[AnyMessage]]] = []
        self.courier = FrameCourier(self._dial, self.codec, hold_seconds=0.1)

    def _dial(self, address: str, bulk: bool) -> "_Channel":
        return _Channel(self, address, bulk)

    def post(self, message: AnyMessage, *, gid: int = 1, to: str = "there") -> None:
        self.courier.post(to, Parcel(GroupId(gid), GroupUuid(b"u" * 16), message))

    @property
    def said(self) -> list[tuple[str, list[AnyMessage]]]:
        return [(to, messages) for to, _, messages in self.frames]


class _Channel:
    def __init__(self, wire: Wire, to: str, bulk: bool) -> None:
        self._wire, self._to, self._bulk = wire, to, bulk

    def send(self, frame: bytes) -> bool:
        contents = [parcel.content for parcel in self._wire.codec.unpack(frame).parcels]
        self._wire.frames.append((self._to, self._bulk, contents))  # type: ignore[arg-type]
        return True

    async def drained(self) -> None:
        return


def append(size: int) -> AppendEntries:
    entry = Entry(Index(1), T1, EntryKind.COMMAND, bytes(size))
    return AppendEntries(N1, N2, T1, ZERO, (entry,), Index(0))


def test_one_frame_a_peer_with_all_groups_and_entries_last() -> None:
    async def main() -> None:
        wire = Wire()
        wire.post(append(10), gid=1)
        wire.post(BEAT, gid=2)
        wire.post(BEAT, gid=3, to="elsewhere")

        wire.courier.flush()

        assert sorted(wire.said) == [("elsewhere", [BEAT]), ("there", [BEAT, append(10)])]

    run(main())


def test_a_frame_is_closed_at_its_bound_but_takes_any_one_message() -> None:
    async def main() -> None:
        wire = Wire()
        big, bigger = append(FRAME_BYTES_MAX // 2), append(2 * FRAME_BYTES_MAX)
        for message in (big, big, bigger, BEAT):
            wire.post(message)

        wire.courier.flush()

        assert [messages for _, messages in wire.said] == [[BEAT, big], [big], [bigger]]

    run(main())


def test_an_answer_that_a_read_waits_for_leaves_at_once() -> None:
    async def main() -> None:
        wire = Wire()
        wire.post(HURRIED)

        wire.courier.flush()

        assert wire.said == [("there", [HURRIED])]

    run(main())


def test_an_answer_in_no_hurry_travels_with_the_next_frame_to_that_node() -> None:
    async def main() -> None:
        wire = Wire()
        wire.post(UNHURRIED)
        wire.courier.flush()
        wire.post(BEAT, to="elsewhere")
        wire.courier.flush()
        assert wire.said == [("elsewhere", [BEAT])]

        wire.post(BEAT)
        wire.courier.flush()
        await asyncio.sleep(1)

        assert wire.said[1:] == [("there", [BEAT, UNHURRIED])]

    run(main())


def test_an_answer_without_company_leaves_after_a_heartbeat_s_time() -> None:
    async def main() -> None:
        wire = Wire()
        wire.post(UNHURRIED)
        wire.courier.flush()

        await asyncio.sleep(0.099)
        assert wire.said == []
        await asyncio.sleep(0.002)

        assert wire.said == [("there", [UNHURRIED])]

    run(main())


def test_a_closed_courier_says_nothing_more() -> None:
    async def main() -> None:
        wire = Wire()
        wire.post(UNHURRIED)
        wire.courier.close()
        await asyncio.sleep(1)

        assert wire.said == []

    run(main())


def test_the_unhurried_travel_with_entries_too() -> None:
    async def main() -> None:
        wire = Wire()
        wire.post(UNHURRIED)
        wire.courier.flush()
        assert wire.said == []
        entries = append(10)
        wire.post(entries, gid=2)
        wire.courier.flush()
        assert wire.said == [("there", [UNHURRIED, entries])]

    run(main())


def test_the_unhurried_are_released_each_time() -> None:
    async def main() -> None:
        wire = Wire()
        for count in (1, 2):
            wire.post(UNHURRIED)
            await asyncio.sleep(0.15)
            assert wire.said == [("there", [UNHURRIED])] * count

    run(main())


def test_the_unhurried_that_came_a_moment_ago_wait_for_company_yet() -> None:
    """Released with those that are late they would be a frame each time: the next heartbeats to
    their node, which they can wait for, are due soon."""

    async def main() -> None:
        wire = Wire()
        wire.post(UNHURRIED, to="away")
        await asyncio.sleep(0.09)
        wire.post(UNHURRIED)
        await asyncio.sleep(0.05)
        assert wire.said == [("away", [UNHURRIED])]

        wire.post(BEAT)
        wire.courier.flush()
        assert wire.said[1:] == [("there", [BEAT, UNHURRIED])]

        wire.post(UNHURRIED)
        await asyncio.sleep(0.09)
        assert len(wire.said) == 2
        await asyncio.sleep(0.02)
        assert wire.said[2:] == [("there", [UNHURRIED])]

    run(main())


def test_very_many_messages_without_entries_are_several_frames_too() -> None:
    async def main() -> None:
        wire = Wire()
        for gid in range(BARE_MESSAGES_MAX + 1):
            wire.post(BEAT, gid=gid)
        wire.courier.flush()
        assert [len(messages) for _, messages in wire.said] == [BARE_MESSAGES_MAX, 1]

    run(main())
