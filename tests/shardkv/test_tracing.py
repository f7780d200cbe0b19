"""Traces of one write: three production nodes in this process, gRPC and LevelDB, and the SDK."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

from labrpc.grpc.transport import GrpcTransport
from labrpc.transport import Address
from raft.disk.records import NodeIdentity
from raft.errors import BadMessage
from raft.frames import FrameCodec
from raft.messages import AppendEntries, AppendReply
from raft.parcel import Parcel
from raft.tracing import TRACES_MAX
from raft.types import (
    Entry,
    EntryId,
    EntryKind,
    GroupId,
    GroupUuid,
    Index,
    NodeId,
    ReplicaId,
    Term,
)
from shardctrler.client import ControllerClient
from shardkv import aio, nodedir
from shardkv.config import NodeConfig
from shardkv.control import join_founders
from shardkv.growth import Wish
from shardkv.node import Node
from shardkv.operating import Operator
from shardkv.tracing import ENTRIES_MAX, GroupTracer, Tracing, context_of
from tests.support.processes import free_base_port

SECONDS = 60.0
CLUSTER = bytes(range(16))
NAMES = ("n1", "n2", "n3")
SECRET = b"canary-of-a-users-bytes"


class Recorder:
    """A provider of one process, and the spans that it has ended."""

    def __init__(self, name: str, *, on: bool = True) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON if on else ALWAYS_OFF),
            resource=Resource.create({"service.instance.id": name}),
        )
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


@asynccontextmanager
async def three_nodes(directory: Path, recorder: Recorder) -> AsyncIterator[list[str]]:
    """Three nodes of one group that record their spans; yields their clients' addresses."""
    base = free_base_port(len(NAMES))
    nodes, addresses = [], {}
    for number, name in enumerate(NAMES):
        port = base + 10 * number
        addresses[name] = f"127.0.0.1:{port}"
        config = NodeConfig(
            node=name, client=addresses[name], peer=f"127.0.0.1:{port + 1}", http="off",
            seeds=(f"127.0.0.1:{base}",), shards=4,
        )  # fmt: skip
        nodes.append(Node(directory / name, config, NodeIdentity(CLUSTER, NodeId(name))))
        nodes[-1].trace(Tracing(recorder.provider, name))
    transport = GrpcTransport(CLUSTER, "test")
    client = ControllerClient(transport, [Address(a) for a in addresses.values()], Random(1))
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        deadline = asyncio.get_running_loop().time() + SECONDS
        operator = Operator(transport, addresses)
        founders = [Wish(1, NAMES)]
        await operator.grow([Wish(0, NAMES[:1]), *founders], deadline=deadline)
        await join_founders(client, operator, founders, deadline=deadline)
        yield list(addresses.values())
    finally:
        await client.close()
        await transport.close()
        await asyncio.gather(*(node.stop(hand_over=False) for node in nodes))


def on_three_nodes(
    directory: Path, story: Callable[[list[str], Recorder], Awaitable[None]]
) -> None:
    for name in NAMES:
        nodedir.create(directory / name, cluster=CLUSTER, settings={"node": name})

    async def main() -> None:
        recorder = Recorder("nodes", on=False)  # a node traces nothing that no clerk asks for
        async with three_nodes(directory, recorder) as endpoints:
            await story(endpoints, recorder)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - a slow follower's answer is announced nowhere
            await asyncio.sleep(0.02)


def test_traces_of_writes_across_clerk_leader_and_followers(tmp_path: Path) -> None:
    """On one cluster: none, then one, then many at once."""

    async def story(endpoints: list[str], recorder: Recorder) -> None:
        for part in (what_no_clerk_samples, one_write, concurrent_writes):
            await part(endpoints, recorder)
            recorder.exporter.clear()

    on_three_nodes(tmp_path, story)


