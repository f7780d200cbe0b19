"""Spans of a node on their way to a collector (setting `trace_endpoint`)."""

import asyncio
from contextlib import suppress
from threading import Thread
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from shardkv.tracing import NAME, Tracing

EXPORT_SECONDS: Final = 1
"""How long one batch may take on its way to the collector, and a stopping node waits for it."""


class Export:
    """Spans of a node on their way to a collector, by OTLP over HTTP, from a thread of their own.

    Args:
        endpoint: `http://host:4318`.
        per_million: Of a million requests that begin here, so many are traced; of those that come
            with a `traceparent`, whatever that says.
    """

    def __init__(self, endpoint: str, per_million: int, node: str) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(per_million / 1_000_000)),
            resource=Resource.create({"service.name": NAME, "service.instance.id": node}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracing = Tracing(self._provider, node)

    async def close(self) -> None:
        """Send what is left, for a moment: a stop does not wait for a collector that is away."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def ended() -> None:
            if not done.done():
                done.set_result(None)

        def shut() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop did not wait, and is closed
                loop.call_soon_threadsafe(ended)

        Thread(target=shut, name="spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(EXPORT_SECONDS):
                await done
