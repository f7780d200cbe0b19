"""OpenTelemetry spans of one write: the clerk, the node it asks, the leader's log, the followers.

Only here and in `span_export.py` is OpenTelemetry known, and only a process that was told to trace
imports them (`pip install 'shardkv[otel]'`). Whether an operation is traced is decided where it
begins, by the sampler of the clerk's provider; only then does its W3C `traceparent` travel, beside
the operation in the clerk's frame and beside the entry in the leader's appends. So a write that
nobody traces costs one `is None` a frame.

=====================  ==============================================================
span                   from -> to
=====================  ==============================================================
`clerk.put`            the call -> its answer; child of the caller's current span
`node.write`           the frame's arrival at the leader -> its reply
`raft.propose`         the frame's arrival -> the entry's place in the log
`raft.fsync`           an entry goes to the disk -> it is there; on every replica
`raft.replicate`       an append leaves -> its follower has acknowledged it
`raft.append`          at a follower: the append's arrival -> the entry is on its disk
`raft.commit`          the entry's place -> it is committed, and durable at the leader
`raft.apply`           the machine applies the batch that holds the entry
=====================  ==============================================================

Spans carry group, node, index, term and counts: never a key, a value or any other bytes of a user.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from raft.messages import AnyMessage, AppendEntries, AppendReply
from raft.snapshot_stream import ChunkReply, SnapshotChunk
from raft.tracing import CONTEXT_CHARACTERS_MAX, TRACES_MAX, Traces
from raft.types import Entry, EntryId, GroupId, Index, ReplicaId
from shardkv.clerk import Clerk
from shardkv.commands import Op
from shardkv.pending import Pending
from shardkv.protocol import Frame, Get

NAME: Final = "shardkv"
ENTRIES_MAX: Final = 64
"""Traced entries of one replica that are followed at a time; past it the oldest is let go."""
PARENT: Final = "traceparent"
_OPERATIONS: Final = {Op.PUT: "put", Op.APPEND: "append", Op.DELETE: "delete"}
_FORM: Final = TraceContextTextMapPropagator()


def traceparent(span: Span) -> str:
    """What travels of a span, as W3C Trace Context writes it."""
    carrier: dict[str, str] = {}
    _FORM.inject(carrier, trace.set_span_in_context(span))
    return carrier.get(PARENT, "")


def context_of(parent: str) -> Context | None:
    """What a `traceparent` says; None if it says nothing, or is none."""
    if len(parent) > CONTEXT_CHARACTERS_MAX:
        return None
    found = _FORM.extract({PARENT: parent})
    return found if trace.get_current_span(found).get_span_context().is_valid else None


class TracedClerk(Clerk):
    """A clerk whose operations are spans, where the sampler of `provider` wants them. All other
    arguments are `Clerk`'s."""

    def __init__(self, provider: TracerProvider, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._spans = provider.get_tracer(NAME)

    async def _run(self, pending: Pending, timeout: float | None) -> Any:
        name = "get" if pending.op is None else _OPERATIONS[pending.op]
        with self._spans.start_as_current_span(
            f"clerk.{name}",
            kind=SpanKind.CLIENT,
            record_exception=False,  # an error's text may show what a user wrote
            set_status_on_exception=False,
        ) as span:
            if not span.get_span_context().trace_flags.sampled:
                return await super()._run(pending, timeout)
            self._contexts[pending] = traceparent(span)
            try:
                return await super()._run(pending, timeout)
            except BaseException as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise
            finally:
                del self._contexts[pending]
                span.set_attribute("shardkv.shard", pending.shard)
                span.set_attribute("shardkv.frames", pending.sent)


class Tracing:
    """Spans of what one node does.

    Args:
        provider: Where they go. Its sampler must follow its parent.
        node: Its name goes into every span.
    """

    def __init__(self, provider: TracerProvider, node: str) -> None:
        self.provider = provider
        self._spans = provider.get_tracer(NAME)
        self._node = node
        self._groups: dict[GroupId, GroupTracer] = {}

    def group(self, gid: GroupId) -> "GroupTracer":
        """The tracer of this node's replica of a group, which is about to run."""
        tracer = GroupTracer(self._spans, {"shardkv.node": self._node, "shardkv.group": gid})
        self._groups[gid] = tracer
        return tracer

    def request(self, kind: str, parent: str) -> AbstractContextManager[Span]:
        """A context manager: the span of one HTTP request, for whoever asked with `parent`."""
        span: AbstractContextManager[Span] = self._spans.start_as_current_span(
            f"http.{kind}",
            context_of(parent),
            SpanKind.SERVER,
            {"shardkv.node": self._node},
            record_exception=False,
            set_status_on_exception=False,
        )
        return span

    def begin(self, frame: Frame) -> Sequence[Span]:
        """A clerk's frame came: a span for each of its operations that is traced."""
        if not frame.traces:
            return ()
        begun: list[Span] = []
        for at, parent in frame.traces:
            context = context_of(parent)
            if context is None:
                continue
            operation = frame.operations[at]
            name = "node.read" if isinstance(operation, Get) else "node.write"
            span = self._spans.start_span(
                name,
                context,
                SpanKind.SERVER,
                {
                    "shardkv.node": self._node,
                    "shardkv.group": frame.gid,
                    "shardkv.operations": len(frame.operations),
                },
            )
            begun.append(span)
            if not isinstance(operation, Get) and frame.gid in self._groups:
                self._groups[frame.gid].expect(operation.data, span)
        return begun

    def end(self, frame: Frame, spans: Sequence[Span]) -> None:
        """The frame was answered, or given up."""
        for at, _ in frame.traces:
            operation = frame.operations[at]
            if not isinstance(operation, Get) and frame.gid in self._groups:
                self._groups[frame.gid].forget(operation.data)
        for span in spans:
            span.end()


class _Traced:
    """One entry on its way, at one replica: what its spans hang from, and those that are open."""

    __slots__ = ("appended", "applied", "committing", "parents", "sending")

    def __init__(self, parents: Sequence[Context]) -> None:
        self.parents = parents
        self.appended: Sequence[Span] = ()  # at a follower: until it is on the disk
        self.committing: Sequence[Span] = ()  # at the leader
        self.sending: dict[ReplicaId, Span] = {}  # at the leader
        self.applied = False

    def end(self, because: str) -> None:
        """Let go of it, wherever it is."""
        for span in (*self.appended, *self.committing, *self.sending.values()):
            span.set_status(StatusCode.ERROR, because)
            span.end()


class GroupTracer:
    """Follows the traced entries of one replica; a `raft.tracing.EntryTracer`."""

    def __init__(self, spans: trace.Tracer, about: Mapping[str, str | int]) -> None:
        self._tracer = spans
        self._about = about
        self._expected: dict[
            bytes, tuple[Context, Span]
        ] = {}  # command -> node.write, raft.propose
        self._traced: dict[EntryId, _Traced] = {}
        self._applying: Sequence[Span] = ()

    def expect(self, command: bytes, write: Span) -> None:
        """This command is about to be proposed. Its bytes are its own: session and sequence."""
        if len(self._expected) < ENTRIES_MAX and command not in self._expected:
            context = trace.set_span_in_context(write)
            self._expected[command] = (context, self._start("raft.propose", context))

    def forget(self, command: bytes) -> None:
        """It was answered. Where it is still expected, it was never proposed."""
        found = self._expected.pop(command, None)
        if found is not None:
            found[1].set_status(StatusCode.ERROR, "not proposed")
            found[1].end()

    # What the replica tells

    def placed(self, id: EntryId, commands: Sequence[bytes]) -> None:
        if not self._expected:
            return
        found = [self._expected.pop(command, None) for command in commands]
        parents: list[Context] = []
        for each in found:
            if each is not None:
                each[1].set_attributes({"shardkv.index": id.index, "shardkv.term": id.term})
                each[1].end()
                parents.append(each[0])
        if parents:
            entry = self._follow(id, parents)
            entry.committing = self._start_each("raft.commit", parents, id)

    def sending(self, message: AnyMessage) -> Traces:
        if not self._traced or not isinstance(message, AppendEntries):
            return ()
        found: list[tuple[Index, str]] = []
        for entry in message.entries:
            traced = self._traced.get(entry.id)
            if traced is not None and len(found) < TRACES_MAX:
                span = traced.sending.get(message.target)
                if span is None:  # of several writes in one entry the first one's
                    span = self._start("raft.replicate", traced.parents[0], entry.id)
                    span.set_attribute("shardkv.to", message.target)
                    traced.sending[message.target] = span
                found.append((entry.index, traceparent(span)))
        return tuple(found)

    def taken(self, content: AnyMessage | SnapshotChunk | ChunkReply, traces: Traces) -> None:
        if isinstance(content, AppendReply):
            if self._traced and not content.rejected:
                self._acknowledged(content.source, content.match)
        elif traces and isinstance(content, AppendEntries):
            ids = {entry.index: entry.id for entry in content.entries}
            for index, parent in traces:
                context = context_of(parent)
                if index in ids and ids[index] not in self._traced and context is not None:
                    span = self._start("raft.append", context, ids[index], SpanKind.SERVER)
                    entry = self._follow(ids[index], [trace.set_span_in_context(span)])
                    entry.appended = (span,)

    def saving(self, entries: Sequence[Entry], saved: "asyncio.Future[None]") -> None:
        if not self._traced:
            return
        for entry in entries:
            traced = self._traced.get(entry.id)
            if traced is not None:
                syncs = self._start_each("raft.fsync", traced.parents, entry.id)
                saved.add_done_callback(partial(self._saved, syncs, traced))

    def committed(self, entries: Sequence[Entry]) -> None:
        if self._traced:
            for entry in entries:
                traced = self._traced.get(entry.id)
                if traced is not None:
                    _end(traced.committing)
                    traced.committing = ()

    def applying(self, entries: Sequence[Entry]) -> None:
        if self._traced:
            begun: list[Span] = []
            for entry in entries:
                traced = self._traced.get(entry.id)
                if traced is not None:
                    begun += self._start_each("raft.apply", traced.parents, entry.id)
            for span in begun:
                span.set_attribute("shardkv.entries", len(entries))
            self._applying = begun

    def applied(self, entries: Sequence[Entry]) -> None:
        if self._applying:
            _end(self._applying)
            self._applying = ()
            for entry in entries:
                traced = self._traced.get(entry.id)
                if traced is not None:
                    traced.applied = True
                    self._let_go(entry.id, traced)

    def abandoned(self, because: str) -> None:
        for traced in self._traced.values():
            traced.end(because)
        self._traced.clear()

    # Spans

    def _follow(self, id: EntryId, parents: Sequence[Context]) -> _Traced:
        if len(self._traced) >= ENTRIES_MAX:
            oldest = next(iter(self._traced))
            self._traced.pop(oldest).end("too many are traced")
        traced = self._traced[id] = _Traced(parents)
        return traced

    def _acknowledged(self, source: ReplicaId, match: Index) -> None:
        for id, traced in list(self._traced.items()):
            if id.index <= match and source in traced.sending:
                traced.sending.pop(source).end()
                self._let_go(id, traced)

    def _let_go(self, id: EntryId, traced: _Traced) -> None:
        """Follow it no further once it is applied here, and acknowledged where it was sent."""
        if traced.applied and not traced.sending:
            del self._traced[id]

    def _saved(self, syncs: Sequence[Span], traced: _Traced, saved: "asyncio.Future[None]") -> None:
        _end(syncs)
        _end(traced.appended)
        traced.appended = ()

    def _start_each(self, name: str, parents: Sequence[Context], id: EntryId) -> Sequence[Span]:
        return [self._start(name, parent, id) for parent in parents]

    def _start(
        self,
        name: str,
        parent: Context,
        id: EntryId | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        about: dict[str, str | int] = dict(self._about)
        if id is not None:
            about |= {"shardkv.index": id.index, "shardkv.term": id.term}
        return self._tracer.start_span(name, parent, kind, about)


def _end(spans: Iterable[Span]) -> None:
    for span in spans:
        span.end()