async def one_write(endpoints: list[str], recorder: Recorder) -> None:
    """The tree of spans is the path of the write, in its order."""
    clerk = Recorder("clerk")
    async with aio.connect(endpoints, tracer_provider=clerk.provider) as kv:
        await kv.put("before", b"v")  # opens the session
        await until(lambda: everywhere(recorder))
        recorder.exporter.clear()
        clerk.exporter.clear()
        await kv.put(b"key-" + SECRET, SECRET)
        await until(lambda: everywhere(recorder))

    (root,) = clerk.spans()
    assert (root.name, root.parent) == ("clerk.put", None)
    spans = recorder.spans()
    assert root.context is not None
    trace = root.context.trace_id
    assert {span.context.trace_id for span in spans if span.context} == {trace}
    tree = sorted((path(span, (root, *spans)), on(span)) for span in spans)
    (leader,) = {on(span) for span in spans if span.name == "node.write"}
    followers = [name for name in NAMES if name != leader]
    write = "clerk.put/node.write"
    appended = f"{write}/raft.replicate/raft.append"
    assert tree == sorted(
        [
            (write, leader),
            (f"{write}/raft.propose", leader),
            (f"{write}/raft.commit", leader),
            (f"{write}/raft.fsync", leader),
            (f"{write}/raft.apply", leader),
            *[(f"{write}/raft.replicate", leader)] * 2,
            *[(appended, follower) for follower in followers],
            *[(f"{appended}/raft.fsync", follower) for follower in followers],
            *[(f"{appended}/raft.apply", follower) for follower in followers],
        ]
    )
    times = {path(span, (root, *spans)): span for span in spans if on(span) == leader}
    assert begun(times[f"{write}/raft.propose"]) <= begun(times[f"{write}/raft.commit"])
    assert ended(times[f"{write}/raft.commit"]) <= begun(times[f"{write}/raft.apply"])
    assert ended(times[f"{write}/raft.apply"]) <= ended(times[write])
    indexes = {span.attributes["shardkv.index"] for span in spans if "raft." in span.name
               and span.attributes is not None}  # fmt: skip
    assert len(indexes) == 1, "one entry of one log"
    shown = "".join(span.to_json() for span in (root, *spans))
    assert SECRET.decode() not in shown, "a span shows no byte of a user"


async def what_no_clerk_samples(endpoints: list[str], recorder: Recorder) -> None:
    """It leaves no span."""
    clerk = Recorder("clerk", on=False)
    async with aio.connect(endpoints, tracer_provider=clerk.provider) as kv:
        await asyncio.gather(*(kv.put(f"k{n}", b"v") for n in range(50)))
        assert await kv.get("k1") == b"v"
    async with aio.connect(endpoints) as plain:
        await plain.put("k", b"v")
    assert (clerk.spans(), recorder.spans()) == ((), ())


async def concurrent_writes(endpoints: list[str], recorder: Recorder) -> None:
    """They share entries and keep their traces; of a frame at most sixteen are followed."""
    clerk = Recorder("clerk")
    async with aio.connect(endpoints, tracer_provider=clerk.provider) as kv:
        await asyncio.gather(*(kv.put(f"k{n}", b"v") for n in range(50)))
        await asyncio.gather(*(kv.get(f"k{n}") for n in range(3)))
    roots = [span.context.trace_id for span in clerk.spans() if span.context]
    assert len(roots) == len(set(roots)) == 53
    assert {span.context.trace_id for span in recorder.spans() if span.context} <= set(roots)
    assert count(recorder, "raft.commit") >= TRACES_MAX
    assert count(recorder, "raft.commit") == count(recorder, "raft.propose")
    assert count(recorder, "node.read") >= 1


def count(recorder: Recorder, name: str) -> int:
    return sum(span.name == name for span in recorder.spans())


def everywhere(recorder: Recorder) -> bool:
    """Whether the one write that was traced has been acknowledged and applied by all."""
    return (count(recorder, "raft.replicate"), count(recorder, "raft.apply")) == (2, 3)


def on(span: ReadableSpan) -> str:
    assert span.attributes is not None
    return str(span.attributes["shardkv.node"])


def begun(span: ReadableSpan) -> int:
    assert span.start_time is not None
    return span.start_time


def ended(span: ReadableSpan) -> int:
    assert span.end_time is not None
    return span.end_time


def path(span: ReadableSpan, spans: tuple[ReadableSpan, ...]) -> str:
    """The names from the trace's root down to this span."""
    parents = {each.context.span_id: each for each in spans if each.context is not None}
    names = [span.name]
    while span.parent is not None:
        span = parents[span.parent.span_id]
        names.append(span.name)
    return "/".join(reversed(names))


# A replica's tracer by itself


ENTRY = Entry(Index(7), Term(2), EntryKind.COMMAND, b"data")
ONE, TWO = ReplicaId(1), ReplicaId(2)


def tracer(recorder: Recorder) -> GroupTracer:
    return GroupTracer(recorder.provider.get_tracer("t"), {"shardkv.node": "n1"})


def append(*entries: Entry) -> AppendEntries:
    return AppendEntries(ONE, TWO, Term(2), EntryId(Index(6), Term(2)), entries)


def test_a_write_that_lost_its_leader_ends_in_an_error() -> None:
    recorder = Recorder("n1")
    group = tracer(recorder)
    group.expect(b"c", recorder.provider.get_tracer("t").start_span("node.write"))
    group.placed(ENTRY.id, [b"other", b"c"])
    group.sending(append(ENTRY))
    group.abandoned("leadership was lost")

    found = {span.name: span.status.description for span in recorder.spans()}
    assert found == {
        "raft.propose": None,
        "raft.commit": "leadership was lost",
        "raft.replicate": "leadership was lost",
    }
    assert group.sending(append(ENTRY)) == ()


