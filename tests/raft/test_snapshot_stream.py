"""A snapshot's way over a network that loses, repeats and reorders frames."""

import asyncio
from collections.abc import Iterator

import pytest

from raft.errors import BadChunk
from raft.snapshot_stream import ChunkReply, SnapshotChunk, SnapshotReceiver, SnapshotSender
from raft.types import EntryId, Index, ReplicaId, SnapshotMeta, Term

N1, N2, N3 = ReplicaId(1), ReplicaId(2), ReplicaId(3)
META = SnapshotMeta(EntryId(Index(7), Term(2)))


class FakeStaging:
    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.aborted = False

    def add(self, chunk: bytes) -> None:
        if chunk == b"damaged":
            raise BadChunk("damaged")
        self.chunks.append(chunk)

    async def install(self) -> None:
        raise AssertionError("only a replica installs")

    def abort(self) -> None:
        self.aborted = True


class FakeStore:
    """Remembers every staging that was begun."""

    def __init__(self) -> None:
        self.stagings: list[FakeStaging] = []

    def stage(self, meta: SnapshotMeta) -> FakeStaging:
        self.stagings.append(FakeStaging())
        return self.stagings[-1]


class FakeCapture:
    meta = META
    closed = False

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    def chunks(self, bytes_max: int) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        self.closed = True


def chunk(
    number: int, data: bytes = b"x", *, stream: int = 1, source: ReplicaId = N1, done: bool = False
) -> SnapshotChunk:
    return SnapshotChunk(source, N2, Term(3), stream, number, META, data, done)


def test_chunks_in_order_are_staged_and_the_last_completes() -> None:
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]

    assert receiver.take(chunk(0, b"a")) == 1
    assert receiver.staged is None
    assert receiver.take(chunk(1, b"b", done=True)) == 2

    assert receiver.staged == META
    assert store.stagings[0].chunks == [b"a", b"b"]


def test_a_repeated_chunk_is_answered_again_and_staged_once() -> None:
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]
    receiver.take(chunk(0, b"a"))

    assert receiver.take(chunk(0, b"a")) == 1

    assert store.stagings[0].chunks == [b"a"]


def test_a_gap_gives_the_stream_up() -> None:
    receiver = SnapshotReceiver(FakeStore())  # type: ignore[arg-type]
    receiver.take(chunk(0))

    assert receiver.take(chunk(2)) == -1


def test_a_stream_that_does_not_begin_at_its_beginning_is_refused() -> None:
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]

    assert receiver.take(chunk(3)) == -1
    assert store.stagings == []


@pytest.mark.parametrize(
    "older",
    [chunk(0, stream=1), chunk(0, stream=9, source=N3)._replace(term=Term(2))],
    ids=["of the same leader", "of a deposed one"],
)
def test_a_late_chunk_of_an_older_stream_ends_no_newer_one(older: SnapshotChunk) -> None:
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]
    receiver.take(chunk(0, stream=2))

    assert receiver.take(older) == -1
    assert receiver.take(chunk(1, stream=2)) == 2

    assert [staging.aborted for staging in store.stagings] == [False]


def test_what_the_log_has_overtaken_is_staged_no_longer() -> None:
    """Else the rows of a stream that its sender gave up lie there until another one comes."""
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]
    receiver.take(chunk(0))

    receiver.reached(Index(META.last.index - 1))
    assert not store.stagings[0].aborted

    receiver.reached(META.last.index)
    assert store.stagings[0].aborted
    assert receiver.take(chunk(1)) == -1, "its sender is told, if it is still there"


def test_what_is_complete_waits_for_the_core_alone() -> None:
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]
    receiver.take(chunk(0, done=True))

    receiver.reached(META.last.index)

    assert receiver.staged == META and not store.stagings[0].aborted


def test_a_stream_that_was_given_up_does_not_begin_again() -> None:
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]
    receiver.take(chunk(0))
    receiver.abort()

    assert receiver.take(chunk(0)) == -1
    assert receiver.take(chunk(1)) == -1

    assert len(store.stagings) == 1


@pytest.mark.parametrize(
    "newer",
    [chunk(0, stream=2), chunk(0, source=N3)._replace(term=Term(4))],
    ids=["a newer stream", "another leader"],
)
def test_a_new_stream_replaces_the_staging(newer: SnapshotChunk) -> None:
    store = FakeStore()
    receiver = SnapshotReceiver(store)  # type: ignore[arg-type]
    receiver.take(chunk(0))

    assert receiver.take(newer) == 1

    assert [staging.aborted for staging in store.stagings] == [True, False]


def test_sender_repeats_what_was_lost_and_closes_its_capture() -> None:
    async def run() -> tuple[list[int], bool, bool]:
        capture = FakeCapture(b"a", b"b")
        sender = SnapshotSender(reply_seconds=0.005)
        posted: list[int] = []

        def lossy(sent: SnapshotChunk) -> None:
            posted.append(sent.number)
            if posted.count(sent.number) > 1:  # the first copy of each chunk is lost
                reply = ChunkReply(N2, N1, sent.stream, sent.number + 1)
                asyncio.get_running_loop().call_soon(sender.answered, reply)

        complete = await sender.run(capture, 1, N1, N2, Term(3), lossy)
        return posted, complete, capture.closed

    assert asyncio.run(run()) == ([0, 0, 1, 1], True, True)


def test_sender_gives_up_on_silence_and_on_a_refusal() -> None:
    async def run(refuse: bool) -> bool:
        sender = SnapshotSender(reply_seconds=0.001)

        def post(sent: SnapshotChunk) -> None:
            if refuse:
                reply = ChunkReply(N2, N1, sent.stream, -1)
                asyncio.get_running_loop().call_soon(sender.answered, reply)

        return await sender.run(FakeCapture(b"a", b"b"), 1, N1, N2, Term(3), post)

    assert not asyncio.run(run(refuse=False))
    assert not asyncio.run(run(refuse=True))


def test_sender_ignores_answers_to_earlier_chunks_and_streams() -> None:
    async def run() -> list[int]:
        sender = SnapshotSender(reply_seconds=0.01)
        posted: list[int] = []

        def post(sent: SnapshotChunk) -> None:
            posted.append(sent.number)
            sender.answered(ChunkReply(N2, N1, stream=9, expects=sent.number + 1))
            sender.answered(ChunkReply(N2, N1, stream=1, expects=sent.number))
            if posted.count(sent.number) > 1:  # so it was waited for
                reply = ChunkReply(N2, N1, stream=1, expects=sent.number + 1)
                asyncio.get_running_loop().call_soon(sender.answered, reply)

        assert await sender.run(FakeCapture(b"a", b"b", b"c"), 1, N1, N2, Term(3), post)
        return posted

    assert asyncio.run(run()) == [0, 0, 1, 1, 2, 2]
