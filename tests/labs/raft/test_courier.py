"""Requests and answers on the lab network: one call each, paired, and never waited for in vain."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from labrpc.sim.labnet import LabNetwork, LabServer
from labrpc.sim.loop import run
from labs.courier import ANSWER_SECONDS_MAX, CHUNK_CALLS_MAX, METHOD, CallCourier
from labs.node import CLUSTER, GID, UUID
from raft.frames import FrameCodec
from raft.messages import AnyMessage, AppendEntries, AppendReply, Heartbeat, HeartbeatReply
from raft.parcel import Parcel
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.types import ZERO, Index, NodeId, ReplicaId, SnapshotMeta, Term

ONE, TWO, TERM = ReplicaId(1), ReplicaId(2), Term(1)
CHUNK = SnapshotChunk(ONE, TWO, TERM, 1, 0, SnapshotMeta(), b"rows", True)


def append(index: int) -> AppendEntries:
    return AppendEntries(ONE, TWO, TERM, ZERO, commit=Index(index))


def reply(index: int) -> AppendReply:
    return AppendReply(TWO, ONE, TERM, match=Index(index))


class Pair:
    """Two couriers that hear each other; `heard[k]` is what came to the k-th."""

    def __init__(self) -> None:
        self.network = LabNetwork(Random(1))
        self.heard: list[list[object]] = [[], []]
        self.couriers: list[CallCourier] = []
        for me, other in ((0, 1), (1, 0)):
            end = self.network.make_end(f"{me}->{other}")
            self.network.connect(end.name, other)
            self.network.enable(end.name, True)
            courier = CallCourier(
                {f"s{other}": end},
                FrameCodec(CLUSTER, NodeId(f"s{me}"), f"s{me}"),
                lambda parcel, _, me=me: self.heard[me].append(parcel.content),  # type: ignore[misc]
            )
            self.couriers.append(courier)
            self.network.add_server(me, LabServer({METHOD: courier.handle}))

    async def say(self, me: int, content: AnyMessage | SnapshotChunk | ChunkReply) -> None:
        self.couriers[me].post(f"s{1 - me}", Parcel(GID, UUID, content))
        self.couriers[me].flush()
        await asyncio.sleep(0.01)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    run(scenario)


def test_a_request_and_its_answer_are_one_call() -> None:
    async def scenario() -> None:
        pair = Pair()

        await pair.say(0, append(1))
        await pair.say(1, reply(1))

        assert pair.heard == [[reply(1)], [append(1)]]
        assert pair.network.total_count == 1

    play(scenario())


def test_answers_go_to_the_requests_of_their_kind_in_order() -> None:
    async def scenario() -> None:
        pair = Pair()
        beat, answer = Heartbeat(ONE, TWO, TERM), HeartbeatReply(TWO, ONE, TERM)

        for message in (append(1), beat, append(2)):
            await pair.say(0, message)
        for said in (reply(1), reply(2), answer):
            await pair.say(1, said)

        assert pair.heard == [[reply(1), reply(2), answer], [append(1), beat, append(2)]]
        assert pair.network.total_count == 3

    play(scenario())


def test_an_answer_that_nobody_waits_for_is_a_call_of_its_own() -> None:
    async def scenario() -> None:
        pair = Pair()

        await pair.say(1, reply(9))

        assert pair.heard[0] == [reply(9)]
        assert pair.network.total_count == 1

    play(scenario())


def test_a_request_that_gets_no_answer_does_not_take_a_later_ones() -> None:
    async def scenario() -> None:
        pair = Pair()
        await pair.say(0, append(1))
        await asyncio.sleep(ANSWER_SECONDS_MAX)

        await pair.say(0, append(2))
        await pair.say(1, reply(2))
        await pair.say(1, reply(3))

        assert pair.heard[0] == [reply(2), reply(3)]
        assert pair.network.total_count == 3, "the last answer had nobody waiting"

    play(scenario())


def test_a_lost_chunk_is_sent_again_a_few_times() -> None:
    async def scenario() -> None:
        pair = Pair()
        pair.network.enable("0->1", False)
        await pair.say(0, CHUNK)
        await asyncio.sleep(1.0)
        assert pair.network.total_count == CHUNK_CALLS_MAX

        pair.network.enable("0->1", True)
        await pair.say(0, CHUNK)
        assert pair.heard[1] == [CHUNK]

    play(scenario())


def test_after_closing_nothing_is_said_or_taken() -> None:
    async def scenario() -> None:
        pair = Pair()
        await pair.say(0, append(1))
        pair.couriers[1].close()
        pair.network.delete_server(1)
        await pair.say(0, append(2))
        pair.couriers[0].close()
        await pair.say(0, append(3))
        await asyncio.sleep(1.0)

        assert pair.heard == [[], [append(1)]]
        assert pair.network.total_count == 2

    play(scenario())