def test_an_entry_of_another_term_is_not_the_traced_one() -> None:
    recorder = Recorder("n1")
    group = tracer(recorder)
    group.expect(b"c", recorder.provider.get_tracer("t").start_span("node.write"))
    group.placed(ENTRY.id, [b"c"])
    other = ENTRY._replace(term=Term(3))

    group.committed([other])
    group.applying([other])
    group.applied([other])

    assert [span.name for span in recorder.spans()] == ["raft.propose"]
    assert group.sending(append(other)) == ()
    assert len(group.sending(append(ENTRY))) == 1


def test_a_follower_that_never_answers_is_not_followed_for_ever() -> None:
    recorder = Recorder("n1")
    group = tracer(recorder)
    spans = recorder.provider.get_tracer("t")
    for number in range(2 * ENTRIES_MAX):
        command = b"%d" % number
        entry = ENTRY._replace(index=Index(1 + number))
        group.expect(command, spans.start_span("node.write"))
        group.placed(entry.id, [command])
        group.sending(append(entry))
        group.committed([entry])
        group.applying([entry])
        group.applied([entry])
    assert count(recorder, "raft.replicate") == ENTRIES_MAX
    group.taken(AppendReply(TWO, ONE, Term(2), match=Index(2 * ENTRIES_MAX)), ())
    assert count(recorder, "raft.replicate") == 2 * ENTRIES_MAX
    assert not group._traced and not group._expected


def test_a_command_that_was_never_proposed_is_forgotten() -> None:
    recorder = Recorder("n1")
    group = tracer(recorder)
    group.expect(b"c", recorder.provider.get_tracer("t").start_span("node.write"))
    group.forget(b"c")
    group.forget(b"c")
    group.placed(ENTRY.id, [b"c"])
    assert [span.name for span in recorder.spans()] == ["raft.propose"]


@pytest.mark.parametrize(
    "parent", ["", "junk", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "0" * 65, "\n", "00-zz-zz-zz"]
)
def test_a_context_that_is_none_is_not_followed(parent: str) -> None:
    assert context_of(parent) is None
    recorder = Recorder("n2")
    group = tracer(recorder)
    group.taken(append(ENTRY), ((Index(7), parent),))
    assert recorder.spans() == ()


# How it travels


def test_a_parcel_with_traces_is_read_as_it_was_written() -> None:
    codec = FrameCodec(CLUSTER, NodeId("n1"), "a:1")
    plain = Parcel(GroupId(1), GroupUuid(b"u" * 16), append(ENTRY))
    traced = plain._replace(traces=((Index(7), "00-" + "a" * 32 + "-" + "b" * 16 + "-01"),))

    assert codec.unpack(codec.pack([plain, traced])).parcels == [plain, traced]


@pytest.mark.parametrize(
    "traces",
    [
        ((Index(7), "x" * 65),),
        ((Index(-1), "x"),),
        ((Index(7), b"x"),),
        (("7", "x"),),
        ((Index(7),),),
        tuple((Index(n), "x") for n in range(TRACES_MAX + 1)),
    ],
)
def test_traces_of_another_shape_are_refused(traces: tuple[tuple[Index, str], ...]) -> None:
    codec = FrameCodec(CLUSTER, NodeId("n1"), "a:1")
    parcel = Parcel(GroupId(1), GroupUuid(b"u" * 16), append(ENTRY), traces)
    with pytest.raises(BadMessage, match="malformed trace"):
        codec.unpack(codec.pack([parcel]))


def test_a_process_loads_neither_opentelemetry_nor_fastapi_until_it_is_asked_to() -> None:
    program = (
        "import sys, shardkv.node, shardkv.aio, shardkv.embedded, shardkv.http.front\n"
        "sys.exit(any(name.startswith(('opentelemetry', 'fastapi', 'pydantic')) "
        "for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_request_over_http_goes_on_with_its_callers_trace() -> None:
    """A caller that samples is followed, others are not."""
    recorder = Recorder("n1", on=False)
    tracing = Tracing(recorder.provider, "n1")
    caller = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"

    for parent in (caller, caller[:-1] + "0", "", "junk"):
        with tracing.request("put", parent):
            pass

    (span,) = recorder.spans()
    assert span.parent is not None and span.context is not None
    assert (span.name, f"{span.parent.span_id:016x}") == ("http.put", "b" * 16)
    assert f"{span.context.trace_id:032x}" == "a" * 32
